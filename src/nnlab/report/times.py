"""Training times: how a person writes them, and how they grow with the training set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from nnlab.report.runs import RunRecord, Setting, factors, is_seed
from nnlab.report.selection import Derived, grouped, numbers, where
from nnlab.report.statistics import Array, student

BEYOND = 0.15  # of the logarithm of a time: what scatter does not show; docs/statistics.md
BUSY = 1.15  # times the processor's seconds, from which on a machine had other work
SHORT = 0.1  # seconds of training that say nothing of that
MORE = 1.5  # by which a long run on a busy machine may take longer than short ones say
MOST_SCATTER = 0.2  # of the logarithms of times per example, for the full set to be told
# A line is evaluated at one place or at an array of them.
Abscissa = TypeVar("Abscissa", float, Array)


def unit(seconds: float) -> tuple[float, str]:
    """Choose the unit in which a person would state a time: its length in seconds, its name."""
    for limit, length, name in ((0.1, 1e-3, "ms"), (120, 1, "s"), (3600, 60, "min")):
        if abs(seconds) < limit:
            return length, name
    return (3600, "h") if abs(seconds) < 172800 else (86400, "d")


def duration(seconds: float) -> str:
    """Write a time as a person would.

    >>> [duration(seconds) for seconds in (0.0042, 0.21, 18.2, 270, 4800, 200_000)]
    ['4.2 ms', '0.21 s', '18 s', '4.5 min', '1 h 20 min', '2.3 d']
    """
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 0:
        return "-" + duration(-seconds)
    minutes = round(seconds / 60)
    if 60 <= minutes < 2880:
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    length, name = unit(seconds)
    amount = seconds / length
    # Two significant digits, and never fewer than all digits before the point.
    digits = 0 if amount == 0 else 1 - math.floor(math.log10(float(f"{amount:.1e}")))
    return f"{amount:.{max(0, digits)}f} {name}"


def duration_within(seconds: float, margin: float) -> str:
    """Write a time and its margin, in one unit and with as many digits as the margin allows.

    >>> duration_within(18.23, 0.62), duration_within(4800, 190), duration_within(18, 1e-9)
    ('18.2 ± 0.6 s', '1 h 20 min ± 3.2 min', '18 s')
    """
    length, name = unit(seconds)
    if not margin > 1e-3 * abs(seconds) or not math.isfinite(margin):
        return duration(seconds)
    if name == "h":
        return f"{duration(seconds)} ± {duration(margin)}"
    digits = max(0, -math.floor(math.log10(margin / length)))
    return f"{seconds / length:.{digits}f} ± {margin / length:.{digits}f} {name}"


def duration_between(seconds: float, low: float, high: float) -> str:
    """Write a time and its interval, the unit once where it is the same.

    >>> duration_between(15.2, 13.0, 17.9), duration_between(110, 95, 128)
    ('15 s (13 to 18)', '110 s (95 s to 2.1 min)')
    """
    written = [duration(each) for each in (seconds, low, high)]
    units = {text.partition(" ")[2] for text in written}
    ends = [text.partition(" ")[0] for text in written[1:]] if len(units) == 1 else written[1:]
    return f"{written[0]} ({ends[0]} to {ends[1]})"


@dataclass(frozen=True)
class Line:
    """A line through the origin, y = slope * x, fitted on the logarithm to ``count`` points;
    ``scatter`` is the standard deviation of ln(y / x)."""

    slope: float
    count: int
    scatter: float

    def at(self, x: Abscissa) -> Abscissa:
        return self.slope * x

    @property
    def factor(self) -> float:
        """By which one more measurement, far beyond the others, may be longer or shorter (95 %).

        Scatter alone does not know how the time of a step grows with the training set, nor what
        else the machine does: ``BEYOND`` stands for that.
        """
        margin = student(self.count - 1) * self.scatter * math.sqrt(1 + 1 / self.count)
        return math.exp(math.hypot(margin, BEYOND))


def fit_line(x: Array, y: Array) -> Line:
    """Fit y = slope * x. x, y: [N], above 0, N at least 2."""
    ratios = np.log(y / x)
    return Line(float(np.exp(ratios.mean())), len(x), float(ratios.std(ddof=1)))


@dataclass(frozen=True)
class Timing:
    """Training times over training-set sizes, x examples and y seconds [N], of the runs
    that agree in everything else; the line through them where there are two sizes.

    Runs in another than the usual form are points only: their times do not grow as a line.
    processor: the line through the processor's seconds of those that had other work beside them;
    None on a quiet machine. busiest: by which factor that made them longer, at most.
    """

    values: Setting
    x: Array
    y: Array
    line: Line | None
    full_size: int | None
    processor: Line | None = None
    busiest: float = 1.0

    def within(self, size: int) -> tuple[float, float, float] | None:
        """Return the seconds that so many examples would take, and the ends of their 95 % interval:
        on a busy machine from what a quiet one takes to more than the busiest time tells. None
        where times scatter too much."""
        if self.line is None or self.scattered:
            return None
        seconds = self.line.at(float(size))
        if self.processor is None:
            return seconds, seconds / self.line.factor, seconds * self.line.factor
        quiet, factor = self.processor.at(float(size)), self.processor.factor
        return seconds, quiet / factor, quiet * factor * self.busiest * MORE

    def answer(self, size: int | None = None) -> str | None:
        """Write the time that so many examples would take, by default the full training set, with
        its 95 % interval; None if it was trained, or the times scatter too much to tell."""
        size = size or self.full_size
        if size is None or size <= self.x.max():
            return None
        found = self.within(size)
        return None if found is None else duration_between(*found)

    @property
    def scattered(self) -> bool:
        """Whether times per example differ too much to be a line."""
        line = self.processor or self.line
        return line is not None and line.scatter > MOST_SCATTER


def timings(runs: Sequence[RunRecord]) -> tuple[list[str], int | None, Sequence[Timing]]:
    """Fit training time over training-set size, once per value of whatever else varied.

    Returns the keys of what else varied, the number of epochs that the times are of, and
    the fits. None for the epochs means that these differ: the times are of one epoch.
    Without two sizes there are no fits. Where each run differs in something else (a random
    search), no runs agree but in size, and one line goes through all.
    """
    runs = where(runs, lambda run: run.complete and run.epochs and run.settings["train_size"])
    if len({run.settings["train_size"] for run in runs}) < 2:
        return [], None, []
    lengths = {run.epochs for run in runs}
    keys = [key for key in factors(runs) if key not in ("train_size", "data") and not is_seed(key)]
    groups, per_epoch = grouped(runs, keys), len(lengths) > 1
    found: Sequence[Timing] = Derived(
        groups, lambda group: fit(groups.of(group[0]), group, per_epoch=per_epoch)
    )
    if all(timing.line is None for timing in found):
        keys, found = [], [fit((), runs, per_epoch=per_epoch)]
    return keys, (lengths.pop() if len(lengths) == 1 else None), found


def most_concurrent(runs: Sequence[RunRecord]) -> int:
    """Return how many runs trained at a time, at most: they shared the machine."""
    return max(run.concurrent or 1 for run in runs)


def busy(runs: Sequence[RunRecord]) -> list[str]:
    """Say whether the machine had other work while these runs trained."""
    if (factor := slowdown(runs)) is None:
        return []
    return [
        f"The machine was busy: training took {factor:.1f} times the processor's "
        f"seconds, and would be faster on a quiet one."
    ]


def slowdown(runs: Sequence[RunRecord]) -> float | None:
    """Return by which factor other work on the machine made training on single threads longer, by
    the clock and the processor's seconds; None where it did not, or that is not known."""
    known = where(runs, clocked)
    clock = sum(run.train_seconds for run in known)
    processor = sum(run.cpu_seconds or 0.0 for run in known)
    return None if clock < SHORT or clock <= BUSY * processor else clock / processor


def clocked(run: RunRecord) -> bool:
    """Return whether a run's time on the clock is that of the processor on a quiet machine."""
    return bool(run.cpu_seconds) and run.form is None and run.threads == 1


def fit(values: Setting, runs: Sequence[RunRecord], per_epoch: bool) -> Timing:
    x = numbers(runs, lambda run: run.settings["train_size"])
    y = numbers(runs, lambda run: run.train_seconds / (run.epochs if per_epoch else 1))
    usual = (numbers(runs, lambda run: run.form is None) > 0) & (x > 0) & (y > 0)
    if len(np.unique(x[usual])) < 2:
        return Timing(values, x, y, None, runs[0].full_size)
    line, processor, busiest = fit_line(x[usual], y[usual]), None, 1.0
    if slowdown(runs) and all(clocked(run) for run, counts in zip(runs, usual) if counts):
        ratios = numbers(runs, lambda run: run.train_seconds / (run.cpu_seconds or 1.0))[usual]
        processor, busiest = fit_line(x[usual], y[usual] / ratios), float(ratios.max())
    return Timing(values, x, y, line, runs[0].full_size, processor, busiest)
