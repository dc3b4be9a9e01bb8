"""Options of networks and their training: every engine that takes them, against a plain loop."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.testing import assert_close

import nnlab
from nnlab import export_model, seeds
from nnlab.config import SGD, Adam, AdamW, EngineName, OptimizerConfig
from nnlab.datasets import Split
from nnlab.device import CPU
from nnlab.dropout import KeyedDropout
from nnlab.engines import Engine, Run, choose_engine, library, native, stacked
from nnlab.engines.native import NativeEngine
from nnlab.engines.stacked import StackedEngine
from nnlab.engines.torch import TorchEngine, build_optimizer
from nnlab.losses import CrossEntropy, Loss, SquaredError
from nnlab.training import train_runs
from tests import plain_loop
from tests.test_checkpoint import assert_same, undisturbed
from tests.test_checkpoint import train as interrupted
from tests.test_native import module_of

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
    weights = torch.Generator().manual_seed(seed + 5)  # with which a plateau is reached
    return Run(
        nnlab.mlp(12, [9, 7], 4, network.pop("activation", "relu"), weights, **network),
        optimizer,
        Split(inputs, labels, torch.arange(size)),
        Split(inputs, labels, torch.arange(size, 80)),
        batch_size=7,
        max_epochs=EPOCHS,
        order=seeds.generator(seed, "order"),
        noise=seeds.generator(seed, "layers"),
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


class Masked(nn.Module):
    """Multiply what comes in by the next of some masks, which depend on nothing."""

    def __init__(self, masks: Iterator[Tensor]) -> None:
        super().__init__()
        self.masks = masks

    def forward(self, x: Tensor) -> Tensor:
        return x * next(self.masks)


def mask(model: nn.Module, run: Run) -> None:
    """Put masks by NumPy in the place of a model's dropouts."""
    names = [name for name, module in model.named_modules() if isinstance(module, KeyedDropout)]
    if not names:
        return
    draws, keys = seeds.generator(0, "layers"), []
    sizes = [len(some) for some in torch.arange(len(run.train)).split(run.batch_size)]
    for _ in range(EPOCHS):
        source = np.random.PCG64(int(draws.bit_generator.random_raw()) >> 1)
        keys += [[int(source.random_raw()) >> 1 for _ in names] for _ in sizes]
    for number, name in enumerate(names):
        dropout, units = model.get_submodule(name), (9, 7)[number]
        assert isinstance(dropout, KeyedDropout)
        factors = [
            drawn_by_numpy(some[number], size, units, dropout.p)
            for some, size in zip(keys, sizes * EPOCHS, strict=True)
        ]
        model.register_module(name, Masked(iter(factors)))


