"""Executors by name: whatever has ``submit(function, batch)`` and gives futures."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nnlab import claims, cores, interrupts, messages, worker
from nnlab.clusters.cluster import Cluster, Options
from nnlab.extras import needed
from nnlab.options import did_you_mean
from nnlab.worker import Answer, Batch, Refusal


class Pool(Cluster):
    """Trains batches in the workers of an executor from ``POOLS``."""

    def __init__(self, options: Options) -> None:
        given: Any = options
        if given.executor not in POOLS:
            raise ValueError(
                f"hydra.launcher.executor={given.executor} is not known; choose one of "
                f"{', '.join(POOLS)}{did_you_mean(given.executor, list(POOLS))}"
            )
        self.name = given.executor
        self.stack = contextlib.ExitStack()
        self.sent: list[Sent] = []
        count = given.workers or max(1, cores.usable() // (given.cores_per_worker or 1))
        super().__init__(given.cores_per_worker, count)
        try:
            self.executor = self.stack.enter_context(POOLS[self.name](count, **given.options))
        except Exception as error:
            asked = f", hydra.launcher.options={given.options}" if given.options else ""
            cause = f"{error}: {error.__cause__}" if error.__cause__ else str(error)
            reason = cause if not isinstance(error, OSError) else messages.explain(error) or cause
            raise ValueError(f"hydra.launcher.executor={self.name}{asked}: {reason}") from error

    def submit(self, batches: Sequence[Batch]) -> Sequence[Sent]:
        sent = [Sent(self.executor.submit(worker.train, batch), batch) for batch in batches]
        self.sent += sent
        return sent

    def close(self) -> None:
        left = [each for each in self.sent if not each.done() or each.future.cancelled()]
        for each in left:
            each.cancel()
        self.stack.close()
        for each in left:
            claims.forget_batch(each.batch.record)


class Sent:
    """A batch that an executor has, as a ``Future``.

    Those of the executors differ: some do not say what runs, and most cannot cancel that.
    """

    def __init__(self, future: Any, batch: Batch) -> None:
        self.future = future
        self.batch = batch

    def running(self) -> bool:
        return not self.done() and self.batch.log.exists()  # its worker has begun

    def done(self) -> bool:
        return bool(self.future.done())

    def cancel(self) -> None:
        self.batch.withdraw()
        with contextlib.suppress(NotImplementedError):  # Parsl cannot
            self.future.cancel()

    def result(self) -> list[Answer] | Refusal:
        answer: list[Answer] | Refusal = self.future.result()
        return answer


def processes(workers: int, **options: Any) -> AbstractContextManager[Any]:
    """Lend processes of ``concurrent.futures``."""
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("spawn")
    given = {"initializer": follow, "initargs": (os.getpid(),), **options}
    return apart(lambda: ProcessPoolExecutor(1, context, **given), workers)


def loky(workers: int, **options: Any) -> AbstractContextManager[Any]:
    """Lend processes of loky's."""
    kind = needed("loky", "pools").ProcessPoolExecutor
    given = {"initializer": follow, "initargs": (os.getpid(),), **options}
    return apart(lambda: kind(1, **given), workers)


@contextlib.contextmanager
def apart(make: Callable[[], Any], workers: int) -> Iterator[Any]:
    """Lend pools of one process each as one executor: a pool breaks as a whole where one of its
    processes is killed."""
    interrupts.quiet_tracker()
    free: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with interrupts.heeded_here_only():  # what follows the pools lives as long as this process
        pools = [make() for _ in range(workers)]
    for pool in pools:
        free.put(pool)

    def train(function: Callable[[Batch], Any], batch: Batch) -> Any:
        pool = free.get()
        try:
            return pool.submit(function, batch).result()
        except BrokenExecutor:
            pool = make()
            pools.append(pool)
            raise
        finally:
            free.put(pool)

    with ThreadPoolExecutor(workers) as threads:
        yield SimpleNamespace(submit=lambda *given: threads.submit(train, *given))
    for pool in pools:
        pool.shutdown()


def follow(parent: int) -> None:
    """Have this process end with its parent, and leave Ctrl-C to that."""

    def end() -> None:
        while True:
            time.sleep(1)
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end, daemon=True).start()


