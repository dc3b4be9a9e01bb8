"""The bundled sample is part of the official files; what is not as published is refused."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from nnlab.datasets import files, mnist

OFFICIAL = Path(__file__).parents[2].parent / "shared" / "data" / "mnist"
needs_official = pytest.mark.skipif(not OFFICIAL.is_dir(), reason="no official MNIST files here")


def official(name: str) -> NDArray[np.uint8]:
    """Read a file without the code under test, as data/make_mnist_sample.py does."""
    raw = gzip.decompress((OFFICIAL / f"{name}.gz").read_bytes())
    shape = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def test_the_sample_is_read_as_it_is() -> None:
    sample = mnist.MNIST.sample
    assert sample is not None
    arrays = mnist.read_sample(mnist.MNIST)
    assert arrays.test is not None
    with np.load(sample.path) as stored:
        for split, inputs, labels, counts in (
            ("train", arrays.train.inputs, arrays.train.labels, sample.counts.train),
            ("test", arrays.test.inputs, arrays.test.labels, sample.counts.test),
        ):
            pixels = stored[f"{split}_images"].reshape(sum(counts), 784) / 255  # float64
            # 255 divisions are rounded to float32 once: half a unit in the last place.
            np.testing.assert_allclose(inputs, pixels, rtol=2**-24, atol=0)
            assert inputs.dtype == np.float32
            assert inputs.min() == 0
            assert inputs.max() == 1
            assert labels.tolist() == stored[f"{split}_labels"].tolist()
            assert labels.dtype == np.int64
            assert np.bincount(labels).tolist() == list(counts)
    assert arrays.shape == (28, 28)
    content = hashlib.sha256(sample.path.read_bytes()).hexdigest()
    assert arrays.provenance["sha256"] == {"mnist_sample.npz": content}
    assert content in sample.path.with_suffix(".md").read_text()


@needs_official
def test_the_sample_is_part_of_the_official_files() -> None:
    assert mnist.MNIST.sample is not None
    with np.load(mnist.MNIST.sample.path) as stored:
        for split, prefix in (("train", "train"), ("test", "t10k")):
            index = stored[f"{split}_index"]
            assert len(set(index.tolist())) == len(index)
            for kind, ending in (("images", "images-idx3-ubyte"), ("labels", "labels-idx1-ubyte")):
                originals = official(f"{prefix}-{ending}")[index]
                np.testing.assert_array_equal(stored[f"{split}_{kind}"], originals)


@needs_official
@pytest.mark.parametrize("packed", [True, False])
def test_the_official_files_are_read_exactly(packed: bool, tmp_path: Path) -> None:
    for file in mnist.MNIST.files:
        content = (OFFICIAL / f"{file.name}.gz").read_bytes()
        name = f"{file.name}.gz" if packed else file.name
        (tmp_path / name).write_bytes(content if packed else gzip.decompress(content))
    arrays = mnist.read_official(mnist.MNIST, files.find(tmp_path, mnist.MNIST.files))
    assert arrays.test is not None
    for inputs, labels, prefix, counts in (
        (arrays.train.inputs, arrays.train.labels, "train", mnist.MNIST.counts.train),
        (arrays.test.inputs, arrays.test.labels, "t10k", mnist.MNIST.counts.test),
    ):
        pixels = official(f"{prefix}-images-idx3-ubyte").reshape(-1, 784)
        np.testing.assert_array_equal(inputs, pixels / np.float32(255))
        digits = official(f"{prefix}-labels-idx1-ubyte")
        np.testing.assert_array_equal(labels, digits)
        assert np.bincount(digits).tolist() == list(counts)
    for file in mnist.MNIST.files:
        raw = gzip.decompress((OFFICIAL / f"{file.name}.gz").read_bytes())
        assert arrays.provenance["sha256"][file.name] == hashlib.sha256(raw).hexdigest()


def test_a_damaged_sample_is_refused(tmp_path: Path) -> None:
    sample = mnist.MNIST.sample
    assert sample is not None
    path = tmp_path / "mnist_sample.npz"
    shutil.copy(sample.path, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    altered = dataclasses.replace(mnist.MNIST, sample=dataclasses.replace(sample, path=path))
    with pytest.raises(ValueError, match=r"mnist_sample\.npz is damaged.*install"):
        mnist.read_sample(altered)


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0, 1], r"holds 3 images but labels of shape \(2,\)"), ([0, 1, 10], "label 10, .* end at 9")],
)
def test_labels_belong_to_the_images(tmp_path: Path, labels: list[int], message: str) -> None:
    contents = (
        b"\0\0\x08\x03\0\0\0\x03\0\0\0\x01\0\0\0\x01abc",
        b"\0\0\x08\x01\0\0\0" + bytes([len(labels), *labels]),
    )
    paths = {}
    for name, content in zip(("ti", "tl", "ei", "el"), 2 * contents):
        file = files.File(name, hashlib.sha256(content).hexdigest(), "")
        paths[file] = tmp_path / name
        paths[file].write_bytes(content)
    images = dataclasses.replace(mnist.MNIST, files=tuple(paths))
    with pytest.raises(ValueError, match=message):
        mnist.read_official(images, paths)


@pytest.mark.parametrize("images", mnist.IMAGE_SETS.values(), ids=lambda images: images.name)
def test_the_tables_are_complete(images: mnist.ImageSet) -> None:
    assert (sum(images.counts.train), sum(images.counts.test)) == (60_000, 10_000)
    assert len(images.classes) == len(images.counts.train) == len(images.counts.test) == 10
    assert len(images.mirrors) >= 2
    assert all(address.endswith("/") for address in images.mirrors)
    assert [file.name for file in images.files] == [
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ]
    hashes = [text for file in images.files for text in (file.sha256, file.gz_sha256)]
    assert len({bytes.fromhex(text) for text in hashes if len(text) == 64}) == 8
