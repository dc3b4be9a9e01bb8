from __future__ import annotations

import itertools
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import scipy.stats  # type: ignore[import-untyped]
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from PIL import Image

from nnlab import report
from nnlab.report import captions, figures, looks, plotting, responses
from nnlab.report.run_folders import read, read_all
from tests.names import HOSTILE
from tests.report.studies import DIVERGED, FAILED, UNTRAINED, computed, lay
from tests.report.studies import curves as rows_of

SIZES = (500, 1000, 1500, 2000)
TURN = [2.0, 1.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]  # a validation loss, best in epoch 3


def only(figure: Figure | None) -> Axes:
    """Return the axes of a figure, after drawing it as writing it would."""
    assert figure is not None
    figure.canvas.draw()
    return figure.axes[0]


def lines(axes: Axes) -> list[list[tuple[float, float]]]:
    return [list(map(tuple, np.asarray(line.get_xydata()).tolist())) for line in axes.lines]


def crosses(axes: Axes) -> object:
    (made,) = axes.collections
    return np.asarray(made.get_offsets()).tolist()


def wilson(right: int, examples: int) -> tuple[float, float]:
    found = scipy.stats.binomtest(right, examples).proportion_ci(0.95, method="wilson")
    return found.low, found.high


def close(found: Sequence[Any], expected: Sequence[Any]) -> None:
    assert [len(line) for line in found] == [len(line) for line in expected]
    for line, points in zip(found, expected):
        np.testing.assert_allclose(line, points, rtol=1e-9)  # float64 rounding


def texts(legend: Legend | None) -> list[str]:
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def size_sweep(study: Path, **result: Any) -> None:
    for size in SIZES:
        content = {"train_seconds": 0.25 + size / 1000, "test_accuracy": 0.8 + size / 1e5}
        lay(study, {"train_size": size}, **(content | result))


# Training time


def test_train_time_in_the_dual_form_has_points_only(tmp_path: Path) -> None:
    size_sweep(tmp_path, engine_form="dual")
    axes = only(responses.train_time(read(tmp_path)))
    assert len(lines(axes)) == 1
    assert axes.get_legend() is None


def test_train_time_has_points_the_line_and_the_answer(tmp_path: Path) -> None:
    size_sweep(tmp_path)
    axes = only(responses.train_time(read(tmp_path)))
    points, line = lines(axes)
    assert points == [(500, 0.75), (1000, 1.25), (1500, 1.75), (2000, 2.25)]
    slope = scipy.stats.gmean((0.25 + np.array(SIZES) / 1000) / SIZES)  # the mean of logarithms
    close([line], [[(0, 0), (2080, 2080 * slope)]])
    assert axes.get_xlabel() == "Training-set size (examples)"
    assert axes.get_ylabel() == "Training time of 3 epochs (s)"
    assert texts(axes.get_legend()) == ["fitted line: 60,000 examples take 75 s (47 s to 2.0 min)"]
    assert [text.get_text() for text in axes.get_xticklabels()] == [
        "500",
        "1,000",
        "1,500",
        "2,000",
    ]


def test_title_states_the_setting(tmp_path: Path) -> None:
    size_sweep(tmp_path)
    for draw in (responses.train_time, responses.accuracy, figures.loss):
        figure = draw(read(tmp_path))
        assert figure is not None
        title = figure.texts[0].get_text()
        assert title == "MNIST · MLP 784-128-64-10 · SGD lr 0.01 · batch size 10 · 100 epochs"


def test_scattered_times_have_an_interval(tmp_path: Path) -> None:
    for size, seconds in zip(SIZES, (0.6, 0.9, 1.7, 2.0)):
        lay(tmp_path, {"train_size": size}, train_seconds=seconds)
    axes = only(responses.train_time(read(tmp_path)))
    # Milliseconds an example are 1.2, 0.9, 1.1333 and 1: their geometric mean is 1.0525, the
    # deviation of their logarithms 0.1288; t(3) is 3.1824, and the interval a factor of
    # exp(sqrt((3.1824 * 0.1288 * sqrt(1.25))**2 + 0.15**2)) = 1.62.
    assert texts(axes.get_legend()) == ["fitted line: 60,000 examples take 63 s (39 to 102)"]
    assert "95 % prediction interval" in axes.figure.texts[1].get_text()


def test_times_of_runs_side_by_side_are_called_so(tmp_path: Path) -> None:
    for size, at_once in zip(SIZES, (1, 2, 2, None)):
        lay(tmp_path, {"train_size": size}, concurrent_runs=at_once)
    note = only(responses.train_time(read(tmp_path))).figure.texts[1].get_text()
    assert note == "on AMD EPYC; up to 2 runs at a time"


def test_times_of_runs_one_by_one_need_no_word(tmp_path: Path) -> None:
    size_sweep(tmp_path, concurrent_runs=1)
    assert only(responses.train_time(read(tmp_path))).figure.texts[1].get_text() == (
        "on AMD EPYC; in brackets the 95 % prediction interval of the fitted line"
    )


def test_the_legend_lies_above_all_times(tmp_path: Path) -> None:
    for size, seconds in zip(SIZES, (1.9, 2.0, 1.95, 2.0)):
        lay(tmp_path, {"train_size": size}, train_seconds=seconds)
    axes = only(responses.train_time(read(tmp_path)))
    legend = axes.get_legend()
    assert legend is not None
    box = legend.get_window_extent()
    for line in axes.lines:
        points = line.get_transform().transform(line.get_xydata())
        under = points[(points[:, 0] >= box.x0) & (points[:, 0] <= box.x1)]
        assert (under[:, 1] < box.y0).all()


def test_long_times_are_in_hours(tmp_path: Path) -> None:
    for size in (1000, 2000):
        lay(tmp_path, {"train_size": size}, train_seconds=3.6 * size)
    axes = only(responses.train_time(read(tmp_path)))
    assert axes.get_ylabel() == "Training time of 3 epochs (h)"
    assert lines(axes)[0] == [(1000, 1), (2000, 2)]


def test_train_time_has_a_line_for_each_value_of_a_second_factor(tmp_path: Path) -> None:
    for engine, slope in (("native", 1), ("torch", 4)):
        for size in (500, 1000):
            options = {"train_size": size, "engine": engine}
            lay(tmp_path, options, engine=engine, train_seconds=slope * size / 1000)
    axes = only(responses.train_time(read(tmp_path)))
    close(lines(axes)[1::2], [[(0, 0), (1040, 1.04)], [(0, 0), (1040, 4.16)]])
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_title().get_text() == "Engine"
    expected = [
        "native: 60,000 examples take 60 s (52 to 70)",  # exp(0.15) is 1.16
        "torch: 60,000 examples take 4.0 min (3.4 to 4.6)",
    ]
    assert texts(legend) == expected


def test_no_train_time_without_two_sizes(tmp_path: Path) -> None:
    for lr in (0.1, 0.2):
        lay(tmp_path, {"optimizer.lr": lr})
    assert responses.train_time(read(tmp_path)) is None


# Accuracy


def test_accuracy_is_in_percent_over_size(tmp_path: Path) -> None:
    size_sweep(tmp_path)
    axes = only(responses.accuracy(read(tmp_path)))
    close(lines(axes), [[(500, 80.5), (1000, 81), (1500, 81.5), (2000, 82)]])
    assert axes.get_xlabel() == "Training-set size (examples)"
    assert axes.get_ylabel() == "Test accuracy (%)"


def test_accuracy_says_which_runs_it_lacks(tmp_path: Path) -> None:
    size_sweep(tmp_path)
    lay(tmp_path, {"train_size": 3000}, **DIVERGED)
    for size in (4000, 5000):
        lay(tmp_path, {"train_size": size}, **FAILED)
    axes = only(responses.accuracy(read(tmp_path)))
    bars = "bar of one seed: 95 % interval by the number of test examples"
    note = axes.figure.texts[1].get_text().replace("\n", " ")
    assert note == f"{bars}; not shown: 1 diverged, 2 failed"


