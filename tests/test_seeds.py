from __future__ import annotations

import itertools
import random

import numpy as np
import torch

from nnlab.seeds import STREAMS, draw, drawing_from, generator

DRAWN = [6022608996314427920, 2987991304751034351]
PERMUTED = [7, 6, 3, 1, 4, 5, 2, 0]
FRACTIONS = [0.6771968569751019, 0.2429867485428212]


def test_every_seed_and_stream_is_its_own() -> None:
    draws = {
        (seed, stream): tuple(generator(seed, stream).random(4).tolist())
        for seed, stream in itertools.product((0, 1, 2, 2**32, 2**63 - 1), STREAMS)
    }
    assert len(set(draws.values())) == len(draws)


def test_the_global_state_is_left_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    generator(0, "weights").random(9)
    assert torch.equal(torch.rand(1), expected)


def test_a_seed_gives_these_numbers_with_any_numpy() -> None:
    """The orders of epochs and the subsets of a dataset: what is drawn must not change unseen."""
    assert draw(generator(0, "order"), 2).tolist() == DRAWN
    assert generator(0, "order").permutation(8).tolist() == PERMUTED
    assert generator(0, "examples").random(2).tolist() == FRACTIONS


def test_one_by_one_the_same_is_drawn() -> None:
    one, other = generator(0, "layers"), generator(0, "layers")
    assert [int(draw(one)[0]) for _ in range(5)] == draw(other, 5).tolist()
    assert (draw(one, 1000) >= 0).all()


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
