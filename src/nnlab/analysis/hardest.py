"""What a network finds hardest: its most confident mistakes; and what it takes for what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nnlab.analysis import pictures
from nnlab.config import Config
from nnlab.datasets import Data, Split, table
from nnlab.report import plotting
from nnlab.storage import write_csv
from nnlab.text import class_for_csv, for_csv, inert
from nnlab.trained import Trained, log_odds, softmax

Labels = NDArray[np.int64]
Columns = Sequence[tuple[str, Sequence[object]]]  # cells by the name of their column


@dataclass(frozen=True)
class Hard:
    """An example that the network got wrong, or right with little confidence.

    place: its position in the split. rank: 1 for the hardest of its class.
    log_odds: of the predicted class, which tells apart what rounds to a probability of 1.
    """

    rank: int
    place: int
    true: int
    predicted: int
    probability: float  # of the predicted class
    probability_true: float
    log_odds: float

    @property
    def right(self) -> bool:
        return self.predicted == self.true


def evaluate(network: Trained, data: Data, config: Config, folder: Path) -> list[Path]:
    """Write hardest.csv and hardest.png, confusion.csv and confusion.png."""
    name = config.hardest.split.name
    split = data.split(name)
    inputs, labels = split.examples
    logits = network.logits(inputs)
    matrix = confusion(labels, logits.argmax(1), len(network.classes))
    hard = hardest(labels, logits, config.hardest.labels(data.classes), config.hardest.per_class)
    about = pictures.evaluated(network, len(labels), name)
    origins = origin(hard, split)
    cells = [*origins, *cells_of(hard, network, inputs)]
    files = [
        write_confusion(matrix, network.classes, folder / "confusion.csv"),
        plotting.save(draw_confusion(matrix, network.classes, about), folder / "confusion.png"),
        write_hardest(hard, network.classes, folder / "hardest.csv", cells),
    ]
    sheet = folder / "hardest.png"
    if hard and pictures.can_show(network):
        kind, values = origins[0] if origins else ("position", [each.place for each in hard])
        title = f"{about}. Left: true class; below: predicted, probability, {kind}"
        drawn = draw_hardest(hard, named(kind, values), inputs, network, title)
        files.append(plotting.save(drawn, sheet))
    else:
        sheet.unlink(missing_ok=True)
    return files


def confusion(labels: Labels, predicted: Labels, classes: int) -> Labels:
    """Count the examples of each true class, a row, that were taken for each class, a column.

    >>> confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    pairs = labels * classes + predicted
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def hardest(labels: Labels, logits: NDArray[Any], classes: Sequence[int], most: int) -> list[Hard]:
    """Return for each of the classes the most confident mistakes, then, up to ``most`` examples,
    the right ones that the network was least confident of.

    labels: [N], logits: [N, K].
    """
    logits = logits.astype(np.float64)  # in float32 a probability below 1e-45 is 0
    predicted, probabilities = logits.argmax(1), softmax(logits)
    sure = log_odds(logits, predicted)
    found = []
    for label in classes:
        own, right = labels == label, predicted == label
        wrong, unsure = np.flatnonzero(own & ~right), np.flatnonzero(own & right)
        wrong = wrong[(-sure[wrong]).argsort(kind="stable")]
        unsure = unsure[sure[unsure].argsort(kind="stable")]
        for rank, place in enumerate([*wrong.tolist(), *unsure.tolist()][:most], 1):
            guess = int(predicted[place])
            both = float(probabilities[place, guess]), float(probabilities[place, label])
            found.append(Hard(rank, place, label, guess, *both, float(sure[place])))
    return found


def origin(hard: Sequence[Hard], split: Split) -> Columns:
    """Return the file, or the row of the user's file, that examples are, where known."""
    if split.rows is None:
        return []
    rows: list[int] = split.rows[[each.place for each in hard]].tolist()
    if split.files is None:
        return [("row", rows)]
    return [("file", [for_csv(split.files[row]) for row in rows])]


def cells_of(hard: Sequence[Hard], network: Trained, inputs: NDArray[Any]) -> Columns:
    """Return the cells of examples that are rows of a table; else nothing."""
    if not network.columns:
        return []
    rows = network.pixels(inputs[[each.place for each in hard]])
    cells = list(table.decode(rows, network.columns))
    return [(inert(name), each) for name, each in zip(network.columns, zip(*cells))]


