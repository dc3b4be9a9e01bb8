"""How much memory a run will take, foreseen from its sizes."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nnlab import memory
from nnlab.config import SGD, Adam, Config, MLPConfig, OptimizerConfig
from nnlab.device import Device
from nnlab.engines.supported import MOMENTS
from nnlab.engines.supported import rule as update_rule
from nnlab.perceptron import MLP
from nnlab.stopping import PatienceConfig

if TYPE_CHECKING:
    from torch import nn

    from nnlab.model import Shaped

FLOAT = 4  # bytes
NATIVE_ROWS = 48  # examples that native.c evaluates at a time, EVALUATION_ROWS there


@dataclass(frozen=True, slots=True)
class Footprint:
    """The most bytes that a run takes, each counted where it is.

    training: weights, gradients, moments and a batch's values, where it trains, maybe on a GPU.
    copies: of the weights in the machine's memory: the model, the best epoch's. saving: a
    checkpoint's. data: standardised copies, which runs on the same ``examples`` share.
    """

    training: int
    copies: int
    saving: int
    data: int
    examples: Hashable

    @property
    def own(self) -> int:
        return self.training + self.copies + self.saving


def of(
    config: Config,
    engine: str,
    inputs: int,
    outputs: int,
    lengths: Sequence[int],
    form: str | None = None,
    network: MLP | nn.Module | None = None,
) -> Footprint:
    """Foresee what a run takes. lengths: examples of its training, validation and test split.

    network: the run's, with or without memory for its numbers, where it is no perceptron. A peak
    that lasts for a moment is counted as if it lasted.
    """
    own = shaped(network)
    sizes, parts = layers(config, inputs, outputs, own)
    weights = FLOAT * sum(parts)
    state = weights * (1 + moments(config.optimizer))
    widest, batch, longest = max(sizes), min(config.batch_size, lengths[0]), max(lengths)
    if engine == "torch":
        from nnlab.engines.torch import GATHERED, evaluation_batch

        # The weights are the model's, but there are gradients, and a step makes some more.
        training = state + FLOAT * max(parts)
        rows = min(evaluation_batch(own), longest)
        # A value and its gradient, and of a perceptron's what the activation makes of it.
        each = 3 if own is None else 2
        values = max(rows * (inputs + 2 * widest), each * batch * sum(sizes) + GATHERED * inputs)
    elif engine == "stacked":
        from nnlab.engines.stacked import EVALUATION_NUMBERS

        training = state + weights
        values = 3 * max(batch * sum(sizes), min(longest * widest, EVALUATION_NUMBERS))
    else:
        training = state
        values = max(batch, NATIVE_ROWS) * (sum(sizes) + 4 * widest)
    if form == "dual":
        values += sum(lengths[:2]) * (lengths[0] + sizes[1])  # the Gram matrix and the base
    if isinstance(config.model, MLPConfig) and config.model.dropout > 0:
        # Of each layer what is kept and the factors; where they are drawn, six times a layer's.
        rows = max(batch, NATIVE_ROWS) if engine == "native" else batch
        values += rows * (2 * sum(sizes) + (0 if engine == "native" else 6 * widest))
    rule = config.stopping
    best = state if isinstance(rule, PatienceConfig) and rule.restore_best else 0
    # The state is read at the end. For a checkpoint it is also put into a file's content, which
    # is there twice for a moment; so are the weights at the end.
    saved = config.checkpoint.seconds is not None
    read = state if saved or best or engine != "torch" else weights
    data = FLOAT * inputs * sum(lengths) if config.dataset.normalize else 0
    seeds = config.seed_of("data"), config.seed_of("test")
    drawn = repr((config.dataset, config.sizes, seeds, config.folds, config.fold))
    return Footprint(
        training=training + FLOAT * values,
        copies=weights + read + best,
        saving=2 * (state + best) if saved else 0,
        data=data,
        examples=hash(drawn),
    )


def shaped(network: MLP | nn.Module | None) -> Shaped | None:
    """Return a network that takes examples in their own shape; None for another."""
    if network is None or isinstance(network, MLP):
        return None
    from nnlab.model import Shaped

    return network if isinstance(network, Shaped) else None


def layers(
    config: Config, inputs: int, outputs: int, network: Shaped | None
) -> tuple[list[int], list[int]]:
    """Return how many numbers of an example layers take or give, and their parameters."""
    if network is not None:
        return [inputs, *network.values], [each.numel() for each in network.parameters()]
    hidden = config.model.hidden if isinstance(config.model, MLPConfig) else []
    sizes = [inputs, *hidden, outputs]
    parameters = [(i + 1) * o for i, o in itertools.pairwise(sizes)]
    if isinstance(config.model, MLPConfig) and config.model.batch_norm:
        return [*sizes, *hidden], [*parameters, *(4 * units for units in hidden)]
    return sizes, parameters


def check(config: Config, needed: Footprint, where: Device) -> None:
    """Raise ValueError where a run does not fit, its data being there already."""
    name = f"model={config.model.name}"
    if isinstance(config.model, MLPConfig):
        name = f"model.hidden={list(config.model.hidden)}"
    what = f"{name} with optimizer={config.optimizer.name}"
    remedy = "use smaller layers"
    if where.type == "cuda":
        from nnlab.engines.stacked import free_memory

        left = free_memory(where)
        if needed.training > left:
            raise ValueError(
                f"{what} needs {memory.size(needed.training)} of {where}'s memory, "
                f"{memory.size(left)} is free; {remedy}"
            )
    here = needed.own - (needed.training if where.type == "cuda" else 0)
    if needed.saving:
        remedy += f", or checkpoint.seconds=null ({memory.size(here - needed.saving)})"
    memory.check(here, what, remedy)


def moments(config: OptimizerConfig) -> int:
    """Return how many numbers an optimizer keeps of each weight."""
    known = len(MOMENTS[update_rule(config)]) if isinstance(config, (SGD, Adam)) else 2
    return known + (isinstance(config, Adam) and config.amsgrad)


def together(footprints: Sequence[Footprint], count: int) -> int:
    """Return the most bytes that so many of these runs take at a time."""
    own = sorted((each.own for each in footprints), reverse=True)
    data = sorted({each.examples: each.data for each in footprints}.values(), reverse=True)
    return sum(own[:count]) + sum(data[:count])


def of_threads(footprints: Sequence[Footprint], threads: int) -> int:
    """Return the most bytes that runs take in so many threads.

    The last ones, fewer than twice the threads, take turns, and are all there meanwhile.
    """
    return together(footprints, 2 * threads - 1)


def threads(footprints: Sequence[Footprint], most: int) -> int:
    """Return in how many threads these runs fit into memory: 1 to ``most``."""
    left = memory.free() if of_threads(footprints, most) > memory.SMALL else None
    fitting = (n for n in range(most, 1, -1) if left is None or of_threads(footprints, n) <= left)
    return next(fitting, 1)
