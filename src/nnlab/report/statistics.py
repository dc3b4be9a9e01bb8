"""The statistics of table, page, figures and CSV files: intervals, comparisons of settings.

± is everywhere half a 95 % confidence interval of a mean over seeds. By hand only what scipy
would take longer to import for (0.3 s) than a finished sweep to be shown.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Deviation = TypeVar("Deviation", float, Array)  # one, or one for each epoch
LEVEL = 0.95  # of every interval
NORMAL = 1.959964  # within which 95 % of the normal distribution lie, either way


@dataclass(frozen=True)
class Estimate:
    """A mean of ``count`` seeds and its 95 % interval.

    deviation: of the single values; NaN where there are fewer than two. low, high: of the mean
    over all seeds or, where ``of`` is "examples", of what all examples would give this one run;
    NaN where ``of`` is empty.
    """

    mean: float
    deviation: float
    count: int
    low: float
    high: float
    of: str

    @property
    def margin(self) -> float:
        """Half the interval; NaN without one."""
        return (self.high - self.low) / 2


def over_seeds(values: Array) -> Estimate:
    """Estimate the mean of values [N], a seed each, with Student's interval.

    >>> estimate = over_seeds(np.array([0.8, 0.9, 1.0]))
    >>> [round(value, 3) for value in (estimate.mean, estimate.low, estimate.high)]
    [0.9, 0.652, 1.148]
    """
    count, mean = len(values), float(np.mean(values))
    if count < 2:
        return Estimate(mean, math.nan, count, math.nan, math.nan, "")
    deviation = deviation_of(values)
    margin = half_interval(deviation, count)
    return Estimate(mean, deviation, count, mean - margin, mean + margin, "seeds")


def half_interval(deviation: Deviation, count: int) -> Deviation:
    """Return half Student's interval of the mean of so many values."""
    return student(count - 1) * deviation / math.sqrt(count)


def deviation_of(values: Array) -> float:
    """Return the standard deviation of values [N].

    Exactly 0 of equal values, from which their mean may differ by rounding.

    >>> deviation_of(np.array([0.1, 0.1, 0.1]))
    0.0
    """
    return 0.0 if (values == values[0]).all() else float(np.std(values, ddof=1))


def mean_of_curves(curves: Callable[[], Iterator[Array]]) -> tuple[Array, Array]:
    """Return the mean of curves [E], two or more, a seed each, and half its Student's interval.

    curves: yields them anew each time, for they may be too many for memory.
    """
    first = next(curves())
    count, total, equal = 0, np.zeros_like(first), np.full(first.shape, True)
    for curve in curves():
        count, total, equal = count + 1, total + curve, equal & (curve == first)
    mean = total / count
    squares = sum((curve - mean) ** 2 for curve in curves())
    deviations = np.where(equal, 0.0, np.sqrt(squares / (count - 1)))
    return mean, half_interval(deviations, count)


def over_examples(share: float, examples: int) -> Estimate:
    """Estimate a share from one run that was tested on so many examples (Wilson, Probable
    inference, the law of succession, and statistical inference, 1927).

    >>> estimate = over_examples(0.9, 1000)
    >>> round(estimate.low, 3), round(estimate.high, 3)
    (0.88, 0.917)
    """
    square = NORMAL**2 / examples
    centre = (share + square / 2) / (1 + square)
    margin = math.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    low, high = max(0.0, centre - margin), min(1.0, centre + margin)
    return Estimate(share, math.nan, 1, low, high, "examples")


# Student's distribution. With t = sqrt(freedom) * tan(angle) its density becomes
# cos(angle) ** (freedom - 1), which is summed in _mass.


@functools.cache
def student(freedom: int, level: float = LEVEL) -> float:
    """Return the t within which so much of Student's distribution lies; NaN without freedom.

    >>> [round(student(freedom), 3) for freedom in (1, 2, 10, 100)]
    [12.706, 4.303, 2.228, 1.984]
    """
    if freedom < 1:
        return math.nan
    edges, mass = _mass(freedom)
    angle = float(np.interp(level * mass[-1], mass, edges))
    return math.sqrt(freedom) * math.tan(angle)


