"""Arrays of examples and labels: an .npz or .safetensors file, or a folder of .npy files.

Axes: N examples.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnlab import memory
from nnlab.datasets import files
from nnlab.datasets.arrays import Arrays, DataSource, Sizes
from nnlab.datasets.labelled import (
    PARTS,
    Part,
    PredictedConfig,
    make_arrays,
    read_bytes,
    sha256_of_file,
)
from nnlab.losses import LearningTask
from nnlab.options import MISSING

KEYS = "x_train, y_train[, x_valid, y_valid][, x_test, y_test], or x, y"


@dataclass
class ArrayFilesConfig(PredictedConfig):
    file: str = MISSING
    title = "Arrays"
    rows = True  # or may be

    @property
    def data_folder(self) -> str:
        return self.file

    def choose_source(self, sizes: Sizes) -> DataSource:
        """Return the source.

        Reading it raises ValueError naming the array that is not as it should be.
        """
        path = files.input_folder(self.file)
        return DataSource(
            f"arrays in {path}",
            lambda: read(path, self.learned),
            lambda: {
                "sha256": {name: sha256_of_file(part) for name, part in array_files(path).items()}
            },
            needs=path,
            options=self.task.name,
        )


def read(path: Path, task: LearningTask) -> Arrays:
    """Read the arrays of a file or folder. Nothing is unpickled, for that could run code."""
    arrays: dict[str, NDArray[Any]] = {}
    sha256 = {}
    for name, part in array_files(path).items():
        content = read_bytes(part)
        sha256[name] = hashlib.sha256(content).hexdigest()
        arrays |= arrays_in(part, content)
    return make_arrays(str(path), named_parts(str(path), arrays), {"sha256": sha256}, task=task)


def array_files(path: Path) -> dict[str, Path]:
    """Return the files that hold the arrays, by names that do not depend on where they lie."""
    if not path.is_dir():
        return {"file": path}
    found = {each.stem: each for each in sorted(path.glob("*.npy"))}
    if not found:
        raise ValueError(f"{path} holds no .npy files; put x.npy and y.npy there: {KEYS}")
    return found


def arrays_in(path: Path, content: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file by their names. Raises ValueError naming it where it has none."""
    try:
        with memory.bounded(f"unpacking {path}", "give fewer examples"):
            return unpacked(path, content)
    except memory.NoRoomError:
        raise
    except Exception as error:  # of whatever a damaged file makes of its reader
        raise ValueError(f"{path} cannot be read: {explained(error)}") from None


def unpacked(path: Path, content: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file by their names, that of an .npy file by the file's."""
    if path.suffix == ".safetensors":
        from safetensors.numpy import load

        return dict(load(content))
    if path.suffix == ".npy":
        return {path.stem: np.load(io.BytesIO(content), allow_pickle=False)}
    if path.suffix == ".npz":
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            whole = sum(each.file_size for each in packed.infolist())
        memory.check(2 * whole, f"unpacking {path}", "give fewer examples")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    raise ValueError("it is none of .npz and .safetensors, nor a folder of .npy files")


def explained(error: Exception) -> str:
    """Return a reader's words, and what to do about arrays that are pickled."""
    if "allow_pickle=False" in str(error):
        return "it is pickled, which could run code; save numbers, and labels with astype(str)"
    # The lines that NumPy adds are of its own options.
    return str(error).partition("\n")[0] or type(error).__name__


def named_parts(where: str, arrays: Mapping[str, Any]) -> dict[str, Part]:
    """Return the parts that arrays make, by the names that KEYS lists.

    Raises ValueError where one is missing, or there is one of another name.
    """
    known = {f"{axis}{part}" for axis in "xy" for part in ("", *(f"_{name}" for name in PARTS))}
    found = set(arrays) & known
    strange = [name for name in arrays if name not in known and re.match(r"[xy]_", str(name))]
    whole = found <= {"x", "y"}
    names = {"train": ""} if whole else {name: f"_{name}" for name in PARTS}
    lacking = [
        f"{axis}{names[part]}"
        for part in names
        for axis in "xy"
        if f"{axis}{names[part]}" not in arrays
        and (part == "train" or f"{'xy'.replace(axis, '')}{names[part]}" in arrays)
    ]
    if strange or lacking or (not whole and found & {"x", "y"}):
        listed = ", ".join(map(str, arrays)) or "none"
        wrong = (
            f"{strange[0]} is not known"
            if strange
            else f"{', '.join(lacking)} is missing"
            if lacking
            else "x or y is one too many"
        )
        raise ValueError(f"{where} holds the arrays {listed}: {wrong}; the names are {KEYS}")
    return {
        part: part_of(
            f"{where}: x{end}", np.asarray(arrays[f"x{end}"]), np.asarray(arrays[f"y{end}"])
        )
        for part, end in names.items()
        if f"x{end}" in arrays
    }


def part_of(name: str, inputs: NDArray[Any], labels: NDArray[Any]) -> Part:
    if inputs.ndim == 0 or labels.ndim == 0:
        raise ValueError(f"{name} or its labels are a single number; give arrays of N examples")
    return Part(inputs, labels, np.arange(len(inputs)))
