"""Numbers to predict, from the file to the report: against scikit-learn and plain torch."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra.errors import HydraException
from numpy.typing import NDArray
from sklearn import metrics  # type: ignore[import-untyped,unused-ignore]
from sklearn.datasets import load_diabetes  # type: ignore[import-untyped,unused-ignore]
from sklearn.neural_network import MLPRegressor  # type: ignore[import-untyped,unused-ignore]
from torch import nn

import nnlab
from nnlab import checkpoint, compose, describe, predict, runs
from nnlab.datasets.labelled import numbers_of
from nnlab.device import CPU
from nnlab.engines import Run
from nnlab.engines.native import NativeEngine
from nnlab.losses import SquaredError
from nnlab.network import load
from nnlab.report.curves import interpret
from nnlab.stopping import Patience, RegressionEpoch, Target
from nnlab.training import train_runs
from tests.plain_loop import plain_sgd
from tests.test_losses import with_loss
from tests.test_native import make_run, module_of, needs_library, sgd
from tests.test_run import result

pytestmark = pytest.mark.usefixtures("empty_folder")

DIABETES = {"dataset": "sklearn", "dataset.name": "diabetes"}
TABLE = {"dataset": "table", "dataset.file": "plots.csv", "dataset.label": "yield"}
METRICS = ("loss", "r2", "mae", "rmse")


def plots(rows: int = 120) -> pd.DataFrame:
    """Numbers of some size that depend on two columns, one of them of texts."""
    generator = np.random.default_rng(0)
    rain, soil = generator.uniform(300, 900, rows), generator.choice(["clay", "sand"], rows)
    grown = 4000 + 3 * rain - 500 * (soil == "sand") + generator.normal(0, 100, rows)
    made: pd.DataFrame = pd.DataFrame({"rain": rain, "soil": soil, "yield": grown})
    return made


def two_targets() -> tuple[NDArray[Any], NDArray[Any]]:
    generator = np.random.default_rng(1)
    x = generator.normal(size=(150, 6))
    return x, np.stack([100 * x[:, 0] - 5, x[:, 1] + x[:, 2] ** 2], 1)


def expected(y: NDArray[Any], found: NDArray[Any], deviation: NDArray[Any]) -> list[float]:
    """The four measures, of targets and predictions in their own units."""
    return [
        metrics.mean_squared_error(y / deviation, found / deviation),
        metrics.r2_score(y, found),
        metrics.mean_absolute_error(y, found),
        metrics.root_mean_squared_error(y, found),
    ]


# ---- from the file to the report ----


@needs_library
def test_a_table_in_every_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is recorded is what scikit-learn says of the predictions, in the label's units."""
    plots().to_csv("plots.csv", index=False)
    options = TABLE | {"dataset.task": "regression", "stopping.max_epochs": 8, "valid_size": 20}
    frame = nnlab.sweep(options | {"engine": ["torch", "native", "stacked"]}, study="s")
    assert {"test_r2", "valid_rmse", "gap_r2"} < set(frame.columns)
    assert not {name for name in frame.columns if "accuracy" in name}
    study = Path("outputs", "s")
    own: dict[str, Any] = {"file": "plots.csv", "label": "yield", "task": "regression"}
    data = nnlab.load_data("table", valid_size=20, **own)
    assert (data.classes, data.targets) == ([], ["yield"])
    assert data.test is not None
    for name in frame["folder"]:
        network = load(study / name)
        x, y = (torch.from_numpy(each) for each in data.test)
        told = result(study / name)
        assert told["dataset"]["task"] == "regression"
        found = network.answer(network.logits(x)).numpy()
        deviation = np.array(told["dataset"]["target_deviation"])
        # float32, also of the targets.
        assert [told[f"test_{key}"] for key in METRICS] == pytest.approx(
            expected(y.numpy(), found, deviation), rel=1e-4
        )
    for key in METRICS:
        assert frame[f"test_{key}"].to_numpy() == pytest.approx(frame[f"test_{key}"][0], rel=1e-4)
    curves = nnlab.curves(study)
    assert [f"{part}_{key}" for part in ("train", "valid") for key in METRICS] == list(
        curves.columns[-9:-1]
    )
    figures = {path.name for path in study.glob("*.png")}
    assert {"r2.png", "r2_curves.png", "loss_curves.png"} <= figures
    assert not {"accuracy.png", "accuracy_curves.png"} & figures
    page = re.sub("<script>.*?</script>", "", (study / "index.html").read_text(), flags=re.DOTALL)
    assert "Training and validation R² over epochs" in page
    assert "in R²" in page or "too few epochs" in page
    assert "ccuracy" not in page
    capsys.readouterr()
    assert runs.main(["outputs"]) == 0
    assert " R² " in capsys.readouterr().out


