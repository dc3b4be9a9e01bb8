"""The settings of a study, in ``cells.csv``: the runs of one differ only in their seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from nnlab.report.columns import Column, shown
from nnlab.report.runs import RunRecord, is_number, is_seed, varied
from nnlab.report.selection import grouped


def rows(runs: Sequence[RunRecord]) -> Iterator[dict[str, Any]]:
    """Yield the rows of ``cells.csv``, a setting each: what varied, how many runs there are and
    how many came to their end, and of every number in ``summary.csv`` the mean over these, the
    standard deviation, how many there are and the 95 % interval."""
    keys = [key for key in varied(runs) if not is_seed(key)]
    numbers = [
        column for column in shown("csv", runs) if any(is_number(column.of(run)) for run in runs)
    ]
    for values, group in grouped(runs, keys).items():
        row = dict(zip(keys, values)) | {
            "runs": len(group),
            "complete": sum(run.complete for run in group),
        }
        for column in numbers:
            row |= estimated(column, group)
        yield row


def estimated(column: Column, group: Sequence[RunRecord]) -> dict[str, Any]:
    """Return a result's cells: mean, sd, n, ci95_low, ci95_high and, of one that has the interval
    of the examples where there is one seed, ci95_of."""
    count = len(column.known(group))
    found = column.estimate(group) if count else None
    numbers = (
        (found.mean, found.deviation, count, found.low, found.high)
        if found
        else (None, None, 0, None, None)
    )
    names = ("mean", "sd", "n", "ci95_low", "ci95_high")
    made: dict[str, Any] = {
        f"{column.csv}_{name}": None if value is None or math.isnan(value) else value
        for name, value in zip(names, numbers)
    }
    return made | (
        {f"{column.csv}_ci95_of": (found and found.of) or None} if column.examples else {}
    )
