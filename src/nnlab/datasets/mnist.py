"""MNIST and Fashion-MNIST: 28x28 grey images in the IDX format, and MNIST's bundled sample.

Axes: N examples.
"""

from __future__ import annotations

import enum
import hashlib
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnlab import memory
from nnlab.datasets import files
from nnlab.datasets.arrays import (
    Arrays,
    Counts,
    DataSource,
    Excess,
    Partition,
    Sizes,
    as_floats,
    excess,
    mean_pixel,
)
from nnlab.datasets.dataset import DatasetConfig
from nnlab.datasets.files import File, read_idx
from nnlab.options import MISSING

log = logging.getLogger("nnlab")
Bytes = NDArray[np.uint8]
PIXELS = 28 * 28


@dataclass(frozen=True)
class Sample:
    """Part of an image set that comes with nnlab: the .npz file and what it holds."""

    path: Path
    sha256: str
    counts: Counts


@dataclass(frozen=True)
class ImageSet:
    """Where an image set comes from, and how many examples of each class it holds.

    files: training images, training labels, test images, test labels. torchvision: the folder
    that torchvision keeps them in, below the one it is given.
    """

    name: str
    classes: tuple[str, ...]
    files: tuple[File, ...]
    mirrors: tuple[str, ...]
    counts: Counts
    sample: Sample | None = None
    torchvision: str = "raw"

    def find(self, folder: Path) -> dict[File, Path]:
        """Return where each file is; those that are not there are left out."""
        return files.find(folder, self.files, ("raw", self.torchvision))


class Source(enum.Enum):
    auto = "auto"
    official = "official"
    bundled = "bundled"


@dataclass
class IdxConfig(DatasetConfig):
    """Four files in the IDX format, of the image set that ``name`` says."""

    source: Source = MISSING
    folder: str | None = MISSING

    @property
    def data_folder(self) -> str:
        """The folder of the official files, where none was named that of the dataset's name."""
        return f"data/{self.name}" if self.folder is None else self.folder

    def choose_source(self, sizes: Sizes) -> DataSource:
        """Choose the source that serves these sizes.

        Raises ValueError if no source has as many examples. Reading it raises OSError if the files
        are neither here nor to be downloaded.
        """
        if self.name not in IMAGE_SETS:
            known = ", ".join(IMAGE_SETS)
            raise ValueError(f"dataset.name={self.name} is not known; choose one of {known}")
        images = IMAGE_SETS[self.name]
        folder = files.input_folder(self.data_folder)
        too_many = excess(images.name, images.counts, sizes, self.balanced)
        lacking = _sample_lacks(images, self, sizes)
        found = images.find(folder) if self.source is not Source.bundled else {}
        missing = [file for file in images.files if file not in found]

        if self.source is Source.bundled and lacking is not None:
            official = f", or set dataset.source=auto and put the official files into {folder}"
            raise ValueError("; ".join(lacking) + ("" if too_many else official))
        if self.source is Source.auto and missing and lacking is None and self.folder is not None:
            state = f"lacks {named(missing)}" if folder.is_dir() else "is no folder"
            raise ValueError(
                f"dataset.folder={self.folder} {state}; give the folder of the official "
                f"{images.name} files, have them fetched into it with dataset.source=official, or "
                f"take the bundled sample with dataset.source=bundled"
            )
        if self.source is Source.bundled or (missing and lacking is None):
            some = self.source is Source.auto and len(missing) < len(images.files)
            note = f" ({folder} lacks {named(missing)})" if some else ""
            return DataSource(
                f"bundled sample of {images.name}",
                lambda: read_sample(images),
                lambda: identify_sample(images),
                note,
            )
        if too_many is not None:
            raise ValueError("; ".join(too_many))
        return DataSource(
            f"official {images.name} files in {folder}",
            lambda: read_official(images, here(images, folder, lacking)),
            lambda: identify_official(images, folder),
        )


@dataclass
class MNISTConfig(IdxConfig):
    title = "MNIST"


@dataclass
class FashionMNISTConfig(IdxConfig):
    title = "Fashion-MNIST"


def here(images: ImageSet, folder: Path, lacking: Excess | None) -> Mapping[File, Path]:
    """Return where the official files are, once those that are missing were downloaded.

    lacking: why the sample does not do, and what would.
    """
    found = images.find(folder)
    missing = [file for file in images.files if file not in found]
    if not missing:
        return found
    reason, remedy = lacking or (f"{folder} lacks files", "dataset.source=bundled")
    log.info(f"{reason}: fetching {named(missing)} into {folder}")
    try:
        files.fetch(folder, missing, images.mirrors)
    except OSError as error:
        raise OSError(f"{reason}, but {error}; or {remedy}") from error
    return images.find(folder)


def named(wanted: Sequence[File]) -> str:
    return ", ".join(file.name for file in wanted)


