"""What load gives a run: the source it uses, its splits, and what the splits share."""

from __future__ import annotations

import dataclasses
import errno
import gc
import hashlib
import json
import logging
import os
import shutil
import struct
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nnlab import datasets, seeds
from nnlab.datasets import Data, Split, files, mnist, sampling, splits
from nnlab.datasets.arrays import Arrays, Counts, Partition, Sizes
from nnlab.datasets.mnist import IdxConfig, Source

DEAD = "http://127.0.0.1:1/"
COUNTS = Counts(train=(9, 7, 8), test=(4, 5, 3))
SAMPLED = Counts(train=(4,) * 3, test=(2,) * 3)


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start every test as a new process does, and never leave this machine."""
    datasets.forget()
    for name, images in list(mnist.IMAGE_SETS.items()):
        dead = dataclasses.replace(images, mirrors=(DEAD, "http://127.0.0.1:2/"))
        monkeypatch.setitem(mnist.IMAGE_SETS, name, dead)


def arrays(split: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the images [N, 2, 1] and labels [N] of a split: every image differs."""
    labels = np.repeat(np.arange(3, dtype=np.uint8), getattr(COUNTS, split))
    labels = np.random.default_rng(0).permutation(labels)
    return np.arange(2 * len(labels), dtype=np.uint8).reshape(-1, 2, 1), labels


def contents() -> dict[str, bytes]:
    """Return the four official files by name, written independently of the reader."""
    written = {}
    for split in ("train", "test"):
        for kind, array in zip(("images", "labels"), arrays(split)):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            written[f"{split}-{kind}"] = header + array.tobytes()
    return written


@pytest.fixture
def letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> mnist.ImageSet:
    """A small image set: its official files in tmp_path/data/letters, its sample beside it."""
    monkeypatch.chdir(tmp_path)
    Path("data", "letters").mkdir(parents=True)
    published = []
    for name, content in contents().items():
        Path("data", "letters", name).write_bytes(content)
        published.append(files.File(name, hashlib.sha256(content).hexdigest(), ""))
    sampled: dict[str, NDArray[np.uint8]] = {}
    for split in ("train", "test"):
        images, labels = arrays(split)
        some = getattr(SAMPLED, split)
        keep = np.sort(np.concatenate([np.flatnonzero(labels == c)[: some[c]] for c in range(3)]))
        sampled |= {f"{split}_images": images[keep], f"{split}_labels": labels[keep]}
    path = tmp_path / "sample.npz"
    np.savez(path, allow_pickle=False, **sampled)
    sample = mnist.Sample(path, hashlib.sha256(path.read_bytes()).hexdigest(), SAMPLED)
    classes = ("a", "b", "c")
    images_set = mnist.ImageSet("letters", classes, tuple(published), (DEAD, DEAD), COUNTS, sample)
    monkeypatch.setitem(mnist.IMAGE_SETS, "letters", images_set)
    return images_set


def load(
    train: int | None = 6,
    valid: int = 0,
    test: int | None = 3,
    seed: int = 0,
    *,
    name: str = "letters",
    source: Source = Source.auto,
    folder: str | None = None,
    balanced: bool = True,
    normalize: bool = False,
) -> Data:
    config = IdxConfig(name, balanced, normalize, source, folder)
    return datasets.load(config, Sizes(train, valid, test), seed=seed)


def chosen(split: Split | None) -> list[int]:
    return [] if split is None else [int(i) for i in split.index]


def counts(split: Split) -> list[int]:
    found: list[int] = np.bincount(split.labels[split.index], minlength=3).tolist()
    return found


def remove(letters: mnist.ImageSet, *names: str) -> None:
    for file in letters.files:
        if not names or file.name in names:
            Path("data", "letters", file.name).unlink()


def test_what_was_read_is_let_go(letters: mnist.ImageSet) -> None:
    """The next command in this process may ask for other data."""
    read = weakref.ref(load().train.inputs)
    gc.collect()
    assert read() is not None  # for the next run
    datasets.forget()
    gc.collect()
    assert read() is None


