"""folds=N: a run for each fold of the training examples, against scikit-learn and by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy import stats  # type: ignore[import-untyped]
from sklearn import datasets, model_selection  # type: ignore[import-not-found,import-untyped,unused-ignore]

import nnlab
from nnlab import compose, report
from nnlab.datasets import Data
from nnlab.terminal import as_rows
from tests.conftest import Run
from tests.report.test_page import Page

pytestmark = pytest.mark.usefixtures("empty_folder")

IRIS = ("dataset=sklearn", "dataset.name=iris")
QUICK = ("stopping.max_epochs=2",)


def half_interval(values: Any) -> float:
    """Return half the 95 % interval of a mean, by Student's t."""
    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def fold_of(number: int, folds: int, *overrides: str) -> Data:
    return compose.load([*overrides, f"folds={folds}", f"fold={number}"]).load_data()


def rows(data: Data, split: str) -> list[int]:
    part = getattr(data, split)
    assert part.rows is not None
    found: list[int] = part.rows.tolist()
    return found


def names(study: str) -> set[str]:
    return {path.parent.name for path in Path("outputs", study).glob("*/result.json")}


@pytest.mark.parametrize("name", ["iris", "wine"])
def test_folds_are_as_scikit_learn_deals_them(name: str) -> None:
    overrides = ("dataset=sklearn", f"dataset.name={name}")
    labels = getattr(datasets, f"load_{name}")().target
    whole = compose.load(list(overrides)).load_data()
    train = rows(whole, "train")
    found = [fold_of(number, 5, *overrides) for number in range(5)]
    assert sorted(row for data in found for row in rows(data, "valid")) == sorted(train)
    for data in found:
        assert sorted(rows(data, "valid") + rows(data, "train")) == sorted(train)
        assert rows(data, "test") == rows(whole, "test")
    ours = [np.bincount(labels[rows(data, "valid")], minlength=3) for data in found]
    oracle = model_selection.StratifiedKFold(5)
    theirs = [
        np.bincount(labels[train][valid], minlength=3)
        for _, valid in oracle.split(train, labels[train])
    ]
    for label in range(3):  # which fold has one more is by chance
        assert sorted(counts[label] for counts in ours) == sorted(c[label] for c in theirs)
    assert sorted(map(sum, ours)) == sorted(map(sum, theirs))


def test_inputs_are_standardised_by_what_a_fold_trains_on() -> None:
    data = fold_of(1, 4, *IRIS)
    raw = datasets.load_iris().data
    mine, held = raw[rows(data, "train")], raw[rows(data, "valid")]
    assert data.valid is not None
    expected = (held - mine.mean(axis=0)) / mine.std(axis=0)
    inputs = data.valid.inputs[data.valid.index]
    assert_allclose(inputs, expected, rtol=1e-4, atol=1e-5)  # float32


def test_a_smaller_training_set_is_dealt_out_as_it_is_drawn() -> None:
    drawn = ("dataset=mnist", "dataset.source=bundled", "train_size=60")
    whole = compose.load(list(drawn)).load_data()
    found = [fold_of(number, 3, *drawn) for number in range(3)]
    dealt = [np.concatenate([data.train.index, data.valid.index]) for data in found if data.valid]
    for data, both in zip(found, dealt):
        assert np.sort(both).tolist() == np.sort(whole.train.index).tolist()
        assert np.bincount(data.train.labels[data.train.index]).tolist() == [4] * 10
        assert data.provenance["sizes"] == {"train": 40, "valid": 20, "test": 1000}
        kept = [index for index in whole.train.index.tolist() if index in data.train.index]
        assert data.train.index.tolist() == kept  # in the order in which they were drawn
    again = fold_of(0, 3, *drawn)
    assert np.array_equal(again.train.index, found[0].train.index)
    other = fold_of(0, 3, *drawn, "seeds.data=1")
    assert set(other.train.index.tolist()) != set(again.train.index.tolist())


def test_a_number_of_folds_is_a_sweep_with_its_mean(run: Run) -> None:
    run(*IRIS, *QUICK, "folds=5")
    assert names("iris") == {f"fold={number}" for number in range(5)}
    accuracies = []
    for number in range(5):
        folder = Path(f"outputs/iris/fold={number}")
        accuracies.append(pd.read_csv(folder / "metrics.csv")["valid_accuracy"].iloc[-1])
        recorded = json.loads((folder / "result.json").read_text())
        assert recorded["dataset"]["sizes"] == {"train": 96, "valid": 24, "test": 30}
        assert (recorded["config"]["folds"], recorded["config"]["fold"]) == (5, number)
    heads, *table = as_rows(report.look(Path("outputs/iris")).table)
    column = heads.index("valid accuracy")
    assert [row[column] for row in table[:5]] == [f"{100 * each:.1f} %" for each in accuracies]
    mean, half = 100 * np.mean(accuracies), 100 * half_interval(accuracies)
    assert (table[5][0], table[5][1]) == ("mean", "5")
    assert table[5][column] == f"{mean:.1f} ± {half:.1f} %"
    assert f"{mean:.2f} ± {half:.2f}" in Page(Path("outputs/iris/index.html")).rows[1]

    # One of them is the same run, and nothing is trained anew.
    assert "already done: 1 of 1" in run(*IRIS, *QUICK, "folds=5", "fold=2")
    assert "already done: 5 of 5" in run(*IRIS, *QUICK, "folds=5")


