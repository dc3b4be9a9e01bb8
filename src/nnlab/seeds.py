"""Independent random generators for the parts of a run, made from its seed alone.

They are NumPy's. What torch itself draws, as in the layers of networks of the user's own, comes
from its global generators, seeded by them.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence
from numpy.typing import NDArray

# Which numbers a seed gives; results tell it. 1: those of torch's generators, until nnlab 0.1.
RANDOM_NUMBERS = 2
# Their places among a seed's children; the third is free, and stays so for the others' numbers.
STREAMS = {
    "weights": 0,
    "examples": 1,
    "test": 3,
    "order": 4,
    "noise": 5,
    "held_out": 6,
    "layers": 7,
    "folds": 8,
}


def generator(seed: int, stream: str) -> Generator:
    """Return a generator for one of STREAMS; different streams of a seed are independent.

    >>> a, b = generator(0, "weights"), generator(0, "weights")
    >>> np.array_equal(a.random(3), b.random(3))
    True
    """
    # What SeedSequence(seed).spawn() gives its children, without counting them.
    return Generator(PCG64(SeedSequence(seed, spawn_key=(STREAMS[stream],))))


def draw(own: Generator, count: int = 1) -> NDArray[np.int64]:
    """Draw numbers of 63 bits, [count], as seeds or keys; the same ones one by one."""
    drawn: NDArray[np.int64] = (own.bit_generator.random_raw(count) >> np.uint64(1)).view(np.int64)
    return drawn


def child(own: Generator) -> tuple[int, Generator]:
    """Draw a seed; return it with a generator made from it."""
    seed = int(draw(own)[0])
    return seed, Generator(PCG64(seed))


def draw_keys(own: Generator | None, steps: int, layers: int) -> NDArray[np.int64]:
    """Return the keys that layers draw in an epoch, as KeyedDropout does inside ``drawing_from``.

    own: None where they draw from torch's global generator as it is. Returns [steps, layers].
    """
    if own is None:
        import torch

        keys: NDArray[np.int64] = torch.randint(2**63 - 1, (steps, layers), device="cpu").numpy()
        return keys
    return draw(child(own)[1], steps * layers).reshape(steps, layers)


@contextlib.contextmanager
def drawing_from(own: Generator, device: str = "cpu") -> Iterator[Generator]:
    """Seed the global generators of torch, NumPy and Python by a number that ``own`` draws.

    Afterwards they are as before. Lends a generator of that seed, too. device: where torch draws,
    beside the CPU.

    >>> with drawing_from(generator(0, "layers")):
    ...     first = random.random()
    >>> with drawing_from(generator(0, "layers")):
    ...     print(random.random() == first)
    True
    """
    import torch

    gpu = torch.device(device) if device.startswith("cuda") else None
    seed, lent = child(own)
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[] if gpu is None else [gpu]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU, too
        if gpu is not None:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield lent
        finally:
            np.random.set_state(numpy)
            random.setstate(python)
