"""What every contender trains: the same network on the same data, from the same weights.

Axes: R runs, N examples, I inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import nnlab
from nnlab import datasets, seeds
from nnlab.datasets.arrays import Sizes
from nnlab.datasets.mnist import IdxConfig, Source

HIDDEN = (128, 64)
CLASSES = 10
BATCH = 10


@dataclass(frozen=True)
class Spec:
    """Names a problem; JSON values only, since it travels to another process.

    data: "mnist" (the bundled sample), "official" (the official files in ``folder``), or the
    number of inputs of generated data. A run per seed; each has the learning rate that
    stands at its place. threads: of the whole process. max_epochs: what nnlab is told of a
    run's length; no race may be longer.
    """

    data: str = "mnist"
    train_size: int = 1000
    seeds: tuple[int, ...] = (0,)
    rates: tuple[float, ...] = (0.01,)
    threads: int = 1
    max_epochs: int = 1000
    hidden: tuple[int, ...] = HIDDEN
    classes: int = CLASSES
    batch: int = BATCH
    device: str = "cpu"
    folder: str = "data/mnist"

    @property
    def steps(self) -> int:
        """Optimisation steps in an epoch of all runs."""
        return len(self.seeds) * -(-self.train_size // self.batch)


@dataclass(eq=False)
class Problem:
    """inputs: [N, I] float32, labels: [N] int64; on the CPU, contiguous."""

    spec: Spec
    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor

    @classmethod
    def of(cls, spec: Spec) -> Problem:
        if spec.data not in ("mnist", "official"):
            inputs, labels = generated(int(spec.data), spec.train_size + 500, spec.classes)
            n = spec.train_size
            return cls(spec, inputs[:n], labels[:n], inputs[n:], labels[n:])
        source = Source.bundled if spec.data == "mnist" else Source.official
        config = IdxConfig("mnist", False, False, source, spec.folder)
        if spec.data == "mnist":
            config.balanced = True
        data = datasets.load(config, Sizes(spec.train_size, 0, 1000), seed=0)
        assert data.test is not None
        train, test = data.train, data.test
        arrays = (*train.examples, *test.examples)
        return cls(spec, *map(torch.from_numpy, arrays))

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.inputs.shape[1], *self.spec.hidden, self.spec.classes)

    def networks(self) -> list[nn.Sequential]:
        """Build the R networks as they are before training."""
        inputs, *hidden, classes = self.sizes
        return [
            nnlab.mlp(inputs, hidden, classes, generator=seeds.generator(seed, "weights"))
            for seed in self.spec.seeds
        ]

    def accuracy(self, model: nn.Module) -> float:
        """Return the fraction of the test images that a model labels correctly."""
        device = next(model.parameters()).device
        with torch.no_grad():
            predicted = model(self.test_inputs.to(device)).argmax(1).cpu()
        return int((predicted == self.test_labels).sum()) / len(self.test_labels)


def generated(inputs: int, examples: int, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    """Draw images that can be learnt: a pattern per class, half hidden by noise.

    >>> images, labels = generated(5, 20)
    >>> images.shape, labels.bincount().tolist()
    (torch.Size([20, 5]), [2, 2, 2, 2, 2, 2, 2, 2, 2, 2])
    """
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(classes, inputs, generator=generator)
    labels = torch.arange(examples) % classes
    noise = torch.rand(examples, inputs, generator=generator)
    return (patterns[labels] + noise).div_(2), labels
