"""Killed at any instant and started again, a command ends with the files of an undisturbed one."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pytest

import nnlab
from nnlab import checkpoint as checkpoints
from nnlab import cores
from nnlab.engines import library
from tests.reliability import warm
from tests.reliability.studies import Process, assert_same, content_of, runs_of

EACH, OFTEN = "checkpoint.seconds=0", "checkpoint.seconds=0.2"
PATIENCE = ("valid_size=100", "stopping=patience", "stopping.patience=8")
CASES = {
    "native": ("train_size=1000", "stopping.max_epochs=30", EACH),
    "native, dual form, best weights": (
        *("train_size=100", "batch_size=5", "stopping.max_epochs=50", *PATIENCE, EACH),
        "valid_size=50",  # more would take the usual form
    ),
    "native, several runs, questions": (
        *("optimizer.lr=0.01,0.05", "optimizer.momentum=0.5", "train_size=300"),
        *("valid_size=100", "stopping=target", "stopping.max_epochs=30", EACH),
        *("evaluation=[hardest]", "hardest.per_class=1"),
    ),
    "native, dual and usual form, without checkpoints": (
        *("train_size=100,1000,200", "stopping.max_epochs=40", "checkpoint.seconds=null"),
    ),
    "native, a team of threads": (
        *("train_size=400", "batch_size=100", "model.hidden=[256]", "optimizer.momentum=0.9"),
        *(*PATIENCE, "stopping.max_epochs=40", EACH),
    ),
    "torch, Adam": (
        *("engine=torch", "optimizer=adam", "train_size=200", *PATIENCE[:2]),
        *("stopping.patience=5", "full_train_metrics=true", EACH),
    ),
    "torch, AdamW": (
        *("engine=torch", "optimizer=adamw", "optimizer.amsgrad=true", "train_size=200"),
        *("valid_size=100", "stopping=target", "stopping.valid_accuracy=0.99"),
        *("stopping.max_epochs=30", OFTEN),
    ),
    "stacked, momentum": (
        *("engine=stacked", "device=cpu", "optimizer.momentum=0.9", "optimizer.nesterov=true"),
        *("train_size=100,200,150,80", "valid_size=50", "stopping=plateau"),
        *("stopping.patience=3", EACH),
    ),
    "stacked, AdamW": (
        *("engine=stacked", "device=cpu", "optimizer=adamw", "optimizer.lr=0.001,0.003"),
        *("train_size=100", *PATIENCE[:2], "stopping.patience=9", OFTEN),
    ),
    "native, Adam": (
        *("train_size=200", "valid_size=100", "optimizer=adam", "stopping=plateau"),
        *("optimizer.schedule=plateau", "optimizer.patience=2", "optimizer.warmup=2"),
        *("stopping.patience=4", "seed=0,1", EACH),
    ),
    "Hydra's basic launcher": (
        *("hydra/launcher=basic", "optimizer.lr=0.01,0.02", "train_size=300"),
        *("stopping.max_epochs=30", EACH),
    ),
    "joblib": (
        *("hydra/launcher=joblib", "optimizer.lr=0.01,0.02,0.05", "train_size=300"),
        *("stopping.max_epochs=100", OFTEN),
    ),
    "force": (
        *("force=true", "optimizer.lr=0.03,0.04", "train_size=300"),
        *("stopping.max_epochs=40", EACH),
    ),
    "16 runs": (
        *("optimizer.lr=0.01,0.02,0.05,0.1", "optimizer.momentum=0,0.5", "train_size=100,300"),
        *(*PATIENCE, "stopping.max_epochs=60", EACH),
    ),
}
QUICK = (  # of each engine, form and launcher but joblib
    *("native", "native, dual form, best weights"),
    *("torch, Adam", "stacked, AdamW", "native, Adam", "Hydra's basic launcher", "force"),
)
DRAWN = ("native, several runs, questions", "force")  # with their figures, which take longer
SMALL = ("model.hidden=[32]", "test_size=100")  # quick, in all cases
BEFORE = ("stopping.max_epochs=3", "force=true")  # what force=true finds: another run


Command: TypeAlias = "Process | warm.Command"


class Undisturbed(NamedTuple):
    """What a case leaves, and how long it takes from the first claim of a run to its end."""

    content: dict[str, Any]
    seconds: float


def command_of(name: str) -> tuple[str, ...]:
    if "native" in name and library.available() is not None:
        pytest.skip(str(library.available()))
    if name == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    return (*SMALL, *CASES[name], "study=s")


def begin(name: str, folder: Path) -> Command:
    """Start a case; joblib's workers are no children of a forked process."""
    if name == "joblib":
        return Process(command_of(name), folder)
    return warm.Command(command_of(name), folder, draw=name in DRAWN)


def prepare(name: str, folder: Path) -> None:
    """Make what there is before a command starts."""
    shutil.rmtree(folder, ignore_errors=True)
    if name == "force":
        assert warm.run(*command_of(name), *BEFORE, cwd=folder).status == 0


def claims_in(study: Path) -> set[str]:
    return {path.name for path in study.glob(".process-*.lock")}


def claimed(process: Command, study: Path, before: set[str]) -> bool:
    """Wait until a process claims runs of a study; False if it ends before."""
    while claims_in(study) <= before:
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    return True


