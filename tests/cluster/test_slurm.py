"""Sweeps on a real Slurm: the numbers of one machine, whatever becomes of jobs and commands."""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from nnlab import claims, records
from tests.cluster import real_slurm
from tests.reliability import studies
from tests.reliability.studies import assert_same, content_of, run, runs_of, trained

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        bool(real_slurm.missing()), reason=f"not installed: {', '.join(real_slurm.missing())}"
    ),
]
SLURM = "hydra/launcher=slurm"
SWEEP = ("train_size=60,80", "optimizer.lr=0.01,0.1", "seed=0,1", "stopping.max_epochs=3", "-m")
STUDY = Path("outputs/mnist")
Start: TypeAlias = Callable[..., studies.Process]
LIMIT = 300  # seconds for a command
# Runs of some seconds, one batch each
LONG = ("engine=torch", "train_size=500", "seed=0,1,2", "checkpoint.seconds=1", "test_size=100")
EACH = (SLURM, "hydra.launcher.batches=3", "-m")


@pytest.fixture(scope="session", autouse=True)
def slurm() -> Iterator[dict[str, str]]:
    with real_slurm.running() as found:
        studies.ENVIRONMENT.update(found)
        yield found
        for name in found:
            del studies.ENVIRONMENT[name]


@pytest.fixture
def start() -> Iterator[Callable[..., studies.Process]]:
    """Start a command, which ends with its test at the latest."""
    started: list[studies.Process] = []

    def start(*arguments: str, cwd: Path) -> studies.Process:
        started.append(studies.start(*arguments, cwd=cwd))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.end()


@pytest.fixture(autouse=True)
def _no_jobs_are_left(slurm: dict[str, str]) -> Iterator[None]:
    yield
    real_slurm.ask(f"scancel -u {real_slurm.user()}", slurm)
    until(lambda: not real_slurm.ask("squeue -h", slurm).strip())


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A sweep as the local launcher trains it."""
    return trained_here(*SWEEP, cwd=tmp_path_factory.mktemp("local"))


def trained_here(*arguments: str, cwd: Path) -> dict[str, Any]:
    ended = run(*arguments, cwd=cwd)
    assert ended.status == 0, ended.said
    return numbers(cwd / STUDY)


def numbers(study: Path) -> dict[str, Any]:
    """Return the content of a study, but for what says by which launcher it was trained."""
    content = content_of(study)
    for part in content.values():
        if isinstance(part, dict):
            part.pop("hydra")
    return content


def jobs(slurm: dict[str, str], options: str = "-t all") -> dict[str, str]:
    """Return the states of Slurm's jobs by their ids."""
    listed = real_slurm.ask(f"squeue -h -r -o '%i|%T' {options}", slurm)
    return dict(line.split("|") for line in listed.splitlines())


def until(holds: Callable[[], Any]) -> Any:
    """Wait for something to hold; return what it is."""
    end = time.monotonic() + 60
    while not (found := holds()):
        assert time.monotonic() < end, "waited for a minute"
        time.sleep(0.1)
    return found


def under_way(study: Path) -> list[Path]:
    """Return the folders of runs that train, and have a checkpoint."""
    if not study.exists():
        return []
    return [each for each in runs_of(study) if (each / records.CHECKPOINT).exists() and owner(each)]


def owner(folder: Path) -> dict[str, Any] | None:
    try:
        return claims.owner(folder)
    except (OSError, ValueError):
        return None


def epochs(count: int) -> str:
    return f"stopping.max_epochs={count}"


@pytest.mark.parametrize("count", [1, 3, 8])  # the last are two arrays
def test_in_any_number_of_batches_the_numbers_are_the_same(
    count: int, local: dict[str, Any], tmp_path: Path
) -> None:
    assert real_slurm.MOST_TASKS < 8
    ended = run(*SWEEP, SLURM, f"hydra.launcher.batches={count}", cwd=tmp_path)
    assert ended.status == 0, ended.said
    assert_same(numbers(tmp_path / STUDY), local)
    assert "8 of 8 runs done" in ended.out
    assert not (tmp_path / STUDY / claims.BATCHES).exists()


