"""Slurm: batches are the tasks of job arrays, which submitit sends and queues again.

Their pickles and logs are in a folder of the study. How jobs stand is asked of ``squeue``, once
for all of them: ``sacct``, which submitit would ask, needs a database that not every Slurm has.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import math
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TypeGuard

from nnlab import storage, worker
from nnlab.claims import BATCHES
from nnlab.clusters.cluster import Cluster, Options
from nnlab.extras import needed
from nnlab.worker import Answer, Batch, Refusal

log = logging.getLogger("nnlab")
EVERY = 1.0  # seconds between two questions to squeue, at least
LATE = 5.0  # seconds that a job's answer may take to be seen after its end, or a new start of it
ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
    *("OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
}
# The classes that answers are of.
ANSWERED = {(worker.__name__, "Answer"), (worker.__name__, "Refusal"), ("nnlab.compact", "Compact")}
TOO_OFTEN = "timed-out too many times"  # submitit's words
# Reasons for which jobs wait that pass by themselves.
PASSING = {"None", "Priority", "Resources", "JobArrayTaskLimit", "BeginTime", "Cleaning"}
# What helps, by what sbatch says.
REMEDIES = (
    ("partition name", "sinfo lists the partitions, for hydra.launcher.partition"),
    (
        "accounting/qos policy",
        "wait until other jobs have ended, or lower hydra.launcher.batches or what each asks for; "
        "sacctmgr show qos, associations user=$USER lists the limits",
    ),
    ("account", "sacctmgr show associations user=$USER lists your accounts, partitions and qos"),
    ("qos", "sacctmgr show associations user=$USER lists your accounts, partitions and qos"),
    (
        "node configuration",
        "no node has as much: lower hydra.launcher.mem_gb, cpus_per_task or gpus_per_node; "
        "sinfo -o '%P %c %m %G' lists what there is",
    ),
    ("generic resource", "no node has such; set hydra.launcher.gpus_per_node=null"),
    ("time limit", "lower hydra.launcher.timeout_min; sinfo lists the limits"),
    ("limit", "wait until other jobs have ended, or lower hydra.launcher.batches"),
    (
        "temporarily unavailable",
        "the queue is full: wait until other jobs have ended, or lower hydra.launcher.batches",
    ),
)


class Slurm(Cluster):
    """Trains each batch in a task of a job array."""

    name = "Slurm"
    stays = True

    def __init__(self, options: Options) -> None:
        """Raises ValueError where there is no Slurm here, or no submitit."""
        given: Any = options
        self.submitit = needed("submitit", "slurm")
        missing = [name for name in ("sbatch", "squeue", "srun") if shutil.which(name) is None]
        if missing:
            raise ValueError(
                f"hydra/launcher=slurm needs {', '.join(missing)}, not found on the path of "
                f"{socket.gethostname()}; give the command where jobs are submitted (a login "
                f"node), or take hydra/launcher=nnlab"
            )
        super().__init__(given.cpus_per_task, None)
        self.queue = Queue()
        self.options = given
        self.parameters = parameters(given)
        self.most: int | None = None  # tasks of an array
        self.attempts: dict[str, list[SlurmJob]] = {}  # at each batch, by its name
        self.cancelled: list[SlurmJob] = []

    def at_once(self, batches: int) -> int:
        """Raises ValueError where Slurm does not answer."""
        parallelism: int = self.options.array_parallelism
        return math.ceil(batches / most_tasks()) * parallelism

    def submit(self, batches: Sequence[Batch]) -> Sequence[SlurmJob]:
        self.most = self.most or most_tasks()
        jobs: list[SlurmJob] = []
        try:
            for start in range(0, len(batches), self.most):
                jobs += self.send(batches[start : start + self.most])
        except ValueError:
            for job in jobs:
                job.cancel()
            raise
        for batch, job in zip(batches, jobs):
            job.attempts = self.attempts.setdefault(batch.name, [])
            job.attempts.append(job)
        return jobs

    def send(self, batches: Sequence[Batch]) -> list[SlurmJob]:
        """Send batches as one array."""
        first = batches[0]
        folder = first.place / first.record.parent / first.name.rpartition("-")[0]
        if "%" in str(folder):  # which would be replaced in the names of logs and pickles
            raise ValueError(
                f"Slurm gives % a meaning of its own in {first.place / first.study}; give the "
                f"study a folder without it (study=, output_dir=)"
            )
        if "\n" in str(folder):  # the next would be a command of the script
            raise ValueError(
                f"Slurm takes no folder whose name has several lines, as {str(folder)!r} does; "
                f"give the study another (study=, output_dir=)"
            )
        executor = self.submitit.SlurmExecutor(folder, max_num_timeout=self.options.max_num_timeout)
        try:
            executor.update_parameters(**self.parameters)
        except (TypeError, ValueError) as error:
            raise ValueError(f"submitit refuses the options of hydra.launcher: {error}") from error
        with outside_of_jobs(self.submitit):
            self.refuse_impossible(executor, len(batches))
            since, said = time.monotonic(), io.StringIO()
            try:
                with contextlib.redirect_stderr(said):  # which submitit prints as well
                    sent = executor.map_array(Training(), batches)
            except RuntimeError as error:  # of submitit, with sbatch's words
                raise ValueError(refusal(len(batches), str(error), self.options)) from error
        for link in folder.glob(".submission_file_*"):
            link.unlink(missing_ok=True)
        for path in {job.paths.submission_file for job in sent}:
            path.unlink(missing_ok=True)  # Slurm has a copy of its own
        return [SlurmJob(self, folder, job.job_id, since) for job in sent]

    def refuse_impossible(self, executor: Any, count: int) -> None:
        """Ask Slurm whether it would take an array, before anything is written for it.

        It does not wait then for room in its queue, as it does, for minutes, with a real one.
        """
        asked = type(executor)(executor.folder)
        asked.update_parameters(**self.parameters)
        if count > 1:
            asked.parameters["map_count"] = count
        text = asked._make_submission_file_text("true", "")
        answer = subprocess.run(
            ["sbatch", "--test-only"], input=text, capture_output=True, text=True, check=False
        )
        if answer.returncode:
            raise ValueError(refusal(count, answer.stderr, self.options))
        if chosen := re.search(r"in partition (\S+)", answer.stderr):
            self.refuse_too_long(chosen[1])

    def refuse_too_long(self, partition: str) -> None:
        """Raise ValueError for a time that a partition does not allow: Slurm, unless it was set up
        otherwise, would take the job, and have it wait for ever.

        Another of several partitions may allow it, or a quality of service.
        """
        given = {**self.parameters, **self.parameters["additional_parameters"]}
        asked = self.options.timeout_min
        if "qos" in given or given["time"] != asked or "," in str(given.get("partition")):
            return
        limit = most_minutes(partition)
        if asked > limit:
            raise ValueError(
                f"hydra.launcher.timeout_min={asked} exceeds the {limit:g} minutes of partition "
                f"{partition}; lower it (a batch whose time is up goes on in another job, up to "
                f"max_num_timeout times), or choose another partition: sinfo lists the limits"
            )

    def ticket(self, future: Any) -> str:
        return str(future.folder / future.job_id)

    def attach(self, tickets: Sequence[str | None]) -> list[Any]:
        found = [
            SlurmJob(self, Path(each).parent, Path(each).name) if is_ticket(each) else None
            for each in tickets
        ]
        if any(found):
            self.queue.ask()
        for number, job in enumerate(found):
            if job is not None and job.left():
                self.clear(job)
                found[number] = None
        return found

    def final(self, future: Any) -> bool:
        return future.state == "CANCELLED" or future.unseen() or TOO_OFTEN in future.error()

    def log(self, future: Any) -> Path | None:
        path: Path = future.log
        return path if path.exists() else None

    def clear(self, future: Any) -> None:
        for job in future.attempts:
            for path in job.folder.glob(f"{job.job_id}_*"):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others are in it
            future.folder.rmdir()

    def close(self) -> None:
        if self.cancelled:
            subprocess.run(["scancel", *(job.job_id for job in self.cancelled)], check=False)
        for job in self.cancelled:
            self.clear(job)


class Training:
    """What a job does."""

    def __call__(self, batch: Batch) -> bytes:
        if not worker.sees(batch):
            return sealed(Refusal(f"batch {batch.name} started, but its command had given it up"))
        signal.signal(signal.SIGTERM, queue_again)
        return sealed(worker.train(batch))

    def checkpoint(self, batch: Batch) -> Any:
        """Return what is to be queued again when the job's time is up, or another needs its
        place: the same, for the runs go on from their checkpoints."""
        from submitit.core.utils import DelayedSubmission

        return DelayedSubmission(self, batch)


def queue_again(number: int, frame: FrameType | None) -> None:
    """Have a job queued again whose place another needs, as submitit does where its time is up.

    Slurm itself does so only with one that has not ended within the partition's GraceTime. What
    it has cancelled or queued again already is no longer running.
    """
    from submitit import JobEnvironment

    state = ["squeue", "--noheader", "--format=%T", "--jobs", os.environ["SLURM_JOB_ID"]]
    answer = subprocess.run(state, capture_output=True, text=True, check=False)
    if answer.stdout.strip() == "RUNNING":
        time_is_up: Any = signal.getsignal(getattr(signal, f"SIG{JobEnvironment.USR_SIG}"))
        time_is_up(number, frame)


class SlurmJob:
    """A batch that was sent: a task of an array, or a job.

    since: when it was sent, on the monotonic clock; an earlier answer of squeue tells nothing.
    attempts: the jobs in which this command has sent the batch.
    """

    def __init__(
        self, cluster: Slurm, folder: Path, job_id: str, since: float = float("-inf")
    ) -> None:
        self.cluster = cluster
        self.queue = cluster.queue
        self.folder = folder
        self.job_id = job_id
        self.queue.ours.add(job_id)
        self.since = since
        self.attempts = [self]
        self.log = folder / f"{job_id}_0_log.out"
        self.answer = folder / f"{job_id}_0_result.pkl"
        self.gone: float | None = None  # since when it is known to have ended
        self.state = ""
        self.outcome: tuple[str, Any] | None = None  # "success" and answers, or "error" and a trace

    def running(self) -> bool:
        return self.queue.states.get(self.job_id) in ("RUNNING", "COMPLETING")

    def done(self) -> bool:
        if self.answer.exists():  # Slurm itself may take seconds to say that it has ended
            self.read()
        if self.outcome is not None and self.outcome[0] == "success":
            return True
        answered = self.queue.look()
        if answered <= self.since:
            return False
        self.state = self.queue.states.get(self.job_id, "no longer known to Slurm")
        ended = self.job_id not in self.queue.states or self.state in ENDED
        if not ended and self.state != "COMPLETING":
            self.gone = None
            return False
        self.read()
        if self.outcome is not None and self.outcome[0] == "success":
            return True
        if not ended:  # or it is about to be queued again
            return False
        self.gone = self.gone or time.monotonic()
        return time.monotonic() - self.gone > LATE

    def left(self) -> bool:
        """Return whether it has ended without an answer."""
        state = self.queue.states.get(self.job_id)
        self.read()
        answered = self.outcome is not None and self.outcome[0] == "success"
        return not answered and (state is None or state in ENDED)

    def read(self) -> None:
        """Take what the job has answered, if that is to be seen yet."""
        with contextlib.suppress(Exception):  # it is not whole, or of another nnlab
            os.listdir(self.folder)  # has a network file system look again
            kind, content = Answers(io.BytesIO(storage.read(self.answer))).load()
            self.outcome = str(kind), unsealed(content) if kind == "success" else content

    def cancel(self) -> None:
        """Have it cancelled, with all others at once, when the cluster is closed."""
        self.cluster.cancelled.append(self)

    def error(self) -> str:
        return "" if self.outcome is None or self.outcome[0] == "success" else self.outcome[1]

    def unseen(self) -> bool:
        """Return whether its node could not even write a log."""
        return self.state == "FAILED" and not self.log.exists()

    def result(self) -> list[Answer | None] | Refusal:
        if self.outcome is not None and self.outcome[0] == "success":
            answers: list[Answer | None] | Refusal = self.outcome[1]
            return answers
        said = f"job {self.job_id} of Slurm is {self.state}"
        if self.unseen():
            said += (
                f" and has left no log; do all nodes see {self.folder}? Put the study on a file "
                f"system that they share (output_dir=)"
            )
        elif lines := self.error().strip().splitlines():
            said += f" ({lines[-1]})"
        raise RuntimeError(said)


def is_ticket(text: object) -> TypeGuard[str]:
    """Return whether a text names a job of Slurm's, and a folder that batches are in."""
    path = Path(text) if isinstance(text, str) else Path()
    named = re.fullmatch(r"\d+(_\d+)?", path.name)
    return bool(named) and path.parent.parent.name == BATCHES and storage.is_folder(path.parent)


