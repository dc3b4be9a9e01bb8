"""What ``nnlab.load`` hands out: a trained network as a module of torch's, which takes tensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nnlab import trained
from nnlab.model import as_module
from nnlab.perceptron import MLP
from nnlab.trained import Trained

if TYPE_CHECKING:
    import pandas as pd


class Network:
    """A trained network and what its inputs and outputs mean.

    model: maps standardised inputs [B, I] to logits [B, K], of a regression to standardised targets
    [B, k], on the CPU, in evaluation mode.
    config: the run's configuration as nested dicts, result: its result.json. classes: K names.
    shape: that of one example, an image's channels last. mean, deviation: of each channel, an
    image's in [0, 1], or of each input of a table, [C] float32, that inputs were standardised
    with; None where they were not. target_mean, target_deviation: [k] of the targets of a
    regression.
    """

    def __init__(self, numbers: Trained) -> None:
        """numbers: the network without torch, whose memory this one shares."""
        self.numbers = numbers
        made = as_module(numbers.model) if isinstance(numbers.model, MLP) else numbers.model
        self.model: nn.Module = made.eval()
        self.config, self.result = numbers.config, numbers.result
        self.classes, self.shape = numbers.classes, numbers.shape
        self.mean, self.deviation = tensor(numbers.mean), tensor(numbers.deviation)
        self.target_mean = tensor(numbers.target_mean)
        self.target_deviation = tensor(numbers.target_deviation)

    @property
    def targets(self) -> list[str]:
        """The names of the numbers that it predicts, where it was trained in a regression."""
        return self.numbers.targets

    def standardised(self, pixels: Tensor) -> Tensor:
        """Turn examples as they are, [B, ...] and pixels in [0, 1], into inputs [B, I]."""
        inputs = pixels.flatten(1)
        if self.mean is None or self.deviation is None:
            return inputs
        channels: Tensor = inputs.unflatten(1, (-1, self.mean.numel()))
        inputs = channels.sub(self.mean).div(self.deviation).flatten(1)
        return inputs.nan_to_num(nan=0.0) if self.numbers.fills else inputs

    def pixels(self, inputs: Tensor) -> Tensor:
        """Turn inputs [B, I] back into examples as they are, [B, I]."""
        if self.mean is None or self.deviation is None:
            return inputs
        channels: Tensor = inputs.unflatten(1, (-1, self.mean.numel()))
        return channels.mul(self.deviation).add(self.mean).flatten(1)

    @torch.no_grad()
    def logits(self, inputs: Tensor) -> Tensor:
        """Return the model's outputs for standardised inputs [B, I]: [B, K]."""
        return torch.cat([self.model(some) for some in inputs.split(1024)])

    def probabilities(self, inputs: Tensor) -> Tensor:
        """Return the probability of each class for standardised inputs [B, I]: [B, K]."""
        return self.logits(inputs).softmax(1)

    def answer(self, outputs: Tensor) -> Tensor:
        """Turn the model's outputs [B, K] into what they say: the probability of each class, or
        of a regression the targets in their own units."""
        if not self.targets:
            return outputs.softmax(1)
        assert self.target_mean is not None
        assert self.target_deviation is not None
        return outputs * self.target_deviation + self.target_mean

    def predict(self, examples: Tensor | NDArray[Any] | pd.DataFrame) -> Tensor:
        """Return the probability of each class for examples as they are, [B, ...]: [B, K].

        Of a regression the targets in their own units, [B, k]. B may be 0. Pixels lie in [0, 1].
        Raises ValueError for others, for numbers that are not finite, or another shape than the
        network was trained on.
        """
        given = examples.detach().cpu().float() if isinstance(examples, Tensor) else examples
        # What torch takes without a warning.
        pixels = torch.from_numpy(np.require(self.numbers.checked(given), requirements=["C", "W"]))
        return self.answer(self.logits(self.standardised(pixels)))


def tensor(values: NDArray[Any] | None) -> Tensor | None:
    return None if values is None else torch.from_numpy(values)


def load(folder: str | Path, function: str | None = None) -> Network:
    """Load the network that a run trained, say from ``outputs/mnist/default``.

    function: of a run with model=function, the one of the working directory that makes the
    network, as in ``my_nets:cnn``; nothing else has its code called.
    Raises ValueError as ``trained.load``.
    """
    return Network(trained.load(folder, function))
