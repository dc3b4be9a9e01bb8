"""Every image of a collection gets the class that its folders say, once."""

from __future__ import annotations

import csv
import errno
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nnlab import import_images
from nnlab.datasets import dogset
from nnlab.import_images import collect, main

NUMBER = iter(range(10**6))


def make(source: Path, *paths: str) -> None:
    """Write images that all differ."""
    for path in paths:
        place = source / path
        place.parent.mkdir(parents=True, exist_ok=True)
        number = next(NUMBER)
        image = Image.new("RGB", (4, 4), (number // 65536, number // 256 % 256, number % 256))
        image.save(place, "PNG")


def classes(source: Path) -> dict[str, list[str]]:
    found = collect(source)
    return {name: [str(p.relative_to(source)) for p in paths] for name, paths in found.items()}


def listed(folder: Path) -> list[dict[str, str]]:
    with (folder / "dogs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def run(source: Path, target: Path, *options: str) -> int:
    sizes = ("--train", "2", "--valid", "1", "--test", "1")
    return main([str(source), str(target), *sizes, *options])


# Which class


def test_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    make(tmp_path, "pug/1.jpg", "beagle/2.jpg", "beagle/.thumbnails/2.jpg", "pug/._1.jpg")
    make(tmp_path, ".ipynb_checkpoints/1.jpg", "__MACOSX/pug/1.jpg", "pug/a/.cache/b/1.jpg")
    assert classes(tmp_path) == {"beagle": ["beagle/2.jpg"], "pug": ["pug/1.jpg"]}


def test_folders_that_are_links_are_followed(tmp_path: Path) -> None:
    make(tmp_path / "photos", "pug/1.jpg", "pug/@eaDir/1.jpg")
    make(tmp_path / "elsewhere", "2.jpg", "batch/3.jpg")
    (tmp_path / "photos" / "beagle").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "pug" / "all").symlink_to(tmp_path / "photos")
    (tmp_path / "elsewhere" / "batch" / "again").symlink_to(tmp_path / "elsewhere")
    assert classes(tmp_path / "photos") == {
        "beagle": ["beagle/2.jpg", "beagle/batch/3.jpg"],
        "pug": ["pug/1.jpg"],
    }


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    make(tmp_path, "pug/1.jpg")
    (tmp_path / "beagle").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(
        ValueError,
        match=r"beagle cannot be read: it is a link to .*elsewhere, which does not exist",
    ):
        collect(tmp_path)


def test_a_hidden_source_is_read(tmp_path: Path) -> None:
    make(tmp_path / ".photos", "pug/1.jpg", "beagle/2.jpg")
    assert set(classes(tmp_path / ".photos")) == {"pug", "beagle"}


@pytest.mark.parametrize(
    "paths",
    [
        ("beagle/1.jpg", "beagle/2.jpg", "pug/3.jpg"),
        ("beagle/batch1/1.jpg", "beagle/batch2/2.jpg", "pug/batch1/3.jpg"),
        ("beagle/batch1/1.jpg", "beagle/2.jpg", "pug/a/b/3.jpg"),
        ("Images/beagle/1.jpg", "Images/beagle/2.jpg", "Images/pug/3.jpg"),
        ("a/b/n02088364-beagle/1.jpg", "a/b/n02088364-beagle/2.jpg", "a/b/n02110958-pug/3.jpg"),
        ("train/beagle/1.jpg", "val/beagle/2.jpg", "val/pug/3.jpg"),
        (
            "set/Train/images/beagle/1.jpg",
            "set/TEST/images/beagle/2.jpg",
            "set/TEST/images/pug/3.jpg",
        ),
        ("train/beagle/1.jpg", "train/beagle/batch/2.jpg", "train/pug/3.jpg"),
        ("beagle/train/1.jpg", "beagle/test/2.jpg", "pug/train/3.jpg"),
        (
            *("training_set/training_set/beagle/1.jpg", "test_set/test_set/beagle/2.jpg"),
            *("training_set/training_set/pug/3.jpg", "test_set/test_set/pug/4.jpg"),
        ),
        ("Train Images/beagle/1.jpg", "dev-data/beagle/2.jpg", "evalset/pug/3.jpg"),
        (
            *("beagle/train/1.jpg", "beagle/test/2.jpg"),
            *("pug/train/3.jpg", "pug/test/3.jpg"),
        ),
        (
            *("beagle/batch1/1.jpg", "beagle/batch2/2.jpg"),
            *("pug/batch1/3.jpg", "pug/batch2/3.jpg"),
        ),
        ("beagle_1.jpg", "beagle_2.jpg", "pug_3.jpg"),
        ("images/beagle_1.jpg", "images/beagle_2.jpg", "images/pug_3.jpg"),
        ("train/beagle_1.jpg", "test/beagle_2.jpg", "test/pug_3.jpg"),
    ],
)
def test_layouts_of_collections(tmp_path: Path, paths: tuple[str, ...]) -> None:
    make(tmp_path, *paths)
    found = classes(tmp_path)
    assert {name: set(files) for name, files in found.items()} == {
        "beagle": set(paths[:2]),
        "pug": set(paths[2:]),
    }


def test_folders_of_one_name_stay_two_classes(tmp_path: Path) -> None:
    make(tmp_path, "n02085620-Chihuahua/1.jpg", "n99999999-Chihuahua/2.jpg", "n02110958-pug/3.jpg")
    make(tmp_path, "Chihuahua/4.jpg")
    assert set(classes(tmp_path)) == {
        "n02085620-Chihuahua",
        "n99999999-Chihuahua",
        "Chihuahua",
        "pug",
    }


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("beagle", "Beagle"),
        ("beagle", "beagle "),
        (" beagle", "beagle"),
        ("caf\u00e9", "cafe\u0301"),
        ("STRASSE", "straße"),
        ("n02085620-pug", "n02085620-pug "),
    ],
)
def test_names_that_are_nearly_one_are_refused(tmp_path: Path, one: str, other: str) -> None:
    make(tmp_path, f"{one}/1.jpg", f"{other}/2.jpg", "dingo/3.jpg")
    with pytest.raises(ValueError, match="would be one class") as caught:
        collect(tmp_path)
    for folder in (one, other):
        assert repr(folder) in str(caught.value)


