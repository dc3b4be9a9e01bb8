"""Sweeps in this process: what a subprocess cannot show, such as a crash in the middle."""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import Timeout
from hydra import compose, initialize_config_dir

import nnlab
from nnlab import (
    checkpoint,
    claims,
    config,
    cores,
    datasets,
    hydra_jobs,
    records,
    report,
    schedule,
    study,
    sweeps,
)
from nnlab.checkpoint import Checkpoint
from nnlab.compose import VERSION_BASE, Template, register
from nnlab.config import CONF
from nnlab.datasets import splits
from nnlab.datasets.arrays import Sizes
from nnlab.datasets.dataset import DatasetConfig
from nnlab.datasets.sampling import Index
from nnlab.engines import Run, TrainedEpoch, dual, library, native
from nnlab.engines.torch import TorchEngine
from nnlab.footprint import Footprint
from nnlab.jobs import Job, Outcome, Task
from nnlab.records import RunFolder
from nnlab.tally import Tally

register()


def job(folder: Path, *overrides: str) -> Job:
    quick = ["train_size=20", "test_size=20", "stopping.max_epochs=3", "engine=torch"]
    with initialize_config_dir(str(CONF), **VERSION_BASE):
        composed = compose("config", overrides=[*quick, *overrides])
    return hydra_jobs.as_job(Template(composed), folder, list(overrides), hydra_files={})


def status(folder: Path) -> str:
    return str(json.loads((folder / "result.json").read_text())["status"])


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> dict[int, BaseException]:
    """Errors that training raises in the second epoch, by the run's batch size."""
    errors: dict[int, BaseException] = {}
    original = TorchEngine.train_epoch

    def train_epoch(
        self: TorchEngine, runs: Sequence[Run], orders: Sequence[Index]
    ) -> list[TrainedEpoch]:
        for run in runs:
            if len(run.epochs) == 1 and run.batch_size in errors:
                raise errors[run.batch_size]
        return original(self, runs, orders)

    monkeypatch.setattr(TorchEngine, "train_epoch", train_epoch)
    return errors


def test_a_run_that_breaks_off_harms_no_other(
    tmp_path: Path, breaking: dict[int, BaseException]
) -> None:
    breaking[3] = RuntimeError("out of luck")
    jobs = [job(tmp_path / f"batch_size={n}", f"batch_size={n}") for n in (2, 3, 4)]
    outcomes = sweeps.train(jobs)

    assert [status(each.folder) for each in jobs] == ["finished", "failed", "finished"]
    assert [outcome.error for outcome in outcomes] == [None, breaking[3], None]
    log = (jobs[1].folder / "run.log").read_text()
    assert "Traceback" in log
    assert "RuntimeError: out of luck" in log
    assert len((jobs[1].folder / "metrics.csv").read_text().splitlines()) == 2
    assert not (jobs[1].folder / "model.safetensors").exists()

    del breaking[3]
    again = sweeps.train(jobs)  # only what failed is trained again
    assert [outcome.error for outcome in again] == [None, None, None]
    assert status(jobs[1].folder) == "finished"


def test_a_folder_in_the_place_of_a_log_harms_no_other_run(tmp_path: Path) -> None:
    jobs = [job(tmp_path / f"seed={seed}", f"seed={seed}") for seed in range(3)]
    (jobs[1].folder / "run.log").mkdir(parents=True)
    outcomes = sweeps.train(jobs)
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    assert "run.log" in str(outcomes[1].error)