def test_a_plan_counts_how_many_batches_of_an_array_may_run(tmp_path: Path) -> None:
    options = ("hydra.launcher.batches=8", "hydra.launcher.array_parallelism=1")
    ended = run(*SWEEP, SLURM, *options, "plan=true", cwd=tmp_path)
    assert ended.status == 0, ended.said
    assert "8 runs are 8 batches" in ended.out
    assert "2 at a time" in ended.out  # of two arrays
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cores", [1, 2])
def test_a_batch_uses_the_cores_that_it_was_given(cores: int, tmp_path: Path) -> None:
    ended = run(
        *("engine=native", "seed=0,1,2,3", "train_size=1000", epochs(30), "test_size=100", "-m"),
        *(SLURM, "hydra.launcher.batches=1", f"hydra.launcher.cpus_per_task={cores}"),
        cwd=tmp_path,
    )
    assert ended.status == 0, ended.said
    results = [json.loads((each / "result.json").read_text()) for each in runs_of(tmp_path / STUDY)]
    assert max(each["concurrent_runs"] for each in results) == cores


def test_a_time_out_goes_on_from_the_checkpoint(
    start: Start, slurm: dict[str, str], tmp_path: Path
) -> None:
    """A job of one minute gets its signal within its first half, and is queued again."""
    given = ("engine=torch", "train_size=500", epochs(1500), "checkpoint.seconds=20")
    process = start(
        *(*given, SLURM, "hydra.launcher.batches=1", "hydra.launcher.timeout_min=1"),
        *("hydra.launcher.max_num_timeout=20", "hydra.launcher.max_retries=0"),
        cwd=tmp_path / "slurm",
    )
    here = start(*given, cwd=tmp_path / "local")
    for each in (process, here):
        ended = each.end(LIMIT)
        assert ended.status == 0, ended.said
    assert_same(numbers(tmp_path / "slurm" / STUDY), numbers(tmp_path / "local" / STUDY))
    log = (tmp_path / "slurm" / STUDY / "default/run.log").read_text()
    assert re.search(r"goes on after epoch \d+", log), log


def test_time_outs_end_after_as_many_as_were_allowed(
    start: Start, slurm: dict[str, str], tmp_path: Path
) -> None:
    """On a busy machine Slurm's own signal may come before the run has begun."""
    before = set(jobs(slurm))
    process = start(
        *("engine=torch", "train_size=500", epochs(100_000), SLURM, "hydra.launcher.batches=1"),
        *("hydra.launcher.timeout_min=1", "hydra.launcher.max_num_timeout=0"),
        cwd=tmp_path,
    )
    until(lambda: (tmp_path / STUDY / "default").exists() or process.poll() is not None)
    for job in set(jobs(slurm, "-t R")) - before:
        real_slurm.ask(f"scancel --signal=USR2 {job}", slurm)
    ended = process.end(LIMIT)
    assert ended.status == 1
    assert "timed-out too many times" in ended.err, ended.said
    assert len(set(jobs(slurm)) - before) == 1  # not sent again


def test_a_batch_that_was_cancelled_is_told_and_the_others_end(
    start: Start, slurm: dict[str, str], tmp_path: Path
) -> None:
    process = start(*LONG, epochs(150), *EACH, cwd=tmp_path)
    victim = until(lambda: next(iter(under_way(tmp_path / STUDY)), None))
    before = set(jobs(slurm))
    job = job_of(owner(victim))
    real_slurm.ask(f"scancel {job}", slurm)
    ended = process.end(LIMIT)
    assert ended.status == 1, ended.said
    kept = {victim.name, claims.BATCHES}
    others = [each for each in runs_of(tmp_path / STUDY) if each.name not in kept]
    assert len(others) == 2
    assert all(json.loads((each / "result.json").read_text())["status"] for each in others)
    told = rf"{victim.name}: batch \S+ was lost: .* job {job} of Slurm is CANCELLED.*; see (\S+)"
    found = re.search(told, ended.err)
    assert found, ended.said
    assert "stopped by SIGTERM" in (tmp_path / found[1]).read_text()
    assert set(jobs(slurm)) <= before  # none was sent again


