"""``python -m nnlab.predict FOLDER FILE...``: what a trained network sees in images, or in rows."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnlab import refusals, storage, terminal
from nnlab.datasets import images, table
from nnlab.datasets.array_files import arrays_in
from nnlab.datasets.arrays import as_floats
from nnlab.datasets.labelled import check_finite, read_bytes
from nnlab.shapes import image_like
from nnlab.text import as_label, class_for_csv, inert, visible
from nnlab.trained import Trained, load

Written = tuple[list[str], list[list[str]], list[str]]  # header and lines of a file; words
Floats = NDArray[np.float32]
DARK, LIGHT = 1 / 3, 2 / 3  # images whose pixels are below, above this on average


@terminal.standard_streams()
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m nnlab.predict", description=__doc__)
    terminal.add_version(parser)
    parser.add_argument(
        "folder", type=terminal.path, help="of a finished run, say outputs/mnist/default"
    )
    parser.add_argument(
        "file",
        type=terminal.path,
        nargs="+",
        help="an image, which is cropped and resized; where the run was trained on a table, one "
        "with its columns; otherwise an .npy file of examples",
    )
    parser.add_argument("--top", type=int, default=3, metavar="N", help="classes named (3)")
    parser.add_argument(
        "--invert", action="store_true", help="for dark ink on light paper: MNIST is light on dark"
    )
    parser.add_argument(
        "--background", default="white", metavar="COLOUR", help="behind transparent images (white)"
    )
    terminal.add_function(parser)
    options = parser.parse_args(arguments)
    try:
        if options.top < 1:
            raise ValueError(f"--top {options.top} is not possible; give at least 1")
        network = load(options.folder, options.function)
        if network.result["status"] == "diverged":
            raise ValueError(f"the run in {options.folder} diverged: its network says nothing")
        if network.columns or all(path.suffix == ".npy" for path in options.file):
            targets = [target_of(path) for path in options.file]
            if twice := [path for path in targets if targets.count(path) > 1]:
                raise ValueError(f"more than one of these files leads to {twice[0]}; rename one")
            predicted = [(path, network.predict(read_rows(path, network))) for path in options.file]
            for path, found in predicted:
                terminal.say(write(path, found, network))
        else:
            say_images(options, network)
    except ValueError as error:
        terminal.complain(error)
        return 1
    except OSError as error:
        remedy = refusals.remedy(error, "")
        file = error.filename2 or error.filename
        said = f"{file}: {error.strerror}" if file else str(error)
        terminal.complain(f"{said}; {remedy}" if remedy else said)
        return 1
    return 0


def say_images(options: argparse.Namespace, network: Trained) -> None:
    """Say what is in images, a line each."""
    if network.targets:
        raise ValueError(
            f"this network was trained in a regression; give examples as an .npy file, not "
            f"{visible(str(options.file[0]))}"
        )
    background = images.colour(options.background)
    pixels = [read(path, network, options.invert, background) for path in options.file]
    for path, image in zip(options.file, pixels):
        unlike = other_than_trained(image, network)
        if unlike is not None:
            remedy = "leave out --invert" if options.invert else "try --invert"
            terminal.complain(f"{visible(str(path))}: {unlike}; {remedy}")
    for path, probabilities in zip(options.file, network.predict(np.stack(pixels))):
        best = (-probabilities).argsort(kind="stable")[: options.top].tolist()
        said = zip(best, probabilities[best].tolist())
        named = ", ".join(
            f"{as_label(network.classes[label])} {100 * p:.1f} %" for label, p in said
        )
        terminal.say(f"{visible(str(path))}: {named}")


def read_rows(path: Path, network: Trained) -> Floats:
    """Read the rows of a table, or the examples of an .npy file, as a network takes them: [N, I].

    Raises ValueError where there is no such file, or it holds something else.
    """
    content = read_bytes(path)
    if not network.columns:
        (examples,) = arrays_in(path, content).values()
        if examples.dtype.kind not in "biuf":
            raise ValueError(f"{path} holds no numbers, but {examples.dtype}")
        return as_floats(examples)
    inputs = table.encode(str(path), table.read_table(path, content), network.columns)
    check_finite(str(path), [inputs], table.input_names(network.columns), network.fills)
    return inputs


def target_of(path: Path) -> Path:
    """Return the file that tells what is predicted of the rows of another."""
    return Path(f"{path.stem}.predicted.csv")


def write(path: Path, found: Floats, network: Trained) -> str:
    """Write what is predicted of each row, as ``Trained.predict`` returns it, into a CSV file here;
    say which, and what."""
    header, lines, said = (
        numbers_predicted(found, network.targets)
        if network.targets
        else classes_predicted(found, network.classes)
    )
    target = target_of(path)
    numbered = [[place, *line] for place, line in enumerate(lines)]
    storage.write_csv([["row", *header], *numbered], target)
    return f"{target}: {', '.join([f'{len(lines):,} rows', *said])}"


def classes_predicted(probabilities: Floats, classes: list[str]) -> Written:
    """Return what a file and the terminal say of probabilities, [N, K]."""
    best = probabilities.argmax(1)
    lines = [
        [class_for_csv(classes[label]), *(f"{each:.6g}" for each in row)]
        for label, row in zip(best.tolist(), probabilities.tolist())
    ]
    counts = np.bincount(best, minlength=len(classes)).tolist()
    said = [f"{as_label(name)} {n:,}" for name, n in zip(classes, counts) if n]
    return ["predicted", *(inert(f"p({name})") for name in classes)], lines, said


def numbers_predicted(found: Floats, targets: list[str]) -> Written:
    """Return what a file and the terminal say of the numbers of a regression, [N, k]."""
    lines = [[f"{each:.9g}" for each in row] for row in found.tolist()]
    said = [
        f"{as_label(name)} {column.min():.4g} to {column.max():.4g}"
        for name, column in zip(targets, found.T)
        if len(column) > 0
    ]
    return list(map(inert, targets)), lines, said


def read(
    path: Path,
    network: Trained,
    invert: bool = False,
    background: images.Colour = images.WHITE,
) -> Floats:
    """Read the middle of an image in the size and colours that a network takes: [I] in [0, 1].

    Raises ValueError where there is no such image, or the network does not take images.
    """
    shape = network.shape
    if not network.bounded or not image_like(shape):
        name = network.result["dataset"]["name"]
        raise ValueError(f"this network was trained on {name}, which are no images")
    try:
        middle = images.read(path, (shape[1], shape[0]), background)
    except FileNotFoundError:
        raise ValueError(f"there is no image {path}") from None
    if len(shape) == 2 or shape[2] == 1:
        middle = middle.convert("L")
    pixels = as_floats(np.array(middle)).ravel()
    return 1 - pixels if invert else pixels


def other_than_trained(pixels: Floats, network: Trained) -> str | None:
    """Say that most of an image is light and the training images were dark, or the reverse.

    pixels: [I] in [0, 1]. Returns None where neither is so, or the run does not tell.
    """
    trained = network.result["dataset"].get("mean_pixel")
    if trained is None and network.mean is not None:
        trained = float(network.mean.mean())
    if trained is None or DARK <= trained <= LIGHT:
        return None
    light = bool((pixels > 0.5).mean() > 0.5)
    if light == (trained > LIGHT):
        return None
    image, others = ("light", "dark") if light else ("dark", "light")
    return (
        f"most of the image is {image}, but the training images were mostly {others} "
        f"({trained:.2f} on average, where black is 0 and white is 1)"
    )


if __name__ == "__main__":
    sys.exit(main())
