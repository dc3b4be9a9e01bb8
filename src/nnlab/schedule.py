"""Which runs train when, on which cores, and the record of each."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from nnlab import claims, cores, interrupts, records, study
from nnlab.jobs import Task
from nnlab.progress import Progress
from nnlab.text import visible

if TYPE_CHECKING:
    from nnlab.engines import Engine, Run

Claims: TypeAlias = "Mapping[Path, claims.Claim]"  # on the runs of a study, by its folder

log = logging.getLogger("nnlab")
POLL = 0.5  # seconds between two looks at a run that another process trains


def train(tasks: Sequence[Task]) -> None:
    """Train all tasks in this process; those that compute the same, under several names, once."""
    with distinct(tasks) as firsts, contextlib.ExitStack() as stack:
        claimed = {}
        for folder, some in by_study(firsts).items():
            claimed[folder] = stack.enter_context(claims.Claim(folder))
            claimed[folder].announce([task.outcome.folder.name for task in some])
        train_tasks(firsts, claimed)
        train_others(firsts, claimed)


@contextlib.contextmanager
def distinct(tasks: Sequence[Task]) -> Iterator[list[Task]]:
    """Lend the first of the tasks that compute the same; what becomes of it becomes of all."""
    firsts, others = [], []
    known: dict[str, Task] = {}
    for task in tasks:
        first = known.setdefault(computation(task), task)
        if first is task:
            firsts.append(task)
            continue
        others.append((task.outcome, first.outcome))
        if first.outcome.folder != task.outcome.folder:
            task.outcome.twin = first.outcome.folder
            names = (task.outcome.job.name, first.outcome.folder.name)
            log.info("%s is %s", *map(visible, names))
    del known  # its keys are long
    yield firsts
    for outcome, trained in others:
        outcome.result, outcome.error = trained.result, trained.error


def by_study(tasks: Sequence[Task]) -> dict[Path, list[Task]]:
    """Return the tasks by the folders of their studies."""
    studies: dict[Path, list[Task]] = {}
    for task in tasks:
        studies.setdefault(task.outcome.folder.parent, []).append(task)
    return studies


def computation(task: Task) -> str:
    """Return a key that tasks of a study share whose numbers are the same."""
    how = computing(task)
    ways = ("fingerprint", "content", "engine", "engine_level", "device", "threads")
    return json.dumps([str(task.outcome.job.folder.parent), *map(how.get, ways)])


def train_others(tasks: Sequence[Task], claimed: Claims) -> None:
    """Wait for the runs that other processes train; train those that they leave."""
    told: set[str] = set()
    while waiting := [task for task in tasks if task.owner is not None]:
        for task in waiting:
            task.owner = claims.owner(task.outcome.folder)
        train_tasks([task for task in waiting if task.owner is None], claimed)
        theirs = Counter(claims.named(task.owner) for task in waiting if task.owner is not None)
        for owner in theirs.keys() - told:
            count = f"{theirs[owner]} run{'s' * (theirs[owner] > 1)}"
            log.info("waiting for %s that %s trains", count, owner)
        told |= theirs.keys()
        if interrupts.requested():
            return
        if theirs:
            time.sleep(POLL)


def train_tasks(tasks: Sequence[Task], claimed: Claims) -> None:
    """Train all tasks: those that an engine takes together as one, the others side by side."""
    if not tasks:
        return
    from nnlab import build, device

    alike: dict[Hashable, list[Task]] = {}
    # Longest first, so that no core is left with a long run at the end.
    for task in sorted(tasks, key=lambda task: -task.cost()):
        alike.setdefault((task.engine, task.device, task.config.torch_threads), []).append(task)
    concurrent: list[list[Task]] = []
    sequential: list[list[Task]] = []
    for some in alike.values():
        groups = divide(some)
        (concurrent if some[0].engine.concurrent else sequential).extend(groups)
    progressing = Progress(len(tasks), sum(task.examples() for task in tasks))
    with progressing as progress:
        with interrupts.noted(waits=True):
            train_concurrently(concurrent, progress, claimed)
        with interrupts.noted():
            for group in sequential:
                with device.cpu_threads(group[0].config.torch_threads):
                    for _ in train_group(group, progress, claimed):
                        pass
    build.latest.clear()


def divide(tasks: Sequence[Task]) -> list[list[Task]]:
    """Divide tasks of one engine and device into those that are best trained together."""
    by_sketch = {task.sketch: task for task in tasks}
    stacks = tasks[0].engine.divide(list(by_sketch), tasks[0].device)
    return [[by_sketch[sketch] for sketch in stack] for stack in stacks]


def train_concurrently(
    groups: Sequence[Sequence[Task]], progress: Progress, claimed: Claims
) -> None:
    """Train groups, longest first, in as many threads as there are cores, if memory allows."""
    from nnlab import engines

    if not groups:
        return
    threads = how_many_threads(groups)

    def begin(group: Sequence[Task]) -> Iterator[bool]:
        return train_group(group, progress, claimed)

    trainings = (Training(place, group) for place, group in enumerate(groups))
    turns = Turns(trainings, threads, cores.usable(groups[0][0].config.cores), begin)

    sharing = engines.sharing({group[0].engine for group in groups})
    # An interrupt ends the sharing first, and by that what the pool would wait for.
    try:
        with ThreadPoolExecutor(threads) as pool, sharing:
            try:
                for future in [pool.submit(turns.work) for _ in range(threads)]:
                    future.result()
            except KeyboardInterrupt:  # where signals are not heeded, as in a notebook
                interrupts.note(signal.SIGINT, None)
                raise
    except KeyboardInterrupt:
        interrupts.request.number = None
        raise


def how_many_threads(groups: Sequence[Sequence[Task]]) -> int:
    """Return in how many threads groups are to train: one for each core, if memory allows."""
    from nnlab import footprint, memory

    needed = [task.needed for group in groups for task in group]
    wanted = max(1, min(len(groups), cores.usable(groups[0][0].config.cores)))
    threads = footprint.threads(needed, wanted)
    if threads < wanted:
        whole = memory.size(footprint.of_threads(needed, wanted))
        log.info("%d of %d cores are used: more would need %s of memory", threads, wanted, whole)
    return threads


class Training:
    """A group's training, which any thread may take on for an epoch.

    place: among all, the longest first. epochs: trains an epoch and yields, as ``train_group``
    does; None before the first. most: among how many threads an epoch is worth dividing at most.
    """

    __slots__ = ("epochs", "group", "most", "place")

    def __init__(self, place: int, group: Sequence[Task]) -> None:
        self.place = place
        self.group = group
        self.epochs: Iterator[bool] | None = None
        self.most = min(task.most_threads() for task in group)

    @property
    def threads(self) -> int:
        """Among how many its next epoch is divided."""
        return self.group[0].threads

    def left(self) -> float:
        """Return what is left of its cost, if nothing ends it early."""
        return sum(task.cost() for task in self.group)

    def divide(self, threads: int) -> None:
        """Have its next epoch divided among so many threads."""
        for task in self.group:
            task.threads = threads
            if task.run is not None:
                task.run.threads = threads


class Turns:
    """Which training each of some workers goes on with, epoch by epoch, and on how many cores.

    A worker ends what it began before it takes the next; so a sweep that breaks off has lost
    little. Cores without a worker go to trainings that are worth dividing. Of the others the last
    few, fewer than twice the workers, take turns: three equal runs on two cores then take one and
    a half times as long as one, not twice (of 50 ms an epoch: 0.76 s instead of 1.00 s, and five
    1.26 s instead of 1.51 s).
    """

    def __init__(
        self,
        trainings: Iterable[Training],
        workers: int,
        cores: int,
        begin: Callable[[Sequence[Task]], Iterator[bool]],
    ) -> None:
        """begin: begins the training of a group."""
        self.waiting = list(trainings)
        self.active: list[Training] = []
        self.workers = workers
        self.cores = cores
        self.begin = begin
        self.lock = threading.Lock()

    def work(self) -> None:
        """Train, as one of the workers, until nothing is left for it."""
        mine = self.next(None, ended=False)
        while mine is not None:
            if mine.epochs is None:
                mine.epochs = self.begin(mine.group)
            mine = self.next(mine, ended=not next(mine.epochs, False))

    def next(self, mine: Training | None, ended: bool) -> Training | None:
        """Return what a worker is to train for an epoch; None if there is nothing left for it.

        mine: what it trained before, and whether that ended.
        """
        with self.lock:
            if mine is not None:
                for task in mine.group:
                    task.concurrent = max(task.concurrent, len(self.active))
                self.active.remove(mine)
            chosen = self.choose(None if ended else mine)
            if chosen is not None:
                self.active.append(chosen)
                chosen.divide(self.share(chosen))
            return chosen

    def choose(self, mine: Training | None) -> Training | None:
        unended = len(self.waiting) + len(self.active) + (mine is not None)
        last = unended < 2 * self.workers
        if not self.waiting or (mine is not None and not (last and mine.most == 1)):
            return mine
        longest = max(self.waiting, key=Training.left) if last else self.waiting[0]
        if mine is not None:
            if longest.left() <= mine.left():
                return mine
            self.waiting.append(mine)
        self.waiting.remove(longest)
        return longest

    def share(self, chosen: Training) -> int:
        """Return among how many of the cores an active training is to be divided."""
        if chosen.most == 1:
            return 1
        beginning = self.waiting[: self.workers - len(self.active)]
        those = sorted([*self.active, *beginning], key=lambda each: each.place)
        fair = cores.divided(self.cores, [each.most for each in those])[those.index(chosen)]
        taken = sum(each.threads for each in self.active if each is not chosen)
        return max(1, min(fair, self.cores - taken))


def train_group(group: Sequence[Task], progress: Progress, claimed: Claims) -> Iterator[bool]:
    """Train tasks in one engine and record them as they go; yield True after every epoch."""
    if interrupts.requested():
        return
    from nnlab import build, checkpoint, training

    opened = [task for task in group if open_folder(task, claimed)]
    for task in group:
        if task.owner is not None:
            progress.tell(f"{claims.named(task.owner)} trains some of these runs")
        elif task.outcome.result is not None:
            progress.end(f"{task.outcome.job.name}: trained by another process")
    if not opened:
        return
    first = group[0]
    try:
        for task in opened:
            task.run, task.concurrent = build.whole_run(task), len(opened)
            task.run.threads = task.threads
        tasks = {task.run: task for task in opened if task.run is not None}
        checkpoints = {run: task.checkpoint for run, task in tasks.items() if task.checkpoint}
        engine = first.engine(list(tasks), first.device)
        keeper = Keeper(opened, engine)
        for run, epoch in training.train_runs(list(tasks), engine, checkpoints):
            task = tasks[run]
            if epoch is not None:
                record(task).append(epoch if run.lr is None else (*epoch, run.lr))
                progress.epoch(len(run.train))
                keeper.epoch(task)
                if not interrupts.requested():
                    yield True
                if interrupts.requested():  # perhaps while others had their turn
                    keeper.interrupt()
                    return
            else:
                finish(task, run)
                progress.end(f"{task.outcome.job.name}: {in_words(run)}", task.examples())
    except Exception as error:
        for task in opened:
            if task.outcome.result is None:
                task.outcome.error = error
                with contextlib.suppress(OSError):  # its folder may be what failed
                    if isinstance(error, checkpoint.UnknownError) and error.run is task.run:
                        (record(task).path / records.CHECKPOINT).unlink()
                    record(task).fail(error)
                progress.end(
                    f"{task.outcome.job.name}: failed, see {record(task).path / records.LOG}"
                )
    finally:
        for task in opened:
            task.run = task.checkpoint = task.folder = None
            interrupts.request.unsaved.discard(task)


class Keeper:
    """Keeps checkpoints of tasks that an engine trains.

    One is due every ``checkpoint.seconds``, and after an epoch so long that a signal would not
    wait for the next; but none before a hundred times what the last ones took, so that they cost
    no more than 1 % of the time, unless one is wanted after each epoch.
    """

    def __init__(self, tasks: Sequence[Task], engine: Engine) -> None:
        self.tasks = tasks
        self.engine = engine
        self.saved = dict.fromkeys(tasks, time.monotonic())  # when, or when it began
        self.latest = dict.fromkeys(tasks, time.monotonic())  # when its latest epoch ended
        self.cost = 0.0  # of saving one of them, in seconds

    def epoch(self, task: Task) -> None:
        """Save a task after an epoch, if that is due."""
        assert task.run is not None
        seconds, now = task.config.checkpoint.seconds, time.monotonic()
        long = now - self.latest[task] >= interrupts.LONG
        self.latest[task] = now
        if seconds is None or task.run.status != "running":
            return
        interrupts.request.unsaved.add(task)
        passed = now - self.saved[task]
        affordable = passed >= 100 * self.cost * len(self.tasks)
        if seconds == 0 or ((long or passed >= seconds) and affordable):
            self.save(task)

    def save(self, task: Task) -> None:
        from nnlab import checkpoint

        assert task.run is not None
        started = time.monotonic()
        state = checkpoint.of(task.run, self.engine, computing(task))
        with interrupts.request.saving:
            record(task).write_rows()
            checkpoint.save(record(task).path / records.CHECKPOINT, state)
        self.saved[task] = time.monotonic()
        self.cost = self.saved[task] - started
        interrupts.request.unsaved.discard(task)

    def interrupt(self) -> None:
        """Save all that have not ended, and say so in their results."""
        with interrupts.request.saving:
            for task in self.tasks:
                if task.outcome.result is None and task.run is not None:
                    if task.config.checkpoint.seconds is not None and task.run.epochs:
                        self.save(task)
                    record(task).interrupt(len(task.run.epochs))


def open_folder(task: Task, claimed: Claims) -> bool:
    """Make the run's folder, unless another process trains the run, or has trained it meanwhile.

    An error becomes the task's outcome.
    """
    job, path = task.outcome.job, task.outcome.folder
    try:
        with claims.exclusive(path.parent):
            records.settle(path)
            task.owner = claims.owner(path)
            if task.owner is not None:
                return False
            task.outcome.result = trained_meanwhile(task)
            if task.outcome.result is not None:
                return False
            there = task.config.force and records.holds_run(path, job.hydra_files)
            where = path / records.NEW if there and not began_anew(task, path) else path
            identity = task.whole_identity()
            notes = go_on(task, where, identity)
            owner = claimed[path.parent].owner
            task.folder = records.RunFolder(where, identity, owner)
        more = ("lr",) * task.config.optimizer.scheduled
        task.folder.begin(job.hydra_files, rows_so_far(task), more)
        begin_log(task, notes)
    except (OSError, ValueError) as error:
        task.outcome.error = error
        return False
    return True


def began_anew(task: Task, path: Path) -> bool:
    """Return whether a folder holds what force=true has begun there of this run, and not ended."""
    try:
        result = records.read_result(path)
    except records.DamagedError:
        return False
    if result is None or result["status"] in records.DONE:
        return False
    forced = (result.get("config") or {}).get("force") is True
    return forced and result["fingerprint"] == task.outcome.job.fingerprint


def rows_so_far(task: Task) -> Sequence[Sequence[float | None]]:
    """Return the rows of the epochs after which a run goes on."""
    from nnlab import rates

    made = task.sketch.loss.task.epoch
    epochs = [made(*row) for row in task.checkpoint.epochs] if task.checkpoint else []
    schedule = rates.schedule_of(task.config.optimizer, task.config.stopping.max_epochs)
    if schedule is None:
        return epochs
    return [(*epoch, lr) for epoch, lr in zip(epochs, schedule.rates(epochs))]


def begin_log(task: Task, notes: Sequence[str]) -> None:
    """Write into the run's log what is trained, on which data and by what; then the notes."""
    data, device = task.identity["dataset"], task.identity["device"]
    form = task.identity["engine_form"]
    in_form = f" in its {form} form" if form else ""
    record(task).log(
        f"{task.outcome.job.name}: {json.dumps(record(task).identity['config'])}",
        f"data: {data['source']}, {data['sizes']}",
        f"engine: {task.engine.name} ({task.identity['engine_reason']}){in_form} "
        f"on {device['name']}, {device['threads']} thread(s)",
        *notes,
    )