def job_of(process: dict[str, Any] | None) -> str:
    """Return the job in which a process trains."""
    assert process is not None
    environment = Path(f"/proc/{process['process']}/environ").read_bytes().decode().split("\0")
    given = dict(each.split("=", 1) for each in environment if "=" in each)
    return f"{given['SLURM_ARRAY_JOB_ID']}_{given['SLURM_ARRAY_TASK_ID']}"


def test_a_batch_that_was_killed_is_sent_again(
    start: Start, slurm: dict[str, str], tmp_path: Path
) -> None:
    process = start(*LONG, epochs(150), *EACH, cwd=tmp_path / "slurm")
    victim = until(lambda: next(iter(under_way(tmp_path / "slurm" / STUDY)), None))
    killed = owner(victim)
    assert killed is not None
    os.kill(killed["process"], signal.SIGKILL)
    ended = process.end(LIMIT)
    assert ended.status == 0, ended.said
    assert re.search(r"batch \S+ was lost \(.*is FAILED.*\); it is sent again", ended.said)
    expected = trained_here(*LONG, epochs(150), "-m", cwd=tmp_path / "local")
    assert_same(numbers(tmp_path / "slurm" / STUDY), expected)
    assert not (tmp_path / "slurm" / STUDY / claims.BATCHES).exists()


@pytest.mark.parametrize("grace", [0, 20])  # seconds that a job has to end by itself
def test_a_batch_that_a_more_urgent_job_displaces_goes_on(
    grace: int, start: Start, slurm: dict[str, str], tmp_path: Path
) -> None:
    given = (*LONG, epochs(80), "-m")
    real_slurm.ask(f"scontrol update PartitionName=main GraceTime={grace}", slurm)
    process = start(
        *(*given, SLURM, "hydra.launcher.batches=2", "hydra.launcher.max_retries=0"),
        f"hydra.launcher.cpus_per_task={real_slurm.CPUS}",
        cwd=tmp_path / "slurm",
    )
    until(lambda: len(under_way(tmp_path / "slurm" / STUDY)) == 2)
    sent = set(jobs(slurm, "-t R"))
    urgent = f"--partition={real_slurm.URGENT} -c {real_slurm.CPUS} --output=/dev/null"
    real_slurm.ask(f"sbatch {urgent} --wrap='sleep 2'", slurm)
    displaced = until(lambda: set(jobs(slurm, "-t PD")) & sent)
    ended = process.end(LIMIT)
    real_slurm.ask("scontrol update PartitionName=main GraceTime=0", slurm)
    assert ended.status == 0, ended.said
    assert len(displaced) == 1
    assert "was lost" not in ended.said
    expected = trained_here(*given, cwd=tmp_path / "local")
    assert_same(numbers(tmp_path / "slurm" / STUDY), expected)
    folders = runs_of(tmp_path / "slurm" / STUDY)
    assert [trained(each) for each in folders] == [1, 1, 1]
    logs = [(each / "run.log").read_text() for each in folders]
    assert sum("goes on after epoch" in log for log in logs) == 1


def test_batches_wait_for_their_turn(start: Start, slurm: dict[str, str], tmp_path: Path) -> None:
    for _ in real_slurm.NODES:
        real_slurm.ask(f"sbatch -c {real_slurm.CPUS} --output=/dev/null --wrap='sleep 600'", slurm)
    until(lambda: len(jobs(slurm, "-t R")) == len(real_slurm.NODES))
    others = jobs(slurm, "-t R")
    real_slurm.ask("sbatch --hold --output=/dev/null --wrap=true", slurm)
    process = start("seed=0,1", epochs(2), *EACH, cwd=tmp_path)
    until(lambda: len(jobs(slurm, "-t PD")) == 1 + 2)
    time.sleep(2)
    real_slurm.ask(f"scancel {' '.join(others)}", slurm)
    ended = process.end(LIMIT)
    assert ended.status == 0, ended.said
    assert "0 of 2 runs done, 2 queued" in ended.out
    assert "JobHeldUser" not in ended.said  # that is another's


