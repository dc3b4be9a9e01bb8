"""What the native and the stacked engine take: perceptrons, and the optimizers they know.

Nothing here makes a torch optimizer: the first one imports torch._dynamo, which takes a second.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Sequence
from types import BuiltinFunctionType, FunctionType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as all_modules
from torch.optim import optimizer as all_optimizers

from nnlab.config import SGD, Adam, AdamW, OptimizerConfig
from nnlab.dropout import KeyedDropout
from nnlab.engines import Run
from nnlab.losses import CrossEntropy
from nnlab.model import Shaped

ACTIVATIONS: tuple[type[nn.Module], ...] = (nn.Identity, nn.ReLU, nn.Tanh, nn.Sigmoid)
# What a module has as torch makes it.
ATTRIBUTES: dict[type[nn.Module], frozenset[str]] = {
    type(module): frozenset(vars(module))
    for module in (
        nn.Sequential(),
        nn.Linear(1, 1, device="meta"),
        *(kind() for kind in ACTIVATIONS),
        KeyedDropout(0.5),
    )
}
OPTIMIZERS: tuple[type[torch.optim.Optimizer], ...] = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
)


def is_torchs(function: object) -> bool:
    """Return whether this is a function that torch defines, as is whatever it wraps.

    ``__module__`` does not tell: functools.wraps copies it.
    """
    if not isinstance(function, FunctionType):
        return False
    module = function.__globals__["__name__"]
    # The decorator of typing_extensions only warns of what is deprecated.
    if not module.startswith("torch.") and module != "typing_extensions":
        return False
    wrapped = getattr(function, "__wrapped__", None)
    return wrapped is None or isinstance(wrapped, BuiltinFunctionType) or is_torchs(wrapped)


def unless_replaced(found: object) -> object:
    """Return what an import found, or None for a function of somebody else's."""
    return None if isinstance(found, FunctionType) and not is_torchs(found) else found


# What runs in a step, as it was when nnlab was imported.
CLASSES: tuple[type, ...] = (nn.Module, *ATTRIBUTES, torch.optim.Optimizer, *OPTIMIZERS)
CODE = {kind: {name: unless_replaced(v) for name, v in vars(kind).items()} for kind in CLASSES}
CODE[KeyedDropout] = dict(vars(KeyedDropout))  # the one that is nnlab's
STEPS = re.compile(r"sgd|adamw?|_(single_tensor|multi_tensor|fused)_\w+")
FUNCTIONS = {
    (owner, name): unless_replaced(getattr(owner, name))
    for owner, names in (
        (functional, ("linear", "relu")),
        (torch, ("relu", "tanh", "sigmoid")),
        (torch._C._nn, ("cross_entropy_loss", "mse_loss")),
        (Tensor, ("backward",)),
        (torch.autograd, ("backward",)),
        *(
            (module, tuple(filter(STEPS.fullmatch, vars(module))))
            for module in (sys.modules[kind.__module__] for kind in OPTIMIZERS)
        ),
    )
    for name in names
}
# A snapshot's count of optimizer steps. torch's own is a float32, which ends at 2^24.
STEP_COUNT = "steps"
# What each update rule keeps per parameter, in torch's words.
MOMENTS = {
    "sgd": (),
    "momentum": ("momentum_buffer",),
    "adam": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
}


def unsupported_model(model: nn.Module, dtypes: Sequence[torch.dtype]) -> str | None:
    """Return why a model is not a perceptron of one of these types; None if it is.

    One is ``nn.Sequential`` of ``nn.Linear``, with one of ACTIVATIONS or nothing between them, and
    perhaps KeyedDropout after that, all of it trained, as torch and nnlab make them: nothing of the
    user's (hooks, patched methods, parametrizations) takes part in a step.
    """
    return (
        unsupported_layers(model)
        or unsupported_parameters(model, dtypes)
        or unsupported_surroundings()
    )


def unsupported_layers(model: nn.Module) -> str | None:
    if isinstance(model, Shaped):
        return "the network takes examples in their own shape, as convolutions do"
    if type(model) is not nn.Sequential:
        return f"the model is {type(model).__name__}, not nn.Sequential"
    if (name := replaced(nn.Sequential)) is not None:  # it says what the modules are
        return f"Sequential.{name} was replaced"
    before: nn.Module | None = None
    seen: set[nn.Module] = set()
    for module in model:
        if type(module) is nn.Linear:
            if module in seen:
                return "the model has one nn.Linear in two places"
            seen.add(module)
        elif type(module) in ACTIVATIONS:
            if type(before) is not nn.Linear:
                return f"{type(module).__name__} does not follow an nn.Linear"
        elif type(module) is KeyedDropout:
            if type(before) not in (nn.Linear, *ACTIVATIONS):
                return "KeyedDropout does not follow an nn.Linear or its activation"
        else:
            taken: tuple[type[nn.Module], ...] = (nn.Linear, *ACTIVATIONS, KeyedDropout)
            names = ", ".join(kind.__name__ for kind in taken)
            return f"{type(module).__name__} is none of {names}"
        before = module
    if type(before) is not nn.Linear:
        return "the model does not end with an nn.Linear"
    for module in (model, *model):
        reason = unsupported_module(module)
        if reason is not None:
            return reason
    sizes = [(linear.in_features, linear.out_features) for _, linear in linears(model)]
    if any(sizes[i][1] != sizes[i + 1][0] for i in range(len(sizes) - 1)):
        return "the sizes of two neighbouring layers do not fit"
    if min(min(pair) for pair in sizes) < 1:
        return "a layer has no inputs or no outputs"
    return None


