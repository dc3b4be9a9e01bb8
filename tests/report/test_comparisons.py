from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.stats  # type: ignore[import-untyped]
from numpy.typing import NDArray

from nnlab.losses import REGRESSION
from nnlab.report.comparisons import NETWORKS, NO_CLASSES, ONE_EACH, ONE_SEED, compared
from nnlab.report.run_folders import read
from nnlab.report.statistics import Array
from tests.report.studies import computed, lay


def sweep(study: Path, option: str, accuracies: dict[object, Array], **others: object) -> None:
    """Lay a run for each value of an option and each seed, with these test accuracies."""
    for value, found in accuracies.items():
        for seed, accuracy in enumerate(found.tolist()):
            options = {option: value, "seed": seed} | others
            lay(study, options, test_accuracy=accuracy)


def drawn(*means: float, seeds: int = 5, spread: float = 0.004) -> list[Array]:
    """Accuracies of seeds, which move together, as paired ones do."""
    random = np.random.default_rng(0)
    shared = 0.02 * random.standard_normal(seeds)
    return [mean + shared + spread * random.standard_normal(seeds) for mean in means]


def points(ones: Array, others: Array) -> str:
    """The oracle: scipy's paired difference and interval."""
    oracle = scipy.stats.ttest_rel(ones, others).confidence_interval(0.95)
    mean = (ones - others).mean()
    return f"{100 * mean:.1f} points, 95 % {100 * oracle.low:.1f} to {100 * oracle.high:.1f}"


def test_more_data_still_helps(tmp_path: Path) -> None:
    less, more, most = drawn(0.8, 0.85, 0.873, seeds=10)
    sweep(tmp_path, "train_size", {500: less, 1000: more, 2000: most})
    difference, _, interval = points(most, more).partition(" points, ")
    assert compared(read(tmp_path)) == [
        f"More data still helps: from 1,000 to 2,000 examples test accuracy rises by {difference} "
        f"points ({interval}, 10 seeds)"
    ]


def test_of_runs_of_one_seed_the_last_counts(tmp_path: Path) -> None:
    """As where one's data are known by their content, and the other's are not."""
    first, more, most = drawn(0.7, 0.85, 0.873, seeds=10)
    for accuracies, version in ((first, "a"), (most, "b")):
        for seed, accuracy in enumerate(accuracies.tolist()):
            options = {"train_size": 2000, "seed": seed}
            lay(
                tmp_path,
                options,
                name=f"{seed}{version}",
                test_accuracy=accuracy,
                fingerprint=f"{version}{seed}",
            )
    sweep(tmp_path, "train_size", {1000: more, 500: first})
    (said,) = compared(read(tmp_path))
    difference, _, interval = points(most, more).partition(" points, ")
    assert f"rises by {difference} points ({interval}, 10 seeds)" in said


def test_whether_more_data_helps_may_be_open(tmp_path: Path) -> None:
    more, most = drawn(0.85, 0.851)
    sweep(tmp_path, "train_size", {1000: more, 2000: most})
    assert compared(read(tmp_path)) == [
        "Cannot tell whether more data still helps from 1,000 to 2,000 examples "
        f"(difference {points(most, more)}, 5 seeds)"
    ]


def test_a_difference_of_nothing_has_no_sign(tmp_path: Path) -> None:
    changes = np.array([0.01, -0.01, 0.005, -0.005, -0.001])  # by -0.02 points in the mean
    sweep(tmp_path, "train_size", {500: np.full(5, 0.8), 1000: 0.8 + changes})
    (said,) = compared(read(tmp_path))
    assert "(difference 0.0 points, 95 % -1.0 to 1.0, 5 seeds)" in said


def test_settings_are_told_apart_from_the_best_or_not(tmp_path: Path) -> None:
    poor, good, best = drawn(0.8, 0.879, 0.88)
    sweep(tmp_path, "optimizer.lr", {0.003: poor, 0.01: good, 0.03: best})
    assert compared(read(tmp_path)) == [
        "optimizer.lr by test accuracy (the same test examples, 3 comparisons by Holm): "
        f"cannot tell 0.01 from 0.03 (difference {points(best, good)}, paired by 5 seeds); "
        f"0.03 is better than 0.003 (difference {points(best, poor)}, paired by 5 seeds)"
    ]