def test_lines_that_look_alike_are_explained(tmp_path: Path) -> None:
    """There are no dashes for so many; where there are, nothing is said."""
    several: list[dict[str, Any]] = [{"batch_size": size} for size in (1, 2, 5)]
    several += [{"model.hidden": hidden} for hidden in ([7], [8], [9])]
    for lr in (0.1, 0.2):
        for options in several[: 2 if lr == 0.1 else None]:
            lay(tmp_path, {"optimizer.lr": lr, **options})
    said = [made.texts[1].get_text() for made in (figures.loss(read(tmp_path)),) if made]
    assert said == ["lines of one colour differ in batch size, hidden layers"]
    few = tmp_path / "few"
    for lr in (0.1, 0.2):
        for options in several[:2]:
            lay(few, {"optimizer.lr": lr, **options})
    made = figures.loss(read(few))
    assert made is not None
    assert made.texts[1].get_text() == ""


def test_accuracy_over_learning_rate_is_logarithmic(tmp_path: Path) -> None:
    for lr in (0.01, 0.04, 0.02):
        lay(tmp_path, {"optimizer.lr": lr}, test_accuracy=0.5)
    axes = only(responses.accuracy(read(tmp_path)))
    assert (axes.get_xscale(), axes.get_xlabel()) == ("log", "Learning rate")
    close(lines(axes), [[(0.01, 50), (0.02, 50), (0.04, 50)]])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.01", "0.02", "0.04"]


def test_a_learning_rate_of_zero_has_its_place(tmp_path: Path) -> None:
    for lr in (0.0, 1e-3):
        lay(tmp_path, {"optimizer.lr": lr})
    axes = only(responses.accuracy(read(tmp_path)))
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "0.001"]


def test_accuracy_over_words_is_points_only(tmp_path: Path) -> None:
    for hidden in ([128, 64], [], [32]):
        lay(tmp_path, {"model.hidden": hidden}, test_accuracy=0.5)
    axes = only(responses.accuracy(read(tmp_path)))
    assert [text.get_text() for text in axes.get_xticklabels()] == ["none", "32", "128-64"]
    close(lines(axes), [[(0, 50), (1, 50), (2, 50)]])
    assert axes.lines[0].get_linestyle() == "None"


def test_seeds_become_mean_and_interval(tmp_path: Path) -> None:
    for size, accuracies in ((500, (0.7, 0.8, 0.9)), (1000, (0.9, 0.9, 0.9))):
        for seed, accuracy in enumerate(accuracies):
            lay(tmp_path, {"train_size": size, "seed": seed}, test_accuracy=accuracy)
    axes = only(responses.accuracy(read(tmp_path)))
    close(lines(axes)[-1:], [[(500, 80), (1000, 90)]])
    (bars,) = axes.collections
    assert isinstance(bars, LineCollection)
    ends = [segment.tolist() for segment in bars.get_segments()]
    margin = scipy.stats.t.ppf(0.975, 2) * 10 / math.sqrt(3)  # a deviation of 10 points
    expected = [[[500, 80 - margin], [500, 80 + margin]], [[1000, 90], [1000, 90]]]
    np.testing.assert_allclose(ends, expected, rtol=1e-7)  # as exact as the quantile
    note = "mean of 3 seeds, bar: its 95 % confidence interval"
    assert axes.figure.texts[1].get_text() == note


def test_over_several_numbers_the_intervals_are_a_band(tmp_path: Path) -> None:
    accuracies = {500: (0.7, 0.8, 0.9), 1000: (0.8, 0.9, 0.85), 2000: (0.9, 0.92, 0.94)}
    for size, found in accuracies.items():
        for seed, accuracy in enumerate(found):
            lay(tmp_path, {"train_size": size, "seed": seed}, test_accuracy=accuracy)
    axes = only(responses.accuracy(read(tmp_path)))
    (band,) = axes.collections
    corners = np.asarray(band.get_paths()[0].vertices)
    for size, found in accuracies.items():
        ends = corners[corners[:, 0] == size, 1]
        expected = 100 * np.array(scipy.stats.ttest_1samp(found, 0).confidence_interval())
        np.testing.assert_allclose((ends.min(), ends.max()), expected, rtol=1e-7)
    note = "mean of 3 seeds, band: its 95 % confidence interval"
    assert axes.figure.texts[1].get_text() == note


def test_one_seed_has_the_interval_of_its_test_examples(tmp_path: Path) -> None:
    for size, correct in ((500, 800), (1000, 1000)):
        lay(tmp_path, {"train_size": size}, test_accuracy=correct / 1000)
    axes = only(responses.accuracy(read(tmp_path)))
    (bars,) = axes.collections
    assert isinstance(bars, LineCollection)
    ends = [100 * end for correct in (800, 1000) for end in wilson(correct, 1000)]
    found = [y for segment in bars.get_segments() for _, y in segment.tolist()]
    np.testing.assert_allclose(found, ends, rtol=1e-6)  # of 1.96 in six digits
    note = "bar of one seed: 95 % interval by the number of test examples"
    assert axes.figure.texts[1].get_text() == note


def test_two_factors_make_a_line_for_each_value_of_the_second(tmp_path: Path) -> None:
    for lr in (0.1, 0.01):
        for size in (500, 1000):
            lay(tmp_path, {"train_size": size, "optimizer.lr": lr}, test_accuracy=lr + size / 1e4)
    axes = only(responses.accuracy(read(tmp_path)))
    close(lines(axes), [[(500, 6), (1000, 11)], [(500, 15), (1000, 20)]])
    (legend,) = axes.figure.legends
    assert legend.get_title().get_text() == "Learning rate"
    assert texts(legend) == ["0.01", "0.1"]
    assert legend.get_window_extent().x0 > axes.get_window_extent().x1


def test_runs_without_a_test_have_no_point(tmp_path: Path) -> None:
    size_sweep(tmp_path)
    lay(tmp_path, {"train_size": 3000}, **DIVERGED)
    lay(tmp_path, {"train_size": 4000}, **FAILED)
    axes = only(responses.accuracy(read(tmp_path)))
    assert [x for x, _ in lines(axes)[0]] == list(SIZES)


def test_no_accuracy_over_seeds_or_without_tests(tmp_path: Path) -> None:
    for seed in range(3):
        lay(tmp_path / "seeds", {"seed": seed})
    assert responses.accuracy(read(tmp_path / "seeds")) is None
    size_sweep(tmp_path / "untested", test_accuracy=None)
    assert responses.accuracy(read(tmp_path / "untested")) is None


# Loss


def test_loss_has_a_line_for_each_run(tmp_path: Path) -> None:
    for size in (500, 1000):
        lay(tmp_path, {"train_size": size})
    axes = only(figures.loss(read(tmp_path)))
    close(lines(axes), [[(1, 2), (2, 1), (3, 2 / 3)]] * 2)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Epoch", "Training loss")
    assert axes.get_yscale() == "linear"
    (legend,) = axes.figure.legends
    assert texts(legend) == ["500", "1,000"]
    assert all(float(tick).is_integer() for tick in axes.get_xticks())


def test_a_loss_that_falls_tenfold_is_logarithmic(tmp_path: Path) -> None:
    for size in (500, 1000):
        lay(tmp_path, {"train_size": size}, epochs=30)
    axes = only(figures.loss(read(tmp_path)))
    assert axes.get_yscale() == "log"
    low, high = axes.get_ylim()
    assert low < 2 / 30
    assert high > 2


def test_losses_of_seeds_become_mean_and_interval(tmp_path: Path) -> None:
    lay(tmp_path, {"seed": 0}, rows="1,1.0,0,,,1\n2,0.5,0,,,2\n")
    lay(tmp_path, {"seed": 1}, rows="1,2.0,0,,,1\n2,1.0,0,,,2\n3,0.9,0,,,3\n")
    axes = only(figures.loss(read(tmp_path)))
    # The longer run goes on by itself.
    assert lines(axes) == [[(1, 1.5), (2, 0.75)], [(2, 1.0), (3, 0.9)]]
    assert axes.lines[1].get_linewidth() < axes.lines[0].get_linewidth()
    (band,) = axes.collections
    corners = np.unique(np.asarray(band.get_paths()[0].vertices).round(3), axis=0)
    # t(1) is 12.7062, the standard errors are 0.5 and 0.25.
    expected = [[1, 1.5 - 6.3531], [1, 1.5 + 6.3531], [2, 0.75 - 3.17655], [2, 0.75 + 3.17655]]
    np.testing.assert_allclose(corners, expected, atol=1e-3)
    note = "mean of 2 seeds, band: its 95 % confidence interval; means end where the first of "
    note += "their runs ends, then a thin line for each other one"
    assert axes.figure.texts[1].get_text().replace("\n", " ") == note


