"""Sheets of images, for the answers that are best seen."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nnlab.report import plotting
from nnlab.shapes import image_like
from nnlab.trained import Trained


def named(network: Trained) -> str:
    """Say in a few words which network, trained on what."""
    data = network.result["dataset"]
    options = network.result.get("config", {}).get("dataset", {})
    dataset = plotting.entry(options.get("title", data["name"]))
    return f"{dataset}, trained on {data['sizes']['train']:,} examples"


def evaluated(network: Trained, count: int, split: str) -> str:
    """Say in a few words which network was asked, and of which examples."""
    return f"{named(network)}, {count:,} {split} examples"


def can_show(network: Trained) -> bool:
    """Say whether the examples that a network takes can be shown as images."""
    return network.bounded and image_like(network.shape)


def picture(pixels: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
    """Return pixels [I] as matplotlib takes an image: [H, W] or [H, W, 3], cut to [0, 1]."""
    image: NDArray[np.float32] = np.clip(pixels, 0, 1).reshape(tuple(shape))
    return image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image


def sheet(
    rows: Mapping[str, Sequence[tuple[NDArray[np.float32], str]]],
    shape: Sequence[int],
    heading: str,
    columns: Sequence[str] = (),
) -> Figure:
    """Draw images with their captions, each row with its name at the left.

    rows: for each name images [I] in [0, 1] and the words below them, which are written as
    they are. columns: words above the images of the first row.
    """
    names = [plotting.plain(name, 24) for name in rows]
    longest = max(map(len, rows.values()))
    line, edge = 0.13, 0.95
    captions = max(text.count("\n") + 1 if text else 0 for row in rows.values() for _, text in row)
    step = edge + line * captions + 0.06
    left = 0.15 + 0.075 * max(map(len, names))
    width = max(left + longest * (edge + 0.25) + 0.1, 4.2)
    above = 0.14 * len(wrap(heading, width)) + 0.14 + (line * 1.3 if columns else 0)
    height = above + len(rows) * step + 0.06
    figure = Figure((width, height), dpi=plotting.DPI)
    title(figure, heading)
    for index, (name, row) in enumerate(zip(names, rows.values())):
        top = height - above - index * step
        middle = (top - edge / 2) / height
        figure.text((left - 0.1) / width, middle, name, size=7, ha="right", va="center")
        for column, (pixels, caption) in enumerate(row):
            start = left + column * (edge + 0.25) + 0.125
            axes = figure.add_axes(
                (start / width, (top - edge) / height, edge / width, edge / height)
            )
            axes.imshow(picture(pixels, shape), cmap="gray", vmin=0, vmax=1)
            axes.set_axis_off()
            centre = (start + edge / 2) / width
            below = (top - edge - 0.03) / height
            figure.text(centre, below, caption, size=6, ha="center", va="top", linespacing=1.15)
            if columns and index == 0:
                figure.text(
                    centre, (top + 0.04) / height, columns[column], size=7, ha="center", va="bottom"
                )
    return figure


def title(figure: Figure, heading: str) -> None:
    """Put a heading at the top left."""
    width, height = figure.get_size_inches()
    text = "\n".join(wrap(heading, width))
    figure.text(0.1 / width, 1 - 0.07 / height, text, size=7.5, va="top", linespacing=1.2)


def wrap(heading: str, width: float) -> list[str]:
    """Break a heading into lines that fit into a figure of a width in inches."""
    return textwrap.wrap(heading, int(17.5 * (width - 0.2)))
