"""Generated images in DogSet's shape, for those who do not have the photographs.

Each shows an animal of ellipses in front of a blurred background. Its class decides, with much
variation, the colours of coat and belly, its build, and the stripes of its coat; place, size,
direction, light and background are chance. Plainly synthetic: nothing here is a photograph.

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
VERSION = 1  # of the program: another one makes other images
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
    """What the classes look like on average: [K, ...] each."""

    def __init__(self, random: np.random.Generator) -> None:
        count = len(CLASSES)
        self.coat = random.uniform(0.25, 0.75, (count, 3))
        self.belly = random.uniform(0.25, 0.75, (count, 3))
        self.build = random.uniform(0.45, 0.75, count)  # height over length
        self.head = random.uniform(0.35, 0.6, count)  # over the body's length
        self.angle = random.uniform(0, np.pi, count)  # of the stripes
        self.stripes = random.uniform(4, 12, count)  # across the image

    def draw(self, random: np.random.Generator, labels: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Draw an image for each label: [N, H * W * C]."""
        count = len(labels)

        def chance(low: float, high: float) -> Floats:
            return random.uniform(low, high, (count, 1, 1)).astype(np.float32)

        def vary(values: NDArray[np.float64], deviation: float) -> Floats:
            mine = values[labels] + random.normal(0, deviation, values[labels].shape)
            return mine.astype(np.float32).reshape(count, 1, 1, -1)

        y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / SIZE
        length = chance(0.2, 0.34)
        side: Floats = np.sign(chance(-1, 1))
        middle_x, middle_y = chance(0.35, 0.65), chance(0.4, 0.65)
        height = length * vary(self.build, 0.08)[..., 0]
        head = length * vary(self.head, 0.06)[..., 0]
        head_x = middle_x + side * length
        head_y = middle_y - height

        def ellipse(at_x: Floats, at_y: Floats, wide: Floats, tall: Floats) -> Floats:
            """Return 1 inside and 0 outside, with a soft edge: [N, H, W]."""
            distance = np.sqrt(((x - at_x) / wide) ** 2 + ((y - at_y) / tall) ** 2)
            inside: Floats = np.clip((1.1 - distance) / 0.2, 0, 1)
            return inside

        body = ellipse(middle_x, middle_y, length, height)
        animal = np.maximum(body, ellipse(head_x, head_y, head, head))
        for place in (-0.6, 0.6):
            legs = ellipse(middle_x + place * length, middle_y + height, 0.18 * length, height)
            animal = np.maximum(animal, legs)
        belly = ellipse(middle_x, middle_y + 0.5 * height, 0.8 * length, 0.5 * height)

        angle, waves = vary(self.angle, 0.25)[..., 0], vary(self.stripes, 1)[..., 0]
        along = x * np.cos(angle) + y * np.sin(angle)
        stripes = 0.12 * np.sin(2 * np.pi * (waves * along + chance(0, 1)))[..., None]
        coat = vary(self.coat, 0.27) + stripes
        coat += (vary(self.belly, 0.27) - coat) * belly[..., None]

        colour = random.uniform(0.3, 0.7, (count, 1, 1, 3)).astype(np.float32)
        scene = blurred(random, count, 5, 0.2) + colour
        image = scene + (coat - scene) * animal[..., None]
        image = image * chance(0.75, 1.25)[..., None] + blurred(random, count, 16, 0.05)
        image += np.float32(0.03) * random.standard_normal(image.shape, np.float32)
        pixels: NDArray[np.uint8] = (255 * np.clip(image, 0, 1)).astype(np.uint8)
        return pixels.reshape(count, -1)


def blurred(random: np.random.Generator, count: int, cells: int, deviation: float) -> Floats:
    """Draw colour noise on a coarse grid and interpolate it: [N, H, W, C]."""
    coarse = random.normal(0, deviation, (count, cells, cells, 3)).astype(np.float32)
    place = np.linspace(0, cells - 1, SIZE)
    below = np.minimum(place.astype(int), cells - 2)
    weights = np.zeros((SIZE, cells), np.float32)
    weights[np.arange(SIZE), below] = below + 1 - place
    weights[np.arange(SIZE), below + 1] = place - below
    fine: Floats = np.einsum("yi,nijc,xj->nyxc", weights, coarse, weights, optimize=True)
    return fine