def test_second_factor_is_told_by_dashes(tmp_path: Path) -> None:
    for size in (500, 1000):
        for lr in (0.1, 0.01):
            lay(tmp_path, {"train_size": size, "optimizer.lr": lr})
    axes = only(figures.loss(read(tmp_path)))
    assert [line.get_linestyle() for line in axes.lines] == ["-", "--"] * 2
    colours = [tuple(np.atleast_1d(line.get_color())) for line in axes.lines]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    sizes, rates = axes.figure.legends
    assert (texts(sizes), texts(rates)) == (["500", "1,000"], ["0.01", "0.1"])
    assert sizes.get_window_extent().y0 > rates.get_window_extent().y1


def test_diverged_runs_are_drawn_as_far_as_finite_and_do_not_set_the_range(tmp_path: Path) -> None:
    lay(tmp_path, {"optimizer.lr": 0.1})
    rows = "1,2.5,0.1,,,0.1\n2,5e12,0.1,,,0.2\n3,inf,0.1,,,0.3\n4,nan,0.1,,,0.4\n"
    lay(tmp_path, {"optimizer.lr": 10.0}, rows=rows, **DIVERGED)
    axes = only(figures.loss(read(tmp_path)))
    _, diverged = lines(axes)
    assert diverged == [(1, 2.5), (2, 5e12)]
    top = axes.get_ylim()[1]
    assert 2 < top < 3
    assert crosses(axes) == [[2, top]]
    assert "cross: diverged" in axes.figure.texts[1].get_text()


def test_many_runs_have_a_colour_bar_instead_of_a_legend(tmp_path: Path) -> None:
    for index in range(looks.ENTRIES + 1):
        lay(tmp_path, {"optimizer.lr": 10.0**-index}, epochs=2)
    figure = figures.loss(read(tmp_path))
    assert len(only(figure).lines) == looks.ENTRIES + 1
    assert figure is not None
    assert not figure.legends
    bar = figure.axes[1]
    assert bar.get_title(loc="left") == "Learning rate"
    labels = [text.get_text() for text in bar.get_yticklabels()]
    assert (labels[0], labels[-1]) == ("1e-8", "1")


def test_many_lines_look_as_if_each_were_drawn_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dashed ones and those with gaps: pixel by pixel, but for their ends."""
    nan = float("nan")
    curves = [[2.0, 1 - 0.04 * index, 0.1 + 0.01 * index] for index in range(20)]
    curves += [[2.5, nan, 0.5, 0.1], [nan, nan], []]
    looks = zip(itertools.cycle(plotting.COLOURS), itertools.cycle(plotting.DASHES))
    drawn = [(np.arange(1.0, len(y) + 1), np.array(y), *look) for y, look in zip(curves, looks)]

    def pixels() -> Any:
        figure, (axes,) = plotting.frame("", [])
        axes.set(xlim=(0, 5), ylim=(0, 3))
        plotting.plot_many(axes, drawn, lw=0.6, alpha=0.5)
        made.append((len(axes.lines), len(axes.collections)))
        only(figure)
        return np.asarray(figure.canvas.buffer_rgba())  # type: ignore[attr-defined]

    made: list[tuple[int, int]] = []
    monkeypatch.setitem(matplotlib.rcParams, "lines.solid_capstyle", "butt")
    together = pixels()
    monkeypatch.setattr(plotting, "FEW_LINES", len(drawn))
    np.testing.assert_array_equal(together, pixels())
    assert made == [(0, 1), (21, 0)]


def test_a_figure_of_many_runs_has_few_objects(tmp_path: Path) -> None:
    """One of lines, one of lone values, one of crosses."""
    lay(tmp_path, {"optimizer.lr": 1.0}, rows="1,2,0,,,1\n")
    for index in range(plotting.FEW_LINES):
        rows = f"1,3,0,,,1\n2,{1 + 0.1 * index},0,,,2\n3,nan,0,,,3\n"
        lay(tmp_path, {"optimizer.lr": 2.0 + index}, rows=rows, **DIVERGED)
    axes = only(figures.loss(read(tmp_path)))
    together, dots, crosses = axes.collections
    assert not axes.lines
    ends = [np.asarray(path.vertices)[-1] for path in together.get_paths()]
    expected = [(2, np.clip(1 + 0.1 * index, *axes.get_ylim())) for index in range(16)]
    np.testing.assert_array_equal(np.asarray(crosses.get_offsets()), expected)
    np.testing.assert_array_equal(ends, [(2, 1 + 0.1 * index) for index in range(16)])
    np.testing.assert_array_equal(np.asarray(dots.get_offsets()), [(1, 2.0)])
    lines_are, crosses_are = (np.asarray(c.get_edgecolor())[:, :3] for c in (together, crosses))
    np.testing.assert_array_equal(lines_are, crosses_are)


def test_a_figure_of_more_settings_than_it_has_lines_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each third of 50, the first too, and both seeds of it; what is left out counts elsewhere."""
    monkeypatch.setattr(looks, "LINES", 20)
    for index, seed in itertools.product(range(50), (0, 1)):
        rows = f"1,{3 + index},0,,,1\n2,{1 + index + seed},0,,,2\n"
        lay(tmp_path, {"optimizer.lr": 1.0 + index, "seed": seed}, rows=rows)
    figure = figures.loss(read(tmp_path))
    assert figure is not None
    notes = figure.texts[1].get_text().replace("\n", " ").split("; ")
    assert notes == ["mean of 2 seeds", "one setting in 3 is drawn"]
    (together,) = only(figure).collections
    ends = [np.asarray(path.vertices)[-1] for path in together.get_paths()]
    np.testing.assert_array_equal(ends, [(2, 1.5 + index) for index in range(0, 50, 3)])


def notes_of(figure: Figure | None) -> list[str]:
    assert figure is not None
    return figure.texts[1].get_text().replace("\n", " ").split("; ")


