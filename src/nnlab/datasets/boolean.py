"""The truth table of a Boolean function as a dataset: a network trains and is tested on all of it.

Axes: N = 2**I rows, I inputs.
"""

from __future__ import annotations

import itertools

import numpy as np

from nnlab.boolean import function_name, truth_table
from nnlab.config import BooleanConfig
from nnlab.datasets.arrays import Arrays, DataSource, Partition


def choose_source(config: BooleanConfig) -> DataSource:
    """Return the source. Raises ValueError as truth_table does."""
    table = truth_table(config.function, config.inputs)
    name = function_name(config.function, config.inputs)
    many = "1 input" if config.inputs == 1 else f"{config.inputs} inputs"
    known = {"truth_table": table}
    return DataSource(f"Boolean function {name} of {many}", lambda: make(table), lambda: known)


def make(table: str) -> Arrays:
    """Lay out a truth table: every row of 0s and 1s, counted in binary, and its value.

    >>> arrays = make("0110")
    >>> arrays.train.inputs.tolist(), arrays.train.labels.tolist()
    ([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [0, 1, 1, 0])
    """
    inputs = len(table).bit_length() - 1
    rows = np.array(list(itertools.product((0, 1), repeat=inputs)), np.float32)
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
