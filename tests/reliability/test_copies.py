"""Two processes never write one run folder: copies of a command divide its runs."""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from nnlab import claims
from tests.reliability import warm
from tests.reliability.studies import (
    Ended,
    Process,
    assert_same,
    content_of,
    runs_of,
    trained,
)

# Some hundredths of a second a run, and one long one.
SWEEP = (
    *("train_size=1000,100,110,120,130,140", "optimizer.momentum=0.9", "model.hidden=[32]"),
    *("stopping.max_epochs=50", "test_size=100", "study=s", "checkpoint.seconds=0"),
)


@functools.cache
def undisturbed() -> dict[str, Any]:
    """Return what one command alone leaves."""
    with tempfile.TemporaryDirectory() as folder:
        alone = warm.run(*SWEEP, cwd=Path(folder))
        assert alone.status == 0, alone.said
        return content_of(Path(folder) / "outputs" / "s")


def copies(count: int, apart: float, cwd: Path) -> list[Ended]:
    """Start copies of one command, each so many seconds after the one before."""
    processes = []
    for _ in range(count):
        processes.append(warm.Command(SWEEP, cwd))
        time.sleep(apart)
    return [process.end() for process in processes]


@pytest.mark.parametrize(("count", "apart"), [(2, 0.4), (4, 0.0)])
def test_copies_of_a_sweep_train_each_run_once(count: int, apart: float, tmp_path: Path) -> None:
    study = tmp_path / "outputs" / "s"
    for ended in copies(count, apart, tmp_path):
        assert ended.status == 0, ended.said
        assert "Traceback" not in ended.said
    assert_same(content_of(study), undisturbed())
    assert [trained(folder) for folder in runs_of(study)] == [1] * 6


def machine(name: str) -> list[str]:
    """Return what starts a command as on a machine of its own, whose processes have numbers of
    their own: there it is process 1."""
    leave = ["--map-root-user"] if os.geteuid() else []
    named = ("sh", "-c", 'echo "$0" > /proc/sys/kernel/hostname && exec "$@"', name)
    return ["unshare", *leave, "--uts", "--pid", "--fork", "--kill-child", *named]


def copy(cwd: Path, host: str = "") -> Process | warm.Command:
    """Start a copy of the sweep, on a machine of its own if that has a name."""
    return Process(SWEEP, cwd, within=machine(host)) if host else warm.Command(SWEEP, cwd)


def need_machines() -> None:
    allowed = shutil.which("unshare") and subprocess.call([*machine("alpha"), "true"]) == 0
    if not allowed:
        pytest.skip("needs unshare, and leave to make namespaces")


@pytest.mark.parametrize("seed", [0, *(pytest.param(i, marks=pytest.mark.long) for i in range(10))])
def test_two_machines_on_one_folder_train_each_run_once(seed: int, tmp_path: Path) -> None:
    """Two processes on each, all of the same number: only their claims tell them apart."""
    need_machines()
    study = tmp_path / "outputs" / "s"
    chance = random.Random(seed)
    processes = []
    for host in ("alpha", "beta") * 2:
        processes.append(copy(tmp_path, host))
        time.sleep(chance.choice((0, chance.uniform(0, 0.5))))
    for ended in [process.end() for process in processes]:
        assert ended.status == 0, ended.said
        assert "Traceback" not in ended.said
    assert_same(content_of(study), undisturbed())
    assert [trained(folder) for folder in runs_of(study)] == [1] * 6


@pytest.mark.long
@pytest.mark.parametrize("seed", range(30))
def test_many_copies_some_of_them_killed(seed: int, tmp_path: Path) -> None:
    some_are_killed(seed, tmp_path)


def test_copies_of_which_one_is_killed(tmp_path: Path) -> None:
    some_are_killed(1000, tmp_path)


def test_two_machines_of_which_one_dies(tmp_path: Path) -> None:
    need_machines()
    some_are_killed(1001, tmp_path, "alpha", "beta")


def some_are_killed(seed: int, tmp_path: Path, here: str = "", there: str = "") -> None:
    """What a dead copy had begun, another goes on with; what it left when that had looked
    already is cleared by the next."""
    study = tmp_path / "outputs" / "s"
    chance = random.Random(seed)
    doomed = copy(tmp_path, here)
    time.sleep(chance.uniform(0, 0.7))
    other = copy(tmp_path, there)
    while not list(study.glob("*/metrics.csv")) and doomed.poll() is None:
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.5))
    doomed.kill()
    doomed.end()
    for command in (other, None):
        ended = (command or copy(tmp_path, there)).end()
        assert ended.status == 0, ended.said
        assert "Traceback" not in ended.said
    assert_same(content_of(study), undisturbed())
    assert all(trained(folder) <= 1 + (seed != 1000) for folder in runs_of(study))


def test_two_commands_on_one_study(tmp_path: Path) -> None:
    """Sweeps that share runs, by another name too, and one that retrains them all."""
    other = [argument for argument in SWEEP if "train_size" not in argument]
    processes = [
        warm.Command(SWEEP, tmp_path),
        warm.Command((*other, "train_size=100,110,150"), tmp_path),
        warm.Command((*other, "train_size=100,120", "force=true"), tmp_path),
    ]
    for process in processes:
        ended = process.end()
        assert ended.status == 0, ended.said
        assert "Traceback" not in ended.said
    study = tmp_path / "outputs" / "s"
    found = content_of(study)
    assert len(runs_of(study)) == 7
    (tmp_path / "outputs").rename(tmp_path / "disturbed")
    assert warm.run(*other, "train_size=1000,100,110,120,130,140,150", cwd=tmp_path).status == 0
    expected = content_of(study)
    for folder in runs_of(study):
        for part in ("metrics", "weights"):
            assert found[folder.name][part] == expected[folder.name][part]


def test_a_foreign_owner_is_named(tmp_path: Path) -> None:
    """The second copy says which process and host it waits for."""
    command = (*SWEEP, "stopping.max_epochs=1000", "checkpoint.seconds=30")
    first = warm.Command(command, tmp_path)
    study = tmp_path / "outputs" / "s"
    while len(list(study.glob("*/metrics.csv"))) < 2:
        assert first.poll() is None
        time.sleep(0.002)
    second = warm.run(*command, cwd=tmp_path)
    assert first.end().status == 0
    assert second.status == 0, second.said
    result = json.loads((study / "train_size=1000" / "result.json").read_text())
    assert result["epochs"] == 1000
    assert f"process {first.pid} on " in second.said


def test_equal_process_numbers_are_two_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in two containers that share a folder."""
    monkeypatch.setattr("os.getpid", lambda: 7)
    with claims.Claim(tmp_path) as first, claims.Claim(tmp_path) as second:
        assert first.path != second.path
        assert first.owner["process"] == second.owner["process"] == 7
        for claim in (first, second):
            assert claims.held(claim.path)
    assert not list(tmp_path.glob(".process-*"))
