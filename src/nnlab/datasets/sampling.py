"""Drawing subsets of a dataset: balanced over classes or plain, nested in their size.

Axes: N examples.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor


def balanced(labels: Tensor, size: int, generator: Generator, back: bool = False) -> Tensor:
    """Draw a subset in which every class is equally represented.

    labels: [N] int64, below 2**15. Returns [size] int64 indices into labels, in random order;
    where size is not a multiple of the number of classes, counts differ by at most
    one. With one generator seed a smaller draw is a prefix of a larger one.
    back: deal each class from the other end, so that draws of n and m examples share none
    as long as no class has fewer than n / classes + m / classes, each rounded up.
    Raises ValueError if some class has too few examples.

    >>> labels = torch.tensor([0, 0, 0, 1, 1, 1])
    >>> labels[balanced(labels, 4, torch.Generator().manual_seed(0))].bincount()
    tensor([2, 2])
    """
    if size == 0:
        return torch.empty(0, dtype=torch.int64)
    shuffled = permutation(len(labels), generator, back)
    # NumPy sorts 16 bits by radix, five to ten times as fast as torch sorts 64.
    classes = labels[shuffled].numpy().astype(np.int16)
    by_class = shuffled[torch.from_numpy(classes.argsort(kind="stable"))]
    counts = labels.bincount()
    members = by_class.split(counts[counts > 0].tolist())
    rounds = min((len(indices) for indices in members), default=0)
    _require(size, len(members) * rounds, f"{len(members)} classes x {rounds} of the rarest")
    # Row r holds the r-th example of every class; each row is dealt out in its own order.
    needed = -(-size // len(members))
    rows = torch.stack([indices[:needed] for indices in members], dim=1)
    order = torch.rand(rows.shape, generator=generator).argsort(dim=1, stable=True)
    return rows.gather(1, order).flatten()[:size]


def plain(count: int, size: int, generator: Generator, back: bool = False) -> Tensor:
    """Draw size of count examples, whatever their classes.

    Returns [size] int64 indices in random order. With one generator seed a smaller draw
    is a prefix of a larger one. back: draw from the other end of the same permutation.
    Raises ValueError if size exceeds count.

    >>> sorted(plain(3, 3, torch.Generator().manual_seed(0)).tolist())
    [0, 1, 2]
    """
    _require(size, count, "examples there are")
    return permutation(count, generator, back)[:size]


def stratified(labels: Tensor, size: int, generator: Generator, back: bool = False) -> Tensor:
    """Draw a subset that has the classes in about the proportions in which there are.

    labels: [N] int64. Returns [size] int64 indices into labels. With one generator seed a
    smaller draw is a prefix of a larger one. back: draw from the other end of the same order,
    which shares no example with a draw from its front as long as both are at most N together.
    Raises ValueError if size exceeds N.

    >>> labels = torch.tensor([0] * 6 + [1] * 3)
    >>> labels[stratified(labels, 3, torch.Generator().manual_seed(0))].bincount()
    tensor([2, 1])
    """
    _require(size, len(labels), "examples there are")
    order = torch.randperm(len(labels), generator=generator)
    classes = labels[order].numpy()
    by_class = classes.argsort(kind="stable")
    counts = np.bincount(classes)
    # The r-th of a class's n examples comes after (r + 1/2) / n of all, those of each class alike.
    firsts = np.repeat(counts.cumsum() - counts, counts)
    places = np.empty(len(classes))
    places[by_class] = (np.arange(len(classes)) - firsts + 0.5) / np.repeat(counts, counts)
    order = order[torch.from_numpy(places.argsort(kind="stable"))]
    return (order.flip(0) if back else order)[:size]


def fold(labels: Tensor, number: int, folds: int, generator: Generator) -> Tensor:
    """Return which examples are in one of so many folds, to which all of them are dealt out.

    labels: [N] int64. Returns int64 indices into labels. Folds differ by one example at most, and
    so do their examples of each class. number: from 0; with one generator seed the folds of all
    numbers have each example once.

    >>> labels = torch.tensor([0] * 6 + [1] * 3)
    >>> labels[fold(labels, 2, 3, torch.Generator().manual_seed(0))].bincount()
    tensor([2, 1])
    """
    order = permutation(len(labels), generator, back=False)
    by_class = order[labels[order].argsort(stable=True)]
    return by_class[number::folds]


def permutation(count: int, generator: Generator, back: bool) -> Tensor:
    """Draw an order of ``count`` examples, and return it or, with ``back``, its reverse."""
    order = torch.randperm(count, generator=generator)
    return order.flip(0) if back else order


def _require(size: int, limit: int, what: str) -> None:
    if not 0 <= size <= limit:
        raise ValueError(f"size={size} lies outside 0 to {limit} ({what}); choose one inside")
