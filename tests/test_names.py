"""Classes of any name, from dogs.csv through training to what commands print and draw."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nnlab import describe, predict
from nnlab.text import as_label, visible
from tests.analysis.trained import outcome
from tests.names import HOSTILE

# A CSV file in UTF-8 holds neither NUL nor half of a character.
NAMES = [name for name in HOSTILE if "\0" not in name and "\udcff" not in name]


@pytest.fixture
def dogset(tmp_path: Path) -> Path:
    """Four images of each class: two to train on, one to validate and one to test."""
    folder = tmp_path / "da$ta$ [b]"
    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    with (folder / "dogs.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, quoting=csv.QUOTE_ALL)
        table.writerow(["filename", "semantic_label", "numeric_label", "partition"])
        for label, name in enumerate(NAMES):
            for part in ("train", "train", "valid", "test"):
                image = f"{len(list((folder / 'images').iterdir()))}.png"
                pixels = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "images" / image)
                table.writerow([image, name, label, part])
    return folder


def test_classes_of_any_name(
    dogset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = len(NAMES)
    sizes = (f"train_size={2 * count}", f"valid_size={count}", f"test_size={count}")
    data = ("dataset=dogset", f"dataset.folder='{dogset}'", *sizes)
    study = tmp_path / "$x$ [b]"
    assert describe.main([*data, f"output_dir={tmp_path}", f"study='{study.name}'"]) == 0
    said = capsys.readouterr().out
    assert all(as_label(name, 40) in said for name in NAMES)
    assert f"DogSetin{dogset}:{count}classes".replace(" ", "") in "".join(said.split())

    options = ("model.hidden=[]", "stopping.max_epochs=1", "evaluation=[hardest,fgsm,weights]")
    done = outcome(study / "run", *data, *options)
    assert done.error is None
    assert len(done.evaluation_files) == 8
    with (study / "run" / "confusion.csv").open(newline="", encoding="utf-8") as file:
        assert next(csv.reader(file))[1:] == [visible(name) for name in NAMES]

    image = dogset / "images" / "0.png"
    assert predict.main([str(study / "run"), str(image), "--top", str(count)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert all(f"{as_label(name)} " in line for name in NAMES)
    assert line.isprintable()