def unsupported_module(module: nn.Module) -> str | None:
    """Return what a module of a perceptron has that torch or nnlab did not give it."""
    kind = type(module)
    if any(value for name, value in vars(module).items() if name.endswith("hooks")):
        return "the model has hooks"
    added = vars(module).keys() - ATTRIBUTES[kind]
    added |= module._parameters.keys() - ({"weight", "bias"} if kind is nn.Linear else set())
    added |= module._modules.keys() if kind is not nn.Sequential else set()
    if added:
        return f"{kind.__name__} was given {', '.join(sorted(added))}"
    if (name := replaced(kind)) is not None:
        return f"{kind.__name__}.{name} was replaced"
    if isinstance(module, nn.Linear):
        shapes = [parameter.shape for parameter in module.parameters()]
        expected = [(module.out_features, module.in_features), (module.out_features,)]
        if shapes != expected[: 2 if has_bias(module) else 1]:
            return f"the shapes of {module} are {', '.join(str(list(s)) for s in shapes)}"
    return None


def replaced(kind: type) -> str | None:
    """Return which method or property of a class, its own or inherited, is not as it was made."""
    for owner in kind.__mro__[:-1]:
        for name, found in vars(owner).items():
            if found is CODE[owner].get(name) or is_torchs(found):
                continue
            if callable(found) or hasattr(found, "__get__"):
                return name
    return None


def unsupported_parameters(model: nn.Module, dtypes: Sequence[torch.dtype]) -> str | None:
    parameters = list(model.parameters())
    if len(parameters) != sum(1 + has_bias(linear) for _, linear in linears(model)):
        return "two layers share a parameter"
    for parameter in parameters:
        if type(parameter) is not nn.Parameter:
            return f"a parameter is a {type(parameter).__name__}, not nn.Parameter"
        if parameter.dtype != parameters[0].dtype or parameter.dtype not in dtypes:
            names = " or ".join(str(each) for each in dtypes)
            return f"a parameter is {parameter.dtype}; all must be {names}"
        if not parameter.requires_grad:
            return "a parameter is frozen (requires_grad=False)"
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            return "a parameter has hooks"
        if not is_plain(parameter):
            return "a parameter is not a plain, contiguous tensor"
    spans = sorted((p.data_ptr(), p.data_ptr() + p.nbytes) for p in parameters)
    if any(end > start for (_, end), (start, _) in itertools.pairwise(spans)):
        return "two parameters share memory"
    return None


def is_plain(tensor: object) -> bool:
    """Return whether this is a tensor of contiguous numbers in memory, for torch nothing else.

    Not if it is sparse, quantized, a negative view, wrapped by a transformation of functions,
    or made in inference mode.
    """
    if not isinstance(tensor, Tensor):
        return False
    plain = torch.empty(0, device=tensor.device)
    keys, usual = torch._C._dispatch_keys(tensor), torch._C._dispatch_keys(plain)
    return keys.raw_repr() == usual.raw_repr() and tensor.is_contiguous()


def unsupported_surroundings() -> str | None:
    """Return what is set in all of torch that would take part in a step; None if nothing is."""
    for way, hooks in itertools.product(("forward", "backward"), ("pre_hooks", "hooks")):
        if getattr(all_modules, f"_global_{way}_{hooks}"):
            return "there are hooks on all modules"
    if all_optimizers._global_optimizer_pre_hooks or all_optimizers._global_optimizer_post_hooks:
        return "there are hooks on all optimizers"
    saved = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)  # torch 2.8
    if saved is not None and saved(False) is not None:
        return "there are hooks on saved tensors"
    if any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")):
        return "autocast is on"
    if torch.is_anomaly_enabled():
        return "anomaly detection is on"
    if torch._C._len_torch_function_stack() > 0 or torch._C._len_torch_dispatch_stack() > 0:
        return "a mode of torch functions is on (a default device is one)"
    for (owner, name), before in FUNCTIONS.items():
        found = getattr(owner, name)
        if found is not before and not is_torchs(found):
            return f"torch's function {name} was replaced"
    return None


def unsupported_loss(run: Run) -> str | None:
    """Return why a run's loss does not fit its perceptron; None if it does."""
    outputs = linears(run.model)[-1][1].out_features
    weights = run.loss.weights if isinstance(run.loss, CrossEntropy) else None
    if weights is not None and len(weights) != outputs:
        return f"the loss has weights of {len(weights)} classes, the model {outputs} outputs"
    return None


