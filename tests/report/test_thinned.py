"""Against the curves that were laid, read back as the half-precision numbers of NumPy."""

from __future__ import annotations

import base64
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnlab import report
from nnlab.report import cells, figures, page, summary, summary_notes, thinned
from nnlab.report.run_folders import read_all
from nnlab.report.runs import RunRecord
from tests.report.studies import DIVERGED, FAILED, curves, lay


def laid_out(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """Return what is written into the page: iterators are lists there."""
    made: dict[str, Any] = json.loads("".join(page.json_in_html(thinned.thinned(runs))))
    return made


def unpacked(made: dict[str, Any], column: str) -> list[list[float]]:
    """Return the values kept of each run, as the page's script finds them."""
    epochs, points, columns = made["epochs"], made["points"], made["columns"]
    found = columns[column]
    halves = np.frombuffer(b"".join(map(base64.b64decode, found["values"])), "<f2")
    values = found["unit"] * halves.astype(float)
    ends = np.cumsum([min(count, points) for count in epochs])
    assert ends[-1] == len(values)
    return [part.tolist() for part in np.split(values, ends[:-1])]


def test_all_epochs_are_kept_where_there_is_room(tmp_path: Path) -> None:
    losses = {0: [2.345678, 1e-5, 0.0], 1: [1.5, 70_000.0]}
    for seed, values in losses.items():
        lay(tmp_path, {"seed": seed}, epochs=len(values), rows=curves(values))
    lay(tmp_path, {"seed": 2}, **FAILED)
    made = laid_out(report.read(tmp_path))
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
    made = laid_out(report.read(tmp_path))
    losses[1][1] = float("inf")  # of a network that diverged: not drawn
    for column, oracle in (("valid_loss", losses), ("train_loss", trained)):
        for found, expected in zip(unpacked(made, column), oracle.values()):
            assert found == pytest.approx(expected, rel=5e-4)


@pytest.mark.parametrize("together", [3, 1000])
def test_losses_that_some_runs_have_are_in_their_unit(
    together: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thinned, "TOGETHER", together)
    for seed in range(6):
        rows = curves([3e9, 2e9]) if seed % 2 else None
        lay(tmp_path, {"seed": seed}, epochs=2, rows=rows)
    found = unpacked(laid_out(report.read(tmp_path)), "valid_loss")
    assert [values[0] for values in found[1::2]] == pytest.approx([3e9] * 3, rel=5e-4)
    assert np.isnan(found[::2]).all()


def test_a_column_that_no_run_has_is_left_out(tmp_path: Path) -> None:
    lay(tmp_path, name="default")
    made = laid_out(report.read(tmp_path))
    assert set(made["columns"]) == {"train_loss", "train_accuracy"}


@pytest.mark.parametrize("together", [1, 2, 1000])
def test_fewer_epochs_are_kept_where_there_is_no_room(
    together: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thinned, "TOGETHER", together)
    for seed, count in enumerate((9, 100, 100)):
        values = [1 / epoch for epoch in range(1, count + 1)]
        lay(tmp_path, {"seed": seed}, epochs=count, rows=curves(values))
    monkeypatch.setattr(thinned, "ROOM", 600)
    made = laid_out(report.read(tmp_path))
    # 225 numbers of two bytes fit, 56 for each of four columns: 9 + 23 + 23.
    assert made["points"] == 23
    short, long, _ = unpacked(made, "valid_loss")
    assert short == pytest.approx([1 / epoch for epoch in range(1, 10)], rel=5e-4)
    epochs = [1 + index * 99 // 22 for index in range(23)]
    assert (epochs[0], epochs[-1]) == (1, 100)
    assert long == pytest.approx([1 / epoch for epoch in epochs], rel=5e-4)
    texts = [text for column in made["columns"].values() for text in column["values"]]
    assert sum(len(text.rstrip("=")) for text in texts) <= 600


@pytest.mark.parametrize("room", [600, 200, 0])
def test_curves_that_take_too_much_room_are_thinned_and_change_no_result(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for seed, rate in itertools.product((0, 1), (0.1, 0.2, 0.3)):
        length = 40 + 7 * seed
        losses = 1 + (np.arange(length) / 20 - 0.7) ** 2 + 0.1 * rng.random(length)
        options = {"optimizer.lr": rate, "seed": seed, "valid_size": 50}
        lay(tmp_path, options, rows=curves(losses.tolist()), weights_of_epoch=11, epochs=length)
    broken = curves([1.0] * 10, [2.0] * 7 + [math.nan] * 3)
    lay(
        tmp_path,
        {"optimizer.lr": 9.0, "valid_size": 50},
        rows=broken,
        **(DIVERGED | {"epochs": 10}),
    )
    lay(tmp_path, {"optimizer.lr": 8.0}, **FAILED)
    whole, (thin, _) = report.read(tmp_path), read_all(tmp_path, room=room)
    assert list(summary.rows(thin)) == list(summary.rows(whole))
    assert list(cells.rows(thin)) == list(cells.rows(whole))
    assert summary_notes.notes(thin) == summary_notes.notes(whole)
    (every,) = {run.every for run in thin}
    assert every == {600: 4, 200: 32, 0: 64}[room]
    assert sum(6 * len(run.curves["epoch"]) for run in thin) <= (room or 200)
    for run, full in zip(thin, whole):
        epoch = full.curves["epoch"]
        finite = epoch[np.isfinite(full.curves["train_loss"])][-1:]
        best = full.reading.best_epoch if full.reading else 0
        kept = {*range(1, len(epoch) + 1, every), *epoch[-1:], *finite, best, 11} & set(epoch)
        rows = [int(number) - 1 for number in sorted(kept)]
        for name, values in full.curves.items():
            np.testing.assert_array_equal(run.curves[name], values[rows])
        assert run.last_epoch == len(epoch)
        assert run.still_falls == full.still_falls
    figure = figures.loss(thin)
    assert figure is not None
    assert f"one epoch in {every} is drawn" in figure.texts[1].get_text()
    assert figure.axes[0].get_xlim() == (0, 1.02 * 47)
    # The mean over seeds is that of the epochs that both have.
    both = [run.curves for run in thin if run.settings["optimizer.lr"] == 0.1]
    shared = sorted(set(both[0]["epoch"]) & set(both[1]["epoch"]))
    means = [np.mean([c["train_loss"][c["epoch"] == e] for c in both]) for e in shared]
    drawn = np.asarray(figure.axes[0].lines[0].get_xydata())
    np.testing.assert_allclose(drawn, list(zip(shared, means)))
    # On the page an epoch that was left out is the next that is there.
    monkeypatch.setattr(thinned, "ROOM", 16 * 7 * 20)
    made = laid_out(thin)
    points = made["points"]
    assert 8 < points < 40
    for run, found in zip(thin, unpacked(made, "train_loss")):
        epoch, loss = run.curves["epoch"], run.curves["train_loss"]
        asked = thinned.kept(run.last_epoch, points) + 1
        expected = [loss[epoch >= each][0] for each in asked]
        np.testing.assert_allclose(found, expected, rtol=5e-4)
