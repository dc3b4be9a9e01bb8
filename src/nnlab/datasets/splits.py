"""Splits of a dataset, ready to train on.

Axes: N examples of the arrays, n of a split, I inputs (an image's pixels, flattened).
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from nnlab import memory, seeds
from nnlab.datasets import content, read, sampling
from nnlab.datasets.arrays import Arrays, Counts, Partition, Sizes, as_floats, excess
from nnlab.datasets.dataset import DatasetConfig
from nnlab.datasets.sampling import Index
from nnlab.losses import REGRESSION

Floats = NDArray[np.float32]
LATEST = 8  # test sets that are kept


@dataclass(eq=False, init=False)
class Split:
    """A subset of examples: shared arrays and the indices that belong to the split.

    inputs: [N, ...] float32, labels: [N] int64, of a regression [N, k] float32, index: [n] int64
    into both: arrays, or what NumPy takes as such, as tensors on the CPU. The arrays are shared
    between the splits and runs of a sweep, so the data is in memory once.
    rows: [n] int64, which examples of the user's file they are; None where that says nothing.
    files: the names of the files that these are, where each example has its own.
    """

    inputs: NDArray[Any]
    labels: NDArray[Any]
    index: Index
    rows: Index | None = None
    files: Sequence[str] | None = None

    def __init__(
        self,
        inputs: ArrayLike,
        labels: ArrayLike,
        index: ArrayLike,
        rows: Index | None = None,
        files: Sequence[str] | None = None,
    ) -> None:
        self.inputs, self.labels, self.index = map(np.asarray, (inputs, labels, index))
        self.rows, self.files = rows, files

    def __len__(self) -> int:
        return len(self.index)

    @property
    def examples(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Its own inputs and labels, n of each, copied."""
        return self.inputs[self.index], self.labels[self.index]

    @classmethod
    def whole(cls, inputs: ArrayLike, labels: ArrayLike) -> Split:
        """Take every example, in the order given."""
        return cls(inputs, labels, np.arange(len(np.asarray(labels))))


@dataclass(eq=False)
class Data:
    """What one run trains, validates and tests on, and where it came from (JSON values).

    classes: their names, targets: those of the numbers that a regression predicts.
    """

    train: Split
    valid: Split | None
    test: Split | None
    classes: list[str]
    provenance: dict[str, Any]
    targets: list[str] = field(default_factory=list)

    @property
    def outputs(self) -> int:
        """How many outputs a network has."""
        return len(self.targets or self.classes)

    def split(self, name: str) -> Split:
        """Return a split that the run has: train, valid or test."""
        found: Split | None = getattr(self, name)
        assert found is not None
        return found


_lock = threading.Lock()
# The indices of splits, while they are used: a sweep has many that are equal.
_drawn: WeakValueDictionary[bytes, Index] = WeakValueDictionary()
_targets: WeakValueDictionary[tuple[object, ...], Floats] = WeakValueDictionary()
_standardised: WeakValueDictionary[tuple[object, ...], Split] = WeakValueDictionary()


