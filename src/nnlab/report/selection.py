"""Some runs of many, in an order, and in groups: a few bytes for each that is not looked at."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from nnlab.report.runs import RunRecord

Item = TypeVar("Item")


class Runs(Sequence["RunRecord"]):
    """Runs that are got as they are asked for.

    get: returns the run at a place. places: of these runs, in their order.
    """

    def __init__(self, get: Callable[[int], RunRecord], places: array[int]) -> None:
        self.get = get
        self.places = places

    @classmethod
    def of(cls, runs: Sequence[RunRecord]) -> Runs:
        """Return a sequence of runs as one of these."""
        if isinstance(runs, Runs):
            return runs
        return cls(runs.__getitem__, array("I", range(len(runs))))

    @overload
    def __getitem__(self, index: int) -> RunRecord: ...
    @overload
    def __getitem__(self, index: slice) -> Runs: ...
    def __getitem__(self, index: int | slice) -> RunRecord | Runs:
        if isinstance(index, slice):
            return Runs(self.get, self.places[index])
        return self.get(self.places[index])

    def __iter__(self) -> Iterator[RunRecord]:
        return map(self.get, self.places)

    def __len__(self) -> int:
        return len(self.places)

    def at(self, indices: Iterable[int]) -> Runs:
        """Return those at these indices."""
        return Runs(self.get, array("I", map(self.places.__getitem__, indices)))


class Groups(Sequence[Runs]):
    """Runs in groups, in the order in which the first of each comes.

    of: what the runs of a group have alike.
    """

    def __init__(self, runs: Sequence[RunRecord], of: Callable[[RunRecord], Any]) -> None:
        self.runs, self.of = Runs.of(runs), of
        found = digests(runs, of)
        order = np.argsort(found, kind="stable").astype(np.uint32)
        found.sort()
        starts = np.flatnonzero(np.append(len(found) > 0, found[1:] != found[:-1]))
        by_first = np.argsort(order[starts])
        self.order, self.starts = order, starts[by_first]
        self.ends = np.append(starts, len(found))[1:][by_first]

    def indices(self, number: int) -> NDArray[np.uint32]:
        """Return which of the runs are in a group."""
        return self.order[self.starts[number] : self.ends[number]]

    @overload
    def __getitem__(self, number: int) -> Runs: ...
    @overload
    def __getitem__(self, number: slice) -> list[Runs]: ...
    def __getitem__(self, number: int | slice) -> Runs | list[Runs]:
        numbers = range(len(self))[number]
        if isinstance(numbers, range):
            return [self[each] for each in numbers]
        return self.runs.at(self.indices(numbers))

    def __len__(self) -> int:
        return len(self.starts)

    def items(self) -> Iterator[tuple[Any, Runs]]:
        """Yield what each group has alike, and the group."""
        return ((self.of(group[0]), group) for group in self)

    def settings(self) -> Iterator[Any]:
        return (key for key, _ in self.items())


class Singles(Groups):
    """Runs, each in a group of its own."""

    def __init__(self, runs: Sequence[RunRecord]) -> None:
        self.runs, self.of = Runs.of(runs), attrgetter("folder")
        self.order = self.starts = np.arange(len(runs), dtype=np.uint32)
        self.ends = self.starts + 1


class Derived(Sequence[Item]):
    """What a function makes of each of some items, when it is asked for.

    >>> squares = Derived([1, 2, 3], lambda number: number**2)
    >>> squares[1], list(squares[1:]), len(squares)
    (4, [4, 9], 3)
    """

    def __init__(self, items: Sequence[Any], make: Callable[[Any], Item]) -> None:
        self.items, self.make = items, make

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Derived[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Derived[Item]:
        if isinstance(index, slice):
            return Derived(self.items[index], self.make)
        return self.make(self.items[index])

    def __len__(self) -> int:
        return len(self.items)


def digest(key: object) -> int:
    """Return a number of 64 bits that is the same for what is equal, as 1 and 1.0 are, and another
    for all else, as Python's hashes of -1 and -2 are not.

    >>> digest((1, (True, "a"))) == digest((1.0, (1.0, "a"))), digest((-1,)) == digest((-2,))
    (True, False)
    """
    return hash(repr(plain(key)))


def digests(runs: Sequence[RunRecord], of: Callable[[RunRecord], Any]) -> NDArray[np.int64]:
    """Return the digest of something of each run: [N]."""
    return np.fromiter((digest(of(run)) for run in runs), np.int64, len(runs))


def numbers(runs: Sequence[RunRecord], of: Callable[[RunRecord], Any]) -> NDArray[np.float64]:
    """Return a number of each run: [N]."""
    return np.fromiter(map(of, runs), np.float64, len(runs))


def plain(value: Any) -> Any:
    """Return what is written alike where values are equal."""
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    whole = isinstance(value, bool) or (isinstance(value, float) and value.is_integer())
    return int(value) if whole else value


def spread(items: Sequence[Item], most: int) -> Sequence[Item]:
    """Return so many at most, evenly spread: each second, each third and so on."""
    return items[:: -(-len(items) // most) or 1]


def where(runs: Sequence[RunRecord], holds: Callable[[RunRecord], Any]) -> Runs:
    """Return the runs of which something holds."""
    return Runs.of(runs).at(index for index, run in enumerate(runs) if holds(run))


def grouped(runs: Sequence[RunRecord], keys: Sequence[str]) -> Groups:
    """Put runs with equal values of ``keys`` together."""
    return Groups(runs, lambda run: tuple(run.settings.get(key) for key in keys))
