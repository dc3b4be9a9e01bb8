"""Training times: how a person writes them, and how they grow with the training set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from nnlab.report.runs import RunRecord, Value, factors, grouped, is_seed
from nnlab.report.statistics import Array, student

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


@dataclass(frozen=True)
class Line:
    """A least-squares line through ``count`` points whose abscissas have the given centre
    and sum of squares about it; ``scatter`` is the residual standard deviation."""

    intercept: float
    slope: float
    count: int
    centre: float
    squares: float
    scatter: float

    def at(self, x: Abscissa) -> Abscissa:
        return self.intercept + self.slope * x

    def margin(self, x: float) -> float:
        """Return half the 95 % prediction interval of one more measurement at x.

        NaN with fewer than three points. Draper & Smith, Applied Regression Analysis, 1.4.
        """
        leverage = 1 / self.count + (x - self.centre) ** 2 / self.squares
        return student(self.count - 2) * self.scatter * math.sqrt(1 + leverage)


def fit_line(x: Array, y: Array) -> Line:
    """Fit y = intercept + slope * x by least squares. x, y: [N] with two different x."""
    centre = x.mean()
    squares = ((x - centre) ** 2).sum()
    slope = ((x - centre) * y).sum() / squares
    intercept = y.mean() - slope * centre
    freedom = len(x) - 2
    residual = y - intercept - slope * x
    scatter = math.sqrt((residual**2).sum() / freedom) if freedom else math.nan
    numbers = map(float, (centre, squares, scatter))
    return Line(float(intercept), float(slope), len(x), *numbers)


@dataclass(frozen=True)
class Timing:
    """Training times over training-set sizes, x examples and y seconds [N], of the runs
    that agree in everything else; the line through them where there are two sizes.

    Runs in another than the usual form are points only: their times do not grow as a line.
    """

    values: tuple[Value, ...]
    x: Array
    y: Array
    line: Line | None
    full_size: int | None

    def answer(self) -> str | None:
        """Write the time that the full training set would take, None if it was trained."""
        if self.line is None or self.full_size is None or self.full_size <= self.x.max():
            return None
        return duration_within(self.line.at(self.full_size), self.line.margin(self.full_size))


def timings(runs: Sequence[RunRecord]) -> tuple[list[str], int | None, list[Timing]]:
    """Fit training time over training-set size, once per value of whatever else varied.

    Returns the keys of what else varied, the number of epochs that the times are of, and
    the fits. None for the epochs means that these differ: the times are of one epoch.
    Without two sizes there are no fits. Where each run differs in something else (a random
    search), no runs agree but in size, and one line goes through all.
    """
    runs = [run for run in runs if run.complete and run.epochs and run.settings["train_size"]]
    if len({run.settings["train_size"] for run in runs}) < 2:
        return [], None, []
    lengths = {run.epochs for run in runs}
    keys = [key for key in factors(runs) if key not in ("train_size", "data") and not is_seed(key)]
    found = [
        fit(values, group, per_epoch=len(lengths) > 1)
        for values, group in grouped(runs, keys).items()
    ]
    if all(timing.line is None for timing in found):
        keys, found = [], [fit((), runs, per_epoch=len(lengths) > 1)]
    return keys, (lengths.pop() if len(lengths) == 1 else None), found


def most_concurrent(runs: Sequence[RunRecord]) -> int:
    """Return how many runs trained at a time, at most: they shared the machine."""
    return max(run.concurrent or 1 for run in runs)


def fit(values: tuple[Value, ...], runs: Sequence[RunRecord], per_epoch: bool) -> Timing:
    x = np.array([run.settings["train_size"] for run in runs], dtype=np.float64)
    y = np.array([run.train_seconds / (run.epochs if per_epoch else 1) for run in runs])
    usual = np.array([run.form is None for run in runs])
    line = fit_line(x[usual], y[usual]) if len(set(x[usual])) > 1 else None
    return Timing(values, x, y, line, runs[0].full_size)
