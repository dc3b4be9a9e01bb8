"""What the native and the stacked engine take: perceptrons, and the optimizers they know.

Both train numbers. Where a run has torch's modules or optimizer, ``modules`` says whether they
are what these engines take, and shows them as numbers in the same memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nnlab.config import SGD, Adam, AdamW, OptimizerConfig
from nnlab.engines import Run, State
from nnlab.losses import CrossEntropy
from nnlab.perceptron import MLP, TRAINED

if TYPE_CHECKING:
    from torch import nn

# A snapshot's count of optimizer steps. torch's own is a float32, which ends at 2^24.
STEP_COUNT = "steps"
# What each update rule keeps per parameter, in torch's words.
MOMENTS = {
    "sgd": (),
    "momentum": ("momentum_buffer",),
    "adam": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
}


def unsupported_model(model: MLP | nn.Module, dtypes: Sequence[str]) -> str | None:
    """Return why a model is not a perceptron of one of these types; None if it is.

    In torch one is ``nn.Sequential`` of ``nn.Linear``, with ReLU, Tanh, Sigmoid, Identity or
    nothing between them, and perhaps KeyedDropout after that, all of it trained, as torch and
    nnlab make them: nothing of the user's (hooks, patched methods, parametrizations) takes part
    in a step.
    """
    if not isinstance(model, MLP):
        from nnlab.engines import modules

        return modules.unsupported_model(model, dtypes)
    for layer in model.layers:
        if layer.activation not in TRAINED:
            return f"{layer.activation} is none of {', '.join(TRAINED)}"
    return None


def perceptron(run: Run) -> MLP:
    """Return the model of a run that an engine takes, in its own memory where that is the CPU's."""
    if isinstance(run.model, MLP):
        return run.model
    from nnlab.engines import modules

    return modules.perceptron(run.model)


def unsupported_loss(run: Run) -> str | None:
    """Return why a run's loss does not fit its perceptron; None if it does."""
    outputs = perceptron(run).sizes[-1]
    weights = run.loss.weights if isinstance(run.loss, CrossEntropy) else None
    if weights is not None and len(weights) != outputs:
        return f"the loss has weights of {len(weights)} classes, the model {outputs} outputs"
    return None


def targets_of(run: Run) -> int | None:
    """Return how many numbers a perceptron is to predict; None where it is to tell classes."""
    return None if isinstance(run.loss, CrossEntropy) else perceptron(run).sizes[-1]


def unsupported_optimizer(run: Run) -> str | None:
    """Return why a run's optimizer is none of SGD, Adam and AdamW; None if it is."""
    config = optimizer_of(run)
    if config is None:
        from nnlab.engines import modules

        assert not isinstance(run.optimizer, OptimizerConfig)

        return modules.unsupported_optimizer(run.optimizer)
    if not isinstance(config, (SGD, Adam)):
        return f"optimizer={config.name} is none of SGD, Adam, AdamW"
    if isinstance(config, Adam) and config.amsgrad:
        return "Adam with amsgrad"
    if (
        isinstance(config, SGD)
        and config.nesterov
        and not (config.momentum > 0 and config.dampening == 0)
    ):
        return "nesterov needs momentum above 0 and dampening=0"
    if not isinstance(run.optimizer, OptimizerConfig) and not isinstance(run.model, MLP):
        from nnlab.engines import modules

        return modules.unsupported_moments(run.optimizer, run.model, MOMENTS[rule(config)])
    return None


def optimizer_of(run: Run) -> OptimizerConfig | None:
    """Return the options of a run's optimizer, None where OptimizerConfig has no word for it."""
    if isinstance(run.optimizer, OptimizerConfig):
        return run.optimizer
    from nnlab.engines import modules

    assert not isinstance(run.model, MLP)  # it holds the parameters of a module
    return modules.optimizer_config(run.optimizer, run.model)


def rule(config: OptimizerConfig) -> str:
    """Return which of MOMENTS an optimizer keeps, and by that its update rule."""
    if isinstance(config, AdamW):
        return "adamw"
    if isinstance(config, Adam):
        return "adam"
    assert isinstance(config, SGD)
    return "sgd" if config.momentum == 0 else "momentum"


def unsupported_shared_memory(run: Run) -> str | None:
    """Return which inputs change as the run trains, lying where its weights do; None if none."""
    if isinstance(run.model, MLP):  # nobody else has its memory
        return None
    changing = initial_state(run)
    for part in ("train", "valid", "test"):
        split = getattr(run, part)
        for name, array in changing.items():
            if split is not None and np.may_share_memory(split.inputs, array):
                return f"the {part} inputs share memory with {name}"
    return None


def initial_state(run: Run) -> State:
    """Return a run's initial weights and, from a torch optimizer that has any, its state."""
    state: State = dict(perceptron(run).state_dict())
    if not isinstance(run.optimizer, OptimizerConfig) and not isinstance(run.model, MLP):
        from nnlab.engines import modules

        state |= modules.moments(run.optimizer, run.model)
    return state


def hand_over(state: State, run: Run) -> None:
    """Put the trained weights into the run's model, and its optimizer's state into that."""
    if not isinstance(run.model, MLP):
        from nnlab.engines import modules

        modules.hand_over(state, run)
        return
    for name, array in run.model.state_dict().items():
        array[...] = state[name]
