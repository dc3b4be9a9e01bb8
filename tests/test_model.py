from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from nnlab.model import mlp, parameters, weights


def test_structure_and_counts() -> None:
    model = mlp(12288, [128, 64], 10)
    assert [type(layer) for layer in model] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert weights(model) == 1_581_696  # MISSION, experiment B
    assert parameters(model) == 1_581_696 + 128 + 64 + 10
    assert all(p.dtype == torch.float32 and p.requires_grad for p in model.parameters())


def test_no_hidden_layer_is_a_linear_classifier() -> None:
    model = mlp(5, [], 3)
    assert [type(layer) for layer in model] == [nn.Linear]


@pytest.mark.parametrize(
    ("name", "function"),
    [("relu", torch.relu), ("tanh", torch.tanh), ("sigmoid", torch.sigmoid),
     ("identity", torch.clone)],
)  # fmt: skip
def test_the_network_is_its_formula(name: str, function: object) -> None:
    model = mlp(6, [5, 4], 3, activation=name)
    x = torch.randn(7, 6)
    (w1, b1, w2, b2, w3, b3) = model.parameters()
    expected = function(function(x @ w1.T + b1) @ w2.T + b2) @ w3.T + b3  # type: ignore[operator]
    assert_close(model(x), expected)


def test_weights_come_from_the_generator_alone() -> None:
    first = mlp(6, [5], 3, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(8)
    before = torch.random.get_rng_state()
    second = mlp(6, [5], 3, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)


def test_weights_are_distributed_as_torch_draws_them() -> None:
    """Uniform within 1/sqrt(fan-in), as nn.Linear: the same extremes and deviation."""
    ours = mlp(400, [300], 200, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.Linear(400, 300), nn.ReLU(), nn.Linear(300, 200))
    for mine, other in zip(ours.parameters(), theirs.parameters()):
        # 200 to 120,000 numbers: extremes within 5 %, deviation within 5 sigma of its error
        assert mine.max().item() == pytest.approx(other.max().item(), rel=0.05)
        assert mine.min().item() == pytest.approx(other.min().item(), rel=0.05)
        error = 5 * other.std().item() / (2 * mine.numel()) ** 0.5
        assert abs(mine.std().item() - other.std().item()) < 2 * error
