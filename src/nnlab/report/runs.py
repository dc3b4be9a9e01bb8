"""Reading the run folders of a study, and finding out what varied between its runs.

Read with json, float() and numpy rather than pandas: importing pandas takes longer (0.3 s)
than reading a thousand runs does.
"""

from __future__ import annotations

import functools
import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nnlab import records, storage
from nnlab.analysis import SCORES
from nnlab.identity import ADDED, NOT_IDENTITY, WHERE
from nnlab.losses import CLASSIFICATION, REGRESSION, LearningTask, Metric, task_of
from nnlab.records import DONE, METRICS, RESULT
from nnlab.report.curves import Reading, interpret
from nnlab.report.statistics import Array
from nnlab.text import as_label

Value: TypeAlias = "bool | int | float | str | tuple[Any, ...] | None"

NUMBERS = (
    *("epochs", "weights_of_epoch", "train_seconds", "train_cpu_seconds"),
    *("test_loss", "test_accuracy"),
    *("weights", "parameters"),
    *(f"test_{metric.name}" for metric in REGRESSION.metrics),
)
TEXTS = (
    *("name", "status", "stop_reason", "error", "fingerprint"),
    *("engine", "engine_form", "engine_level"),
)
STUDIES = 40  # that are listed
OWN_OPTIONS = "model.options."  # of a function of the user's

log = logging.getLogger("nnlab")


@dataclass(frozen=True)
class RunRecord:
    """One run folder.

    settings: the configuration by dotted keys as on the command line, with what was really
    used in place of what was asked for (``train_size=null``, ``device=auto``); ``data``: where
    the examples came from that it saw, another name for other content.
    cpu_seconds: of training, of all threads; None where that is not known. threads: on which
    it was trained, at most. computed: equal for runs whose numbers are equal. weights_of_epoch:
    whose weights were tested and kept. form: of the engine's arithmetic, None for the usual one.
    concurrent: how many runs trained at a time with it, at most. inputs, outputs: of the network.
    source: of the data.
    full_size, full_test_size: how many examples the whole dataset has. test_examples: how many it
    was tested on. examples: by a split, valid or test, a digest of which they were. right:
    likewise, how many, and which of them were classified rightly, as ``records.packed`` writes it.
    synthetic: whether the data was generated.
    results: whatever ``result.json`` has of texts and numbers, and ``scores.csv``.
    overrides: what the command line said. versions: of the programs, with the commits of their
    repositories. hashes: of the files that the data came from, by their names.
    curves: the columns of ``metrics.csv``, each [epochs] float64, NaN where empty.
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
    computed: tuple[Value, ...]
    inputs: int | None
    outputs: int | None
    source: str | None
    full_size: int | None
    full_test_size: int | None
    test_examples: int | None
    examples: dict[str, str]
    right: dict[str, tuple[int, str]]
    synthetic: bool
    settings: dict[str, Value]
    results: dict[str, Value]
    overrides: tuple[str, ...]
    versions: dict[str, str]
    hashes: dict[str, str]
    curves: dict[str, Array]
    task: LearningTask = CLASSIFICATION

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
    def content(self) -> Value:
        """What tells its data from others: a digest; None where that is not known."""
        return self.computed[1]

    @property
    def complete(self) -> bool:
        return self.status in ("finished", "stopped")

    @functools.cached_property
    def reading(self) -> Reading | None:
        """What the curves say; None where nothing was validated."""
        return interpret(self.curves, self.valid_examples, self.main.name)

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
        return self.at(len(self.curves["epoch"]), column)

    def at(self, epoch: int, column: str) -> float | None:
        values = self.curves.get(column, ())
        known = 0 < epoch <= len(values) and not math.isnan(values[epoch - 1])
        return float(values[epoch - 1]) if known else None


# Reading


def read(study: Path, reader: Callable[[Path], RunRecord] | None = None) -> list[RunRecord]:
    """Read every run of a study, ordered by what varied.

    A damaged run is left out, with a warning that names its file. reader: does what ``read_run``
    does, and may know some runs already; the data of what it returns are named here.
    Raises FileNotFoundError if there is no such folder, or no run in it.
    """
    if not study.is_dir():
        raise FileNotFoundError(f"there is no folder {study}; give a study, say outputs/mnist")
    runs = []
    for result in study.glob(f"*/{RESULT}"):
        try:
            runs.append((reader or read_run)(result.parent))
        except (OSError, ValueError) as error:
            log.warning("left out %s: %s", result, error)
    if not runs:
        hint = f"; it is a run itself, give {study.parent}" * (study / RESULT).is_file()
        raise FileNotFoundError(f"{study} holds no runs{hint}{studies_below(study)}")
    name_data(runs)
    keys = varied(runs)
    return sorted(runs, key=lambda run: (*(rank(run.settings.get(k)) for k in keys), run.name))


def name_data(runs: Sequence[RunRecord]) -> None:
    """Call the data of each run by their source, and tell those of one source apart by content.

    Equal content has one name, that of its first source, wherever its files were.
    """
    names: dict[Value, str] = {}
    for run in sorted(runs, key=lambda run: run.source or ""):
        names.setdefault(run.content, run.source or "")
    shared = Counter(names.values())
    for run in runs:
        if run.content is not None:
            name = names[run.content]
            run.settings["data"] = name if shared[name] == 1 else f"{name} ({run.content})"


def studies_below(folder: Path) -> str:
    """List the studies in a folder that is none, and how many runs each has; "" without any."""
    found = [*folder.glob(f"*/*/{RESULT}"), *folder.glob(f"*/*/*/{RESULT}")]
    counts = Counter(str(result.parent.parent) for result in found)
    lines = [
        f"{study} ({count:,} run{'s' * (count > 1)})" for study, count in sorted(counts.items())
    ]
    more = [f"and {len(lines) - STUDIES:,} more"] if len(lines) > STUDIES else []
    return "\n".join([", but studies; give one of them:", *lines[:STUDIES], *more]) * bool(lines)


def distinct(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Return the runs without those that computed what an earlier one did, under another name,
    and without what was begun of a run that is whole elsewhere.

    ``python -m nnlab.run`` and the run of a sweep over the same value are one, not two seeds.
    """
    seen: dict[tuple[Value, ...], RunRecord] = {}
    whole = {run.computed[0] for run in runs if run.complete}
    for run in sorted(runs, key=lambda run: not run.complete):
        if run.status not in ("failed", "running") or run.computed[0] not in whole:
            seen.setdefault(run.computed, run)
    kept = {id(run) for run in seen.values()}
    return [run for run in runs if id(run) in kept]