def test_mnist_works_with_no_files_and_no_network(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "nnlab")
    monkeypatch.chdir(tmp_path)
    data = load(1000, 500, 1000, name="mnist")
    assert data.valid is not None
    assert data.test is not None
    for split, each in ((data.train, 100), (data.valid, 50), (data.test, 100)):
        assert np.bincount(split.labels[split.index]).tolist() == [each] * 10
        assert split.inputs.shape == (len(split.labels), 784)
        assert split.inputs.dtype == np.float32
        assert split.labels.dtype == split.index.dtype == np.int64
    assert data.classes == list("0123456789")
    sample = {
        "mnist_sample.npz": "4a0e6299fb49357150398b68c326a564fd0f127838ecf18332adfa0638a1bdd3"
    }
    assert json.loads(json.dumps(data.provenance)) == {
        "name": "mnist",
        "source": "bundled sample of mnist",
        "sha256": sample,
        "mean_pixel": pytest.approx(float(data.train.inputs.mean(dtype=np.float64)), rel=1e-6),
        "synthetic": False,
        "shape": [28, 28],
        "classes": list("0123456789"),
        "content": hashlib.sha256(json.dumps({"sha256": sample}).encode()).hexdigest()[:16],
        "full_size": 60000,
        "full_test_size": 10000,
        "sizes": {"train": 1000, "valid": 500, "test": 1000},
        "examples": {
            name: hashlib.sha256(split.index.tobytes()).hexdigest()[:16]
            for name, split in (("valid", data.valid), ("test", data.test))
        },
        "mean": None,
        "deviation": None,
    }
    load(2000, 0, 10, name="mnist")
    assert caplog.messages == ["bundled sample of mnist"]
    assert list(tmp_path.iterdir()) == []


