"""Options of networks and their training: every engine that takes them, against a plain loop."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.testing import assert_close

import nnlab
from nnlab import seeds
from nnlab.config import SGD, Adam, AdamW, EngineName, OptimizerConfig
from nnlab.datasets import Split
from nnlab.engines import Engine, Run, choose_engine, library
from nnlab.engines.native import NativeEngine
from nnlab.engines.stacked import StackedEngine
from nnlab.engines.torch import TorchEngine, build_optimizer
from nnlab.training import train_runs
from tests import plain_loop
from tests.test_checkpoint import assert_same, undisturbed
from tests.test_checkpoint import train as interrupted

CPU = torch.device("cpu")
compiled = pytest.mark.skipif(library.available() is not None, reason="no compiled library")
ENGINES = [TorchEngine, pytest.param(NativeEngine, marks=compiled), StackedEngine]
OPTIMIZERS = [SGD(lr=0.1), SGD(lr=0.05, momentum=0.9, weight_decay=0.01), Adam(eps=1e-3), AdamW()]
# Sums of float32 in another order, passed on through some hundred steps.
CLOSE: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-4}
EPOCHS = 8


def make_run(optimizer: OptimizerConfig, seed: int = 0, size: int = 60, **network: Any) -> Run:
    """Return the same run every time; the last batch of an epoch is a shorter one."""
    draws = torch.Generator().manual_seed(seed)
    inputs = torch.randn(80, 12, generator=draws)
    labels = (inputs[:, :4] + torch.randn(80, 4, generator=draws)).argmax(1)
    weights = torch.Generator().manual_seed(seed)
    return Run(
        nnlab.mlp(12, [9, 7], 4, network.pop("activation", "relu"), weights, **network),
        optimizer,
        Split(inputs, labels, torch.arange(size)),
        Split(inputs, labels, torch.arange(size, 80)),
        batch_size=7,
        max_epochs=EPOCHS,
        order=seeds.generator(seed, "order"),
    )


def train(runs: list[Run], engine: type[Engine]) -> list[Run]:
    for _ in train_runs(runs, engine(runs, CPU)):
        pass
    return runs


def schedulers(optimizer: torch.optim.Optimizer, options: OptimizerConfig) -> Any:
    """Return torch's scheduler of some options."""
    if options.schedule == "step":
        return lr_scheduler.StepLR(optimizer, options.step_size, options.gamma)
    if options.schedule == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    return lr_scheduler.ReduceLROnPlateau(optimizer, "min", options.gamma, options.patience)


def plain(make: Callable[[], Run], **options: Any) -> tuple[nn.Module, list[tuple[float, float]]]:
    """Train a run's network by the plain loop; return it, and loss and accuracy of each epoch."""
    run = make()
    assert isinstance(run.optimizer, OptimizerConfig)
    draws = seeds.generator(0, "order")
    orders = [torch.randperm(len(run.train), generator=draws).tolist() for _ in range(EPOCHS)]
    model = copy.deepcopy(run.model)
    optimizer = build_optimizer(run.optimizer, model)
    options |= {name: getattr(run.optimizer, name) for name in ("l1", "l2", "clip_norm")}
    if run.optimizer.scheduled:
        scheduler = schedulers(optimizer, run.optimizer)
        plateau = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
        options["after_epoch"] = lambda loss: scheduler.step(*[loss] * plateau)
    data = run.train.inputs[run.train.index], run.train.labels[run.train.index]
    return model, plain_loop.train(model, *data, optimizer, run.batch_size, orders, **options)


def assert_as_plain(make: Callable[[], Run], engine: type[Engine], **options: Any) -> Run:
    """Train a run in an engine; compare all weights and what every epoch measured."""
    oracle, history = plain(make, **options)
    (run,) = train([make()], engine)
    assert_close(run.model.state_dict(), oracle.state_dict(), **CLOSE)
    measured = [(row.train_loss, row.train_accuracy) for row in run.epochs]
    assert_close(torch.tensor(measured), torch.tensor(history), **CLOSE)
    return run


# ---- biases ----


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda each: each.name)
def test_layers_without_biases(engine: type[Engine], optimizer: OptimizerConfig) -> None:
    run = assert_as_plain(lambda: make_run(optimizer, bias=False), engine)
    assert list(run.model.state_dict()) == ["0.weight", "2.weight", "4.weight"]


@pytest.mark.parametrize("engine", ENGINES)
def test_some_layers_without_biases(engine: type[Engine]) -> None:
    def make() -> Run:
        run = make_run(Adam(eps=1e-3))
        layer = nn.Linear(9, 7, bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.linspace(-1, 1, 63).view(7, 9))
        run.model.register_module("2", layer)
        return run

    assert_as_plain(make, engine)


# ---- schedules ----


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda each: each.name)
@pytest.mark.parametrize("name", ["step", "cosine", "plateau"])
def test_schedules(engine: type[Engine], optimizer: OptimizerConfig, name: str) -> None:
    """Against torch's own schedulers, which change the optimizer of the plain loop."""
    options: dict[str, Any] = {"schedule": name, "step_size": 3, "gamma": 0.5, "patience": 0}
    scheduled = dataclasses.replace(optimizer, lr=4 * optimizer.lr, **options)

    def make() -> Run:
        run = make_run(scheduled)
        run.valid = None  # plateau is of the training loss
        return run

    run = assert_as_plain(make, engine)
    rates = [row.lr for row in run.epochs]
    assert rates[0] == scheduled.lr
    assert len(set(rates)) == {"step": 3, "cosine": 8}.get(name, len(set(rates)))


