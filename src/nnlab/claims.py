"""Which process trains which run: no two write one folder, and a dead one holds nothing.

A process that trains runs of a study holds the lock on a file of its own there as long as it
does; the system drops the lock when the process ends, however it ends. A run's ``result.json``
names the file of the process that trains it. Who takes a run over, or writes the study's
report, holds the study's lock meanwhile. Locks are ``flock``'s, which NFS has from version 4 on.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from nnlab import interrupts, records, storage
from nnlab.refusals import OF_FOLDERS

log = logging.getLogger("nnlab")
LOCK = ".lock"  # of the study
PROCESS = ".process-{}.lock"
PROCESSES = ".process-*"  # the files of all processes, of either kind
RUNS = ".json"  # in the place of .lock: the file that says what a process means to train
MOUNTS = Path("/proc/self/mountinfo")  # on Linux
# Kinds of file systems, and options of NFS, Lustre and CIFS, whose locks hold on one machine only.
LOCAL = {"fuse.sshfs", "nolock", "local_lock=flock", "local_lock=all", "localflock", "nobrl"}
BATCHES = ".batches"  # the folder of a study in which its command and its workers tell their state


class Claim:
    """A process's hold on the runs of a study that it trains, while it does.

    owner: what result.json says of it.
    """

    def __init__(self, study: Path) -> None:
        """Raises OSError where the study's folder cannot be written, or cannot lock files."""
        host = socket.gethostname()
        self.owner = {"host": host, "process": os.getpid(), "claim": secrets.token_hex(8)}
        storage.make_folder(study)
        if (local := local_locks(study)) is not None:
            log.warning(
                "%s is on a file system whose locks other machines do not see (%s): start commands "
                "of this study on one machine at a time",
                study,
                local,
            )
        self.path = study / PROCESS.format(self.owner["claim"])
        with exclusive(study):
            clear_dead(study)
            self.lock = acquire(self.path, timeout=0)

    def announce(self, names: Sequence[str]) -> None:
        """Tell others which runs it means to train, by their folders' names."""
        content = records.sealed({"owner": self.owner, "runs": list(names)})
        with contextlib.suppress(OSError):  # it is only for those who look
            storage.write_atomic(self.path.with_suffix(RUNS), content, durable=False)

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            forget(self.path)
        self.lock.release()


@contextlib.contextmanager
def exclusive(study: Path) -> Iterator[None]:
    """Hold the study's lock: no other process claims a run, or writes the report, meanwhile.

    Raises OSError where the folder cannot be written, or cannot lock files; Stopped where a signal
    asks those to stop who see to it themselves.
    """
    try:
        lock = acquire(study / LOCK, timeout=-1)
    except Timeout:
        interrupts.check()
        raise
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def alone(path: Path, doing: str) -> Iterator[None]:
    """Hold a lock of a study's, for which a second command waits, and says so.

    doing: what the one does that has it. Raises as ``exclusive`` does.
    """
    try:
        lock = acquire(path, timeout=0)
    except Timeout:
        log.warning("waiting for the command that %s", doing)
        lock = acquire(path, timeout=-1)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # who waits for it begins a new one
        lock.release()


def acquire(path: Path, timeout: float) -> FileLock:
    """Lock a file. Raises Timeout where another holds it as long, or a stop is awaited; OSError
    where it cannot be."""
    lock = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(timeout, 0.01, cancel_check=interrupts.awaited)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            reason = "this file system cannot lock files, by which runs are kept apart"
            raise OSError(error.errno, reason, str(path.parent)) from error
        raise
    return lock


def local_locks(folder: Path) -> str | None:
    """Return what makes the locks of a folder's file system hold on this machine only; None where
    nothing is known to."""
    try:
        lines = MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:  # not on Linux
        return None
    mounts = {}
    for line in lines:
        mount, _, system = line.partition(" - ")
        place = re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), mount.split()[4])
        mounts[place] = re.split("[ ,]", system)  # its kind, its source, options
    resolved = folder.resolve()
    above = [str(each) for each in (resolved, *resolved.parents) if str(each) in mounts]
    return next((each for each in mounts[above[0]] if each in LOCAL), None) if above else None


def clear_dead(study: Path) -> None:
    """Remove the files of processes that were killed; to be called with the study's lock held."""
    for path in list(storage.matching(study, PROCESS.format("*"))):
        held(path)
    for path in list(announcements(study)):
        if not path.with_suffix(".lock").exists():
            path.unlink(missing_ok=True)


