"""The evaluations of evaluation=, by hand-made cases and by independent computations."""

from __future__ import annotations

import csv
import gc
import json
import math
import sys
import weakref
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

import nnlab
from nnlab.analysis import (
    EVALUATION_FILES,
    EVALUATIONS,
    Evaluation,
    HardestConfig,
    fgsm,
    hardest,
)
from nnlab.config import Config
from nnlab.datasets import Data
from nnlab.network import Network
from nnlab.report import plotting
from nnlab.text import visible
from nnlab.trained import Trained
from tests.analysis.trained import outcome, trained
from tests.imports import imported
from tests.names import HOSTILE

RUN = ("train_size=2000", "stopping.max_epochs=60", "dataset.normalize=true")
Case = tuple[Trained, Data, Config, Path]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("run") / "a"
    return (*trained(folder, *RUN, "evaluation=[hardest,fgsm,weights,metrics]"), folder)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_mistakes_are_sorted_by_confidence_within_a_class_then_right_ones_by_doubt() -> None:
    labels = np.array([0, 0, 0, 1, 1, 0])
    probabilities = np.array(
        [
            *([0.9, 0.1, 0.0], [0.3, 0.5, 0.2], [0.1, 0.2, 0.7], [0.6, 0.4, 0.0]),
            *([0.1, 0.8, 0.1], [0.5, 0.3, 0.2]),
        ]
    )
    with np.errstate(divide="ignore"):
        logits = np.log(probabilities)
    found = hardest.hardest(labels, logits, range(3), most=5)
    assert [(m.rank, m.place, m.true, m.predicted, m.right) for m in found] == [
        (1, 2, 0, 2, False),
        (2, 1, 0, 1, False),
        (3, 5, 0, 0, True),
        (4, 0, 0, 0, True),
        (1, 3, 1, 0, False),
        (2, 4, 1, 1, True),
    ]
    sure = [0.7, 0.5, 0.5, 0.9, 0.6, 0.8]
    assert [m.probability for m in found] == pytest.approx(sure)
    assert [m.probability_true for m in found] == pytest.approx([0.1, 0.3, 0.5, 0.9, 0.4, 0.8])
    assert [m.log_odds for m in found] == pytest.approx(
        [math.log(p / (1 - p)) for p in sure], abs=1e-6
    )
    assert [m.place for m in hardest.hardest(labels, logits, range(3), most=1)] == [2, 3]
    assert [m.place for m in hardest.hardest(labels, logits, [1, 0], most=3)] == [3, 4, 2, 1, 5]


def test_mistakes_whose_probability_rounds_to_one_are_still_in_order() -> None:
    logits = np.array(
        [[0.0, 120.0, 0.0], [0.0, 40.0, 0.0], [-30.0, 130.0, 121.0], [0.0, 0.0, 300.0]]
    )
    found = hardest.hardest(np.zeros(4, int), logits, range(3), most=3)
    assert [m.place for m in found] == [3, 0, 1]
    assert [m.log_odds for m in found] == pytest.approx(
        [300 - math.log(2), 120 - math.log(2), 40 - math.log(2)]
    )
    assert [m.probability_true for m in found] == pytest.approx(
        [math.exp(-margin) for margin in (300, 120, 40)]
    )


def test_hardest_and_confusion_of_a_trained_network(case: Case) -> None:
    network, data, config, folder = case
    assert data.test is not None
    inputs, labels = data.test.examples
    with torch.no_grad():
        logits = nnlab.load(folder).model(torch.from_numpy(inputs))
    probabilities = logits.softmax(1).numpy()
    predicted, true = probabilities.argmax(1).tolist(), labels.tolist()

    pairs = Counter(zip(true, predicted))
    with (folder / "confusion.csv").open() as file:
        header, *matrix = list(csv.reader(file))
    assert header[1:] == network.classes
    for label, (name, *counts) in enumerate(matrix):
        assert name == network.classes[label]
        assert [int(n) for n in counts] == [pairs[label, guess] for guess in range(10)]
    right = sum(pairs[label, label] for label in range(10)) / len(true)
    assert right == pytest.approx(network.result["test_accuracy"], abs=1e-9)

    found = rows(folder / "hardest.csv")
    for label in range(10):
        wrong = [i for i in range(len(true)) if true[i] == label and predicted[i] != label]
        wrong = sorted(wrong, key=lambda i: -probabilities[i].max())
        unsure = [i for i in range(len(true)) if true[i] == predicted[i] == label]
        unsure = sorted(unsure, key=lambda i: probabilities[i].max())
        expected = (wrong + unsure)[: config.hardest.per_class]
        mine = [row for row in found if row["true"] == network.classes[label]]
        assert [int(row["position"]) for row in mine] == expected
        for row, place in zip(mine, expected):
            assert row["right"] == ("true" if place in unsure else "false")
            assert float(row["probability"]) == pytest.approx(probabilities[place].max(), rel=1e-4)


