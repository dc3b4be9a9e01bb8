"""Options of networks and their training: every engine that takes them, against a plain loop."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import nnlab
from nnlab import seeds
from nnlab.config import SGD, Adam, AdamW, OptimizerConfig
from nnlab.datasets import Split
from nnlab.engines import Engine, Run, library
from nnlab.engines.native import NativeEngine
from nnlab.engines.stacked import StackedEngine
from nnlab.engines.torch import TorchEngine, build_optimizer
from nnlab.training import train_runs
from tests import plain_loop

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


def plain(make: Callable[[], Run], **options: Any) -> tuple[nn.Module, list[tuple[float, float]]]:
    """Train a run's network by the plain loop; return it, and loss and accuracy of each epoch."""
    run = make()
    assert isinstance(run.optimizer, OptimizerConfig)
    draws = seeds.generator(0, "order")
    orders = [torch.randperm(len(run.train), generator=draws).tolist() for _ in range(EPOCHS)]
    model = copy.deepcopy(run.model)
    optimizer = build_optimizer(run.optimizer, model)
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
