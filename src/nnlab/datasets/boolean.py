"""The truth table of a Boolean function as a dataset: a network trains and is tested on all of it.

Axes: N = 2**I rows, I inputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from nnlab.boolean import described, truth_table
from nnlab.config import BooleanConfig
from nnlab.datasets.arrays import Arrays, Partition
from nnlab.model import binary


def choose(config: BooleanConfig) -> tuple[str, Callable[[], Arrays]]:
    """Return the name of the source, and what makes it. Raises ValueError as truth_table does."""
    table = truth_table(config.function, config.inputs)
    name = described(config.function, config.inputs)
    many = "1 input" if config.inputs == 1 else f"{config.inputs} inputs"
    return f"Boolean function {name} of {many}", lambda: make(table)


def make(table: str) -> Arrays:
    """Lay out a truth table: every row of 0s and 1s, counted in binary, and its value.

    >>> arrays = make("0110")
    >>> arrays.train.inputs.tolist(), arrays.train.labels.tolist()
    ([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [0, 1, 1, 0])
    """
    inputs = len(table).bit_length() - 1
    rows = binary(torch.arange(len(table)), inputs).float()
    whole = Partition(rows, torch.tensor([int(value) for value in table]))
    return Arrays(
        train=whole,
        valid=None,
        test=whole,
        classes=("0", "1"),
        shape=(inputs,),
        full_size=len(table),
        provenance={"truth_table": table},
    )
