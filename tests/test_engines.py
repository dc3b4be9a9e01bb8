"""Which engine trains what, and that it does not matter for the results."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import pickle
import statistics
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
)
from torch.nn.utils import parametrize
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.overrides import TorchFunctionMode
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import nnlab
from nnlab import datasets, seeds
from nnlab.config import SGD, Adam, EngineName
from nnlab.datasets import Split
from nnlab.datasets.arrays import Sizes
from nnlab.datasets.mnist import IdxConfig, Source
from nnlab.device import CPU, Device
from nnlab.engines import Engine, Run, choose_engine, library, native, stacked
from nnlab.engines.native import NativeEngine
from nnlab.engines.stacked import StackedEngine
from nnlab.engines.torch import TorchEngine
from nnlab.stopping import Epoch
from nnlab.training import train_runs
from tests import plain_loop
from tests.test_native import module_of

PLAIN = SGD("sgd", lr=0.01, weight_decay=0.0, momentum=0.0, dampening=0.0, nesterov=False)
compiled = pytest.mark.skipif(library.available() is not None, reason="no compiled library")


def run_of(model: nn.Module | None = None, **options: object) -> Run:
    split = Split.whole(torch.rand(20, 6), torch.arange(20) % 3)
    model = nnlab.mlp(6, [5], 3) if model is None else model
    return Run(model, **{"optimizer": PLAIN, "train": split, **options})  # type: ignore[arg-type]


@compiled
def test_auto_takes_the_native_engine_on_the_cpu() -> None:
    assert choose_engine(EngineName.auto, run_of(), CPU) == (NativeEngine, "the fastest on cpu")


def test_auto_takes_the_stacked_engine_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnlab.engines.stacked.unsupported_reason", lambda run, device: None)
    engine, reason = choose_engine(EngineName.auto, run_of(), Device("cuda", 0))
    assert (engine, reason) == (StackedEngine, "the fastest on cuda")


def test_asked_for_by_name() -> None:
    assert choose_engine(EngineName.torch, run_of(), CPU) == (TorchEngine, "asked for")
    assert choose_engine(EngineName.stacked, run_of(), CPU) == (StackedEngine, "asked for")


@compiled
def test_auto_falls_back_to_torch_and_says_why() -> None:
    engine, reason = choose_engine(EngineName.auto, run_of(nn.Sequential(nn.Conv1d(1, 1, 1))), CPU)
    assert engine is TorchEngine
    assert "Conv1d" in reason
    amsgrad = Adam("adam", lr=0.1, weight_decay=0.0, betas=[0.9, 0.99], eps=1e-8, amsgrad=True)
    engine, reason = choose_engine(EngineName.auto, run_of(optimizer=amsgrad), CPU)
    assert engine is TorchEngine
    assert "amsgrad" in reason


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "available", lambda: "install a C compiler")
    engine, reason = choose_engine(EngineName.auto, run_of(), CPU)
    assert engine is TorchEngine
    assert "install a C compiler" in reason
    with pytest.raises(ValueError, match=r"engine=native cannot .* install a C compiler"):
        choose_engine(EngineName.native, run_of(), CPU)


def test_what_an_engine_refuses_is_an_error_when_asked_for() -> None:
    strange = run_of(nn.Sequential(nn.Linear(6, 3), nn.Softmax(1)))
    with pytest.raises(ValueError, match=r"engine=stacked cannot .*: Softmax is none of"):
        choose_engine(EngineName.stacked, strange, CPU)


@compiled
def test_fit_takes_the_fast_engine_and_gives_the_same_result() -> None:
    inputs, labels = torch.rand(50, 6), torch.arange(50) % 3
    results = []
    for engine in ("auto", "torch"):
        model = nnlab.mlp(6, [5], 3, generator=torch.Generator().manual_seed(0))
        sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        both = (inputs, labels)
        results.append(
            nnlab.fit(model, both, both, both, optimizer=sgd, max_epochs=5, engine=engine)
        )
    assert [result.engine for result in results] == ["native", "torch"]
    losses = [result.metrics[["train_loss", "valid_loss"]].to_numpy() for result in results]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)  # float32, sums in another order


def accuracy(engine: type[Engine], seed: int) -> float:
    config = IdxConfig("mnist", True, False, Source.bundled, "")
    data = datasets.load(config, Sizes(200, 0, 1000), seed=seed)
    model = nnlab.mlp(784, [32], 10, generator=seeds.generator(seed, "weights"))
    sgd = SGD("sgd", lr=0.05, weight_decay=0.0, momentum=0.0, dampening=0.0, nesterov=False)
    order = seeds.generator(seed, "order")
    run = Run(model, sgd, data.train, test=data.test, max_epochs=15, order=order)
    for _ in train_runs([run], engine([run], CPU)):
        pass
    assert run.test_accuracy is not None
    return run.test_accuracy


@functools.cache
def torch_accuracy(seed: int) -> float:
    return accuracy(TorchEngine, seed)


@pytest.mark.slow
@pytest.mark.parametrize("engine", [pytest.param(NativeEngine, marks=compiled), StackedEngine])
def test_final_accuracy_over_20_seeds_differs_by_no_more_than_chance(engine: type[Engine]) -> None:
    """Paired by seed; a difference beyond 3 standard errors has a chance of 0.3 %."""
    reference = [torch_accuracy(seed) for seed in range(20)]
    differences = [accuracy(engine, seed) - reference[seed] for seed in range(20)]
    error = statistics.stdev(differences) / 20**0.5
    assert abs(statistics.mean(differences)) <= 3 * error + 1e-9
    assert statistics.mean(reference) > 0.6


# ---- what is the user's goes to torch ----


def layer(run: Run) -> nn.Linear:
    found = module_of(run).get_submodule("0")
    assert isinstance(found, nn.Linear)
    return found


def sgd(run: Run) -> torch.optim.Optimizer:
    if not isinstance(run.optimizer, torch.optim.Optimizer):
        run.optimizer = torch.optim.SGD(module_of(run).parameters(), lr=0.1, momentum=0.9)
    return run.optimizer


def doubled(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def twice(*arguments: Any, **options: Any) -> Any:
        return 2 * original(*arguments, **options)

    return twice


def trains_twice(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def twice(*arguments: Any, **options: Any) -> None:
        original(*arguments, **options)
        original(*arguments, **options)

    return twice


class Half(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


class TwiceSGD(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step(closure)
        super().step(closure)


class Marked(nn.Parameter):
    pass


class Passing(TorchFunctionMode):
    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        return function(*arguments, **(options or {}))


class Dispatching(TorchDispatchMode):
    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        return function(*arguments, **(options or {}))


def overlapping(run: Run) -> None:
    """The first layer's bias is the beginning of its weight."""
    layer(run).bias = nn.Parameter(layer(run).weight.detach().flatten()[:5])


