"""DogSet: colour photographs of dogs, 64x64, in a folder with their list, ``dogs.csv``.

Axes: N images, I = 64 * 64 * 3 values of an image, channels last.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnlab.config import DogSetConfig
from nnlab.datasets.arrays import Arrays, DataSource, Partition
from nnlab.records import write_whole

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS = ("filename", "semantic_label", "numeric_label", "partition")
PARTITIONS = ("train", "valid", "test")
SIZE = 64
SHAPE = (SIZE, SIZE, 3)
CACHE = ".cache"

Pixels = NDArray[np.uint8]
log = logging.getLogger("nnlab")


class Row(NamedTuple):
    """A row of dogs.csv; line: its number in the file."""

    line: int
    filename: str
    breed: str
    label: int
    partition: str


def choose(config: DogSetConfig) -> DataSource:
    """Return the source.

    Reading it raises ValueError naming the row or the file that is not as it should be.
    """
    folder = Path(config.folder).expanduser()
    some = "" if config.num_classes is None else f", first {config.num_classes} breeds"
    resized = ", resized" if config.resize else ""
    return DataSource(f"DogSet in {folder}{some}{resized}", lambda: read(folder, config))


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
    pixels, sha256 = read_pixels(folder, rows, config.resize)
    labels = np.array([row.label for row in rows])

    def partition(name: str) -> Partition:
        mine = np.array([row.partition == name for row in rows]) & (labels < kept)
        return Partition(pixels[mine], labels[mine])

    parts = {name: partition(name) for name in PARTITIONS}
    if len(parts["train"].labels) == 0:
        raise ValueError(f"{folder / 'dogs.csv'} has no row with partition train")
    return Arrays(
        train=parts["train"],
        valid=parts["valid"] if len(parts["valid"].labels) > 0 else None,
        test=parts["test"],
        classes=classes[:kept],
        shape=SHAPE,
        full_size=len(parts["train"].labels),
        full_test_size=len(parts["test"].labels),
        provenance={"sha256": {"rows": digest_of(rows), "pixels": sha256}},
    )


# The list


def read_rows(folder: Path) -> list[Row]:
    """Read and check dogs.csv."""
    path = folder / "dogs.csv"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(
            f"there is no {path}; DogSet is a folder with dogs.csv (columns "
            f"{', '.join(COLUMNS)}; partition is {', '.join(PARTITIONS)}) and the photographs in "
            f"images/. Make one of any collection with `python -m nnlab.import_images FOLDER "
            f"{folder}`, or take generated images with dataset=dogset_synthetic"
        ) from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from None
    table = csv.DictReader(io.StringIO(text, newline=""))
    missing = [name for name in COLUMNS if name not in (table.fieldnames or ())]
    if missing:
        raise ValueError(f"{path} lacks the column {', '.join(missing)}; it needs {COLUMNS}")
    rows: list[Row] = []
    seen: dict[str, int] = {}
    for record in table:
        row = read_row(f"{path} line {table.line_num}", table.line_num, record)
        if row.filename in seen:
            raise ValueError(
                f"{path} line {row.line}: {row.filename} is in line {seen[row.filename]} already; "
                f"remove one of them"
            )
        seen[row.filename] = row.line
        rows.append(row)
    if not rows:
        raise ValueError(f"{path} lists no image")
    check_labels(path, rows)
    return rows


def digest_of(rows: Sequence[Row]) -> str:
    """Return the SHA-256 of what the rows say, however the file writes it."""
    said = [(row.breed, row.label, row.partition) for row in rows]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def read_row(where: str, line: int, record: dict[str, str | None]) -> Row:
    filename, breed, label, partition = (str(record[name] or "").strip() for name in COLUMNS)
    if not filename or Path(filename).is_absolute() or ".." in Path(filename).parts:
        raise ValueError(f"{where}: filename={filename!r} is no file inside images/")
    if partition not in PARTITIONS:
        raise ValueError(f"{where}: partition={partition!r} is none of {', '.join(PARTITIONS)}")
    if not breed:
        raise ValueError(f"{where}: semantic_label is empty; name the breed")
    if not label.isascii() or not label.isdigit():
        raise ValueError(f"{where}: numeric_label={label!r} is no number of at least 0")
    return Row(line, filename, breed, int(label), partition)


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


def read_pixels(folder: Path, rows: Sequence[Row], resize: bool) -> tuple[Pixels, str]:
    """Return the images [N, I] and the SHA-256 of their bytes, from the cache where it fits.

    The cache is one file, named by a digest of all file names, sizes and times of change: after
    any change there is none of that name. It begins with the SHA-256 of the rest.
    """
    key = hashlib.sha256(json.dumps([1, resize]).encode())
    for row in rows:
        try:
            found = (folder / "images" / row.filename).stat()
        except OSError as error:
            raise ValueError(
                f"{folder / 'dogs.csv'} line {row.line}: images/{row.filename} cannot be read "
                f"({error.strerror}); put it there or remove the row"
            ) from None
        key.update(json.dumps([row.filename, found.st_size, found.st_mtime_ns]).encode())
    cache = folder / CACHE / f"{key.hexdigest()[:32]}.pixels"
    cached = read_cache(cache, len(rows))
    if cached is not None:
        return cached
    pixels = decode(folder, rows, resize)
    digest = hashlib.sha256(pixels.data)
    try:
        cache.parent.mkdir(exist_ok=True)
        write_whole(cache, digest.digest() + pixels.tobytes(), durable=False)
        for other in cache.parent.glob("*.pixels"):
            if other != cache:
                other.unlink(missing_ok=True)
    except OSError as error:
        log.info("%s: %s; the images are decoded anew each time", cache.parent, error.strerror)
    return pixels, digest.hexdigest()


def read_cache(path: Path, images: int) -> tuple[Pixels, str] | None:
    """Return what was cached and its SHA-256, None if there is nothing or it is damaged."""
    try:
        with path.open("rb") as file:
            digest = file.read(32)
            pixels = np.fromfile(file, np.uint8)
    except OSError:
        return None
    whole = pixels.size == images * SIZE * SIZE * 3
    if not whole or hashlib.sha256(pixels.data).digest() != digest:
        log.info("%s is damaged; decoding the images anew", path)
        return None
    return pixels.reshape(images, -1), digest.hex()


def decode(folder: Path, rows: Sequence[Row], resize: bool) -> Pixels:
    """Decode all images: [N, I] uint8. In threads, since Pillow works without Python's lock."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    pixels = np.empty((len(rows), SIZE * SIZE * 3), np.uint8)

    def one(number: int) -> None:
        row = rows[number]
        where = f"{folder / 'dogs.csv'} line {row.line}: images/{row.filename}"
        pixels[number] = read_image(folder / "images" / row.filename, where, resize).reshape(-1)

    bar = tqdm(total=len(rows), desc="decoding", unit=" images", disable=not sys.stderr.isatty())
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for _ in pool.map(one, range(len(rows))):
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return pixels


def read_image(path: Path, where: str, resize: bool) -> Pixels:
    """Read one image as [64, 64, 3]. Raises ValueError that begins with ``where``."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if resize:
                return np.asarray(fit(image, SIZE))
            if image.size != (SIZE, SIZE) or image.mode != "RGB":
                width, height = image.size
                raise ValueError(
                    f"is {width}x{height} in mode {image.mode}, not {SIZE}x{SIZE} in RGB; "
                    f"dataset.resize=true crops and converts"
                )
            return np.asarray(image)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{where} is far too large ({error}); remove the row") from None
    except (OSError, SyntaxError) as error:  # what Pillow raises for damaged files
        raise ValueError(f"{where} is damaged ({error}); replace it") from None
    except ValueError as error:
        raise ValueError(f"{where} {error}") from None


def fit(image: Image, size: int) -> Image:
    """Return the middle of an image as a square of size x size in RGB, upright."""
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(image).convert("RGB")
    return ImageOps.fit(upright, (size, size), Image.Resampling.BICUBIC)
