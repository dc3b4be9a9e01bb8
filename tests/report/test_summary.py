from __future__ import annotations

import io
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats  # type: ignore[import-untyped]
from rich.console import Console
from rich.text import Text

from nnlab import report
from nnlab.report import summary, summary_notes
from nnlab.report.comparisons import ONE_SEED
from nnlab.report.curves import RULES
from nnlab.report.run_folders import read
from nnlab.terminal import as_rows, laid_out
from nnlab.text import as_label
from tests.names import HOSTILE
from tests.report.studies import DIVERGED, FAILED, UNTRAINED, computed, curves, lay

RESULTS = [
    "status",
    "stop_reason",
    "epochs",
    "weights_of_epoch",
    "train_seconds",
    "train_loss",
    "train_accuracy",
    "valid_loss",
    "valid_accuracy",
    "test_loss",
    "test_accuracy",
    "best_epoch",
    "learning",
    "learned_until",
    "overfits_from",
    "loss_noise",
    "gap_loss",
    "gap_accuracy",
    "weights",
    "engine",
    "engine_form",
    "device",
    *("concurrent_runs", "folder"),
]

FLAT = {"status": "stopped", "stop_reason": "validation loss decreased by less than 0.1"}


def shown(study: Path, width: int = 80) -> list[list[str]]:
    """Return the table's lines as a pipe sees them, each cut where two blanks are."""
    out = io.StringIO()
    Console(file=out, width=width).print(laid_out(summary.table(read(study), width), width))
    text = out.getvalue()
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= width
    text = re.split(r"\n *(?:±:|Accuracy of one seed:)", text)[0]  # what the intervals are
    lines = [line.strip() for line in text.splitlines()]
    return [[cell.strip() for cell in line.split("  ") if cell] for line in lines if line]


def test_rows_hold_what_varied_and_what_came_out(tmp_path: Path) -> None:
    lay(tmp_path, {"train_size": 1000, "optimizer.lr": 0.1}, epochs=2)
    lay(
        tmp_path,
        {"train_size": 500, "optimizer.lr": 0.1},
        rows="1,2.0,0.5,2.5,0.25,0.1\n2,1.5,0.625,2.25,0.375,0.2\n",
        epochs=2,
        train_seconds=0.2,
        status="stopped",
        stop_reason="flat",
        test_loss=0.75,
        test_accuracy=0.5,
    )
    columns = ["name", "train_size", *RESULTS]
    first = ["train_size=500,optimizer.lr=0.1", 500, "stopped", "flat", 2, 2, 0.2]
    first += [1.5, 0.625, 2.25, 0.375, 0.75, 0.5]
    first += [2, None, None, None, None, 0.75, 0.25, 109184, "native", None, "AMD EPYC"]
    first += [None, "train_size=500,optimizer.lr=0.1"]
    last = ["train_size=1000,optimizer.lr=0.1", 1000, "finished", "reached max_epochs=2"]
    last += [2, 2, 0.25, 1.0, 0.75, None, None, 0.5, 0.847]
    last += [None, None, None, None, None, None, None, 109184, "native", None, "AMD EPYC"]
    last += [None, "train_size=1000,optimizer.lr=0.1"]
    found = list(summary.rows(read(tmp_path)))
    assert [list(row) for row in found] == [columns, columns]
    assert [list(row.values()) for row in found] == [first, last]


def test_varied_engine_has_one_column(tmp_path: Path) -> None:
    lay(tmp_path, {"engine": "torch"}, engine="torch")
    lay(tmp_path, {"engine": "native"})
    found = list(summary.rows(read(tmp_path)))
    assert list(found[0]) == ["name", "engine", *RESULTS[:-5], *RESULTS[-4:]]
    assert [row["engine"] for row in found] == ["native", "torch"]


def test_csv_is_what_pandas_reads(tmp_path: Path) -> None:
    lay(tmp_path, {"optimizer.lr": 1e-5, "model.hidden": [128, 64]}, test_loss=1 / 3)
    lay(tmp_path, {"optimizer.lr": 0.1, "model.hidden": []}, **DIVERGED)
    lay(tmp_path, {"optimizer.lr": 0.2, "model.hidden": []}, **FAILED)
    summary.write_csv(summary.rows(read(tmp_path)), tmp_path / "summary.csv")
    table = pd.read_csv(tmp_path / "summary.csv")
    assert list(table.columns) == ["name", "model.hidden", "optimizer.lr", *RESULTS]
    assert table["model.hidden"].tolist() == ["[]", "[]", "[128,64]"]
    assert table["optimizer.lr"].tolist() == [0.1, 0.2, 1e-5]
    assert table["status"].tolist() == ["diverged", "failed", "finished"]
    assert table["test_loss"].isna().tolist() == [True, True, False]
    assert table["test_loss"][2] == 1 / 3  # all digits
    assert table["epochs"].tolist() == [3, 0, 3]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["summary.csv"]


def test_table_of_sizes(tmp_path: Path) -> None:
    for size, accuracy in ((500, 0.847), (1000, 0.878)):
        seconds = size / 1000
        lay(tmp_path, {"train_size": size}, test_accuracy=accuracy, train_seconds=seconds)
    table = shown(tmp_path)
    assert table[1] == ["train_size", "time", "accuracy", "loss"]
    assert table[3:] == [
        ["500", "0.50 s", "84.7 %", "0.500"],
        ["1000", "1.0 s", "87.8 %", "0.500"],
        ["All rows: epochs 3, stopped by max_epochs"],
    ]


