"""Many configurations: which are done, which train together, progress, failures."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import os
import sys
import threading
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnlab import config as configuration
from nnlab import messages, records, study, terminal
from nnlab.boolean import truth_table
from nnlab.config import (
    BooleanConfig,
    BudgetConfig,
    Config,
    EngineName,
    MLPConfig,
    PatienceConfig,
    PerceptronConfig,
    PlateauConfig,
    StoppingConfig,
    TargetConfig,
)
from nnlab.progress import Progress

if TYPE_CHECKING:
    import torch
    from torch import nn

    from nnlab.datasets import Data
    from nnlab.engines import Engine, Run
    from nnlab.stopping import Epoch, StoppingRule

log = logging.getLogger("nnlab")


@dataclass
class Job:
    """One configuration, and the folder where its run goes.

    overrides: what Hydra composed it from. objective: the metric for Hydra's sweepers.
    hydra_files: content of the files that Hydra keeps in the folder, by their path there.
    refused: why there is no configuration. found: the run that it is, where that is known
    without one.
    """

    folder: Path
    overrides: list[str]
    objective: str
    hydra_files: dict[str, str]
    config: Config | None = None
    refused: Exception | None = None
    found: study.Entry | None = None

    @property
    def name(self) -> str:
        return self.folder.name

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What tells its result from another's: its fingerprint, and config as JSON values."""
        assert self.config is not None
        plain = configuration.plain(self.config)
        return {"fingerprint": configuration.fingerprint(self.config), "config": plain}


@dataclass
class Outcome:
    """What became of a job: the content of its result.json, or why there is none."""

    job: Job
    result: dict[str, Any] | None = None  # of an earlier run what the study's index has of it
    error: Exception | None = None
    trained: bool = False  # by this command, not by an earlier one
    twin: Path | None = None  # the folder of the run that this job is, where it has another name
    answers: list[Path] = field(default_factory=list)  # files that questions left

    @property
    def folder(self) -> Path:
        """The folder of the run, whatever the job calls it."""
        return self.twin or self.job.folder

    def objective(self) -> float:
        """Return the metric that Hydra's sweepers optimise.

        A run that did not come to a good end has the worst value of every metric.
        """
        metric = self.job.objective
        good = self.result is not None and self.result["status"] in ("finished", "stopped")
        value = self.result.get(metric) if self.result is not None and good else None
        if value is None:
            return 0.0 if metric.endswith("accuracy") else float("inf")
        return float(value)


@dataclass(eq=False)
class Task:
    """A job that is to be trained now: its run, its engine and, once it starts, its folder."""

    outcome: Outcome
    config: Config
    run: Run
    engine: type[Engine]
    place: torch.device
    identity: dict[str, Any]
    folder: records.RunFolder | None = None
    concurrent: int = 1  # runs that trained at a time with it, at most: they share the machine


def train(jobs: Sequence[Job], report: bool = False) -> list[Outcome]:
    """Train what is not done yet, each run into its folder; one bad job harms no other.

    report: whether this process is to ``conclude``, and may prepare for its figures.

    Returns an outcome per job, in order. On KeyboardInterrupt every run stops after its
    current epoch; its folder then says "running", and the same command trains it anew.
    """
    outcomes = [Outcome(job) for job in jobs]
    waiting = sort_out(outcomes)
    done = sum(outcome.result is not None for outcome in outcomes)
    if done:
        log.info("already done: %d of %d (force=true trains anew)", done, len(jobs))
    if done == len(jobs) and any(each.job.config and each.job.config.plan for each in outcomes):
        log.info("plan=true: nothing is left to train")
    if waiting:
        if report and "torch" not in sys.modules and cores() > 1 and not waiting[0][1].plan:
            from nnlab.report import drawing

            drawing.start()  # on a core that is idle while torch is imported
        from nnlab import device

        with device.cpu_threads(1):  # these tensors are too small for more to pay
            tasks = prepare(waiting)
        planned = [task for task in tasks if task.config.plan]
        if planned:
            from nnlab import plan

            plan.show(plan.make(planned, cores()))
        train_distinct([task for task in tasks if not task.config.plan])
    put_questions(outcomes)
    return outcomes


