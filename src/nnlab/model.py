"""The networks that nnlab makes, and the form in which it takes those of others."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor, nn

from nnlab import perceptron
from nnlab.dropout import KeyedDropout
from nnlab.perceptron import MLP
from nnlab.shapes import image_like


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


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
    "step": Step,
}


def mlp(
    inputs: int,
    hidden: Sequence[int],
    outputs: int,
    activation: str = "relu",
    generator: Generator | torch.Generator | None = None,
    *,
    init: str = "default",
    bias: bool = True,
    batch_norm: bool = False,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Build a fully connected network with a linear output layer, on the CPU in float32.

    Weights and biases are distributed as ``nn.Linear`` draws them (uniform within
    1/sqrt(fan-in)), and come from ``generator`` alone, or from a seed that one of torch's draws
    (None: its global one). With another ``init``, one of INITS, biases are zero. Without ``bias``
    there are none. ``batch_norm``: each hidden layer is normalised before its activation.
    ``dropout``: how many of its units are dropped in training, a fraction.
    Input [B, inputs], output [B, outputs]. Raises ValueError for a layer without units,
    names that are not known, and ``dropout`` below 0 or from 1 on.

    Sources: He et al., Delving deep into rectifiers, 2015; Glorot & Bengio, Understanding the
    difficulty of training deep feedforward neural networks, 2010; Saxe et al., Exact solutions
    to the nonlinear dynamics of learning in deep linear neural networks, 2013.

    >>> model = mlp(784, [128, 64], 10, generator=np.random.default_rng(0))
    >>> model(torch.zeros(3, 784)).shape
    torch.Size([3, 10])
    >>> sum(p.numel() for p in model.parameters())
    109386
    """
    if not isinstance(generator, Generator):
        seed = torch.randint(2**63 - 1, (1,), generator=generator, device="cpu")
        generator = np.random.default_rng(int(seed))
    options: dict[str, Any] = {"init": init, "bias": bias, "dropout": dropout}
    drawn = perceptron.draw(inputs, hidden, outputs, activation, generator, **options)
    return as_module(drawn, batch_norm)


def as_module(network: MLP, batch_norm: bool = False) -> nn.Sequential:
    """Return a perceptron as torch has it, in the same memory.

    batch_norm: normalise each hidden layer before its activation, beside the perceptron's own.
    """
    modules: list[nn.Module] = []
    for layer in network.layers:
        modules.append(linear(layer))
        if layer is network.layers[-1] and not network.verdict:
            break
        modules += [nn.BatchNorm1d(layer.outputs)] if batch_norm else []
        modules.append(ACTIVATIONS[layer.activation]())
        modules += [KeyedDropout(layer.dropout)] if layer.dropout else []
    return nn.Sequential(*modules, *([Verdict()] if network.verdict else []))


def linear(layer: perceptron.Layer) -> nn.Linear:
    # Made without memory first: nn.Linear would draw from the global random state.
    made = nn.Linear(layer.inputs, layer.outputs, layer.bias is not None, device="meta")
    made.weight = nn.Parameter(torch.from_numpy(layer.weight))
    if layer.bias is not None:
        made.bias = nn.Parameter(torch.from_numpy(layer.bias))
    return made


