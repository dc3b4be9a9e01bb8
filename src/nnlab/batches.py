"""A sweep in batches: cut by cost, sent to workers, and what becomes of them."""

from __future__ import annotations

import contextlib
import logging
import math
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnlab import (
    claims,
    clusters,
    cores,
    interrupts,
    messages,
    records,
    schedule,
    storage,
    study,
    sweeps,
    terminal,
)
from nnlab.clusters import Cluster, Future, Options
from nnlab.jobs import Task
from nnlab.progress import BatchProgress
from nnlab.worker import SEEN, Answer, Batch, Refusal, ended_in

log = logging.getLogger("nnlab")
POLL = 0.1  # seconds between two looks at the batches, at least
FEWEST = 10.0  # seconds that a batch trains at least, where their number is free: it starts too


class Batches(sweeps.Here):
    """Trains sweeps in batches on a cluster, the one of ``hydra/launcher=name``."""

    def __init__(self, name: str, options: Options) -> None:
        self.name = name
        self.options = options
        self.waits = not getattr(options, "detach", False)

    def plan(self, tasks: Sequence[Task]) -> None:
        """Tell how many batches there would be, and what they would cost."""
        from nnlab import plan

        with contextlib.closing(clusters.choose(self.name, self.options)) as cluster:
            each, workers = cores_of(tasks, cluster), cluster.workers
            made = plan.make(tasks, each)
            seconds = [estimate.on_one_core for estimate in made.estimates]
            some = cut(tasks, seconds, how_many(seconds, self.options, each, workers))
            at_once = cluster.at_once(len(some))
        by_task = dict(zip(tasks, seconds))
        took = [
            plan.makespan(
                [by_task[task] for task in batch], each, [task.most_threads() for task in batch]
            )
            for batch in some
        ]
        plan.show(made, plan.of_batches(took, len(tasks), each, at_once))

    def train(self, tasks: Sequence[Task]) -> None:
        """Send all tasks in batches, and wait for what becomes of them."""
        with (
            schedule.distinct(tasks) as firsts,
            interrupts.patient(),
            contextlib.closing(clusters.choose(self.name, self.options)) as cluster,
            contextlib.ExitStack() as stack,
        ):
            studies = schedule.by_study(firsts)
            held = {folder: stack.enter_context(claims.Claim(folder)) for folder in studies}
            Dispatch(cluster, self.options, held).train(firsts)


@dataclass(eq=False)
class Sent:
    """A batch that is on its way.

    tasks: in the order of its jobs; None for one that this command has not asked for. attempts:
    how often it was sent since a run of it has ended; known: how many had when it was sent. ended:
    how runs of it have ended, by their names, as far as is known.
    """

    batch: Batch
    tasks: Sequence[Task | None]
    future: Future
    attempts: int = 1
    known: int = 0
    ended: Mapping[str, str] = field(default_factory=dict)

    def asked(self) -> list[Task]:
        return [task for task in self.tasks if task is not None]


