"""The figures of a study: time and accuracy over what varied, curves over epochs.

Each is built by a function that returns a matplotlib Figure, or None where it does not
apply.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nnlab import records
from nnlab.losses import METRICS, Metric
from nnlab.report.columns import TESTED, Column
from nnlab.report.labels import OVER, label, phrase
from nnlab.report.plotting import (
    COLOURS,
    DASHES,
    ENTRIES,
    NOTEBOOK,
    STYLES,
    Look,
    Style,
    draw_map,
    entry,
    explain,
    fit_loss,
    frame,
    keep_inside,
    label_outer,
    legend_values,
    looks_of,
    over_epochs,
    plot,
    remove,
    save_each,
    scale_beside,
    scale_of,
    ticks,
)
from nnlab.report.runs import (
    RunRecord,
    Value,
    factors,
    grouped,
    is_number,
    is_seed,
    rank,
    repeats,
    spell,
)
from nnlab.report.statistics import Array, half_interval
from nnlab.report.times import most_concurrent, timings, unit

Setting = tuple[Value, ...]

PANELS = 6  # that a figure can have, a setting each
MOST_PANELS = 12  # that a figure can have, of several lines each
FEWEST = 3  # values of an option that make a map of it and another
LIMITS = {"plateau": "min_delta", "patience": "patience", "budget": "seconds"}
LIMITS["target"] = "valid_accuracy"  # of a stopping rule, what tells most
PARTS = {"train": "training", "valid": "validation"}
BEST: dict[str, Any] = {"marker": "o", "ls": "", "ms": 4, "mew": 1, "mfc": "w", "zorder": 4}
BEST["color"] = COLOURS[1]
STOPPED: dict[str, Any] = {"color": "0.35", "ls": ":"}
ONE_SEED = "bar of one seed: 95 % interval by the number of test examples"
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
        for key in ordered_factors(runs)[1:]:
            name = metric.name + OVER + re.sub(r"[^\w.]", "_", key)
            drawings[name] = functools.partial(accuracy, metric=metric, key=key)
        drawings[f"{metric.name}_map"] = functools.partial(accuracy_map, metric=metric)
    drawings |= {
        "loss": functools.partial(loss, scale=loss_scale),
        "loss_curves": functools.partial(loss_curves, scale=loss_scale),
        "accuracy_curves": accuracy_curves,
        "r2_curves": functools.partial(panel_curves, quantity="r2"),
    }
    for path in study.glob(f"*{OVER}*.png"):
        if path.stem not in drawings:  # over what no longer varies
            remove(path)
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


def train_time(runs: Sequence[RunRecord], style: Style = NOTEBOOK) -> Figure | None:
    """Draw training time over training-set size, the fitted lines, and what these predict
    for the full training set, if they are few. None with fewer than two sizes."""
    keys, epochs, fits = timings(runs)
    if not fits:
        return None
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
    notes += alike_note(settings, order)
    figure, (axes,) = frame(heading(runs), notes, style=style)
    highest = max(fit.y.max() for fit in fits)
    length, name = unit(highest)
    right = 1.04 * max(fit.x.max() for fit in fits)
    looks = looks_of(settings)
    for fit, answer, (colour, dash, marker) in zip(fits, answers, looks):
        axes.plot(fit.x, fit.y / length, marker, color=colour, ms=4, clip_on=False, zorder=3)
        if fit.line is not None:
            ends = np.array([0.0, right])
            named = ", ".join(map(entry, fit.values)) or "fitted line"
            if answer is not None:
                named += f": {fit.full_size:,} examples take {answer}"
            axes.plot(ends, fit.line.at(ends) / length, dash, color=colour, lw=1.2, label=named)
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
    runs = [run for run in runs if metric in run.task.metrics]
    keys, column = ordered_factors(runs), TESTED[metric.name]
    tested = [run for run in runs if len(column.known([run]))]
    if not keys or not tested:
        return None
    if key is not None:
        lines = grouped(tested, [other for other in keys if other != key]).values()
        if all(len(grouped(same, [key])) < 2 for same in lines):
            return None
    key = key or keys[0]
    values = sorted({run.settings.get(key) for run in tested}, key=rank)
    scale = scale_of(key, values)
    others = most_first(tested, [other for other in keys if other != key])
    apart = panel_keys(tested, others)
    others = [other for other in others if other not in apart]
    parts = in_order(grouped(tested, apart))
    series = list(grouped(tested, others))
    few = len(series) <= ENTRIES
    kinds = {column.estimate(same).of for same in grouped(tested, keys).values()} if few else set()
    band = kinds == {"seeds"} and scale != "category" and len(values) > 2
    drawn = ("band" if band else "bar") if few else None
    notes = seeds_note(tested, keys, drawn)
    notes += [ONE_SEED] * ("examples" in kinds) + alike_note(series, others) + lost(runs, metric)
    titles = [panel_title(apart, part) for part in parts] if apart else []
    figure, panels = frame(
        heading(runs), notes, len(parts), titles=titles, style=style, beside=True
    )
    looks = dict(zip(series, looks_of(series)))
    for axes, part in zip(panels, parts.values()):
        for index, (setting, group) in enumerate(grouped(part, others).items()):
            # Side by side, or the series would hide each other.
            shift = (index - (len(series) - 1) / 2) * 0.6 / len(series)
            points = {
                values.index(value) + shift if scale == "category" else value: same
                for (value,), same in grouped(group, [key]).items()
            }
            colour, dash, marker = looks[setting]
            look = (colour, "" if scale == "category" else dash, marker)
            draw_response(axes, points, column, 100 if metric.percent else 1, look, drawn)
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


def accuracy_map(
    runs: Sequence[RunRecord], metric: Metric = METRICS["accuracy"], style: Style = NOTEBOOK
) -> Figure | None:
    """Draw mean test accuracy in %, or another metric, over two numeric options, a cell for each
    pair of values; a panel for each setting of the others or, where these are many, the mean over
    them. None unless two options have three values or more and most of their pairs were run."""
    column = TESTED[metric.name]
    tested = [run for run in runs if metric in run.task.metrics and len(column.known([run]))]
    keys = ordered_factors(runs)
    values = {key: sorted({run.settings.get(key) for run in tested}, key=rank) for key in keys}
    numeric = [key for key in keys if all(map(is_number, values[key]))]
    numeric = sorted(numeric, key=lambda key: -len(values[key]))[:2]
    if len(numeric) < 2 or len(values[numeric[1]]) < FEWEST:
        return None
    across, down = sorted(numeric, key=keys.index)
    if 2 * len(grouped(tested, numeric)) < len(values[across]) * len(values[down]):
        return None
    apart = [key for key in keys if key not in numeric]
    notes = seeds_note(tested, keys, None)
    if not 1 < len(grouped(tested, apart)) <= PANELS:
        notes += [f"mean over {', '.join(map(phrase, apart))}"] * bool(apart)
        apart = []
    parts = in_order(grouped(tested, apart))
    grids = [grid_of(part, column, values, across, down) for part in parts.values()]
    factor = 100 if metric.percent else 1
    ends = factor * np.nanmin(grids), factor * np.nanmax(grids)
    notes += ["white: no result"] * bool(np.isnan(grids).any()) + lost(runs, metric)
    titles = [panel_title(apart, part) for part in parts] if apart else []
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


def loss(runs: Sequence[RunRecord], scale: str = "auto", style: Style = NOTEBOOK) -> Figure | None:
    """Draw training loss over epochs, a line per run; seeds as their mean and its interval. More
    settings than a legend can have are divided among panels. None for a single run, or where no
    epoch ended."""
    drawn = [run for run in runs if np.isfinite(run.curves["train_loss"]).any()]
    if len(runs) < 2 or not drawn:
        return None
    title, keys = heading(runs), most_first(drawn, ordered_factors(runs))
    runs = drawn
    apart = panel_keys(runs, keys)
    rest = [key for key in keys if key not in apart]
    parts = in_order(grouped(runs, apart))
    titles = [panel_title(apart, values) for values in parts] if apart else []
    settings = list(in_order(grouped(runs, rest)))
    few = len(settings) <= ENTRIES
    notes = seeds_note(runs, keys, "band" if few else None) + uneven_note(runs, keys, few)
    if any(run.status == "diverged" for run in runs):
        notes.append("cross: diverged")
    notes += alike_note(settings, rest)
    figure, panels = frame(title, notes, len(parts), titles=titles, style=style, beside=True)
    looks = dict(zip(settings, looks_of(settings)))
    kept = [run.curves["train_loss"] for run in runs if run.status != "diverged"]
    kept = kept or [run.curves["train_loss"] for run in runs]
    for axes, part in zip(panels, parts.values()):
        over_epochs(axes, "Training loss", kept)
        fit_loss(axes, kept, scale)
        draw_losses(axes, grouped(part, rest), looks, few)
    if apart:
        label_outer(panels)
    if rest:
        explain(figure, panels, settings, rest)
    keep_inside(panels)
    return figure


def in_order(groups: dict[Setting, list[RunRecord]]) -> dict[Setting, list[RunRecord]]:
    """Order settings by their values, the first option's first."""
    return dict(sorted(groups.items(), key=lambda group: tuple(map(rank, group[0]))))


