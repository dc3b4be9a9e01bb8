"""Multilayer perceptrons as numbers, which need no framework.

Axes: B examples in a batch, I inputs and O outputs of a layer, K outputs of the network.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from nnlab.boolean import inputs_of, rows_of
from nnlab.options import require

if TYPE_CHECKING:
    from torch import nn

Array = NDArray[np.float32]


def sigmoid(x: Array) -> Array:
    with np.errstate(over="ignore"):  # then it is 0
        return np.asarray(1 / (1 + np.exp(-x)), x.dtype)


# What follows a layer. A step is a perceptron's: 1 where its input is above 0, without a gradient.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "step": lambda x: (x > 0).astype(x.dtype),
}
TRAINED = ("relu", "tanh", "sigmoid", "identity")  # those of networks that are trained
INITS = ("default", "he", "glorot", "orthogonal", "zeros")


@dataclass(eq=False)
class Layer:
    """A layer, and what becomes of its outputs.

    name: that of torch's module. weight: [O, I], bias: [O] or None, float32 both. activation: one
    of ACTIVATIONS. dropout: the probability that an output is dropped in training.
    """

    name: str
    weight: Array
    bias: Array | None
    activation: str = "identity"
    dropout: float = 0.0

    def sums(self, inputs: Array) -> Array:
        """Return what it gives for inputs [B, I] before its activation: [B, O]."""
        found: Array = inputs @ self.weight.T
        return found if self.bias is None else found + self.bias

    @property
    def inputs(self) -> int:
        return int(self.weight.shape[1])

    @property
    def outputs(self) -> int:
        return len(self.weight)


@dataclass(eq=False)
class MLP:
    """A network of layers, one after another: inputs [B, I] to outputs [B, K].

    verdict: whether its one output, 0 or 1, names the class: it is turned into logits of both.
    """

    layers: list[Layer] = field(default_factory=list)
    verdict: bool = False

    @property
    def sizes(self) -> list[int]:
        """The inputs of the first layer, and the outputs of each."""
        return [self.layers[0].inputs, *(layer.outputs for layer in self.layers)]

    def state_dict(self) -> dict[str, Array]:
        """Return weights and biases, by torch's names, in their own memory."""
        found = {}
        for layer in self.layers:
            found[f"{layer.name}.weight"] = layer.weight
            if layer.bias is not None:
                found[f"{layer.name}.bias"] = layer.bias
        return found

    def parameters(self) -> Iterable[Array]:
        """Return the same without their names."""
        return self.state_dict().values()

    def outline(self) -> MLP:
        """Return a network of the same sizes without memory for its numbers."""
        layers = [
            replace(
                layer,
                weight=nothing(layer.weight.shape),
                bias=None if layer.bias is None else nothing(layer.bias.shape),
            )
            for layer in self.layers
        ]
        return replace(self, layers=layers)

    def forward(self, inputs: Array) -> list[Array]:
        """Return the output of every layer for inputs [B, I], [B, O] each; in float64 where these
        are."""
        outputs = [inputs]
        for layer in self.layers:
            outputs.append(ACTIVATIONS[layer.activation](layer.sums(outputs[-1])))
        return outputs[1:]

    def __call__(self, inputs: Array) -> Array:
        """Return what the network gives for inputs [B, I]: [B, K]."""
        last = self.forward(inputs)[-1]
        if not self.verdict:
            return last
        # The probability of the class that it names is 1 in float32.
        return 200 * np.concatenate([0.5 - last, last - 0.5], axis=1)


def nothing(shape: tuple[int, ...]) -> Array:
    """Return an array of this shape, all whose numbers are one zero."""
    return np.broadcast_to(np.zeros((), np.float32), shape)


