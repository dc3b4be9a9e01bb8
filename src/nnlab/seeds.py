"""Independent random generators for the parts of a run, made from its seed alone."""

from __future__ import annotations

import numpy as np
import torch

# Their places among a seed's children; the third is free, and stays so for the others' numbers.
STREAMS = {"weights": 0, "examples": 1, "test": 3, "order": 4, "noise": 5, "held_out": 6}


def generator(seed: int, stream: str) -> torch.Generator:
    """Return a CPU generator for one of STREAMS; different streams of a seed are independent.

    >>> a, b = generator(0, "weights"), generator(0, "weights")
    >>> torch.equal(torch.rand(3, generator=a), torch.rand(3, generator=b))
    True
    """
    # What SeedSequence(seed).spawn() gives its children, without counting them.
    child = np.random.SeedSequence(seed, spawn_key=(STREAMS[stream],))
    return torch.Generator().manual_seed(int(child.generate_state(1, np.uint64)[0]))
