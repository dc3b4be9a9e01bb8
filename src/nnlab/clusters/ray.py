"""Ray: each batch is a task, on whichever node has the cores for it."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnlab import cores, interrupts, worker
from nnlab.clusters.cluster import Cluster, Options
from nnlab.extras import needed
from nnlab.worker import Answer, Batch, Refusal

PATIENCE = 5.0  # seconds that an address has to answer
AUTO = "auto"  # what Ray calls the address of a cluster on this machine


class Ray(Cluster):
    """Trains batches as Ray tasks. Its cluster ends with the command where that started it."""

    name = "ray"
    repeats = True

    def __init__(self, options: Options) -> None:
        given: Any = options
        self.ray = needed("ray", "ray")
        with signals_kept():
            connect(self.ray, given.address)
        try:
            workers = fitting(self.ray.nodes(), given.num_cpus, given.num_gpus)
        except ValueError:
            self.ray.shutdown()
            raise
        super().__init__(given.num_cpus, workers)
        self.task = self.ray.remote(train).options(
            name="nnlab batch",
            num_cpus=given.num_cpus,
            num_gpus=given.num_gpus,
            max_retries=given.max_retries,
            retry_exceptions=[RuntimeError],  # a worker that was asked to stop
        )
        here = self.ray.get_runtime_context().get_node_id()
        strategies = needed("ray.util.scheduling_strategies", "ray")
        beside = strategies.NodeAffinitySchedulingStrategy(here, soft=False)
        actor = self.ray.remote(Letters).options(num_cpus=0, scheduling_strategy=beside)
        self.inbox = Inbox(actor.remote())
        self.begun: set[str] = set()  # batches, by their names
        self.cancelled: list[Any] = []

    def submit(self, batches: Sequence[Batch]) -> Sequence[Future]:
        for batch in batches:
            batch.inbox = self.inbox
        return [Future(self, batch, self.task.remote(batch)) for batch in batches]

    def answers(self) -> dict[str, dict[str, Answer]]:
        try:
            begun, answers = self.ray.get(self.inbox.letters.take.remote())
        except self.ray.exceptions.RayError as error:
            raise ValueError(
                f"Ray's node on this machine is lost, or cannot import nnlab (install this one "
                f"where 'ray start' was given); {interrupts.GO_ON}\n{last_line(error)}"
            ) from error
        self.begun |= begun
        taken: dict[str, dict[str, Answer]] = answers
        return taken

    def log(self, future: Any) -> Path | None:
        """Return where Ray keeps what workers wrote, on their nodes, if nothing is in the study."""
        if future.batch.log.exists():
            return None
        socket_of_node = Path(self.ray.nodes()[0]["RayletSocketName"])
        return socket_of_node.parents[1] / "logs"

    def close(self) -> None:
        if self.cancelled:  # they save what they train
            self.ray.wait(self.cancelled, num_returns=len(self.cancelled), timeout=worker.PATIENCE)
        with signals_kept():
            self.ray.shutdown()


class Future:
    """A batch that was sent as a Ray task."""

    def __init__(self, cluster: Ray, batch: Batch, reference: Any) -> None:
        self.cluster = cluster
        self.batch = batch
        self.reference = reference

    def running(self) -> bool:
        return self.batch.name in self.cluster.begun and not self.done()

    def done(self) -> bool:
        return bool(self.cluster.ray.wait([self.reference], timeout=0, fetch_local=False)[0])

    def cancel(self) -> None:
        self.cluster.ray.cancel(self.reference)
        self.cluster.cancelled.append(self.reference)

    def result(self) -> list[Answer | None] | Refusal:
        """Return what its worker answered. Raises Ray's reason, on one line, if it has not."""
        errors = self.cluster.ray.exceptions
        try:
            answer: list[Answer | None] | Refusal = self.cluster.ray.get(self.reference)
        except errors.RayTaskError as error:
            if not isinstance(error.cause, errors.RaySystemError):
                raise error.cause from None
            return Refusal(
                f"a node of Ray could not read what it is to train; install nnlab "
                f"{self.batch.version} on all of them\n{last_line(error)}"
            )
        except errors.RayError as error:
            raise RuntimeError(" ".join(str(error).split())) from error
        return answer


