"""Sweeps on a real Ray cluster: the local launcher's numbers, whatever becomes of its nodes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nnlab import claims, extras
from nnlab.clusters import ray as clusters_ray
from tests.cluster import ray_cluster
from tests.reliability import studies
from tests.reliability.studies import assert_same, content_of

pytest.importorskip("ray", reason="Ray is not installed: pip install 'nnlab[ray]'")
pytestmark = pytest.mark.cluster

QUESTIONS = "evaluation=[weights]"
QUICK = (
    "train_size=60,80",
    "optimizer.lr=0.01,0.1",
    "seed=0,1",
    "stopping.max_epochs=3",
    QUESTIONS,
)
LONG = (  # enough to be disturbed
    *("train_size=1000", "optimizer.lr=0.01,0.1", "seed=0,1,2", "model.hidden=[32]"),
    *("stopping.max_epochs=400", "checkpoint.seconds=0.2"),
)
MULTIRUN = "-m"
MORE = ray_cluster.CPUS + 1  # CPUs, than the first node has


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ray_cluster.ENVIRONMENT.items():
        monkeypatch.setitem(studies.ENVIRONMENT, name, value)


@pytest.fixture(scope="module")
def two() -> Iterator[ray_cluster.Cluster]:
    """A cluster of two nodes that nobody harms."""
    with ray_cluster.running() as cluster:
        cluster.add()
        yield cluster


@pytest.fixture(scope="module")
def fragile() -> Iterator[ray_cluster.Cluster]:
    """A cluster whose second node is killed, and started again."""
    with ray_cluster.running() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Return what the local launcher leaves of a sweep."""
    known: dict[tuple[str, ...], dict[str, Any]] = {}

    def of(*arguments: str) -> dict[str, Any]:
        if arguments not in known:
            folder = tmp_path_factory.mktemp("local")
            ended = studies.run(*arguments, MULTIRUN, cwd=folder)
            assert ended.status == 0, ended.said
            known[arguments] = numbers(folder)
        return known[arguments]

    return of


def numbers(folder: Path) -> dict[str, Any]:
    """Return what must not depend on the launcher, of the study in a folder."""
    content = content_of(folder / "outputs/mnist")
    return {
        name: {k: v for k, v in part.items() if k != "hydra"} if isinstance(part, dict) else part
        for name, part in content.items()
    }


def on(cluster: ray_cluster.Cluster, *options: str) -> tuple[str, ...]:
    """Return the arguments of a command that trains on a cluster."""
    launcher = "hydra.launcher.{}".format
    given = [launcher(option) for option in (f"address='{cluster.address}'", *options)]
    return ("hydra/launcher=ray", *given, MULTIRUN)


def training(*nodes: ray_cluster.Node, several: int = 1) -> list[int]:
    """Wait until some workers of nodes train; return their processes."""
    until = time.monotonic() + studies.LIMIT
    while time.monotonic() < until:
        pids = [pid for node in nodes for pid in node.workers()]
        if len(pids) >= several:
            return pids
        time.sleep(0.1)
    raise TimeoutError("no worker trains")


def wait_for_rows(folder: Path, count: int) -> None:
    """Wait until so many runs of the study in a folder have begun to train."""
    until = time.monotonic() + studies.LIMIT
    while len(list(folder.glob("outputs/mnist/*/metrics.csv"))) < count:
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_in_any_number_of_batches_the_numbers_are_the_same(
    count: int, two: ray_cluster.Cluster, local: Any, tmp_path: Path
) -> None:
    ended = studies.run(*QUICK, *on(two, f"batches={count}"), cwd=tmp_path)
    assert ended.status == 0, ended.said
    assert "8 of 8 runs done" in ended.out
    assert_same(numbers(tmp_path), local(*QUICK))
    assert not (tmp_path / "outputs/mnist" / claims.BATCHES).exists()
    assert "ray" not in ended.said.lower()  # it says nothing of its own
    assert ended.err == ""


