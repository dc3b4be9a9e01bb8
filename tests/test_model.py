from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.testing import assert_close

from nnlab import perceptron, seeds
from nnlab.model import as_module, mlp, perceptrons
from nnlab.perceptron import parameters, weights


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


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "identity"])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"dropout": 0.3}], ids=str)
def test_a_module_is_the_network_in_the_same_memory(
    activation: str, options: dict[str, Any]
) -> None:
    network = perceptron.draw(6, [5, 4], 3, activation, np.random.default_rng(0), **options)
    module = as_module(network).eval()
    assert list(module.state_dict()) == list(network.state_dict())
    x = np.random.default_rng(1).normal(size=(7, 6)).astype(np.float32)
    assert_close(torch.from_numpy(network(x)), module(torch.from_numpy(x)).detach())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(2)
    assert all((array == 2).all() for array in network.parameters())
    assert (weights(network), parameters(network)) == (weights(module), parameters(module))


def test_weights_are_these_numbers_with_any_numpy() -> None:
    network = perceptron.draw(2, [2], 1, "relu", seeds.generator(0, "weights"))
    drawn = np.concatenate([array.ravel() for array in network.parameters()])
    # SeedSequence and PCG64 are fixed by NumPy; 24 of the bits of each half of a word are a number.
    raw = seeds.generator(0, "weights").bit_generator.random_raw(5)
    halves = np.stack([raw & np.uint64(2**32 - 1), raw >> np.uint64(32)], axis=1).ravel()[:9]
    expected = (2 * (halves >> np.uint64(8)) / 2**24 - 1) / 2**0.5
    np.testing.assert_allclose(drawn, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("init", "distribution"),
    [
        ("default", stats.uniform(-(400**-0.5), 2 * 400**-0.5)),
        ("he", stats.norm(0, (2 / 400) ** 0.5)),
        ("glorot", stats.uniform(-((6 / 700) ** 0.5), 2 * (6 / 700) ** 0.5)),
        ("orthogonal", stats.norm(0, 400**-0.5)),  # of few of the entries of a large matrix
    ],
)
def test_weights_pass_a_test_of_their_distribution(init: str, distribution: Any) -> None:
    network = perceptron.draw(400, [300], 10, "relu", np.random.default_rng(0), init=init)
    assert stats.kstest(network.layers[0].weight.ravel(), distribution.cdf).pvalue > 0.001


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


def test_without_biases_the_weights_are_those_that_torch_draws() -> None:
    model = mlp(400, [300], 200, generator=torch.Generator().manual_seed(0), bias=False)
    assert list(model.state_dict()) == ["0.weight", "2.weight"]
    first = mlp(400, [300], 200, generator=torch.Generator().manual_seed(0))[0]
    assert_close(model[0].weight, first.weight, rtol=0, atol=0)


def initial(init: str, *sizes: int) -> Tensor:
    """Return the weight of a first layer; all biases are zero."""
    generator = torch.Generator().manual_seed(0)
    model = mlp(sizes[0], sizes[1:-1], sizes[-1], generator=generator, init=init)
    assert all((b == 0).all() for name, b in model.named_parameters() if "bias" in name)
    weight = model[0].weight
    assert isinstance(weight, Tensor)
    return weight.detach()


def test_weights_of_he_and_others_are_normal_of_a_variance_of_2_by_fan_in() -> None:
    weight = initial("he", 400, 300, 10)
    assert weight.std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.01)  # of 120,000 numbers
    assert weight.abs().max() > 4 * (2 / 400) ** 0.5


def test_weights_of_glorot_are_uniform_within_their_bound() -> None:
    weight, bound = initial("glorot", 400, 300, 10), (6 / 700) ** 0.5
    assert weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)


@pytest.mark.parametrize("sizes", [(40, 30, 5), (30, 40, 5)])
def test_orthogonal_weights(sizes: tuple[int, ...]) -> None:
    weight = initial("orthogonal", *sizes)
    product = weight @ weight.T if sizes[0] > sizes[1] else weight.T @ weight
    assert_close(product, torch.eye(30), rtol=0, atol=1e-5)


def test_weights_of_zero() -> None:
    assert (initial("zeros", 5, 4, 3) == 0).all()


@pytest.mark.parametrize("init", ["he", "glorot", "orthogonal"])
def test_weights_of_any_kind_come_from_the_generator_alone(init: str) -> None:
    before = torch.random.get_rng_state()
    assert_close(initial(init, 6, 5, 3), initial(init, 6, 5, 3), rtol=0, atol=0)
    assert torch.equal(torch.random.get_rng_state(), before)


def rows(inputs: int) -> Tensor:
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=inputs)))


def computes(network: nn.Module, table: str) -> None:
    """Assert that a network is sure of the value in every row of a truth table, and right."""
    inputs = len(table).bit_length() - 1
    values = torch.tensor([int(value) for value in table])
    logits = network(rows(inputs))
    assert_close(logits.argmax(1), values, rtol=0, atol=0)
    expected = nn.functional.one_hot(values, 2).float()
    assert_close(logits.softmax(1), expected, rtol=0, atol=0)


@pytest.mark.parametrize("inputs", [1, 2, 3])
def test_perceptrons_compute_every_function(inputs: int) -> None:
    for bits in itertools.product("01", repeat=2**inputs):
        computes(perceptrons("".join(bits)), "".join(bits))


@given(
    st.integers(4, 8).flatmap(lambda inputs: st.text("01", min_size=2**inputs, max_size=2**inputs))
)
def test_perceptrons_compute_any_function(table: str) -> None:
    computes(perceptrons(table), table)


def test_perceptrons_of_the_most_inputs() -> None:
    table = "".join(str(row.bit_count() % 2) for row in range(4096))
    network = perceptrons(table)
    computes(network, table)
    assert weights(network) == 12 * 2048 + 2048  # one for each true row, and their OR


def test_every_perceptron_of_a_table_fires_for_its_row_alone() -> None:
    network = perceptrons("01101001")
    fired = network[:2](rows(3))
    assert fired.sum(0).tolist() == [1, 1, 1, 1]
    assert fired.argmax(0).tolist() == [1, 2, 4, 7]


def test_the_classic_three() -> None:
    network = as_module(perceptron.classic_xor())
    computes(network, "0110")
    assert weights(network) + 3 == parameters(network) == 9
    either, not_both = network[:2](rows(2)).T
    assert either.tolist() == [0, 1, 1, 1]
    assert not_both.tolist() == [1, 1, 1, 0]


def test_a_layer_without_units_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[784, 0, 10\] .* at least 1"):
        mlp(784, [0], 10)
