"""Which columns of a table matter: how much accuracy, or R², falls when one of them is shuffled.

Breiman, Random forests, 2001; as ``sklearn.inspection.permutation_importance`` has it, but the
inputs that one column of categories makes are shuffled together.

Axes: N examples, I inputs, C columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.random import Generator
from numpy.typing import NDArray

from nnlab import seeds
from nnlab.analysis import pictures
from nnlab.config import Config
from nnlab.datasets import Data, table
from nnlab.losses import Metric, SquaredError, task_of
from nnlab.report import plotting
from nnlab.storage import write_csv
from nnlab.text import for_csv
from nnlab.trained import Trained

SHOWN = 30  # columns of the figure


def evaluate(network: Trained, data: Data, config: Config, folder: Path) -> list[Path]:
    """Write importance.csv and importance.png."""
    if len(network.shape) != 1:
        name = data.provenance["name"]
        raise ValueError(f"evaluation=[importance] needs rows of numbers; {name} has none")
    options = config.importance
    inputs, labels = data.split(options.split.name).examples
    columns = network.columns or {f"input {place}": None for place in range(inputs.shape[1])}
    if len(labels) < 2:
        raise ValueError(
            f"evaluation=[importance] shuffles examples, of which there is 1; raise "
            f"{options.split.name}_size"
        )
    generator = seeds.generator(config.seed, "noise")
    falls = shuffled(network, inputs, labels, table.inputs_of(columns), options.repeats, generator)
    # That of scikit-learn, which divides by the number of repeats.
    means, deviations = falls.mean(axis=1), falls.std(axis=1)
    order = np.argsort(-means, kind="stable").tolist()
    names = list(columns)
    header = ["column", "importance", "deviation"]
    rows = [[for_csv(names[n]), f"{means[n]:.9g}", f"{deviations[n]:.9g}"] for n in order]
    about = pictures.evaluated(network, len(labels), options.split.name)
    metric = task_of(data.provenance).metrics[0]
    bars = [(names[n], means[n], deviations[n]) for n in order]
    return [
        write_csv([header, *rows], folder / "importance.csv"),
        plotting.save(draw(bars, about, options.repeats, metric), folder / "importance.png"),
    ]


def shuffled(
    network: Trained,
    inputs: NDArray[np.float32],
    labels: NDArray[Any],
    parts: Sequence[slice],
    repeats: int,
    generator: Generator,
) -> NDArray[np.float64]:
    """Return how much ``score`` falls with the parts of the inputs shuffled: [C, repeats].

    inputs: standardised, [N, I]; labels: [N] int64, or targets [N, k]. parts: which inputs each
    column makes.
    """
    whole = score(network, inputs, labels)
    falls = np.empty((len(parts), repeats))
    moved = inputs.copy()
    for place in np.ndindex(falls.shape):
        part = parts[place[0]]
        order = generator.permutation(len(inputs))
        moved[:, part] = inputs[order, part]
        falls[place] = whole - score(network, moved, labels)
        moved[:, part] = inputs[:, part]
    return falls


def score(network: Trained, inputs: NDArray[np.float32], labels: NDArray[Any]) -> float:
    """Return the accuracy, or of a regression R², as scikit-learn's models score."""
    if not network.targets:
        return network.accuracy(inputs, labels)
    apart = (network.logits(inputs) - labels).astype(np.float64)
    sums = (apart**2).sum(0).tolist(), np.abs(apart).sum(0).tolist()
    return SquaredError().measures(*sums, labels)[1]


def draw(
    bars: Sequence[tuple[str, float, float]], about: str, repeats: int, metric: Metric
) -> Figure:
    """Draw a bar for each column, with its deviation, the most important at the top.

    metric: what falls.
    """
    shown = bars[:SHOWN]
    names = [plotting.plain(name) for name, _, _ in shown]
    left, width = 0.25 + 0.065 * max(map(len, names)), 5.5
    above, edge, below = 0.5, 0.2, 0.45  # inches
    height = above + edge * len(shown) + below
    figure = Figure((width, height), dpi=plotting.DPI)
    axes = figure.add_axes(
        (left / width, below / height, (width - left - 0.15) / width, edge * len(shown) / height)
    )
    places = range(len(shown))
    scale, unit = (100, " (points)") if metric.percent else (1, "")
    fall, deviation = ([scale * bar[column] for bar in shown] for column in (1, 2))
    axes.barh(places, fall, 0.7, color=plotting.COLOURS[0])
    axes.errorbar(fall, places, xerr=deviation, fmt="none", ecolor="0.35", elinewidth=0.8)
    axes.set_yticks(places, names, size=plotting.FONT - 1)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.axvline(0, color="0.35", lw=0.6)
    axes.tick_params(labelsize=plotting.FONT - 1, width=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(f"Fall of {metric.title}{unit}", size=plotting.FONT)
    times = f" (mean and deviation of {repeats} times)" if repeats > 1 else ""
    first = f"; the first {SHOWN} of {len(bars):,} columns" if len(bars) > SHOWN else ""
    fallen = f"{metric.title[0].upper()}{metric.title[1:]} lost when a column is shuffled"
    pictures.title(figure, f"{fallen}{times}: {about}{first}")
    return figure
