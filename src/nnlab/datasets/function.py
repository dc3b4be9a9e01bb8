"""Examples from a Python function of the user's own.

It is called only where the command itself names it, see ``targets.refuse_unnamed``.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from nnlab.datasets import files
from nnlab.datasets.array_files import KEYS, named_parts
from nnlab.datasets.arrays import Arrays, DataSource, Sizes
from nnlab.datasets.labelled import LabelledConfig, make_arrays, nearest, sha256_of
from nnlab.options import MISSING, require

WANTED = (
    f"it has to return (x, y), ((x_train, y_train), (x_test, y_test)), or a dict of arrays with "
    f"the names {KEYS}"
)


@dataclass
class FunctionConfig(LabelledConfig):
    function: str = MISSING
    title = "Function"

    def check(self) -> None:
        super().check()
        limit = "name a module of the working directory and its function, as in my_data:load"
        fine = re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", self.function) is not None
        require(fine, "dataset.function", self.function, limit)
        source_of(self.function)

    def choose_source(self, sizes: Sizes) -> DataSource:
        """Return the source.

        Reading it raises ValueError where the module cannot be imported, or its function raises
        or returns something else than it has to (``WANTED``).
        """
        return DataSource(f"function {self.function}", lambda: read(self.function))

    def identity(self) -> dict[str, Any]:
        """Beside the options: the SHA-256 of the module's source."""
        return super().identity() | {"source_sha256": sha256(source_of(self.function)[1])}


def source_of(function: str) -> tuple[Path, bytes]:
    """Return the file of a function's module, in the working directory, and its content.

    Raises ValueError where there is none.
    """
    module = Path(*function.partition(":")[0].split("."))
    for path in (module.with_suffix(".py"), module / "__init__.py"):
        if path.is_file():
            return path, files.read_input(path)
    there = [each.stem for each in sorted(Path().glob("*.py"))]
    hint = nearest(str(module), there) if there else f"write {module}.py"
    raise ValueError(
        f"dataset.function={function}: there is no {module}.py in the working directory; {hint}"
    )


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read(function: str) -> Arrays:
    """Call a function, given as module:name, and check what it returns."""
    path, source = source_of(function)
    where = f"dataset.function={function}"
    with imported(where, function.partition(":")[0], path, source) as module:
        name = function.partition(":")[2]
        load = getattr(module, name, None)
        if not callable(load):
            known = [key for key, value in vars(module).items() if callable(value)]
            hint = nearest(name, known) if known else f"define it there: def {name}():"
            raise ValueError(f"{where}: {path} has no function {name}; {hint}")
        try:
            returned = load()
        except Exception as error:
            raise ValueError(f"{where} raised {told(error, path)}") from error
    try:
        arrays = {name: np.asarray(each) for name, each in named(returned).items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} returned what is no data ({error}): {WANTED}") from error
    provenance = {
        "source_sha256": sha256(source),
        "sha256": {name: sha256_of(array) for name, array in arrays.items()},
    }
    return make_arrays(where, named_parts(where, arrays), provenance)


@contextlib.contextmanager
def imported(where: str, name: str, path: Path, source: bytes) -> Iterator[ModuleType]:
    """Import a module anew, from its source, and let it import what lies in the working directory.

    Raises ValueError where it cannot be imported.
    """
    package = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=package)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    before, places = sys.modules.get(name), sys.path[:]
    sys.modules[name] = module  # where its classes look for it
    sys.path.insert(0, str(Path.cwd()))
    try:
        try:
            exec(compile(source, path, "exec"), vars(module))
        except Exception as error:
            raise ValueError(f"{where}: {path} cannot be imported: {told(error, path)}") from error
        yield module
    finally:
        sys.path[:] = places
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before


def told(error: Exception, path: Path) -> str:
    """Say what an error is, and in which line of a file it came up."""
    lines = [
        each.lineno
        for each in traceback.extract_tb(error.__traceback__)
        if each.filename == str(path)
    ]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    place = "" if line is None else f" (line {line} of {path})"
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}{place}"


def named(returned: Any) -> dict[str, Any]:
    """Name what a function returned as arrays are named. Raises ValueError for anything else."""
    if isinstance(returned, Mapping):
        return dict(returned)
    sequence = isinstance(returned, (tuple, list))
    if not sequence or len(returned) != 2:
        length = f" of {len(returned)}" if sequence else ""
        raise ValueError(f"a {type(returned).__name__}{length}")
    if all(isinstance(each, tuple) and len(each) == 2 for each in returned):
        (x_train, y_train), (x_test, y_test) = returned
        return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    return dict(zip("xy", returned))
