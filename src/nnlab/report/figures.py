"""The figures of a study: time and accuracy over what varied, curves over epochs.

Each is built by a function that returns a matplotlib Figure, or None where it does not
apply. Never pyplot: its global state is unsafe in threads, and slow to import.
"""

from __future__ import annotations

import io
import itertools
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)

from nnlab.records import write_whole
from nnlab.report.curves import Array
from nnlab.report.runs import Run, Value, factors, grouped, is_number, is_seed, rank, spell
from nnlab.report.times import timings, unit
from nnlab.text import shortened, visible

DPI, FONT = 200, 8
LEFT, BOTTOM, RIGHT = 0.125, 0.135, 0.97
ENTRIES = 8  # that a legend can have; beyond, a colour bar
PANELS = 6  # that a figure can have, a setting each
# Okabe & Ito, Color Universal Design (2008), without the yellow that is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES, MARKERS = ("-", "--", ":", "-."), ("o", "s", "^", "D")
PARTS = {"train": "training", "valid": "validation"}
BEST: dict[str, Any] = {"marker": "o", "ls": "", "ms": 4, "mew": 1, "mfc": "w", "zorder": 4}
BEST["color"] = COLOURS[1]
STOPPED: dict[str, Any] = {"color": "0.35", "ls": ":"}
CROSS: dict[str, Any] = {"marker": "x", "ls": "", "ms": 5, "mew": 1.2}
LABELS = {
    "train_size": "Training-set size (examples)",
    "valid_size": "Validation-set size (examples)",
    "batch_size": "Batch size (examples)",
    "dataset": "Dataset",
    "dataset.function": "Boolean function",
    "dataset.inputs": "Inputs",
    "dataset.num_classes": "Classes",
    "model": "Model",
    "optimizer": "Optimizer",
    "optimizer.lr": "Learning rate",
    "optimizer.momentum": "Momentum",
    "optimizer.weight_decay": "Weight decay",
    "model.hidden": "Hidden layers (units)",
    "model.activation": "Activation",
    "stopping": "Stopping rule",
    "stopping.max_epochs": "Epochs at most",
    "stopping.min_delta": "Least decrease",
    "stopping.patience": "Patience (epochs)",
    "engine": "Engine",
    "device": "Device",
    "data": "Data (digest)",
}
NAMES = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}
NAMES |= {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "boolean": "Boolean function"}
NAMES |= {"dogset": "DogSet", "dogset_synthetic": "DogSet (synthetic images)"}
NAMES |= {"mlp": "MLP", "deep_linear": "deep linear", "perceptron": "perceptrons"}

Style = tuple[Any, str, str]  # colour, dash, marker


def write(runs: Sequence[Run], study: Path, curves_for: Sequence[Path] = ()) -> list[Path]:
    """Draw what applies into the study's folder, remove what does not; return what there is."""
    drawings = {
        "train_time": train_time,
        "accuracy": accuracy,
        "loss": loss,
        "loss_curves": loss_curves,
        "accuracy_curves": accuracy_curves,
    }
    files = []
    for name, draw in drawings.items():
        path = study / f"{name}.png"
        figure = draw(runs)
        if figure is None:
            path.unlink(missing_ok=True)
        else:
            files.append(save(figure, path))
    asked = {folder.resolve() for folder in curves_for}
    for run in runs:
        path = run.folder / "curves.png"
        if not len(run.curves["epoch"]):
            path.unlink(missing_ok=True)
        elif len(runs) == 1 or run.folder.resolve() in asked or outdated(path):
            files.append(save(curves(run), path))
    return files


