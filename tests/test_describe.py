"""A description says what its own source holds, and replaces no other's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nnlab import datasets, describe


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets, "_arrays", {})
    monkeypatch.chdir(tmp_path)


def make(folder: str, breeds: int = 2, seed: int = 0) -> None:
    """Write a DogSet of one image of each breed and partition."""
    random = np.random.default_rng(seed)
    Path(folder, "images").mkdir(parents=True, exist_ok=True)
    rows = ["filename,semantic_label,numeric_label,partition"]
    for label in range(breeds):
        for partition in ("train", "valid", "test"):
            pixels = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path(folder, "images", f"{label}{partition}.png"))
            rows.append(f"{label}{partition}.png,{folder} {label},{label},{partition}")
    Path(folder, "dogs.csv").write_text("\n".join(rows))


def written(capsys: pytest.CaptureFixture[str], *overrides: str) -> list[str]:
    assert describe.main(["dataset=dogset", *overrides]) == 0
    datasets._arrays.clear()
    lines = capsys.readouterr().out.splitlines()
    return [Path(line).name for line in lines if line.startswith("outputs/dogset/")]


def classes(name: str) -> list[str]:
    found: list[str] = json.loads(Path("outputs/dogset", name).read_text())["classes"]
    return found


def test_each_source_has_its_own_description(capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("a", "b", "c/b", "c/ü b"):
        make(folder, 3)
    names = ["describe.json", "examples.png"]
    assert written(capsys, "dataset.folder=a") == names
    sheet = Path("outputs/dogset/examples.png").read_bytes()
    for folder, ending in (("b", "_b"), ("c/b", "_b_2"), ("'c/ü b'", "_ü-b")):
        own = [f"describe{ending}.json", f"examples{ending}.png"]
        for _ in range(2):  # the second time it is its own
            assert written(capsys, f"dataset.folder={folder}") == own
        assert classes(own[0])[0] == f"{folder} 0".replace("'", "")
    few = ["describe_a.json", "examples_a.png"]
    assert written(capsys, "dataset.folder=a", "dataset.num_classes=2") == few
    assert classes("describe.json") == ["a 0", "a 1", "a 2"]
    assert classes("describe_a.json") == ["a 0", "a 1"]
    assert Path("outputs/dogset/examples.png").read_bytes() == sheet


def test_a_source_that_changed_is_described_anew(capsys: pytest.CaptureFixture[str]) -> None:
    make("a")
    written(capsys, "dataset.folder=a")
    make("a", 3, seed=1)
    for folder in ("a", "./a", "a/"):
        assert written(capsys, f"dataset.folder={folder}")[:1] == ["describe.json"], folder
    assert len(classes("describe.json")) == 3
    assert len(list(Path("outputs/dogset").iterdir())) == 2


@pytest.mark.parametrize("content", ["[1]", "{", '"text"', "\udcff"])
def test_what_is_no_description_is_kept(capsys: pytest.CaptureFixture[str], content: str) -> None:
    make("a")
    other = Path("outputs/dogset/describe.json")
    other.parent.mkdir(parents=True)
    other.write_bytes(content.encode(errors="surrogateescape"))
    assert written(capsys, "dataset.folder=a")[0] == "describe_a.json"
    assert other.read_bytes() == content.encode(errors="surrogateescape")


def test_a_description_of_an_older_nnlab_is_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    make("a")
    written(capsys, "dataset.folder=a")
    path = Path("outputs/dogset/describe.json")
    content = json.loads(path.read_text())
    del content["folder"]
    path.write_text(json.dumps(content))
    assert written(capsys, "dataset.folder=a")[0] == "describe.json"


def test_an_input_that_is_no_folder_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    make("a")
    Path("a/dogs.csv").unlink()
    Path("a/dogs.csv").mkdir()
    assert describe.main(["dataset=dogset", "dataset.folder=a"]) == 1
    assert capsys.readouterr().err == "a/dogs.csv cannot be read: it is a folder\n"
    assert not Path("outputs").exists()
