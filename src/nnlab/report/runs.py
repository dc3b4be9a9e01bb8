"""A run as its folder tells of it, and what varied between the runs of a study."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nnlab import records
from nnlab.compact import Compact, Row, once, values_of
from nnlab.losses import CLASSIFICATION, LearningTask, Metric
from nnlab.report.curves import Reading, interpret, still_falls
from nnlab.report.selection import grouped
from nnlab.report.statistics import Array
from nnlab.text import as_label

Value: TypeAlias = "bool | int | float | str | tuple[Any, ...] | None"
Settings: TypeAlias = "Compact[Value] | Row"  # options by dotted keys
Setting: TypeAlias = "tuple[Value, ...]"  # values of options, which runs have in common

MOST_TOLD = 3  # values of an option, to tell whether there are several: one may count for none
OWN_OPTIONS = "model.options."  # of a function of the user's
# Settings that say how a run was computed.
WAYS = ("random_numbers", "engine", "native_level", "device", "threads")


@dataclass(frozen=True)
class RunRecord:
    """One run folder; of many, ``run_table`` has them in little room.

    settings: the configuration by dotted keys as on the command line, with what was really
    used in place of what was asked for (``train_size=null``, ``device=auto``); ``data``: where
    the examples came from that it saw, another name for other content.
    cpu_seconds: of training, of all threads; None where that is not known. threads: on which
    it was trained, at most. identity: of what it computes. content: of its data, a digest; None
    where that is not known. weights_of_epoch: whose weights were tested and kept. form: of the
    engine's arithmetic, None for the usual one. concurrent: how many runs trained at a time with
    it, at most. inputs, outputs: of the network.
    source: of the data.
    full_size, full_test_size: how many examples the whole dataset has. test_examples: how many it
    was tested on. examples: by a split, valid or test, a digest of which they were. right:
    likewise, how many, and which of them were classified rightly, as ``records.packed`` writes it.
    synthetic: whether the data was generated.
    results: whatever ``result.json`` has of texts and numbers, and ``scores.csv``.
    overrides: what the command line said. versions: of the programs, with the commits of their
    repositories. hashes: of the files that the data came from, by their names.
    curves: the columns of ``metrics.csv``, each [epochs] float64, NaN where empty; see ``thinned``.
    every: of one epoch in so many.
    """

    folder: Path
    name: str
    status: str
    stop_reason: str | None
    error: str | None
    epochs: int
    weights_of_epoch: int | None
    train_seconds: float
    cpu_seconds: float | None
    test_loss: float | None
    test_accuracy: float | None
    weights: int | None
    parameters: int | None
    engine: str | None
    form: str | None
    device: str | None
    threads: int | None
    concurrent: int | None
    identity: str
    content: str | None
    inputs: int | None
    outputs: int | None
    source: str | None
    full_size: int | None
    full_test_size: int | None
    test_examples: int | None
    examples: Mapping[str, str]
    right: Mapping[str, tuple[int, str]]
    synthetic: bool
    settings: Settings
    results: Mapping[str, Value]
    overrides: tuple[str, ...]
    versions: Mapping[str, str]
    hashes: Mapping[str, str]
    curves: Mapping[str, Array]
    task: LearningTask
    every: int

    @property
    def main(self) -> Metric:
        """What tells how good it is: accuracy, or R²."""
        return self.task.metrics[0]

    def tested(self, metric: Metric) -> float | None:
        """Return a metric of the test split; None where there is none."""
        if metric in CLASSIFICATION.metrics:
            return self.test_accuracy
        found = self.results.get(f"test_{metric.name}")
        return found if isinstance(found, (int, float)) else None

    @property
    def computed(self) -> tuple[Value, ...]:
        """What is equal for runs whose numbers are equal."""
        return self.identity, self.content, *map(self.settings.get, WAYS)

    @property
    def complete(self) -> bool:
        return self.status in ("finished", "stopped")

    @functools.cached_property
    def reading(self) -> Reading | None:
        """What the curves say; None where nothing was validated."""
        classes = self.outputs if self.task is CLASSIFICATION else None
        return interpret(self.curves, self.valid_examples, self.main.name, classes)

    @functools.cached_property
    def still_falls(self) -> bool:
        """Whether its training loss still fell when it ended."""
        return still_falls(self.curves["train_loss"])

    @property
    def last_epoch(self) -> int:
        """How many epochs ``metrics.csv`` has."""
        return int(self.curves["epoch"][-1]) if len(self.curves["epoch"]) else 0

    def thinned(self, every: int) -> Mapping[str, Array]:
        """Return of the curves the first of so many epochs, the last, that whose weights were kept,
        the best, and the last with a finite loss."""
        epoch = self.curves["epoch"]
        marked = [*epoch[-1:], *epoch[np.isfinite(self.curves["train_loss"])][-1:]]
        marked += [self.weights_of_epoch or self.epochs]
        marked += [self.reading.best_epoch] if self.reading else []
        kept = ((epoch - 1) % every == 0) | np.isin(epoch, marked)
        return Compact.of({name: values[kept] for name, values in self.curves.items()})

    @property
    def valid_examples(self) -> int | None:
        """How many it was validated on."""
        size = self.settings.get("valid_size")
        return size if isinstance(size, int) else None

    @property
    def tested_whole(self) -> bool:
        """Whether it was tested on every row of a truth table: on all there is, no sample."""
        inputs = self.settings.get("dataset.inputs")
        rows = 2**inputs if of_truth_table(self.settings) and isinstance(inputs, int) else 0
        return rows > 0 and self.settings.get("test_size") in (None, rows)

    def same_examples(self, other: RunRecord, split: str) -> bool:
        """Return whether both are known to have had the same examples of a split."""
        mine = self.content, self.examples.get(split)
        return None not in mine and mine == (other.content, other.examples.get(split))

    @property
    def knows_right(self) -> bool:
        """Whether it was kept which examples it classified rightly."""
        return bool(self.right)

    def right_of(self, split: str) -> NDArray[np.bool_] | None:
        """Return which examples of a split, valid or test, it classified rightly; None where
        that was not kept."""
        found = self.right.get(split)
        return None if found is None else records.unpacked(found[1], found[0])

    def kept(self, column: str) -> float | None:
        """Return a column of ``metrics.csv`` in the epoch whose weights were kept."""
        return self.at(self.weights_of_epoch or self.epochs, column)

    def last(self, column: str) -> float | None:
        """Return a column of ``metrics.csv`` after the last epoch, None where there is none."""
        return self.at(self.last_epoch, column)

    def at(self, epoch: int, column: str) -> float | None:
        curves = self.curves
        values = curves[column][curves["epoch"] == epoch] if column in curves else []
        return float(values[0]) if len(values) and not math.isnan(values[0]) else None


def right_of(result: Mapping[str, Any]) -> Mapping[str, tuple[int, str]]:
    """Return what a result says of the examples that were classified rightly."""
    sizes = (result.get("dataset") or {}).get("sizes") or {}
    return Compact.of(
        {name: (sizes[name], text) for name, text in texts(result.get("right")).items()}
    )


def texts(found: object, name: str = "{}") -> dict[str, str]:
    """Return those of the values that are texts, by their names; a text alone has none.

    >>> texts({"nnlab": "ba50af7", "working_directory": None}, "commit of {}"), texts("ba50af7")
    ({'commit of nnlab': 'ba50af7'}, {'': 'ba50af7'})
    """
    if isinstance(found, str):
        return {"": found}
    known = found if isinstance(found, dict) else {}
    return {
        once(name.format(key)): once(text) for key, text in known.items() if isinstance(text, str)
    }


# What varied


def varied(runs: Sequence[RunRecord]) -> list[str]:
    """List the keys whose values differ between runs: training-set size first, seed last.

    A key that only some runs have (momentum, among SGD and Adam) counts where it differs
    among these; so does an option that some give to a function of their own. The
    data count where they differ between runs that agree in all else but seeds.
    """
    values: dict[str, set[Value]] = values_of((run.settings for run in runs), most=MOST_TOLD)
    for key in [key for key in values if key.startswith(OWN_OPTIONS)]:
        if any(key not in run.settings for run in runs if "model.function" in run.settings):
            values[key].add(None)
    of_training = "engine", "device", "native_level", "data", "random_numbers"
    for key in (*of_training, "train_size", "valid_size"):
        values.get(key, set()).discard(None)  # of a run that failed before it was known
    keys = [key for key, found in values.items() if len(found) > 1]
    if "data" in keys:
        others = [key for key in keys if key != "data" and not is_seed(key)]
        groups = grouped(runs, others)
        if all(alike(group, "data") for group in groups):
            keys.remove("data")
    return sorted(keys, key=lambda key: (is_seed(key), key != "train_size"))


def alike(runs: Sequence[RunRecord], key: str) -> bool:
    """Return whether all runs have one value of a key."""
    first = runs[0].settings.get(key)
    return all(run.settings.get(key) == first for run in runs)


def is_seed(key: str) -> bool:
    """Return whether a key only draws other random numbers, or takes another fold; other test
    images are a setting."""
    return key in ("seed", "fold") or (key.startswith("seeds.") and key != "seeds.test")


def repeats(runs: Sequence[RunRecord]) -> str:
    """Say in what runs of one setting differ: in seeds, in folds, or, as "runs", in both."""
    kinds = {"folds" if key == "fold" else "seeds" for key in varied(runs) if is_seed(key)}
    return "runs" if len(kinds) > 1 else kinds.pop() if kinds else "seeds"


def factors(runs: Sequence[RunRecord]) -> list[str]:
    """List what was varied by hand: ``varied`` without what a group's choice brought along.

    With ``optimizer=sgd,adam`` each at its own default rate, ``optimizer.lr`` differs but
    says nothing more than ``optimizer``. Nor does the size of a fold say more than what is left.
    """
    folded = all(run.settings.get("folds") for run in runs)

    def follows(key: str) -> bool:
        group = "train_size" if folded and key == "valid_size" else key.partition(".")[0]
        return (
            group != key
            and group in keys
            and all(alike(same, key) for same in grouped(runs, [group]))
        )

    keys = varied(runs)
    return [key for key in keys if not follows(key)]


def of_truth_table(settings: Mapping[str, Value]) -> bool:
    """Return whether a run's examples are the truth table of a Boolean function."""
    return {"dataset.function", "dataset.inputs"} <= settings.keys()


