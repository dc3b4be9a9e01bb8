"""A disk that loses what was not synced, by the recorded operations of a command.

As in ALICE (Pillai et al., OSDI 2014): what is written to a file is on disk for certain once the
file is synced, and a name (made, removed or moved) once its folder is. Of everything else any
part may be there after a crash, in any order.
"""

from __future__ import annotations

import builtins
import io
import os
import pickle
import random
import stat
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.reliability import warm

MODES = ("all", "lost", "names only", "any")


class Operation(NamedTuple):
    """name: write, sync, rename, unlink, mkdir or rmdir. path: in the recorded folder.

    content: of a write, the whole file's. target: of a rename.
    """

    name: str
    path: str
    content: bytes = b""
    target: str = ""


class Recorder:
    """Records what the process does to the files below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = os.path.realpath(root)
        self.operations: list[Operation] = []
        self.seen = self.contents()
        self.lock = threading.RLock()

    def contents(self) -> dict[str, bytes]:
        found = {}
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = os.path.join(folder, name)
                # Past the functions that are recorded.
                number = real_open(path, os.O_RDONLY)
                found[os.path.relpath(path, self.root)] = os.read(number, 1 << 30)
                os.close(number)
        return found

    def look(self) -> None:
        """Record what was written since the last look."""
        now = self.contents()
        for path, content in now.items():
            if self.seen.get(path) != content:
                self.operations.append(Operation("write", path, content))
        self.seen = now

    def relative(self, path: Any, folder: int | None = None) -> str | None:
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        elif folder is not None:
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
        whole = os.path.abspath(os.fspath(path))
        inside = whole == self.root or whole.startswith(f"{self.root}/")
        return os.path.relpath(whole, self.root) if inside else None

    def wrap(self, module: Any, name: str, recorded: str | None) -> None:
        """Record each call of a function; None: only look, for it may come before a write."""
        real: Callable[..., Any] = getattr(module, name)

        def wrapped(*given: Any, **named: Any) -> Any:
            with self.lock:
                self.look()
                path = recorded and self.relative(given[0], named.get("dir_fd"))
                answer = real(*given, **named)
                if recorded and path is not None:
                    target = self.relative(given[1]) or "" if recorded == "rename" else ""
                    self.operations.append(Operation(recorded, path, target=target))
                    content = self.seen.pop(path, None) if target or recorded == "unlink" else None
                    if target and content is not None:
                        self.seen[target] = content
                return answer

        setattr(module, name, wrapped)


real_open = os.open
RECORDED = {
    "fsync": "sync",
    "rename": "rename",
    "replace": "rename",
    "unlink": "unlink",
    "remove": "unlink",
    "mkdir": "mkdir",
    "rmdir": "rmdir",
}


def record(arguments: Sequence[str], cwd: Path) -> list[Operation]:
    """Do what a command line says; return what it did to the files of its folder, in order."""
    found = cwd.with_name("operations")
    process = warm.server.Process(target=be_recorded, args=(tuple(arguments), cwd, found))
    process.start()
    process.join()
    assert process.exitcode == 0
    operations: list[Operation] = pickle.loads(found.read_bytes())
    return operations


def be_recorded(arguments: Sequence[str], cwd: Path, found: Path) -> None:
    streams = cwd.with_name("streams")
    streams.mkdir(exist_ok=True)
    recorder = Recorder(cwd)
    for name, recorded in RECORDED.items():
        recorder.wrap(os, name, recorded)
    recorder.wrap(os, "open", None)
    recorder.wrap(io, "open", None)
    builtins.open = io.open
    try:
        warm.be("nnlab.run", arguments, cwd, streams, draw=False)
    finally:
        recorder.look()
        found.write_bytes(pickle.dumps(recorder.operations))


@dataclass(eq=False)
class Inode:
    """A file, whatever its names. synced: what is on disk for certain."""

    live: bytes = b""
    synced: bytes | None = None


@dataclass
class Disk:
    """live: files by path as the process sees them. certain: what is on disk for certain.

    pending: changes of names that are not: what, where, and the file.
    """

    live: dict[str, Inode | None] = field(default_factory=dict)  # None: a folder
    certain: dict[str, Inode | None] = field(default_factory=dict)
    pending: list[tuple[Operation, Inode | None]] = field(default_factory=list)

    def do(self, operation: Operation) -> None:
        name, path, content, _ = operation
        if name == "sync":
            inode = self.live.get(path)
            if inode is not None:
                inode.synced = inode.live
            else:
                mine = [each for each in self.pending if os.path.dirname(places(each[0])) == path]
                self.pending = [each for each in self.pending if each not in mine]
                for each in mine:
                    change(self.certain, *each)
            return
        if name == "write":
            inode = self.live.get(path)
            if inode is None:
                inode = Inode()
                self.pending.append((operation, inode))
                self.live[path] = inode
            inode.live = content
            return
        inode = self.live.get(path)
        self.pending.append((operation, inode))
        change(self.live, operation, inode)

    def crashed(self, mode: str, chance: random.Random) -> dict[str, bytes | None]:
        """Return the files, and folders as None, that may be left of it.

        all: as after a kill. lost: only what is certain. names only: all names, but of the files
        only what was synced. any: whatever may be.
        """
        left = dict(self.certain)
        for each in self.pending:
            if mode in ("all", "names only") or (mode == "any" and chance.random() < 0.5):
                change(left, *each)
        return {
            path: None if inode is None else data(inode, mode, chance)
            for path, inode in left.items()
        }


def places(operation: Operation) -> str:
    """Return the name that an operation changes."""
    return operation.target or operation.path


def change(files: dict[str, Inode | None], operation: Operation, inode: Inode | None) -> None:
    """Do to the names of files what an operation does."""
    name, path, _, target = operation
    if name in ("write", "mkdir"):
        files[path] = inode if name == "write" else None
    elif name == "rename":
        if files.get(path) is inode:
            del files[path]
        files[target] = inode
    elif name == "unlink" or not any(each.startswith(f"{path}/") for each in files):
        files.pop(path, None)


def data(inode: Inode, mode: str, chance: random.Random) -> bytes:
    synced = inode.synced or b""
    if mode == "all" or inode.synced == inode.live:
        return inode.live
    if mode == "lost":
        return synced
    rest = inode.live[len(synced) :] if inode.live.startswith(synced) else b""
    torn = synced + rest[: chance.randrange(len(rest) + 1)]
    return chance.choice([synced, torn, synced + bytes(len(rest)), inode.live])


def after(operations: Sequence[Operation], start: Path | None = None) -> Disk:
    """Return the disk after operations, which began with the files of a folder, all synced."""
    disk = Disk()
    for path in sorted(start.rglob("*")) if start is not None else ():
        inode = None if path.is_dir() else Inode(path.read_bytes(), path.read_bytes())
        assert start is not None
        disk.live[path.relative_to(start).as_posix()] = inode
    disk.certain = dict(disk.live)
    for operation in operations:
        disk.do(operation)
    return disk


def write_out(files: dict[str, bytes | None], folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        path = folder / name
        if content is None:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    assert not any(stat.S_ISLNK(path.lstat().st_mode) for path in folder.rglob("*"))
