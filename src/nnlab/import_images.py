"""``python -m nnlab.import_images FOLDER data/dogset``: make a DogSet of any image collection.

FOLDER holds a folder of images for each class, with any folders in it (Stanford Dogs), also below
train and val (Imagewoof), or images named by class and number, as in Abyssinian_12.jpg (Oxford
Pets). Hidden folders are passed over, and of identical files one is taken.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import io
import os
import re
import shutil
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from nnlab import storage, terminal
from nnlab.datasets import files, images
from nnlab.datasets.dogset import COLUMNS, PARTITIONS, SIZE
from nnlab.datasets.image_files import ENDINGS, walk
from nnlab.text import FORMULA

SPLIT = re.compile(
    r"(train|training|val|valid|validation|test|testing|dev|eval|evaluation)"
    r"([ _-]?(set|split|data|images|imgs|\d+))?",
    re.IGNORECASE,
)
NUMBER = re.compile(r"(?<=\D)\d+$")  # at the end of a name
NUMBERED = re.compile(r"(.+)_\d+")  # of Oxford Pets
SYNSET = re.compile(r"n\d{8}-")  # of ImageNet, before the name
SIZES = {"train": 7665, "valid": 2000, "test": 500}
# Images, and the folders that each lies in, the outermost first.
Found: TypeAlias = dict[Path, tuple[str, ...]]


class Imported(NamedTuple):
    """How many classes were written, how many copies of other images were left out, and the
    images left out because a copy of theirs stands in another class."""

    classes: int
    copies: int
    contradictory: list[Path]


@terminal.standard_streams()
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m nnlab.import_images",
        description=(__doc__ or "").partition(": ")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    terminal.add_version(parser)
    parser.add_argument("source", type=terminal.path, metavar="FOLDER", help="the collection")
    parser.add_argument("target", type=terminal.path, help="the folder to make, say data/dogset")
    for name in PARTITIONS:
        parser.add_argument(
            f"--{name}", type=int, default=SIZES[name], metavar="N", help=f"default {SIZES[name]:,}"
        )
    parser.add_argument("--classes", type=int, metavar="K", help="the first K classes, by name")
    parser.add_argument("--seed", type=int, default=0, help="draws the images of each partition")
    parser.add_argument(
        "--background", default="white", metavar="COLOUR", help="behind transparent images (white)"
    )
    given = parser.parse_args(arguments)
    sizes = {name: getattr(given, name) for name in PARTITIONS}
    try:
        background = images.colour(given.background)
        written = import_images(
            given.source, given.target, sizes, given.classes, given.seed, background
        )
    except (ValueError, OSError) as error:
        terminal.complain(error)
        return 1
    counts = ", ".join(f"{sizes[name]:,} {name}" for name in PARTITIONS)
    terminal.say(
        f"{given.target}: {counts} images of {written.classes} classes, {SIZE}x{SIZE} RGB",
        f"identical copies left out: {written.copies:,}",
    )
    if written.contradictory:
        some = ", ".join(map(str, written.contradictory[:2]))
        count = len(written.contradictory)
        terminal.say(f"with a copy in another class, left out: {count:,} ({some}, …)")
    terminal.say(f"next: python -m nnlab.describe dataset=dogset dataset.folder={given.target}")
    return 0


def import_images(
    source: Path,
    target: Path,
    sizes: dict[str, int],
    classes: int | None = None,
    seed: int = 0,
    background: images.Colour = images.WHITE,
) -> Imported:
    """Write a DogSet folder of ``sizes`` images, no two of them from identical files.

    Equally many images are taken of each class, or all of a class that has too few; each
    partition has its part of every class. The middle of each image is cropped and resized, on
    a background where it is transparent. Raises ValueError where the target exists, or the
    source holds too few images, one that cannot be read, or one that is plainly of no class;
    then nothing is written.
    """
    check_absent(target)
    for name, size in sizes.items():
        if size < (name == "train"):
            raise ValueError(f"--{name} {size} is not possible; give a number of at least 1")
    found = collect(source)
    names = sorted(found)[:classes]
    if len(names) < 2 or (classes is not None and classes > len(found)):
        raise ValueError(
            f"{source} holds images of {len(found)} classes ({', '.join(sorted(found)[:5])}); "
            + (
                "at least 2 are needed, a folder of images each"
                if len(found) < 2
                else f"--classes {classes} is impossible"
            )
        )
    chosen, copies, contradictory = without_copies({name: found[name] for name in names})
    parts = draw(chosen, sizes, np.random.default_rng(seed))
    with built(target) as building:
        write(building, parts, names, background)
    return Imported(len(names), copies, contradictory)


def check_absent(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists; choose another folder, or remove it first")


@contextlib.contextmanager
def built(target: Path) -> Iterator[Path]:
    """Give a folder beside the target, which takes its place when it is whole.

    What a killed process has left there is removed. Raises ValueError where another fills it.
    """
    building = target.with_name(f".{target.name}.nnlab.tmp")
    storage.make_own_folder(building)
    with storage.open_folder(building) as number:
        ours = number is None or storage.lock(number)
        if not ours or not building.exists():
            raise ValueError(f"another command makes {target}; choose another folder")
        try:
            for left in building.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield building
            for path in (building, *building.rglob("*")):
                storage.sync_folder(path) if path.is_dir() else storage.sync(path)
            check_absent(target)
            if target.exists():
                target.rmdir()
            building.rename(target)
            storage.sync_folder(target.parent)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise


def collect(source: Path) -> dict[str, list[Path]]:
    """Return the images of each class, in a fixed order.

    Raises ValueError where it is not plain which class an image is of.
    """
    if not os.path.isdir(source):  # False also for a name that none can have
        raise ValueError(f"there is no folder {source}; give one with a folder of images per class")
    walked = [path for path in sorted(walk(source)) if path.name.lower().endswith(ENDINGS)]
    found = {path: path.relative_to(source).parts[:-1] for path in walked}
    if not found:
        raise ValueError(f"{source} holds no images ({', '.join(ENDINGS)})")
    found = below_splits(source, found)
    tops = {parts[:1] for parts in found.values()}
    named = {path: NUMBERED.fullmatch(path.stem) for path in found}
    if len(tops) == 1 and all(named.values()):
        folders = {path: name[1] for path, name in named.items() if name}
    elif () in tops:
        strays = [path for path, parts in found.items() if not parts]
        stray = next((path for path in strays if not named[path]), strays[0])
        raise ValueError(
            f"{stray} lies in no folder of a class; move it into one, or give a folder below "
            f"{source} whose folders are the classes. Images that are all in one folder need names "
            f"with class and number, as in Abyssinian_12.jpg"
        )
    else:
        folders = {path: parts[0] for path, parts in found.items()}
    names = class_names(sorted(set(folders.values())))
    classes: dict[str, list[Path]] = {}
    for path, folder in folders.items():
        classes.setdefault(names[folder], []).append(path)
    return classes


def below_splits(source: Path, found: Found) -> Found:
    """Leave out the first folders, as long as they are shared by all images or name splits.

    Raises ValueError where it is not plain whether they do.
    """
    found = below_shared(found)
    tops = {parts[:1] for parts in found.values()}
    splits = sorted(top[0] for top in tops if top and SPLIT.fullmatch(top[0]))
    if not splits:
        refuse_alike(source, found)
        return found
    if len(splits) < len(tops):
        raise ValueError(
            f"the folder {splits[0]} in {source} seems to be a split, but stands beside other "
            f"folders or images; give a folder that holds a folder of images per class and no "
            f"other, or rename {splits[0]} if it is a class"
        )
    return below_splits(source, {path: parts[1:] for path, parts in found.items()})


def refuse_alike(source: Path, found: Found) -> None:
    """Raise ValueError where the first folders hold the same folders, and either may be classes."""
    below: dict[str, Found] = {}
    for path, parts in sorted(found.items()):
        if len(parts) > 1:
            below.setdefault(parts[0], {})[path] = parts[1:]
    inner = [{parts[0] for parts in below_shared(paths).values()} for paths in below.values()]
    alike = sorted(set.intersection(*inner)) if len(inner) > 1 else []
    kinds = {NUMBER.sub("", folder) for folder in alike}  # batch1 and batch2 are one
    if len(kinds) < 2 or all(map(SPLIT.fullmatch, alike)):
        return
    some, folders = " and ".join(list(below)[:2]), " and ".join(alike[:2])
    raise ValueError(
        f"the folders {some} in {source} hold {folders} both, so either may be the classes; "
        f"name {some} train and test if they are splits, or move the images out of "
        f"{folders} if these are no classes"
    )


def below_shared(found: Found) -> Found:
    """Leave out the first folders where all images share them, but not the last of all.

    >>> below_shared({Path("a"): ("Images", "pug"), Path("b"): ("Images", "beagle", "1")}).values()
    dict_values([('pug',), ('beagle', '1')])
    """
    while len({parts[:1] for parts in found.values()}) == 1 and max(map(len, found.values())) > 1:
        found = {path: parts[1:] for path, parts in found.items()}
    return found


def class_names(folders: Sequence[str]) -> dict[str, str]:
    """Return the class of each folder: its name without a synset, if no other has it then.

    Raises ValueError where two names differ only in spaces, case or the form of a letter, or
    one is no text.

    >>> class_names(["n02085620-Chihuahua", "n99999999-Chihuahua", "n02110958-pug"])
    {'n02085620-Chihuahua': 'n02085620-Chihuahua', 'n99999999-Chihuahua': 'n99999999-Chihuahua', \
'n02110958-pug': 'pug'}
    """

    def plain(name: str) -> str:
        return unicodedata.normalize("NFKC", name).strip().casefold()

    short = {folder: SYNSET.sub("", folder).strip() for folder in folders}
    count = Counter(map(plain, short.values()))
    names = {f: name if count[plain(name)] == 1 else f.strip() for f, name in short.items()}
    first: dict[str, str] = {}
    for folder, name in names.items():
        other = first.setdefault(plain(name), folder)
        if other != folder:
            raise ValueError(
                f"the folders {other!r} and {folder!r} would be one class, {name!r}; rename one "
                f"of them, or put their images together"
            )
        if not name or name != name.encode(errors="replace").decode():
            raise ValueError(f"the folder {folder!r} names no class in UTF-8; rename it")
        if FORMULA.match(name):
            raise ValueError(
                f"the folder {folder!r} is called as what a spreadsheet would run (of dogs.csv); "
                f"rename it, so that it begins with another sign"
            )
    return names


def without_copies(
    found: dict[str, list[Path]],
) -> tuple[dict[str, list[Path]], int, list[Path]]:
    """Keep one of identical files in a class, and none where they are in several classes.

    Returns the images kept of each class, how many copies were left out, and the images that
    contradict each other. Raises ValueError where a class keeps none, or one cannot be read.
    """
    sizes = {path: size_of(path) for paths in found.values() for path in paths}
    count = Counter(sizes.values())
    alike: dict[object, list[tuple[str, Path]]] = {}
    for name, paths in found.items():
        for path in paths:
            alone = count[sizes[path]] == 1
            content = path if alone else hashlib.sha256(files.read_input(path)).digest()
            alike.setdefault(content, []).append((name, path))
    kept: dict[str, list[Path]] = {name: [] for name in found}
    copies, contradictory = 0, []
    for group in alike.values():
        name, path = group[0]
        if all(other == name for other, _ in group):
            kept[name].append(path)
            copies += len(group) - 1
        else:
            contradictory += [path for _, path in group]
    empty = [name for name, paths in kept.items() if not paths]
    if empty:
        raise ValueError(
            f"every image of {empty[0]} is in another class as well ({contradictory[0]}, "
            f"{contradictory[1]}); leave it in one of them"
        )
    return kept, copies, contradictory


def size_of(path: Path) -> int:
    with files.open_input(path) as file:
        return os.fstat(file.fileno()).st_size


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


def write(
    folder: Path,
    parts: dict[str, list[tuple[Path, int]]],
    names: Sequence[str],
    background: images.Colour,
) -> None:
    """Write images/ and dogs.csv."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    (folder / "images").mkdir()
    listed = [(path, label, part) for part, pairs in parts.items() for path, label in pairs]

    def one(number: int) -> list[str]:
        path, label, part = listed[number]
        name = f"{number:05}.png"
        images.read(path, SIZE, background).save(folder / "images" / name)
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


if __name__ == "__main__":
    sys.exit(main())
