"""Rules that end a run before its last epoch: plain state and one ``update``; their options.

Each rule's class is followed by that of its options, whose defaults are in its YAML.
"""

from __future__ import annotations

import enum
import math
import sys
import time
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from nnlab.options import MISSING, plain, require, require_finite


class Epoch(NamedTuple):
    """One row of metrics.csv. ``seconds`` is training time since the run began."""

    epoch: int
    train_loss: float
    train_accuracy: float
    valid_loss: float | None
    valid_accuracy: float | None
    seconds: float


class RegressionEpoch(NamedTuple):
    """The same of a regression."""

    epoch: int
    train_loss: float
    train_r2: float
    train_mae: float
    train_rmse: float
    valid_loss: float | None
    valid_r2: float | None
    valid_mae: float | None
    valid_rmse: float | None
    seconds: float


class StoppingRule(Protocol):
    """When to stop. Every run works on a copy of its own and leaves the rule given as it is.

    One that needs no validation set says so by ``watches = False``.
    """

    @property
    def restore(self) -> int | None:
        """The epoch so far with whose weights the run is to end; None for the last one."""

    def update(self, epoch: Epoch) -> str | None:
        """Take what an epoch came to; return why to stop, or None to go on."""


@dataclass
class StoppingConfig:
    """The options that every rule has, and those of ``stopping=epochs``, which has no other.

    rule: the rule's class, which takes the other options by their names; None where only
    max_epochs ends a run. title: its name in figures, empty for that of the command line.
    """

    name: str = MISSING
    max_epochs: int = MISSING
    rule: ClassVar[type[StoppingRule] | None] = None
    title: ClassVar[str] = ""

    def check(self) -> None:
        """Raise ValueError for the first option outside its limits."""
        limit = "it must be at least 0 (0 evaluates the untrained network)"
        require(self.max_epochs >= 0, "stopping.max_epochs", self.max_epochs, limit)

    def build(self) -> StoppingRule | None:
        """Build the rule."""
        if self.rule is None:
            return None
        own = {k: v for k, v in plain(self).items() if k not in ("name", "max_epochs")}
        return self.rule(**own)

    @property
    def watches(self) -> bool:
        """Whether it watches the validation set."""
        return self.rule is not None and watches(self.rule)

    @property
    def monitored(self) -> str | None:
        """The column that it watches; None where it watches nothing."""
        return "valid_loss" if self.watches else None

    @property
    def most_seconds(self) -> float:
        """The time after which the rule ends a run, whatever it computes."""
        return math.inf


def check_patience(min_delta: float, patience: int) -> None:
    require_finite("stopping.min_delta", min_delta)
    require(patience >= 1, "stopping.patience", patience, "at least 1")


class Plateau:
    """Stop when the validation loss decreased by less than ``min_delta`` for ``patience``
    epochs in a row, each compared with the epoch before it.

    The first epoch has nothing to be compared with and counts as progress. NaN is never
    an improvement, and a step down from infinity is one. Epoch 1 begins a new run.

    >>> rule = Plateau(min_delta=0.1, patience=2)
    >>> losses = (1.0, 0.5, 0.45, 0.44)
    >>> [rule.update(Epoch(n, loss, 0.5, loss, 0.5, n)) for n, loss in enumerate(losses, 1)][2:]
    [None, 'validation loss decreased by less than 0.1 for 2 epochs in a row']
    """

    restore = None

    def __init__(self, min_delta: float = 1e-4, patience: int = 1) -> None:
        self.min_delta = min_delta
        self.patience = patience
        self.begin()

    def begin(self) -> None:
        self.previous: float | None = None
        self.flat_epochs = 0

    def update(self, epoch: Epoch) -> str | None:
        if epoch.epoch == 1:
            self.begin()
        loss = watched(epoch, "valid_loss")
        if self.previous is None:
            improved = not math.isnan(loss)
        else:
            improved = at_least(-loss, -self.previous, self.min_delta)
        self.flat_epochs = 0 if improved else self.flat_epochs + 1
        self.previous = loss
        if self.flat_epochs < self.patience:
            return None
        return (
            f"validation loss decreased by less than {self.min_delta:g} "
            f"for {self.patience} {'epoch' if self.patience == 1 else 'epochs in a row'}"
        )