def panel_keys(runs: Sequence[RunRecord], keys: Sequence[str]) -> list[str]:
    """Choose the options, two at most, whose settings get a panel each, where one panel would
    have more lines than a legend can; as few panels as that takes."""
    settings = list(grouped(runs, keys))
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


def draw_response(
    axes: Axes,
    points: dict[Any, list[RunRecord]],
    column: Column,
    factor: int,
    look: Look,
    drawn: str | None,
) -> None:
    """Draw the mean result of runs over where they lie, in a line, and its intervals, as a band or
    as bars if at all."""
    found = {x: column.estimate(same) for x, same in points.items()}
    colour, dash, marker = look
    ends = [(x, factor * each.low, factor * each.high) for x, each in found.items() if each.of]
    if ends and drawn == "band":
        x, low, high = zip(*ends)
        axes.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)
    elif ends and drawn:
        axes.vlines(*zip(*ends), color=colour, lw=1)
    y = [factor * each.mean for each in found.values()]
    axes.plot(list(found), y, marker + dash, color=colour, lw=1.2, ms=4)


def draw_losses(
    axes: Axes,
    groups: dict[Setting, list[RunRecord]],
    looks: dict[Setting, Look],
    few: bool,
) -> None:
    """Draw a line for each setting: of several seeds their mean, if few with its interval."""
    width, alpha = (1.3, 1.0) if len(groups) <= 2 * ENTRIES else (0.6, 0.5)
    for setting, group in groups.items():
        colour, dash, _ = looks[setting]
        whole = [run for run in group if run.complete]
        look = {"color": colour, "ls": dash, "lw": width, "alpha": alpha}
        if len(whole) > 1:
            draw_mean(axes, whole, "train_loss", look, few)
        for run in group:
            if len(whole) < 2 or not run.complete:
                plot(axes, run.curves["epoch"], run.curves["train_loss"], **look)
            if run.status == "diverged":
                mark_end(axes, run.curves, colour)


