"""Files that nnlab reads, damaged at random: the same result, or an error that names the file.

The readers are called in this process, with an alarm against waiting for ever. ``-m long`` damages
10,000 files.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import hashlib
import json
import logging
import os
import random
import shutil
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from nnlab import checkpoint, describe, predict, records, report, run, study, trained
from nnlab.datasets import dogset, files, images, mnist
from nnlab.datasets.dogset import DogSetConfig
from nnlab.engines import State

SECONDS = 10  # none of the readers takes one


class Case(NamedTuple):
    """A file below a folder, what reads it there, and whether nnlab makes it anew if it is damaged.

    read: returns anything that can be compared. whole: whether all damage can be told, by a
    checksum; of other files other content is another answer.
    """

    file: str
    read: Callable[[Path], object]
    anew: bool = False
    whole: bool = True


def command(folder: Path, *arguments: str) -> int:
    quick = ["stopping.max_epochs=2", "train_size=20", "test_size=10", "model.hidden=[4]"]
    with run.alone():
        return run.run([*arguments, f"output_dir={folder}", *quick])


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of each file, undamaged."""
    folder = tmp_path_factory.mktemp("kept")
    assert command(folder, "seed=0,1", "checkpoint.seconds=null", "-m") == 0
    noise = np.random.default_rng(0)
    (folder / "dogset" / "images").mkdir(parents=True)
    rows = ["filename,semantic_label,numeric_label,partition"]
    for number in range(6):
        pixels = noise.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "dogset" / "images" / f"{number}.png")
        part = ("train", "train", "test")[number // 2]
        rows.append(f"{number}.png,breed {number % 2},{number % 2},{part}")
    (folder / "dogset" / "dogs.csv").write_text("\n".join(rows) + "\n")
    Image.fromarray(noise.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / "image.jpg")
    content = b"\0\0\x08\x03" + bytes([0, 0, 0, 9, 0, 0, 0, 8, 0, 0, 0, 7]) + noise.bytes(9 * 8 * 7)
    (folder / "images-idx3-ubyte").write_bytes(content)
    (folder / "images-idx3-ubyte.gz").write_bytes(gzip.compress(content, mtime=0))
    assert mnist.MNIST.sample is not None
    shutil.copy(mnist.MNIST.sample.path, folder / "sample.npz")
    state: State = {
        "engine/a": np.arange(6.0, dtype=np.float32),
        "best/a": np.arange(9, dtype=np.uint8),
    }
    checkpoint.save(
        folder / "c.safetensors",
        checkpoint.Checkpoint({"a": 1}, [], "running", "", {"b": None}, None, None, state),
    )
    return folder


def as_numbers(arrays: Any) -> object:
    return arrays.train.inputs.tobytes(), arrays.test.labels.tobytes(), arrays.provenance


def read_dogset(folder: Path, resize: bool = False) -> object:
    config = DogSetConfig("dogset", True, False, str(folder / "dogset"), resize, None)
    return as_numbers(dogset.read(folder / "dogset", config))


def read_idx(name: str, folder: Path) -> object:
    return files.read_idx(folder / name, SHA256).tobytes()


def read_sample(folder: Path) -> object:
    assert mnist.MNIST.sample is not None
    moved = dataclasses.replace(mnist.MNIST.sample, path=folder / "sample.npz")
    return as_numbers(mnist.read_sample(dataclasses.replace(mnist.MNIST, sample=moved)))


def read_network(folder: Path) -> object:
    loaded = trained.load(folder / "mnist" / "seed=0")
    pixels = predict.read(folder / "image.jpg", loaded)
    return loaded.predict(pixels[None]).tolist(), sorted(loaded.config)


def read_report(folder: Path) -> object:
    """Return what the study's table is made of; runs that are damaged are left out, and named."""
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(logging.getLogger("nnlab"), "warning", lambda *parts: said.append(parts[2]))
        runs = report.read(folder / "mnist")
    if said:
        raise ValueError(f"left out {folder / RUN}: {said[0]}")
    gone = [path for path in (folder / RUN, folder / OTHER) if not (path / "result.json").exists()]
    if gone:
        raise ValueError(f"{gone[0]} is no run any more, without result.json")
    return [(each.name, each.test_loss, each.curves["train_loss"].tolist()) for each in runs]


def read_finished(folder: Path) -> object:
    path = folder / "mnist" / "seed=0"
    result = records.read_result(path)
    if result is None:
        raise ValueError(f"{path / records.RESULT} is empty or gone, so the run is trained anew")
    records.check_files(path, result)
    return result


def read_index(folder: Path) -> object:
    """Return what a study knows, by its index or, where that is damaged, by its results."""
    runs = study.Study(folder / "mnist")
    runs.look()
    return [(entry.folder, entry.result["fingerprint"]) for entry in runs.entries.values()]


def read_checkpoint(folder: Path) -> object:
    found = checkpoint.load(folder / "c.safetensors")
    if found is None:
        raise ValueError(f"{folder / 'c.safetensors'} is gone")
    return found.identity, {name: tensor.tolist() for name, tensor in found.numbers.items()}


def read_description(folder: Path) -> object:
    """Ask whether a description may be replaced, whatever stands there."""
    replaced = describe.may_replace(folder / "mnist" / "describe.json", {"source": 1, "folder": 2})
    return replaced in (True, False)


SHA256 = "set by the fixture"
RUN, OTHER = "mnist/seed=0/", "mnist/seed=1/"
CASES = [
    Case("images-idx3-ubyte", functools.partial(read_idx, "images-idx3-ubyte")),
    Case("images-idx3-ubyte.gz", functools.partial(read_idx, "images-idx3-ubyte.gz")),
    Case("sample.npz", read_sample),
    Case("dogset/dogs.csv", read_dogset, whole=False),
    Case("dogset/images/3.png", read_dogset),
    Case("dogset/images/4.png", functools.partial(read_dogset, resize=True)),
    Case("dogset/.cache/*.pixels", read_dogset, anew=True),
    Case("image.jpg", lambda folder: images.read(folder / "image.jpg", 28).tobytes(), whole=False),
    Case(f"{RUN}result.json", read_network),
    Case(f"{RUN}result.json", read_report),
    Case(f"{RUN}result.json", read_finished),
    Case(f"{RUN}metrics.csv", read_report),
    Case(f"{RUN}metrics.csv", read_finished),
    Case(f"{RUN}model.safetensors", read_network),
    Case(f"{RUN}model.safetensors", read_finished),
    Case("mnist/.index.jsonl", read_index, anew=True),
    Case("mnist/describe.json", read_description, anew=True),
    Case("c.safetensors", read_checkpoint),
]


def truncated(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size))