@compiled
def test_the_dual_form_takes_a_changing_rate() -> None:
    def make() -> Run:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(40, 400, generator=generator)
        labels = (inputs[:, :4]).argmax(1)
        run = make_run(SGD(lr=0.1, schedule="cosine", warmup=2))
        run.model = nnlab.mlp(400, [9], 4, generator=generator)
        run.train, run.valid, run.max_epochs = Split.whole(inputs, labels), None, 40
        return run

    (ours,), (oracle,) = train([make()], NativeEngine), train([make()], TorchEngine)
    assert NativeEngine.form(make()) == "dual"
    assert_close(ours.model.state_dict(), oracle.model.state_dict(), **CLOSE)
    assert [row.lr for row in ours.epochs] == [row.lr for row in oracle.epochs]


# ---- penalties and clipping ----


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda each: each.name)
@pytest.mark.parametrize("penalties", [{"l1": 0.003}, {"l2": 0.01}, {"l1": 0.002, "l2": 0.02}])
def test_penalties(
    engine: type[Engine], optimizer: OptimizerConfig, penalties: dict[str, Any]
) -> None:
    assert_as_plain(lambda: make_run(dataclasses.replace(optimizer, **penalties)), engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_penalties_in_large_batches_on_sparse_inputs(engine: type[Engine]) -> None:
    def make() -> Run:
        run = make_run(SGD(lr=0.1, weight_decay=0.01, l1=0.002, l2=0.01))
        draws = torch.Generator().manual_seed(3)
        inputs = torch.rand(80, 100, generator=draws)
        inputs[inputs < 0.8] = 0
        run.model = nnlab.mlp(100, [9], 4, generator=draws)
        run.train = dataclasses.replace(run.train, inputs=inputs)
        run.valid, run.batch_size = None, 40
        return run

    assert_as_plain(make, engine)


@pytest.mark.parametrize("engine", [TorchEngine, StackedEngine])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda each: each.name)
def test_clipped_gradients(engine: type[Engine], optimizer: OptimizerConfig) -> None:
    clipped = dataclasses.replace(optimizer, clip_norm=0.3, l1=0.002)
    run = assert_as_plain(lambda: make_run(clipped), engine)
    free = train([make_run(dataclasses.replace(clipped, clip_norm=None))], engine)[0]
    ours, theirs = (each.model.state_dict()["0.weight"] for each in (run, free))
    assert not torch.allclose(ours, theirs, rtol=1e-2)


def test_runs_of_a_stack_differ_in_penalties_and_clipping() -> None:
    def make() -> list[Run]:
        kinds: list[dict[str, Any]] = [
            {"l1": 0.01},
            {"l2": 0.02, "clip_norm": 0.2},
            {"clip_norm": 0.5},
            {},
        ]
        return [make_run(SGD(lr=0.1, **each), seed) for seed, each in enumerate(kinds)]

    stacks = StackedEngine.divide(make(), CPU)
    assert [len(stack) for stack in stacks] == [2, 2]
    for stack in stacks:
        train(stack, StackedEngine)
    ours = sorted((run for stack in stacks for run in stack), key=lambda run: run.epochs)
    theirs = sorted(train(make(), TorchEngine), key=lambda run: run.epochs)
    for our, their in zip(ours, theirs):
        assert_close(our.model.state_dict(), their.model.state_dict(), **CLOSE)


@compiled
def test_native_refuses_clipping_in_words() -> None:
    engine, reason = choose_engine(EngineName.auto, make_run(SGD(clip_norm=1.0)), CPU)
    assert (engine, "clip_norm" in reason) == (TorchEngine, True)
    with pytest.raises(ValueError, match=r"engine=native cannot .*: optimizer.clip_norm needs"):
        choose_engine(EngineName.native, make_run(SGD(clip_norm=1.0)), CPU)


# ---- going on ----

RESUMED: dict[str, Callable[[int], Run]] = {
    "plateau": lambda seed: make_run(
        SGD(lr=0.2, schedule="plateau", patience=0, gamma=0.5), seed, bias=False
    ),
    "cosine": lambda seed: make_run(Adam(schedule="cosine", warmup=3), seed),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", RESUMED)
def test_a_run_goes_on_bit_for_bit(tmp_path: Path, engine: type[Engine], name: str) -> None:
    def make() -> list[Run]:
        return [RESUMED[name](0)]

    again, whole = interrupted(make, engine, 5, tmp_path), undisturbed(make, engine)
    assert_same(again, whole)
    assert [row.lr for row in again[0].epochs] == [row.lr for row in whole[0].epochs]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", RESUMED)
def test_a_run_is_the_same_alone_and_in_a_sweep(engine: type[Engine], name: str) -> None:
    """In a stack, matrices are multiplied in another order: up to rounding."""
    together = train([RESUMED[name](seed) for seed in range(3)], engine)
    alone = [train([RESUMED[name](seed)], engine)[0] for seed in range(3)]
    tolerance = CLOSE if engine is StackedEngine else {"rtol": 0, "atol": 0}
    for one, other in zip(together, alone):
        assert_close(one.model.state_dict(), other.model.state_dict(), **tolerance)
