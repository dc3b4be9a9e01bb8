"""DogSet: colour photographs of dogs, 64x64, in a folder with their list, ``dogs.csv``.

Axes: N images, I = 64 * 64 * 3 values of an image, channels last.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nnlab import memory
from nnlab.datasets import files, images
from nnlab.datasets.arrays import Arrays, DataSource, Partition, Sizes, mean_pixel
from nnlab.datasets.dataset import DatasetConfig
from nnlab.datasets.image_files import (
    CACHE,
    ImageFiles,
    Pixels,
    Placed,
    Unfit,
    read_pixels,
    warn_of_copies,
)
from nnlab.options import MISSING, require

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS = ("filename", "semantic_label", "numeric_label", "partition")
PARTITIONS = ("train", "valid", "test")
SIZE = 64
SHAPE = (SIZE, SIZE, 3)


class Row(NamedTuple):
    """A row of dogs.csv; line: its number in the file."""

    line: int
    filename: str
    breed: str
    label: int
    partition: str


def check_classes(num_classes: int | None) -> None:
    limit = "it must be at least 2 (null takes every class)"
    require(num_classes is None or num_classes >= 2, "dataset.num_classes", num_classes, limit)


@dataclass
class DogSetConfig(DatasetConfig):
    folder: str = MISSING
    resize: bool = MISSING
    num_classes: int | None = MISSING
    title = "DogSet"

    @property
    def data_folder(self) -> str:
        return self.folder

    def check(self) -> None:
        check_classes(self.num_classes)

    def choose_source(self, sizes: Sizes) -> DataSource:
        """Return the source.

        Reading it raises ValueError naming the row or the file that is not as it should be.
        """
        folder = files.input_folder(self.folder)
        some = "" if self.num_classes is None else f", first {self.num_classes} breeds"
        resized = ", resized" if self.resize else ""
        name = f"DogSet in {folder}{some}{resized}"
        return DataSource(name, lambda: read(folder, self), needs=folder / "dogs.csv")


def read(folder: Path, config: DogSetConfig) -> Arrays:
    """Read a folder; pixels are decoded once and then come from a cache in it."""
    rows = read_rows(folder)
    breeds = sorted({(row.label, row.breed) for row in rows})
    classes = tuple(breed for _, breed in breeds)
    kept = len(classes) if config.num_classes is None else config.num_classes
    if kept > len(classes):
        raise ValueError(
            f"dataset.num_classes={kept} exceeds the {len(classes)} breeds of {folder / 'dogs.csv'}"
        )
    memory.check(
        2 * len(rows) * math.prod(SHAPE),  # all images, and again in their partitions
        f"reading the {len(rows):,} images of {folder}",
        "import fewer of them into a folder of its own",
    )
    pixels, sha256 = read_pixels(image_files(folder, rows, config.resize))
    labels = np.array([row.label for row in rows])
    warn_of_copies(
        [
            Placed(row.filename, row.partition, image)
            for row, image in zip(rows, pixels)
            if row.label < kept
        ],
        "leave one of each out of dogs.csv",
    )

    names = [row.filename for row in rows]

    def partition(name: str) -> Partition:
        mine = np.array([row.partition == name for row in rows]) & (labels < kept)
        return Partition(pixels[mine], labels[mine], np.flatnonzero(mine), names)

    parts = {name: partition(name) for name in PARTITIONS}
    if len(parts["train"].labels) == 0:
        of = "" if kept == len(classes) else f" of the first {kept} breeds"
        raise ValueError(
            f"{folder / 'dogs.csv'} has no row{of} with partition train; without training images "
            f"nothing can be trained"
        )
    return Arrays(
        train=parts["train"],
        valid=parts["valid"] if len(parts["valid"].labels) > 0 else None,
        test=parts["test"],
        classes=classes[:kept],
        shape=SHAPE,
        full_size=len(parts["train"].labels),
        full_test_size=len(parts["test"].labels),
        provenance={"sha256": {"rows": digest_of(rows), "pixels": sha256}},
        mean_pixel=mean_pixel(pixels),
    )


# The list


def read_rows(folder: Path) -> list[Row]:
    """Read and check dogs.csv."""
    path = folder / "dogs.csv"
    try:
        content = files.read_input(path)
    except FileNotFoundError:
        raise ValueError(
            f"there is no {path}; DogSet is a folder with dogs.csv (columns "
            f"{', '.join(COLUMNS)}; partition is {', '.join(PARTITIONS)}) and the photographs in "
            f"images/. Make one of any collection with `python -m nnlab.import_images FOLDER "
            f"{folder}`, or take generated images with dataset=dogset_synthetic"
        ) from None
    rows: list[Row] = []
    seen: dict[Path, int] = {}
    for line, record in table_rows(path, decoded(path, content)):
        row = read_row(f"{path} line {line}", line, record)
        name = Path(row.filename)
        if name in seen:
            raise ValueError(
                f"{path} line {line}: {row.filename} is in line {seen[name]} already; "
                f"remove one of them"
            )
        seen[name] = line
        rows.append(row)
    if not rows:
        raise ValueError(f"{path} lists no image")
    check_labels(path, rows)
    return rows


def digest_of(rows: Sequence[Row]) -> str:
    """Return the SHA-256 of what the rows say, however the file writes it."""
    said = [(row.breed, row.label, row.partition) for row in rows]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def decoded(path: Path, content: bytes) -> str:
    """Return a list's text: UTF-8, or UTF-16 where it begins with its mark."""
    utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if utf_16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from None
    if "\0" in text:  # which the csv module of some Pythons takes
        line = text[: text.index("\0")].count("\n") + 1
        raise ValueError(f"{path} line {line} holds a NUL byte; save it as text in UTF-8")
    return text


