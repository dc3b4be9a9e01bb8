"""Test error over training-set size: the law that it follows, and what it predicts.

A line through the logarithms of error and size, of the largest sizes only, for its slope changes
with the size; so a prediction counts the slope as uncertain, the more the farther it reaches.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from nnlab.report.runs import RunRecord, factors, is_seed, said_of
from nnlab.report.selection import grouped, numbers, where
from nnlab.report.statistics import NORMAL, Array
from nnlab.report.times import timings

NEAR = 0.25  # of the largest size: smaller ones tell nothing of what lies beyond it
FEWEST = 3  # sizes that a law is fitted to
ONE_SEED = 0.07  # of ln error, its standard deviation over seeds where there is one: MNIST's
BEND = 0.1  # of the slope, by which it may change beyond the largest size
CHEAP = 120  # seconds: what takes less is better measured than predicted
SHOWN = 6  # settings that get a line
TOO_FEW = f"predicting takes {FEWEST} sizes or more, from a quarter of the largest on"


@dataclass(frozen=True)
class Law:
    """ln error = level + slope ln(size / largest): coefficients [2], their covariance [2, 2].

    smallest, largest: the sizes that it was fitted to.
    """

    coefficients: Array
    covariance: Array
    smallest: int
    largest: int

    @property
    def slope(self) -> tuple[float, float, float]:
        """The slope and its 95 % interval at the sizes that were measured."""
        slope, margin = self.coefficients[1], NORMAL * math.sqrt(self.covariance[1, 1])
        return float(slope), float(slope - margin), float(slope + margin)

    def predict(self, size: float) -> tuple[float, float, float]:
        """Return the mean test error at a size, and its 95 % prediction interval."""
        beyond = math.log(size / self.largest)
        place = np.array([1.0, beyond])
        spread = math.hypot(math.sqrt(place @ self.covariance @ place), BEND * beyond)
        middle, margin = float(place @ self.coefficients), NORMAL * spread
        error, low, high = (min(1.0, math.exp(middle + side * margin)) for side in (0, -1, 1))
        return error, low, high


def fit(errors: dict[int, Array], examples: int) -> Law | None:
    """Fit a law to test errors [seeds] of several training-set sizes.

    examples: how many the networks were tested on, the same ones. Returns None where fewer than
    three sizes are near enough to the largest, or no network erred.
    """
    near = {size: found for size, found in sorted(errors.items()) if size >= NEAR * max(errors)}
    # Half an error, or half an example that is right, where there is none: all stays finite.
    half = 0.5 / examples
    logs = [np.log(np.clip(found, half, 1 - half)) for found in near.values()]
    if len(near) < FEWEST or all((found == 0).all() for found in near.values()):
        return None
    freedom = sum(len(each) - 1 for each in logs)
    squares = sum(float(((each - each.mean()) ** 2).sum()) for each in logs)
    pooled = squares / freedom if freedom else ONE_SEED**2
    y = np.array([each.mean() for each in logs])
    error = np.exp(y)
    # That of the test examples is not less for several seeds, which share them.
    variance = pooled / np.array([len(each) for each in logs]) + (1 - error) / (error * examples)
    sizes = np.array(list(near), dtype=np.float64)
    design = np.stack([np.ones(len(sizes)), np.log(sizes / sizes[-1])], axis=1)
    covariance = np.linalg.inv(design.T @ (design / variance[:, None]))
    coefficients = covariance @ design.T @ (y / variance)
    rest = y - design @ coefficients
    misfit = float((rest**2 / variance).sum()) / (len(sizes) - 2)
    return Law(coefficients, covariance * max(1.0, misfit), min(near), max(near))


def laws(runs: Sequence[RunRecord], predict: Sequence[int] = ()) -> list[str]:
    """Say how test error falls with the training-set size in each other setting, and what
    accuracy it predicts for the sizes asked for."""
    runs = where(runs, lambda run: run.complete and not run.tested_whole)
    runs = where(runs, lambda run: run.test_examples is not None and run.test_examples > 0)
    runs = where(runs, lambda run: run.test_accuracy is not None and 0 <= run.test_accuracy <= 1)
    keys = factors(runs) if runs else []
    if "train_size" not in keys:
        return []
    others = [key for key in keys if key != "train_size" and not is_seed(key)]
    said = []
    for values, group in itertools.islice(grouped(runs, others).items(), SHOWN):
        errors = {
            size: 1 - numbers(same, attrgetter("test_accuracy"))
            for (size,), same in grouped(group, ["train_size"]).items()
            if isinstance(size, int) and size > 0
        }
        law = fit(errors, min(run.test_examples or 1 for run in group))
        lines = []
        if law is None:
            lines += [TOO_FEW] * bool(predict)
        elif predict or law.slope[2] < 0:  # else error may as well not fall
            lines += [in_words(law), *(predicted(law, size, group) for size in predict)]
        said += [said_of(others, values, line) for line in lines]
    return said


def in_words(law: Law) -> str:
    slope, low, high = law.slope
    sizes = f"from {law.smallest:,} to {law.largest:,} examples"
    return f"test error goes as size^{slope:.2f} (95 % {low:.2f} to {high:.2f}) {sizes}"


def predicted(law: Law, size: int, runs: Sequence[RunRecord]) -> str:
    """Say what accuracy is to be expected of a size, and what it would take to measure it."""
    if size <= law.largest:
        return f"{size:,} examples are no more than were trained, so nothing is predicted"
    error, low, high = law.predict(size)
    accuracy, least, most = (100 * (1 - each) for each in (error, high, low))
    said = (
        f"{size:,} examples: test accuracy {accuracy:.1f} % ({least:.1f} to {most:.1f}; 95 % "
        f"prediction)"
    )
    full = runs[0].full_size
    for timing in timings(runs)[2][:1]:
        answer = timing.answer(size)
        if full and size <= full and timing.line and timing.line.at(float(size)) < CHEAP and answer:
            epochs = "" if len({run.epochs for run in runs}) == 1 else " an epoch"
            said += f"; measuring it takes {answer}{epochs}: train_size={size}"
    return said
