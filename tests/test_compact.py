"""Tables in little room hold what lists of dicts would."""

from __future__ import annotations

import math
import pickle
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnlab import long_lists
from nnlab.compact import Column, Row, Table, values_of

# Equal in Python, and yet others.
OTHERS: list[Any] = [1, 1.0, True, 0, 0.0, -0.0, False, math.nan, None, "1", (1,), (1.0,)]
OTHERS += [(), (None, True, "a", -0.0), ((1,), "\ud800"), "\ud800", [1], {"a": 1}, (1, [2])]
OTHERS += [2**63 - 1, 2**63, -(2**63), "0" * 16, "0123456789abcdef", "F" * 16, "٣" * 16]
VALUES = st.sampled_from(OTHERS) | st.from_regex("[0-9a-f]{16}", fullmatch=True)
VALUES |= st.floats() | st.integers() | st.text(max_size=3)
NAMES = st.sampled_from("abcd")


@pytest.fixture(
    params=[long_lists.BLOCK, 24], ids=["in memory", "on disk"], autouse=True, scope="module"
)
def block(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_lists, "BLOCK", request.param)
        yield


def same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and repr(one) == repr(other)


@given(st.lists(VALUES), st.data())
def test_a_column_is_a_list(values: list[Any], data: st.DataObject) -> None:
    column = Column()
    for value in values:
        column.append(value)
    for row, value in data.draw(st.lists(st.tuples(st.integers(0, 99), VALUES), max_size=4)):
        if row < len(values):
            values[row] = column[row] = value
    assert all(same(column[row], value) for row, value in enumerate(values))


@given(st.lists(st.dictionaries(NAMES, VALUES), min_size=1), st.data())
def test_a_table_is_a_list_of_dicts(content: list[dict[str, Any]], data: st.DataObject) -> None:
    table = Table()
    for each in content:
        table.append(each)
    rows = [Row(table, number) for number in range(len(content))]
    some = st.tuples(st.sampled_from(range(len(content))), NAMES, VALUES)
    for number, name, value in [*data.draw(st.lists(some, max_size=4)), (0, "e", 1)]:
        _ = dict(rows[number])  # as it was
        content[number][name] = rows[number][name] = value
    for row, expected in zip(pickle.loads(pickle.dumps(rows)), content, strict=True):
        assert (list(row), len(row)) == (list(expected), len(expected))
        assert all(same(value, expected[name]) for name, value in row.items())
        assert all(same(row[name], value) for name, value in expected.items())
        for name in "abcde":
            assert same(row.get(name, "none"), expected.get(name, "none"))
            assert (name in row) == (name in expected)
        with pytest.raises(KeyError):
            row["f"]


@given(st.lists(st.dictionaries(NAMES, st.integers(0, 3))), st.lists(st.dictionaries(NAMES, NAMES)))
def test_all_values_of_each_name(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    rows: list[Any] = []
    for content in (one, other):
        table = Table()
        for each in content:
            table.append(each)
        rows += [Row(table, number) for number in range(len(content))]
    expected: dict[str, set[Any]] = {}
    for each in one + other:
        for name, value in each.items():
            expected.setdefault(name, set()).add(value)
    found = values_of(rows, most=99)
    assert (found, list(found)) == (expected, list(expected))


def test_a_table_needs_room_for_what_differs_only() -> None:
    tracemalloc.start()
    table = Table()
    try:
        for row in range(10_000):
            table.append({"number": row / 7, "text": "the same", "flag": True} | {"n": None})
        assert tracemalloc.get_traced_memory()[0] < 10_000 * 4
    finally:
        tracemalloc.stop()


def test_what_differs_in_kind_is_on_disk_too() -> None:
    tracemalloc.start()
    table = Table()
    try:
        for row in range(10_000):
            table.append(
                {
                    "number": None if row % 3 else row / 7,
                    "flag": row % 2 == 0,
                    "text": f"stopped in epoch {row}",
                    "sizes": (row, "a"),
                }
            )
        assert tracemalloc.get_traced_memory()[0] < 10_000 * 50
    finally:
        tracemalloc.stop()
    assert dict(Row(table, 3)) == {
        "number": 3 / 7,
        "flag": False,
        "text": "stopped in epoch 3",
        "sizes": (3, "a"),
    }