def trained_meanwhile(task: Task) -> Mapping[str, Any] | None:
    """Return the result of a run that another process has trained since this command looked.

    What its study had then is not what force=true asks for, and neither is another run.
    Raises ValueError as ``ended_result`` does, without that.
    """
    if not task.config.force:
        return ended_result(task)
    path = task.outcome.folder
    seen = study.known(path.parent).entries.get(path.name)
    if seen is not None and seen.written == records.checksum(study.stamp_of(path / records.RESULT)):
        return None
    with contextlib.suppress(ValueError):
        return ended_result(task)
    return None


def ended_result(task: Task) -> Mapping[str, Any] | None:
    """Return the result of a run that has come to its end, by whichever process.

    Raises ValueError where what is in its folder is another run, or on other data.
    """
    job, path = task.outcome.job, task.outcome.folder
    if not records.holds_run(path, job.hydra_files):
        return None
    result = records.finished_result(path, **job.identity)
    if result is not None and result["dataset"]["content"] != task.identity["dataset"]["content"]:
        raise ValueError(
            f"{path} was trained by another process, on other data; "
            f"train it anew with force=true, or give it another study=NAME"
        )
    return result and study.short(result)


def go_on(task: Task, path: Path, identity: dict[str, Any]) -> list[str]:
    """Look for a checkpoint of an earlier attempt; return what the log is to say of it.

    identity: of the run, as its result will have it; of an attempt that computed in another way it
    is told here.
    """
    from nnlab import checkpoint

    try:
        found = checkpoint.load(path / records.CHECKPOINT, identity["parameters"])
        columns = len(task.sketch.loss.task.columns)
        if found is not None and {len(row) for row in found.epochs} - {columns}:
            raise ValueError(
                records.OTHER_CHECKPOINT.format(path / records.CHECKPOINT, "other columns")
            )
    except (OSError, ValueError) as error:
        return [f"{error}; the run begins anew"]
    ours = computing(task)
    task.checkpoint = None
    if found is None or any(found.identity.get(k) != ours[k] for k in records.SAME):
        return []
    task.checkpoint = found
    epochs, theirs = len(found.epochs), found.identity
    continued = list(theirs["continued"])
    found.exact = all(theirs.get(key) == ours[key] for key in checkpoint.EXACT)
    if any(theirs.get(key) != value for key, value in ours.items() if key != "continued"):
        continued.append({"epochs": epochs} | {key: theirs.get(key) for key in checkpoint.HOW})
    if continued:
        identity["continued"] = continued
    return [f"goes on after epoch {epochs}"]


