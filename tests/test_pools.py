"""Sweeps in batches in the workers of each executor: the numbers of one process."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import random
import re
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nnlab import claims
from nnlab.clusters import pools
from tests.reliability import warm
from tests.reliability.studies import assert_same, content_of, trained
from tests.test_batches import without_launcher

SWEEP = ("train_size=60,80", "seed=0,1", "stopping.max_epochs=3", "-m")
SLOW = ("train_size=500", "seed=0,1,2,3", "stopping.max_epochs=120", "-m")
MODULES = {"dask": "distributed"}  # of executors whose library has another name


def executors() -> Iterator[Any]:
    for name in pools.POOLS:
        module = MODULES.get(name, name)
        there = name == "processes" or importlib.util.find_spec(module) is not None
        missing = pytest.mark.skipif(not there, reason=f"needs {module}: 'nnlab[pools]'")
        yield pytest.param(name, marks=missing)


each_executor = pytest.mark.parametrize("executor", list(executors()))


def on(executor: str, **options: Any) -> list[str]:
    given = {"executor": executor, "batches": 2, "workers": 2, **options}
    return ["hydra/launcher=batches", *(f"hydra.launcher.{k}={v}" for k, v in given.items())]


@functools.cache
def local(*overrides: str) -> dict[str, Any]:
    """Train as the local launcher does; return the study's content."""
    with tempfile.TemporaryDirectory() as folder:
        ended = warm.run(*overrides, cwd=Path(folder), draw=False)
        assert ended.status == 0, ended.said
        return without_launcher(content_of(Path(folder) / "outputs/mnist"))


@each_executor
def test_the_numbers_are_those_of_the_local_launcher(executor: str, tmp_path: Path) -> None:
    expected = local(*SWEEP)
    ended = warm.run(*SWEEP, *on(executor), cwd=tmp_path, draw=False)
    assert ended.status == 0, ended.said
    assert_same(without_launcher(content_of(tmp_path / "outputs/mnist")), expected)
    assert "4 of 4 runs done" in ended.out


@pytest.mark.slow
@each_executor
def test_a_worker_that_is_killed_costs_no_finished_run(executor: str, tmp_path: Path) -> None:
    expected = local(*SLOW)
    command = warm.Command([*SLOW, *on(executor)], cwd=tmp_path, draw=False)
    study = tmp_path / "outputs/mnist"
    try:
        os.kill(workers(study, command)[0], signal.SIGKILL)
    finally:
        ended = command.end()
    assert ended.status == 0, ended.said
    found = without_launcher(content_of(study))
    assert_same(found, expected)
    assert [trained(study / f"seed={seed}") for seed in range(4)] == [1] * 4


@pytest.mark.long
def test_twenty_killed_workers_change_nothing_of_two_thousand_runs(tmp_path: Path) -> None:
    many = ("seed=range(2000)", "train_size=100", "test_size=50", "stopping.max_epochs=40", "-m")
    expected = local(*many)
    given = on("processes", batches=40, cores_per_worker=1)
    command = warm.Command([*many, *given], cwd=tmp_path, draw=False)
    study, chance, killed = tmp_path / "outputs/mnist", random.Random(0), set[int]()
    while command.poll() is None and len(killed) < 20:
        time.sleep(chance.uniform(0.3, 2))
        logs = [path.read_text() for path in (study / claims.BATCHES).glob("*.log")]
        begun = {int(pid) for log in logs for pid in re.findall(r"process (\d+): \d+ runs", log)}
        if living := sorted(each for each in begun - killed if alive(each)):
            chosen = chance.choice(living)
            killed.add(chosen)
            with contextlib.suppress(ProcessLookupError):
                os.kill(chosen, signal.SIGKILL)
    ended = command.end(limit=1200)
    assert ended.status == 0, ended.said
    assert len(killed) == 20
    assert_same(without_launcher(content_of(study)), expected)


@pytest.mark.slow
@each_executor
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_process_behind(
    executor: str, number: signal.Signals, tmp_path: Path
) -> None:
    long = [each.replace("=120", "=100000") for each in SLOW]
    command = warm.Command([*long, *on(executor)], cwd=tmp_path, draw=False)
    found: list[int] = []
    try:
        found = workers(tmp_path / "outputs/mnist", command)
        # A terminal sends Ctrl-C to all of the command's processes.
        (os.killpg if number == signal.SIGINT else os.kill)(command.pid, number)
    finally:
        ended = command.end()
    assert ended.status == 128 + number, ended.said
    until = time.monotonic() + 30
    while (left := [each for each in found if alive(each)]) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left
    assert not (tmp_path / "outputs/mnist" / claims.BATCHES).exists()


def workers(study: Path, command: warm.Command) -> list[int]:
    """Wait for a command's two workers to train; return their process ids."""
    while command.poll() is None:
        logs = [path.read_text() for path in (study / claims.BATCHES).glob("*.log")]
        begun = [int(pid) for log in logs for pid in re.findall(r"process (\d+): \d+ runs", log)]
        if len(begun) == 2 and len(list(study.glob("*/metrics.csv"))) >= 2:
            return begun
        time.sleep(0.05)
    pytest.fail(f"it ended before its workers trained: {command.end().said}")


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@each_executor
def test_an_option_that_it_does_not_have_is_one_message(executor: str, tmp_path: Path) -> None:
    ended = warm.run(*SWEEP, *on(executor), "+hydra.launcher.options.colour=red", cwd=tmp_path)
    assert ended.status == 1, ended.said
    start = f"hydra.launcher.executor={executor}, hydra.launcher.options={{'colour': 'red'}}: "
    assert start in ended.err
    said = ended.err.split(start)[1]  # Dask's own log may be before it
    assert "colour" in said
    assert "Traceback" not in said
    assert not list((tmp_path / "outputs").glob("*/*/result.json"))


def test_an_executor_that_is_not_known_is_refused_with_the_nearest(tmp_path: Path) -> None:
    ended = warm.run(*SWEEP, *on("lokey"), cwd=tmp_path)
    assert ended.status == 1
    assert "hydra.launcher.executor=lokey is not known; choose one of processes, " in ended.err
    assert "Did you mean 'loky'?" in ended.err


@pytest.mark.parametrize("executor", [name for name in pools.POOLS if name != "processes"])
def test_a_library_that_is_missing_is_named(executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", missing)
    module = MODULES.get(executor, executor)
    with (
        pytest.raises(ValueError, match=rf"{module} is needed.*pip install 'nnlab\[pools\]'"),
        pools.POOLS[executor](1),
    ):
        pass
