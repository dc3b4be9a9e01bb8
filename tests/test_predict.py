from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nnlab import predict
from nnlab.trained import load
from tests.analysis.trained import trained


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "a"
    trained(folder, "train_size=500", "test_size=100", "stopping.max_epochs=20")
    return folder


def test_an_image_gets_the_probabilities_of_its_pixels(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, data, _ = trained(run, "train_size=500", "test_size=100", "stopping.max_epochs=20")
    assert data.test is not None
    pixels = data.test.inputs[data.test.index[:3]]
    expected = network.probabilities(pixels)
    for number, image in enumerate(pixels):
        grey = np.rint(image.reshape(28, 28) * 255).astype(np.uint8)
        Image.fromarray(grey).save(tmp_path / f"{number}.png")
        Image.fromarray(255 - grey).save(tmp_path / f"dark{number}.png")
    for prefix, flags in (("", []), ("dark", ["--invert"])):
        paths = [str(tmp_path / f"{prefix}{number}.png") for number in range(3)]
        assert predict.main([str(run), *paths, "--top", "2", *flags]) == 0
        lines = capsys.readouterr().out.splitlines()
        for path, line, row in zip(paths, lines, expected, strict=True):
            order = np.argsort(-row)[:2]
            named = ", ".join(f"{label} {100 * float(row[label]):.1f} %" for label in order)
            assert line == f"{path}: {named}"


def test_the_middle_of_a_large_colour_image_is_taken(run: Path, tmp_path: Path) -> None:
    wide = np.zeros((280, 560, 3), np.uint8)
    wide[:, 120:440] = 255  # what a centre crop keeps (140 to 419), and what its edges blend with
    Image.fromarray(wide).save(tmp_path / "wide.png")
    network, _, _ = trained(run, "train_size=500", "test_size=100", "stopping.max_epochs=20")
    # Bicubic interpolation of a constant image is that constant.
    assert (predict.read(tmp_path / "wide.png", network) == 1).all()


def told(run: Path, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Return what is said on stderr, once the prediction is there."""
    assert predict.main([str(run), *map(str, arguments)]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    return captured.err


@pytest.mark.parametrize("paper", ["white", (140, 130, 135)])
def test_light_paper_is_told_where_training_was_dark(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], paper: str | tuple[int, ...]
) -> None:
    path = tmp_path / "digit.png"
    image = Image.new("RGB", (280, 280), paper)
    image.paste((20, 20, 20), (120, 40, 160, 240))
    image.save(path)
    said = told(run, capsys, path)
    assert said.startswith(f"{path}: most of the image is light, but the training images were")
    assert "mostly dark (0.13 on average" in said
    assert said.endswith("; try --invert\n")
    assert told(run, capsys, path, "--invert") == ""
    Image.eval(image, lambda value: 255 - value).save(path)
    assert told(run, capsys, path) == ""
    assert told(run, capsys, path, "--invert").endswith("; leave out --invert\n")


def test_dark_images_are_told_where_training_was_light(run: Path) -> None:
    dark, light = np.zeros(784, np.float32), np.ones(784, np.float32)
    for recorded, mean in (({"mean_pixel": 0.9}, None), ({}, np.array([0.95, 0.85, 0.9]))):
        network = load(run)
        network.mean = mean
        del network.result["dataset"]["mean_pixel"]
        network.result["dataset"] |= recorded
        said = predict.other_than_trained(dark, network)
        assert said is not None
        assert said.startswith("most of the image is dark, but the training images were mostly li")
        assert predict.other_than_trained(light, network) is None
    for brightness in (None, 0.4, 0.6):
        network.mean = None
        network.result["dataset"]["mean_pixel"] = brightness
        assert predict.other_than_trained(dark, network) is None
        assert predict.other_than_trained(light, network) is None


def test_images_of_every_kind_are_what_they_look_like(run: Path, tmp_path: Path) -> None:
    network = load(run)
    ramp = np.tile(np.linspace(0, 65535, 28).astype(np.uint16), (28, 1))
    Image.fromarray(ramp).save(tmp_path / "wide.png")
    expected = np.rint(ramp / 257).astype(np.float32).ravel() / np.float32(255)
    assert np.array_equal(predict.read(tmp_path / "wide.png", network), expected)
    Image.new("LA", (28, 28), (0, 0)).save(tmp_path / "clear.png")
    for background, level in (((255, 255, 255), 1.0), ((0, 0, 0), 0.0)):
        pixels = predict.read(tmp_path / "clear.png", network, background=background)
        assert pixels.tolist() == [level] * 784
    assert predict.main([str(run), str(tmp_path / "clear.png"), "--background", "red"]) == 0


def test_a_background_that_is_no_colour(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict.main([str(run), str(tmp_path / "a.png"), "--background", "paper"]) == 1
    assert "'paper' is no opaque colour" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["folder", "pipe", "link", "device"])
def test_what_is_no_file_is_one_message(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    path = tmp_path / "digit.png"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"link": "gone", "device": "/dev/zero"}[kind])
    assert predict.main([str(run), str(path)]) == 1
    error = capsys.readouterr().err
    assert f"{path} cannot be read" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"), [(None, "there is no image"), (b"GIF89a nothing", "cannot be read")]
)
def test_what_is_no_image_is_one_message(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    message: str,
) -> None:
    path = tmp_path / "digit.png"
    if content is not None:
        path.write_bytes(content)
    assert predict.main([str(run), str(path)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_folder_without_a_run_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict.main([str(tmp_path), "digit.png"]) == 1
    assert "holds no run" in capsys.readouterr().err
