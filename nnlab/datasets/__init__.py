"""Splits of a dataset, ready to train on.

Axes: N examples of the arrays, n of a split, I inputs (an image's pixels, flattened).
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from nnlab import seeds
from nnlab.config import DatasetConfig, Source
from nnlab.datasets import files, mnist, sampling

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


@dataclass(frozen=True)
class _Sizes:
    train: int | None
    valid: int
    test: int | None


_lock = threading.Lock()
_arrays: dict[tuple[str, Path], mnist.Arrays] = {}  # by source; held for the life of the process
_standardised: WeakValueDictionary[tuple[object, ...], Split] = WeakValueDictionary()


def load(
    config: DatasetConfig,
    *,
    train_size: int | None,
    valid_size: int,
    test_size: int | None,
    seed: int,
) -> Data:
    """Draw a run's splits from its seed, reading the dataset once per process.

    A size of None takes the whole split in file order; the validation set is drawn from the
    training split first. Arrays are shared between calls, from any thread; where
    config.normalize is set, only calls that draw the same subset share them.
    Raises ValueError if a size is too large or a file is not as published, OSError if the
    files are neither here nor to be downloaded.
    """
    if config.name not in mnist.IMAGE_SETS:
        known = ", ".join(mnist.IMAGE_SETS)
        raise ValueError(f"dataset.name={config.name} is not known; choose one of {known}")
    images = mnist.IMAGE_SETS[config.name]
    sizes = _Sizes(train_size, valid_size, test_size)
    with _lock:
        source, arrays = _read(images, config, sizes)
    train, valid, test = _draw(arrays, sizes, config.balanced, seed)
    provenance = {
        "name": images.name,
        "source": source,
        "sha256": arrays.sha256,
        "shape": list(arrays.shape),
        "full_size": sum(images.counts.train),  # of the published training split
        "sizes": {"train": len(train), "valid": len(valid), "test": len(test)},
    }
    if config.normalize:
        mean, scale = _statistics(train, channels=arrays.shape[2] if len(arrays.shape) > 2 else 1)
        with _lock:
            train, valid, test = (_scaled(part, mean, scale) for part in (train, valid, test))
    return Data(
        train,
        valid if len(valid) > 0 else None,
        test if len(test) > 0 else None,
        list(images.classes),
        provenance,
    )


def _read(images: mnist.ImageSet, config: DatasetConfig, sizes: _Sizes) -> tuple[str, mnist.Arrays]:
    """Choose the source that serves these sizes; return its name and its arrays."""
    folder = Path(config.folder).expanduser()
    excess = _excess(images.name, images.counts, sizes, config.balanced)
    lacking = _sample_lacks(images, config, sizes)
    found = files.find(folder, images.files)
    missing = [file for file in images.files if file not in found]
    names = ", ".join(file.name for file in missing)

    if config.source is Source.bundled and lacking is not None:
        official = f", or set dataset.source=auto and put the official files into {folder}"
        raise ValueError("; ".join(lacking) + ("" if excess else official))
    if config.source is Source.bundled or (missing and lacking is None):
        source = f"bundled sample of {images.name}"
        some = config.source is Source.auto and len(missing) < len(images.files)
        note = f" ({folder} lacks {names})" if some else ""
        return source, _once(source, note, lambda: mnist.read_sample(images))

    if excess is not None:
        raise ValueError("; ".join(excess))
    if missing:
        assert lacking is not None
        reason, remedy = lacking
        log.info(f"{reason}: fetching {names} into {folder}")
        try:
            files.fetch(folder, missing, images.mirrors)
        except OSError as error:
            raise OSError(f"{reason}, but {error}; or {remedy}") from error
        found = files.find(folder, images.files)
    source = f"official {images.name} files in {folder}"
    return source, _once(source, "", lambda: mnist.read_official(images, found))


def _once(source: str, note: str, read: Callable[[], mnist.Arrays]) -> mnist.Arrays:
    """Return the source's arrays, from memory if it was read from this directory before."""
    key = (source, Path.cwd())  # the source may name a relative folder
    if key not in _arrays:
        _arrays[key] = read()
        log.info(f"{source}{note}")
    return _arrays[key]


