"""The truth table of a Boolean function as a dataset: a network trains and is tested on all of it.

Axes: N = 2**I rows, I inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnlab.boolean import function_name, inputs_of, rows_of, truth_table
from nnlab.datasets.arrays import Arrays, DataSource, Partition, Sizes
from nnlab.datasets.dataset import DatasetConfig
from nnlab.options import MISSING


@dataclass
class BooleanConfig(DatasetConfig):
    function: str = MISSING
    inputs: int = MISSING
    title = "Boolean function"
    images = False
    generated = True

    @property
    def truth_table(self) -> str:
        """Raises ValueError as ``boolean.truth_table`` does."""
        return truth_table(self.function, self.inputs)

    def check(self) -> None:
        _ = self.truth_table

    def choose_source(self, sizes: Sizes) -> DataSource:
        table = self.truth_table
        name = function_name(self.function, self.inputs)
        many = "1 input" if self.inputs == 1 else f"{self.inputs} inputs"
        known = {"truth_table": table}
        return DataSource(f"Boolean function {name} of {many}", lambda: make(table), lambda: known)

    def identity(self) -> dict[str, Any]:
        return super().identity() | {"function": self.truth_table}  # whatever it is called


def make(table: str) -> Arrays:
    """Lay out a truth table: every row of 0s and 1s, counted in binary, and its value.

    >>> arrays = make("0110")
    >>> arrays.train.inputs.tolist(), arrays.train.labels.tolist()
    ([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [0, 1, 1, 0])
    """
    inputs = inputs_of(table)
    rows = rows_of(inputs).astype(np.float32)
    whole = Partition(rows, np.array(list(map(int, table)), np.int64))
    return Arrays(
        train=whole,
        valid=None,
        test=whole,
        classes=("0", "1"),
        shape=(inputs,),
        full_size=len(table),
        full_test_size=len(table),
        provenance={"truth_table": table},
    )