def test_table_says_how_runs_ended(tmp_path: Path) -> None:
    lay(tmp_path, {"optimizer.lr": 1e-5, "stopping": "plateau"}, status="stopped")
    lay(tmp_path, {"optimizer.lr": 1e-4, "stopping": "plateau"}, **DIVERGED)
    lay(tmp_path, {"optimizer.lr": 1e-3, "stopping": "plateau"}, **FAILED)
    lay(
        tmp_path,
        {"optimizer.lr": 1e-2, "stopping": "plateau"},
        status="running",
        test_loss=None,
        test_accuracy=None,
    )
    assert shown(tmp_path)[3:] == [
        ["1e-5", "3", "plateau", "0.25 s", "84.7 %", "0.500"],
        ["1e-4", "3", "diverged", "0.25 s", "-", "-"],
        ["0.001", "0", "failed", "-", "-", "-"],
        ["0.01", "3", "unfinished", "0.25 s", "-", "-"],
    ]


def sweep(study: Path, **options: list[Any]) -> None:
    """Lay a run for each combination, from two seeds."""
    for values in itertools.product(*options.values(), (0, 1)):
        chosen = {key.replace("__", "."): v for key, v in zip((*options, "seed"), values)}
        result = {"train_seconds": 1.0 + values[-1], "test_accuracy": 0.8 + 0.1 * values[-1]}
        lay(study, chosen, **result)


def test_a_table_too_wide_has_its_headings_in_lines(tmp_path: Path) -> None:
    sweep(tmp_path, train_size=[500, 1000], model__hidden=[[500], [1000]])
    stopped: dict[str, Any] = {"status": "stopped", "epochs": 2}
    lay(tmp_path, {"train_size": 500, "model.hidden": [7], "seed": 0}, **stopped)
    table = shown(tmp_path)
    assert table[0] == ["train_", "model.", "test", "test"]
    assert table[1] == ["size", "hidden", "n", "epochs", "stopped by", "time", "accuracy", "loss"]
    assert table[3][:5] == ["500", "[7]", "1", "2", "epochs"]
    assert len(table) == 3 + 5


@pytest.mark.parametrize("width", [70, 200])
def test_what_all_rows_have_in_common_is_said_once(tmp_path: Path, width: int) -> None:
    sweep(tmp_path, train_size=[500, 1000], model__hidden=[[7], [8]], optimizer__lr=[0.01, 0.1])
    table = shown(tmp_path, width)
    assert table[1][-4:] == ["lr" if width == 70 else "optimizer.lr", "time", "accuracy", "loss"]
    result = ["2 ± 6 s", "85.0 ± 63.5 %", "0.500 ± 0.000"]
    assert table[3] == ["500", "[7]", "0.01", *result]
    assert table[-1] == ["All rows: n 2, epochs 3, stopped by max_epochs"]


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        (FAILED, "epochs 0, failed"),
        (UNTRAINED, "epochs 0, not trained"),
        (FLAT, "epochs 3, stopped by plateau"),
    ],
)
def test_how_all_runs_ended_is_said_in_a_sentence(
    tmp_path: Path, ending: dict[str, Any], said: str
) -> None:
    for rate in (0.01, 0.1):
        lay(tmp_path, {"optimizer.lr": rate, "stopping": "plateau"}, **ending)
    assert shown(tmp_path)[-1] == [f"All rows: {said}"]


def test_ends_that_differ_between_seeds_stay_in_the_rows(tmp_path: Path) -> None:
    for rate in (0.01, 0.1):
        lay(tmp_path, {"optimizer.lr": rate, "seed": 0})
        lay(tmp_path, {"optimizer.lr": rate, "seed": 1}, **DIVERGED)
    table = shown(tmp_path)
    assert table[1][:2] == ["optimizer.lr", "stopped by"]
    assert table[3][1] == "1 max_epochs,"
    assert table[-1] == ["All rows: n 1, epochs 3"]


def test_the_widest_has_a_line_for_each_value(tmp_path: Path) -> None:
    sweep(tmp_path, train_size=[500, 1000], model__hidden=[[7], [8]], optimizer__lr=[0.01, 0.1])
    base = {"train_size": 500, "model.hidden": [7], "optimizer.lr": 0.01, "seed": 0}
    lay(tmp_path, base | {"optimizer.momentum": 0.9}, epochs=2)
    lay(tmp_path, base | {"batch_size": 20}, epochs=2)
    table = [" ".join(line) for line in shown(tmp_path, 40)]
    assert table[:10] == [
        "train_size 500",
        "model.hidden [7]",
        "optimizer.lr 0.01",
        "optimizer.momentum 0",
        "batch_size 10",
        "n 2",
        "epochs 3",
        "time 2 ± 6 s",
        "test accuracy 85.0 ± 63.5 %",
        "test loss 0.500 ± 0.000",
    ]
    assert len(table) == 10 * 10 + 1
    assert table[-1] == "All rows: stopped by max_epochs"
    wide = shown(tmp_path, 100)
    assert " ".join(wide[1]) == "size hidden lr momentum size n epochs time accuracy loss"
    assert wide[4][:7] == ["500", "[7]", "0.01", "0", "20", "1", "2"]


