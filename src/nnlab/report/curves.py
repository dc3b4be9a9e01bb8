"""Reading the curves: the best epoch, when learning stopped, where overfitting began.

All curves are [E]: a value per epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]

GAIN = 0.01  # of validation accuracy or R²: a smaller one is no learning
WINDOW = 5  # epochs that a median is taken over, and that a turn of the loss must last
# A flat, noisy loss of 100 epochs is taken for a turn in about 2 % of simulations with 2.5,
# in 10 % with 2; with 3 a turn is seen later, or not at all in short runs.
RISE = 2.5  # of validation loss above its lowest, in units of its noise


def rules(quality: str = "accuracy", gain: str = f"{100 * GAIN:g} point") -> str:
    """Say how curves are read, where ``quality`` tells how good a network is."""
    return (
        f"Stopped learning: after that epoch validation {quality} gained less than {gain} "
        f"beyond its noise (still learning: it kept half its pace or more). Overfitting: from that "
        f"epoch to the end, {WINDOW} epochs or more, validation loss lay above its lowest by "
        f"{RISE:g} times its noise while training loss fell. Both of medians over {WINDOW} epochs; "
        f"noise: how far an epoch typically lies from the mean of its neighbours."
    )


RULES = rules()


@dataclass(frozen=True)
class Reading:
    """What the curves of one run say; epochs are counted from 1.

    epochs: how many were trained. best_epoch: of the lowest validation loss. learned_until:
    after it validation accuracy gained next to nothing; the last epoch where the run was
    ``still_learning``. overfits_from: None where no overfitting is seen. gap_loss: validation
    minus training loss, gap_accuracy: training minus validation accuracy (a fraction), both
    after the last epoch; None where these are not finite. In a regression gap_r2 is in the place
    of gap_accuracy, and R² tells what was learned.
    """

    epochs: int
    best_epoch: int
    learned_until: int
    overfits_from: int | None
    gap_loss: float | None
    gap_accuracy: float | None
    gap_r2: float | None = None

    @property
    def short(self) -> bool:
        """Whether there are too few epochs to tell noise from the end of learning."""
        return self.epochs < WINDOW + 2

    @property
    def still_learning(self) -> bool:
        return self.learned_until == self.epochs


def interpret(
    curves: Mapping[str, Array], examples: int | None = None, quality: str = "accuracy"
) -> Reading | None:
    """Read the curves of one run; return None where nothing was validated.

    curves: the columns of metrics.csv, [E] float64, NaN where empty; epochs in which
    a loss is not finite are passed over. examples: the size of the validation set; the noise
    of its accuracy counts as one example or more. quality: accuracy, or r2 of a regression.

    >>> epoch = np.arange(1.0, 13.0)
    >>> loss, accuracy = 1 + abs(epoch - 5) / 10, np.minimum(epoch, 8) / 10
    >>> train = {"train_loss": 1 / epoch, "train_accuracy": epoch / 12}
    >>> valid = {"valid_loss": loss, "valid_accuracy": accuracy}
    >>> reading = interpret({"epoch": epoch} | train | valid)
    >>> reading.best_epoch, reading.learned_until, reading.overfits_from
    (5, 8, 6)
    """
    names = ("epoch", "train_loss", "valid_loss", f"valid_{quality}")
    columns = [curves[name] for name in names]
    seen = np.isfinite(columns).all(axis=0)
    if not seen.any():
        return None
    epoch, train_loss, valid_loss, quality_curve = (column[seen] for column in columns)
    best = int(np.argmin(valid_loss))
    counted = examples if quality == "accuracy" else None
    learned = end_of_learning(quality_curve, 1 / counted if counted else 0.0)
    turn = begin_of_overfitting(train_loss, valid_loss)
    gap = difference(curves[f"train_{quality}"], curves[f"valid_{quality}"])
    return Reading(
        epochs=int(curves["epoch"][-1]),
        best_epoch=int(epoch[best]),
        learned_until=int(epoch[learned]),
        overfits_from=None if turn is None else int(epoch[turn]),
        gap_loss=difference(curves["valid_loss"], curves["train_loss"]),
        gap_accuracy=gap if quality == "accuracy" else None,
        gap_r2=gap if quality == "r2" else None,
    )


def end_of_learning(accuracy: Array, resolution: float = 0.0) -> int:
    """Return the position of the epoch after which a validation accuracy, or R², gained nothing.

    That is the first one which no later epoch surpasses by more than ``GAIN`` plus the
    noise, in the smoothed curve; the noise is at least ``resolution``. A curve that from there
    to its end keeps at least half its pace of as many epochs before is still learning: the
    last position.
    """
    smooth = smoothed(accuracy)
    last = len(smooth) - 1
    peak_ahead = np.maximum.accumulate(smooth[::-1])[::-1]
    margin = GAIN + max(noise(accuracy), resolution)
    # Rounding must not make a gain of exactly the margin larger than it.
    found = int(np.argmax(peak_ahead - smooth <= margin * (1 + 1e-9)))
    left = last - found
    before = min(left, found)
    if before > 0:
        pace = (smooth[found] - smooth[found - before]) / before
        if (smooth[last] - smooth[found]) / left >= pace / 2 > 0:
            return last
    return found


def begin_of_overfitting(train_loss: Array, valid_loss: Array) -> int | None:
    """Return the position where validation loss turned while training loss fell, or None.

    That is the first epoch after the best one from which on to the end any ``WINDOW`` epochs
    in a row have a median that lies above the lowest such median by more than ``RISE`` times
    the noise. Training loss must have fallen since the best epoch by more than its own noise.
    """
    if len(valid_loss) < WINDOW:
        return None
    medians = running_median(valid_loss, WINDOW)  # by their first epoch
    low = np.flatnonzero(medians <= medians.min() + RISE * noise(valid_loss))
    best = int(np.argmin(valid_loss))
    turn = max(best, int(low[-1])) + 1
    train = smoothed(train_loss)
    fell = train[best] - train[-1] > noise(train_loss)
    return turn if turn < len(medians) and fell else None


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


def noise(values: Array) -> float:
    """Estimate the standard deviation of a curve's noise.

    From the distance of each value to the mean of its two neighbours, by the median
    absolute deviation (Gasser, Sroka & Jennen-Steinmetz, Residual variance and residual
    pattern in nonlinear regression, 1986). 0 with fewer than ``WINDOW`` such distances: too
    few to tell noise from a bend.

    >>> round(noise(np.array([0.0, 1.0] * 10)), 2)
    1.21
    """
    if len(values) < WINDOW + 2:
        return 0.0
    distances = np.abs(values[1:-1] - (values[:-2] + values[2:]) / 2)
    # 1.4826: from the median to the standard deviation of a normal distribution; 1.5: the
    # variance of such a distance, in variances of the noise.
    return float(1.4826 * np.median(distances) / np.sqrt(1.5))


def difference(above: Array, below: Array) -> float | None:
    """Subtract the last values; None where they are not finite."""
    both = np.isfinite(above[-1]) and np.isfinite(below[-1])
    return float(above[-1] - below[-1]) if both else None


def in_words(readings: Sequence[Reading]) -> str:
    """Say what the curves of runs that differ only in their seed have to say, with ranges.

    >>> print(in_words([Reading(57, 41, 45, 42, 0.31, 0.12)]))
    best validation loss at epoch 41; stopped learning after epoch 45; overfitting from epoch 42; \
