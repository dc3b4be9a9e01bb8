"""Sweeps in batches: 10^5 runs simulated, what they cost the command, and real launchers beside."""

from __future__ import annotations

import heapq
import importlib.util
import pickle
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.overhead import nnlab, train_seconds, wall
from benchmarks.race import say
from benchmarks.results import Options, Result, Table, Target, number
from nnlab import batches, build, claims, worker
from nnlab.clusters import cluster
from nnlab.compose import load
from nnlab.jobs import Job, Outcome
from tests.cluster import ray_cluster, real_slurm

WORKERS = (1, 10, 100, 1000)
NOISE = 0.15  # of a run's time, as a standard deviation: the spread of equal runs on busy machines
DEFAULTS = SimpleNamespace(batches=None, minutes_per_batch=5.0, max_retries=3)
RUN = ("train_size=500", "-m")
RUNS, BATCHES = 200, 8
LOCAL, SLURM, RAY = "nnlab, local", "nnlab, Slurm", "nnlab, Ray"
SUBMITIT, HYDRA_RAY = "hydra-submitit, a Slurm job for each run", "hydra-ray, a task for each run"
AT_ONCE = "that looks for jobs to start all the time"


def measure(options: Options) -> Result:
    runs = 2_000 if options.quick else 100_000
    with tempfile.TemporaryDirectory() as folder:
        run, start = measured_times(Path(folder))
        sending = command_cost(Path(folder), runs)
    rows, reached = [], {}
    for workers in WORKERS:
        say(f"  {runs} runs on {workers} workers")
        count, hours, used = simulate(runs, run, start, workers)
        reached[workers] = used
        rows.append([f"{workers:,}", f"{count:,}", f"{hours:.2f}", f"{used:.1%}"])
    simulated = Table(
        f"workers, {runs:,} runs",
        [f"workers, {runs:,} runs", "batches", "hours", "of the workers' time training"],
        rows,
        note=(
            f"Simulated with the batches that the command cuts: a run takes {run:.2f} s, the "
            f"measured median of the main experiment on 500 images, give or take {NOISE:.0%}; a "
            f"batch {start:.1f} s to start, measured. One core to a worker."
        ),
    )
    costs = Table(
        "the command's own time",
        ["the command's own time", "ms per run"],
        [
            ["cutting, sending, following, taking answers", number(1000 * sending)],
        ],
        note=(
            f"Of {runs:,} runs whose batches answer at once. Composing and checking the runs comes "
            f"to it, as for any sweep: see `overhead`."
        ),
    )
    real = real_launchers(options)
    compared = Table(
        f"{RUNS} runs of {RUN[0]}",
        [f"{RUNS} runs of {RUN[0]}", "seconds", "times nnlab, local"],
        [
            [label, number(seconds), f"{seconds / real[LOCAL]:.2f}"]
            for label, seconds in real.items()
        ],
        note=(
            f"Whole commands from the shell, one after another, on this machine; of nnlab's "
            f"launchers the median of three. A Slurm of two nodes and a Ray cluster of two nodes, "
            f"each of two CPUs, so the cores are shared; {BATCHES} batches. Slurm looks for jobs "
            f"to start as often as it does by itself (batch_sched_delay=3, sched_interval=60), "
            f"and once more as often as it can."
        ),
    )
    targets = [
        Target("time of 100 workers spent training", 95, 100 * reached[100], "%"),
        Target("the command's own time of a run", 1, 1000 * sending, "ms", at_least=False),
    ]
    return Result(
        section="cluster",
        about="Batches of runs: simulated, what they cost the command, and real clusters.",
        tables=[simulated, costs, compared],
        targets=[*targets, *reached_by(real)],
        raw={"run": run, "start": start, "sending": sending, "launchers": real},
    )


def real_launchers(options: Options) -> dict[str, float]:
    """Return the seconds of a sweep by each launcher that is there."""
    runs = 8 if options.quick else RUNS
    seconds: dict[str, float] = {}

    def take(label: str, *more: str, times: int = 3, given: Mapping[str, str] = {}) -> None:
        say(f"  {runs} runs, {label}")
        took = []
        for _ in range(times):
            with tempfile.TemporaryDirectory() as folder:
                command = nnlab(f"seed=range({runs})", *RUN, f"output_dir={folder}", *more)
                took.append(wall(command, given))
        seconds[label] = statistics.median(took)

    take(LOCAL)
    batches = f"hydra.launcher.batches={BATCHES}"
    for scheduling, which in (("", ""), (real_slurm.AT_ONCE, f", {AT_ONCE}")):
        if not real_slurm.missing():
            with real_slurm.running(2 * RUNS, 2 * RUNS, scheduling=scheduling) as slurm:
                take(f"{SLURM}{which}", "hydra/launcher=slurm", batches, given=slurm)
                size = ("hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1")
                launcher = "hydra/launcher=submitit_slurm"
                take(f"{SUBMITIT}{which}", launcher, *size, times=1, given=slurm)
    if importlib.util.find_spec("ray") is not None:
        with ray_cluster.running() as ray:
            ray.add()
            take(RAY, "hydra/launcher=ray", batches, f"hydra.launcher.address={ray.address}")
        if importlib.util.find_spec("hydra_plugins.hydra_ray_launcher") is not None:
            given = {"RAY_AUTH_MODE": "disabled"}
            take(HYDRA_RAY, "hydra/launcher=hydra_ray", times=1, given=given)
    return seconds


