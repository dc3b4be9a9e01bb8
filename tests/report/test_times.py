from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats  # type: ignore[import-untyped]

from nnlab.report import summary, summary_notes, times
from nnlab.report.run_folders import read
from tests.report.studies import DIVERGED, FAILED, lay


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 ms"),
        (0.0042, "4.2 ms"),
        (0.0999, "100 ms"),
        (0.1, "0.10 s"),
        (0.21, "0.21 s"),
        (0.996, "1.0 s"),
        (1.84, "1.8 s"),
        (9.96, "10 s"),
        (18.2, "18 s"),
        (80, "80 s"),
        (119.4, "119 s"),
        (120, "2.0 min"),
        (270, "4.5 min"),
        (3540, "59 min"),
        (3590, "1 h"),
        (4800, "1 h 20 min"),
        (86_400, "24 h"),
        (172_799, "48 h"),
        (200_000, "2.3 d"),
        (86_400 * 365, "365 d"),
        (-4800, "-1 h 20 min"),
        (math.nan, "unknown"),
        (math.inf, "unknown"),
    ],
)
def test_duration(seconds: float, expected: str) -> None:
    assert times.duration(seconds) == expected


@pytest.mark.parametrize(
    ("seconds", "margin", "expected"),
    [
        (18.23, 0.62, "18.2 ± 0.6 s"),
        (18.23, 12.4, "18 ± 12 s"),
        (0.167, 0.0021, "0.167 ± 0.002 s"),
        (0.0042, 0.0003, "4.2 ± 0.3 ms"),
        (600, 66, "10 ± 1 min"),
        (4800, 190, "1 h 20 min ± 3.2 min"),
        (18, 1e-9, "18 s"),
        (18, 0, "18 s"),
        (18, math.nan, "18 s"),
        (0, 0, "0 ms"),
    ],
)
def test_duration_within(seconds: float, margin: float, expected: str) -> None:
    assert times.duration_within(seconds, margin) == expected


def test_the_line_and_its_interval_are_those_of_the_logarithms() -> None:
    x = np.array([500.0, 1000, 1500, 2000])
    y = np.array([0.55, 1.01, 1.52, 1.9])
    line = times.fit_line(x, y)
    logs = np.log(y / x)
    # One more value of these logarithms, by scipy, and 0.15 beyond.
    interval = scipy.stats.t.ppf(0.975, 3) * logs.std(ddof=1) * math.sqrt(1.25)
    assert line.slope == pytest.approx(scipy.stats.gmean(y / x), rel=1e-12)
    assert line.at(60000.0) == pytest.approx(60000 * line.slope, rel=1e-12)
    expected = math.exp(math.sqrt(interval**2 + 0.15**2))
    assert line.factor == pytest.approx(expected, rel=1e-6)  # a quantile to 1e-7


@pytest.mark.parametrize("noise", [0.002, 0.05, 0.15])
def test_the_interval_covers_steps_that_cost_more_on_large_sets(noise: float) -> None:
    """As measured on MNIST: 7.5 % more on 60,000 images; times alike, or of a busy machine."""
    random, covered, told = np.random.default_rng(0), 0, 0
    x = np.array([500.0, 1000, 1500, 2000])
    for _ in range(500):
        line = times.fit_line(x, x * np.exp(noise * random.standard_normal(4)))
        truth = 60000 * 1.075 * math.exp(noise * random.standard_normal())
        told += line.scatter <= times.MOST_SCATTER
        covered += abs(math.log(truth / line.at(60000.0))) <= math.log(line.factor)
    assert covered >= 0.9 * 500
    assert told >= 0.7 * 500


def test_times_that_scatter_are_not_extrapolated(tmp_path: Path) -> None:
    for size, seconds in ((500, 0.5), (1000, 2.0), (2000, 2.0)):
        lay(tmp_path, {"train_size": size}, train_seconds=seconds)
    (timing,) = times.timings(read(tmp_path))[2]
    assert (timing.scattered, timing.answer()) == (True, None)
    assert "Times per example differ too much" in "".join(summary_notes.notes(read(tmp_path)))


def sweep(study: Path, **options: float) -> None:
    for size in (500, 1000, 1500, 2000):
        lay(study, {"train_size": size} | options, train_seconds=0.25 + size / 1000)


def test_timings_extrapolate_to_the_full_training_set(tmp_path: Path) -> None:
    sweep(tmp_path)
    keys, epochs, (fit,) = times.timings(read(tmp_path))
    assert (keys, epochs, fit.values) == ([], 3, ())
    np.testing.assert_array_equal(fit.x, [500, 1000, 1500, 2000])
    np.testing.assert_array_equal(fit.y, [0.75, 1.25, 1.75, 2.25])
    assert fit.answer() == "75 s (47 s to 2.0 min)"


def test_answer_is_in_the_unit_of_a_person(tmp_path: Path) -> None:
    # The report that nnlab reproduces: 80 s for 1,000 images make 1 h 20 min, by a factor of
    # exp(0.15) more or less.
    for size in (500, 1000):
        lay(tmp_path, {"train_size": size}, train_seconds=0.08 * size)
    assert times.timings(read(tmp_path))[2][0].answer() == "1 h 20 min (1 h 9 min to 1 h 33 min)"


def test_nothing_is_extrapolated_once_the_full_set_was_trained(tmp_path: Path) -> None:
    sweep(tmp_path)
    lay(tmp_path, {"train_size": None}, train_seconds=60.0)
    assert times.timings(read(tmp_path))[2][0].answer() is None