def test_a_mean_over_other_seeds_does_not_make_a_setting_better(tmp_path: Path) -> None:
    """By the seeds that both have it is worse."""
    worse, better = drawn(0.8, 0.82)
    easy = np.concatenate([worse, np.full(5, 0.95)])
    sweep(tmp_path, "optimizer.lr", {0.1: easy, 0.2: better})
    assert compared(read(tmp_path)) == [
        "optimizer.lr by test accuracy (the same test examples): 0.2 is better than 0.1 "
        f"(difference {points(better, worse)}, paired by 5 seeds)"
    ]


def test_too_few_folds_are_called_folds(tmp_path: Path) -> None:
    for rate, fold in itertools.product((0.01, 0.1), range(3)):
        lay(tmp_path, {"optimizer.lr": rate, "folds": 3, "fold": fold}, test_accuracy=rate + fold)
    assert compared(read(tmp_path)) == ["Settings are compared from 5 folds of each on."]


def test_holm_keeps_one_of_many_comparisons_from_being_chance(tmp_path: Path) -> None:
    """Of six equal settings, some two differ with p below 0.05 by themselves in many studies."""
    random, alone, told = np.random.default_rng(1), 0, 0
    for study in range(8):
        accuracies = {lr: 0.8 + 0.01 * random.standard_normal(5) for lr in (1, 2, 3, 4, 5, 6)}
        folder = tmp_path / str(study)
        sweep(folder, "optimizer.lr", {float(lr): found for lr, found in accuracies.items()})
        pairs = itertools.combinations(accuracies.values(), 2)
        alone += min(scipy.stats.ttest_rel(*pair).pvalue for pair in pairs) < 0.05
        told += "is better than" in compared(read(folder))[0]
    assert alone >= 3
    assert told <= 1


def test_the_largest_size_decides_between_other_options(tmp_path: Path) -> None:
    worse, better = drawn(0.7, 0.9)
    for size, (one, other) in ((500, (better, worse)), (1000, (worse, better))):
        sweep(tmp_path, "optimizer.lr", {0.1: one, 0.2: other}, train_size=size)
    *data, rates = compared(read(tmp_path))
    assert [line.partition(":")[0] for line in data] == ["optimizer.lr=0.1", "optimizer.lr=0.2"]
    assert "more data does harm" in data[0]
    assert "more data still helps" in data[1]
    assert rates.startswith("optimizer.lr by test accuracy at train_size=1000 (")
    assert "0.2 is better than 0.1" in rates


def test_datasets_are_not_compared_with_each_other(tmp_path: Path) -> None:
    worse, better = drawn(0.7, 0.9)
    for name in ("mnist", "fashion_mnist"):
        sweep(tmp_path, "optimizer.lr", {0.1: worse, 0.2: better}, dataset=name)
    found = compared(read(tmp_path))
    assert [line.partition(":")[0] for line in found] == ["dataset=fashion_mnist", "dataset=mnist"]


def test_losses_are_compared_where_there_are_no_accuracies(tmp_path: Path) -> None:
    for lr, loss in ((0.1, 0.5), (0.2, 0.4)):
        for seed in range(5):
            options = {"optimizer.lr": lr, "seed": seed}
            lay(tmp_path, options, test_accuracy=None, test_loss=loss + seed * lr / 1000)
    (said,) = compared(read(tmp_path))
    assert re.search(r"0\.2 is better than 0\.1 \(difference -0\.100, 95 % -0\.100 to", said)


@pytest.mark.parametrize(
    ("seeds", "expected"), [(1, ONE_SEED), (4, "Settings are compared from 5")]
)
def test_too_few_seeds_are_not_compared(tmp_path: Path, seeds: int, expected: str) -> None:
    sweep(tmp_path, "optimizer.lr", dict(zip((0.1, 0.2), drawn(0.5, 0.9, seeds=seeds))))
    (said,) = compared(read(tmp_path))
    assert said.startswith(expected)


