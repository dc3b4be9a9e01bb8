from __future__ import annotations

import csv
from pathlib import Path

import pytest

from nnlab import report
from nnlab.report import columns
from nnlab.report.columns import Column
from nnlab.terminal import as_rows
from tests.report.studies import DIVERGED, FAILED, lay
from tests.report.test_page import Page


def test_a_new_result_is_one_entry_for_csv_table_and_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for lr, seed, energy in ((0.1, 0, 10.0), (0.1, 1, 20.0), (0.2, 0, 40.5)):
        lay(tmp_path, {"optimizer.lr": lr, "seed": seed}, joules=energy, place=f"at {lr}")
    lay(tmp_path, {"optimizer.lr": 0.3, "seed": 0}, **FAILED)
    new = (
        Column(csv="joules", table="energy", page="energy", write=lambda known: f"{known.sum()} J"),
        Column(csv="place", table="place", words=True),
    )
    monkeypatch.setattr(columns, "RESULTS", (*columns.RESULTS, *new))
    monkeypatch.setenv("COLUMNS", "120")
    made = report.write_report(tmp_path)
    with (tmp_path / "summary.csv").open(newline="") as file:
        header, *rows = list(csv.reader(file))
    assert header[-2:] == ["joules", "place"]
    assert [row[-2:] for row in rows] == [
        ["10.0", "at 0.1"],
        ["20.0", "at 0.1"],
        ["40.5", "at 0.2"],
        ["", ""],
    ]
    heads, *table = as_rows(made.table)
    assert heads[-2:] == ["energy", "place"]
    assert [row[-2:] for row in table] == [["30.0 J", "at 0.1"], ["40.5 J", "at 0.2"], ["-", "-"]]
    heads, *listed = Page(tmp_path / "index.html").rows[-5:]
    energy = heads.index("energy")
    assert [row[energy] for row in listed] == ["10.0 J", "20.0 J", "40.5 J", "-"]


def test_numbers_are_of_complete_runs_and_texts_of_all(tmp_path: Path) -> None:
    lay(tmp_path, {"seed": 0}, joules=1.0, place="a")
    lay(tmp_path, {"seed": 1}, joules=5.0, place="b", **DIVERGED)
    lay(tmp_path, {"seed": 2}, joules=float("inf"), place="a")
    runs = report.read(tmp_path)
    assert Column(csv="joules").text(runs) == "1"
    assert Column(csv="joules").text(runs[1:2]) == "5"
    assert Column(csv="place", words=True).text(runs) == "2 a,\n1 b"
    assert Column(csv="nowhere").text(runs) == "-"
