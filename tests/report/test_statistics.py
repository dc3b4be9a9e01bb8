"""Against scipy, which nnlab does not import."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from nnlab.report import effects, statistics
from nnlab.report.statistics import disagreement, holm, over_examples, over_seeds, paired

# The quadrature of 20,000 steps is exact to about 1e-7.
CLOSE = 1e-6


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 10, 30, 998])
def test_students_distribution_is_scipys(freedom: int) -> None:
    oracle = scipy.stats.t(freedom)
    for level in (0.5, 0.9, 0.95, 0.999):
        expected = oracle.ppf((1 + level) / 2)
        assert statistics.student(freedom, level) == pytest.approx(expected, rel=CLOSE)
    for t in (0.0, 0.1, -1.0, 2.5, -10.0):
        assert statistics.beyond(t, freedom) == pytest.approx(2 * oracle.sf(abs(t)), abs=CLOSE)


def test_without_freedom_there_is_no_quantile() -> None:
    assert math.isnan(statistics.student(0))


@pytest.mark.parametrize("count", [2, 3, 10])
def test_the_interval_over_seeds_is_scipys(count: int) -> None:
    values = np.random.default_rng(count).normal(0.9, 0.01, count)
    found = over_seeds(values)
    oracle = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high), rel=CLOSE)
    expected = (values.mean(), values.std(ddof=1), count, "seeds")
    assert (found.mean, found.deviation, found.count, found.of) == expected
    assert found.margin == pytest.approx((oracle.high - oracle.low) / 2, rel=CLOSE)


@pytest.mark.parametrize("count", [2, 3, 50])
def test_the_mean_of_curves_and_its_interval_are_scipys(count: int) -> None:
    curves = np.random.default_rng(count).normal(0.9, 0.01, (count, 7))
    curves[:, 3] = 0.1  # equal values, whose mean may be another by rounding
    mean, margin = statistics.mean_of_curves(lambda: iter(curves))
    np.testing.assert_allclose(mean, curves.mean(axis=0), rtol=1e-14)
    error = scipy.stats.sem(curves, axis=0) * scipy.stats.t(count - 1).ppf(0.975)
    error[3] = 0.0
    np.testing.assert_allclose(margin, error, rtol=CLOSE)
    assert margin[3] == 0.0


@pytest.mark.parametrize("value", [0.1, 0.3, 1e-30, 7.0])
def test_equal_results_have_no_deviation(value: float) -> None:
    """Their mean, as numpy takes it, may be another by rounding."""
    found = over_seeds(np.full(3, value))
    assert (found.deviation, found.margin) == (0.0, 0.0)


def test_equal_effects_have_no_deviation() -> None:
    """Among rows of which some values are missing."""
    values = np.array([[0.1, 0.1, 0.1], [0.1, np.nan, 0.1], [0.1, np.nan, np.nan], [0.1, 0.2, 0.3]])
    found = effects.estimates(values)["sd"]
    assert found[:2].tolist() == [0.0, 0.0]
    assert math.isnan(found[2])
    assert found[3] == pytest.approx(0.1, rel=1e-9)


@pytest.mark.parametrize("by", [0.0, 0.001, -0.25])
def test_equal_differences_have_no_deviation(by: float) -> None:
    """0.868 - 0.867 and 0.901 - 0.9 differ by rounding."""
    ones = np.array([0.868, 0.901, 0.777, 0.5])
    found = paired(ones, ones - by)
    assert (found.low, found.high) == (found.mean, found.mean)
    assert found.mean == pytest.approx(by, rel=1e-12, abs=0)
    assert found.p == (0.0 if by else 1.0)


def test_one_seed_has_no_interval() -> None:
    found = over_seeds(np.array([0.9]))
    assert (found.mean, found.count, found.of) == (0.9, 1, "")
    assert all(map(math.isnan, (found.deviation, found.low, found.high, found.margin)))


@pytest.mark.parametrize(("right", "examples"), [(0, 10), (10, 10), (847, 1000), (9800, 10_000)])
def test_the_interval_over_examples_is_scipys(right: int, examples: int) -> None:
    found = over_examples(right / examples, examples)
    oracle = scipy.stats.binomtest(right, examples).proportion_ci(0.95, method="wilson")
    ends = (oracle.low, oracle.high)
    assert (found.low, found.high) == pytest.approx(ends, rel=CLOSE, abs=1e-12)
    assert (found.count, found.of) == (1, "examples")


def test_a_comparison_is_scipys_paired_test() -> None:
    random = np.random.default_rng(0)
    for count in (2, 5, 20):
        ones, others = random.normal(size=(2, count))
        found = paired(ones, others)
        oracle = scipy.stats.ttest_rel(ones, others)
        within = oracle.confidence_interval(0.95)
        assert found.p == pytest.approx(oracle.pvalue, abs=CLOSE)
        assert (found.low, found.high) == pytest.approx((within.low, within.high), rel=CLOSE)
        assert (found.mean, found.count) == ((ones - others).mean(), count)


@pytest.mark.parametrize(
    ("first", "second"), [(0, 0), (1, 0), (5, 5), (3, 12), (0, 40), (700, 801), (30_000, 30_700)]
)
def test_networks_are_compared_by_the_exact_test(first: int, second: int) -> None:
    ones = np.repeat([True, False, True, False], [first, second, 3, 2])
    others = np.repeat([False, True, True, False], [first, second, 3, 2])
    found = disagreement(ones, others)
    oracle = scipy.stats.binomtest(first, max(1, first + second)).pvalue if first + second else 1
    assert found.p == pytest.approx(oracle, rel=1e-8, abs=1e-300)
    assert (found.first, found.second) == (first, second)
    assert found.mean == pytest.approx(ones.mean() - others.mean(), abs=1e-12)


def test_equal_differences_leave_no_doubt() -> None:
    ones = np.array([0.5, 0.75])
    assert paired(ones, ones - 0.25).p == 0
    assert paired(ones, ones).p == 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_the_procedure_does(p_values: list[float]) -> None:
    """Step by step, as the paper has it: the least of those left against 0.05 by their number."""
    left, rejected = sorted(range(len(p_values)), key=p_values.__getitem__), set()
    while left and p_values[left[0]] * len(left) < 0.05:
        rejected.add(left.pop(0))
    assert {i for i, p in enumerate(holm(p_values)) if p < 0.05} == rejected
