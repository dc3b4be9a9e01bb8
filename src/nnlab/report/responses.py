"""The figures of what came out over what varied: training time, accuracy, maps of two options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from nnlab.losses import METRICS, Metric
from nnlab.report.captions import (
    alike_note,
    heading,
    lost,
    panel_titles,
    percent,
    seeds_note,
    y_label,
)
from nnlab.report.columns import TESTED, Column
from nnlab.report.labels import label, phrase
from nnlab.report.looks import (
    ENTRIES,
    LINES,
    PANELS,
    drawable,
    explain,
    in_order,
    left_out,
    looks_of,
    most_first,
    ordered_factors,
    panel_keys,
)
from nnlab.report.plotting import (
    MARK,
    NOTEBOOK,
    Line,
    Picture,
    Style,
    entry,
    frame,
    keep_inside,
    label_outer,
    narrow,
    picture,
    plot_many,
    plot_marked,
    scale_of,
    ticks,
)
from nnlab.report.runs import RunRecord, Value, is_number, rank
from nnlab.report.selection import grouped, spread, where
from nnlab.report.statistics import Array
from nnlab.report.times import most_concurrent, timings, unit

FEWEST = 3  # values of an option that make a map of it and another
ONE_SEED = "bar of one seed: 95 % interval by the number of test examples"


def train_time(runs: Sequence[RunRecord], style: Style = NOTEBOOK) -> Figure | None:
    """Draw training time over training-set size, the fitted lines, and what these predict
    for the full training set, if they are few. None with fewer than two sizes."""
    keys, epochs, all_fits = timings(runs)
    if not all_fits:
        return None
    fits = list(spread(all_fits, LINES))
    devices = {run.device for run in runs if run.complete}
    notes = [f"on {entry(device)}" for device in devices if device and len(devices) == 1]
    answers = [fit.answer() if len(fits) <= ENTRIES else None for fit in fits]
    if any(answer is not None for answer in answers):
        notes.append("in brackets the 95 % prediction interval of the fitted line")
    if any(run.form for run in runs if run.complete):
        notes.append("no line through runs in the dual form")
    if (most := most_concurrent(runs)) > 1:
        notes.append(f"up to {most:,} runs at a time")
    order = most_first(runs, keys)
    settings = [tuple(fit.values[keys.index(key)] for key in order) for fit in fits]
    notes += alike_note(settings, order) + left_out(len(all_fits))
    figure, (axes,) = frame(heading(runs), notes, style=style)
    highest = max(fit.y.max() for fit in fits)
    length, name = unit(highest)
    right = 1.04 * max(fit.x.max() for fit in fits)
    looks = looks_of(settings)
    ends = np.array([0.0, right])
    if len(fits) > ENTRIES:
        known = [(fit.line, look) for fit, look in zip(fits, looks) if fit.line is not None]
        lines = [(ends, line.at(ends) / length, colour, dash) for line, (colour, dash, _) in known]
        plot_many(axes, lines, lw=1.2, alpha=1.0)
        points = [(fit.x, fit.y / length, look[0], "") for fit, look in zip(fits, looks)]
        plot_marked(axes, points, [marker for *_, marker in looks], clip_on=False, zorder=3)
    else:
        for fit, answer, (colour, dash, marker) in zip(fits, answers, looks):
            axes.plot(fit.x, fit.y / length, marker, color=colour, ms=MARK, clip_on=False, zorder=3)
            if fit.line is not None:
                named = ", ".join(map(entry, fit.values)) or "fitted line"
                if answer is not None:
                    named += f": {fit.full_size:,} examples take {answer}"
                y = fit.line.at(ends) / length
                axes.plot(ends, y, dash, color=colour, lw=1.2, label=named)
    axes.set_xlim(0, right)
    axes.set_xlabel(label("train_size"))
    of = "of one epoch" if epochs in (None, 1) else f"of {epochs:,} epochs"
    axes.set_ylabel(f"Training time {of} ({name})")
    axes.set_ylim(0, 1.08 * highest / length)
    if len(fits) > ENTRIES:
        explain(figure, [axes], settings, order, markers=True)
    else:
        # Times rise to the right, so the upper left is free once there is room above them all.
        handles, _ = axes.get_legend_handles_labels()
        title = ", ".join(map(label, keys))
        rows = len(handles) + bool(title)
        room = 0.08 + 0.21 * style.scale / style.height * rows
        axes.set_ylim(0, highest / length / (1 - room))
        if handles:
            axes.legend(
                title=title or None,
                title_fontsize=style.font,
                fontsize=style.font,
                loc="upper left",
                frameon=False,
                alignment="left",
            )
    ticks(axes, sorted({size for fit in fits for size in fit.x}), "linear")
    keep_inside([axes])
    return figure


def accuracy(
    runs: Sequence[RunRecord],
    metric: Metric = METRICS["accuracy"],
    key: str | None = None,
    style: Style = NOTEBOOK,
) -> Figure | None:
    """Draw test accuracy in %, or another metric, over one option that varied, a line for each
    value of the others; more lines than a legend can have are divided among panels.

    key: the option; None: the one that serves best as an abscissa. None where only the seed
    varied, nothing was tested, or no line of such an option has two points.
    """
    runs = where(runs, lambda run: metric in run.task.metrics)
    keys, column = ordered_factors(runs), TESTED[metric.name]
    tested = where(runs, lambda run: len(column.known([run])))
    if not keys or not tested:
        return None
    if key is not None:
        lines = grouped(tested, [other for other in keys if other != key])
        if all(len(grouped(same, [key])) < 2 for same in lines):
            return None
    key = key or keys[0]
    others = [other for other in keys if other != key]
    tested, fewer_values = drawable(tested, [key], phrase(key))
    tested, fewer_lines = drawable(tested, others)
    values = sorted({run.settings.get(key) for run in tested}, key=rank)
    scale = scale_of(key, values)
    others = most_first(tested, others)
    apart = panel_keys(tested, others)
    others = [other for other in others if other not in apart]
    parts = in_order(grouped(tested, apart))
    series = list(grouped(tested, others).settings())
    few = len(series) <= ENTRIES
    kinds = {column.estimate(same).of for same in grouped(tested, keys)} if few else set()
    band = kinds == {"seeds"} and scale != "category" and len(values) > 2
    drawn = ("band" if band else "bar") if few else None
    notes = seeds_note(tested, keys, drawn)
    notes += [ONE_SEED] * ("examples" in kinds) + alike_note(series, others)
    notes += fewer_values + fewer_lines + lost(runs, metric)
    titles = panel_titles(apart, parts)
    figure, panels = frame(
        heading(runs), notes, len(parts), titles=titles, style=style, beside=True
    )
    looks = dict(zip(series, looks_of(series)))
    for axes, part in zip(panels, parts.values()):
        drawn_lines: list[Line] = []
        markers: list[str] = []
        for index, (setting, group) in enumerate(grouped(part, others).items()):
            # Side by side, or the series would hide each other.
            shift = (index - (len(series) - 1) / 2) * 0.6 / len(series)
            points = {
                values.index(value) + shift if scale == "category" else value: same
                for (value,), same in grouped(group, [key]).items()
            }
            colour, dash, marker = looks[setting]
            xy = draw_intervals(axes, points, column, percent(metric.name), colour, drawn)
            drawn_lines.append((*xy, colour, "" if scale == "category" else dash))
            markers.append(marker)
        plot_marked(axes, drawn_lines, markers)
    for axes in panels:
        axes.set_xlabel(label(key))
        axes.set_ylabel(y_label(metric.name, "test "))
    if metric.percent:
        low, high = panels[0].get_ylim()
        panels[0].set_ylim(max(low, -2), min(high, 102))  # beyond are ends of intervals alone
    if others:
        explain(figure, panels, series, others, markers=True)
    for axes in panels:
        ticks(axes, values, scale)
    if apart:
        label_outer(panels)
    keep_inside(panels)
    return figure


def draw_intervals(
    axes: Axes,
    points: Mapping[Any, Sequence[RunRecord]],
    column: Column,
    factor: int,
    colour: Any,
    drawn: str | None,
) -> tuple[Array, Array]:
    """Draw the intervals of the mean results of runs over where they lie, as a band or as bars if
    at all; return where, and the means."""
    found = {x: column.estimate(same) for x, same in points.items()}
    ends = [(x, factor * each.low, factor * each.high) for x, each in found.items() if each.of]
    if ends and drawn == "band":
        x, low, high = zip(*ends)
        axes.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)
    elif ends and drawn:
        axes.vlines(*zip(*ends), color=colour, lw=1)
    return np.array(list(found)), np.array([factor * each.mean for each in found.values()])


def accuracy_map(
    runs: Sequence[RunRecord], metric: Metric = METRICS["accuracy"], style: Style = NOTEBOOK
) -> Figure | None:
    """Draw mean test accuracy in %, or another metric, over two numeric options, a cell for each
    pair of values; a panel for each setting of the others or, where these are many, the mean over
    them. None unless two options have three values or more and most of their pairs were run."""
    column = TESTED[metric.name]
    tested = where(runs, lambda run: metric in run.task.metrics and len(column.known([run])))
    keys = ordered_factors(runs)
    counts = {key: len(grouped(tested, [key])) for key in keys}
    numeric = [key for key in keys if all(is_number(run.settings.get(key)) for run in tested)]
    numeric = sorted(numeric, key=lambda key: -counts[key])[:2]
    if len(numeric) < 2 or counts[numeric[1]] < FEWEST:
        return None
    across, down = sorted(numeric, key=keys.index)
    if 2 * len(grouped(tested, numeric)) < counts[across] * counts[down]:
        return None
    values = {key: sorted({run.settings.get(key) for run in tested}, key=rank) for key in numeric}
    apart = [key for key in keys if key not in numeric]
    notes = seeds_note(tested, keys, None)
    if not 1 < len(grouped(tested, apart)) <= PANELS:
        notes += [f"mean over {', '.join(map(phrase, apart))}"] * bool(apart)
        apart = []
    parts = in_order(grouped(tested, apart))
    grids = [grid_of(part, column, values, across, down) for part in parts.values()]
    factor = percent(metric.name)
    ends = factor * np.nanmin(grids), factor * np.nanmax(grids)
    notes += ["white: no result"] * bool(np.isnan(grids).any()) + lost(runs, metric)
    titles = panel_titles(apart, parts)
    figure, panels = frame(
        heading(runs), notes, len(parts), titles=titles, style=style, beside=True
    )
    for axes, grid in zip(panels, grids):
        draw_map(axes, factor * grid, ends, [values[across], values[down]])
        axes.set_xlabel(label(across))
        axes.set_ylabel(label(down))
    scale_beside(figure, panels, y_label(metric.name, "test "), ends)
    for axes in panels:
        ticks(axes, values[across], "category")
    if apart:
        label_outer(panels)
    keep_inside(panels)
    return figure


def grid_of(
    runs: Sequence[RunRecord],
    column: Column,
    values: dict[str, list[Value]],
    across: str,
    down: str,
) -> Array:
    """Return the mean result of each pair of values: [values down, values across], NaN where
    there is none."""
    grid = np.full((len(values[down]), len(values[across])), np.nan)
    for (low, left), same in grouped(runs, [down, across]).items():
        grid[values[down].index(low), values[across].index(left)] = column.known(same).mean()
    return grid


def draw_map(
    axes: Axes, grid: Array, ends: tuple[float, float], values: Sequence[Sequence[Value]]
) -> None:
    """Colour a cell for each value of a grid [rows, columns], from the lower left, and write it
    there where there is room. ends: of the colours. values: of the columns, and of the rows."""
    figure, style = picture(axes), picture(axes).style
    rows, columns = grid.shape
    scale = Normalize(*ends)
    image = np.ma.masked_invalid(grid)
    axes.imshow(image, "viridis", scale, origin="lower", aspect="auto", interpolation="none")
    axes.grid(False)
    shown = range(0, rows, -(-rows // 12))
    axes.set_yticks(shown, [entry(values[1][index]) for index in shown])
    wide = figure.get_figwidth() * axes.get_position().width / columns
    high = figure.get_figheight() * axes.get_position().height / rows
    digits = 1 if np.nanmax(np.abs(grid)) > 2 else 2
    if wide < 0.45 * style.scale or high < 0.14 * style.scale:
        return
    for row, column in zip(*np.nonzero(np.isfinite(grid))):
        light = scale(grid[row, column]) > 0.6
        place, text = (column, row), f"{grid[row, column]:.{digits}f}"
        colour = "black" if light else "white"
        axes.annotate(text, place, size=style.font - 1, color=colour, ha="center", va="center")


def scale_beside(
    figure: Picture, panels: Sequence[Axes], title: str, ends: tuple[float, float]
) -> None:
    """Put the scale of a map's colours right of its panels, and make these narrower by it."""
    style = figure.style
    boxes = [axes.get_position() for axes in panels]
    bottom, top = min(box.y0 for box in boxes), max(box.y1 for box in boxes)
    used = 0.75 * style.scale / figure.get_figwidth()
    narrow(panels, used)
    place = figure.add_axes((1 - used, bottom, 0.02, top - bottom))
    bar = figure.colorbar(ScalarMappable(Normalize(*ends), "viridis"), cax=place)
    bar.set_label(title, size=style.font)
    bar.outline.set_visible(False)
    place.tick_params(labelsize=style.font - 1, length=2, width=0.6)
