from __future__ import annotations

import math
import statistics
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from nnlab.report import curves
from nnlab.report.curves import Reading, interpret
from nnlab.report.statistics import Array
from tests.report import battery

EPOCHS = np.arange(1.0, 101.0)


def columns(
    valid_loss: object,
    valid_accuracy: object = None,
    train_loss: object = None,
    train_accuracy: object = None,
) -> dict[str, Array]:
    """Make the columns of metrics.csv; what is left out tells nothing of interest: a training
    loss that falls, accuracies that stay."""
    given_loss = np.array(valid_loss, dtype=np.float64)
    count = len(given_loss)
    made = {"epoch": np.arange(1.0, count + 1), "valid_loss": given_loss}
    others = {
        "valid_accuracy": (valid_accuracy, np.full(count, 0.5)),
        "train_loss": (train_loss, 1 / np.arange(1.0, count + 1)),
        "train_accuracy": (train_accuracy, np.full(count, 0.75)),
    }
    for name, (values, default) in others.items():
        made[name] = default if values is None else np.array(values, dtype=np.float64)
    return made


def reading(*parts: object, examples: int | None = None) -> Reading:
    found = interpret(columns(*parts), examples)
    assert found is not None
    return found


# The best epoch


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([3, 2, 1, 2, 3], 3),
        ([3, 1, 2, 1, 3], 2),  # the first of ties
        ([1, 1, 1], 1),
        ([math.nan, 2, 1.5, math.nan], 3),
        ([math.inf, 2, math.nan, 1, math.inf], 4),
        ([7], 1),
    ],
)
def test_the_best_epoch_has_the_lowest_loss(losses: list[float], expected: int) -> None:
    assert reading(losses).best_epoch == expected


@pytest.mark.parametrize("count", [0, 1, 3])
def test_nothing_to_read_without_validation(count: int) -> None:
    empty = [math.nan] * count
    assert interpret(columns(empty, empty)) is None


# When learning stopped


def test_losses_are_read_where_r2_is_not_defined() -> None:
    epoch = np.arange(1.0, 21.0)
    nothing = np.full(20, math.nan)
    found = interpret(
        {"epoch": epoch, "train_loss": 1 / epoch, "train_r2": nothing}
        | {"valid_loss": 1 + abs(epoch - 5) / 10, "valid_r2": nothing},
        quality="r2",
    )
    assert found is not None
    assert (found.best_epoch, found.overfits_from) == (5, 6)
    assert (found.learning, found.learned_until, found.gap_r2) == ("unclear", None, None)


def test_learning_stops_at_the_kink() -> None:
    accuracy = np.minimum(0.1 + 0.05 * EPOCHS, 0.6)  # 0.6 from epoch 10 on
    found = reading(2 - accuracy, accuracy)
    # At epoch 10 it has come to its end, at epoch 9 five points were to come.
    assert (found.learned_until, found.learning) == (10, "stopped")


def test_a_last_point_does_not_count() -> None:
    # 50 % at epoch 10, then a tenth of a point per epoch up to 51 % at epoch 20: just one.
    accuracy = np.where(EPOCHS <= 10, 0.05 * EPOCHS, np.minimum(0.49 + 0.001 * EPOCHS, 0.51))
    assert reading(2 - accuracy, accuracy).learned_until == 10
    # Up to 52 %: at epoch 20 a last point is left.
    accuracy = np.where(EPOCHS <= 10, 0.05 * EPOCHS, np.minimum(0.49 + 0.001 * EPOCHS, 0.52))
    assert reading(2 - accuracy, accuracy).learned_until == 20


def test_a_curve_that_rises_to_its_end_is_still_learning() -> None:
    found = reading(2 - EPOCHS / 1000, 0.1 + EPOCHS / 1000)
    assert (found.learned_until, found.learning) == (100, "still")
    # Less than a point in the last 20 epochs; the mean of these lies 5.4 points above epoch 50.
    accuracy = np.where(EPOCHS <= 50, EPOCHS, 50 + (EPOCHS - 50) / 25) / 1000
    found = reading(2 - accuracy, accuracy)
    assert found.learning == "stopped"


def test_accuracy_may_wait_while_the_loss_falls() -> None:
    """As at the begin of slow training: the loss fell from 2.306 to 2.236, on MNIST with a rate of
    0.003, and accuracy was 15 % for half of the epochs."""
    accuracy = np.minimum(0.05 + 0.01 * EPOCHS, 0.15)
    found = reading(2.3 - 0.07 * EPOCHS / 100, accuracy)
    assert (found.learning, found.learned_until) == ("unclear", None)
    found = reading(2.3 - 0.04 * EPOCHS / 100, accuracy)  # by less than 0.01 at the end
    assert (found.learning, found.learned_until) == ("stopped", 9)