class Dispatch:
    """Sends tasks in batches, takes what comes back, and sends again what was lost.

    held: the claims on the studies. theirs: tasks that another process trains, or means to.
    """

    def __init__(
        self, cluster: Cluster, options: Options, held: Mapping[Path, claims.Claim]
    ) -> None:
        self.cluster = cluster
        self.options = options
        self.held = held
        self.announced: dict[Path, list[str]] = {folder: [] for folder in held}
        self.sent: list[Sent] = []
        self.theirs: list[Task] = []
        self.next_look = 0.0  # at theirs
        self.number = 0  # of the next batch
        self.name = secrets.token_hex(3)

    def train(self, tasks: Sequence[Task]) -> None:
        """Train all tasks; their outcomes tell what became of them.

        Raises Stopped where a signal asked to stop.
        """
        self.seconds = dict(zip(tasks, self.estimate(tasks)))
        self.share_out(tasks)
        if getattr(self.options, "detach", False) and self.cluster.stays:
            self.detach()
            return
        with BatchProgress(len(tasks), sum(self.seconds.values())) as progress:
            started = time.monotonic()
            while self.advance():
                self.show(progress, tasks)
                if interrupts.requested():
                    progress.stop()
                    self.leave()
                took = time.monotonic() - started
                time.sleep(min(max(POLL, 10 * took), 20 * POLL))
                started = time.monotonic()
            self.show(progress, tasks)
        wait_to_see([task.outcome.folder for task in tasks if task.outcome.trained])

    def advance(self) -> bool:
        """Take what has come back; return whether something is still to come."""
        self.receive()
        self.look_at_theirs()
        return bool(self.sent or self.theirs)

    def estimate(self, tasks: Sequence[Task]) -> list[float]:
        """Return what tasks take: in seconds on one core, where the number of batches is free."""
        if self.options.batches is not None:
            return [float(task.cost()) for task in tasks]
        from nnlab import plan

        made = plan.make(tasks, cores_of(tasks, self.cluster))
        return [each.on_one_core for each in made.estimates]

    # Sending

    def share_out(self, tasks: Sequence[Task]) -> None:
        """Find who trains tasks already, and send the others."""
        for folder, some in schedule.by_study(tasks).items():
            with claims.exclusive(folder):
                attached = self.attach(folder, some)
                busy = claims.waiting(folder)
                left = [task for task in some if task not in attached]
                theirs = [task for task in left if task.outcome.folder.name in busy]
                ours = [task for task in left if task not in set(theirs)]
                self.announced[folder] += [task.outcome.folder.name for task in [*attached, *ours]]
                self.held[folder].announce(self.announced[folder])
            self.theirs += theirs
            self.send(folder, ours)

    def attach(self, folder: Path, tasks: Sequence[Task]) -> set[Task]:
        """Take over the batches that an earlier command has sent and that still are on their way;
        return the tasks in them. To be called with the study's lock held."""
        asked = {
            (task.outcome.folder.name, str(task.identity["fingerprint"])): task for task in tasks
        }
        known = {each.batch.name for each in self.sent}
        found = []
        for path in claims.batches(folder):
            record = claims.batch(path)
            if record is None:
                claims.forget_batch(path)
            elif path.stem not in known and not claims.alive(folder, record["owner"]):
                found.append((path, record))
        futures = self.cluster.attach([record["ticket"] for _, record in found])
        attached: set[Task] = set()
        for (path, record), future in zip(found, futures):
            if future is None:
                claims.forget_batch(path)
                continue
            order = [asked.get((name, fingerprint)) for name, fingerprint in record["runs"]]
            jobs = [each.outcome.job for each in order if each is not None]
            if jobs:
                record["owner"] = self.held[folder].owner  # so that no other takes it over as well
                storage.write_atomic(path, records.sealed(record))
                batch = Batch(path.stem, jobs, Path.cwd(), self.cluster.cores)
                self.sent.append(Sent(batch, order, future))
                attached.update(self.sent[-1].asked())
        if attached:
            runs = "1 run is" if len(attached) == 1 else f"{len(attached)} runs are"
            log.info("%s on their way already", runs)
        return attached

    def send(self, folder: Path, tasks: Sequence[Task]) -> None:
        """Cut tasks of a study into batches, and send them."""
        if not tasks:
            return
        seconds = [self.seconds[task] for task in tasks]
        each, workers = cores_of(tasks, self.cluster), self.cluster.workers
        count = how_many(seconds, self.options, each, workers)
        sent = []
        for some in cut(tasks, seconds, count):
            jobs = [task.outcome.job for task in some]
            name = f"{self.name}-{self.number:04d}"
            self.number += 1
            content = {task.outcome.job.name: task.identity["dataset"]["content"] for task in some}
            batch = Batch(name, jobs, Path.cwd(), self.cluster.cores, content=content)
            sent.append((batch, some))
        self.submit([batch for batch, _ in sent], [some for _, some in sent])

    def submit(self, batches: Sequence[Batch], tasks: Sequence[Sequence[Task | None]]) -> None:
        """Send batches, of one study. Raises ValueError where the cluster refuses them."""
        for batch in batches:
            self.record(batch)
        try:
            futures = self.cluster.submit(batches)
        except ValueError:
            for batch in batches:
                batch.record.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # others are in it
                batches[0].record.parent.rmdir()
            raise
        for batch, some, future in zip(batches, tasks, futures):
            self.record(batch, self.cluster.ticket(future))
            self.sent.append(Sent(batch, some, future))

    def record(self, batch: Batch, ticket: str | None = None) -> None:
        """Write down that a batch is sent: for its worker, and for the next command."""
        runs = [(job.name, job.fingerprint) for job in batch.jobs]
        owner = self.held[batch.study].owner
        content = records.sealed({"owner": owner, "ticket": ticket, "runs": runs})
        storage.make_own_folder(batch.record.parent)
        try:
            storage.write_atomic(batch.record, content)
        except FileNotFoundError:  # another command has removed the folder, which was empty
            storage.make_own_folder(batch.record.parent)
            storage.write_atomic(batch.record, content)

    # Receiving

    def receive(self) -> None:
        """Take what has come back."""
        done = [each for each in self.sent if each.future.done()]  # whose answers have arrived
        begun = {each for each in done if each.batch.log.exists()}
        for name, answers in self.cluster.answers().items():
            for each in self.sent:
                if each.batch.name == name:
                    each.ended = {**each.ended, **dict.fromkeys(answers, "")}
                    for task in each.asked():
                        if task.outcome.job.name in answers:
                            self.take(task, answers[task.outcome.job.name])
        for each in list(self.sent):
            if each not in done:
                each.ended = ended_in(each.batch) or each.ended
                continue
            self.sent.remove(each)
            try:
                answer = each.future.result()
            except Exception as error:
                self.lost(each, error, bystander=bool(begun) and each not in begun)
                continue
            self.cluster.clear(each.future)
            if isinstance(answer, Refusal):
                self.give_up(each, answer.reason)
                continue
            for asked, one in zip(each.tasks, answer):
                if asked is not None and one is not None:
                    self.take(asked, one)
            claims.forget_batch(each.batch.record)

    def take(self, task: Task, answer: Answer) -> None:
        """Make a worker's answer the outcome of a task, its files those of the run."""
        outcome = task.outcome
        outcome.elsewhere = True
        outcome.result, outcome.trained = answer.result, answer.trained
        outcome.error = None if answer.error is None else ValueError(answer.error)
        if answer.twin is not None:
            outcome.twin = outcome.job.folder.parent / answer.twin
        outcome.evaluation_files = [outcome.folder / name for name in answer.evaluation_files]
        if not answer.files:
            return
        folder = outcome.folder.parent
        try:
            with claims.exclusive(folder):
                if claims.owner(outcome.folder) is not None:  # who has begun it without batches
                    outcome.result, outcome.error, outcome.trained = None, None, False
                    self.theirs.append(task)
                    names = [each for each in self.announced[folder] if each != outcome.folder.name]
                    self.announced[folder] = names
                    self.held[folder].announce(names)
                    return
                force = task.config.force
                records.install(outcome.folder, answer.files, outcome.job.hydra_files, force)
        except (OSError, ValueError) as error:
            outcome.result, outcome.error = None, error

    def lost(self, each: Sent, error: Exception, bystander: bool) -> None:
        """Send a batch again whose worker has not answered, if that may help.

        bystander: it had not begun, and was lost with others that had, as their pool broke.
        """
        lines = str(error).strip().splitlines() or [""]
        system = messages.explain(error) if isinstance(error, (OSError, RuntimeError)) else None
        reason = system or f"{type(error).__name__}: {lines[-1]}"
        ended = len(ended_in(each.batch))
        if ended > each.known or bystander:
            each.attempts = 0
        again = each.attempts <= self.options.max_retries and not self.cluster.repeats
        if again and not interrupts.requested() and not self.cluster.final(each.future):
            try:
                self.submit([each.batch], [each.asked()])
            except ValueError as refused:
                reason += f"; sent again, it was refused: {refused}"
            else:
                log.info("batch %s was lost (%s); it is sent again", each.batch.name, reason)
                self.sent[-1].attempts, self.sent[-1].known = each.attempts + 1, ended
                return
        times = "" if each.attempts <= 1 else f" {each.attempts} times"
        where = self.cluster.log(each.future) or each.batch.log
        self.give_up(each, f"batch {each.batch.name} was lost{times}: {reason}; see {where}")

    def give_up(self, each: Sent, reason: str) -> None:
        """Fail the runs of a batch that have not ended; what it left stays, to be looked at."""
        for task in each.asked():
            settle(task)
            if task.outcome.result is None and task.outcome.error is None:
                task.outcome.error = ValueError(reason)
        each.batch.record.unlink(missing_ok=True)

    def look_at_theirs(self) -> None:
        """Take the runs that others have trained; send those that they have left."""
        started = time.monotonic()
        if not self.theirs or started < self.next_look:
            return
        left = []
        for folder, some in schedule.by_study(self.theirs).items():
            busy = claims.waiting(folder)
            for task in some:
                settle(task)
                ended = task.outcome.result is not None or task.outcome.error is not None
                if ended or task.outcome.folder.name not in busy:
                    self.theirs.remove(task)
                    left += [] if ended else [task]
        self.share_out(left)
        now = time.monotonic()
        self.next_look = now + 20 * max(POLL, now - started)

    # What a person sees

    def show(self, progress: BatchProgress, tasks: Sequence[Task]) -> None:
        """Tell how the runs stand."""
        states = dict.fromkeys(tasks, "elsewhere")
        for each in self.sent:
            state = "running" if each.future.running() else "queued"
            for task in each.asked():
                ended = each.ended.get(task.outcome.job.name)
                states[task] = state if ended is None else "failed" if ended == "failed" else "done"
        for task in tasks:
            if task.outcome.error is not None:
                states[task] = "failed"
            elif task.outcome.result is not None:
                states[task] = "done"
        done = sum(self.seconds[task] for task in tasks if states[task] in ("done", "failed"))
        progress.show(Counter(states.values()), done)

    def leave(self) -> None:
        """Stop, as a signal asked to. Raises Stopped."""
        number = interrupts.request.number
        goes_on = self.cluster.stays and bool(self.sent)
        if goes_on and number == signal.SIGINT and terminal.can_ask() and sys.stderr.isatty():
            terminal.complain(f"\nCancel {self.cluster.named(len(self.sent))}? [y/N]")
            goes_on = sys.stdin.readline().strip().lower() not in ("y", "yes")
        if goes_on:
            log.info("%s: they go on without this command", self.cluster.named(len(self.sent)))
        else:
            for each in self.sent:
                each.batch.withdraw()
                each.future.cancel()
        interrupts.check()

    def detach(self) -> None:
        """Leave the batches to themselves."""
        if self.sent:
            log.info(
                "%s: the same command without hydra.launcher.detach follows them, and makes the "
                "table at the end; python -m nnlab.runs shows what has begun",
                self.cluster.named(len(self.sent)),
            )


