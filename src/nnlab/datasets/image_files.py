"""Image files in a folder: which there are, and their pixels, decoded once and then cached.

Axes: N images, I values of an image, flattened.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import logging
import math
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnlab import memory, storage
from nnlab.datasets import files, images

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif")
CACHE = ".cache"
CACHE_VERSION = 3  # to be raised whenever the same file gives other pixels

Pixels = NDArray[np.uint8]
log = logging.getLogger("nnlab")


class Unfit(ValueError):
    """An image is not as it has to be: what it is, and the remedy, after the name of its file."""


@dataclass(frozen=True)
class ImageFiles:
    """Image files, and what is made of them.

    folder: which they may not lead out of. names: in the folder. said: what messages call the
    file at a place. remedy: what to do where one is not there. convert: makes an image pixels of
    this shape, or raises Unfit. resized: whether it resizes, or refuses what would need that.
    cache: the folder of the caches. kind: what the name of this one begins with; those of other
    kinds stay beside it.
    """

    folder: Path
    names: Sequence[str]
    said: Callable[[int], str]
    remedy: str
    shape: tuple[int, ...]
    convert: Callable[[Image], Pixels]
    resized: bool
    cache: Path
    kind: str

    @property
    def size(self) -> int:
        """How many values an image has."""
        return math.prod(self.shape)


# The files


def walk(source: Path) -> Iterator[Path]:
    """Yield the files in a folder and those below, except hidden ones, and follow links."""

    def refuse(error: OSError) -> None:
        raise ValueError(f"{error.filename} cannot be read: {error.strerror}")

    for parent, folders, names in os.walk(source, onerror=refuse, followlinks=True):
        folders[:] = [n for n in folders if not hidden(n) and not leads_back(Path(parent, n))]
        for path in (Path(parent, name) for name in names if not hidden(name)):
            if path.is_symlink() and not path.exists():
                to = path.readlink()
                raise ValueError(
                    f"{path} cannot be read: it is a link to {to}, which does not exist"
                )
            yield path


def hidden(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "@eaDir")


def leads_back(folder: Path) -> bool:
    """Return whether a folder is a link to one that it lies in."""
    return folder.is_symlink() and folder.resolve() in {each.resolve() for each in folder.parents}


def leads_into(path: Path, base: str) -> bool:
    """Return whether a path, its links followed, is a folder or in it."""
    return os.path.commonpath([base, os.path.realpath(path)]) == base


# Their pixels


def read_pixels(found: ImageFiles) -> tuple[Pixels, str]:
    """Return the images [N, I] and the SHA-256 of their bytes, from the cache where it fits.

    The cache is one file for each kind, named by that and by a digest of all file names, sizes,
    inodes and times of change: after any change there is none of that name, nor in a copy of the
    folder, where the images are decoded anew. It begins with a digest of its name and the rest,
    see ``seal``.
    Raises ValueError naming the file that is not as it should be.
    """
    cache = found.cache / f"{found.kind}{state_of(found)}.pixels"
    cached = read_cache(cache, (len(found.names), found.size))
    if cached is not None:
        return cached
    pixels = decode(found)
    digest = hashlib.sha256(pixels.data)
    try:
        cache.parent.mkdir(exist_ok=True)
        if not storage.is_folder(cache.parent):  # where it leads others may have files
            raise OSError(errno.ELOOP, "it is a link")
        storage.clear_left_overs(cache.parent)
        content = b"".join([seal(cache, digest), pixels.data])
        storage.write_atomic(cache, content, durable=False)
        for other in storage.matching(cache.parent):
            name = other.name.removeprefix(found.kind)
            if re.fullmatch(r"[0-9a-f]{32}\.pixels", name) and other != cache:
                other.unlink(missing_ok=True)
    except OSError as error:
        log.info("%s: %s; the images are decoded anew each time", cache.parent, error.strerror)
    return pixels, digest.hexdigest()


def state_of(found: ImageFiles) -> str:
    """Return 32 hex digits that differ after any change of the files.

    Raises ValueError naming the file that is not there, or is not in the folder.
    """
    base = os.path.realpath(found.folder)
    inside = functools.cache(lambda parent: leads_into(parent, base))
    key = hashlib.sha256(json.dumps([CACHE_VERSION, found.resized]).encode())
    for place, name in enumerate(found.names):
        path = found.folder / name
        try:
            status = path.stat()
            reason = None if stat.S_ISREG(status.st_mode) else "it is no file"
            if not inside(path if path.is_symlink() else path.parent):
                reason = f"it leads out of {found.folder}, to {os.path.realpath(path)}"
        except (OSError, ValueError) as error:  # ValueError: of a name with a NUL
            reason = getattr(error, "strerror", None) or str(error)
        if reason is not None:
            raise ValueError(f"{found.said(place)} cannot be read ({reason}); {found.remedy}")
        times = (status.st_mtime_ns, status.st_ctime_ns)
        key.update(json.dumps([name, status.st_size, status.st_ino, *times]).encode())
    return key.hexdigest()[:32]


def seal(cache: Path, pixels: hashlib._Hash) -> bytes:
    """Return what a cache begins with: so that of other images is not taken for it."""
    return hashlib.sha256(cache.name.encode() + pixels.digest()).digest()


def read_cache(path: Path, shape: tuple[int, int]) -> tuple[Pixels, str] | None:
    """Return what was cached and its SHA-256, None if there is nothing or it is damaged."""
    try:
        with storage.opened(path) as file:
            sealed = file.read(32)
            whole = os.fstat(file.fileno()).st_size == len(sealed) + math.prod(shape)
            pixels = np.fromfile(file, np.uint8, math.prod(shape) if whole else 0)
    except FileNotFoundError:
        return None
    except OSError as error:
        log.info("%s cannot be read (%s); decoding the images anew", path, error.strerror)
        return None
    digest = hashlib.sha256(pixels.data)
    if not whole or seal(path, digest) != sealed:
        log.info("%s is damaged; decoding the images anew", path)
        return None
    return pixels.reshape(shape), digest.hexdigest()


def decode(found: ImageFiles) -> Pixels:
    """Decode all images: [N, I] uint8. In threads, since Pillow works without Python's lock."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    count = len(found.names)
    pixels = np.empty((count, found.size), np.uint8)

    def one(place: int) -> None:
        path = found.folder / found.names[place]
        pixels[place] = read_image(path, found.said(place), found.convert).reshape(-1)

    bar = tqdm(total=count, desc="decoding", unit=" images", disable=not sys.stderr.isatty())
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for _ in pool.map(one, range(count)):
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return pixels