def test_a_cluster_of_its_own_needs_no_address(local: Any, tmp_path: Path) -> None:
    launcher = ("hydra/launcher=ray", "hydra.launcher.batches=2", MULTIRUN)
    ended = studies.run(*QUICK, *launcher, cwd=tmp_path)
    assert ended.status == 0, ended.said
    assert_same(numbers(tmp_path), local(*QUICK))
    assert ended.err == ""


def test_a_node_that_is_killed_costs_what_it_trained(
    fragile: ray_cluster.Cluster, local: Any, tmp_path: Path
) -> None:
    node = fragile.add()
    command = studies.start(*LONG, *on(fragile, "batches=6"), cwd=tmp_path)
    training(node)
    wait_for_rows(tmp_path, 2)
    node.kill()
    ended = command.end()
    assert ended.status == 0, ended.said
    assert_same(numbers(tmp_path), local(*LONG))


def test_a_worker_that_is_killed_is_replaced(
    two: ray_cluster.Cluster, local: Any, tmp_path: Path
) -> None:
    command = studies.start(*LONG, *on(two, "batches=4"), cwd=tmp_path)
    for number in (signal.SIGKILL, signal.SIGTERM):
        wait_for_rows(tmp_path, 1)
        os.kill(training(*two.nodes)[0], number)
        time.sleep(1)
    ended = command.end()
    assert ended.status == 0, ended.said
    assert_same(numbers(tmp_path), local(*LONG))


def test_a_node_that_sees_no_file_of_the_study_sends_them(
    fragile: ray_cluster.Cluster, local: Any, tmp_path: Path
) -> None:
    node = fragile.add(hidden=tmp_path.parent)
    sweep = (*LONG, QUESTIONS)
    command = studies.start(*sweep, *on(fragile, "batches=6"), cwd=tmp_path)
    training(node)
    ended = command.end()
    assert ended.status == 0, ended.said
    assert_same(numbers(tmp_path), local(*sweep))


def test_what_has_arrived_of_a_lost_node_is_not_trained_again(
    fragile: ray_cluster.Cluster, local: Any, tmp_path: Path
) -> None:
    node = fragile.add(hidden=tmp_path.parent, cpus=MORE)
    one, sweep = ("batches=1", f"num_cpus={MORE}"), (*LONG, "stopping.max_epochs=1500")
    command = studies.start(*sweep, *on(fragile, *one), cwd=tmp_path)
    wait_for_rows(tmp_path, 1)
    node.kill()
    time.sleep(2)  # what was sent arrives
    arrived = states(tmp_path)
    assert 0 < len(arrived) < 6
    fragile.add(hidden=tmp_path.parent, cpus=MORE)
    ended = command.end()
    assert ended.status == 0, ended.said
    assert_same(numbers(tmp_path), local(*sweep))
    assert arrived.items() <= states(tmp_path).items()


def states(folder: Path) -> dict[str, int]:
    """Return when each run of the study in a folder was put there."""
    paths = folder.glob("outputs/mnist/*/result.json")
    return {path.parent.name: path.stat().st_mtime_ns for path in paths}


def test_two_commands_on_one_study_train_each_run_once(
    two: ray_cluster.Cluster, local: Any, tmp_path: Path
) -> None:
    commands = [studies.start(*LONG, *on(two, "batches=3"), cwd=tmp_path) for _ in range(2)]
    for command in commands:
        ended = command.end()
        assert ended.status == 0, ended.said
    assert_same(numbers(tmp_path), local(*LONG))
    runs = studies.runs_of(tmp_path / "outputs/mnist")
    assert [studies.trained(run) for run in runs] == [1] * len(runs)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_the_same_command_goes_on_after_it_was_stopped(
    number: int, two: ray_cluster.Cluster, local: Any, tmp_path: Path
) -> None:
    arguments = (*LONG, *on(two, "batches=3"))
    command = studies.start(*arguments, cwd=tmp_path)
    training(*two.nodes)
    wait_for_rows(tmp_path, 2)
    os.kill(command.pid, number)
    ended = command.end()
    if number == signal.SIGKILL:
        assert ended.status == -number
    else:
        assert ended.status == 128 + number
        assert "the same command goes on from here" in ended.err
        assert "Traceback" not in ended.said
    ended = studies.run(*arguments, cwd=tmp_path)
    assert ended.status == 0, ended.said
    assert_same(numbers(tmp_path), local(*LONG))


