"""A result of all settings and seeds in one table, and what each factor does to it."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnlab.report.columns import Column
from nnlab.report.runs import RunRecord, Setting, Value, is_number, is_seed, rank, varied
from nnlab.report.selection import grouped
from nnlab.report.statistics import LEVEL, Array

COMPUTED = ("engine", "device", "native_level", "threads")  # how a result was, not what it is
MOST_CELLS = 20_000_000  # of the table of results, 160 MB each in a handful of arrays


def is_result(value: Any) -> bool:
    return is_number(value) and bool(np.isfinite(value))


@dataclass(frozen=True)
class Results:
    """A result of S settings with K seeds, in C circumstances: the values of what varied beside
    the settings and the seeds.

    settings: S, with the values of the factors each. values: [S, K, C], NaN where there is none.
    runs, missing: [S], how many runs a setting has, and how many of them no result.
    """

    settings: list[Setting]
    values: Array
    runs: NDArray[np.int64]
    missing: NDArray[np.int64]

    @functools.cached_property
    def by_seed(self) -> Array:
        """[S, K]: means over the circumstances."""
        return mean_over(self.values, 2)


def results(runs: Sequence[RunRecord], by: Sequence[str], column: Column) -> Results:
    """Put a result of all runs into a table, settings in the order of their values.

    Raises ValueError where nearly all of it would be empty, as of a random search over options
    that are not all factors.
    """
    of_setting = grouped(runs, by)
    # What follows from the setting, as a rate does from an optimizer, is no circumstance.
    others = [
        key
        for key in varied(runs)
        if key not in (*by, *COMPUTED)
        and any(len(grouped(group, [key])) > 1 for group in of_setting)
    ]
    axes = (by, [k for k in others if is_seed(k)], [k for k in others if not is_seed(k)])
    names = [
        sorted(grouped(runs, keys).settings(), key=lambda each: list(map(rank, each)))
        for keys in axes
    ]
    places = [{name: place for place, name in enumerate(each)} for each in names]
    settings, *all_else = map(len, names)
    if settings * math.prod(all_else) > MOST_CELLS:
        raise ValueError(
            f"by={','.join(by)}: {settings:,} settings with {math.prod(all_else):,} combinations "
            f"of all else; add {', '.join(axes[2])} to by, or leave by out"
        )
    total, count = np.zeros((2, settings, *all_else))
    number, missing = np.zeros((2, len(names[0])), np.int64)
    for run in runs:
        place = tuple(
            known[tuple(map(run.settings.get, keys))] for known, keys in zip(places, axes)
        )
        value = column.of(run) if run.complete else None
        number[place[0]] += 1
        if is_result(value):
            total[place] += value
            count[place] += 1
        else:
            missing[place[0]] += 1
    with np.errstate(invalid="ignore"):
        return Results(names[0], total / count, number, missing)


def mean_over(values: Array, axis: int) -> Array:
    """Return the mean of what there is along an axis, NaN where there is nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        mean: Array = np.nanmean(values, axis)
    return mean


def estimates(values: Array) -> dict[str, Array]:
    """Return of values [N, K] the mean over what there is in each row, with Student's interval."""
    from scipy import stats  # type: ignore[import-untyped]

    count, mean = np.isfinite(values).sum(1), mean_over(values, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of rows with fewer than two
        equal = np.nanmin(values, 1) == np.nanmax(values, 1)  # as in ``statistics.deviations``
        deviation = np.where(equal & (count > 1), 0.0, np.nanstd(values, 1, ddof=1))
        half = stats.t.ppf((1 + LEVEL) / 2, count - 1) * deviation / np.sqrt(count)
    ends = {"ci95_low": mean - half, "ci95_high": mean + half}
    return {"mean": mean, "sd": deviation, "n": count, **ends}


def main_effects(found: Results, by: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for each value of each factor: the mean over all else, and its interval over
    seeds."""
    rows = []
    for factor, values in levels(found, by):
        means = np.array([mean_over(found.by_seed[own], 0) for own in values.values()])
        each = estimates(means)
        for place, level in enumerate(values):
            numbers = {name: column[place] for name, column in each.items()}
            rows.append({"factor": factor, "value": level, **numbers})
    return rows


def levels(found: Results, by: Sequence[str]) -> Iterator[tuple[str, dict[Value, list[int]]]]:
    """Yield each factor, and which settings have each of its values."""
    for place, factor in enumerate(by):
        values: dict[Value, list[int]] = {}
        for row, setting in enumerate(found.settings):
            values.setdefault(setting[place], []).append(row)
        yield factor, values


def shares(found: Results, by: Sequence[str], over: str) -> list[dict[str, Any]]:
    """Return of each factor, and of the seeds, the share of the variance of all results that lies
    between its values (eta squared); what is left are interactions, other options and noise."""
    whole = found.values[np.isfinite(found.values)]
    total = float(((whole - whole.mean()) ** 2).sum())

    def share(parts: Iterable[Array]) -> float:
        """Return that between parts of the results."""
        known = [part[np.isfinite(part)] for part in parts]
        between = sum(len(part) * (part.mean() - whole.mean()) ** 2 for part in known if len(part))
        return float(between) / total if total else 0.0

    rows = [
        {"factor": factor, "share": share(found.values[own] for own in values.values())}
        for factor, values in levels(found, by)
    ]
    seeds = {"factor": over, "share": share(np.moveaxis(found.values, 1, 0))}
    return [*rows, seeds] if found.values.shape[1] > 1 else rows
