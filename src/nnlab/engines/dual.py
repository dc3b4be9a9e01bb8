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
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from nnlab.datasets.sampling import Index
from nnlab.datasets.splits import Split
from nnlab.engines import Run, State
from nnlab.engines.library import (
    LEVELS,
    CSplit,
    NativeNetwork,
    c_split,
    checked,
    inner_products,
    level,
    named,
)
from nnlab.engines.supported import optimizer_of, perceptron, rule
from nnlab.perceptron import Array

CHUNK = 512  # examples at a time, so that inputs are not copied as a whole
SAVING = 2 / 3  # of the usual arithmetic is left, at most, where the dual form is taken
SURE_EPOCHS = 10  # of a run that its rule may end early, so many at most are counted on
LARGEST = 2.0**96  # of an inner product: 2^32 of them, times a coefficient, fit into a float32
SPARSE_COST = 2.5  # of a product that skips zeros, per product done, where a dense one costs 1

# In a snapshot, instead of W: A^T [H, n], W0 [H, I], and what tells other examples, [n].
COEFFICIENTS, START, NORMS = "dual.coefficients", "dual.start", "dual.squared_norms"


class DualNetwork(NativeNetwork):
    """A network in the dual form: A^T takes the place of W in the library.

    It meets ``splits`` instead of the run's: their inputs are the rows of the Gram matrix,
    [n + v, n], and ``base`` [n + v, H] is x W0^T of the same examples.
    """

    @staticmethod
    def pays(run: Run) -> bool:
        """Return whether a run is trained in the dual form.

        It is where plain SGD, without momentum, weight decay, penalties and clipping, then has
        clearly less arithmetic, the Gram matrix included. This depends on nothing but the run
        itself (its sizes, epochs and stopping rule, how many inputs are zero, and that none is
        huge), so that its numbers do not depend on other runs. No matrix is larger than the inputs
        of its examples.
        """
        config = optimizer_of(run)
        if config is None or rule(config) != "sgd":
            return False
        if config.weight_decay != 0 or config.regularised:
            return False
        outputs, inputs = perceptron(run).layers[0].weight.shape
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
            nonzero += int(np.count_nonzero(part.inputs()))
            if SPARSE_COST * nonzero > share * train * inputs:
                return moderate(splits_of(run))
        return False

    def __init__(self, run: Run) -> None:
        started, used = time.perf_counter(), time.thread_time()
        super().__init__(run, inputs=len(run.train))
        self.weight_name = f"{self.layers[0]}.weight"
        self.weight_shape = self.shapes[0][0], run.train.inputs.shape[1]  # [H, I]
        self.met = splits_of(run)
        self.parts = parts_of(self.met)
        matrix = gram_of(self.met, level(run)).matrix()
        labels = np.concatenate([split.labels[split.index] for split in self.met])
        index = np.arange(len(labels))
        n = len(run.train)
        self.splits = {
            "train": Split(matrix, labels, index[:n]),
            "valid": Split(matrix, labels, index[n:]),
        }
        self.start = self.base = np.empty(0, np.float32)  # until ``begin``
        self.seconds = time.perf_counter() - started
        self.cpu_seconds = time.thread_time() - used

    def fitting(self, run: Run, split: str) -> NativeNetwork:
        # The test split is met once, and not worth a Gram matrix.
        if split != "test" and self.optimizer.weight_decay == 0 and self.holds(run):
            return self
        usual = NativeNetwork(run)
        usual.optimizer = self.optimizer
        usual.seconds, usual.cpu_seconds = self.seconds, self.cpu_seconds
        usual.load(self.state())
        return usual

    def holds(self, run: Run) -> bool:
        """Return whether the run has the splits that it had."""
        return splits_of(run) == self.met

    def split(self, run: Run, name: str) -> CSplit:
        split = self.splits[name]
        return c_split(split, name, split.inputs.shape[1], self.targets, self.base)

    def state(self) -> State:
        state = self.get()
        return state | {self.weight_name: self.weight(state[self.weight_name])}

    def load(self, state: State) -> None:
        weight = checked(named(state, self.weight_name), self.weight_name, self.weight_shape)
        zeros = np.zeros(self.shapes[0], np.float32)
        self.put(state | {self.weight_name: zeros})
        self.begin(weight)

    def snapshot(self) -> State:
        snapshot = super().snapshot()
        return snapshot | {
            COEFFICIENTS: snapshot.pop(self.weight_name),
            START: self.start,
            NORMS: self.norms(),
        }

    def restore(self, snapshot: State) -> None:
        norms = checked(named(snapshot, NORMS), NORMS, (self.shapes[0][1],))
        if not np.allclose(norms, self.norms(), rtol=1e-3):
            raise ValueError(
                "the snapshot is of a run on other training examples; restore it on its own"
            )
        start = named(snapshot, START)
        weight = checked(start, START, self.weight_shape)
        self.put(snapshot | {self.weight_name: named(snapshot, COEFFICIENTS)})
        if start is not self.start:
            self.begin(weight)

    def norms(self) -> Array:
        """Return the squared norms of the training examples, [n]."""
        found: Array = self.splits["train"].inputs.diagonal().copy()
        return found

    def begin(self, weight: Array) -> None:
        """Take W0 [H, I], which nobody else changes; the coefficients are to be zero then."""
        started, used = time.perf_counter(), time.thread_time()
        self.start = weight
        right = np.ascontiguousarray(weight), np.arange(len(weight))
        products = [inner_products(*part.rows(), *right, LEVELS[self.level]) for part in self.parts]
        self.base = np.concatenate(products)
        self.seconds += time.perf_counter() - started
        self.cpu_seconds += time.thread_time() - used

    def weight(self, coefficients: Array) -> Array:
        """Return W [H, I] for the coefficients A^T [H, n]."""
        return weight_of(self.start, coefficients, self.met[0], LEVELS[self.level])


