"""Which process trains which run: no two write one folder, and a dead one holds nothing.

A process that trains runs of a study holds the lock on a file of its own there as long as it
does; the system drops the lock when the process ends, however it ends. A run's ``result.json``
names the file of the process that trains it. Who takes a run over, or writes the study's
report, holds the study's lock meanwhile. Locks are ``flock``'s, which NFS has from version 4 on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nnlab import records, storage

LOCK = ".lock"  # of the study
PROCESS = ".process-{}.lock"


class Claim:
    """A process's hold on the runs of a study that it trains, while it does.

    owner: what result.json says of it.
    """

    def __init__(self, study: Path) -> None:
        """Raises OSError where the study's folder cannot be written, or cannot lock files."""
        host = socket.gethostname()
        self.owner = {"host": host, "process": os.getpid(), "claim": secrets.token_hex(8)}
        study.mkdir(parents=True, exist_ok=True)
        self.path = study / PROCESS.format(self.owner["claim"])
        with exclusive(study):
            for path in study.glob(PROCESS.format("*")):
                held(path)  # removes it if its owner is dead
            self.lock = acquire(self.path, timeout=0)

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
        self.lock.release()


@contextlib.contextmanager
def exclusive(study: Path) -> Iterator[None]:
    """Hold the study's lock: no other process claims a run, or writes the report, meanwhile.

    Raises OSError where the folder cannot be written, or cannot lock files.
    """
    lock = acquire(study / LOCK, timeout=-1)
    try:
        yield
    finally:
        lock.release()


def acquire(path: Path, timeout: float) -> FileLock:
    """Lock a file. Raises Timeout where another holds it as long, OSError where it cannot be."""
    lock = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(timeout=timeout, poll_interval=0.01)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            reason = "this file system cannot lock files, by which runs are kept apart"
            raise OSError(error.errno, reason, str(path.parent)) from error
        raise
    return lock


def owner(folder: Path) -> dict[str, Any] | None:
    """Return who trains a folder's run; None where nobody does, or nobody any more.

    Raises ValueError and OSError as ``records.read_result``.
    """
    for path in (folder / records.NEW, folder):
        try:
            process = (records.read_result(path) or {}).get("owner")
        except records.DamagedError:  # only the owner itself could have replaced it since
            continue
        claim = process.get("claim") if isinstance(process, dict) else None
        if str(claim).isalnum() and held(folder.parent / PROCESS.format(claim)):
            return process
    return None


def named(process: Mapping[str, Any]) -> str:
    return f"process {process['process']} on {process['host']}"


def held(path: Path) -> bool:
    """Return whether a living process holds a lock; remove the file of one that is dead.

    That stays where it cannot be written: on a read-only disk, in another user's folder.
    """
    if not path.exists():
        return False
    try:
        lock = acquire(path, timeout=0)
    except Timeout:
        return True
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        return held_elsewhere(path)
    path.unlink(missing_ok=True)
    lock.release()
    return False


def held_elsewhere(path: Path) -> bool:
    """Return whether a process holds a lock on a file that this one can only read."""
    import fcntl

    with storage.opened(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
