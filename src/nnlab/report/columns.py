"""The results of a run, as columns of ``summary.csv``, of the table and of the page.

A new result is one entry of ``RESULTS``, beside the place where it is computed.
"""

from __future__ import annotations

import functools
import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter, methodcaller
from typing import Any, TypeAlias

import numpy as np

from nnlab.compact import code_of
from nnlab.losses import CLASSIFICATION, METRICS, TASKS, Metric
from nnlab.report.runs import RunRecord, Value, spell
from nnlab.report.selection import where
from nnlab.report.statistics import Array, Estimate, over_examples, over_seeds
from nnlab.report.times import duration_within

Condition: TypeAlias = "Callable[[Sequence[RunRecord]], bool]"

ENDS = {"finished": "max_epochs", "running": "unfinished"}  # words for a status


def mean(known: Array, style: str = ".3g", scale: float = 1, unit: str = "") -> str:
    """Write numbers, one or more, as mean ± half its 95 % interval over seeds; a count that all
    share as it is. With more decimals than the style has where half an interval would be 0 or 1,
    without an exponent where that is of a large number.

    >>> mean(np.array([0.8, 0.9]), ".1f", 100, " %"), mean(np.array([7, 7])), mean(np.array([7, 9]))
    ('85.0 ± 63.5 %', '7', '8 ± 12.7')
    >>> mean(np.array([4] * 20 + [5]), ".0f")
    '4.05 ± 0.10'
    >>> mean(np.array([9_000.0, 12_345.0])), mean(np.array([1e20]))
    ('10672 ± 21251', '1e+20')
    """
    known = scale * known
    if known.dtype.kind == "i" and (known == known[0]).all():
        return f"{known[0]}{unit}"
    found = over_seeds(known)
    if style[-1] == "g" and 10 ** int(style[1:-1]) <= abs(found.mean) < 1e9:
        style = ".0f"
    style = fine_enough(style, found.margin)
    text = format(found.mean, style)
    return f"{text} ± {found.margin:{style}}{unit}" if found.count > 1 else text + unit


def fine_enough(style: str, margin: float) -> str:
    """Return a style with so many decimals that a margin does not look like none.

    >>> [fine_enough(".0f", margin) for margin in (3, 0.6, 0.04, 0)], fine_enough(".1f", 0.02)
    (['.0f', '.1f', '.2f', '.0f'], '.2f')
    """
    if style[-1] != "f" or not 0 < margin < math.inf:
        return style
    least = -math.floor(math.log10(margin))
    return f".{max(least, int(style[1:-1]))}f"


def decimals(count: int) -> Callable[[Array], str]:
    """Return what writes numbers with so many decimals."""
    return functools.partial(mean, style=f".{count}f")


def in_percent(known: Array) -> str:
    return mean(known, ".1f", 100, " %")


def in_seconds(known: Array) -> str:
    """Write times to three digits, all in one unit.

    >>> in_seconds(np.array([0.03571])), in_seconds(np.array([4350.2]))
    ('0.0357', '4350')
    """
    least = float(known.min())
    return mean(known, f".{max(0, 2 - math.floor(math.log10(least))) if least > 0 else 0}f")


def mean_time(known: Array) -> str:
    found = over_seeds(known)
    return duration_within(found.mean, found.margin)


def counted(texts: Iterable[object]) -> str:
    """Write texts once each, with their number where they differ.

    >>> counted(["plateau", "plateau"]), counted(["plateau", "diverged", "plateau"])
    ('plateau', '2 plateau,\\n1 diverged')
    """
    counts = Counter(texts)
    return ",\n".join(f"{n} {text}" if len(counts) > 1 else f"{text}" for text, n in counts.items())


def counting(group: Sequence[RunRecord]) -> Sequence[RunRecord]:
    """Return which runs of a setting count in its results: the complete ones, or all where none
    is."""
    if all(run.complete for run in group):
        return group
    return where(group, attrgetter("complete")) or group


@dataclass(frozen=True)
class Column:
    """One result of a run, and where it is shown.

    csv, table, page: its heading in ``summary.csv``, in the table, in the page's list of runs;
    "" where it is left out. value: of a run; None takes what ``result.json`` has under the
    heading of the CSV file. words: whether it is a text. write: puts the numbers of runs that
    differ only in their seeds into one cell of the table. examples: on how many a run's result,
    a share of them, was measured; None where that leaves nothing uncertain. when: whether runs have
    it at all; None: always.
    """

    csv: str = ""
    table: str = ""
    page: str = ""
    value: Callable[[RunRecord], Value] | None = None
    words: bool = False
    write: Callable[[Array], str] = mean
    examples: Callable[[RunRecord], int | None] | None = None
    when: Condition | None = None

    def of(self, run: RunRecord) -> Any:
        return run.results.get(self.csv) if self.value is None else self.value(run)

    def text(self, group: Sequence[RunRecord]) -> str:
        """Write the results of runs that differ only in their seeds: texts are counted, numbers
        are those of the runs that count; "-" where there are none."""
        if self.words:
            return counted(value for run in group if (value := self.of(run)) is not None) or "-"
        known = self.known(group)
        return self.write(known) if len(known) else "-"

    def known(self, group: Sequence[RunRecord]) -> Array:
        """Return the numbers of the runs that count, those that are finite."""
        values = (self.of(run) for run in counting(group))
        known: array[Any] = array("q")  # while all are counts
        for value in values:
            if value is None or not math.isfinite(value):
                continue
            if known.typecode == "q" and code_of(value) != "q":
                known = array("d", known)
            known.append(value)
        return np.array(known)

    def estimate(self, group: Sequence[RunRecord]) -> Estimate:
        """Return the mean over runs that differ only in their seeds, one or more, and its
        interval: of a single share that of the examples it was measured on."""
        known = self.known(group)
        counts = {self.examples(run) for run in group if run.complete} if self.examples else set()
        examples = counts.pop() if len(known) == len(counts) == 1 else None
        if examples and 0 <= known[0] <= 1:
            return over_examples(float(known[0]), examples)
        return over_seeds(known)


