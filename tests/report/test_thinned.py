"""Against the curves that were laid, read back as the half-precision numbers of NumPy."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest

from nnlab import report
from nnlab.report import thinned
from tests.report.studies import FAILED, curves, lay


def unpacked(made: dict[str, object], column: str) -> list[list[float]]:
    """Return the values kept of each run, as the page's script finds them."""
    epochs, points, columns = made["epochs"], made["points"], made["columns"]
    assert isinstance(epochs, list)
    assert isinstance(points, int)
    assert isinstance(columns, dict)
    found = columns[column]
    halves = np.frombuffer(base64.b64decode(found["values"]), "<f2")
    values = found["unit"] * halves.astype(float)
    ends = np.cumsum([min(count, points) for count in epochs])
    assert ends[-1] == len(values)
    return [part.tolist() for part in np.split(values, ends[:-1])]


def test_all_epochs_are_kept_where_there_is_room(tmp_path: Path) -> None:
    losses = {0: [2.345678, 1e-5, 0.0], 1: [1.5, 70_000.0]}
    for seed, values in losses.items():
        lay(tmp_path, {"seed": seed}, epochs=len(values), rows=curves(values))
    lay(tmp_path, {"seed": 2}, **FAILED)
    made = thinned.thinned(report.read(tmp_path))
    assert made["epochs"] == [3, 2, 0]
    first, second, third = unpacked(made, "valid_loss")
    assert first == pytest.approx(losses[0], rel=5e-4, abs=1e-7)
    assert second == [1.5, float("inf")]  # beyond half precision: not drawn
    assert third == []


def test_errors_in_any_unit_have_three_digits(tmp_path: Path) -> None:
    """Half precision alone ends at 65,504 and has no digits left of 1e-8."""
    losses = {0: [4e9, 3e9, 2.5e7], 1: [3e9, 1e26, 2e9]}
    trained = {0: [3e-8, 1e-8, 0.0], 1: [3e-8, 2e-8, 1e-9]}
    for seed, values in losses.items():
        lay(tmp_path, {"seed": seed}, rows=curves(values, trained[seed]))
    made = thinned.thinned(report.read(tmp_path))
    losses[1][1] = float("inf")  # of a network that diverged: not drawn
    for column, oracle in (("valid_loss", losses), ("train_loss", trained)):
        for found, expected in zip(unpacked(made, column), oracle.values()):
            assert found == pytest.approx(expected, rel=5e-4)


def test_a_column_that_no_run_has_is_left_out(tmp_path: Path) -> None:
    lay(tmp_path, name="default")
    made = thinned.thinned(report.read(tmp_path))
    assert set(made["columns"]) == {"train_loss", "train_accuracy"}


def test_fewer_epochs_are_kept_where_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, count in enumerate((9, 100, 100)):
        values = [1 / epoch for epoch in range(1, count + 1)]
        lay(tmp_path, {"seed": seed}, epochs=count, rows=curves(values))
    monkeypatch.setattr(thinned, "ROOM", 600)
    made = thinned.thinned(report.read(tmp_path))
    # 225 numbers of two bytes fit, 56 for each of four columns: 9 + 23 + 23.
    assert made["points"] == 23
    short, long, _ = unpacked(made, "valid_loss")
    assert short == pytest.approx([1 / epoch for epoch in range(1, 10)], rel=5e-4)
    epochs = [1 + index * 99 // 22 for index in range(23)]
    assert (epochs[0], epochs[-1]) == (1, 100)
    assert long == pytest.approx([1 / epoch for epoch in epochs], rel=5e-4)
    assert sum(len(column["values"]) for column in made["columns"].values()) <= 600
