"""All examples of a dataset's source, and which sizes of subsets they allow.

Axes: N examples of a partition, I inputs (an image's pixels, flattened).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nnlab.shapes import image_like

Examples: TypeAlias = "NDArray[np.float32] | NDArray[np.uint8]"
Labels: TypeAlias = "NDArray[np.int64] | NDArray[np.float64]"
Excess = tuple[str, str]  # which size is too large, and the remedy


@dataclass(eq=False)
class Partition:
    """Examples as they were published: inputs [N, I] and labels.

    Labels are classes, [N] int64, or the numbers that a regression predicts, [N, k] float64.
    Inputs are float32, or the uint8 pixels of images, which count as value / 255. rows: which
    examples of the user's file they are, [N] counted from 0; None where nobody would look there.
    files: the names of the files that these are, where each example has its own.
    """

    inputs: Examples
    labels: Labels
    rows: NDArray[np.int64] | None = None
    files: Sequence[str] | None = None


def as_floats(inputs: Examples) -> NDArray[np.float32]:
    """Return inputs as float32, pixels in [0, 1]; those that are floats as they are."""
    if inputs.dtype == np.uint8:
        pixels: NDArray[np.float32] = np.divide(inputs, np.float32(255), dtype=np.float32)
        return pixels
    return inputs.astype(np.float32, copy=False)


@dataclass(eq=False)
class Arrays:
    """All examples of one source.

    classes: their names; none in a regression, where targets has the names of what is predicted.
    valid, test: None where such sets are drawn from the training partition. shape: that of
    one example before flattening, an image's channels last. full_size: the training examples
    that the whole dataset has, of which a source may hold a sample; full_test_size: its test
    examples; None: those that there are. provenance: what identifies the content (JSON values),
    say hashes, as result.json has it. mean_pixel: of the training images, in [0, 1]. synthetic:
    made by a program. bounded: all inputs lie in [0, 1], as pixels do. columns: of a table, whose
    inputs these are in their order; for each its categories, an input each, or None for one
    number. missing: inputs may be NaN, and count as the mean of the training examples.
    """

    train: Partition
    valid: Partition | None
    test: Partition | None
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    full_size: int | None = None
    full_test_size: int | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    mean_pixel: float | None = None
    synthetic: bool = False
    bounded: bool = True
    columns: dict[str, list[str] | None] = field(default_factory=dict)
    missing: bool = False
    targets: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        """How many outputs a network has."""
        return len(self.targets or self.classes)

    @property
    def pictures(self) -> bool:
        """Whether examples can be shown as images."""
        return self.bounded and image_like(self.shape)


@dataclass(frozen=True)
class DataSource:
    """Where the examples of a dataset come from.

    name: as messages and result.json call it. read: returns all of them. identify: returns what
    ``read`` would as ``Arrays.provenance``, None where the files have yet to be downloaded; a
    source that has no quicker way to tell than reading has none. needs: the file without which
    there are no data at all. note: a remark on the choice. options: tells apart sources of one
    name that read otherwise.
    """

    name: str
    read: Callable[[], Arrays]
    identify: Callable[[], dict[str, Any] | None] | None = None
    note: str = ""
    needs: Path | None = None
    options: str = ""


@dataclass(frozen=True)
class Counts:
    """How many examples of each class the partitions hold; of a regression, how many examples.

    valid: empty where validation sets are drawn from the training partition.
    """

    train: tuple[int, ...]
    test: tuple[int, ...]
    valid: tuple[int, ...] = ()


@dataclass(frozen=True)
class Sizes:
    """How many examples of each split are asked for; None takes a whole partition."""

    train: int | None
    valid: int | None
    test: int | None


def mean_pixel(images: NDArray[Any]) -> float:
    """Return the mean of all pixels of images [N, ...], from 0 for black to 1.

    >>> mean_pixel(np.array([[[0, 255], [0, 0]]], np.uint8))
    0.25
    """
    # Half the time of NumPy's mean, which makes a float of every pixel.
    sums = images.reshape(len(images), -1).sum(axis=1, dtype=np.uint32)
    return float(sums.sum(dtype=np.float64) / (255 * images.size))


def excess(name: str, counts: Counts, sizes: Sizes, balanced: bool) -> Excess | None:
    """Say which size so many examples of each class do not allow, and the remedy.

    Returns None where every size is allowed, whatever the seed.
    """
    if sizes.valid is None and not counts.valid:
        own = "valid_size=null takes the dataset's own validation partition"
        remedy = "give a number, say valid_size=500, or valid_size=0 for none"
        return f"{own}, which {name} does not have", remedy
    drawn = 0 if counts.valid else sizes.valid or 0  # from the training partition
    for option, size, have, taken, split in (
        ("valid_size", sizes.valid, counts.valid, 0, "validation")
        if counts.valid
        else ("valid_size", sizes.valid, counts.train, 0, "training"),
        ("train_size", sizes.train, counts.train, drawn, "training"),
        ("test_size", sizes.test, counts.test, 0, "test"),
    ):
        found = _exceeds(option, size, have, taken, f"{split} examples", name, balanced)
        if found is not None:
            return found
    return None


def _exceeds(
    option: str,
    size: int | None,
    have: Sequence[int],
    taken: int,
    what: str,
    name: str,
    balanced: bool,
) -> Excess | None:
    need, shown = (1, "null") if size is None else (size, str(size))
    if need > 0 and sum(have) == 0:
        none = "" if option == "train_size" else f"set {option}=0 for none, or "
        return f"{option}={shown}: {name} has no {what}", f"{none}add some to its files"
    every = most(have, taken, even=False)
    even = most(have, taken, balanced and size is not None)
    left = f" left by valid_size={taken}" if taken > 0 else ""
    lower = f"lower {option}" + (" or valid_size" if taken > 0 else "")
    if need > every:
        return f"{option}={shown} exceeds the {every:,} {what} of {name}{left}", lower
    if need > even:
        return (
            f"{option}={shown} exceeds the {even:,} {what}{left} that can be balanced "
            f"over the classes of {name} ({len(have)} x {even // len(have):,})"
        ), f"{lower}, or set dataset.balanced=false"
    return None


def most(counts: Sequence[int], taken: int, even: bool) -> int:
    """Return how many examples can be drawn, whatever the seed, after another draw.

    counts: examples per class; taken: the size of the earlier draw; even: whether both
    draws are balanced.

    >>> most([5, 3], 0, even=True), most([5, 3], 0, even=False), most([5, 3], 1, even=True)
    (6, 8, 4)
    """
    if not even:
        return sum(counts) - taken
    return len(counts) * (min(counts) + -taken // len(counts))
