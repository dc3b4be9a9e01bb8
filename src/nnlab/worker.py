"""What a worker does: trains a batch of runs where it was sent, and tells what becomes of them."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import nnlab
from nnlab import interrupts, records, storage, sweeps, tally
from nnlab.claims import BATCHES
from nnlab.jobs import Job, Outcome, Task

log = logging.getLogger("nnlab")
EVERY = 1.0  # seconds between two tellings
PATIENCE = 25.0  # seconds that the epochs under way have to end, once a signal asks for it
SEEN = 10.0  # seconds that a network file system has to show what the command wrote
one_at_a_time = threading.Lock()  # a process trains one batch, whatever threads it is given


class Inbox(Protocol):
    """Where a worker that shares no files with the command sends what it has."""

    def put(self, batch: str, answers: dict[str, Answer]) -> None:
        """Send what became of runs, by their names."""

    def names(self, batch: str) -> set[str]:
        """Return of which runs it has been sent."""


@dataclass
class Batch:
    """Runs of one study that a worker trains as a sweep of its own.

    place: the folder in which the command was given. cores: what its worker is given; None: what
    it finds there. inbox: for workers that share no files with the command. content: of the data
    that the command sees, by the names of its jobs.
    """

    name: str
    jobs: list[Job]
    place: Path
    cores: int | None = None
    inbox: Inbox | None = None
    content: dict[str, str] = field(default_factory=dict)
    version: str = nnlab.__version__

    @property
    def study(self) -> Path:
        return self.jobs[0].folder.parent

    @property
    def record(self) -> Path:
        """The file by which the command says that this batch is sent."""
        return self.study / BATCHES / f"{self.name}.json"

    def withdraw(self) -> None:
        """Tell whoever trains this batch, or is about to, that it is not wanted any more."""
        with contextlib.suppress(OSError):
            storage.write_atomic(self.record, b"", durable=False)

    @property
    def ended(self) -> Path:
        """The file by which its worker says which runs have ended."""
        return self.record.with_suffix(".ended")

    @property
    def log(self) -> Path:
        return self.record.with_suffix(".log")


@dataclass
class Answer:
    """What became of a job on its worker.

    result: as in its ``Outcome``. files: those of the run by their paths in its folder, where the
    command cannot see them.
    """

    result: Mapping[str, Any] | None = None
    error: str | None = None
    twin: str | None = None
    trained: bool = False
    evaluation_files: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Refusal:
    """Why a worker cannot train a batch: another would be no better."""

    reason: str


def train(batch: Batch) -> list[Answer | None] | Refusal:
    """Train a batch in this process; return what became of each job, in their order; None for one
    whose answer is in the inbox.

    Raises RuntimeError where it was asked to stop, by a signal or as the batch was withdrawn: what
    trained is saved, and another worker may go on with it.
    """
    if batch.version != nnlab.__version__:
        return Refusal(
            f"{socket.gethostname()} has nnlab {nnlab.__version__}, the command is of "
            f"{batch.version}; install the same on both"
        )
    handlers = {number: signal.getsignal(number) for number in interrupts.SIGNALS}
    try:
        with one_at_a_time, interrupts.heeded(patience=PATIENCE), at_work(batch) as shared:
            return train_here(batch, shared)
    except interrupts.Stopped as stopped:
        handler = handlers[stopped.number]
        usual = handler is signal.default_int_handler
        if callable(handler) and not usual and not withdrawn(batch):
            handler(stopped.number, None)  # perhaps it has the scheduler queue this again
        name = signal.Signals(stopped.number).name  # its command says how to go on
        raise RuntimeError(f"{socket.gethostname()}: stopped by {name}") from None


@contextlib.contextmanager
def at_work(batch: Batch) -> Iterator[bool]:
    """Be where the command was given, and log to the batch's file; lends whether that is so.

    Where the study is not to be seen, be in a folder of this worker's own, for as long.
    """
    before, shared = Path.cwd(), sees(batch)
    with contextlib.ExitStack() as stack:
        stack.callback(os.chdir, before)
        if shared:
            os.chdir(batch.place)
            handler: logging.Handler = logging.FileHandler(batch.log, encoding="utf-8")
        else:
            own = stack.enter_context(tempfile.TemporaryDirectory(prefix="nnlab-"))
            os.chdir(own)
            for job in batch.jobs:
                job.folder = Path(own, batch.study.name, job.name)
            handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("[%(asctime)s] %(message)s"))
        level = log.level
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        stack.callback(log.setLevel, level)
        stack.callback(handler.close)
        stack.callback(log.removeHandler, handler)
        log.info("%s, process %d: %d runs", socket.gethostname(), os.getpid(), len(batch.jobs))
        yield shared


def sees(batch: Batch) -> bool:
    """Return whether this worker sees what the command wrote, which may take a moment."""
    record = batch.place / batch.record
    until = time.monotonic() + SEEN
    while not record.exists():
        if not (batch.place / batch.study).exists() or time.monotonic() > until:
            return False
        os.listdir(record.parent)  # has a network file system look again
        time.sleep(0.2)
    return True


def withdrawn(batch: Batch) -> bool:
    """Return whether the command does not want a batch any more that this worker saw."""
    try:
        return os.stat(batch.place / batch.record).st_size == 0
    except FileNotFoundError:
        return (batch.place / batch.study).exists()
    except OSError:  # a network file system has trouble
        return False


def train_here(batch: Batch, shared: bool) -> list[Answer | None]:
    """Train the runs that an earlier attempt at the batch has not ended."""
    if shared and withdrawn(batch):
        raise interrupts.Stopped(signal.SIGTERM)
    ended = ended_runs(batch, shared)
    for job in batch.jobs:
        assert job.config is not None
        if job.asked is None:
            job.asked = {"cores": job.config.cores, "force": job.config.force}
        job.config.cores = job.config.cores or batch.cores
        job.config.force = job.config.force and job.name not in ended
    left = [job for job in batch.jobs if shared or job.name not in ended]
    outcomes = {each.job.name: each for each in sweeps.train(left, where=Telling(batch, shared))}
    sent = set() if shared else ended_runs(batch, shared)
    names = [job.name for job in batch.jobs]
    return [None if name in sent else answer(outcomes[name], shared) for name in names]


def ended_runs(batch: Batch, shared: bool) -> set[str]:
    """Return the names of the batch's runs that its earlier workers have told the end of."""
    if shared:
        return set(ended_in(batch))
    return set() if batch.inbox is None else batch.inbox.names(batch.name)