def named(kind: str, values: Sequence[object]) -> list[str]:
    """Return how the sheet calls examples, by their file, row or position."""
    if kind == "file":
        return [plotting.plain(str(file).rpartition("/")[2], 19) for file in values]
    return [f"{kind} {number}" for number in values]


def write_hardest(hard: Sequence[Hard], classes: list[str], path: Path, more: Columns = ()) -> Path:
    """Write a row for each example. more: columns beside, by their names."""
    rows: list[list[object]] = [
        [
            *(each.rank, each.place),
            *(class_for_csv(classes[label]) for label in (each.true, each.predicted)),
            *("true" if each.right else "false", f"{each.probability:.6g}"),
            *(f"{each.probability_true:.6g}", f"{each.log_odds:.6g}"),
        ]
        for each in hard
    ]
    header = ["rank", "position", "true", "predicted", "right"]
    header += ["probability", "probability_of_true", "log_odds"]
    beside = [[cells[number] for _, cells in more] for number in range(len(hard))]
    rows = [[*row, *cells] for row, cells in zip(rows, beside)]
    return write_csv([[*header, *(name for name, _ in more)], *rows], path)


def write_confusion(matrix: NDArray[np.int64], classes: list[str], path: Path) -> Path:
    rows = [[class_for_csv(name), *counts] for name, counts in zip(classes, matrix.tolist())]
    return write_csv([["true \\ predicted", *map(inert, classes)], *rows], path)


def draw_hardest(
    hard: Sequence[Hard], names: Sequence[str], inputs: NDArray[Any], network: Trained, about: str
) -> Figure:
    """Draw examples, a row for each class that has any, and say which are right."""
    images = network.pixels(inputs[[each.place for each in hard]])
    rows: dict[int, list[tuple[NDArray[Any], str]]] = {}
    for each, name, image in zip(hard, names, images):
        guess = plotting.plain(network.classes[each.predicted], 20)
        said = "right" if each.right else f"true {each.probability_true:.1%}"
        caption = f"{guess}\n{each.probability:.0%} ({said})\n{name}"
        rows.setdefault(each.true, []).append((image, caption))
    by_class = {network.classes[label]: row for label, row in rows.items()}
    then = ", then right ones of least confidence" if any(each.right for each in hard) else ""
    return pictures.sheet(by_class, network.shape, f"Most confident mistakes{then}: {about}")


def draw_confusion(matrix: NDArray[np.int64], classes: list[str], about: str) -> Figure:
    """Draw the confusion matrix, each row coloured by its shares, each cell with its count."""
    count = len(classes)
    edge = min(0.42, 8 / count)
    names = [plotting.plain(name, 24) for name in classes]
    longest = max(map(len, names))
    left, bottom = max(1.1, 0.4 + 0.065 * longest), max(1.0, 0.4 + 0.065 * longest)
    figure = Figure((left + count * edge + 0.75, bottom + count * edge + 0.5), dpi=plotting.DPI)
    width, height = figure.get_size_inches()
    place = (left / width, bottom / height, count * edge / width, count * edge / height)
    axes = figure.add_axes(place)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    bar = figure.add_axes((place[0] + place[2] + 0.1 / width, place[1], 0.1 / width, place[3]))
    figure.colorbar(image, cax=bar).set_label("Share of the true class", size=plotting.FONT)
    bar.tick_params(labelsize=plotting.FONT - 1)
    steep = longest > 3
    axes.set_xticks(range(count), names, size=plotting.FONT - 1, rotation=90 if steep else 0)
    axes.set_yticks(range(count), names, size=plotting.FONT - 1)
    axes.set_xlabel("Predicted class", size=plotting.FONT)
    axes.set_ylabel("True class", size=plotting.FONT)
    if count <= 20:
        for row, column in np.argwhere(matrix > 0):
            ink = "white" if shares[row, column] > 0.5 else "black"
            text = f"{matrix[row, column]:,}"
            axes.text(column, row, text, size=6.5, ha="center", va="center", color=ink)
    accuracy = np.trace(matrix) / matrix.sum()
    title = f"{about}: {accuracy:.1%} right"
    pictures.title(figure, title)
    return figure
