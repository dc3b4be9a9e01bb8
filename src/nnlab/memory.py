"""How much memory this process may still take, so that what does not fit is refused before it
begins, not killed in the middle."""

from __future__ import annotations

import contextlib
import gc
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
SMALL = 2**25  # bytes: for less it is not worth asking the system, which takes 0.3 ms


def check(needed: int, what: str, remedy: str) -> None:
    """Raise ValueError where so many bytes are more than this process may still take."""
    left = free() if needed > SMALL else None
    if left is not None and needed > left:
        raise ValueError(f"{what} needs {size(needed)} of memory, {size(left)} is free; {remedy}")


def free() -> int | None:
    """Return how many bytes this process may still take, None where the system does not tell.

    The least of what the machine, the control groups of the process (a container's or a batch
    job's) and its limits of address space and data (``ulimit -v`` and ``-d``) leave. What the
    system can swap out counts as free: it is slow, but nothing is killed for it.
    """
    try:
        machine = kilobytes(PROC / "meminfo")
        left = [machine["MemAvailable"]]
        left += [limit - used for limit, used in cgroups()]
    except (OSError, KeyError):  # not Linux
        return None
    return max(0, min([machine["SwapFree"] + room for room in left] + list(limits())))


def limits() -> Iterator[int]:
    """Yield what this process's own limits leave."""
    import resource

    used = kilobytes(PROC / "self/status")
    for limit, name in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft, _ = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY:
            yield soft - used[name]


def cgroups() -> Iterator[tuple[int, int]]:
    """Yield limit and usage of each control group that this process is in, of either version.

    Usage is without files that the system keeps in memory only as long as there is room.
    """
    for group in groups("memory"):
        if (group / "memory.max").exists():
            files, cached = ("memory.max", "memory.current"), r"(?:in)?active_file"
        else:
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            cached = "total_(?:in)?active_file"
        try:
            limit, used = (int((group / file).read_text()) for file in files)
            kept = re.findall(rf"^{cached} (\d+)$", (group / "memory.stat").read_text(), re.M)
        except (OSError, ValueError):  # no such group, or without a limit: max
            continue
        yield limit, used - sum(map(int, kept))


def groups(controller: str) -> Iterator[Path]:
    """Yield the folders of the control groups that limit this process, of either version.

    Nothing where the system has none.
    """
    try:
        lines = (PROC / "self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = CGROUPS / controller if controllers else CGROUPS
        inner = PurePosixPath(path.lstrip("/"))
        # In a container the path may be that outside, and the group be found at the root.
        yield from (root / inner, *(root / parent for parent in inner.parents))


def give_back() -> None:
    """Give the system what is no longer used: what refers to itself, for which Python has to look,
    and what the C library keeps, where that is glibc. Takes 0.05 s."""
    import ctypes

    gc.collect()
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def kilobytes(path: Path) -> dict[str, int]:
    """Return the entries of a file of /proc that are in kB, in bytes."""
    found = re.findall(r"^(\w+):\s+(\d+) kB$", path.read_text(), re.M)
    return {name: 1024 * int(number) for name, number in found}


def size(count: float) -> str:
    """Write a number of bytes.

    >>> size(852), size(437_544), size(2_000_000_000), size(160e12)
    ('852 B', '438 kB', '2.0 GB', '160,000 GB')
    """
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB" if count < 99.5 else f"{count:,.0f} GB"
