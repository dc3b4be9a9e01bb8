"""What a sweep will cost, before it is launched: time and memory, from a few hundred steps."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

from nnlab import build, device, engines, footprint, terminal
from nnlab.config import OF_RATES
from nnlab.cores import divided
from nnlab.engines import Engine, Run
from nnlab.memory import size
from nnlab.options import plain
from nnlab.schedule import divide
from nnlab.text import as_label
from nnlab.training import draw_order

if TYPE_CHECKING:
    from nnlab.jobs import Task

WARM_UP, STEPS, ROUNDS = 20, 200, 3  # rounds of so many steps are timed, ...
LONGEST = 2.0  # ... of fewer where that would take more seconds than this
SHOWN = 20


@dataclass(frozen=True)
class Rate:
    """What was measured of one kind of run: seconds per step, per example evaluated, to set it
    up, and for what it shares with the runs on the same examples."""

    step: float
    example: float
    setup: float = 0.0
    shared: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """One run's steps and the seconds that it takes if nothing ends it early.

    threads: among how many it is divided in these seconds.
    """

    name: str
    weights: int
    steps: int
    rate: Rate
    shared: float  # seconds in which it makes what other runs use as well
    seconds: float
    threads: int

    @property
    def on_one_core(self) -> float:
        """The seconds that it takes of a single core."""
        return self.seconds * self.threads


@dataclass(frozen=True)
class Plan:
    """What the runs take each, the sweep from beginning to end, and the memory in bytes.

    data: the examples, held once. runs: what the runs take that train at a time, at most. peak:
    of this process, which has loaded the data; None where the system does not tell.
    """

    estimates: list[Estimate]
    seconds: float
    cores: int
    data: int
    runs: int
    peak: int | None


def make(tasks: Sequence[Task], cores: int) -> Plan:
    """Time a few hundred steps of each kind of run, on as many cores as the sweep will use.

    The networks of these tasks are trained a little by that: they are not to be used after.
    """
    divide_cores(tasks, cores)
    kinds: dict[str, list[Task]] = {}
    for task in tasks:
        kinds.setdefault(kind(task), []).append(task)
    with engines.sharing({task.engine for task in tasks}):
        rates = {name: measure(alike, cores) for name, alike in kinds.items()}
    seen: set[Hashable] = set()
    estimates = []
    for task in tasks:
        data = task.needed.examples if form_of(task) else None
        estimates.append(estimate(task, rates[kind(task)], first=data not in seen))
        seen.add(data)
    concurrent, most, sequential = [], [], 0.0
    for task, found in zip(tasks, estimates):
        if task.engine.concurrent:
            concurrent.append(found.on_one_core)
            most.append(task.most_threads())
        else:
            sequential += found.seconds
    splits = [(task.sketch.train, task.sketch.valid, task.sketch.test) for task in tasks]
    arrays = {
        id(array): array
        for group in splits
        for split in group
        if split is not None
        for array in (split.inputs, split.labels, split.index)
    }
    return Plan(
        estimates,
        seconds=makespan(concurrent, cores, most) + sequential,
        cores=min(cores, max(1, sum(most))),
        data=sum(array.nbytes for array in arrays.values()),
        runs=memory_at_once(tasks, cores),
        peak=peak_memory(),
    )


def divide_cores(tasks: Sequence[Task], cores: int) -> None:
    """Say of each task among how many threads it is divided while all of them train."""
    concurrent = sorted((task for task in tasks if task.engine.concurrent), key=lambda t: -t.cost())
    threads = divided(cores, [task.most_threads() for task in concurrent])
    for task, count in zip(concurrent, threads):
        task.threads = count


def memory_at_once(tasks: Sequence[Task], cores: int) -> int:
    """Return the most bytes that the runs take which train at the same time."""
    concurrent = [task.needed for task in tasks if task.engine.concurrent]
    most = footprint.of_threads(concurrent, footprint.threads(concurrent, cores))
    for engine in {task.engine for task in tasks if not task.engine.concurrent}:
        for group in divide([task for task in tasks if task.engine is engine]):
            stack = [task.needed for task in group]
            most = max(most, footprint.together(stack, len(stack)))
    return most


def kind(task: Task) -> str:
    """Return a key that runs share whose steps cost the same."""
    options = plain(task.config)
    parts: dict[str, Any] = {key: options[key] for key in ("model", "batch_size")}
    parts["threads"] = task.threads, task.config.torch_threads
    same = (*OF_RATES, "weight_decay")
    optimizer = {k: v for k, v in options["optimizer"].items() if k not in same}
    parts["trained"] = task.sketch.max_epochs > 0
    parts |= {"data": options["dataset"], "optimizer": optimizer, "engine": task.engine.name}
    if form_of(task):
        parts |= {"form": form_of(task), "train": len(task.sketch.train)}
    return json.dumps(parts, sort_keys=True) + str(task.device)


def measure(alike: Sequence[Task], cores: int) -> Rate:
    """Time runs of one kind, as many at once as will train at once."""
    first = alike[0]
    # What trains as one stack is timed as one, and every run has its part of it.
    together = [whole(task) for task in divide(alike)[0]]
    with threads_of(first):
        once, setup = building(together), building(together)
        if first.engine.concurrent:
            concurrent = [whole(task) for task in alike[:cores]]
            with ThreadPoolExecutor(len(concurrent)) as pool:
                rates = list(pool.map(lambda task: timed([task]), concurrent))
        else:
            rates = [timed(together)]
    step, example = (sum(values) / len(rates) for values in zip(*rates))
    shared = max(0.0, once - setup) if form_of(first) else 0.0
    return Rate(step, example, setup / len(together), shared)


def threads_of(task: Task) -> AbstractContextManager[None]:
    """Let torch, where it trains a task, use as many threads as that asks for, inside."""
    if task.engine.concurrent:  # it has no torch
        return nullcontext()
    return device.cpu_threads(task.config.torch_threads)


def whole(task: Task) -> Task:
    """Return a task whose sketch is its whole run, which a task that is to be trained has not."""
    return task if task.config.plan else replace(task, sketch=build.whole_run(task))


def form_of(task: Task) -> str | None:
    form: str | None = task.identity["engine_form"]
    return form


def building(tasks: Sequence[Task]) -> float:
    """Return the seconds that it takes to make an engine for some runs."""
    started = time.perf_counter()
    tasks[0].engine([task.sketch for task in tasks], tasks[0].device)
    return time.perf_counter() - started


def timed(tasks: Sequence[Task]) -> tuple[float, float]:
    """Return the seconds of a step and of an example of runs that one engine trains together:
    copies of them with shorter training sets, where that makes no difference to a step."""
    runs = []
    for task in tasks:
        most = STEPS * task.sketch.batch_size
        shorter = replace(
            task.sketch, train=replace(task.sketch.train, index=task.sketch.train.index[:most])
        )
        whole = form_of(task) or task.engine.form(shorter)
        runs.append(task.sketch if whole else shorter)
    for run in runs:
        run.threads = tasks[0].threads
    engine = tasks[0].engine(runs, tasks[0].device)
    step = 0.0
    if any(run.max_epochs > 0 for run in runs):
        step = seconds_per_step(engine, runs, WARM_UP)
        steps = max(1, min(STEPS, int(LONGEST / ROUNDS / (step * len(runs)))))
        step = median(seconds_per_step(engine, runs, steps) for _ in range(ROUNDS))
    name = next(name for name in ("valid", "test", "train") if getattr(runs[0], name) is not None)
    started = time.perf_counter()
    engine.evaluate(runs, name)
    passed = time.perf_counter() - started
    return step, passed / sum(len(getattr(run, name)) for run in runs)


def seconds_per_step(engine: Engine, runs: Sequence[Run], steps: int) -> float:
    """Train for at least so many steps of each run; return the seconds of a run's step."""
    done, started = 0, time.perf_counter()
    while done < steps * len(runs):
        orders = [draw_order(run)[: STEPS * run.batch_size] for run in runs]
        engine.train_epoch(runs, orders)
        done += sum(-(-len(order) // run.batch_size) for run, order in zip(runs, orders))
    return (time.perf_counter() - started) / done


def estimate(task: Task, rate: Rate, first: bool = True) -> Estimate:
    """Compute what a run takes if no rule ends it before max_epochs or its budget.

    first: whether it is the first on its examples, which has to make what others share.
    """
    run = task.sketch
    steps = -(-len(run.train) // run.batch_size) * run.max_epochs
    evaluated = 0 if run.valid is None else len(run.valid) * run.max_epochs
    evaluated += len(run.train) * run.max_epochs * run.full_train_metrics
    evaluated += 0 if run.test is None else len(run.test)
    shared = rate.shared if first else 0.0
    seconds = shared + rate.setup + steps * rate.step + evaluated * rate.example
    seconds = min(seconds, task.config.stopping.most_seconds)
    name = task.outcome.job.name
    weights = task.identity["weights"]
    return Estimate(name, weights, steps, rate, shared, seconds, task.threads)


def makespan(seconds: Sequence[float], cores: int, most: Sequence[int] | None = None) -> float:
    """Return how long runs take that take turns on the cores.

    seconds: of each run on one core. most: among how many it is divided at most; None: not.
    Source: McNaughton, Scheduling with deadlines and loss functions, 1959.

    >>> makespan([1.0, 2.0, 2.5], 2), makespan([1.0, 4.0], 2), makespan([1.0, 4.0], 2, [1, 2])
    (2.75, 4.0, 2.5)
    """
    alone = (each / min(cores, limit) for each, limit in zip(seconds, most or [1] * len(seconds)))
    return max(max(alone, default=0.0), sum(seconds) / cores)


def peak_memory() -> int | None:
    """Return the most memory that this process has held, in bytes; None if it is not known."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def of_batches(seconds: Sequence[float], runs: int, cores: int, at_once: int | None) -> str:
    """Say what a sweep takes that is trained in batches.

    seconds: of each batch. at_once: how many of them train at a time, None where that is not
    known: then all do.

    >>> of_batches([60.0, 30.0], 10, 4, 1)
    '10 runs are 2 batches of 30 s to 60 s on 4 cores: 90 s, 1 at a time; 0.1 core-hours'
    >>> of_batches([60.0], 1, 1, None)
    '1 run is 1 batch of 60 s on 1 core: 60 s, 1 at a time; 0.017 core-hours'
    """
    from nnlab.report import duration

    at_once = min(at_once or len(seconds), len(seconds))
    shortest, longest = duration(min(seconds)), duration(max(seconds))
    each = longest if shortest == longest else f"{shortest} to {longest}"
    batches = f"{len(seconds):,} batch{'es' * (len(seconds) != 1)}"
    given = "1 run is" if runs == 1 else f"{runs:,} runs are"
    wall = duration(makespan(seconds, at_once))
    return (
        f"{given} {batches} of {each} on {cores} core{'s' * (cores != 1)}: {wall}, "
        f"{at_once:,} at a time; {sum(seconds) * cores / 3600:,.2g} core-hours"
    )


def show(plan: Plan, in_batches: str | None = None) -> None:
    """Print the plan; in_batches: what ``of_batches`` says, where batches are trained elsewhere."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from nnlab.report import duration

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("run", overflow="fold")
    for name in ("weights", "steps", "a step", "in all"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in plan.estimates[:SHOWN]:
        step = f"{1e6 * each.rate.step:,.3g} µs"
        cells = f"{each.weights:,}", f"{each.steps:,}", step, duration(each.seconds)
        table.add_row(Text(as_label(each.name)), *cells)
    if len(plan.estimates) > SHOWN:
        table.add_row(f"and {len(plan.estimates) - SHOWN:,} more")
    terminal.show(table)
    runs = "1 run takes" if len(plan.estimates) == 1 else f"{len(plan.estimates):,} runs take"
    cores = "1 core" if plan.cores == 1 else f"{plan.cores} cores"
    single = sum(each.seconds for each in plan.estimates)
    several = plan.cores > 1 and len(plan.estimates) > 1
    after = f" ({duration(single)} one after another)" if several else ""
    here = f"{runs} about {duration(plan.seconds)} on {cores}{after}"
    print(f"{in_batches or here}, if no rule ends one early.")
    shared = sum(each.shared for each in plan.estimates)
    if shared > 0:
        print(f"Of it {duration(shared)} for inner products of examples, which runs share.")
    peak = "" if plan.peak is None else f", this process at most {size(plan.peak)} so far"
    print(f"Memory: data {size(plan.data)}, runs at most {size(plan.runs)}{peak}.")
    print("plan=true: nothing was trained or written.", flush=True)