def sealed(answers: list[Answer | None] | Refusal) -> bytes:
    """Return what a job answers, behind a digest of it, for ``unsealed``."""
    content = pickle.dumps(answers)
    return hashlib.sha256(content).digest() + content


def unsealed(content: bytes) -> Any:
    """Return what a job has answered. Raises ValueError where it is damaged."""
    size = hashlib.sha256().digest_size
    if hashlib.sha256(content[size:]).digest() != content[:size]:
        raise ValueError("its digest differs")
    return Answers(io.BytesIO(content[size:])).load()


class Answers(pickle.Unpickler):
    """Reads what a job has answered: nnlab's own classes, and no others, which may run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ANSWERED:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of an answer")
        return super().find_class(module, name)


class Queue:
    """What Slurm says of this user's jobs.

    states: by their ids, of those that it still knows. answered: when it said so. ours: the ids
    of this command's batches.
    """

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.answered = self.next_question = float("-inf")
        self.ours: set[str] = set()
        self.told: set[str] = set()  # what a person has been told already

    def look(self) -> float:
        """Ask again, where that is due; return when there last was an answer."""
        if time.monotonic() >= self.next_question:
            try:
                self.ask()
            except ValueError as error:  # its controller may be restarted meanwhile
                self.tell(f"{error}; asked again until it answers")
        return self.answered

    def ask(self) -> None:
        """Ask how all jobs stand. Raises ValueError where Slurm does not answer."""
        started = time.monotonic()
        answer = subprocess.run(
            ["squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i|%T|%r"],
            capture_output=True,
            text=True,
            check=False,
        )
        took = time.monotonic() - started
        self.next_question = time.monotonic() + max(EVERY, 20 * took)
        if answer.returncode:
            raise ValueError(f"squeue does not answer: {answer.stderr.strip()}")
        jobs = [line.split("|", 2) for line in answer.stdout.splitlines()]
        self.states = {job_id: state for job_id, state, _ in jobs}
        self.answered = started
        waits = Counter(
            reason for job_id, state, reason in jobs if state == "PENDING" and job_id in self.ours
        )
        for reason in waits.keys() - PASSING:
            self.tell(f"{waits[reason]} jobs wait in Slurm's queue: {reason}")

    def tell(self, line: str) -> None:
        if line not in self.told:
            self.told.add(line)
            log.warning("%s", line)


def parameters(options: Any) -> dict[str, Any]:
    """Return the options of the launcher as submitit's executor for Slurm calls them."""
    mem = None if options.mem_gb is None else f"{math.ceil(options.mem_gb * 1024)}M"
    given = {
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "cpus_per_task": options.cpus_per_task,
        "mem": mem,
        "gpus_per_node": options.gpus_per_node,
        "time": options.timeout_min,
        "array_parallelism": options.array_parallelism,
        "additional_parameters": flags(options.additional_parameters),
    }
    return {key: value for key, value in given.items() if value is not None} | {
        "job_name": "nnlab",
        "setup": options.setup,
        "stderr_to_stdout": True,
        # Slurm 22.05 and later do not hand what a job was given on to its steps.
        "srun_args": [f"--cpus-per-task={options.cpus_per_task}"],
    }