@contextlib.contextmanager
def dask(
    workers: int, address: str | None = None, cluster: str | None = None, **options: Any
) -> Iterator[Any]:
    """Lend the workers of Dask's scheduler at an address; or else of a cluster of its own.

    cluster: a class of dask-jobqueue, by its name; None: processes on this machine. options: of
    the client for an address, else of the cluster.
    """
    distributed = needed("distributed", "pools")
    logging.getLogger("distributed").propagate = False  # it has a handler of its own
    with contextlib.ExitStack() as stack:
        if address is not None:
            client = distributed.Client(address, **options)
        elif cluster is not None:
            # A worker trains one batch at a time; with more threads it would take others' as well.
            threads = ["--nthreads", "1", *options.pop("worker_extra_args", [])]
            kind = getattr(needed("dask_jobqueue", "pools"), cluster)
            jobs = stack.enter_context(kind(worker_extra_args=threads, **options))
            send_one(jobs)
            count = math.ceil(workers / len(jobs.plan)) * len(jobs.plan)
            jobs.adapt(minimum=count, maximum=count)  # sends others for jobs that have ended
            client = distributed.Client(jobs)
        else:
            given = {"threads_per_worker": 1, "dashboard_address": ":0", **options}
            local = stack.enter_context(distributed.LocalCluster(n_workers=workers, **given))
            client = distributed.Client(local)
        yield stack.enter_context(client).get_executor(pure=False)


def send_one(jobs: Any) -> None:
    """Have a cluster of dask-jobqueue send its first job. Raises RuntimeError with what its
    scheduler says where that refuses it; of other jobs only a log would tell."""

    async def send() -> None:
        jobs.worker_spec.update(jobs.new_worker_spec())
        await jobs

    try:
        jobs.sync(send)
    except RuntimeError:
        failed = needed("distributed", "pools").Status.failed
        for job in jobs.workers.values():
            job.status = failed  # which closing the cluster insists on
        raise


@contextlib.contextmanager
def parsl(workers: int, provider: dict[str, Any] | None = None, **options: Any) -> Iterator[Any]:
    """Lend a pool of Parsl's high-throughput executor.

    provider: what starts its workers, ``{name: SlurmProvider, ...}`` with what that takes; None:
    this machine. options: of the executor.
    """
    module = needed("parsl", "pools")
    providers, pools = needed("parsl.providers", "pools"), needed("parsl.concurrent", "pools")
    if provider is None:  # nothing need be asked what address others see
        provider = {"name": "LocalProvider"}
        options = {"address": "127.0.0.1", **options}
    kind = getattr(providers, provider["name"])
    blocks = kind(**{key: value for key, value in provider.items() if key != "name"})
    logging.getLogger("parsl").propagate = False  # it writes into runinfo
    # Its programs are beside this Python, which is found without being on the path.
    here = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([here, os.environ.get("PATH", os.defpath)])
    executor = module.HighThroughputExecutor(
        **{"max_workers_per_node": workers, "provider": blocks, **options}
    )
    with left_alone():
        kernel = module.load(module.Config([executor]))
    try:
        yield pools.ParslPoolExecutor(dfk=kernel)
    finally:
        kernel.cleanup()  # does not wait for what was withdrawn


@contextlib.contextmanager
def left_alone() -> Iterator[None]:
    """Have processes that are started in this block not heed Ctrl-C; the command tells them."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def executorlib(
    workers: int, executor: str = "SingleNodeExecutor", **options: Any
) -> Iterator[Any]:
    """Lend one of executorlib's executors, by its name; each batch has a process of its own."""
    kind = getattr(needed("executorlib", "pools"), executor)
    if executor == "SlurmJobExecutor":
        ask_srun(**options.get("resource_dict", {}))
    with kind(max_workers=workers, **options) as pool:
        yield SimpleNamespace(submit=functools.partial(pool.submit, following))


def ask_srun(
    cores: int = 1,
    threads_per_core: int = 1,
    gpus_per_core: int = 0,
    slurm_cmd_args: Sequence[str] = (),
    **_: Any,
) -> None:
    """Raise RuntimeError with Slurm's words where it refuses a worker that asks for so much:
    executorlib would wait for it for ever."""
    size = [f"--ntasks={cores}", f"--cpus-per-task={threads_per_core}"]
    gpus = [f"--gpus-per-task={gpus_per_core}"] if gpus_per_core else []
    command = ["srun", "--test-only", *size, *gpus, *slurm_cmd_args, "true"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise RuntimeError(answer.stderr.strip())


def following(function: Callable[[Batch], Any], batch: Batch) -> Any:
    """Call a function in a process that ends with the one that started it."""
    follow(os.getppid())
    return function(batch)


# By the names that hydra.launcher.executor takes; called with the number of workers, and options.
POOLS: dict[str, Callable[..., AbstractContextManager[Any]]] = {
    "processes": processes,
    "loky": loky,
    "dask": dask,
    "parsl": parsl,
    "executorlib": executorlib,
}
