"""The multilayer perceptron, networks of perceptrons from a truth table, counting weights."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}


def mlp(
    inputs: int,
    hidden: Sequence[int],
    outputs: int,
    activation: str = "relu",
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """Build a fully connected network with a linear output layer, on the CPU in float32.

    Weights and biases are drawn as ``nn.Linear`` draws them (uniform within
    1/sqrt(fan-in)), from ``generator`` alone. Input [B, inputs], output [B, outputs].
    Raises ValueError for a layer without units.

    >>> model = mlp(784, [128, 64], 10, generator=torch.Generator().manual_seed(0))
    >>> model(torch.zeros(3, 784)).shape
    torch.Size([3, 10])
    >>> weights(model), parameters(model)
    (109184, 109386)
    """
    sizes = [inputs, *hidden, outputs]
    if min(sizes) < 1:
        raise ValueError(f"layers of {sizes} units are not possible: each needs at least 1")
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        bound = fan_in**-0.5
        weight = torch.empty(fan_out, fan_in).uniform_(-bound, bound, generator=generator)
        bias = torch.empty(fan_out).uniform_(-bound, bound, generator=generator)
        layers += [_linear(weight, bias), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


class Step(nn.Module):
    """A perceptron's activation: 1 where its input is above 0, else 0. It has no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype)


class Verdict(nn.Module):
    """Turn a perceptron's output, [B, 1] of 0 or 1, into logits of the classes 0 and 1.

    The probability of the class that it names is 1 in float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        return 200 * torch.cat([0.5 - x, x - 0.5], dim=1)


def perceptrons(table: str) -> nn.Sequential:
    """Build the network of perceptrons that computes a Boolean function exactly.

    table: the function's values, as ``boolean.truth_table`` gives them for I inputs. One
    perceptron for each row whose value is 1 fires for that row alone; the last one is their OR.
    Input [B, I] of 0 and 1, output [B, 2] logits. Nothing is left to train.
    Source: the disjunctive normal form; McCulloch & Pitts, A logical calculus of the ideas
    immanent in nervous activity, 1943.

    >>> network = perceptrons("0110")
    >>> network(torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])).argmax(1)
    tensor([0, 1, 1, 0])
    """
    inputs = len(table).bit_length() - 1
    rows = [row for row, value in enumerate(table) if value == "1"]
    if not rows:  # one that never fires
        return _perceptrons((torch.zeros(1, inputs), torch.tensor([-0.5])))
    bits = binary(torch.tensor(rows), inputs)
    # Of all inputs only the row itself brings the sum to its number of ones.
    weight = 2.0 * bits - 1
    return _perceptrons(
        (weight, 0.5 - bits.sum(1)),
        (torch.ones(1, len(rows)), torch.tensor([-0.5])),
    )


def classic_xor() -> nn.Sequential:
    """Build XOR from the classic three perceptrons: OR and NAND, and the AND of these.

    Source: Minsky & Papert, Perceptrons, 1969.
    """
    return _perceptrons(
        (torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.tensor([-0.5, 1.5])),
        (torch.tensor([[1.0, 1.0]]), torch.tensor([-1.5])),
    )


def binary(numbers: Tensor, digits: int) -> Tensor:
    """Write numbers [N] int64 in binary, the highest digit first: [N, digits] int64 of 0 and 1.

    >>> binary(torch.tensor([1, 6]), 3).tolist()
    [[0, 0, 1], [1, 1, 0]]
    """
    places = torch.arange(digits - 1, -1, -1)
    return numbers.unsqueeze(1).bitwise_right_shift(places).bitwise_and(1)


def _perceptrons(*layers: tuple[Tensor, Tensor]) -> nn.Sequential:
    modules: list[nn.Module] = []
    for weight, bias in layers:
        modules += [_linear(weight, bias), Step()]
    return nn.Sequential(*modules, Verdict())


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    # Made without memory first: nn.Linear would draw from the global random state.
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight, linear.bias = nn.Parameter(weight), nn.Parameter(bias)
    return linear


def weights(model: nn.Module) -> int:
    """Count the weights without biases: the entries of parameters with two or more axes."""
    return sum(p.numel() for p in model.parameters() if p.dim() > 1)


def parameters(model: nn.Module) -> int:
    """Count all trainable numbers."""
    return sum(p.numel() for p in model.parameters())
