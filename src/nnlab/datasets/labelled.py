"""Examples and labels as a user has them: what is wrong with them, and the arrays they make.

Axes: N examples of a part, I inputs (an example, flattened).
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnlab import memory
from nnlab.datasets import files
from nnlab.datasets.arrays import Arrays, Examples, Labels, Partition, mean_pixel
from nnlab.datasets.dataset import DatasetConfig
from nnlab.losses import CLASSIFICATION, REGRESSION, TASKS, LearningTask, TaskName
from nnlab.options import MISSING, require
from nnlab.text import as_label

NESTED = (list, tuple, dict, set, np.ndarray)  # of which tables may have columns
LARGEST = 2**36  # bytes of a file
PARTS = ("train", "valid", "test")
SYNONYMS = {"training": "train", "validation": "valid", "val": "valid", "testing": "test"}
MOST_CLASSES = 2**15  # of which ``sampling.balanced`` draws
NAMED = 5  # classes, columns or values that a message lists


@dataclass
class LabelledConfig(DatasetConfig):
    """Data of the user's own: parts of them that they do not name are drawn."""

    test_fraction: float = MISSING
    stratified = True

    @property
    def held_out(self) -> float:
        return self.test_fraction

    def check(self) -> None:
        limit = "it must be at least 0 (no test examples) and below 1"
        require(0 <= self.test_fraction < 1, "dataset.test_fraction", self.test_fraction, limit)
        limit = "it draws equally many examples of each class, of which a regression has none"
        fine = not self.balanced or self.learned is CLASSIFICATION
        require(fine, "dataset.balanced", self.balanced, f"{limit}; leave it out")


@dataclass
class PredictedConfig(LabelledConfig):
    """The same, of whose labels ``task`` says whether they are classes or numbers."""

    task: TaskName = MISSING

    @property
    def learned(self) -> LearningTask:
        return TASKS[self.task.name]


@dataclass(eq=False)
class Part:
    """Examples [N, ...] and their labels [N], of any type; numbers to predict also [N, k].

    rows: [N], where in their file, or which of their files.
    """

    inputs: NDArray[Any]
    labels: Any
    rows: NDArray[np.int64] | None = None
    files: Sequence[str] | None = None


def make_arrays(
    where: str,
    parts: Mapping[str, Part],
    provenance: dict[str, Any],
    columns: dict[str, list[str] | None] | None = None,
    missing: bool = False,
    task: LearningTask = CLASSIFICATION,
    target: str = "y",
) -> Arrays:
    """Check parts, of which train is one, and put them together.

    where: what to call them in messages. columns, missing: as ``Arrays`` has them; NaN is an
    error unless missing. target: the name of a number that is to be predicted.
    Raises ValueError naming what is wrong with them: shapes, inputs or labels.
    """
    shapes = {name: part.inputs.shape[1:] or (1,) for name, part in parts.items()}
    shape = shapes["train"]
    if other := [name for name in parts if shapes[name] != shape]:
        raise ValueError(
            f"{where}: examples of {other[0]} have shape {list(shapes[other[0]])}, those of train "
            f"{list(shape)}; give all the same"
        )
    for name, part in parts.items():
        if len(part.inputs) != len(part.labels):
            raise ValueError(
                f"{where}: {name} has {len(part.inputs):,} examples but {len(part.labels):,} "
                f"labels; give one label for each"
            )
    if len({part.inputs.dtype == np.uint8 for part in parts.values()}) > 1:
        raise ValueError(
            f"{where}: some parts are uint8, which count as pixels / 255, others are not; give all "
            f"of one type"
        )
    if len(parts["train"].inputs) == 0 or math.prod(shape) == 0:
        raise ValueError(f"{where} has no training examples with inputs; give some")
    codes, classes, targets = labels_of(where, parts, task, target)
    inputs = {name: flat_inputs(where, part.inputs) for name, part in parts.items()}
    check_finite(where, inputs.values(), list(columns or []), missing)
    made = {
        name: Partition(inputs[name], labels, part.rows, part.files)
        for (name, part), labels in zip(parts.items(), codes)
        if len(labels) > 0
    }
    pixels = all(each.dtype == np.uint8 for each in inputs.values())
    return Arrays(
        train=made["train"],
        valid=made.get("valid"),
        test=made.get("test"),
        classes=classes,
        targets=targets,
        shape=tuple(shape),
        provenance=provenance,
        mean_pixel=mean_pixel(inputs["train"]) if pixels else None,
        bounded=pixels or all(between_0_and_1(each) for each in inputs.values()),
        columns=columns or {},
        missing=missing,
    )


def read_bytes(path: Path) -> bytes:
    """Return a file's content. Raises ValueError where it does not fit into memory with its
    examples, and as ``files.read_input`` does."""
    if path.is_file():
        memory.check(3 * path.stat().st_size, f"reading {path}", "give fewer examples")
    return files.read_input(path, LARGEST)


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's content. Raises as ``read_bytes``."""
    return hashlib.sha256(read_bytes(path)).hexdigest()


