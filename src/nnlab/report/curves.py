"""Reading the curves: the best epoch, when learning stopped, where overfitting began.

All curves are [E]: a value per epoch.
"""

from __future__ import annotations

import functools
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnlab.report.statistics import Array, student
from nnlab.text import decimal

GAIN = 0.01  # of validation accuracy or R²: a smaller one is no learning
WINDOW = 5  # epochs that a median is taken over, and that a turn of the loss must last
FEW = 10  # epochs, with fewer of which the end of learning is not told
LEARNED = 0.02  # share by which training loss falls where a network learns at all
RISE = 2.2  # of validation loss above its lowest, in units of its noise
SEEN = 0.2  # a rise of validation loss that is overfitting beyond doubt
LAG = 4  # epochs: what lies so far apart tells the noise of autocorrelated values
ENDINGS = {
    "stopped": "stopped learning after",
    "still": "still learning at the end",
    "never": "never learned",
    "unclear": "cannot tell when learning ended",
}


def rules(quality: str = "accuracy", gain: str = f"{100 * GAIN:g} point") -> str:
    """Say how curves are read, where ``quality`` tells how good a network is."""
    return (
        f"Still learning: validation {quality} rose by {gain} or more over the last fifth of the "
        f"epochs ({FEW} or more), clearly. Stopped learning: before that epoch it lay more than "
        f"{gain} below the level it came to. Overfitting: from that epoch to the end, {WINDOW} "
        f"epochs or more, validation loss lay clearly above its lowest while training loss fell. "
        f"Clearly: by {RISE:g} times the noise and more where neighbouring epochs resemble each "
        f"other (docs/statistics.md)."
    )


RULES = rules()


@dataclass(frozen=True, slots=True)
class Reading:
    """What the curves of one run say; epochs are counted from 1.

    epochs: how many were trained. best_epoch: of the lowest validation loss. learning: "still" at
    the end, "stopped", "never", or "unclear" where noise, or too few epochs, leave it open.
    learned_until: after it validation accuracy gained next to nothing; the last epoch where the
    run was still learning, None where it never did or it is unclear.
    overfits_from: validation loss lies clearly above its lowest from there on; None where no
    overfitting is seen. loss_noise: of an epoch's validation loss. hidden_rise: of validation loss,
    that this noise could hide.
    gap_loss: validation minus training loss, gap_accuracy: training minus validation accuracy (a
    fraction), both after the last epoch; None where these are not finite. In a regression gap_r2
    is in the place of gap_accuracy, and R² tells what was learned.
    """

    epochs: int
    best_epoch: int
    learning: str
    learned_until: int | None
    overfits_from: int | None
    loss_noise: float
    hidden_rise: float
    gap_loss: float | None
    gap_accuracy: float | None
    gap_r2: float | None = None

    @property
    def short(self) -> bool:
        """Whether there are too few epochs to tell noise from the end of learning."""
        return self.epochs < WINDOW + 2


@dataclass(frozen=True)
class Noise:
    """Of a curve: its standard deviation, and the correlation of neighbouring epochs."""

    deviation: float
    correlation: float

    def error(self, weights: Array) -> float:
        """Return the standard error of a weighted sum of as many epochs in a row."""
        place = np.arange(len(weights))
        resemblance = self.correlation ** np.abs(place[:, None] - place)
        return self.deviation * math.sqrt(weights @ resemblance @ weights)


