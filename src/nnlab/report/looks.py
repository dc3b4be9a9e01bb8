"""How settings are told apart in a figure: by panels, colours, dashes and markers, and the legend
that says so.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.lines import Line2D

from nnlab.report.labels import label
from nnlab.report.plotting import COLOURS, DASHES, MARKERS, Picture, Style, entry, narrow
from nnlab.report.runs import (
    RunRecord,
    Setting,
    Value,
    factors,
    is_number,
    is_seed,
    rank,
)
from nnlab.report.selection import Groups, Runs, grouped, spread

Look = tuple[Any, str, str]  # colour, dash, marker

ENTRIES = 8  # that a legend can have; beyond, a colour bar
PANELS = 6  # that a figure can have, a setting each
MOST_PANELS = 12  # that a figure can have, of several lines each
ALONE = 100  # runs of a setting that are drawn each by itself, beside their mean
LINES = 1000  # that a figure has at most, and values of the option that it is over: its pixels


# Which option is told apart by what


def ordered_factors(runs: Sequence[RunRecord]) -> list[str]:
    """Order what varied by how well it serves as an abscissa: training-set size, then
    numbers, then words. Without the seed."""
    keys = [key for key in factors(runs) if not is_seed(key)]

    def words(key: str) -> bool:
        return not all(is_number(run.settings.get(key)) for run in runs)

    return sorted(keys, key=lambda key: (key != "train_size", words(key)))


def most_first(runs: Sequence[RunRecord], keys: Sequence[str]) -> list[str]:
    """Move a factor with more values than there are dashes to the front, for colours."""

    def many(key: str) -> bool:
        return len(grouped(runs, [key])) > len(DASHES)

    return sorted(keys, key=lambda key: not many(key))


def panel_keys(runs: Sequence[RunRecord], keys: Sequence[str]) -> list[str]:
    """Choose the options, two at most, whose settings get a panel each, where one panel would
    have more lines than a legend can; as few panels as that takes."""
    settings = list(grouped(runs, keys).settings())
    if len(settings) <= ENTRIES:
        return []
    found: list[tuple[int, int, tuple[int, ...]]] = []
    for count in range(1, min(3, len(keys))):
        for places in itertools.combinations(range(len(keys)), count):
            panels = {tuple(setting[place] for place in places) for setting in settings}
            lines = len({tuple(v for i, v in enumerate(s) if i not in places) for s in settings})
            if len(keys) - count == 1:
                lines = ENTRIES  # of one option, more of them are a scale of colours
            if 1 < len(panels) <= MOST_PANELS:
                found.append((max(lines, ENTRIES), len(panels), places))
    return [keys[place] for place in min(found)[-1]] if found else []


def drawable(
    runs: Sequence[RunRecord], keys: Sequence[str], what: str = "setting"
) -> tuple[Runs, list[str]]:
    """Return the runs of as many settings as a figure has lines, and what is left out, in words.

    what: they are called.
    """
    groups = grouped(runs, keys)
    if len(groups) <= LINES:
        return groups.runs, []
    drawn = map(groups.indices, spread(range(len(groups)), LINES))
    return groups.runs.at(np.sort(np.concatenate([*drawn]))), left_out(len(groups), what)


def left_out(count: int, what: str = "setting") -> list[str]:
    """Say that not all of so many settings are drawn, where they are too many."""
    each = -(-count // LINES)
    return [f"one {what} in {each} is drawn"] * (each > 1)


def in_order(groups: Groups) -> dict[Setting, Runs]:
    """Order settings by their values, the first option's first."""
    return dict(sorted(groups.items(), key=lambda group: tuple(map(rank, group[0]))))


# Colours and legends


def looks_of(settings: Sequence[Setting]) -> list[Look]:
    """Give each setting its colour by its first value, dash and marker by the others or, where
    these do not need them, by the first as well."""
    firsts, others = legend_values(settings)
    colours = dict(zip(firsts, palette(firsts, len(others) > 1)))
    kinds = {other: index for index, other in enumerate(others)}
    if len(others) < 2:
        kinds = kinds_of(firsts)
    part = slice(1, None) if len(others) > 1 else slice(1)
    found = [(colours[setting[:1]], kinds.get(setting[part], 0)) for setting in settings]
    return [(colour, DASHES[kind], MARKERS[kind]) for colour, kind in found]


def kinds_of(firsts: Sequence[Setting]) -> dict[Setting, int]:
    """Number the dashes and markers of few values, beside their colours."""
    few = len(firsts) <= ENTRIES
    return {first: index % len(DASHES) for index, first in enumerate(firsts)} if few else {}


