"""Independent random generators for the parts of a run, made from its seed alone."""

from __future__ import annotations

import numpy as np
import torch

STREAMS = ("weights", "examples", "test", "order", "noise")


def generator(seed: int, stream: str) -> torch.Generator:
    """Return a CPU generator for one of STREAMS; different streams of a seed are independent.

    >>> a, b = generator(0, "weights"), generator(0, "weights")
    >>> torch.equal(torch.rand(3, generator=a), torch.rand(3, generator=b))
    True
    """
    # What SeedSequence(seed).spawn() gives its children, without counting them.
    child = np.random.SeedSequence(seed, spawn_key=(STREAMS.index(stream),))
    return torch.Generator().manual_seed(int(child.generate_state(1, np.uint64)[0]))