def interpret(
    curves: Mapping[str, Array],
    examples: int | None = None,
    quality: str = "accuracy",
    classes: int | None = None,
) -> Reading | None:
    """Read the curves of one run; return None where nothing was validated.

    curves: the columns of metrics.csv, [E] float64, NaN where empty; epochs in which
    a loss is not finite are passed over. examples: the size of the validation set; the noise
    of its accuracy counts as one example or more. quality: accuracy, or r2 of a regression.
    classes: how many there are; None of a regression, or where that is not known.

    >>> epoch = np.arange(1.0, 41.0)
    >>> loss, accuracy = 1 + abs(epoch - 5) / 10, np.minimum(epoch, 8) / 10
    >>> train = {"train_loss": 1 / epoch, "train_accuracy": epoch / 40}
    >>> valid = {"valid_loss": loss, "valid_accuracy": accuracy}
    >>> reading = interpret({"epoch": epoch} | train | valid)
    >>> reading.best_epoch, reading.learned_until, reading.overfits_from
    (5, 8, 6)
    """
    losses = [curves["train_loss"], curves["valid_loss"]]
    seen = np.isfinite(losses).all(axis=0)
    if not seen.any():
        return None
    columns = (curves["epoch"], *losses, curves[f"valid_{quality}"])
    epoch, train_loss, valid_loss, quality_curve = (column[seen] for column in columns)
    best = int(np.argmin(valid_loss))
    counted = examples if quality == "accuracy" else None
    learning, learned = "unclear", None  # as of one validation example, which has no R²
    if np.isfinite(quality_curve).all():
        learning, learned = end_of_learning(quality_curve, 1 / counted if counted else 0.0)
    noise = noise_of(valid_loss)
    if learning == "stopped" and quality == "accuracy" and rises(-valid_loss, noise):
        learning, learned = "unclear", None  # accuracy may rise again while the loss falls
    chance = classes is not None and guesses(train_loss, quality_curve, classes)
    if learning != "still" and (chance or not falls(train_loss)):
        learning, learned = "never", None
    hidden = RISE * noise.error(np.full(WINDOW, 1 / math.sqrt(WINDOW)))
    turn = begin_of_overfitting(train_loss, valid_loss, hidden)
    gap = difference(curves[f"train_{quality}"], curves[f"valid_{quality}"])
    return Reading(
        epochs=int(curves["epoch"][-1]),
        best_epoch=int(epoch[best]),
        learning=learning,
        learned_until=None if learned is None else int(epoch[learned]),
        overfits_from=None if turn is None else int(epoch[turn]),
        loss_noise=noise.deviation,
        hidden_rise=hidden,
        gap_loss=difference(curves["valid_loss"], curves["train_loss"]),
        gap_accuracy=gap if quality == "accuracy" else None,
        gap_r2=gap if quality == "r2" else None,
    )


def end_of_learning(accuracy: Array, resolution: float = 0.0) -> tuple[str, int | None]:
    """Return whether a validation accuracy, or R², was still rising and, if it had stopped, the
    position of the epoch after which it gained nothing more.

    Stopped: the level is the highest mean of as many epochs in a row as ``rises`` looks at, in
    the smoothed curve; as many epochs as lie more than ``GAIN`` below it come before their end
    (counted, for the first or the last of them may lie there by noise). Unclear with fewer than
    ``FEW`` epochs, or where the noise of a mean of ``WINDOW`` epochs, at least ``resolution``,
    exceeds ``GAIN``.
    """
    noise, width = noise_of(accuracy), last_epochs(len(accuracy))
    if rises(accuracy, noise):
        return "still", len(accuracy) - 1
    doubt = max(noise.error(np.full(WINDOW, 1 / WINDOW)), resolution)
    if len(accuracy) < width or doubt > GAIN:
        return "unclear", None
    smooth = smoothed(accuracy)
    means = np.convolve(smooth, np.full(width, 1 / width), "valid")
    highest = int(np.argmax(means))
    # Rounding must not make a gain of exactly the margin larger than it.
    below = smooth[: highest + width] < means[highest] - GAIN * (1 + 1e-9)
    return "stopped", int(below.sum())


