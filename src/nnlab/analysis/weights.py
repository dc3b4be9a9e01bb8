"""What the units of the first layer look for: their weights as images; on a truth table, where
there are none, the weights of every unit as numbers."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nnlab.analysis import pictures, units
from nnlab.boolean import function_name, inputs_of
from nnlab.config import Config
from nnlab.datasets import Data
from nnlab.perceptron import MLP
from nnlab.report import plotting
from nnlab.shapes import image_like
from nnlab.storage import write_csv
from nnlab.trained import Trained

log = logging.getLogger("nnlab")
COLUMNS, MOST = 16, 256  # units in a row of the figure, and in all of it


def evaluate(network: Trained, data: Data, config: Config, folder: Path) -> list[Path]:
    """Write weights.png; on a truth table weights.csv and, of a small network, weights.png."""
    if (table := config.dataset.truth_table) is not None:
        return of_truth_table(network, table, folder)
    weight, size = first_weight(network), math.prod(network.shape)
    if weight is None or weight.shape[1] != size or not image_like(network.shape):
        raise ValueError(
            "evaluation=[weights] needs images, and a network whose first linear layer sees all "
            "pixels"
        )
    return [plotting.save(draw(weight, network), folder / "weights.png")]


def first_weight(network: Trained) -> NDArray[np.float32] | None:
    """Return the weight of the first linear layer, [units, I]; None where there is no such."""
    if isinstance(network.model, MLP):
        return network.model.layers[0].weight
    from torch import nn

    linears = (each for each in network.model.modules() if isinstance(each, nn.Linear))
    first = next(linears, None)
    return None if first is None else first.weight.detach().numpy()


def of_truth_table(network: Trained, table: str, folder: Path) -> list[Path]:
    """Write weights.csv, and weights.png where the network is small; tell a small one's units."""
    found = units.units_of(network)
    if len(found) <= units.SHOWN:
        log.info("%s:\n%s", folder.name, units.as_text(found))
    else:
        log.info("%s: the weights of %d units are in weights.csv", folder.name, len(found))
    files = [write_csv(units.rows(found), folder / "weights.csv")]
    name = function_name(table, inputs_of(table))
    figure = units.draw(found, f"{name}, {plotting.entry(network.config['model']['name'])}")
    picture = folder / "weights.png"
    if figure is None:
        picture.unlink(missing_ok=True)
        return files
    return [*files, plotting.save(figure, picture)]


def draw(weight: NDArray[np.float32], network: Trained) -> Figure:
    """Draw the weights of every unit, [units, I], all on one scale around 0."""
    shown = weight[:MOST]
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    edge, margin, above = 0.4, 0.1, 0.42
    colour = len(network.shape) > 2 and network.shape[2] == 3
    width = max(columns * edge + 2 * margin + (0 if colour else 0.55), 4.2)
    figure = Figure((width, above + rows * edge + margin), dpi=plotting.DPI)
    height = figure.get_size_inches()[1]
    # A few extreme weights would leave everything else pale.
    limit = float(np.sort(np.abs(shown), axis=None)[int(0.998 * (shown.size - 1))]) or 1.0
    of = f"first {MOST} of {len(weight):,}" if len(weight) > MOST else f"{len(weight)}"
    scale = f"; grey is 0, full colour ±{limit:.2g}" if colour else ""
    heading = f"Weights of the {of} units of the first layer: {pictures.named(network)}{scale}"
    pictures.title(figure, heading)
    for unit, values in enumerate(shown):
        row, column = divmod(unit, columns)
        place = (margin + column * edge, height - above - (row + 1) * edge)
        size = (0.94 * edge / width, 0.94 * edge / height)
        axes = figure.add_axes((place[0] / width, place[1] / height, *size))
        image = axes.imshow(tile(values, network.shape, limit), cmap="RdBu_r", vmin=-1, vmax=1)
        axes.set_axis_off()
    if not colour:
        tall = min(rows * edge, 2.0)
        at = (margin + columns * edge + 0.08, height - above - tall)
        bar = figure.add_axes((at[0] / width, at[1] / height, 0.08 / width, tall / height))
        figure.colorbar(image, cax=bar).set_ticks([-1, 0, 1], labels=number_line(limit))
        bar.tick_params(labelsize=6, length=2)
    return figure


def number_line(limit: float) -> list[str]:
    return [f"{value:.2g}" for value in (-limit, 0.0, limit)]


def tile(values: NDArray[np.float32], shape: tuple[int, ...], limit: float) -> NDArray[np.float32]:
    """Return the weights of a unit as an image: [H, W] in [-1, 1], or [H, W, 3] in [0, 1]."""
    image: NDArray[np.float32] = np.clip(values / limit, -1, 1).reshape(shape)
    if len(shape) == 3 and shape[2] == 3:
        image = (image + 1) / np.float32(2)
    elif len(shape) == 3:
        image = image[..., 0]
    return image