def weight_of(start: Array, coefficients: Array, train: Split, level: str) -> Array:
    """Return W [H, I]: W0, and the training examples times the coefficients A^T [H, n].

    level: the instruction set that computes it.
    """
    moved = np.zeros_like(start)  # by itself, so that little is not rounded away
    for part in parts_of([train]):
        some = np.ascontiguousarray(coefficients[:, part.here])
        inputs = np.ascontiguousarray(part.inputs().T)
        of_some, of_inputs = np.arange(len(some)), np.arange(len(inputs))
        moved += inner_products(some, of_some, inputs, of_inputs, level)
    moved += start
    return moved


def usual(run: Run, snapshot: State) -> State:
    """Return a snapshot of a run as state that any engine takes: with W for the coefficients."""
    if COEFFICIENTS not in snapshot:
        return snapshot
    weight = weight_of(snapshot[START], snapshot[COEFFICIENTS], run.train, level(run))
    return snapshot | {f"{perceptron(run).layers[0].name}.weight": weight}


def kind_of(snapshot: State) -> type[NativeNetwork]:
    """Return which kind of network gave a snapshot."""
    return DualNetwork if COEFFICIENTS in snapshot else NativeNetwork


def moderate(splits: Sequence[Split]) -> bool:
    """Return whether no inner product of two examples can come near float32's limit."""
    for part in parts_of(splits):
        inputs = part.inputs()
        squares = np.einsum("ni,ni->n", inputs, inputs, dtype=np.float64)
        if not squares.max() <= LARGEST:  # nor is NaN
            return False
    return True


def splits_of(run: Run) -> list[Split]:
    return [split for split in (run.train, run.valid) if split is not None]


@dataclass(frozen=True)
class Part:
    """Some examples of a split, those from ``at``; their rows of the Gram matrix are ``here``."""

    split: Split
    at: int
    place: int

    @property
    def index(self) -> Index:
        return self.split.index[self.at : self.at + CHUNK]

    @property
    def here(self) -> slice:
        return slice(self.place, self.place + len(self.index))

    def inputs(self) -> Array:
        index = self.index
        if len(index) > 0 and index.min() < 0:  # which NumPy would count from the end
            raise IndexError(f"the index holds {index.min()}; the examples are counted from 0")
        found: Array = self.split.inputs[index]
        return found

    def rows(self) -> tuple[Array, Index]:
        """Return the inputs of all examples, and which of them are these."""
        return self.split.inputs, self.index


