"""How many cores this process may use: what it was given, not what the machine has."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence

from nnlab import memory


def usable(asked: int | None = None) -> int:
    """Return how many cores this process is to use, at least 1: as many as asked for, or else
    all that it may.

    Those are the least of its affinity, the limits of its control groups (a container's or a
    batch job's) and what Slurm says that its task was given.
    """
    return asked or max(1, min(limits()))


def divided(cores: int, most: Sequence[int]) -> list[int]:
    """Divide cores among runs, of which each can use so many at most.

    Each gets one; those that are left go round, in the order of the runs.

    >>> divided(8, [1, 9, 3]), divided(3, [9, 9]), divided(2, [9, 9, 9])
    ([1, 4, 3], [2, 1], [1, 1, 1])
    """
    given = [1] * len(most)
    left = cores - sum(given)
    while left > 0 and any(have < limit for have, limit in zip(given, most)):
        for run, limit in enumerate(most):
            if left > 0 and given[run] < limit:
                given[run] += 1
                left -= 1
    return given


def limits() -> Iterator[int]:
    """Yield the limits that there are."""
    yield len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if "SLURM_JOB_ID" in os.environ and given.isdecimal():
        yield int(given)
    yield from quotas()


def quotas() -> Iterator[int]:
    """Yield the cores' worth of time that control groups, of either version, allow."""
    for group in memory.groups("cpu"):
        try:
            if (group / "cpu.max").exists():
                quota, period = (group / "cpu.max").read_text().split()
            else:
                quota, period = (
                    (group / f"cpu.cfs_{x}_us").read_text() for x in ("quota", "period")
                )
            if float(quota) > 0:
                yield math.ceil(float(quota) / float(period))
        except (OSError, ValueError):  # no such group, or without a limit: max
            continue
