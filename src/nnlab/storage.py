"""Files that are whole or absent, whatever happens while they are written, and that are only
read if they are files."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

LARGEST = 2**28  # bytes of a list, table or result, which is read whole
LEFT_OVER = ".*.tmp"  # what a process leaves of a file if it is killed while it writes


def write_atomic(path: Path, content: bytes | Iterable[bytes], durable: bool = True) -> None:
    """Write a file so that it is either whole or as it was before.

    content: as a whole or in parts. durable: also if the power fails. A link in its place is
    replaced, not followed.
    """
    write_each({path: content}, durable)


def write_csv(rows: Sequence[Sequence[object]], path: Path) -> Path:
    """Write rows, the header first, as ``write_atomic`` does; return the path."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomic(path, text.getvalue().encode())
    return path


def write_each(files: Mapping[Path, bytes | Iterable[bytes]], durable: bool = True) -> None:
    """Write files, in their order, each as ``write_atomic`` does; their folders are synced once."""
    for path, content in files.items():
        put(path, content, durable)
    if durable:
        for folder in dict.fromkeys(path.parent for path in files):
            sync_folder(folder)


def put(path: Path, content: bytes | Iterable[bytes], durable: bool = True) -> None:
    """Write a file as ``write_atomic`` does, but leave its folder to be synced."""
    # Process ids are not unique where containers share a folder.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            if not lock(file) or not temporary.exists():  # another took it for a left-over
                return put(path, content, durable)
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
            if os.name != "nt":  # where a file that is open stays where it is
                os.replace(temporary, path)
        if os.name == "nt":
            os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        # Of a full disk no file is named, of a full folder the temporary one.
        if isinstance(error, OSError) and error.errno is not None and error.filename2 is None:
            error.filename = str(path)
        raise


def lock(file: BinaryIO | int) -> bool:
    """Show others that an open file, or a folder by its number, is being written; return False
    where another does so."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # Windows; a file system that has no locks
        pass
    return True


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Have an OSError that names no file (a full disk's does not) name this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def append(path: Path, content: bytes) -> None:
    """Add to a file. Raises OSError where a link, or no file, is in its place."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    with named(path), open(path, "ab", opener=lambda name, _: open_regular(name, flags)) as file:
        file.write(content)


def sync(path: Path) -> None:
    """Put on disk what was added to a file."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def make_folder(path: Path) -> None:
    """Make a folder and those above it, if they are not there; on disk, too."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def make_own_folder(path: Path) -> None:
    """Make a folder, if it is not there; a link in its place is replaced, not followed."""
    if path.is_symlink():
        path.unlink()
    make_folder(path)


def is_folder(path: Path) -> bool:
    """Return whether it is a folder, and no link to one."""
    return path.is_dir() and not path.is_symlink()


def sync_folder(path: Path) -> None:
    """Put on disk which files a folder has."""
    with open_folder(path) as number:
        if number is not None:
            os.fsync(number)


@contextlib.contextmanager
def open_folder(path: Path) -> Iterator[int | None]:
    """Give the number of a folder that is open in this block; None on Windows, which opens none."""
    if os.name == "nt":
        yield None
        return
    number = os.open(path, os.O_RDONLY)
    try:
        yield number
    finally:
        os.close(number)


def opened(path: Path) -> BinaryIO:
    """Open a file to be read. Raises OSError where there is none, or what is no file."""
    return open(path, "rb", opener=open_regular)


def open_regular(name: str, flags: int) -> int:
    """Open a file, for ``open``. Raises OSError naming it where it is a pipe, say, or a folder.

    A pipe that nobody writes to would have its reader wait for ever.
    """
    number = os.open(name, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, "this is no file, but a folder, a pipe or a device", str(name))
    return number


def check_open_files(count: int) -> None:
    """Raise OSError where this process may not have so many more files open."""
    opened: list[int] = []
    try:
        while len(opened) < count:
            opened.append(os.dup(2))
    finally:
        for number in opened:
            os.close(number)


def read(path: Path, most: int = LARGEST) -> bytes:
    """Return a file's content.

    Raises OSError where there is none, what is no file, or one of more bytes than ``most``.
    """
    with opened(path) as file:
        return read_whole(path, file, most)


def read_whole(path: Path, file: BinaryIO, most: int) -> bytes:
    """Return the content of a file that is open, as ``read`` does."""
    if os.fstat(file.fileno()).st_size > most:
        reason = f"it has more than {most:,} bytes, as no such file has"
        raise OSError(errno.EINVAL, reason, str(path))
    return file.read()


def matching(folder: Path, pattern: str = "*") -> Iterator[Path]:
    """Yield what in a folder has a name that fits; nothing where the folder is not there, or not to
    be read. Of all that is there, which may be very many runs, it makes no list."""
    absent = (FileNotFoundError, NotADirectoryError, PermissionError)
    with contextlib.suppress(*absent), os.scandir(folder) as found:
        yield from (folder / each.name for each in found if fnmatchcase(each.name, pattern))


def clear_left_overs(folder: Path) -> None:
    """Remove what killed processes left of files; what living ones write stays."""
    for left in list(matching(folder, LEFT_OVER)):
        with contextlib.suppress(OSError):
            if left.is_symlink():
                left.unlink()
                continue
            with open(left, "rb+", opener=open_regular) as file:
                if lock(file):
                    left.unlink()