def load(
    config: DatasetConfig,
    sizes: Sizes,
    *,
    seed: int,
    test_seed: int = 0,
    fold: tuple[int, int] | None = None,
) -> Data:
    """Draw a run's splits, reading the dataset once per process.

    seed: draws the training and validation sets, test_seed the test set. A size of None takes
    the whole partition in its own order. Where the dataset has no test partition, test_seed also
    draws which examples are kept for tests. Where the dataset has no validation partition, the
    validation set comes from the training one: both from one permutation, training examples
    from its front and validation examples from its back, so that neither depends on the
    other's size. fold: the number of one, and how many there are, to which the training examples
    are dealt out: it becomes the validation set, the others are trained on. Arrays are shared
    between calls, from any thread; where config.normalize is set, only calls that draw the same
    subset share them.
    Raises ValueError if a size or the number of folds is too large or a file is not as it should
    be, OSError if the files are neither here nor to be downloaded.
    """
    source, arrays = read(config, sizes)
    parts, counts = _counted(arrays, config.held_out, test_seed)
    too_many = excess(config.name, Counts(**counts), sizes, config.balanced)
    if too_many is not None:
        raise ValueError("; ".join(too_many))
    stratified = config.stratified and not arrays.targets
    how = config.balanced, stratified
    drawn = _draw(parts, sizes, *how, seed)
    drawn.append(_draw_test(arrays, config.held_out, sizes.test, *how, test_seed))
    if fold is not None:
        drawn[:2] = _divide(arrays, *drawn[0], *fold, seed)
    with _lock:
        digests = [digest(index) for _, index in drawn]
        drawn = [
            (part, _drawn.setdefault(key, index)) for key, (part, index) in zip(digests, drawn)
        ]
        scale = target_scale(*drawn[0]) if arrays.targets else None
        if config.normalize:
            mean, deviation = statistics(*drawn[0], channels(arrays.shape), arrays.missing)
            missing, names = arrays.missing, ("train", "valid", "test")
            splits = [
                _scaled(part, index, mean, deviation, f"{name}_size={len(index)}", missing, scale)
                for name, (part, index) in zip(names, drawn)
            ]
        else:
            splits = [_unscaled(part, index, scale) for part, index in drawn]
    train, valid, test = splits
    provenance = {
        "name": config.name,
        "source": source,
        **arrays.provenance,
        "content": content(config, sizes),
        "mean_pixel": arrays.mean_pixel,
        "synthetic": arrays.synthetic,
        "shape": list(arrays.shape),
        "classes": list(arrays.classes),
        "full_size": arrays.full_size or sum(counts["train"]),
        "full_test_size": arrays.full_test_size or sum(counts["test"]),
        "sizes": {"train": len(train), "valid": len(valid), "test": len(test)},
        # Equal where the examples and their order are.
        "examples": {name: key.hex()[:16] for name, key in zip(("valid", "test"), digests[1:])},
        "mean": mean.tolist() if config.normalize else None,  # of a channel or column
        "deviation": deviation.tolist() if config.normalize else None,
    }
    provenance |= {"columns": arrays.columns} if arrays.columns else {}
    provenance |= {} if arrays.bounded else {"bounded": False}
    if scale is not None:
        provenance |= {"task": REGRESSION.name, "targets": list(arrays.targets)}
        provenance |= {"target_mean": list(scale.mean), "target_deviation": list(scale.deviation)}
    return Data(
        train,
        valid if len(valid) > 0 else None,
        test if len(test) > 0 else None,
        list(arrays.classes),
        provenance,
        list(arrays.targets),
    )


@functools.lru_cache(LATEST)
def _counted(
    arrays: Arrays, held_out: float, test_seed: int
) -> tuple[dict[str, tuple[Partition, Index]], dict[str, tuple[int, ...]]]:
    """Return the ``partitions`` and the ``count`` of each, which the runs of a sweep share."""
    parts = partitions(arrays, held_out, test_seed)
    return parts, {name: count(arrays, *part) for name, part in parts.items()}


def forget() -> None:
    """Let go of data that the next command may not ask for."""
    _counted.cache_clear()
    _draw_test.cache_clear()