def beyond(t: float, freedom: int) -> float:
    """Return how much of Student's distribution lies beyond t, in both directions: a p-value.

    >>> round(beyond(2.228, 10), 4), beyond(math.inf, 3)
    (0.05, 0.0)
    """
    edges, mass = _mass(freedom)
    angle = math.atan(abs(t) / math.sqrt(freedom))
    return max(0.0, 1 - float(np.interp(angle, edges, mass)) / float(mass[-1]))


@functools.lru_cache(4)
def _mass(freedom: int) -> tuple[Array, Array]:
    """Return angles from 0 to a right angle, and the density's integral up to each."""
    edges = np.linspace(0, math.pi / 2, 20_001)
    middles = (edges[1:] + edges[:-1]) / 2
    return edges, np.concatenate([[0.0], np.cumsum(np.cos(middles) ** (freedom - 1))])


# Comparisons


@dataclass(frozen=True)
class Difference:
    """By how much one setting's results exceed another's, paired by seed: its mean, 95 %
    interval, the p-value of no difference (Student's paired test), the number of pairs."""

    mean: float
    low: float
    high: float
    p: float
    count: int


def paired(ones: Array, others: Array) -> Difference:
    """Compare results [N] of the same seeds, two or more.

    >>> found = paired(np.array([0.9, 0.8, 0.9]), np.array([0.7, 0.7, 0.6]))
    >>> round(found.mean, 3), round(found.p, 3)
    (0.2, 0.074)
    """
    differences = ones - others
    rounding = 4 * np.finfo(np.float64).eps * max(np.abs(ones).max(), np.abs(others).max())
    if np.ptp(differences) <= rounding:  # the same, but for that
        differences[:] = differences[0] if abs(differences[0]) > rounding else 0.0
    found = over_seeds(differences)
    error = found.deviation / math.sqrt(found.count)
    # Equal differences of all seeds leave no doubt, but that there is none at 0.
    t = found.mean / error if error else math.copysign(math.inf, found.mean)
    p = beyond(t, found.count - 1) if found.mean else 1.0
    return Difference(found.mean, found.low, found.high, p, found.count)


@dataclass(frozen=True)
class Disagreement:
    """How two networks differ on the same examples: by how much the first one's share of right
    answers exceeds the other's, how many each alone has right, and the p-value of no difference
    (McNemar, Note on the sampling error of the difference between correlated proportions or
    percentages, 1947; exact, two-sided)."""

    mean: float
    first: int
    second: int
    p: float


def disagreement(ones: NDArray[np.bool_], others: NDArray[np.bool_]) -> Disagreement:
    """Compare which of the same examples [N], one or more, two networks have right.

    >>> found = disagreement(np.array([1, 1, 1, 1, 1, 0]) > 0, np.array([1, 0, 0, 0, 0, 0]) > 0)
    >>> round(found.mean, 3), found.first, found.second, found.p
    (0.667, 4, 0, 0.125)
    """
    first, second = int((ones & ~others).sum()), int((others & ~ones).sum())
    p = sign_test(first, second)
    return Disagreement((first - second) / len(ones), first, second, p)


def sign_test(heads: int, tails: int) -> float:
    """Return the two-sided p-value of so many heads and tails of a fair coin.

    >>> sign_test(0, 4), sign_test(3, 3)
    (0.125, 1.0)
    """
    count, fewer = heads + tails, min(heads, tails)
    # Of the logarithms of binomial coefficients, which leave the range of numbers.
    steps = np.arange(1, fewer + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(count - steps + 1) - np.log(steps))])
    return min(1.0, 2 * float(np.exp(logs - count * math.log(2)).sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of several comparisons: below 0.05, each holds beside the others
    (Holm, A simple sequentially rejective multiple test procedure, 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(factors * np.array(p_values)[order]))
    return [float(p) for p in adjusted]