def ended_in(batch: Batch) -> dict[str, str]:
    """Return how runs of a batch have ended, by their names, as far as its worker has told."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return dict(records.undamaged(storage.read(batch.ended)).get("runs", {}))
    return {}


class Telling(sweeps.Here):
    """Trains in this process, and tells as it goes which runs have ended."""

    def __init__(self, batch: Batch, shared: bool) -> None:
        self.batch = batch
        self.shared = shared
        self.told = ended_in(batch) if shared else {}  # how runs ended, by their names

    def train(self, tasks: Sequence[Task]) -> None:
        over = threading.Event()

        def tell() -> None:
            while not over.wait(EVERY):
                self.tell(tasks)
                if self.shared and withdrawn(self.batch):
                    interrupts.stop()

        telling = threading.Thread(target=tell, daemon=True)
        telling.start()
        try:
            super().train([task for task in tasks if self.sees_same_data(task)])
        finally:
            over.set()
            telling.join()
            self.tell(tasks)

    def sees_same_data(self, task: Task) -> bool:
        """Return whether a task is on the data that its command sees; otherwise it has failed."""
        found = task.identity["dataset"]
        expected = self.batch.content.get(task.outcome.job.name, found["content"])
        if found["content"] != expected:
            task.outcome.error = ValueError(
                f"{socket.gethostname()} has other data than the command ({found['source']}); "
                f"bring the same to both"
            )
        return task.outcome.error is None

    def tell(self, tasks: Sequence[Task]) -> None:
        """Tell of those that have ended since the last time."""
        news = {}
        for outcome in (task.outcome for task in tasks):
            name = outcome.job.name
            if name not in self.told and (outcome.result is not None or outcome.error is not None):
                news[name] = outcome
                self.told[name] = "failed" if outcome.result is None else outcome.result["status"]
        if news and self.shared:
            with contextlib.suppress(OSError):  # it is only for those who look
                content = records.sealed({"runs": self.told})
                storage.write_atomic(self.batch.ended, content, durable=False)
        elif news and self.batch.inbox is not None:
            sweeps.run_evaluations(list(news.values()))
            for outcome in news.values():
                outcome.elsewhere = True  # it is evaluated, and leaves
            answers = {name: answer(outcome, self.shared) for name, outcome in news.items()}
            self.batch.inbox.put(self.batch.name, answers)


def answer(outcome: Outcome, shared: bool) -> Answer:
    """Return what became of a job, for its command."""
    result, told = outcome.result, tally.explain(outcome)
    if told is not None and not shared:
        told = f"{socket.gethostname()}: {told}"
    files = {}
    if not shared and outcome.folder.is_dir():
        paths = [path for path in outcome.folder.rglob("*") if path.is_file()]
        files = {str(path.relative_to(outcome.folder)): path.read_bytes() for path in paths}
    return Answer(
        result,
        told,
        None if outcome.twin is None else outcome.twin.name,
        outcome.trained,
        [path.name for path in outcome.evaluation_files],
        files,
    )