@dataclass
class PlateauConfig(StoppingConfig):
    min_delta: float = MISSING
    patience: int = MISSING
    rule = Plateau

    def check(self) -> None:
        super().check()
        check_patience(self.min_delta, self.patience)


class Patience:
    """Stop when the best value so far was not beaten for ``patience`` epochs in a row.

    monitor: ``valid_loss``, beaten by a lower value, or ``valid_accuracy``, by a higher one,
    each by more than ``min_delta``. Of equal values the first is the best; NaN is none. Epoch 1
    begins a new run.
    restore_best: end with the weights of the best epoch, also where max_epochs comes first.

    >>> rule = Patience(patience=2)
    >>> losses = (1.0, 0.5, 0.7, 0.6)
    >>> [rule.update(Epoch(n, loss, 0.5, loss, 0.5, n)) for n, loss in enumerate(losses, 1)][2:]
    [None, 'validation loss did not fall below 0.5 of epoch 2 for 2 epochs']
    >>> rule.restore
    2
    """

    def __init__(
        self,
        patience: int = 10,
        min_delta: float = 0.0,
        monitor: str = "valid_loss",
        restore_best: bool = True,
    ) -> None:
        if monitor not in ("valid_loss", "valid_accuracy"):
            raise ValueError(f"monitor={monitor} is neither valid_loss nor valid_accuracy")
        self.patience = patience
        self.min_delta = min_delta
        self.monitor = monitor
        self.restore_best = restore_best
        self.begin()

    def begin(self) -> None:
        self.best: float | None = None
        self.best_epoch = 0

    @property
    def restore(self) -> int | None:
        return self.best_epoch if self.restore_best and self.best is not None else None

    def update(self, epoch: Epoch) -> str | None:
        if epoch.epoch == 1:
            self.begin()
        value = watched(epoch, self.monitor)
        if self.best is None:
            better = not math.isnan(value)
        else:
            sign = -1 if self.monitor == "valid_loss" else 1
            better = more_than(sign * value, sign * self.best, self.min_delta)
        if better:
            self.best, self.best_epoch = value, epoch.epoch
        waited = epoch.epoch - self.best_epoch
        if waited < self.patience:
            return None
        epochs = f"{waited} {'epoch' if waited == 1 else 'epochs'}"
        if self.best is None:
            return f"{self.monitor} was no number for {epochs}"
        name, beat = (
            ("validation loss", "fall below")
            if self.monitor == "valid_loss"
            else ("validation accuracy", "rise above")
        )
        margin = f" by more than {self.min_delta:g}" if self.min_delta else ""
        best = f"{self.best:.4g} of epoch {self.best_epoch}"
        return f"{name} did not {beat} {best}{margin} for {epochs}"


class Monitor(enum.Enum):
    valid_loss = "valid_loss"
    valid_accuracy = "valid_accuracy"


@dataclass
class PatienceConfig(StoppingConfig):
    monitor: Monitor = MISSING
    min_delta: float = MISSING
    patience: int = MISSING
    restore_best: bool = MISSING
    rule = Patience

    @property
    def monitored(self) -> str:
        return self.monitor.name

    def check(self) -> None:
        super().check()
        check_patience(self.min_delta, self.patience)


class Budget:
    """Stop after the epoch in which ``seconds`` of wall-clock time are used up.

    Time counts from the beginning of the run's first epoch, with evaluation.
    """

    restore = None
    watches = False

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.passed = 0.0
        self.trained = 0.0  # the seconds of them that epochs took
        self.latest: float | None = None  # when the latest epoch ended, by this process's clock

    def __getstate__(self) -> dict[str, object]:
        return vars(self) | {"latest": None}

    def update(self, epoch: Epoch) -> str | None:
        now = time.monotonic()
        if epoch.epoch == 1:
            self.passed = epoch.seconds
        elif self.latest is None:  # the run goes on in another process
            self.passed += epoch.seconds - self.trained
        else:
            self.passed += now - self.latest
        self.latest, self.trained = now, epoch.seconds
        if self.passed < self.seconds:
            return None
        return f"{self.passed:.3g} s have passed, the budget is {self.seconds:g} s"


@dataclass
class BudgetConfig(StoppingConfig):
    seconds: float = MISSING
    rule = Budget

    def check(self) -> None:
        super().check()
        limit = "it must be a finite number of seconds above 0"
        some = math.isfinite(self.seconds) and self.seconds > 0
        require(some, "stopping.seconds", self.seconds, limit)

    @property
    def most_seconds(self) -> float:
        return self.seconds


