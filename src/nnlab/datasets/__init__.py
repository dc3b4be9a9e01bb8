"""Splits of a dataset, ready to train on.

Axes: N examples of the arrays, n of a split, I inputs (an image's pixels, flattened).
"""

from __future__ import annotations

import hashlib
import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from nnlab import seeds
from nnlab.config import BooleanConfig, DatasetConfig, DogSetConfig, IdxConfig, SyntheticConfig
from nnlab.datasets import boolean, dogset, dogset_synthetic, mnist, sampling
from nnlab.datasets.arrays import Arrays, Counts, Partition, Sizes, excess

log = logging.getLogger("nnlab")


@dataclass(eq=False)
class Split:
    """A subset of examples: shared arrays and the indices that belong to the split.

    inputs: [N, ...] float32, labels: [N] int64, index: [n] int64 into both. The arrays
    are shared between the splits and runs of a sweep, so the data is in memory once.
    """

    inputs: Tensor
    labels: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)

    @classmethod
    def whole(cls, inputs: Tensor, labels: Tensor) -> Split:
        """Take every example, in the order given."""
        return cls(inputs, labels, torch.arange(len(labels)))


@dataclass(eq=False)
class Data:
    """What one run trains, validates and tests on, and where it came from (JSON values)."""

    train: Split
    valid: Split | None
    test: Split | None
    classes: list[str]
    provenance: dict[str, Any]


_lock = threading.Lock()
_arrays: dict[tuple[str, Path], Arrays] = {}  # by source; held until ``forget``
_standardised: WeakValueDictionary[tuple[object, ...], Split] = WeakValueDictionary()


def load(
    config: DatasetConfig,
    *,
    train_size: int | None,
    valid_size: int | None,
    test_size: int | None,
    seed: int,
) -> Data:
    """Draw a run's splits from its seed, reading the dataset once per process.

    A size of None takes the whole partition in its own order. Where the dataset has no
    validation partition, the validation set is drawn from the training one first. Arrays are
    shared between calls, from any thread; where config.normalize is set, only calls that
    draw the same subset share them.
    Raises ValueError if a size is too large or a file is not as it should be, OSError if the
    files are neither here nor to be downloaded.
    """
    sizes = Sizes(train_size, valid_size, test_size)
    with _lock:
        source, arrays = read(config, sizes)
    too_many = excess(config.name, Counts.of(arrays), sizes, config.balanced)
    if too_many is not None:
        raise ValueError("; ".join(too_many))
    drawn = _draw(arrays, sizes, config.balanced, seed)
    with _lock:
        if config.normalize:
            mean, deviation = statistics(*drawn[0], channels(arrays.shape))
            splits = [_scaled(part, index, mean, deviation) for part, index in drawn]
        else:
            splits = [Split(part.floats(), part.labels, index) for part, index in drawn]
    train, valid, test = splits
    provenance = {
        "name": config.name,
        "source": source,
        **arrays.provenance,
        "synthetic": arrays.synthetic,
        "shape": list(arrays.shape),
        "classes": list(arrays.classes),
        "full_size": arrays.full_size,
        "sizes": {"train": len(train), "valid": len(valid), "test": len(test)},
        "mean": mean.tolist() if config.normalize else None,  # of a channel, in [0, 1]
        "deviation": deviation.tolist() if config.normalize else None,
    }
    return Data(
        train,
        valid if len(valid) > 0 else None,
        test if len(test) > 0 else None,
        list(arrays.classes),
        provenance,
    )


def read(config: DatasetConfig, sizes: Sizes) -> tuple[str, Arrays]:
    """Return the source that serves these sizes, and all of its examples.

    A source is read once per process. Raises as ``load`` does.
    """
    note = ""
    if isinstance(config, IdxConfig):
        source, note, reader = mnist.choose(config, sizes)
    elif isinstance(config, DogSetConfig):
        source, reader = dogset.choose(config)
    elif isinstance(config, SyntheticConfig):
        source, reader = dogset_synthetic.choose(config)
    elif isinstance(config, BooleanConfig):
        source, reader = boolean.choose(config)
    else:
        raise ValueError(f"dataset={config.name} is not known; see --help")
    key = (source, Path.cwd())  # the source may name a relative folder
    if key not in _arrays:
        _arrays[key] = reader()
        if not isinstance(config, BooleanConfig):  # one that was chosen by its name is no news
            log.info(f"{source}{note}")
    return source, _arrays[key]


def forget() -> None:
    """Read every source anew when it is needed again: its files may change meanwhile."""
    with _lock:
        _arrays.clear()


def channels(shape: tuple[int, ...]) -> int:
    """Return how many channels an example of this shape has.

    >>> channels((28, 28)), channels((64, 64, 3)), channels((2,))
    (1, 3, 1)
    """
    return shape[2] if len(shape) > 2 else 1


def _draw(
    arrays: Arrays, sizes: Sizes, balanced: bool, seed: int
) -> list[tuple[Partition, Tensor]]:
    """Draw the training, validation and test split; the last two may be empty.

    Returns for each the partition that it is of, and its examples' positions there.
    """

    def pick(labels: Tensor, size: int | None, stream: str) -> Tensor:
        if size is None:
            return torch.arange(len(labels))
        generator = seeds.generator(seed, stream)
        if balanced:
            return sampling.balanced(labels, size, generator)
        return sampling.plain(len(labels), size, generator)

    held_out = arrays.valid or arrays.train
    valid = pick(held_out.labels, sizes.valid, "valid")
    left = torch.ones(len(arrays.train.labels), dtype=torch.bool)
    if arrays.valid is None:
        left[valid] = False
    rest = left.nonzero().flatten()
    train = rest[pick(arrays.train.labels[rest], sizes.train, "train")]
    test = pick(arrays.test.labels, sizes.test, "test")
    return [(arrays.train, train), (held_out, valid), (arrays.test, test)]


def statistics(part: Partition, index: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of every channel, [channels] float32 each.

    The channel is the last axis of an image; pixels count as value / 255. Summed in float64
    by NumPy, on one thread: the same numbers whatever torch's thread count. A constant
    channel has deviation 1.
    """
    total, squares, count = np.zeros(channels), np.zeros(channels), 0
    for some in index.split(1024):
        pixels = _pixels(part, some).numpy().reshape(-1, channels)
        total += pixels.sum(axis=0, dtype=np.float64)
        squares += np.einsum("pc,pc->c", pixels, pixels, dtype=np.float64)
        count += len(pixels)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    deviation[deviation < 1e-6] = 1
    return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()


def _pixels(part: Partition, index: Tensor) -> Tensor:
    """Copy some examples as float32 [n, I]."""
    pixels = part.inputs[index]
    return pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels


def _scaled(part: Partition, index: Tensor, mean: Tensor, deviation: Tensor) -> Split:
    """Copy a split's own examples, standardised; equal splits share one copy while it is used."""
    digest = hashlib.sha256(index.numpy().tobytes()).digest()
    key = (id(part), digest, *mean.tolist(), *deviation.tolist())
    scaled = _standardised.get(key)
    if scaled is None:
        pixels = _pixels(part, index)
        pixels = pixels.reshape(len(index), pixels.shape[1] // len(mean), len(mean))
        inputs = pixels.sub_(mean).div_(deviation).flatten(1)
        scaled = _standardised[key] = Split.whole(inputs, part.labels[index])
    return scaled
