"""The questions of evaluation=, by hand-made cases and by independent computations."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from nnlab.analysis import fgsm, hardest
from nnlab.config import Config
from nnlab.datasets import Data
from nnlab.network import Network
from tests.analysis.trained import outcome, trained

RUN = ("train_size=2000", "stopping.max_epochs=60", "dataset.normalize=true")
Case = tuple[Network, Data, Config, Path]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("run") / "a"
    return (*trained(folder, *RUN, "evaluation=[hardest,fgsm,weights]"), folder)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_mistakes_are_sorted_by_confidence_within_a_class() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1])
    probabilities = torch.tensor(
        [[0.9, 0.1, 0.0], [0.3, 0.5, 0.2], [0.1, 0.2, 0.7], [0.6, 0.4, 0.0], [0.1, 0.8, 0.1]]
    )
    found = hardest.mistakes(labels, probabilities, 3, most=5)
    assert [(m.rank, m.place, m.true, m.predicted) for m in found] == [
        (1, 2, 0, 2),
        (2, 1, 0, 1),
        (1, 3, 1, 0),
    ]
    assert [m.probability for m in found] == pytest.approx([0.7, 0.5, 0.6])
    assert [m.probability_true for m in found] == pytest.approx([0.1, 0.3, 0.4])
    assert len(hardest.mistakes(labels, probabilities, 3, most=1)) == 2


def test_hardest_and_confusion_of_a_trained_network(case: Case) -> None:
    network, data, config, folder = case
    assert data.test is not None
    inputs, labels = data.test.inputs[data.test.index], data.test.labels[data.test.index]
    with torch.no_grad():
        probabilities = network.model(inputs).softmax(1).numpy()
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
        wrong = sorted(wrong, key=lambda i: -probabilities[i].max())[: config.hardest.per_class]
        mine = [row for row in found if row["true"] == network.classes[label]]
        assert [int(row["position"]) for row in mine] == wrong
        for row, place in zip(mine, wrong):
            assert float(row["probability"]) == pytest.approx(probabilities[place].max(), rel=1e-4)


def test_gradient_against_finite_differences() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    network = Network(model.double(), {}, {}, ["a", "b", "c"], (2, 3), None, None)
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
            losses.append(cross_entropy(network.model(moved[row : row + 1]), labels[row : row + 1]))
        expected[place] = (losses[0] - losses[1]) / (2 * step)
    assert_close(fgsm.gradient(network, inputs, labels), expected.detach(), rtol=1e-6, atol=1e-8)


def test_perturbed_pixels_move_by_eps_and_stay_in_range(case: Case) -> None:
    network, data, _, _ = case
    assert data.test is not None
    inputs, labels = (
        data.test.inputs[data.test.index][:200],
        data.test.labels[data.test.index][:200],
    )
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


def test_every_picture_is_drawn(case: Case) -> None:
    *_, folder = case
    for name in ("hardest", "confusion", "fgsm", "fgsm_examples", "weights"):
        with Image.open(folder / f"{name}.png") as image:
            assert len(np.unique(np.asarray(image.convert("L")))) > 20, name


def test_colour_images_and_no_hidden_layer(tmp_path: Path) -> None:
    """Three channels, each with its own deviation; the first layer is the last."""
    overrides = (
        *("dataset=dogset_synthetic", "train_size=100", "valid_size=100", "test_size=50"),
        *("model.hidden=[]", "stopping.max_epochs=1", "hardest.split=valid"),
    )
    done = outcome(tmp_path / "a", *overrides, "evaluation=[hardest,fgsm,weights]")
    assert done.error is None
    assert {path.name for path in done.answers} == {
        *("hardest.csv", "hardest.png", "confusion.csv", "confusion.png"),
        *("fgsm.csv", "fgsm.png", "fgsm_examples.png", "weights.png"),
    }
    assert len(rows(tmp_path / "a" / "confusion.csv")) == 10
    assert sum(float(row["probability"]) > 0 for row in rows(tmp_path / "a" / "hardest.csv")) > 10


def test_questions_to_a_finished_run_do_not_train_it_again(tmp_path: Path) -> None:
    quick = ("train_size=50", "test_size=50", "stopping.max_epochs=2")
    assert outcome(tmp_path / "a", *quick).answers == []
    metrics = (tmp_path / "a" / "metrics.csv").stat().st_mtime_ns
    later = outcome(tmp_path / "a", *quick, "evaluation=[weights]")
    assert (later.trained, later.error) == (False, None)
    assert later.answers == [tmp_path / "a" / "weights.png"]
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
def test_questions_that_do_not_fit_are_refused_before_training(
    tmp_path: Path, overrides: tuple[str, ...], message: str
) -> None:
    done = outcome(tmp_path / "a", "train_size=50", "stopping.max_epochs=1", *overrides)
    assert message in str(done.error)
    assert done.result is None
    assert not (tmp_path / "a").exists()


def test_a_run_that_saw_other_data_is_not_asked(tmp_path: Path) -> None:
    quick = ("train_size=50", "test_size=50", "stopping.max_epochs=2")
    assert outcome(tmp_path / "a", *quick).error is None
    file = tmp_path / "a" / "result.json"
    record = json.loads(file.read_text())
    record["dataset"]["content"] = "0" * 16
    file.write_text(json.dumps(record))
    done = outcome(tmp_path / "a", *quick, "evaluation=[weights]")
    assert "saw other data than there are now (bundled sample of mnist)" in str(done.error)
    assert not (tmp_path / "a" / "weights.png").exists()
