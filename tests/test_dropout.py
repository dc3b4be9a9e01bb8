"""What is dropped is as good as drawn by chance; test_network_options.py has the engines."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from nnlab.dropout import KeyedDropout, multipliers
from nnlab.seeds import draw_keys, drawing_from, generator


@pytest.mark.parametrize("p", [0.01, 0.3, 0.5, 0.9])
def test_so_many_are_dropped_and_the_others_are_scaled(p: float) -> None:
    keys = draw_keys(generator(0, "layers"), 400, 1).flatten()
    drawn = multipliers(keys, 10, 128, p=p, dtype=torch.float32)
    assert set(drawn.unique().tolist()) == {0.0, torch.tensor(1 / (1 - p)).item()}
    dropped = (drawn == 0).double()
    error = (p * (1 - p)) ** 0.5
    # Within 5 standard errors of p: of all numbers, each batch, each unit, each row.
    for axes, count in ((0, 400), ((1, 2), 1280), ((0, 1), 4000), ((0, 2), 51200)):
        assert (dropped.mean(axes) - p).abs().max() < 5 * error / count**0.5


def test_what_is_dropped_says_nothing_of_other_batches_units_and_rows() -> None:
    keys = draw_keys(generator(1, "layers"), 1000, 1).flatten()
    dropped = (multipliers(keys, 4, 16, p=0.5, dtype=torch.float64) == 0).flatten(1)
    # Of 64 places over 1,000 batches, and of 1,000 batches over 64 places: 5 standard errors.
    for table in (dropped, dropped.T):
        correlation = torch.corrcoef(table.T.double()).fill_diagonal_(0)
        assert correlation.abs().max() < 5.5 / len(table) ** 0.5


def test_neighbouring_keys_drop_other_units() -> None:
    keys = torch.tensor([0, 1, 2**32, 2**32 + 1, 2**62])
    dropped = (multipliers(keys, 100, 100, p=0.5, dtype=torch.float64) == 0).flatten(1).double()
    correlation = torch.corrcoef(dropped).fill_diagonal_(0)
    assert correlation.abs().max() < 5 / 100


def test_keys_of_an_epoch_are_those_that_layers_draw_one_by_one() -> None:
    together = draw_keys(generator(3, "layers"), 5, 2)
    with drawing_from(generator(3, "layers")):
        single = [int(torch.randint(2**63 - 1, (1,))) for _ in range(10)]
    assert together.flatten().tolist() == single


def test_the_module_drops_in_training_only() -> None:
    module, x = KeyedDropout(0.25), torch.randn(50, 40)
    dropped = module(x)
    assert_close(dropped[dropped != 0], (x / 0.75)[dropped != 0])
    assert 0.15 < (dropped == 0).float().mean() < 0.35  # of 2,000
    assert module.eval()(x) is x
    assert str(module) == "KeyedDropout(p=0.25)"
    assert isinstance(module, nn.Module)