def draw_mean(
    axes: Axes,
    runs: Sequence[RunRecord],
    column: str,
    look: dict[str, Any],
    few: bool = True,
    factor: int = 1,
) -> None:
    """Draw the mean of several runs over epochs, until the first of them ends; where there are few
    means, its interval, and those runs that go on each by itself."""
    epochs = min((run.curves["epoch"] for run in runs), key=len)
    values = factor * np.array([run.curves[column][: len(epochs)] for run in runs])
    plot(axes, epochs, mean := values.mean(axis=0), **look)
    if not few:
        return
    margin, colour = half_interval(values), look["color"]
    axes.fill_between(epochs, mean - margin, mean + margin, color=colour, alpha=0.2, lw=0)
    for run in runs:
        if len(epochs) < len(run.curves["epoch"]):
            later = slice(len(epochs) - 1, None)
            rest = run.curves["epoch"][later], factor * run.curves[column][later]
            plot(axes, *rest, **(look | {"lw": 0.5}))


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
    drawn = [run for run in runs if run.reading and quantity in run.task.measures]
    groups = grouped(drawn, keys)
    if len(runs) < 2 or not 0 < len(groups) <= PANELS:
        return None
    seeds = max(map(len, groups.values()))
    means = 2 * seeds > ENTRIES
    if means:
        notes = seeds_note(drawn, keys, "band") + uneven_note(drawn, keys, True)
    else:
        notes = [f"a line for each of {seeds} {repeats(drawn)}"] if seeds > 1 else []
    titles = [panel_title(keys, values) for values in groups] if keys else []
    handles = marks(drawn, quantity == "loss", means)
    figure, panels = frame(heading(runs), notes, len(groups), handles, titles, style)
    kept = [run for run in drawn if run.status != "diverged"] or drawn
    shown = [run.curves[f"{part}_{quantity}"] for run in kept for part in PARTS]
    for axes, group in zip(panels, groups.values()):
        over_epochs(axes, y_label(quantity), [run.curves["epoch"] for run in drawn])
        if quantity == "loss":
            fit_loss(axes, shown, scale)
        whole = [run for run in group if run.complete] if means else []
        if len(whole) > 1:
            for part, colour, dash in zip(PARTS, COLOURS, DASHES):
                look, factor = {"color": colour, "ls": dash, "lw": 1.3}, percent(quantity)
                draw_mean(axes, whole, f"{part}_{quantity}", look, factor=factor)
        for run in group:
            if len(whole) < 2 or not run.complete:
                draw_curves(axes, run, quantity, 1.3 if len(group) == 1 else 0.7)
    label_outer(panels)
    keep_inside(panels)
    return figure


