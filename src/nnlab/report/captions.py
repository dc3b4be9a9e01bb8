"""What figures say in words: what their runs have in common, what is drawn, what is left out."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nnlab.losses import METRICS, Metric
from nnlab.report import columns
from nnlab.report.labels import phrase
from nnlab.report.looks import ALONE, legend_values
from nnlab.report.plotting import entry
from nnlab.report.runs import RunRecord, Setting, Value, factors, repeats, spell
from nnlab.report.selection import grouped

LAYERS = 20  # that are listed
LIMITS = {  # of a stopping rule, what tells most
    "plateau": "min_delta",
    "patience": "patience",
    "budget": "seconds",
    "target": "valid_accuracy",
}


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
    others are unknown or differ between datasets; of very many the first and the last."""
    sizes: list[Any] = list(runs[0].settings["model.hidden"])  # type: ignore[arg-type]
    hidden = len(sizes)
    ends = {(run.inputs, run.outputs) for run in runs if run.inputs and run.outputs}
    if len(ends) == 1:
        ((inputs, outputs),) = ends
        sizes = [inputs, *sizes, outputs]
    if len(sizes) > LAYERS:
        shown = [*sizes[: LAYERS - 3], "…", *sizes[-2:]]
        return f"{'-'.join(map(str, shown))} ({hidden:,} hidden layers)"
    return "-".join(map(str, sizes)) or "without hidden layers"


def panel_titles(keys: Sequence[str], settings: Iterable[Setting]) -> list[str]:
    """Write settings, each as in "learning rate 1e-5, batch size 10"; nothing without options."""
    if not keys:
        return []
    return [
        ", ".join(f"{phrase(key)} {entry(value)}" for key, value in zip(keys, values))
        for values in settings
    ]


def y_label(quantity: str, of: str = "") -> str:
    text = of + (columns.heading(METRICS[quantity]) if quantity in METRICS else quantity)
    return text[0].upper() + text[1:]


def percent(quantity: str) -> int:
    """Return what values of a quantity are multiplied by in figures."""
    return 100 if quantity in METRICS and METRICS[quantity].percent else 1


def seeds_note(runs: Sequence[RunRecord], keys: Sequence[str], drawn: str | None) -> list[str]:
    """Say that points or lines are means, and what is drawn to show how sure these are."""
    counts = {sum(run.complete for run in group) for group in grouped(runs, keys)}
    if max(counts) < 2:
        return []
    several = f"{'up to ' * (len(counts) > 1)}{max(counts)} {repeats(runs)}"
    return [f"mean of {several}" + f", {drawn}: its 95 % confidence interval" * bool(drawn)]


def uneven_note(runs: Sequence[RunRecord], keys: Sequence[str], few: bool) -> list[str]:
    """Say where the means of curves end, if other runs of their settings go on."""
    most = max(map(going_on, grouped(runs, keys)))
    if not most:
        return []
    after = f", then a thin line for {'some of the others' if most > ALONE else 'each other one'}"
    return [f"means end where the first of their runs ends{after * few}"]


def going_on(group: Sequence[RunRecord]) -> int:
    """Return how many runs of a setting go on after its first has ended."""
    ends = array("q", (run.last_epoch for run in group if run.complete))
    return len(ends) - ends.count(min(ends, default=0))


def alone_note(runs: Sequence[RunRecord], keys: Sequence[str], most: int) -> list[str]:
    """Say that not all runs that are in no mean are drawn, where these are too many."""
    counts = (sum(not run.complete for run in group) for group in grouped(runs, keys))
    if max(counts) <= most:
        return []
    of_each = " of each setting" * bool(keys)
    return [f"at most {most:,} of the runs that did not end well are drawn{of_each}"]


def thinned_note(runs: Sequence[RunRecord]) -> list[str]:
    """Say which epochs are drawn, where the curves were too many for all."""
    return [f"one epoch in {runs[0].every} is drawn"] * (runs[0].every > 1)


def lost(runs: Sequence[RunRecord], metric: Metric) -> list[str]:
    """Say how many runs a figure lacks, for they have no result."""
    ends = Counter(run.status for run in runs if run.tested(metric) is None)
    counts = [f"{ends[end]:,} {end}" for end in ("diverged", "failed") if ends[end]]
    return [f"not shown: {', '.join(counts)}"] if counts else []


def alike_note(settings: Sequence[Setting], keys: Sequence[str]) -> list[str]:
    """Say in what settings differ that look alike, because so many cannot be told apart."""
    if legend_values(settings)[1]:
        return []
    varying = [key for key, values in zip(keys, zip(*settings)) if len(set(values)) > 1][1:]
    return [f"lines of one colour differ in {', '.join(map(phrase, varying))}"] * bool(varying)
