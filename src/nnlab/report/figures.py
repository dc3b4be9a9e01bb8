"""The figures of a study, and those of its curves over epochs.

Each is built by a function that returns a matplotlib Figure, or None where it does not
apply.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Collection, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nnlab import records, storage
from nnlab.losses import METRICS
from nnlab.report.captions import (
    alike_note,
    alone_note,
    heading,
    panel_titles,
    percent,
    seeds_note,
    thinned_note,
    uneven_note,
    y_label,
)
from nnlab.report.columns import TESTED
from nnlab.report.labels import OVER
from nnlab.report.looks import (
    ALONE,
    ENTRIES,
    LINES,
    PANELS,
    Look,
    drawable,
    explain,
    in_order,
    looks_of,
    most_first,
    ordered_factors,
    panel_keys,
)
from nnlab.report.plotting import (
    COLOURS,
    DASHES,
    NOTEBOOK,
    STYLES,
    Line,
    Style,
    fit_loss,
    frame,
    keep_inside,
    label_outer,
    over_epochs,
    plot,
    plot_many,
    remove,
    save_each,
    span,
)
from nnlab.report.responses import accuracy, accuracy_map, train_time
from nnlab.report.runs import RunRecord, Setting, repeats
from nnlab.report.selection import Groups, grouped, spread, where
from nnlab.report.statistics import Array, mean_of_curves

PARTS = {"train": "training", "valid": "validation"}
BEST: dict[str, Any] = {"marker": "o", "ls": "", "ms": 4, "mew": 1, "mfc": "w", "zorder": 4}
BEST["color"] = COLOURS[1]
STOPPED: dict[str, Any] = {"color": "0.35", "ls": ":"}
CROSS: dict[str, Any] = {"marker": "x", "ls": "", "ms": 5, "mew": 1.2}


def draw_all(
    runs: Sequence[RunRecord],
    study: Path,
    curves_for: Sequence[Path] = (),
    formats: Collection[str] = (),
    loss_scale: str = "auto",
    style: str = "notebook",
) -> list[Path]:
    """Draw what applies into the study's folder, remove what does not; return what there is.

    formats, loss_scale, style: see ``report.write_report``.
    """
    look = STYLES[style]
    drawings: dict[str, Callable[..., Figure | None]] = {"train_time": train_time}
    for metric in (METRICS["accuracy"], METRICS["r2"]):
        drawings[metric.name] = functools.partial(accuracy, metric=metric)
        over = metric.name + OVER
        for key in ordered_factors(runs)[1:]:
            name = over + re.sub(r"[^\w.]", "_", key)
            drawings[name] = functools.partial(accuracy, metric=metric, key=key)
        for path in list(storage.matching(study, f"{over}*.png")):
            if path.stem not in drawings:  # over what no longer varies
                remove(path)
        drawings[f"{metric.name}_map"] = functools.partial(accuracy_map, metric=metric)
    drawings |= {
        "loss": functools.partial(loss, scale=loss_scale),
        "loss_curves": functools.partial(loss_curves, scale=loss_scale),
        "accuracy_curves": accuracy_curves,
        "r2_curves": functools.partial(panel_curves, quantity="r2"),
    }
    files = []
    for name, draw in drawings.items():
        path = study / f"{name}.png"
        figure = draw(runs, style=look)
        if figure is None:
            remove(path)
        else:
            files += save_each(figure, path, formats)
    asked = {folder.resolve() for folder in curves_for}
    for run in runs:
        path = run.folder / records.CURVES
        if not len(run.curves["epoch"]):
            remove(path)
        elif len(runs) == 1 or run.folder.resolve() in asked or outdated(path):
            files += save_each(curves(run, loss_scale, look), path, formats)
    return files


def outdated(path: Path) -> bool:
    """Tell whether a curves.png is there, and older than the metrics beside it."""
    metrics = path.with_name(records.METRICS)
    return path.exists() and metrics.exists() and path.stat().st_mtime < metrics.stat().st_mtime


# The figures


def loss(runs: Sequence[RunRecord], scale: str = "auto", style: Style = NOTEBOOK) -> Figure | None:
    """Draw training loss over epochs, a line per run; seeds as their mean and its interval. More
    settings than a legend can have are divided among panels. None for a single run, or where no
    epoch ended."""
    drawn = where(runs, lambda run: np.isfinite(run.curves["train_loss"]).any())
    if len(runs) < 2 or not drawn:
        return None
    title, keys = heading(runs), most_first(drawn, ordered_factors(runs))
    runs, fewer_settings = drawable(drawn, keys)
    apart = panel_keys(runs, keys)
    rest = [key for key in keys if key not in apart]
    parts = in_order(grouped(runs, apart))
    titles = panel_titles(apart, parts)
    settings = list(in_order(grouped(runs, rest)))
    few, most = len(settings) <= ENTRIES, LINES // len(settings)
    notes = seeds_note(runs, keys, "band" if few else None) + uneven_note(runs, keys, few)
    if any(run.status == "diverged" for run in runs):
        notes.append("cross: diverged")
    notes += alike_note(settings, rest) + thinned_note(runs) + fewer_settings
    notes += alone_note(runs, keys, most)
    figure, panels = frame(title, notes, len(parts), titles=titles, style=style, beside=True)
    looks = dict(zip(settings, looks_of(settings)))
    kept = where(runs, lambda run: run.status != "diverged") or runs
    losses, longest = span(run.curves["train_loss"] for run in kept), longest_of(kept)
    for axes, part in zip(panels, parts.values()):
        over_epochs(axes, "Training loss", longest)
        fit_loss(axes, losses, scale)
        draw_losses(axes, grouped(part, rest), looks, few, most)
    if apart:
        label_outer(panels)
    if rest:
        explain(figure, panels, settings, rest)
    keep_inside(panels)
    return figure


def draw_losses(
    axes: Axes,
    groups: Groups,
    looks: dict[Setting, Look],
    few: bool,
    most: int,
) -> None:
    """Draw a line for each setting: of several seeds their mean, if few with its interval, and at
    most so many of the runs that are in no mean."""
    width, alpha = (1.3, 1.0) if len(groups) <= 2 * ENTRIES else (0.6, 0.5)
    lines: list[Line] = []
    broken: list[tuple[RunRecord, Any]] = []
    for setting, group in groups.items():
        colour, dash, _ = looks[setting]
        whole = where(group, attrgetter("complete"))
        if len(whole) > 1:
            look = {"color": colour, "ls": dash, "lw": width, "alpha": alpha}
            if few:
                draw_mean(axes, whole, "train_loss", look)
            else:
                epochs, mean, _ = mean_over_epochs(whole, "train_loss")
                lines.append((epochs, mean, colour, dash))
        for run in alone(group, whole, most):
            lines.append((run.curves["epoch"], run.curves["train_loss"], colour, dash))
            if run.status == "diverged":
                broken.append((run, colour))
    plot_many(axes, lines, lw=width, alpha=alpha)
    mark_ends(axes, broken)


def alone(group: Sequence[RunRecord], whole: Sequence[RunRecord], most: int) -> Sequence[RunRecord]:
    """Return the runs of a setting that are drawn each by itself: those that did not end well, at
    most so many, and the others where a mean takes more."""
    broken = spread(range(sum(not run.complete for run in group)), most)
    number = itertools.count()

    def is_drawn(run: RunRecord) -> bool:
        return len(whole) < 2 if run.complete else next(number) in broken

    return where(group, is_drawn)


def draw_mean(
    axes: Axes, runs: Sequence[RunRecord], column: str, look: dict[str, Any], factor: int = 1
) -> None:
    """Draw the mean of several runs over epochs, until the first of them ends, its interval, and
    those runs that go on each by itself, of many some."""
    epochs, mean, margin = mean_over_epochs(runs, column)
    mean, margin, colour = factor * mean, factor * margin, look["color"]
    plot(axes, epochs, mean, **look)
    axes.fill_between(epochs, mean - margin, mean + margin, color=colour, alpha=0.2, lw=0)
    ends = min(run.last_epoch for run in runs)  # thinned curves may have none of it in common
    longer = where(runs, lambda run: len(epochs) and ends < run.last_epoch)
    rest: list[Line] = []
    for run in spread(longer, ALONE):
        later = run.curves["epoch"] >= epochs[-1]
        y = factor * run.curves[column][later]
        rest.append((run.curves["epoch"][later], y, colour, look["ls"]))
    plot_many(axes, rest, lw=0.5, alpha=look.get("alpha", 1.0))


def mean_over_epochs(runs: Sequence[RunRecord], column: str) -> tuple[Array, Array, Array]:
    """Return the epochs that all of several runs have, the mean of a column, and half its 95 %
    interval."""
    epochs = functools.reduce(np.intersect1d, (run.curves["epoch"] for run in runs))
    mean, margin = mean_of_curves(
        lambda: (run.curves[column][np.searchsorted(run.curves["epoch"], epochs)] for run in runs)
    )
    return epochs, mean, margin


def longest_of(runs: Sequence[RunRecord]) -> int:
    return max(run.last_epoch for run in runs)


def loss_curves(
    runs: Sequence[RunRecord], scale: str = "auto", style: Style = NOTEBOOK
) -> Figure | None:
    """Draw training and validation loss over epochs, a panel for each setting, a line for each
    run, or the mean of many. None for a single run, without validation, or with more settings than
    panels."""
    return panel_curves(runs, "loss", scale, style)


def accuracy_curves(runs: Sequence[RunRecord], style: Style = NOTEBOOK) -> Figure | None:
    """Draw training and validation accuracy in % as ``loss_curves`` does the losses."""
    return panel_curves(runs, "accuracy", style=style)


def panel_curves(
    runs: Sequence[RunRecord], quantity: str, scale: str = "auto", style: Style = NOTEBOOK
) -> Figure | None:
    keys = ordered_factors(runs)
    drawn = where(runs, lambda run: run.reading and quantity in run.task.measures)
    settings = grouped(drawn, keys)
    if len(runs) < 2 or not 0 < len(settings) <= PANELS:
        return None
    groups = in_order(settings)
    seeds = max(map(len, groups.values()))
    means = 2 * seeds > ENTRIES
    if means:
        notes = seeds_note(drawn, keys, "band") + uneven_note(drawn, keys, True)
    else:
        notes = [f"a line for each of {seeds} {repeats(drawn)}"] if seeds > 1 else []
    titles = panel_titles(keys, groups)
    notes += thinned_note(drawn) + alone_note(drawn, keys, ALONE)
    handles = marks(drawn, quantity == "loss", means)
    figure, panels = frame(heading(runs), notes, len(groups), handles, titles, style)
    kept = where(drawn, lambda run: run.status != "diverged") or drawn
    shown = span(run.curves[f"{part}_{quantity}"] for run in kept for part in PARTS)
    for axes, group in zip(panels, groups.values()):
        over_epochs(axes, y_label(quantity), longest_of(drawn))
        if quantity == "loss":
            fit_loss(axes, shown, scale)
        whole = where(group, attrgetter("complete")) if means else []
        if len(whole) > 1:
            for part, colour, dash in zip(PARTS, COLOURS, DASHES):
                look, factor = {"color": colour, "ls": dash, "lw": 1.3}, percent(quantity)
                draw_mean(axes, whole, f"{part}_{quantity}", look, factor=factor)
        for run in alone(group, whole, ALONE):
            draw_curves(axes, run, quantity, 1.3 if len(group) == 1 else 0.7)
    label_outer(panels)
    keep_inside(panels)
    return figure


def curves(run: RunRecord, scale: str = "auto", style: Style = NOTEBOOK) -> Figure:
    """Draw loss and accuracy (or R²) of one run over epochs: training and, if any, validation."""
    notes = [run.stop_reason or ("unfinished" if run.status == "running" else run.status)]
    if run.tested(run.main) is not None:
        notes.append(f"test {run.main.title} {TESTED[run.main.name].text([run])}")
        if run.weights_of_epoch not in (None, run.epochs):
            notes[-1] += f" with the weights of epoch {run.weights_of_epoch}"
    notes += thinned_note([run])
    figure, panels = frame(heading([run]), notes, 2, marks([run], True), style=style)
    for axes, quantity in zip(panels, ("loss", run.main.name)):
        values = span(run.curves[f"{part}_{quantity}"] for part in PARTS)
        over_epochs(axes, y_label(quantity, "" if run.reading else "training "), run.last_epoch)
        if quantity == "loss":
            fit_loss(axes, values, scale)
        draw_curves(axes, run, quantity, 1.3)
    keep_inside(panels)
    return figure


# Their parts


def draw_curves(axes: Axes, run: RunRecord, quantity: str, width: float) -> None:
    """Draw a run's training and validation curve, and mark what ``marks`` explains."""
    epoch = run.curves["epoch"]
    for part, colour, dash in zip(PARTS, COLOURS, DASHES):
        y = run.curves[f"{part}_{quantity}"] * percent(quantity)
        plot(axes, epoch, y, color=colour, ls=dash, lw=width)
    if run.reading and quantity == "loss":
        best = epoch == run.reading.best_epoch
        axes.plot(epoch[best], run.curves["valid_loss"][best], **BEST)
    if run.status == "stopped":
        axes.axvline(run.epochs, lw=0.8 * width, **STOPPED)
    if quantity == "loss" and broke_off(run):
        mark_ends(axes, [(run, COLOURS[0])])