def reached_by(seconds: dict[str, float]) -> list[Target]:
    def compared(slower: str, faster: str) -> float | None:
        both = slower in seconds and faster in seconds
        return seconds[slower] / seconds[faster] if both else None

    def above(label: str) -> float | None:
        return seconds[label] - seconds[LOCAL] if label in seconds else None

    return [
        Target(f"{SLURM}, above the local launcher", 10, above(SLURM), "s", at_least=False),
        Target(f"{RAY}, above the local launcher", 10, above(RAY), "s", at_least=False),
        Target(f"{SLURM} against {SUBMITIT}", 8, compared(SUBMITIT, SLURM)),
        Target(
            f"the same on a Slurm {AT_ONCE}",
            8,
            compared(f"{SUBMITIT}, {AT_ONCE}", f"{SLURM}, {AT_ONCE}"),
        ),
        Target(f"{RAY} against {HYDRA_RAY}", 3, compared(HYDRA_RAY, RAY)),
    ]


def measured_times(folder: Path) -> tuple[float, float]:
    """Return the seconds of a run on one core, and those in which a worker starts."""
    wall(nnlab("seed=range(20)", *RUN, "cores=1", f"output_dir={folder}", "study=times"))
    each = train_seconds(folder / "times" / "summary.csv") / 20
    code = "from nnlab import schedule, worker, training; from nnlab.engines import native"
    started = [wall([sys.executable, "-c", code]) for _ in range(5)]
    return each, statistics.median(started)


def simulate(runs: int, seconds: float, start: float, workers: int) -> tuple[int, float, float]:
    """Return how many batches there are, the hours they take, and which part of the workers'
    time is spent training, where each worker takes the next batch when it is free."""
    draw = random.Random(0)
    tasks: Any = [as_task(seed) for seed in range(runs)]
    truth = {id(task): seconds * max(0.2, draw.gauss(1, NOISE)) for task in tasks}
    estimates = [seconds] * runs
    count = batches.how_many(estimates, DEFAULTS, 1, workers)
    cut = batches.cut(tasks, estimates, count)
    free = [0.0] * workers
    for batch in cut:
        heapq.heappush(free, heapq.heappop(free) + start + sum(truth[id(task)] for task in batch))
    end = max(free)
    return len(cut), end / 3600, sum(truth.values()) / (workers * end)


def as_task(seed: int) -> Any:
    """Return what ``batches.cut`` reads of a task."""
    return SimpleNamespace(
        outcome=SimpleNamespace(job=SimpleNamespace(identity={"config": {}})),
        config=SimpleNamespace(seed_of=lambda part: seed),
        engine="native",
        device="cpu",
    )


class Echo(cluster.Cluster):
    """Answers at once what a worker would."""

    def submit(self, sent: Sequence[worker.Batch]) -> Sequence[Any]:
        return [Answered(len(pickle.loads(pickle.dumps(batch)).jobs)) for batch in sent]


class Answered:
    def __init__(self, runs: int) -> None:
        self.runs = runs

    def running(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def cancel(self) -> None: ...

    def result(self) -> list[worker.Answer]:
        content = pickle.dumps([worker.Answer({"status": "finished"}) for _ in range(self.runs)])
        answers: list[worker.Answer] = pickle.loads(content)
        return answers


def command_cost(folder: Path, runs: int) -> float:
    """Return the seconds per run of cutting, sending, following, and taking the answers."""
    say(f"  the command's cost of {runs} runs")
    study = folder / "study"
    config = load(RUN[:1])
    first = Job(
        study / "0", [], "valid_loss", {f".hydra/{name}": "x" * 2000 for name in "abc"}, config
    )
    (task,) = build.prepare([(Outcome(first), config)])
    tasks = []
    for seed in range(runs):
        job = replace(first, folder=study / str(seed))
        identity = {**task.identity, "fingerprint": f"{seed:016x}"}
        tasks.append(replace(task, outcome=Outcome(job), identity=identity))
        _ = job.fingerprint  # known since the runs were sorted out
    count = batches.how_many([1.0] * runs, DEFAULTS, 1, 100)
    given = SimpleNamespace(**vars(DEFAULTS) | {"batches": count})
    with claims.Claim(study) as held:
        dispatch = batches.Dispatch(Echo(cores=1, workers=100), given, {study: held})
        started = time.perf_counter()
        dispatch.train(tasks)
        return (time.perf_counter() - started) / runs
