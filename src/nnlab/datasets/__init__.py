"""Datasets: which source serves a run, what identifies its content, and its examples.

What draws a run's splits is imported when that is first asked for: a finished sweep's rerun does
not wait for it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nnlab.datasets.array_files import ArrayFilesConfig
from nnlab.datasets.arrays import Arrays, DataSource, Sizes
from nnlab.datasets.boolean import BooleanConfig
from nnlab.datasets.dataset import DatasetConfig
from nnlab.datasets.dogset import DogSetConfig
from nnlab.datasets.dogset_synthetic import SyntheticConfig
from nnlab.datasets.function import FunctionConfig
from nnlab.datasets.image_folder import ImageFolderConfig
from nnlab.datasets.mnist import FashionMNISTConfig, MNISTConfig
from nnlab.datasets.sklearn import SklearnConfig
from nnlab.datasets.table import TableConfig

if TYPE_CHECKING:
    from nnlab.datasets.splits import Data as Data
    from nnlab.datasets.splits import Split as Split
    from nnlab.datasets.splits import load as load

Key = TypeVar("Key")
Value = TypeVar("Value")

log = logging.getLogger("nnlab")

# The datasets of ``dataset=``, by the names of their YAML files.
DATASETS: dict[str, type[DatasetConfig]] = {
    "mnist": MNISTConfig,
    "fashion_mnist": FashionMNISTConfig,
    "dogset": DogSetConfig,
    "dogset_synthetic": SyntheticConfig,
    "boolean": BooleanConfig,
    "table": TableConfig,
    "arrays": ArrayFilesConfig,
    "images": ImageFolderConfig,
    "sklearn": SklearnConfig,
    "function": FunctionConfig,
}

_lock = threading.RLock()
# Of this command: what it chose, found and read stays so, though files come and go meanwhile;
# and what it could not is not tried again for each of its runs.
_sources: dict[str, DataSource | Exception] = {}  # by what was asked for
_contents: dict[tuple[str, str, Path], str] = {}  # by source
_arrays: dict[tuple[str, str, Path], Arrays | Exception] = {}  # likewise


def __getattr__(name: str) -> Any:
    if name not in ("Data", "Split", "load"):
        raise AttributeError(f"module 'nnlab.datasets' has no attribute {name!r}")
    return getattr(import_module("nnlab.datasets.splits"), name)


def choose_source(config: DatasetConfig, sizes: Sizes) -> DataSource:
    """Return the source that serves these sizes, the same one throughout a command.

    Raises as the dataset's own ``choose_source`` does.
    """
    asked = repr((config, sizes, Path.cwd()))  # the source may name a relative folder
    return _once(_sources, asked, lambda: config.choose_source(sizes))


def content(config: DatasetConfig, sizes: Sizes) -> str | None:
    """Return a digest of the data that a run with this configuration would read now.

    It is equal where the examples are, wherever their files lie. None where there are no data:
    they are gone, or have yet to be downloaded.
    Raises as ``read`` does.
    """
    source = choose_source(config, sizes)
    key = (source.name, source.options, Path.cwd())
    if source.needs is not None and not os.path.exists(source.needs):
        return None
    with _lock:
        if key not in _contents:
            if source.identify is None:
                read(config, sizes)
            elif (found := source.identify()) is not None:
                _contents[key] = digest(found)
        return _contents.get(key)


def read(config: DatasetConfig, sizes: Sizes) -> tuple[str, Arrays]:
    """Return the name of the source that serves these sizes, and all of its examples.

    A source is read once per process.
    Raises ValueError if a size is too large or a file is not as it should be, OSError if the
    files are neither here nor to be downloaded.
    """
    source = choose_source(config, sizes)
    key = (source.name, source.options, Path.cwd())

    def arrays() -> Arrays:
        found = source.read()
        _contents[key] = digest(found.provenance)
        if not config.generated:
            log.info(f"{source.name}{source.note}")
        return found

    return source.name, _once(_arrays, key, arrays)


def _once(memory: dict[Key, Value | Exception], key: Key, make: Callable[[], Value]) -> Value:
    """Return what was made for a key, or raise what was raised then; make it the first time."""
    with _lock:
        if key not in memory:
            try:
                memory[key] = make()
            except Exception as error:
                memory[key] = error
        made = memory[key]
    if isinstance(made, Exception):
        raise made
    return made


def digest(provenance: dict[str, Any]) -> str:
    """Return 16 hex digits that differ wherever what is known of two sources' content does."""
    return hashlib.sha256(json.dumps(provenance, sort_keys=True).encode()).hexdigest()[:16]


def forget() -> None:
    """Forget what was chosen and read: the next command in this process looks anew."""
    with _lock:
        for memory in (_sources, _contents, _arrays):
            memory.clear()
    if (splits := sys.modules.get("nnlab.datasets.splits")) is not None:
        splits.forget()