def outdated(path: Path) -> bool:
    """Tell whether a curves.png is there, and older than the metrics beside it."""
    metrics = path.with_name("metrics.csv")
    return path.exists() and metrics.exists() and path.stat().st_mtime < metrics.stat().st_mtime


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG, as a whole or not at all."""
    # Lightly compressed: four times as fast, a tenth larger.
    content = io.BytesIO()
    figure.savefig(content, pil_kwargs={"compress_level": 2})
    write_whole(path, content.getvalue())
    return path


# The figures


def train_time(runs: Sequence[Run]) -> Figure | None:
    """Draw training time over training-set size, the fitted lines, and what these predict
    for the full training set. None with fewer than two sizes."""
    keys, epochs, fits = timings(runs)
    if not fits:
        return None
    devices = {run.device for run in runs if run.complete}
    notes = [f"on {entry(device)}" for device in devices if device and len(devices) == 1]
    answers = [fit.answer() for fit in fits]
    if any("±" in answer for answer in answers if answer is not None):
        notes.append("± 95 % prediction interval of the fitted line")
    if any(run.form for run in runs if run.complete):
        notes.append("no line through runs in the dual form")
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


def accuracy(runs: Sequence[Run]) -> Figure | None:
    """Draw test accuracy in % over what varied. None where only the seed did, or nothing
    was tested."""
    keys = ordered_factors(runs)
    tested = [run for run in runs if run.test_accuracy is not None]
    if not keys or not tested:
        return None
    key, *others = keys
    others = most_first(tested, others)
    values = sorted({run.settings.get(key) for run in tested}, key=rank)
    scale = scale_of(key, values)
    series = grouped(tested, others)
    notes = seeds_note(tested, keys, "standard deviation") + alike_note(list(series), others)
    lost = [run.status for run in runs if run.test_accuracy is None]
    counts = [f"{lost.count(s):,} {s}" for s in ("diverged", "failed") if s in lost]
    if counts:
        notes.append(f"not shown: {', '.join(counts)}")
    figure, (axes,) = frame(heading(runs), notes)
    looks = styles(list(series))
    for index, (group, (colour, dash, marker)) in enumerate(zip(series.values(), looks)):
        points = grouped(group, [key])
        # Side by side, or the series would hide each other.
        shift = (index - (len(series) - 1) / 2) * 0.6 / len(series)
        x: list[Any] = [values.index(v) + shift if scale == "category" else v for (v,) in points]
        found = [100 * np.array([run.test_accuracy for run in same]) for same in points.values()]
        y = [float(same.mean()) for same in found]
        if any(len(same) > 1 for same in found):
            spread = [float(same.std(ddof=1)) if len(same) > 1 else 0.0 for same in found]
            axes.errorbar(x, y, spread, ls="none", color=colour, elinewidth=1, capsize=2.5)
        dash = "" if scale == "category" else dash
        axes.plot(x, y, marker + dash, color=colour, lw=1.2, ms=4)
    axes.set_xlabel(LABELS.get(key, key))
    axes.set_ylabel("Test accuracy (%)")
    ticks(axes, values, scale)
    if others:
        explain(figure, [axes], list(series), others, markers=True)
    return figure


def loss(runs: Sequence[Run]) -> Figure | None:
    """Draw training loss over epochs, a line per run; seeds as their mean and range. Many
    settings of two options or more get a panel for each value of one of them. None for a
    single run, or where no epoch ended."""
    drawn = [run for run in runs if np.isfinite(run.curves["train_loss"]).any()]
    if len(runs) < 2 or not drawn:
        return None
    title, keys = heading(runs), most_first(drawn, ordered_factors(runs))
    runs = drawn
    notes = seeds_note(runs, keys, "range")
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
        loss_scale(axes, kept)
        draw_losses(axes, grouped(part, keys), looks)
    label_outer(panels)
    if keys:
        explain(figure, panels, settings, keys)
    return figure


def panel_key(runs: Sequence[Run], keys: Sequence[str]) -> str | None:
    """Choose the option that gets a panel for each value, where one panel would be too full."""
    counts = {key: len(grouped(runs, [key])) for key in keys}
    few = [key for key in keys if 1 < counts[key] <= PANELS]
    full = len(grouped(runs, keys)) > 2 * ENTRIES
    return min(few, key=lambda key: counts[key]) if full and few and len(keys) > 1 else None


def draw_losses(
    axes: Axes, groups: dict[tuple[Value, ...], list[Run]], looks: dict[tuple[Value, ...], Style]
) -> None:
    """Draw a line for each setting: of several seeds their mean, with their range."""
    width, alpha = (1.3, 1.0) if len(groups) <= 2 * ENTRIES else (0.6, 0.5)
    for setting, group in groups.items():
        colour, dash, _ = looks[setting]
        whole = [run for run in group if run.complete]
        look = {"color": colour, "ls": dash, "lw": width, "alpha": alpha}
        if len(whole) > 1:
            epochs = min((run.curves["epoch"] for run in whole), key=len)
            losses = np.array([run.curves["train_loss"][: len(epochs)] for run in whole])
            plot(axes, epochs, losses.mean(axis=0), **look)
            low, high = losses.min(axis=0), losses.max(axis=0)
            axes.fill_between(epochs, low, high, color=colour, alpha=0.2, lw=0)
        for run in group:
            if len(whole) < 2 or not run.complete:
                plot(axes, run.curves["epoch"], run.curves["train_loss"], **look)
            if run.status == "diverged":
                mark_end(axes, run.curves, colour)


def loss_curves(runs: Sequence[Run]) -> Figure | None:
    """Draw training and validation loss over epochs, a panel for each setting, a line for each
    run. None for a single run, without validation, or with more settings than panels."""
    return panel_curves(runs, "loss")


def accuracy_curves(runs: Sequence[Run]) -> Figure | None:
    """Draw training and validation accuracy in % as ``loss_curves`` does the losses."""
    return panel_curves(runs, "accuracy")


def panel_curves(runs: Sequence[Run], quantity: str) -> Figure | None:
    keys = ordered_factors(runs)
    drawn = [run for run in runs if run.reading]
    groups = grouped(drawn, keys)
    if len(runs) < 2 or not 0 < len(groups) <= PANELS:
        return None
    seeds = max(map(len, groups.values()))
    notes = [f"a line for each of {seeds} seeds"] if seeds > 1 else []
    titles = [panel_title(keys, values) for values in groups] if keys else []
    handles = marks(drawn, quantity == "loss")
    figure, panels = frame(heading(runs), notes, len(groups), handles, titles)
    kept = [run for run in drawn if run.status != "diverged"] or drawn
    shown = [run.curves[f"{part}_{quantity}"] for run in kept for part in PARTS]
    for axes, group in zip(panels, groups.values()):
        over_epochs(axes, y_label(quantity), [run.curves["epoch"] for run in drawn])
        if quantity == "loss":
            loss_scale(axes, shown)
        for run in group:
            draw_curves(axes, run, quantity, 1.3 if len(group) == 1 else 0.7)
    label_outer(panels)
    return figure


def curves(run: Run) -> Figure:
    """Draw loss and accuracy of one run over epochs: training and, if any, validation."""
    notes = [run.stop_reason or ("unfinished" if run.status == "running" else run.status)]
    if run.test_accuracy is not None:
        notes.append(f"test accuracy {100 * run.test_accuracy:.1f} %")
        if run.weights_of_epoch not in (None, run.epochs):
            notes[-1] += f" with the weights of epoch {run.weights_of_epoch}"
    figure, panels = frame(heading([run]), notes, 2, marks([run], True))
    for axes, quantity in zip(panels, ("loss", "accuracy")):
        values = [run.curves[f"{part}_{quantity}"] for part in PARTS]
        over_epochs(axes, y_label(quantity, "" if run.reading else "training "), values)
        if quantity == "loss":
            loss_scale(axes, values)
        draw_curves(axes, run, quantity, 1.3)
    return figure


# Their parts


def frame(
    title: str,
    notes: Sequence[str],
    panels: int = 1,
    handles: Sequence[Line2D] = (),
    titles: Sequence[str] = (),
) -> tuple[Figure, list[Axes]]:
    """Make a figure with its title, and below that notes in grey and a legend of handles,
    above empty axes.

    titles: of each panel; panels with titles share their axes, three in a row.
    """
    rows = -(-panels // 3) if titles else 1
    columns = -(-panels // rows)
    width, height = (5.0, 3.4) if panels == 1 else (6.8, 1.2 + 1.8 * rows)
    figure = Figure((width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    lines = textwrap.wrap(title, int(14.5 * width))
    line = 0.16 / height
    top = 1 - 0.35 * line
    left = LEFT * 5 / width
    figure.text(left, top, "\n".join(lines), size=FONT, va="top", linespacing=1.25)
    top -= line * len(lines)
    remarks = textwrap.wrap("; ".join(notes), int(15.5 * width))
    figure.text(left, top, "\n".join(remarks), size=FONT - 1, va="top", color="0.35")
    top -= line * len(remarks)
    if handles:
        figure.legend(
            handles=handles,
            ncols=len(handles),
            fontsize=FONT,
            frameon=False,
            borderaxespad=0,
            borderpad=0.1,
            columnspacing=1.5,
            handlelength=1.8,
            loc="upper left",
            bbox_to_anchor=(left, top),
        )
        top -= line
    wrapped = ["\n".join(textwrap.wrap(text, 90 // columns)) for text in titles]
    head = line * max((text.count("\n") + 1.2 for text in wrapped), default=0)
    top -= line / 2 + head
    bottom = BOTTOM * 3.4 / height
    # matplotlib wants the gaps in units of a panel's width and height.
    aside, below = 0.03 if titles else 0.1, head + line
    across = (RIGHT - left + aside) / columns - aside
    up = (top - bottom + below) / rows - below
    grid = {"left": left, "right": RIGHT, "bottom": bottom, "top": top}
    grid |= {"wspace": aside / across, "hspace": below / up}
    shared = bool(titles)
    made = list(
        figure.subplots(
            rows, columns, sharex=shared, sharey=shared, squeeze=False, gridspec_kw=grid
        ).flat
    )
    for axes in made:
        axes.tick_params(labelsize=FONT, width=0.6)
        axes.xaxis.label.set_fontsize(FONT + 1)
        axes.yaxis.label.set_fontsize(FONT + 1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_linewidth(0.6)
        axes.grid(axis="y", color="0.9", lw=0.6)
        axes.set_axisbelow(True)
    for axes, text in zip(made, wrapped):
        axes.set_title(text, size=FONT, loc="left")
    for axes in made[panels:]:
        axes.remove()
    return figure, made[:panels]


def draw_curves(axes: Axes, run: Run, quantity: str, width: float) -> None:
    """Draw a run's training and validation curve, and mark what ``marks`` explains."""
    epoch = run.curves["epoch"]
    for part, colour, dash in zip(PARTS, COLOURS, DASHES):
        y = run.curves[f"{part}_{quantity}"] * (100 if quantity == "accuracy" else 1)
        plot(axes, epoch, y, color=colour, ls=dash, lw=width)
    if run.reading and quantity == "loss":
        best = epoch == run.reading.best_epoch
        axes.plot(epoch[best], run.curves["valid_loss"][best], **BEST)
    if run.status == "stopped":
        axes.axvline(run.epochs, lw=0.8 * width, **STOPPED)
    if quantity == "loss" and broke_off(run):
        mark_end(axes, run.curves, COLOURS[0])