def sort_out(outcomes: Sequence[Outcome]) -> list[tuple[Outcome, Config]]:
    """Find the runs that are done, and refuse what cannot be trained; return the others."""
    waiting: list[tuple[Outcome, Config]] = []
    taken: set[Path] = set()
    twins: list[str] = []
    studies = {folder: study.look(folder) for folder in {o.job.folder.parent for o in outcomes}}
    for outcome in outcomes:
        job, config = outcome.job, outcome.job.config
        outcome.error = job.refused
        try:
            found = job.found
            if config is not None:
                if job.folder in taken:
                    raise ValueError(
                        f"two runs of this sweep go to {job.folder}; give each value once"
                    )
                taken.add(job.folder)
                found = earlier(job, config, studies[job.folder.parent])
        except Exception as error:
            outcome.error = error
            continue
        if found is not None and found.folder != job.name:
            outcome.twin = job.folder.parent / found.folder
            twins.append(f"{job.name} is {found.folder}")
        if found is not None and not (config and config.force):
            # The index is only how it was found; what is shown of the run is what its file says.
            outcome.result = found.result if job.found else records.read_result(outcome.folder)
        elif config is not None:
            waiting.append((outcome, config))
    shown = ", ".join(twins[:5]) + (f" and {len(twins) - 5:,} more" if twins[5:] else "")
    if twins:
        log.info("the same under another name: %s", shown)
    return waiting


def earlier(job: Job, config: Config, runs: study.Study) -> study.Entry | None:
    """Return the run of a study that a job is: the same computation, on the data that are there.

    Raises ValueError where that run saw other data, or where another run has the job's folder.
    """
    from nnlab import datasets

    identity = job.identity
    found = [
        entry
        for entry in runs.find(identity["fingerprint"])
        if entry.done and records.serves(entry.result, identity["config"])
    ]
    found.sort(key=lambda entry: entry.folder != job.name)
    asked, now = study.data_key(identity["config"]), content(config) if found else None
    for entry in found:
        if entry.content == now or (entry.data == asked and (now is None or config.force)):
            return entry
    if config.force or config.plan:  # the latter writes nothing, so nothing is in its way
        return None
    for entry in found:
        if entry.data == asked or entry.folder == job.name:
            source = datasets.choose(config.dataset, datasets.sizes(config)).name
            raise ValueError(
                f"{runs.folder / entry.folder} is this run, but saw other data than there are now "
                f"({source}); bring those back, give it another study=NAME, or train it "
                f"anew with force=true"
            )
    records.finished_result(job.folder, **identity)
    return None


def content(config: Config) -> str | None:
    """Return the digest of the data that a run would see, None where there are none to compare."""
    from nnlab import datasets

    try:
        return datasets.content(config.dataset, datasets.sizes(config))
    except (ValueError, OSError) as error:
        log.info("cannot tell whether the data have changed: %s", messages.explain(error))
        return None


def put_questions(outcomes: Sequence[Outcome]) -> None:
    """Answer the questions of ``evaluation=`` for every run that has come to its end."""
    for outcome in outcomes:
        config = outcome.job.config
        if config is None or not config.evaluation or config.plan or outcome.result is None:
            continue
        if outcome.result["status"] == "diverged":
            log.info("%s diverged: no questions to its network", outcome.job.name)
            continue
        from nnlab.analysis import questions

        try:
            outcome.answers = questions.ask(config, outcome.folder)
        except Exception as error:
            outcome.error = error


def prepare(waiting: Sequence[tuple[Outcome, Config]]) -> list[Task]:
    """Load the data, build the networks and choose the engines, before anything is written."""
    from nnlab import datasets, device, engines

    tasks = []
    fallbacks: set[str] = set()
    for outcome, config in waiting:
        try:
            place = device.choose(config.device)
            data = datasets.load_for(config)
            run = build_run(config, data)
            engine, reason = engines.choose(config.engine, run, place)
            if config.engine is EngineName.auto and engine.name == "torch" and run.max_epochs > 0:
                fallbacks.add(reason)
            identity = describe(outcome.job, config, run, data) | {
                "engine": engine.name,
                "engine_reason": reason,
                "engine_form": engine.form(run),
                "device": {**device.describe(place), "threads": config.threads},
            }
        except Exception as error:
            outcome.error = error
            if messages.explain(error) is None and not config.plan:
                keep_traceback(outcome, error)
            continue
        tasks.append(Task(outcome, config, run, engine, place, identity))
    for reason in sorted(fallbacks):
        log.info("engine=torch: %s", reason)
    return tasks


