"""Evaluations of trained networks, as ``evaluation=`` names them.

Each is the module of its name, with a function ``evaluate(network, data, config, folder)`` that
writes files into a run's folder and returns them. This package imports none of these modules:
they need matplotlib, some also torch, and configurations are checked without. Hence what is known
of each before it is run stands here: an entry of ``EVALUATIONS``, and where it has options, these
and a field of its name in ``EvaluationOptions``.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from nnlab.options import MISSING, require
from nnlab.text import as_label, nearest

SCORES = "scores.csv"  # of a run's network, which tables of runs have too


class Evaluation(NamedTuple):
    """What is known of an evaluation before it is run.

    files: that it may leave in a run's folder. images: whether the examples must be images; rows:
    whether they must be rows of numbers; tables: whether those of a truth table do instead of
    images; square: whether they must be those of one of two inputs. examples: whether it looks at
    some, of the split that its option ``split`` names, else test. classes: whether the network must
    tell classes. package: that it imports, which nnlab's extra of that name brings.
    """

    files: tuple[str, ...]
    images: bool = True
    rows: bool = False
    tables: bool = False
    square: bool = False
    examples: bool = True
    classes: bool = True
    package: str | None = None


class EvaluatedSplit(enum.Enum):
    test = "test"
    valid = "valid"


@dataclass
class HardestConfig:
    split: EvaluatedSplit = MISSING
    per_class: int = MISSING
    classes: list[str] | None = MISSING

    def check(self) -> None:
        limit = "it must be at least 1"
        require(self.per_class >= 1, "hardest.per_class", self.per_class, limit)
        limit = "name a class or more (null: all)"
        require(self.classes != [], "hardest.classes", "[]", limit)

    def labels(self, names: Sequence[str]) -> list[int]:
        """Return the labels of the classes that are asked for, by name or else by label.

        names: of all classes. Raises ValueError for a class that is not among them.
        """
        if self.classes is None:
            return list(range(len(names)))
        known = {str(label): label for label in range(len(names))}
        known |= {name: label for label, name in enumerate(names)}
        for name in self.classes:
            if name not in known:
                raise ValueError(
                    f"hardest.classes={as_label(name)}: there is no such class, by name or by "
                    f"label; {nearest(name, names)}"
                )
        return list(dict.fromkeys(known[name] for name in self.classes))


@dataclass
class FgsmConfig:
    eps: list[float] = MISSING
    shown: float = MISSING

    def check(self) -> None:
        limit = "give sizes of the perturbation from 0 to 1, the range of a pixel"
        fine = len(self.eps) > 0 and all(0 <= size <= 1 for size in [*self.eps, self.shown])
        require(fine, "fgsm.eps", f"{list(self.eps)} (shown: {self.shown:g})", limit)


@dataclass
class MetricsConfig:
    split: EvaluatedSplit = MISSING
    top_k: int = MISSING
    bins: int = MISSING

    def check(self) -> None:
        require(self.top_k >= 1, "metrics.top_k", self.top_k, "it must be at least 1")
        limit = "it must be at least 2, parts of the confidences from 0 to 1"
        require(self.bins >= 2, "metrics.bins", self.bins, limit)


@dataclass
class ImportanceConfig:
    split: EvaluatedSplit = MISSING
    repeats: int = MISSING

    def check(self) -> None:
        limit = "it must be at least 1"
        require(self.repeats >= 1, "importance.repeats", self.repeats, limit)


@dataclass
class EvaluationOptions:
    """The part of ``Config`` that is evaluations'."""

    __slots__ = ()  # ``Config`` has those of its fields: of two bases one may have some

    hardest: HardestConfig = MISSING
    fgsm: FgsmConfig = MISSING
    metrics: MetricsConfig = MISSING
    importance: ImportanceConfig = MISSING


EVALUATIONS = {
    "hardest": Evaluation(
        ("hardest.csv", "hardest.png", "confusion.csv", "confusion.png"), images=False
    ),
    "fgsm": Evaluation(("fgsm.csv", "fgsm.png", "fgsm_examples.png")),
    "weights": Evaluation(
        ("weights.png", "weights.csv"), tables=True, examples=False, classes=False
    ),
    "boundary": Evaluation(
        ("boundary.csv", "boundary.png"), images=False, square=True, examples=False
    ),
    "metrics": Evaluation(
        (SCORES, "classes.csv", "reliability.csv", "reliability.png"),
        images=False,
        package="sklearn",
    ),
    "importance": Evaluation(
        ("importance.csv", "importance.png"), images=False, rows=True, classes=False
    ),
}
EVALUATION_FILES = tuple(file for each in EVALUATIONS.values() for file in each.files)
