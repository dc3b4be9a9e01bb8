"""Boolean functions of Boolean inputs, by name or by truth table. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

MOST_INPUTS = 12
# From how many of the inputs are 1, and how many there are.
FUNCTIONS: dict[str, Callable[[int, int], bool]] = {
    "and": lambda ones, inputs: ones == inputs,
    "or": lambda ones, inputs: ones > 0,
    "nand": lambda ones, inputs: ones < inputs,
    "nor": lambda ones, inputs: ones == 0,
    "xor": lambda ones, inputs: ones % 2 == 1,
    "xnor": lambda ones, inputs: ones % 2 == 0,
    "parity": lambda ones, inputs: ones % 2 == 1,
    "majority": lambda ones, inputs: 2 * ones > inputs,
}


def truth_table(function: str, inputs: int) -> str:
    """Return the values of a function as 2**inputs bits, the row of all zeros first.

    Rows are counted in binary, the first input being the highest bit: for two inputs 00, 01,
    10, 11. function: one of FUNCTIONS, or such bits. xor of more than two inputs is parity.
    Raises ValueError for anything else, naming the option.

    >>> truth_table("xor", 2), truth_table("majority", 3), truth_table("0110", 2)
    ('0110', '00010111', '0110')
    """
    if not 1 <= inputs <= MOST_INPUTS:
        raise ValueError(f"dataset.inputs={inputs} is not possible: choose 1 to {MOST_INPUTS}")
    rows = 2**inputs
    if function in FUNCTIONS:
        values = (FUNCTIONS[function](row.bit_count(), inputs) for row in range(rows))
        return "".join(str(int(value)) for value in values)
    shown = function if len(function) <= 40 else f"{function[:39]}…"
    if function == "" or set(function) - {"0", "1"}:
        raise ValueError(
            f"dataset.function={shown} is not known: choose one of {', '.join(FUNCTIONS)}, "
            f"or give the {rows} bits of its truth table, as in 0110 for xor of two inputs"
        )
    if len(function) != rows:
        raise ValueError(
            f"dataset.function={shown} has {len(function)} bits, but {inputs} inputs have "
            f"{rows} rows: give {rows} bits, or another dataset.inputs"
        )
    return function


def function_name(function: str, inputs: int) -> str:
    """Return the truth table, where it is short, and the name of a function, where it has one.

    >>> [function_name(name, 2) for name in ("0110", "xor", "0010")], function_name("parity", 8)
    (['0110 xor', '0110 xor', '0010'], 'parity')
    """
    table = truth_table(function, inputs)
    names = [name for name in FUNCTIONS if truth_table(name, inputs) == table]
    name = function if function in FUNCTIONS else next(iter(names), "")
    return f"{table} {name}".strip() if inputs <= 3 or not name else name


def inputs_of(table: str) -> int:
    """Return how many inputs the function of a truth table has.

    >>> inputs_of("0110")
    2
    """
    return len(table).bit_length() - 1


def rows_of(inputs: int) -> NDArray[np.int64]:
    """Return the inputs of every row of a truth table: [2**inputs, inputs] of 0 and 1.

    >>> rows_of(2).tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    return np.arange(2**inputs)[:, None] >> np.arange(inputs - 1, -1, -1) & 1


def separable(table: str) -> bool:
    """Say whether a line, or with more inputs a hyperplane, parts a function's ones from its zeros.

    table: as ``truth_table`` returns it.

    >>> [separable(truth_table(name, 2)) for name in ("and", "xor")]
    [True, False]
    """
    from scipy.optimize import linprog  # type: ignore[import-untyped]

    inputs = inputs_of(table)
    rows = [[*row, 1] for row in rows_of(inputs).tolist()]
    # Weights w and a bias b with s (w x + b) >= 1 in every row, s being 1 or -1.
    sides = [
        [-number if value == "1" else number for number in row] for row, value in zip(rows, table)
    ]
    found = linprog([0] * (inputs + 1), sides, [-1] * len(rows), bounds=(None, None))
    return bool(found.status == 0)
