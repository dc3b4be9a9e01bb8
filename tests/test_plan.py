"""What a sweep will cost: the arithmetic by hand, and that planning leaves nothing behind."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from nnlab import build, compose, memory, plan, study, sweeps
from nnlab.config import Config
from nnlab.device import Device
from nnlab.engines import Engine, Run, library
from nnlab.jobs import Job, Outcome, Task


def configured(*overrides: str) -> Config:
    return compose.load(overrides)


def tasks(folder: Path, *commands: tuple[str, ...]) -> list[Task]:
    waiting = []
    for number, overrides in enumerate(commands):
        config = configured("test_size=100", *overrides)
        job = Job(folder / str(number), list(overrides), "test_loss", {}, config)
        config.plan = True
        waiting.append((Outcome(job), config))
    made = build.prepare(waiting)
    assert [outcome.error for outcome, _ in waiting] == [None] * len(commands)
    return made


@pytest.mark.parametrize("cores", [1, 2, 3])
@pytest.mark.parametrize("units", [[], [4], [3, 1, 2], [2, 2, 2], [5, 1, 1], [4, 3, 3, 1]])
def test_makespan_against_turns_one_by_one(units: list[int], cores: int) -> None:
    """Each turn gives a thousandth of a unit to those runs that have most left."""
    turns, left = 0, [1000 * unit for unit in units]
    while any(left):
        for run in sorted(range(len(left)), key=lambda run: -left[run])[:cores]:
            left[run] = max(0, left[run] - 1)
        turns += 1
    # The last turns may leave cores idle, a few for each run.
    assert plan.makespan([float(unit) for unit in units], cores) == pytest.approx(
        turns / 1000, abs=0.01
    )


def test_what_a_run_takes_is_its_steps_and_its_evaluations(tmp_path: Path) -> None:
    rate = plan.Rate(step=0.5, example=0.001)
    for overrides, steps, evaluated in (
        (("train_size=95", "stopping.max_epochs=3"), 3 * 10, 100),
        (("train_size=95", "valid_size=40", "stopping.max_epochs=3"), 30, 100 + 3 * 40),
        (
            ("train_size=90", "full_train_metrics=true", "stopping.max_epochs=2"),
            2 * 9,
            100 + 2 * 90,
        ),
        (("train_size=90", "stopping.max_epochs=0"), 0, 100),
    ):
        (task,) = tasks(tmp_path, overrides)
        found = plan.estimate(task, rate)
        assert (found.steps, found.weights) == (steps, 109_184)
        assert found.seconds == pytest.approx(0.5 * steps + 0.001 * evaluated)
    (task,) = tasks(tmp_path, ("stopping=budget", "stopping.seconds=7"))
    assert plan.estimate(task, rate).seconds == 7


def test_every_kind_of_run_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def counted(alike: list[Task], cores: int) -> plan.Rate:
        measured.append([task.outcome.job.name for task in alike])
        return plan.Rate(0.01, 0.0)

    monkeypatch.setattr(plan, "measure", counted)
    small = ("train_size=50", "engine=torch", "stopping.max_epochs=10")
    made = plan.make(
        tasks(
            tmp_path,
            small,
            (*small, "seed=1", "optimizer.lr=1", "optimizer.schedule=cosine"),
            (*small, "model.hidden=[7]"),
            ("train_size=50", "engine=stacked", "stopping.max_epochs=10"),
        ),
        cores=2,
    )
    assert measured == [["0", "1"], ["2"], ["3"]]
    assert made.seconds == pytest.approx(4 * 50 * 0.01)  # none of these train side by side
    # 5,000 training and 1,000 test images, once; each run's own index
    images = 6000 * (784 * 4 + 8)
    assert images <= made.data <= images + 4 * 150 * 8
    mlp = 4 * (109_184 + 202)
    # One after another: model, gradients, what is written of them, and a batch's values.
    assert 5 * mlp <= made.runs <= 5 * mlp + 4 * 784 * 8192


@pytest.mark.parametrize("engine", ["torch", "auto", "stacked"])
def test_planning_measures_and_writes_nothing(
    tmp_path: Path, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = []
    for seed in range(3):
        job = Job(tmp_path / f"seed={seed}", [f"seed={seed}"], "test_loss", {})
        job.config = configured(f"seed={seed}", f"engine={engine}", "test_size=100", "plan=true")
        jobs.append(job)
    outcomes = sweeps.train(jobs)
    assert [(o.result, o.error, o.trained) for o in outcomes] == [(None, None, False)] * 3
    assert list(tmp_path.iterdir()) == []
    printed = capsys.readouterr().out
    for name in ("seed=0", "seed=2", "109,184", "10,000", "µs", "3 runs take about", "nothing was"):
        assert name in printed


def test_a_large_run_is_measured_on_the_cores_that_it_will_have(tmp_path: Path) -> None:
    options = ("engine=native", "train_size=128", "stopping.max_epochs=1", "batch_size=64")
    large, small = (*options, "model.hidden=[256,256]"), (*options, "model.hidden=[4]")
    for commands, threads, used in (
        ((large,), [3], 3),
        ((small,), [1], 1),
        ((large, small), [2, 1], 3),
        ((large, large, large, small), [1, 1, 1, 1], 3),
        (((*large, "threads=2"),), [2], 2),
    ):
        planned = tasks(tmp_path, *commands)
        assert plan.make(planned, cores=3).cores == used
        assert [task.threads for task in planned] == threads


def test_a_single_run_is_not_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan, "measure", lambda *_: plan.Rate(step=1.0, example=0.0))
    large = ("engine=native", "train_size=128", "batch_size=64", "model.hidden=[256,256]")
    plan.show(plan.make(tasks(tmp_path, (*large, "stopping.max_epochs=1")), cores=2))
    assert "1 run takes about 2.0 s on 2 cores, if no rule" in capsys.readouterr().out


def test_the_size_of_memory() -> None:
    assert [memory.size(count) for count in (0, 999, 999_499, 1e9)] == [
        "0 B",
        "999 B",
        "999 kB",
        "1.0 GB",
    ]


def test_finished_runs_are_not_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = Job(tmp_path / "default", [], "test_loss", {})
    job.config = configured("train_size=20", "test_size=10", "stopping.max_epochs=1")
    sweeps.train([job])
    before = json.loads((tmp_path / "default" / "result.json").read_text())
    job.config.plan = True
    (outcome,) = sweeps.train([job])
    assert outcome.result == {k: v for k, v in study.short(before).items() if k != "checksum"}
    # Nor is a folder of another run in the way of a plan.
    other = Job(job.folder, [], "test_loss", {})
    other.config = configured("train_size=30", "test_size=10", "plan=true")
    assert sweeps.train([other])[0].error is None
    assert json.loads((tmp_path / "default" / "result.json").read_text()) == before
    assert "take" in capsys.readouterr().out
    (outcome,) = sweeps.train([job])
    assert "take about" not in capsys.readouterr().out


def test_perceptrons_take_no_steps(tmp_path: Path) -> None:
    made = plan.make(tasks(tmp_path, ("dataset=boolean", "test_size=null", "model=perceptron")), 1)
    assert [(each.steps, each.rate.step) for each in made.estimates] == [(0, 0.0)]
    assert made.seconds > 0


@pytest.mark.skipif(library.available() is not None, reason="no compiled library")
def test_the_dual_form_is_measured_at_its_size_and_with_its_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def counted(alike: list[Task], cores: int) -> plan.Rate:
        measured.append([task.outcome.job.name for task in alike])
        return measure(alike, cores)

    measure = plan.measure
    monkeypatch.setattr(plan, "measure", counted)
    seconds = itertools.cycle((3.0, 1.0))  # with and without what is shared
    monkeypatch.setattr(plan, "building", lambda together: next(seconds))
    made = plan.make(
        tasks(
            tmp_path,
            ("test_size=10", "train_size=40", "valid_size=40", "stopping.max_epochs=1"),
            *((f"train_size={n}", f"valid_size={n}", "test_size=10") for n in (40, 40, 80)),
        ),
        cores=2,
    )
    assert measured == [["0"], ["1", "2"], ["3"]]
    for estimate, evaluated in zip(made.estimates, (40, 4000, 4000, 8000)):
        rate = estimate.rate
        # The usual form has no matrix, and the third run finds that of the second.
        assert estimate.shared == (2.0 if estimate.name in "13" else 0.0)
        steps = estimate.steps * rate.step + (evaluated + 10) * rate.example
        assert estimate.seconds == pytest.approx(estimate.shared + rate.setup + steps)
        assert rate.setup > 0


def test_what_is_timed_has_the_form_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fewer images the dual form would pay, which does not for all of them."""
    wide = ("dataset.normalize=true", "train_size=2000", "test_size=10", "batch_size=1")
    (task,) = tasks(tmp_path, wide)
    assert task.identity["engine_form"] is None
    forms = []
    engine = task.engine

    def watched(runs: list[Run], place: Device) -> Engine:
        forms.extend([engine.form(run) for run in runs])
        return engine(runs, place)

    monkeypatch.setattr(watched, "form", engine.form, raising=False)
    task.engine = watched  # type: ignore[assignment]
    plan.timed([task])
    assert forms == [None]


def test_runs_with_and_without_epochs_are_timed_apart(tmp_path: Path) -> None:
    both = ("stopping.max_epochs=0", "train_size=50"), ("stopping.max_epochs=3", "train_size=50")
    without, trained = plan.make(tasks(tmp_path, *both), 1).estimates
    assert without.rate.step == 0
    assert trained.rate.step > 0