def legend_values(settings: Sequence[Setting]) -> tuple[list[Any], list[Any]]:
    """List what colours tell apart, and what dashes and markers do: nothing where there
    are more than can be told apart."""

    def distinct(parts: set[Setting]) -> list[Setting]:
        return sorted(parts, key=lambda part: tuple(map(rank, part)))

    others = distinct({setting[1:] for setting in settings})
    few = len(others) <= len(DASHES) and len(settings) <= 5 * ENTRIES
    return distinct({setting[:1] for setting in settings}), others if few else []


def palette(firsts: Sequence[Setting], shaded: bool = False) -> list[Any]:
    """Choose colours: in sequence for numbers and for many, told apart at sight for words.

    shaded: in sequence for words, too, as where nothing but their shade tells them apart in grey.
    """
    words = not shaded and not all(is_number(value) for first in firsts for value in first)
    if len(firsts) == 1 or (len(firsts) <= len(COLOURS) and words):
        return list(COLOURS[: len(firsts)])
    # The bright end of viridis is too faint on white.
    return list(matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(firsts))))


def explain(
    figure: Picture,
    panels: Sequence[Axes],
    settings: Sequence[Setting],
    keys: Sequence[str],
    markers: bool = False,
) -> None:
    """Say right of the axes what colours and dashes mean, and make the axes narrower by it."""
    firsts, others = legend_values(settings)
    boxes = [axes.get_position() for axes in panels]
    bottom = min(box.y0 for box in boxes)
    height = max(box.y1 for box in boxes) - bottom
    titles, style = [label(key) for key in keys], figure.style
    sample: dict[str, Any] = {"xdata": [], "ydata": [], "ms": 4, "lw": 1.2}
    parts: list[tuple[str, list[Line2D]]] = []
    if 1 < len(firsts) <= ENTRIES:
        kinds = kinds_of(firsts) if len(others) < 2 else {}
        lines = [
            Line2D(
                color=colour,
                ls=DASHES[kinds.get(first, 0)],
                marker=MARKERS[kinds.get(first, 0)] if markers else "",
                label=entry(*first),
                **sample,
            )
            for first, colour in zip(firsts, palette(firsts, len(others) > 1))
        ]
        parts.append((titles[0], lines))
    if len(others) > 1:
        looks = zip(others, DASHES, MARKERS if markers else [""] * len(DASHES))
        lines = [
            Line2D(color="0.2", ls=dash, marker=marker, label=", ".join(map(entry, v)), **sample)
            for v, dash, marker in looks
        ]
        parts.append((", ".join(titles[1:]), lines))

    legends, top, used = [], bottom + height, 0.0
    for title, lines in parts:
        made = figure.legend(
            handles=lines,
            title="\n".join(textwrap.wrap(title, 18)),
            title_fontsize=style.font,
            fontsize=style.font,
            frameon=False,
            alignment="left",
            loc="upper left",
            borderaxespad=0,
        )
        extent = made.get_window_extent().transformed(figure.transFigure.inverted())
        legends.append((made, top))
        top -= extent.height + 0.02
        used = max(used, extent.width)
    if len(firsts) > ENTRIES:
        used = max(used, 0.9 * style.scale / figure.get_figwidth())
        head = 0.31 * style.scale / figure.get_figheight()
        place = figure.add_axes((0.99 - used, bottom, 0.02, top - bottom - head))
        colour_bar(place, titles[0], [value for (value,) in firsts], style)
    for made, top in legends:
        made.set_bbox_to_anchor((0.99 - used, top))
    narrow(panels, used)


def colour_bar(axes: Axes, title: str, values: Sequence[Value], style: Style) -> None:
    """Fill axes with the colours of many values, from the first at the bottom to the last."""
    colours = palette([(value,) for value in values])
    scale = ScalarMappable(Normalize(-0.5, len(values) - 0.5), ListedColormap(colours))
    shown = np.unique(np.linspace(0, len(values) - 1, 6).round().astype(int))
    bar = axes.figure.colorbar(scale, cax=axes, ticks=shown)
    bar.set_ticklabels([entry(values[index]) for index in shown])
    axes.set_title("\n".join(textwrap.wrap(title, 18)), size=style.font, loc="left")
    bar.outline.set_visible(False)
    bar.minorticks_off()
    axes.tick_params(labelsize=style.font - 1, length=2, width=0.6)