def curves(run: RunRecord, scale: str = "auto", style: Style = NOTEBOOK) -> Figure:
    """Draw loss and accuracy (or R²) of one run over epochs: training and, if any, validation."""
    notes = [run.stop_reason or ("unfinished" if run.status == "running" else run.status)]
    tested = run.tested(run.main)
    if tested is not None:
        shown = f"{100 * tested:.1f} %" if run.main.percent else f"{tested:.3f}"
        notes.append(f"test {run.main.title} {shown}")
        if run.weights_of_epoch not in (None, run.epochs):
            notes[-1] += f" with the weights of epoch {run.weights_of_epoch}"
    figure, panels = frame(heading([run]), notes, 2, marks([run], True), style=style)
    for axes, quantity in zip(panels, ("loss", run.main.name)):
        values = [run.curves[f"{part}_{quantity}"] for part in PARTS]
        over_epochs(axes, y_label(quantity, "" if run.reading else "training "), values)
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
        mark_end(axes, run.curves, COLOURS[0])


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


def mark_end(axes: Axes, curves: dict[str, Array], colour: Any) -> None:
    """Cross the last finite loss, at the upper edge where it left the axes."""
    finite = np.isfinite(curves["train_loss"])
    x, y = curves["epoch"][finite][-1], curves["train_loss"][finite][-1]
    y = min(y, axes.get_ylim()[1])
    axes.plot(x, y, color=colour, clip_on=False, zorder=4, **CROSS)


def panel_title(keys: Sequence[str], values: Sequence[Value]) -> str:
    """Write a setting, as in "learning rate 1e-5, batch size 10"."""
    return ", ".join(f"{phrase(key)} {entry(value)}" for key, value in zip(keys, values))


def y_label(quantity: str, of: str = "") -> str:
    text = of + (METRICS[quantity].title if quantity in METRICS else quantity)
    return text[0].upper() + text[1:] + " (%)" * is_percent(quantity)


def is_percent(quantity: str) -> bool:
    return quantity in METRICS and METRICS[quantity].percent


def percent(quantity: str) -> int:
    """Return what values of a quantity are multiplied by in figures."""
    return 100 if is_percent(quantity) else 1


