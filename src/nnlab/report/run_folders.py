"""Reading the run folders of a study.

Read with json, float() and numpy rather than pandas: importing pandas takes longer (0.3 s)
than reading a thousand runs does.
"""

from __future__ import annotations

import errno
import heapq
import json
import logging
import math
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from nnlab import records, storage
from nnlab.analysis import SCORES
from nnlab.compact import Compact, once
from nnlab.identity import ADDED, NOT_IDENTITY, WHERE
from nnlab.losses import CLASSIFICATION, REGRESSION, LearningTask, task_of
from nnlab.options import shared
from nnlab.records import DONE, METRICS, RESULT
from nnlab.report.run_table import RunTable
from nnlab.report.runs import (
    OWN_OPTIONS,
    RunRecord,
    Value,
    of_truth_table,
    rank,
    right_of,
    texts,
    varied,
)
from nnlab.report.selection import Groups, Runs, where
from nnlab.report.statistics import Array

NUMBERS = (
    *("epochs", "weights_of_epoch", "train_seconds", "train_cpu_seconds"),
    *("test_loss", "test_accuracy"),
    *("weights", "parameters"),
    *(f"test_{metric.name}" for metric in REGRESSION.metrics),
)
COUNTS = ("epochs", "weights_of_epoch")
TEXTS = (
    *("name", "status", "stop_reason", "error", "fingerprint"),
    *("engine", "engine_form", "engine_level"),
)
MOST = 2**1000  # of a whole number, so that it can be a float
TOGETHER = 1000  # runs that are ordered at a time
STUDIES = 40  # or runs, that are listed
ROOM = 2**21  # numbers, 17 MB, that the curves of a study have in its report
log = logging.getLogger("nnlab")


def read(study: Path, reader: Callable[[Path], RunRecord] | None = None) -> Runs:
    """Read every run of a study, ordered by what varied.

    A damaged run is left out, with a warning that names its file. reader: does what ``read_run``
    does, and may know some runs already; the data of what it returns are named here.
    Raises FileNotFoundError if there is no such folder, or no run in it.
    """
    return read_all(study, reader)[0]


def read_all(
    study: Path, reader: Callable[[Path], RunRecord] | None = None, room: float = math.inf
) -> tuple[Runs, list[str]]:
    """Do what ``read`` does, and name the runs that were left out.

    room: how many numbers the curves may have; where there are more, all are thinned, to one epoch
    in 2, 4, 8 and so on.
    """
    if not study.is_dir():
        raise FileNotFoundError(f"there is no folder {study}; give a study, say outputs/mnist")
    table, damaged = RunTable(study), []
    for folder in storage.matching(study):
        result = folder / RESULT
        if folder.is_symlink() or is_absent(result):
            continue
        try:
            run = (reader or read_run)(folder)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                raise  # none of them could be read
            damaged.append(folder.name)
            log.warning("left out %s: %s", result, error)
        else:
            table.append(run, room)
    if not table.plain.rows:
        hint = f"; it is a run itself, give {study.parent}" * (study / RESULT).is_file()
        raise FileNotFoundError(f"{study} holds no runs{hint}{studies_below(study)}")
    runs = table.runs()
    name_data(runs)
    return in_order(runs), sorted(damaged)


def is_absent(path: Path) -> bool:
    """Return whether there is nothing; where that cannot be told, something may be."""
    try:
        path.stat()
    except PermissionError:
        return False
    except OSError:
        return True
    return False


def in_order(runs: Runs) -> Runs:
    """Order runs by what varied; of many, parts are in order first, then merged."""
    keys = varied(runs)

    def rank_of(place: int) -> tuple[Any, ...]:
        run = runs.get(place)
        return (*(rank(run.settings.get(key)) for key in keys), run.name)

    starts = range(0, len(runs), TOGETHER)
    parts = [
        array("I", sorted(runs.places[start : start + TOGETHER], key=rank_of)) for start in starts
    ]
    return Runs(runs.get, array("I", heapq.merge(*parts, key=rank_of)))


def left_out(damaged: Sequence[str]) -> list[str]:
    """Name the runs that were left out, in a sentence; nothing where there are none."""
    more = f" and {len(damaged) - STUDIES:,} more" * (len(damaged) > STUDIES)
    named = ", ".join(damaged[:STUDIES])
    return (
        [f"Left out, as their files are damaged or not to be read: {named}{more}"]
        if damaged
        else []
    )


def name_data(runs: Sequence[RunRecord]) -> None:
    """Call the data of each run by their source, and tell those of one source apart by content.

    Equal content has one name, that of its first source, wherever its files were.
    """
    groups = Groups(where(runs, lambda run: run.content is not None), attrgetter("content"))

    def source(same: Runs) -> str:
        return min(run.source or "" for run in same)

    sources = Counter(map(source, groups))
    for content, same in groups.items():
        name = source(same)
        name = once(name if sources[name] == 1 else f"{name} ({content})")
        for run in same:
            run.settings["data"] = name


