"""torch's modules and optimizers, where engines that train numbers take them: what these take, and
the numbers.

Nothing here makes a torch optimizer: the first one imports torch._dynamo, which takes a second.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable, Sequence
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as all_modules
from torch.optim import optimizer as all_optimizers

from nnlab.config import SGD, Adam, AdamW, OptimizerConfig
from nnlab.dropout import KeyedDropout
from nnlab.engines import Run, State, below
from nnlab.model import ACTIVATIONS as MODULES
from nnlab.model import Shaped
from nnlab.perceptron import MLP, TRAINED, Layer

ACTIVATIONS = {MODULES[name]: name for name in TRAINED}
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


def unsupported_model(model: nn.Module, dtypes: Sequence[str]) -> str | None:
    """Return what ``supported.unsupported_model`` does."""
    return (
        unsupported_layers(model)
        or unsupported_parameters(model, dtypes)
        or unsupported_surroundings()
        or without_numbers(lambda: perceptron(model))
    )


def without_numbers(read: Callable[[], object]) -> str | None:
    """Return why ``numbers`` cannot read some tensors; None if it can."""
    try:
        read()
    except ValueError as error:
        return str(error)
    return None


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
    sizes = [(linear.in_features, linear.out_features) for linear in linears(model)]
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


def unsupported_parameters(model: nn.Module, dtypes: Sequence[str]) -> str | None:
    parameters = list(model.parameters())
    if len(parameters) != sum(1 + has_bias(linear) for linear in linears(model)):
        return "two layers share a parameter"
    for parameter in parameters:
        if type(parameter) is not nn.Parameter:
            return f"a parameter is a {type(parameter).__name__}, not nn.Parameter"
        kinds = [getattr(torch, each) for each in dtypes]
        if parameter.dtype != parameters[0].dtype or parameter.dtype not in kinds:
            names = " or ".join(map(str, kinds))
            return f"a parameter is {parameter.dtype}; all must be {names}"
        if not parameter.requires_grad:
            return "a parameter is frozen (requires_grad=False)"
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            return "a parameter has hooks"
        if not is_plain(parameter):
            return "a parameter is not a plain, contiguous tensor"
    spans = sorted((p.data_ptr(), end_of(p)) for p in parameters)
    if any(end > start for (_, end), (start, _) in itertools.pairwise(spans)):
        return "two parameters share memory"
    return None


def end_of(tensor: Tensor) -> int:
    """Return where a contiguous tensor's memory ends, which may have been made too small for it."""
    memory = tensor.untyped_storage()
    return min(tensor.data_ptr() + tensor.nbytes, memory.data_ptr() + memory.nbytes())


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


def unsupported_optimizer(optimizer: torch.optim.Optimizer) -> str:
    """Return why ``optimizer_config`` has no options for an optimizer."""
    return changed_optimizer(optimizer) or (
        f"the {type(optimizer).__name__} instance is not a plain SGD, Adam or AdamW "
        f"over all parameters in one group"
    )


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
    return without_numbers(lambda: moments(optimizer, model))


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


def linears(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.children() if isinstance(module, nn.Linear)]


def has_bias(linear: nn.Linear) -> bool:
    return linear.bias is not None  # which torch's stubs say is always so


# ---- the numbers ----


def perceptron(model: nn.Module) -> MLP:
    """Return a model that ``unsupported_model`` has nothing against, in its own memory where that
    is the CPU's. Raises ValueError as ``numbers`` does."""
    assert isinstance(model, nn.Sequential)
    names = {module: name for name, module in model.named_children()}
    layers: list[Layer] = []
    for module in model:  # not its children: layers may share an activation
        if isinstance(module, nn.Linear):
            name = names[module]
            bias = numbers(module.bias, f"{name}.bias") if has_bias(module) else None
            layers.append(Layer(name, numbers(module.weight, f"{name}.weight"), bias))
        elif isinstance(module, KeyedDropout):
            layers[-1].dropout = module.p
        elif type(module) in ACTIVATIONS:
            layers[-1].activation = ACTIVATIONS[type(module)]
    return MLP(layers)


def moments(optimizer: torch.optim.Optimizer, model: nn.Module) -> State:
    """Return the state of an optimizer by torch's names (``0.weight.momentum_buffer``)."""
    return {
        f"{name}.{key}": numbers(value, f"{name}.{key}")
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


@torch.no_grad()
def hand_over(state: State, run: Run) -> None:
    """Put the trained weights into the run's module, and its optimizer's state into that.

    Raises ValueError where the module's weights have lost their memory meanwhile.
    """
    assert isinstance(run.model, nn.Module)
    for name, parameter in run.model.named_parameters():
        numbers(parameter, name)
        parameter.copy_(torch.from_numpy(state[name]))
        kept = below(state, f"{name}.")
        if kept and isinstance(run.optimizer, torch.optim.Optimizer):
            run.optimizer.state[parameter] = {
                key: torch.tensor(v).to("cpu" if key == "step" else parameter.device)
                for key, v in kept.items()
            }


def numbers(tensor: Tensor, name: str) -> NDArray[Any]:
    """Return a tensor as an array, of the same memory where that is the CPU's.

    torch refuses to resize that memory from now on, in any thread.
    Raises ValueError where the numbers do not lie in memory as shape and strides say: of another
    layout, a subclass, fake, functional, wrapped by a transform, negated when it is read, or with
    a storage that was made too small.
    """
    if type(tensor) is not Tensor and type(tensor) is not nn.Parameter:
        raise ValueError(f"{name}: a {type(tensor).__name__}, not a plain tensor")
    if tensor.layout is not torch.strided or tensor.is_nested:
        raise ValueError(f"{name}: not a strided tensor ({tensor.layout})")
    if tensor.is_neg() or tensor.is_conj():
        raise ValueError(f"{name}: a view that negates or conjugates its numbers when it is read")
    try:
        plain = tensor.detach().cpu()  # its shape and storage are its own
        array: NDArray[Any] = plain.numpy()
        size = plain.untyped_storage().nbytes()
    except (RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{name}: a tensor without memory ({reason})") from error
    last = sum((length - 1) * stride for length, stride in zip(plain.shape, plain.stride()))
    needed = (plain.storage_offset() + last + 1) * plain.element_size()
    if plain.numel() > 0 and (plain.data_ptr() == 0 or needed > size):
        raise ValueError(f"{name}: a tensor without the {needed} bytes of memory of its shape")
    if not array.flags.aligned:
        raise ValueError(f"{name}: not aligned to its numbers of {plain.element_size()} bytes")
    return array