def heading(runs: Sequence[RunRecord]) -> str:
    """State what the runs have in common: dataset, model, optimizer, batch size."""
    varying = set(factors(runs))
    shared = {k: v for k, v in runs[0].settings.items() if k not in varying and v is not None}
    parts = [entry(shared["dataset"])] if "dataset" in shared else []
    if "train_size" in shared:
        parts.append(f"{entry(shared['train_size'])} examples")
    if "model" in shared and "model.channels" in shared:
        parts.append(f"{entry(shared['model'])} {entry(shared['model.channels'])}")
    elif "model" in shared and "model.hidden" in shared:
        activation = shared.get("model.activation", "relu")
        suffix = "" if activation == "relu" else f" ({activation})"
        parts.append(f"{entry(shared['model'])} {layers(runs)}{suffix}")
    elif "model" in shared:
        parts.append(entry(shared["model"]))
    if all(run.complete and not run.epochs for run in runs):
        return " · ".join(parts)  # computed or only evaluated: nothing was optimised
    if "optimizer" in shared:
        options = [f"lr {entry(shared['optimizer.lr'])}"] if "optimizer.lr" in shared else []
        for option in ("momentum", "weight_decay"):
            if value := shared.get(f"optimizer.{option}"):
                options.append(f"{option.replace('_', ' ')} {entry(value)}")
        parts.append(" ".join([entry(shared["optimizer"]), ", ".join(options)]).strip())
    if "batch_size" in shared:
        parts.append(f"batch size {entry(shared['batch_size'])}")
    return " · ".join([*parts, *ending(shared)])


def ending(shared: Mapping[str, Value]) -> list[str]:
    """Say when training ends, by what the runs have in common.

    >>> ending({"stopping": "epochs", "stopping.max_epochs": 100})
    ['100 epochs']
    >>> ending({"stopping": "patience", "stopping.max_epochs": 60, "stopping.patience": 2})
    ['at most 60 epochs, patience 2']
    """
    rule, most = shared.get("stopping"), shared.get("stopping.max_epochs")
    said = [f"{entry(most)} epoch{'s' * (most != 1)}"] if most is not None else []
    if rule in (None, "epochs"):
        return said if rule else []
    limit = shared.get(f"stopping.{LIMITS.get(spell(rule))}")
    named = entry(rule) if limit is None else f"{entry(rule)} {entry(limit)}"
    return [", ".join([*(f"at most {each}" for each in said), named])]


def layers(runs: Sequence[RunRecord]) -> str:
    """Write the sizes of all layers, as in 784-128-64-10, or of the hidden ones where the
    others are unknown or differ between datasets."""
    sizes: list[Any] = list(runs[0].settings["model.hidden"])  # type: ignore[arg-type]
    ends = {(run.inputs, run.outputs) for run in runs if run.inputs and run.outputs}
    if len(ends) == 1:
        ((inputs, outputs),) = ends
        sizes = [inputs, *sizes, outputs]
    return "-".join(map(str, sizes)) or "without hidden layers"


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
        return len({run.settings.get(key) for run in runs}) > len(DASHES)

    return sorted(keys, key=lambda key: not many(key))


def seeds_note(runs: Sequence[RunRecord], keys: Sequence[str], drawn: str | None) -> list[str]:
    """Say that points or lines are means, and what is drawn to show how sure these are."""
    counts = {len([r for r in group if r.complete]) for group in grouped(runs, keys).values()}
    if max(counts) < 2:
        return []
    several = f"{'up to ' * (len(counts) > 1)}{max(counts)} {repeats(runs)}"
    return [f"mean of {several}" + f", {drawn}: its 95 % confidence interval" * bool(drawn)]


def uneven_note(runs: Sequence[RunRecord], keys: Sequence[str], few: bool) -> list[str]:
    """Say where the means of curves end, if other runs of their settings go on."""
    lengths = (
        {len(run.curves["epoch"]) for run in group if run.complete}
        for group in grouped(runs, keys).values()
    )
    if all(len(each) < 2 for each in lengths):
        return []
    after = ", then a thin line for each other one" * few
    return [f"means end where the first of their runs ends{after}"]


def lost(runs: Sequence[RunRecord], metric: Metric) -> list[str]:
    """Say how many runs a figure lacks, for they have no result."""
    lost = [run.status for run in runs if run.tested(metric) is None]
    counts = [f"{lost.count(s):,} {s}" for s in ("diverged", "failed") if s in lost]
    return [f"not shown: {', '.join(counts)}"] if counts else []


def alike_note(settings: Sequence[tuple[Value, ...]], keys: Sequence[str]) -> list[str]:
    """Say in what settings differ that look alike, because so many cannot be told apart."""
    if legend_values(settings)[1]:
        return []
    varying = [key for key, values in zip(keys, zip(*settings)) if len(set(values)) > 1][1:]
    return [f"lines of one colour differ in {', '.join(map(phrase, varying))}"]
