"""What is dropped is as good as drawn by chance; test_network_options.py has the engines."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from nnlab.dropout import KeyedDropout, keys_from, multipliers
from nnlab.seeds import draw_keys, drawing_from, generator


@pytest.mark.parametrize("p", [0.01, 0.3, 0.5, 0.9])
def test_so_many_are_dropped_and_the_others_are_scaled(p: float) -> None:
    keys = torch.from_numpy(draw_keys(generator(0, "layers"), 400, 1).ravel())
    drawn = multipliers(keys, 10, 128, p=p, dtype=torch.float32)
    assert set(drawn.unique().tolist()) == {0.0, torch.tensor(1 / (1 - p)).item()}
    dropped = (drawn == 0).double()
    error = (p * (1 - p)) ** 0.5
    # Within 5 standard errors of p: of all numbers, each batch, each unit, each row.
    for axes, count in ((0, 400), ((1, 2), 1280), ((0, 1), 4000), ((0, 2), 51200)):
        assert (dropped.mean(axes) - p).abs().max() < 5 * error / count**0.5


def test_what_is_dropped_says_nothing_of_other_batches_units_and_rows() -> None:
    keys = torch.from_numpy(draw_keys(generator(1, "layers"), 1000, 1).ravel())
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
    """From the run's generator, or from torch's global one where a run has none."""
    together = torch.from_numpy(draw_keys(generator(3, "layers"), 5, 2))
    layers = nn.Sequential(KeyedDropout(0.5), KeyedDropout(0.25))
    with drawing_from(generator(3, "layers")) as source, keys_from(source, layers):
        assert_dropped_by(together, layers)
    torch.manual_seed(0)
    together = torch.from_numpy(draw_keys(None, 5, 2))
    torch.manual_seed(0)
    assert_dropped_by(together, layers)


def assert_dropped_by(keys: Tensor, layers: nn.Sequential) -> None:
    x = torch.ones(20, 30)
    for row in keys:
        first, second = (
            multipliers(key[None], 20, 30, p=p, dtype=x.dtype)[0]
            for key, p in zip(row, (0.5, 0.25))
        )
        assert_close(layers(x), first * second)


def test_the_module_drops_in_training_only() -> None:
    module, x = KeyedDropout(0.25), torch.randn(50, 40)
    dropped = module(x)
    assert_close(dropped[dropped != 0], (x / 0.75)[dropped != 0])
    assert 0.15 < (dropped == 0).float().mean() < 0.35  # of 2,000
    assert module.eval()(x) is x
    assert str(module) == "KeyedDropout(p=0.25)"
    assert isinstance(module, nn.Module)
