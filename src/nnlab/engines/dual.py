"""The dual form of a wide first layer: its inputs are met once, not in every step.

Axes: n training examples, v validation examples, I inputs, H outputs of the first layer.

Plain SGD adds nothing to the weights W [H, I] of the first layer but multiples of training
examples: W = W0 + A^T X with X [n, I], where row i of A [n, H] is the sum of example i's
deltas times minus the learning rate. So an example x goes forward as x W^T = x W0^T + (X x)^T A.
With the Gram matrix, all inner products of examples, computed once for all runs that train on
them, and x W0^T computed once per run, a step multiplies n numbers per example instead of I,
and its update adds to rows of A. For 500 images of 64x64x3 that is a fiftieth of the
layer's arithmetic, and no less exact: W is rounded once, not in every step.

Source: Irie, Csordas, Schmidhuber, The Dual Form of Neural Networks Revisited, 2022.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nnlab import device
from nnlab.datasets import Split
from nnlab.engines import Run
from nnlab.engines.supported import linears, optimizer_of, rule

CHUNK = 512  # examples at a time, so that inputs are not copied as a whole
SAVING = 2 / 3  # of the usual arithmetic is left, at most, where the dual form is taken
SURE_EPOCHS = 10  # of a run that its rule may end early, so many at most are counted on
LARGEST = 2.0**96  # of an inner product: 2^32 of them, times a coefficient, fit into a float32
SPARSE_COST = 2.5  # of a product that skips zeros, per product done, where a dense one costs 1


class Dual:
    """A run in the dual form: what takes the place of its data, and the way back to W.

    train, valid: splits whose inputs are the rows of the Gram matrix, [n + v, n].
    base: [n + v, H], x W0^T of the same examples.
    """

    @staticmethod
    def pays(run: Run) -> bool:
        """Return whether a run is trained in the dual form.

        It is where plain SGD, without momentum and weight decay, then has clearly less arithmetic,
        the Gram matrix included. This depends on nothing but the run itself (its sizes, epochs
        and stopping rule, how many inputs are zero, and that none is huge), so that its numbers do
        not depend on other runs. No matrix is larger than the inputs of its examples.
        """
        config = optimizer_of(run)
        if config is None or rule(config) != "sgd" or config.weight_decay != 0:
            return False
        first = linears(run.model)[0][1]
        inputs, outputs = first.in_features, first.out_features
        train, valid = len(run.train), 0 if run.valid is None else len(run.valid)
        epochs = run.max_epochs if run.stopping is None else min(run.max_epochs, SURE_EPOCHS)
        evaluated = valid + (train if run.full_train_metrics else 0)
        # In multiplications: what comes once, and what every epoch takes in either form.
        once = inputs * (train * train / 2 + train * valid + outputs * (2 * train + valid))
        dual = outputs * train * (train + evaluated)
        usual = outputs * inputs * (2 * train + evaluated)
        share = (once + epochs * dual) / max(epochs * usual * SAVING, 1)
        if share >= 1 or train > min(inputs, len(run.train.inputs)):
            return False
        # Where many inputs are zero, the usual form takes less than that. Most sets need no
        # more than the first part to show that few are.
        nonzero = 0
        for part in parts_of([run.train]):
            nonzero += int(torch.count_nonzero(part.inputs()))
            if SPARSE_COST * nonzero > share * train * inputs:
                return moderate(splits_of(run))
        return False

    def __init__(self, run: Run) -> None:
        self.splits = splits = splits_of(run)
        self.versions = versions(splits)
        self.parts = parts_of(splits)
        matrix = gram_of(splits).matrix()
        labels = torch.cat([split.labels[split.index] for split in splits])
        index = torch.arange(len(labels), device="cpu")
        self.train = Split(matrix, labels, index[: len(run.train)])
        self.valid = Split(matrix, labels, index[len(run.train) :])

    def holds(self, run: Run) -> bool:
        """Return whether the run's data are what they were.

        Raises ValueError where the inputs of its examples are not: there is no way back to W.
        """
        for split, (inputs, _, index) in zip(self.splits, self.versions):
            if (version(split.inputs), version(split.index)) != (inputs, index):
                raise ValueError(
                    "the inputs of a run were changed while it trains; give it a new Split instead"
                )
        return splits_of(run) == self.splits and versions(self.splits) == self.versions

    @torch.no_grad()
    def begin(self, weight: Tensor) -> None:
        """Take W0 [H, I]; the coefficients are to be zero then."""
        self.start = weight.clone()
        with device.cpu_threads(1):
            self.base = torch.cat([part.inputs() @ weight.T for part in self.parts])

    @torch.no_grad()
    def weight(self, coefficients: Tensor) -> Tensor:
        """Return W [H, I] for the coefficients A^T [H, n]."""
        moved = torch.zeros_like(self.start)  # by itself, so that little is not rounded away
        with device.cpu_threads(1):
            for part in self.parts:
                if part.place < len(self.train):
                    moved.addmm_(coefficients[:, part.here], part.inputs())
        return moved.add_(self.start)


@torch.no_grad()
def moderate(splits: Sequence[Split]) -> bool:
    """Return whether no inner product of two examples can come near float32's limit."""
    for part in parts_of(splits):
        longest = torch.linalg.vector_norm(part.inputs(), dim=1).max()
        if not longest.square() <= LARGEST:  # nor is NaN
            return False
    return True