def keep_traceback(outcome: Outcome, error: Exception) -> None:
    """Record a run that failed before it could be trained, by an error nobody foresaw."""
    job = outcome.job
    with contextlib.suppress(OSError):  # the folder may be what failed
        identity = {"name": job.name, "overrides": job.overrides, **job.identity}
        records.RunFolder(outcome.folder, identity, job.hydra_files).fail(error)


def train_distinct(tasks: Sequence[Task]) -> None:
    """Train all tasks; those that compute the same, under several names, once."""
    firsts: dict[str, Task] = {}
    for task in tasks:
        first = firsts.setdefault(computation(task), task)
        if first is not task:
            task.outcome.twin = first.outcome.folder
            log.info("%s is %s", task.outcome.job.name, first.outcome.folder.name)
    train_tasks(list(firsts.values()))
    for task in tasks:
        trained = firsts[computation(task)].outcome
        task.outcome.result, task.outcome.error = trained.result, trained.error


def computation(task: Task) -> str:
    """Return a key that tasks share whose numbers are the same."""
    known = task.identity
    level, content = known.get("engine_level"), known["dataset"]["content"]
    threads = known["device"]["threads"] if known["engine"] == "torch" else None
    parts = (known["fingerprint"], content, known["engine"], level, task.place.type, threads)
    return json.dumps(parts)


def build_run(config: Config, data: Data) -> Run:
    """Build the network that a configuration describes, on its data."""
    from nnlab import seeds
    from nnlab.engines import Run

    computed = isinstance(config.model, PerceptronConfig)  # from its truth table
    return Run(
        model=build_model(config, data.train.inputs[0].numel(), len(data.classes)),
        optimizer=config.optimizer,
        train=data.train,
        valid=data.valid,
        test=data.test,
        batch_size=config.batch_size,
        max_epochs=0 if computed else config.stopping.max_epochs,
        stopping=build_rule(config.stopping),
        order=seeds.generator(config.seed_of("order"), "order"),
        full_train_metrics=config.full_train_metrics,
    )


def build_model(config: Config, inputs: int, outputs: int) -> nn.Module:
    """Build the network with its initial weights, from the run's seed or a truth table."""
    from nnlab import model, seeds

    options, dataset = config.model, config.dataset
    if isinstance(options, PerceptronConfig) and isinstance(dataset, BooleanConfig):
        if options.classic:
            return model.classic_xor()
        return model.perceptrons(truth_table(dataset.function, dataset.inputs))
    if isinstance(options, MLPConfig):
        weights = seeds.generator(config.seed_of("weights"), "weights")
        return model.mlp(inputs, options.hidden, outputs, options.activation.name, weights)
    raise ValueError(f"model={options.name} is not known; see --help")


def build_rule(stopping: StoppingConfig) -> StoppingRule | None:
    """Build the rule that ends a run early; None where only max_epochs does."""
    from nnlab.stopping import Budget, Patience, Plateau, Target

    if isinstance(stopping, PlateauConfig):
        return Plateau(stopping.min_delta, stopping.patience)
    if isinstance(stopping, PatienceConfig):
        monitor = stopping.monitor.name
        return Patience(stopping.patience, stopping.min_delta, monitor, stopping.restore_best)
    if isinstance(stopping, BudgetConfig):
        return Budget(stopping.seconds)
    if isinstance(stopping, TargetConfig):
        return Target(stopping.valid_accuracy)
    return None


def describe(job: Job, config: Config, run: Run, data: Data) -> dict[str, Any]:
    """Return what result.json says of a run before it has any results."""
    from nnlab import model

    return {
        "name": job.name,
        "overrides": job.overrides,
        "fingerprint": job.identity["fingerprint"],
        "seed": config.seed,
        "weights": model.weights(run.model),
        "parameters": model.parameters(run.model),
        "dataset": data.provenance,
        "versions": records.versions(),
        "git": records.git_revisions(),
        "config": job.identity["config"],
    }


