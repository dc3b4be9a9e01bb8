"""``python -m nnlab.predict FOLDER IMAGE...``: what a trained network sees in images."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from nnlab import terminal
from nnlab.datasets import images
from nnlab.network import Network, load
from nnlab.text import as_label, visible

DARK, LIGHT = 1 / 3, 2 / 3  # images whose pixels are below, above this on average


@terminal.standard_streams()
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m nnlab.predict", description=__doc__)
    terminal.add_version(parser)
    parser.add_argument("folder", type=Path, help="of a finished run, say outputs/mnist/default")
    parser.add_argument("image", type=Path, nargs="+", help="an image file; cropped and resized")
    parser.add_argument("--top", type=int, default=3, metavar="N", help="classes named (3)")
    parser.add_argument(
        "--invert", action="store_true", help="for dark ink on light paper: MNIST is light on dark"
    )
    parser.add_argument(
        "--background", default="white", metavar="COLOUR", help="behind transparent images (white)"
    )
    options = parser.parse_args(arguments)
    try:
        if options.top < 1:
            raise ValueError(f"--top {options.top} is not possible; give at least 1")
        network = load(options.folder)
        if network.result["status"] == "diverged":
            raise ValueError(f"the run in {options.folder} diverged: its network says nothing")
        background = images.colour(options.background)
        pixels = [read(path, network, options.invert, background) for path in options.image]
        for path, image in zip(options.image, pixels):
            unlike = other_than_trained(image, network)
            if unlike is not None:
                remedy = "leave out --invert" if options.invert else "try --invert"
                terminal.complain(f"{visible(str(path))}: {unlike}; {remedy}")
        for path, probabilities in zip(options.image, network.predict(torch.stack(pixels))):
            best = probabilities.topk(min(options.top, len(network.classes)))
            said = zip(best.indices.tolist(), best.values.tolist())
            named = ", ".join(
                f"{as_label(network.classes[label])} {100 * p:.1f} %" for label, p in said
            )
            terminal.say(f"{visible(str(path))}: {named}")
    except ValueError as error:
        terminal.complain(error)
        return 1
    return 0


def read(
    path: Path,
    network: Network,
    invert: bool = False,
    background: images.Colour = images.WHITE,
) -> Tensor:
    """Read the middle of an image in the size and colours that a network takes: [I] in [0, 1].

    Raises ValueError where there is no such image, or the network does not take images.
    """
    import numpy as np

    shape = network.shape
    if len(shape) < 2 or shape[0] != shape[1]:
        name = network.result["dataset"]["name"]
        raise ValueError(f"this network was trained on {name}, which are no images")
    try:
        middle = images.read(path, shape[0], background)
    except FileNotFoundError:
        raise ValueError(f"there is no image {path}") from None
    if len(shape) == 2 or shape[2] == 1:
        middle = middle.convert("L")
    pixels = torch.from_numpy(np.array(middle)).flatten().float() / 255
    return 1 - pixels if invert else pixels


def other_than_trained(pixels: Tensor, network: Network) -> str | None:
    """Say that most of an image is light and the training images were dark, or the reverse.

    pixels: [I] in [0, 1]. Returns None where neither is so, or the run does not tell.
    """
    trained = network.result["dataset"].get("mean_pixel")
    if trained is None and network.mean is not None:
        trained = float(network.mean.mean())
    if trained is None or DARK <= trained <= LIGHT:
        return None
    light = bool((pixels > 0.5).float().mean() > 0.5)
    if light == (trained > LIGHT):
        return None
    image, others = ("light", "dark") if light else ("dark", "light")
    return (
        f"most of the image is {image}, but the training images were mostly {others} "
        f"({trained:.2f} on average, where black is 0 and white is 1)"
    )


if __name__ == "__main__":
    sys.exit(main())
