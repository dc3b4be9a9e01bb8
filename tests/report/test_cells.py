from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats  # type: ignore[import-untyped]

from nnlab import report
from tests.report.studies import DIVERGED, FAILED, computed, lay


def written(study: Path) -> pd.DataFrame:
    report.write_report(study)
    return pd.read_csv(study / "cells.csv")


def test_a_row_for_each_setting_holds_what_pandas_and_scipy_say(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for size, lr, seed in itertools.product((500, 1000), (0.01, 0.1), range(3)):
        accuracy, loss = random.uniform(0.5, 1, 2)
        options = {"train_size": size, "optimizer.lr": lr, "seed": seed}
        lay(tmp_path, options, test_accuracy=accuracy, test_loss=loss, train_seconds=1.0 + seed)
    cells = written(tmp_path)
    runs = pd.read_csv(tmp_path / "summary.csv")
    settings = ["train_size", "optimizer.lr"]
    assert list(cells.columns)[:4] == [*settings, "runs", "complete"]
    assert (cells["runs"] == 3).all()
    assert (cells["complete"] == 3).all()
    for name in ("test_accuracy", "test_loss", "train_seconds", "epochs", "weights"):
        oracle = runs.groupby(settings)[name].agg(["mean", "std", "count", "sem"]).reset_index()
        half = scipy.stats.t.ppf(0.975, 2) * oracle["sem"]
        expected = [
            *(oracle["mean"], oracle["std"], oracle["count"]),
            *(oracle["mean"] - half, oracle["mean"] + half),
        ]
        for kind, values in zip(("mean", "sd", "n", "ci95_low", "ci95_high"), expected):
            # float64 rounding, and a quantile that is exact to 1e-7
            np.testing.assert_allclose(cells[f"{name}_{kind}"], values, rtol=1e-6, err_msg=name)
    assert (cells["test_accuracy_ci95_of"] == "seeds").all()


def test_one_seed_has_the_interval_of_its_examples_and_no_deviation(tmp_path: Path) -> None:
    lay(tmp_path, {"optimizer.lr": 0.1, "seed": 0}, test_accuracy=0.8)
    lay(tmp_path, {"optimizer.lr": 0.1, "seed": 1}, **DIVERGED)
    lay(tmp_path, {"optimizer.lr": 0.2, "seed": 0}, **FAILED)
    cells = written(tmp_path)
    oracle = scipy.stats.binomtest(800, 1000).proportion_ci(0.95, method="wilson")
    assert cells["runs"].tolist() == [2, 1]
    assert cells["complete"].tolist() == [1, 0]
    assert cells["test_accuracy_mean"][0] == 0.8
    ends = (cells["test_accuracy_ci95_low"][0], cells["test_accuracy_ci95_high"][0])
    assert ends == pytest.approx((oracle.low, oracle.high), rel=1e-6)
    assert cells["test_accuracy_ci95_of"].fillna("").tolist() == ["examples", ""]
    assert cells["test_accuracy_n"].tolist() == [1, 0]
    assert cells["test_accuracy_sd"].isna().all()
    assert cells["test_loss_ci95_low"].isna().all()


def test_a_whole_truth_table_is_no_sample(tmp_path: Path) -> None:
    computed(tmp_path, "0110")
    cells = written(tmp_path)
    assert cells["test_accuracy_mean"].tolist() == [1]
    assert cells["test_accuracy_ci95_low"].isna().all()