def read_run(folder: Path) -> RunRecord:
    """Read one run folder. Raises ValueError if its files are not what a run writes."""
    result = records.undamaged(storage.read(folder / RESULT))
    check(result)
    done = result.get("status") in DONE
    task = task_of(result.get("dataset") or {})
    run = as_run(folder, result, read_curves(folder, result if done else {}, task))
    run.results.update(read_scores(folder))
    return run


def check(result: dict[str, Any]) -> None:
    """Raise ValueError where a result is not what a run writes."""
    if not isinstance(result.get("config"), dict):
        raise ValueError("it does not hold the result of a run")
    for key in NUMBERS:
        check_number(key, result.get(key), finite=not key.startswith("test_"))
    for key in TEXTS:
        if not isinstance(result.get(key), (str, type(None))):
            raise ValueError(f"{key}={result[key]!r} is not a text")
    if not isinstance(result.get("overrides"), (list, type(None))):
        raise ValueError(f"overrides={result['overrides']!r} is not a list")
    for key in ("dataset", "device"):
        if not isinstance(result.get(key), (dict, type(None))):
            raise ValueError(f"{key}={result[key]!r} does not describe one")
    dataset = result.get("dataset") or {}
    for key in ("shape", "classes", "targets"):
        if not isinstance(dataset.get(key), (list, type(None))):
            raise ValueError(f"dataset.{key}={dataset[key]!r} is not a list")
    sizes = dataset.get("sizes") or {}
    if not isinstance(sizes, dict):
        raise ValueError(f"dataset.sizes={sizes!r} does not hold sizes")
    for size in sizes.values():
        check_number("a size in dataset.sizes", size)
    for name, right in texts(result.get("right")).items():
        records.unpacked(right, sizes.get(name) or 0)
    if not all(isinstance(size, int) for size in dataset.get("shape") or ()):
        raise ValueError(f"dataset.shape={dataset['shape']!r} does not hold whole numbers")
    for key in ("full_size", "full_test_size"):
        check_number(f"dataset.{key}", dataset.get(key))
    device = result.get("device") or {}
    for text in (dataset.get("source"), dataset.get("content"), device.get("name")):
        if not isinstance(text, (str, type(None))):
            raise ValueError(f"{text!r} is not the name of data or of a device")
    for key, value in flatten(result["config"]):
        items = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(item, (str, int, float, type(None))) for item in items):
            raise ValueError(f"{key}={value!r} is not the value of an option")