class Scale(NamedTuple):
    """What the targets of a regression are standardised with, [k] each: network and loss have
    (target - mean) / deviation."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


def target_scale(part: Partition, index: Index) -> Scale:
    """Return mean and standard deviation of each target; the deviation of a constant one is 1."""
    targets = part.labels[index]
    mean, deviation = targets.mean(axis=0), targets.std(axis=0)
    deviation[deviation <= 1e-12 * np.abs(mean)] = 1  # of a constant rounding leaves as much
    return Scale(tuple(mean.tolist()), tuple(deviation.tolist()))


def labels_of(part: Partition, scale: Scale | None) -> NDArray[Any]:
    """Return a partition's labels: classes [N], or standardised targets [N, k] float32.

    Equal ones are shared while they are used.
    """
    if scale is None:
        return part.labels
    key = (id(part), *scale)
    if (found := _targets.get(key)) is None:
        standardised = (part.labels - np.array(scale.mean)) / np.array(scale.deviation)
        found = _targets[key] = standardised.astype(np.float32)
    return found


def channels(shape: tuple[int, ...]) -> int:
    """Return how many channels an example of this shape has: of a row of numbers, each is one.

    >>> channels((28, 28)), channels((64, 64, 3)), channels((2,))
    (1, 3, 2)
    """
    return 1 if len(shape) == 2 else shape[-1]


def rows(part: Partition, index: Index) -> Index | None:
    return None if part.rows is None else part.rows[index]


def partitions(
    arrays: Arrays, held_out: float, test_seed: int
) -> dict[str, tuple[Partition, Index]]:
    """Return the training and test partition, and the validation partition where there is one.

    Of each, the partition of ``arrays`` that it is of, and its examples' positions there. held_out:
    the fraction of the training partition that is the test partition where there is no other,
    stratified where there are classes, and drawn by test_seed.
    Raises ValueError where that leaves no training example of a class.
    """

    def whole(part: Partition) -> tuple[Partition, Index]:
        return part, np.arange(len(part.labels))

    found = {"train": whole(arrays.train)}
    if arrays.valid is not None:
        found["valid"] = whole(arrays.valid)
    if arrays.test is not None:
        return found | {"test": whole(arrays.test)}
    labels: NDArray[Any] = arrays.train.labels
    size = round(held_out * len(labels))
    generator = seeds.generator(test_seed, "held_out")
    if arrays.targets:
        kept = sampling.plain(len(labels), size, generator)
    else:
        kept = sampling.stratified(labels, size, generator)
    left, kept = others(len(labels), kept), np.sort(kept)
    counts = count(arrays, arrays.train, left)
    if arrays.classes and 0 in counts:
        raise ValueError(
            f"dataset.test_fraction={held_out:g} leaves no training example of class "
            f"{arrays.classes[counts.index(0)]}; lower it, or add examples"
        )
    return found | {"train": (arrays.train, left), "test": (arrays.train, kept)}


def others(count: int, index: Index) -> Index:
    """Return which of ``count`` positions are not in an index, in their order.

    >>> others(4, np.array([2, 0])).tolist()
    [1, 3]
    """
    left = np.ones(count, bool)
    left[index] = False
    return np.flatnonzero(left)


def count(arrays: Arrays, part: Partition, index: Index) -> tuple[int, ...]:
    """Return how many of these examples are of each class, of a regression how many there are."""
    if arrays.targets:
        return (len(index),)
    labels = part.labels[index]
    return tuple(np.bincount(labels, minlength=len(arrays.classes)).tolist())


def digest(index: Index) -> bytes:
    return hashlib.sha256(index.tobytes()).digest()


def floats(part: Partition) -> Floats:
    """Return a partition's inputs as float32 [N, I], pixels in [0, 1]: made once, then shared."""
    if part.inputs.dtype == np.uint8:
        memory.check(
            4 * part.inputs.size,
            f"{len(part.labels):,} examples in float32",
            "dataset.normalize=true copies only those that a run asks for",
        )
    part.inputs = as_floats(part.inputs)
    return part.inputs


def _draw(
    parts: dict[str, tuple[Partition, Index]],
    sizes: Sizes,
    balanced: bool,
    stratified: bool,
    seed: int,
) -> list[tuple[Partition, Index]]:
    """Draw the training and the validation split; the latter may be empty.

    parts: as ``partitions`` returns them. Returns for each split the partition that it is of, and
    its examples' positions there.
    """

    def pick(name: str, size: int, back: bool = False) -> Index:
        generator = seeds.generator(seed, "examples")
        return _pick(*parts[name], size, balanced, stratified, generator, back)

    validated = "valid" if "valid" in parts else "train"
    valid = parts[validated][1]
    if sizes.valid is not None:
        valid = pick(validated, sizes.valid, back=True)
    if sizes.train is not None:
        train = pick("train", sizes.train)
    else:
        train = parts["train"][1]
        train = train[~np.isin(train, valid)] if validated == "train" else train
    return [(parts["train"][0], train), (parts[validated][0], valid)]


@functools.lru_cache(LATEST)
def _draw_test(
    arrays: Arrays,
    held_out: float,
    size: int | None,
    balanced: bool,
    stratified: bool,
    test_seed: int,
) -> tuple[Partition, Index]:
    """Draw the test split, which the runs of a sweep mostly share; it may be empty."""
    part, among = _counted(arrays, held_out, test_seed)[0]["test"]
    if size is None:
        return part, among
    generator = seeds.generator(test_seed, "test")
    return part, _pick(part, among, size, balanced, stratified, generator)


