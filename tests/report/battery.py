"""Synthetic curves of which the truth is known: what is said of them can be counted as right or
wrong. ``python -m tests.report.battery`` prints the table of docs/statistics.md, with
``--quality r2`` that of regressions."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from nnlab.report.curves import interpret
from nnlab.report.statistics import Array

EPOCHS = (20, 30, 50, 100, 200, 300)
CORRELATIONS = (0.0, 0.8)  # of the noise of an epoch with that of the next
LOSS_NOISE = (0.003, 0.01, 0.02)
ACCURACY_NOISE = (0.003, 0.01)
CLEAR_RISE = 0.2  # of validation loss: overfitting that is to be seen
CLEAR_GAIN = 0.02  # of validation accuracy: not to come any more after learning "stopped"
TRACE = 0.002  # of validation accuracy: no learning


@dataclass(frozen=True)
class Case:
    """A validation curve of each kind, [E] without noise, and what is true of it.

    overfits: whether validation loss rises; None: too little to be clear. still: whether
    accuracy rises by a point or more in each tenth of the epochs up to the end. learns: whether it
    ever does.
    """

    name: str
    loss: Array
    accuracy: Array
    overfits: bool | None = False
    still: bool = False
    learns: bool = True


def cases(epochs: int, random: np.random.Generator) -> Iterator[Case]:
    """Make one case of each shape, with its scale drawn."""
    t = np.arange(1.0, epochs + 1)
    rate = epochs * random.uniform(0.03, 0.15)
    fall = np.exp(-t / rate)
    middle = epochs * random.uniform(0.15, 0.4)
    step = 1 / (1 + np.exp((t - middle) / (0.06 * epochs)))
    peak = random.uniform(0.5, 0.95)
    low = random.uniform(0.2, 1)
    yield Case("exponential", low + fall, peak - 0.4 * fall)
    yield Case("logistic", low + step, peak - 0.4 * step)
    turn = epochs * random.uniform(0.25, 0.5)
    past = np.maximum(t - turn, 0)
    rise = random.uniform(CLEAR_RISE, 0.5) * past / past[-1]
    yield Case("plateau, then rise", low + fall + rise, peak - 0.4 * fall, overfits=True)
    bowl = ((t - turn) / (epochs - turn)) ** 2 * random.uniform(CLEAR_RISE, 0.5)
    yield Case("U", low + bowl, peak - 0.4 * fall, overfits=True)
    spikes = np.where(random.random(epochs) < 0.03, random.uniform(0.1, 0.5), 0)
    yield Case("spikes", low + fall + spikes, peak - 0.4 * fall - 0.2 * spikes)
    stairs = 1 - np.floor(4 * np.minimum(t / (0.6 * epochs), 1)) / 4
    yield Case("steps", low + stairs, peak - 0.4 * stairs)
    yield Case("steady", 2 - t / epochs, 0.3 + 0.3 * t / epochs, still=True)
    chance = np.full(epochs, 0.1)
    yield Case("chance", 0 * t + np.log(10), chance, learns=False)


def noise(size: int, deviation: float, correlation: float, random: np.random.Generator) -> Array:
    """Draw stationary noise, normal, of which each value resembles the one before it: [size]."""
    drawn = deviation * random.standard_normal(size)
    made = np.empty(size)
    made[0] = drawn[0]
    for i in range(1, size):
        made[i] = correlation * made[i - 1] + np.sqrt(1 - correlation**2) * drawn[i]
    return made


def judged(
    case: Case, correlation: float, random: np.random.Generator, quality: str = "accuracy"
) -> Mapping[str, bool]:
    """Say which statements on a case with noise could be wrong, and whether each is.

    quality: accuracy, or r2: of targets of variance 1, so that it is 1 less the loss, with noise.
    """
    epochs = len(case.loss)
    t = np.arange(1.0, epochs + 1)
    valid_loss = case.loss + noise(epochs, random.choice(LOSS_NOISE), correlation, random)
    if quality == "r2":
        case = dataclasses.replace(case, accuracy=1 - case.loss)
        valid_quality = 1 - valid_loss
    else:
        deviation = random.choice(ACCURACY_NOISE)
        drawn = case.accuracy + noise(epochs, deviation, correlation, random)
        valid_quality = np.clip(drawn, 0, 1)
    train = 0 * t + 2.3 if not case.learns else 2 * np.exp(-t / (0.3 * epochs)) + 0.01
    curves = {
        "epoch": t,
        "train_loss": train + noise(epochs, 0.002, correlation, random),
        f"train_{quality}": case.accuracy,
        "valid_loss": valid_loss,
        f"valid_{quality}": valid_quality,
    }
    found = interpret(curves, 1000, quality)
    assert found is not None
    wrong: dict[str, bool] = {}
    if case.overfits:
        wrong["missed: overfitting"] = found.overfits_from is None
    else:
        wrong["false: overfitting"] = found.overfits_from is not None
    if case.still:
        wrong["missed: still learning"] = found.learning != "still"
    else:
        gained = case.accuracy[-1] - case.accuracy[-max(10, epochs // 5)]
        wrong["false: still learning"] = found.learning == "still" and gained < TRACE
    if case.learns:
        wrong["false: never learned"] = found.learning == "never"
        ended = found.learned_until if found.learning == "stopped" else None
        to_come = 0 if ended is None else case.accuracy.max() - case.accuracy[ended - 1]
        wrong["false: stopped, too early"] = to_come > CLEAR_GAIN
        done = int(np.argmax(case.accuracy.max() - case.accuracy < TRACE)) + 1
        late = ended is not None and ended > done + max(5, epochs / 10)
        wrong["false: stopped, too late"] = late
        wrong["cannot tell: learning"] = found.learning == "unclear"
    else:
        wrong["missed: never learned"] = found.learning != "never"
    return wrong


def rates(count: int, seed: int = 0, quality: str = "accuracy") -> dict[str, dict[str, list[bool]]]:
    """Judge ``count`` curves of each shape, length and kind of noise; return for each statement
    whether it was wrong, by "shape, correlation"."""
    random = np.random.default_rng(seed)
    found: dict[str, dict[str, list[bool]]] = {}
    for epochs in EPOCHS:
        for correlation in CORRELATIONS:
            for _ in range(count):
                for case in cases(epochs, random):
                    for statement, wrong in judged(case, correlation, random, quality).items():
                        key = f"{case.name}, {correlation:g}"
                        found.setdefault(statement, {}).setdefault(key, []).append(wrong)
    return found


def show(count: int, quality: str) -> None:
    for statement, groups in sorted(rates(count, quality=quality).items()):
        everything = [wrong for some in groups.values() for wrong in some]
        worst = max(groups, key=lambda key: float(np.mean(groups[key])))
        print(
            f"| {statement} | {100 * np.mean(everything):.1f} % | "
            f"{100 * np.mean(groups[worst]):.1f} % ({worst}) |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--quality", default="accuracy", choices=("accuracy", "r2"))
    given = parser.parse_args()
    show(given.count, given.quality)
