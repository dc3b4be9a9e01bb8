from __future__ import annotations

import itertools
import random

import numpy as np
import torch

from nnlab.seeds import STREAMS, drawing_from, generator


def test_every_seed_and_stream_is_its_own() -> None:
    draws = {
        (seed, stream): tuple(torch.rand(4, generator=generator(seed, stream)).tolist())
        for seed, stream in itertools.product((0, 1, 2, 2**32, 2**63 - 1), STREAMS)
    }
    assert len(set(draws.values())) == len(draws)


def test_the_global_state_is_left_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    torch.rand(9, generator=generator(0, "weights"))
    assert torch.equal(torch.rand(1), expected)


def test_global_generators_are_lent_and_come_back() -> None:
    def draws() -> tuple[float, float, float]:
        return torch.rand(1).item(), float(np.random.rand()), random.random()

    states = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
    own = generator(0, "layers")
    found = []
    for _ in range(2):
        with drawing_from(own):
            found.append(draws())
        assert torch.equal(torch.get_rng_state(), states[0])
        assert (str(np.random.get_state()), random.getstate()) == states[1:]
    assert len({*found[0], *found[1]}) == 6
    with drawing_from(generator(0, "layers")):
        assert draws() == found[0]
