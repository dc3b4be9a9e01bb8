"""What the native and the stacked engine take: perceptrons, and the optimizers they know.

Nothing here makes a torch optimizer: the first one imports torch._dynamo, which takes a second.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nnlab.config import SGD, Adam, AdamW, OptimizerConfig
from nnlab.engines import Run

ACTIVATIONS: tuple[type[nn.Module], ...] = (nn.Identity, nn.ReLU, nn.Tanh, nn.Sigmoid)
# What each update rule keeps per parameter, in torch's words.
MOMENTS = {
    "sgd": (),
    "momentum": ("momentum_buffer",),
    "adam": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
}


def refuses_model(model: nn.Module, dtypes: Sequence[torch.dtype]) -> str | None:
    """Return why a model is not a perceptron of one of these types; None if it is.

    One is ``nn.Sequential`` of ``nn.Linear`` with bias, with one of ACTIVATIONS or nothing
    between them, all of it trained.
    """
    if type(model) is not nn.Sequential:
        return f"the model is {type(model).__name__}, not nn.Sequential"
    before: nn.Module | None = None
    seen: set[nn.Module] = set()
    for module in model:
        if type(module) is nn.Linear:
            if module in seen:
                return "the model has one nn.Linear in two places"
            seen.add(module)
            if module.bias is None:
                return "an nn.Linear has no bias"
        elif type(module) in ACTIVATIONS:
            if type(before) is not nn.Linear:
                return f"{type(module).__name__} does not follow an nn.Linear"
        else:
            taken: tuple[type[nn.Module], ...] = (nn.Linear, *ACTIVATIONS)
            names = ", ".join(kind.__name__ for kind in taken)
            return f"{type(module).__name__} is none of {names}"
        before = module
    if type(before) is not nn.Linear:
        return "the model does not end with an nn.Linear"
    sizes = [(linear.in_features, linear.out_features) for _, linear in linears(model)]
    if any(sizes[i][1] != sizes[i + 1][0] for i in range(len(sizes) - 1)):
        return "the sizes of two neighbouring layers do not fit"
    if min(min(pair) for pair in sizes) < 1:
        return "a layer has no inputs or no outputs"
    if len(list(model.parameters())) != 2 * len(sizes):
        return "two layers share a parameter"
    for module in model.modules():
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
            return "the model has hooks"
    dtype = next(model.parameters()).dtype
    for parameter in model.parameters():
        if parameter.dtype != dtype or dtype not in dtypes:
            names = " or ".join(str(each) for each in dtypes)
            return f"a parameter is {parameter.dtype}; all must be {names}"
        if not parameter.requires_grad:
            return "a parameter is frozen (requires_grad=False)"
        if parameter._backward_hooks:
            return "a parameter has hooks"
    return None


def refuses_optimizer(run: Run) -> str | None:
    """Return why a run's optimizer is none of SGD, Adam and AdamW; None if it is."""
    config = described(run)
    if config is None:
        return (
            f"the {type(run.optimizer).__name__} instance is not a plain SGD, Adam or AdamW "
            f"over all parameters in one group"
        )
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
    if isinstance(run.optimizer, torch.optim.Optimizer):
        return refuses_moments(run.optimizer, run.model, MOMENTS[rule(config)])
    return None


def refuses_moments(
    optimizer: torch.optim.Optimizer, model: nn.Module, keys: tuple[str, ...]
) -> str | None:
    """Return why the state of an optimizer that has taken steps cannot be taken over."""
    states = [optimizer.state.get(parameter, {}) for parameter in model.parameters()]
    present = {tuple(state.get(key) is not None for key in keys) for state in states}
    steps = {float(state["step"]) for state in states if "step" in state}
    if len(present) > 1 or len(steps) > 1:
        return "the optimizer has taken unlike numbers of steps for different parameters"
    return None


def optimizer_config(optimizer: torch.optim.Optimizer, model: nn.Module) -> OptimizerConfig | None:
    """Return the options that describe a torch optimizer over all of the model's parameters.

    None if none do: another class than SGD, Adam and AdamW, several parameter groups, hooks,
    or an option outside OptimizerConfig (``maximize``, ``differentiable``, a tensor as
    learning rate).
    """
    if len(optimizer.param_groups) != 1:
        return None
    group = optimizer.param_groups[0]
    if [id(p) for p in group["params"]] != [id(p) for p in model.parameters()]:
        return None
    if any(group.get(flag, False) for flag in ("maximize", "differentiable", "capturable")):
        return None
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return None
    if type(optimizer) is torch.optim.SGD:
        numbers = [group[key] for key in ("lr", "weight_decay", "momentum", "dampening")]
        if not all(isinstance(number, (int, float)) for number in numbers):
            return None
        lr, weight_decay, momentum, dampening = map(float, numbers)
        return SGD(
            name="sgd",
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            dampening=dampening,
            nesterov=bool(group["nesterov"]),
        )
    if type(optimizer) is torch.optim.Adam or type(optimizer) is torch.optim.AdamW:
        numbers = [group["lr"], group["weight_decay"], *group["betas"], group["eps"]]
        if not all(isinstance(number, (int, float)) for number in numbers):
            return None
        lr, weight_decay, beta1, beta2, eps = map(float, numbers)
        decoupled = group.get("decoupled_weight_decay", type(optimizer) is torch.optim.AdamW)
        return (AdamW if decoupled else Adam)(
            name="adamw" if decoupled else "adam",
            lr=lr,
            weight_decay=weight_decay,
            betas=[beta1, beta2],
            eps=eps,
            amsgrad=bool(group["amsgrad"]),
        )
    return None


def linears(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(name, m) for name, m in model.named_children() if isinstance(m, nn.Linear)]


def described(run: Run) -> OptimizerConfig | None:
    """Return the options of a run's optimizer, None where OptimizerConfig has no word for it."""
    if isinstance(run.optimizer, torch.optim.Optimizer):
        return optimizer_config(run.optimizer, run.model)
    return run.optimizer


def rule(config: OptimizerConfig) -> str:
    """Return which of MOMENTS an optimizer keeps, and by that its update rule."""
    if isinstance(config, AdamW):
        return "adamw"
    if isinstance(config, Adam):
        return "adam"
    assert isinstance(config, SGD)
    return "sgd" if config.momentum == 0 else "momentum"


def taken_over(run: Run) -> dict[str, Tensor]:
    """Return a run's initial weights and, from a torch optimizer that has any, its state."""
    state = {name: parameter.detach() for name, parameter in run.model.named_parameters()}
    if isinstance(run.optimizer, torch.optim.Optimizer):
        for name, parameter in run.model.named_parameters():
            for key, value in run.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    state[f"{name}.{key}"] = value
    return state
