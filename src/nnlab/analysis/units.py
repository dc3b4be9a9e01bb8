"""The units of a network on a truth table: their weights and thresholds, and a drawing of it.

Axes: 2**I rows of the truth table, I inputs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from numpy.typing import NDArray

from nnlab.analysis import pictures
from nnlab.boolean import function_name, inputs_of, rows_of
from nnlab.perceptron import MLP
from nnlab.report import plotting
from nnlab.text import for_csv
from nnlab.trained import Trained

if TYPE_CHECKING:
    from torch import nn

SHOWN, DRAWN = 20, 8  # units that the terminal shows one by one; of a layer that is drawn
RADIUS = 0.17  # of a circle, in inches
WRITTEN = 4  # inputs, of which a truth table can still be read


@dataclass(frozen=True)
class Unit:
    """A unit of a network.

    layer, number: counted from 1. weights: of what the layer below gives. bias: minus the
    threshold. output: of a perceptron what it gives in each row of the truth table, as bits.
    """

    layer: int
    number: int
    weights: list[float]
    bias: float
    output: str | None

    @property
    def threshold(self) -> float:
        return -self.bias + 0.0  # never -0


def units_of(network: Trained) -> list[Unit]:
    """Return every unit of a network of linear layers, layer by layer.

    Where a layer is normalised, as its units compute with batch norm's statistics. Raises
    ValueError for other networks.
    """
    model = network.model if isinstance(network.model, MLP) else merged(network.model)
    if model is None:
        raise ValueError("evaluation=[weights] needs a network of linear layers, one after another")
    rows = rows_of(math.prod(network.shape)).astype(np.float32)
    made: list[Unit] = []
    outputs = model.forward(network.standardised(rows))
    for depth, (layer, values) in enumerate(zip(model.layers, outputs), 1):
        fires = [bits(column) if layer.activation == "step" else None for column in values.T > 0]
        biases = [0.0] * layer.outputs if layer.bias is None else layer.bias.tolist()
        numbers = zip(layer.weight.tolist(), biases, fires)
        made += [Unit(depth, number, *each) for number, each in enumerate(numbers, 1)]
    return made


def merged(model: nn.Module) -> MLP | None:
    """Return a network as numbers, each linear layer together with the batch norm after it; None
    for one of other layers."""
    from torch import nn
    from torch.nn.utils.fusion import fuse_linear_bn_eval

    from nnlab.engines import modules

    layers: list[nn.Module] = []
    for module in model if isinstance(model, nn.Sequential) else []:
        if isinstance(module, nn.BatchNorm1d) and layers and isinstance(layers[-1], nn.Linear):
            layers[-1] = fuse_linear_bn_eval(layers[-1], module)
        else:
            layers.append(module)
    found = nn.Sequential(*layers)
    return modules.perceptron(found) if modules.unsupported_layers(found) is None else None


def bits(column: NDArray[np.bool_]) -> str:
    return "".join(str(int(each)) for each in column)


def rows(units: Sequence[Unit]) -> list[list[Any]]:
    """Return the rows of weights.csv, a unit each, below their header."""
    most = max(len(unit.weights) for unit in units)
    steps = units[0].output is not None
    header = ["layer", "unit", "threshold" if steps else "bias"]
    header += [f"weight_{number}" for number in range(1, most + 1)] + ["output"] * steps
    table: list[list[Any]] = [header]
    for unit in units:
        weights = [f"{weight:.9g}" for weight in unit.weights]
        row = [unit.layer, unit.number, f"{unit.threshold if steps else unit.bias:.9g}"]
        row += [*weights, *[""] * (most - len(weights))]
        table.append(row if unit.output is None else [*row, for_csv(unit.output)])
    return table


def as_text(units: Sequence[Unit]) -> str:
    """Lay few units out as a table for a terminal, a line each."""
    steps = units[0].output is not None
    lines = [("layer", "unit", "weights", "threshold" if steps else "bias", "output" * steps)]
    for unit in units:
        weights = " ".join(map(short, unit.weights))
        number = short(unit.threshold if steps else unit.bias)
        lines.append((str(unit.layer), str(unit.number), weights, number, meaning(unit)))
    widths = [max(map(len, column)) for column in zip(*lines)]
    made = [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(line, "<<<><", widths))
        for line in lines
    ]
    return "\n".join(line.rstrip() for line in made)


def short(value: float) -> str:
    """Write a number to three digits.

    >>> short(0.12345), short(-1.0)
    ('0.123', '-1')
    """
    return f"{value:.3g}"


def meaning(unit: Unit) -> str:
    """Write what a perceptron computes, where that is short."""
    if unit.output is None or inputs_of(unit.output) > WRITTEN:
        return ""
    return function_name(unit.output, inputs_of(unit.output))


def draw(units: Sequence[Unit], about: str) -> Figure | None:
    """Draw units as circles and their weights as lines, inputs at the left.

    None where a layer has more units than can be told apart.
    """
    inputs = len(units[0].weights)
    sizes = [inputs, *Counter(unit.layer for unit in units).values()]
    if max(sizes) > DRAWN:
        return None
    steps = units[0].output is not None
    said = "in each circle the threshold, beside it the output in every row"
    heading = f"{about}: {said if steps else 'in each circle the bias'}"
    step, gap = 0.5, 1.15  # inches
    width = max(gap * (len(sizes) - 1) + 1.7, 3.4)
    above, below = 0.16 * len(pictures.wrap(heading, width)) + 0.15, 0.35
    height = above + step * max(sizes) + below
    figure = Figure((width, height), dpi=plotting.DPI)
    pictures.title(figure, heading)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    left, middle = (width - gap * (len(sizes) - 1)) / 2, below + step * max(sizes) / 2

    def place(layer: int, number: int) -> tuple[float, float]:
        return left + gap * layer, middle + step * ((sizes[layer] + 1) / 2 - number)

    largest = max(abs(weight) for unit in units for weight in unit.weights) or 1.0
    for number in range(1, inputs + 1):
        circle(axes, place(0, number), f"x{number}", "0.9")
    for unit in units:
        x, y = place(unit.layer, unit.number)
        for number, weight in enumerate(unit.weights, 1):
            axes.plot(*zip(place(unit.layer - 1, number), (x, y)), **look(weight, largest))
        circle(axes, (x, y), short(unit.threshold if steps else unit.bias), "white")
        last = unit.layer == len(sizes) - 1
        text = f"logit of {unit.number - 1}" if last and not steps else meaning(unit)
        label(axes, (x, y), text, last)
    most = "" if steps else "up to "
    legend = [
        Line2D([], [], **look(each, largest), label=f"weight {most}{short(each)}")
        for each in (largest, -largest)
        if any(weight * each > 0 for unit in units for weight in unit.weights)
    ]
    axes.legend(handles=legend, loc="lower center", ncols=2, fontsize=6.5, frameon=False)
    return figure


def look(weight: float, largest: float) -> dict[str, Any]:
    """Return how a weight looks: its sign by colour and dash, its size by width."""
    colour, dash = (plotting.COLOURS[0], "-") if weight >= 0 else (plotting.COLOURS[1], "--")
    return {"color": colour, "ls": dash, "lw": 1.3 * abs(weight) / largest, "zorder": 1}


def circle(axes: Axes, place: tuple[float, float], text: str, fill: str) -> None:
    axes.add_patch(Circle(place, RADIUS, fc=fill, ec="black", lw=0.8, zorder=3))
    axes.text(*place, text, size=6.5, ha="center", va="center", zorder=4)


def label(axes: Axes, place: tuple[float, float], text: str, last: bool) -> None:
    """Write what a unit computes below it, of the last one at its right."""
    x, y = place
    if last:
        axes.text(x + RADIUS + 0.04, y, text.replace(" ", "\n"), size=6, va="center")
        return
    box = {"boxstyle": "square,pad=0.05", "fc": "white", "ec": "none"}
    below = y - RADIUS - 0.04
    axes.text(x, below, text, size=6, ha="center", va="top", bbox=box, zorder=2)