def marks(runs: Sequence[Run], losses: bool) -> list[Line2D]:
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


def broke_off(run: Run) -> bool:
    """Tell whether a run diverged after a loss that can be drawn."""
    return run.status == "diverged" and bool(np.isfinite(run.curves["train_loss"]).any())


def panel_title(keys: Sequence[str], values: Sequence[Value]) -> str:
    """Write a setting, as in "learning rate 1e-5, batch size 10"."""
    names = [LABELS.get(key, key).partition(" (")[0] for key in keys]
    return ", ".join(f"{name[0].lower()}{name[1:]} {entry(v)}" for name, v in zip(names, values))


def label_outer(panels: Sequence[Axes]) -> None:
    """Label only the outer axes of panels that share them."""
    columns = panels[0].get_subplotspec().get_gridspec().ncols  # type: ignore[union-attr]
    for index, axes in enumerate(panels):
        axes.label_outer()
        if index + columns >= len(panels):  # the last row may be shorter
            axes.set_xlabel("Epoch")
            axes.tick_params(labelbottom=True)


def y_label(quantity: str, of: str = "") -> str:
    return f"{of}{quantity}".capitalize() + " (%)" * (quantity == "accuracy")


def heading(runs: Sequence[Run]) -> str:
    """State what the runs have in common: dataset, model, optimizer, batch size."""
    varying = set(factors(runs))
    shared = {k: v for k, v in runs[0].settings.items() if k not in varying and v is not None}
    parts = [entry(shared["dataset"])] if "dataset" in shared else []
    if "train_size" in shared:
        parts.append(f"{entry(shared['train_size'])} examples")
    if "model" in shared and "model.hidden" in shared:
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