def test_a_terminal_too_narrow_for_all_results_does_without_some(tmp_path: Path) -> None:
    """A column for each factor, and the accuracy, are there as long as they fit."""
    sweep(tmp_path, train_size=[500, 1000], model__hidden=[[7], [8]], optimizer__lr=[0.01, 0.1])
    heads = {width: shown(tmp_path, width)[1] for width in (80, 56, 46)}
    assert heads[80][3:] == ["time", "accuracy", "loss"]
    assert heads[56][3:] == ["time", "accuracy"]
    assert heads[46][3:] == ["accuracy"]
    assert str(summary.table(read(tmp_path), 46).caption).splitlines()[:2] == [
        "All rows: n 2, epochs 3, stopped by max_epochs",
        "Left out: test loss, time, on the page and in summary.csv",
    ]


FACTORS: dict[str, list[Any]] = {
    "optimizer.lr": [0.00012345, 0.1],
    "model.hidden": [[128, 64], []],
    "batch_size": [10, 200],
    "optimizer.weight_decay": [0.0, 0.0001],
    "train_size": [500, 60000],
    "dataset.variant": ["a_name_of_more_letters_than_a_line_of_the_table_has.csv", "b"],
}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("regression", [False, True])
def test_no_width_breaks_a_number_or_loses_a_factor(
    tmp_path: Path, count: int, regression: bool
) -> None:
    keys = list(FACTORS)[:count]
    targets = {"shape": [3], "task": "regression", "targets": ["y"]} if regression else None
    header = "epoch,train_loss,train_r2,train_mae,train_rmse,valid_loss,valid_r2,valid_mae,"
    for number, values in enumerate(itertools.islice(zip(*FACTORS.values()), 2)):
        for seed, key in itertools.product((0, 1), keys):  # one factor at a time, as few do
            options = dict(zip(keys, values)) | {key: FACTORS[key][1 - number], "seed": seed}
            result: dict[str, Any] = {"train_seconds": 1.5 + seed, "name": f"{number}{key}{seed}"}
            if regression:
                result |= {"dataset": targets, "test_accuracy": None}
                result |= {"test_r2": 0.5 + seed / 10, "test_mae": 12.5, "test_rmse": 1234.5 + seed}
            folder = lay(tmp_path, options, **result)
            if regression:
                text = header + "valid_rmse,seconds\n1,0.5,0.5,2,3,,,,,0.1\n"
                (folder / "metrics.csv").write_text(text)
    runs = read(tmp_path)
    for width in (40, 50, 60, 72, 80, 120, 200):
        table = summary.table(runs, width)
        out = io.StringIO()
        Console(file=out, width=width).print(laid_out(table, width))
        lines = out.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        heads, *rows = as_rows(table)
        assert set(keys) <= set(heads)
        assert ("test R²" if regression else "test accuracy") in heads
        for column, head in enumerate(heads):
            for part in re.split(r"(?<=[._])|\s", head):
                assert any(part in line for line in lines), (width, part, lines)
            if table.columns[column].justify == "right":
                for cell in (row[column] for row in rows):
                    assert any(cell in line for line in lines), (width, head, cell, lines)


def test_failures_are_coloured_on_a_terminal(tmp_path: Path) -> None:
    lay(tmp_path, {"train_size": 500}, **DIVERGED)
    lay(tmp_path, {"train_size": 1000}, **FAILED)
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="standard", width=80)
    console.print(summary.table(read(tmp_path)))
    assert "\x1b[33mdiverged" in out.getvalue()
    assert "\x1b[31mfailed" in out.getvalue()


def test_seeds_share_a_row_of_mean_and_interval(tmp_path: Path) -> None:
    # t(2) is 4.303. 0.80, 0.84, 0.88: mean 0.84, deviation 0.04, so ± 4.303 * 0.04 / sqrt(3).
    for seed in range(3):
        lay(
            tmp_path,
            {"train_size": 500, "seed": seed},
            test_accuracy=0.80 + 0.04 * seed,
            train_seconds=1.0 + seed,
            test_loss=0.5 + 0.1 * seed,
        )
    lay(tmp_path, {"train_size": 1000, "seed": 0})
    assert shown(tmp_path)[3:] == [
        ["500", "3", "2 ± 2 s", "84.0 ± 9.9 %", "0.600 ± 0.248"],
        ["1000", "1", "0.25 s", "84.7 %", "0.500"],
        ["All rows: epochs 3, stopped by max_epochs"],
    ]


def test_the_caption_says_what_the_intervals_are(tmp_path: Path) -> None:
    for seed in (0, 1):
        lay(tmp_path, {"train_size": 500, "seed": seed})
    lay(tmp_path, {"train_size": 1000, "seed": 0}, test_accuracy=0.5)
    oracle = scipy.stats.binomtest(500, 1000).proportion_ci(0.95, method="wilson")
    points = f"{50 * (oracle.high - oracle.low):.1f}"
    assert str(summary.table(read(tmp_path)).caption).splitlines() == [
        "All rows: epochs 3, stopped by max_epochs",
        "±: 95 % confidence interval of the mean over seeds (Student's t)",
        f"Accuracy of one seed: ± {points} points by the number of test examples alone "
        "(95 %, Wilson)",
    ]


def test_seeds_alone_are_shown_each_and_as_a_mean(tmp_path: Path) -> None:
    for seed, accuracy in ((0, 0.8), (1, 0.9)):
        lay(tmp_path, {"seed": seed}, test_accuracy=accuracy)
    assert shown(tmp_path)[3:] == [
        ["0", "1", "0.25 s", "80.0 %", "0.500"],
        ["1", "1", "0.25 s", "90.0 %", "0.500"],
        ["mean", "2", "0.25 s", "85.0 ± 63.5 %", "0.500 ± 0.000"],
        ["All rows: epochs 3, stopped by max_epochs"],
    ]


