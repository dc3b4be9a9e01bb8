"""The files of a dataset: find them in a folder, fetch them from mirrors, verify and read them."""

from __future__ import annotations

import gzip
import hashlib
import math
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TIMEOUT = 10.0  # seconds without an answer before the next mirror is tried
CHUNK = 2**20


@dataclass(frozen=True)
class File:
    """A published file: its name without .gz, the SHA-256 of its content and of its .gz."""

    name: str
    sha256: str
    gz_sha256: str


def find(folder: Path, files: Sequence[File]) -> dict[File, Path]:
    """Return where each file is, as it is or as .gz; those not in the folder are left out."""
    found = {}
    for file in files:
        for path in (folder / file.name, folder / f"{file.name}.gz"):
            if file not in found and path.is_file():
                found[file] = path
    return found


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
    downloader = pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty(), chunk_size=CHUNK // 16, timeout=timeout
    )
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
                failures.append(f"{queue[0]}: {kind}")
                queue.append(queue.pop(0))  # the mirror that failed is tried last from now on
        else:
            names = ", ".join(f"{file.name}.gz" for file in files)
            raise OSError(
                f"{name} could not be downloaded ({'; '.join(failures)}); "
                f"put these files into {folder}, with or without .gz: {names}"
            )


def content_sha256(path: Path, file: File) -> str:
    """Return the SHA-256 of a file's content, which a compressed one need not be read for."""
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        if hashlib.sha256(content).hexdigest() == file.gz_sha256:
            return file.sha256
        content = gzip.decompress(content)
    return hashlib.sha256(content).hexdigest()


def read_idx(path: Path, sha256: str | None = None) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, compressed by gzip or not.

    sha256: of the content (not of the .gz), where it is known. Returns an array of the
    dimensions in the header. Raises ValueError naming the file if its magic number,
    dimensions, length, compression or hash is wrong.
    Format: http://yann.lecun.com/exdb/mnist/
    """
    try:
        with path.open("rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if compressed else path.open("rb") as stream:
            header = stream.read(4)
            axes = header[3] if len(header) == 4 else 0
            if header[:3] != b"\0\0\x08" or not 1 <= axes <= 4:
                raise ValueError(f"magic number {header.hex()} is not 00000801 to 00000804")
            header += stream.read(4 * axes)
            shape = [int.from_bytes(header[i : i + 4], "big") for i in range(4, len(header), 4)]
            if len(header) != 4 + 4 * axes or 0 in shape:
                raise ValueError(f"dimensions {shape} are not {axes} numbers of at least 1")
            # Piece by piece: what a forged header claims is never allocated at once.
            length, body = math.prod(shape), bytearray()
            while piece := stream.read(min(CHUNK, length + 1 - len(body))):
                body += piece
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(_damaged(path, str(error))) from error
    if len(body) != length:
        have = f"more than {length:,}" if len(body) > length else f"only {len(body):,}"
        raise ValueError(_damaged(path, f"{have} bytes follow the header {shape}, not {length:,}"))
    if sha256 is not None:
        digest = hashlib.sha256(header)
        digest.update(body)
        if digest.hexdigest() != sha256:
            what = f"SHA-256 {digest.hexdigest()[:16]}…, but the official file has {sha256[:16]}…"
            raise ValueError(_damaged(path, what))
    return np.frombuffer(body, np.uint8).reshape(shape)


def _damaged(path: Path, what: str) -> str:
    return f"{path} is damaged or altered: {what}; delete it to have it fetched again"
