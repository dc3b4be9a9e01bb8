"""The multilayer perceptron, and how many weights it has."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn

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

    >>> model = mlp(784, [128, 64], 10, generator=torch.Generator().manual_seed(0))
    >>> model(torch.zeros(3, 784)).shape
    torch.Size([3, 10])
    >>> weights(model), parameters(model)
    (109184, 109386)
    """
    sizes = [inputs, *hidden, outputs]
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        # Made without memory first: nn.Linear would draw from the global random state.
        linear = nn.Linear(fan_in, fan_out, device="meta")
        bound = fan_in**-0.5
        weight = torch.empty(fan_out, fan_in).uniform_(-bound, bound, generator=generator)
        bias = torch.empty(fan_out).uniform_(-bound, bound, generator=generator)
        linear.weight, linear.bias = nn.Parameter(weight), nn.Parameter(bias)
        layers += [linear, ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


def weights(model: nn.Module) -> int:
    """Count the weights without biases: the entries of parameters with two or more axes."""
    return sum(p.numel() for p in model.parameters() if p.dim() > 1)


def parameters(model: nn.Module) -> int:
    """Count all trainable numbers."""
    return sum(p.numel() for p in model.parameters())
