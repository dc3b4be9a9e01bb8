"""The unit square of a Boolean function, by networks whose lines are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.contour import QuadContourSet

import nnlab
from nnlab.analysis import boundary
from nnlab.perceptron import MLP, classic_xor, perceptrons
from nnlab.trained import Trained
from tests.analysis.trained import outcome, trained

QUICK = ("dataset=boolean", "optimizer=adam", "optimizer.lr=0.05", "stopping.max_epochs=60")


def network_of(model: torch.nn.Module | MLP, name: str = "linear") -> Trained:
    config = {"model": {"name": name}, "dataset": {}}
    return Trained(model, config, {}, ["0", "1"], (2,), None, None)


def linear(a: float, b: float, c: float) -> Trained:
    """Make a linear network for which 1 is likelier where a x1 + b x2 > c."""
    model = nnlab.mlp(2, [], 2, "identity")
    model[0].weight.data = torch.tensor([[1.0, 2.0], [1.0 + a, 2.0 + b]])
    model[0].bias.data = torch.tensor([3.0, 3.0 - c])
    return network_of(model)


def test_the_line_of_a_linear_network_and_the_corners_that_it_has_wrong() -> None:
    network = linear(1.0, 2.0, 1.5)  # 0101: of XOR only 00, 01 and 10 less 11 can be right
    predicted = (boundary.log_odds(network, boundary.CORNERS) > 0).astype(int).tolist()
    assert predicted == [0, 1, 0, 1]
    about = boundary.reasons(network, "0110", predicted)
    assert about == [
        "on the wrong side: 10, 11",
        "no line has all ones on one side and all zeros on the other",
    ]
    assert boundary.reasons(network, "0101", predicted) == ["every corner is on its side"]
    assert boundary.reasons(network, "0111", predicted) == ["on the wrong side: 10"]
    figure = boundary.draw(network, "0110", predicted, about)
    axes, _ = figure.axes
    (drawn,) = (each for each in axes.collections if isinstance(each, QuadContourSet))
    (path,) = drawn.get_paths()
    vertices = np.asarray(path.vertices)
    np.testing.assert_allclose(vertices @ [1, 2], 1.5, atol=1e-5)  # coordinates are float32
    places = [np.asarray(line.get_xydata()).tolist() for line in axes.lines]
    looks = [(line.get_marker(), line.get_markerfacecolor()) for line in axes.lines]
    assert [p for p, (mark, _) in zip(places, looks) if mark == "x"] == [[[1, 0]], [[1, 1]]]
    assert [p for p, look in zip(places, looks) if look == ("o", "black")] == [[[0, 1]], [[1, 0]]]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[0] == "1 is likelier where 0.5 x1 + x2 > 0.75"
    assert "on the wrong side" in labels


def test_a_line_outside_of_the_square() -> None:
    network = linear(1.0, 1.0, 9.0)
    figure = boundary.draw(network, "0110", [0] * 4, [])
    assert figure.legends[0].get_texts()[0].get_text().endswith("x1 + x2 > 9 (outside)")


def test_a_network_that_is_at_chance_says_so() -> None:
    network = linear(1e-7, 0.0, 0.0)
    assert "0.500 in every corner" in boundary.reasons(network, "0110", [0, 0, 0, 0])[-1]


def test_the_lines_of_perceptrons() -> None:
    classic = network_of(classic_xor(), "perceptron")
    assert boundary.unit_lines(classic) == [(1.0, 1.0, 0.5), (-1.0, -1.0, -1.5)]
    figure = boundary.draw(classic, "0110", [0, 1, 1, 0], [])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:2] == ["unit 1 fires where x1 + x2 > 0.5", "unit 2 fires where -x1 - x2 > -1.5"]
    assert "on the wrong side" not in labels
    never = network_of(perceptrons("0000"), "perceptron")
    assert boundary.unit_lines(never) == [(0.0, 0.0, 0.5)]
    boundary.draw(never, "0000", [0] * 4, [])


def test_the_lines_are_those_of_examples_as_they_are() -> None:
    """Where inputs are standardised, a line is moved and stretched with them."""
    network = linear(1.0, 2.0, 1.5)
    network.mean, network.deviation = np.array([0.5, 0.25]), np.array([0.5, 2.0])
    a, b, c = boundary.line_of(boundary.log_odds(network, boundary.CORNERS))
    assert (a, b) == pytest.approx((2.0, 1.0))
    assert c == pytest.approx(1.5 + 0.5 / 0.5 + 2 * 0.25 / 2.0)


@pytest.mark.parametrize("model", ["linear", "deep_linear", "mlp", "perceptron"])
def test_every_network_has_its_square(model: str, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    network, _, _ = trained(folder, *QUICK, f"model={model}", "evaluation=[boundary]")
    found = pd.read_csv(folder / "boundary.csv")
    assert found[["x1", "x2"]].to_numpy().tolist() == boundary.CORNERS.tolist()
    assert found.value.tolist() == [0, 1, 1, 0]
    assert found.right.tolist() == (found.predicted == found.value).tolist()
    expected = network.predict(boundary.CORNERS)[:, 1]  # in float32
    np.testing.assert_allclose(found.probability_of_1, expected, rtol=1e-4, atol=1e-6)
    assert found.right.all() == (model in ("mlp", "perceptron"))
    assert (folder / "boundary.png").exists()


def test_other_data_have_no_square(tmp_path: Path) -> None:
    for options in (("dataset=mnist", "train_size=40"), ("dataset=boolean", "dataset.inputs=3")):
        refused = outcome(tmp_path / "a", *options, "evaluation=[boundary]").error
        assert "boundary needs a Boolean function of two inputs" in str(refused)
    assert not (tmp_path / "a").exists()


def test_what_makes_training_different_leaves_a_network_linear() -> None:
    for activation, expected in (("identity", True), ("relu", False)):
        model = nnlab.mlp(2, [3], 2, activation, batch_norm=True, dropout=0.3)
        assert boundary.linear(model) is expected
