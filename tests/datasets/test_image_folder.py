"""Folders of images, against Pillow and NumPy by hand."""

from __future__ import annotations

import itertools
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch.testing import assert_close

import nnlab
from nnlab import compose, datasets, describe, predict, run
from nnlab.analysis.pictures import named
from nnlab.config import fingerprint
from nnlab.datasets import Data, Split, dogset, image_files
from nnlab.datasets.dogset import DogSetConfig
from nnlab.report import run_folders
from nnlab.report.captions import heading
from nnlab.trained import load

pytestmark = pytest.mark.usefixtures("empty_folder")

CLASSES = {"oak": 12, "birch": 8, "10": 4}  # images of each, 24 in all
LEAVES = Path("leaves")


def draw(path: Path, size: tuple[int, int] = (20, 16), mode: str = "RGB", seed: int = 0) -> None:
    """Write an image of noise, the same for the same name and seed."""
    random = np.random.default_rng([seed, *path.as_posix().encode()])
    pixels = random.integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)


def plant(folder: Path = LEAVES, size: tuple[int, int] = (20, 16), seed: int = 0) -> None:
    for name, count in CLASSES.items():
        for number in range(count):
            draw(folder / name / f"{number}.png", size, seed=seed)


def plant_parts(*parts: str) -> None:
    for seed, part in enumerate(parts):
        plant(LEAVES / part, seed=seed)