def test_nothing_is_compared_of_seeds_alone_or_of_truth_tables(tmp_path: Path) -> None:
    for seed in range(5):
        lay(tmp_path / "seeds", {"seed": seed})
    assert compared(read(tmp_path / "seeds")) == []
    for function in ("0110", "0111"):
        computed(tmp_path / "tables", function)
    assert compared(read(tmp_path / "tables")) == []


def draw_right(*shares: float, count: int = 1000) -> list[NDArray[np.bool_]]:
    """Draw which examples networks have right: those that are easy, more of them the better."""
    random = np.random.default_rng(0)
    ease = random.random(count)
    return [ease + 0.05 * random.standard_normal(count) < share for share in shares]


def alone(ones: NDArray[np.bool_], others: NDArray[np.bool_], names: tuple[str, str]) -> str:
    first, second = (ones & ~others).sum(), (others & ~ones).sum()
    points = f"{100 * (ones.mean() - others.mean()):.1f} points"
    said = f"{first} test examples right by {names[0]} alone, {second} by {names[1]} alone"
    return f"{points}, {said}, one seed each"


def test_networks_of_one_seed_are_compared_by_what_they_have_right(tmp_path: Path) -> None:
    poor, good, best = draw_right(0.7, 0.86, 0.88)
    for lr, right in ((0.003, poor), (0.01, good), (0.03, best)):
        accuracy = float(right.mean())
        lay(tmp_path, {"optimizer.lr": lr}, right={"test": right}, test_accuracy=accuracy)
    like, unlike = alone(best, good, ("0.03", "0.01")), alone(best, poor, ("0.03", "0.003"))
    assert compared(read(tmp_path)) == [
        "optimizer.lr by test accuracy (the same test examples, 3 comparisons by Holm): "
        f"cannot tell 0.01 from 0.03 (difference {like}); "
        f"0.03 is better than 0.003 (difference {unlike})",
        NETWORKS,
    ]


def test_of_one_seed_each_only_networks_are_compared_by_size(tmp_path: Path) -> None:
    draws = {"better": (0.7, 0.8), "worse": (0.8, 0.7), "alike": (0.7, 0.701)}
    found, expected = [], []
    for name, shares in draws.items():
        less, more = draw_right(*shares)
        for size, right in ((500, less), (1000, more)):
            accuracy = float(right.mean())
            lay(
                tmp_path / name,
                {"train_size": size},
                right={"test": right},
                test_accuracy=accuracy,
            )
        found.append(compared(read(tmp_path / name)))
        points, said = alone(more, less, ("1,000", "500")).split(" points, ", 1)
        by = f"test accuracy {points.lstrip('-')} points"
        ones = "he network of 1,000 examples"
        line = {
            "better": f"T{ones} is better than that of 500: {by} higher ({said})",
            "worse": f"T{ones} is worse than that of 500: {by} lower ({said})",
            "alike": f"Cannot tell t{ones} from that of 500 (difference {points} points, {said})",
        }[name]
        expected.append([line, NETWORKS])
    assert found == expected


def test_networks_with_other_test_examples_are_not_compared(tmp_path: Path) -> None:
    for number, right in enumerate(draw_right(0.7, 0.9)):
        folder = lay(tmp_path, {"optimizer.lr": number}, right={"test": right})
        result = json.loads((folder / "result.json").read_text())
        result["dataset"]["examples"]["test"] = str(number)
        (folder / "result.json").write_text(json.dumps(result))
    assert compared(read(tmp_path)) == [ONE_EACH]


def test_regressions_have_no_classes_to_compare(tmp_path: Path) -> None:
    data = {"name": "table", "task": "regression", "classes": [], "sizes": {"train": 40}}
    for lr in (0.1, 0.2):
        lay(tmp_path, {"optimizer.lr": lr}, dataset=data, test_accuracy=None, test_loss=lr, rows="")
        header = ",".join(REGRESSION.columns)
        (tmp_path / f"optimizer.lr={lr}" / "metrics.csv").write_text(f"{header}\n")
    assert compared(read(tmp_path)) == [NO_CLASSES]
