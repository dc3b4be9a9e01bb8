"""The curves of many runs in little room, for the page: fewer epochs, fewer digits."""

from __future__ import annotations

import base64
import itertools
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnlab.report.columns import MEASURES
from nnlab.report.runs import RunRecord
from nnlab.report.statistics import Array

ROOM = 220_000  # characters that the curves of a study may take
LEAST = 8  # points of a curve, however many runs there are
TOGETHER = 1000  # runs whose curves are in memory


def thinned(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """Return the curves of runs as the page's script reads them.

    epochs: [R] how many each run has. points: how many are kept of a run at most, those of
    ``kept``. columns: by its name what is kept of a column of metrics.csv, one run after the
    other, in units of ``unit``: as base64 of half-precision numbers (three digits), little endian,
    NaN where empty, of so many runs at a time; a column that is empty in all runs is left out.
    """
    epochs = array("I", (run.last_epoch for run in runs))
    names = [name for name in MEASURES if any(has_numbers(run.curves, name) for run in runs)]
    points = most_points(epochs, len(names))
    columns = {}
    for name in names:
        unit = unit_of(points_of(runs, name, points))
        columns[name] = {"unit": unit, "values": encoded(runs, name, points, unit)}
    return {"epochs": iter(epochs), "points": points, "columns": columns}


def encoded(runs: Sequence[RunRecord], name: str, points: int, unit: float) -> Iterator[str]:
    for values in points_of(runs, name, points):
        with np.errstate(over="ignore"):  # what is too large is infinite, and not drawn
            halves = (values / unit).astype("<f2")
        yield base64.b64encode(halves.tobytes()).decode()


def points_of(runs: Sequence[RunRecord], name: str, points: int) -> Iterator[Array]:
    """Yield what is kept of a column, of so many runs at a time."""
    for start in range(0, len(runs), TOGETHER):
        some = runs[start : start + TOGETHER]
        yield np.concatenate([points_of_run(run, name, points) for run in some])


def points_of_run(run: RunRecord, name: str, points: int) -> Array:
    """Return what is kept of a column; where ``RunRecord.thin`` has left an epoch out, the next."""
    places = np.searchsorted(run.curves["epoch"], kept(run.last_epoch, points) + 1)
    return run.curves[name][places] if name in run.curves else np.full(len(places), np.nan)


def has_numbers(curves: Mapping[str, Array], name: str) -> bool:
    return name in curves and bool(np.isfinite(curves[name]).any())


def unit_of(parts: Iterable[Array]) -> float:
    """Return a power of two near most values, which half precision has to three digits then: an
    error in the user's units, of a price say, may be above its 65,504.

    >>> unit_of([np.array([0.0, 5.0]), np.array([80_000.0, 90_000.0])]), unit_of([np.zeros(1)])
    (65536.0, 1.0)
    """
    exponents: Counter[int] = Counter()  # with a fraction from 0.5 up to 1
    for values in parts:
        sizes = values[np.isfinite(values) & (values != 0)]
        exponents.update(np.frexp(sizes)[1].tolist())
    up_to = itertools.accumulate(count for _, count in sorted(exponents.items()))
    for exponent, count in zip(sorted(exponents), up_to):
        if 2 * count >= exponents.total():
            return float(2.0 ** (exponent - 1))  # of the median
    return 1.0


def kept(epochs: int, points: int) -> NDArray[np.int64]:
    """Return the positions of at most so many epochs, evenly spread, the first and the last too.

    >>> kept(7, 10).tolist(), kept(101, 5).tolist()
    ([0, 1, 2, 3, 4, 5, 6], [0, 25, 50, 75, 100])
    """
    count = min(epochs, points)
    positions: NDArray[np.int64] = np.arange(count) * (epochs - 1) // max(1, count - 1)
    return positions


def most_points(epochs: Sequence[int], columns: int) -> int:
    """Return how many points of a curve there is room for; as many as there are, at most."""
    room = ROOM * 3 / 4 / 2 / max(1, columns)  # in numbers: base64 has 4 letters for 3 bytes
    low, high = LEAST, max(LEAST, max(epochs, default=0))
    while low < high:
        middle = (low + high + 1) // 2
        if sum(min(count, middle) for count in epochs) <= room:
            low = middle
        else:
            high = middle - 1
    return low
