"""The files of a dataset: find them in a folder, fetch them from mirrors, verify and read them."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import itertools
import math
import stat
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from nnlab import storage

TIMEOUT = 10.0  # seconds without an answer before the next mirror is tried
CHUNK = 2**20
LARGEST = 2**26  # bytes of a published file and of its content: the largest has 47 million
SLOWEST = 2**13  # bytes per second of a mirror that is waited for
REMEDY = (
    "replace it by the official file, from a backup or fetched anew (dataset.source=official "
    "with dataset.folder= an empty folder). Data of your own: images by "
    "dataset=images, arrays by dataset=arrays, or nnlab.fit in Python"
)


@dataclass(frozen=True)
class File:
    """A published file: its name without .gz, the SHA-256 of its content and of its .gz."""

    name: str
    sha256: str
    gz_sha256: str


def open_input(path: Path) -> BinaryIO:
    """Open a file that is to be read.

    Raises ValueError naming it where it cannot be read or is no file (a pipe would be waited
    for without end), FileNotFoundError where there is none. Neither is mistaken for an error
    of a file that is to be written.
    """
    try:
        kind = path.stat().st_mode
        if stat.S_ISREG(kind):
            return path.open("rb")
        reason = "it is a folder" if stat.S_ISDIR(kind) else "it is a pipe or a device, no file"
    except FileNotFoundError:
        if not path.is_symlink():
            raise FileNotFoundError(f"there is no file {path}") from None
        reason = f"it is a link to {path.readlink()}, which does not exist"
    except (OSError, ValueError) as error:
        raise ValueError(_unreadable(path, error)) from None
    raise ValueError(f"{path} cannot be read: {reason}")


def _unreadable(path: Path, error: Exception) -> str:
    """Say what was to be read and why it cannot: also of an OSError, whose file explain would
    take for one that is to be written, and of a name with a NUL, which is a ValueError."""
    reason = getattr(error, "strerror", None) or str(error) or "too large"  # MemoryError
    return f"{str(path) if str(path).isprintable() else repr(str(path))} cannot be read: {reason}"


def read_input(path: Path, most: int = storage.LARGEST) -> bytes:
    """Read a whole file. Raises as ``open_input`` does, also where it has more bytes than that."""
    with open_input(path) as file:
        try:
            return storage.read_whole(path, file, most)
        except (OSError, MemoryError) as error:
            raise ValueError(_unreadable(path, error)) from None


def input_folder(name: str) -> Path:
    """Return the folder that dataset.folder names. Raises ValueError for an unknown ~user."""
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise ValueError(f"dataset.folder={name} is not possible: {error}") from None


def find(folder: Path, files: Sequence[File], below: Sequence[str] = ()) -> dict[File, Path]:
    """Return where each file is; those that are not there are left out.

    below: folders in this one to look in as well. A file may be a .gz, may be spelt
    train-images.idx3-ubyte, and may lie in a folder of that name, as Kaggle packs it.
    Raises ValueError naming what may not be looked at.
    """
    folders = [folder, *(folder / name for name in below)]
    found = {}
    for file in files:
        path = next(filter(_is_there, _places(folders, file.name)), None)
        if path is not None:
            found[file] = path
    return found


def _is_there(path: Path) -> bool:
    """Say whether there is something other than a folder."""
    try:
        return not stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return path.is_symlink()  # to nothing: read_idx says so
    except (OSError, ValueError) as error:
        raise ValueError(_unreadable(path, error)) from None


def _places(folders: Sequence[Path], name: str) -> Iterator[Path]:
    """List where a file may be, the likeliest first."""
    names = [each + end for each in (name, name.replace("-idx", ".idx")) for end in ("", ".gz")]
    for folder in folders:
        yield from (folder / name for name in names)
        yield from (folder / packed / name for packed, name in itertools.product(names, names))


def fetch(
    folder: Path, files: Sequence[File], mirrors: Sequence[str], timeout: float = TIMEOUT
) -> None:
    """Download the .gz of every file into the folder, trying each mirror until one serves it.

    mirrors: addresses that end in /. timeout: seconds. A file appears in the folder only
    once its hash is right. Raises OSError naming the files and the folder if no mirror
    serves one of them, or if the folder cannot be written.
    """
    import pooch  # type: ignore[import-untyped]  # takes 0.2 s, and is rarely needed

    folder.mkdir(parents=True, exist_ok=True)
    downloader = functools.partial(download, timeout=timeout)
    queue = list(mirrors)
    for file in files:
        name, failures = f"{file.name}.gz", []
        for _ in mirrors:
            try:
                known = f"sha256:{file.gz_sha256}"
                pooch.retrieve(queue[0] + name, known, name, folder, downloader=downloader)
                break
            except (OSError, ValueError) as error:  # pooch's mismatch is a plain ValueError
                if isinstance(error, OSError) and error.errno is not None:
                    raise  # of this machine (disk full), not of the mirror
                kind = "altered content" if type(error) is ValueError else type(error).__name__
                kind = str(error) if type(error) is OSError else kind  # of download
                failures.append(f"{queue[0]}: {kind}")
                queue.append(queue.pop(0))  # the mirror that failed is tried last from now on
        else:
            names = ", ".join(f"{file.name}.gz" for file in files)
            raise OSError(
                f"{name} could not be downloaded ({'; '.join(failures)}); "
                f"put these files into {folder}, with or without .gz: {names}"
            )


def download(url: str, target: str, _: object, *, timeout: float) -> None:
    """Write what an address has into a file; to be called by pooch.

    timeout: seconds. Raises OSError where that comes without end, too slowly or not at all.
    """
    import requests
    import urllib3
    from tqdm import tqdm  # type: ignore[import-untyped]

    received, begin = 0, time.monotonic()
    # As it is: what the server compressed on the way could be of any size.
    headers = {"Accept-Encoding": "identity"}
    with (
        requests.get(url, timeout=timeout, stream=True, headers=headers) as answer,
        open(target, "wb") as file,
        tqdm(unit="B", unit_scale=True, disable=not sys.stderr.isatty()) as bar,
    ):
        answer.raise_for_status()
        bar.total = int(answer.headers.get("content-length", 0)) or None
        # What has come, however little: a whole piece might be waited for without end.
        read = getattr(answer.raw, "read1", answer.raw.read)
        try:
            while piece := read(CHUNK // 16):
                received += file.write(piece)
                bar.update(len(piece))
                if received > LARGEST:
                    raise OSError(f"it sends more than {LARGEST:,} bytes")
                if received < SLOWEST * (time.monotonic() - begin - timeout):
                    raise OSError(f"it sends less than {SLOWEST:,} bytes per second")
        except urllib3.exceptions.HTTPError as error:
            raise requests.ConnectionError(error) from error


def content_sha256(path: Path, file: File) -> str:
    """Return the SHA-256 of a file's content, which a compressed one need not be read for.

    Raises ValueError naming the file if it cannot be read or decompressed, or is too large.
    """
    content = read_input(path, LARGEST)
    if content[:2] != b"\x1f\x8b":
        return hashlib.sha256(content).hexdigest()
    if hashlib.sha256(content).hexdigest() == file.gz_sha256:
        return file.sha256
    try:
        with gzip.open(io.BytesIO(content)) as stream:
            content = stream.read(LARGEST + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(_damaged(path, str(error))) from error
    if len(content) > LARGEST:
        raise ValueError(_damaged(path, f"it holds more than {LARGEST:,} bytes"))
    return hashlib.sha256(content).hexdigest()


def read_idx(path: Path, sha256: str | None = None) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, compressed by gzip or not.

    sha256: of the content (not of the .gz), where it is known. Returns an array of the
    dimensions in the header. Raises ValueError naming the file if it cannot be read, or its
    magic number, dimensions, length, compression or hash is wrong.
    Format: http://yann.lecun.com/exdb/mnist/
    """
    raw = io.BytesIO(read_input(path, LARGEST))
    try:
        with gzip.open(raw) if raw.getvalue()[:2] == b"\x1f\x8b" else raw as stream:
            header, shape, body = _read_idx(stream)
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(_damaged(path, str(error))) from error
    except (OSError, MemoryError) as error:
        raise ValueError(_unreadable(path, error)) from error
    length = math.prod(shape)
    if len(body) != length:
        short = len(body) <= min(length, LARGEST)
        have = f"only {len(body):,}" if short else f"more than {len(body) - 1:,}"
        raise ValueError(_damaged(path, f"{have} bytes follow the header {shape}, not {length:,}"))
    if sha256 is not None:
        digest = hashlib.sha256(header)
        digest.update(body)
        if digest.hexdigest() != sha256:
            raise ValueError(
                f"{path} is not the official file: its SHA-256 is {digest.hexdigest()[:16]}…, that "
                f"of the official file {sha256[:16]}…; {REMEDY}"
            )
    return np.frombuffer(body, np.uint8).reshape(shape)


def _read_idx(stream: BinaryIO | gzip.GzipFile) -> tuple[bytes, list[int], bytearray]:
    """Return the header, the dimensions it states and the bytes that follow, at most one more
    than it states: what a forged header claims is never allocated at once."""
    header = stream.read(4)
    axes = header[3] if len(header) == 4 else 0
    if header[:3] != b"\0\0\x08" or not 1 <= axes <= 4:
        raise ValueError(f"magic number {header.hex()} is not 00000801 to 00000804")
    header += stream.read(4 * axes)
    shape = [int.from_bytes(header[i : i + 4], "big") for i in range(4, len(header), 4)]
    if len(header) != 4 + 4 * axes or 0 in shape:
        raise ValueError(f"dimensions {shape} are not {axes} numbers of at least 1")
    length, body = math.prod(shape), bytearray()
    most = min(length, LARGEST)
    while piece := stream.read(min(CHUNK, most + 1 - len(body))):
        body += piece
    return header, shape, body


def _damaged(path: Path, what: str) -> str:
    return f"{path} is damaged or altered: {what}; {REMEDY}"