def test_classes_are_asked_for_by_name_or_label() -> None:
    names = ["beagle", "0", "pug", "10"]

    def labels(classes: list[str] | None) -> list[int]:
        return HardestConfig(classes=classes).labels(names)

    assert labels(None) == [0, 1, 2, 3]
    assert labels(["pug", "0", "3", "pug", "10"]) == [2, 1, 3]  # a name goes before a label
    with pytest.raises(ValueError, match=r"hardest.classes=beagel: .* did you mean beagle\?"):
        labels(["pug", "beagel"])
    with pytest.raises(ValueError, match=r"hardest.classes=4: .* choose one of beagle, 0, pug, 10"):
        labels(["4"])


def test_only_the_classes_that_are_asked_for(tmp_path: Path) -> None:
    asked = ("train_size=50", "test_size=200", "stopping.max_epochs=1", "evaluation=[hardest]")
    refused = outcome(tmp_path / "a", *asked, "hardest.classes=[7,dog]").error
    assert str(refused).startswith("hardest.classes=dog: there is no such class")
    assert not (tmp_path / "a").exists()
    done = outcome(tmp_path / "a", *asked, "hardest.classes=[7,2]", "hardest.per_class=4")
    assert done.error is None
    assert [row["true"] for row in rows(tmp_path / "a" / "hardest.csv")] == ["7"] * 4 + ["2"] * 4
    with (tmp_path / "a" / "confusion.csv").open() as file:
        assert len(file.readlines()) == 11
    later = outcome(tmp_path / "a", *asked, "hardest.classes=[11]")
    assert (later.trained, later.evaluation_files) == (False, [])
    assert "hardest.classes=11: there is no such class" in str(later.error)


def test_no_figure_stays_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would hold some 10 MB, and a sweep has as many as it has runs."""
    drawn: list[weakref.ref[Figure]] = []
    save = plotting.save

    def noted(figure: Figure, path: Path) -> Path:
        drawn.append(weakref.ref(figure))
        return save(figure, path)

    monkeypatch.setattr(plotting, "save", noted)
    asked = ("train_size=50", "test_size=50", "stopping.max_epochs=1", "evaluation=[hardest]")
    gc.disable()
    try:
        done = outcome(tmp_path / "a", *asked)
        assert [each() for each in drawn] == [None, None]
    finally:
        gc.enable()
    assert done.error is None


def test_gradient_against_finite_differences() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    model = model.double()
    inputs = torch.rand(4, 6, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 1])
    step = 1e-6
    expected = torch.empty_like(inputs)
    for place in np.ndindex(4, 6):
        losses = []
        for sign in (1, -1):
            moved = inputs.clone()
            moved[place] += sign * step
            row = place[0]
            losses.append(cross_entropy(model(moved[row : row + 1]), labels[row : row + 1]))
        expected[place] = (losses[0] - losses[1]) / (2 * step)
    # The gradient of cross entropy is that of the log odds times the probability of a mistake.
    mistaken = 1 - model(inputs).softmax(1).gather(1, labels[:, None])
    found = fgsm.gradient(model, inputs, labels) * mistaken
    assert_close(found.detach(), expected.detach(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("margin", [1.0, 20.0, 35.0, 37.0, 200.0, 2000.0])
def test_signs_of_a_network_however_sure_it_is(margin: float) -> None:
    """Linear: class 1 is second by far, so the loss falls along its weights less class 0's."""
    weight = torch.tensor([[1.0, 1.0, -2.0, 3.0, 0], [0.5, 2.0, 1.0, 1.0, 0], [0.3, 0, 0, 9, 0]])
    model = nnlab.mlp(5, [], 3)
    model[0].weight.data = weight
    model[0].bias.data = torch.tensor([0.0, -margin, -margin - 50.0]) - weight.sum(1) / 2
    network = Network(Trained(model, {}, {}, ["a", "b", "c"], (1, 5), None, None))
    signs = fgsm.gradient_sign(network, torch.full((1, 5), 0.5), torch.tensor([0]))
    assert signs.tolist() == [[-1.0, 1.0, 1.0, -1.0, 0.0]]


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
@pytest.mark.parametrize("at", [-250.0, -30.0, 1.0, 30.0, 250.0])
def test_signs_behind_a_saturated_unit(activation: str, at: float) -> None:
    """Tanh and sigmoid rise everywhere, however little: the sign is that of the weights."""
    model = nnlab.mlp(2, [1], 2, activation)
    for parameter, values in zip(
        model.parameters(), ([[1.0, -2.0]], [at + 0.5], [[1.0], [-1.0]], [3.0, 0.0])
    ):
        parameter.data = torch.tensor(values)
    network = Network(Trained(model, {}, {}, ["a", "b"], (1, 2), None, None))
    signs = fgsm.gradient_sign(network, torch.full((1, 2), 0.5), torch.tensor([0]))
    assert signs.tolist() == [[-1.0, 1.0]]
    assert type(model[1]) is type(nnlab.mlp(2, [1], 2, activation)[1])
    exact = fgsm.precise(model)(torch.full((1, 2), 0.5, dtype=torch.float64))
    assert_close(exact.float(), model(torch.full((1, 2), 0.5)), rtol=1e-6, atol=1e-6)


