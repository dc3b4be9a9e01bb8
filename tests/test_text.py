from __future__ import annotations

import io

import pandas
import pytest
from pandas._libs.parsers import STR_NA_VALUES  # type: ignore[import-not-found]

from nnlab.text import as_label, class_for_csv, for_csv, inert, shortened, visible, visible_lines
from tests.names import HOSTILE

NUMBERS = ("0110", "110", "1e5", "-0.0", ".5", "5.", "+7", "inf", "-Infinity", " 12 ", "00")
TRUTH = ("True", "true", "FALSE", "False")


@pytest.mark.parametrize("text", [*sorted(STR_NA_VALUES), *NUMBERS, *TRUTH])
def test_pandas_reads_texts_back_as_texts(text: str) -> None:
    (found,) = pandas.read_csv(io.StringIO(f'name,x\n"{for_csv(text)}",1\n'))["name"]
    assert found == f"'{text}'"


@pytest.mark.parametrize(
    "text", ["xor", "0b01", "[128,64]", "1 to 2", "nano", "1_000", "a-1", "0x1f"]
)
def test_other_texts_are_left_alone(text: str) -> None:
    (found,) = pandas.read_csv(io.StringIO(f'name\n"{for_csv(text)}"\n'))["name"]
    assert found == text


def test_classes_that_are_digits_stay_digits() -> None:
    assert [class_for_csv(name) for name in ("0", "9", "12")] == ["0", "9", "12"]
    assert [class_for_csv(name) for name in ("01", "NA", "1.5")] == ["'01'", "'NA'", "'1.5'"]


@pytest.mark.parametrize("name", HOSTILE)
def test_labels_are_short_and_printable(name: str) -> None:
    label = as_label(name, 40)
    assert len(label) <= 40
    assert label.isprintable()
    assert visible(name).isprintable()
    assert visible(name).encode()


def test_the_middle_is_left_out() -> None:
    for most in range(1, 12):
        short = shortened("abcdefghij", most)
        assert len(short) == min(most, 10)
        begin, _, end = short.partition("…")
        assert "abcdefghij".startswith(begin)
        assert "abcdefghij".endswith(end)


def test_lines_stay_lines() -> None:
    assert visible_lines("\tb\nc\x1b") == "    b\nc\\x1b"


FORMULAS = (
    "=1+1",
    "+A1",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    " =1",
    "\uff1d1",
    "-",
    "=cmd|' /C'!A1",
)


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_is_a_formula(text: str) -> None:
    for written in (inert(text), for_csv(text), class_for_csv(text)):
        assert written.strip()[0] in "'\\"  # neither begins anything in a spreadsheet
        (found,) = pandas.read_csv(io.StringIO(f'name,x\n"{written}",1\n'))["name"]
        assert found == written
        assert visible(text) in found


def test_names_that_look_like_options_are_left_alone() -> None:
    for text in ("optimizer.lr=1e-4", "a-b", "mail@home", "beagle", "0"):
        assert inert(text) == text
