"""Where a network parts the ones from the zeros of a Boolean function of two inputs.

Axes: B points, 2 inputs; U units of the first layer.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy.special import expit  # type: ignore[import-untyped,unused-ignore]

from nnlab.analysis import pictures
from nnlab.boolean import function_name, separable
from nnlab.config import Config
from nnlab.datasets import Data
from nnlab.perceptron import MLP
from nnlab.report import plotting
from nnlab.storage import write_csv
from nnlab.trained import Trained

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger("nnlab")
LOW, HIGH, POINTS = -0.4, 1.4, 360  # of the square that is drawn, and in a row of it
CORNERS = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
Array = NDArray[np.float64]
Line = tuple[float, float, float]  # a, b, c: where a x1 + b x2 > c
CHANCE = 1e-3  # log odds nearer to 0 in every corner say nothing
SHADES = LinearSegmentedColormap.from_list("shades", ["white", "#7fb8d8"])  # also in grey


def evaluate(network: Trained, data: Data, config: Config, folder: Path) -> list[Path]:
    """Write boundary.csv and boundary.png."""
    table = config.dataset.truth_table
    assert table is not None  # Config.check has seen to it
    odds = log_odds(network, CORNERS)
    predicted = (odds > 0).astype(int).tolist()
    about = reasons(network, table, predicted)
    log.info("%s: %s", folder.name, "; ".join(about))
    rows = [
        [*map(int, corner), int(value), guess, f"{chance:.6g}", str(guess == int(value)).lower()]
        for corner, value, guess, chance in zip(
            CORNERS.tolist(), table, predicted, expit(odds).tolist()
        )
    ]
    header = ["x1", "x2", "value", "predicted", "probability_of_1", "right"]
    return [
        write_csv([header, *rows], folder / "boundary.csv"),
        plotting.save(draw(network, table, predicted, about), folder / "boundary.png"),
    ]


def reasons(network: Trained, table: str, predicted: Sequence[int]) -> list[str]:
    """Say which corners are on the wrong side, and where it can be told, why."""
    pairs = zip(("00", "01", "10", "11"), table, predicted)
    wrong = [corner for corner, value, guess in pairs if differs(value, guess)]
    if not wrong:
        return ["every corner is on its side"]
    said = [f"on the wrong side: {', '.join(wrong)}"]
    if linear(network.model) and not separable(table):
        said.append("no line has all ones on one side and all zeros on the other")
    if np.abs(log_odds(network, CORNERS)).max() < CHANCE:
        said.append("1 has probability 0.500 in every corner, so in a test rounding decides")
    return said


def linear(model: MLP | nn.Module) -> bool:
    """Say whether a trained network, however many layers it has, is one linear map."""
    if isinstance(model, MLP):
        return not model.verdict and all(each.activation == "identity" for each in model.layers)
    from torch import nn

    from nnlab.dropout import KeyedDropout

    inner = [each for each in model.modules() if not list(each.children())]
    kinds = (nn.Linear, nn.Identity, nn.BatchNorm1d, KeyedDropout)
    return all(isinstance(each, kinds) for each in inner)


def log_odds(network: Trained, points: Array) -> Array:
    """Return the log odds of 1 against 0 at points of the plane, [B, 2]: [B] float64."""
    logits = network.logits(network.standardised(points))
    return logits[:, 1] - logits[:, 0]


def unit_lines(network: Trained) -> list[Line]:
    """Return where each perceptron of the first layer fires; nothing of other networks."""
    if not isinstance(network.model, MLP) or not network.model.verdict:
        return []
    return [line_of(sums) for sums in network.model.layers[0].sums(network.standardised(CORNERS)).T]


def line_of(values: Array) -> Line:
    """Return where a linear function is above 0, from its values in the corners, [4]."""
    origin, second, first, _ = values.tolist()
    return first - origin, second - origin, -origin


def draw(network: Trained, table: str, predicted: Sequence[int], about: Sequence[str]) -> Figure:
    """Draw the probability of 1 over the unit square, the lines that part it, and its corners."""
    units = unit_lines(network)
    name = plotting.entry(network.config["model"]["name"])
    heading = f"{function_name(table, 2)}, {name}: {'; '.join(about)}"
    side, left, right, line = 2.3, 0.5, 0.75, 0.155  # inches
    width = left + side + right
    entries = max(len(units), 1) + 2 + any(map(differs, table, predicted))
    above, below = 0.16 * len(pictures.wrap(heading, width)) + 0.15, line * entries + 0.45
    figure = Figure((width, above + side + below), dpi=plotting.DPI)
    height = figure.get_size_inches()[1]
    pictures.title(figure, heading)
    axes = figure.add_axes((left / width, below / height, side / width, side / height))
    odds = shade(figure, axes, network)
    handles = [] if units else [part(axes, odds, network)]
    for number, (where, colour, dash) in enumerate(zip(units, plotting.COLOURS, plotting.DASHES)):
        cross(axes, where, color=colour, ls=dash)
        label = f"unit {number + 1} fires where {inequality(*where)}"
        handles.append(Line2D([], [], color=colour, ls=dash, label=label))
    figure.legend(
        handles=[*handles, *corners(axes, table, predicted)],
        loc="lower left",
        borderaxespad=0.2,
        labelspacing=0.35,
        fontsize=plotting.FONT - 1,
        frameon=False,
    )
    return figure


def differs(value: str, guess: int) -> bool:
    return int(value) != guess


def shade(figure: Figure, axes: Axes, network: Trained) -> Array:
    """Fill the square with the probability of 1; return the log odds, [POINTS, POINTS]."""
    steps = np.linspace(LOW, HIGH, POINTS)
    # The first input is the abscissa.
    points = np.stack(np.meshgrid(steps, steps), axis=2).reshape(-1, 2)
    odds = log_odds(network, points).reshape(POINTS, POINTS)
    extent = (LOW, HIGH, LOW, HIGH)
    image = axes.imshow(expit(odds), SHADES, vmin=0, vmax=1, origin="lower", extent=extent)
    x, y, wide, high = axes.get_position().bounds
    bar = figure.colorbar(image, cax=figure.add_axes((x + 1.04 * wide, y, 0.04 * wide, high)))
    bar.set_label("Probability of 1", size=plotting.FONT - 1)
    bar.set_ticks([0, 0.5, 1])
    bar.ax.tick_params(labelsize=plotting.FONT - 1, width=0.6)
    axes.plot([0, 1, 1, 0, 0], [0, 0, 1, 1, 0], color="0.6", lw=0.6)
    axes.set_xticks([0, 1])
    axes.set_yticks([0, 1])
    axes.tick_params(labelsize=plotting.FONT, width=0.6)
    axes.set_xlabel("First input, x1", size=plotting.FONT, labelpad=0)
    axes.set_ylabel("Second input, x2", size=plotting.FONT, labelpad=0)
    return odds


def part(axes: Axes, odds: Array, network: Trained) -> Line2D:
    """Draw where 0 and 1 are equally probable, and return its entry of the legend."""
    steps = np.linspace(LOW, HIGH, POINTS)
    scaled = odds / max(np.abs(odds).max(), 1e-300)
    found = axes.contour(steps, steps, scaled, [0.0], colors="black", linewidths=1.3)
    label = "0 and 1 equally probable"
    if linear(network.model):
        a, b, c = line_of(log_odds(network, CORNERS))
        scale = max(abs(a), abs(b)) or 1.0
        label = f"1 is likelier where {inequality(a / scale, b / scale, c / scale)}"
    outside = not any(len(each) for each in found.allsegs[0])
    return Line2D([], [], color="black", lw=1.3, label=label + " (outside)" * outside)


def cross(axes: Axes, line: Line, **look: Any) -> None:
    """Draw the line a x1 + b x2 = c; nothing where a and b are 0."""
    a, b, c = line
    if a or b:
        x, y = a * c / (a * a + b * b), b * c / (a * a + b * b)  # nearest to the origin
        axes.axline((x, y), (x - b, y + a), lw=1.3, **look)
        axes.set(xlim=(LOW, HIGH), ylim=(LOW, HIGH))


def inequality(a: float, b: float, c: float) -> str:
    """Write where a x1 + b x2 is above c.

    >>> inequality(1.0, -1.0, 0.5), inequality(0.0, 0.0, 0.5), inequality(-2.0, 0.0, -1.5)
    ('x1 - x2 > 0.5', '0 > 0.5', '-2 x1 > -1.5')
    """
    terms = [(value, name) for value, name in ((a, "x1"), (b, "x2")) if value]
    text = " ".join(f"{'-' if value < 0 else '+'} {abs(value):.3g} {name}" for value, name in terms)
    text = text.replace(" 1 x", " x").removeprefix("+ ")
    text = f"-{text[2:]}" if text.startswith("- ") else text
    return f"{text or 0} > {c:.3g}"


def corners(axes: Axes, table: str, predicted: Sequence[int]) -> list[Line2D]:
    """Mark the corners by their values, cross out wrong ones; return the legend's entries."""
    look: dict[str, Any] = {"ls": "", "marker": "o", "ms": 8, "color": "black", "zorder": 4}
    miss: dict[str, Any] = {
        "ls": "",
        "marker": "x",
        "ms": 15,
        "mew": 2,
        "color": plotting.COLOURS[1],
    }
    kinds = {"1": look | {"mfc": "black"}, "0": look | {"mfc": "white"}}
    for (x, y), value, guess in zip(CORNERS.tolist(), table, predicted):
        axes.plot(x, y, **kinds[value])
        if differs(value, guess):
            axes.plot(x, y, zorder=5, **miss)
    entries = [("1", "the function is 1"), ("0", "the function is 0")]
    handles = [Line2D([], [], **kinds[v] | {"ms": 6}, label=text) for v, text in entries]
    if any(map(differs, table, predicted)):
        handles.append(Line2D([], [], **miss | {"ms": 7}, label="on the wrong side"))
    return handles