def test_a_mean_is_of_the_seeds_that_ended(tmp_path: Path) -> None:
    for size in (500, 1000):
        lay(tmp_path, {"train_size": size, "seed": 0})
        lay(tmp_path, {"train_size": size, "seed": 1})
    lay(tmp_path, {"train_size": 500, "seed": 2}, train_seconds=9.0, **DIVERGED)
    table = shown(tmp_path)
    assert table[3] == ["500", "2 max_epochs,", "0.25 s", "84.7 ± 0.0 %", "0.500 ± 0.000"]
    assert table[4] == ["1 diverged"]
    assert table[-1] == ["All rows: n 2, epochs 3"]


def test_a_single_run_is_shown_by_name(tmp_path: Path) -> None:
    lay(tmp_path, name="default")
    table = shown(tmp_path)
    assert table[1][0] == "run"
    assert table[3] == ["default", "3", "max_epochs", "0.25 s", "84.7 %", "0.500"]


def test_a_long_table_is_cut_in_the_middle(tmp_path: Path) -> None:
    for size in range(1, 1 + summary.TABLE_ROWS + 2):
        lay(tmp_path, {"train_size": size}, epochs=1)
    table = shown(tmp_path)
    sizes = [row[0] for row in table[3:-2]]
    half = summary.TABLE_ROWS // 2
    first, last = range(1, half + 1), range(half + 3, 2 * half + 3)
    assert sizes == [*map(str, first), "…", *map(str, last)]
    assert table[-2] == ["…: 2 more rows, on the page and in summary.csv"]
    assert len(list(summary.rows(read(tmp_path)))) == summary.TABLE_ROWS + 2


def test_a_table_of_the_limit_is_whole(tmp_path: Path) -> None:
    for size in range(1, 1 + summary.TABLE_ROWS):
        lay(tmp_path, {"train_size": size}, epochs=1)
    sizes = [row[0] for row in shown(tmp_path)[3:-1]]
    assert sizes == [str(size) for size in range(1, 1 + summary.TABLE_ROWS)]


def test_notes_tell_the_time_of_the_full_set_and_the_failures(tmp_path: Path) -> None:
    for size in (500, 1000, 1500):
        lay(tmp_path, {"train_size": size}, train_seconds=size / 100)
    lay(tmp_path, {"train_size": 3000}, **DIVERGED)
    lay(tmp_path, {"train_size": 4000}, **FAILED)
    assert summary_notes.notes(read(tmp_path)) == [
        "By the fitted line 3 epochs on all 60,000 examples would take 10 min "
        "(8.6 to 12; 95 % interval).",
        ONE_SEED,
        "train_size=3000 diverged: training loss is nan",
        "train_size=4000 failed: ValueError: no room",
    ]


def test_notes_tell_each_setting_apart(tmp_path: Path) -> None:
    for lr in (0.1, 1e-5):
        for size, error in ((500, 0.1), (1000, -0.2), (1500, 0.1)):
            options = {"train_size": size, "optimizer.lr": lr}
            lay(tmp_path, options, train_seconds=size / 100 + error)
    # The logarithms of 5.1, 9.8 and 15.1 s by 5, 10 and 15 deviate by 0.0203; t(2) is 4.303, so the
    # interval is a factor of exp(sqrt((4.303 * 0.0203 * sqrt(4/3))**2 + 0.15**2)) = 1.20.
    first, second, few = summary_notes.notes(read(tmp_path))
    assert few == ONE_SEED
    expected = "3 epochs on all 60,000 examples would take 10 min (8.4 to 12; 95 % interval)"
    assert (first, second) == (f"optimizer.lr=1e-5: {expected}", f"optimizer.lr=0.1: {expected}")


def test_many_failures_are_counted(tmp_path: Path) -> None:
    for size in range(1, 9):
        lay(tmp_path, {"train_size": size}, **FAILED)
    notes = summary_notes.notes(read(tmp_path))
    assert (len(notes), notes[-1]) == (6, "and 3 more failed or diverged")


@pytest.mark.parametrize("loss", [float("inf"), float("nan")])
def test_losses_that_are_no_number_do_not_stop_the_table(tmp_path: Path, loss: float) -> None:
    for seed in range(3):
        lay(tmp_path, {"seed": seed}, test_loss=loss if seed else 0.5)
    assert [row[-1] for row in shown(tmp_path)[3:-1]] == ["0.500", "-", "-", "0.500"]


# Studies with a validation split


TURN = [2.0, 1.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]  # the best is epoch 3
PLATEAU = {"stopping": "plateau", "valid_size": 500}


def rate_sweep(study: Path, **options: int) -> None:
    """Two runs that a rule stopped after the turn, and one whose loss falls to its end."""
    for lr in (1e-5, 2e-5, 1e-4):
        chosen = PLATEAU | {"optimizer.lr": lr} | options
        if lr == 1e-5:
            lay(study, chosen, epochs=8, rows=curves([2 / n for n in range(1, 9)]))
        else:
            lay(study, chosen, epochs=8, rows=curves(TURN), **FLAT)