def undisturbed(name: str, folder: Path) -> Undisturbed:
    prepare(name, folder)
    study = folder / "outputs" / "s"
    process = begin(name, folder)
    assert claimed(process, study, set())
    began = time.monotonic()
    done = process.end()
    assert done.status == 0, done.said
    seconds, content = time.monotonic() - began, content_of(study)
    forms = {content[run.name]["result"]["engine_form"] for run in runs_of(study)}
    assert "dual" in forms or "dual" not in name
    teams = {content[run.name]["result"]["most_threads"] > 1 for run in runs_of(study)}
    assert teams == {"team" in name} or cores.usable() == 1
    return Undisturbed(content, seconds)


def killed(name: str, folder: Path, seconds: float, chance: random.Random) -> bool:
    """Start a case and kill it at a random instant; False where it ended before."""
    study = folder / "outputs" / "s"
    before = claims_in(study)
    process = begin(name, folder)
    if chance.random() < 0.1:
        time.sleep(chance.uniform(0, 0.5))  # while it starts
    elif claimed(process, study, before):
        time.sleep(chance.uniform(0, seconds))
    alive = process.poll() is None
    if chance.random() < 0.5:
        process.kill()  # and leave what it has started alone
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    done = process.end()
    assert "Traceback" not in done.said, done.said
    assert alive or done.status == 0, done.said
    return alive


def disturb(name: str, kills: int, seed: int, folder: Path) -> None:
    """Kill a case so many times, and compare whenever it comes to its end."""
    expected = undisturbed(name, folder)
    chance = random.Random(f"{name} {seed}")
    prepare(name, folder)
    while kills > 0:
        if killed(name, folder, expected.seconds, chance):
            kills -= 1
            if name == "force":
                assert_a_whole_run(folder / "outputs" / "s")
        else:
            assert_same(content_of(folder / "outputs" / "s"), expected.content)
            prepare(name, folder)
    assert_ends_alike(name, folder, expected)


def assert_ends_alike(name: str, folder: Path, expected: Undisturbed) -> None:
    """Start a case once more; compare what it then leaves."""
    done = begin(name, folder).end()
    assert done.status == 0, done.said
    assert_same(content_of(folder / "outputs" / "s"), expected.content)


def assert_a_whole_run(study: Path) -> None:
    """Old or new: while force=true trains a run anew, the former one is there.

    Only its swap at the end was perhaps cut in the middle, which the next command completes.
    """
    for folder in runs_of(study):
        new = folder / ".new" / "result.json"
        if not new.is_file() or json.loads(new.read_text())["status"] == "running":
            nnlab.load(folder)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in CASES]
)
def test_a_killed_command_ends_as_an_undisturbed_one(name: str, tmp_path: Path) -> None:
    # 60 in all; figures take long, and joblib's workers, as do 16 runs.
    kills = {"joblib": 1, "native": 4, "native, several runs, questions": 2, "16 runs": 3}
    disturb(name, kills.get(name, 5), 0, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 8))
@pytest.mark.parametrize("name", CASES)
def test_killed_a_thousand_times(name: str, seed: int, tmp_path: Path) -> None:
    disturb(name, 12, seed, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
def test_a_sweep_is_killed_twenty_times_before_its_end(seed: int, tmp_path: Path) -> None:
    name, kills, chance = "16 runs", 0, random.Random(seed)
    expected = undisturbed(name, tmp_path)
    prepare(name, tmp_path)
    while kills < 20:
        if killed(name, tmp_path, expected.seconds / 15, chance):
            kills += 1
        else:  # it came to its end before
            prepare(name, tmp_path)
            kills = 0
    assert_ends_alike(name, tmp_path, expected)


def test_a_budget_counts_the_time_before_a_kill(tmp_path: Path) -> None:
    """It cannot end alike, but neither its epochs nor its clock begin anew."""
    command = (
        *("stopping=budget", "stopping.seconds=0.5", *SMALL, "study=s", "train_size=500"),
        "checkpoint.seconds=0.02",
    )
    study = tmp_path / "outputs" / "s"
    before: list[str] = []
    for _ in range(2):
        process = warm.Command(command, tmp_path, draw=False)
        checkpoint = study / "default" / ".checkpoint.safetensors"
        while not checkpoint.exists() and process.poll() is None:
            time.sleep(0.001)
        time.sleep(0.1)
        process.kill()
        process.end()
        rows = (study / "default" / "metrics.csv").read_text().splitlines()
        assert rows[: len(before)] == before
        state = checkpoints.load(checkpoint)
        assert state is not None
        before = rows[: len(state.epochs) + 1]
        assert 0 < state.rule["passed"] < 0.5
    done = warm.run(*command, cwd=tmp_path, draw=False)
    assert done.status == 0, done.said
    content_of(study)  # whose counters agree
    rows = (study / "default" / "metrics.csv").read_text().splitlines()
    assert rows[: len(before)] == before
    seconds = [float(row.split(",")[-1]) for row in rows[1:]]
    assert seconds == sorted(seconds)
    assert seconds[-2] < 0.5  # of which evaluation and checkpoints are a part