def studies_below(folder: Path) -> str:
    """List the studies in a folder that is none, and how many runs each has; "" without any."""
    found = [*folder.glob(f"*/*/{RESULT}"), *folder.glob(f"*/*/*/{RESULT}")]
    counts = Counter(str(result.parent.parent) for result in found)
    lines = [
        f"{study} ({count:,} run{'s' * (count > 1)})" for study, count in sorted(counts.items())
    ]
    more = [f"and {len(lines) - STUDIES:,} more"] if len(lines) > STUDIES else []
    return "\n".join([", but studies; give one of them:", *lines[:STUDIES], *more]) * bool(lines)


def distinct(runs: Sequence[RunRecord]) -> Runs:
    """Return the runs without those that computed what an earlier one did, under another name,
    and without what was begun of a run that is whole elsewhere.

    ``python -m nnlab.run`` and the run of a sweep over the same value are one, not two seeds.
    """
    kept = array("I")
    groups = Groups(runs, attrgetter("identity"))
    for number, same in enumerate(groups):
        whole = any(run.complete for run in same)
        seen: dict[tuple[Value, ...], int] = {}
        for index, run in sorted(
            zip(groups.indices(number), same), key=lambda each: not each[1].complete
        ):
            if run.status not in ("failed", "running") or not whole:
                seen.setdefault(run.computed, index)
        kept.extend(seen.values())
    return groups.runs.at(np.sort(kept))


def read_run(folder: Path) -> RunRecord:
    """Read one run folder. Raises ValueError if its files are not what a run writes."""
    result = records.undamaged(storage.read(folder / RESULT))
    check(result)
    done = result.get("status") in DONE
    task = task_of(result.get("dataset") or {})
    curves = read_curves(folder, result if done else {}, task)
    return as_run(folder, result | read_scores(folder, result), curves)


def check(result: dict[str, Any]) -> None:
    """Raise ValueError where a result is not what a run writes."""
    if not isinstance(result.get("config"), dict):
        raise ValueError("it does not hold the result of a run")
    for key in NUMBERS:
        check_number(key, result.get(key), finite=not key.startswith("test_"))
    for key in COUNTS:
        if not isinstance(result.get(key), (int, type(None))) or (result.get(key) or 0) >= 2**53:
            raise ValueError(f"{key}={result[key]!r} is not a number of epochs")
    for key in TEXTS:
        if not isinstance(result.get(key), (str, type(None))):
            raise ValueError(f"{key}={result[key]!r} is not a text")
    if not isinstance(result.get("overrides"), (list, type(None))):
        raise ValueError(f"overrides={result['overrides']!r} is not a list")
    for key in ("dataset", "device", "sha256"):
        if not isinstance(result.get(key), (dict, type(None))):
            raise ValueError(f"{key}={result[key]!r} does not describe one")
    dataset = result.get("dataset") or {}
    for key, kind in (("shape", int), ("classes", str), ("targets", str)):
        some = dataset.get(key)
        if not isinstance(some, (list, type(None))):
            raise ValueError(f"dataset.{key}={some!r} is not a list")
        if not all(isinstance(each, kind) for each in some or ()):
            raise ValueError(f"dataset.{key}={some!r} does not hold what it should")
    sizes = dataset.get("sizes") or {}
    if not isinstance(sizes, dict):
        raise ValueError(f"dataset.sizes={sizes!r} does not hold sizes")
    for size in sizes.values():
        check_number("a size in dataset.sizes", size)
    for name, right in texts(result.get("right")).items():
        records.unpacked(right, sizes.get(name) or 0)
    for key in ("full_size", "full_test_size"):
        check_number(f"dataset.{key}", dataset.get(key))
    device = result.get("device") or {}
    for text in (dataset.get("source"), dataset.get("content"), device.get("name")):
        if not isinstance(text, (str, type(None))):
            raise ValueError(f"{text!r} is not the name of data or of a device")
    for key, value in flatten(result["config"]):
        items = value if isinstance(value, tuple) else (value,)
        kinds = (str, int, float, type(None))
        if not all(isinstance(item, kinds) and not is_huge(item) for item in items):
            raise ValueError(f"{key}={value!r} is not the value of an option")


def check_number(key: str, value: object, finite: bool = True) -> None:
    number = isinstance(value, (int, float)) and (abs(value) < math.inf or not finite)
    if value is not None and (not number or is_huge(value)):
        raise ValueError(f"{key}={value!r} is not a number")


def is_huge(value: object) -> bool:
    """Return whether a number is a whole one that is too large for a float."""
    return isinstance(value, int) and abs(value) > MOST