def signs_in_long_double(
    network: Network, inputs: Tensor, labels: Tensor
) -> NDArray[np.longdouble]:
    """Backpropagate by hand sum_k q_k (z_k - z_y), q over the classes k other than y."""
    layers = [layer for layer in network.model.modules() if isinstance(layer, torch.nn.Linear)]
    weights = [layer.weight.detach().numpy().astype(np.longdouble) for layer in layers]
    biases = [layer.bias.detach().numpy().astype(np.longdouble) for layer in layers]
    values, sums = inputs.numpy().astype(np.longdouble), []
    for weight, bias in zip(weights, biases):
        sums.append(values @ weight.T + bias)
        values = np.maximum(sums[-1], 0)
    own = (np.arange(len(labels)), labels.numpy())
    others = sums[-1].copy()
    others[own] = -np.inf
    error = np.exp(others - others.max(axis=1, keepdims=True))
    error /= error.sum(axis=1, keepdims=True)
    error[own] = -1
    for weight, below in zip(weights[:0:-1], sums[-2::-1]):
        error = (error @ weight) * (below > 0)
    signs: NDArray[np.longdouble] = np.sign(error @ weights[0])
    return signs


def test_fgsm_of_a_confident_network_against_long_double(tmp_path: Path) -> None:
    """Of this run float32 gradients are 0 or noise: accuracy at 0.15 seemed to be 0.071."""
    folder = tmp_path / "a"
    source = ("dataset.source=bundled", "optimizer=adam", "train_size=1000")
    core, data, _ = trained(folder, *source, "evaluation=[fgsm]")
    assert data.test is not None
    network = Network(core)
    inputs, labels = map(torch.from_numpy, data.test.examples)
    signs = fgsm.gradient_sign(network, inputs, labels)
    expected = signs_in_long_double(network, inputs, labels)
    # A preactivation within rounding of 0 may fall to either side.
    assert (signs.numpy() != expected).any(axis=1).sum() <= 1
    found = {row["eps"]: row for row in rows(folder / "fgsm.csv")}
    assert float(found["0.15"]["accuracy"]) < 0.02
    moved = (inputs.numpy() + 0.15 * expected.astype(np.float32)).clip(0, 1)
    accuracy = (network.logits(torch.from_numpy(moved)).argmax(1) == labels).double().mean()
    assert float(found["0.15"]["accuracy"]) == pytest.approx(float(accuracy), abs=0.0011)
    assert {row["without_gradient"] for row in found.values()} == {"0"}


def test_images_that_nothing_moves_are_counted() -> None:
    """Every hidden unit is off for the first image, so its logits are the biases."""
    model = nnlab.mlp(4, [2], 2)
    for parameter, values in zip(
        model.parameters(), ([[-1.0] * 4] * 2, [1.0, 2.0], [[1.0, 2.0], [0.0, 0.0]], [0.5, 0.0])
    ):
        parameter.data = torch.tensor(values)
    network = Network(Trained(model, {}, {}, ["a", "b"], (2, 2), None, None))
    inputs = torch.stack([torch.ones(4), torch.zeros(4), torch.ones(4)])
    labels = torch.tensor([0, 0, 1])  # the last is wrong, and not counted
    signs = fgsm.gradient_sign(network, inputs, labels)
    assert signs.tolist() == [[0.0] * 4, [1.0] * 4, [0.0] * 4]
    assert fgsm.unmoved(network, inputs, labels, signs) == 1


