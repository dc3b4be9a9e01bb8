"""Commands that are disturbed, and what two studies must have in common."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

LIMIT = 120  # seconds, after which a command is said to hang
# What differs between two trainings of one run: when, where, and beside what; in summary.csv TIMES.
TIMES = ("train_seconds", "train_cpu_seconds", "concurrent_runs")
OF_THE_TIME = (*TIMES, "checksum", "sha256", "git", "engine_reason")
# Names that a study may have or not: locks, and what the last command happened to leave out.
PASSING = (".lock", ".index.jsonl")
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("HYDRA")}


class Ended(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + self.err


class Process:
    """A command in a process group of its own, with the signals of a shell's child.

    It writes to files: what it has started may outlive it, and would keep a pipe open.
    within: a command that starts it.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        cwd: Path,
        module: str = "nnlab.run",
        within: Sequence[str] = (),
    ) -> None:
        cwd.mkdir(parents=True, exist_ok=True)
        self.streams = tempfile.TemporaryDirectory()
        self.paths = [Path(self.streams.name) / name for name in ("out", "err")]
        with self.paths[0].open("w") as out, self.paths[1].open("w") as err:
            self.process = subprocess.Popen(
                [*within, sys.executable, "-m", module, *arguments],
                cwd=cwd,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self.pid = self.process.pid

    def poll(self) -> int | None:
        return self.process.poll()

    def kill(self) -> None:
        self.process.kill()

    def end(self, limit: float = LIMIT) -> Ended:
        """Wait for it. Raises TimeoutError, and kills it, where it hangs."""
        try:
            status = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()
            raise TimeoutError(f"{self.process.args!r} hangs") from None
        said = [path.read_text(errors="replace") for path in self.paths]
        self.streams.cleanup()
        return Ended(status, *said)


def start(*arguments: str, cwd: Path, module: str = "nnlab.run") -> Process:
    return Process(arguments, cwd, module)


def run(*arguments: str, cwd: Path, module: str = "nnlab.run") -> Ended:
    return Process(arguments, cwd, module).end()


def runs_of(study: Path) -> list[Path]:
    """Return the folders of a study's runs."""
    return sorted(path for path in study.iterdir() if path.is_dir())


def content_of(study: Path) -> dict[str, Any]:
    """Return all that must be the same in two studies of one command, wherever it was given."""
    names = (p.relative_to(study).as_posix() for p in study.rglob("*") if not p.is_dir())
    content: dict[str, Any] = {"files": sorted(set(names) - set(PASSING))}
    for folder in runs_of(study):
        content[folder.name] = content_of_run(folder)
    if (study / "summary.csv").exists():  # some launchers leave that to nnlab.report
        content["summary.csv"] = table_of(study)
    return content


def table_of(study: Path) -> list[dict[str, str]]:
    """Return the rows of a study's summary.csv, without their times."""
    with (study / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def assert_same(found: Any, expected: Any, note: str = "") -> None:
    """Compare what ``content_of`` returns; tell where it differs."""
    different = list(differences(found, expected, ""))
    assert not different, "\n".join([note, *different[:5]])


def differences(found: Any, expected: Any, place: str) -> Iterator[str]:
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted({*found, *expected}):
            yield from differences(found.get(key), expected.get(key), f"{place}/{key}")
    elif isinstance(found, list) and isinstance(expected, list):
        extra = [each for each in found if each not in expected]
        missing = [each for each in expected if each not in found]
        if found != expected:
            yield f"{place}: {len(found)} not {len(expected)}, extra {extra}, missing {missing}"
    elif found != expected:
        yield f"{place}: {found!r} instead of {expected!r}"


def content_of_run(folder: Path) -> dict[str, Any]:
    """Return what must be the same in two trainings of one run; check the hashes in it."""
    result = json.loads((folder / "result.json").read_text())
    weights, metrics = ((folder / n).read_bytes() for n in ("model.safetensors", "metrics.csv"))
    told = result["sha256"]
    assert told["model.safetensors"] == hashlib.sha256(weights).hexdigest(), folder
    assert told["metrics.csv"] == hashlib.sha256(metrics).hexdigest(), folder
    rows = [line.split(",") for line in metrics.decode().splitlines()]
    seconds = rows[0].index("seconds")
    for row in rows:
        del row[seconds]
    assert [int(row[0]) for row in rows[1:]] == list(range(1, result["epochs"] + 1))
    answers = {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.name != "metrics.csv" and path.suffix == ".csv"
    }
    place = str(folder.parents[2].resolve())  # where the command was given
    hydra = {
        path.name: path.read_text(errors="replace").replace(place, ".")
        for path in (folder / ".hydra").iterdir()
        if path.is_file()
    }
    return {
        "result": {k: v for k, v in result.items() if k not in OF_THE_TIME},
        "metrics": rows,
        "weights": told["model.safetensors"],
        "answers": answers,
        "hydra": {k: re.sub(r"^    (id|num): .*\n", "", v, flags=re.M) for k, v in hydra.items()},
    }


def trained(folder: Path) -> int:
    """Return how many times the run of a folder was trained to its end, by its log."""
    log = (folder / "run.log").read_text()
    return len(re.findall(r" epochs? in [\d.]+ s \(", log))