def test_official_files_go_before_the_sample(
    letters: mnist.ImageSet, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nnlab")
    data = load()
    assert data.provenance["source"] == "official letters files in data/letters"
    assert data.provenance["sha256"] == {file.name: file.sha256 for file in letters.files}
    assert data.provenance["shape"] == [2, 1]
    assert len(data.train.labels) == 24
    assert load(source=Source.official).train.inputs is data.train.inputs
    assert caplog.messages == ["official letters files in data/letters"]
    bundled = load(source=Source.bundled)
    assert bundled.provenance["source"] == "bundled sample of letters"
    assert len(bundled.train.labels) == 12


def test_an_altered_file_is_an_error_even_where_the_sample_would_do(
    letters: mnist.ImageSet,
) -> None:
    path = Path("data", "letters", "test-images")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\xff")
    with pytest.raises(
        ValueError, match=r"letters/test-images is not .*SHA-256.*official"
    ) as caught:
        load()
    assert "delete" not in str(caught.value)
    path.write_bytes(content[:-1])
    datasets.forget()  # as the next command does
    with pytest.raises(ValueError, match=r"letters/test-images is damaged.*replace it"):
        load()
    path.write_bytes(content)
    datasets.forget()
    assert len(load().train) == 6


@pytest.mark.parametrize(
    ("folder", "state"),
    [
        ("nowhere", "is no folder"),
        ("empty", "lacks train-images, train-labels, test-images, test-labels;"),
        ("some", "lacks test-images;"),
        ("empty/file", "is no folder"),
    ],
)
def test_a_named_folder_without_the_files_is_an_error(
    letters: mnist.ImageSet, folder: str, state: str
) -> None:
    Path("empty").mkdir()
    Path("empty", "file").touch()
    shutil.copytree("data/letters", "some")
    Path("some", "test-images").unlink()
    with pytest.raises(ValueError, match=f"dataset.folder={folder} {state}.*source=bundled"):
        load(folder=folder)
    bundled = load(folder=folder, source=Source.bundled)
    assert bundled.provenance["source"] == "bundled sample of letters"
    assert not Path("nowhere").exists()


def test_the_usual_folder_is_a_named_one_where_it_is_named(letters: mnist.ImageSet) -> None:
    remove(letters, "test-images")
    with pytest.raises(ValueError, match=r"dataset.folder=data/letters lacks test-images;"):
        load(folder="data/letters")
    assert load().provenance["source"] == "bundled sample of letters"


def test_a_named_folder_is_used(letters: mnist.ImageSet) -> None:
    Path("data", "letters").rename("mine")
    assert load(folder="mine").provenance["source"] == "official letters files in mine"
    Path("torchvision").mkdir()
    Path("mine").rename("torchvision/raw")
    source = load(folder="torchvision").provenance["source"]
    assert source == "official letters files in torchvision"


def test_a_folder_that_may_not_be_looked_at_is_named(
    letters: mnist.ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = Path.stat

    def locked(path: Path, **options: bool) -> os.stat_result:
        if path.parent == Path("data/letters"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", locked)  # the superuser may look everywhere
    with pytest.raises(ValueError, match="data/letters/train-images cannot be read: Permission"):
        load()
    with pytest.raises(ValueError, match=r"dataset\.folder=~nobody_at_all"):
        load(folder="~nobody_at_all/mnist")


def test_missing_files_are_named(letters: mnist.ImageSet, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "nnlab")
    remove(letters, "train-labels", "test-labels")
    assert load().provenance["source"] == "bundled sample of letters"
    assert caplog.messages == [
        "bundled sample of letters (data/letters lacks train-labels, test-labels)"
    ]
    for size, source in ((21, Source.auto), (6, Source.official)):
        with pytest.raises(OSError, match="put these files into data/letters") as caught:
            load(size, source=source)
        assert "train-labels.gz, test-labels.gz" in str(caught.value)
        assert "images" not in str(caught.value).split("put these")[1]


@pytest.mark.parametrize(
    ("ask", "why"),
    [
        (lambda: load(13), "train_size=13 exceeds the 12 training examples of the bundled sample"),
        (lambda: load(test=9), "test_size=9 exceeds the 6 test examples of the bundled sample"),
        (lambda: load(valid=15), "valid_size=15 exceeds the 12 training examples"),
        (lambda: load(None), "null asks for more than the bundled sample"),
        (lambda: load(test=None), "null asks for more than the bundled sample"),
        (lambda: load(source=Source.official), "dataset.source=official"),
    ],
)
def test_more_than_the_sample_is_fetched(
    letters: mnist.ImageSet, ask: Callable[[], Data], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove(letters)
    with pytest.raises(OSError, match=why) as caught:
        ask()
    for word in (*(f"{file.name}.gz" for file in letters.files), "into data/letters", DEAD):
        assert word in str(caught.value)

    fetched = []

    def fetch(folder: Path, missing: list[files.File], mirrors: tuple[str, ...]) -> None:
        fetched.append((folder, missing, mirrors))
        for name, content in contents().items():
            (folder / name).write_bytes(content)

    monkeypatch.setattr(files, "fetch", fetch)
    datasets.forget()  # as the next command does
    assert ask().provenance["source"] == "official letters files in data/letters"
    assert fetched == [(Path("data/letters"), list(letters.files), letters.mirrors)]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: load(25), "train_size=25 exceeds the 24 training examples of letters; lower"),
        (lambda: load(22), r"train_size=22 .* 21 .*balanced .*\(3 x 7\).*dataset.balanced=false"),
        (lambda: load(18, 4), "train_size=18 exceeds the 15 .*left by valid_size=4.* valid_size"),
        (lambda: load(1, 24), "valid_size=24 exceeds the 21 .*balanced"),
        (lambda: load(None, 24, balanced=False), "train_size=null exceeds the 0 training examples"),
        (lambda: load(test=10), r"test_size=10 exceeds the 9 test .*balanced.*\(3 x 3\)"),
        (lambda: load(test=13), "test_size=13 exceeds the 12 test examples of letters"),
        (
            lambda: load(20, source=Source.bundled),
            "train_size=20 exceeds the 12 .*bundled sample.*source=auto.* into data/letters",
        ),
        (lambda: load(99, source=Source.bundled), "train_size=99 exceeds .* lower train_size$"),
    ],
)
@pytest.mark.parametrize("present", [True, False])
def test_too_large_a_size_is_an_error_before_any_download(
    letters: mnist.ImageSet, ask: Callable[[], Data], message: str, present: bool
) -> None:
    if not present:
        remove(letters)
    with pytest.raises(ValueError, match=message) as caught:
        ask()
    assert "\n" not in str(caught.value)


def test_full_mnist_has_54210_balanced_images(tmp_path: Path) -> None:
    folder = str(tmp_path)
    with pytest.raises(ValueError, match=r"54,210 .*\(10 x 5,421\).*dataset\.balanced=false"):
        load(54_211, name="mnist", folder=folder)
    with pytest.raises(OSError, match="could not be downloaded"):
        load(54_210, name="mnist", folder=folder)


def test_unknown_and_unbundled_names_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dataset\.name=cifar .*mnist, fashion_mnist"):
        load(name="cifar")
    with pytest.raises(ValueError, match=r"fashion_mnist has no bundled sample.*source=auto"):
        load(name="fashion_mnist", source=Source.bundled)
    with pytest.raises(OSError, match=r"fashion_mnist has no bundled sample.*t10k-labels"):
        load(name="fashion_mnist", folder=str(tmp_path))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data(), st.integers(0, 2**63 - 1), st.booleans())
