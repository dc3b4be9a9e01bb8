"""A DogSet is read as its list and its images are; whatever is wrong is named."""

from __future__ import annotations

import codecs
import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nnlab import datasets, messages
from nnlab.datasets import Data, dogset, image_files, images
from nnlab.datasets.arrays import Arrays, Sizes
from nnlab.datasets.dogset import DogSetConfig

HEADER = "filename,semantic_label,numeric_label,partition"
ROWS = [
    ("a.png", "pug", "0", "train"),
    ("b.png", "beagle", "1", "train"),
    ("c.png", "pug", "0", "valid"),
    ("d.png", "beagle", "1", "test"),
]


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "_arrays", {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A DogSet of four images of noise."""
    (tmp_path / "images").mkdir()
    random = np.random.default_rng(0)
    for name, *_ in ROWS:
        pixels = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name)
    write(tmp_path, [HEADER, *map(",".join, ROWS)])
    return tmp_path


def write(folder: Path, lines: list[str], end: str = "\n") -> None:
    (folder / "dogs.csv").write_bytes((end.join(lines) + end).encode())


def config(folder: Path, *, resize: bool = False, num_classes: int | None = None) -> DogSetConfig:
    return DogSetConfig("dogset", True, False, str(folder), resize, num_classes)


def read(folder: Path, *, resize: bool = False) -> Arrays:
    return dogset.read(folder, config(folder, resize=resize))


def load(folder: Path, valid: int | None = None, test: int | None = None) -> Data:
    return datasets.load(config(folder), Sizes(None, valid, test), seed=0)


def pixels(folder: Path, name: str) -> list[int]:
    with Image.open(folder / "images" / name) as image:
        values: list[int] = np.asarray(image).flatten().tolist()
        return values


def test_images_are_read_into_their_partitions(folder: Path) -> None:
    arrays = read(folder)
    assert arrays.valid is not None
    assert arrays.test is not None
    for part, names in ((arrays.train, "ab"), (arrays.valid, "c"), (arrays.test, "d")):
        expected = [pixels(folder, f"{name}.png") for name in names]
        assert torch.as_tensor(part.inputs).tolist() == expected
    assert torch.as_tensor(arrays.train.labels).tolist() == [0, 1]
    assert arrays.classes == ("pug", "beagle")


# The list


def semicolons(lines: list[str]) -> list[str]:
    return [line.replace(",", ";") for line in lines]


def spaced(lines: list[str]) -> list[str]:
    return [line.replace(",", " , ") for line in lines]


@pytest.mark.parametrize(
    "change",
    [
        semicolons,
        spaced,
        lambda lines: [line.replace(",", "\t") for line in lines],
        lambda lines: ["sep=;", *semicolons(lines)],
        lambda lines: ['"sep=;"', *semicolons(lines)],
        lambda lines: ["SEP=;;;;", *semicolons(lines)],
        lambda lines: ["sep=,", *lines],
        lambda lines: ["sep=\t", *(line.replace(",", "\t") for line in lines)],
        lambda lines: ["", ",,,", *lines, "", " ", ",,,", ";;;", "  ,  ,,"],
        lambda lines: [*semicolons(lines), ";;;", ""],
        lambda lines: [line.replace(",0,", ",0.0,").replace(",1,", ",1.000,") for line in lines],
        lambda lines: [line.replace(",0,", ",0.,").replace(",1,", ',"1,0",') for line in lines],
        lambda lines: [semi.replace(";0;", ";0,0;") for semi in semicolons(lines)],
        lambda lines: [f"{line},remark, more" for line in lines],
        lambda lines: [
            "n;" + semicolons(lines)[0],
            *(f"1;{row};;" for row in semicolons(lines)[1:]),
        ],
        lambda lines: [",".join(f'"{cell}"' for cell in line.split(",")) for line in lines],
        lambda lines: [";".join(f'"{cell}"' for cell in line.split(",")) for line in lines],
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lists_as_spreadsheets_write_them(
    folder: Path, change: Callable[[list[str]], list[str]], end: str
) -> None:
    expected = [(filename, breed, int(label), part) for filename, breed, label, part in ROWS]
    write(folder, change([HEADER, *map(",".join, ROWS)]), end)
    rows = dogset.read_rows(folder)
    assert [tuple(row[1:]) for row in rows] == expected


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
    ],
)
@pytest.mark.parametrize("first", ["", "sep=;\r\n"])
def test_marks_of_byte_order(folder: Path, encoding: str, mark: bytes, first: str) -> None:
    lines = semicolons([HEADER, *map(",".join, ROWS)]) if first else [HEADER, *map(",".join, ROWS)]
    text = first + "\r\n".join(lines).replace("pug", "Mops, groß")
    (folder / "dogs.csv").write_bytes(
        mark + (text if first else text.replace(", groß", " groß")).encode(encoding)
    )
    rows = dogset.read_rows(folder)
    assert rows[0].breed == ("Mops, groß" if first else "Mops groß")
    assert [row.label for row in rows] == [0, 1, 0, 1]
    assert [row.line for row in rows] == ([3, 4, 5, 6] if first else [2, 3, 4, 5])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"{HEADER}\na.png,pug,0.5,train\n", r"line 2: numeric_label='0.5' is no whole number"),
        (f"{HEADER}\na.png,pug,-1,train\n", "line 2: numeric_label='-1' is no"),
        (f"{HEADER}\na.png,pug,1e0,train\n", "line 2: numeric_label='1e0' is no"),
        (f"{HEADER}\na.png,pug,{'9' * 5000},train\n", "line 2: numeric_label='9.*is no"),
        (f"{HEADER}\na.png,pug,٣,train\n", "line 2: numeric_label='٣' is no"),
        (f"{HEADER}\na.png,pug\n", "line 2: partition='' is none of"),
        (f"{HEADER}\n\n;;;\na.png,pug,0,tarin\n", "line 4: partition='tarin' is none of"),
        (f"{HEADER}\na.png,pug,0,train\n./a.png,pug,0,test\n", "line 3: .*is in line 2 already"),
        (f"{HEADER}\na.png,p\0ug,0,train\n", "line 2 holds a NUL byte"),
        (f"{HEADER}\na.png,{'x' * 200_000},0,train\n", "line 2 is no row of a table: .*limit"),
        ("sep=;\n" + HEADER.replace(",", ";") + "\na;b;c;train\n", "line 3: numeric_label='c'"),
        (HEADER, "lists no image"),
        ("", "is empty; it needs the columns filename"),
        ("\n,,,\n", "is empty"),
        ("file;breed;numeric_label;partition\n", "lacks the column filename, semantic_label; its"),
        (
            "Filename,semantic_label,numeric_label,partition\n",
            ".* its header is 'Filename, semantic",
        ),
        (f"{HEADER},partition\n", "has more than one column partition"),
    ],
)
def test_what_is_wrong_with_a_list_is_named(folder: Path, content: str, message: str) -> None:
    (folder / "dogs.csv").write_text(content, encoding="utf-8", newline="")
    with pytest.raises(ValueError, match=rf"dogs\.csv {message}"):
        dogset.read_rows(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"{HEADER}\nä.png,pug,0,train\n".encode("latin-1"), "is not UTF-8 text"),
        (HEADER.encode("utf-16-le"), "line 1 holds a NUL byte"),
        (HEADER.encode("utf-32"), "holds a NUL byte|is not UTF-8"),
        (codecs.BOM_UTF16_LE + b"odd", "is not UTF-8 text"),
    ],
)
def test_other_encodings_are_refused(folder: Path, content: bytes, message: str) -> None:
    (folder / "dogs.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        dogset.read_rows(folder)


# What cannot be read


def blocked(path: Path, kind: str) -> None:
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("gone")
    elif kind == "device":
        path.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", ["folder", "pipe", "link", "device"])
@pytest.mark.parametrize("name", ["dogs.csv", "images/a.png"])
@pytest.mark.parametrize("resize", [True, False])
def test_an_input_that_cannot_be_read_is_named(
    folder: Path, kind: str, name: str, resize: bool
) -> None:
    blocked(folder / name, kind)
    with pytest.raises(ValueError, match=f"{name} cannot be read") as caught:
        read(folder, resize=resize)
    assert "output_dir" not in str(messages.explain(caught.value))


@pytest.mark.parametrize("name", ["x" * 300, "a.png/b", "gone.png"])
def test_names_that_no_image_can_have(folder: Path, name: str) -> None:
    write(folder, [HEADER, f"{name},pug,0,train"])
    with pytest.raises(ValueError, match=f"line 2: images/{name} cannot be read"):
        read(folder)


def test_a_folder_that_is_none(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no .*dogs\.csv"):
        read(folder / "nowhere")
    for name in ("dogs.csv", "x" * 300, "a\0b"):
        with pytest.raises(ValueError, match="cannot be read"):
            read(folder / name)
    with pytest.raises(ValueError, match=r"dataset\.folder=~nobody_at_all"):
        config(Path("~nobody_at_all")).choose_source(Sizes(None, None, None))


def test_what_is_no_image_is_named(folder: Path) -> None:
    (folder / "images" / "a.png").write_text("text")
    with pytest.raises(ValueError, match=r"images/a\.png cannot be read: its format, .* not known"):
        read(folder)


@pytest.mark.parametrize("where", [images, Image])
def test_any_exception_names_the_image(
    folder: Path, monkeypatch: pytest.MonkeyPatch, where: object
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("decoder") from OSError(errno.EIO, "x")

    monkeypatch.setattr(where, "rgb" if where is images else "open", fail)
    with pytest.raises(ValueError, match=r"line \d: images/.\.png cannot be read: decoder"):
        read(folder)


def test_other_images_are_refused_without_resize(folder: Path) -> None:
    path = folder / "images" / "a.png"
    for image, kind in (
        (Image.new("RGB", (64, 63)), "64x63 in mode RGB"),
        (Image.new("RGBA", (64, 64)), "64x64 in mode RGBA"),
        (Image.new("I;16", (64, 64)), "64x64 in mode I;16"),
    ):
        image.save(path)
        with pytest.raises(ValueError, match=f"line 2: images/a.png is {kind}, not .*resize=true"):
            read(folder)
        assert read(folder, resize=True).train.inputs[0].max() in (0, 255)
    Image.new("RGB", (64, 64)).save(path, transparency=(0, 0, 0))
    with pytest.raises(ValueError, match="RGB with a transparent colour"):
        read(folder)
    assert read(folder, resize=True).train.inputs[0].min() == 255


def test_an_image_is_upright_without_resize_too(folder: Path) -> None:
    path = folder / "images" / "a.png"
    with Image.open(path) as image:
        image.load()
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, exif=exif)
    turned = image.rotate(-90)
    expected = np.asarray(turned).flatten().tolist()
    assert torch.as_tensor(read(folder).train.inputs[0]).tolist() == expected


# No examples


def test_no_test_rows(folder: Path) -> None:
    write(folder, [HEADER, *(",".join(row) for row in ROWS if row[3] != "test")])
    for size in (None, 1):
        with pytest.raises(
            ValueError, match="dogset has no test examples; set test_size=0"
        ) as caught:
            load(folder, test=size)
        assert "lower" not in str(caught.value)
    assert load(folder, test=0).test is None


def test_no_valid_rows(folder: Path) -> None:
    write(folder, [HEADER, *(",".join(row) for row in ROWS if row[3] != "valid")])
    with pytest.raises(ValueError, match=r"valid_size=null .*does not have; .*valid_size=0"):
        load(folder)
    assert load(folder, valid=0).valid is None


def test_no_training_rows(folder: Path) -> None:
    write(folder, [HEADER, *(",".join(row) for row in ROWS if row[3] != "train")])
    with pytest.raises(ValueError, match=r"dogs\.csv has no row with partition train"):
        load(folder)


@pytest.mark.parametrize("kind", ["link", "linked folder"])
def test_an_image_may_not_lie_outside_by_a_link(folder: Path, kind: str) -> None:
    outside = folder / "elsewhere"
    (folder / "images").rename(outside)
    (folder / "images").mkdir()
    for name, *_ in ROWS:
        (outside / name).rename(folder / "images" / name)
    (folder / "images" / "b.png").rename(outside / "b.png")
    if kind == "link":
        (folder / "images" / "b.png").symlink_to(outside / "b.png")
    else:
        (folder / "images" / "sub").symlink_to(outside)
        write(folder, [HEADER, *map(",".join, ROWS)])
        lines = (folder / "dogs.csv").read_text().replace("b.png", "sub/b.png").splitlines()
        write(folder, lines)
    with pytest.raises(ValueError, match=r"line 3: images/.*b\.png.* leads out of .*images, to"):
        read(folder)


def test_links_inside_and_a_linked_folder_of_images_are_fine(folder: Path) -> None:
    pixels = read(folder).train.inputs
    (folder / "images" / "sub").mkdir()
    (folder / "images" / "b.png").rename(folder / "images" / "sub" / "x.png")
    (folder / "images" / "b.png").symlink_to("sub/x.png")
    (folder / "images").rename(folder / "on another disk")
    (folder / "images").symlink_to("on another disk")
    np.testing.assert_array_equal(read(folder).train.inputs, pixels)


def test_a_flipped_bit_of_a_png_is_named(folder: Path) -> None:
    path = folder / "images" / "b.png"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for resize in (False, True):
        with pytest.raises(ValueError, match=r"line 3: images/b\.png cannot be read"):
            read(folder, resize=resize)


# Copies and the cache


def test_copies_in_two_partitions_are_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(folder)
    assert not caplog.messages
    with Image.open(folder / "images" / "a.png") as image:
        image.save(folder / "images" / "d.png", compress_level=0)  # other bytes, equal pixels
    with caplog.at_level(logging.WARNING, "nnlab"):
        read(folder)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("1 of the images have the pixels of one in another part")
    assert "d.png (test) and a.png (train)" in caplog.messages[0]


def test_files_that_change_places_are_read_anew(folder: Path) -> None:
    photographs = folder / "images"
    for name in ("a.png", "b.png"):
        with Image.open(photographs / name) as image:
            image.save((photographs / name).with_suffix(".bmp"))  # of one size
        os.utime((photographs / name).with_suffix(".bmp"), ns=(0, 0))
    write(folder, [HEADER, "a.bmp,pug,0,train", "b.bmp,beagle,1,train"])
    first = torch.as_tensor(read(folder).train.inputs).tolist()
    assert torch.as_tensor(read(folder).train.inputs).tolist() == first
    (photographs / "a.bmp").rename(photographs / "c.bmp")
    (photographs / "b.bmp").rename(photographs / "a.bmp")
    (photographs / "c.bmp").rename(photographs / "b.bmp")
    assert torch.as_tensor(read(folder).train.inputs).tolist() == first[::-1]
    content = [(photographs / f"{name}.bmp").read_bytes() for name in "ab"]
    for name, other in zip("ab", content[::-1]):  # in place: no other inode
        (photographs / f"{name}.bmp").write_bytes(other)
        os.utime(photographs / f"{name}.bmp", ns=(0, 0))
    assert torch.as_tensor(read(folder).train.inputs).tolist() == first


def test_pixels_come_from_the_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = torch.as_tensor(read(folder).train.inputs).tolist()

    def decode(*arguments: object) -> None:
        raise AssertionError("decoded again")

    with monkeypatch.context() as patched:
        patched.setattr(image_files, "decode", decode)
        assert torch.as_tensor(read(folder).train.inputs).tolist() == expected
        patched.setattr(image_files, "CACHE_VERSION", 1)  # pixels of an older nnlab are not used
        with pytest.raises(AssertionError, match="decoded again"):
            read(folder)
    (cache,) = (folder / ".cache").iterdir()
    cache.write_bytes(cache.read_bytes()[:-1] + b"?")
    assert torch.as_tensor(read(folder).train.inputs).tolist() == expected


def caches(folder: Path) -> list[Path]:
    return sorted((folder / ".cache").iterdir())


@pytest.mark.parametrize("kind", ["pipe", "folder", "link", "device", "empty", "huge", "swapped"])
def test_another_thing_in_the_place_of_the_cache_is_not_believed(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    expected = read(folder)
    (cache,) = caches(folder)
    whole = cache.read_bytes()
    cache.unlink()
    if kind == "pipe":
        os.mkfifo(cache)
    elif kind == "folder":
        cache.mkdir()
    elif kind == "link":
        cache.symlink_to("gone")
    elif kind == "device":
        cache.symlink_to("/dev/zero")
    elif kind == "huge":
        cache.touch()
        os.truncate(cache, 2**40)
    elif kind == "swapped":
        other = tmp_path_factory.mktemp("other")
        (other / "images").mkdir()
        for name, *_ in ROWS:
            Image.new("RGB", (64, 64), "red").save(other / "images" / name)
        write(other, [HEADER, *map(",".join, ROWS)])
        read(other)
        cache.write_bytes(caches(other)[0].read_bytes())
    else:
        cache.touch()
    found = read(folder)
    np.testing.assert_array_equal(found.train.inputs, expected.train.inputs)
    assert found.provenance == expected.provenance
    if kind != "folder":
        assert cache.read_bytes() == whole


def test_a_cache_takes_only_its_own_files_place(folder: Path) -> None:
    read(folder)
    (old,) = caches(folder)
    others = [old.with_name(name) for name in ("mine.pixels", f"whole-rgb-{old.name}", "notes")]
    for path in others:
        path.write_text("mine")
    left = old.with_name(f".{old.name}.0123456789abcdef.tmp")
    left.write_text("of a killed process")
    Image.new("RGB", (64, 64), "red").save(folder / "images" / "a.png")
    read(folder)
    assert len(caches(folder)) == 4
    assert set(others) < set(caches(folder))


def test_no_cache_is_written_where_a_link_leads(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.pixels").write_text("mine")
    (folder / ".cache").symlink_to(elsewhere)
    assert read(folder).train.inputs.any()
    assert [path.name for path in elsewhere.iterdir()] == ["mine.pixels"]