def as_run(folder: Path, result: dict[str, Any], curves: Mapping[str, Array]) -> RunRecord:
    """Put together what the files of a run say; the result is one that ``check`` lets pass.

    What runs have in common is in memory once.
    """
    result = {once(key): once(value) for key, value in result.items()}
    dataset = result.get("dataset") or {}
    status = str(result.get("status"))
    if status == "interrupted":  # as if it were still under way
        status = "running"
    epochs, seconds = result.get("epochs"), result.get("train_seconds")
    if status == "running" or epochs is None or seconds is None:
        # Whoever trains it has no time to keep its result.json up to date.
        epochs = len(curves["epoch"])
        seconds = curves["seconds"][-1] if epochs else 0.0
    device = once((result.get("device") or {}).get("name"))
    config = {key: value for key, value in result["config"].items() if key not in NOT_IDENTITY}
    given_threads = (result.get("device") or {}).get("threads")
    settings = ADDED | dict(flatten(shared(config)))
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
    settings["data"] = once(dataset.get("content"))
    # Runs of earlier versions say nothing of them.
    settings["random_numbers"] = result.get("random_numbers", 1 if dataset else None)
    identity = result.get("fingerprint") or str(sorted(settings.items(), key=str))
    if engine != "torch":
        settings.pop("threads", None)  # which changed nothing
    elif "threads" in settings:
        settings["threads"] = settings["threads"] or 1
    settings["native_level"] = result.get("engine_level") if epochs else None
    versions = texts(result.get("versions"))
    common = shared(
        {
            "examples": texts(dataset.get("examples")),
            "versions": versions | texts(result.get("git"), "commit of {}"),
            "hashes": texts(dataset.get("sha256")),
        }
    )
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
        identity=identity,
        content=settings["data"],
        inputs=math.prod(dataset["shape"]) if dataset.get("shape") else None,
        outputs=len(dataset.get("targets") or dataset.get("classes") or ()) or None,
        source=once(dataset.get("source")),
        full_size=dataset.get("full_size"),
        full_test_size=dataset.get("full_test_size"),
        test_examples=sizes.get("test"),
        examples=common["examples"],
        right=right_of(result),
        synthetic=bool(dataset.get("synthetic")),
        settings=Compact.of(settings),
        results=Compact.of({k: v for k, v in result.items() if not isinstance(v, (dict, list))}),
        overrides=tuple(once(str(each)) for each in result.get("overrides") or ()),
        versions=common["versions"],
        hashes=common["hashes"],
        curves=curves,
        task=task_of(dataset),
        every=1,
    )


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
) -> Mapping[str, Array]:
    """Read ``metrics.csv``: each column [epochs] float64, NaN where empty, a view of their table.

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
    if (table[:, names.index("epoch")] != np.arange(1, len(rows) + 1)).any():
        raise ValueError(f"{METRICS} does not have the epochs 1 to {len(rows)}")
    return Compact(map(once, names), table.T)  # a column is made as it is asked for


def flatten(
    config: dict[str, Any], prefix: str = "", left_out: Collection[str] = NOT_IDENTITY
) -> Iterable[tuple[str, Value]]:
    """Spell a nested configuration as on the command line; a group's name is its choice.

    Keys, which many runs have, are in memory once.

    >>> dict(flatten({"optimizer": {"name": "sgd", "lr": 0.01}, "seed": 0, "study": "mnist"}))
    {'optimizer': 'sgd', 'optimizer.lr': 0.01, 'seed': 0}
    """
    for key, value in config.items():
        if not prefix and key in left_out:
            continue
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        elif prefix and key == "name":
            yield once(prefix[:-1]), value
        elif prefix.startswith(OWN_OPTIONS) and isinstance(value, list):
            yield once(prefix + key), json.dumps(value)  # its items may be anything
        else:
            yield once(prefix + key), tuple(value) if isinstance(value, list) else value


def read_scores(folder: Path, result: Mapping[str, Any]) -> dict[str, Value]:
    """Return what evaluation=[metrics] has found of a run, if it was asked; ``split`` is a text.

    A file that is damaged, or another run's, is left out, with a warning that names it.
    """
    path = folder / SCORES
    try:
        header, values = storage.read(path).decode().split()
        found = dict(zip(header.split(","), values.split(","), strict=True))
        if found.pop("checksum", None) != records.checksum_of_run(result, found):
            raise ValueError("its checksum differs; evaluation=[metrics] makes it anew")
        known: dict[str, Value] = {"scored_split": found.pop("split")}
        known["top_k"] = int(found.pop("top_k"))
        return known | {name: float(value) if value else None for name, value in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError) as error:
        log.warning("left out %s, which is not as nnlab wrote it: %s", path, error)
        return {}
