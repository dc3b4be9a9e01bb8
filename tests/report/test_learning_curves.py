from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize  # type: ignore[import-untyped]

from nnlab.report.learning_curves import Law, fit, laws
from nnlab.report.run_folders import read
from nnlab.report.statistics import Array
from tests.report.studies import computed, lay

# Mean test errors of the default network on MNIST, of 4 to 20 seeds.
MNIST = {
    500: 0.1421,
    700: 0.1294,
    1000: 0.1192,
    1500: 0.1064,
    2000: 0.0958,
    3000: 0.0803,
    5000: 0.0633,
    10000: 0.0456,
    20000: 0.0313,
    54210: 0.0210,
    60000: 0.0201,
}


def test_the_law_is_scipys_weighted_line() -> None:
    random = np.random.default_rng(0)
    errors = {
        size: 0.5 * size**-0.3 * np.exp(0.05 * random.standard_normal(3))
        for size in (100, 500, 1000, 2000)  # the first is less than a quarter of the last
    }
    law = fit(errors, 1000)
    assert law is not None
    logs = {size: np.log(found) for size, found in errors.items() if size >= 500}
    pooled = np.mean([found.var(ddof=1) for found in logs.values()])
    y = np.array([found.mean() for found in logs.values()])
    error = np.exp(y)
    deviation = np.sqrt(pooled / 3 + (1 - error) / (1000 * error))
    x = np.log(np.array([*logs]) / 2000)
    expected, covariance = scipy.optimize.curve_fit(
        lambda at, level, slope: level + slope * at, x, y, sigma=deviation, absolute_sigma=True
    )
    misfit = (((y - expected[0] - expected[1] * x) / deviation) ** 2).sum()
    # scipy goes there in steps.
    np.testing.assert_allclose(law.coefficients, expected, rtol=1e-5)
    np.testing.assert_allclose(law.covariance, covariance * max(1, misfit), rtol=1e-4)
    place = np.array([1, math.log(30)])
    middle = place @ expected
    spread = place @ covariance @ place * max(1, misfit) + (0.1 * math.log(30)) ** 2
    ends = [middle, middle - 1.959964 * math.sqrt(spread), middle + 1.959964 * math.sqrt(spread)]
    np.testing.assert_allclose(law.predict(60000), np.exp(ends), rtol=1e-3)


@pytest.mark.parametrize(
    "errors",
    [
        {1000: [0.1], 2000: [0.1]},
        {100: [0.3], 200: [0.2], 1000: [0.1], 2000: [0.1]},  # two are near
        {500: [0.0], 1000: [0.0], 2000: [0.0]},
    ],
)
def test_there_is_no_law_of_too_little(errors: dict[int, list[float]]) -> None:
    assert fit({size: np.array(found) for size, found in errors.items()}, 1000) is None


def test_a_network_without_an_error_counts_as_half_of_one() -> None:
    found = fit({size: np.array([0.1, 0.0]) for size in (500, 1000, 2000)}, 1000)
    half = fit({size: np.array([0.1, 0.0005]) for size in (500, 1000, 2000)}, 1000)
    assert found is not None
    assert half is not None
    np.testing.assert_array_equal(found.coefficients, half.coefficients)


def test_networks_that_are_always_wrong_have_a_law() -> None:
    """As of one test example; with an error of 1 nothing would vary."""
    found = fit({size: np.ones(2) for size in (500, 1000, 2000)}, 1000)
    assert found is not None
    np.testing.assert_allclose(found.coefficients, [math.log(0.9995), 0], atol=1e-12)


def test_no_prediction_is_below_no_right_answer() -> None:
    """Where errors grow with the training set, the line goes above 1."""
    found = fit({10: np.array([0.5]), 20: np.array([0.6]), 40: np.array([0.7])}, 1000)
    assert found is not None
    assert found.predict(1e6)[0] == found.predict(1e6)[2] == 1


# Back-tests: the share of predictions whose interval holds what was then measured


def drawn(error: float, examples: int, seeds: int, random: np.random.Generator) -> Array:
    """Test errors of seeds on the same test examples, some of which are harder than others."""
    shared = random.standard_normal() * math.sqrt(error * (1 - error) / examples)
    own = 0.06 * error * random.standard_normal(seeds)
    return np.clip(error + shared + own, 0, 1)


def truths() -> list[tuple[Callable[[float], float], list[int]]]:
    """Learning curves and the sizes that are known: MNIST's, from its measured means, and curves
    with a floor or a slope that changes."""
    sizes, errors = np.log([*MNIST]), np.log([*MNIST.values()])
    known = [[500, 1000, 1500, 2000], [500, 700, 1000], [1000, 2000, 3000], [3000, 5000, 10000]]

    def mnist(size: float) -> float:
        return float(np.exp(np.interp(math.log(size), sizes, errors)))

    made: list[tuple[Callable[[float], float], list[int]]] = [(mnist, some) for some in known]
    made.append((lambda n: 0.01 + 2 * n**-0.4, [500, 1000, 1500, 2000]))
    made.append((lambda n: 0.9 * n**-0.25, [250, 500, 1000]))
    made.append((lambda n: 0.5 / (1 + (n / 1500) ** 0.6), [500, 1000, 2000]))
    return made


