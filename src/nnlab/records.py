"""The run folder: metrics, log, result and weights. The only code that writes there.

``result.json`` is there from a run's first instant, with status "running", and says whose
folder it is; the final one replaces it in one step after everything else is on disk.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import platform
import subprocess
import traceback
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from nnlab.analysis import EVALUATION_FILES
from nnlab.identity import NOT_IDENTITY
from nnlab.text import visible_lines

RESULT = "result.json"
METRICS = "metrics.csv"
WEIGHTS = "model.safetensors"
LOG = "run.log"
DONE = ("finished", "stopped", "diverged")
COLUMNS = ("epoch", "train_loss", "train_accuracy", "valid_loss", "valid_accuracy", "seconds")


class RunFolder:
    """One run's folder while it is being trained."""

    def __init__(self, path: Path, identity: dict[str, Any], hydra_files: dict[str, str]) -> None:
        """Make the folder afresh: the files of an earlier attempt are removed.

        identity: what result.json says of the run before it has results.
        hydra_files: content of Hydra's own record (``.hydra/``), by path in the folder.
        """
        self.path = path
        self.identity = identity
        self.identity_text = json.dumps(identity, indent=2, allow_nan=False)
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            # The log goes on.
            for name in (RESULT, METRICS, WEIGHTS, "curves.png", *EVALUATION_FILES):
                (path / name).unlink(missing_ok=True)
            for left in path.glob(".*.tmp"):  # by a process that was killed
                left.unlink(missing_ok=True)
        self.write_result(status="running", durable=False)
        for folder in {(path / name).parent for name in hydra_files}:
            folder.mkdir(exist_ok=True)
        for name, content in hydra_files.items():
            (path / name).write_text(content, encoding="utf-8")
        self._add(METRICS, ",".join(COLUMNS))

    def append(self, row: Sequence[float | None]) -> None:
        """Put an epoch's row on disk."""
        self._add(METRICS, ",".join("" if v is None else f"{v:.9g}" for v in row))

    def log(self, *texts: str) -> None:
        """Add to run.log. Not by ``logging``: runs train side by side, and it is global."""
        now = datetime.now().isoformat(" ", "milliseconds")
        self._add(LOG, "\n".join(f"[{now}] {visible_lines(text)}" for text in texts))

    def _add(self, name: str, line: str) -> None:
        # Opened anew each time: a stack of a thousand runs would run out of open files.
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def finish(self, outcome: dict[str, Any], weights: dict[str, Any]) -> dict[str, Any]:
        """Write the trained weights, then the result; return it."""
        from safetensors.torch import save

        write_atomic(self.path / WEIGHTS, save(weights))
        return self.write_result(**outcome)

    def fail(self, error: BaseException) -> None:
        """Record that the run broke off: the traceback in its log, the error in its result."""
        self.log("".join(traceback.format_exception(error)).rstrip())
        self.write_result(status="failed", error=f"{type(error).__name__}: {error}")

    def write_result(self, durable: bool = True, **outcome: Any) -> dict[str, Any]:
        # The identity is the longer part by far: put into JSON once, and joined here.
        text = json.dumps(outcome, indent=2, allow_nan=False)
        text = f"{text[:-2]},{self.identity_text[1:]}\n"
        write_atomic(self.path / RESULT, text.encode(), durable)
        return {**outcome, **self.identity}


def write_atomic(path: Path, content: bytes, durable: bool = True) -> None:
    """Write a file so that it is either whole or as it was before.

    durable: also if the power fails in the next seconds, which costs some milliseconds.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_result(path: Path) -> dict[str, Any] | None:
    """Return a run folder's result, or None where there is none.

    Raises ValueError naming the file where it is not a result of nnlab's.
    """
    file = path / RESULT
    try:
        text = file.read_text(encoding="utf-8")
        if not text:  # what a power failure leaves of a run that had just begun
            return None
        result = json.loads(text)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}); remove {path} to train it anew") from None
    if not isinstance(result, dict) or "fingerprint" not in result or "status" not in result:
        raise ValueError(f"{file} is no result of nnlab's; move it away or choose another study=")
    return result


def finished_result(path: Path, fingerprint: str, config: dict[str, Any]) -> dict[str, Any] | None:
    """Return the result of an earlier run of this very configuration, if it came to its end.

    Raises ValueError where the folder belongs to a run of another configuration.
    """
    result = read_result(path)
    if result is None:
        return None
    if result["fingerprint"] != fingerprint or not serves(result, config):
        theirs, ours = _flat(_telling(result.get("config", {}))), _flat(_telling(config))
        differ = [key for key in sorted({*theirs, *ours}) if theirs.get(key) != ours.get(key)]
        holds = ", ".join(f"{key}={theirs.get(key)}" for key in differ) or "other options"
        asked = ", ".join(f"{key}={ours.get(key)}" for key in differ) or "those of this nnlab"
        raise ValueError(
            f"{path} holds a run with {holds}; this one has {asked}. "
            f"Give it another study=NAME, or replace that run with force=true"
        )
    return result if result["status"] in DONE else None


def serves(result: dict[str, Any], config: dict[str, Any]) -> bool:
    """Return whether a run computed with what a configuration (JSON values) asks for.

    These options are not part of the fingerprint: auto asks for nothing, which GPU of several
    computed changes no number, and only the torch engine's numbers depend on its threads.
    """
    engine, device = result.get("engine"), result.get("device") or {}
    if engine is None or result.get("epochs") == 0:  # nothing was trained
        return True
    return (
        config["engine"] in ("auto", engine)
        and config["device"].partition(":")[0] in ("auto", device.get("type"))
        and config.get("native_level") in (None, result.get("engine_level"))
        and (engine != "torch" or config["threads"] == device.get("threads"))
    )


def _telling(config: dict[str, Any]) -> dict[str, Any]:
    """Return the options in which runs of a folder may differ."""
    return {key: value for key, value in config.items() if key not in NOT_IDENTITY}


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    packages = ("nnlab", "torch", "numpy", "hydra-core")
    return {"python": platform.python_version()} | {
        package: importlib.metadata.version(package) for package in packages
    }


@functools.cache
def git_revisions() -> dict[str, str | None]:
    """Return the commits of nnlab's own source and of the working directory."""
    here = Path(__file__)
    return {
        # Where nnlab is installed, it may lie in somebody else's repository, untracked.
        "nnlab": git_revision(here.parent) if _git(here.parent, "ls-files", here.name) else None,
        "working_directory": git_revision(Path()),
    }


def git_revision(folder: Path) -> str | None:
    """Return the commit of a folder's repository, "-dirty" where it has changes, or None."""
    return _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or None


def _git(folder: Path, *command: str) -> str:
    """Return what a git command prints; nothing where there is no git, or no repository."""
    try:
        return subprocess.check_output(
            ["git", "-C", str(folder), *command],
            text=True,
            stderr=subprocess.DEVNULL,
            timeout=10,
        ).strip()
    except (OSError, subprocess.SubprocessError):
        return ""