def test_accuracy_over_more_values_than_pixels_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each third of 50 values, each second of 30 lines; no option loses all values but one."""
    monkeypatch.setattr(looks, "LINES", 20)
    for index, size in itertools.product(range(50), (500, 1000)):
        options = {"optimizer.lr": 1.0 + index, "train_size": size}
        lay(tmp_path / "values", options, test_accuracy=0.01 * index + size / 10_000)
    figure = responses.accuracy(read(tmp_path / "values"), key="optimizer.lr")
    assert "one learning rate in 3 is drawn" in notes_of(figure)
    values = range(0, 50, 3)
    drawn = [[(1 + index, index + size / 100) for index in values] for size in (500, 1000)]
    close([line for line in lines(only(figure)) if line], drawn)
    for index, size in itertools.product(range(30), (500, 1000)):
        options = {"optimizer.lr": 1.0 + index, "train_size": size}
        lay(tmp_path / "lines", options, test_accuracy=0.01 * index + size / 10_000)
    figure = responses.accuracy(read(tmp_path / "lines"), key="train_size")
    assert "one setting in 2 is drawn" in notes_of(figure)
    axes = only(figure)
    few = 15  # as few lines as are objects of their own
    close([line for line in lines(axes) if line], line_of_sizes(range(0, 30, 2)))
    assert len([line for line in lines(axes) if line]) == few
    monkeypatch.setattr(looks, "LINES", 1000)
    axes = only(responses.accuracy(read(tmp_path / "lines"), key="train_size"))
    assert not [line for line in lines(axes) if line]
    together, dots = axes.collections
    assert isinstance(together, LineCollection)
    close([np.asarray(path.vertices) for path in together.get_paths()], line_of_sizes(range(30)))
    expected = [point for line in line_of_sizes(range(30)) for point in line]
    np.testing.assert_allclose(np.asarray(dots.get_offsets()), expected)
    colours = np.repeat(np.asarray(together.get_edgecolor()), 2, axis=0)
    np.testing.assert_array_equal(np.asarray(dots.get_facecolor()), colours)


def line_of_sizes(indices: Sequence[int]) -> list[list[tuple[float, float]]]:
    return [[(size, index + size / 100) for size in (500, 1000)] for index in indices]


def test_training_times_of_more_settings_than_lines_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond a legend, and as objects of their own: the same lines and points."""
    sizes = (500, 1000)
    for index, size in itertools.product(range(40), sizes):
        options = {"optimizer.lr": 1.0 + index, "train_size": size}
        lay(tmp_path, options, train_seconds=size * (1 + index) / 1000)
    runs = read(tmp_path)
    slopes = [(1 + index) / 1000 for index in range(40)]
    figure = responses.train_time(runs)
    axes = only(figure)
    together, points = axes.collections
    right = axes.get_xlim()[1]
    ends = [np.asarray(path.vertices) for path in together.get_paths()]
    close(ends, [[(0, 0), (right, slope * right)] for slope in slopes])
    expected = [(size, slope * size) for slope in slopes for size in sizes]
    np.testing.assert_allclose(np.asarray(points.get_offsets()), expected)
    assert not any("is drawn" in note for note in notes_of(figure))
    for part in (looks, responses):
        monkeypatch.setattr(part, "LINES", 10)
    figure = responses.train_time(runs)
    assert "one setting in 4 is drawn" in notes_of(figure)
    drawn = [line for line in lines(only(figure)) if line]
    assert len(drawn) == 20  # a line and points of each
    # Of the settings that are drawn none has two sizes.
    for index, size in itertools.product(range(4), (500, 1000)):
        if index == 1 or size == 500:
            options = {"optimizer.lr": 1.0 + index, "train_size": size}
            lay(tmp_path / "few", options, train_seconds=size / 1000)
    for part in (looks, responses):
        monkeypatch.setattr(part, "LINES", 2)
    axes = only(responses.train_time(read(tmp_path / "few")))
    close([line for line in lines(axes) if line], [[(500, 0.5)], [(500, 0.5)]])


def test_of_many_that_diverge_and_many_that_go_on_some_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean is of all that ended well, whatever is left out beside it."""
    for part in (figures, captions):
        monkeypatch.setattr(part, "ALONE", 5)
    monkeypatch.setattr(figures, "LINES", 10)
    for seed in range(12):  # one ends after the second epoch, the others after the third
        losses = [3.0 + seed, 2.0 + seed, 1.0 + seed][: 2 + bool(seed)]
        options = {"seed": seed, "valid_size": 10}
        lay(tmp_path, options, rows=rows_of(losses, losses), epochs=len(losses))
    for seed in range(12, 36):
        options = {"seed": seed, "valid_size": 10}
        rows = rows_of([9.0, math.nan], [9.0, math.nan])
        lay(tmp_path, options, rows=rows, **(DIVERGED | {"epochs": 2}))
    runs = read(tmp_path)
    figure = figures.loss(runs)
    assert "at most 10 of the runs that did not end well are drawn" in notes_of(figure)
    assert any(
        note.endswith("then a thin line for some of the others") for note in notes_of(figure)
    )
    axes = only(figure)
    mean, *thin = [line for line in lines(axes) if line]
    close([mean], [[(1, 8.5), (2, 7.5)]])
    close(thin[:4], [[(2, 2.0 + seed), (3, 1.0 + seed)] for seed in (1, 4, 7, 10)])
    assert len(axes.collections[-1].get_offsets()) == 8  # type: ignore[arg-type]
    figure = figures.loss_curves(runs)
    assert "at most 5 of the runs that did not end well are drawn" in notes_of(figure)
    crossed = [c for c in only(figure).collections if isinstance(c, PathCollection)]
    assert len(crossed) == 5


def test_what_is_left_out_is_said_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many single runs as are drawn, a whole one beside them, and few that go on."""
    for part in (figures, captions):
        monkeypatch.setattr(part, "ALONE", 3)
    monkeypatch.setattr(figures, "LINES", 3)
    for seed in range(4):  # the first ends well
        rows = "1,2,0,2,0,1\n" if seed == 0 else "1,3,0,3,0,1\n2,nan,0,nan,0,1\n"
        result = {"epochs": 1} if seed == 0 else DIVERGED | {"epochs": 2}
        lay(tmp_path / "alone", {"seed": seed, "valid_size": 10}, rows=rows, **result)
    runs = read(tmp_path / "alone")
    figure = figures.loss(runs)
    assert notes_of(figure) == ["cross: diverged"]
    assert len([line for line in lines(only(figure)) if line]) == 4
    for seed in range(5):  # two of five go on
        losses = [2.0, 1.0] if seed < 2 else [2.0]
        options = {"seed": seed, "valid_size": 10}
        lay(tmp_path / "on", options, rows=rows_of(losses, losses), epochs=len(losses))
    figure = figures.loss(read(tmp_path / "on"))
    assert notes_of(figure)[-1].endswith("then a thin line for each other one")


def test_of_thinned_curves_those_that_go_on_are_drawn_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shortest ones' last epoch is kept of them alone, and they do not go on."""
    for seed in range(11):
        losses = [40.0 - epoch for epoch in range(40 if seed < 3 else 30)]
        options = {"seed": seed, "valid_size": 10}
        lay(tmp_path, options, rows=rows_of(losses, losses), epochs=len(losses))
    for part in (figures, captions):
        monkeypatch.setattr(part, "ALONE", 3)
    runs, _ = read_all(tmp_path, room=300)
    assert runs[0].every > 1
    figure = figures.loss(runs)
    assert any(note.endswith("thin line for each other one") for note in notes_of(figure))
    thin = [line for line in lines(only(figure)) if line][1:]
    assert [line[-1] for line in thin] == [(40, 1.0)] * 3


def test_crosses_lie_at_the_edge_that_a_loss_has_left(tmp_path: Path) -> None:
    """Those of runs that diverged do not set the range."""
    for seed in range(2):
        lay(tmp_path, {"seed": seed}, rows="1,2,0,,,1\n2,1,0,,,2\n")
    for seed, loss in ((2, 9.0), (3, 0.01)):
        lay(tmp_path, {"seed": seed}, rows=f"1,{loss},0,,,1\n2,nan,0,,,2\n", **DIVERGED)
    axes = only(figures.loss(read(tmp_path)))
    low, high = axes.get_ylim()
    assert 0.01 < low < 1 < 2 < high < 9
    assert np.asarray(axes.collections[-1].get_offsets()).tolist() == [[1, high], [1, low]]


def test_many_losses_of_zero_lie_inside(tmp_path: Path) -> None:
    for index in range(plotting.FEW_LINES + 1):
        lay(tmp_path, {"optimizer.lr": 1.0 + index}, rows="1,0,0,,,1\n2,0,0,,,2\n")
    low, high = only(figures.loss(read(tmp_path))).get_ylim()
    assert low < 0 < high


def test_a_loss_that_exploded_does_not_hide_the_others(tmp_path: Path) -> None:
    lay(tmp_path, {"optimizer.lr": 0.1}, rows="1,2.3,0,,,1\n2,1.5,0,,,2\n")
    lay(tmp_path, {"optimizer.lr": 10.0}, rows="1,5e6,0,,,1\n2,3.1,0,,,2\n")
    lay(tmp_path, {"optimizer.lr": 0.2}, rows="1,2.0,0,,,1\n2,1e-12,0,,,2\n")
    low, high = only(figures.loss(read(tmp_path))).get_ylim()
    assert 1e-6 < low < 1e-4
    assert high > 5e6


