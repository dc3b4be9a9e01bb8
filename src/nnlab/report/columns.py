"""The results of a run, as columns of ``summary.csv``, of the table and of the page.

A new result is one entry of ``RESULTS``, beside the place where it is computed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter, methodcaller
from typing import Any

import numpy as np

from nnlab.records import COLUMNS
from nnlab.report.runs import RunRecord, Value, spell
from nnlab.report.statistics import Array, Estimate, over_examples, over_seeds
from nnlab.report.times import duration_within

ENDS = {"finished": "max_epochs", "running": "unfinished"}  # words for a status


def mean(known: Array, style: str = ".3g", scale: float = 1, unit: str = "") -> str:
    """Write numbers, one or more, as mean ± half its 95 % interval over seeds; a count that all
    share as it is.

    >>> mean(np.array([0.8, 0.9]), ".1f", 100, " %"), mean(np.array([7, 7])), mean(np.array([7, 9]))
    ('85.0 ± 63.5 %', '7', '8 ± 12.7')
    """
    known = scale * known
    if known.dtype.kind == "i" and len(set(known)) == 1:
        return f"{known[0]}{unit}"
    found = over_seeds(known)
    text = format(found.mean, style)
    return f"{text} ± {found.margin:{style}}{unit}" if found.count > 1 else text + unit


def mean_time(known: Array) -> str:
    found = over_seeds(known)
    return duration_within(found.mean, found.margin)


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
    when: Callable[[Sequence[RunRecord]], bool] | None = None

    def of(self, run: RunRecord) -> Any:
        return run.results.get(self.csv) if self.value is None else self.value(run)

    def text(self, group: Sequence[RunRecord]) -> str:
        """Write the results of runs that differ only in their seeds: texts are counted, numbers
        are those of the complete runs, if any is; "-" where there are none."""
        if self.words:
            return counted([value for run in group if (value := self.of(run)) is not None]) or "-"
        known = self.known(group)
        return self.write(known) if len(known) else "-"

    def known(self, group: Sequence[RunRecord]) -> Array:
        """Return the numbers of the complete runs, if any is, else of all; what is finite."""
        runs = [run for run in group if run.complete] or group
        values = [value for run in runs if (value := self.of(run)) is not None]
        return np.array([value for value in values if math.isfinite(value)])

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


def validated_on(run: RunRecord) -> int | None:
    size = run.settings.get("valid_size")
    return size if isinstance(size, int) else None


def validated(runs: Sequence[RunRecord]) -> bool:
    return any(run.reading for run in runs)


def restored(runs: Sequence[RunRecord]) -> bool:
    """Tell whether any run ended with other weights than its last."""
    return any(run.weights_of_epoch not in (None, run.epochs) for run in runs)


METRICS = COLUMNS[1:5]
READING = (
    *("best_epoch", "learning", "learned_until", "overfits_from", "loss_noise"),
    *("gap_loss", "gap_accuracy"),
)
TEST_ACCURACY = Column(
    csv="test_accuracy",
    table="test\naccuracy",
    write=lambda known: mean(known, ".1f", 100, " %"),
    examples=tested_on,
)
# Each place has its columns in this order; the table has its own, hence its own entries.
RESULTS = (
    Column(csv="status", page="status"),
    Column(csv="stop_reason"),
    Column(page="why it ended", value=lambda run: run.error or run.stop_reason),
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
        Column(
            csv=name,
            value=methodcaller("kept", name),
            examples=validated_on if name == "valid_accuracy" else None,
        )
        for name in METRICS
    ),
    *(
        Column(csv=f"last_{name}", value=methodcaller("last", name), when=restored)
        for name in METRICS
    ),
    Column(csv="test_loss"),
    TEST_ACCURACY,
    Column(
        table="test\nloss",
        value=attrgetter("test_loss"),
        write=lambda known: mean(known, ".3f"),
    ),
    Column(
        table="best\nepoch",
        value=functools.partial(from_curves, "best_epoch"),
        write=lambda known: mean(known, ".0f"),
        when=validated,
    ),
    *(Column(csv=name, value=functools.partial(from_curves, name)) for name in READING),
    Column(csv="weights"),
    Column(csv="engine", page="engine"),
    Column(csv="engine_form"),
    Column(csv="device", page="device", value=attrgetter("device")),
    Column(csv="concurrent_runs"),
    Column(csv="folder", value=lambda run: run.folder.name),
)


def shown(place: str, runs: Sequence[RunRecord]) -> list[Column]:
    """Return the columns of one place, ``csv``, ``table`` or ``page``, in which runs are shown."""
    return [
        column
        for column in RESULTS
        if getattr(column, place) and (column.when is None or column.when(runs))
    ]
