"""``python -m nnlab.predict FOLDER IMAGE...``: what a trained network sees in images."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from nnlab import terminal
from nnlab.datasets.dogset import fit
from nnlab.network import Network, load
from nnlab.text import as_label, visible


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
    options = parser.parse_args(arguments)
    try:
        if options.top < 1:
            raise ValueError(f"--top {options.top} is not possible; give at least 1")
        network = load(options.folder)
        if network.result["status"] == "diverged":
            raise ValueError(f"the run in {options.folder} diverged: its network says nothing")
        images = [read(path, network, options.invert) for path in options.image]
        for path, probabilities in zip(options.image, network.predict(torch.stack(images))):
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


def read(path: Path, network: Network, invert: bool = False) -> Tensor:
    """Read the middle of an image in the size and colours that a network takes: [I] in [0, 1].

    Raises ValueError where there is no such image, or the network does not take images.
    """
    import numpy as np
    from PIL import Image

    shape = network.shape
    if len(shape) < 2 or shape[0] != shape[1]:
        name = network.result["dataset"]["name"]
        raise ValueError(f"this network was trained on {name}, which are no images")
    try:
        with Image.open(path) as image:
            middle = fit(image, shape[0])
    except FileNotFoundError:
        raise ValueError(f"there is no image {path}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image ({error})") from None
    if len(shape) == 2 or shape[2] == 1:
        middle = middle.convert("L")
    pixels = torch.from_numpy(np.array(middle)).flatten().float() / 255
    return 1 - pixels if invert else pixels


if __name__ == "__main__":
    sys.exit(main())