def test_many_settings_of_two_options_have_panels(tmp_path: Path) -> None:
    for rate in range(1, 10):
        for hidden in ([], [8]):
            lay(tmp_path, {"optimizer.lr": rate / 10, "model.hidden": hidden}, epochs=2)
    figure = figures.loss(read(tmp_path))
    assert figure is not None
    only(figure)
    first, second, bar = figure.axes
    titles = [axes.get_title(loc="left") for axes in (first, second)]
    assert titles == ["hidden layers none", "hidden layers 8"]
    assert [len(axes.lines) for axes in (first, second)] == [9, 9]
    pairs = zip(first.lines, second.lines)
    assert all(np.array_equal(a.get_color(), b.get_color()) for a, b in pairs)
    assert bar.get_title(loc="left") == "Learning rate"
    edges = [axes.get_position().x1 for axes in (first, second)]
    assert edges[0] < second.get_position().x0 < edges[1] < bar.get_position().x0
    assert second.get_ylabel() == ""


def test_no_loss_of_one_run_or_of_runs_without_epochs(tmp_path: Path) -> None:
    lay(tmp_path / "one")
    assert figures.loss(read(tmp_path / "one")) is None
    for size in (500, 1000):
        lay(tmp_path / "failed", {"train_size": size}, **FAILED)
    assert figures.loss(read(tmp_path / "failed")) is None


# The curves of a single run


def test_curves_of_training_and_validation(tmp_path: Path) -> None:
    lay(tmp_path, rows="1,2.0,0.5,2.5,0.25,0.1\n2,1.5,0.625,2.25,0.375,0.2\n")
    figure = figures.curves(read(tmp_path)[0])
    only(figure)
    loss, accuracy = figure.axes
    assert lines(loss) == [[(1, 2), (2, 1.5)], [(1, 2.5), (2, 2.25)], [(2, 2.25)]]
    assert lines(accuracy) == [[(1, 50), (2, 62.5)], [(1, 25), (2, 37.5)]]
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("Loss", "Accuracy (%)")
    assert texts(figure.legends[0]) == ["training", "validation", "best validation loss"]


def test_curves_without_validation(tmp_path: Path) -> None:
    lay(tmp_path)
    figure = figures.curves(read(tmp_path)[0])
    only(figure)
    assert [len(axes.lines) for axes in figure.axes] == [1, 1]
    expected = ["Training loss", "Training accuracy (%)"]
    assert [axes.get_ylabel() for axes in figure.axes] == expected
    assert not figure.legends


@pytest.mark.parametrize("rows", ["", "1,nan,nan,,,0.1\n", "1,0.0,1.0,,,0.1\n", "1,inf,0,,,1\n"])
def test_curves_of_next_to_nothing(tmp_path: Path, rows: str) -> None:
    lay(tmp_path, rows=rows)
    only(figures.curves(read(tmp_path)[0]))


def test_curves_mark_the_best_epoch_and_the_stop(tmp_path: Path) -> None:
    reason = "validation loss did not fall below 0.5 of epoch 3 for 5 epochs, as it should"
    result: dict[str, Any] = {"status": "stopped", "stop_reason": reason, "weights_of_epoch": 3}
    lay(tmp_path, {"valid_size": 500}, epochs=8, rows=rows_of(TURN), **result)
    figure = figures.curves(read(tmp_path)[0])
    only(figure)
    loss, accuracy = figure.axes
    assert lines(loss)[2:] == [[(3, 0.5)], [(8, 0), (8, 1)]]
    assert lines(accuracy)[2:] == [[(8, 0), (8, 1)]]
    (legend,) = figure.legends
    assert texts(legend)[2:] == ["best validation loss", "stopped"]
    notes = figure.texts[1]
    assert notes.get_text().replace("\n", " ") == (
        f"{reason}; test accuracy 84.7 % with the weights of epoch 3"
    )
    below_each_other(notes, legend, loss)
    assert notes.get_window_extent().x1 < figure.bbox.x1


# The curves of a study


def panels(figure: Figure | None) -> list[Axes]:
    only(figure)
    assert figure is not None
    return figure.axes


def below_each_other(*parts: Any) -> None:
    """Assert that no part of a drawn figure overlaps the one above it."""
    boxes = [part.get_window_extent() for part in parts]
    assert all(upper.y0 >= lower.y1 for upper, lower in itertools.pairwise(boxes))


def rate_sweep(study: Path, *rates: float, **options: Any) -> None:
    for index, lr in enumerate(rates):
        stopped = {"status": "stopped", "stop_reason": "flat"} if index else {}
        loss = [value + index for value in TURN]
        chosen = {"optimizer.lr": lr, "valid_size": 500} | options
        lay(study, chosen, epochs=8, rows=rows_of(loss), **stopped)


def test_each_learning_rate_has_a_panel(tmp_path: Path) -> None:
    rate_sweep(tmp_path, 1e-5, 2e-5, 1e-4)
    figure = figures.loss_curves(read(tmp_path))
    axes = panels(figure)
    titles = ["learning rate 1e-5", "learning rate 2e-5", "learning rate 1e-4"]
    assert [a.get_title(loc="left") for a in axes] == titles
    for index, a in enumerate(axes):
        train = [(epoch, 2 / epoch) for epoch in range(1, 9)]
        valid = [(epoch, value + index) for epoch, value in enumerate(TURN, 1)]
        best, stop = [(3, 0.5 + index)], [(8, 0), (8, 1)]
        close(lines(a), [train, valid, best, *([stop] if index else [])])
    assert len({a.get_ylim() for a in axes} | {a.get_xlim() for a in axes}) == 2
    assert [a.get_ylabel() for a in axes] == ["Loss", "", ""]
    assert [a.get_xlabel() for a in axes] == ["Epoch"] * 3
    assert figure is not None
    (legend,) = figure.legends
    assert texts(legend) == ["training", "validation", "best validation loss", "stopped"]
    assert (
        figure.texts[0].get_text()
        == "MNIST · 500 examples · MLP 784-128-64-10 · SGD · batch size 10 · 100 epochs"
    )
    below_each_other(figure.texts[0], legend, axes[0]._left_title, axes[0])  # type: ignore[attr-defined]


def test_panels_of_two_options_are_in_the_order_of_their_titles(tmp_path: Path) -> None:
    for hidden, rate in itertools.product(([], [8], [16]), (0.01, 0.1)):
        options = {"model.hidden": hidden, "optimizer.lr": rate, "valid_size": 500}
        lay(tmp_path, options, rows="1,2.0,0.5,2.0,0.4,0.1\n")
    titles = [axes.get_title(loc="left") for axes in panels(figures.loss_curves(read(tmp_path)))]
    expected = [f"{rate} {layers}" for rate in (0.01, 0.1) for layers in ("none", "8", "16")]
    assert [" ".join(title.split()[2::3]).replace(",", "") for title in titles] == expected


def test_accuracies_have_the_same_panels_in_percent(tmp_path: Path) -> None:
    rate_sweep(tmp_path, 1e-5, 2e-5)
    figure = figures.accuracy_curves(read(tmp_path))
    axes = panels(figure)
    train = [(epoch, 100 - 50 / epoch) for epoch in range(1, 9)]
    valid = [(epoch, 0.75 * accuracy) for epoch, accuracy in train]
    close(lines(axes[0]), [train, valid])
    close(lines(axes[1]), [train, valid, [(8, 0), (8, 1)]])
    assert [a.get_ylabel() for a in axes] == ["Accuracy (%)", ""]
    assert figure is not None
    assert texts(figure.legends[0]) == ["training", "validation", "stopped"]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_panels_lie_apart_and_are_labelled_at_the_outside(tmp_path: Path, count: int) -> None:
    for lr in range(count):
        for batch in (10, 20)[: 2 if count == 1 else 1]:
            options = {"optimizer.lr": 10.0**-lr, "batch_size": batch, "valid_size": 5}
            lay(tmp_path, options, rows=rows_of(TURN))
    figure = figures.loss_curves(read(tmp_path))
    axes = panels(figure)
    assert len(axes) == max(count, 2)
    assert figure is not None
    boxes = [a.get_tightbbox() or a.bbox for a in axes]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert all(figure.bbox.y0 <= box.y0 for box in boxes)
    for a, box in zip(axes, boxes):
        below = any(b.x0 < box.x1 and box.x0 < b.x1 and b.y1 < box.y0 for b in boxes)
        assert a.get_xlabel() == ("" if below else "Epoch")
        assert a.xaxis.get_tick_params()["labelbottom"] is not below
        assert bool(a.get_ylabel()) == (not any(b.x1 < box.x0 for b in boxes))


