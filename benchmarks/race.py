"""Contenders measured in turn, round after round, so that the machine's noise falls on all.

Each lives in a process of its own, pinned to one core where it has one thread, and trains
on from round to round: one warm-up epoch, then the epochs of every round.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.problem import Spec

REPOSITORY = Path(__file__).parents[1]


@dataclass
class Entry:
    """A contender; a process for each spec, which work at the same time, a core each."""

    label: str
    peer: str
    specs: tuple[Spec, ...]


@dataclass
class Measured:
    """What one contender took. steps: optimisation steps of all its runs in a round."""

    label: str
    steps: int
    setup: float | None = None  # seconds to build, compile and train the warm-up epoch
    seconds: list[float] = field(default_factory=list)  # a round each
    cpu: list[float] = field(default_factory=list)  # seconds of all cores, a round each
    accuracies: list[float] = field(default_factory=list)  # of the runs, in the end
    peak_bytes: int = 0
    problem: str = ""  # why there is no time

    @property
    def micros(self) -> list[float]:
        """Microseconds per step, a round each."""
        return [1e6 * seconds / self.steps for seconds in self.seconds]

    def quartiles(self) -> tuple[float, float, float]:
        """Return lower quartile, median and upper quartile of micros."""
        return quartiles(self.micros)

    @property
    def accuracy(self) -> float:
        return statistics.fmean(self.accuracies)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return lower quartile, median and upper quartile.

    >>> quartiles([1.0, 2.0, 3.0, 4.0, 5.0])
    (2.0, 3.0, 4.0)
    """
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def ratio(slower: Measured, faster: Measured) -> float:
    """Return the median over the rounds of how many times as long one took per step."""
    return statistics.median(a / b for a, b in zip(slower.micros, faster.micros))


def race(
    entries: Sequence[Entry],
    *,
    rounds: int,
    epochs: int,
    band: float | None = 0.015,
    floor: Callable[[], float] | None = None,
) -> list[Measured]:
    """Train all entries for 1 + rounds * epochs epochs and time the rounds.

    band: an entry whose mean final accuracy differs by more from the first entry's gets no
    time. floor: returns the seconds that a step cannot do without; measured in every round,
    it becomes one more entry at the end.
    """
    results = [
        Measured(entry.label, epochs * sum(spec.steps for spec in entry.specs)) for entry in entries
    ]
    bound = Measured("floor", results[0].steps)
    with contextlib.ExitStack() as stack:
        teams = []
        for entry, result in zip(entries, results):
            say(f"  {entry.label}: starting")
            spread = len(entry.specs) > 1 or entry.specs[0].threads > 1
            teams.append(
                [
                    stack.enter_context(worker(entry.peer, spec, core_of(number, spec, spread)))
                    for number, spec in enumerate(entry.specs)
                ]
            )
            replies = hear(teams[-1], result)
            result.setup = max((reply["seconds"] for reply in replies), default=None)
        for number in range(rounds):
            say(f"  round {number + 1} of {rounds}")
            if floor is not None:
                bound.seconds.append(floor() * bound.steps)
            for team, result in zip(teams, results):
                if not result.problem:
                    replies = ask(team, result, epochs=epochs)
                    if replies:
                        result.seconds.append(max(reply["seconds"] for reply in replies))
                        result.cpu.append(sum(reply["cpu"] for reply in replies))
        for team, result in zip(teams, results):
            if not result.problem:
                for reply in ask(team, result, accuracies=True):
                    result.accuracies += reply["accuracies"]
                    result.peak_bytes += reply["peak_bytes"]
    reference = next((result for result in results if result.accuracies), None)
    for result in results:
        if band is not None and reference is not None and not result.problem:
            difference = result.accuracy - reference.accuracy
            if abs(difference) > band:
                result.problem = f"accuracy differs by {100 * difference:+.1f} points"
    return results if floor is None else [*results, bound]


def core_of(number: int, spec: Spec, spread: bool) -> list[int] | None:
    """Return the cores for a process: one of its own, or all that its threads may use."""
    if not hasattr(os, "sched_getaffinity") or spec.threads > 1 or spec.device != "cpu":
        return None
    mine = sorted(os.sched_getaffinity(0))
    return [mine[number % len(mine)] if spread else mine[-1]]


@contextlib.contextmanager
def pinned(where: list[int] | None) -> Iterator[None]:
    """Pin this process, and what it starts meanwhile, to some cores."""
    if where is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, where)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def worker(peer: str, spec: Spec, where: list[int] | None) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.worker", peer, json.dumps(asdict(spec))]
    with pinned(where):
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=os.environ | single_threaded(spec.threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def single_threaded(threads: int) -> dict[str, str]:
    """Return the environment that holds every library to some number of threads."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = dict.fromkeys(names, str(threads))
    environment |= {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    if threads == 1:
        flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        environment["XLA_FLAGS"] = flags
    return environment


def ask(
    team: Sequence[subprocess.Popen[str]], result: Measured, **question: Any
) -> list[dict[str, Any]]:
    """Put a question to all processes of an entry, then hear them."""
    for process in team:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
    return hear(team, result)


def hear(team: Sequence[subprocess.Popen[str]], result: Measured) -> list[dict[str, Any]]:
    """Return the reply of each process, or none at all once one of them has a problem."""
    replies = []
    for process in team:
        assert process.stdout is not None
        line = process.stdout.readline()
        reply = json.loads(line) if line else {"problem": f"ended with status {process.wait()}"}
        result.problem = result.problem or reply.get("problem", "")
        replies.append(reply)
    if result.problem:
        say(f"  {result.label}: {result.problem}")
        return []
    return replies


def one_run(label: str, peer: str, **options: Any) -> Entry:
    return Entry(label, peer, (Spec(**options),))


def say(line: str) -> None:
    """Tell the person who waits; results go to stdout, this does not."""
    print(line, file=sys.stderr, flush=True)