def test_perturbed_pixels_move_by_eps_and_stay_in_range(case: Case) -> None:
    core, data, _, _ = case
    assert data.test is not None
    network = Network(core)
    inputs, labels = (torch.from_numpy(each[:200]) for each in data.test.examples)
    signs = fgsm.gradient_sign(network, inputs, labels)
    assert torch.equal(fgsm.perturbed(network, inputs, signs, 0.0), inputs)
    before = network.pixels(inputs)
    after = network.pixels(fgsm.perturbed(network, inputs, signs, 0.1))
    assert_close(after, (before + 0.1 * signs).clamp(0, 1), rtol=0, atol=1e-5)
    # The loss must rise: that is what the direction is for.
    moved = fgsm.perturbed(network, inputs, signs, 0.01)
    with torch.no_grad():
        assert cross_entropy(network.model(moved), labels) > cross_entropy(
            network.model(inputs), labels
        )


def test_mnist_collapses_by_a_tenth_and_noise_hardly_matters(case: Case) -> None:
    network, _, config, folder = case
    found = rows(folder / "fgsm.csv")
    assert [float(row["eps"]) for row in found] == config.fgsm.eps
    clean = network.result["test_accuracy"]
    assert float(found[0]["accuracy"]) == pytest.approx(clean, abs=1e-9)
    assert float(found[0]["accuracy_under_noise"]) == pytest.approx(clean, abs=1e-9)
    tenth = next(row for row in found if float(row["eps"]) == 0.1)
    assert float(tenth["accuracy"]) < 0.25
    assert float(tenth["accuracy_under_noise"]) > clean - 0.06


def test_every_evaluation_leaves_the_files_that_it_declares(case: Case) -> None:
    *_, folder = case
    trained = {"metrics.csv", "model.safetensors", "result.json", "run.log"}
    of_tables = {"weights.csv", *EVALUATIONS["boundary"].files, *EVALUATIONS["importance"].files}
    assert {path.name for path in folder.iterdir()} - trained == set(EVALUATION_FILES) - of_tables
    assert len(EVALUATION_FILES) == len(set(EVALUATION_FILES))


def test_a_new_evaluation_is_one_entry_and_its_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate(network: Trained, data: Data, config: Config, folder: Path) -> list[Path]:
        (folder / "units.txt").write_text(f"{len(network.classes)} {len(data.train.index)}")
        return [folder / "units.txt"]

    module = ModuleType("units")
    monkeypatch.setattr(module, "evaluate", evaluate, raising=False)
    monkeypatch.setitem(sys.modules, "nnlab.analysis.units", module)
    quick = ("train_size=40", "test_size=0", "stopping.max_epochs=1", "evaluation=[units]")
    assert "choose any of hardest, fgsm, weights" in str(outcome(tmp_path / "a", *quick).error)
    monkeypatch.setitem(EVALUATIONS, "units", Evaluation(("units.txt",), examples=False))
    done = outcome(tmp_path / "a", *quick)
    assert (done.error, done.evaluation_files) == (None, [tmp_path / "a" / "units.txt"])
    assert done.evaluation_files[0].read_text() == "10 40"
    monkeypatch.setitem(EVALUATIONS, "units", Evaluation(("units.txt",)))
    refused = outcome(tmp_path / "b", *quick).error
    assert "units looks at the test examples, but test_size=0" in str(refused)


def test_evaluations_are_known_without_what_is_slow_to_import() -> None:
    slow = {"torch", "matplotlib", "numpy", "hydra", "omegaconf"}
    assert imported("nnlab.analysis, nnlab.identity", slow) == set()


def test_every_picture_is_drawn(case: Case) -> None:
    *_, folder = case
    for name in ("hardest", "confusion", "fgsm", "fgsm_examples", "weights", "reliability"):
        with Image.open(folder / f"{name}.png") as image:
            assert len(np.unique(np.asarray(image.convert("L")))) > 20, name


def test_names_of_classes_are_shown_as_text(tmp_path: Path) -> None:
    count = len(HOSTILE)
    network = Trained(nnlab.mlp(4, [], count), {}, {}, list(HOSTILE), (2, 2), None, None)
    matrix = np.arange(count**2).reshape(count, count)
    plotting.save(hardest.draw_confusion(matrix, network.classes, "about"), tmp_path / "a.png")
    hard = [
        hardest.Hard(1, label, label, (label + 1) % count, 0.9, 0.1, 2.0) for label in range(count)
    ]
    inputs, labels = torch.rand(count, 4), torch.arange(count)
    files = hardest.named("file", [f"x/{name}" for name in HOSTILE])
    drawn = hardest.draw_hardest(hard, files, inputs.numpy(), network, "about")
    plotting.save(drawn, tmp_path / "b.png")
    shown = {text.get_text() for text in drawn.texts}
    assert {plotting.plain(name, 24) for name in HOSTILE} <= shown
    assert {text.partition("(true 10.0%)\n")[2] for text in shown} >= set(files)
    assert drawn.get_size_inches()[0] < 5
    direction = torch.ones(count, 4)
    sheet = fgsm.examples(Network(network), inputs, labels, direction, 0.1, "about")
    plotting.save(sheet, tmp_path / "c.png")


