"""What a cluster is to a sweep: batches are sent to it, and answers come back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from nnlab.options import require, require_finite
from nnlab.worker import Answer, Batch, Refusal

LEAST = {  # of the options of launchers
    **dict.fromkeys(("batches", "workers", "cores_per_worker"), 1),
    **dict.fromkeys(("cpus_per_task", "timeout_min", "array_parallelism", "num_cpus"), 1),
    **dict.fromkeys(("max_retries", "max_num_timeout", "gpus_per_node", "num_gpus"), 0),
    "mem_gb": 0,  # of Slurm: all that the node has
}


class Options(Protocol):
    """The options that the launchers of all clusters have, see ``hydra_plugins``."""

    batches: int | None
    minutes_per_batch: float
    max_retries: int


class Future(Protocol):
    """A batch that was sent, as ``concurrent.futures`` has it."""

    def running(self) -> bool: ...

    def done(self) -> bool: ...

    def cancel(self) -> Any: ...

    def result(self) -> Sequence[Answer | None] | Refusal:
        """Return what ``worker.train`` did. Raises whatever kept it from that."""


class Cluster:
    """Trains batches in workers, by a library that queues and places them.

    cores: what a batch is given there; None: whatever it finds. workers: how many there are, None
    where that is not known. stays: whether batches go on when this process has
    ended. repeats: whether it sends batches again itself that were lost.
    """

    name = "batches"
    stays = False
    repeats = False

    def __init__(self, cores: int | None, workers: int | None) -> None:
        self.cores = cores
        self.workers = workers

    def named(self, count: int) -> str:
        """Return so many batches in words."""
        return f"{count} batch{'es' * (count != 1)} of {self.name}"

    def at_once(self, batches: int) -> int | None:
        """Return how many of so many batches train at a time; None where that is not known."""
        return self.workers

    def submit(self, batches: Sequence[Batch]) -> Sequence[Future]:
        """Have ``worker.train`` called with each batch. Raises ValueError where the cluster
        refuses them."""
        raise NotImplementedError

    def ticket(self, future: Future) -> str | None:
        """Return what ``attach`` finds a batch by, in another process; None where none can."""
        return None

    def attach(self, tickets: Sequence[str]) -> list[Future | None]:
        """Return the batches of an earlier command by their tickets; None for those that ended."""
        return [None] * len(tickets)

    def final(self, future: Future) -> bool:
        """Return whether a batch that was lost should not be sent again: somebody cancelled it."""
        return False

    def log(self, future: Future) -> Path | None:
        """Return where more is to be read of a batch than its worker wrote into its log."""
        return None

    def clear(self, future: Future) -> None:
        """Remove what was kept for a batch that has come to its end."""

    def answers(self) -> dict[str, dict[str, Answer]]:
        """Return what workers that share no files have sent since the last time, by batches."""
        return {}

    def close(self) -> None:
        """End the connection, and what does not stay."""


def check(options: Options) -> None:
    """Raise ValueError for an option of a launcher that is not possible."""
    for name, value in vars(options).items():
        option = f"hydra.launcher.{name}"
        if value is not None and name in LEAST:
            require_finite(option, value, LEAST[name])
        if name == "minutes_per_batch":
            require(0 < value < math.inf, option, value, "it must be a finite number above 0")