def check_number(key: str, value: object, finite: bool = True) -> None:
    number = isinstance(value, (int, float)) and (abs(value) < math.inf or not finite)
    if value is not None and not number:
        raise ValueError(f"{key}={value!r} is not a number")


def as_run(folder: Path, result: dict[str, Any], curves: dict[str, Array]) -> RunRecord:
    """Put together what the files of a run say; the result is one that ``check`` lets pass."""
    dataset = result.get("dataset") or {}
    status = str(result.get("status"))
    if status == "interrupted":  # as if it were still under way
        status = "running"
    epochs, seconds = result.get("epochs"), result.get("train_seconds")
    if status == "running" or epochs is None or seconds is None:
        # Whoever trains it has no time to keep its result.json up to date.
        epochs = len(curves["epoch"])
        seconds = curves["seconds"][-1] if epochs else 0.0
    device = (result.get("device") or {}).get("name")
    given_threads = (result.get("device") or {}).get("threads")
    settings = ADDED | dict(flatten(result["config"]))
    sizes = dataset.get("sizes") or {}
    if not of_truth_table(settings):  # inputs says as much
        settings |= used_sizes(sizes, settings)
    # What only evaluated a network says nothing about an engine.
    engine = result.get("engine") if epochs else None
    settings["engine"], settings["device"] = engine, device
    for key in WHERE:
        settings.pop(f"dataset.{key}", None)
    if title := settings.pop("dataset.title", None):
        settings["dataset"] = title
    settings["data"] = dataset.get("content")
    # Runs of earlier versions say nothing of them.
    numbers = settings["random_numbers"] = result.get("random_numbers", 1 if dataset else None)
    identity = result.get("fingerprint") or str(sorted(settings.items(), key=str))
    if engine != "torch":
        settings.pop("threads", None)  # which changed nothing
    elif "threads" in settings:
        settings["threads"] = settings["threads"] or 1
    threads = settings.get("threads")
    level = settings["native_level"] = result.get("engine_level") if epochs else None
    return RunRecord(
        folder=folder,
        name=str(result.get("name", folder.name)),
        status=status,
        stop_reason=result.get("stop_reason"),
        error=result.get("error"),
        epochs=int(epochs),
        weights_of_epoch=result.get("weights_of_epoch"),
        train_seconds=float(seconds),
        cpu_seconds=result.get("train_cpu_seconds"),
        test_loss=result.get("test_loss"),
        test_accuracy=result.get("test_accuracy"),
        weights=result.get("weights"),
        parameters=result.get("parameters"),
        engine=result.get("engine"),
        form=result.get("engine_form"),
        device=device,
        threads=result.get("most_threads", 1) if engine == "native" else given_threads,
        concurrent=result.get("concurrent_runs"),
        computed=(identity, settings["data"], numbers, engine, level, device, threads),
        inputs=math.prod(dataset["shape"]) if dataset.get("shape") else None,
        outputs=len(dataset.get("targets") or dataset.get("classes") or ()) or None,
        source=dataset.get("source"),
        full_size=dataset.get("full_size"),
        full_test_size=dataset.get("full_test_size"),
        test_examples=sizes.get("test"),
        examples=texts(dataset.get("examples")),
        right={name: (sizes[name], text) for name, text in texts(result.get("right")).items()},
        synthetic=bool(dataset.get("synthetic")),
        settings=settings,
        results={k: v for k, v in result.items() if not isinstance(v, (dict, list))},
        overrides=tuple(map(str, result.get("overrides") or ())),
        versions=texts(result.get("versions")) | texts(result.get("git"), "commit of {}"),
        hashes=texts(dataset.get("sha256")),
        curves=curves,
        task=task_of(dataset),
    )


def texts(found: object, name: str = "{}") -> dict[str, str]:
    """Return those of the values that are texts, by their names; a text alone has none.

    >>> texts({"nnlab": "ba50af7", "working_directory": None}, "commit of {}"), texts("ba50af7")
    ({'commit of nnlab': 'ba50af7'}, {'': 'ba50af7'})
    """
    if isinstance(found, str):
        return {"": found}
    known = found if isinstance(found, dict) else {}
    return {name.format(key): text for key, text in known.items() if isinstance(text, str)}