def settle(task: Task) -> None:
    """Make what is in a task's folder its outcome, if that came to its end there."""
    try:
        task.outcome.result = schedule.trained_meanwhile(task)
    except (OSError, ValueError) as error:
        task.outcome.error = error


def wait_to_see(folders: Sequence[Path]) -> None:
    """Wait until runs that were trained on other machines are to be seen on this one.

    A network file system goes on showing what it had, for up to a minute, unless something is
    written there.
    """
    until = time.monotonic() + SEEN
    unseen = [folder for folder in folders if not (folder / records.RESULT).exists()]
    while unseen and time.monotonic() < until and not interrupts.requested():
        for parent in {folder.parent for folder in unseen}:
            with tempfile.TemporaryFile(dir=parent):
                pass
        time.sleep(5 * POLL)
        unseen = [folder for folder in unseen if not (folder / records.RESULT).exists()]
    if unseen:
        log.warning(
            "%d runs that were trained elsewhere are not to be seen here yet, say %s; "
            "python -m nnlab.report %s makes the table when they are",
            len(unseen),
            unseen[0],
            unseen[0].parent,
        )


def cores_of(tasks: Sequence[Task], cluster: Cluster) -> int:
    """Return how many cores a batch has: as asked for by hand, or as the cluster gives them."""
    return cores.usable(tasks[0].config.cores or cluster.cores)