def _sample_lacks(
    images: mnist.ImageSet, config: DatasetConfig, sizes: _Sizes
) -> tuple[str, str] | None:
    """Say why the bundled sample does not serve, and the remedy; None where it serves."""
    if config.source is Source.official:
        return "dataset.source=official asks for the official files", "set dataset.source=auto"
    if images.sample is None:
        return f"{images.name} has no bundled sample", "choose dataset=mnist"
    name = f"the bundled sample of {images.name}"
    if config.source is Source.auto and None in (sizes.train, sizes.test):
        return f"a size of null asks for more than {name}", "ask for fewer images"
    return _excess(name, images.sample.counts, sizes, config.balanced)


def _excess(
    name: str, counts: mnist.Counts, sizes: _Sizes, balanced: bool
) -> tuple[str, str] | None:
    """Say which size so many examples of each class do not allow, and the remedy.

    Returns None where every size is allowed, whatever the seed.
    """
    for option, size, have, taken, split in (
        ("valid_size", sizes.valid, counts.train, 0, "training"),
        ("train_size", sizes.train, counts.train, sizes.valid, "training"),
        ("test_size", sizes.test, counts.test, 0, "test"),
    ):
        need, shown = (1, "null") if size is None else (size, str(size))
        every = sampling.most(have, taken, even=False)
        even = sampling.most(have, taken, balanced and size is not None)
        left = f" left by valid_size={taken}" if taken > 0 else ""
        lower = f"lower {option}" + (" or valid_size" if taken > 0 else "")
        if need > every:
            return f"{option}={shown} exceeds the {every:,} {split} images of {name}{left}", lower
        if need > even:
            return (
                f"{option}={shown} exceeds the {even:,} {split} images{left} that can be balanced "
                f"over the classes of {name} ({len(have)} x {even // len(have):,})"
            ), f"{lower}, or set dataset.balanced=false"
    return None


def _draw(
    arrays: mnist.Arrays, sizes: _Sizes, balanced: bool, seed: int
) -> tuple[Split, Split, Split]:
    """Draw the training, validation and test split; the last two may be empty."""

    def pick(labels: Tensor, size: int | None, stream: str) -> Tensor:
        if size is None:
            return torch.arange(len(labels))
        generator = seeds.generator(seed, stream)
        if balanced:
            return sampling.balanced(labels, size, generator)
        return sampling.plain(len(labels), size, generator)

    valid = pick(arrays.train_labels, sizes.valid, "valid")
    left = torch.ones(len(arrays.train_labels), dtype=torch.bool)
    left[valid] = False
    rest = left.nonzero().flatten()
    train = rest[pick(arrays.train_labels[rest], sizes.train, "train")]
    test = pick(arrays.test_labels, sizes.test, "test")
    return (
        Split(arrays.train_inputs, arrays.train_labels, train),
        Split(arrays.train_inputs, arrays.train_labels, valid),
        Split(arrays.test_inputs, arrays.test_labels, test),
    )


def _statistics(split: Split, channels: int) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of every channel, [channels] float32 each.

    The channel is the last axis of an image. Summed in float64 by NumPy, on one thread: the
    same numbers whatever torch's thread count. A constant channel has deviation 1.
    """
    pixels = split.inputs[split.index].numpy().reshape(-1, channels)
    mean = pixels.mean(axis=0, dtype=np.float64)
    squares = np.einsum("pc,pc->c", pixels, pixels, dtype=np.float64) / len(pixels)
    deviation = np.sqrt(np.maximum(squares - mean**2, 0))
    deviation[deviation < 1e-6] = 1
    return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()


def _scaled(split: Split, mean: Tensor, deviation: Tensor) -> Split:
    """Copy a split's own examples, standardised; equal splits share one copy while it is used."""
    digest = hashlib.sha256(split.index.numpy().tobytes()).digest()
    key = (id(split.inputs), digest, *mean.tolist(), *deviation.tolist())
    scaled = _standardised.get(key)
    if scaled is None:
        pixels = split.inputs[split.index]
        pixels = pixels.reshape(len(split), pixels.shape[1] // len(mean), len(mean))
        inputs = pixels.sub_(mean).div_(deviation).flatten(1)
        scaled = _standardised[key] = Split.whole(inputs, split.labels[split.index])
    return scaled
