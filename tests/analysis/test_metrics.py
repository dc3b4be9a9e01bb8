"""evaluation=[metrics], by hand on few examples and against SciPy and scikit-learn."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from PIL import Image
from scipy.special import softmax  # type: ignore[import-untyped,unused-ignore]
from scipy.stats import mannwhitneyu  # type: ignore[import-untyped,unused-ignore]
from sklearn import calibration  # type: ignore[import-not-found,import-untyped,unused-ignore]
from sklearn import metrics as sklearn  # type: ignore[import-not-found,import-untyped,unused-ignore]

import nnlab
from nnlab import compose, report
from nnlab.analysis import metrics
from nnlab.config import fingerprint
from nnlab.terminal import as_rows
from nnlab.trained import log_odds
from tests.analysis.trained import outcome, trained

WINE = ("dataset=sklearn", "dataset.name=wine", "stopping.max_epochs=3")


def drawn(examples: int, classes: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    random = np.random.default_rng(0)
    labels = np.arange(examples) % classes
    logits = random.normal(size=(examples, classes)) + np.eye(classes)[labels]
    return labels, logits


def test_classes_by_hand() -> None:
    """Of 0, 0, 1, 1, 2, predicted are 0, 1, 1, 1, 0."""
    labels = np.array([0, 0, 1, 1, 2])
    shares = [[0.7, 0.2, 0.1], [0.3, 0.5, 0.2], [0.1, 0.8, 0.1], [0.2, 0.6, 0.2], [0.6, 0.1, 0.3]]
    found = metrics.by_class(labels, np.log(shares))
    expected: dict[str, list[float]] = {
        "precision": [1 / 2, 2 / 3, np.nan],
        "recall": [1 / 2, 1, 0],
        "f1": [1 / 2, 4 / 5, 0],
        # Pairs in the right order: of class 0 5 of 6, of 1 and 2 all.
        "auc": [5 / 6, 1, 1],
        "support": [2, 2, 1],
    }
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert_allclose(found[name], values, rtol=1e-12, err_msg=name)
    scores = metrics.scores(labels, np.log(shares), 2, found)
    distances = [0.14, 0.78, 0.06, 0.24, 0.86]
    assert scores == pytest.approx(
        {
            "balanced_accuracy": (1 / 2 + 1) / 3,
            "f1_macro": (1 / 2 + 4 / 5) / 3,
            "top_k_accuracy": 1,
            "auc": (5 / 6 + 2) / 3,
            "brier": sum(distances) / 5,
        }
    )


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_scores_against_other_ways_to_compute_them(classes: int) -> None:
    labels, logits = drawn(200, classes)
    found = metrics.by_class(labels, logits)
    true, chances = labels, softmax(logits, axis=1)
    ranks = np.argsort(np.argsort(-chances, axis=1), axis=1)[np.arange(len(true)), true]
    recall = []
    for label in range(classes):
        own, others = chances[true == label, label], chances[true != label, label]
        area = mannwhitneyu(own, others).statistic / (len(own) * len(others))
        assert found["auc"][label] == pytest.approx(area, abs=1e-12)
        recall.append((chances[true == label].argmax(1) == label).mean())
    for k in range(1, classes):
        scores = metrics.scores(labels, logits, k, found)
        assert scores["top_k_accuracy"] == (ranks < k).mean()
    brier = sklearn.brier_score_loss(true, chances[:, 1] if classes == 2 else chances)
    assert scores["brier"] == pytest.approx(brier, abs=1e-12)
    assert scores["balanced_accuracy"] == pytest.approx(np.mean(recall), abs=1e-12)


def test_what_a_split_has_no_examples_of_is_left_out_of_means() -> None:
    labels, logits = drawn(60, 3)
    logits = np.hstack([logits, np.full((60, 1), -9.0)])
    found, whole = metrics.by_class(labels, logits), metrics.by_class(labels, logits[:, :3])
    for name in ("precision", "recall", "f1", "auc"):
        assert np.isnan(found[name][3])
    scores = metrics.scores(labels, logits, 2, found)
    for name in ("balanced_accuracy", "f1_macro", "auc"):
        known = {"balanced_accuracy": "recall", "f1_macro": "f1", "auc": "auc"}[name]
        assert scores[name] == pytest.approx(whole[known].mean(), abs=1e-3)
    alone = np.zeros(4, np.int64)  # one class: no example to rank it against
    found = metrics.by_class(alone, logits[:4])
    assert np.isnan(metrics.scores(alone, logits[:4], 1, found)["auc"])


def test_ranks_of_examples_whose_probability_rounds_to_one() -> None:
    logits = np.array([[0.0, 900.0], [0.0, 800.0], [0.0, 60.0], [0.0, 50.0]])
    found = metrics.by_class(np.array([1, 1, 0, 0]), logits)
    assert found["auc"].tolist() == [1.0, 1.0]


def test_log_odds_of_every_class_are_those_of_each() -> None:
    _, logits = drawn(50, 4)
    logits = np.concatenate([logits, 30 * logits, 900 * logits])
    found = metrics.all_log_odds(logits)
    for label in range(4):
        alone = log_odds(logits, np.full(150, label))
        assert_allclose(found[:, label], alone, rtol=1e-12, atol=1e-12)


def test_calibration_by_hand() -> None:
    """Of two bins the lower has its upper end: 0.5 and 0.5 in one, 0.8, 0.9 and 1 in the other."""
    odds = np.array([0.5, 0.5, 0.8, 0.9, 1.0])
    with np.errstate(divide="ignore"):
        logits = np.log(np.stack([odds, 1 - odds], axis=1))
    found = metrics.reliability(np.array([0, 1, 0, 1, 0]), logits, 2)
    expected = [[0, 0.5, 2, 0.5, 0.5], [0.5, 1, 3, 0.9, 2 / 3]]
    assert_allclose(found, expected, rtol=1e-12)
    assert metrics.calibration_error(found) == pytest.approx(3 / 5 * (0.9 - 2 / 3))


def test_bins_against_scikit_learns_calibration_curve() -> None:
    labels, logits = drawn(300, 4)
    found = [each for each in metrics.reliability(labels, logits, 12) if each.examples]
    chances = softmax(logits, axis=1)
    right, sure = chances.argmax(1) == labels, chances.max(1)
    accuracy, confidence = calibration.calibration_curve(right, sure, n_bins=12)
    assert_allclose([each.accuracy for each in found], accuracy, rtol=1e-12)
    assert_allclose([each.confidence for each in found], confidence, rtol=1e-12)
    assert sum(each.examples for each in found) == 300


def test_files_and_columns_of_a_run(tmp_path: Path) -> None:
    _, data, _ = trained(tmp_path / "seed=0", *WINE, "evaluation=[metrics]")
    assert data.test is not None
    inputs, true = data.test.examples
    with torch.no_grad():
        logits = nnlab.load(tmp_path / "seed=0").model(torch.from_numpy(inputs)).numpy()
    chances = softmax(logits.astype(float), axis=1)
    predicted = chances.argmax(1)
    (row,) = pd.read_csv(tmp_path / "seed=0" / "scores.csv").to_dict("records")
    assert (row["split"], row["examples"], row["top_k"]) == ("test", 36, 2)
    recall = [np.mean(predicted[true == label] == label) for label in range(3)]
    assert row["balanced_accuracy"] == pytest.approx(np.mean(recall), abs=1e-8)
    assert row["brier"] == pytest.approx(((chances - np.eye(3)[true]) ** 2).sum(1).mean(), abs=1e-6)
    classes = pd.read_csv(tmp_path / "seed=0" / "classes.csv")
    assert classes["class"].tolist() == [f"class_{label}" for label in range(3)]
    assert classes["support"].tolist() == np.bincount(true).tolist()
    assert_allclose(classes["recall"], recall, rtol=1e-8)
    bins = pd.read_csv(tmp_path / "seed=0" / "reliability.csv")
    assert len(bins) == 15
    gaps = (bins["examples"] * (bins["accuracy"] - bins["confidence"]).abs()).sum() / 36
    assert row["ece"] == pytest.approx(gaps, abs=1e-7)
    with Image.open(tmp_path / "seed=0" / "reliability.png") as image:
        assert len(np.unique(np.asarray(image.convert("L")))) > 20

    # Beside a run that was not asked.
    outcome(tmp_path / "seed=1", *WINE, "seed=1")
    made = report.write_report(tmp_path)
    table = pd.read_csv(tmp_path / "summary.csv", index_col="folder")
    for name in ("balanced_accuracy", "f1_macro", "top_k", "top_k_accuracy", "auc", "brier", "ece"):
        assert table.loc["seed=0", name] == row[name]
        assert table[name].isna().tolist() == [False, True]
    heads, first, second, mean = as_rows(made.table)
    assert {"balanced accuracy", "F1", "AUC"} < set(heads)
    assert first[heads.index("AUC")] == mean[heads.index("AUC")] == f"{row['auc']:.3f}"
    assert second[heads.index("AUC")] == "-"


def test_scores_of_the_validation_examples_are_said_to_be_that(tmp_path: Path) -> None:
    asked = ("valid_size=30", "evaluation=[metrics]", "metrics.split=valid", "metrics.top_k=1")
    outcome(tmp_path / "a", *WINE, *asked)
    (row,) = pd.read_csv(tmp_path / "a" / "scores.csv").to_dict("records")
    assert (row["split"], row["examples"], row["top_k"]) == ("valid", 30, 1)
    assert any("of the valid examples" in note for note in report.look(tmp_path).notes)


def test_a_damaged_file_of_scores_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained(tmp_path / "a", *WINE, "evaluation=[metrics]")
    for damage in ("", "split,auc\n", "split,top_k,auc\ntest,3\n", "split,top_k\ntest,x\n", "\0"):
        (tmp_path / "a" / "scores.csv").write_text(damage)
        caplog.clear()
        (run,) = report.read(tmp_path)
        assert "auc" not in run.results
        assert str(tmp_path / "a" / "scores.csv") in caplog.text


def test_scores_that_are_not_of_the_run_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        trained(tmp_path / name, *WINE, f"seed={seed}", "evaluation=[metrics]")
    file, other = (tmp_path / name / "scores.csv" for name in "ab")
    whole = file.read_text()
    assert all("auc" in run.results for run in report.read(tmp_path))
    for damage in (other.read_text(), whole.replace("0.9", "0.8", 1), whole.replace("test", "x")):
        assert damage != whole
        file.write_text(damage)
        caplog.clear()
        assert [run.name for run in report.read(tmp_path) if "auc" in run.results] == ["b"]
        assert f"left out {file}" in caplog.text


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("metrics.split=valid", "metrics looks at the valid examples, but valid_size=0"),
        ("test_size=0", "metrics looks at the test examples, but test_size=0"),
        ("metrics.top_k=0", "metrics.top_k=0 is not possible: it must be at least 1"),
        ("metrics.bins=1", "metrics.bins=1 is not possible: it must be at least 2"),
    ],
)
def test_what_cannot_be_asked_is_refused(option: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compose.load([*WINE, "evaluation=[metrics]", option])


def test_without_scikit_learn_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ValueError, match=r"metrics needs sklearn.*pip install 'nnlab\[sklearn\]'"):
        compose.load(["evaluation=[metrics]"])
    compose.load(["evaluation=[hardest]"])


def test_what_is_asked_is_no_part_of_a_run() -> None:
    asked = compose.load([*WINE, "evaluation=[metrics]", "metrics.top_k=2", "metrics.bins=5"])
    assert fingerprint(asked) == fingerprint(compose.load(list(WINE)))