def test_pandas_reads_the_classes_back(tmp_path: Path) -> None:
    names = ["007", "NA", "null", "True", "1e3", "beagle", *HOSTILE]
    path = hardest.write_confusion(np.eye(len(names), dtype=np.int64), names, tmp_path / "a.csv")
    with path.open(newline="", encoding="utf-8") as file:
        header, *body = list(csv.reader(file))
    assert header[1:] == list(map(visible, names))  # not shortened
    assert [row[0] for row in body[6:]] == header[7:]
    hard = [hardest.Hard(1, 0, label, 0, 0.9, 0.1, 2.0) for label in range(6)]
    read = pd.read_csv(hardest.write_hardest(hard, names, tmp_path / "b.csv"))
    assert read["right"].tolist() == [True, False, False, False, False, False]
    found = read["true"]
    assert found.tolist() == ["'007'", "'NA'", "'null'", "'True'", "'1e3'", "beagle"]


@pytest.mark.slow
def test_colour_images_and_no_hidden_layer(tmp_path: Path) -> None:
    """Three channels, each with its own deviation; the first layer is the last."""
    overrides = (
        *("dataset=dogset_synthetic", "train_size=100", "valid_size=100", "test_size=50"),
        *("model.hidden=[]", "stopping.max_epochs=1", "hardest.split=valid"),
    )
    done = outcome(tmp_path / "a", *overrides, "evaluation=[hardest,fgsm,weights]")
    assert done.error is None
    assert {path.name for path in done.evaluation_files} == {
        *("hardest.csv", "hardest.png", "confusion.csv", "confusion.png"),
        *("fgsm.csv", "fgsm.png", "fgsm_examples.png", "weights.png"),
    }
    assert len(rows(tmp_path / "a" / "confusion.csv")) == 10
    assert sum(float(row["probability"]) > 0 for row in rows(tmp_path / "a" / "hardest.csv")) > 10


def test_evaluations_of_a_finished_run_do_not_train_it_again(tmp_path: Path) -> None:
    quick = ("train_size=50", "test_size=50", "stopping.max_epochs=2", "model.hidden=[8]")
    assert outcome(tmp_path / "a", *quick).evaluation_files == []
    metrics = (tmp_path / "a" / "metrics.csv").stat().st_mtime_ns
    later = outcome(tmp_path / "a", *quick, "evaluation=[weights]")
    assert (later.trained, later.error) == (False, None)
    assert later.evaluation_files == [tmp_path / "a" / "weights.png"]
    assert (tmp_path / "a" / "metrics.csv").stat().st_mtime_ns == metrics
    # A run that is trained anew leaves no old answers behind.
    assert outcome(tmp_path / "a", *quick, "force=true").trained
    assert not (tmp_path / "a" / "weights.png").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("test_size=0", "evaluation=[hardest]"), "looks at the test examples, but test_size=0"),
        (
            ("evaluation=[hardest]", "hardest.split=valid"),
            "looks at the valid examples, but valid_size=0",
        ),
        (("test_size=0", "evaluation=[fgsm]"), "looks at the test examples, but test_size=0"),
    ],
)
def test_evaluations_that_do_not_fit_are_refused_before_training(
    tmp_path: Path, overrides: tuple[str, ...], message: str
) -> None:
    done = outcome(tmp_path / "a", "train_size=50", "stopping.max_epochs=1", *overrides)
    assert message in str(done.error)
    assert done.result is None
    assert not (tmp_path / "a").exists()


def test_a_run_that_saw_other_data_is_not_evaluated(tmp_path: Path) -> None:
    quick = ("train_size=50", "test_size=50", "stopping.max_epochs=2")
    assert outcome(tmp_path / "a", *quick).error is None
    file = tmp_path / "a" / "result.json"
    record = json.loads(file.read_text())
    del record["checksum"]
    record["dataset"]["content"] = "0" * 16
    file.write_text(json.dumps(record))
    done = outcome(tmp_path / "a", *quick, "evaluation=[weights]")
    assert "saw other data than there are now (bundled sample of mnist)" in str(done.error)
    assert not (tmp_path / "a" / "weights.png").exists()