def read_image(path: Path, said: str, convert: Callable[[Image], Pixels]) -> Pixels:
    """Read one image. Raises ValueError that begins with what is ``said`` of it."""
    try:
        with files.open_input(path) as file, images.opened(file) as image:
            return convert(image)
    except Unfit as error:
        raise ValueError(f"{said} {error}") from None
    except memory.NoRoomError:
        raise
    except Exception as error:  # decoders raise anything for damaged files
        reason = images.explained(error)
        raise ValueError(f"{said} cannot be read: {reason}; replace it") from None


class Placed(NamedTuple):
    """An image of a part of a dataset: its file's name, the part, and pixels [I]."""

    name: str
    part: str
    pixels: Pixels


def warn_of_copies(placed: Sequence[Placed], remedy: str) -> None:
    """Say which images of different parts have the same pixels, and what to do about it."""
    first: dict[bytes, Placed] = {}
    copies = []
    for each in placed:
        other = first.setdefault(hashlib.sha256(each.pixels.data).digest(), each)
        if other.part != each.part:
            copies.append((each, other))
    if copies:
        each, other = copies[0]
        log.warning(
            f"{len(copies)} of the images have the pixels of one in another partition, say "
            f"{each.name} ({each.part}) and {other.name} ({other.part}): results on them say "
            f"little; {remedy}"
        )
