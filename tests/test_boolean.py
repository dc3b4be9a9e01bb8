"""Truth tables against Python's own operators."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Sequence

import pytest

from nnlab.boolean import FUNCTIONS, function_name, truth_table

BY_OPERATORS: dict[str, Callable[[Sequence[bool]], bool]] = {
    "and": all,
    "or": any,
    "nand": lambda bits: not all(bits),
    "nor": lambda bits: not any(bits),
    "xor": lambda bits: functools.reduce(operator.xor, bits),
    "xnor": lambda bits: not functools.reduce(operator.xor, bits),
    "parity": lambda bits: functools.reduce(operator.ne, bits),
    "majority": lambda bits: sorted(bits)[(len(bits) - 1) // 2],  # the lower median
}


@pytest.mark.parametrize("inputs", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_named_functions_in_every_row(function: str, inputs: int) -> None:
    rows = itertools.product([False, True], repeat=inputs)
    expected = "".join(str(int(BY_OPERATORS[function](row))) for row in rows)
    assert truth_table(function, inputs) == expected


def test_bits_are_their_own_table() -> None:
    assert truth_table("10", 1) == "10"
    assert truth_table("0110" * 1024, 12) == "0110" * 1024


@pytest.mark.parametrize(
    ("function", "inputs", "message"),
    [
        ("xor", 0, "dataset.inputs=0 .* 1 to 12"),
        ("xor", 13, "dataset.inputs=13 .* 1 to 12"),
        ("or else", 2, "dataset.function=or else is not known: choose one of and, .* 4 bits"),
        ("", 2, "dataset.function= is not known"),
        ("012", 2, "dataset.function=012 is not known"),
        ("011", 2, "dataset.function=011 has 3 bits, but 2 inputs have 4 rows: give 4 bits"),
        ("01" * 99, 2, "dataset.function=(01){19}0… has 198 bits"),
    ],
)
def test_what_is_no_function_is_refused(function: str, inputs: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        truth_table(function, inputs)


def test_functions_are_described_by_table_and_name() -> None:
    assert function_name("majority", 3) == "00010111 majority"
    assert function_name("00010111", 3) == "00010111 majority"
    assert function_name("parity", 2) == "0110 parity"
    assert function_name("parity", 4) == "parity"
    assert function_name("0" * 15 + "1", 4) == "and"
    assert function_name("01" * 8, 4) == "01" * 8