def drawn_by_numpy(key: int, rows: int, units: int, p: float) -> Tensor:
    """Return 0 or 1 / (1 - p) for each unit of each row, with arithmetic modulo 2^32."""
    random = np.arange(rows * units, dtype=np.uint32) + np.uint32(key % 2**32)
    for after in (np.uint32(key // 2**32), np.uint32(0)):
        random ^= random >> np.uint32(16)
        random *= np.uint32(0x21F0AAAD)
        random ^= random >> np.uint32(15)
        random *= np.uint32(0x735A2D97)
        random ^= random >> np.uint32(15)
        random ^= after
    kept = (random >> np.uint32(8)).astype(float) / 2**24 >= round(p * 2**24) / 2**24
    return torch.from_numpy(np.where(kept, 1 / (1 - p), 0).reshape(rows, units)).float()


def plain(make: Callable[[], Run], **options: Any) -> tuple[nn.Module, list[tuple[float, float]]]:
    """Train a run's network by the plain loop; return it, and loss and accuracy of each epoch."""
    run = make()
    assert isinstance(run.optimizer, OptimizerConfig)
    draws = seeds.generator(0, "order")
    orders = [draws.permutation(len(run.train)).tolist() for _ in range(EPOCHS)]
    model = copy.deepcopy(module_of(run))
    mask(model, run)
    optimizer = build_optimizer(run.optimizer, model)
    options |= {name: getattr(run.optimizer, name) for name in ("l1", "l2", "clip_norm")}
    if run.optimizer.scheduled:
        scheduler = schedulers(optimizer, run.optimizer)
        plateau = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
        options["after_epoch"] = lambda loss: scheduler.step(*[loss] * plateau)
    inputs, labels = map(torch.from_numpy, run.train.examples)
    return model, plain_loop.train(
        model, inputs, labels, optimizer, run.batch_size, orders, **options
    )


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
        module_of(run).register_module("2", layer)
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
    assert run.lr is not None
    falls = name != "plateau" or optimizer.name == "sgd"  # Adam's loss falls in every epoch
    assert run.lr < scheduled.lr or not falls


@compiled
def test_the_dual_form_takes_a_changing_rate_and_dropout() -> None:
    def make() -> Run:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(40, 400, generator=generator)
        labels = (inputs[:, :4]).argmax(1)
        run = make_run(SGD(lr=0.1, schedule="cosine", warmup=2))
        run.model = nnlab.mlp(400, [9], 4, "tanh", generator, dropout=0.2)
        run.train, run.valid, run.max_epochs = Split.whole(inputs, labels), None, 40
        return run

    (ours,), (oracle,) = train([make()], NativeEngine), train([make()], TorchEngine)
    assert NativeEngine.form(make()) == "dual"
    assert_close(ours.model.state_dict(), oracle.model.state_dict(), **CLOSE)
    assert ours.lr == oracle.lr


# ---- penalties and clipping ----


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda each: each.name)
@pytest.mark.parametrize("penalties", [{"l1": 0.003}, {"l2": 0.01}])
def test_penalties(
    engine: type[Engine], optimizer: OptimizerConfig, penalties: dict[str, Any]
) -> None:
    assert_as_plain(lambda: make_run(dataclasses.replace(optimizer, **penalties)), engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("clip_norm", [None, 0.2])
@pytest.mark.parametrize("batch_size", [7, 40])
def test_sparse_inputs(engine: type[Engine], clip_norm: float | None, batch_size: int) -> None:
    """In batches of up to 32 and of more examples, which native adds up in other ways."""

    def make() -> Run:
        run = make_run(SGD(lr=0.1, weight_decay=0.01, l1=0.002, l2=0.01, clip_norm=clip_norm))
        draws = torch.Generator().manual_seed(3)
        inputs = torch.rand(80, 100, generator=draws)
        inputs[inputs < 0.8] = 0
        run.model = nnlab.mlp(100, [9], 4, generator=draws)
        run.train = dataclasses.replace(run.train, inputs=inputs.numpy())
        run.valid, run.batch_size = None, batch_size
        return run

    assert_as_plain(make, engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda each: each.name)
def test_clipped_gradients(engine: type[Engine], optimizer: OptimizerConfig) -> None:
    clipped = dataclasses.replace(optimizer, clip_norm=0.3, l1=0.002)
    run = assert_as_plain(lambda: make_run(clipped), engine)
    free = train([make_run(dataclasses.replace(clipped, clip_norm=None))], engine)[0]
    ours, theirs = (module_of(each).state_dict()["0.weight"] for each in (run, free))
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


# ---- dropout ----


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("optimizer", "activation"), [*zip(OPTIMIZERS, ["relu", "tanh", "sigmoid", "identity"])]
)
def test_dropout(engine: type[Engine], optimizer: OptimizerConfig, activation: str) -> None:
    assert_as_plain(lambda: make_run(optimizer, activation=activation, dropout=0.3), engine)


@compiled
@pytest.mark.parametrize("level", library.LEVELS)
def test_every_instruction_set_drops_the_same(level: str) -> None:
    if level not in library.levels():
        pytest.skip(f"the processor has no {level}")

    def make() -> Run:
        run = make_run(SGD(lr=0.1, l1=0.001), activation="tanh", dropout=0.4, bias=False)
        run.native_level = level
        return run

    assert_as_plain(make, NativeEngine)


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_is_dropped_where_a_network_is_evaluated(engine: type[Engine]) -> None:
    run, without = make_run(SGD(lr=0.1), dropout=0.5), module_of(make_run(SGD(lr=0.1)))
    inputs, labels = map(torch.from_numpy, run.train.examples)
    expected = nn.functional.cross_entropy(without(inputs), labels)
    loss = engine([run], CPU).evaluate([run], "train")[0][0]
    assert loss == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("engine", [pytest.param(NativeEngine, marks=compiled), StackedEngine])
def test_without_a_generator_of_its_own_dropout_draws_from_the_global_one(
    engine: type[Engine],
) -> None:
    """As in a notebook, where torch.manual_seed decides."""
    trained = []
    for kind in (engine, TorchEngine):
        run = make_run(SGD(lr=0.1), dropout=0.3)
        run.noise = None
        torch.manual_seed(5)
        trained.append(train([run], kind)[0].model.state_dict())
        after = torch.rand(1)
        torch.manual_seed(5)
        assert not torch.equal(after, torch.rand(1))
    assert_close(*trained, **CLOSE)


@pytest.mark.parametrize("engine", [native, stacked])
def test_dropout_that_is_not_nnlabs_or_stands_elsewhere_goes_to_torch(
    engine: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(SGD(), dropout=0.3)
    assert engine.unsupported_reason(run, CPU) is None
    run.model = nn.Sequential(KeyedDropout(0.1), nn.Linear(12, 4))
    assert "KeyedDropout does not follow" in engine.unsupported_reason(run, CPU)
    run.model = nn.Sequential(nn.Linear(12, 4), nn.Dropout(0.1), nn.Linear(4, 4))
    assert "Dropout is none of" in engine.unsupported_reason(run, CPU)
    monkeypatch.setattr(KeyedDropout, "forward", lambda self, x: x)
    replaced = engine.unsupported_reason(make_run(SGD(), dropout=0.3), CPU)
    assert replaced == "KeyedDropout.forward was replaced"


# ---- batch normalisation ----


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda each: each.name)
@pytest.mark.parametrize("others", [{}, {"bias": False, "dropout": 0.3, "activation": "tanh"}])
def test_batch_normalisation(optimizer: OptimizerConfig, others: dict[str, Any]) -> None:
    def make() -> Run:
        return make_run(dataclasses.replace(optimizer, l2=0.001), batch_norm=True, **others)

    run = assert_as_plain(make, TorchEngine)
    assert isinstance(module_of(run).get_submodule("1"), nn.BatchNorm1d)
    assert run.model.state_dict()["1.num_batches_tracked"] == 9 * EPOCHS
    # Evaluated with what it has seen on the whole.
    assert run.valid is not None
    inputs, labels = map(torch.from_numpy, run.valid.examples)
    loss = nn.functional.cross_entropy(module_of(run).eval()(inputs), labels)
    assert run.epochs[-1].valid_loss == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["stacked", pytest.param("native", marks=compiled)])