def identify_official(images: ImageSet, folder: Path) -> dict[str, Any] | None:
    """Return the SHA-256 of each file's content, None where one has yet to be downloaded."""
    found = images.find(folder)
    if len(found) < len(images.files):
        return None
    return {"sha256": {file.name: files.content_sha256(found[file], file) for file in found}}


def identify_sample(images: ImageSet) -> dict[str, Any]:
    assert images.sample is not None
    path = images.sample.path
    return {"sha256": {path.name: hashlib.sha256(files.read_input(path)).hexdigest()}}


def _sample_lacks(images: ImageSet, config: IdxConfig, sizes: Sizes) -> Excess | None:
    """Say why the bundled sample does not serve, and the remedy; None where it serves."""
    if config.source is Source.official:
        return "dataset.source=official asks for the official files", "set dataset.source=auto"
    if images.sample is None:
        return f"{images.name} has no bundled sample", "choose dataset=mnist"
    name = f"the bundled sample of {images.name}"
    if config.source is Source.auto and None in (sizes.train, sizes.test):
        return f"a size of null asks for more than {name}", "ask for fewer images"
    return excess(name, images.sample.counts, sizes, config.balanced)


def read_official(images: ImageSet, paths: Mapping[File, Path]) -> Arrays:
    """Read the four official files. Raises ValueError naming the file that is not as published."""
    count = sum(images.counts.train) + sum(images.counts.test)
    needed = count * PIXELS * (1 + 4)  # as bytes and in float32
    memory.check(needed, f"reading {count:,} images", "dataset.source=bundled reads a sample")
    parts = [read_idx(paths[file], file.sha256) for file in images.files]
    where = str(paths[images.files[0]].parent)
    return _arrays(images, parts, where, {file.name: file.sha256 for file in images.files})


def read_sample(images: ImageSet) -> Arrays:
    """Read the bundled sample. Raises ValueError if it is not as it was published."""
    sample = images.sample
    assert sample is not None
    content = files.read_input(sample.path)
    if hashlib.sha256(content).hexdigest() != sample.sha256:
        raise ValueError(f"{sample.path} is damaged: its SHA-256 is wrong; install nnlab again")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        keys = ("train_images", "train_labels", "test_images", "test_labels")
        parts = [arrays[key] for key in keys]
    return _arrays(images, parts, str(sample.path), {sample.path.name: sample.sha256})


def _arrays(images: ImageSet, parts: list[Bytes], where: str, sha256: dict[str, str]) -> Arrays:
    """Turn images [N, ...] and labels [N] of both splits into tensors, if they belong together."""
    partitions: list[Partition] = []
    for pictures, labels in (parts[:2], parts[2:]):
        if labels.shape != pictures.shape[:1]:
            raise ValueError(
                f"{where} holds {len(pictures)} images but labels of shape {labels.shape}; "
                f"replace its files by the official ones"
            )
        if labels.max() >= len(images.classes):
            raise ValueError(
                f"{where} holds the label {labels.max()}, but those of {images.name} end at "
                f"{len(images.classes) - 1}; replace its files by the official ones"
            )
        pixels = as_floats(pictures.reshape(len(pictures), -1))
        partitions.append(Partition(pixels, labels.astype(np.int64)))
    return Arrays(
        train=partitions[0],
        valid=None,
        test=partitions[1],
        classes=images.classes,
        shape=parts[0].shape[1:],
        full_size=sum(images.counts.train),
        full_test_size=sum(images.counts.test),
        provenance={"sha256": sha256},
        mean_pixel=mean_pixel(parts[0]),
    )


# The hashes of MNIST's content agree with the official files the tests read; those of the
# .gz are the ones tensorflow/datasets and torchvision publish (url_checksums/mnist.txt,
# fashion_mnist.txt). Fashion-MNIST's content hashes are those several public projects verify.
MNIST = ImageSet(
    name="mnist",
    classes=tuple("0123456789"),
    files=(
        File(
            "train-images-idx3-ubyte",
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        File(
            "train-labels-idx1-ubyte",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        File(
            "t10k-images-idx3-ubyte",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        File(
            "t10k-labels-idx1-ubyte",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    counts=Counts(
        train=(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
        test=(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
    ),
    torchvision="MNIST/raw",
    sample=Sample(
        Path(__file__).with_name("mnist_sample.npz"),
        "4a0e6299fb49357150398b68c326a564fd0f127838ecf18332adfa0638a1bdd3",
        Counts(train=(500,) * 10, test=(100,) * 10),
    ),
)

FASHION_MNIST = ImageSet(
    name="fashion_mnist",
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    files=(
        File(
            "train-images-idx3-ubyte",
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        File(
            "train-labels-idx1-ubyte",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        File(
            "t10k-images-idx3-ubyte",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        File(
            "t10k-labels-idx1-ubyte",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
    mirrors=(
        "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
    counts=Counts(train=(6000,) * 10, test=(1000,) * 10),
    torchvision="FashionMNIST/raw",
)

IMAGE_SETS = {images.name: images for images in (MNIST, FASHION_MNIST)}