def flipped(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice([1, 1, 2, 9])):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def emptied(path: Path, chance: random.Random) -> None:
    path.write_bytes(b"")


def zeroed(path: Path, chance: random.Random) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def noisy(path: Path, chance: random.Random) -> None:
    path.write_bytes(chance.randbytes(chance.randrange(1, 2000)))


def longer(path: Path, chance: random.Random) -> None:
    with path.open("ab") as file:
        file.write(chance.randbytes(chance.randrange(1, 99)))


def huge(path: Path, chance: random.Random) -> None:
    os.truncate(path, 2**40)  # it takes no room


def swapped(path: Path, chance: random.Random) -> None:
    others = [other for other in path.parents[1].rglob("*") if other.is_file() and other != path]
    path.write_bytes(chance.choice(sorted(others)).read_bytes())


def of_another_run(path: Path, chance: random.Random) -> None:
    other = path.parent.parent / "seed=1" / path.name
    path.write_bytes(other.read_bytes() if other.exists() else b"\0")


def removed(path: Path, chance: random.Random) -> None:
    path.unlink()


def folder(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path, chance: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def dangling(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.symlink_to("gone")


def circle(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.name)


def device(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.symlink_to(chance.choice(["/dev/zero", "/dev/tty", "/dev/null"]))


CONTENT = [truncated, flipped, flipped, flipped, emptied, zeroed, noisy, longer, swapped]
CONTENT += [of_another_run]
KIND = [huge, removed, folder, pipe, dangling, circle, device]


class Hangs(BaseException):
    """A reader waits for ever."""


def alarm(*_: object) -> None:
    raise Hangs


@pytest.fixture
def in_time() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, alarm)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def outcome(case: Case, folder: Path) -> object:
    """Return what a reader makes of a folder; of an error that it names its file."""
    name = Path(case.file).name
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of what is damaged
            return case.read(folder)
    except (ValueError, OSError) as error:
        text = str(error)
    finally:
        signal.alarm(0)
    named = name in text or (case.file.startswith(RUN) and "seed=0" in text)
    assert named, f"{case.file}: {text} does not name it"
    assert "\n" not in text.strip()
    return "refused"


def damage_many(kept: Path, tmp_path: Path, count: int, seed: int) -> Counter[str]:
    """Damage so many files, each in a copy of its own; return how often what came of it."""
    chance = random.Random(seed)
    good = {case: outcome(case, kept) for case in CASES}
    assert "refused" not in good.values()
    found: Counter[str] = Counter()
    pairs = [(case, how) for case in CASES for how in KIND]
    pairs += [(chance.choice(CASES), chance.choice(CONTENT)) for _ in range(count - len(pairs))]
    for number, (case, how) in enumerate(pairs[:count]):
        copy = tmp_path / str(number)
        # With the times of change, by which caches are known.
        shutil.copytree(kept, copy, copy_function=os.link)
        read_dogset(copy)
        (path,) = copy.glob(case.file)
        content = path.read_bytes()
        path.unlink()  # it is a hard link
        path.write_bytes(content)
        how(path, chance)
        unchanged = path.is_file() and path.stat().st_size < 2**30 and path.read_bytes() == content
        came = outcome(case, copy)
        said = f"{case.file} {how.__name__} (seed {seed}, number {number})"
        if came == "refused":
            assert not case.anew, said
            assert not unchanged, said
            found["refused"] += 1
        elif came == good[case]:
            found["as before"] += 1
        else:
            other_image = how is swapped and path.suffix == ".png"  # whole in itself
            assert other_image or not case.whole, f"{said}: a wrong answer"
            found["another content"] += 1
        shutil.rmtree(copy)
    return found


@pytest.fixture(autouse=True)
def known_hash(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.sha256((kept / "images-idx3-ubyte").read_bytes()).hexdigest()
    monkeypatch.setattr(f"{__name__}.SHA256", digest)
    (kept / "mnist" / "describe.json").write_text(json.dumps({"source": "x"}))
    read_dogset(kept)


@pytest.mark.usefixtures("in_time")
def test_damaged_files_are_named(kept: Path, tmp_path: Path) -> None:
    found = damage_many(kept, tmp_path, 250, seed=0)
    assert found.total() == 250
    assert found["refused"] > 100


@pytest.mark.long
@pytest.mark.usefixtures("in_time")
@pytest.mark.parametrize("seed", range(1, 11))
def test_many_damaged_files_are_named(kept: Path, tmp_path: Path, seed: int) -> None:
    found = damage_many(kept, tmp_path, 1000, seed)
    print(dict(found))
    assert found.total() == 1000
