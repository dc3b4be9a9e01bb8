"""Lists that may be very long: all but their last items are in one temporary file of a process."""

from __future__ import annotations

import errno
import functools
import os
import struct
import tempfile
import threading
from array import array
from collections.abc import Iterable
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
            raise OSError(
                f"there is no room for a study's runs in a temporary file ({error.strerror}); set "
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
    """A list of bytes, which only grows."""

    __slots__ = ("content", "ends")

    def __init__(self, content: Bytes | None = None, ends: Numbers | None = None) -> None:
        self.content, self.ends = content or Bytes(), ends or Numbers("Q")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.content, self.ends)

    def __len__(self) -> int:
        return len(self.ends)

    def piece(self, index: int) -> bytes:
        return self.content.read(self.ends[index - 1] if index else 0, self.ends[index])

    def add(self, piece: bytes) -> None:
        self.content.append(piece)
        self.ends.append(len(self.content))


class Texts(Pieces):
    """A list of texts, which only grows."""

    __slots__ = ()
    typecode = "t"  # as arrays have one

    def __getitem__(self, index: int) -> str:
        return self.piece(index).decode(errors="surrogatepass")

    def append(self, text: str) -> None:
        self.add(text.encode(errors="surrogatepass"))

    def extend(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.append(text)