def is_number(value: Value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def rank(value: Value) -> tuple[int, tuple[float, ...], str]:
    """Order values as a person would: numbers by size, then lists, then words.

    >>> sorted([1000, 500, "adam", (128, 64), ()], key=rank)
    [500, 1000, (), (128, 64), 'adam']
    """
    if isinstance(value, tuple) and all(map(is_number, value)):
        return 1, value, ""
    return (0, (value,), "") if is_number(value) else (2, (), spell(value))  # type: ignore[return-value]


def spell(value: Value) -> str:
    """Write a value as on the command line.

    >>> [spell(value) for value in (2e-05, 1e-4, 0.01, 1000, (128, 64), True, None)]
    ['2e-5', '1e-4', '0.01', '1000', '[128,64]', 'true', 'null']
    """
    if isinstance(value, tuple):
        return f"[{','.join(map(spell, value))}]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, float):
        if 0 < abs(value) < 1e-3:  # 0.0001 would stand beside 2e-5
            return str(np.format_float_scientific(value, precision=11, trim="-", exp_digits=1))
        return f"{value:.12g}".replace("e+0", "e").replace("e+", "e")
    return str(value)


def brief(value: Value) -> str:
    """Write a value as on the command line, drawn ones to four digits, long ones shortened."""
    return as_label(spell(float(f"{value:.4g}") if isinstance(value, float) else value))


def assignments(keys: Sequence[str], values: Sequence[Value]) -> str:
    return ", ".join(f"{key}={brief(value)}" for key, value in zip(keys, values))


def said_of(keys: Sequence[str], values: Sequence[Value], line: str) -> str:
    """Write what is said of a setting behind its options; without any as a sentence begins.

    >>> said_of(["train_size"], [500], "stopped early"), said_of([], [], "stopped early")
    ('train_size=500: stopped early', 'Stopped early')
    """
    setting = assignments(keys, values)
    return f"{setting}: {line}" if setting else line[0].upper() + line[1:]