class Shaped(nn.Module):
    """A network that takes examples in their own shape, as convolutions do.

    network: takes examples [B, ...] of the shape that ``shape_given`` makes of shape, and gives
    logits [B, K]. shape: of an example as datasets have it, an image's channels last. Input
    [B, I], output [B, K]. values: how many numbers each of its layers gives of an example, once
    it was tried out.
    """

    def __init__(self, network: nn.Module, shape: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.shape = tuple(shape)
        self.values: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        given = shape_given(self.shape)
        if image_like(self.shape) and given[0] > 1:
            # In torch's usual memory format, for networks that call view.
            examples = inputs.unflatten(1, self.shape).permute(0, 3, 1, 2).contiguous()
        else:
            examples = inputs.unflatten(1, given)
        logits: Tensor = self.network(examples)
        return logits

    @torch.no_grad()
    def try_out(self) -> object:
        """Return what the network gives of two examples of zeros; take down its ``values``."""
        self.values.clear()

        def note(module: nn.Module, given: object, found: object) -> None:
            if isinstance(found, Tensor):
                self.values.append(found.numel() // 2)

        inner = (each for each in self.network.modules() if not list(each.children()))
        hooks = [each.register_forward_hook(note) for each in inner]
        where = next(self.network.parameters()).device
        self.eval()
        try:
            return self(torch.zeros(2, math.prod(self.shape), device=where))
        finally:
            self.train()
            for hook in hooks:
                hook.remove()


def shape_given(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape in which ``Shaped`` gives examples to its network: images channels first.

    >>> shape_given((28, 28)), shape_given((64, 32, 3)), shape_given((30,))
    ((1, 28, 28), (3, 64, 32), (30,))
    """
    if not image_like(shape):
        return tuple(shape)
    return (shape[2] if len(shape) == 3 else 1, shape[0], shape[1])


def cnn(
    shape: Sequence[int],
    channels: Sequence[int],
    kernel: int,
    hidden: Sequence[int],
    outputs: int,
    generator: Generator | None,
) -> Shaped:
    """Build a convolutional network with a linear output layer, in float32.

    Each of ``channels`` is a convolution that keeps the size of its input, a ReLU, and the
    largest of every 2 x 2 pixels; then come linear layers of ``hidden`` units with a ReLU each.
    shape: of an image, channels last. Weights are drawn from ``generator`` alone, as ``nn.Conv2d``
    and ``nn.Linear`` draw them; where it is None they have no memory. Those of convolutions are
    channels-last in memory, which trains faster on colour images.
    Input [B, I], output [B, outputs]. Raises ValueError where an example is no image, or too
    small.

    >>> network = cnn((28, 28), [16, 32], 3, [], 10, np.random.default_rng(0))
    >>> network(torch.zeros(3, 784)).shape
    torch.Size([3, 10])
    >>> perceptron.parameters(network) == 16 * (9 + 1) + 32 * (9 * 16 + 1) + 10 * (7 * 7 * 32 + 1)
    True
    """
    size = " x ".join(map(str, shape))
    if not image_like(shape):
        raise ValueError(f"model=cnn takes images, and an example is {size}; choose model=mlp")
    before, height, width = shape_given(shape)
    least = 2 ** len(channels)
    if min(height, width) < least:
        raise ValueError(
            f"model.channels={list(channels)} halves images {len(channels)} times, so they need "
            f"{least} x {least} pixels, and have {size}; give fewer channels"
        )
    layers: list[nn.Module] = []
    for after in channels:
        convolution = nn.Conv2d(before, after, kernel, padding=kernel // 2, device="meta")
        layers += [convolution, nn.ReLU(), nn.MaxPool2d(2)]
        before, height, width = after, height // 2, width // 2
    layers.append(nn.Flatten())
    sizes = [before * height * width, *hidden, outputs]
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out, device="meta"), nn.ReLU()]
    network = nn.Sequential(*layers[:-1])
    if generator is not None:
        draw(network, generator)
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    shaped = Shaped(network, shape)
    shaped.try_out()
    return shaped


def draw(network: nn.Sequential, generator: Generator) -> None:
    """Give convolutions and linear layers weights and biases, uniform within 1/sqrt(fan-in)."""
    for layer in network:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            bound = layer.weight[0].numel() ** -0.5
            for name, empty in list(layer.named_parameters()):
                drawn = perceptron.uniform(empty.shape, bound, generator)
                setattr(layer, name, nn.Parameter(torch.from_numpy(drawn)))


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
    return as_module(perceptron.perceptrons(table))
