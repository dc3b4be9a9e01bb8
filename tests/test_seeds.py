from __future__ import annotations

import itertools

import torch

from nnlab.seeds import STREAMS, generator


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
