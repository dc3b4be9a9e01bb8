"""Truth tables against Python's own operators."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Sequence

import pytest

from nnlab.boolean import FUNCTIONS, function_name, separable, truth_table

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


@pytest.mark.parametrize("inputs", [1, 2, 3])
def test_which_functions_a_hyperplane_parts(inputs: int) -> None:
    """Against all integer weights up to 2, which suffice for three inputs (Muroga, 1971)."""
    rows = list(itertools.product((0, 1), repeat=inputs))
    weights = itertools.product(range(-2, 3), repeat=inputs)
    oracle = {
        "".join(str(int(sum(map(operator.mul, weight, row)) > c + 0.5)) for row in rows)
        for weight in weights
        for c in range(-7, 7)
    }
    tables = ["".join(bits) for bits in itertools.product("01", repeat=2**inputs)]
    assert [separable(table) for table in tables] == [table in oracle for table in tables]
    assert len(oracle) == {1: 4, 2: 14, 3: 104}[inputs]


def test_of_many_inputs() -> None:
    names = ("and", "nor", "majority", "xor", "xnor")
    assert [separable(truth_table(name, 12)) for name in names] == [True] * 3 + [False] * 2