def how_many(seconds: Sequence[float], options: Options, each: int, workers: int | None) -> int:
    """Return into how many batches runs are to be cut.

    seconds: of the runs, on one core. each: cores of a batch. workers: how many batches train at
    a time, if that is known; then none of them is idle at the end.
    """
    count = options.batches
    if count is None:
        total = sum(seconds) / each
        count = math.ceil(total / (60 * options.minutes_per_batch))
        if workers is not None and count <= workers:
            count = max(count, min(workers, int(total / FEWEST)))
        elif workers is not None:
            count = math.ceil(count / workers) * workers
    return max(1, min(count, len(seconds)))


def cut(tasks: Sequence[Task], seconds: Sequence[float], count: int) -> list[list[Task]]:
    """Cut tasks into about so many batches of equal cost, those on the same images together.

    Longest batch first; none is longer than the average by more than half a run.
    """
    on_same: dict[Hashable, list[tuple[float, Task]]] = {}
    for task, cost in zip(tasks, seconds):
        asked = study.data_key(task.outcome.job.identity["config"])
        key = (asked, task.config.seed_of("data"), task.engine, str(task.device))
        on_same.setdefault(key, []).append((cost, task))
    each, before = sum(seconds) / count, 0.0
    batches: dict[int, list[tuple[float, Task]]] = {}
    for some in on_same.values():
        for cost, task in sorted(some, key=lambda pair: -pair[0]):
            number = int((before + cost / 2) / each) if each else 0
            batches.setdefault(min(number, count - 1), []).append((cost, task))
            before += cost
    longest = sorted(batches.values(), key=lambda some: -sum(cost for cost, _ in some))
    return [[task for _, task in some] for some in longest]