def draw(
    inputs: int,
    hidden: Sequence[int],
    outputs: int,
    activation: str,
    generator: Generator,
    *,
    init: str = "default",
    bias: bool = True,
    dropout: float = 0.0,
) -> MLP:
    """Draw a network with a linear output layer; see ``model.mlp``."""
    sizes = [inputs, *hidden, outputs]
    if min(sizes) < 1:
        raise ValueError(f"layers of {sizes} units are not possible: each needs at least 1")
    limit = f"choose one of {', '.join(TRAINED)}"
    require(activation in TRAINED, "activation", activation, limit)
    require(init in INITS, "init", init, f"choose one of {', '.join(INITS)}")
    limit = "it is a fraction, at least 0 and below 1"
    require(0 <= dropout < 1, "dropout", f"{dropout:g}", limit)
    network = MLP()
    for number, shape in enumerate((o, i) for i, o in itertools.pairwise(sizes)):
        name = str(number * (3 if dropout else 2))
        weight, biases = initial(shape, init, bias, generator)
        network.layers.append(Layer(name, weight, biases, activation, dropout))
    last = network.layers[-1]
    last.activation, last.dropout = "identity", 0.0
    return network


def initial(
    shape: tuple[int, int], init: str, bias: bool, generator: Generator
) -> tuple[Array, Array | None]:
    """Return the initial weight [O, I] and bias [O] of a layer."""
    outputs, inputs = shape
    if init == "default":
        bound = inputs**-0.5
        weight = uniform(shape, bound, generator)
        return weight, uniform(shape[:1], bound, generator) if bias else None
    if init == "he":
        weight = math.sqrt(2 / inputs) * generator.standard_normal(shape, np.float32)
    elif init == "glorot":
        weight = uniform(shape, math.sqrt(6 / (inputs + outputs)), generator)
    elif init == "orthogonal":
        weight = orthogonal(shape, generator)
    else:
        weight = np.zeros(shape, np.float32)
    return weight.astype(np.float32, copy=False), np.zeros(outputs, np.float32) if bias else None


def uniform(shape: Sequence[int], bound: float, generator: Generator) -> Array:
    """Draw numbers from -bound up to bound."""
    drawn: Array = 2 * generator.random(tuple(shape), np.float32) - 1
    drawn *= np.float32(bound)
    return drawn


def orthogonal(shape: tuple[int, int], generator: Generator) -> Array:
    """Draw a matrix with orthonormal rows or columns, whichever are fewer, all alike probable.

    Source: Mezzadri, How to generate random matrices from the classical compact groups, 2007.
    """
    drawn = generator.standard_normal((max(shape), min(shape)))
    q, r = np.linalg.qr(drawn)
    q *= np.where(np.diag(r) < 0, -1, 1)
    return np.ascontiguousarray(q if shape[0] >= shape[1] else q.T, np.float32)


# ---- networks that are computed, not trained ----


def perceptrons(table: str) -> MLP:
    """Build the network of perceptrons that computes a Boolean function; see
    ``model.perceptrons``.

    >>> perceptrons("0110")(np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)).argmax(1)
    array([0, 1, 1, 0])
    """
    inputs = inputs_of(table)
    rows = rows_of(inputs)[[value == "1" for value in table]]
    if len(rows) == 0:  # one that never fires
        return of_steps((np.zeros((1, inputs)), [-0.5]))
    # Of all inputs only the row itself brings the sum to its number of ones.
    return of_steps((2 * rows - 1, 0.5 - rows.sum(1)), (np.ones((1, len(rows))), [-0.5]))


def classic_xor() -> MLP:
    """Build XOR from the classic three perceptrons: OR and NAND, and the AND of these.

    Source: Minsky & Papert, Perceptrons, 1969.
    """
    return of_steps(([[1, 1], [-1, -1]], [-0.5, 1.5]), ([[1, 1]], [-1.5]))


def of_steps(*layers: tuple[object, object]) -> MLP:
    made = [
        Layer(str(2 * number), np.array(weight, np.float32), np.array(bias, np.float32), "step")
        for number, (weight, bias) in enumerate(layers)
    ]
    return MLP(made, verdict=True)


# ---- how large a network is ----


def weights(network: MLP | nn.Module) -> int:
    """Count the weights without biases: the entries of parameters with two or more axes."""
    return sum(math.prod(p.shape) for p in network.parameters() if len(p.shape) > 1)


def parameters(network: MLP | nn.Module) -> int:
    """Count all trainable numbers."""
    return sum(math.prod(p.shape) for p in network.parameters())