def layers(runs: Sequence[Run]) -> str:
    """Write the sizes of all layers, as in 784-128-64-10.

    Inputs and outputs follow from the counts that a run records: the parameters that are
    not weights are one bias per unit. Without counts only the hidden layers are known.
    """
    hidden = list(runs[0].settings["model.hidden"])  # type: ignore[arg-type]
    counts = {run.weights for run in runs if run.weights is not None}  # datasets may differ
    for run in runs:
        if run.weights and run.parameters and len(counts) == 1:
            outputs = run.parameters - run.weights - sum(hidden)
            sizes = [*hidden, outputs]
            inner = sum(a * b for a, b in itertools.pairwise(sizes))
            inputs, rest = divmod(run.weights - inner, sizes[0]) if sizes[0] > 0 else (0, 1)
            if inputs > 0 and outputs > 0 and rest == 0:
                return "-".join(map(str, [inputs, *sizes]))
    return "-".join(map(str, hidden)) or "without hidden layers"


def ordered_factors(runs: Sequence[Run]) -> list[str]:
    """Order what varied by how well it serves as an abscissa: training-set size, then
    numbers, then words. Without the seed."""
    keys = [key for key in factors(runs) if not is_seed(key)]

    def words(key: str) -> bool:
        return not all(is_number(run.settings.get(key)) for run in runs)

    return sorted(keys, key=lambda key: (key != "train_size", words(key)))