def test_table_of_learning_rates_has_the_best_epoch(tmp_path: Path) -> None:
    rate_sweep(tmp_path)
    table = shown(tmp_path)
    assert table[0] == ["test", "test", "best"]
    columns = ["optimizer.lr", "stopped by", "time", "accuracy", "loss", "epoch"]
    assert table[1] == columns
    assert table[3:] == [
        ["1e-5", "max_epochs", "0.25 s", "84.7 %", "0.500", "8"],
        ["2e-5", "plateau", "0.25 s", "84.7 %", "0.500", "3"],
        ["1e-4", "plateau", "0.25 s", "84.7 %", "0.500", "3"],
        ["All rows: epochs 8"],
    ]


def test_table_of_seeds_with_validation(tmp_path: Path) -> None:
    for seed in range(2):
        rate_sweep(tmp_path, seed=seed)
    for seed, loss in ((0, TURN), (1, TURN[2:])):  # best in epochs 3 and 1
        options = PLATEAU | {"optimizer.lr": 0.5, "seed": seed}
        lay(tmp_path, options, train_seconds=1.0 + seed, rows=curves(loss))
    table = shown(tmp_path)
    assert table[1] == ["optimizer.lr", "epochs", "stopped by", "time", "accuracy", "loss", "epoch"]
    assert table[4] == ["2e-5", "8", "plateau", "0.25 s", "84.7 ± 0.0 %", "0.500 ± 0.000", "3"]
    assert table[6][:4] == ["0.5", "3", "max_epochs", "2 ± 6 s"]
    assert table[6][4:] == ["84.7 ± 0.0 %", "0.500 ± 0.000", "2 ± 13"]
    assert table[7] == ["All rows: n 2"]


def test_a_run_without_validation_has_no_best_epoch(tmp_path: Path) -> None:
    lay(tmp_path, {"optimizer.lr": 0.1})
    lay(tmp_path, {"optimizer.lr": 0.2, "valid_size": 500}, rows=curves(TURN))
    assert [row[-1] for row in shown(tmp_path)[3:-1]] == ["-", "3"]
    assert [row["best_epoch"] for row in summary.rows(read(tmp_path))] == [None, 3]


def test_csv_says_what_the_curves_say(tmp_path: Path) -> None:
    rate_sweep(tmp_path)
    summary.write_csv(summary.rows(read(tmp_path)), tmp_path / "summary.csv")
    table = pd.read_csv(tmp_path / "summary.csv")
    assert table["best_epoch"].tolist() == [8, 3, 3]
    assert table["learning"].tolist() == ["unclear"] * 3  # 8 epochs do not tell
    assert table["learned_until"].isna().all()
    assert table["overfits_from"].isna().tolist() == [True, False, False]
    assert table["overfits_from"].tolist()[1:] == [4, 4]
    assert table["gap_loss"].tolist() == [0, 2.75, 2.75]
    assert table["gap_accuracy"].tolist() == [0.25 * (1 - 0.5 / 8)] * 3


def test_notes_put_each_learning_rate_into_words(tmp_path: Path) -> None:
    rate_sweep(tmp_path)
    turned = (
        "best validation loss at epoch 3, clearly above it from epoch 4: overfitting; "
        "cannot tell when learning ended; gap at the end 2.75 in loss, 23.4 points of accuracy"
    )
    assert summary_notes.notes(read(tmp_path)) == [
        ONE_SEED,
        "plateau: validation loss decreased by less than 0.1",
        "optimizer.lr=1e-5: best validation loss at epoch 8; no overfitting seen; "
        "cannot tell when learning ended; gap at the end 0.00 in loss, 23.4 points of accuracy",
        f"optimizer.lr=2e-5: {turned}",
        f"optimizer.lr=1e-4: {turned}",
        RULES,
    ]


def test_notes_of_a_single_run_with_restored_weights(tmp_path: Path) -> None:
    reason = "validation loss did not fall below 0.5 of epoch 3 for 5 epochs"
    options = {"stopping": "patience", "valid_size": 500}
    result: dict[str, Any] = {"status": "stopped", "stop_reason": reason, "weights_of_epoch": 3}
    lay(tmp_path, options, epochs=8, rows=curves(TURN), **result)
    first, second, rules = summary_notes.notes(read(tmp_path))
    assert (first, rules) == (f"patience: {reason}", RULES)
    assert second.startswith("Best validation loss at epoch 3, clearly above it from epoch 4")
    assert second.endswith("points of accuracy; tested with the weights of epoch 3")