def computing(task: Task) -> dict[str, Any]:
    """Return what tells a run from others, and in which way it is computed.

    threads: where the numbers depend on how many there are.
    """
    known = task.identity if task.folder is None else task.folder.identity
    return {
        "fingerprint": known["fingerprint"],
        "content": known["dataset"]["content"],
        "random_numbers": known["random_numbers"],
        "engine": known["engine"],
        "engine_form": known["engine_form"],
        "engine_level": known["engine_level"],
        "device": task.device.type,
        "threads": known["device"]["threads"] if known["engine"] == "torch" else None,
        "versions": known["versions"],
        "continued": known.get("continued", []),
    }


def record(task: Task) -> records.RunFolder:
    assert task.folder is not None
    return task.folder


def finish(task: Task, run: Run) -> None:
    """Write what the run came to."""
    folder = record(task)
    task.outcome.trained = True

    last, measured = run.epochs[-1] if run.epochs else None, run.loss.task.measured
    measures = {
        "train_seconds": 0.0 if last is None else last.seconds,
        "train_cpu_seconds": run.cpu_seconds,
        **measured(run.kept),
        **(measured(last, "last_") if run.restored not in (None, len(run.epochs)) else {}),
        **run.test_measures,
    }
    folder.log(in_words(run))
    outcome = (
        {"status": run.status, "stop_reason": run.stop_reason, "epochs": len(run.epochs)}
        | {"weights_of_epoch": run.restored or len(run.epochs)}
        | {"concurrent_runs": max(task.concurrent, task.outcome.job.concurrent)}
        | {"most_threads": run.most_threads}
        # JSON has no NaN or infinity: a loss that is no number is null.
        | {k: v if v is not None and math.isfinite(v) else None for k, v in measures.items()}
        | classified(run)
    )
    weights = run.model.state_dict() if task.config.save_weights else None
    with contextlib.ExitStack() as stack:
        if folder.path.name == records.NEW:  # another that finds it whole would replace, too
            stack.enter_context(claims.exclusive(task.outcome.folder.parent))
        task.outcome.result = study.short(folder.finish(outcome, weights))
        task.outcome.stamp = records.checksum(study.stamps_of(task.outcome.folder))


def classified(run: Run) -> dict[str, dict[str, str]]:
    """Return what result.json says of which examples a classifier is right; nothing of others."""
    found = {name: run.right[name] for name in ("valid", "test") if name in run.right}
    if run.status == "diverged" or not found:
        return {}
    return {"right": {name: records.packed(each) for name, each in found.items()}}


def in_words(run: Run) -> str:
    metric = run.loss.task.metrics[0]
    found = run.test_measures[f"test_{metric.name}"]
    known = "" if found is None or math.isnan(found) else metric.written(found)
    test = f"test {metric.title} {known}, " if known else ""
    count = len(run.epochs)
    if not count:
        return f"{test}not trained"
    seconds = run.epochs[-1].seconds
    restored = (
        "" if run.restored in (None, count) else f", weights of epoch {run.restored} restored"
    )
    epochs = "epoch" if count == 1 else "epochs"
    return f"{test}{count} {epochs} in {seconds:.2f} s ({run.stop_reason}{restored})"