def test_splits_are_balanced_nested_and_disjoint(
    letters: mnist.ImageSet, data: st.DataObject, seed: int, balanced: bool
) -> None:
    valid = data.draw(st.integers(0, 18 if balanced else 20))
    left = 3 * (7 - -(-valid // 3)) if balanced else 24 - valid
    large = data.draw(st.integers(1, left))
    small = data.draw(st.integers(1, large))
    test = data.draw(st.integers(0, 9))
    a = load(large, valid, test, seed, balanced=balanced)
    b = load(small, valid, test, seed, balanced=balanced)
    assert chosen(b.train) == chosen(a.train)[:small]
    assert chosen(b.valid) == chosen(a.valid)
    assert chosen(b.test) == chosen(a.test)
    for split, size in ((a.train, large), (a.valid, valid), (a.test, test)):
        assert len(set(chosen(split))) == size
        assert (split is None) == (size == 0)
        if split is not None and balanced:
            assert max(counts(split)) - min(counts(split)) <= 1
    assert not set(chosen(a.train)) & set(chosen(a.valid))
    sizes = {"train": large, "valid": valid, "test": test}
    assert a.provenance["sizes"] == sizes
    # Neither depends on the size of the other, nor the test set on the seed.
    fewer = data.draw(st.integers(0, valid))
    c = load(large, fewer, test, seed, balanced=balanced)
    assert chosen(c.train) == chosen(a.train)
    assert chosen(c.valid) == chosen(a.valid)[:fewer]
    less = data.draw(st.integers(0, test))
    d = load(small, fewer, less, data.draw(st.integers(0, 2**63 - 1)), balanced=balanced)
    assert chosen(d.test) == chosen(a.test)[:less]


def test_every_split_has_its_own_stream(letters: mnist.ImageSet) -> None:
    data = load(9, 0, 6, 5)
    for split, size, seed, stream in ((data.train, 9, 5, "examples"), (data.test, 6, 0, "test")):
        assert split is not None
        drawn = sampling.balanced(split.labels, size, seeds.generator(seed, stream))
        assert chosen(split) == drawn.tolist()
    data = load(None, 6, 0, 5, balanced=False)
    whole = sampling.plain(24, 24, seeds.generator(5, "examples"))
    assert chosen(data.valid) == whole[::-1][:6].tolist()


def test_null_takes_the_whole_split_in_file_order(letters: mnist.ImageSet) -> None:
    data = load(None, 0, None)
    assert chosen(data.train) == list(range(24))
    assert chosen(data.test) == list(range(12))
    data = load(None, 6, None)
    valid = set(chosen(data.valid))
    assert len(valid) == 6
    assert chosen(data.train) == [i for i in range(24) if i not in valid]
    assert len(load(None, 21).train) == 3  # too few of every class to balance
    whole = load(None, 0, None, source=Source.bundled)
    assert chosen(whole.train) == list(range(12))


def test_the_images_are_those_of_the_files(letters: mnist.ImageSet) -> None:
    data = load(None, 0, None)
    assert data.test is not None
    for split, name in ((data.train, "train"), (data.test, "test")):
        images, labels = arrays(name)
        pixels = images.reshape(-1, 2) / np.float32(255)
        np.testing.assert_array_equal(split.inputs, pixels, strict=True)
        assert split.labels.tolist() == labels.tolist()


def test_seeds_draw_different_subsets_of_shared_arrays(letters: mnist.ImageSet) -> None:
    draws = [load(9, 3, 3, seed) for seed in range(20)]
    for split in ("train", "valid"):
        assert len({tuple(chosen(getattr(data, split))) for data in draws}) > 10
    assert len({tuple(chosen(data.test)) for data in draws}) == 1
    assert len({id(data.train.inputs) for data in draws}) == 1
    assert all(data.valid and data.valid.inputs is data.train.inputs for data in draws)
    assert len({id(data.test.inputs) for data in draws if data.test}) == 1


def test_threads_read_the_files_once(
    letters: mnist.ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    read = mnist.read_official

    def counted(*arguments: object) -> Arrays:
        reads.append(arguments)
        time.sleep(0.05)  # long enough for every thread to ask
        return read(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(mnist, "read_official", counted)
    with ThreadPoolExecutor(8) as pool:
        loaded = list(
            pool.map(lambda seed: load(6, 0, 3, seed, normalize=seed % 2 == 0), range(32))
        )
    assert len(reads) == 1
    for seed, data in enumerate(loaded):
        again = load(6, 0, 3, seed, normalize=seed % 2 == 0)
        assert np.array_equal(again.train.inputs, data.train.inputs)
        assert chosen(again.train) == chosen(data.train)


def test_normalize_uses_the_statistics_of_the_training_subset(letters: mnist.ImageSet) -> None:
    plain, scaled = load(9, 3, None), load(9, 3, None, normalize=True)
    subset = plain.train.examples[0].astype(np.float64)
    mean, deviation = subset.mean(), subset.std()
    for before, after in (
        (plain.train, scaled.train),
        (plain.valid, scaled.valid),
        (plain.test, scaled.test),
    ):
        assert before is not None
        assert after is not None
        expected = (before.examples[0].astype(np.float64) - mean) / deviation
        # float32 in, float32 out: a few roundings of numbers of order 1.
        np.testing.assert_allclose(after.examples[0], expected, rtol=1e-5, atol=1e-5)
        assert np.array_equal(after.examples[1], before.examples[1])
    shared = plain.provenance | {
        "mean": [pytest.approx(mean.item(), rel=1e-6)],
        "deviation": [pytest.approx(deviation.item(), rel=1e-6)],
    }
    assert scaled.provenance == shared
    assert plain.train.inputs.max() <= 1


def test_normalize_copies_a_subset_once_and_lets_it_go(letters: mnist.ImageSet) -> None:
    first, second = load(9, 3, 3, normalize=True), load(9, 3, 3, normalize=True)
    for split in ("train", "valid", "test"):
        assert getattr(first, split).inputs is getattr(second, split).inputs
    assert load(9, 3, 3, 1, normalize=True).train.inputs is not first.train.inputs
    other = load(6, 3, 3, normalize=True)  # the same validation set, other statistics
    assert first.valid is not None
    assert other.valid is not None
    assert not np.array_equal(other.valid.inputs, first.valid.inputs)
    assert load(9, 3, 3).train.inputs is not first.train.inputs
    del first, second, other
    gc.collect()
    assert len(splits._standardised) == 0


def test_channels_are_standardised_one_by_one() -> None:
    colours = np.random.default_rng(0).random((5, 4, 3)) * [1.0, 0.1, 0.0]
    part = Partition(colours.astype(np.float32).reshape(5, 12), np.zeros(5, np.int64))
    index = np.array([3, 1, 0])
    mean, deviation = splits.statistics(part, index, channels=3)
    scaled = splits._scaled(part, index, mean, deviation, "train_size=3").inputs
    inputs = scaled.reshape(3, 4, 3).astype(np.float64)
    # float32 statistics: of order 1e-6 for deviations of 0.03.
    np.testing.assert_allclose(inputs.mean((0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(inputs.std((0, 1)), [1.0, 1.0, 0.0], rtol=1e-5)
