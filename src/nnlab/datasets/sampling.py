"""Drawing subsets of a dataset: balanced over classes or plain, nested in their size.

Axes: N examples.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Index = NDArray[np.int64]


def balanced(labels: Index, size: int, generator: Generator, back: bool = False) -> Index:
    """Draw a subset in which every class is equally represented.

    labels: [N] int64, below 2**15. Returns [size] int64 indices into labels, in random order;
    where size is not a multiple of the number of classes, counts differ by at most
    one. With one generator seed a smaller draw is a prefix of a larger one.
    back: deal each class from the other end, so that draws of n and m examples share none
    as long as no class has fewer than n / classes + m / classes, each rounded up.
    Raises ValueError if some class has too few examples.

    >>> labels = np.array([0, 0, 0, 1, 1, 1])
    >>> np.bincount(labels[balanced(labels, 4, np.random.default_rng(0))])
    array([2, 2])
    """
    if size == 0:
        return np.empty(0, np.int64)
    shuffled = permutation(len(labels), generator, back)
    counts = np.bincount(labels)
    there = np.flatnonzero(counts)
    rounds = min(counts[there], default=0)
    _require(size, len(there) * rounds, f"{len(there)} classes x {rounds} of the rarest")
    needed = -(-size // len(there))
    # A part of them mostly has enough of each class, and is sorted in less time.
    for some in (shuffled[: 2 * size], shuffled):
        # NumPy sorts 16 bits by radix, five to ten times as fast as 64.
        classes = labels[some].astype(np.int16)
        found = np.bincount(classes, minlength=len(counts))[there]
        if found.min() >= needed:
            break
    members = np.split(some[classes.argsort(kind="stable")], found.cumsum()[:-1])
    # Row r holds the r-th example of every class; each row is dealt out in its own order.
    rows = np.stack([indices[:needed] for indices in members], axis=1)
    order = generator.random(rows.shape).argsort(axis=1, kind="stable")
    return np.take_along_axis(rows, order, axis=1).ravel()[:size]


def plain(count: int, size: int, generator: Generator, back: bool = False) -> Index:
    """Draw size of count examples, whatever their classes.

    Returns [size] int64 indices in random order. With one generator seed a smaller draw
    is a prefix of a larger one. back: draw from the other end of the same permutation.
    Raises ValueError if size exceeds count.

    >>> sorted(plain(3, 3, np.random.default_rng(0)).tolist())
    [0, 1, 2]
    """
    _require(size, count, "examples there are")
    return permutation(count, generator, back)[:size]


def stratified(labels: Index, size: int, generator: Generator, back: bool = False) -> Index:
    """Draw a subset that has the classes in about the proportions in which there are.

    labels: [N] int64. Returns [size] int64 indices into labels. With one generator seed a
    smaller draw is a prefix of a larger one. back: draw from the other end of the same order,
    which shares no example with a draw from its front as long as both are at most N together.
    Raises ValueError if size exceeds N.

    >>> labels = np.array([0] * 6 + [1] * 3)
    >>> np.bincount(labels[stratified(labels, 3, np.random.default_rng(0))])
    array([2, 1])
    """
    _require(size, len(labels), "examples there are")
    order = generator.permutation(len(labels))
    classes = labels[order]
    by_class = classes.argsort(kind="stable")
    counts = np.bincount(classes)
    # The r-th of a class's n examples comes after (r + 1/2) / n of all, those of each class alike.
    firsts = np.repeat(counts.cumsum() - counts, counts)
    places = np.empty(len(classes))
    places[by_class] = (np.arange(len(classes)) - firsts + 0.5) / np.repeat(counts, counts)
    order = order[places.argsort(kind="stable")]
    return (order[::-1] if back else order)[:size]


def fold(labels: Index, number: int, folds: int, generator: Generator) -> Index:
    """Return which examples are in one of so many folds, to which all of them are dealt out.

    labels: [N] int64. Returns int64 indices into labels. Folds differ by one example at most, and
    so do their examples of each class. number: from 0; with one generator seed the folds of all
    numbers have each example once.

    >>> labels = np.array([0] * 6 + [1] * 3)
    >>> np.bincount(labels[fold(labels, 2, 3, np.random.default_rng(0))])
    array([2, 1])
    """
    order = permutation(len(labels), generator, back=False)
    by_class = order[labels[order].argsort(kind="stable")]
    return by_class[number::folds]


def permutation(count: int, generator: Generator, back: bool) -> Index:
    """Draw an order of ``count`` examples, and return it or, with ``back``, its reverse."""
    order = generator.permutation(count)
    return order[::-1] if back else order


def _require(size: int, limit: int, what: str) -> None:
    if not 0 <= size <= limit:
        raise ValueError(f"size={size} lies outside 0 to {limit} ({what}); choose one inside")