def train_tasks(tasks: Sequence[Task]) -> None:
    """Train all tasks: those that an engine takes together as one, the others side by side."""
    if not tasks:
        return
    from nnlab.engines import dual

    groups: dict[Hashable, list[Task]] = {}
    # Longest first, so that no core is left with a long run at the end.
    for task in sorted(tasks, key=lambda task: -cost(task.run)):
        key = (task.engine, task.place, task.config.threads, task.engine.group(task.run))
        groups.setdefault(key, []).append(task)
    interrupted = threading.Event()
    beside = [group for group in groups.values() if group[0].engine.side_by_side]
    progressing = Progress(len(tasks), sum(examples(task.run) for task in tasks))
    with dual.sharing(), progressing as progress:
        train_side_by_side(beside, progress, interrupted)
        for group in groups.values():
            if not group[0].engine.side_by_side:
                from nnlab import device

                with device.cpu_threads(group[0].config.threads):
                    for _ in train_group(group, progress, interrupted):
                        pass


def train_side_by_side(
    groups: Sequence[Sequence[Task]], progress: Progress, interrupted: threading.Event
) -> None:
    """Train groups, longest first, in as many threads as there are cores.

    A thread ends what it began before it takes the next; so a sweep that breaks off has lost
    little. Only the last few, fewer than twice the cores, take turns: three equal runs on two
    cores take one and a half times as long as one, not twice.
    """
    from nnlab import device

    waiting = [Training(group, train_group(group, progress, interrupted)) for group in groups]
    unended, working, lock = len(waiting), 0, threading.Lock()

    def next_one(mine: Training | None, ended: bool) -> Training | None:
        nonlocal unended
        with lock:
            unended -= ended
            last = unended < 2 * cores()
            if not waiting or (mine is not None and not last):
                return mine
            longest = max(waiting, key=Training.left) if last else waiting[0]
            if mine is not None:
                # Not at every epoch: what comes back has left the core's cache meanwhile.
                if longest.left() - mine.left() < 0.02 * longest.whole:
                    return mine
                waiting.append(mine)
            waiting.remove(longest)
            return longest

    def work() -> None:
        nonlocal working
        with device.cpu_threads(1):
            mine = next_one(None, ended=False)
            while mine is not None and not interrupted.is_set():
                with lock:
                    working += 1
                ended = not next(mine.epochs, False)
                with lock:
                    for task in mine.group:
                        task.concurrent = max(task.concurrent, working)
                    working -= 1
                mine = next_one(None if ended else mine, ended)

    if not waiting:
        return
    # An epoch may last a millisecond; a thread that has ended one should not wait five for
    # its turn in Python, which is the default.
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    with device.cpu_threads(1), ThreadPoolExecutor(cores()) as pool:
        try:
            futures = [pool.submit(work) for _ in range(min(len(waiting), cores()))]
            for future in futures:
                future.result()
        except KeyboardInterrupt:
            interrupted.set()
            raise
        finally:
            sys.setswitchinterval(before)


class Training:
    """A group's training, which any thread may take on for an epoch.

    epochs: goes on by an epoch, as ``train_group`` does. whole: its cost from beginning to end.
    """

    def __init__(self, group: Sequence[Task], epochs: Iterator[bool]) -> None:
        self.group = group
        self.epochs = epochs
        self.whole = self.left()

    def left(self) -> float:
        """Return what is left of its cost, if nothing ends it early."""
        return sum(cost(task.run) for task in self.group)


def train_group(
    group: Sequence[Task], progress: Progress, interrupted: threading.Event
) -> Iterator[bool]:
    """Train tasks in one engine and record them as they go; yield True after every epoch."""
    from nnlab import training

    opened = {task.run: task for task in group if open_folder(task)}
    first = group[0]
    for task in opened.values():
        task.concurrent = len(opened)
    try:
        engine = first.engine(list(opened), first.place)
        for run, epoch in training.train_runs(list(opened), engine):
            task = opened[run]
            if interrupted.is_set():
                return
            if epoch is not None:
                record(task).append(epoch)
                progress.epoch(len(run.train))
                yield True
            else:
                finish(task)
                progress.end(f"{task.outcome.job.name}: {in_words(run)}", examples(run))
    except Exception as error:
        for task in opened.values():
            if task.outcome.result is None:
                task.outcome.error = error
                with contextlib.suppress(OSError):  # its folder may be what failed
                    record(task).fail(error)
                progress.end(
                    f"{task.outcome.job.name}: failed, see {record(task).path / records.LOG}"
                )