def flat_inputs(where: str, examples: NDArray[Any]) -> Examples:
    """Return examples [N, ...] as [N, I], pixels as they are and other numbers in float32."""
    if examples.dtype.kind not in "biuf":
        raise ValueError(
            f"{where}: examples are of type {examples.dtype}, no numbers; turn them into numbers"
        )
    flat = examples.reshape(len(examples), -1)
    if flat.dtype == np.uint8:
        return flat
    memory.check(4 * flat.size, f"{where} in float32", "give fewer examples, or uint8 pixels")
    with np.errstate(over="ignore"):  # to infinity, which is refused
        return flat.astype(np.float32)


def check_finite(
    where: str, inputs: Iterable[Examples], names: Sequence[str], missing: bool = False
) -> None:
    """Raise ValueError that counts NaN and infinite numbers by column.

    names: of the columns, where they have any. missing: NaN is fine.
    """
    floats = [part for part in inputs if part.dtype != np.uint8]
    kinds = {"infinite": np.isinf} if missing else {"missing (NaN)": np.isnan, "infinite": np.isinf}
    counts = {kind: sum(find(part).sum(axis=0) for part in floats) for kind, find in kinds.items()}
    said = [
        f"{kind}: {named_counts(count, names)}" for kind, count in counts.items() if np.any(count)
    ]
    if said:
        raise ValueError(
            f"{where} has numbers that are {', and '.join(said)}; correct them, or leave these "
            f"examples or columns out"
        )


def named_counts(counts: NDArray[Any], names: Sequence[str]) -> str:
    """Write how often something is in columns, those that have it.

    >>> named_counts(np.array([0, 3, 1]), ["a", "b", "c"])
    '3 in b, 1 in c'
    """
    found = np.flatnonzero(counts)
    shown = [
        f"{counts[place]:,} in {as_label(names[place]) if names else f'input {place}'}"
        for place in found[:NAMED].tolist()
    ]
    more = f" and {len(found) - NAMED:,} more columns" if len(found) > NAMED else ""
    return f"{', '.join(shown)}{more}"


def between_0_and_1(inputs: Examples) -> bool:
    return inputs.dtype == np.uint8 or bool(((inputs >= 0) & (inputs <= 1)).all())


def labels_of(
    where: str, parts: Mapping[str, Part], task: LearningTask, target: str
) -> tuple[list[Labels], tuple[str, ...], tuple[str, ...]]:
    """Return the labels of each part, and the names of the classes or of the targets."""
    if task is REGRESSION:
        numbers = {name: numbers_of(where, name, part.labels) for name, part in parts.items()}
        count = numbers["train"].shape[1]
        if other := [name for name, each in numbers.items() if each.shape[1] != count]:
            raise ValueError(
                f"{where}: {other[0]} has {numbers[other[0]].shape[1]} numbers to predict of each "
                f"example, train {count}; give all the same"
            )
        names = (target,) if count == 1 else tuple(f"{target}{i}" for i in range(count))
        return list(numbers.values()), (), names
    codes, classes = classes_of(where, [part.labels for part in parts.values()])
    check_classes(where, classes, dict(zip(parts, codes)))
    return list(codes), classes, ()


def numbers_of(where: str, name: str, labels: Any) -> NDArray[np.float64]:
    """Return labels [N] or [N, k] as the numbers that a regression is to predict, [N, k].

    Raises ValueError where they are none, or some are missing, infinite or beyond float32.
    """
    import pandas as pd

    given = labels.to_numpy() if isinstance(labels, pd.Series) else np.asarray(labels)
    if given.dtype == object:  # of pandas' numbers that may be missing
        with contextlib.suppress(TypeError, ValueError):
            given = pd.Series(given.ravel()).astype(float).to_numpy().reshape(given.shape)
    if given.dtype.kind not in "iuf":
        example = as_label(str(given.flat[0])) if given.size else ""
        raise ValueError(
            f"{where} has labels such as {example}, and dataset.task=regression predicts numbers; "
            f"choose another label, or dataset.task=classification"
        )
    if given.ndim not in (1, 2) or given.shape[1:] == (0,):
        raise ValueError(
            f"{where}: the labels of {name} have shape {list(given.shape)}; a regression takes a "
            f"number for each example, [N], or several, [N, k]"
        )
    numbers = given.reshape(len(given), -1).astype(np.float64)
    if (wrong := int((~np.isfinite(numbers)).sum())) > 0:
        raise ValueError(
            f"{where} has {wrong:,} labels that are missing (NaN) or infinite; correct them, or "
            f"leave these examples out"
        )
    largest, limit = np.abs(numbers).max(initial=0), np.finfo(np.float32).max
    if largest > limit:  # a network could not predict it
        raise ValueError(
            f"{where} has a label of size {largest:.2g}, and float32 ends at {limit:.2g}; give the "
            f"labels in a larger unit"
        )
    return numbers


