"""Executors by name: whatever has ``submit(function, batch)`` and gives futures."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

from nnlab import cores
from nnlab.clusters.cluster import Cluster, Options


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
        workers = given.workers or max(1, cores.usable() // (given.cores_per_worker or 1))
        try:
            executor = POOLS[given.executor](workers, **given.options)
        except TypeError as error:  # an option that it does not have
            raise ValueError(
                f"hydra.launcher.options: {given.executor} refuses them: {error}"
            ) from error
        super().__init__(executor, given.cores_per_worker, workers)

    def close(self) -> None:
        self.executor.shutdown(wait=False, cancel_futures=True)


def processes(workers: int | None, **options: Any) -> Any:
    from concurrent.futures import ProcessPoolExecutor

    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), **options)


# By the names that hydra.launcher.executor takes; called with the number of workers, and options.
POOLS: dict[str, Callable[..., Any]] = {"processes": processes}
