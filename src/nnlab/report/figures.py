"""The figures of a study: time and accuracy over what varied, curves over epochs.

Each is built by a function that returns a matplotlib Figure, or None where it does not
apply.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nnlab import records
from nnlab.losses import METRICS, Metric
from nnlab.report.columns import TESTED
from nnlab.report.plotting import (
    COLOURS,
    DASHES,
    ENTRIES,
    FONT,
    LABELS,
    Style,
    entry,
    explain,
    fit_loss,
    frame,
    label_outer,
    legend_values,
    over_epochs,
    plot,
    remove,
    save_each,
    scale_of,
    styles,
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
)
from nnlab.report.statistics import Array, half_interval
from nnlab.report.times import most_concurrent, timings, unit

PANELS = 6  # that a figure can have, a setting each
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
) -> list[Path]:
    """Draw what applies into the study's folder, remove what does not; return what there is.

    formats, loss_scale: see ``report.write_report``.
    """
    drawings: dict[str, Callable[[Sequence[RunRecord]], Figure | None]] = {
        "train_time": train_time,
        "accuracy": accuracy,
        "r2": functools.partial(accuracy, metric=METRICS["r2"]),
        "loss": functools.partial(loss, scale=loss_scale),
        "loss_curves": functools.partial(loss_curves, scale=loss_scale),
        "accuracy_curves": accuracy_curves,
        "r2_curves": functools.partial(panel_curves, quantity="r2"),
    }
    files = []
    for name, draw in drawings.items():
        path = study / f"{name}.png"
        figure = draw(runs)
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
            files += save_each(curves(run, loss_scale), path, formats)
    return files


def outdated(path: Path) -> bool:
    """Tell whether a curves.png is there, and older than the metrics beside it."""
    metrics = path.with_name(records.METRICS)
    return path.exists() and metrics.exists() and path.stat().st_mtime < metrics.stat().st_mtime


# The figures


def train_time(runs: Sequence[RunRecord]) -> Figure | None:
    """Draw training time over training-set size, the fitted lines, and what these predict
    for the full training set. None with fewer than two sizes."""
    keys, epochs, fits = timings(runs)
    if not fits:
        return None
    devices = {run.device for run in runs if run.complete}
    notes = [f"on {entry(device)}" for device in devices if device and len(devices) == 1]
    answers = [fit.answer() for fit in fits]
    if any(answer is not None for answer in answers):
        notes.append("in brackets the 95 % prediction interval of the fitted line")
    if any(run.form for run in runs if run.complete):
        notes.append("no line through runs in the dual form")
    if (most := most_concurrent(runs)) > 1:
        notes.append(f"up to {most:,} runs at a time")
    figure, (axes,) = frame(heading(runs), notes)
    highest = max(fit.y.max() for fit in fits)
    length, name = unit(highest)
    right = 1.04 * max(fit.x.max() for fit in fits)
    looks = styles([fit.values for fit in fits])
    for fit, answer, (colour, dash, marker) in zip(fits, answers, looks):
        axes.plot(fit.x, fit.y / length, marker, color=colour, ms=4, clip_on=False, zorder=3)
        if fit.line is not None:
            ends = np.array([0.0, right])
            label = ", ".join(map(entry, fit.values)) or "fitted line"
            if answer is not None:
                label += f": {fit.full_size:,} examples take {answer}"
            axes.plot(ends, fit.line.at(ends) / length, dash, color=colour, lw=1.2, label=label)
    axes.set_xlim(0, right)
    axes.set_xlabel(LABELS["train_size"])
    of = "of one epoch" if epochs in (None, 1) else f"of {epochs:,} epochs"
    axes.set_ylabel(f"Training time {of} ({name})")
    ticks(axes, sorted({size for fit in fits for size in fit.x}), "linear")
    # Times rise to the right, so the upper left is free once there is room above them all.
    handles, labels = axes.get_legend_handles_labels()
    title = ", ".join(LABELS.get(key, key) for key in keys)
    room = 0.08 + 0.062 * (min(len(handles), ENTRIES) + bool(title))
    axes.set_ylim(0, highest / length / (1 - room))
    if not handles:
        return figure
    if len(handles) > ENTRIES:
        labels[ENTRIES - 1] = f"and {len(handles) - ENTRIES + 1:,} more"
        handles[ENTRIES - 1] = Line2D([], [], ls="none")
    axes.legend(
        handles[:ENTRIES],
        labels[:ENTRIES],
        title=title or None,
        title_fontsize=FONT,
        fontsize=FONT,
        loc="upper left",
        frameon=False,
        alignment="left",
    )
    return figure


def accuracy(runs: Sequence[RunRecord], metric: Metric = METRICS["accuracy"]) -> Figure | None:
    """Draw test accuracy in %, or another metric, over what varied. None where only the seed did,
    or nothing was tested."""
    runs = [run for run in runs if metric in run.task.metrics]
    keys = ordered_factors(runs)
    column = TESTED[metric.name]
    tested = [run for run in runs if len(column.known([run]))]
    if not keys or not tested:
        return None
    key, *others = keys
    others = most_first(tested, others)
    values = sorted({run.settings.get(key) for run in tested}, key=rank)
    scale = scale_of(key, values)
    series = grouped(tested, others)
    notes = alike_note(list(series), others)
    lost = [run.status for run in runs if run.tested(metric) is None]
    counts = [f"{lost.count(s):,} {s}" for s in ("diverged", "failed") if s in lost]
    if counts:
        notes.append(f"not shown: {', '.join(counts)}")
    found = {
        setting: {point: column.estimate(same) for point, same in grouped(group, [key]).items()}
        for setting, group in series.items()
    }
    kinds = {each.of for points in found.values() for each in points.values()}
    notes = seeds_note(tested, keys, "bar") + [ONE_SEED] * ("examples" in kinds) + notes
    figure, (axes,) = frame(heading(runs), notes)
    looks = styles(list(series))
    for index, (points, (colour, dash, marker)) in enumerate(zip(found.values(), looks)):
        # Side by side, or the series would hide each other.
        shift = (index - (len(series) - 1) / 2) * 0.6 / len(series)
        x: list[Any] = [values.index(v) + shift if scale == "category" else v for (v,) in points]
        scaled = 100 if metric.percent else 1
        y = [scaled * each.mean for each in points.values()]
        ends = [(scaled * each.low, scaled * each.high) for each in points.values()]
        bars = [(at, *end) for at, end, each in zip(x, ends, points.values()) if each.of]
        if bars:
            axes.vlines(*zip(*bars), color=colour, lw=1)
        dash = "" if scale == "category" else dash
        axes.plot(x, y, marker + dash, color=colour, lw=1.2, ms=4)
    axes.set_xlabel(LABELS.get(key, key))
    axes.set_ylabel(y_label(metric.name, "test "))
    ticks(axes, values, scale)
    if others:
        explain(figure, [axes], list(series), others, markers=True)
    return figure


def loss(runs: Sequence[RunRecord], scale: str = "auto") -> Figure | None:
    """Draw training loss over epochs, a line per run; seeds as their mean and its interval. Many
    settings of two options or more get a panel for each value of one of them. None for a
    single run, or where no epoch ended."""
    drawn = [run for run in runs if np.isfinite(run.curves["train_loss"]).any()]
    if len(runs) < 2 or not drawn:
        return None
    title, keys = heading(runs), most_first(drawn, ordered_factors(runs))
    runs = drawn
    notes = seeds_note(runs, keys, "band")
    if any(run.status == "diverged" for run in runs):
        notes.append("cross: diverged")
    apart = panel_key(runs, keys)
    keys = [key for key in keys if key != apart]
    parts = grouped(runs, [apart]) if apart else {(): runs}
    titles = [panel_title([apart], values) for values in parts] if apart else []
    settings = sorted(grouped(runs, keys), key=lambda setting: tuple(map(rank, setting)))
    notes += alike_note(settings, keys)
    figure, panels = frame(title, notes, len(parts), titles=titles)
    looks = dict(zip(settings, styles(settings)))
    kept = [run.curves["train_loss"] for run in runs if run.status != "diverged"]
    kept = kept or [run.curves["train_loss"] for run in runs]
    for axes, part in zip(panels, parts.values()):
        over_epochs(axes, "Training loss", kept)
        fit_loss(axes, kept, scale)
        draw_losses(axes, grouped(part, keys), looks)
    label_outer(panels)
    if keys:
        explain(figure, panels, settings, keys)
    return figure


def panel_key(runs: Sequence[RunRecord], keys: Sequence[str]) -> str | None:
    """Choose the option that gets a panel for each value, where one panel would be too full."""
    counts = {key: len(grouped(runs, [key])) for key in keys}
    few = [key for key in keys if 1 < counts[key] <= PANELS]
    full = len(grouped(runs, keys)) > 2 * ENTRIES
    return min(few, key=lambda key: counts[key]) if full and few and len(keys) > 1 else None


def draw_losses(
    axes: Axes,
    groups: dict[tuple[Value, ...], list[RunRecord]],
    looks: dict[tuple[Value, ...], Style],
) -> None:
    """Draw a line for each setting: of several seeds their mean, with its interval."""
    width, alpha = (1.3, 1.0) if len(groups) <= 2 * ENTRIES else (0.6, 0.5)
    for setting, group in groups.items():
        colour, dash, _ = looks[setting]
        whole = [run for run in group if run.complete]
        look = {"color": colour, "ls": dash, "lw": width, "alpha": alpha}
        if len(whole) > 1:
            epochs = min((run.curves["epoch"] for run in whole), key=len)
            losses = np.array([run.curves["train_loss"][: len(epochs)] for run in whole])
            mean, margin = losses.mean(axis=0), half_interval(losses)
            plot(axes, epochs, mean, **look)
            axes.fill_between(epochs, mean - margin, mean + margin, color=colour, alpha=0.2, lw=0)
        for run in group:
            if len(whole) < 2 or not run.complete:
                plot(axes, run.curves["epoch"], run.curves["train_loss"], **look)
            if run.status == "diverged":
                mark_end(axes, run.curves, colour)


def loss_curves(runs: Sequence[RunRecord], scale: str = "auto") -> Figure | None:
    """Draw training and validation loss over epochs, a panel for each setting, a line for each
    run. None for a single run, without validation, or with more settings than panels."""
    return panel_curves(runs, "loss", scale)


def accuracy_curves(runs: Sequence[RunRecord]) -> Figure | None:
    """Draw training and validation accuracy in % as ``loss_curves`` does the losses."""
    return panel_curves(runs, "accuracy")


def panel_curves(runs: Sequence[RunRecord], quantity: str, scale: str = "auto") -> Figure | None:
    keys = ordered_factors(runs)
    drawn = [run for run in runs if run.reading and quantity in run.task.measures]
    groups = grouped(drawn, keys)
    if len(runs) < 2 or not 0 < len(groups) <= PANELS:
        return None
    seeds = max(map(len, groups.values()))
    notes = [f"a line for each of {seeds} {repeats(drawn)}"] if seeds > 1 else []
    titles = [panel_title(keys, values) for values in groups] if keys else []
    handles = marks(drawn, quantity == "loss")
    figure, panels = frame(heading(runs), notes, len(groups), handles, titles)
    kept = [run for run in drawn if run.status != "diverged"] or drawn
    shown = [run.curves[f"{part}_{quantity}"] for run in kept for part in PARTS]
    for axes, group in zip(panels, groups.values()):
        over_epochs(axes, y_label(quantity), [run.curves["epoch"] for run in drawn])
        if quantity == "loss":
            fit_loss(axes, shown, scale)
        for run in group:
            draw_curves(axes, run, quantity, 1.3 if len(group) == 1 else 0.7)
    label_outer(panels)
    return figure


def curves(run: RunRecord, scale: str = "auto") -> Figure:
    """Draw loss and accuracy (or R²) of one run over epochs: training and, if any, validation."""
    notes = [run.stop_reason or ("unfinished" if run.status == "running" else run.status)]
    tested = run.tested(run.main)
    if tested is not None:
        shown = f"{100 * tested:.1f} %" if run.main.percent else f"{tested:.3f}"
        notes.append(f"test {run.main.title} {shown}")
        if run.weights_of_epoch not in (None, run.epochs):
            notes[-1] += f" with the weights of epoch {run.weights_of_epoch}"
    figure, panels = frame(heading([run]), notes, 2, marks([run], True))
    for axes, quantity in zip(panels, ("loss", run.main.name)):
        values = [run.curves[f"{part}_{quantity}"] for part in PARTS]
        over_epochs(axes, y_label(quantity, "" if run.reading else "training "), values)
        if quantity == "loss":
            fit_loss(axes, values, scale)
        draw_curves(axes, run, quantity, 1.3)
    return figure


# Their parts


def draw_curves(axes: Axes, run: RunRecord, quantity: str, width: float) -> None:
    """Draw a run's training and validation curve, and mark what ``marks`` explains."""
    epoch = run.curves["epoch"]
    for part, colour, dash in zip(PARTS, COLOURS, DASHES):
        y = run.curves[f"{part}_{quantity}"] * (100 if is_percent(quantity) else 1)
        plot(axes, epoch, y, color=colour, ls=dash, lw=width)
    if run.reading and quantity == "loss":
        best = epoch == run.reading.best_epoch
        axes.plot(epoch[best], run.curves["valid_loss"][best], **BEST)
    if run.status == "stopped":
        axes.axvline(run.epochs, lw=0.8 * width, **STOPPED)
    if quantity == "loss" and broke_off(run):
        mark_end(axes, run.curves, COLOURS[0])


