"""Examples from a Python function of the user's own.

It is called only where the command itself names it, see ``targets.refuse_unnamed``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnlab import functions
from nnlab.datasets.array_files import KEYS, named_parts
from nnlab.datasets.arrays import Arrays, DataSource, Sizes
from nnlab.datasets.labelled import PredictedConfig, make_arrays, sha256_of
from nnlab.functions import Function
from nnlab.losses import LearningTask
from nnlab.options import MISSING

WANTED = (
    f"it has to return (x, y), ((x_train, y_train), (x_test, y_test)), or a dict of arrays with "
    f"the names {KEYS}"
)


@dataclass
class FunctionConfig(PredictedConfig):
    function: str = MISSING
    title = "Function"
    rows = True  # or may be

    def check(self) -> None:
        super().check()
        self.found()

    def found(self) -> Function:
        return functions.find("dataset.function", self.function)

    def choose_source(self, sizes: Sizes) -> DataSource:
        """Return the source.

        Reading it raises ValueError where the module cannot be imported, or its function raises
        or returns something else than it has to (``WANTED``).
        """
        name = f"function {self.function}"
        return DataSource(name, lambda: read(self.found(), self.learned), options=self.task.name)

    def identity(self) -> dict[str, Any]:
        """Beside the options: the SHA-256 of the module's source."""
        return super().identity() | {"source_sha256": self.found().sha256}


def read(function: Function, task: LearningTask) -> Arrays:
    """Call a function and check what it returns."""
    returned = function.call()
    where = function.option
    try:
        arrays = {name: np.asarray(each) for name, each in named(returned).items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} returned what is no data ({error}): {WANTED}") from error
    provenance = {
        "source_sha256": function.sha256,
        "sha256": {name: sha256_of(array) for name, array in arrays.items()},
    }
    return make_arrays(where, named_parts(where, arrays), provenance, task=task)


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