@needs_library
def test_arrays_of_several_targets_and_their_predictions(
    capsys: pytest.CaptureFixture[str],
) -> None:
    x, y = two_targets()
    np.savez("d.npz", x=x, y=y)
    np.save("new.npy", x[:7])
    options = {"dataset": "arrays", "dataset.file": "d.npz", "dataset.task": "regression"}
    nnlab.sweep(options | {"stopping.max_epochs": 3}, study="s")
    folder = Path("outputs", "s", "default")
    assert result(folder)["dataset"]["targets"] == ["y0", "y1"]
    # The statistics are those of the training split, to all digits.
    arrays = compose.load([f"{key}={value}" for key, value in options.items()]).load_data()
    assert arrays.train.rows is not None
    mine = y[arrays.train.rows]
    assert result(folder)["dataset"]["target_mean"] == mine.mean(0).tolist()
    standard = (mine - mine.mean(0)) / mine.std(0)
    assert np.array_equal(arrays.train.examples[1], standard.astype(np.float32))
    assert predict.main([str(folder), "new.npy"]) == 0
    assert "7 rows, y0 " in capsys.readouterr().out
    table = pd.read_csv("new.predicted.csv")
    assert list(table.columns) == ["row", "y0", "y1"]
    found = load(folder).predict(x[:7].astype(np.float32))
    assert table[["y0", "y1"]].to_numpy() == pytest.approx(found.numpy(), rel=1e-6)
    np.save("none.npy", x[:0])
    assert predict.main([str(folder), "none.npy"]) == 0
    assert capsys.readouterr().out == "none.predicted.csv: 0 rows\n"
    assert Path("none.predicted.csv").read_text() == "row,y0,y1\n"


def test_describe_tells_the_targets(capsys: pytest.CaptureFixture[str]) -> None:
    assert describe.main([f"{key}={value}" for key, value in DIABETES.items()]) == 0
    assert "1 number to predict" in capsys.readouterr().out
    told = json.loads(Path("outputs", "diabetes", "describe.json").read_text())
    target = load_diabetes().target
    assert told["targets"] == ["progression"]
    parts = told["splits"].values()
    assert sum(part["counts"][0] for part in parts) == len(target)
    assert min(part["targets"]["least"][0] for part in parts) == target.min()
    assert max(part["targets"]["greatest"][0] for part in parts) == target.max()
    assert told["model"]["layers"][-1]["outputs"] == 1


# ---- the numbers ----