def test_plateau_is_doubted_where_noise_exceeds_its_margin(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    losses = (2 / np.arange(1, 41) + 0.01 * random.standard_normal(40)).tolist()
    for least in (1e-4, 0.1):
        options = PLATEAU | {"stopping.min_delta": least}
        lay(tmp_path, options, epochs=40, rows=curves(losses), **FLAT)
    (warning,) = [note for note in summary_notes.notes(read(tmp_path)) if "by chance" in note]
    expected = (
        r"plateau may have stopped 1 of 2 runs by chance: validation loss changes by 0\.0\d+ "
    )
    assert re.match(expected, warning)


def test_notes_tell_reasons_that_differ_run_by_run(tmp_path: Path) -> None:
    for lr in range(1, 9):
        reason = f"{lr} s have passed, the budget is 1 s"
        options = {"optimizer.lr": float(lr), "stopping": "budget"}
        lay(tmp_path, options, name=f"lr={lr}", status="stopped", stop_reason=reason)
    few, *notes = summary_notes.notes(read(tmp_path))
    assert few == ONE_SEED
    assert len(notes) == 7
    assert notes[0] == "lr=1 stopped: 1 s have passed, the budget is 1 s"
    assert notes[-1] == "and 2 more stopped, their reasons are in summary.csv"


def test_notes_read_the_curves_of_six_settings(tmp_path: Path) -> None:
    for lr in range(1, 9):
        for seed in (0, 1):
            options = {"optimizer.lr": float(lr), "seed": seed, "valid_size": 500}
            lay(tmp_path, options, rows=curves(TURN[seed:]))
    few, *lines, more, rules = summary_notes.notes(read(tmp_path))
    assert few == "Settings are compared from 5 seeds of each on."
    assert [line.partition(":")[0] for line in lines] == [f"optimizer.lr={n}" for n in range(1, 7)]
    assert "best validation loss at epochs 2 to 3, clearly above it from " in lines[0]
    assert more == "and 2 more settings, all of them in summary.csv"
    assert rules == RULES


def test_notes_say_what_is_synthetic(tmp_path: Path) -> None:
    dataset = {"sizes": {"train": 500}, "full_size": 7665, "synthetic": True}
    lay(tmp_path, {"dataset": "dogset_synthetic"}, dataset=dataset)
    expected = ["dataset=dogset_synthetic: synthetic data, made by a program"]
    assert summary_notes.notes(read(tmp_path)) == expected


def test_a_network_that_is_not_trained_has_a_row(tmp_path: Path) -> None:
    lay(tmp_path, {"stopping.max_epochs": 0}, **UNTRAINED)
    assert shown(tmp_path)[3][1:] == ["0", "not trained", "-", "100.0 %", "0.500"]
    assert summary_notes.notes(read(tmp_path)) == []
    assert next(summary.rows(read(tmp_path)))["train_loss"] is None


def test_options_that_a_run_does_not_have_are_dashes(tmp_path: Path) -> None:
    computed(tmp_path, "xor")
    for hidden in ([], [4]):
        options = {"dataset": "boolean", "train_size": 4, "test_size": None}
        lay(tmp_path, options | {"model.hidden": hidden})
    table = shown(tmp_path)
    assert table[1][:2] == ["model", "model.hidden"]
    assert [row[:2] for row in table[3:]] == [["mlp", "[]"], ["mlp", "[4]"], ["perceptron", "-"]]


def test_many_settings_of_two_options_make_a_grid(tmp_path: Path) -> None:
    for rate in range(1, 12):
        for hidden in ([], [8], [8, 8], [16]):
            for seed in (0, 1):
                accuracy = rate / 20 + len(hidden) / 100 + seed / 100
                options = {"optimizer.lr": rate / 10, "model.hidden": hidden, "seed": seed}
                lay(tmp_path, options, test_accuracy=accuracy)
    table = shown(tmp_path)
    assert table[0] == ["optimizer.lr", "[]", "[8]", "[8,8]", "[16]"]
    assert len(table) == 2 + 11 + 1
    # t(1) is 12.706, so half the interval of two values that lie 1 point apart is 6.4.
    assert table[2] == ["0.1", "5.5 ± 6.4", "6.5 ± 6.4", "7.5 ± 6.4", "6.5 ± 6.4"]
    caption = "Test accuracy in %, a column for each model.hidden; all else is in summary.csv"
    assert table[-1] == [caption]


def test_a_grid_has_gaps_where_nothing_ran(tmp_path: Path) -> None:
    for rate in range(1, 41):
        lay(tmp_path, {"optimizer.lr": rate / 10, "model.hidden": [8]}, test_accuracy=0.25)
    lay(tmp_path, {"optimizer.lr": 0.1, "model.hidden": []}, **FAILED)
    table = shown(tmp_path)
    assert table[0] == ["optimizer.lr", "[]", "[8]"]
    assert table[2:4] == [["0.1", "failed", "25.0"], ["0.2", "25.0"]]


def test_a_function_that_is_not_boolean_is_shown_as_it_is_called(tmp_path: Path) -> None:
    for number in range(15):
        for rate in (0.1, 0.2, 0.3):
            options = {"dataset": "function", "dataset.function": f"my_data:f{number:02}"}
            lay(tmp_path, options | {"optimizer.lr": rate}, test_accuracy=0.25)
    assert shown(tmp_path)[2] == ["my_data:f00", "25.0", "25.0", "25.0"]


def test_what_networks_compute_is_put_into_words(tmp_path: Path) -> None:
    computed(tmp_path, "0110")
    assert summary_notes.notes(read(tmp_path)) == ["Computes 0110 xor"]
    computed(tmp_path, "0011")
    assert summary_notes.notes(read(tmp_path)) == ["Computes 2 of 2 functions"]
    boolean = {"dataset": "boolean", "dataset.inputs": 2, "model": "linear"}
    boolean |= {"train_size": 4, "test_size": None}
    lay(tmp_path, boolean | {"dataset.function": "xor"}, test_accuracy=0.75, test_loss=0.693147)
    lay(tmp_path, boolean | {"dataset.function": "0011"}, test_accuracy=1.0, test_loss=0.01)
    assert summary_notes.notes(read(tmp_path)) == [
        "model=linear: computes 1 of 2 functions, not 0110 xor (75.0 %, loss 0.693)",
        "model=perceptron: computes 2 of 2 functions",
        "a loss of ln 2 = 0.693 is chance: 0 and 1 are equally probable in every row, "
        "and rounding decides which rows come out right",
    ]


def test_of_many_settings_a_few_are_put_into_words(tmp_path: Path) -> None:
    table = {"dataset": "boolean", "dataset.function": "0110", "dataset.inputs": 2}
    for place in range(10):
        lay(tmp_path, table | {"test_size": None, "optimizer.lr": 1.0 + place}, test_accuracy=1.0)
    expected = [f"optimizer.lr={rate}: computes 0110 xor" for rate in range(1, 7)]
    *said, last = summary_notes.notes(read(tmp_path))
    assert said == expected
    assert last == "and 4 more settings, all of them in summary.csv"


def test_why_networks_do_not_compute_a_function_is_put_into_words(tmp_path: Path) -> None:
    boolean = {"dataset": "boolean", "dataset.inputs": 2, "test_size": None}
    linear = {"model": "linear", "model.hidden": [], "model.activation": "identity"}
    lay(tmp_path, boolean | linear | {"dataset.function": "xor"}, test_accuracy=0.5, test_loss=0.7)
    (first, why) = summary_notes.notes(read(tmp_path))
    assert first == "Cannot compute 0110 xor (50.0 %, loss 0.700)"
    assert why.startswith("a network without activations parts inputs by one line")
    assert why.endswith("and none has all ones on one side and all zeros on the other: 0110 xor")


@pytest.mark.parametrize(("last", "falls"), [(0.9, True), (0.999, False)])
def test_a_network_that_learned_too_short_is_told_so(
    tmp_path: Path, last: float, falls: bool
) -> None:
    options = {"dataset": "boolean", "dataset.inputs": 5, "dataset.function": "majority"}
    rows = "".join(f"{epoch + 1},{last**epoch},0.9,,,0.1\n" for epoch in range(20))
    lay(
        tmp_path,
        options | {"model": "linear", "model.activation": "identity", "test_size": None},
        epochs=20,
        rows=rows,
        test_accuracy=0.96875,
        test_loss=0.4,
    )
    first, *more = summary_notes.notes(read(tmp_path))
    assert first == "Has not learned majority of 5 inputs (96.9 %, loss 0.400)"
    assert more == falls * [
        "training loss still fell when training ended, so more epochs may do "
        "(stopping.max_epochs): majority of 5 inputs"
    ]


def test_a_function_that_some_seeds_learned(tmp_path: Path) -> None:
    options = {"dataset": "boolean", "dataset.inputs": 2, "dataset.function": "xor"}
    options |= {"test_size": None}
    for seed, accuracy in enumerate((1.0, 0.5, 1.0)):
        lay(tmp_path, options | {"seed": seed}, test_accuracy=accuracy, test_loss=0.3)
    first = summary_notes.notes(read(tmp_path))[0]
    assert first.startswith("Has not learned 0110 xor (right with 2 of 3 seeds, 83.3 ± 71.7 %")


def test_part_of_a_truth_table_proves_nothing(tmp_path: Path) -> None:
    options = {"dataset": "boolean", "dataset.inputs": 2, "dataset.function": "and"}
    lay(tmp_path, options | {"test_size": 2}, test_accuracy=1.0)
    assert summary_notes.notes(read(tmp_path)) == []


def test_functions_of_several_sizes_have_no_table_of_one(tmp_path: Path) -> None:
    for inputs in range(1, 7):
        for function in ("and", "or", "nand", "nor", "xor", "xnor", "majority"):
            options = {"dataset": "boolean", "dataset.inputs": inputs}
            lay(tmp_path, options | {"dataset.function": function, "train_size": 4})
    names = [line[0] for line in shown(tmp_path)]
    assert (names[0], names[2]) == ("dataset.function", "and")


def test_unfinished_runs_are_not_put_into_words(tmp_path: Path) -> None:
    """Their curves end where they were interrupted, which says nothing of when to stop."""
    lay(tmp_path, {"optimizer.lr": 0.1}, rows=curves(TURN))
    lay(tmp_path, {"optimizer.lr": 0.2}, rows=curves(TURN), status="running")
    said = summary_notes.notes(read(tmp_path))
    assert [line[:17] for line in said if "best validation" in line] == ["optimizer.lr=0.1:"]


def test_notes_say_why_no_line_fits_the_times(tmp_path: Path) -> None:
    for size in (100, 200):
        lay(tmp_path, {"train_size": size}, engine_form="dual")
    assert summary_notes.notes(read(tmp_path))[0].startswith("no line through training times")
    lay(tmp_path, {"train_size": 400})
    lay(tmp_path, {"train_size": 500})
    assert not any("no line" in note for note in summary_notes.notes(read(tmp_path)))


def test_notes_name_the_first_of_many_data(tmp_path: Path) -> None:
    for seed in range(9):
        dataset = {"source": f"{seed}.csv", "content": f"{seed:016x}"}
        lay(tmp_path, {"seed": seed, "dataset": "table"}, dataset=dataset)
    named = ", ".join(f"1 {seed}.csv" for seed in range(6))
    said = f"Not all runs saw the same data: {named}, and 3 others."
    assert said in summary_notes.notes(report.read(tmp_path))


def test_names_are_text_in_the_table_its_caption_and_the_notes(tmp_path: Path) -> None:
    for number, name in enumerate(HOSTILE):
        options = {"dataset.variant": name, "train_size": 500 + number}
        lay(tmp_path, options, name=f"{number}", **{**FAILED, "error": f"ValueError: {name}"})
    out = io.StringIO()
    Console(file=out, width=120, force_terminal=True, no_color=True).print(report.look(tmp_path))
    for name in HOSTILE:
        assert as_label(name) in out.getvalue()
    assert "\x1b[31m" not in out.getvalue()
    assert "failed: ValueError: $\\foo$" in out.getvalue()


def test_names_are_text_in_a_grid(tmp_path: Path) -> None:
    short = HOSTILE[:6]
    for name, hidden in itertools.product(short, range(1, 8)):
        folder = f"{short.index(name)} {hidden}"
        lay(tmp_path, {"dataset.variant": name, "model.hidden": [hidden]}, name=folder)
    assert shown(tmp_path, 120)[0] == ["model.hidden", *map(as_label, sorted(short))]


def test_pandas_reads_back_what_was_varied(tmp_path: Path) -> None:
    functions = ["0110", "0010", "1000", "xor"]
    for number, function in enumerate(functions):
        options = {"dataset": "boolean", "dataset.inputs": 2, "dataset.function": function}
        options |= {"dataset.variant": ["007", "NA", "true", "data"][number]}
        options |= {"model.hidden": [[], [8], [8, 8], [1]][number]}
        lay(tmp_path, options, name=f"0{number}")
    summary.write_csv(summary.rows(read(tmp_path)), tmp_path / "summary.csv")
    found = pd.read_csv(tmp_path / "summary.csv").set_index("dataset.function")
    assert sorted(found.index) == ["'0010'", "'0110'", "'1000'", "xor"]
    assert found.loc["'0110'", "dataset.variant"] == "'007'"
    assert sorted(found["dataset.variant"]) == ["'007'", "'NA'", "'true'", "data"]
    assert sorted(found["model.hidden"]) == ["[1]", "[8,8]", "[8]", "[]"]
    assert sorted(found["name"]) == ["'00'", "'01'", "'02'", "'03'"]


def test_a_column_of_truth_tables_is_text(tmp_path: Path) -> None:
    for function in ("0110", "1001"):
        lay(tmp_path, {"dataset": "boolean", "dataset.inputs": 2, "dataset.function": function})
    summary.write_csv(summary.rows(read(tmp_path)), tmp_path / "summary.csv")
    assert set(pd.read_csv(tmp_path / "summary.csv")["dataset.function"]) == {"'0110'", "'1001'"}


@pytest.mark.parametrize("width", [40, 50])
def test_no_number_is_broken_in_a_narrow_terminal(tmp_path: Path, width: int) -> None:
    for size, seed in itertools.product((500, 60000), (0, 1)):
        options = {"train_size": size, "optimizer.lr": 0.0123, "seed": seed}
        lay(tmp_path, options, train_seconds=1000.0 + seed, test_accuracy=0.8 + 0.01 * seed)
    out = io.StringIO()
    Console(file=out, width=width).print(report.look(tmp_path))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    for value in ("60000", "80.5 ± 6.4 %", "0.500"):
        assert any(value in line for line in lines), lines


def test_the_table_for_latex_has_the_cells_of_the_terminal(tmp_path: Path) -> None:
    for rate, seed in itertools.product((0.01, 0.1), (0, 1)):
        options = {"optimizer.lr": rate, "seed": seed}
        lay(tmp_path, options, test_accuracy=0.9 + seed / 100, test_loss=0.4)
    made = report.write_report(tmp_path, formats=["tex"])
    file = tmp_path / "summary.tex"
    assert file in made.files
    said = file.read_text()
    lines = [line for line in said.splitlines() if line.endswith(r"\\")]
    heads, *cells = as_rows(made.table)
    for line, row in zip(lines, [heads, *cells], strict=True):
        expected = [
            cell.replace("%", r"\%").replace("_", r"\_").replace("±", r"$\pm$") for cell in row
        ]
        assert line.removesuffix(r"\\").strip().split(" & ") == expected
    assert said.startswith("% All rows: n 2, epochs 3, stopped by max_epochs\n% ±: 95 % confidence")
    assert r"\toprule" in said
    report.write_report(tmp_path)
    assert not file.exists()


def test_no_cell_of_the_table_for_latex_is_a_command(tmp_path: Path) -> None:
    """After the end of a row a bracket would begin a length, a star be part of the command; < and >
    and | are other letters in older encodings of fonts."""
    table = summary.empty()
    table.add_column("model.\nhidden")
    table.add_column("", justify="right")
    cells = ["[128,64]", "[]", "* a", "my_file 100%", "'0110'", "a<b>c|d", "1e-5", "~^\\{}#&$"]
    for cell in cells:
        table.add_row(Text(cell), Text("1"))
    said = summary.write_tex(table, tmp_path / "summary.tex").read_text()
    rows = [line.partition(" & ")[0] for line in said.splitlines() if line.endswith(r"& 1 \\")]
    assert rows == [
        "{}[128,64]",
        "{}[]",
        "{}* a",
        r"my\_file 100\%",
        "'0110'",
        r"a\textless{}b\textgreater{}c\textbar{}d",
        "1e-5",
        r"\textasciitilde \textasciicircum \textbackslash \{\}\#\&\$",
    ]


def test_the_table_for_latex_is_plain_ascii(tmp_path: Path) -> None:
    """So that it does not matter which encoding a document has."""
    table = summary.empty()
    table.add_column("test\nR²", justify="right")
    table.add_row("0.5 ± 0.1")
    table.add_row("-0.5 ± 0.1")
    table.add_row("…")
    said = summary.write_tex(table, tmp_path / "summary.tex").read_text()
    assert "test R$^2$" in said
    assert r"0.5 $\pm$ 0.1" in said
    assert r"$-$0.5 $\pm$ 0.1" in said
    assert said.isascii()
