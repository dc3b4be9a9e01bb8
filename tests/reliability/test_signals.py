"""A signal ends the epoch, saves what trains, says how to go on; the same command then does."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nnlab import checkpoint, claims
from tests.reliability import warm
from tests.reliability.studies import (
    Ended,
    assert_same,
    content_of,
    content_of_run,
    runs_of,
    start,
)

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]
SMALL = ("model.hidden=[32]", "test_size=100", "study=s")
GOES_ON = "the same command goes on from here"
CASES = {
    "native": ("train_size=1000", "stopping.max_epochs=400"),
    "native, dual form": ("train_size=100,110,120", "batch_size=2", "stopping.max_epochs=1000"),
    "torch": (
        *("engine=torch", "train_size=300", "valid_size=50", "optimizer=adam"),
        *("stopping=patience", "stopping.patience=30", "stopping.max_epochs=40"),
    ),
    "stacked": (
        *("engine=stacked", "device=cpu", "train_size=100,200", "valid_size=50"),
        *("stopping=plateau", "stopping.patience=60", "stopping.max_epochs=120"),
    ),
    "basic launcher": (
        *("hydra/launcher=basic", "optimizer.lr=0.01,0.02", "train_size=1000"),
        "stopping.max_epochs=250",
    ),
    "force": ("force=true", "train_size=1000", "stopping.max_epochs=400"),
}
AGAINST = list(zip(CASES, [*SIGNALS, signal.SIGTERM]))


def trains(study: Path, rows: int = 5) -> None:
    """Wait until some run of a study is in training."""
    while True:
        for metrics in [*study.glob("*/metrics.csv"), *study.glob("*/.new/metrics.csv")]:
            if metrics.read_bytes().count(b"\n") > rows:
                return
        time.sleep(0.002)


def assert_stopped(ended: Ended, number: int) -> None:
    assert ended.status == 128 + number, ended.said
    assert "Traceback" not in ended.said, ended.said
    assert ended.err.count(GOES_ON) == 1, ended.said
    assert signal.Signals(number).name in ended.err


def statuses(study: Path) -> set[str]:
    found = [*study.glob("*/result.json"), *study.glob("*/.new/result.json")]
    return {json.loads(path.read_text())["status"] for path in found}


@pytest.mark.parametrize(("name", "number"), AGAINST)
def test_a_stopped_command_goes_on(name: str, number: int, tmp_path: Path) -> None:
    command, study = (*CASES[name], *SMALL), tmp_path / "outputs" / "s"
    done = warm.run(*command, cwd=tmp_path, draw=False)
    assert done.status == 0, done.said
    expected = content_of(study)
    study.rename(tmp_path / "undisturbed")
    if name == "force":
        assert warm.run(*command, "seed=5", cwd=tmp_path, draw=False).status == 0
        (study / "default" / "metrics.csv").write_text("")  # so that ``trains`` does not see it
    process = warm.Command(command, tmp_path, draw=False)
    trains(study)
    signal_to(process, number)
    assert_stopped(process.end(), number)
    assert "interrupted" in statuses(study)
    assert not list(study.rglob(".*.tmp"))
    done = warm.run(*command, cwd=tmp_path, draw=False)
    assert done.status == 0, done.said
    assert "goes on after epoch" in "".join((run / "run.log").read_text() for run in runs_of(study))
    assert_same(content_of(study), expected)


def signal_to(process: warm.Command, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
        os.kill(process.pid, number)


@pytest.mark.slow
def test_the_command_line_stops(tmp_path: Path) -> None:
    """In a process of its own, from its first tenth of a second; each signal at some instant."""
    command = ("train_size=300,1000", "stopping.max_epochs=200", *SMALL, "evaluation=[hardest]")
    chance = random.Random(0)
    for number in SIGNALS:
        process = start(*command, cwd=tmp_path)
        time.sleep(chance.uniform(0.3, 2.5))
        if process.poll() is None:
            os.kill(process.pid, number)
        ended = process.end(limit=20)
        if ended.status != 0:  # it ended before
            assert_stopped(ended, number)
    assert start(*command, cwd=tmp_path).end().status == 0
    content_of(tmp_path / "outputs" / "s")


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_a_stop_at_any_instant(seed: int, tmp_path: Path) -> None:
    at_any_instant(seed, 3, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10, 60))
def test_a_thousand_stops(seed: int, tmp_path: Path) -> None:
    at_any_instant(seed, 20, tmp_path)


def at_any_instant(seed: int, stops: int, tmp_path: Path) -> None:
    """Set-up, Gram matrices, training, figures and answers alike."""
    chance = random.Random(seed)
    command = (*chance.choice(list(CASES.values())), *SMALL, "checkpoint.seconds=0.1")
    if chance.random() < 0.5:
        command = (*command, "evaluation=[hardest,weights]", "hardest.per_class=1")
    study = tmp_path / "outputs" / "s"
    began = time.monotonic()
    assert warm.run(*command, cwd=tmp_path).status == 0
    seconds = time.monotonic() - began
    expected = content_of(study)
    study.rename(tmp_path / "undisturbed")
    for _ in range(stops):
        number = chance.choice(SIGNALS)
        process = warm.Command(command, tmp_path)
        # Before it heeds them it is not yet nnlab that a signal ends.
        time.sleep(chance.uniform(0.3, max(0.4, seconds)))
        if process.poll() is None:
            signal_to(process, number)
        ended = process.end(limit=20)
        if ended.status != 0:
            assert_stopped(ended, number)
    done = warm.run(*command, cwd=tmp_path)
    assert done.status == 0, done.said
    assert_same(content_of(study), expected)


def test_a_second_interrupt_leaves_at_once(tmp_path: Path) -> None:
    """In an epoch of a minute, which the first one would wait some seconds for."""
    command = (
        *("train_size=2000", "test_size=0", "engine=torch", "model.hidden=[4000,4000]"),
        *("batch_size=1", "study=s"),
    )
    process = warm.Command(command, tmp_path)
    while not list(tmp_path.glob("outputs/s/*/metrics.csv")):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.2)
    signal_to(process, signal.SIGINT)
    time.sleep(0.1)
    signal_to(process, signal.SIGINT)
    ended = process.end(limit=20)
    assert ended.status == 130
    assert "Traceback" not in ended.said


@pytest.mark.slow
def test_a_second_interrupt_leaves_workers_without_a_warning(tmp_path: Path) -> None:
    """Nor without a word, where the first has not yet come to telling it."""
    process = start(*CASES["native"], *SMALL, "hydra/launcher=batches", cwd=tmp_path)
    while not list(tmp_path.glob("outputs/s/.batches/*.log")):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    ended = process.end(limit=20)  # and all of its workers have, which write to its streams
    assert_stopped(ended, signal.SIGINT)
    assert "Warning" not in ended.said


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1], ids=["SIGHUP", "SIGUSR1"])
def test_batches_stop_where_all_get_the_signal(number: int, tmp_path: Path) -> None:
    """As when a terminal is closed: what cleans up after the workers gets it, too."""
    process = start(*CASES["native"], *SMALL, "hydra/launcher=batches", cwd=tmp_path)
    trains(tmp_path / "outputs" / "s")
    os.killpg(process.pid, number)
    assert_stopped(process.end(limit=20), number)


@pytest.mark.parametrize(
    ("engine", "number"),
    [
        ("native", signal.SIGTERM),
        ("torch", signal.SIGINT),
        pytest.param("torch", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("stacked", signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_sweep_of_python_saves_what_it_trains(engine: str, number: int, tmp_path: Path) -> None:
    options = {"engine": engine, "device": "cpu", "train_size": 1000, "test_size": 100}
    call = f"import nnlab; nnlab.sweep({ {**options, 'stopping.max_epochs': 1000}!r}, study='s')"
    with subprocess.Popen(
        [sys.executable, "-c", call], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        trains(tmp_path / "outputs" / "s")
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == -number
    assert said.rstrip().endswith(GOES_ON)
    assert ("Traceback" in said) == (number == signal.SIGINT)
    (run,) = runs_of(tmp_path / "outputs" / "s")
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "interrupted"
    state = checkpoint.load(run / ".checkpoint.safetensors", result["parameters"])
    assert state is not None
    assert len(state.epochs) == result["epochs"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no nohup")
def test_what_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = start(*CASES["native"], *SMALL, cwd=tmp_path)
    finally:
        signal.signal(signal.SIGHUP, before)
    trains(tmp_path / "outputs" / "s")
    os.kill(process.pid, signal.SIGHUP)
    ended = process.end()
    assert ended.status == 0, ended.said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kill", "number"), [(os.kill, signal.SIGTERM), (os.killpg, signal.SIGINT)], ids=["one", "all"]
)
def test_joblibs_workers_stop_with_the_command(
    kill: Callable[[int, int], None], number: int, tmp_path: Path
) -> None:
    """Whether only the command gets the signal, as from Slurm's scancel --batch, or the workers,
    too, as by Ctrl-C: one of them has nothing to save."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    command = (
        *("hydra/launcher=joblib", "train_size=20,1000", "batch_size=1", "test_size=100"),
        *("model.hidden=[2000]", "stopping.max_epochs=30", "study=s"),
    )
    study = tmp_path / "outputs" / "s"
    process = start(*command, cwd=tmp_path)
    while len(list(study.glob("*/metrics.csv"))) < 2 or "finished" not in statuses(study):
        time.sleep(0.01)
    kill(process.pid, number)
    assert_stopped(process.end(limit=30), number)
    until = time.monotonic() + 20
    while "running" in statuses(study) and time.monotonic() < until:
        time.sleep(0.1)
    assert statuses(study) == {"finished", "interrupted"}
    assert start(*command, cwd=tmp_path).end().status == 0
    found = numbers(study)
    study.rename(tmp_path / "disturbed")
    assert warm.run(*command[1:], cwd=tmp_path).status == 0
    assert numbers(study) == found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