def most_first(runs: Sequence[Run], keys: Sequence[str]) -> list[str]:
    """Move a factor with more values than there are dashes to the front, for colours."""

    def many(key: str) -> bool:
        return len({run.settings.get(key) for run in runs}) > len(DASHES)

    return sorted(keys, key=lambda key: not many(key))


def seeds_note(runs: Sequence[Run], keys: Sequence[str], spread: str) -> list[str]:
    counts = {len([r for r in group if r.complete]) for group in grouped(runs, keys).values()}
    if max(counts) < 2:
        return []
    return [f"mean and {spread} of {'up to ' * (len(counts) > 1)}{max(counts)} seeds"]


def alike_note(settings: Sequence[tuple[Value, ...]], keys: Sequence[str]) -> list[str]:
    """Say in what settings differ that look alike, because so many cannot be told apart."""
    if legend_values(settings)[1]:
        return []
    varying = [key for key, values in zip(keys, zip(*settings)) if len(set(values)) > 1][1:]
    names = [LABELS.get(key, key).partition(" (")[0].lower() for key in varying]
    return [f"lines of one colour differ in {', '.join(names)}"]


def scale_of(key: str, values: Sequence[Value]) -> str:
    """Choose linear or log for numbers, category for all else."""
    if not all(map(is_number, values)):
        return "category"
    positive = [value for value in values if value > 0]  # type: ignore[operator]
    wide = len(positive) > 1 and positive[-1] >= 30 * positive[0]  # type: ignore[operator]
    if wide or (key == "optimizer.lr" and positive):
        return "log" if len(positive) == len(values) else "category"
    return "linear"


