"""Executors by name: whatever has ``submit(function, batch)`` and gives futures."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from typing import Any

from nnlab import cores
from nnlab.clusters.cluster import Cluster, Future, Options
from nnlab.worker import Batch


class Pool(Cluster):
    """Trains batches in the workers of an executor from ``POOLS``."""

    def __init__(self, options: Options) -> None:
        given: Any = options
        if given.executor not in POOLS:
            raise ValueError(
                f"hydra.launcher.executor={given.executor} is not known; "
                f"choose one of {', '.join(POOLS)}"
            )
        self.name = given.executor
        self.count = given.workers or max(1, cores.usable() // (given.cores_per_worker or 1))
        self.options = given.options
        super().__init__(self.make(), given.cores_per_worker, self.count)

    def make(self) -> Any:
        try:
            return POOLS[self.name](self.count, **self.options)
        except TypeError as error:  # an option that it does not have
            raise ValueError(f"hydra.launcher.options: {self.name} refuses: {error}") from error

    def submit(self, batches: Sequence[Batch]) -> Sequence[Future]:
        try:
            return super().submit(batches)
        except BrokenExecutor:  # a worker of it was killed, and by that the others too
            self.executor = self.make()
            return super().submit(batches)

    def close(self) -> None:
        self.executor.shutdown(wait=False, cancel_futures=True)


def processes(workers: int | None, **options: Any) -> Any:
    from concurrent.futures import ProcessPoolExecutor

    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), **options)


# By the names that hydra.launcher.executor takes; called with the number of workers, and options.
POOLS: dict[str, Callable[..., Any]] = {"processes": processes}