@pytest.mark.parametrize("seeds", [1, 5, 10])
def test_predictions_cover_measured_and_made_up_curves(seeds: int) -> None:
    random, covered = np.random.default_rng(seeds), []
    for truth, sizes in truths():
        for examples in (1000, 10_000):
            for _ in range(15):
                errors = {size: drawn(truth(size), examples, seeds, random) for size in sizes}
                law = fit(errors, examples)
                assert law is not None
                for target in (2 * sizes[-1], 6 * sizes[-1], 60_000):
                    _, low, high = law.predict(target)
                    covered.append(low <= truth(min(target, 60_000)) <= high)
    assert np.mean(covered) >= 0.9


@pytest.mark.slow
def test_predictions_cover_what_scikit_learn_reaches_on_digits() -> None:
    """Three learners on 120 to 360 digits; targets are two and three times as many."""
    sklearn = pytest.importorskip("sklearn")
    assert sklearn
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from sklearn.naive_bayes import GaussianNB  # type: ignore[import-untyped]
    from sklearn.neighbors import KNeighborsClassifier  # type: ignore[import-untyped]

    inputs, labels = load_digits(return_X_y=True)
    inputs, covered = inputs / 16, []
    learners: tuple[Callable[[], Any], ...] = (
        lambda: LogisticRegression(max_iter=300),
        lambda: KNeighborsClassifier(3),
        lambda: GaussianNB(var_smoothing=0.01),
    )
    for split in range(2):
        order = np.random.default_rng(split).permutation(len(labels))
        test, rest = order[:600], order[600:]

        def error(learner: Callable[[], Any], size: int, seed: int) -> float:
            some = np.random.default_rng(seed).permutation(rest)[:size]  # noqa: B023
            fitted = learner().fit(inputs[some], labels[some])
            return 1 - float(fitted.score(inputs[test], labels[test]))  # noqa: B023

        for learner in learners:
            errors = {
                size: np.array([error(learner, size, seed) for seed in range(3)])
                for size in (120, 180, 240, 360)
            }
            law = fit(errors, len(test))
            assert law is not None
            for target in (720, 1080):
                truth = np.mean([error(learner, target, seed) for seed in range(3)])
                _, low, high = law.predict(target)
                covered.append(low <= truth <= high)
    assert np.mean(covered) >= 0.9


# In words


def sweep(study: Path, **options: Any) -> None:
    for size in (500, 1000, 1500, 2000):
        seconds = 0.27 * size / 1000
        accuracy = 1 - MNIST[size]
        lay(
            study,
            {"train_size": size} | options,
            test_accuracy=accuracy,
            train_seconds=seconds,
        )


def test_the_law_is_told_and_a_prediction_where_asked(tmp_path: Path) -> None:
    sweep(tmp_path)
    law = fit({size: np.array([MNIST[size]]) for size in (500, 1000, 1500, 2000)}, 1000)
    assert isinstance(law, Law)
    slope, low, high = law.slope
    said = (
        f"Test error goes as size^{slope:.2f} (95 % {low:.2f} to {high:.2f}) from 500 to 2,000 "
        f"examples"
    )
    assert laws(read(tmp_path)) == [said]
    error, least, most = law.predict(60_000)
    prediction = f"60,000 examples: test accuracy {100 - 100 * error:.1f} % "
    prediction += f"({100 - 100 * most:.1f} to {100 - 100 * least:.1f}; 95 % prediction)"
    found = laws(read(tmp_path), [60_000, 70_000, 1000])
    assert found[:2] == [
        said,
        f"{prediction}; measuring it takes 16 s (14 to 19): train_size=60000",
    ]
    assert "measuring" not in found[2]  # there are 60,000 examples
    assert found[3] == "1,000 examples are no more than were trained, so nothing is predicted"


def test_an_error_that_may_not_fall_has_no_law(tmp_path: Path) -> None:
    for size in (500, 1000, 2000):
        lay(tmp_path, {"train_size": size})
    assert laws(read(tmp_path)) == []


def test_one_seed_counts_as_uncertain_as_seeds_of_mnist() -> None:
    errors = {size: np.array([MNIST[size]]) for size in (500, 1000, 2000)}
    law = fit(errors, 10**9)
    assert law is not None
    x = np.log(np.array([*errors]) / 2000)
    expected = np.linalg.inv([[3, x.sum()], [x.sum(), (x**2).sum()]]) * 0.07**2
    np.testing.assert_allclose(law.covariance, expected, rtol=1e-5)  # 1e9 test examples


def test_each_setting_has_its_law(tmp_path: Path) -> None:
    for lr in (0.1, 0.2):
        sweep(tmp_path, **{"optimizer.lr": lr})
    found = laws(read(tmp_path), [5000])
    assert [line.partition(":")[0] for line in found] == [
        *["optimizer.lr=0.1"] * 2,
        *["optimizer.lr=0.2"] * 2,
    ]


def test_without_a_law_nothing_is_said_unless_asked(tmp_path: Path) -> None:
    for size in (500, 1000):
        lay(tmp_path / "two", {"train_size": size})
    assert laws(read(tmp_path / "two")) == []
    (said,) = laws(read(tmp_path / "two"), [5000])
    assert said.startswith("Predicting takes 3 sizes or more")
    computed(tmp_path / "table", "0110")
    assert laws(read(tmp_path / "table"), [5000]) == []