def ticks(axes: Axes, values: Sequence[Any], scale: str) -> None:
    """Label the abscissa at the values themselves where they lie far enough apart."""
    axis = axes.xaxis
    if scale == "category":
        shown = range(0, len(values), -(-len(values) // 16))
        labels = [entry(values[index]) for index in shown]
        axes.set_xlim(-0.5, len(values) - 0.5)
        axes.set_xticks(shown, labels)
        if sum(map(len, labels)) > 50:
            steep = len(labels) > 12
            axis.set_tick_params(rotation=90 if steep else 20)
            for label in axis.get_ticklabels():
                label.set_horizontalalignment("center" if steep else "right")
            left, bottom, width, height = axes.get_position().bounds
            extra = (0.018 if steep else 0.012) * max(map(len, labels))
            axes.set_position((left, bottom + extra, width, height - extra))
        return
    axes.set_xscale(scale)
    low, high = axes.get_xlim()
    places = np.log(values) if scale == "log" else np.array(values, dtype=float)
    length = np.log(high / low) if scale == "log" else high - low
    inches = 5 * axes.get_position().width
    room = 0.1 + 0.07 * max(len(number(value)) for value in values)
    if len(values) < 2 or np.diff(places).min() / length * inches >= room:
        axis.set_major_locator(FixedLocator(values))
        axis.set_minor_locator(NullLocator())
    elif scale == "linear":
        whole = all(float(value).is_integer() for value in values)
        axis.set_major_locator(MaxNLocator(5, integer=whole))
    axis.set_major_formatter(FuncFormatter(number))
    axis.set_minor_formatter(NullFormatter())


def over_epochs(axes: Axes, label: str, values: Sequence[Array]) -> None:
    axes.set_xlabel("Epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(number))
    axes.set_xlim(0, 1.02 * max(2, *map(len, values)))


def loss_scale(axes: Axes, losses: Sequence[Array]) -> None:
    """Fit the ordinate to these losses, on a log scale where they span a factor of ten.

    What falls below 1e-5 of the loss that a curve typically begins with is as good as none.
    Leave out of them the runs that diverged, or those press all others flat.
    """
    known = np.concatenate(losses)
    known = known[np.isfinite(known) & (known > 0)]
    if not len(known):
        return
    begin = np.median(
        [curve[np.isfinite(curve)][:1] for curve in losses if np.isfinite(curve).any()]
    )
    low, high = max(float(known.min()), 1e-5 * float(begin)), float(known.max())
    if high <= 10 * low:
        margin = 0.05 * (high - low) or 0.05 * high
        axes.set_ylim(low - margin, high + margin)
        return
    axes.set_yscale("log")
    margin = (high / low) ** 0.05
    axes.set_ylim(low / margin, high * margin)
    steps = (1, 2, 5) if high < 500 * low else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=steps, numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(power))
    axes.yaxis.set_minor_locator(NullLocator())


def plot(axes: Axes, x: Array, y: Array, **look: Any) -> None:
    """Draw a line through the finite values; a lone one as a dot, or it would not be seen."""
    finite = np.isfinite(y)
    if finite.any():
        axes.plot(x[finite], y[finite], marker="." if finite.sum() == 1 else None, **look)


def mark_end(axes: Axes, curves: dict[str, Array], colour: Any) -> None:
    """Cross the last finite loss, at the upper edge where it left the axes."""
    finite = np.isfinite(curves["train_loss"])
    x, y = curves["epoch"][finite][-1], curves["train_loss"][finite][-1]
    y = min(y, axes.get_ylim()[1])
    axes.plot(x, y, color=colour, clip_on=False, zorder=4, **CROSS)


def styles(settings: Sequence[tuple[Value, ...]]) -> list[Style]:
    """Give each setting its colour by its first value, dash and marker by the others."""
    firsts, others = legend_values(settings)
    colours = dict(zip(firsts, palette(firsts)))
    kinds = {other: index for index, other in enumerate(others)}
    found = [(colours[setting[:1]], kinds.get(setting[1:], 0)) for setting in settings]
    return [(colour, DASHES[kind], MARKERS[kind]) for colour, kind in found]


def legend_values(settings: Sequence[tuple[Value, ...]]) -> tuple[list[Any], list[Any]]:
    """List what colours tell apart, and what dashes and markers do: nothing where there
    are more than can be told apart."""

    def distinct(parts: set[tuple[Value, ...]]) -> list[tuple[Value, ...]]:
        return sorted(parts, key=lambda part: tuple(map(rank, part)))

    others = distinct({setting[1:] for setting in settings})
    few = len(others) <= len(DASHES) and len(settings) <= 5 * ENTRIES
    return distinct({setting[:1] for setting in settings}), others if few else []


def palette(firsts: Sequence[tuple[Value, ...]]) -> list[Any]:
    """Choose colours: in sequence for numbers and for many, told apart at sight for words."""
    if len(firsts) == 1 or (
        len(firsts) <= len(COLOURS) and not all(is_number(value) for (value,) in firsts)
    ):
        return list(COLOURS[: len(firsts)])
    # The bright end of viridis is too faint on white.
    return list(matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(firsts))))