def targets_of(run: Run) -> int | None:
    """Return how many numbers a perceptron is to predict; None where it is to tell classes."""
    if isinstance(run.loss, CrossEntropy):
        return None
    outputs: int = linears(run.model)[-1][1].out_features
    return outputs


def unsupported_optimizer(run: Run) -> str | None:
    """Return why a run's optimizer is none of SGD, Adam and AdamW; None if it is."""
    config = optimizer_of(run)
    if config is None:
        assert isinstance(run.optimizer, torch.optim.Optimizer)
        return changed_optimizer(run.optimizer) or (
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
        return unsupported_moments(run.optimizer, run.model, MOMENTS[rule(config)])
    return None


def unsupported_moments(
    optimizer: torch.optim.Optimizer, model: nn.Module, keys: tuple[str, ...]
) -> str | None:
    """Return why the state of an optimizer that has taken steps cannot be taken over."""
    states = [optimizer.state.get(parameter, {}) for parameter in model.parameters()]
    for parameter, state in zip(model.parameters(), states):
        kept = {k: v for k, v in state.items() if k != "step" and v is not None}
        if not kept.keys() <= set(keys):
            return f"the optimizer keeps {', '.join(kept)}"
        if not all(
            is_plain(moment) and moment.shape == parameter.shape for moment in kept.values()
        ):
            return f"a moment of the optimizer ({', '.join(kept)}) is not like its parameter"
    present = {tuple(state.get(key) is not None for key in keys) for state in states}
    steps = {float(state["step"]) for state in states if "step" in state}
    if len(present) > 1 or len(steps) > 1:
        return "the optimizer has taken unlike numbers of steps for different parameters"
    return None


def optimizer_config(optimizer: torch.optim.Optimizer, model: nn.Module) -> OptimizerConfig | None:
    """Return the options that describe a torch optimizer over all of the model's parameters.

    None if none do: another class than SGD, Adam and AdamW, several parameter groups, a change
    to what it does, or an option outside OptimizerConfig (``maximize``, ``differentiable``, a
    tensor as learning rate).
    """
    if len(optimizer.param_groups) != 1:
        return None
    group = optimizer.param_groups[0]
    if [id(p) for p in group["params"]] != [id(p) for p in model.parameters()]:
        return None
    if any(group.get(flag, False) for flag in ("maximize", "differentiable", "capturable")):
        return None
    if changed_optimizer(optimizer) is not None:
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


def changed_optimizer(optimizer: torch.optim.Optimizer) -> str | None:
    """Return what an SGD, Adam or AdamW does that torch did not give it; None if nothing."""
    kind = type(optimizer)
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return "the optimizer has hooks"
    if any(hasattr(kind, name) for name in vars(optimizer)):
        return "a method of the optimizer was replaced (a learning rate scheduler does so)"
    name = replaced(kind) if kind in OPTIMIZERS else None
    return f"{kind.__name__}.{name} was replaced" if name is not None else None


def linears(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(name, m) for name, m in model.named_children() if isinstance(m, nn.Linear)]


class Layer(NamedTuple):
    """A layer of a perceptron, and what becomes of its outputs."""

    linear: nn.Linear
    activation: type[nn.Module] = nn.Identity
    dropout: float = 0.0  # the probability that an output is dropped


def layers(model: nn.Module) -> list[Layer]:
    assert isinstance(model, nn.Sequential)
    found: list[Layer] = []
    for module in model:  # not its children: layers may share an activation
        if isinstance(module, nn.Linear):
            found.append(Layer(module))
        elif isinstance(module, KeyedDropout):
            found[-1] = found[-1]._replace(dropout=module.p)
        elif type(module) in ACTIVATIONS:
            found[-1] = found[-1]._replace(activation=type(module))
    return found


def has_bias(linear: nn.Linear) -> bool:
    return linear.bias is not None  # which torch's stubs say is always so


def optimizer_of(run: Run) -> OptimizerConfig | None:
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


def unsupported_shared_memory(run: Run) -> str | None:
    """Return which inputs change as the run trains, lying where its weights do; None if none."""
    changing = {name: memory_of(tensor) for name, tensor in initial_state(run).items()}
    for part in ("train", "valid", "test"):
        split = getattr(run, part)
        start, end = (0, 0) if split is None else memory_of(split.inputs)
        for name, (low, high) in changing.items():
            if start < high and low < end:
                return f"the {part} inputs share memory with {name}"
    return None


def memory_of(tensor: Tensor) -> tuple[int, int]:
    """Return where the numbers of a strided tensor begin and end in memory, in bytes."""
    last = sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.stride()))
    start = tensor.data_ptr()
    return start, start + (last + 1) * tensor.element_size()


def initial_state(run: Run) -> dict[str, Tensor]:
    """Return a run's initial weights and, from a torch optimizer that has any, its state."""
    state = {name: parameter.detach() for name, parameter in run.model.named_parameters()}
    if isinstance(run.optimizer, torch.optim.Optimizer):
        for name, parameter in run.model.named_parameters():
            for key, value in run.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    state[f"{name}.{key}"] = value
    return state