def test_seeds_share_a_panel(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        rate_sweep(tmp_path, 0.1, 0.2, seed=seed)
    figure = figures.loss_curves(read(tmp_path))
    assert [len(a.lines) for a in panels(figure)] == [9, 12]  # best epochs; and stops
    assert figure is not None
    assert figure.texts[1].get_text() == "a line for each of 3 seeds"
    below_each_other(figure.texts[1], figure.legends[0], figure.axes[0])


def test_seeds_alone_are_one_panel_without_a_title(tmp_path: Path) -> None:
    for seed in (0, 1):
        rate_sweep(tmp_path, 0.1, seed=seed)
    (axes,) = panels(figures.loss_curves(read(tmp_path)))
    assert (axes.get_title(loc="left"), len(axes.lines)) == ("", 6)


def test_a_diverged_run_does_not_set_the_range_of_the_panels(tmp_path: Path) -> None:
    rate_sweep(tmp_path, 0.1)
    rows = rows_of([2.5, 5e12, float("nan")], [2.5, 5e12, float("inf")])
    lay(tmp_path, {"optimizer.lr": 10.0, "valid_size": 500}, rows=rows, **DIVERGED)
    figure = figures.loss_curves(read(tmp_path))
    _, diverged = panels(figure)
    top = diverged.get_ylim()[1]
    assert 3 < top < 4
    assert crosses(diverged) == [[2, top]]
    assert figure is not None
    assert texts(figure.legends[0])[-1] == "diverged"
    assert figures.accuracy_curves(read(tmp_path)) is not None


def test_no_panels_of_one_run_many_settings_or_without_validation(tmp_path: Path) -> None:
    rate_sweep(tmp_path / "one", 0.1)
    rate_sweep(tmp_path / "many", *(0.1 * n for n in range(1, 8)))
    size_sweep(tmp_path / "unvalidated")
    for study in ("one", "many", "unvalidated"):
        assert figures.loss_curves(read(tmp_path / study)) is None
        assert figures.accuracy_curves(read(tmp_path / study)) is None


def test_runs_without_validation_have_no_panel(tmp_path: Path) -> None:
    rate_sweep(tmp_path, 0.1)
    lay(tmp_path, {"optimizer.lr": 0.2})
    lay(tmp_path, {"optimizer.lr": 0.3}, **FAILED)
    assert len(panels(figures.loss_curves(read(tmp_path)))) == 1


# Titles


@pytest.mark.parametrize(
    ("options", "dataset", "expected"),
    [
        ({}, {"shape": [28, 28], "classes": list("0123456789")}, "784-128-64-10"),
        ({"model.hidden": [8] * 30}, None, "8-" * 17 + "…-8-8 (30 hidden layers)"),
        ({"model.hidden": []}, {"shape": [28, 28], "classes": list("0123456789")}, "784-10"),
        ({}, {"shape": [64, 64, 3], "classes": list("0123456789")}, "12288-128-64-10"),
        ({"model.hidden": [3]}, {"shape": [2], "classes": ["0", "1"]}, "2-3-2"),
        ({}, None, "128-64"),
        ({"model.hidden": []}, None, "without hidden layers"),
        ({}, {"sha256": "of an older nnlab"}, "128-64"),
    ],
)
def test_layers(
    tmp_path: Path, options: dict[str, Any], dataset: dict[str, Any] | None, expected: str
) -> None:
    lay(tmp_path, options, dataset=dataset)
    assert captions.layers(read(tmp_path)) == expected


def test_layers_of_several_datasets_are_the_hidden_ones(tmp_path: Path) -> None:
    lay(tmp_path, {"dataset": "mnist"})
    lay(tmp_path, {"dataset": "dogs"}, dataset={"shape": [64, 64, 3], "classes": ["a", "b"]})
    assert captions.layers(read(tmp_path)) == "128-64"


def test_heading_of_a_single_run(tmp_path: Path) -> None:
    options = {"train_size": 1000, "model.activation": "tanh", "optimizer.momentum": 0.9}
    lay(tmp_path, options | {"dataset": "fashion_mnist"})
    expected = "Fashion-MNIST · 1,000 examples · MLP 784-128-64-10 (tanh)"
    expected += " · SGD lr 0.01, momentum 0.9 · batch size 10 · 100 epochs"
    assert captions.heading(read(tmp_path)) == expected


def test_synthetic_data_is_called_so(tmp_path: Path) -> None:
    rate_sweep(tmp_path, 0.1, 0.2, dataset="dogset_synthetic")
    for draw in (figures.loss_curves, figures.accuracy_curves, responses.accuracy, figures.loss):
        figure = draw(read(tmp_path))
        assert figure is not None
        assert figure.texts[0].get_text().startswith("DogSet (synthetic images) · ")


def test_heading_of_what_is_not_trained(tmp_path: Path) -> None:
    for function in ("and", "or"):
        computed(tmp_path, function)
    runs = read(tmp_path)
    assert captions.heading(runs) == "Boolean function · 4 examples · perceptrons"
    axes = only(responses.accuracy(runs))
    assert axes.get_xlabel() == "Boolean function"
    close(lines(axes), [[(0, 100), (1, 100)]])


# The files


def written(study: Path, curves: tuple[Path, ...] = ()) -> list[str]:
    files = figures.draw_all(read(study), study, curves)
    for file in files:
        with Image.open(file) as image:
            image.load()
            assert image.format == "PNG"
    found = [str(file.relative_to(study)) for file in files]
    assert sorted(found) == sorted(str(p.relative_to(study)) for p in study.rglob("*.png"))
    assert not list(study.rglob("*.tmp"))
    return found


def test_a_sweep_has_three_figures_and_a_run_its_curves(tmp_path: Path) -> None:
    folder = lay(tmp_path, {"train_size": 500})
    assert written(tmp_path) == ["train_size=500/curves.png"]
    lay(tmp_path, {"train_size": 1000})
    sweep = ["train_time.png", "accuracy.png", "loss.png"]
    assert [file.name for file in figures.draw_all(read(tmp_path), tmp_path)] == sweep
    assert written(tmp_path, (folder,)) == [*sweep, "train_size=500/curves.png"]


def test_figures_that_no_longer_apply_are_removed(tmp_path: Path) -> None:
    size_sweep(tmp_path)
    written(tmp_path)
    for size in SIZES[1:]:
        for file in (tmp_path / f"train_size={size}").iterdir():
            file.unlink()
    assert written(tmp_path) == ["train_size=500/curves.png"]


def test_curves_older_than_their_metrics_are_drawn_again(tmp_path: Path) -> None:
    folder = lay(tmp_path, {"train_size": 500})
    written(tmp_path)
    lay(tmp_path, {"train_size": 1000})
    os.utime(folder / "curves.png", (0, 0))
    assert "train_size=500/curves.png" in written(tmp_path)


def test_validated_learning_rates_have_their_curves(tmp_path: Path) -> None:
    rate_sweep(tmp_path, 0.1, 0.2)
    sweep = ["accuracy.png", "loss.png", "loss_curves.png", "accuracy_curves.png"]
    assert written(tmp_path) == sweep
    with Image.open(tmp_path / "loss_curves.png") as image:
        assert image.size == (1360, 600)  # 6.8 by 3 inches of 200 dots
    rate_sweep(tmp_path, 0.3, 0.4, 0.5, 0.6, 0.7)
    assert written(tmp_path) == sweep[:2]


def test_a_network_that_is_not_trained_has_no_curves(tmp_path: Path) -> None:
    folder = lay(tmp_path, {"stopping.max_epochs": 0}, **UNTRAINED)
    (folder / "curves.png").write_bytes(b"of an earlier command")
    assert written(tmp_path) == []
    computed(tmp_path, "xor")
    for hidden in ([], [4]):
        options = {"dataset": "boolean", "model.hidden": hidden, "train_size": 4}
        lay(tmp_path, options, weights=8, parameters=10)
    assert written(tmp_path) == ["accuracy.png", "accuracy_over_model.hidden.png", "loss.png"]


def test_no_mixture_of_endings_stops_the_figures(tmp_path: Path) -> None:
    size_sweep(tmp_path)
    lay(tmp_path, {"train_size": 3000}, **FAILED)
    lay(tmp_path, {"train_size": 4000}, rows="1,nan,0.1,,,0.1\n", **DIVERGED)
    lay(tmp_path, {"train_size": 5000}, rows="", status="running", test_accuracy=None)
    (lay(tmp_path, {"train_size": 6000}) / "metrics.csv").unlink()
    assert written(tmp_path) == ["train_time.png", "accuracy.png", "loss.png"]


@pytest.mark.parametrize("ending", [DIVERGED, FAILED])
def test_a_study_in_which_nothing_succeeded(tmp_path: Path, ending: dict[str, Any]) -> None:
    for size in (500, 1000):
        lay(tmp_path, {"train_size": size}, **({"rows": "1,1e30,0,,,1\n"} | ending))
    assert written(tmp_path) == (["loss.png"] if ending is DIVERGED else [])


def test_three_factors_and_long_words(tmp_path: Path) -> None:
    for device in ("AMD EPYC 7763 64-Core Processor with a long name", "NVIDIA GeForce RTX 4090"):
        for optimizer in ("sgd", "adam", "adamw"):
            for batch in (1, 10, 100):
                options = {"device": device[:3], "optimizer": optimizer, "batch_size": batch}
                lay(tmp_path, options, device={"name": device})
    over = [f"accuracy_over_{key}.png" for key in ("optimizer", "device")]
    assert written(tmp_path) == ["accuracy.png", *over, "loss.png"]


# Several options


def grid(study: Path, rates: Sequence[float], **options: Sequence[Any]) -> None:
    """Lay a run for each combination; test accuracy is the rate plus a thousandth of the batch."""
    names = [key.replace("__", ".") for key in options]
    for lr, *chosen in itertools.product(rates, *options.values()):
        setting = dict(zip(names, chosen))
        quality = lr + setting.get("batch_size", 10) / 1000
        lay(study, {"optimizer.lr": lr, **setting}, test_accuracy=quality)


def test_each_option_has_a_figure_of_the_result_over_it(tmp_path: Path) -> None:
    grid(tmp_path, (0.1, 0.2), batch_size=(5, 20))
    assert written(tmp_path) == ["accuracy.png", "accuracy_over_batch_size.png", "loss.png"]
    axes = only(responses.accuracy(read(tmp_path), key="batch_size"))
    close(lines(axes), [[(5, 10.5), (20, 12)], [(5, 20.5), (20, 22)]])
    assert axes.get_xlabel() == "Batch size (examples)"
    (legend,) = axes.figure.legends
    assert (legend.get_title().get_text(), texts(legend)) == ("Learning rate", ["0.1", "0.2"])
    # What no longer varies has none.
    for folder in tmp_path.glob("*batch_size=20*"):
        shutil.rmtree(folder)
    assert written(tmp_path) == ["accuracy.png", "loss.png"]


def test_pictures_of_others_stay(tmp_path: Path) -> None:
    lay(tmp_path)
    picture = tmp_path / "examples_cats_over_dogs.png"  # as nnlab.describe calls them
    picture.write_bytes(b"")
    figures.draw_all(read(tmp_path), tmp_path)
    assert picture.exists()


def test_no_figure_over_an_option_of_which_no_line_has_two_values(tmp_path: Path) -> None:
    for lr, batch in ((0.1, 5), (0.2, 10), (0.3, 20)):  # as a random search draws them
        lay(tmp_path, {"optimizer.lr": lr, "batch_size": batch})
    assert written(tmp_path) == ["accuracy.png", "loss.png"]


def test_more_lines_than_a_legend_has_are_divided_among_panels(tmp_path: Path) -> None:
    activations, batches = ("relu", "tanh"), (1, 2, 3, 4, 5)
    grid(tmp_path, (0.1, 0.2), batch_size=batches, model__activation=activations)
    figure = responses.accuracy(read(tmp_path), key="optimizer.lr")
    relu, tanh = panels(figure)
    assert [a.get_title(loc="left") for a in (relu, tanh)] == ["activation relu", "activation tanh"]
    expected = [[(0.1, 10 + batch / 10), (0.2, 20 + batch / 10)] for batch in batches]
    for axes in (relu, tanh):
        close(lines(axes), expected)
    assert [a.get_ylabel() for a in (relu, tanh)] == ["Test accuracy (%)", ""]
    assert figure is not None
    assert texts(figure.legends[0]) == list("12345")
    edges = [axes.get_window_extent() for axes in (relu, tanh)]
    assert edges[0].x1 < edges[1].x0 < edges[1].x1 < figure.legends[0].get_window_extent().x0


def test_lines_differ_by_more_than_their_colour(tmp_path: Path) -> None:
    grid(tmp_path, (0.1, 0.2), batch_size=(1, 2, 3, 4))
    for figure in (figures.loss(read(tmp_path)), responses.accuracy(read(tmp_path))):
        axes = only(figure)
        looks = [(line.get_linestyle(), tuple(line.get_color())) for line in axes.lines]
        assert len(set(looks)) == len(looks)
        assert len({dash for dash, _ in looks}) > 1
        # In grey, lines of one dash differ in their lightness.
        for dash in {dash for dash, _ in looks}:
            light = sorted(
                float(np.dot(colour[:3], (0.2126, 0.7152, 0.0722)))
                for other, colour in looks
                if other == dash
            )
            assert (np.diff(light) > 0.05).all()
    one = tmp_path / "one"
    for lr in (0.1, 0.2, 0.3):
        lay(one, {"optimizer.lr": lr})
    axes = only(figures.loss(read(one)))
    assert [line.get_linestyle() for line in axes.lines] == ["-", "--", ":"]


def test_two_numeric_options_make_a_map(tmp_path: Path) -> None:
    rates, batches = (0.1, 0.2, 0.3), (5, 10, 20, 40)
    grid(tmp_path, rates, batch_size=batches)
    shutil.rmtree(tmp_path / "optimizer.lr=0.3,batch_size=40")
    made = responses.accuracy_map(read(tmp_path))
    axes = only(made)
    found: Any = np.ma.filled(np.ma.asarray(axes.images[0].get_array()), np.nan)
    expected = 100 * (np.array(rates)[None] + np.array(batches)[:, None] / 1000)
    expected[3, 2] = np.nan
    np.testing.assert_allclose(found, expected, rtol=1e-12)  # float64 rounding
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Learning rate", "Batch size (examples)")
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.1", "0.2", "0.3"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["5", "10", "20", "40"]
    shown = {text.get_text() for text in axes.texts}
    assert shown == {f"{value:.1f}" for value in expected.flat if not np.isnan(value)}
    assert made is not None
    assert made.texts[1].get_text() == "white: no result"


def test_a_map_has_a_panel_for_each_value_of_a_third_option(tmp_path: Path) -> None:
    grid(tmp_path, (0.1, 0.2, 0.3), batch_size=(5, 10, 20), model__activation=("relu", "tanh"))
    relu, tanh, scale = panels(responses.accuracy_map(read(tmp_path)))
    assert [a.get_title(loc="left") for a in (relu, tanh)] == ["activation relu", "activation tanh"]
    assert scale.get_ylabel() == "Test accuracy (%)"
    assert relu.images[0].get_clim() == tanh.images[0].get_clim()


@pytest.mark.parametrize(("rates", "batches"), [((0.1, 0.2), (5, 10, 20)), ((0.1,), (5, 10, 20))])
def test_no_map_of_few_values(
    tmp_path: Path, rates: Sequence[float], batches: Sequence[int]
) -> None:
    grid(tmp_path, rates, batch_size=batches)
    assert responses.accuracy_map(read(tmp_path)) is None


def test_no_map_where_most_pairs_were_not_run(tmp_path: Path) -> None:
    for lr, batch in ((0.1, 5), (0.2, 10), (0.3, 20)):
        lay(tmp_path, {"optimizer.lr": lr, "batch_size": batch})
    assert responses.accuracy_map(read(tmp_path)) is None


def test_many_seeds_are_a_mean_and_a_band_in_each_panel(tmp_path: Path) -> None:
    losses = [np.array(TURN) * (1 + seed / 10) for seed in range(5)]
    for seed, loss in enumerate(losses):
        options = {"seed": seed, "valid_size": 500}
        lay(tmp_path, options, epochs=8, rows=rows_of(list(loss)))
    axes = only(figures.loss_curves(read(tmp_path)))
    mean = np.mean(losses, axis=0)
    close(lines(axes)[1:], [list(zip(range(1, 9), mean))])
    _, band = axes.collections
    margin = scipy.stats.t.ppf(0.975, 4) * np.std(losses, axis=0, ddof=1) / math.sqrt(5)
    corners = np.asarray(band.get_paths()[0].vertices)
    for epoch in range(1, 9):
        ends = corners[corners[:, 0] == epoch, 1]
        expected = mean[epoch - 1] + margin[epoch - 1] * np.array([-1, 1])
        np.testing.assert_allclose((ends.min(), ends.max()), expected, rtol=1e-6)
    note = "mean of 5 seeds, band: its 95 % confidence interval"
    assert axes.figure.texts[1].get_text() == note


def test_many_fitted_lines_are_explained_beside_the_figure(tmp_path: Path) -> None:
    """None is left out, as an answer for each would have no room."""
    for size, batch, lr in itertools.product((500, 1000), (1, 2, 3), (0.1, 0.2, 0.3)):
        options = {"train_size": size, "batch_size": batch, "optimizer.lr": lr}
        lay(tmp_path, options, train_seconds=size / 1000 + batch)
    axes = only(responses.train_time(read(tmp_path)))
    assert axes.get_legend() is None
    shown = [(legend.get_title().get_text(), texts(legend)) for legend in axes.figure.legends]
    assert dict(shown) == {
        "Learning rate": ["0.1", "0.2", "0.3"],
        "Batch size\n(examples)": ["1", "2", "3"],
    }


@pytest.mark.parametrize("low", [-0.2, -1234.0])
@pytest.mark.parametrize("style", plotting.STYLES.values(), ids=list(plotting.STYLES))
def test_labels_lie_within_the_figure(tmp_path: Path, low: float, style: plotting.Style) -> None:
    for seed in (0, 1):
        rows = "".join(f"{n},0.001,0.5,{1.3**n},{low / n},0.1\n" for n in range(1, 20))
        lay(tmp_path, {"seed": seed, "valid_size": 500}, rows=rows)
    runs = read(tmp_path)
    drawn = (figures.loss_curves(runs, style=style), figures.accuracy_curves(runs, style))
    for figure in drawn:
        axes = only(figure)
        assert figure is not None
        label = axes.yaxis.label.get_window_extent()
        assert label.x0 >= 0
        assert label.x1 < min(tick.get_window_extent().x0 for tick in axes.get_yticklabels())
        (legend,) = figure.legends
        assert legend.get_window_extent().x1 <= figure.bbox.x1


# Styles


def test_a_figure_of_a_paper_is_as_wide_as_its_column(tmp_path: Path) -> None:
    rate_sweep(tmp_path, 0.1, 0.2, 0.3)
    made = report.write_report(tmp_path, style="paper", formats=["svg"])
    assert {"accuracy.png", "loss.png", "loss_curves.png"} <= {file.name for file in made.files}
    for name in ("accuracy", "loss", "loss_curves"):
        with Image.open(tmp_path / f"{name}.png") as image:
            width, dpi = image.size[0], image.info["dpi"][0]
        assert width / dpi == pytest.approx(3.4, abs=0.01)
        assert (
            'width="244.8pt"' in (tmp_path / f"{name}.svg").read_text()
        )  # 3.4 inches of 72 points


@pytest.mark.parametrize(("count", "size"), [(6, (3.4, 4.65)), (7, (7.0, 3.45)), (12, (7.0, 4.65))])
def test_a_page_of_a_paper_holds_many_panels(count: int, size: tuple[float, float]) -> None:
    """More than three rows of a column's two are four in a row of both columns."""
    titles = [f"batch size {number}" for number in range(count)]
    figure, panels = plotting.frame("", [], count, titles=titles, style=plotting.STYLES["paper"])
    np.testing.assert_allclose(figure.get_size_inches(), size, rtol=1e-9)
    assert len({round(axes.get_position().x0, 6) for axes in panels}) == (2 if count == 6 else 4)
    texts = [text for axes in panels for text in (axes.title, *axes.get_xticklabels())]
    assert min(float(text.get_fontsize()) for text in texts) >= 6


@pytest.mark.parametrize(("name", "font"), [("notebook", 8), ("paper", 7), ("slides", 10)])
def test_fonts_are_those_of_the_style(tmp_path: Path, name: str, font: float) -> None:
    rate_sweep(tmp_path, 0.1, 0.2)
    runs, style = read(tmp_path), plotting.STYLES[name]
    drawn = (responses.accuracy(runs, style=style), figures.loss(runs, style=style))
    for figure in (*drawn, figures.loss_curves(runs, style=style)):
        axes = only(figure)
        assert figure is not None
        sizes = {text.get_fontsize() for text in (*axes.get_xticklabels(), figure.texts[0])}
        sizes |= {text.get_fontsize() for made in figure.legends for text in made.get_texts()}
        assert sizes == {font}


# Names


def test_names_are_shown_as_text_in_every_figure(tmp_path: Path) -> None:
    """Two of the names would be a formula that matplotlib cannot read, others no text at all."""
    for name, size in itertools.product(HOSTILE[:6], (500, 1000)):
        options = {"dataset.variant": name, "train_size": size}
        lay(tmp_path, options, name=f"{HOSTILE.index(name)} {size}", train_seconds=size / 1000)
    drawn = [
        draw(read(tmp_path)) for draw in (responses.train_time, responses.accuracy, figures.loss)
    ]
    for figure in drawn:
        assert figure is not None
        figure.canvas.draw()
        legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
        shown = {text for legend in legends if legend for text in texts(legend)}
        for name in HOSTILE[:6]:
            assert any(text.startswith(plotting.plain(name)) for text in shown), (name, shown)


def test_figures_are_there_in_the_formats_asked_for(tmp_path: Path) -> None:
    for size in (500, 1000):
        lay(tmp_path, {"train_size": size}, test_accuracy=0.9, test_loss=0.4)
    made = report.write_report(tmp_path, formats=["svg", "pdf"], loss_scale="linear")
    names = {file.name for file in made.files}
    assert {"loss.png", "loss.svg", "loss.pdf", "accuracy.svg"} <= names
    drawn = (tmp_path / "loss.svg").read_text()
    assert "<text" in drawn  # text stays text
    assert "Training loss" in drawn
    assert (tmp_path / "loss.pdf").read_bytes().startswith(b"%PDF")
    # Nothing of other runs, or in other formats than asked for, is left.
    report.write_report(tmp_path, formats=["svg"])
    assert (tmp_path / "loss.svg").exists()
    assert not (tmp_path / "loss.pdf").exists()
    shutil.rmtree(tmp_path / "train_size=1000")
    report.write_report(tmp_path)
    assert not list(tmp_path.glob("*.svg"))


@pytest.mark.parametrize(("scale", "expected"), [("log", "log"), ("linear", "linear")])
def test_losses_have_the_scale_asked_for(tmp_path: Path, scale: str, expected: str) -> None:
    rows = "".join(f"{epoch},{2 / epoch},0.5,,,0.1\n" for epoch in range(1, 4))
    for size in (500, 1000):
        lay(tmp_path, {"train_size": size}, rows=rows)
    figure = figures.loss(read(tmp_path), scale)
    assert figure is not None
    assert figure.axes[0].get_yscale() == expected
    low, high = figure.axes[0].get_ylim()
    assert low < 2 / 3
    assert high > 2