def negative(run: Run) -> None:
    with torch.no_grad():
        layer(run).weight = nn.Parameter(torch.rand(5, 6, dtype=torch.complex64).conj().imag)


def expanded(run: Run) -> None:
    layer(run).bias = nn.Parameter(torch.zeros(1).expand(5))


def plain_tensor(run: Run) -> None:
    weight = layer(run).weight.detach().clone().requires_grad_()
    del layer(run).weight
    layer(run).weight = weight
    layer(run).register_parameter("other", nn.Parameter(torch.zeros(5, 6)))


def shadowed(run: Run) -> None:
    vars(layer(run))["weight"] = 2 * layer(run).weight


def weight_doubled(module: nn.Module) -> Any:
    return 2 * vars(module)["_parameters"]["weight"]


def data_in_common(run: Run, count: int) -> NDArray[np.float32]:
    """Examples [count, 6], the last of them the first layer's weight."""
    inputs = torch.rand(count, 6)
    layer(run).weight = nn.Parameter(inputs[-5:])
    return inputs.numpy()


def scheduled(run: Run) -> None:
    run.scheduler = torch.optim.lr_scheduler.StepLR(sgd(run), 1)  # type: ignore[attr-defined]


Change = Callable[[Run, contextlib.ExitStack], object]
USERS: dict[str, tuple[Change, str]] = {
    "gradient hook": (lambda run, _: layer(run).weight.register_hook(torch.neg), "hooks"),
    "hook on the gradient kept": (
        lambda run, _: layer(run).bias.register_post_accumulate_grad_hook(print),
        "hooks",
    ),
    "forward hook": (lambda run, _: module_of(run).register_forward_hook(print), "hooks"),
    "forward pre-hook": (lambda run, _: layer(run).register_forward_pre_hook(print), "hooks"),
    "backward hook": (lambda run, _: layer(run).register_full_backward_hook(print), "hooks"),
    "backward pre-hook": (
        lambda run, _: layer(run).register_full_backward_pre_hook(print),
        "hooks",
    ),
    "hook of all modules": (
        lambda _, stack: stack.enter_context(register_module_forward_hook(print)),
        "hooks on all modules",
    ),
    "pre-hook of all modules": (
        lambda _, stack: stack.enter_context(register_module_forward_pre_hook(print)),
        "hooks on all modules",
    ),
    "backward hook of all modules": (
        lambda _, stack: stack.enter_context(register_module_full_backward_hook(print)),
        "hooks on all modules",
    ),
    "hook of all optimizers": (
        lambda _, stack: stack.enter_context(register_optimizer_step_post_hook(print)),
        "hooks on all optimizers",
    ),
    "pre-hook of all optimizers": (
        lambda _, stack: stack.enter_context(register_optimizer_step_pre_hook(print)),
        "hooks on all optimizers",
    ),
    "hook of the optimizer": (lambda run, _: sgd(run).register_step_post_hook(print), "hooks"),
    "hook on saved tensors": (
        lambda _, stack: stack.enter_context(saved_tensors_hooks(torch.neg, torch.neg)),
        "hooks on saved tensors",
    ),
    "forward of the model": (
        lambda run, _: setattr(run.model, "forward", doubled(run.model.forward)),
        "Sequential was given forward",
    ),
    "forward of a layer": (
        lambda run, _: setattr(layer(run), "forward", doubled(layer(run).forward)),
        "Linear was given forward",
    ),
    "forward of a class": (
        lambda _, stack: stack.enter_context(
            mock.patch.object(nn.Linear, "forward", doubled(nn.Linear.forward))
        ),
        "Linear.forward was replaced",
    ),
    "call of all modules": (
        lambda _, stack: stack.enter_context(
            mock.patch.object(nn.Module, "__call__", doubled(nn.Module.__call__))
        ),
        "Sequential.__call__ was replaced",
    ),
    "a function of torch": (
        lambda _, stack: stack.enter_context(
            mock.patch.object(functional, "linear", doubled(functional.linear))
        ),
        "linear was replaced",
    ),
    "step of the optimizer": (
        lambda run, _: setattr(sgd(run), "step", trains_twice(sgd(run).step)),
        "a method of the optimizer was replaced",
    ),
    "step of its class": (
        lambda run, stack: stack.enter_context(
            mock.patch.object(type(sgd(run)), "step", trains_twice(type(sgd(run)).step))
        ),
        "SGD.step was replaced",
    ),
    "subclass of SGD": (
        lambda run, _: setattr(run, "optimizer", TwiceSGD(module_of(run).parameters(), lr=0.1)),
        "TwiceSGD",
    ),
    "scheduler": (lambda run, _: scheduled(run), "a learning rate scheduler does so"),
    "moments of its own": (
        lambda run, _: sgd(run).state[layer(run).weight].update(average=torch.zeros(5, 6)),
        "the optimizer keeps average",
    ),
    "moments of another shape": (
        lambda run, _: sgd(run).state[layer(run).weight].update(momentum_buffer=torch.zeros(6)),
        "momentum_buffer) is not like its parameter",
    ),
    "parametrization": (
        lambda run, _: parametrize.register_parametrization(layer(run), "weight", Half()),
        "ParametrizedLinear",
    ),
    "weight norm": (
        lambda run, _: nn.utils.parametrizations.weight_norm(layer(run)),
        "ParametrizedLinear",
    ),
    "spectral norm": (lambda run, _: nn.utils.spectral_norm(layer(run)), "hooks"),
    "memory in common": (lambda run, _: overlapping(run), "share memory"),
    "memory of itself": (lambda run, _: expanded(run), "plain, contiguous"),
    "negative view": (lambda run, _: negative(run), "plain, contiguous"),
    "transposed": (
        lambda run, _: setattr(layer(run), "weight", nn.Parameter(torch.rand(6, 5).T)),
        "plain, contiguous",
    ),
    "subclass of Parameter": (
        lambda run, _: setattr(layer(run), "bias", Marked(torch.zeros(5))),
        "Marked",
    ),
    "a tensor for a parameter": (lambda run, _: plain_tensor(run), "Linear was given"),
    "a weight before the weight": (lambda run, _: shadowed(run), "Linear was given weight"),
    "broadcast bias": (
        lambda run, _: setattr(layer(run), "bias", nn.Parameter(torch.zeros(1))),
        r"shapes of Linear",
    ),
    "compiled": (  # what model.compile() sets
        lambda run, _: setattr(run.model, "_compiled_call_impl", module_of(run)._call_impl),
        "Sequential was given _compiled_call_impl",
    ),
    "frozen": (lambda run, _: layer(run).bias.requires_grad_(False), "frozen"),
    "autocast": (
        lambda _, stack: stack.enter_context(torch.autocast("cpu", torch.bfloat16)),
        "autocast",
    ),
    "anomaly detection": (
        lambda _, stack: stack.enter_context(torch.autograd.set_detect_anomaly(True)),
        "anomaly",
    ),
    "mode of functions": (lambda _, stack: stack.enter_context(Passing()), "mode"),
    "mode of dispatch": (
        lambda _, stack: stack.enter_context(Dispatching()),  # type: ignore[no-untyped-call]
        "mode",
    ),
    "weight of a class": (
        lambda _, stack: stack.enter_context(
            mock.patch.object(nn.Linear, "weight", property(weight_doubled), create=True)
        ),
        "Linear.weight was replaced",
    ),
    "modules of a class": (
        lambda _, stack: stack.enter_context(
            mock.patch.object(nn.Sequential, "__iter__", doubled(nn.Sequential.__iter__))
        ),
        "Sequential.__iter__ was replaced",
    ),
    "gradients of its class": (
        lambda run, stack: stack.enter_context(
            mock.patch.object(type(sgd(run)), "_init_group", trains_twice(print))
        ),
        "SGD._init_group was replaced",
    ),
    "rule of its module": (
        lambda run, stack: stack.enter_context(
            mock.patch.object(
                sys.modules[type(sgd(run)).__module__], "_single_tensor_sgd", trains_twice(print)
            )
        ),
        "_single_tensor_sgd was replaced",
    ),
    "gradients of torch": (
        lambda _, stack: stack.enter_context(
            mock.patch.object(torch.autograd, "backward", trains_twice(torch.autograd.backward))
        ),
        "backward was replaced",
    ),
    "a built-in function for torch's": (
        lambda _, stack: stack.enter_context(mock.patch.object(functional, "relu", torch.tanh)),
        "relu was replaced",
    ),
    "data in common": (
        lambda run, _: setattr(run.train, "inputs", data_in_common(run, 20)),
        "the train inputs share memory with 0.weight",
    ),
    "validation data in common": (
        lambda run, _: setattr(
            run, "valid", Split.whole(data_in_common(run, 20)[10:], torch.zeros(10).long())
        ),
        "the valid inputs share memory with 0.weight",
    ),
    "rate as a tensor": (
        lambda run, _: sgd(run).param_groups[0].update(lr=torch.tensor(0.1)),
        "is not a plain SGD",
    ),
}


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.spectral_norm` is deprecated")
@pytest.mark.parametrize("name", USERS)
def test_what_is_the_users_is_for_torch(name: str) -> None:
    change, expected = USERS[name]
    if "saved" in name and not hasattr(torch._C._autograd, "_top_saved_tensors_default_hooks"):
        pytest.skip("before torch 2.8 nothing tells")
    run = run_of()
    with contextlib.ExitStack() as stack:
        change(run, stack)
        for unsupported_reason in (native.unsupported_reason, stacked.unsupported_reason):
            assert expected in (unsupported_reason(run, CPU) or "")
        if library.available() is None:
            engine, reason = choose_engine(EngineName.auto, run, CPU)
            assert engine is TorchEngine
            assert expected in reason


@compiled
@pytest.mark.parametrize("name", ["gradient hook", "forward of a class", "step of the optimizer"])
def test_fit_computes_with_what_is_the_users(name: str) -> None:
    """The weights are those of a loop written out, with the same code of the user's in it."""
    change, expected = USERS[name]
    inputs, labels = torch.rand(20, 6), torch.arange(20) % 3
    models = []
    for fits in (True, False):
        run = run_of(nnlab.mlp(6, [5], 3, generator=torch.Generator().manual_seed(0)))
        optimizer = sgd(run)
        with contextlib.ExitStack() as stack:
            change(run, stack)
            models.append(module_of(run))
            if fits:
                data = inputs, labels
                result = nnlab.fit(
                    module_of(run), data, optimizer=optimizer, max_epochs=2, shuffle=False
                )
                assert (result.engine, expected in result.engine_reason) == ("torch", True)
            else:
                plain_loop.train(module_of(run), inputs, labels, optimizer, 10, [range(20)] * 2)
    assert_close(models[0].state_dict(), models[1].state_dict(), rtol=0, atol=0)


class Halving:
    """A rule that looks at the weights after each epoch, and halves those of the first layer."""

    restore = None

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def update(self, epoch: Epoch) -> str | None:
        weight = self.model.get_parameter("0.weight")
        weight.data.mul_(0.5)
        return f"{weight.sum():.4f}" if epoch.epoch == 3 else None


class Impatient(nnlab.Patience):
    pass


def changed_itself() -> nnlab.Budget:
    rule = nnlab.Budget(60)
    rule.update = print  # type: ignore[assignment,method-assign]
    return rule


def test_a_rule_of_the_users_is_for_torch() -> None:
    """It may look at the model, or change it, after every epoch."""
    rules: list[Any] = [Halving(nnlab.mlp(6, [5], 3)), Impatient(), changed_itself()]
    for rule in rules:
        run = run_of(stopping=rule)
        engine, reason = choose_engine(EngineName.auto, run, CPU)
        assert engine is TorchEngine
        if library.available() is None:
            assert f"stopping rule {type(rule).__name__}" in reason
        with pytest.raises(ValueError, match=r"engine=stacked cannot .* stopping rule"):
            choose_engine(EngineName.stacked, run, CPU)
    for rule in (nnlab.Patience(), nnlab.Plateau(), nnlab.Target(0.9), nnlab.Budget(60)):
        run = run_of(stopping=rule)
        assert choose_engine(EngineName.stacked, run, CPU) == (StackedEngine, "asked for")
        for name, new in (("update", print), ("restore", property(id)), ("__deepcopy__", id)):
            with mock.patch.object(type(rule), name, new, create=True):
                assert choose_engine(EngineName.auto, run, CPU)[0] is TorchEngine
        inspect.get_annotations(type(rule))  # Python may note them in the class
        assert choose_engine(EngineName.stacked, run, CPU) == (StackedEngine, "asked for")


@compiled
def test_fit_computes_with_a_rule_of_the_users() -> None:
    inputs, labels = torch.rand(20, 6), torch.arange(20) % 3
    theirs, ours = [
        nnlab.mlp(6, [5], 3, generator=torch.Generator().manual_seed(0)) for _ in range(2)
    ]
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for _ in range(3):
        plain_loop.train(theirs, inputs, labels, optimizer, 10, [range(20)])
        theirs.get_parameter("0.weight").data.mul_(0.5)
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)
    data, rule = (inputs, labels), Halving(ours)
    result = nnlab.fit(ours, data, data, optimizer=optimizer, stopping=rule, shuffle=False)
    assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    assert result.stop_reason == f"{theirs.get_parameter('0.weight').sum():.4f}"


@compiled
def test_what_changes_no_number_is_taken() -> None:
    run = run_of()
    model = module_of(run)
    model.register_buffer("seen", torch.zeros(1))
    layer(run).weight.register_hook(torch.neg).remove()
    layer(run).register_forward_hook(print).remove()
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    for parameter, part in zip(
        model.parameters(), flat.split([p.numel() for p in model.parameters()])
    ):
        parameter.data = part.view_as(parameter)  # side by side, but apart
    run.optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)
    for unsupported_reason in (native.unsupported_reason, stacked.unsupported_reason):
        assert unsupported_reason(run, CPU) is None
    copied = run_of(pickle.loads(pickle.dumps(copy.deepcopy(nnlab.mlp(6, [5], 3)))))
    assert choose_engine(EngineName.auto, copied, CPU)[0] is NativeEngine


@compiled
def test_what_the_module_mode_is_does_not_matter() -> None:
    """Frozen averages and the like are the caller's: every part is as it was afterwards."""
    for engine in ("torch", "native"):
        model = nnlab.mlp(6, [5], 3).eval()
        model[1].train()
        modes = [module.training for module in model.modules()]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        both = torch.rand(20, 6), torch.arange(20) % 3
        nnlab.fit(model, both, both, optimizer=optimizer, max_epochs=1, engine=engine)
        assert [module.training for module in model.modules()] == modes
        nnlab.evaluate(model, both)
        nnlab.train_epoch(model, both, optimizer)
        assert [module.training for module in model.modules()] == modes
