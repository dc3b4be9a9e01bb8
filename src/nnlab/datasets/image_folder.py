"""Images in a folder for each class, also below ``train``, ``valid`` and ``test``.

The layout is that of torchvision's ImageFolder.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnlab import memory
from nnlab.datasets import files, images
from nnlab.datasets.arrays import Arrays, DataSource, Partition, Sizes
from nnlab.datasets.image_files import (
    CACHE,
    ENDINGS,
    ImageFiles,
    Pixels,
    Placed,
    Unfit,
    hidden,
    read_image,
    read_pixels,
    walk,
    warn_of_copies,
)
from nnlab.datasets.labelled import (
    PARTS,
    SYNONYMS,
    LabelledConfig,
    Part,
    check_classes,
    classes_of,
    make_arrays,
)
from nnlab.options import MISSING, require

if TYPE_CHECKING:
    from PIL.Image import Image

LAYOUT = "give one with a folder of images for each class, or with train, valid and test of such"


class Mode(enum.Enum):
    rgb = "rgb"
    grey = "grey"


@dataclass
class ImageFolderConfig(LabelledConfig):
    """title: what figures call it."""

    folder: str = MISSING
    size: int | None = MISSING
    mode: Mode = MISSING
    title: str = MISSING  # type: ignore[misc]  # of other datasets it is no option

    @property
    def data_folder(self) -> str:
        return self.folder

    def identity(self) -> dict[str, Any]:
        return {name: value for name, value in super().identity().items() if name != "title"}

    def check(self) -> None:
        super().check()
        limit = "it must be at least 1 pixel (null takes images as they are, all of one size)"
        require(self.size is None or self.size >= 1, "dataset.size", self.size, limit)
        limit = "it names the images in figures; give a name"
        require(self.title.strip() != "", "dataset.title", repr(self.title), limit)

    def choose_source(self, sizes: Sizes) -> DataSource:
        """Return the source.

        Reading it raises ValueError naming the folder or the file that is not as it should be.
        """
        folder = files.input_folder(self.folder)
        kept = "" if self.size is None else f", {self.size}x{self.size}"
        name = f"images in {folder}{kept}, {self.mode.name}"
        return DataSource(name, lambda: read(folder, self), needs=folder)


def read(folder: Path, config: ImageFolderConfig) -> Arrays:
    """Read a folder; pixels are decoded once and then come from a cache in it."""
    if not os.path.isdir(folder):  # False also for a name that none can have
        raise ValueError(f"there is no folder {folder}; {LAYOUT}")
    folders = part_folders(folder)
    names: dict[str, list[str]] = {}  # of the files of each part
    labels: dict[str, list[str]] = {}
    for part, below in (folders or {"train": folder}).items():
        listed = [(path, label) for label, paths in classes_in(below).items() for path in paths]
        names[part] = [path.relative_to(folder).as_posix() for path, _ in listed]
        labels[part] = [label for _, label in listed]
    codes, classes = classes_of(str(folder), list(labels.values()))
    check_classes(str(folder), classes, dict(zip(labels, codes)))  # before anything is decoded
    found = image_files(folder, [name for some in names.values() for name in some], config)
    memory.check(
        2 * len(found.names) * found.size,  # all images, and again as their cache
        f"reading the {len(found.names):,} images of {folder}",
        "lower dataset.size, or give fewer images",
    )
    pixels, sha256 = read_pixels(found)
    ends = np.cumsum([len(some) for some in names.values()])[:-1]
    parts = {
        part: Part(inputs, labels[part], np.arange(len(inputs)), names[part])
        for part, inputs in zip(names, np.split(pixels.reshape(-1, *found.shape), ends))
    }
    placed = [
        Placed(name, part, image)
        for part, each in parts.items()
        for name, image in zip(names[part], each.inputs)
    ]
    warn_of_copies(placed, "remove one of each")
    provenance = {"sha256": {"labels": digest_of(labels), "pixels": sha256}}
    arrays = make_arrays(str(folder), parts, provenance)
    if folders and arrays.test is None:  # not to be drawn from those in train
        train = arrays.train
        arrays = dataclasses.replace(arrays, test=Partition(train.inputs[:0], train.labels[:0]))
    return arrays


def digest_of(labels: dict[str, list[str]]) -> str:
    """Return the SHA-256 of the classes of images, in the order of the files."""
    return hashlib.sha256(json.dumps(labels).encode()).hexdigest()


# The folders


def part_folders(folder: Path) -> dict[str, Path]:
    """Return the folders of the parts that there are, none where the folders are classes.

    A folder named as a part is one where it holds folders, and a class where it holds images.
    """
    tops = folders_in(folder)
    named = {path: SYNONYMS.get(path.name.lower(), path.name.lower()) for path in tops}
    found = [path for path in tops if named[path] in PARTS and folders_in(path)]
    if not found:
        return {}
    if others := [path for path in tops if path not in found]:
        raise ValueError(
            f"{found[0]} holds folders of classes, but beside it is {others[0]}, which is none of "
            f"{', '.join(PARTS)} with such folders; move it elsewhere, or rename {found[0]} if it "
            f"is a class"
        )
    parts = {part: [path for path in found if named[path] == part] for part in PARTS}
    if twice := next((paths for paths in parts.values() if len(paths) > 1), None):
        raise ValueError(f"{twice[0]} and {twice[1]} are one part; put their images together")
    if not parts["train"]:
        raise ValueError(f"{folder} has {found[0].name}, but no train; {LAYOUT}")
    return {part: paths[0] for part, paths in parts.items() if paths}


def classes_in(folder: Path) -> dict[str, list[Path]]:
    """Return the image files of each class, in a fixed order."""
    if strays := [path for path in entries(folder) if path.name.lower().endswith(ENDINGS)]:
        raise ValueError(f"{strays[0]} lies in no folder of a class; move it into one")
    found = {path.name: sorted(walk(path)) for path in folders_in(folder)}
    if not found:
        raise ValueError(f"{folder} holds no folders of classes; {LAYOUT}")
    for name, paths in found.items():
        if not paths:
            raise ValueError(f"{folder / name} holds no images; put some there, or remove it")
        if name != name.encode(errors="replace").decode():
            raise ValueError(f"the folder {name!r} in {folder} is no text in UTF-8; rename it")
    return found


def folders_in(folder: Path) -> list[Path]:
    return [path for path in entries(folder) if path.is_dir()]


def entries(folder: Path) -> list[Path]:
    """Return what is in a folder, except what is hidden, by name."""
    try:
        return sorted(path for path in folder.iterdir() if not hidden(path.name))
    except OSError as error:
        raise ValueError(f"{folder} cannot be read: {error.strerror}") from None


# The images


def image_files(folder: Path, names: Sequence[str], config: ImageFolderConfig) -> ImageFiles:
    """Return how images are read: cropped and resized, or as they are, which is as the first is.

    In the second case its file is read.
    """
    width = height = config.size or 0
    if config.size is None:
        path = folder / names[0]
        first = read_image(path, str(path), lambda image: pixels_of(image, config))
        height, width = first.shape[:2]

    def convert(image: Image) -> Pixels:
        pixels = pixels_of(image, config)
        if pixels.shape[:2] != (height, width):
            raise Unfit(
                f"is {pixels.shape[1]}x{pixels.shape[0]}, but {names[0]} {width}x{height}; "
                f"dataset.size={min(width, height)} crops and resizes all"
            )
        return pixels

    return ImageFiles(
        folder,
        names,
        said=lambda place: str(folder / names[place]),
        remedy="put it there or remove it",
        shape=(height, width) if config.mode is Mode.grey else (height, width, 3),
        convert=convert,
        resized=config.size is not None,
        cache=folder / CACHE,
        kind=f"{config.size or 'whole'}-{config.mode.name}-",
    )


def pixels_of(image: Image, config: ImageFolderConfig) -> Pixels:
    """Return pixels [H, W] or [H, W, 3] of an image on white, upright."""
    made = images.rgb(image) if config.size is None else images.fit(image, config.size)
    return np.asarray(made.convert("L") if config.mode is Mode.grey else made)