@needs_library
def test_diabetes_as_scikit_learn_learns_it() -> None:
    """Over ten seeds, the mean R² of the test rows differs by no more than chance; and one of the
    runs is the same alone, bit for bit."""
    seeds = range(10)
    options = DIABETES | {"model.hidden": [32], "optimizer.lr": 0.05, "stopping.max_epochs": 20}
    options |= {"batch_size": 20}
    ours = nnlab.sweep(options | {"seed": seeds}, study="s")["test_r2"]
    nnlab.sweep(options | {"seed": 3}, study="one")
    folders = Path("outputs/s/seed=3"), Path("outputs/one/default")
    weights = [(folder / "model.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1]
    among, alone = (pd.read_csv(folder / "metrics.csv").iloc[:, :-1] for folder in folders)
    pd.testing.assert_frame_equal(among, alone, check_exact=True)

    theirs = []
    for seed in seeds:
        data = nnlab.load_data("sklearn", name="diabetes", seed=seed)
        assert data.test is not None
        (x, y), (x_test, y_test) = data.train, data.test
        # scikit-learn halves the squared error, so its rate is twice ours.
        model = MLPRegressor(**plain_sgd(hidden=32, rate=0.1, batch=20, epochs=20, seed=seed))
        with pytest.warns(match="Maximum iterations"):
            model.fit(x, ((y - y.mean()) / y.std()).ravel())
        found = model.predict(x_test) * y.std() + y.mean()
        theirs.append(metrics.r2_score(y_test, found))
    error = math.hypot(ours.std(ddof=1), np.std(theirs, ddof=1)) / math.sqrt(len(seeds))
    assert ours.mean() > 0.4
    assert abs(ours.mean() - np.mean(theirs)) < 3 * error


@needs_library
def test_a_run_goes_on_from_its_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    def fresh() -> Run:
        run = with_loss(make_run(optimizer=sgd(lr=0.02), max_epochs=4), SquaredError())
        run.order, run.stopping = np.random.default_rng(3), Patience()
        return run

    whole, broken, again = fresh(), fresh(), fresh()
    for _ in train_runs([whole], NativeEngine([whole], CPU)):
        pass
    engine = NativeEngine([broken], CPU)
    for _, epoch in train_runs([broken], engine):
        if epoch is not None and epoch.epoch == 2:
            break
    checkpoint.save(tmp_path / "c", checkpoint.of(broken, engine, {}))
    state = checkpoint.load(tmp_path / "c")
    assert state is not None
    for _ in train_runs([again], NativeEngine([again], CPU), {again: state}):
        pass
    assert all(isinstance(row, RegressionEpoch) for row in again.epochs)
    assert [row[:-1] for row in again.epochs] == [row[:-1] for row in whole.epochs]
    assert again.restored == whole.restored
    for ours, theirs in zip(module_of(again).parameters(), module_of(whole).parameters()):
        assert torch.equal(ours, theirs)


# ---- in Python ----


def test_fit_takes_floating_point_labels_as_numbers() -> None:
    """Against scikit-learn's metrics of what it predicts, in the labels' own units."""
    x, y = two_targets()
    model = nnlab.mlp(6, [16], 2)
    inputs, found = x.astype(np.float32), None
    given = (inputs[:100], y[:100]), (inputs[100:], y[100:])
    fit = nnlab.fit(
        model, given[0], test=given[1], valid=given[1], optimizer=nnlab.Adam(lr=0.01), max_epochs=5
    )
    found = fit.predict(inputs[100:]).numpy()
    oracle = expected(y[100:], found, np.ones(2))
    assert [getattr(fit, f"test_{key}") for key in METRICS] == pytest.approx(oracle, rel=1e-4)
    assert (fit.test_accuracy, fit.train_accuracy) == (None, None)
    assert list(fit.metrics.columns) == list(RegressionEpoch._fields)
    assert fit.best_epoch is not None
    axes = fit.plot().axes
    assert [each.get_ylabel() for each in axes] == ["Loss", "R²"]
    assert nnlab.evaluate(model, given[1]) == pytest.approx(oracle, rel=1e-4)
    with pytest.raises(AttributeError, match="no test_f1; it measured train_loss, train_r2"):
        _ = fit.test_f1


def test_fit_refuses_what_a_regression_has_not() -> None:
    x, y = torch.zeros(4, 3), torch.tensor([0.5, 1.0, 2.0, 3.0])
    model, sgd_ = nn.Linear(3, 1), nnlab.SGD()
    with pytest.raises(ValueError, match=r"train are numbers .* valid class numbers"):
        nnlab.fit(model, (x, y), valid=(x, torch.zeros(4).long()), optimizer=sgd_)
    with pytest.raises(ValueError, match=r"numbers to predict, 1 of .* model has 2 outputs"):
        nnlab.fit(nn.Linear(3, 2), (x, y), optimizer=sgd_)
    with pytest.raises(ValueError, match="watches valid_accuracy, which a regression"):
        nnlab.fit(model, (x, y), valid=(x, y), optimizer=sgd_, stopping=Target(0.9))


def test_curves_are_read_by_r2() -> None:
    epoch = np.arange(1.0, 41.0)
    curves = {
        "epoch": epoch,
        "train_loss": 1 / epoch,
        "valid_loss": 1 + abs(epoch - 5) / 10,
        "train_r2": np.minimum(epoch, 12) / 12,
        "valid_r2": np.minimum(epoch, 8) / 10,
    }
    reading = interpret(curves, 50, "r2")
    assert reading is not None
    assert (reading.best_epoch, reading.learned_until, reading.overfits_from) == (5, 8, 6)
    assert reading.gap_accuracy is None
    assert reading.gap_r2 == pytest.approx(0.2)


# ---- what makes no sense ----


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dataset.balanced=true", "dataset.balanced=true .* leave it out"),
        ("loss.label_smoothing=0.1", "loss.label_smoothing=0.1 .* no classes"),
        ("loss.class_weights=balanced", "loss.class_weights=balanced .* no classes"),
        ("stopping=target", "stopping=target.* no accuracy; take stopping=plateau"),
        ("stopping.monitor=valid_accuracy", "stopping=patience.*stopping.monitor=valid_loss"),
        ("evaluation=[hardest]", "hardest asks for classes"),
        ("evaluation=[fgsm]", "fgsm"),
        ("objective=valid_accuracy", "objective=valid_accuracy .* take valid_loss"),
    ],
)
def test_options_of_classes_are_refused(override: str, message: str) -> None:
    options = {**TABLE, "dataset.task": "regression", "valid_size": 20}
    if "monitor" in override:
        options["stopping"] = "patience"
    with pytest.raises((ValueError, HydraException), match=message):
        compose.load([*(f"{key}={value}" for key, value in options.items()), override])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "b"], "labels such as a, .* dataset.task=classification"),
        ([1.0, math.nan], "1 labels that are missing"),
        ([[1.0, math.inf], [2.0, 3.0]], "1 labels that are missing .* or infinite"),
        (np.zeros((2, 2, 2)), r"shape \[2, 2, 2\]; a regression takes"),
        (np.zeros((2, 0)), r"shape \[2, 0\]"),
        ([True, False], "labels such as True"),
        ([1.0, -1e39], r"a label of size 1e\+39, and float32 ends at 3.4e\+38; give"),
    ],
)
def test_labels_that_are_no_numbers_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        numbers_of("data", "train", labels)


def test_a_regression_is_another_run_than_a_classification() -> None:
    words = [f"{key}={value}" for key, value in TABLE.items()]
    plots().assign(**{"yield": [0, 1] * 60}).to_csv("plots.csv", index=False)
    plain, same, other = (
        compose.load([*words, *more])
        for more in ([], ["dataset.task=classification"], ["dataset.task=regression"])
    )
    assert nnlab.config.fingerprint(plain) == nnlab.config.fingerprint(same)
    assert nnlab.config.fingerprint(plain) != nnlab.config.fingerprint(other)
