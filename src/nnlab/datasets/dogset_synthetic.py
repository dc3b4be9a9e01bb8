"""Generated images in DogSet's shape, for those who do not have the photographs.

Each shows an animal of ellipses in front of a blotched background. Its class decides, with much
variation, its shape and the direction of its stripes; place, size, light, colour and background are
chance, and so is whether it is lighter than what is behind it. A linear model therefore learns next
to nothing, and what a network learns is shape. Plainly synthetic: nothing here is a photograph.

Axes: N images, H = W = 64 pixels, C = 3 channels, K classes.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnlab import memory
from nnlab.datasets.arrays import Arrays, DataSource, Partition, Sizes, mean_pixel
from nnlab.datasets.dataset import DatasetConfig
from nnlab.datasets.dogset import SHAPE, SIZE, check_classes
from nnlab.options import MISSING

CLASSES = tuple(f"synthetic {number}" for number in range(10))
SIZES = {"train": 7665, "valid": 2000, "test": 500}
VERSION = 2  # of the program: another one makes other images
SEED = 12288  # of the images, which are the same for every run, whatever its seed
CHUNK = 64  # images made at a time

Floats = NDArray[np.float32]


@dataclass
class SyntheticConfig(DatasetConfig):
    num_classes: int | None = MISSING
    title = "DogSet (synthetic images)"

    def check(self) -> None:
        check_classes(self.num_classes)

    def choose_source(self, sizes: Sizes) -> DataSource:
        kept = len(CLASSES) if self.num_classes is None else self.num_classes
        if kept > len(CLASSES):
            raise ValueError(
                f"dataset.num_classes={kept} exceeds the {len(CLASSES)} that there are"
            )
        some = "" if self.num_classes is None else f", first {kept} classes"
        name = f"synthetic images in DogSet's shape, generated{some}"
        return DataSource(name, lambda: make(kept), provenance)


def provenance() -> dict[str, int]:
    return {"generator": VERSION}


def make(kept: int) -> Arrays:
    """Generate the three partitions and keep the first classes of them."""
    count = sum(SIZES.values())
    # A partition is there as parts, as a whole, and as what is kept of it.
    memory.check(
        3 * count * math.prod(SHAPE), f"making {count:,} images", "dataset=mnist needs less"
    )
    random = np.random.default_rng(SEED)
    looks = Looks(random)
    parts = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, size in SIZES.items():
            labels = random.permutation(np.arange(size) % len(CLASSES))
            chunks = np.split(labels, range(CHUNK, size, CHUNK))
            # A generator for each chunk: the same images on any number of threads.
            drawn = pool.map(looks.draw, random.spawn(len(chunks)), chunks)
            pixels, mine = np.concatenate(list(drawn)), labels < kept
            parts[name] = Partition(pixels[mine], labels[mine])
    return Arrays(
        train=parts["train"],
        valid=parts["valid"],
        test=parts["test"],
        classes=CLASSES[:kept],
        shape=SHAPE,
        full_size=len(parts["train"].labels),
        full_test_size=len(parts["test"].labels),
        provenance=provenance(),
        mean_pixel=mean_pixel(parts["train"].inputs),
        synthetic=True,
    )


class Looks:
    """What the classes look like on average: [K] each, lengths in those of half a body."""

    def __init__(self, random: np.random.Generator) -> None:
        def spread(low: float, high: float) -> NDArray[np.float64]:
            """Return values equally far apart, in an order of their own."""
            return random.permutation(np.linspace(low, high, len(CLASSES)))

        self.height = spread(0.32, 0.7)
        self.legs = spread(0.15, 0.6)
        self.head = spread(0.3, 0.6)
        self.neck = spread(-0.2, 0.9)
        self.ears = spread(0, 0.8)  # in those of the head
        self.tail = spread(-0.6, 1)  # up; below 0: down
        self.angle = spread(0, 0.9 * np.pi)  # of the stripes
        self.stripes = spread(4, 10)  # across the image

    def draw(self, random: np.random.Generator, labels: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Draw an image for each label: [N, H * W * C]."""
        count = len(labels)

        def chance(low: float, high: float, channels: int = 1) -> Floats:
            return random.uniform(low, high, (count, 1, 1, channels)).astype(np.float32)

        def vary(values: NDArray[np.float64], deviation: float) -> Floats:
            mine = values[labels] + random.normal(0, deviation, count)
            return mine.astype(np.float32).reshape(count, 1, 1, 1)

        y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)[..., None] / SIZE

        def ellipse(at_x: Floats, at_y: Floats, wide: Floats, tall: Floats) -> Floats:
            """Return 1 inside and 0 outside, with a soft edge: [N, H, W, 1]."""
            distance = np.sqrt(((x - at_x) / wide) ** 2 + ((y - at_y) / tall) ** 2)
            inside: Floats = np.clip((1.1 - distance) / 0.2, 0, 1)
            return inside

        thin = np.float32(0.001)  # the least, so that nothing is divided by 0
        length = chance(0.26, 0.32)
        left, top = chance(0.47, 0.53), chance(0.49, 0.55)  # the body's middle
        height = np.maximum(length * vary(self.height, 0.3), thin)
        head = np.maximum(length * vary(self.head, 0.2), thin)
        head_x = left + 1.1 * length
        head_y = top - 0.3 * height - length * vary(self.neck, 0.5)
        ears = np.abs(head * vary(self.ears, 0.5)) + thin
        tail = length * vary(self.tail, 0.75)
        legs = np.abs(length * vary(self.legs, 0.25)) + thin
        parts = [
            ellipse(left, top, length, height),
            ellipse(head_x, head_y, head, head),
            ellipse(head_x - 0.4 * head, head_y - head - 0.4 * ears, 0.3 * head, ears),
            ellipse(left - 1.15 * length, top - 0.5 * tail, 0.12 * length, 0.6 * abs(tail) + thin),
            *(
                ellipse(left + place * length, top + height + 0.3 * legs, 0.14 * length, legs)
                for place in (-0.6, 0.6)
            ),
        ]
        animal = np.maximum.reduce(parts)

        angle = vary(self.angle, 0.75)
        along = x * np.cos(angle) + y * np.sin(angle)
        stripes = np.sin(2 * np.pi * (vary(self.stripes, 2.5) * along + chance(0, 1)))
        lighter = np.where(random.random((count, 1, 1, 1)) < 0.6, 1, -1).astype(np.float32)
        behind = chance(0.48, 0.52, 3)
        coat = lighter * chance(0.3, 0.5) + chance(-0.1, 0.1, 3) + np.float32(0.1) * stripes
        image = (behind + coat * animal) * chance(0.95, 1.05) + blotches(random, count, 12, 0.25)
        image += np.float32(0.03) * random.standard_normal(image.shape, np.float32)
        pixels: NDArray[np.uint8] = (255 * np.clip(image, 0, 1)).astype(np.uint8)
        return pixels.reshape(count, -1)


def blotches(random: np.random.Generator, count: int, cells: int, deviation: float) -> Floats:
    """Draw colour noise on a coarse grid and interpolate it: [N, H, W, C]."""
    coarse = random.normal(0, deviation, (count, cells, cells, 3)).astype(np.float32)
    place = np.linspace(0, cells - 1, SIZE)
    below = np.minimum(place.astype(int), cells - 2)
    weights = np.zeros((SIZE, cells), np.float32)
    weights[np.arange(SIZE), below] = below + 1 - place
    weights[np.arange(SIZE), below + 1] = place - below
    fine: Floats = np.einsum("yi,nijc,xj->nyxc", weights, coarse, weights, optimize=True)
    return fine