@pytest.mark.parametrize("name", [" ", b"caf\xe9"])
def test_names_that_are_no_text_are_refused(tmp_path: Path, name: str | bytes) -> None:
    make(tmp_path, "pug/1.jpg", f"{os.fsdecode(name)}/2.jpg")
    with pytest.raises(ValueError, match="names no class in UTF-8; rename it"):
        collect(tmp_path)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (("train/beagle/1.jpg", "train/pug/2.jpg", "test/0.jpg"), "test/0.jpg lies in no folder"),
        (("beagle/1.jpg", "pug/2.jpg", "test/0.jpg"), "the folder test in .* seems to be a split"),
        (("beagle/1.jpg", "train/pug/2.jpg"), "the folder train in .* seems to be a split"),
        (("train/pug/2.jpg", "0.jpg"), "the folder train in .* seems to be a split"),
        (("beagle/1.jpg", "pug/2.jpg", "readme.png"), "readme.png lies in no folder"),
        (("Images/beagle/1.jpg", "Images/pug/2.jpg", "Images/x.png"), "x.png lies in no folder"),
        (("Abyssinian_1.jpg", "Bengal_2.jpg", "cover.jpg"), "cover.jpg lies in no folder"),
        (("train/1.jpg", "test/2.jpg"), "test/2.jpg lies in no folder"),
        (
            ("fold_a/pug/1.jpg", "fold_a/beagle/1.jpg", "fold_b/pug/1.jpg", "fold_b/beagle/1.jpg"),
            "folders fold_a and fold_b in .* hold beagle and pug",
        ),
        (
            (
                *("my_train/my_train/pug/1.jpg", "my_train/my_train/beagle/1.jpg"),
                *("my_test/my_test/pug/1.jpg", "my_test/my_test/beagle/1.jpg", "unknown/1.jpg"),
            ),
            "folders my_test and my_train in .* hold beagle and pug",
        ),
        (
            ("left/0/1.jpg", "left/1/1.jpg", "left/2/1.jpg", "right/0/1.jpg", "right/1/1.jpg"),
            "folders left and right in .* hold 0 and 1",
        ),
    ],
)
def test_images_of_no_class_are_refused(
    tmp_path: Path, paths: tuple[str, ...], message: str
) -> None:
    make(tmp_path, *paths)
    with pytest.raises(ValueError, match=message):
        collect(tmp_path)


def test_one_class_is_too_few(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "photos", "beagle/1.jpg", "beagle/2.jpg")
    assert run(tmp_path / "photos", tmp_path / "dogset") == 1
    assert "holds images of 1 classes (beagle); at least 2 are needed" in capsys.readouterr().err


# Copies


def test_identical_files_are_in_one_partition_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    for breed in ("beagle", "pug"):
        make(photos, *(f"{breed}/{number}.png" for number in range(8)))
        for number in range(8):
            copy = photos / breed / "again" / f"{number}.jpg"
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(photos / breed / f"{number}.png", copy)
    for seed in range(3):
        target = tmp_path / f"dogset{seed}"
        sizes = ("--train", "8", "--valid", "4", "--test", "4", "--seed", str(seed))
        assert main([str(photos), str(target), *sizes]) == 0
        assert "identical copies left out: 16\n" in capsys.readouterr().out
        names = [row["filename"] for row in listed(target)]
        digests = {hashlib.sha256((target / "images" / n).read_bytes()).digest() for n in names}
        assert len(digests) == 16
    assert run(photos, tmp_path / "more", "--train", "16") == 1  # 8 of each are there, not 16
    assert "there are 16 of 2 classes" in capsys.readouterr().err


