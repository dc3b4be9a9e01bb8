"""evaluation=[importance], by the definition that scikit-learn has, and by cases known by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from PIL import Image
from sklearn import inspection, metrics  # type: ignore[import-not-found,import-untyped,unused-ignore]

import nnlab
from nnlab import compose, datasets, seeds
from nnlab.analysis import EVALUATIONS, importance
from nnlab.config import fingerprint
from nnlab.losses import METRICS
from nnlab.network import Network
from nnlab.report import plotting
from nnlab.trained import Trained
from tests.analysis.trained import outcome, trained
from tests.names import HOSTILE

TABLE = (
    *("dataset=table", "dataset.file=table.csv", "dataset.label=said", "optimizer=adam"),
    *("optimizer.lr=0.01", "stopping.max_epochs=30", "seed=3"),
)
NAMES = ["x", "colour", "noise", "flag"]
PARTS = [[0], [1, 2, 3], [4], [5, 6]]  # the inputs that these columns make


@pytest.fixture(autouse=True)
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table whose label is of the sign of x, turned round where colour is red."""
    monkeypatch.chdir(tmp_path)
    datasets.forget()
    random = np.random.default_rng(0)
    x, noise = random.normal(size=(2, 400))
    colour, flag = random.choice(["red", "green", "blue"], 400), random.choice([True, False], 400)
    said = np.where((x > 0) ^ (colour == "red"), "yes", "no")
    columns = {"x": x, "colour": colour, "noise": noise, "flag": flag, "said": said}
    pd.DataFrame(columns).to_csv("table.csv", index=False)


class Classifier:
    """A network as scikit-learn takes one, of the original columns: each row's number in ``rows``
    stands for what the row has in it."""

    def __init__(self, network: Trained, rows: NDArray[np.float32]) -> None:
        self.network, self.rows = network, rows

    def fit(self) -> None: ...

    def score(self, numbers: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
        inputs = np.hstack([self.rows[numbers[:, n]][:, part] for n, part in enumerate(PARTS)])
        with torch.no_grad():
            logits = Network(self.network).model(torch.from_numpy(inputs)).numpy()
        return float((logits.argmax(1) == labels).mean())


def test_importance_of_a_run_by_its_definition() -> None:
    network, data, _ = trained(Path("run"), *TABLE, "evaluation=[importance]")
    assert data.test is not None
    inputs, labels = data.test.examples
    found = pd.read_csv("run/importance.csv", index_col="column")
    assert sorted(found.index) == sorted(NAMES)
    assert found["importance"].is_monotonic_decreasing

    generator = seeds.generator(3, "noise")
    classifier, numbers = Classifier(network, inputs), np.tile(np.arange(80), (4, 1)).T
    whole = classifier.score(numbers, labels)
    assert whole == pytest.approx(network.result["test_accuracy"], abs=1e-9)
    for place, name in enumerate(NAMES):
        falls = []
        for _ in range(10):
            moved = numbers.copy()
            moved[:, place] = generator.permutation(80)
            falls.append(whole - classifier.score(moved, labels))
        assert found.loc[name, "importance"] == pytest.approx(np.mean(falls), abs=1e-9)
        assert found.loc[name, "deviation"] == pytest.approx(np.std(falls), abs=1e-9)

    expected = inspection.permutation_importance(
        classifier, numbers, labels, n_repeats=100, random_state=0
    )
    for place, name in enumerate(NAMES):
        # Of two means of 10 and of 100 draws; four deviations of their difference.
        limit = 4 * expected.importances_std[place] * (1 / 10 + 1 / 100) ** 0.5
        drawn = found.loc[name, "importance"]
        assert drawn == pytest.approx(expected.importances_mean[place], abs=limit)
    assert (found.loc[["x", "colour"], "importance"] > 0.3).all()
    assert {path.name for path in Path("run").glob("importance*")} == set(
        EVALUATIONS["importance"].files
    )
    with Image.open("run/importance.png") as image:
        assert len(np.unique(np.asarray(image.convert("L")))) > 20


def test_an_input_without_weight_is_of_no_importance() -> None:
    model = nnlab.mlp(3, [], 2)
    for parameter, values in zip(model.parameters(), ([[1.0, 0, 0], [0, 0, 0]], [0.0, 0.0])):
        parameter.data = torch.tensor(values)
    network = Trained(model, {}, {"dataset": {}}, ["a", "b"], (3,), None, None)
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(200, 3)).astype(np.float32)
    labels, parts = (inputs[:, 0] <= 0).astype(int), [slice(0, 1), slice(1, 3)]
    falls = importance.shuffled(network, inputs, labels, parts, 4, generator)
    assert falls.shape == (2, 4)
    assert (falls[1] == 0).all()
    # A shuffled sign is right half the time.
    assert_allclose(falls[0], 0.5, atol=4 * 0.5 / 200**0.5)