def batches(study: Path) -> list[Path]:
    """Return the files in which commands have written down what they have sent of a study; none
    where a link is in the place of their folder."""
    folder = study / BATCHES
    return sorted(folder.glob("*.json")) if storage.is_folder(folder) else []


def batch(path: Path) -> dict[str, Any] | None:
    """Return what a command wrote down of a batch; None where it was withdrawn, or is damaged."""
    try:
        record = records.undamaged(storage.read(path))
        runs = [(str(name), str(fingerprint)) for name, fingerprint in record["runs"]]
        return {"owner": dict(record["owner"]), "ticket": record["ticket"], "runs": runs}
    except OSError as error:
        if error.errno in OF_FOLDERS:  # it may be whole
            raise
        return None
    except (ValueError, KeyError, TypeError):
        return None


def clear_batches(study: Path, ended: Callable[[str], bool]) -> None:
    """Remove what is left of batches that no command follows and whose runs have all ended.

    ended: tells of a run's name whether it has. To be called with the study's lock held.
    """
    for path in batches(study):
        record = batch(path)
        followed = record is not None and alive(study, record["owner"])
        names = {name for name, _ in record["runs"]} if record else set()
        if (
            followed
            or not all(map(ended, names))
            or any(is_older(study / name, path) for name in names)
        ):
            continue
        forget_batch(path)
        sent_together = path.stem.rpartition("-")[0]
        alone = not any(path.parent.glob(f"{sent_together}-*.json"))
        if alone and re.fullmatch(r"\w+", sent_together):  # a name that nnlab gives
            shutil.rmtree(path.parent / sent_together, ignore_errors=True)
    with contextlib.suppress(OSError):  # others are in it, or it is not there
        (study / BATCHES).rmdir()


def is_older(run: Path, record: Path) -> bool:
    """Return whether a run ended before a batch was sent: that is to train it anew."""
    try:
        return (run / records.RESULT).stat().st_mtime < record.stat().st_mtime
    except FileNotFoundError:
        return True


def forget_batch(record: Path) -> None:
    """Remove what was kept for a batch, by the file that was written down of it."""
    with contextlib.suppress(OSError):
        for path in record.parent.glob(f"{record.stem}.*"):
            path.unlink(missing_ok=True)
        record.parent.rmdir()  # unless others are in it


def announcements(study: Path) -> Iterator[Path]:
    """Yield the files that say what processes mean to train."""
    return storage.matching(study, str(Path(PROCESS.format("*")).with_suffix(RUNS)))


def owner(folder: Path) -> dict[str, Any] | None:
    """Return who trains a folder's run; None where nobody does, or nobody any more.

    Raises ValueError and OSError as ``records.read_result``.
    """
    for path in (folder / records.NEW, folder):
        try:
            process = (records.read_result(path) or {}).get("owner")
        except records.DamagedError:  # only the owner itself could have replaced it since
            continue
        if isinstance(process, dict) and alive(folder.parent, process):
            return process
    return None


def alive(study: Path, owner: Mapping[str, Any]) -> bool:
    """Return whether a process that has claimed runs of a study still does."""
    claim = str(owner.get("claim"))
    return claim.isalnum() and held(study / PROCESS.format(claim))


class Waiting(NamedTuple):
    """The process that means to train a run, and since when, in seconds since 1970."""

    owner: dict[str, Any]
    since: float


def waiting(study: Path) -> dict[str, Waiting]:
    """Return which runs of a study living processes mean to train, by their folders' names.

    Those that they train, or have trained meanwhile, are among them.
    """
    found: dict[str, Waiting] = {}
    for path in announcements(study):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            content = records.undamaged(storage.read(path))
            by = Waiting(content["owner"], path.stat().st_mtime)
            if held(path.with_suffix(".lock")):
                found |= {str(name): by for name in content["runs"]}
    return found


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
    forget(path)
    lock.release()
    return False


def forget(path: Path) -> None:
    """Remove what a process has left that trains nothing any more."""
    path.with_suffix(RUNS).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def held_elsewhere(path: Path) -> bool:
    """Return whether a process holds a lock on a file that this one cannot write.

    One that it cannot even read is taken to be held.
    """
    import fcntl

    try:
        with storage.opened(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    return False
