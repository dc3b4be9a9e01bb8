"""The results of a run, as columns of ``summary.csv``, of the table and of the page.

A new result is one entry of ``RESULTS``, beside the place where it is computed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter, methodcaller
from typing import Any, TypeAlias

import numpy as np

from nnlab.losses import CLASSIFICATION, METRICS, TASKS, Metric
from nnlab.report.curves import Array
from nnlab.report.runs import RunRecord, Value, spell
from nnlab.report.times import duration_within

Condition: TypeAlias = "Callable[[Sequence[RunRecord]], bool]"

ENDS = {"finished": "max_epochs", "running": "unfinished"}  # words for a status


def mean(known: Array, style: str = ".3g", scale: float = 1, unit: str = "") -> str:
    """Write numbers, one or more, as mean ± standard deviation; a count that all share as it is.

    >>> mean(np.array([0.8, 0.9]), ".1f", 100, " %"), mean(np.array([7, 7])), mean(np.array([7, 9]))
    ('85.0 ± 7.1 %', '7', '8 ± 1.41')
    """
    known = scale * known
    if known.dtype.kind == "i" and len(set(known)) == 1:
        return f"{known[0]}{unit}"
    text = format(known.mean(), style)
    return f"{text} ± {known.std(ddof=1):{style}}{unit}" if len(known) > 1 else text + unit


def four_decimals(known: Array) -> str:
    return mean(known, ".4f")


def in_seconds(known: Array) -> str:
    """Write times to three digits, all in one unit.

    >>> in_seconds(np.array([0.03571])), in_seconds(np.array([4350.2]))
    ('0.0357', '4350')
    """
    least = float(known.min())
    return mean(known, f".{max(0, 2 - math.floor(math.log10(least))) if least > 0 else 0}f")


def mean_time(known: Array) -> str:
    return duration_within(float(known.mean()), float(known.std(ddof=1)) if len(known) > 1 else 0.0)


def counted(texts: Sequence[object]) -> str:
    """Write texts once each, with their number where they differ.

    >>> counted(["plateau", "plateau"]), counted(["plateau", "diverged", "plateau"])
    ('plateau', '2 plateau,\\n1 diverged')
    """
    counts = {text: texts.count(text) for text in texts}
    return ",\n".join(f"{n} {text}" if len(counts) > 1 else f"{text}" for text, n in counts.items())


@dataclass(frozen=True)
class Column:
    """One result of a run, and where it is shown.

    csv, table, page: its heading in ``summary.csv``, in the table, in the page's list of runs;
    "" where it is left out. value: of a run; None takes what ``result.json`` has under the
    heading of the CSV file. words: whether it is a text. write: puts the numbers of runs that
    differ only in their seeds into one cell of the table. when: whether runs have it at all;
    None: always.
    """

    csv: str = ""
    table: str = ""
    page: str = ""
    value: Callable[[RunRecord], Value] | None = None
    words: bool = False
    write: Callable[[Array], str] = mean
    when: Condition | None = None

    def of(self, run: RunRecord) -> Any:
        return run.results.get(self.csv) if self.value is None else self.value(run)

    def text(self, group: Sequence[RunRecord]) -> str:
        """Write the results of runs that differ only in their seeds: texts are counted, numbers
        are those of the complete runs, if any is; "-" where there are none."""
        runs = group if self.words else [run for run in group if run.complete] or group
        values = [value for run in runs if (value := self.of(run)) is not None]
        if self.words:
            return counted(values) or "-"
        known = np.array([value for value in values if math.isfinite(value)])
        return self.write(known) if len(known) else "-"


def ending(run: RunRecord) -> str:
    """Say in a word what ended a run."""
    if run.status == "stopped":
        return spell(run.settings.get("stopping"))
    if run.status == "finished" and run.epochs == 0:
        return "not trained"
    return ENDS.get(run.status, run.status)


def from_curves(name: str, run: RunRecord) -> Value:
    """Return what the curves say; in few epochs nothing of the end of learning."""
    if run.reading is None or (run.reading.short and name in ("learned_until", "overfits_from")):
        return None
    found: Value = getattr(run.reading, name)
    return found


def validated(runs: Sequence[RunRecord]) -> bool:
    return any(run.reading for run in runs)


def restored(runs: Sequence[RunRecord]) -> bool:
    """Tell whether any run ended with other weights than its last."""
    return any(run.weights_of_epoch not in (None, run.epochs) for run in runs)


def learned(metric: Metric) -> Condition:
    """Return what tells whether any run measures a metric."""
    return lambda runs: any(metric in run.task.metrics for run in runs)


def writer(metric: Metric) -> Callable[[Array], str]:
    """Return what writes a metric, fractions in per cent or to three digits, into the table."""
    if metric.percent:
        return lambda known: mean(known, ".1f", 100, " %")
    return functools.partial(mean, style=".3f" if metric.higher else ".3g")


def heading(metric: Metric) -> str:
    return f"{metric.title}{' (%)' * metric.percent}"


def in_full(metric: Metric) -> Callable[[Array], str]:
    """Return what writes a metric into the page, whose headings have the unit."""
    if metric.percent:
        return lambda known: mean(known, ".2f", 100)
    return functools.partial(mean, style=".4f" if metric.higher else ".4g")


def classified(runs: Sequence[RunRecord]) -> bool:
    return any(run.task is CLASSIFICATION for run in runs)


def both(*conditions: Condition | None) -> Condition:
    """Return what tells whether all conditions hold; None always does."""
    return lambda runs: all(each is None or each(runs) for each in conditions)


# What an epoch measures, with the condition that any run does.
MEASURES: dict[str, Condition | None] = {
    f"{part}_{name}": None if name == "loss" else learned(METRICS[name])
    for part in ("train", "valid")
    for name in ("loss", *METRICS)
}
GAPS = {"gap_accuracy": learned(METRICS["accuracy"]), "gap_r2": learned(METRICS["r2"])}
READING = ("best_epoch", "learned_until", "overfits_from", "gap_loss")


def folded(runs: Sequence[RunRecord]) -> bool:
    """Tell whether any run validates on a fold, by which networks are compared then."""
    return any(run.settings.get("folds") for run in runs)


def scored(runs: Sequence[RunRecord]) -> bool:
    """Tell whether any run was asked for its metrics."""
    return any("scored_split" in run.results for run in runs)


SCORES = (  # of evaluation=[metrics]
    Column(csv="scored_split", when=scored),
    Column(
        csv="balanced_accuracy",
        table="balanced\naccuracy",
        write=lambda known: mean(known, ".1f", 100, " %"),
        when=scored,
    ),
    Column(csv="f1_macro", table="F1", write=lambda known: mean(known, ".3f"), when=scored),
    Column(csv="top_k", when=scored),
    Column(csv="top_k_accuracy", when=scored),
    Column(csv="auc", table="AUC", write=lambda known: mean(known, ".3f"), when=scored),
    Column(csv="brier", when=scored),
    Column(csv="ece", table="ECE", write=lambda known: mean(known, ".3f"), when=scored),
)
# Each place has its columns in this order; the table has its own, hence its own entries.
RESULTS = (
    Column(csv="status"),
    Column(csv="stop_reason"),
    Column(
        csv="epochs",
        table="epochs",
        value=attrgetter("epochs"),
        write=lambda known: mean(known, ".0f"),
    ),
    Column(csv="weights_of_epoch"),
    Column(table="stopped by", value=ending, words=True),
    Column(csv="train_seconds", value=attrgetter("train_seconds")),
    Column(
        table="time",
        value=lambda run: run.train_seconds if run.epochs else None,
        write=mean_time,
    ),
    *(
        Column(csv=name, value=methodcaller("kept", name), when=when)
        for name, when in MEASURES.items()
    ),
    *(
        Column(csv=f"last_{name}", value=methodcaller("last", name), when=both(restored, when))
        for name, when in MEASURES.items()
    ),
    *(
        Column(
            table=f"valid\n{metric.title}",
            value=methodcaller("kept", f"valid_{metric.name}"),
            write=writer(metric),
            when=both(folded, learned(metric)),
        )
        for metric in (task.metrics[0] for task in TASKS.values())
    ),
    Column(csv="test_loss"),
    *(
        Column(
            csv=f"test_{metric.name}",
            table=f"test\n{metric.title}",
            write=writer(metric),
            when=learned(metric),
        )
        for metric in METRICS.values()
    ),
    Column(
        table="test\nloss",
        value=attrgetter("test_loss"),
        write=lambda known: mean(known, ".3f"),
        when=classified,
    ),
    *SCORES,
    Column(
        table="best\nepoch",
        value=functools.partial(from_curves, "best_epoch"),
        write=lambda known: mean(known, ".0f"),
        when=validated,
    ),
    *(Column(csv=name, value=functools.partial(from_curves, name)) for name in READING),
    *(
        Column(csv=name, value=functools.partial(from_curves, name), when=when)
        for name, when in GAPS.items()
    ),
    Column(csv="weights"),
    Column(csv="engine"),
    Column(csv="engine_form"),
    Column(csv="device", value=attrgetter("device")),
    Column(csv="concurrent_runs"),
    Column(csv="folder", value=lambda run: run.folder.name),
    *(
        Column(
            page=f"{part} {heading(metric)}",
            value=methodcaller("tested", metric)
            if part == "test"
            else methodcaller("kept", f"{part}_{metric.name}"),
            write=in_full(metric),
            when=learned(metric),
        )
        for metric in METRICS.values()
        for part in ("valid", "test", "train")
    ),
    *(
        Column(page=each.table.replace("\n", " "), value=each.of, write=each.write, when=each.when)
        for each in SCORES
        if each.table
    ),
    Column(page="valid loss", value=methodcaller("kept", "valid_loss"), write=four_decimals),
    Column(page="test loss", value=attrgetter("test_loss"), write=four_decimals),
    Column(page="train loss", value=methodcaller("kept", "train_loss"), write=four_decimals),
    Column(page="best epoch", value=functools.partial(from_curves, "best_epoch")),
    Column(page="epochs", value=attrgetter("epochs")),
    Column(page="time (s)", value=attrgetter("train_seconds"), write=in_seconds),
    Column(page="status", value=lambda run: spell(run.results["status"]), words=True),
    Column(page="why it ended", value=lambda run: run.error or run.stop_reason, words=True),
    Column(page="engine", value=attrgetter("engine"), words=True),
    Column(page="device", value=attrgetter("device"), words=True),
)


def shown(place: str, runs: Sequence[RunRecord]) -> list[Column]:
    """Return the columns of one place, ``csv``, ``table`` or ``page``, in which runs are shown."""
    return [
        column
        for column in RESULTS
        if getattr(column, place) and (column.when is None or column.when(runs))
    ]