gap at the end 0.31 in loss, 12.0 points of accuracy
    """

    def of(some: Sequence[object]) -> str:
        return f" ({len(some)} of {len(readings)} runs)" if len(some) < len(readings) else ""

    said = [f"best validation loss at {epochs([reading.best_epoch for reading in readings])}"]
    if all(reading.short for reading in readings):
        return f"{said[0]}; too few epochs to tell when learning ends"
    ended = [reading.learned_until for reading in readings if not reading.still_learning]
    said.append(
        f"stopped learning after {epochs(ended)}{of(ended)}"
        if ended
        else "still learning at the end"
    )
    turns = [reading.overfits_from for reading in readings if reading.overfits_from is not None]
    said.append(f"overfitting from {epochs(turns)}{of(turns)}" if turns else "no overfitting seen")
    losses = [reading.gap_loss for reading in readings if reading.gap_loss is not None]
    points = [100 * r.gap_accuracy for r in readings if r.gap_accuracy is not None]
    shares = [reading.gap_r2 for reading in readings if reading.gap_r2 is not None]
    of_quality = f"{extent(points, '.1f')} points of accuracy" if points else ""
    of_quality = f"{extent(shares, '.2f')} in R²" if shares else of_quality
    if losses and of_quality:
        said.append(f"gap at the end {extent(losses, '.2f')} in loss, {of_quality}")
    return "; ".join(said)


def epochs(numbers: Sequence[int]) -> str:
    return f"epoch{'s' * (min(numbers) < max(numbers))} {extent(numbers, 'd')}"


def extent(values: Sequence[float], style: str) -> str:
    """Write the smallest and the largest value, once where they look the same."""
    ends = [format(value, style) for value in (min(values), max(values))]
    # A gap of -0.001 is none.
    low, high = (end.lstrip("-") if not end.strip("-0.") else end for end in ends)
    return low if low == high else f"{low} to {high}"