def test_a_full_queue_is_told_before_anything_is_written(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    array = f"--array=0-{real_slurm.MOST_TASKS - 1} --output=/dev/null --wrap='sleep 600'"
    while not refused(f"sbatch --test-only {array}"):
        real_slurm.ask(f"sbatch {array}", slurm)
    ended = run("seed=range(0,6)", epochs(2), SLURM, "hydra.launcher.batches=6", cwd=tmp_path)
    assert_refused(ended, tmp_path, "Resource temporarily unavailable", "the queue is full")


def refused(command: str) -> bool:
    words = shlex.split(command)
    return bool(subprocess.run(words, env=studies.ENVIRONMENT, capture_output=True).returncode)


def assert_refused(ended: studies.Ended, folder: Path, *words: str) -> None:
    assert ended.status == 1, ended.said
    assert all(word in ended.err for word in words), ended.said
    assert "Traceback" not in ended.said
    left = {path.name for path in (folder / STUDY).rglob("*")}
    assert left <= {claims.LOCK, "multirun.yaml"}  # the record of the command


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["partition=nowhere"], ["Invalid partition name specified", "sinfo lists"]),
        (["mem_gb=900"], ["Requested node configuration is not available", "lower hydra.launcher"]),
        (["cpus_per_task=64"], ["Requested node configuration is not available", "cpus_per_task"]),
        (["gpus_per_node=1"], ["Invalid generic resource", "gpus_per_node=null"]),
        (["+additional_parameters.constraint=no"], ["Invalid feature specification"]),
    ],
)
def test_what_slurm_does_not_have_is_told_in_its_words(
    options: Sequence[str], words: Sequence[str], tmp_path: Path
) -> None:
    given = [re.sub(r"^(\+?)", r"\1hydra.launcher.", option) for option in options]
    ended = run("seed=0,1", epochs(2), *EACH, *given, cwd=tmp_path)
    assert_refused(ended, tmp_path, "Slurm refuses 2 batches", *words)


@pytest.mark.parametrize(
    ("given", "requeue"),
    [
        (["requeue=false", "comment=null", "nice=0"], "0"),
        (["no-requeue=true"], "0"),
        (["exclusive=false", "comment=none"], "1"),
    ],
)
def test_false_and_null_leave_an_option_of_sbatch_out(
    given: Sequence[str], requeue: str, slurm: dict[str, str], tmp_path: Path
) -> None:
    given = [f"+hydra.launcher.additional_parameters.{each}" for each in given]
    before = set(jobs(slurm))
    ended = run("seed=0,1", epochs(2), *EACH, *given, cwd=tmp_path)
    assert ended.status == 0, ended.said
    for job in set(jobs(slurm)) - before:
        told = real_slurm.ask(f"scontrol show job {job}", slurm)
        assert f"Requeue={requeue} " in told
        assert ("Comment=none" in told) == ("comment=none" in given[-1])


@pytest.mark.parametrize("partition", [[], ["hydra.launcher.partition=urgent"]])
def test_a_time_that_a_partition_does_not_allow_is_refused(
    partition: Sequence[str], tmp_path: Path
) -> None:
    """Slurm itself would have such a job wait for ever."""
    ended = run(*EACH, "seed=0,1", *partition, "hydra.launcher.timeout_min=61", cwd=tmp_path)
    assert_refused(ended, tmp_path, "hydra.launcher.timeout_min=61 exceeds the 60 minutes of")