def splits_of(run: Run) -> list[Split]:
    return [split for split in (run.train, run.valid) if split is not None]


def versions(splits: Sequence[Split]) -> list[tuple[int, int, int]]:
    """Return numbers that change when torch changes the splits' tensors in place."""
    return [(version(s.inputs), version(s.labels), version(s.index)) for s in splits]


def version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


@dataclass(frozen=True)
class Part:
    """Some examples of a split, those from ``at``; their rows of the Gram matrix are ``here``."""

    split: Split
    at: int
    place: int

    @property
    def index(self) -> Tensor:
        return self.split.index[self.at : self.at + CHUNK]

    @property
    def here(self) -> slice:
        return slice(self.place, self.place + len(self.index))

    def inputs(self) -> Tensor:
        return self.split.inputs.index_select(0, self.index)


def parts_of(splits: Sequence[Split]) -> list[Part]:
    parts, before = [], 0
    for split in splits:
        parts += [Part(split, at, before + at) for at in range(0, len(split), CHUNK)]
        before += len(split)
    return parts


class Gram:
    """All inner products of the training examples of some runs with each other, and with those
    that the runs are validated on: a matrix [n + v, n].

    Runs that need it at the same time compute it together, block by block.
    """

    def __init__(self, splits: Sequence[Split]) -> None:
        self.splits = splits
        rows, columns = sum(len(split) for split in splits), len(splits[0])
        self.entries = torch.empty(rows, columns, dtype=torch.float32, device="cpu")
        places = [part.place for part in parts_of(splits)]
        self.blocks = [
            (row, column)
            for column, place in enumerate(places)
            for row in range(column, len(places))
            if place < len(splits[0])
        ]
        self.unfinished = len(self.blocks)
        self.changed = threading.Condition()

    def fits(self, splits: Sequence[Split]) -> bool:
        return len(splits) == len(self.splits) and all(
            mine.inputs is split.inputs and torch.equal(mine.index, split.index)
            for mine, split in zip(self.splits, splits)
        )

    def matrix(self) -> Tensor:
        """Return the matrix once it is whole."""
        parts = parts_of(self.splits)
        with device.cpu_threads(1):
            while (block := self.take()) is not None:
                row, column = block
                try:
                    self.compute(parts[row], parts[column])
                except BaseException:
                    with self.changed:
                        self.blocks.append(block)  # for others, who may be waiting
                        self.changed.notify_all()
                    raise
                with self.changed:
                    self.unfinished -= 1
                    self.changed.notify_all()
        return self.entries

    def take(self) -> tuple[int, int] | None:
        """Return a block that nobody computes, None when all are finished."""
        with self.changed:
            self.changed.wait_for(lambda: self.blocks or not self.unfinished)
            return self.blocks.pop() if self.blocks else None

    @torch.no_grad()
    def compute(self, row: Part, column: Part) -> None:
        products = row.inputs() @ column.inputs().T
        self.entries[row.here, column.here] = products
        if column.place < row.place < self.entries.shape[1]:  # among the training examples
            self.entries[column.here, row.here] = products.T


# Within `sharing`, those that were needed last, the latest at the end.
_latest: list[Gram] | None = None
_lock = threading.Lock()


@contextlib.contextmanager
def sharing() -> Iterator[None]:
    """Let runs with the same examples share their Gram matrix inside, where no inputs change.

    A matrix is kept for the next run as long as all that are kept take no more memory than the
    inputs. Outside, where nobody promises that, each run computes its own.
    """
    global _latest
    before, _latest = _latest, []
    try:
        yield
    finally:
        _latest = before


def gram_of(splits: Sequence[Split]) -> Gram:
    """Return the Gram matrix of these examples; another run may still be computing it."""
    latest = _latest
    if latest is None:
        return Gram(splits)
    with _lock:
        gram = next((each for each in latest if each.fits(splits)), None) or Gram(splits)
        latest[:] = [each for each in latest if each is not gram] + [gram]
        limit = splits[0].inputs.nbytes
        while len(latest) > 1 and sum(each.entries.nbytes for each in latest) > limit:
            del latest[0]
    return gram