def by_hand(path: Path, size: int | None, mode: str = "RGB") -> NDArray[np.float32]:
    """Return an image [I] as it is to be read: on white, its middle, resized, from 0 to 1."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGBA")
    made = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB")
    if size is not None:
        made = ImageOps.fit(made, (size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(made.convert(mode)).reshape(-1)
    values: NDArray[np.float32] = np.divide(pixels, np.float32(255), dtype=np.float32)
    return values


def data(*overrides: str, folder: str = "leaves") -> Data:
    return compose.load(
        ["dataset=images", f"dataset.folder={folder}", "dataset.normalize=false", *overrides]
    ).load_data()


def own(split: Split | None) -> torch.Tensor:
    assert split is not None
    return torch.from_numpy(split.examples[0])


def labels(split: Split | None) -> list[int]:
    assert split is not None
    found: list[int] = split.labels[split.index].tolist()
    return found


def files_of(folder: Path = LEAVES) -> list[Path]:
    """Return the files in the order in which they are examples: by class, then by name."""
    return sorted(path for path in folder.glob("[!.]*/**/[!.]*") if path.is_file())


def expected(paths: list[Path], size: int | None, mode: str = "RGB") -> torch.Tensor:
    return torch.from_numpy(np.stack([by_hand(path, size, mode) for path in paths]))


ALL = ["dataset.test_fraction=0", "test_size=0"]


@pytest.mark.parametrize("mode", ["rgb", "grey"])
@pytest.mark.parametrize("size", [8, 32, None])
def test_images_are_those_of_pillow(mode: str, size: int | None) -> None:
    plant()
    given = "null" if size is None else size
    found = data(f"dataset.size={given}", f"dataset.mode={mode}", *ALL)
    right = expected(files_of(), size, {"rgb": "RGB", "grey": "L"}[mode])
    assert_close(own(found.train), right, rtol=0, atol=0)
    assert found.classes == ["10", "birch", "oak"]
    assert labels(found.train) == [0] * 4 + [1] * 8 + [2] * 12
    height, width = (16, 20) if size is None else (size, size)
    assert found.provenance["shape"] == [height, width, *([3] if mode == "rgb" else [])]
    assert found.provenance["mean_pixel"] == pytest.approx(float(right.mean()), abs=1e-6)


def test_images_of_any_mode_stand_on_white_upright() -> None:
    plant()
    turned = Image.Exif()
    turned[0x0112] = 6
    with Image.open("leaves/oak/0.png") as image:
        image.load()
    image.save("leaves/oak/0.png", exif=turned)
    for number, mode in enumerate(["RGBA", "LA", "L", "1", "P"]):
        draw(LEAVES / "birch" / f"{number}.png", (31, 30), mode)
    draw(LEAVES / "10" / "0.jpg", (31, 30), "CMYK")
    draw(LEAVES / "10" / "deeper" / "1.bmp", (31, 30))
    found = data("dataset.size=12", *ALL)
    assert len(found.train) == 26
    assert_close(own(found.train), expected(files_of(), 12), rtol=0, atol=0)


def test_each_channel_is_standardised_by_the_training_images() -> None:
    plant()
    found = data("dataset.size=8", "dataset.normalize=true", "seed=1")
    raw = data("dataset.size=8", "seed=1")
    train, test = own(raw.train).reshape(-1, 64, 3), own(raw.test).reshape(-1, 64, 3)
    mean = train.double().mean(dim=(0, 1))
    deviation = train.double().std(dim=(0, 1), correction=0)
    for split, pixels in ((found.train, train), (found.test, test)):
        right = ((pixels - mean) / deviation).float().flatten(1)
        # Mean and deviation are float32, values about 1.
        assert_close(own(split), right, rtol=1e-5, atol=1e-5)


# Splits


def test_the_test_images_are_stratified_and_the_same_for_every_seed() -> None:
    plant()
    draws = [data("dataset.size=8", f"seed={seed}", "valid_size=6") for seed in (0, 1)]
    for found in draws:
        assert np.bincount(labels(found.test)).tolist() == [1, 2, 2]
        assert np.bincount(labels(found.valid)).tolist() == [1, 2, 3]
        parts = [own(split) for split in (found.train, found.valid, found.test)]
        everything = {tuple(image.tolist()) for part in parts for image in part}
        assert everything == {tuple(row) for row in expected(files_of(), 8).tolist()}
    assert_close(own(draws[0].test), own(draws[1].test), rtol=0, atol=0)
    assert own(draws[0].valid).tolist() != own(draws[1].valid).tolist()
    half = data("dataset.size=8", "dataset.test_fraction=0.5").test
    assert len(own(half)) == 12


@pytest.mark.parametrize("balanced", ["true", "false"])
def test_smaller_training_sets_are_part_of_larger_ones(balanced: str) -> None:
    plant()
    drawn = [
        data("dataset.size=8", f"train_size={size}", f"dataset.balanced={balanced}")
        for size in (3, 6, 9)
    ]
    sets = [{tuple(image) for image in own(found.train).tolist()} for found in drawn]
    assert all(smaller < larger for smaller, larger in itertools.pairwise(sets))
    if balanced == "true":
        assert np.bincount(labels(drawn[-1].train)).tolist() == [3, 3, 3]


@pytest.mark.parametrize("names", [("train", "valid", "test"), ("Training", "val", "testing")])
def test_folders_say_which_images_are_for_what(names: tuple[str, str, str]) -> None:
    plant_parts(*names)
    found = data("dataset.size=8", "valid_size=null")
    for name, split in zip(names, (found.train, found.valid, found.test)):
        assert_close(own(split), expected(files_of(LEAVES / name), 8), rtol=0, atol=0)
        assert labels(split) == [0] * 4 + [1] * 8 + [2] * 12
    assert found.provenance["full_size"] == found.provenance["full_test_size"] == 24


def test_a_class_may_be_called_as_a_part() -> None:
    for name in ("train", "car"):
        for number in range(3):
            draw(LEAVES / name / f"{number}.png")
    assert data(*ALL).classes == ["car", "train"]


def test_no_test_images_are_drawn_where_folders_say_which_are_for_training(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plant_parts("train", "valid")
    with pytest.raises(ValueError, match="images has no test examples; set test_size=0"):
        data("dataset.size=8")
    assert len(own(data("dataset.size=8", "test_size=0").train)) == 24
    assert command("dataset.size=8") == 1
    assert "test_size=null: images has no test examples" in capsys.readouterr().err


def test_copies_in_two_parts_are_told(caplog: pytest.LogCaptureFixture) -> None:
    plant_parts("train", "test")
    with Image.open("leaves/train/oak/3.png") as image:
        image.save("leaves/test/birch/1.png", compress_level=0)
    with caplog.at_level(logging.WARNING, "nnlab"):
        data("dataset.size=8")
    (said,) = [each for each in caplog.messages if "of the images" in each]
    assert "test/birch/1.png (test) and train/oak/3.png (train)" in said
    assert "remove one of each" in said


# What identifies them


def test_the_content_is_what_the_images_show_not_where_they_lie() -> None:
    plant()
    first = data("dataset.size=8").provenance["content"]
    LEAVES.rename("moved")
    for path in Path("moved").rglob("*.png"):
        with Image.open(path) as image:
            image.save(path, compress_level=0)
    assert data("dataset.size=8", folder="moved").provenance["content"] == first
    draw(Path("moved/oak/5.png"), seed=9)
    datasets.forget()
    assert data("dataset.size=8", folder="moved").provenance["content"] != first


def test_another_class_is_other_content() -> None:
    plant()
    first = data("dataset.size=8").provenance["content"]
    (LEAVES / "oak").rename(LEAVES / "pine")
    datasets.forget()
    assert data("dataset.size=8").provenance["content"] != first


def test_the_title_and_the_folder_are_no_part_of_what_a_run_is() -> None:
    def print_of(*overrides: str) -> str:
        return fingerprint(compose.load(["dataset=images", *overrides]))

    same = {print_of("dataset.folder=a"), print_of("dataset.folder=b", "dataset.title=B")}
    assert len(same) == 1
    assert print_of("dataset.folder=a", "dataset.size=8") not in same
    assert print_of("dataset.folder=a", "dataset.mode=grey") not in same


# The cache


def test_each_size_and_mode_has_its_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    plant()
    choices = [["dataset.size=8"], ["dataset.size=9"], ["dataset.size=8", "dataset.mode=grey"]]
    first = [own(data(*choice).train) for choice in choices]
    caches = sorted((LEAVES / ".cache").iterdir())
    assert len(caches) == 3
    datasets.forget()
    with monkeypatch.context() as patched:
        patched.setattr(image_files, "decode", None)
        for choice, pixels in zip(choices, first):
            assert_close(own(data(*choice).train), pixels, rtol=0, atol=0)
    draw(LEAVES / "oak" / "0.png", seed=5)
    datasets.forget()
    assert_close(own(data(*choices[0], *ALL).train), expected(files_of(), 8), rtol=0, atol=0)
    assert len(set((LEAVES / ".cache").iterdir()) - set(caches)) == 1
    assert len(list((LEAVES / ".cache").iterdir())) == 3


def test_the_same_images_as_a_dogset_are_the_same_pixels() -> None:
    plant()
    Path("dogs").mkdir()
    names = sorted(CLASSES)
    paths = files_of()
    rows = [
        f"{path.relative_to(LEAVES)},{path.parent.name},{names.index(path.parent.name)},train"
        for path in paths
    ]
    header = "filename,semantic_label,numeric_label,partition"
    Path("dogs/dogs.csv").write_text("\n".join([header, *rows]))
    LEAVES.rename("dogs/images")
    dogs = dogset.read(Path("dogs"), DogSetConfig("dogset", True, False, "dogs", True, None))
    found = data("dataset.size=64", *ALL, folder="dogs/images")
    right = torch.from_numpy(dogs.train.inputs.astype(np.float32) / np.float32(255))
    assert_close(own(found.train), right, rtol=0, atol=0)
    assert dogs.provenance["sha256"]["pixels"] == found.provenance["sha256"]["pixels"]


# Bad input


def empty_class() -> None:
    (LEAVES / "pine").mkdir()


def mixed_sizes() -> None:
    draw(LEAVES / "oak" / "3.png", (16, 20))


def no_image() -> None:
    (LEAVES / "oak" / "notes.txt").write_text("acorns")


def broken() -> None:
    path = LEAVES / "oak" / "3.png"
    path.write_bytes(path.read_bytes()[:200])


def single() -> None:
    draw(LEAVES / "pine" / "0.png")


def stray() -> None:
    draw(LEAVES / "0.png")


def beside() -> None:
    draw(LEAVES / "train" / "oak" / "0.png")


def no_train() -> None:
    LEAVES.rename("test")
    LEAVES.mkdir()
    Path("test").rename(LEAVES / "test")


def twice() -> None:
    no_train()
    plant_parts("train", "val", "valid")


def unseen() -> None:
    no_train()
    plant_parts("train")
    draw(LEAVES / "test" / "pine" / "0.png")
    draw(LEAVES / "test" / "pine" / "1.png")


def no_classes() -> None:
    LEAVES.rename("elsewhere")
    LEAVES.mkdir()
    (LEAVES / "README.txt").write_text("leaves")


def one_class() -> None:
    for name in ("oak", "birch"):
        (LEAVES / name).rename(name)


def no_folder() -> None:
    LEAVES.rename("elsewhere")


def a_file() -> None:
    LEAVES.rename("elsewhere")
    LEAVES.write_text("")


def link_out() -> None:
    (LEAVES / "oak" / "0.png").rename("0.png")
    (LEAVES / "oak" / "0.png").symlink_to(Path("0.png").resolve())


def linked_class() -> None:
    (LEAVES / "oak").rename("oak")
    (LEAVES / "oak").symlink_to(Path("oak").resolve())


def link_to_nothing() -> None:
    (LEAVES / "oak" / "link.png").symlink_to("gone.png")


BAD: list[tuple[Callable[[], None], list[str], str]] = [
    (no_folder, [], "there is no folder leaves; give one with a folder of images for each class"),
    (a_file, [], "there is no folder leaves"),
    (no_classes, [], "leaves holds no folders of classes; give one"),
    (one_class, [], "leaves has one class only, 10; add examples"),
    (single, [], "leaves has only one example of class pine; add examples, or leave"),
    (empty_class, [], "leaves/pine holds no images; put some there, or remove it"),
    (
        mixed_sizes,
        ["dataset.size=null"],
        "leaves/oak/3.png is 16x20, but 10/0.png 20x16; dataset.size=16 crops and resizes all",
    ),
    (no_image, [], "leaves/oak/notes.txt cannot be read: its format, or this kind of it, is not"),
    (broken, [], "leaves/oak/3.png cannot be read: "),
    (stray, [], "leaves/0.png lies in no folder of a class; move it into one"),
    (beside, [], "leaves/train holds folders of classes, but beside it is leaves/10, which is"),
    (no_train, [], "leaves has test, but no train; give one"),
    (twice, [], "leaves/val and leaves/valid are one part; put their images together"),
    (unseen, [], "leaves has no training example of class pine"),
    (link_out, [], "leaves/oak/0.png cannot be read (it leads out of leaves, to "),
    (linked_class, [], "leaves/oak/0.png cannot be read (it leads out of leaves, to "),
    (link_to_nothing, [], "leaves/oak/link.png cannot be read: it is a link to gone.png, which"),
    (plant, ["dataset.size=0"], "dataset.size=0 is not possible: it must be at least 1 pixel"),
    (plant, ["dataset.title=' '"], "dataset.title=' ' is not possible"),
]


def command(*arguments: str) -> int:
    with run.alone():
        return run.run(
            [
                "dataset=images",
                "dataset.folder=leaves",
                "model.hidden=[8]",
                "stopping.max_epochs=2",
                *arguments,
            ]
        )


@pytest.mark.parametrize(("spoil", "overrides", "said"), BAD)
def test_bad_input_is_named_and_nothing_is_written(
    spoil: Callable[[], None], overrides: list[str], said: str
) -> None:
    plant()
    spoil()
    with pytest.raises(ValueError, match=re.escape(said)):
        data("dataset.size=8", *overrides)
    assert not (LEAVES / ".cache").exists()


def test_a_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    plant()
    broken()
    assert command("dataset.size=8") == 1
    assert "leaves/oak/3.png cannot be read" in capsys.readouterr().err
    assert not list(Path("outputs").rglob("result.json"))
    assert describe.main(["dataset=images", "dataset.folder=leaves", "dataset.size=8"]) == 1
    assert "leaves/oak/3.png cannot be read" in capsys.readouterr().err
    assert not list(Path("outputs").rglob("describe.json"))


def test_hidden_files_and_others_beside_the_classes_are_passed_over() -> None:
    plant()
    (LEAVES / "README.txt").write_text("leaves")
    (LEAVES / "oak" / ".DS_Store").write_text("x")
    (LEAVES / ".git").mkdir()
    assert_close(own(data("dataset.size=8", *ALL).train), expected(files_of(), 8), rtol=0, atol=0)


def test_links_inside_the_folder_are_fine() -> None:
    plant()
    (LEAVES / "oak" / "0.png").rename(LEAVES / "oak" / "99.png")
    (LEAVES / "oak" / "0.png").symlink_to("99.png")
    LEAVES.rename("other disk")
    LEAVES.symlink_to("other disk")
    assert_close(own(data("dataset.size=8", *ALL).train), expected(files_of(), 8), rtol=0, atol=0)


# The command line


def test_a_sweep_decodes_its_images_once_and_trains_on_the_native_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant()
    decode, calls = image_files.decode, []

    def counted(found: image_files.ImageFiles) -> image_files.Pixels:
        calls.append(found)
        return decode(found)

    monkeypatch.setattr(image_files, "decode", counted)
    assert command("dataset.size=8", "seed=0,1", "train_size=6,12", "-m") == 0
    assert len(calls) == 1
    results = [json.loads(p.read_text()) for p in Path("outputs/images").glob("*/result.json")]
    assert len(results) == 4
    assert {result["engine"] for result in results} == {"native"}


@pytest.mark.parametrize(("mode", "size"), [("rgb", 8), ("grey", None)])
def test_evaluations_and_prediction_take_images(
    mode: str, size: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    plant()
    given = "null" if size is None else size
    chosen = [f"dataset.size={given}", f"dataset.mode={mode}", "dataset.title=Leaves"]
    assert command(*chosen, "evaluation=[hardest,fgsm,weights]") == 0
    folder = Path("outputs/images/default")
    for name in ("hardest.csv", "hardest.png", "fgsm.csv", "confusion.png"):
        assert (folder / name).exists(), name
    mistakes = pd.read_csv(folder / "hardest.csv", dtype=str)
    assert len(mistakes) > 0
    assert [Path(name).parent.name for name in mistakes.file] == mistakes.true.tolist()
    assert all((LEAVES / name).exists() for name in mistakes.file)
    network = nnlab.load(folder)
    assert network.mean is not None
    assert network.deviation is not None
    paths = [LEAVES / "oak" / "0.png", LEAVES / "10" / "1.png"]
    capsys.readouterr()
    assert predict.main([str(folder), *map(str, paths), "--top", "1"]) == 0
    said = capsys.readouterr().out.splitlines()
    shape = (2, -1, len(network.mean))
    pixels = expected(paths, size, {"rgb": "RGB", "grey": "L"}[mode]).reshape(shape)
    logits = network.model(((pixels - network.mean) / network.deviation).flatten(1))
    for path, line, each in zip(paths, said, logits.softmax(1)):
        best = int(each.argmax())
        assert line == f"{path}: {network.classes[best]} {100 * each[best]:.1f} %"


def test_the_title_names_the_images_in_figures_and_tables() -> None:
    plant()
    assert command("dataset.size=8", "dataset.title=Leaves") == 0
    (found,) = run_folders.read(Path("outputs/images"))
    assert found.settings["dataset"] == "Leaves"
    assert heading([found]).startswith("Leaves · 19 examples")
    assert named(load(Path("outputs/images/default"))) == "Leaves, trained on 19 examples"
    assert "dataset.title" not in found.settings


def test_describe_tells_of_images(capsys: pytest.CaptureFixture[str]) -> None:
    plant_parts("train", "test")
    assert describe.main(["dataset=images", "dataset.folder=leaves", "dataset.size=8"]) == 0
    found = json.loads(Path("outputs/images/describe.json").read_text())
    assert found["shape"] == [8, 8, 3]
    assert found["palette"] == "RGB"
    assert found["splits"]["test"]["counts"] == [4, 8, 12]
    assert Path("outputs/images/examples.png").exists()
    assert "images in leaves, 8x8, rgb: 3 classes" in capsys.readouterr().out