def parts_of(splits: Sequence[Split]) -> list[Part]:
    parts, before = [], 0
    for split in splits:
        parts += [Part(split, at, before + at) for at in range(0, len(split), CHUNK)]
        before += len(split)
    return parts


@dataclass(eq=False)
class Block:
    """A block of a Gram matrix; whoever holds its lock computes it."""

    row: Part
    column: Part
    lock: threading.Lock = field(default_factory=threading.Lock)
    done: bool = False


class Gram:
    """All inner products of the training examples of some runs with each other, and with those
    that the runs are validated on: a matrix [n + v, n].

    Runs that need it at the same time compute it together, block by block.
    """

    def __init__(
        self,
        splits: Sequence[Split],
        level: str,
        stopped: threading.Event | None = None,
    ) -> None:
        """level: the instruction set that computes it.
        stopped: set where nobody waits for the matrix any more.
        """
        self.splits, self.level = splits, level
        self.stopped = stopped or threading.Event()
        rows, columns = sum(len(split) for split in splits), len(splits[0])
        self.entries = np.empty((rows, columns), np.float32)
        parts = parts_of(splits)
        self.blocks = [
            Block(row, column)
            for i, column in enumerate(parts)
            for row in parts[i:]
            if column.place < columns
        ]

    def fits(self, splits: Sequence[Split], level: str) -> bool:
        return (level, len(splits)) == (self.level, len(self.splits)) and all(
            mine.inputs is split.inputs and np.array_equal(mine.index, split.index)
            for mine, split in zip(self.splits, splits)
        )

    def matrix(self) -> Array:
        """Return the matrix once it is whole. Raises KeyboardInterrupt where it was stopped."""
        # What others are at is left to them, and waited for when there is nothing else.
        for wait in (False, True):
            for block in self.blocks:
                if block.lock.acquire(blocking=wait):
                    try:
                        self.finish(block)
                    finally:
                        block.lock.release()
        return self.entries

    def finish(self, block: Block) -> None:
        """Compute a block unless that is done. For the holder of its lock."""
        if self.stopped.is_set():
            raise KeyboardInterrupt
        if not block.done:
            self.compute(block.row, block.column)
            block.done = True

    def compute(self, row: Part, column: Part) -> None:
        products = inner_products(*row.rows(), *column.rows(), self.level)
        self.entries[row.here, column.here] = products
        if column.place < row.place < self.entries.shape[1]:  # among the training examples
            self.entries[column.here, row.here] = products.T


class Sharing:
    """The Gram matrices that were needed last, the latest at the end."""

    def __init__(self) -> None:
        self.latest: list[Gram] = []
        self.stopped = threading.Event()
        self.lock = threading.Lock()

    def gram(self, splits: Sequence[Split], level: str) -> Gram:
        with self.lock:
            found = (each for each in self.latest if each.fits(splits, level))
            gram = next(found, None) or Gram(splits, level, self.stopped)
            self.latest = [each for each in self.latest if each is not gram] + [gram]
            limit = splits[0].inputs.nbytes
            while len(self.latest) > 1 and sum(g.entries.nbytes for g in self.latest) > limit:
                del self.latest[0]
        return gram


_sharing: Sharing | None = None


@contextlib.contextmanager
def sharing() -> Iterator[None]:
    """Let runs with the same examples share their Gram matrix inside, where no inputs change.

    A matrix is kept for the next run as long as all that are kept take no more memory than the
    inputs. Outside, where nobody promises that, each run computes its own. At the end nothing is
    kept, and threads that are still at a matrix stop with KeyboardInterrupt after their block.
    """
    global _sharing
    before, _sharing = _sharing, Sharing()
    here = _sharing
    try:
        yield
    finally:
        here.stopped.set()
        _sharing = before


def gram_of(splits: Sequence[Split], level: str) -> Gram:
    """Return the Gram matrix of these examples; another run may still be computing it.

    level: the instruction set that computes it.
    """
    shared = _sharing
    return Gram(splits, level) if shared is None else shared.gram(splits, level)