def flags(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of sbatch as submitit writes them: it would give null and false as words.

    Jobs may be queued again, if nothing else was asked for.
    """
    given = {"requeue": not options.keys() & {"no-requeue", "no_requeue"}, **options}
    given["no-requeue"] = given["requeue"] is False
    return {key: value for key, value in given.items() if value is not None and value is not False}


def most_minutes(partition: str) -> float:
    """Return how long a job may take in a partition; infinity where nothing says so."""
    answer = subprocess.run(
        ["scontrol", "show", "partition", partition], capture_output=True, text=True, check=False
    )
    found = re.search(r"MaxTime=(?:(\d+)-)?(\d+):(\d+):(\d+)", answer.stdout)
    if found is None:
        return math.inf
    days, hours, minutes, seconds = (int(number or 0) for number in found.groups())
    return 60 * (24 * days + hours) + minutes + seconds / 60


def most_tasks() -> int:
    """Return how many tasks an array may have here."""
    answer = subprocess.run(
        ["scontrol", "show", "config"], capture_output=True, text=True, check=False
    )
    if answer.returncode:
        raise ValueError(f"Slurm does not answer: {answer.stderr.strip()}")
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", answer.stdout, re.MULTILINE)
    return max(1, int(found[1])) if found else 1000


def refusal(count: int, words: str, options: Any) -> str:
    """Return the message for batches that Slurm did not take, and what may help."""
    names = ("partition", "account", "qos", "cpus_per_task", "mem_gb", "gpus_per_node")
    asked = {name: getattr(options, name) for name in (*names, "timeout_min")}
    asked |= options.additional_parameters
    given = ", ".join(f"{name}={value}" for name, value in asked.items() if value is not None)
    helps = [remedy for word, remedy in REMEDIES if word in words.lower()]
    of = f"{count} batch{'es' * (count != 1)}"
    lines = [f"Slurm refuses {of} of {given}:", *words.strip().splitlines(), *helps[:1]]
    return "\n  ".join(lines)


@contextlib.contextmanager
def outside_of_jobs(submitit: Any) -> Iterator[None]:
    """Submit as from a login node, where the command itself runs in a job of Slurm."""
    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    kept = {
        key: value
        for key, value in os.environ.items()
        if key == "SLURM_CONF" or key.startswith("SBATCH_")
    }
    with submitit.helpers.clean_env():
        os.environ.update(kept)
        yield