def table_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield a list's rows, each with the number of its last line and its cells by column.

    Blank rows are left out. Raises ValueError for a line that is no row, or no such header.
    """
    stated = re.match(r'"?sep=([,;\t])"?[,;\t]*(\r\n?|\n)', text, re.IGNORECASE)
    before = 1 if stated else 0
    text = text[stated.end() :] if stated else text
    separator = stated[1] if stated else find_separator(text)
    table = csv.reader(io.StringIO(text, newline=None), delimiter=separator)
    header: list[str] = []
    try:
        for cells in table:
            cells = [cell.strip() for cell in cells]
            if not any(cell.strip(",;\t") for cell in cells):
                continue
            if header:
                cells += [""] * (len(header) - len(cells))
                yield before + table.line_num, dict(zip(header, cells))
            else:
                header = cells
                check_header(path, header)
    except csv.Error as error:
        line = before + table.line_num
        raise ValueError(f"{path} line {line} is no row of a table: {error}") from None
    if not header:
        raise ValueError(f"{path} is empty; it needs the columns {', '.join(COLUMNS)}")


def find_separator(text: str) -> str:
    """Return which of comma, semicolon and tab separates the columns, by the header.

    >>> find_separator("filename;semantic_label;numeric_label;partition")
    ';'
    """
    header = re.split(r"[\r\n]", text.lstrip("\r\n,;\t "), maxsplit=1)[0]

    def columns(separator: str) -> int:
        return len({cell.strip(' "') for cell in header.split(separator)} & set(COLUMNS))

    return max(",;\t", key=columns)


def check_header(path: Path, header: Sequence[str]) -> None:
    """Raise ValueError unless every column is there once."""
    wrong = [name for name in COLUMNS if header.count(name) != 1]
    if wrong:
        state = "has more than one column" if wrong[0] in header else "lacks the column"
        raise ValueError(
            f"{path} {state} {', '.join(wrong)}; its header is {', '.join(header)[:200]!r}, and "
            f"it needs {', '.join(COLUMNS)}"
        )


def read_row(where: str, line: int, record: dict[str, str]) -> Row:
    filename, breed, label, partition = (record[name] for name in COLUMNS)
    if not filename or Path(filename).is_absolute() or ".." in Path(filename).parts:
        raise ValueError(f"{where}: filename={filename!r} is no file inside images/")
    if partition not in PARTITIONS:
        raise ValueError(f"{where}: partition={partition!r} is none of {', '.join(PARTITIONS)}")
    if not breed:
        raise ValueError(f"{where}: semantic_label is empty; name the breed")
    number = re.fullmatch(r"([0-9]{1,9})([.,]0*)?", label)  # spreadsheets write 3.0 or 3,0
    if number is None:
        raise ValueError(f"{where}: numeric_label={label!r} is no whole number of at least 0")
    return Row(line, filename, breed, int(number[1]), partition)


def check_labels(path: Path, rows: Sequence[Row]) -> None:
    """Raise ValueError unless breeds and the labels 0, 1, ... belong together one to one."""
    breeds: dict[int, Row] = {}
    labels: dict[str, Row] = {}
    count = len({row.breed for row in rows})
    for row in rows:
        where = f"{path} line {row.line}"
        if row.label >= count:
            raise ValueError(
                f"{where}: numeric_label={row.label} is out of range; with {count} breeds labels "
                f"are 0 to {count - 1}"
            )
        for other in (breeds.setdefault(row.label, row), labels.setdefault(row.breed, row)):
            if (other.breed, other.label) != (row.breed, row.label):
                raise ValueError(
                    f"{where}: {row.breed} with label {row.label} contradicts line {other.line}: "
                    f"{other.breed} with label {other.label}"
                )


# The images


def image_files(folder: Path, rows: Sequence[Row], resize: bool) -> ImageFiles:
    def convert(image: Image) -> Pixels:
        if resize:
            return np.asarray(images.fit(image, SIZE))
        plain = image.mode == "RGB" and "transparency" not in image.info
        if image.size == (SIZE, SIZE) and plain:
            return np.asarray(images.rgb(image))
        kind = image.mode if image.mode != "RGB" or plain else "RGB with a transparent colour"
        raise Unfit(
            f"is {image.width}x{image.height} in mode {kind}, not {SIZE}x{SIZE} in RGB; "
            f"dataset.resize=true crops and converts"
        )

    return ImageFiles(
        folder / "images",
        [row.filename for row in rows],
        said=lambda place: (
            f"{folder / 'dogs.csv'} line {rows[place].line}: images/{rows[place].filename}"
        ),
        remedy="put it there or remove the row",
        shape=SHAPE,
        convert=convert,
        resized=resize,
        cache=folder / CACHE,
        kind="",
    )
