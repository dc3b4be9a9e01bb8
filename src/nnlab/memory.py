"""How much memory this process may still take, so that what does not fit is refused before it
begins, not killed in the middle."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import os
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path, PurePosixPath
from types import ModuleType, TracebackType

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
SMALL = 2**25  # bytes: for less it is not worth asking the system, which takes 0.3 ms
# What may be short, by its name in a process's status, and the remedy.
KINDS = {
    "VmSize": ("address space", "raise ulimit -v"),
    "VmData": ("data", "raise ulimit -d"),
    "VmRSS": ("memory", "end other programs, or ask for more"),
}
# In the words of torch, on CPU and GPU, and of the linker.
NO_ROOM = ("can't allocate memory", "out of memory", "failed to map segment")
# MB of these that libraries take when they are imported and used a little; nnlab: a command with
# next to nothing to train, its figures included.
TAKEN = {
    "nnlab": (270, 195, 115),
    "matplotlib": (70, 60, 50),
    "pandas": (160, 60, 75),
    "PyArrow's reader": (100, 30, 30),
    "scipy": (300, 130, 70),
    "sklearn": (330, 160, 160),
    "torch": (650, 230, 280),
    "onnxscript": (310, 165, 170),
    "torch's exporter": (160, 135, 150),  # which is imported with torch, and begins when it is used
}
M_ARENA_MAX = -8  # of glibc's mallopt


class NoRoomError(ValueError):
    """There is less memory than something needs."""


class Foresight(PathFinder):
    """Finds the libraries that take much, for which ``Loader`` sees whether there is room."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        found = PathFinder.find_spec(name, path, target) if name in TAKEN else None
        if found is not None and isinstance(found.loader, SourceFileLoader):
            found.loader = Loader(name, found.loader.path)
        return found


class Loader(SourceFileLoader):
    """Imports a library, unless there is too little memory: in the middle of that Python and the
    library would end as they happen to, or hang."""

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Raises NoRoomError."""
        check_room(self.name)
        return super().create_module(spec)


def begin_command() -> None:
    """Foresee what a command of nnlab's takes, in a process of its own, and what it will import.

    Where not even one fits that trains next to nothing, the process ends.
    """
    if Foresight in sys.meta_path:
        return
    try:
        check_room("nnlab")
        os.getcwd()
    except NoRoomError as error:
        sys.exit(str(error))
    except FileNotFoundError:
        sys.exit("the working directory is gone: cd into another, or into one anew of that name")
    sys.meta_path.insert(0, Foresight)
    sys.excepthook = tell
    # Else it takes 40 MB for each core, to be faster at what nnlab has little of.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with contextlib.suppress(OSError, KeyError, ImportError):
        if any(entry == "VmSize" for entry, _ in limits()):
            one_arena()


def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Be ``sys.excepthook``: what nobody has told, and is no fault of nnlab's, is a message."""
    if isinstance(error, NoRoomError):
        print(error, file=sys.stderr)
    elif isinstance(error, KeyboardInterrupt):
        print("stopped by SIGINT", file=sys.stderr)
    elif isinstance(error, OSError) and error.errno == errno.EMFILE:
        print(
            f"{error.filename}: {error.strerror}; raise the limit with ulimit -n", file=sys.stderr
        )
    else:
        sys.__excepthook__(kind, error, trace)


def check_room(name: str) -> None:
    """Raise NoRoomError where there is less than a library takes, see TAKEN."""
    try:
        left = list(rooms())
    except (OSError, KeyError):  # not Linux
        return
    needed = dict(zip(KINDS, TAKEN[name]))
    for entry, room in left:
        if 10**6 * needed[entry] > room:
            kind, remedy = KINDS[entry]
            raise NoRoomError(
                f"{name} needs {needed[entry]} MB of {kind}, {size(max(0, room))} is free; {remedy}"
            )


def one_arena() -> None:
    """Have the C library, where that is glibc, not take 64 MB of address space for each thread."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def check(needed: int, what: str, remedy: str) -> None:
    """Raise NoRoomError where so many bytes are more than this process may still take."""
    left = free() if needed > SMALL else None
    if left is not None and needed > left:
        raise NoRoomError(f"{what} needs {size(needed)} of memory, {size(left)} is free; {remedy}")


@contextlib.contextmanager
def bounded(what: str, remedy: str, most: int | None = None) -> Iterator[None]:
    """Have this process take no more memory in this block than is free, nor than so many bytes:
    for what cannot be foreseen.

    Raises NoRoomError where more is needed.
    """
    left = free()
    if left is None:  # not Linux
        yield
        return
    import resource

    left = left if most is None else min(left, most)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = kilobytes(PROC / "self/status")["VmSize"] + left
    resource.setrlimit(resource.RLIMIT_AS, (limit if soft < 0 else min(soft, limit), hard))
    try:
        yield
    except MemoryError:
        raise NoRoomError(
            f"{what} needs more than {size(left)} of memory, which is what there is for it; "
            f"{remedy}, or see whether it is damaged"
        ) from None
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def is_short(error: Exception) -> bool:
    """Return whether an error is that there is too little memory, of whichever device."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in NO_ROOM)


def free() -> int | None:
    """Return how many bytes this process may still take, None where the system does not tell.

    The least of what the machine, the control groups of the process (a container's or a batch
    job's) and its limits of address space and data (``ulimit -v`` and ``-d``) leave. What the
    system can swap out counts as free: it is slow, but nothing is killed for it.
    """
    try:
        return max(0, min(room for _, room in rooms()))
    except (OSError, KeyError):  # not Linux
        return None


def rooms() -> Iterator[tuple[str, int]]:
    """Yield each bound of what this process may still take, with the entry of its status that
    counts there. Raises OSError or KeyError where the system does not tell."""
    machine = kilobytes(PROC / "meminfo")
    for room in (machine["MemAvailable"], *(limit - used for limit, used in cgroups())):
        yield "VmRSS", machine["SwapFree"] + room
    yield from limits()


def limits() -> Iterator[tuple[str, int]]:
    """Yield what this process's own limits leave, as ``rooms`` does."""
    import resource

    used = kilobytes(PROC / "self/status")
    for limit, name in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft, _ = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY:
            yield name, soft - used[name]


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
    and what the C library keeps, where that is glibc. Takes 0.05 s, with torch 0.13 s."""
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
