"""Which engine trains what, and that it does not matter for the results."""

from __future__ import annotations

import functools
import statistics

import pytest
import torch
from torch import nn

import nnlab
from nnlab import datasets, seeds
from nnlab.config import SGD, Adam, EngineName, IdxConfig, Source
from nnlab.datasets import Split
from nnlab.engines import Engine, Run, choose, native
from nnlab.engines.native import NativeEngine
from nnlab.engines.stacked import StackedEngine
from nnlab.engines.torch import TorchEngine
from nnlab.training import train_runs

CPU = torch.device("cpu")
PLAIN = SGD("sgd", lr=0.01, weight_decay=0.0, momentum=0.0, dampening=0.0, nesterov=False)
compiled = pytest.mark.skipif(native.available() is not None, reason="no compiled library")


def run_of(model: nn.Module | None = None, **options: object) -> Run:
    split = Split.whole(torch.rand(20, 6), torch.arange(20) % 3)
    model = nnlab.mlp(6, [5], 3) if model is None else model
    return Run(model, **{"optimizer": PLAIN, "train": split, **options})  # type: ignore[arg-type]


@compiled
def test_auto_takes_the_native_engine_on_the_cpu() -> None:
    assert choose(EngineName.auto, run_of(), CPU) == (NativeEngine, "the fastest on cpu")


def test_auto_takes_the_stacked_engine_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnlab.engines.stacked.refuses", lambda run, device: None)
    engine, reason = choose(EngineName.auto, run_of(), torch.device("cuda:0"))
    assert (engine, reason) == (StackedEngine, "the fastest on cuda")


def test_asked_for_by_name() -> None:
    assert choose(EngineName.torch, run_of(), CPU) == (TorchEngine, "asked for")
    assert choose(EngineName.stacked, run_of(), CPU) == (StackedEngine, "asked for")


@compiled
def test_auto_falls_back_to_torch_and_says_why() -> None:
    engine, reason = choose(EngineName.auto, run_of(nn.Sequential(nn.Conv1d(1, 1, 1))), CPU)
    assert engine is TorchEngine
    assert "Conv1d" in reason
    amsgrad = Adam("adam", lr=0.1, weight_decay=0.0, betas=[0.9, 0.99], eps=1e-8, amsgrad=True)
    engine, reason = choose(EngineName.auto, run_of(optimizer=amsgrad), CPU)
    assert engine is TorchEngine
    assert "amsgrad" in reason


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "available", lambda: "install a C compiler")
    engine, reason = choose(EngineName.auto, run_of(), CPU)
    assert engine is TorchEngine
    assert "install a C compiler" in reason
    with pytest.raises(ValueError, match=r"engine=native cannot .* install a C compiler"):
        choose(EngineName.native, run_of(), CPU)


def test_what_an_engine_refuses_is_an_error_when_asked_for() -> None:
    strange = run_of(nn.Sequential(nn.Linear(6, 3), nn.Softmax(1)))
    with pytest.raises(ValueError, match=r"engine=stacked cannot .*: Softmax is none of"):
        choose(EngineName.stacked, strange, CPU)


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
    data = datasets.load(config, train_size=200, valid_size=0, test_size=1000, seed=seed)
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


@pytest.mark.parametrize("engine", [pytest.param(NativeEngine, marks=compiled), StackedEngine])
def test_final_accuracy_over_20_seeds_differs_by_no_more_than_chance(engine: type[Engine]) -> None:
    """Paired by seed; a difference beyond 3 standard errors has a chance of 0.3 %."""
    reference = [torch_accuracy(seed) for seed in range(20)]
    differences = [accuracy(engine, seed) - reference[seed] for seed in range(20)]
    error = statistics.stdev(differences) / 20**0.5
    assert abs(statistics.mean(differences)) <= 3 * error + 1e-9
    assert statistics.mean(reference) > 0.6
