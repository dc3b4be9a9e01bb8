"""``python -m nnlab.import_images FOLDER data/dogset``: make a DogSet of any image collection.

FOLDER holds a folder of images for each class (Imagewoof, Stanford Dogs), at any depth, or
images named by class and number, as in Abyssinian_12.jpg (Oxford Pets).
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from nnlab import terminal
from nnlab.datasets.dogset import COLUMNS, PARTITIONS, SIZE, fit

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
NUMBERED = re.compile(r"(.+)_\d+")  # of Oxford Pets
SYNSET = re.compile(r"n\d{8}-")  # of ImageNet, before the name
SIZES = {"train": 7665, "valid": 2000, "test": 500}


@terminal.standard_streams()
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m nnlab.import_images",
        description=(__doc__ or "").partition(": ")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    terminal.add_version(parser)
    parser.add_argument("source", type=Path, metavar="FOLDER", help="the collection")
    parser.add_argument("target", type=Path, help="the folder to make, say data/dogset")
    for name in PARTITIONS:
        parser.add_argument(
            f"--{name}", type=int, default=SIZES[name], metavar="N", help=f"default {SIZES[name]:,}"
        )
    parser.add_argument("--classes", type=int, metavar="K", help="the first K classes, by name")
    parser.add_argument("--seed", type=int, default=0, help="draws the images of each partition")
    given = parser.parse_args(arguments)
    sizes = {name: getattr(given, name) for name in PARTITIONS}
    try:
        written = import_images(given.source, given.target, sizes, given.classes, given.seed)
    except (ValueError, OSError) as error:
        terminal.complain(error)
        return 1
    counts = ", ".join(f"{sizes[name]:,} {name}" for name in PARTITIONS)
    terminal.say(
        f"{given.target}: {counts} images of {written} classes, {SIZE}x{SIZE} RGB",
        f"next: python -m nnlab.describe dataset=dogset dataset.folder={given.target}",
    )
    return 0


def import_images(
    source: Path, target: Path, sizes: dict[str, int], classes: int | None = None, seed: int = 0
) -> int:
    """Write a DogSet folder of ``sizes`` images; return how many classes it has.

    Equally many images are taken of each class, or all of a class that has too few; each
    partition has its part of every class. The middle of each image is cropped and resized.
    Raises ValueError where the target exists, or the source holds too few images or a damaged
    one; then nothing is written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists; choose another folder, or remove it first")
    for name, size in sizes.items():
        if size < (name == "train"):
            raise ValueError(f"--{name} {size} is not possible; give a number of at least 1")
    found = collect(source)
    names = sorted(found)[:classes]
    if len(names) < 2 or (classes is not None and classes > len(found)):
        raise ValueError(
            f"{source} holds images of {len(found)} classes ({', '.join(sorted(found)[:5])}); "
            + ("at least 2 are needed" if len(found) < 2 else f"--classes {classes} is impossible")
        )
    random = np.random.default_rng(seed)
    parts = draw({name: found[name] for name in names}, sizes, random)
    # Built beside its place and moved there when it is whole.
    target.parent.mkdir(parents=True, exist_ok=True)
    building = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        write(building, parts, names)
        if target.exists():
            target.rmdir()  # it is empty
        building.rename(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return len(names)


def collect(source: Path) -> dict[str, list[Path]]:
    """Return the images of each class, in a fixed order."""
    if not source.is_dir():
        raise ValueError(f"there is no folder {source}; give one with a folder of images per class")
    images = sorted(p for p in source.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
    images = [path for path in images if not path.name.startswith(".")]
    if not images:
        raise ValueError(f"{source} holds no images ({', '.join(ENDINGS)})")
    found: dict[str, list[Path]] = {}
    folders = {path.parent for path in images}
    for path in images:
        named = NUMBERED.fullmatch(path.stem) if len(folders) == 1 else None
        found.setdefault(named[1] if named else SYNSET.sub("", path.parent.name), []).append(path)
    return found


def draw(
    found: dict[str, list[Path]], sizes: dict[str, int], random: np.random.Generator
) -> dict[str, list[tuple[Path, int]]]:
    """Deal images out to the partitions: paths with their labels, in random order.

    Raises ValueError if there are too few.
    """
    available, wanted = sum(map(len, found.values())), sum(sizes.values())
    if wanted > available:
        asked = ", ".join(f"{size:,} {name}" for name, size in sizes.items())
        options = " ".join(f"--{name} {size * available // wanted}" for name, size in sizes.items())
        raise ValueError(
            f"{wanted:,} images are asked for ({asked}), but there are {available:,} of "
            f"{len(found)} classes; ask for fewer, say {options}"
        )
    taken = share([len(paths) for paths in found.values()], wanted)
    left = [list(random.permutation(len(paths))[:n]) for paths, n in zip(found.values(), taken)]
    parts = {}
    for name, size in sizes.items():
        mine = []
        for label, count in enumerate(in_proportion([len(indices) for indices in left], size)):
            paths = list(found.values())[label]
            mine += [(paths[index], label) for index in left[label][:count]]
            left[label] = left[label][count:]
        parts[name] = [mine[index] for index in random.permutation(len(mine))]
    return parts


def share(available: Sequence[int], size: int) -> list[int]:
    """Say how many of each class to take: equally many, or all there are of a rare class.

    >>> share([5, 1, 9], 7)
    [3, 1, 3]
    """
    counts = [0] * len(available)
    while size > 0:
        more = [c for c, most in enumerate(available) if counts[c] < most]
        each = max(1, size // len(more))
        for c in more[:size]:
            added = min(each, available[c] - counts[c])
            counts[c] += added
            size -= added
    return counts


def in_proportion(available: Sequence[int], size: int) -> list[int]:
    """Say how many of each class to take: in proportion to what there is, to within one.

    >>> in_proportion([10, 10, 4], 6)
    [3, 2, 1]
    """
    ideal = [size * most / max(1, sum(available)) for most in available]
    counts = [int(share) for share in ideal]
    by_rest = sorted(range(len(ideal)), key=lambda c: counts[c] - ideal[c])
    for c in by_rest[: size - sum(counts)]:
        counts[c] += 1
    return counts


def write(folder: Path, parts: dict[str, list[tuple[Path, int]]], names: Sequence[str]) -> None:
    """Write images/ and dogs.csv."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    (folder / "images").mkdir(parents=True)
    listed = [(path, label, part) for part, pairs in parts.items() for path, label in pairs]

    def one(number: int) -> list[str]:
        path, label, part = listed[number]
        name = f"{number:05}.png"
        convert(path, folder / "images" / name)
        return [name, names[label], str(label), part]

    def rows() -> Iterator[list[str]]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            try:
                yield from pool.map(one, range(len(listed)))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    quiet = not sys.stderr.isatty()
    table.writerows(tqdm(rows(), "importing", len(listed), unit=" images", disable=quiet))
    (folder / "dogs.csv").write_text(text.getvalue(), encoding="utf-8")


def convert(source: Path, target: Path) -> None:
    """Write the middle of an image as 64x64 RGB. Raises ValueError naming a damaged image."""
    from PIL import Image

    try:
        with Image.open(source) as image:
            fit(image, SIZE).save(target)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{source} cannot be read ({error}); remove it") from None


if __name__ == "__main__":
    sys.exit(main())