class Target:
    """Stop when the validation accuracy, a fraction, is reached.

    >>> Target(0.9).update(Epoch(1, 0.5, 0.8, 0.4, 0.92, 1.0))
    'validation accuracy 0.92 reached the target of 0.9'
    """

    restore = None

    def __init__(self, valid_accuracy: float) -> None:
        self.valid_accuracy = valid_accuracy

    def update(self, epoch: Epoch) -> str | None:
        accuracy = watched(epoch, "valid_accuracy")
        if not at_least(accuracy, self.valid_accuracy):
            return None
        return f"validation accuracy {accuracy:.4g} reached the target of {self.valid_accuracy:g}"


@dataclass
class TargetConfig(StoppingConfig):
    valid_accuracy: float = MISSING
    rule = Target

    @property
    def monitored(self) -> str:
        return "valid_accuracy"

    def check(self) -> None:
        super().check()
        limit = "an accuracy lies above 0 and is at most 1"
        inside = 0 < self.valid_accuracy <= 1
        require(inside, "stopping.valid_accuracy", self.valid_accuracy, limit)


# The rules of ``stopping=``, by the names of their YAML files.
RULES: dict[str, type[StoppingConfig]] = {
    "epochs": StoppingConfig,
    "plateau": PlateauConfig,
    "patience": PatienceConfig,
    "budget": BudgetConfig,
    "target": TargetConfig,
}


def members(kind: type) -> dict[str, object]:
    """Return the methods and properties that a class itself has."""
    return {k: each for k, each in vars(kind).items() if callable(each) or type(each) is property}


# As nnlab has them, to be compared with what has become of them.
MEMBERS = {each.rule: members(each.rule) for each in RULES.values() if each.rule is not None}


def unsupported_rule(rule: StoppingRule | None) -> str | None:
    """Return why a rule may look at a network as it trains, or change it; None if it does not.

    nnlab's own rules see nothing but the metrics.
    """
    kind = type(rule)
    if rule is None:
        return None
    if kind not in MEMBERS:
        names = ", ".join(each.__name__ for each in MEMBERS)
        return f"the stopping rule {kind.__name__} is not one of nnlab's ({names})"
    if members(kind) != MEMBERS[kind] or any(hasattr(kind, name) for name in vars(rule)):
        return f"a method of the stopping rule {kind.__name__} was replaced"
    return None


def watches(rule: StoppingRule | type[StoppingRule]) -> bool:
    """Return whether a rule watches the validation set."""
    return getattr(rule, "watches", True)


def watched(epoch: Epoch, monitor: str) -> float:
    """Return the value that a rule watches. Raises ValueError where nothing was validated, or in a
    regression there is no such metric."""
    if not hasattr(epoch, monitor):
        raise ValueError(
            f"the stopping rule watches {monitor}, which a regression does not have; "
            f"have it watch valid_loss"
        )
    value: float | None = getattr(epoch, monitor)
    if value is None:
        raise ValueError(f"the stopping rule watches {monitor}; there is no validation set")
    return value


def more_than(value: float, base: float, margin: float = 0.0) -> bool:
    """Return whether a value lies above base by more than margin, and not only by rounding.

    Metrics are float64: value, base, margin and their sum are each rounded by half a unit in
    the last place. NaN is not more than anything. Keras (EarlyStopping) and Lightning compare
    ``value - margin > base`` alike, but without room for rounding.

    >>> 0.73 - 0.72 > 0.01, more_than(0.73, 0.72, 0.01), more_than(0.74, 0.72, 0.01)
    (True, False, True)
    """
    return value > base + margin and not equal(value, base, margin)


def at_least(value: float, base: float, margin: float = 0.0) -> bool:
    """Return whether a value lies above base by margin or more, up to rounding.

    Neither NaN nor infinity lies above itself.
    """
    return value - base >= margin or equal(value, base, margin)


def equal(value: float, base: float, margin: float) -> bool:
    rounding = 4 * sys.float_info.epsilon
    largest = max(abs(base), abs(margin))
    return math.isfinite(value) and math.isclose(
        value, base + margin, rel_tol=rounding, abs_tol=rounding * largest
    )