def marks(runs: Sequence[RunRecord], losses: bool) -> list[Line2D]:
    """Make the legend of what ``draw_curves`` draws of these runs."""
    handles = []
    if any(run.reading for run in runs):
        looks = zip(PARTS.values(), COLOURS, DASHES)
        handles += [Line2D([], [], color=c, ls=dash, label=name) for name, c, dash in looks]
        if losses:
            handles.append(Line2D([], [], label="best validation loss", **BEST))
    if any(run.status == "stopped" for run in runs):
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
    names = [LABELS.get(key, key).partition(" (")[0] for key in keys]
    return ", ".join(f"{name[0].lower()}{name[1:]} {entry(v)}" for name, v in zip(names, values))


def y_label(quantity: str, of: str = "") -> str:
    text = of + (METRICS[quantity].title if quantity in METRICS else quantity)
    return text[0].upper() + text[1:] + " (%)" * is_percent(quantity)


def is_percent(quantity: str) -> bool:
    return quantity in METRICS and METRICS[quantity].percent


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
    return " · ".join(parts)


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


def seeds_note(runs: Sequence[RunRecord], keys: Sequence[str], drawn: str) -> list[str]:
    counts = {len([r for r in group if r.complete]) for group in grouped(runs, keys).values()}
    if max(counts) < 2:
        return []
    several = f"{'up to ' * (len(counts) > 1)}{max(counts)} {repeats(runs)}"
    return [f"mean of {several}, {drawn}: its 95 % confidence interval"]


def alike_note(settings: Sequence[tuple[Value, ...]], keys: Sequence[str]) -> list[str]:
    """Say in what settings differ that look alike, because so many cannot be told apart."""
    if legend_values(settings)[1]:
        return []
    varying = [key for key, values in zip(keys, zip(*settings)) if len(set(values)) > 1][1:]
    names = [LABELS.get(key, key).partition(" (")[0].lower() for key in varying]
    return [f"lines of one colour differ in {', '.join(names)}"]