def _pick(
    part: Partition,
    among: Index,
    size: int,
    balanced: bool,
    stratified: bool,
    generator: Generator,
    back: bool = False,
) -> Index:
    """Draw so many of some examples of a partition."""
    labels: NDArray[Any] = part.labels[among]
    if balanced:
        return among[sampling.balanced(labels, size, generator, back)]
    if stratified:
        return among[sampling.stratified(labels, size, generator, back)]
    return among[sampling.plain(len(labels), size, generator, back)]


def _divide(
    arrays: Arrays, part: Partition, index: Index, number: int, folds: int, seed: int
) -> list[tuple[Partition, Index]]:
    """Divide training examples into those that are not in a fold, in their order, and those that
    are. Raises ValueError where a class, or a regression, has fewer examples than folds."""
    counts = count(arrays, part, index)
    few = [place for place, n in enumerate(counts) if 0 < n < folds]
    if few:
        needed = f" of class {arrays.classes[few[0]]}" if arrays.classes else ""
        raise ValueError(
            f"folds={folds} is too many: each needs an example{needed}, of which "
            f"{counts[few[0]]:,} can be trained on; lower folds, or take more examples"
        )
    alike = np.zeros(len(index), np.int64)  # as those of a regression count
    labels: NDArray[Any] = part.labels[index] if arrays.classes else alike
    valid = sampling.fold(labels, number, folds, seeds.generator(seed, "folds"))
    return [(part, index[others(len(index), valid)]), (part, index[valid])]


def statistics(
    part: Partition, index: Index, channels: int, missing: bool = False
) -> tuple[Floats, Floats]:
    """Return mean and standard deviation of every channel, [channels] float32 each.

    The channel is the last axis of an image; pixels count as value / 255. missing: leave out what
    is NaN. Summed in float64. A constant channel has deviation 1.
    """
    total, squares, count = np.zeros(channels), np.zeros(channels), np.zeros(channels)
    for start in range(0, len(index), 1024):
        pixels = as_floats(part.inputs[index[start : start + 1024]]).reshape(-1, channels)
        count += len(pixels)
        if missing:
            count -= np.isnan(pixels).sum(axis=0)
            pixels = np.nan_to_num(pixels)
        total += pixels.sum(axis=0, dtype=np.float64)
        squares += np.einsum("pc,pc->c", pixels, pixels, dtype=np.float64)
    count = np.maximum(count, 1)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    deviation[deviation <= 1e-6 * np.abs(mean)] = 1  # of a constant rounding leaves as much
    return mean.astype(np.float32), deviation.astype(np.float32)


def _unscaled(part: Partition, index: Index, scale: Scale | None) -> Split:
    """Return a split of the whole partition's arrays, its inputs as they are."""
    return Split(floats(part), labels_of(part, scale), index, rows(part, index), part.files)


def _scaled(
    part: Partition,
    index: Index,
    mean: Floats,
    deviation: Floats,
    option: str,
    missing: bool = False,
    scale: Scale | None = None,
) -> Split:
    """Copy a split's own examples, standardised; equal splits share one copy while it is used.

    option: what asks for so many. missing: put the mean where there is NaN. scale: of targets.
    """
    key = (id(part), digest(index), *mean.tolist(), *deviation.tolist(), scale)
    scaled = _standardised.get(key)
    if scaled is None:
        # In float32, and for a moment as they are.
        needed = len(index) * part.inputs.shape[1] * (4 + part.inputs.itemsize)
        memory.check(needed, option, "ask for fewer examples")
        inputs = as_floats(part.inputs[index])
        pixels = inputs.reshape(len(index), inputs.shape[1] // len(mean), len(mean))  # a view
        pixels -= mean
        pixels /= deviation
        if missing:
            inputs[np.isnan(inputs)] = 0
        scaled = Split.whole(inputs, labels_of(part, scale)[index])
        scaled.rows, scaled.files = rows(part, index), part.files
        _standardised[key] = scaled
    return scaled