def open_folder(task: Task) -> bool:
    """Make the run's folder; an error becomes the task's outcome."""
    job = task.outcome.job
    try:
        task.folder = records.RunFolder(task.outcome.folder, task.identity, job.hydra_files)
    except OSError as error:
        task.outcome.error = error
        return False
    data, place = task.identity["dataset"], task.identity["device"]
    form = task.identity["engine_form"]
    in_form = f" in its {form} form" if form else ""
    task.folder.log(
        f"{job.name}: {json.dumps(task.identity['config'])}",
        f"data: {data['source']}, {data['sizes']}",
        f"engine: {task.engine.name} ({task.identity['engine_reason']}){in_form} "
        f"on {place['name']}, {place['threads']} thread(s)",
    )
    return True


def record(task: Task) -> records.RunFolder:
    assert task.folder is not None
    return task.folder


def finish(task: Task) -> None:
    """Write what the run came to."""
    run, folder = task.run, record(task)
    task.outcome.trained = True

    def metrics(epoch: Epoch | None, prefix: str = "") -> dict[str, float | None]:
        return {f"{prefix}{name}": getattr(epoch, name, None) for name in records.COLUMNS[1:5]}

    measured = {
        "train_seconds": run.epochs[-1].seconds if run.epochs else 0.0,
        **metrics(run.kept),
        **(metrics(run.epochs[-1], "last_") if run.restored not in (None, len(run.epochs)) else {}),
        "test_loss": run.test_loss,
        "test_accuracy": run.test_accuracy,
    }
    folder.log(in_words(run))
    task.outcome.result = folder.finish(
        {"status": run.status, "stop_reason": run.stop_reason, "epochs": len(run.epochs)}
        | {"weights_of_epoch": run.restored or len(run.epochs), "concurrent_runs": task.concurrent}
        # JSON has no NaN or infinity: a loss that is no number is null.
        | {k: v if v is not None and math.isfinite(v) else None for k, v in measured.items()},
        run.model.state_dict(),
    )


def in_words(run: Run) -> str:
    test = "" if run.test_accuracy is None else f"test accuracy {run.test_accuracy:.1%}, "
    count = len(run.epochs)
    if not count:
        return f"{test}not trained"
    seconds = run.epochs[-1].seconds
    restored = (
        "" if run.restored in (None, count) else f", weights of epoch {run.restored} restored"
    )
    epochs = "epoch" if count == 1 else "epochs"
    return f"{test}{count} {epochs} in {seconds:.2f} s ({run.stop_reason}{restored})"


def examples(run: Run) -> int:
    """Return how many examples a run has still to see if nothing stops it early."""
    return len(run.train) * (run.max_epochs - len(run.epochs))


def cost(run: Run) -> int:
    """Return a number that grows as the time that a run still takes."""
    return examples(run) * sum(parameter.numel() for parameter in run.model.parameters())


def cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def conclude(outcomes: Sequence[Outcome]) -> int:
    """Print the tables, write the figures and tell the errors of a command's jobs.

    What is there already, of the runs as they are, is not made again.
    Returns the exit status: 0 only if every run came to its end.
    """
    planned = any(outcome.job.config and outcome.job.config.plan for outcome in outcomes)
    done = [] if planned else [outcome for outcome in outcomes if outcome.result]
    studies = {outcome.job.folder.parent: None for outcome in done}
    if studies:
        from nnlab import report
    for folder in studies:
        ours = [outcome for outcome in outcomes if outcome.job.folder.parent == folder]
        runs = study.look(folder)
        if runs.reported() and not any(outcome.answers for outcome in ours):
            shown = report.look(folder)
        else:
            shown = report.write(folder, curves=[ours[0].folder] if len(ours) == 1 else ())
            runs.save(report=shown.files)
        terminal.show(shown)
        answers = [file for outcome in ours for file in outcome.answers]
        terminal.say(*(shown.files or [folder]), *answers)
        runs.save()
    return tell_errors(outcomes)


def tell_errors(outcomes: Sequence[Outcome]) -> int:
    """Print each distinct error once, with the runs that it kept from ending."""
    names: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.error is not None:
            message = messages.explain(outcome.error) or (
                f"{type(outcome.error).__name__}: {outcome.error}; "
                f"traceback in {outcome.job.folder / records.LOG}"
            )
            names.setdefault(message, []).append(outcome.job.name)
    for message, failed in names.items():
        shown = ", ".join(failed[:3]) + (f" and {len(failed) - 3} more" if failed[3:] else "")
        named = len(outcomes) > 1 and not message.startswith(f"{shown} ")
        terminal.complain(f"{shown}: {message}" if named else message)
    return int(bool(names))
