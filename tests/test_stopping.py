"""Every rule against curves whose stopping epoch is worked out by hand."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import pytest
import torch

import nnlab
from nnlab import Budget, Epoch, Patience, Plateau, Target
from nnlab.stopping import BudgetConfig, StoppingConfig, StoppingRule

NAN, INF = math.nan, math.inf


def stops_after(
    rule: StoppingRule, losses: Sequence[float], accuracies: Sequence[float] | None = None
) -> int | None:
    """Return the epoch after which the rule first gives a reason."""
    for number, loss in enumerate(losses, 1):
        accuracy = 0.5 if accuracies is None else accuracies[number - 1]
        if rule.update(Epoch(number, 9.0, 0.0, loss, accuracy, 0.1 * number)) is not None:
            return number
    return None


@pytest.mark.parametrize(
    ("losses", "min_delta", "patience", "expected"),
    [
        # decreases between epochs: 0.5, 0.25, 0.125, 0.0625 (exact in binary)
        ([1.0, 0.5, 0.25, 0.125, 0.0625], 0.125, 1, 5),
        ([1.0, 0.5, 0.25, 0.125, 0.0625], 0.0625, 1, None),
        ([1.0, 1.0], 1e-4, 1, 2),  # equal values are no decrease
        ([1.0, 1.0], 0.0, 1, None),  # a decrease of 0 is not less than 0
        ([1.0, 2.0, 1.5, 2.0, 2.0], 0.1, 2, 5),  # an improvement starts the count again
        ([1.0, 2.0, 2.0], 0.1, 2, 3),
        ([1.0, NAN], 0.0, 1, 2),  # NaN never counts as an improvement
        ([NAN, 1.0], 0.0, 1, 1),
        ([1.0, NAN, 0.5], 0.0, 2, 3),  # nor does a step from NaN
        ([INF, 1.0, 0.5], 0.1, 1, None),
        ([1.0, 0.5, 0.7, 0.4], 0.1, 1, 3),  # compared with the epoch before, not the best
    ],
)
def test_plateau(
    losses: list[float], min_delta: float, patience: int, expected: int | None
) -> None:
    rule = Plateau(min_delta, patience)
    assert stops_after(rule, losses) == expected
    assert rule.restore is None


@pytest.mark.parametrize(
    ("losses", "min_delta", "patience", "expected", "best"),
    [
        ([1.0, 0.5, 0.7, 0.6], 0.0, 2, 4, 2),
        ([1.0, 0.5, 0.7, 0.4, 0.45, 0.41], 0.0, 2, 6, 4),  # compared with the best, not the last
        ([1.0, 0.5, 0.5, 0.5], 0.0, 2, 4, 2),  # of equal values the first is the best
        ([1.0, 0.875, 0.75, 0.625], 0.25, 2, 3, 1),  # a gain of min_delta is not enough...
        ([1.0, 0.875, 0.75, 0.625], 0.25, 3, None, 4),  # ...but gains add up against the best
        ([NAN, NAN, NAN], 0.0, 2, 2, None),  # NaN is no best
        ([NAN, 1.0, NAN, 0.5], 0.0, 2, None, 4),
        ([INF, INF, 1.0], 0.0, 2, None, 3),
        ([3.0, 2.0, 1.0], 0.0, 1, None, 3),
    ],
)
def test_patience_on_the_loss(
    losses: list[float], min_delta: float, patience: int, expected: int | None, best: int | None
) -> None:
    rule = Patience(patience, min_delta)
    assert stops_after(rule, losses) == expected
    assert rule.restore == best
    last = Patience(patience, min_delta, restore_best=False)
    stops_after(last, losses)
    assert last.restore is None


def test_patience_on_the_accuracy() -> None:
    rule = Patience(2, 0.0, "valid_accuracy")
    accuracies = [0.1, 0.5, 0.4, 0.75, NAN, 0.75]
    assert stops_after(rule, [1.0] * 6, accuracies) == 6
    assert rule.restore == 4
    with pytest.raises(ValueError, match="monitor=train_loss is neither"):
        Patience(monitor="train_loss")


def test_target() -> None:
    accuracies = [0.1, NAN, 0.874, 0.875, 0.9]
    assert stops_after(Target(0.875), [1.0] * 5, accuracies) == 4
    assert stops_after(Target(0.95), [1.0] * 5, accuracies) is None


def test_budget_counts_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 101.0, 102.5, 103.5])  # the first epoch took 0.1 s until 100.0
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    assert stops_after(Budget(2.5), [1.0] * 4) == 3
    rule = Budget(1e-9)
    monkeypatch.undo()
    reason = rule.update(Epoch(1, 1.0, 0.5, None, None, 0.25))
    assert reason == "0.25 s have passed, the budget is 1e-09 s"


@pytest.mark.parametrize("rule", [Plateau(), Patience(), Target(0.5)])
def test_a_rule_without_what_it_watches(rule: StoppingRule) -> None:
    with pytest.raises(ValueError, match="there is no validation set"):
        rule.update(Epoch(1, 1.0, 0.5, None, None, 0.1))


RULES: list[StoppingRule] = [
    Plateau(0.1, 2),
    Patience(2, 0.2),
    Patience(2, 0.1, "valid_accuracy"),
    Target(0.7),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_epoch_1_begins_a_new_run(rule: StoppingRule) -> None:
    """A rule that has stopped one run, or watched a part of one, stops the next as the first."""
    losses, accuracies = [1.0, 0.5, 0.45, 0.44, 0.43], [0.4, 0.6, 0.62, 0.61, 0.7]
    first = stops_after(rule, losses, accuracies)
    stops_after(rule, [0.01, 0.001], [0.5, 0.6])
    assert first in (4, 5)
    assert stops_after(rule, losses, accuracies) == first


def test_a_budget_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 101.0, 500.0, 501.0, 502.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    rule = Budget(2.0)
    assert stops_after(rule, [1.0] * 2) is None
    assert stops_after(rule, [1.0] * 3) == 3


@pytest.mark.parametrize("step", range(99))
def test_a_gain_of_min_delta_is_not_more_by_rounding(step: int) -> None:
    """From k / 100 to (k + 1) / 100 with min_delta=0.01: 79 of 99 differences come out larger."""
    low, high = step / 100, (step + 1) / 100
    assert stops_after(Patience(1, 0.01, "valid_accuracy"), [1.0] * 2, [low, high]) == 2
    assert stops_after(Patience(1, 0.01), [high, low]) == 2
    # Plateau stops at less than min_delta, which this is not, nor by rounding.
    assert stops_after(Plateau(0.01), [high, low]) is None
    assert stops_after(Target(low + 0.01), [1.0], [high]) == 1
    # What is more, is: by one of a million examples.
    more = high + 1e-6
    assert stops_after(Patience(1, 0.01, "valid_accuracy"), [1.0] * 2, [low, more]) is None
    assert stops_after(Patience(1, 0.01), [more, low]) is None
    assert stops_after(Plateau(0.01), [high - 1e-6, low]) == 2
    assert stops_after(Target(more), [1.0], [high]) is None


@pytest.mark.parametrize(
    ("losses", "expected"),
    [([INF, INF], 2), ([1.0, INF], 2), ([INF, 1.0], None), ([0.3, 0.1 + 0.2], None)],
)
def test_plateau_at_the_edges(losses: list[float], expected: int | None) -> None:
    assert stops_after(Plateau(0.0), losses) == expected


class AtOnce:
    """A rule of the user's own, that looks at no metric."""

    restore = None
    watches = False

    def update(self, epoch: Epoch) -> str | None:
        return "enough"


def test_a_rule_that_watches_nothing_needs_no_validation_set() -> None:
    model, data = nnlab.mlp(2, [], 2), (torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))
    done = nnlab.fit(model, data, stopping=AtOnce(), max_epochs=3, optimizer=nnlab.SGD())
    assert (done.stop_reason, len(done.metrics)) == ("enough", 1)
    with pytest.raises(ValueError, match="pass valid="):
        nnlab.fit(model, data, stopping=Target(0.9), max_epochs=3, optimizer=nnlab.SGD())


def test_a_plan_counts_on_no_more_than_the_budget() -> None:
    budget = BudgetConfig("budget", 100, 2.5)
    assert (budget.most_seconds, StoppingConfig("epochs", 100).most_seconds) == (2.5, INF)
