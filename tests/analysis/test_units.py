"""Weights and thresholds of networks on truth tables, by networks whose weights are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.patches import Circle
from torch import nn
from torch.testing import assert_close

import nnlab
from nnlab.analysis import units
from nnlab.model import Shaped
from nnlab.perceptron import MLP, classic_xor
from nnlab.trained import Trained
from tests.analysis.trained import outcome, trained

XOR = ("dataset=boolean", "model=perceptron", "evaluation=[weights]")


def network_of(model: nn.Module | MLP, inputs: int = 2) -> Trained:
    return Trained(model, {"model": {"name": "mlp"}}, {}, ["0", "1"], (inputs,), None, None)


def test_the_classic_three_as_a_table_and_a_drawing(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    trained(folder, *XOR, "model.classic=true")
    found = pd.read_csv(folder / "weights.csv")
    assert found.to_numpy().tolist() == [
        [1, 1, 0.5, 1, 1, "'0111'"],
        [1, 2, -1.5, -1, -1, "'1110'"],
        [2, 1, 1.5, 1, 1, "'0110'"],
    ]
    assert list(found) == ["layer", "unit", "threshold", "weight_1", "weight_2", "output"]
    made = units.units_of(network_of(classic_xor()))
    assert units.as_text(made).splitlines() == [
        "layer  unit  weights  threshold  output",
        "1      1     1 1            0.5  0111 or",
        "1      2     -1 -1         -1.5  1110 nand",
        "2      1     1 1            1.5  0110 xor",
    ]
    figure = units.draw(made, "xor")
    assert figure is not None
    (axes,) = figure.axes
    written = [text.get_text() for text in axes.texts]
    assert written == ["x1", "x2", "0.5", "0111 or", "-1.5", "1110 nand", "1.5", "0110\nxor"]
    centres = {
        text.get_text(): text.get_position() for text in axes.texts if len(text.get_text()) < 5
    }
    assert {patch.center for patch in axes.patches if isinstance(patch, Circle)} == {
        *centres.values()
    }
    ends = [np.asarray(line.get_xydata()).tolist() for line in axes.lines]
    connections = {
        (tuple(start), tuple(end)): line.get_linestyle()
        for (start, end), line in zip(ends, axes.lines)
    }
    assert connections == {
        (centres["x1"], centres["0.5"]): "-",
        (centres["x2"], centres["0.5"]): "-",
        (centres["x1"], centres["-1.5"]): "--",
        (centres["x2"], centres["-1.5"]): "--",
        (centres["0.5"], centres["1.5"]): "-",
        (centres["-1.5"], centres["1.5"]): "-",
    }
    assert (folder / "weights.png").exists()


def test_what_perceptrons_of_three_inputs_give_in_every_row(tmp_path: Path) -> None:
    """Each of the first layer fires for its row alone."""
    folder = tmp_path / "a"
    trained(folder, *XOR, "dataset.inputs=3", "dataset.function=majority")
    found = pd.read_csv(folder / "weights.csv")
    rows = ["'00010000'", "'00000100'", "'00000010'", "'00000001'", "'00010111'"]
    assert found.output.tolist() == rows
    assert found.threshold.tolist() == [1.5, 1.5, 1.5, 2.5, 0.5]


def test_networks_that_are_trained_have_biases(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    options = ("dataset=boolean", "model.hidden=[3]", "stopping.max_epochs=2")
    trained(folder, *options, "evaluation=[weights]")
    found = pd.read_csv(folder / "weights.csv")
    assert list(found) == ["layer", "unit", "bias", "weight_1", "weight_2", "weight_3"]
    first, _, last = nnlab.load(folder).model.children()
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    expected = torch.cat([first.bias, last.bias]).detach()
    assert_close(torch.tensor(found.bias).float(), expected, rtol=1e-6, atol=0)
    weights = torch.tensor(found.filter(like="weight").to_numpy()).float()
    assert_close(weights[:3, :2], first.weight.detach(), rtol=1e-6, atol=0)
    assert_close(weights[3:], last.weight.detach(), rtol=1e-6, atol=0)
    assert weights[:3, 2].isnan().all()
    assert (folder / "weights.png").exists()


def test_large_networks_are_not_drawn(tmp_path: Path) -> None:
    done = outcome(tmp_path / "a", *XOR, "dataset.inputs=5", "dataset.function=majority")
    assert done.error is None
    assert [file.name for file in done.evaluation_files] == ["weights.csv"]


def test_networks_of_other_layers_are_refused() -> None:
    for model in (Shaped(nn.Linear(2, 2), (2,)), nn.Sequential(nn.Conv1d(1, 2, 2))):
        with pytest.raises(ValueError, match="needs a network of linear layers"):
            units.units_of(network_of(model))
    assert units.draw(units.units_of(network_of(nnlab.mlp(2, [9], 2))), "") is None


def test_layers_without_biases_and_with_batch_norm_have_their_weights_in_evaluation(
    tmp_path: Path,
) -> None:
    """Against what each layer before an activation gives of all rows: its weights times what came
    before, and its bias."""
    options = ("dataset=boolean", "model.hidden=[3,4]", "stopping.max_epochs=3")
    more = ("model.batch_norm=true", "model.bias=false", "model.dropout=0.5")
    trained(tmp_path / "a", *options, *more, "evaluation=[weights]")
    found = pd.read_csv(tmp_path / "a" / "weights.csv")
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    model = nnlab.load(tmp_path / "a").model
    layers = list(model.children())
    sums = [nn.Sequential(*layers[:2])(x), nn.Sequential(*layers[:6])(x), model(x)]
    for layer, (before, expected) in enumerate(zip([x, *map(torch.relu, sums)], sums), 1):
        rows = found[found.layer == layer]
        weights = torch.tensor(rows.filter(like="weight").to_numpy()).float()
        biases = torch.tensor(rows.bias.to_numpy()).float()
        given = before @ weights[:, : before.shape[1]].T + biases
        assert_close(given, expected.detach())
    assert found.bias[found.layer == 3].tolist() == [0, 0]