@pytest.mark.parametrize("training", [False, True], ids=["begin", "train or wait"])
def test_joblibs_workers_end_after_a_command_that_is_killed(training: bool, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    command = (
        *("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "train_size=20,1000"),
        *("model.hidden=[500]", "stopping.max_epochs=1000", "test_size=20", "study=s"),
    )
    study = tmp_path / "outputs" / "s"
    process = start(*command, cwd=tmp_path)
    workers: list[str] = []
    while len(workers) < 2:
        workers = children(process.pid, "LokyProcess")
        time.sleep(0.01)
    # Those that have not got their runs, whose imports these are, end after five minutes.
    while not all("yaml" in Path(f"/proc/{each}/maps").read_text() for each in workers):
        time.sleep(0.01)
    while training and statuses(study) != {"finished", "running"}:
        time.sleep(0.01)
    process.kill()
    process.end()
    until = time.monotonic() + 20
    while any(map(os.path.exists, map("/proc/{}".format, workers))):
        assert time.monotonic() < until, "they are there still"
        time.sleep(0.1)
    runs = runs_of(study) if study.exists() else []
    assert [run.name for run in runs if claims.owner(run) is not None] == []


def children(pid: int, name: str) -> list[str]:
    """Return the processes that one has started, of those whose command line has a name."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [each for each in found if name in Path(f"/proc/{each}/cmdline").read_text()]


def numbers(study: Path) -> dict[str, Any]:
    runs = {run.name: content_of_run(run) for run in runs_of(study)}
    return {name: (content["metrics"], content["weights"]) for name, content in runs.items()}