# Bad input


def test_an_address_that_does_not_answer(tmp_path: Path) -> None:
    launcher = ("hydra/launcher=ray", "hydra.launcher.address='127.0.0.1:9'")
    refused(
        studies.run(*QUICK, *launcher, MULTIRUN, cwd=tmp_path), tmp_path, "127.0.0.1:9", "refused"
    )


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("nonsense", "Invalid address"),
        ("'a:b:c'", "Invalid address"),
        ("'ray://127.0.0.1:10001'", "address=auto or host:port"),
    ],
)
def test_an_address_that_is_none(address: str, words: str, tmp_path: Path) -> None:
    launcher = ("hydra/launcher=ray", f"hydra.launcher.address={address}")
    refused(studies.run(*QUICK, *launcher, MULTIRUN, cwd=tmp_path), tmp_path, words)


def test_more_than_any_node_has(two: ray_cluster.Cluster, tmp_path: Path) -> None:
    for option in ("num_cpus=3", "num_gpus=1"):
        ended = studies.run(*QUICK, *on(two, option), cwd=tmp_path)
        refused(ended, tmp_path, "no node of the Ray cluster has as much; they have 2 CPUs")


def test_a_node_that_cannot_import_nnlab(
    fragile: ray_cluster.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "site/nnlab"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('not installed here')")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent))
    fragile.add(cpus=MORE)
    ended = studies.run(*QUICK, *on(fragile, "batches=2", f"num_cpus={MORE}"), cwd=tmp_path)
    refused(ended, tmp_path, "install nnlab", "not installed here")
    assert ended.err.count("not installed here") == 1


def test_another_version_of_ray(
    two: ray_cluster.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "site"
    other.mkdir()
    (other / "sitecustomize.py").write_text("import ray\nray.__version__ = '2.0.7'\n")
    path = os.pathsep.join([str(other), studies.ENVIRONMENT.get("PYTHONPATH", "")])
    monkeypatch.setitem(studies.ENVIRONMENT, "PYTHONPATH", path)
    ended = studies.run(*QUICK, *on(two), cwd=tmp_path)
    refused(ended, tmp_path, "Version mismatch", "Ray: 2.0.7")


@pytest.mark.parametrize("option", ["num_cpus=0", "num_gpus=-1", "max_retries=-1"])
def test_options_that_ray_would_refuse(option: str, tmp_path: Path) -> None:
    launcher = ("hydra/launcher=ray", f"hydra.launcher.{option}")
    ended = studies.run(*QUICK, *launcher, MULTIRUN, cwd=tmp_path)
    refused(ended, tmp_path, f"hydra.launcher.{option}", "it must be a finite number, at least")


def refused(ended: studies.Ended, folder: Path, *words: str) -> None:
    """Check that a command said why it did nothing."""
    assert ended.status == 1, ended.said
    assert "Traceback" not in ended.said
    for each in words:
        assert each in ended.err
    assert not list(folder.glob("outputs/*/*/result.json"))


def test_without_ray_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'nnlab\[ray\]'"):
        extras.needed("ray", "ray")


def test_tasks_that_fit() -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {"CPU": 3.0}},
        {"Alive": False, "Resources": {"CPU": 64.0}},
        {"Alive": True, "Resources": {}},
    ]
    assert clusters_ray.fitting(nodes, 1, 0) == 7
    assert clusters_ray.fitting(nodes, 2, 0) == 3
    assert clusters_ray.fitting(nodes, 1, 0.1) == 4
    assert clusters_ray.fitting(nodes, 1, 1) == 1
