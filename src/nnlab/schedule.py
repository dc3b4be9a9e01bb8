"""Which runs train when, on which cores, and the record of each."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import threading
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from nnlab import records
from nnlab.jobs import Task
from nnlab.progress import Progress

if TYPE_CHECKING:
    from nnlab.engines import Run
    from nnlab.stopping import Epoch

log = logging.getLogger("nnlab")


def train_distinct(tasks: Sequence[Task]) -> None:
    """Train all tasks; those that compute the same, under several names, once."""
    firsts: dict[str, Task] = {}
    for task in tasks:
        first = firsts.setdefault(computation(task), task)
        if first is not task and first.outcome.folder != task.outcome.folder:
            task.outcome.twin = first.outcome.folder
            log.info("%s is %s", task.outcome.job.name, first.outcome.folder.name)
    train_tasks(list(firsts.values()))
    for task in tasks:
        trained = firsts[computation(task)].outcome
        task.outcome.result, task.outcome.error = trained.result, trained.error


def computation(task: Task) -> str:
    """Return a key that tasks of a study share whose numbers are the same."""
    known, folder = task.identity, str(task.outcome.job.folder.parent)
    level, content = known.get("engine_level"), known["dataset"]["content"]
    threads = known["device"]["threads"] if known["engine"] == "torch" else None
    parts = (
        folder,
        known["fingerprint"],
        content,
        known["engine"],
        level,
        task.device.type,
        threads,
    )
    return json.dumps(parts)


def train_tasks(tasks: Sequence[Task]) -> None:
    """Train all tasks: those that an engine takes together as one, the others side by side."""
    if not tasks:
        return
    from nnlab import build, device

    alike: dict[Hashable, list[Task]] = {}
    # Longest first, so that no core is left with a long run at the end.
    for task in sorted(tasks, key=lambda task: -task.cost()):
        alike.setdefault((task.engine, task.device, task.config.threads), []).append(task)
    interrupted = threading.Event()
    concurrent: list[list[Task]] = []
    sequential: list[list[Task]] = []
    for some in alike.values():
        groups = divide(some)
        (concurrent if some[0].engine.concurrent else sequential).extend(groups)
    progressing = Progress(len(tasks), sum(task.examples() for task in tasks))
    with progressing as progress:
        train_concurrently(concurrent, progress, interrupted)
        for group in sequential:
            with device.cpu_threads(group[0].config.threads):
                for _ in train_group(group, progress, interrupted):
                    pass
    build.latest.clear()


def divide(tasks: Sequence[Task]) -> list[list[Task]]:
    """Divide tasks of one engine and device into those that are best trained together."""
    by_sketch = {task.sketch: task for task in tasks}
    stacks = tasks[0].engine.divide(list(by_sketch), tasks[0].device)
    return [[by_sketch[sketch] for sketch in stack] for stack in stacks]


def train_concurrently(
    groups: Sequence[Sequence[Task]], progress: Progress, interrupted: threading.Event
) -> None:
    """Train groups, longest first, in as many threads as there are cores.

    A thread ends what it began before it takes the next; so a sweep that breaks off has lost
    little. Only the last few, fewer than twice the cores, take turns: three equal runs on two
    cores then take one and a half times as long as one, not twice (of 50 ms an epoch: 0.76 s
    instead of 1.00 s, and five 1.26 s instead of 1.51 s).
    """
    from nnlab import device, engines

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
                if longest.left() <= mine.left():
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
    sharing = engines.sharing({group[0].engine for group in groups})
    # An interrupt ends the sharing first, and by that what the pool would wait for.
    with device.cpu_threads(1), ThreadPoolExecutor(cores()) as pool, sharing:
        try:
            futures = [pool.submit(work) for _ in range(min(len(waiting), cores()))]
            for future in futures:
                future.result()
        except KeyboardInterrupt:
            interrupted.set()
            raise


class Training:
    """A group's training, which any thread may take on for an epoch.

    epochs: trains an epoch and yields, as ``train_group`` does.
    """

    def __init__(self, group: Sequence[Task], epochs: Iterator[bool]) -> None:
        self.group = group
        self.epochs = epochs

    def left(self) -> float:
        """Return what is left of its cost, if nothing ends it early."""
        return sum(task.cost() for task in self.group)


def train_group(
    group: Sequence[Task], progress: Progress, interrupted: threading.Event
) -> Iterator[bool]:
    """Train tasks in one engine and record them as they go; yield True after every epoch."""
    from nnlab import build, training

    opened = [task for task in group if open_folder(task)]
    first = group[0]
    try:
        for task in opened:
            task.run, task.concurrent = build.whole_run(task), len(opened)
        tasks = {task.run: task for task in opened if task.run is not None}
        engine = first.engine(list(tasks), first.device)
        for run, epoch in training.train_runs(list(tasks), engine):
            task = tasks[run]
            if interrupted.is_set():
                return
            if epoch is not None:
                record(task).append(epoch)
                progress.epoch(len(run.train))
                yield True
            else:
                finish(task, run)
                progress.end(f"{task.outcome.job.name}: {in_words(run)}", task.examples())
    except Exception as error:
        for task in opened:
            if task.outcome.result is None:
                task.outcome.error = error
                with contextlib.suppress(OSError):  # its folder may be what failed
                    record(task).fail(error)
                progress.end(
                    f"{task.outcome.job.name}: failed, see {record(task).path / records.LOG}"
                )
    finally:
        for task in opened:
            task.run = None


def open_folder(task: Task) -> bool:
    """Make the run's folder; an error becomes the task's outcome."""
    job = task.outcome.job
    try:
        task.folder = records.RunFolder(task.outcome.folder, task.identity, job.hydra_files)
    except OSError as error:
        task.outcome.error = error
        return False
    data, device = task.identity["dataset"], task.identity["device"]
    form = task.identity["engine_form"]
    in_form = f" in its {form} form" if form else ""
    task.folder.log(
        f"{job.name}: {json.dumps(task.identity['config'])}",
        f"data: {data['source']}, {data['sizes']}",
        f"engine: {task.engine.name} ({task.identity['engine_reason']}){in_form} "
        f"on {device['name']}, {device['threads']} thread(s)",
    )
    return True


def record(task: Task) -> records.RunFolder:
    assert task.folder is not None
    return task.folder


def finish(task: Task, run: Run) -> None:
    """Write what the run came to."""
    folder = record(task)
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
        | {"weights_of_epoch": run.restored or len(run.epochs)}
        | {"concurrent_runs": max(task.concurrent, task.outcome.job.concurrent)}
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


def cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