def test_the_other_engines_refuse_batch_normalisation_in_words(name: str) -> None:
    def make() -> Run:
        return make_run(SGD(), batch_norm=True)

    message = rf"engine={name} cannot train this run: BatchNorm1d is none of Linear, "
    with pytest.raises(ValueError, match=message):
        choose_engine(EngineName[name], make(), CPU)
    assert choose_engine(EngineName.auto, make(), CPU)[0] is TorchEngine


def test_the_best_statistics_are_restored() -> None:
    run = make_run(SGD(lr=0.5), batch_norm=True)
    run.stopping = nnlab.Patience(patience=3)
    train([run], TorchEngine)
    assert run.restored is not None
    again = make_run(SGD(lr=0.5), batch_norm=True)
    again.max_epochs = run.restored
    train([again], TorchEngine)
    assert_close(run.model.state_dict(), again.model.state_dict(), rtol=0, atol=0)


# ---- going on ----

RESUMED: dict[str, Callable[[int], Run]] = {
    "plateau": lambda seed: make_run(
        SGD(lr=0.2, schedule="plateau", patience=0, gamma=0.5), seed, bias=False
    ),
    "dropout": lambda seed: make_run(SGD(lr=0.1, momentum=0.9, l1=0.001), seed, dropout=0.3),
    "cosine": lambda seed: make_run(Adam(schedule="cosine", warmup=3), seed),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", RESUMED)
def test_a_run_goes_on_bit_for_bit(tmp_path: Path, engine: type[Engine], name: str) -> None:
    def make() -> list[Run]:
        return [RESUMED[name](0)]

    again, whole = interrupted(make, engine, 5, tmp_path), undisturbed(make, engine)
    assert_same(again, whole)
    assert again[0].lr == whole[0].lr


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", RESUMED)
def test_a_run_is_the_same_alone_and_in_a_sweep(engine: type[Engine], name: str) -> None:
    """In a stack, matrices are multiplied in another order: up to rounding."""
    together = train([RESUMED[name](seed) for seed in range(3)], engine)
    alone = [train([RESUMED[name](seed)], engine)[0] for seed in range(3)]
    tolerance = CLOSE if engine is StackedEngine else {"rtol": 0, "atol": 0}
    for one, other in zip(together, alone):
        assert_close(one.model.state_dict(), other.model.state_dict(), **tolerance)


def test_batch_normalisation_goes_on_bit_for_bit(tmp_path: Path) -> None:
    def make() -> list[Run]:
        return [make_run(SGD(lr=0.1), batch_norm=True, dropout=0.2)]

    again = interrupted(make, TorchEngine, 5, tmp_path)
    assert_same(again, undisturbed(make, TorchEngine))


# ---- from the command line ----


def test_a_network_with_all_options_is_loaded_predicts_and_is_exported(tmp_path: Path) -> None:
    options = {
        "dataset": "sklearn",
        "dataset.name": "iris",
        "model.hidden": [[9, 7]],
        "model.init": "he",
        "model.bias": False,
        "model.dropout": 0.25,
        "model.batch_norm": [False, True],
        "optimizer.lr": 0.1,
        "optimizer.schedule": "cosine",
        "optimizer.l2": 0.001,
        "stopping.max_epochs": 30,
        "batch_size": 8,
        "seeds.test": 2,
    }
    frame = nnlab.sweep(options, study="iris", output_dir=tmp_path)
    assert frame["test_accuracy"].min() > 0.8
    for batch_norm in (False, True):
        (folder,) = tmp_path.glob(f"iris/*batch_norm={batch_norm}*")
        network, examples = nnlab.load(folder), torch.rand(5, 4)
        x = network.standardised(examples)
        state = network.model.state_dict()
        assert ("1.running_mean" in state) == batch_norm
        layers = [name.removesuffix(".weight") for name in state if state[name].dim() == 2]
        for place, name in enumerate(layers):
            x = x @ state[f"{name}.weight"].T
            norm = f"{int(name) + 1}"
            if f"{norm}.running_mean" in state:
                x = nn.functional.batch_norm(
                    x,
                    *(state[f"{norm}.{each}"] for each in ("running_mean", "running_var")),
                    *(state[f"{norm}.{each}"] for each in ("weight", "bias")),
                )
            x = x.relu() if place < 2 else x
        assert_close(network.predict(examples), x.softmax(1))
    path = tmp_path / "whole.pt2"
    assert export_model.main([str(folder), "--to", "torch", "--output", str(path)]) == 0
    assert_close(torch.export.load(path).module()(examples), network.predict(examples))


def test_a_batch_of_one_cannot_be_normalised(tmp_path: Path) -> None:
    options = {"train_size": 31, "model.batch_norm": True, "stopping.max_epochs": 1}
    message = r"batch_size=10 makes a batch of 1 of the 31 training examples"
    with pytest.raises(ValueError, match=message):
        nnlab.sweep(options, study="one", output_dir=tmp_path)
    assert not list(tmp_path.glob("one/*/metrics.csv"))


@pytest.mark.parametrize("dropout", [1.0, -0.1, float("nan")])
def test_a_dropout_that_is_no_fraction_is_refused(dropout: float) -> None:
    for make in (lambda: nnlab.mlp(2, [3], 2, dropout=dropout), lambda: KeyedDropout(dropout)):
        with pytest.raises(ValueError, match=rf"{dropout:g} is not possible: .* below 1"):
            make()


def test_names_that_a_network_does_not_know_are_refused() -> None:
    with pytest.raises(ValueError, match="init=He is not possible: choose one of default, he, "):
        nnlab.mlp(2, [3], 2, init="He")
    with pytest.raises(ValueError, match="activation=gelu is not possible: choose one of relu, "):
        nnlab.mlp(2, [3], 2, activation="gelu")


def test_a_network_without_hidden_layers_has_nothing_to_normalise(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"batch_norm=true is not possible: it acts on hidden"):
        nnlab.sweep({"model": "linear", "model.batch_norm": True}, output_dir=tmp_path)


# ---- with other losses ----


@pytest.mark.parametrize("engine", [pytest.param(NativeEngine, marks=compiled), StackedEngine])
@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(lr=0.1, l1=0.001, l2=0.01, clip_norm=0.5, schedule="plateau", patience=0),
        Adam(eps=1e-3, clip_norm=0.3, schedule="cosine", warmup=2),
    ],
    ids=lambda each: each.name,
)
@pytest.mark.parametrize(
    "loss",
    [CrossEntropy(label_smoothing=0.1, weights=(1.0, 2.0, 0.5, 1.0)), SquaredError((1.0,) * 4)],
    ids=["weighted", "squared"],
)
def test_all_options_at_once_with_other_losses(
    engine: type[Engine], optimizer: OptimizerConfig, loss: Loss
) -> None:
    """Against the torch engine."""

    def make() -> Run:
        run = make_run(optimizer, activation="tanh", dropout=0.2, bias=False)
        run.loss = loss
        if isinstance(loss, SquaredError):
            targets = 2 * run.train.inputs[:, :4] + run.train.inputs[:, 4:8]
            run.train = dataclasses.replace(run.train, labels=targets)
            run.valid = None
        return run

    (ours,), (oracle,) = train([make()], engine), train([make()], TorchEngine)
    assert_close(ours.model.state_dict(), oracle.model.state_dict(), **CLOSE)
    found, expected = ([row[:-1] for row in run.epochs] for run in (ours, oracle))
    assert_close(found, expected, **CLOSE)
    assert ours.lr == oracle.lr