def test_of_a_regression_r2_falls() -> None:
    diabetes = ("dataset=sklearn", "dataset.name=diabetes", "optimizer=adam", "seed=2")
    network, data, _ = trained(
        Path("run"), *diabetes, "stopping.max_epochs=20", "evaluation=[importance]"
    )
    assert data.test is not None
    inputs, targets = data.test.examples
    model = Network(network).model
    found = pd.read_csv("run/importance.csv", index_col="column")
    assert found.index[0] in ("bmi", "s5", "bp")  # as linear models of these data have it

    def r2(examples: NDArray[np.float32]) -> float:
        with torch.no_grad():
            return float(metrics.r2_score(targets, model(torch.from_numpy(examples)).numpy()))

    generator = seeds.generator(2, "noise")
    assert r2(inputs) == pytest.approx(network.result["test_r2"], abs=1e-6)
    for place, name in enumerate(network.columns):
        falls = []
        for _ in range(10):
            moved = inputs.copy()
            moved[:, place] = inputs[generator.permutation(len(inputs)), place]
            falls.append(r2(inputs) - r2(moved))
        assert found.loc[name, "importance"] == pytest.approx(np.mean(falls), abs=1e-6)
        assert found.loc[name, "deviation"] == pytest.approx(np.std(falls), abs=1e-6)
    with pytest.raises(ValueError, match="metrics asks for classes, of which a regression has no"):
        compose.load([*diabetes, "evaluation=[metrics]"])


def test_rows_without_names_are_called_by_their_place() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 3)).astype(np.float32)
    np.savez("rows.npz", x=x, y=(x[:, 1] > 0).astype(int))
    quick = ("dataset=arrays", "dataset.file=rows.npz", "stopping.max_epochs=1", "valid_size=10")
    asked = ("evaluation=[importance]", "importance.split=valid", "importance.repeats=1")
    assert outcome(Path("run"), *quick, *asked).error is None
    found = pd.read_csv("run/importance.csv")
    assert sorted(found["column"]) == ["input 0", "input 1", "input 2"]
    assert found["deviation"].tolist() == [0, 0, 0]
    assert_allclose(10 * found["importance"], (10 * found["importance"]).round(), atol=1e-7)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dataset=mnist"], "importance needs rows of numbers; dataset=mnist has none"),
        (["dataset=sklearn", "dataset.name=digits"], "dataset=digits has none"),
        ([*TABLE, "test_size=0"], "importance looks at the test examples, but test_size=0"),
        ([*TABLE, "importance.repeats=0"], "importance.repeats=0 is not possible"),
    ],
)
def test_what_cannot_be_asked_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compose.load([*overrides, "evaluation=[importance]"])


def test_images_in_a_file_of_arrays_have_no_columns() -> None:
    images = np.zeros((20, 4, 4), np.uint8)
    np.savez("images.npz", x=images, y=np.arange(20) % 2)
    quick = ("dataset=arrays", "dataset.file=images.npz", "stopping.max_epochs=1")
    done = outcome(Path("run"), *quick, "evaluation=[importance]")
    assert "evaluation=[importance] needs rows of numbers; arrays has none" in str(done.error)


def test_what_is_asked_is_no_part_of_a_run() -> None:
    asked = compose.load([*TABLE, "evaluation=[importance]", "importance.repeats=3"])
    assert fingerprint(asked) == fingerprint(compose.load(list(TABLE)))


def test_columns_of_any_name_and_number_are_drawn(tmp_path: Path) -> None:
    bars = [(name, 0.1, 0.02) for name in HOSTILE] + [(f"c{n}", 0.0, 0.0) for n in range(40)]
    drawn = importance.draw(bars, "about", 3, METRICS["accuracy"])
    plotting.save(drawn, tmp_path / "a.png")
    shown = [label.get_text() for label in drawn.axes[0].get_yticklabels()]
    assert shown == [plotting.plain(name) for name, _, _ in bars[:30]]
    title = drawn.texts[0].get_text().replace("\n", " ")
    assert f"the first 30 of {len(bars)} columns" in title