def test_an_interrupted_sweep_is_taken_up_by_the_same_command(
    tmp_path: Path, breaking: dict[int, BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """Ctrl-C in the second of three runs; afterwards every number is as without it."""
    undisturbed = [job(tmp_path / "a" / str(n), f"batch_size={n}") for n in (2, 3, 4)]
    sweeps.train(undisturbed)

    breaking[3] = KeyboardInterrupt()
    jobs = [job(tmp_path / "b" / str(n), f"batch_size={n}") for n in (2, 3, 4)]
    with pytest.raises(KeyboardInterrupt):
        sweeps.train(jobs)
    assert [each.folder.exists() for each in jobs] == [True, True, False]
    assert [status(each.folder) for each in jobs[:2]] == ["finished", "running"]

    breaking.clear()
    with caplog.at_level(logging.INFO, "nnlab"):
        sweeps.train(jobs)
    assert "already done: 1 of 3" in caplog.text
    for ours, theirs in zip(jobs, undisturbed):
        weights = [each.folder / "model.safetensors" for each in (ours, theirs)]
        assert weights[0].read_bytes() == weights[1].read_bytes()


def break_off(asked: Job, monkeypatch: pytest.MonkeyPatch, most_threads: int = 1) -> None:
    """Interrupt a run after its first checkpoint. most_threads: what that says of itself."""
    save = checkpoint.save

    def save_and_stop(path: Path, state: Checkpoint) -> None:
        state.most_threads = most_threads
        save(path, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            sweeps.train([asked])


@pytest.mark.skipif(library.available() is not None, reason="no compiled library")
def test_a_native_run_goes_on_on_other_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which changes none of its numbers; how many it had at most is told of all its epochs."""
    options = ("engine=native", "checkpoint.seconds=0", "model.hidden=[8]")

    break_off(job(tmp_path / "0", *options, "threads=2"), monkeypatch, most_threads=3)
    (outcome,) = sweeps.train([job(tmp_path / "0", *options, "threads=1")])
    result = records.read_result(tmp_path / "0")
    assert outcome.trained
    assert result is not None
    assert "goes on after epoch 1" in (tmp_path / "0" / "run.log").read_text()
    assert "continued" not in result
    assert result["most_threads"] == 3


@pytest.mark.skipif(library.available() is not None, reason="no compiled library")
def test_a_run_goes_on_with_another_engine_but_is_not_trained_again_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("checkpoint.seconds=0", "model.hidden=[8]")

    break_off(job(tmp_path / "0", *options, "engine=native"), monkeypatch)
    (outcome,) = sweeps.train([job(tmp_path / "0", *options, "engine=torch")])
    assert outcome.trained
    result = records.read_result(tmp_path / "0")
    assert result is not None
    assert result["engine"] == "torch"
    assert [(each["epochs"], each["engine"]) for each in result["continued"]] == [(1, "native")]
    (outcome,) = sweeps.train([job(tmp_path / "0", *options, "engine=native")])
    told = "0 holds this run, computed with engine=torch; this one asks for engine=native. Give it"
    assert told in str(outcome.error)


@pytest.mark.parametrize("first", ["force=true", "force=false"])
def test_what_force_has_begun_goes_on(
    first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there was no run before; what was begun without it is replaced."""
    options = ("checkpoint.seconds=0", "stopping.max_epochs=3")
    break_off(job(tmp_path / "0", *options, first), monkeypatch)
    (outcome,) = sweeps.train([job(tmp_path / "0", *options, "force=true")])
    assert outcome.trained
    log = (tmp_path / "0" / "run.log").read_text()
    assert ("goes on after epoch 1" in log) == (first == "force=true")


@pytest.mark.parametrize("change", ["reshaped", "missing", "generator", "epochs"])
@pytest.mark.parametrize("engine", ["native", "torch", "stacked"])
def test_a_checkpoint_of_another_nnlab_is_told_and_begun_anew(
    engine: str, change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine == "native" and library.available() is not None:
        pytest.skip("no compiled library")
    options = (f"engine={engine}", "checkpoint.seconds=0", "model.hidden=[8]", "optimizer=adam")
    sweeps.train([job(tmp_path / "a" / "0", *options)])
    asked = job(tmp_path / "b" / "0", *options)
    break_off(asked, monkeypatch)
    path = asked.folder / records.CHECKPOINT
    state = checkpoint.load(path)
    assert state is not None
    name = next(each for each in state.numbers if each.endswith("weight"))
    if change == "generator":
        state.order = {"bit_generator": "MT19937", "state": {}}
    elif change == "epochs":
        state.epochs = [row[:-1] for row in state.epochs]
    else:
        array = state.numbers.pop(name)
        state.numbers |= {name: array[1:]} if change == "reshaped" else {}
    checkpoint.save(path, state)
    (outcome,) = sweeps.train([asked])
    if change != "epochs":
        assert "kept other numbers" in str(outcome.error)
        assert status(asked.folder) == "failed"
        assert not path.exists()
        (outcome,) = sweeps.train([asked])
    assert outcome.error is None
    rows = [rows_of(tmp_path / each / "0") for each in "ab"]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("content", ["epoch,train_loss\n", None])
def test_metrics_that_are_damaged_while_a_run_trains_are_noticed(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = "checkpoint.seconds=0"
    sweeps.train([job(tmp_path / "a" / "0", options)])
    asked = job(tmp_path / "b" / "0", options)
    metrics, save = asked.folder / "metrics.csv", checkpoint.save

    def damage(path: Path, state: Checkpoint) -> None:
        save(path, state)
        metrics.unlink()
        if content is not None:
            metrics.write_text(content)

    monkeypatch.setattr(checkpoint, "save", damage)
    (outcome,) = sweeps.train([asked])
    assert "metrics.csv" in str(outcome.error)
    assert status(asked.folder) == "failed"
    monkeypatch.setattr(checkpoint, "save", save)
    (outcome,) = sweeps.train([asked])
    assert outcome.error is None
    rows = [rows_of(tmp_path / each / "0") for each in "ab"]
    assert rows[0] == rows[1]


def rows_of(folder: Path) -> list[list[str]]:
    """Return a run's metrics, but for the seconds."""
    with (folder / "metrics.csv").open() as file:
        return [row[:-1] for row in csv.reader(file)]


def cut_off_swap(steps: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace a run of 2 epochs by one of 3, up to a step of putting it in its place."""
    old, forced = (
        job(folder, "stopping.max_epochs=2"),
        job(folder, "stopping.max_epochs=3", "force=true"),
    )
    sweeps.train([old])
    replace, done = Path.replace, iter(range(steps))

    def cut_off(path: Path, target: Path) -> Path:
        if path.parent.name == records.NEW and next(done, None) is None:
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", cut_off)
        with contextlib.suppress(KeyboardInterrupt):
            sweeps.train([forced])


@pytest.mark.parametrize("steps", range(6))
def test_a_swap_that_was_cut_off_is_ended_by_any_command_of_its_run(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each of its steps."""
    new = job(tmp_path / "study" / "0", "stopping.max_epochs=3")
    cut_off_swap(steps, new.folder, monkeypatch)
    (outcome,) = sweeps.train([new])
    assert outcome.error is None
    assert not outcome.trained
    assert outcome.result is not None
    assert outcome.result["epochs"] == 3
    assert not (new.folder / records.NEW).exists()


@pytest.mark.parametrize("steps", range(6))
def test_a_swap_that_was_cut_off_is_told_by_who_reads_and_ended_by_the_report(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "study" / "0"
    cut_off_swap(steps, folder, monkeypatch)
    for name in ("model.safetensors", "metrics.csv"):
        result = records.read_result(folder)
        assert result is not None
        with contextlib.suppress(records.DamagedError):
            records.read_file(folder, name, result)
            continue
        with pytest.raises(records.DamagedError, match=r"nnlab\.report \S+study completes that"):
            records.read_file(folder, name, result)
    report.write_report(folder.parent)
    assert not (folder / records.NEW).exists()
    with (folder.parent / "summary.csv").open() as file:
        assert [row["epochs"] for row in csv.DictReader(file)] == ["3"]
    assert nnlab.load(folder).result["epochs"] == 3


@pytest.mark.parametrize("then", ["gone", "running", "damaged"])
def test_a_run_that_is_gone_once_its_data_were_looked_at_is_trained(
    then: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [job(tmp_path / "study" / str(seed), f"seed={seed}") for seed in range(2)]
    sweeps.train(jobs[:1])
    file, content = jobs[0].folder / "result.json", datasets.content

    def meanwhile(*arguments: Any) -> str | None:
        found = content(*arguments)
        if then == "gone":
            shutil.rmtree(jobs[0].folder, ignore_errors=True)
        elif then == "damaged":
            file.write_text("{")
        else:
            record = json.loads(file.read_text())
            del record["checksum"]
            file.write_text(json.dumps(record | {"status": "running"}))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(datasets, "content", meanwhile)
        outcomes = sweeps.train(jobs)
    assert [outcome.trained for outcome in outcomes] == [then != "damaged", True]
    assert (outcomes[0].error is None) == (then != "damaged")


@pytest.mark.parametrize("name", ["metrics.csv", "model.safetensors"])
def test_what_is_damaged_before_its_command_ends_is_not_known_as_whole(
    name: str, tmp_path: Path
) -> None:
    asked = job(tmp_path / "study" / "0")
    (outcome,) = sweeps.train([asked])
    assert outcome.stamp == records.checksum(study.stamps_of(asked.folder))
    (asked.folder / name).write_bytes(b"damaged")
    known = study.known(asked.folder.parent)
    known.remember("asked", asked.folder, asked.fingerprint, outcome.stamp)
    assert "0" not in known.entries
    (outcome,) = sweeps.train([asked])
    assert f"{name} cannot be read" in str(outcome.error)


@pytest.mark.skipif(library.available() is not None, reason="no compiled library")
def test_runs_on_the_same_images_compute_their_inner_products_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    compute = dual.Gram.compute

    def counted(gram: dual.Gram, row: dual.Part, column: dual.Part) -> None:
        computed.append(gram)
        compute(gram, row, column)

    monkeypatch.setattr(dual.Gram, "compute", counted)
    options = "engine=native", "train_size=20", "stopping.max_epochs=50"
    several = [(f"optimizer.lr={lr}", "seed=0") for lr in (0.01, 0.02, 0.03)]
    jobs = [
        job(tmp_path / str(number), *options, *each)
        for number, each in enumerate([*several, ("seed=1",)])
    ]
    outcomes = sweeps.train(jobs)
    assert [each.result and each.result["engine_form"] for each in outcomes] == ["dual"] * 4
    assert len(computed) == 2  # of a block each, for two seeds


@pytest.mark.skipif(library.available() is not None, reason="no compiled library")
@pytest.mark.skipif(sys.platform == "win32", reason="no signal to a thread")
def test_an_interrupt_does_not_wait_for_inner_products(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while a run is at the first block of many."""
    monkeypatch.setattr(dual, "CHUNK", 16)
    computed = []

    def compute(gram: dual.Gram, row: dual.Part, column: dual.Part) -> None:
        computed.append((row.place, column.place))
        time.sleep(0.3)  # until the main thread waits: before that it may miss a signal
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        assert gram.stopped.wait(10)

    monkeypatch.setattr(dual.Gram, "compute", compute)
    options = "engine=native", "train_size=100", "stopping.max_epochs=50"
    interrupted = job(tmp_path / "run", *options)
    with pytest.raises(KeyboardInterrupt):
        sweeps.train([interrupted])
    assert computed == [(0, 0)]
    assert status(interrupted.folder) == "running"


@pytest.mark.skipif(library.available() is not None, reason="no compiled library")
def test_a_result_says_with_which_instruction_set_its_run_trained(tmp_path: Path) -> None:
    best = library.levels()[-1]
    options = {
        best: ["engine=native"],
        "baseline": ["engine=auto", "device=cpu", "native_level=baseline"],
        None: ["engine=torch"],
    }
    jobs = [job(tmp_path / str(level), *each) for level, each in options.items()]
    refused = job(tmp_path / "refused", "engine=torch", "native_level=baseline")
    *outcomes, last = sweeps.train([*jobs, refused])
    for level, outcome in zip(options, outcomes):
        assert outcome.result is not None, outcome.error
        assert outcome.result["engine_level"] == level
    assert "native_level=baseline is of the native engine" in str(last.error)
    assert not refused.folder.exists()


def test_a_refused_job_is_an_outcome(tmp_path: Path) -> None:
    good, bad = job(tmp_path / "good"), job(tmp_path / "bad", "batch_size=0")
    outcomes = sweeps.train([bad, good])
    assert "batch_size=0" in str(outcomes[0].error)
    assert not bad.folder.exists()
    assert outcomes[1].result is not None
    assert outcomes[1].result["status"] == "finished"


@pytest.mark.parametrize("kind", [RuntimeError, csv.Error, AssertionError])
def test_an_error_of_any_kind_while_a_run_is_prepared_is_that_run_alone(
    kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = splits.load

    def broken(options: DatasetConfig, sizes: Sizes, *, seed: int, **others: Any) -> splits.Data:
        if seed == 1:
            raise kind("no codec")
        return load(options, sizes, seed=seed, **others)

    monkeypatch.setattr(datasets, "load", broken, raising=False)
    jobs = [job(tmp_path / f"seed={seed}", f"seed={seed}") for seed in (0, 1, 2)]
    outcomes = sweeps.train(jobs)
    assert [status(each.folder) for each in jobs] == ["finished", "failed", "finished"]
    assert f"{kind.__name__}: no codec" in (jobs[1].folder / "run.log").read_text()
    assert "Traceback" in (jobs[1].folder / "run.log").read_text()
    assert isinstance(outcomes[1].error, kind)
    # Nothing is written where nothing was to be.
    plan = job(tmp_path / "plan", "seed=1", "plan=true")
    (outcome,) = sweeps.train([plan])
    assert isinstance(outcome.error, kind)
    assert not plan.folder.exists()


def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    same, other = (job(tmp_path / "run", f"seed={seed}") for seed in (0, 1))
    outcomes = sweeps.train([same, other, job(tmp_path / "run")])
    assert outcomes[0].error is None
    assert "two jobs map to folder" in str(outcomes[1].error)
    assert status(tmp_path / "run") == "finished"
    # The same job again, as a search may propose it, is that run.
    assert outcomes[2].error is None
    assert outcomes[2].result == outcomes[0].result
    assert outcomes[2].objective() == outcomes[0].objective()


@pytest.mark.parametrize("force", ["true", "false"])
def test_nor_by_a_link_to_the_folder_of_another(force: str, tmp_path: Path) -> None:
    jobs = [job(tmp_path / f"seed={seed}", f"seed={seed}", f"force={force}") for seed in (0, 1)]
    sweeps.train(jobs)
    shutil.rmtree(jobs[0].folder)
    jobs[0].folder.symlink_to("seed=1")
    first, second = sweeps.train(jobs)
    assert "is a link, and nothing of a run is written where one leads" in str(first.error)
    assert second.error is None
    assert study.look(tmp_path).entries.keys() == {"seed=1"}


def test_objectives() -> None:
    result: dict[str, Any] = {"status": "stopped", "train_seconds": 3.0, "valid_loss": None}
    result |= {"test_loss": 0.25, "test_accuracy": 0.9}
    for metric, expected in [
        ("test_loss", 0.25),
        ("test_accuracy", 0.9),
        ("train_seconds", 3.0),
        ("valid_loss", float("inf")),
        ("valid_accuracy", 0.0),
    ]:
        assert Outcome(Job(Path(), [], metric, {}), result).objective() == expected
    for metric in config.OBJECTIVES:
        rising = {"accuracy": 0.0, "r2": float("-inf")}
        worst = rising.get(metric.partition("_")[2], float("inf"))
        for bad in ("diverged", "failed", "running"):
            result = {"status": bad} | dict.fromkeys(config.OBJECTIVES, 0.5)
            assert Outcome(Job(Path(), [], metric, {}), result).objective() == worst
    assert Outcome(Job(Path(), [], "test_loss", {})).objective() == float("inf")


def test_errors_are_told_once_each(capsys: pytest.CaptureFixture[str]) -> None:
    def refused(name: str, message: str) -> Outcome:
        return Outcome(Job(Path(name), [], "test_loss", {}), error=ValueError(message))

    outcomes = [refused(f"run{n}", "same") for n in range(5)] + [refused("other", "another")]
    assert sweeps.tell_errors(Tally(outcomes)) == 1
    assert capsys.readouterr().err.splitlines() == [
        "run0, run1, run2 and 2 more: same",
        "other: another",
    ]
    assert sweeps.tell_errors(Tally(refused(f"run{n}", f"no {n % 150}") for n in range(300))) == 1
    lines = capsys.readouterr().err.splitlines()
    assert (lines[99], lines[100:]) == (
        "run99, run249: no 99",
        ["and 100 more runs, for other reasons"],
    )


def test_a_failure_that_cannot_be_recorded_harms_no_other(
    tmp_path: Path, breaking: dict[int, BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: RunFolder, error: BaseException) -> None:
        raise OSError(28, "No space left on device", str(self.path))

    breaking[3] = RuntimeError("out of luck")
    monkeypatch.setattr(RunFolder, "fail", full)
    jobs = [job(tmp_path / f"batch_size={n}", f"batch_size={n}") for n in (2, 3, 4)]
    outcomes = sweeps.train(jobs)
    assert [status(each.folder) for each in jobs] == ["finished", "running", "finished"]
    assert [outcome.error for outcome in outcomes] == [None, breaking[3], None]


def test_other_runs_begin_while_one_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the study's lock a run only says whose its folder is, not what else it writes."""
    under, free = set(), set()
    fsync = os.fsync

    def synced(number: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{number}"))
        name = path.name.removesuffix(".tmp").rpartition(".")[0] or path.name
        try:
            claims.acquire(tmp_path / claims.LOCK, timeout=0).release()
            free.add(name)
        except Timeout:
            under.add(name)
        fsync(number)

    wanted = job(tmp_path / "run")
    wanted.hydra_files = {".hydra/config.yaml": "a: 1\n"}
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", synced)
        (outcome,) = sweeps.train([wanted])
    assert outcome.error is None
    assert under == {tmp_path.name, ".result.json"}
    assert {".config.yaml", ".hydra", "run"} <= free


@pytest.mark.parametrize(("runs", "first_only"), [(3, False), (5, True), (6, True)])
def test_only_the_last_runs_take_turns(
    runs: int, first_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On two cores, in step: an epoch on one waits for an epoch on the other."""
    epochs = 100
    in_step = threading.Barrier(2, timeout=5)
    alone: list[Any] = []
    begun_at_first_end: list[int] = []

    def fake_group(group: Sequence[Any], *_: object) -> Iterator[bool]:
        (run,) = (task.run for task in group)
        for epoch in range(epochs):
            try:
                in_step.wait()
            except threading.BrokenBarrierError:  # nobody is left on the other core
                alone.append(run)
            run.epochs.append(epoch)
            yield True
        begun_at_first_end.append(sum(bool(each.epochs) for each in everyone))

    everyone = [SimpleNamespace(epochs=[]) for _ in range(runs)]
    monkeypatch.setattr(cores, "usable", lambda asked=None: 2)
    monkeypatch.setattr(schedule, "train_group", fake_group)

    def task(run: Any) -> SimpleNamespace:
        engine = native.NativeEngine
        return SimpleNamespace(
            run=run,
            engine=engine,
            config=SimpleNamespace(cores=None),
            concurrent=1,
            needed=Footprint(0, 0, 0, 0, ""),
            cost=lambda: epochs - len(run.epochs),
            most_threads=lambda: 1,
        )

    groups: Any = [[task(run)] for run in everyone]
    progress: Any = None
    schedule.train_concurrently(groups, progress, {})
    assert [len(run.epochs) for run in everyone] == [epochs] * runs
    # Three take turns from the beginning; of five or six the first two end before the next begin.
    assert (begun_at_first_end[0] == 2) == first_only
    # Without turns the third of three and the last of five would have 100 epochs alone.
    assert len(alone) <= 5


def test_force_takes_what_another_process_trains_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But neither what was there before, nor another run."""
    ours = [job(tmp_path / "ours" / f"{n}", f"seed={n}", "force=true") for n in range(3)]
    theirs = [
        job(tmp_path / "theirs" / "0", "seed=0"),
        job(tmp_path / "theirs" / "2", "seed=2", "batch_size=3"),
    ]
    sweeps.train(ours)
    sweeps.train(theirs)
    usual = schedule.train

    def while_they_train(tasks: Sequence[Task]) -> None:
        shutil.copytree(tmp_path / "theirs", tmp_path / "ours", dirs_exist_ok=True)
        usual(tasks)

    monkeypatch.setattr(schedule, "train", while_they_train)
    outcomes = sweeps.train(ours)
    assert [outcome.trained for outcome in outcomes] == [False, True, True]
    assert outcomes[0].result == study.short(records.read_result(theirs[0].folder) or {})
    again = records.read_result(ours[2].folder)
    assert again is not None
    assert again["fingerprint"] == ours[2].identity["fingerprint"]


def test_one_process_puts_a_new_run_in_the_place_of_the_former(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another that finds it whole would do so as well, which has to wait."""
    study = tmp_path / "mnist"
    sweeps.train([job(study / "0")])
    replace, replaced = records.replace_run, []

    def while_another_looks(folder: Path) -> None:
        with pytest.raises(Timeout):
            claims.acquire(study / claims.LOCK, timeout=0)
        replace(folder)
        replaced.append(folder)

    monkeypatch.setattr(records, "replace_run", while_another_looks)
    (outcome,) = sweeps.train([job(study / "0", "force=true")])
    assert outcome.error is None
    assert outcome.trained
    assert replaced == [study / "0"]


def test_a_new_run_that_could_not_be_put_in_its_place_is_by_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is trained: neither again, nor is the former taken for it."""
    folder = tmp_path / "mnist" / "0"
    sweeps.train([job(folder)])

    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    with monkeypatch.context() as patch:
        patch.setattr(records, "replace_run", refuse)
        (forced,) = sweeps.train([job(folder, "force=true")])
        (outcome,) = sweeps.train([job(folder)])
    assert isinstance(forced.error, PermissionError)
    assert isinstance(outcome.error, PermissionError)
    kept = records.read_result(folder / records.NEW)
    assert kept is not None
    assert kept["status"] == "finished"
    (outcome,) = sweeps.train([job(folder)])
    assert outcome.error is None
    assert not outcome.trained
    assert records.read_result(folder) == kept
    assert outcome.result == study.short(kept)
    assert not (folder / records.NEW).exists()


@pytest.mark.parametrize("name", [".process-dead.lock", ".process-dead.json"])
def test_what_a_dead_process_left_of_a_study_that_is_done_is_removed(
    name: str, tmp_path: Path
) -> None:
    """A power cut may leave either file of two."""
    jobs = [job(tmp_path / "mnist" / "0")]
    assert sweeps.conclude(Tally(sweeps.train(jobs))) == 0
    (tmp_path / "mnist" / name).touch()
    assert sweeps.conclude(Tally(sweeps.train(jobs))) == 0
    assert not list((tmp_path / "mnist").glob(".process-*"))


def test_turns_change_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "usable", lambda asked=None: 2)
    options = ("engine=auto", "stopping.max_epochs=60", "valid_size=10")
    three = [job(tmp_path / "three" / f"{seed}", *options, f"seed={seed}") for seed in range(3)]
    sweeps.train(three)
    for seed, each in enumerate(three):
        (alone,) = sweeps.train([job(tmp_path / "alone" / f"{seed}", *options, f"seed={seed}")])
        for name in ("model.safetensors", "metrics.csv"):
            ours, others = each.folder / name, alone.job.folder / name
            if name.endswith("csv"):  # all but the last column, the seconds
                rows = [
                    [line.rpartition(",")[0] for line in path.read_text().splitlines()]
                    for path in (ours, others)
                ]
                assert rows[0] == rows[1]
            else:
                assert ours.read_bytes() == others.read_bytes()