def last_epochs(count: int) -> int:
    """Return how many epochs at the end of a curve say whether it still rises."""
    return max(FEW, count // 5)


def rises(values: Array, noise: Noise) -> bool:
    """Tell whether the least-squares line through the last epochs rises by ``GAIN`` or more, and
    its slope lies above zero (95 %, two-sided). noise: of the values."""
    width = last_epochs(len(values))
    if len(values) < width:
        return False
    end, place = values[-width:], np.arange(width) - (width - 1) / 2
    squares = (place**2).sum()
    slope = place @ end / squares
    residual = end - end.mean() - slope * place
    deviation = max(noise.deviation, math.sqrt((residual**2).sum() / (width - 2)))
    error = Noise(deviation, noise.correlation).error(place / squares)
    gain = slope * (width - 1)
    return bool(gain >= GAIN * (1 - 1e-9) and slope > student(width - 2) * error)


def falls(train_loss: Array) -> bool:
    """Tell whether a training loss fell by more than a trace."""
    smooth = smoothed(train_loss)
    return bool(smooth[0] - smooth.min() > LEARNED * abs(smooth[0]))


def guesses(train_loss: Array, accuracy: Array, classes: int) -> bool:
    """Tell whether a network was never better than one to which all classes are equally probable:
    its losses may have fallen from huge ones."""
    best = smoothed(accuracy).max()
    alike = math.log(classes)
    return bool(train_loss.min() >= (1 - LEARNED) * alike and best <= 1 / classes + GAIN)


def begin_of_overfitting(train_loss: Array, valid_loss: Array, clear: float) -> int | None:
    """Return the position where validation loss turned while training loss fell, or None.

    clear: by how much a loss must lie above its lowest to be clear of noise.
    That is the first epoch after the best one from which on to the end any ``WINDOW`` epochs
    in a row have a median that lies above the lowest such median by more than ``clear``.
    Training loss must have fallen since the best epoch by more than its own noise.
    """
    if len(valid_loss) < WINDOW:
        return None
    medians = running_median(valid_loss, WINDOW)  # by their first epoch
    low = np.flatnonzero(medians <= medians.min() + clear)
    best = int(np.argmin(valid_loss))
    turn = max(best, int(low[-1])) + 1
    if turn >= len(medians):
        return None
    train = smoothed(train_loss)
    fell = train[best] - train[-1] > noise_of(train_loss).deviation
    return turn if fell else None


def smoothed(values: Array) -> Array:
    """Return running medians of ``WINDOW`` values, of fewer towards the ends.

    The windows are symmetric, so a curve that only rises or only falls is not changed.

    >>> smoothed(np.array([1.0, 2.0, 3.0, 9.0, 5.0, 6.0, 7.0])).tolist()
    [1.0, 2.0, 3.0, 5.0, 6.0, 6.0, 7.0]
    """
    medians: Array = values.copy()
    for width in range(3, min(WINDOW, len(values)) + 1, 2):
        medians[width // 2 : -(width // 2)] = running_median(values, width)
    return medians


def running_median(values: Array, width: int) -> Array:
    """Return the median of each ``width`` values in a row, an odd number: [E - width + 1]."""
    count = len(values) - width + 1
    # Much faster than np.median, which a study of a thousand runs would feel.
    shifted = np.array([values[start : start + count] for start in range(width)])
    medians: Array = np.sort(shifted, axis=0)[width // 2]
    return medians


def noise_of(values: Array) -> Noise:
    """Estimate a curve's noise: its standard deviation and its autocorrelation.

    From the distance of each value to the mean of two others, so many epochs before and after
    it, by the median absolute deviation (Gasser, Sroka & Jennen-Steinmetz, Residual variance and
    residual pattern in nonlinear regression, 1986, for a lag of 1). Where an epoch resembles the
    next by rho, the squares of these are 1.5 - 2 rho**lag + rho**(2 lag) / 2 variances of the
    noise, so those of two lags tell both. 0 with fewer than ``WINDOW`` such distances: too
    few to tell noise from a bend.

    >>> round(noise_of(np.array([0.0, 1.0, 0.0, 0.0, 1.0] * 10)).deviation, 2)
    1.21
    """
    if len(values) < WINDOW + 2:
        return Noise(0.0, 0.0)
    near = spread(values, 1)
    # Further apart, a bend of a short curve would be taken for noise.
    lag = min(LAG, len(values) // 10)
    if lag < 2 or near == 0:
        return Noise(near / math.sqrt(1.5), 0.0)
    far = max(near, spread(values, lag))
    rho = float(np.interp((near / far) ** 2, ratios(lag)[::-1], CORRELATIONS[::-1]))
    return Noise(near / math.sqrt(expected(rho, 1)), rho)


def spread(values: Array, lag: int) -> float:
    """Return the standard deviation of each value from the mean of two others."""
    distances = np.sort(np.abs(values[lag:-lag] - (values[: -2 * lag] + values[2 * lag :]) / 2))
    # Not np.median, which is slower and imports numpy.ma.
    low, high = distances[(len(distances) - 1) // 2], distances[len(distances) // 2]
    median = (float(low) + float(high)) / 2
    # 1.4826: from the median to the standard deviation of a normal distribution.
    return 1.4826 * median


def expected(rho: Any, lag: int) -> Any:
    """Return the square of such a deviation, in variances of noise with this correlation."""
    return 1.5 - 2 * rho**lag + rho ** (2 * lag) / 2


CORRELATIONS = np.linspace(0, 0.95, 96)


@functools.cache
def ratios(lag: int) -> Array:
    """Return what ``expected`` says of neighbours in units of what it says of this lag."""
    found: Array = expected(CORRELATIONS, 1) / expected(CORRELATIONS, lag)
    return found


def difference(above: Array, below: Array) -> float | None:
    """Subtract the last values; None where they are not finite."""
    both = np.isfinite(above[-1]) and np.isfinite(below[-1])
    return float(above[-1] - below[-1]) if both else None


def in_words(readings: Sequence[Reading]) -> str:
    """Say what the curves of runs that differ only in their seed have to say, with ranges.

    >>> print(in_words([Reading(57, 41, "stopped", 45, 46, 0.01, 0.05, 0.31, 0.12)]))
    best validation loss at epoch 41, clearly above it from epoch 46: overfitting; stopped \
learning after epoch 45; gap at the end 0.31 in loss, 12.0 points of accuracy
    """

    def of(some: Sequence[object]) -> str:
        return f" ({len(some)} of {len(readings)} runs)" if len(some) < len(readings) else ""

    best = f"best validation loss at {epochs(array('q', (r.best_epoch for r in readings)))}"
    if all(reading.short for reading in readings):
        return f"{best}; too few epochs to tell when learning ends"
    turns = array("q", (r.overfits_from for r in readings if r.overfits_from is not None))
    hidden = array("d", (r.hidden_rise for r in readings if r.hidden_rise > SEEN))
    if turns:
        said = [f"{best}, clearly above it from {epochs(turns)}: overfitting{of(turns)}"]
    elif hidden:
        rise = extent(hidden, ".2f")
        said = [best, f"cannot tell overfitting: noise could hide a rise of {rise}{of(hidden)}"]
    else:
        said = [best, "no overfitting seen"]
    for learning, words in ENDINGS.items():
        ended = array("q", (r.learned_until or 0 for r in readings if r.learning == learning))
        if ended:
            when = f" {epochs(ended)}" if learning == "stopped" else ""
            said.append(words + when + of(ended))
    losses = array("d", (r.gap_loss for r in readings if r.gap_loss is not None))
    points = array("d", (100 * r.gap_accuracy for r in readings if r.gap_accuracy is not None))
    shares = array("d", (r.gap_r2 for r in readings if r.gap_r2 is not None))
    of_quality = f"{extent(points, '.1f')} points of accuracy" if points else ""
    of_quality = f"{extent(shares, '.2f')} in R²" if shares else of_quality
    if losses and of_quality:
        said.append(f"gap at the end {extent(losses, '.2f')} in loss, {of_quality}")
    return "; ".join(said)


def epochs(numbers: Sequence[int]) -> str:
    return f"epoch{'s' * (min(numbers) < max(numbers))} {extent(numbers, 'd')}"


def extent(values: Sequence[float], style: str) -> str:
    """Write the smallest and the largest value, once where they look the same."""
    low, high = (decimal(value, style) for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def still_falls(loss: Array) -> bool:
    """Tell whether a curve's last tenth lies lower, by 1 % or more, than the tenth before."""
    tenth = max(len(loss) // 10, 1)
    if len(loss) < 2 * tenth:
        return False
    return bool(loss[-tenth:].mean() < 0.99 * loss[-2 * tenth : -tenth].mean())
