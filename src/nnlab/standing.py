"""How a run stands: what its files say of it, and who trains it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnlab import claims, records, storage, study
from nnlab.losses import TASKS, task_of
from nnlab.records import DONE, METRICS, NEW, RESULT
from nnlab.report.run_folders import as_run, check, read_curves
from nnlab.report.runs import RunRecord
from nnlab.report.statistics import Array

STATES = (*DONE, "training", "waiting", "interrupted", "failed", "damaged")
NO_CURVES: Mapping[str, Array] = {
    name: np.empty(0) for task in TASKS.values() for name in task.columns
}  # of a run whose result says all


@dataclass(frozen=True)
class Standing:
    """A run, and how it stands.

    state: one of STATES. run, config: None where they cannot be read; config is that of
    result.json. epochs: that were trained so far. goes_on: the epoch after which its command
    would go on, 0 where it would begin anew, None where there is nothing to do; of a run that has
    ended, that of one with force=true which was broken off. owner: the process that trains it, or
    means to. error: why it failed, or what is damaged. file: the damaged one. stamp: what tells
    whether it has changed.
    """

    folder: Path
    state: str
    run: RunRecord | None = None
    config: dict[str, Any] | None = None
    epochs: int = 0
    goes_on: int | None = None
    owner: dict[str, Any] | None = None
    error: str | None = None
    file: Path | None = None
    stamp: tuple[list[int], ...] = ()

    @property
    def changed(self) -> float | None:
        """When it last did, in seconds since 1970."""
        times = [part[0] / 1e9 for part in self.stamp if part]
        return max(times, default=None)

    @property
    def max_epochs(self) -> int | None:
        value = self.run.settings.get("stopping.max_epochs") if self.run else None
        return value if isinstance(value, int) else None


def of(folder: Path, whole: bool = False, waiting: claims.Waiting | None = None) -> Standing | None:
    """Return how a run stands; None where what is in its folder is not nnlab's, or gone.

    whole: whether the files of a run that has ended are known to be undamaged. waiting: which
    process means to train it.
    """
    found = by_files(folder, whole)
    if waiting is None or (found and found.state not in ("failed", "waiting", "interrupted")):
        return found
    if found and found.changed and found.changed >= waiting.since:  # it has had its turn
        return found
    found = found or Standing(folder, "waiting", goes_on=0)
    return dataclasses.replace(found, state="waiting", owner=waiting.owner)


def by_files(folder: Path, whole: bool) -> Standing | None:
    """Return how a run stands by what is in its folder, see ``of``."""
    # What is to replace the folder's run stands for it while it trains, or has ended.
    replaced: int | None = None
    for path in (folder / NEW, folder) if storage.is_folder(folder / NEW) else (folder,):
        stamp = stamp_of(path)
        try:
            result = records.read_result(path)
        except (OSError, records.DamagedError) as error:
            if path == folder:
                return damaged(folder, path / RESULT, error, stamp=stamp)
            continue
        except ValueError:
            return None
        if result is None:
            continue
        owner = None if result["status"] in DONE else owner_of(folder)
        if path != folder and owner is None and result["status"] not in DONE:
            replaced = checkpointed(path, result)
        if path == folder or owner is not None or result["status"] in DONE:
            if owner is None and stamp_of(path) != stamp:  # it went on meanwhile
                return by_files(folder, whole)
            found = by_result(folder, path, result, owner, whole or path != folder)
            if path == folder and found.state in DONE:
                found = dataclasses.replace(found, goes_on=replaced)
            return dataclasses.replace(found, stamp=stamp)
    return begun(folder, stamp_of(folder))


def owner_of(folder: Path) -> dict[str, Any] | None:
    """Return who trains a run, None also where that cannot be told."""
    with contextlib.suppress(OSError, ValueError):
        return claims.owner(folder)
    return None


def stamp_of(path: Path) -> tuple[list[int], ...]:
    """Return what tells whether a run has changed."""
    stamp = []
    for name in study.FILES:
        try:
            stamp.append(study.stamp_of(path / name))
        except OSError:  # there is no way to it
            stamp.append([])
    return tuple(stamp)


def damaged(folder: Path, file: Path, error: Exception, **known: Any) -> Standing:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    named = str(file) in str(reason)
    text = str(reason) if named else f"{file} cannot be read ({reason})"
    return Standing(folder, "damaged", error=text, file=file, **known)


def begun(folder: Path, stamp: tuple[list[int], ...]) -> Standing | None:
    """Return how a run stands whose result is missing or empty."""
    if not is_run(folder):
        return None
    file, others = folder / RESULT, stamp[1:]
    if file.is_symlink() or any(other and other[1] > 0 for other in others):
        known = (folder / ".hydra" / "config.yaml").is_file()
        remedy = "its command trains it anew" if known else "move the folder away"
        error = ValueError(f"{file} is missing or empty; {remedy}")
        return damaged(folder, file, error, stamp=stamp)
    return Standing(folder, "waiting", goes_on=0, stamp=stamp)


def by_result(
    folder: Path,
    path: Path,
    result: dict[str, Any],
    owner: dict[str, Any] | None,
    whole: bool,
) -> Standing:
    """Return how a run stands by its result. path: where its files are."""
    status = result["status"]
    try:
        check(result)
        if status not in (*DONE, "failed", "running", "interrupted"):
            raise ValueError(f"status={status!r} is none of nnlab's")
    except ValueError as error:
        return damaged(folder, path / RESULT, error)
    curves, known = NO_CURVES, {"config": result["config"]}
    file, harm = path / METRICS, None
    try:
        if status not in DONE:
            curves = read_curves(path, {}, task_of(result.get("dataset") or {}))
        elif not whole:
            for name in result.get("sha256") or ():
                file = path / name
                records.read_file(path, name, result)
    except (OSError, ValueError) as error:
        harm = error
    run = as_run(folder, result, curves)
    known |= {"run": run, "epochs": run.epochs}
    if harm is not None:
        return damaged(folder, file, harm, **known)
    if status in DONE:
        return Standing(folder, status, **known)
    if owner is not None:
        return Standing(folder, "training", owner=owner, **known)
    known["goes_on"] = checkpointed(path, result)
    if status == "failed":
        return Standing(folder, status, error=run.error, **known)
    nobodys = status == "running" and "owner" not in result and run.epochs == 0
    return Standing(folder, "waiting" if nobodys else "interrupted", **known)


def checkpointed(path: Path, result: Mapping[str, Any]) -> int:
    """Return the epoch that a run's checkpoint is of; 0 where it has none from which it goes on."""
    ours = {**result, **(result.get("dataset") or {})}
    with contextlib.suppress(OSError, ValueError, KeyError, AttributeError):
        found = records.read_checkpoint(path / records.CHECKPOINT, result.get("parameters") or 0)
        if found is not None:
            state, numbers = found
            if all(state["identity"].get(key) == ours.get(key) for key in records.SAME):
                return len(numbers[records.EPOCHS])
    return 0


def recognised(folder: Path) -> bool:
    """Return whether a folder says that it is a run of nnlab's."""
    try:
        return records.read_result(folder) is not None or of_hydra(folder)
    except (OSError, ValueError):
        return of_hydra(folder)


def is_run(folder: Path) -> bool:
    """Return whether a folder seems to be a run's."""
    return os.path.lexists(folder / RESULT) or of_hydra(folder)


def of_hydra(folder: Path) -> bool:
    """Return whether Hydra's record says that a folder is of one of nnlab's runs."""
    with contextlib.suppress(OSError):
        return b"\n    app_name: nnlab\n" in storage.read(folder / ".hydra" / "hydra.yaml")
    return False
