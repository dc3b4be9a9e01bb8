"""How many cores there are for a process: by its affinity, its groups, Slurm, and by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnlab import compose, config, cores, memory
from tests.reliability import warm

MANY = 64


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The control groups of a process that may run on many cores, as files."""
    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(MANY)), raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    return tmp_path


def put(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def test_without_limits_they_are_those_of_the_affinity(groups: Path) -> None:
    assert cores.usable() == MANY


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_the_affinity_of_the_process_counts() -> None:
    code = (
        "import os; from nnlab import cores; "
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(cores.usable())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "1\n"


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "3"}, 3),
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "200"}, MANY),
        ({"SLURM_JOB_ID": "7"}, MANY),
        ({"SLURM_CPUS_PER_TASK": "3"}, MANY),  # not in a job: left over in a shell
    ],
)
def test_what_slurm_gave_the_task_counts_in_a_job(
    environment: dict[str, str], count: int, groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cores.usable() == count


@pytest.mark.parametrize(
    ("quota", "count"),
    [
        ("200000 100000", 2),
        ("150000 100000", 2),  # a core and a half keep two threads busy, in part
        ("10000 100000", 1),
        ("50000 25000", 2),
        ("max 100000", MANY),
    ],
)
def test_the_quota_of_a_group_counts(quota: str, count: int, groups: Path) -> None:
    put(groups / "proc/self/cgroup", "0::/job/step\n")
    put(groups / "cgroup/job/step/cpu.max", "max 100000\n")
    put(groups / "cgroup/job/cpu.max", f"{quota}\n")
    assert cores.usable() == count


@pytest.mark.parametrize(("quota", "count"), [("300000", 3), ("250000", 3), ("-1", MANY)])
def test_the_quota_of_a_group_of_version_1_counts(quota: str, count: int, groups: Path) -> None:
    put(groups / "proc/self/cgroup", "4:memory:/x\n3:cpu,cpuacct:/docker/abc\n")
    # In a container the group is found at the root.
    put(groups / "cgroup/cpu/cpu.cfs_quota_us", f"{quota}\n")
    put(groups / "cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert cores.usable() == count


def test_the_least_of_all_counts_and_a_number_by_hand_before_them(
    groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "5")
    put(groups / "proc/self/cgroup", "0::/job\n")
    put(groups / "cgroup/job/cpu.max", "400000 100000\n")
    assert cores.usable() == 4
    assert cores.usable(7) == 7


def test_none_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cores=0"):
        compose.load(["cores=0"])


def test_they_are_no_part_of_what_a_run_is() -> None:
    known = [config.fingerprint(compose.load([f"cores={count}"])) for count in ("null", 1, 3)]
    assert known[0] == known[1] == known[2]


def test_a_sweep_on_one_core_trains_one_run_at_a_time(tmp_path: Path) -> None:
    sweep = ("train_size=60", "seed=0,1,2", "stopping.max_epochs=3", "cores=1", "-m")
    assert warm.run(*sweep, cwd=tmp_path, draw=False).status == 0
    results = [
        json.loads(path.read_text()) for path in tmp_path.glob("outputs/mnist/*/result.json")
    ]
    assert [each["concurrent_runs"] for each in results] == [1, 1, 1]


def test_a_large_run_has_the_cores_that_are_free_and_the_same_bits(tmp_path: Path) -> None:
    run = ("engine=native", "train_size=192", "valid_size=50", "stopping.max_epochs=2", "cores=2")
    large = ("model.hidden=[256,256]", "batch_size=64")
    asked = {
        "team": (*large,),
        "capped": (*large, "threads=1"),
        "small": (),
    }
    found = {}
    for name, options in asked.items():
        assert warm.run(*run, *options, cwd=tmp_path / name, draw=False).status == 0
        (path,) = (tmp_path / name).glob("outputs/mnist/*/result.json")
        rows = [row.rpartition(",")[0] for row in path.with_name("metrics.csv").read_text().split()]
        weights = path.with_name("model.safetensors").read_bytes()
        found[name] = json.loads(path.read_text()), rows, weights
    assert {name: each["most_threads"] for name, (each, _, _) in found.items()} == {
        "team": 2,
        "capped": 1,
        "small": 1,
    }
    (team, *numbers), (capped, *expected), _ = found.values()
    assert numbers == expected
    assert team["fingerprint"] == capped["fingerprint"]


def test_a_run_of_a_batch_has_the_configuration_of_a_local_one(tmp_path: Path) -> None:
    run = ("train_size=60", "seed=0,1", "stopping.max_epochs=3", "-m")
    batches = ("hydra/launcher=batches", "hydra.launcher.batches=1")
    configs = []
    for folder, more in ((tmp_path / "local", ()), (tmp_path / "batches", batches)):
        ended = warm.run(*run, *more, cwd=folder, draw=False)
        assert ended.status == 0, ended.said
        results = sorted(folder.glob("outputs/mnist/*/result.json"))
        configs.append([json.loads(path.read_text())["config"] for path in results])
    assert len(configs[0]) == 2
    assert configs[1] == configs[0]