def train(batch: Batch) -> list[Answer | None] | Refusal:
    """Train a batch on a node of Ray."""
    assert isinstance(batch.inbox, Inbox)
    batch.inbox.begin(batch.name)
    return worker.train(batch)


class Letters:
    """What workers have sent, until the command takes it; an actor, beside the command."""

    def __init__(self) -> None:
        self.begun: set[str] = set()
        self.known: dict[str, set[str]] = {}  # runs that were sent, by their batch
        self.new: dict[str, dict[str, Answer]] = {}

    def begin(self, batch: str) -> None:
        self.begun.add(batch)

    def put(self, batch: str, answers: Mapping[str, Answer]) -> None:
        self.known.setdefault(batch, set()).update(answers)
        self.new.setdefault(batch, {}).update(answers)

    def names(self, batch: str) -> set[str]:
        return self.known.get(batch, set())

    def take(self) -> tuple[set[str], dict[str, dict[str, Answer]]]:
        """Return which batches have begun, and what was sent since the last time."""
        new, self.new = self.new, {}
        return self.begun, new


class Inbox(worker.Inbox):
    """The door to ``Letters`` for workers."""

    def __init__(self, letters: Any) -> None:
        self.letters = letters

    def begin(self, batch: str) -> None:
        """Say that a batch trains now."""
        self.letters.begin.remote(batch)

    def put(self, batch: str, answers: dict[str, Answer]) -> None:
        needed("ray", "ray").get(self.letters.put.remote(batch, answers))

    def names(self, batch: str) -> set[str]:
        known: set[str] = needed("ray", "ray").get(self.letters.names.remote(batch))
        return known


def connect(ray: Any, address: str | None) -> None:
    """Connect to a Ray cluster; to none: start one for this command.

    Raises ValueError where that fails, with Ray's own words.
    """
    quiet = {"log_to_driver": False, "logging_level": "error"}
    if address is None:
        ray.init("local", num_cpus=cores.usable(), include_dashboard=False, **quiet)
        return
    if "://" in address:
        raise ValueError(
            f"hydra.launcher.address={address}: that is for Ray's client, which nnlab does not "
            f"use; give the command on a machine of the cluster, with address=auto or host:port"
        )
    try:
        if address != AUTO:
            wait_for(address)
        ray.init(address, **quiet)  # num_cpus is for clusters that it starts, and refused here
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"hydra.launcher.address={address}: no Ray cluster that this command can use; "
            f"'ray start --head' starts one and tells its address, 'ray start --address=...' "
            f"adds a machine, with the same Ray and Python on all\n{str(error).strip()}"
        ) from error


def wait_for(address: str) -> None:
    """Raise OSError where nothing answers; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()


def fitting(nodes: Sequence[Mapping[str, Any]], num_cpus: int, num_gpus: float) -> int:
    """Return how many tasks with so many CPUs and GPUs fit into a cluster at a time.

    nodes: as Ray lists them. Raises ValueError if none fits.
    """
    have = [node["Resources"] for node in nodes if node["Alive"]]
    pairs = [(each.get("CPU", 0.0), each.get("GPU", 0.0)) for each in have]
    count = 0
    for cpus, gpus in pairs:
        fit = int(cpus / num_cpus)
        count += min(fit, int(gpus / num_gpus + 1e-9)) if num_gpus else fit
    if count == 0:
        largest = ", ".join(f"{cpus:g} CPUs and {gpus:g} GPUs" for cpus, gpus in sorted(set(pairs)))
        raise ValueError(
            f"hydra.launcher.num_cpus={num_cpus}, num_gpus={num_gpus:g}: no node of the Ray "
            f"cluster has as much; they have {largest}; ask for less"
        )
    return count


def last_line(error: Exception) -> str:
    """Return what an error of Ray's comes down to, after its tracebacks."""
    return str(error).strip().rpartition("\n")[2]


@contextlib.contextmanager
def signals_kept() -> Iterator[None]:
    """Keep the handlers of signals as they are: Ray replaces some with its own."""
    before = {number: signal.getsignal(number) for number in interrupts.SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