def test_few_validation_examples_leave_it_open() -> None:
    accuracy = np.where(EPOCHS < 30, 0.5, 0.55)  # 11, then 12 of 20
    assert reading(2 - accuracy, accuracy).learned_until == 30
    found = reading(2 - accuracy, accuracy, examples=20)
    assert (found.learning, found.learned_until) == ("unclear", None)


def test_a_network_at_chance_level_never_learned() -> None:
    flat = np.full(100, 0.1)
    found = reading(flat + 2.2, flat, flat + 2.2)
    assert (found.learning, found.learned_until) == ("never", None)
    # It had learned all it could in its first epoch, as its training loss says.
    assert reading(flat + 2.2, flat + 0.5, 1 / EPOCHS).learning == "stopped"


def test_a_network_that_only_ever_guesses_never_learned() -> None:
    """As with a rate of 30 on MNIST: the loss falls from a huge one, far above that of guessing."""
    flat = np.full(100, 0.1)
    losses = np.where(EPOCHS == 1, 1e16, 12 + np.sin(EPOCHS))

    def learning(train_loss: Array, accuracy: Array) -> str:
        found = interpret(columns(losses, accuracy, train_loss), 1000, classes=10)
        assert found is not None
        return found.learning

    assert learning(losses, flat) == "never"
    assert learning(losses, flat + 0.5) == "stopped"  # overconfident, but mostly right
    assert learning(losses / EPOCHS, flat) == "stopped"  # learned by heart


def test_a_single_high_epoch_is_no_learning() -> None:
    accuracy = np.minimum(0.1 + 0.05 * EPOCHS, 0.6)
    accuracy[[3, 79]] = 0.9
    assert reading(2 - accuracy, accuracy).learned_until == 10


@pytest.mark.parametrize("seed", range(20))
def test_when_learning_stopped_is_found_under_noise(seed: int) -> None:
    noise = 0.005 * np.random.default_rng(seed).standard_normal(100)
    accuracy = np.minimum(0.01 * EPOCHS, 0.4) + noise
    # A point and the noise are gained in about two epochs; the noise may hide two more.
    assert reading(2 - accuracy, accuracy, examples=1000).learned_until in range(36, 45)


# Where overfitting began


def test_overfitting_begins_after_the_turn() -> None:
    loss = 1 + ((EPOCHS - 41) / 100) ** 2
    found = reading(loss)
    assert found.best_epoch == 41
    # What bends looks like noise, of about 0.001.
    assert found.overfits_from in range(42, 47)


def test_overfitting_needs_a_training_loss_that_falls() -> None:
    loss = 1 + abs(EPOCHS - 41) / 100
    assert reading(loss, None, 1 / EPOCHS).overfits_from in range(42, 47)
    assert reading(loss, None, np.ones(100)).overfits_from is None
    assert reading(loss, None, loss).overfits_from is None


def test_a_turn_lasts_five_epochs() -> None:
    loss = abs(np.arange(30) - 24.0)
    assert reading(loss).overfits_from == 26
    assert reading(loss[:-1]).overfits_from is None


def test_a_loss_that_comes_down_again_is_no_overfitting() -> None:
    bump = np.where((EPOCHS > 30) & (EPOCHS < 60), 0.5, 0.0)
    assert reading(1 / EPOCHS + bump).overfits_from is None


@pytest.mark.parametrize("seed", range(20))
def test_the_turn_is_found_under_noise(seed: int) -> None:
    noise = 0.01 * np.random.default_rng(seed).standard_normal(100)
    # Up by a standard deviation of the noise every two epochs from epoch 40 on: the medians,
    # each of five epochs, pass the margin of 2.5 about five epochs later.
    loss = 0.5 + 0.3 * np.exp(-EPOCHS / 5) + 0.005 * np.maximum(EPOCHS - 40, 0) + noise
    found = reading(loss).overfits_from
    assert found is not None
    assert 37 <= found <= 50


def test_noise_alone_is_hardly_ever_taken_for_a_turn() -> None:
    random = np.random.default_rng(0)
    flat = 0.5 + 0.3 * np.exp(-EPOCHS / 10)
    found = [reading(flat + 0.01 * random.standard_normal(100)).overfits_from for _ in range(200)]
    assert sum(turn is not None for turn in found) <= 10  # 2 % are expected


# The gap at the end, short runs and diverging ones