def classes_of(
    where: str, labels: Sequence[Any]
) -> tuple[list[NDArray[np.int64]], tuple[str, ...]]:
    """Number the classes of labels, of several parts, from 0: integers by size, texts by alphabet.

    Returns the labels of each part [N] int64, and the classes' names.
    Raises ValueError where labels are missing, or are neither whole numbers nor texts.
    """
    import pandas as pd

    try:
        columns = [pd.Series(column_of(where, each)) for each in labels]
    except UnicodeError as error:
        raise ValueError(f"{where} has labels that are no texts: {error}") from None
    codes, names = categories(pd.concat(columns, ignore_index=True), where)
    if (gaps := int((codes < 0).sum())) > 0:
        raise ValueError(
            f"{where} has {gaps:,} examples without a label; label them or leave them out"
        )
    fractions = [name for name, value in names.items() if isinstance(value, (float, complex))]
    if fractions:
        raise ValueError(
            f"{where} has labels such as {fractions[0]}, {len(names):,} different ones; a class is "
            f"a text or a whole number: choose another label, or dataset.task=regression to "
            f"predict numbers"
        )
    ends = np.cumsum([len(each) for each in columns])[:-1]
    return np.split(codes, ends), tuple(names)


def column_of(where: str, labels: Any) -> Any:
    """Return labels as one column, of arrays [N] and [N, 1]."""
    shape = np.shape(labels)
    if len(shape) == 2 and shape[1] == 1:
        return np.asarray(labels)[:, 0]
    if len(shape) != 1:
        raise ValueError(
            f"{where} has labels of shape {list(shape)}; give one for each example (of one-hot "
            f"labels y that is y.argmax(1)), or dataset.task=regression to predict several numbers"
        )
    return labels


def categories(column: Any, where: str = "") -> tuple[NDArray[np.int64], dict[str, object]]:
    """Number the different values of a pandas Series, in order.

    Returns for each value its number, -1 where it is missing, and the values by their names.
    Raises ValueError where there are lists or the like among them.

    >>> import pandas as pd
    >>> codes, names = categories(pd.Series([10.0, None, 2.0]))
    >>> codes.tolist(), names
    ([1, -1, 0], {'2': 2, '10': 10})
    """
    import pandas as pd

    if column.dtype == object:  # of whatever types
        if any(isinstance(value, NESTED) for value in column):
            raise ValueError(f"{where} holds lists or the like, not texts or numbers; leave it out")
        column = column.map(decoded, na_action="ignore")
    if column.dtype == object:
        column = column.map(str, na_action="ignore")
    codes, values = pd.factorize(column, sort=True)
    names = {str(value): value for value in map(plain_value, values)}
    return codes.astype(np.int64), names


def decoded(value: object) -> object:
    """Return a text of bytes, as NumPy has some, as text, and anything else as it is."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def plain_value(value: Any) -> object:
    """Return a number as Python has it, a whole one as an integer.

    >>> plain_value(np.float64(3)), plain_value(np.float32(0.5)), plain_value("a")
    (3, 0.5, 'a')
    """
    if isinstance(value, np.generic):
        value = value.item()
    return int(value) if isinstance(value, float) and value.is_integer() else value


def check_classes(
    where: str, classes: Sequence[str], codes: Mapping[str, NDArray[np.int64]]
) -> None:
    """Raise ValueError where classes are too few or too many, or one has too few examples."""
    counts = {name: np.bincount(each, minlength=len(classes)) for name, each in codes.items()}
    single = np.flatnonzero(sum(counts.values()) == 1).tolist()
    unseen = np.flatnonzero(counts["train"] == 0).tolist()
    if len(classes) < 2:
        said = f"has one class only, {as_label(classes[0])}"
    elif single:
        said = f"has only one example of {some(classes, single)}"
    elif unseen:
        said = f"has no training example of {some(classes, unseen)}"
    elif len(classes) > MOST_CLASSES:
        said = f"has {len(classes):,} classes, more than {MOST_CLASSES:,}"
    else:
        return
    raise ValueError(f"{where} {said}; add examples, or leave such classes out")


def some(names: Sequence[str], places: Sequence[int]) -> str:
    """Name some classes: the first few of them.

    >>> some(["a", "b", "c"], [2]), some("abcdefg", range(7))
    ('class c', '7 classes, say a, b, c, d, e')
    """
    shown = ", ".join(as_label(names[place]) for place in places[:NAMED])
    return f"class {shown}" if len(places) == 1 else f"{len(places):,} classes, say {shown}"


def sha256_of(array: NDArray[Any]) -> str:
    """Return the SHA-256 of an array's type, shape and content."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    if array.dtype == object:
        digest.update(repr(array.tolist()).encode())
    else:
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()