def test_another_of_several_partitions_may_allow_the_time(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    real_slurm.ask("scontrol update PartitionName=main MaxTime=1-00:01:00", slurm)
    try:
        options = ("hydra.launcher.partition='urgent,main'", "hydra.launcher.timeout_min=1441")
        ended = run("seed=0,1", epochs(2), *EACH, *options, cwd=tmp_path / "both")
        assert ended.status == 0, ended.said
        ended = run("seed=0,1", *EACH, "hydra.launcher.timeout_min=1442", cwd=tmp_path)
    finally:
        real_slurm.ask("scontrol update PartitionName=main MaxTime=60", slurm)
    assert_refused(ended, tmp_path, "exceeds the 1441 minutes of partition main")


@pytest.mark.skipif(
    bool(real_slurm.missing(real_slurm.OF_ACCOUNTS)), reason="slurmdbd, or its database, is missing"
)
def test_what_accounts_do_not_allow_is_told_in_slurms_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sweep = ("seed=0,1,2", epochs(2), *EACH)
    allowed = [
        f"hydra.launcher.account={real_slurm.ACCOUNT}",
        f"hydra.launcher.qos={real_slurm.QOS}",
    ]
    yours, limits = "lists your accounts, partitions and qos", "lower hydra.launcher.batches"
    with real_slurm.running(accounts=True) as found:
        for name, value in found.items():
            monkeypatch.setitem(studies.ENVIRONMENT, name, value)
        for options, words in (
            (["hydra.launcher.account=none"], ["Invalid account", yours]),
            ([allowed[0], "hydra.launcher.qos=none"], ["Invalid qos specification", yours]),
            (allowed, ["Job violates accounting/QOS policy", limits]),
        ):
            ended = run(*sweep, *options, cwd=tmp_path)
            assert_refused(ended, tmp_path, "Slurm refuses 3 batches", *words)
        fewer = f"hydra.launcher.batches={real_slurm.MOST_OF_QOS}"
        ended = run(*sweep, *allowed, fewer, cwd=tmp_path)
    assert ended.status == 0, ended.said


def test_a_folder_in_whose_name_slurm_would_read_a_pattern_is_refused(tmp_path: Path) -> None:
    ended = run("seed=0,1", epochs(2), *EACH, cwd=tmp_path / "50%A")
    assert_refused(ended, tmp_path / "50%A", "Slurm gives % a meaning", "50%A/outputs/mnist")


def test_a_folder_whose_name_would_be_a_command_of_the_script_is_refused(tmp_path: Path) -> None:
    cwd = tmp_path / "a\ntouch called #"
    ended = run("seed=0,1", epochs(2), *EACH, cwd=cwd)
    assert_refused(ended, cwd, "Slurm takes no folder whose name has several lines")


def test_without_sbatch_one_message_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(studies.ENVIRONMENT, "PATH", str(tmp_path))
    ended = run("seed=0,1", epochs(2), *EACH, cwd=tmp_path)
    assert_refused(ended, tmp_path, "hydra/launcher=slurm needs sbatch", "not found on the path")


def test_a_controller_that_does_not_answer_is_told(
    monkeypatch: pytest.MonkeyPatch, slurm: dict[str, str], tmp_path: Path
) -> None:
    text = Path(slurm["SLURM_CONF"]).read_text()
    deaf = re.sub(r"SlurmctldPort=\d+", f"SlurmctldPort={real_slurm.free_ports(1)[0]}", text)
    (tmp_path / "slurm.conf").write_text(deaf + "MessageTimeout=1\n")
    monkeypatch.setitem(studies.ENVIRONMENT, "SLURM_CONF", str(tmp_path / "slurm.conf"))
    ended = run("seed=0,1", epochs(2), *EACH, cwd=tmp_path)
    assert_refused(ended, tmp_path, "Unable to contact slurm controller")


@pytest.mark.skipif(not real_slurm.can_hide(), reason="nodes cannot have their own files here")
def test_a_study_that_nodes_do_not_see_is_told(slurm: dict[str, str]) -> None:
    folder = Path(slurm["SLURM_CONF"]).parent / "hidden/trial"
    ended = run("seed=0,1", epochs(2), *EACH, "hydra.launcher.partition=blind", cwd=folder)
    assert ended.status == 1
    assert "do all nodes see" in ended.err, ended.said
    assert "sent again" not in ended.said


def test_what_goes_on_after_a_killed_command_is_followed(
    start: Start, slurm: dict[str, str], tmp_path: Path
) -> None:
    command = (*LONG, epochs(150), *EACH)
    process = start(*command, cwd=tmp_path)
    until(lambda: under_way(tmp_path / STUDY))
    process.kill()
    process.end()
    before = set(jobs(slurm))
    ended = start(*command, cwd=tmp_path).end(LIMIT)
    assert ended.status == 0, ended.said
    assert "3 runs are on their way already" in ended.said
    assert [trained(each) for each in runs_of(tmp_path / STUDY)] == [1, 1, 1]
    assert set(jobs(slurm)) <= before
    assert not (tmp_path / STUDY / claims.BATCHES).exists()


def test_a_command_that_is_interrupted_leaves_its_jobs(
    start: Start, slurm: dict[str, str], tmp_path: Path
) -> None:
    command = (*LONG, epochs(150), *EACH)
    process = start(*command, cwd=tmp_path)
    until(lambda: under_way(tmp_path / STUDY))
    os.kill(process.pid, signal.SIGINT)
    ended = process.end()
    assert ended.status == 128 + signal.SIGINT
    assert "3 batches of Slurm: they go on without this command" in ended.said
    assert len(jobs(slurm, "-t PD,R")) == 3
    ended = start(*command, cwd=tmp_path).end(LIMIT)
    assert ended.status == 0, ended.said
    assert [trained(each) for each in runs_of(tmp_path / STUDY)] == [1, 1, 1]


def test_ctrl_c_asks_whether_to_cancel(slurm: dict[str, str], tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "nnlab.run", *LONG, epochs(100_000), *EACH],
        cwd=tmp_path,
        env=studies.ENVIRONMENT,
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        until(lambda: under_way(tmp_path / STUDY))
        os.kill(process.pid, signal.SIGINT)
        said = b""
        while b"[y/N]" not in said:
            said += os.read(ours, 1000)
        assert b"Cancel 3 batches of Slurm?" in said
        os.write(ours, b"y\n")
        assert process.wait(LIMIT) == 128 + signal.SIGINT
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    until(lambda: not jobs(slurm, "-t PD,R,CG"))
    assert not list((tmp_path / STUDY / claims.BATCHES).rglob("*.pkl"))


def test_two_commands_train_each_run_once(start: Start, tmp_path: Path) -> None:
    command = (*LONG, epochs(60), *EACH)
    both = [start(*command, cwd=tmp_path) for _ in range(2)]
    for process in both:
        ended = process.end(LIMIT)
        assert ended.status == 0, ended.said
    assert [trained(each) for each in runs_of(tmp_path / STUDY)] == [1, 1, 1]
    assert not (tmp_path / STUDY / claims.BATCHES).exists()


def test_a_command_may_leave_and_another_conclude(slurm: dict[str, str], tmp_path: Path) -> None:
    command = (*LONG, epochs(60), *EACH)
    ended = run(*command, "hydra.launcher.detach=true", cwd=tmp_path)
    assert ended.status == 0, ended.said
    assert "3 batches of Slurm: the same command without hydra.launcher.detach" in ended.said
    before = set(jobs(slurm))
    until(lambda: not jobs(slurm, "-t PD,R,CG"))
    assert not (tmp_path / STUDY / "summary.csv").exists()
    ended = run(*command, cwd=tmp_path)
    assert ended.status == 0, ended.said
    assert set(jobs(slurm)) <= before
    assert (tmp_path / STUDY / "summary.csv").exists()
    assert [trained(each) for each in runs_of(tmp_path / STUDY)] == [1, 1, 1]


def test_a_report_concludes_what_a_command_has_left(slurm: dict[str, str], tmp_path: Path) -> None:
    options = ("hydra.launcher.batches=2", "hydra.launcher.detach=true")
    ended = run("seed=0,1", epochs(2), SLURM, *options, "-m", cwd=tmp_path)
    assert ended.status == 0, ended.said
    until(lambda: not jobs(slurm, "-t PD,R,CG"))
    assert (tmp_path / STUDY / claims.BATCHES).exists()
    ended = run(str(STUDY), cwd=tmp_path, module="nnlab.report")
    assert ended.status == 0, ended.said
    assert (tmp_path / STUDY / "summary.csv").exists()
    assert not (tmp_path / STUDY / claims.BATCHES).exists()


def test_a_report_leaves_what_is_sent_to_be_trained_anew(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    command = ("seed=0,1", epochs(2), SLURM, "hydra.launcher.batches=1", "-m")
    assert run(*command, cwd=tmp_path).status == 0
    later = "+hydra.launcher.additional_parameters.begin=now+600"
    ended = run(*command, "force=true", "hydra.launcher.detach=true", later, cwd=tmp_path)
    assert ended.status == 0, ended.said
    for _ in range(2):
        assert run(str(STUDY), cwd=tmp_path, module="nnlab.report").status == 0
    assert len(list((tmp_path / STUDY / claims.BATCHES).glob("*.json"))) == 1
    assert run(*command, cwd=tmp_path).status == 0  # done already, as it was
    assert len(list((tmp_path / STUDY / claims.BATCHES).glob("*.json"))) == 1


def test_from_within_a_job_batches_get_what_they_ask_for(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    """As in a job of one core, whose variables sbatch would take for options."""
    python = (sys.executable, "-m", "nnlab.run")
    command = ["srun", "--cpus-per-task=1", "--mem=700", *python, "seed=0,1", epochs(2), *EACH]
    ended = subprocess.run(
        [*command, "hydra.launcher.cpus_per_task=2"],
        cwd=tmp_path,
        env=studies.ENVIRONMENT,
        timeout=LIMIT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


needs_jobqueue = pytest.mark.skipif(
    importlib.util.find_spec("dask_jobqueue") is None, reason="needs dask_jobqueue: 'nnlab[pools]'"
)
JOBQUEUE = {"cluster": "SLURMCluster", "cores": 1, "processes": 1, "memory": "1GB"}
BY_DASK = (
    *("hydra/launcher=batches", "hydra.launcher.executor=dask", "hydra.launcher.batches=2"),
    *("hydra.launcher.workers=2", "-m"),
    *(f"+hydra.launcher.options.{name}={value}" for name, value in JOBQUEUE.items()),
)


@needs_jobqueue
def test_jobs_of_dask_that_end_are_replaced(
    start: Start, slurm: dict[str, str], tmp_path: Path
) -> None:
    given = (*LONG, epochs(100), "-m")
    process = start(*given, *BY_DASK, cwd=tmp_path / "slurm")
    study = tmp_path / "slurm" / STUDY
    until(lambda: len(list((study / claims.BATCHES).glob("*.log"))) == 2)  # each in its own job
    until(lambda: len(under_way(study)) >= 2)
    real_slurm.ask("scancel --me", slurm)
    ended = process.end(LIMIT)
    assert ended.status == 0, ended.said
    assert_same(numbers(study), trained_here(*given, cwd=tmp_path / "local"))


@needs_jobqueue
def test_what_slurm_refuses_dask_is_told(tmp_path: Path) -> None:
    ended = run("seed=0,1", *BY_DASK, "+hydra.launcher.options.queue=nowhere", cwd=tmp_path)
    assert_refused(ended, tmp_path, "hydra.launcher.executor=dask", "Invalid partition name")


@pytest.mark.skipif(
    importlib.util.find_spec("executorlib") is None, reason="needs executorlib: 'nnlab[pools]'"
)
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("slurm_cmd_args: ['--partition=nowhere']", "Invalid partition name"),
        ("cores: 999", "Requested node configuration is not available"),
        ("gpus_per_core: 1", "Invalid generic resource"),
    ],
)
def test_what_slurm_refuses_executorlib_is_told(asked: str, said: str, tmp_path: Path) -> None:
    """It would wait for such workers for ever."""
    given = ("hydra/launcher=batches", "hydra.launcher.executor=executorlib")
    kind = "+hydra.launcher.options.executor=SlurmJobExecutor"
    resources = f"+hydra.launcher.options.resource_dict={{{asked}}}"
    ended = run("seed=0,1", *given, kind, resources, "-m", cwd=tmp_path)
    assert_refused(ended, tmp_path, "hydra.launcher.executor=executorlib", said)