def test_folds_of_other_options_and_seeds_are_one_setting_each(run: Run) -> None:
    """Of wine's 142 training examples folds have 28 or 29."""
    wine = ("dataset=sklearn", "dataset.name=wine", *QUICK, "folds=5")
    run(*wine, "optimizer.lr=0.01,0.1", "-m")
    assert len(names("wine")) == 10
    heads, *table = as_rows(report.look(Path("outputs/wine")).table)
    assert (heads[0], [row[0] for row in table]) == ("optimizer.lr", ["0.01", "0.1"])
    summary = pd.read_csv("outputs/wine/summary.csv")
    groups = summary.groupby("optimizer.lr")["valid_accuracy"]
    expected = [f"{100 * g.mean():.1f} ± {100 * half_interval(g):.1f} %" for _, g in groups]
    assert [row[heads.index("valid accuracy")] for row in table] == expected

    run(*wine, "seed=0,1", "study=seeds")
    assert len(names("seeds")) == 10
    heads, *table = as_rows(report.look(Path("outputs/seeds")).table)
    assert heads[:3] == ["fold", "seed", "n"]
    assert table[-1][:3] == ["mean", "", "10"]
    all_runs = pd.read_csv("outputs/seeds/summary.csv")["valid_accuracy"]
    expected = [f"{100 * all_runs.mean():.1f} ± {100 * half_interval(all_runs):.1f} %"]
    assert [table[-1][heads.index("valid accuracy")]] == expected


def test_a_regression_has_folds_of_equal_size_and_their_r2(run: Run) -> None:
    """Of 354 examples to train on, which have no classes."""
    diabetes = ("dataset=sklearn", "dataset.name=diabetes")
    found = [fold_of(number, 4, *diabetes) for number in range(4)]
    train = rows(compose.load(list(diabetes)).load_data(), "train")
    assert sorted(row for data in found for row in rows(data, "valid")) == sorted(train)
    assert [len(rows(data, "valid")) for data in found] == [89, 89, 88, 88]
    run(*diabetes, *QUICK, "folds=4")
    heads, *table = as_rows(report.look(Path("outputs/diabetes")).table)
    last = [
        pd.read_csv(f"outputs/diabetes/fold={number}/metrics.csv")["valid_r2"].iloc[-1]
        for number in range(4)
    ]
    expected = f"{np.mean(last):.3f} ± {half_interval(last):.3f}"
    assert table[-1][heads.index("valid R²")] == expected
    said = run(*diabetes, *QUICK, "folds=355", "fold=0", "study=no", status=1)
    assert "folds=355 is too many: each needs an example, of which 354" in said


@pytest.mark.slow
def test_what_is_planned_batched_or_launched_otherwise_is_the_same(run: Run) -> None:
    command = (*IRIS, *QUICK, "folds=3")
    said = run(*command, "plan=true")
    assert "3 runs take" in said
    assert not Path("outputs").exists()
    run(*command)
    others = ["hydra/launcher=basic"], ["hydra.sweeper.max_batch_size=2"], ["hydra/sweeper=basic"]
    for options in others:
        run(*command, *options, "study=other", "force=true")
        assert names("other") == names("iris") == {"fold=0", "fold=1", "fold=2"}
        for name in names("iris"):
            ours, theirs = (
                pd.read_csv(f"outputs/{study}/{name}/metrics.csv").drop(columns="seconds")
                for study in ("iris", "other")
            )
            pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


def test_rules_questions_and_searches_look_at_the_fold(run: Run) -> None:
    asked = ("stopping=patience", "stopping.max_epochs=3", "evaluation=[hardest]")
    run(*IRIS, *asked, "hardest.split=valid", "folds=2")
    for number in range(2):
        matrix = pd.read_csv(f"outputs/iris/fold={number}/confusion.csv", index_col=0)
        assert matrix.to_numpy().sum() == 60
    search = ("hydra/sweeper=search", "hydra.sweeper.n_trials=2", "optimizer.lr=0.01,0.1")
    assert "best of 2 trials" in run(*IRIS, *QUICK, *search, "folds=4", "fold=0", "study=search")
    said = run(*IRIS, *QUICK, *search, "folds=4", "study=none", status=1)
    assert "a run validates on one of them" in said


def test_a_notebook_has_folds() -> None:
    frame = nnlab.sweep({"dataset": "sklearn", "dataset.name": "iris", "folds": 3})
    assert sorted(frame["fold"]) == [0, 1, 2]
    data = nnlab.load_data("sklearn", name="iris", folds=3, fold=1)
    assert data.valid is not None
    assert (len(data.train[1]), len(data.valid[1])) == (80, 40)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["folds=1"], "folds=1 is not possible: it must be at least 2"),
        (["folds=-3"], "folds=-3 is not possible: it must be at least 2"),
        (["fold=0"], "fold=0 is not possible: .* set folds"),
        (["folds=5", "fold=5"], "fold=5 is not possible: of folds=5 choose one from 0 to 4"),
        (["folds=5", "fold=-1"], "fold=-1 is not possible"),
        (["folds=3,4"], "folds=3,4: .* give each its own command, or those to try, as in fold=0,1"),
        (["folds=5", "valid_size=10"], "valid_size=10 is not possible: .* set valid_size=0"),
        (["folds=5", "valid_size=null"], "valid_size=null is not possible"),
        (["folds=41"], "folds=41 is too many: .* class setosa, of which 40 can be trained on"),
        (["folds=3", "train_size=6"], "folds=3 is too many: .* of which 2 can be trained on"),
    ],
)
def test_folds_that_cannot_be_are_refused(run: Run, overrides: list[str], message: str) -> None:
    said = run(*IRIS, *QUICK, *overrides, status=1)
    assert re.search(message, said)
    assert not list(Path().rglob("result.json"))


def test_what_is_computed_has_no_folds() -> None:
    with pytest.raises(ValueError, match="model=perceptron is not trained"):
        compose.load(["dataset=boolean", "model=perceptron", "folds=2", "fold=0"])
