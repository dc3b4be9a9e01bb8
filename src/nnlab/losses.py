"""What training minimises, and what is measured beside it: of classes, and of numbers.

Axes: n examples, K classes, k targets. Nothing here imports torch.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nnlab.options import LARGEST, MISSING, require
from nnlab.stopping import Epoch, RegressionEpoch


class Metric(NamedTuple):
    """What is measured of a network beside its loss.

    name: in the names of columns. title: in figures and tables. higher: whether more is better.
    percent: a fraction, which is shown in per cent.
    """

    name: str
    title: str
    higher: bool = True
    percent: bool = False

    def written(self, value: float) -> str:
        return f"{value:.1%}" if self.percent else f"{value:.3f}"


@dataclass(frozen=True)
class LearningTask:
    """What is learned.

    epoch: the tuple that is a row of metrics.csv. metrics: beside the loss, the main one first.
    """

    name: str
    epoch: type[Any]
    metrics: tuple[Metric, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of metrics.csv."""
        fields: tuple[str, ...] = self.epoch._fields
        return fields

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of what an engine measures, in the order in which it does."""
        return "loss", *(metric.name for metric in self.metrics)

    def measured(self, epoch: Epoch | None, prefix: str = "") -> dict[str, float | None]:
        """Return the measures of an epoch by their columns, None each where there is no epoch."""
        return {f"{prefix}{name}": getattr(epoch, name, None) for name in self.columns[1:-1]}


CLASSIFICATION = LearningTask(
    "classification", Epoch, (Metric("accuracy", "accuracy", percent=True),)
)
REGRESSION = LearningTask(
    "regression",
    RegressionEpoch,
    (Metric("r2", "R²"), Metric("mae", "MAE", higher=False), Metric("rmse", "RMSE", higher=False)),
)
TASKS = {task.name: task for task in (CLASSIFICATION, REGRESSION)}
METRICS = {metric.name: metric for task in TASKS.values() for metric in task.metrics}


class TaskName(enum.Enum):
    """The values of ``dataset.task``."""

    classification = "classification"
    regression = "regression"


def task_of(dataset: Mapping[str, Any]) -> LearningTask:
    """Return what was learned of data that a result describes so."""
    return TASKS.get(str(dataset.get("task")), CLASSIFICATION)


def count_outputs(dataset: Mapping[str, Any]) -> int:
    """Return how many outputs a network has for data that a result describes so."""
    return len(dataset.get("targets") or dataset["classes"])


def rises(column: str) -> bool:
    """Return whether more is better of a result such as ``valid_accuracy``."""
    metric = METRICS.get(column.partition("_")[2])
    return metric is not None and metric.higher


def worst(column: str) -> float:
    """Return the worst value of a result such as ``valid_accuracy``."""
    if not rises(column):
        return float("inf")
    return 0.0 if METRICS[column.partition("_")[2]].percent else float("-inf")


@dataclass(frozen=True)
class CrossEntropy:
    """The mean over examples of the cross entropy, as ``torch.nn.CrossEntropyLoss`` has it.

    label_smoothing: this fraction of an example's probability is wanted of all classes alike.
    weights: [K] how much an example of each class counts in the mean; None: all alike.
    """

    label_smoothing: float = 0.0
    weights: tuple[float, ...] | None = None
    task: ClassVar = CLASSIFICATION

    @property
    def plain(self) -> bool:
        return self.label_smoothing == 0 and self.weights is None

    def terms(self, classes: int) -> NDArray[np.float64]:
        """Return base, peak and weight of the classes, [3, K].

        The loss of an example of class y is the sum over classes c of base[c] times -log p[c],
        and peak[y] times -log p[y]; a batch's is their sum by the sum of weight[y].
        """
        weight = np.ones(classes) if self.weights is None else np.array(self.weights)
        base = weight * self.label_smoothing / classes
        return np.stack((base, weight * (1 - self.label_smoothing), weight))

    def measures(self, loss: float, correct: float, weight: float, count: int) -> tuple[float, ...]:
        """Return mean loss and accuracy, of sums over so many examples."""
        return loss / weight if weight else float("nan"), correct / count


@dataclass(frozen=True)
class SquaredError:
    """The mean over examples and targets of the squared error, as ``torch.nn.MSELoss`` has it.

    deviation: [k] in what unit each target is; the errors that are reported are multiplied by it.
    None: all are as the user has them.
    """

    deviation: tuple[float, ...] | None = None
    task: ClassVar = REGRESSION

    def measures(
        self, squared: Sequence[float], absolute: Sequence[float], targets: NDArray[Any]
    ) -> tuple[float, ...]:
        """Return the mean squared error, R², MAE and RMSE, each the mean over the targets.

        squared, absolute: [k] sums over the examples of errors. targets: [n, k]. R² of a target
        that is the same in all examples is 1 without an error and 0 otherwise, and of a single
        example it is NaN, as scikit-learn has it.
        """
        count, unit = len(targets), 1.0 if self.deviation is None else np.array(self.deviation)
        wide = targets.astype(np.float64)
        squares, errors = np.array(squared), np.array(absolute)
        with np.errstate(all="ignore"):  # of a network that diverged
            spread = ((wide - wide.mean(axis=0)) ** 2).sum(axis=0)
            explained = np.where(spread == 0, squares == 0, 1 - squares / spread)
            r2 = explained.mean() if count > 1 else math.nan
            rmse = np.sqrt(squares / count) * unit
            means = squares.mean() / count, r2, (errors * unit).mean() / count
            return *map(float, means), float(rmse.mean())


Loss: TypeAlias = "CrossEntropy | SquaredError"
PLAIN = CrossEntropy()


@dataclass
class LossConfig:
    """class_weights: None, ``balanced``, or a list of a number for each class."""

    label_smoothing: float = MISSING
    class_weights: Any = MISSING  # OmegaConf has no type for a word or a list

    def check(self) -> None:
        limit = "it must be at least 0 (no smoothing) and below 1"
        require(0 <= self.label_smoothing < 1, "loss.label_smoothing", self.label_smoothing, limit)
        given = self.class_weights
        limit = "choose null, balanced, or a list of a number above 0 for each class, as in [1,2.5]"
        limit += f" ({1 / LARGEST:g} to {LARGEST:g})"
        fine = given in (None, "balanced") or (
            isinstance(given, list) and len(given) > 0 and all(map(is_weight, given))
        )
        require(fine, "loss.class_weights", given, limit)

    @property
    def balanced(self) -> bool:
        """Whether a class's weight follows from how many training examples there are of it."""
        return bool(self.class_weights == "balanced")

    def build(self, classes: Sequence[str], counts: Sequence[int] = ()) -> CrossEntropy:
        """Return the loss for these classes.

        counts: of the training examples of each class, where they are to be ``balanced``. Raises
        ValueError where the weights are not as many as the classes, or a class to be balanced has
        no example.
        """
        weights = self.class_weights
        if self.balanced:
            if empty := [name for name, count in zip(classes, counts) if count == 0]:
                raise ValueError(
                    f"loss.class_weights=balanced, but there is no training example of class "
                    f"{empty[0]}; raise train_size, or set dataset.balanced=true"
                )
            weights = [sum(counts) / (len(classes) * count) for count in counts]
        elif weights is not None and len(weights) != len(classes):
            raise ValueError(
                f"loss.class_weights={weights} has {len(weights)} numbers; give one for each of "
                f"the {len(classes)} classes"
            )
        return CrossEntropy(
            self.label_smoothing, None if weights is None else tuple(map(float, weights))
        )


def is_weight(number: object) -> bool:
    plain = isinstance(number, (int, float)) and not isinstance(number, bool)
    return plain and 1 / LARGEST <= number <= LARGEST  # type: ignore[operator]