def used_sizes(sizes: dict[str, Any], settings: Mapping[str, Value]) -> dict[str, Value]:
    """Return train_size and valid_size as they really were.

    Of folds, whose sizes differ by one example, those of the largest, which runs on all share.
    """
    train, valid = (sizes.get(name, settings.get(f"{name}_size")) for name in ("train", "valid"))
    folds = settings.get("folds")
    if isinstance(folds, int) and isinstance(train, int) and isinstance(valid, int):
        train, valid = train + valid - -(-(train + valid) // folds), -(-(train + valid) // folds)
    return {"train_size": train, "valid_size": valid}


def read_curves(
    folder: Path, result: dict[str, Any], task: LearningTask = CLASSIFICATION
) -> dict[str, Array]:
    """Read ``metrics.csv``: each column [epochs] float64, NaN where empty.

    result: of a run that has ended, which tells damage. A last row still being written is left
    out; a run that never began has no rows.
    """
    # Opening is cheaper than asking first, and a run may vanish in between.
    try:
        text = records.read_file(folder, METRICS, result).decode().replace("\r\n", "\n")
    except FileNotFoundError:
        if "sha256" in result:
            raise
        text = ""
    header, *lines = text.rpartition("\n")[0].split("\n")
    rows = [[float(cell or "nan") for cell in line.split(",")] for line in lines]
    names = header.split(",") if lines else list(task.columns)
    if not set(names) >= set(task.columns) or any(len(row) != len(names) for row in rows):
        raise ValueError(f"{METRICS} does not have the columns {','.join(task.columns)}")
    table = np.array(rows, dtype=np.float64).reshape(-1, len(names))
    return dict(zip(names, table.T))


def flatten(
    config: dict[str, Any], prefix: str = "", left_out: Collection[str] = NOT_IDENTITY
) -> Iterable[tuple[str, Value]]:
    """Spell a nested configuration as on the command line; a group's name is its choice.

    >>> dict(flatten({"optimizer": {"name": "sgd", "lr": 0.01}, "seed": 0, "study": "mnist"}))
    {'optimizer': 'sgd', 'optimizer.lr': 0.01, 'seed': 0}
    """
    for key, value in config.items():
        if not prefix and key in left_out:
            continue
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        elif prefix and key == "name":
            yield prefix[:-1], value
        elif prefix.startswith(OWN_OPTIONS) and isinstance(value, list):
            yield prefix + key, json.dumps(value)  # its items may be anything
        else:
            yield prefix + key, tuple(value) if isinstance(value, list) else value


def read_scores(folder: Path) -> dict[str, Value]:
    """Return what evaluation=[metrics] has found of a run, if it was asked; ``split`` is a text.

    A file that is damaged is left out, with a warning that names it.
    """
    path = folder / SCORES
    try:
        header, values = storage.read(path).decode().split()
        found = dict(zip(header.split(","), values.split(","), strict=True))
        known: dict[str, Value] = {"scored_split": found.pop("split")}
        known["top_k"] = int(found.pop("top_k"))
        return known | {name: float(value) if value else None for name, value in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError) as error:
        log.warning("left out %s, which is not as nnlab wrote it: %s", path, error)
        return {}


# What varied


def varied(runs: Sequence[RunRecord]) -> list[str]:
    """List the keys whose values differ between runs: training-set size first, seed last.

    A key that only some runs have (momentum, among SGD and Adam) counts where it differs
    among these; so does an option that some give to a function of their own. The
    data count where they differ between runs that agree in all else but seeds.
    """
    values: dict[str, set[Value]] = {}
    for run in runs:
        for key, value in run.settings.items():
            values.setdefault(key, set()).add(value)
    for key in [key for key in values if key.startswith(OWN_OPTIONS)]:
        values[key] |= {run.settings.get(key) for run in runs if "model.function" in run.settings}
    of_training = "engine", "device", "native_level", "data", "random_numbers"
    for key in (*of_training, "train_size", "valid_size"):
        values.get(key, set()).discard(None)  # of a run that failed before it was known
    keys = [key for key, found in values.items() if len(found) > 1]
    if "data" in keys:
        others = [key for key in keys if key != "data" and not is_seed(key)]
        groups = grouped(runs, others).values()
        if all(len({run.settings.get("data") for run in group}) == 1 for group in groups):
            keys.remove("data")
    return sorted(keys, key=lambda key: (is_seed(key), key != "train_size"))


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
        pairs = {(run.settings.get(group), run.settings.get(key)) for run in runs}
        return group != key and group in keys and len(pairs) == len({pair[0] for pair in pairs})

    keys = varied(runs)
    return [key for key in keys if not follows(key)]


def grouped(
    runs: Iterable[RunRecord], keys: Sequence[str]
) -> dict[tuple[Value, ...], list[RunRecord]]:
    """Put runs with equal values of ``keys`` together, in the order they come."""
    groups: dict[tuple[Value, ...], list[RunRecord]] = {}
    for run in runs:
        groups.setdefault(tuple(run.settings.get(key) for key in keys), []).append(run)
    return groups


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
