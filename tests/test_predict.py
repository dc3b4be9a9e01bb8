from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nnlab import predict
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
        grey = (image.view(28, 28) * 255).round().to(torch.uint8).numpy()
        Image.fromarray(grey).save(tmp_path / f"{number}.png")
        Image.fromarray(255 - grey).save(tmp_path / f"dark{number}.png")
    for prefix, flags in (("", []), ("dark", ["--invert"])):
        paths = [str(tmp_path / f"{prefix}{number}.png") for number in range(3)]
        assert predict.main([str(run), *paths, "--top", "2", *flags]) == 0
        lines = capsys.readouterr().out.splitlines()
        for path, line, row in zip(paths, lines, expected, strict=True):
            order = np.argsort(-row.numpy())[:2]
            named = ", ".join(f"{label} {100 * float(row[label]):.1f} %" for label in order)
            assert line == f"{path}: {named}"


def test_the_middle_of_a_large_colour_image_is_taken(run: Path, tmp_path: Path) -> None:
    wide = np.zeros((280, 560, 3), np.uint8)
    wide[:, 120:440] = 255  # what a centre crop keeps (140 to 419), and what its edges blend with
    Image.fromarray(wide).save(tmp_path / "wide.png")
    network, _, _ = trained(run, "train_size=500", "test_size=100", "stopping.max_epochs=20")
    # Bicubic interpolation of a constant image is that constant.
    assert torch.equal(predict.read(tmp_path / "wide.png", network), torch.ones(784))


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