def explain(
    figure: Figure,
    panels: Sequence[Axes],
    settings: Sequence[tuple[Value, ...]],
    keys: Sequence[str],
    markers: bool = False,
) -> None:
    """Say right of the axes what colours and dashes mean, and make the axes narrower by it."""
    firsts, others = legend_values(settings)
    boxes = [axes.get_position() for axes in panels]
    left, bottom = min(box.x0 for box in boxes), min(box.y0 for box in boxes)
    height = max(box.y1 for box in boxes) - bottom
    titles = [LABELS.get(key, key) for key in keys]
    sample: dict[str, Any] = {"xdata": [], "ydata": [], "ms": 4, "lw": 1.2}
    parts: list[tuple[str, list[Line2D]]] = []
    if 1 < len(firsts) <= ENTRIES:
        colours = zip(firsts, palette(firsts))
        marker = "o" if markers else ""
        lines = [Line2D(color=c, marker=marker, label=entry(v), **sample) for (v,), c in colours]
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
            title_fontsize=FONT,
            fontsize=FONT,
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
        used = max(used, 0.18)
        place = figure.add_axes((0.99 - used, bottom, 0.02, top - bottom - 0.09))
        colour_bar(place, titles[0], [value for (value,) in firsts])
    for made, top in legends:
        made.set_bbox_to_anchor((0.99 - used, top))
    share = (RIGHT - left - used) / (RIGHT - left)
    for axes, box in zip(panels, boxes):
        axes.set_position((left + share * (box.x0 - left), box.y0, share * box.width, box.height))


def colour_bar(axes: Axes, title: str, values: Sequence[Value]) -> None:
    """Fill axes with the colours of many values, from the first at the bottom to the last."""
    colours = palette([(value,) for value in values])
    scale = ScalarMappable(Normalize(-0.5, len(values) - 0.5), ListedColormap(colours))
    shown = np.unique(np.linspace(0, len(values) - 1, 6).round().astype(int))
    bar = axes.figure.colorbar(scale, cax=axes, ticks=shown)
    bar.set_ticklabels([entry(values[index]) for index in shown])
    axes.set_title("\n".join(textwrap.wrap(title, 18)), size=FONT, loc="left")
    bar.outline.set_visible(False)
    bar.minorticks_off()
    axes.tick_params(labelsize=FONT - 1, length=2, width=0.6)


def entry(value: Value) -> str:
    """Write a value for a reader, as short as a legend needs.

    >>> [entry(value) for value in (60000, 1e-5, 0.0123456, "sgd", (128, 64), (), None)]
    ['60,000', '1e-5', '0.01235', 'SGD', '128-64', 'none', '-']
    """
    if isinstance(value, tuple):
        return "-".join(map(entry, value)) or "none"
    if value is None:
        return "-"
    if isinstance(value, float):
        return number(float(f"{value:.4g}"))
    if is_number(value):
        return number(value)
    return plain(NAMES.get(spell(value), spell(value)))


def plain(text: str, most: int = 32) -> str:
    r"""Write a name that others chose as a text for matplotlib, which shows it as it is.

    Shortened; characters that its font lacks as Python would write them.

    >>> plain("$x$ in $"), plain("_x"), plain("beagle")
    ('\\$x\\$ in \\$', ' _x', 'beagle')
    """
    fonts = [get_font(findfont(FontProperties(family=[name]))) for name in rcParams["font.family"]]
    shown = "".join(
        c
        if c.isascii() or any(font.get_char_index(ord(c)) for font in fonts)
        else c.encode("unicode_escape").decode()
        for c in visible(text)
    )
    shown = shortened(shown, most).replace("$", r"\$")  # two of them would begin a formula
    return f" {shown}" if shown.startswith("_") else shown  # or a legend would leave it out


def power(value: Any, _: object = None) -> str:
    """Write a number of any size in few characters; signature of a tick formatter.

    >>> [power(value) for value in (1e-5, 0.5, 1000, 2e7)]
    ['1e-5', '0.5', '1,000', '2e7']
    """
    return number(value) if value < 1e4 else f"{value:.0e}".replace("e+0", "e").replace("e+", "e")


def number(value: Any, _: object = None) -> str:
    """Write a number with thousands separators; signature of a tick formatter.

    >>> [number(value) for value in (60000, 0.015, 1e-4, 2.5e-5)]
    ['60,000', '0.015', '1e-4', '2.5e-5']
    """
    if 0 < abs(value) < 1e-3:
        return spell(float(f"{value:.10g}"))
    return f"{value:,.10g}".replace("e+0", "e").replace("e+", "e")