def marks(runs: Sequence[RunRecord], losses: bool, means: bool = False) -> list[Line2D]:
    """Make the legend of what ``draw_curves`` draws of these runs, or the means of most."""
    handles = []
    if any(run.reading for run in runs):
        looks = zip(PARTS.values(), COLOURS, DASHES)
        handles += [Line2D([], [], color=c, ls=dash, label=name) for name, c, dash in looks]
        if losses and not means:
            handles.append(Line2D([], [], label="best validation loss", **BEST))
    if any(run.status == "stopped" for run in runs) and not means:
        handles.append(Line2D([], [], label="stopped", **STOPPED))
    if losses and any(map(broke_off, runs)):
        handles.append(Line2D([], [], label="diverged", color=COLOURS[0], **CROSS))
    return handles


def broke_off(run: RunRecord) -> bool:
    """Tell whether a run diverged after a loss that can be drawn."""
    return run.status == "diverged" and bool(np.isfinite(run.curves["train_loss"]).any())


def mark_ends(axes: Axes, runs: Sequence[tuple[RunRecord, Any]]) -> None:
    """Cross the last finite loss of runs, each with its colour, at the edge where it left the
    axes."""
    places = []
    low, high = axes.get_ylim()
    for run, _ in runs:
        finite = np.isfinite(run.curves["train_loss"])
        x, y = run.curves["epoch"][finite][-1], run.curves["train_loss"][finite][-1]
        places.append((x, min(max(y, low), high)))
    if places:
        colours = [colour for _, colour in runs]
        look = {"marker": CROSS["marker"], "s": CROSS["ms"] ** 2, "linewidths": CROSS["mew"]}
        axes.scatter(*zip(*places), color=colours, clip_on=False, zorder=4, **look)