def test_timings_leave_out_what_did_not_end(tmp_path: Path) -> None:
    sweep(tmp_path)
    lay(tmp_path, {"train_size": 3000}, **DIVERGED)
    lay(tmp_path, {"train_size": 4000}, **FAILED)
    lay(tmp_path, {"train_size": 5000}, status="running")
    (fit,) = times.timings(read(tmp_path))[2]
    np.testing.assert_array_equal(fit.x, [500, 1000, 1500, 2000])


def test_timings_take_each_seed_as_a_point_and_each_engine_as_a_line(tmp_path: Path) -> None:
    for engine in ("native", "torch"):
        for seed in (0, 1):
            for size in (500, 1000):
                options = {"train_size": size, "seed": seed, "engine": engine}
                lay(tmp_path, options, engine=engine, train_seconds=size / 1000 + seed)
    keys, _, fits = times.timings(read(tmp_path))
    assert (keys, [fit.values for fit in fits]) == (["engine"], [("native",), ("torch",)])
    for fit in fits:
        np.testing.assert_array_equal(fit.x, [500, 500, 1000, 1000])
        np.testing.assert_array_equal(fit.y, [0.5, 1.5, 1, 2])


def test_different_numbers_of_epochs_are_compared_per_epoch(tmp_path: Path) -> None:
    lay(tmp_path, {"train_size": 500}, epochs=2, train_seconds=1.0)
    lay(tmp_path, {"train_size": 1000}, epochs=4, train_seconds=4.0, status="stopped")
    _, epochs, (fit,) = times.timings(read(tmp_path))
    assert epochs is None
    np.testing.assert_array_equal(fit.y, [0.5, 1])


def test_a_random_search_shares_one_line(tmp_path: Path) -> None:
    for size, lr in ((500, 0.1), (1000, 0.2), (2000, 0.3)):
        lay(tmp_path, {"train_size": size, "optimizer.lr": lr})
    keys, _, (fit,) = times.timings(read(tmp_path))
    assert keys == []
    np.testing.assert_array_equal(fit.x, [500, 1000, 2000])


def test_one_size_has_no_timings(tmp_path: Path) -> None:
    for lr in (0.1, 0.2):
        lay(tmp_path, {"optimizer.lr": lr})
    assert times.timings(read(tmp_path)) == ([], None, [])


def test_runs_in_the_dual_form_are_points_beside_the_line(tmp_path: Path) -> None:
    """Their times are squares of the size, and larger sets are trained in the usual form."""
    for size in (100, 200, 400, 800):
        square, options = size**2 / 1e6, {"train_size": size}
        lay(tmp_path / "all", options, engine_form="dual", train_seconds=square)
        form, seconds = ("dual", square) if size < 400 else (None, size / 1000)
        lay(tmp_path / "some", options, engine_form=form, train_seconds=seconds)
    (timing,) = times.timings(read(tmp_path / "some"))[2]
    assert len(timing.x) == 4
    assert timing.line is not None
    assert timing.line.at(1600.0) == pytest.approx(1.6)
    (timing,) = times.timings(read(tmp_path / "all"))[2]
    assert (len(timing.x), timing.line, timing.answer()) == (4, None, None)


@pytest.mark.parametrize(
    ("clock", "others", "expected"),
    [
        (1.4, {}, ["1.4"]),
        (1.1, {}, []),  # as on a quiet machine
        (1.4, {"most_threads": 2}, []),  # which may wait for each other
        (1.4, {"engine_form": "dual"}, []),  # whose threads wait for each other
        (0.01, {"train_cpu_seconds": 0.001}, []),  # too short to tell
        (1.4, {"train_cpu_seconds": None}, []),
    ],
)
def test_a_busy_machine_is_told(
    tmp_path: Path, clock: float, others: dict[str, Any], expected: list[str]
) -> None:
    for size in (500, 1000):
        known: dict[str, Any] = {"train_seconds": clock * size / 500}
        known |= {"train_cpu_seconds": size / 500} | others
        lay(tmp_path, {"train_size": size}, **known)
    found = times.busy(read(tmp_path))
    assert found == [
        f"The machine was busy: training took {ratio} times the processor's seconds, and would be "
        f"faster on a quiet one."
        for ratio in expected
    ]
    assert [line for line in summary_notes.notes(read(tmp_path)) if "busy" in line] == found


def test_the_processors_seconds_have_a_column_where_they_are_known(tmp_path: Path) -> None:
    lay(tmp_path / "known", {"seed": 0}, train_cpu_seconds=0.25)
    lay(tmp_path / "unknown", {"seed": 0})
    (known,), (unknown,) = (summary.rows(read(tmp_path / n)) for n in ("known", "unknown"))
    assert known["train_cpu_seconds"] == 0.25
    assert "train_cpu_seconds" not in unknown


def test_on_a_busy_machine_the_interval_reaches_to_a_quiet_one(tmp_path: Path) -> None:
    """From the processor's seconds, which are as on a quiet machine, to the busiest time."""
    clock, used = np.array([1.0, 4.0, 4.5, 8.0]), np.array([0.5, 1.0, 1.5, 2.0])
    for size, seconds, processor in zip((500, 1000, 1500, 2000), clock, used):
        known = {"train_seconds": seconds, "train_cpu_seconds": processor}
        lay(tmp_path, {"train_size": size}, **known)
    (timing,) = times.timings(read(tmp_path))[2]
    assert not timing.scattered
    found = timing.within(60_000)
    slope = scipy.stats.gmean(clock / np.array([500, 1000, 1500, 2000]))
    quiet, beyond = 60_000 / 1000, math.exp(0.15)  # the processor's seconds lie on a line
    assert found == pytest.approx(
        (60_000 * slope, quiet / beyond, 4 * quiet * beyond * 1.5), rel=1e-9
    )
    assert timing.answer() == "3.1 min (52 s to 7.0 min)"