def ending(run: RunRecord) -> str:
    """Say in a word what ended a run."""
    if run.status == "stopped":
        return spell(run.settings.get("stopping"))
    if run.status == "finished" and run.epochs == 0:
        return "not trained"
    return ENDS.get(run.status, run.status)


def from_curves(name: str, run: RunRecord) -> Value:
    """Return what the curves say; in few epochs nothing of the end of learning."""
    late = ("learning", "learned_until", "overfits_from", "loss_noise")
    if run.reading is None or (run.reading.short and name in late):
        return None
    found: Value = getattr(run.reading, name)
    return found


def tested_on(run: RunRecord) -> int | None:
    return None if run.tested_whole else run.test_examples


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
        return in_percent
    return decimals(3) if metric.higher else mean


def heading(metric: Metric) -> str:
    return f"{metric.title}{' (%)' * metric.percent}"


def in_full(metric: Metric) -> Callable[[Array], str]:
    """Return what writes a metric into the page, whose headings have the unit."""
    if metric.percent:
        return lambda known: mean(known, ".2f", 100)
    return decimals(4) if metric.higher else functools.partial(mean, style=".4g")


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
READING = ("best_epoch", "learning", "learned_until", "overfits_from", "loss_noise", "gap_loss")


def folded(runs: Sequence[RunRecord]) -> bool:
    """Tell whether any run validates on a fold, by which networks are compared then."""
    return any(run.settings.get("folds") for run in runs)


def with_cpu_seconds(runs: Sequence[RunRecord]) -> bool:
    """Tell whether of any run the processor's seconds are known."""
    return any(run.cpu_seconds is not None for run in runs)


def scored(runs: Sequence[RunRecord]) -> bool:
    """Tell whether any run was asked for its metrics."""
    return any("scored_split" in run.results for run in runs)


SCORES = (  # of evaluation=[metrics]
    Column(csv="scored_split", when=scored),
    Column(csv="balanced_accuracy", table="balanced\naccuracy", write=in_percent, when=scored),
    Column(csv="f1_macro", table="F1", write=decimals(3), when=scored),
    Column(csv="top_k", when=scored),
    Column(csv="top_k_accuracy", when=scored),
    Column(csv="auc", table="AUC", write=decimals(3), when=scored),
    Column(csv="brier", when=scored),
    Column(csv="ece", table="ECE", write=decimals(3), when=scored),
)
# What was tested, by metrics.
TESTED = {
    metric.name: Column(
        csv=f"test_{metric.name}",
        table=f"test\n{metric.title}",
        write=writer(metric),
        examples=tested_on if metric.percent else None,
        when=learned(metric),
    )
    for metric in METRICS.values()
}
TEST_ACCURACY = TESTED["accuracy"]
# Each place has its columns in this order; the table has its own, hence its own entries.
RESULTS = (
    Column(csv="status"),
    Column(csv="stop_reason"),
    Column(csv="epochs", table="epochs", value=attrgetter("epochs"), write=decimals(0)),
    Column(csv="weights_of_epoch"),
    Column(table="stopped by", value=ending, words=True),
    Column(csv="train_seconds", value=attrgetter("train_seconds")),
    Column(csv="train_cpu_seconds", value=attrgetter("cpu_seconds"), when=with_cpu_seconds),
    Column(
        table="time",
        value=lambda run: run.train_seconds if run.epochs else None,
        write=mean_time,
    ),
    *(
        Column(
            csv=name,
            value=methodcaller("kept", name),
            examples=attrgetter("valid_examples") if name == "valid_accuracy" else None,
            when=when,
        )
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
    *TESTED.values(),
    Column(table="test\nloss", value=attrgetter("test_loss"), write=decimals(3), when=classified),
    *SCORES,
    Column(
        table="best\nepoch",
        value=functools.partial(from_curves, "best_epoch"),
        write=decimals(0),
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
    Column(page="valid loss", value=methodcaller("kept", "valid_loss"), write=decimals(4)),
    Column(page="test loss", value=attrgetter("test_loss"), write=decimals(4)),
    Column(page="train loss", value=methodcaller("kept", "train_loss"), write=decimals(4)),
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