def test_the_gap_is_that_of_the_last_epoch() -> None:
    found = reading([2, 1.5], [0.25, 0.375], [1, 0.5], [0.5, 0.875])
    assert (found.gap_loss, found.gap_accuracy) == (1.0, 0.5)


@pytest.mark.parametrize("losses", [[2], [2, 1], [1, 2], [2, 1, 1], [1, 1, 1]])
def test_short_runs(losses: list[float]) -> None:
    accuracies, best = [0.5] * len(losses), losses.index(min(losses)) + 1
    gap = losses[-1] - 1 / len(losses)
    # A training loss that has been seen once has not fallen.
    learning = "unclear" if len(losses) > 1 else "never"
    expected = Reading(len(losses), best, learning, None, None, 0.0, 0.0, gap, 0.0)
    assert reading(losses, accuracies, None, accuracies) == expected


@pytest.mark.parametrize("broken", [math.inf, math.nan])
def test_a_run_that_diverges_is_read_as_far_as_it_is_finite(broken: float) -> None:
    whole = reading([3, 2, 1, 5], [0.1, 0.5, 0.7, 0.2], [3, 2, 1, 9])
    loss, train = [3, 2, 1, 5, broken], [3, 2, 1, 9, broken]
    found = reading(loss, [0.1, 0.5, 0.7, 0.2, 0.1], train)
    read = (whole.best_epoch, whole.learned_until, whole.overfits_from)
    assert read == (3, None, None)
    assert (found.best_epoch, found.learned_until, found.overfits_from) == read
    assert (found.epochs, found.gap_loss) == (5, None)
    # Here validation is as it should be, and what is not finite is the training loss.
    assert reading([3, 2, 1], None, [3, 2, broken]).best_epoch == 2


def test_huge_losses_are_read() -> None:
    assert reading([1, 3e38, 1e38] * 4, None, [3e38] * 12).best_epoch == 1


# Against the rule in plain Python


def plain_spread(values: list[float], lag: int) -> float:
    between = zip(values, values[lag:], values[2 * lag :])
    off = [abs(here - (before + after) / 2) for before, here, after in between]
    return 1.4826 * statistics.median(off)