def test_an_image_of_two_classes_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    make(photos, *(f"{breed}/{number}.png" for breed in ("beagle", "pug") for number in range(4)))
    shutil.copy(photos / "beagle/0.png", photos / "pug/again.png")
    assert run(photos, tmp_path / "dogset", "--train", "5") == 0
    out = capsys.readouterr().out
    assert "with a copy in another class, left out: 2" in out
    assert str(photos / "pug/again.png") in out
    labels = Counter(row["semantic_label"] for row in listed(tmp_path / "dogset"))
    assert labels == {"beagle": 3, "pug": 4}


def test_a_class_of_other_classes_images_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "photos", "beagle/0.png", "beagle/1.png")
    shutil.copytree(tmp_path / "photos/beagle", tmp_path / "photos/pug")
    with pytest.raises(ValueError, match="every image of beagle is in another class"):
        import_images.import_images(
            tmp_path / "photos", tmp_path / "dogset", {"train": 1, "valid": 1, "test": 0}
        )
    assert not (tmp_path / "dogset").exists()


# Pixels and errors


@pytest.fixture
def photos(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "photos"
    make(folder, *(f"{breed}/{number}.png" for breed in ("beagle", "pug") for number in range(2)))
    yield folder
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def test_images_are_what_they_look_like(photos: Path, tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    Image.fromarray(ramp).save(photos / "beagle" / "0.png")
    Image.new("RGBA", (64, 64), (0, 255, 0, 0)).save(photos / "pug" / "0.png")
    for background, colour in (("white", 255), ("#010203", [1, 2, 3])):
        target = tmp_path / background
        assert run(photos, target, "--background", background) == 0
        pixels = [np.asarray(Image.open(target / "images" / r["filename"])) for r in listed(target)]
        shown = np.repeat(np.rint(ramp / 257)[..., None], 3, axis=2)
        assert sum(np.array_equal(image, shown) for image in pixels) == 1
        assert sum(bool((image == colour).all()) for image in pixels) == 1
        assert len(dogset.read_rows(target)) == 4


def test_a_background_that_is_no_colour(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(photos, tmp_path / "dogset", "--background", "paper") == 1
    assert "'paper' is no opaque colour" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["damaged", "pipe", "link", "device"])
def test_what_cannot_be_read_is_named(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    path = photos / "pug" / "0.png"
    path.unlink()
    if kind == "damaged":
        path.write_bytes(b"\x89PNG\r\n\x1a\n")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"link": "gone", "device": "/dev/zero"}[kind])
    assert run(photos, tmp_path / "dogset") == 1
    error = capsys.readouterr().err
    assert f"{path} cannot be read" in error
    assert "output_dir" not in error
    assert not (tmp_path / "dogset").exists()


def test_a_folder_that_may_not_be_read_is_named(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def locked(path: str) -> object:
        if str(path).endswith("pug"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)  # the superuser may read everything
    with pytest.raises(ValueError, match="photos/pug cannot be read: Permission denied"):
        collect(photos)


@pytest.mark.parametrize("name", ["nowhere", "photos/pug/0.png", "x" * 300, "a\0b"])
def test_a_source_that_is_no_folder(photos: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="there is no folder"):
        collect(tmp_path / name)


def test_a_folder_called_as_a_formula_is_no_class(tmp_path: Path) -> None:
    for name in ("=1+1", "pug"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / name / "1.png")
    with pytest.raises(ValueError, match=r"the folder '=1\+1' .*spreadsheet would run"):
        collect(tmp_path / "photos")


def test_what_a_killed_import_has_left_is_removed(photos: Path, tmp_path: Path) -> None:
    left = tmp_path / ".dogset.nnlab.tmp"
    (left / "images").mkdir(parents=True)
    (left / "images" / "99999.png").write_text("half")
    assert run(photos, tmp_path / "dogset") == 0
    assert len(list((tmp_path / "dogset" / "images").iterdir())) == 4
    assert not left.exists()


def test_another_that_makes_the_same_folder_is_left_alone(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "dogset"
    with import_images.built(target) as building:
        (building / "dogs.csv").write_text("theirs")
        assert run(photos, target) == 1
        said = f"another command makes {target}; choose another folder\n"
        assert capsys.readouterr().err == said
    assert (target / "dogs.csv").read_text() == "theirs"
