"""Lists that may be very long: all but their last items are in one temporary file of a process."""

from __future__ import annotations

import errno
import functools
import json
import os
import struct
import tempfile
import threading
from array import array
from collections.abc import Iterable, Iterator
from typing import Any

BLOCK = 2**15  # bytes that are put into the file together, a multiple of 8


class Blocks:
    """Blocks in a temporary file, whose places are used again."""

    file: Any = None  # where none could be opened

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self.lock = threading.Lock()  # of the file's position
        self.end = 0
        self.free: dict[int, list[int]] = {}  # places, by how large they are

    def __del__(self) -> None:
        if self.file is not None:
            self.file.close()

    def add(self, block: bytes) -> int:
        """Write a block; return its place."""
        free = self.free.setdefault(len(block), [])
        place = free.pop() if free else self.end
        self.write(place, block)
        self.end = max(self.end, place + len(block))
        return place

    def write(self, place: int, content: bytes) -> None:
        left = memoryview(content)
        with self.lock:
            self.file.seek(place)
            while left:
                left = left[self.file.write(left) :]

    def read(self, place: int, size: int) -> bytes:
        with self.lock:
            self.file.seek(place)
            return bytes(self.file.read(size))


@functools.cache
def blocks(process: int) -> Blocks:
    """Return those of a process: a fork would write into the file of its parent."""
    return Blocks()


class Bytes:
    """Bytes, to which more are added at the end."""

    __slots__ = ("block", "blocks", "last", "places")

    def __init__(self, content: bytes = b"") -> None:
        self.block = BLOCK
        self.blocks: Blocks | None = None
        self.places = array("Q")  # of what is in the file
        self.last = bytearray()
        self.append(content)

    def __del__(self) -> None:
        if self.blocks is not None:
            self.blocks.free.setdefault(self.block, []).extend(self.places)

    def __reduce__(self) -> tuple[Any, ...]:
        return Bytes, (self.read(0, len(self)),)

    def __len__(self) -> int:
        return len(self.places) * self.block + len(self.last)

    def append(self, piece: bytes) -> None:
        """Raises OSError where there is no room for it."""
        self.last += piece
        while len(self.last) >= self.block:
            self.put_away(bytes(self.last[: self.block]))
            del self.last[: self.block]

    def put_away(self, block: bytes) -> None:
        try:
            self.blocks = self.blocks or blocks(os.getpid())
            self.places.append(self.blocks.add(block))
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise
            folder = tempfile.tempdir or "any folder for temporary files"
            raise OSError(
                f"there is no room in {folder} for the runs of a study ({error.strerror}); set "
                f"TMPDIR to a folder that has some"
            ) from None

    def read(self, start: int, end: int) -> bytes:
        found = b""
        while start < end:
            number, offset = divmod(start, self.block)
            size = min(end - start, self.block - offset)
            if number < len(self.places):
                assert self.blocks is not None
                found += self.blocks.read(self.places[number] + offset, size)
            else:
                found += self.last[offset : offset + size]
            start += size
        return found

    def replace(self, start: int, piece: bytes) -> None:
        """Put a piece in the place of another that has its length, and is in one block."""
        number, offset = divmod(start, self.block)
        if number >= len(self.places):
            self.last[offset : offset + len(piece)] = piece
        else:
            assert self.blocks is not None
            self.blocks.write(self.places[number] + offset, piece)


class Numbers:
    """What an array of this typecode is, of numbers of 8 bytes."""

    __slots__ = ("content", "form", "typecode")

    def __init__(self, typecode: str, content: Bytes | None = None) -> None:
        self.typecode, self.form = typecode, struct.Struct(typecode)
        self.content = content or Bytes()

    def __reduce__(self) -> tuple[Any, ...]:
        return Numbers, (self.typecode, self.content)

    def __len__(self) -> int:
        return len(self.content) // 8

    def __getitem__(self, index: int) -> Any:
        return self.form.unpack(self.content.read(8 * index, 8 * index + 8))[0]

    def __setitem__(self, index: int, number: float) -> None:
        self.content.replace(8 * index, self.form.pack(number))

    def append(self, number: float) -> None:
        self.content.append(self.form.pack(number))

    def extend(self, numbers: Iterable[float]) -> None:
        for number in numbers:
            self.append(number)


class Pieces:
    """A list of bytes."""

    __slots__ = ("content", "ends", "starts")

    def __init__(
        self,
        content: Bytes | None = None,
        starts: Numbers | None = None,
        ends: Numbers | None = None,
    ) -> None:
        self.content = content or Bytes()
        self.starts, self.ends = starts or Numbers("Q"), ends or Numbers("Q")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.content, self.starts, self.ends)

    def __len__(self) -> int:
        return len(self.ends)

    def piece(self, index: int) -> bytes:
        return self.content.read(self.starts[index], self.ends[index])

    def add(self, piece: bytes) -> None:
        start = len(self.content)
        self.content.append(piece)
        self.starts.append(start)
        self.ends.append(len(self.content))

    def put(self, index: int, piece: bytes) -> None:
        """Put a piece in the place of another, which stays in the file."""
        start = len(self.content)
        self.content.append(piece)
        self.starts[index], self.ends[index] = start, len(self.content)


class Values(Pieces):
    """A list of plain values: None, truth values, numbers, texts, and tuples of these."""

    __slots__ = ()
    typecode = "v"  # as arrays have one

    def __getitem__(self, index: int) -> Any:
        return from_json(json.loads(self.piece(index)))

    def __iter__(self) -> Iterator[Any]:
        return map(self.__getitem__, range(len(self)))

    def __setitem__(self, index: int, value: Any) -> None:
        self.put(index, json.dumps(value).encode())

    def append(self, value: Any) -> None:
        self.add(json.dumps(value).encode())

    def extend(self, values: Iterable[Any]) -> None:
        for value in values:
            self.append(value)


def is_plain(value: Any) -> bool:
    """Tell whether ``Values`` can hold a value as it is."""
    if type(value) is tuple:
        return all(map(is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def from_json(value: Any) -> Any:
    return tuple(map(from_json, value)) if type(value) is list else value
