"""Independent random generators for the parts of a run, made from its seed alone."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

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
CPU = torch.device("cpu")


def generator(seed: int, stream: str) -> torch.Generator:
    """Return a CPU generator for one of STREAMS; different streams of a seed are independent.

    >>> a, b = generator(0, "weights"), generator(0, "weights")
    >>> torch.equal(torch.rand(3, generator=a), torch.rand(3, generator=b))
    True
    """
    # What SeedSequence(seed).spawn() gives its children, without counting them.
    child = np.random.SeedSequence(seed, spawn_key=(STREAMS[stream],))
    return torch.Generator().manual_seed(int(child.generate_state(1, np.uint64)[0]))


def draw(own: torch.Generator) -> int:
    """Draw the seed of another generator."""
    return int(torch.randint(2**63 - 1, (1,), generator=own))


def draw_keys(own: torch.Generator | None, steps: int, layers: int) -> torch.Tensor:
    """Return the keys that layers draw in an epoch, as KeyedDropout does inside ``drawing_from``.

    own: None where they draw from torch's global generator as it is. Returns [steps, layers] int64.
    """
    source = None if own is None else torch.Generator().manual_seed(draw(own))
    return torch.randint(2**63 - 1, (steps, layers), generator=source, device="cpu")


@contextlib.contextmanager
def drawing_from(own: torch.Generator, device: torch.device = CPU) -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python by a number that ``own`` draws.

    Afterwards they are as before. device: where torch draws, beside the CPU.

    >>> with drawing_from(generator(0, "layers")):
    ...     first = torch.rand(3)
    >>> with drawing_from(generator(0, "layers")):
    ...     print(torch.equal(torch.rand(3), first))
    True
    """
    seed = draw(own)
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU, too
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy)
            random.setstate(python)