def plain_noise(values: list[float]) -> tuple[float, float]:
    """Standard deviation and correlation: that of a hundredth which two spreads speak for,
    between hundredths in proportion."""
    if len(values) < 7:
        return 0.0, 0.0
    near, lag, rho = plain_spread(values, 1), min(4, len(values) // 10), 0.0
    if lag >= 2 and near > 0:
        ratio = (near / max(near, plain_spread(values, lag))) ** 2
        found = [share(i / 100, 1) / share(i / 100, lag) for i in range(96)]
        above = sum(each > ratio for each in found)
        if above == 96:
            rho = 0.95
        elif above > 0:
            high, low = found[above - 1], found[above]
            rho = (above - 1 + (high - ratio) / (high - low)) / 100
    return near / math.sqrt(share(rho, 1)), rho


def share(rho: float, lag: int) -> float:
    """The variance of x[t] - (x[t - lag] + x[t + lag]) / 2 where x has variance 1."""
    return 1 + (1 + 1 + 2 * rho ** (2 * lag)) / 4 - 2 * rho**lag


def plain_error(noise: tuple[float, float], weights: list[float]) -> float:
    deviation, rho = noise
    pairs = [
        one * other * rho ** abs(i - j)
        for i, one in enumerate(weights)
        for j, other in enumerate(weights)
    ]
    return deviation * math.sqrt(sum(pairs))


def plain_smooth(values: list[float]) -> list[float]:
    made = []
    for i in range(len(values)):
        half = min(2, i, len(values) - 1 - i)
        made.append(statistics.median(values[i - half : i + half + 1]))
    return made


def plain_rises(values: list[float]) -> bool:
    noise, width = plain_noise(values), max(10, len(values) // 5)
    if len(values) < width:
        return False
    end = scipy.stats.linregress(range(width), values[-width:])
    rest = [y - end.intercept - end.slope * x for x, y in enumerate(values[-width:])]
    deviation = max(noise[0], math.sqrt(sum(r * r for r in rest) / (width - 2)))
    middle = (width - 1) / 2
    squares = sum((x - middle) ** 2 for x in range(width))
    weights = [(x - middle) / squares for x in range(width)]
    error = plain_error((deviation, noise[1]), weights)
    clear = end.slope > scipy.stats.t.ppf(0.975, width - 2) * error
    return bool(clear and end.slope * (width - 1) >= 0.01)


def plain_learning(
    accuracy: list[float], loss: list[float], examples: int
) -> tuple[str, int | None]:
    noise, width = plain_noise(accuracy), max(10, len(accuracy) // 5)
    if plain_rises(accuracy):
        return "still", len(accuracy)
    if plain_rises([-each for each in loss]):
        return "unclear", None
    doubt = max(plain_error(noise, [0.2] * 5), 1 / examples)
    if len(accuracy) < width or doubt > 0.01:
        return "unclear", None
    smooth = plain_smooth(accuracy)
    starts = range(len(smooth) - width + 1)
    level, first = max((statistics.fmean(smooth[at : at + width]), -at) for at in starts)
    before = smooth[: width - first]
    return "stopped", 1 + sum(value < level - 0.01 for value in before)


def plain_overfits_from(train: list[float], valid: list[float]) -> int | None:
    medians = [statistics.median(valid[i : i + 5]) for i in range(len(valid) - 4)]
    best = valid.index(min(valid)) + 1
    smooth = plain_smooth(train)
    if not medians or smooth[best - 1] - smooth[-1] <= plain_noise(train)[0]:
        return None
    lowest = min(medians) + 2.2 * plain_error(plain_noise(valid), [1 / math.sqrt(5)] * 5)
    for epoch in range(best + 1, len(medians) + 1):
        if all(median > lowest for median in medians[epoch - 1 :]):
            return epoch
    return None


def test_random_curves_are_read_as_the_rules_say() -> None:
    random = np.random.default_rng(1)
    turns, endings = [], []
    for _ in range(300):
        count = int(random.integers(1, 60))
        epoch = np.arange(1.0, count + 1)
        noise = 10 ** random.uniform(-4, -2) * random.standard_normal((3, count))
        turned = random.uniform(0, 0.02) * np.maximum(epoch - random.integers(1, 60), 0)
        valid = 1 + np.exp(-epoch / 10) + turned + noise[0]
        train = 1 + random.uniform(0.1, 1) * np.exp(-epoch / 20) + noise[1]
        accuracy = 0.5 - 0.4 * np.exp(-epoch / random.uniform(2, 100)) + noise[2]
        found = reading(valid, accuracy, train, examples=500)
        turns.append(found.overfits_from)
        assert found.best_epoch == valid.tolist().index(min(valid)) + 1
        expected = plain_learning(accuracy.tolist(), valid.tolist(), 500)
        if (
            expected[0] == "still"
            or plain_smooth(train.tolist())[0] > min(plain_smooth(train.tolist())) * 1.03
        ):
            assert (found.learning, found.learned_until) == expected
        endings.append(found.learning)
        assert found.overfits_from == plain_overfits_from(train.tolist(), valid.tolist())
    assert 50 < sum(turn is not None for turn in turns) < 250  # both kinds were compared
    counts = {each: endings.count(each) for each in ("still", "stopped", "unclear")}
    assert min(counts.values()) > 10, counts


# float32, which is what losses come from; its subnormals have no half.
LOSSES = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)


@given(st.lists(st.tuples(LOSSES, LOSSES, st.floats(0, 1)), min_size=1, max_size=30))
def test_what_holds_of_any_curves(rows: list[tuple[float, float, float]]) -> None:
    train, valid, accuracy = (np.array(column) for column in zip(*rows))
    found = reading(valid, accuracy, train)
    assert 1 <= found.best_epoch <= found.epochs == len(rows)
    assert valid[found.best_epoch - 1] == valid.min()
    assert found.learned_until is None or 1 <= found.learned_until <= len(rows)
    if found.overfits_from is not None:
        assert found.best_epoch < found.overfits_from <= len(rows) - 4
    # Losses in another unit are read alike: a factor of two is exact.
    doubled = reading(2 * valid, accuracy, 2 * train)
    assert (doubled.best_epoch, doubled.overfits_from) == (found.best_epoch, found.overfits_from)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30, unique=True))
def test_a_validation_loss_that_only_falls_never_overfits(losses: list[float]) -> None:
    falling = sorted(losses, reverse=True)
    assert all(later < earlier for earlier, later in pairwise(falling))
    found = reading(falling)
    assert (found.best_epoch, found.overfits_from) == (len(losses), None)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8])
def test_the_noise_is_estimated(correlation: float) -> None:
    random = np.random.default_rng(2)
    trend = np.linspace(0, 5, 1000)
    for deviation in (0.0, 0.02, 3.0):
        values = trend + battery.noise(1000, deviation, correlation, random)
        found = curves.noise_of(values)
        # With 1,000 values the estimates have standard errors of about 6 % and 0.04.
        np.testing.assert_allclose(found.deviation, deviation, rtol=0.2, atol=1e-12)
        if deviation > 0:
            assert found.correlation == pytest.approx(correlation, abs=0.12)
    assert curves.noise_of(values[:6]).deviation == 0


# Against curves of which the truth is known


def hold_limits(count: int, quality: str, false: float, missed: float) -> None:
    limits = {"false": false, "missed": missed, "cannot tell": 1.0}
    for statement, groups in battery.rates(count, quality=quality).items():
        shares = {key: float(np.mean(wrong)) for key, wrong in groups.items()}
        limit = limits[statement.partition(":")[0]]
        assert max(shares.values()) <= limit, (statement, shares)


@pytest.mark.parametrize("quality", ["accuracy", "r2"])
def test_words_are_seldom_wrong(quality: str) -> None:
    # 150 curves of each shape: a share of 5 % has a standard error of 1.8 points.
    hold_limits(25, quality, false=0.07, missed=0.2)


def test_what_falls_after_its_peak_does_not_count_as_learning() -> None:
    """As R² of a network that overfits: it rises to epoch 20, and falls from there."""
    t = np.arange(1.0, 101.0)
    rising = np.minimum(t / 20, 1)
    assert curves.end_of_learning(rising - 0.004 * np.maximum(t - 40, 0)) == ("stopped", 19)
    assert curves.end_of_learning(rising) == ("stopped", 19)


@pytest.mark.long
@pytest.mark.parametrize("quality", ["accuracy", "r2"])
def test_words_are_seldom_wrong_on_many_curves(quality: str) -> None:
    hold_limits(300, quality, false=0.05, missed=0.2)


# In words


def read(
    learning: str, until: int | None, overfits_from: int | None = None, hidden: float = 0.05
) -> Reading:
    return Reading(57, 41, learning, until, overfits_from, 0.01, hidden, 0.3149, 0.1204)


def test_words_for_one_run() -> None:
    gap = "gap at the end 0.31 in loss, 12.0 points of accuracy"
    for one, expected in (
        (
            read("stopped", 45, 46),
            "best validation loss at epoch 41, clearly above it from epoch 46: overfitting; "
            "stopped learning after epoch 45",
        ),
        (
            read("still", 57),
            "best validation loss at epoch 41; no overfitting seen; still learning at the end",
        ),
        (
            read("unclear", None, hidden=0.5),
            "best validation loss at epoch 41; cannot tell overfitting: noise could hide a rise of "
            "0.50; cannot tell when learning ended",
        ),
        (
            read("never", None),
            "best validation loss at epoch 41; no overfitting seen; never learned",
        ),
    ):
        assert curves.in_words([one]) == f"{expected}; {gap}"


def test_a_gap_of_nothing_has_no_sign() -> None:
    said = curves.in_words([Reading(100, 100, "still", 100, None, 0.0, 0.0, -0.001, -0.0201)])
    assert said.endswith("gap at the end 0.00 in loss, -2.0 points of accuracy")


def test_words_for_seeds_are_ranges() -> None:
    runs = [
        Reading(57, 41, "stopped", 45, 46, 0.0, 0.0, 0.31, 0.12),
        Reading(60, 38, "still", 60, None, 0.0, 0.0, 0.25, 0.10),
        Reading(50, 44, "stopped", 49, 45, 0.0, 0.0, None, None),
    ]
    assert curves.in_words(runs) == (
        "best validation loss at epochs 38 to 44, clearly above it from epochs 45 to 46: "
        "overfitting (2 of 3 runs); stopped learning after epochs 45 to 49 (2 of 3 runs); "
        "still learning at the end (1 of 3 runs); "
        "gap at the end 0.25 to 0.31 in loss, 10.0 to 12.0 points of accuracy"
    )


def test_words_for_a_diverged_run_leave_out_the_gap() -> None:
    said = curves.in_words([Reading(7, 3, "unclear", None, None, 0.0, 0.0, None, None)])
    assert said.endswith("no overfitting seen; cannot tell when learning ended")


def test_the_rules_state_the_numbers_that_are_used() -> None:
    assert "more than 1 point below" in curves.RULES
    assert "5 epochs or more" in curves.RULES
    assert "by 2.2 times the noise" in curves.RULES


def test_few_epochs_tell_nothing_of_the_end_of_learning() -> None:
    said = curves.in_words([Reading(6, 3, "unclear", None, None, 0.0, 0.0, 0.5, 0.25)])
    assert said == "best validation loss at epoch 3; too few epochs to tell when learning ends"
