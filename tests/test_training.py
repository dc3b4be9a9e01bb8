from __future__ import annotations

import contextlib
import copy
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)

import nnlab
from nnlab import seeds
from nnlab.config import SGD, Adam
from nnlab.datasets import Split
from nnlab.device import CPU
from nnlab.engines import Engine, Run, library
from nnlab.engines.native import NativeEngine
from nnlab.engines.stacked import StackedEngine
from nnlab.engines.torch import TorchEngine
from nnlab.fitting import as_split, gathered
from nnlab.stopping import Epoch, StoppingRule
from nnlab.training import draw_order, judge, train_runs
from tests import plain_loop
from tests.test_native import module_of

OPTIMIZERS: dict[str, Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
}


def examples(count: int = 43, inputs: int = 12, classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(classes, (count,), generator=generator)
    x = torch.randn(count, inputs, generator=generator)
    x[torch.arange(count), labels] += 2.0
    return x, labels


def network(seed: int = 0) -> nn.Sequential:
    return nnlab.mlp(12, [9, 7], 4, generator=torch.Generator().manual_seed(seed))


def orders(count: int, epochs: int, seed: int = 0) -> list[list[int]]:
    generator = seeds.generator(seed, "order")
    return [generator.permutation(count).tolist() for _ in range(epochs)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("batch_size", [1, 10, 64])
def test_fit_is_the_plain_loop(optimizer: str, batch_size: int) -> None:
    x, y = examples()
    theirs = network()
    ours = copy.deepcopy(theirs)
    expected = plain_loop.train(
        theirs, x, y, OPTIMIZERS[optimizer](theirs.parameters()), batch_size, orders(len(y), 4)
    )

    result = nnlab.fit(
        ours,
        (x, y),
        optimizer=OPTIMIZERS[optimizer](ours.parameters()),
        batch_size=batch_size,
        max_epochs=4,
        engine="torch",
    )

    # The same operations in the same order: only the sums of losses are rounded differently.
    for name, parameter in ours.state_dict().items():
        assert_close(parameter, theirs.state_dict()[name], rtol=0, atol=0, msg=name)
    measured = result.metrics[["train_loss", "train_accuracy"]].to_numpy()
    np.testing.assert_allclose(measured, expected, rtol=1e-6)
    assert list(result.metrics.columns) == [
        "epoch",
        "train_loss",
        "train_accuracy",
        "valid_loss",
        "valid_accuracy",
        "seconds",
    ]
    assert result.metrics["epoch"].tolist() == [1, 2, 3, 4]
    assert result.metrics["seconds"].is_monotonic_increasing
    assert result.stop_reason == "reached max_epochs=4"


def test_train_epoch_keeps_the_given_order_without_a_generator() -> None:
    x, y = examples()
    theirs = network()
    ours = copy.deepcopy(theirs)
    (expected,) = plain_loop.train(
        theirs, x, y, torch.optim.SGD(theirs.parameters(), lr=0.1), 10, [range(len(y))]
    )

    found = nnlab.train_epoch(ours, (x, y), torch.optim.SGD(ours.parameters(), lr=0.1))

    assert found == pytest.approx(expected, rel=1e-6)
    assert_close(list(ours.parameters()), list(theirs.parameters()), rtol=0, atol=0)


def test_train_epoch_shuffles_with_a_generator() -> None:
    x, y = examples()
    theirs = network()
    ours = copy.deepcopy(theirs)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(5)).tolist()
    plain_loop.train(theirs, x, y, torch.optim.SGD(theirs.parameters(), lr=0.1), 7, [order])

    sgd = torch.optim.SGD(ours.parameters(), lr=0.1)
    nnlab.train_epoch(ours, TensorDataset(x, y), sgd, 7, torch.Generator().manual_seed(5))

    assert_close(list(ours.parameters()), list(theirs.parameters()), rtol=0, atol=0)


def test_evaluate_against_numpy() -> None:
    x, y = examples()
    model = network()
    logits = model(x).detach().double().numpy()
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected_loss = -log_probabilities[np.arange(len(y)), y.numpy()].mean()
    expected_accuracy = (logits.argmax(1) == y.numpy()).mean()

    loss, accuracy = nnlab.evaluate(model, (x.numpy(), y.numpy()))

    assert loss == pytest.approx(expected_loss, rel=1e-6)  # float32 logits
    assert accuracy == expected_accuracy


def test_evaluate_uses_evaluation_mode_and_puts_the_mode_back() -> None:
    x, y = examples()
    model = nn.Sequential(nn.Dropout(0.5), network())
    assert nnlab.evaluate(model, (x, y)) == nnlab.evaluate(model, (x, y))
    assert model.training


def test_any_module_any_dataset() -> None:
    """A convolution on images given as a Dataset of pairs, which no fast engine takes."""
    x, y = examples(inputs=16)
    images = TensorDataset(x.reshape(-1, 1, 4, 4), y)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(12, 4))
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    result = nnlab.fit(model, images, valid=images, test=images, optimizer=adam, max_epochs=5)
    assert result.engine == "torch"
    loss, accuracy = nnlab.evaluate(model, images)
    assert result.test_accuracy == accuracy
    assert result.metrics["valid_loss"].iloc[-1] == result.test_loss == loss
    assert result.metrics["train_loss"].is_monotonic_decreasing


def test_fit_twice_with_one_seed_is_bitwise_equal() -> None:
    x, y = examples()
    models = [network(), network()]
    for model in models:
        torch.rand(17)  # the global state must not matter
        nnlab.fit(
            model, (x, y), optimizer=torch.optim.SGD(model.parameters(), lr=0.1), max_epochs=3
        )
    assert_close(models[0].state_dict(), models[1].state_dict(), rtol=0, atol=0)


def make_run(seed: int, count: int, max_epochs: int, lr: float = 0.1) -> Run:
    x, y = examples(count)
    split = Split.whole(x, y)
    model = network(seed)
    sgd = torch.optim.SGD(model.parameters(), lr=lr)
    order = seeds.generator(seed, "order")
    return Run(model, sgd, split, split, split, max_epochs=max_epochs, order=order)


def test_a_run_among_others_is_bitwise_the_run_alone() -> None:
    """Neighbours of other sizes, one ending early and one diverging, change nothing."""
    alone = make_run(0, 43, 5)
    for _ in train_runs([alone], TorchEngine([alone], CPU)):
        pass

    among = make_run(0, 43, 5)
    neighbours = [make_run(1, 20, 2), make_run(2, 43, 9, lr=1e30), among, make_run(3, 30, 7)]
    seen = list(train_runs(neighbours, TorchEngine(neighbours, CPU)))

    assert_close(among.model.state_dict(), alone.model.state_dict(), rtol=0, atol=0)
    strip = [row[:-1] for row in among.epochs], [row[:-1] for row in alone.epochs]
    assert strip[0] == strip[1]
    assert (among.test_loss, among.test_accuracy) == (alone.test_loss, alone.test_accuracy)
    assert [run.status for run in neighbours] == ["finished", "diverged", "finished", "finished"]
    assert [len(run.epochs) for run in neighbours][::2] == [2, 5]
    assert sum(epoch is None for _, epoch in seen) == len(neighbours)


def test_a_diverged_run_says_so_and_is_not_tested() -> None:
    run = make_run(0, 43, 50, lr=1e30)
    for _ in train_runs([run], TorchEngine([run], CPU)):
        pass
    assert run.status == "diverged"
    assert run.stop_reason.startswith("training loss became")
    assert run.test_loss is None
    assert len(run.epochs) < 50


def row(epoch: int, train: float, valid: float | None = None) -> Epoch:
    return Epoch(epoch, train, 0.5, valid, None if valid is None else 0.5, 1.0)


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (row(1, math.nan), ("diverged", "training loss became nan in epoch 1")),
        (row(2, math.inf), ("diverged", "training loss became inf in epoch 2")),
        (row(2, 1.0, math.nan), ("diverged", "validation loss became nan in epoch 2")),
        (row(9, 1.0, 1.0), ("running", "")),
        (row(10, 1.0), ("finished", "reached max_epochs=10")),
    ],
)
def test_judge(last: Epoch, expected: tuple[str, str]) -> None:
    run = make_run(0, 10, 10)
    run.epochs.append(last)
    assert judge(run) == expected


def test_stopping_reads_the_validation_loss() -> None:
    x, y = examples()
    model = network()
    sgd = torch.optim.SGD(model.parameters(), lr=0.0)  # nothing ever improves
    result = nnlab.fit(
        model, (x, y), valid=(x, y), optimizer=sgd, stopping=nnlab.Plateau(1e-4, patience=3)
    )
    assert result.status == "stopped"
    assert len(result.metrics) == 4  # the first epoch has nothing to be compared with
    assert "3 epochs in a row" in result.stop_reason


def test_the_test_split_is_read_once_after_training(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(0, 43, 3)
    calls = []
    original = TorchEngine.evaluate

    def spy(self: TorchEngine, runs: list[Run], split: str) -> list[tuple[float, ...]]:
        calls.extend([(split, len(each.epochs)) for each in runs])
        return original(self, runs, split)

    monkeypatch.setattr(TorchEngine, "evaluate", spy)
    for _ in train_runs([run], TorchEngine([run], CPU)):
        pass
    assert calls == [("valid", 0), ("valid", 1), ("valid", 2), ("test", 3)]


def test_without_shuffling_the_order_is_the_given_one() -> None:
    run = make_run(0, 10, 1)
    assert sorted(draw_order(run).tolist()) == list(range(10))
    run.order = None
    assert draw_order(run).tolist() == list(range(10))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((torch.zeros(3, 12), torch.zeros(4).long()), "3 inputs and 4 labels"),
        ((torch.zeros(0, 12), torch.zeros(0).long()), "0 inputs and 0 labels"),
        ((torch.zeros(3, 12), torch.zeros(3)), "integer type"),
        ((torch.zeros(3, 12), torch.zeros(3, 2).long()), r"shape \[3, 2\]"),
        (torch.zeros(3, 12), "must be a pair"),
        ((torch.zeros(3, 12), torch.zeros(3, 0)), r"shape \[3, 0\]"),
        ((torch.zeros(3, 12), torch.zeros(3) * 1j), "labels are of type complex64"),
        ((torch.zeros(3, 12) * 1j, [0, 1, 2]), "inputs are of type complex64"),
    ],
)
def test_bad_data_is_refused(data: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gathered(data, network())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"max_epochs": -1}, "max_epochs=-1"),
        ({"stopping": nnlab.Plateau()}, "pass valid"),
        ({"engine": "warp"}, "engine=warp"),
    ],
)
def test_bad_options_of_fit_are_refused(options: dict[str, object], message: str) -> None:
    model = network()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=message):
        nnlab.fit(model, examples(), optimizer=sgd, **options)  # type: ignore[arg-type]


def test_engine_state_round_trip() -> None:
    """Training goes on from a state as if it had not stopped."""
    x, y = examples()
    split = Split.whole(x, y)
    runs = [Run(network(), torch.optim.Adam(m.parameters()), split) for m in [network()]]
    run = runs[0]
    run.optimizer = torch.optim.Adam(module_of(run).parameters(), lr=0.01)
    engine = TorchEngine([run], CPU)
    order = np.arange(len(y))
    engine.train_epoch([run], [order])
    state = engine.state(run)
    assert {"0.weight", "0.weight.exp_avg", "0.weight.exp_avg_sq", "0.weight.step"} <= set(state)
    engine.train_epoch([run], [order])
    expected = engine.state(run)

    other = Run(network(9), run.optimizer, split)
    other.optimizer = torch.optim.Adam(module_of(other).parameters(), lr=0.01)
    resumed = TorchEngine([other], CPU)
    resumed.load_state(other, state)
    resumed.train_epoch([other], [order])
    assert_close(resumed.state(other), expected, rtol=0, atol=0)


ENGINES = [TorchEngine, NativeEngine, StackedEngine]


@pytest.fixture(params=ENGINES, ids=lambda engine: engine.name)
def engine(request: pytest.FixtureRequest) -> type[Engine]:
    if request.param is NativeEngine and library.available() is not None:
        pytest.skip("no compiled library")
    kind: type[Engine] = request.param
    return kind


class Says(nnlab.Patience):
    """Patience that takes the validation losses given instead of those measured."""

    def __init__(self, losses: list[float], **options: Any) -> None:
        super().__init__(**options)
        self.losses = losses

    def update(self, epoch: Epoch) -> str | None:
        return super().update(epoch._replace(valid_loss=self.losses[epoch.epoch - 1]))


@pytest.mark.parametrize(
    ("losses", "patience", "max_epochs", "best", "status"),
    [
        ([3.0, 1.0, 2.0, 2.0], 2, 9, 2, "stopped"),
        ([3.0, 1.0, 2.0], 5, 3, 2, "finished"),  # the best is restored at the end as well
        ([3.0, 2.0, 1.0], 5, 3, 3, "finished"),
    ],
)
def test_the_best_weights_are_restored(
    engine: type[Engine],
    losses: list[float],
    patience: int,
    max_epochs: int,
    best: int,
    status: str,
) -> None:
    """Weights and test results are those of a run that ended with the best epoch."""
    run, until = make_run(0, 43, max_epochs), make_run(0, 43, best)
    run.stopping = Says(losses, patience=patience)
    neighbour = make_run(1, 43, 6)
    for _ in train_runs([run, neighbour], engine([run, neighbour], CPU)):
        pass
    for _ in train_runs([until], engine([until], CPU)):
        pass
    assert (run.status, len(run.epochs), run.restored) == (status, len(losses), best)
    # A stack of two rounds otherwise than a stack of one.
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if engine is StackedEngine else {"rtol": 0, "atol": 0}
    assert_close(run.model.state_dict(), until.model.state_dict(), **tolerance)
    assert run.test_loss == pytest.approx(until.test_loss, rel=tolerance["rtol"])
    assert run.test_accuracy == until.test_accuracy


def test_the_processors_seconds_are_summed_up(engine: type[Engine]) -> None:
    """All that this process used is the most that they can be."""
    run, before = make_run(0, 43, 5), time.process_time()
    for _ in train_runs([run], engine([run], CPU)):
        pass
    used = time.process_time() - before
    if engine is StackedEngine:  # whose runs share them
        assert run.cpu_seconds is None
    else:
        assert run.cpu_seconds is not None
        assert 0 < run.cpu_seconds <= used


def test_without_training_a_run_is_evaluated(engine: type[Engine]) -> None:
    run, trained = make_run(0, 43, 0), make_run(1, 43, 2)
    before = copy.deepcopy(run.model.state_dict())
    expected = nnlab.evaluate(copy.deepcopy(module_of(run)), run.test or ())
    runs = [run, trained]
    ended = [run for run, epoch in train_runs(runs, engine(runs, CPU)) if epoch is None]
    assert ended == runs
    assert (run.status, run.epochs) == ("finished", [])
    assert run.stop_reason == "no epochs: evaluated, not trained"
    assert run.test_loss == pytest.approx(expected[0], rel=1e-6)
    assert run.test_accuracy == expected[1]
    assert_close(run.model.state_dict(), before, rtol=0, atol=0)
    assert len(trained.epochs) == 2
    alone = make_run(0, 43, 0)
    assert [epoch for _, epoch in train_runs([alone], engine([alone], CPU))] == [None]


def test_full_train_metrics_are_those_after_the_epoch(engine: type[Engine]) -> None:
    run, full = make_run(0, 43, 3), make_run(0, 43, 3)
    full.full_train_metrics = True
    runs = [run, full]
    for each, epoch in train_runs(runs, engine(runs, CPU)):
        if each is full and epoch is not None:
            # Here train and valid are the same examples.
            assert epoch[1:3] == pytest.approx(epoch[3:5], rel=1e-6)
    for measured, evaluated in zip(run.epochs, full.epochs, strict=True):
        assert measured[3:5] == pytest.approx(evaluated[3:5], rel=1e-5)
        assert measured.train_loss > evaluated.train_loss


def test_fit_takes_a_budget_without_validation() -> None:
    model, data = network(), examples()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    result = nnlab.fit(model, data, optimizer=sgd, stopping=nnlab.Budget(1e-6))
    assert (result.status, len(result.metrics)) == ("stopped", 1)
    assert result.stop_reason.endswith("s have passed, the budget is 1e-06 s")


# ---- what a caller owns ----


class Falling:
    """A rule of a user's: stop after three losses that fell. It counts, and keeps a list."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    @property
    def restore(self) -> int | None:
        return len(self.losses) - 1 if len(self.losses) > 1 else None

    def update(self, epoch: Epoch) -> str | None:
        assert epoch.valid_loss is not None
        self.losses.append(epoch.valid_loss)
        return "enough" if len(self.losses) == 3 else None


@pytest.mark.parametrize(
    "rule",
    [
        nnlab.Patience(2, min_delta=0.05),
        nnlab.Patience(2, monitor="valid_accuracy"),
        nnlab.Plateau(0.05, 2),
        nnlab.Target(0.9),
        Falling(),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_a_rule_used_again_begins_afresh(engine: type[Engine], rule: StoppingRule) -> None:
    """In a second fit, and in two runs that train together."""
    data = examples()
    before = copy.deepcopy(vars(rule))

    def fit() -> list[Any]:
        model = network()
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        name = "auto" if type(rule) is Falling else engine.name  # only torch takes a user's
        options: dict[str, Any] = {"optimizer": sgd, "engine": name, "stopping": rule}
        result = nnlab.fit(model, data, data, max_epochs=40, **options)
        return [len(result.metrics), result.weights_of_epoch, result.stop_reason]

    first = fit()
    assert first[0] < 40
    assert fit() == first
    assert vars(rule) == before
    runs = [make_run(seed, 43, 40) for seed in (0, 1)]
    for run in runs:
        run.stopping = rule
    alone = make_run(1, 43, 40)
    alone.stopping = copy.deepcopy(rule)
    for some in (runs, [alone]):
        for _ in train_runs(some, engine(some, CPU)):
            pass
    assert [len(runs[0].epochs), runs[0].restored or len(runs[0].epochs)] == first[:2]
    assert (len(runs[1].epochs), runs[1].restored) == (len(alone.epochs), alone.restored)
    assert vars(rule) == before


class Schedule(Falling):
    """A rule that lowers the learning rate after each epoch."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__()
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    def update(self, epoch: Epoch) -> str | None:
        self.schedule.step()
        return None


def test_a_schedule_in_a_rule_reaches_the_optimizer() -> None:
    x, y = examples()
    theirs, ours = network(), network()
    plain = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for lr, order in zip((0.1, 0.05, 0.025), orders(len(y), 3)):
        plain.param_groups[0]["lr"] = lr
        plain_loop.train(theirs, x, y, plain, 10, [order])
    sgd = torch.optim.SGD(ours.parameters(), lr=0.1)
    nnlab.fit(ours, (x, y), (x, y), optimizer=sgd, stopping=Schedule(sgd), max_epochs=3)
    assert sgd.param_groups[0]["lr"] == pytest.approx(0.0125)
    assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


def test_a_rule_that_cannot_be_copied_is_refused() -> None:
    rule = Falling()
    rule.lock = threading.Lock()  # type: ignore[attr-defined]
    model, data = network(), examples()
    with pytest.raises(ValueError, match=r"Falling cannot be copied .* __deepcopy__"):
        nnlab.fit(model, data, data, optimizer=SGD_CONFIG, stopping=rule)


SGD_CONFIG = SGD("sgd", lr=0.1, weight_decay=0.0, momentum=0.9, dampening=0.0, nesterov=False)


def test_nothing_else_of_the_callers_is_changed(engine: type[Engine]) -> None:
    """Data in another type and with a gradient wanted, random state, threads, modes, grad."""
    x, y = examples()
    x = x.double().requires_grad_()
    split = Split(x.detach().float(), y, torch.arange(20))
    data = {"x": x, "y": y, "inputs": torch.from_numpy(split.inputs)}
    before = {name: value.detach().clone() for name, value in data.items()}
    model = network().eval()
    adam = Adam("adam", lr=0.01, weight_decay=0.0, betas=[0.9, 0.99], eps=1e-8, amsgrad=False)
    config = copy.deepcopy(adam)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    with torch.no_grad():
        options: dict[str, Any] = {"optimizer": adam, "engine": engine.name, "max_epochs": 2}
        nnlab.fit(model, (x, y), split, TensorDataset(x, y), **options)
        assert not torch.is_grad_enabled()
    for name, value in data.items():
        assert_close(value.detach(), before[name], rtol=0, atol=0)
        assert value.grad is None
    assert x.requires_grad
    assert adam == config
    assert not any(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_training_has_gradients_wherever_it_is_called(
    engine: type[Engine], context: Callable[[], Any]
) -> None:
    x, y = examples()
    models = [network(), network()]
    for model, inside in zip(models, (contextlib.nullcontext, context)):
        adam = torch.optim.Adam(model.parameters(), lr=0.01)
        with inside():
            rule = nnlab.Patience(1, min_delta=10.0)  # so that weights are restored
            data = x.numpy(), y.numpy()
            nnlab.fit(model, data, data, optimizer=adam, engine=engine.name, stopping=rule)
            nnlab.train_epoch(model, data, adam)
    assert_close(models[0].state_dict(), models[1].state_dict(), rtol=0, atol=0)
    assert not any(parameter.is_inference() for parameter in models[1].parameters())


# ---- the optimizer and the model ----


def test_an_optimizer_of_another_model_is_refused(engine: type[Engine]) -> None:
    model, data = network(), examples()
    before = copy.deepcopy(model.state_dict())
    parts = dict(model.named_parameters())
    foreign = torch.optim.SGD(network().parameters(), lr=0.1)
    some = torch.optim.SGD([parts["0.weight"], parts["2.weight"]], lr=0.1)
    for optimizer, message in (
        (foreign, "holds none of the model's parameters"),
        (some, "holds 2 of the model's 6 parameters, not 0.bias, 2.bias, 4.weight, 4.bias"),
    ):
        with pytest.raises(ValueError, match=message):
            nnlab.fit(model, data, optimizer=optimizer, engine=engine.name)
        with pytest.raises(ValueError, match=message):
            nnlab.train_epoch(model, data, optimizer)
    assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_an_optimizer_may_leave_out_what_is_frozen_and_hold_more() -> None:
    model, data = network(), examples()
    model[0].requires_grad_(False)
    extra = nn.Parameter(torch.ones(2))
    held = [p for p in model.parameters() if p.requires_grad]
    sgd = torch.optim.SGD([{"params": held}, {"params": [extra]}], lr=0.1)
    before = copy.deepcopy(model[0].state_dict())
    assert nnlab.fit(model, data, optimizer=sgd, max_epochs=1).engine == "torch"
    assert_close(model[0].state_dict(), before, rtol=0, atol=0)
    assert_close(extra.detach(), torch.ones(2))
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter of the model requires gradients"):
        nnlab.train_epoch(model, data, sgd)
    with pytest.raises(ValueError, match="no parameter of the model requires gradients"):
        nnlab.fit(model, data, optimizer=SGD_CONFIG)


# ---- what fit says ----


def test_fit_says_what_belongs_to_the_weights_kept(
    engine: type[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = examples()
    model = network()
    losses = [3.0, 1.0, 2.0, 2.0]
    monkeypatch.setattr("nnlab.stopping.watched", lambda epoch, _: losses[epoch.epoch - 1])
    rule = nnlab.Patience(2)
    result = nnlab.fit(
        model, (x, y), (x, y), optimizer=SGD_CONFIG, engine=engine.name, stopping=rule
    )
    rows = result.metrics.to_dict("records")
    assert (result.weights_of_epoch, len(rows)) == (2, 4)
    for name in ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy"):
        assert getattr(result, name) == rows[1][name]
        assert getattr(result, f"last_{name}") == rows[3][name]
    loss, accuracy = nnlab.evaluate(model, (x, y))
    assert result.valid_loss == pytest.approx(loss, rel=1e-5)
    assert result.valid_accuracy == accuracy
    assert result.engine_reason == "asked for"


def test_fit_without_validation_or_epochs() -> None:
    x, y = examples()
    result = nnlab.fit(network(), (x, y), optimizer=SGD_CONFIG, max_epochs=2)
    assert result.metrics["valid_loss"].dtype == result.metrics["valid_accuracy"].dtype == float
    assert result.metrics[["valid_loss", "valid_accuracy"]].isna().all(axis=None)
    assert (result.valid_loss, result.last_valid_loss, result.weights_of_epoch) == (None, None, 2)
    assert result.train_loss == result.metrics["train_loss"].iloc[-1]
    result = nnlab.fit(network(), (x, y), test=(x, y), optimizer=SGD_CONFIG, max_epochs=0)
    assert result.metrics.dtypes.tolist() == [int, *[float] * 5]
    assert (result.weights_of_epoch, result.train_loss, result.last_train_loss) == (0, None, None)
    assert result.test_loss is not None


# ---- labels and inputs as people have them ----


class Shifting(nn.Module):
    """A module that nothing is known of before it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = network()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits + 1


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (-100, "labels hold -100; classes are numbered from 0"),
        (-1, "labels hold -1"),
        (4, "labels hold 4, but the model has classes 0 to 3"),
    ],
)
@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_a_label_that_is_no_class_is_refused_before_training(
    engine: type[Engine], part: str, label: int, message: str
) -> None:
    x, y = examples()
    bad = y.clone()
    bad[-1] = label
    data: dict[str, Any] = dict.fromkeys(("train", "valid", "test"), (x, y)) | {part: (x, bad)}
    for model in [network(), Shifting()] if engine is TorchEngine else [network()]:
        before = copy.deepcopy(model.state_dict())
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        with pytest.raises(ValueError, match=message):
            nnlab.fit(model, optimizer=sgd, engine=engine.name, **data)
        with pytest.raises(ValueError, match=message):
            nnlab.train_epoch(model, Split.whole(x, bad), sgd)
        with pytest.raises(ValueError, match=message):
            nnlab.evaluate(model, (x, bad))
        assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_a_bad_label_is_refused_by_the_torch_engine_itself() -> None:
    run = make_run(0, 43, 3)
    run.test = Split.whole(run.train.inputs, run.train.labels.copy())
    run.test.labels[0] = -100
    with pytest.raises(ValueError, match="labels hold -100"):
        TorchEngine([run], CPU)
    run.test.labels[0] = 4
    with pytest.raises(ValueError, match="labels hold 4"):
        list(train_runs([run], TorchEngine([run], CPU)))
    assert run.epochs == []


def test_a_split_has_the_memory_of_the_callers_tensors() -> None:
    x, y = examples()
    split = as_split((x, y), network())
    assert (split.inputs.ctypes.data, split.labels.ctypes.data) == (x.data_ptr(), y.data_ptr())


def test_a_model_in_bfloat16_is_trained_though_numpy_has_no_such_type() -> None:
    x, y = examples()
    models = [network().bfloat16() for _ in range(2)]
    ours, theirs = (torch.optim.SGD(model.parameters(), lr=0.1) for model in models)
    result = nnlab.fit(models[0], (x, y), optimizer=ours, max_epochs=3, shuffle=False)
    assert result.engine == "torch"
    in_turn = [range(len(y))] * 3
    plain_loop.train(models[1], x.bfloat16(), y, theirs, 10, in_turn)
    assert_close(models[0].state_dict(), models[1].state_dict(), rtol=0, atol=0)


def frames() -> dict[str, tuple[Any, Any]]:
    x, y = examples()
    numbers, names = x.numpy(), [f"pixel{i}" for i in range(12)]
    read_only = numbers.copy()
    read_only.flags.writeable = False
    return {
        "tensors": (x, y),
        "frame and series": (pd.DataFrame(numbers, columns=names), pd.Series(y.numpy())),
        "index of its own": (
            pd.DataFrame(numbers, index=range(100, 143)),
            pd.Series(y.numpy(), index=range(143, 100, -1), dtype="Int64"),
        ),
        "frames": (pd.DataFrame(numbers), pd.DataFrame({"label": y.numpy()})),
        "mixed frame": (
            pd.DataFrame(numbers).astype({0: "Float64", 1: np.float64}),
            pd.get_dummies(pd.Series(y.numpy())),
        ),
        "lists": (x.tolist(), y.tolist()),
        "list of tensors": (list(x), list(y)),
        "read-only": (read_only, y.numpy().astype(np.uint8)),
        "backwards": (numbers[::-1, ::-1].copy()[::-1, ::-1], y.numpy()[::-1].copy()[::-1]),
        "Fortran": (np.asfortranarray(numbers), y.numpy().astype(">i4")),
        "float64": (numbers.astype(">f8"), y.numpy().astype(np.uint64)),
        "long double": (numbers.astype(np.longdouble), y.numpy().astype(np.uint16)),
        "column": (x, y.unsqueeze(1)),
        "one-hot": (x, nn.functional.one_hot(y, 4)),
        "one-hot floats": (numbers, np.eye(4, dtype=np.float32)[y.numpy()]),
        "images": (x.view(-1, 3, 4), y),
        "images with a channel": (numbers.reshape(-1, 1, 4, 3), y),
        "sparse": (x.to_sparse(), y),
        "negative view": (torch.complex(x, -x).conj().imag, y),
        "dataset": (TensorDataset(x.view(-1, 3, 4), nn.functional.one_hot(y, 4)), None),
    }


@pytest.mark.parametrize("name", frames())
def test_data_as_people_have_it(name: str) -> None:
    x, y = examples()
    inputs, labels = frames()[name]
    split = gathered(inputs if labels is None else (inputs, labels), network())
    assert_close(split.inputs, x, rtol=0, atol=0)
    assert_close(split.labels, y, rtol=0, atol=0)
    assert split.places.tolist() == list(range(43))


def test_bool_labels_and_whole_numbers() -> None:
    x, y = examples()
    assert gathered((x.numpy(), (y > 1).numpy()), network()).labels.tolist() == (y > 1).tolist()
    images = torch.randint(256, (43, 3, 4), dtype=torch.uint8)
    assert_close(gathered((images, y), network()).inputs, images.flatten(1).float())
    single = nn.Sequential(nn.Linear(1, 4))
    assert gathered((pd.Series(x[:, 0].numpy()), y), single).inputs.shape == (43, 1)


def test_inputs_are_flattened_for_an_mlp_only() -> None:
    x, y = examples(inputs=16)
    images = x.view(-1, 1, 4, 4)
    for model in (
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(12, 4)),
        nn.Sequential(nn.Linear(4, 2), nn.Flatten(), nn.Linear(8, 4)),
    ):
        assert gathered((images, y), model).inputs.shape == (43, 1, 4, 4)
    convolved = nn.Sequential(nn.Linear(16, 8), nn.Conv1d(1, 2, 8), nn.Flatten(), nn.Linear(2, 4))
    assert gathered((x.view(-1, 1, 16), y), convolved).inputs.shape == (43, 1, 16)
    narrow = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 4))  # a picture of one row
    assert_close(gathered((x.view(-1, 1, 16), y), narrow).inputs, x, rtol=0, atol=0)
    nested = nn.Sequential(nn.Sequential(nn.Linear(16, 8), nn.ReLU()), nn.Linear(8, 4))
    assert gathered((images, y), nested).inputs.shape == (43, 16)


class Pictures(Dataset[Any]):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        return Image.new("L", (4, 3)), index


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from zip(*examples())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((torch.zeros(3, 28, 28), [0, 1, 2]), r"inputs are \[3, 28, 28\], but .* takes \[N, 12\]"),
        ((torch.zeros(3, 12), torch.rand(3, 4).softmax(1)), r"one-hot rows \[N, classes\]"),
        ((torch.zeros(3, 12), torch.rand(3, 2)), r"2 of each example, but the model has 4 outputs"),
        ((torch.zeros(3, 12), torch.ones(3, 2).long()), "one-hot"),
        ((torch.zeros(3, 12), ["cat", "dog", "cat"]), "labels are of type .*; give real numbers"),
        (
            (torch.zeros(3, 12), pd.Series([0, None, 1], dtype="Int64")),
            "missing values|integer type",
        ),
        ((torch.zeros(3, 12), [[0], [0, 1], [1]]), "labels cannot be read as one array"),
        ((pd.DataFrame({"name": ["a", "b", "c"]}), [0, 1, 2]), "inputs are of type"),
        ((5.0, [0, 1, 2]), "0 inputs and 3 labels"),
        ((pd.DataFrame(np.zeros((0, 12))), pd.Series([], dtype=int)), "0 inputs and 0 labels"),
        (Split(torch.zeros(3, 12), torch.zeros(3).long(), torch.arange(0)), "no examples"),
        (Split(torch.zeros(3, 12), torch.zeros(3).long(), torch.tensor([-1])), "index holds -1"),
        (Split(torch.zeros(3, 12), torch.zeros(3).long(), torch.tensor([3])), "index holds 3"),
        (Pictures(), "examples of the Pictures cannot be put together"),
        (Stream(), "Stream cannot be put together"),
        ({"inputs": 1, "labels": 2}, "must be a pair"),
    ],
)
def test_data_that_do_not_fit_are_refused(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gathered(data, network())


def without_memory(tensor: Tensor) -> Tensor:
    tensor.untyped_storage().resize_(0)
    return tensor


WITHOUT_NUMBERS: dict[str, Callable[[Tensor], Tensor]] = {
    "meta": lambda tensor: tensor.to("meta"),
    "fake": lambda tensor: FakeTensorMode().from_tensor(tensor),
    "functional": lambda tensor: torch._to_functional_tensor(tensor),
    "nested": lambda tensor: torch.nested.nested_tensor([tensor[:2], tensor[:3]]),
    "resized": lambda tensor: without_memory(tensor.clone()),
    "resized and strided": lambda tensor: without_memory(
        tensor.repeat(2, *[1] * (tensor.dim() - 1))[::2]
    ),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", WITHOUT_NUMBERS)
def test_tensors_without_numbers_are_refused(name: str) -> None:
    x, y = examples()
    change = WITHOUT_NUMBERS[name]
    for data, part in (((change(x), y), "inputs"), ((x, change(y)), "labels")):
        with pytest.raises(ValueError, match=f"^{part} .*; give a plain tensor"):
            nnlab.fit(network(), data, optimizer=SGD_CONFIG)


def test_a_model_without_numbers_is_refused() -> None:
    model = network().to("meta")
    with pytest.raises(ValueError, match=r"meta device.*to_empty"):
        nnlab.fit(model, examples(), optimizer=SGD_CONFIG)
    with pytest.raises(ValueError, match=r"meta device.*to_empty"):
        nnlab.evaluate(model, examples())


@pytest.mark.parametrize("name", ["batch_size", "max_epochs", "seed"])
def test_options_of_fit_that_are_no_whole_numbers(name: str) -> None:
    for value in (2.5, "5", -1):
        options: dict[str, Any] = {name: value}
        with pytest.raises(ValueError, match=f"{name}={value!r} is not possible: it must be"):
            nnlab.fit(network(), examples(), optimizer=SGD_CONFIG, **options)
    options = {"max_epochs": 1, name: np.int64(2)}
    assert nnlab.fit(network(), examples(), optimizer=SGD_CONFIG, **options).status == "finished"


def test_a_data_loader_gives_data_batches_and_shuffling() -> None:
    x, y = examples()
    dataset = TensorDataset(x, y)
    for batch_size, shuffle in ((7, True), (7, False), (1, False)):
        loader = DataLoader(dataset, batch_size, shuffle=shuffle)
        models = [network(), network()]
        given: list[tuple[Any, dict[str, Any]]] = [
            (loader, {}),
            ((x, y), {"batch_size": batch_size, "shuffle": shuffle}),
        ]
        results = [
            nnlab.fit(model, data, loader, optimizer=SGD_CONFIG, max_epochs=2, **options)
            for model, (data, options) in zip(models, given)
        ]
        assert_close(models[0].state_dict(), models[1].state_dict(), rtol=0, atol=0)
        assert results[0].valid_loss == results[1].valid_loss
    models = [network(), network()]  # what the caller gives comes first
    nnlab.fit(models[0], loader, optimizer=SGD_CONFIG, max_epochs=1, batch_size=5, shuffle=True)
    nnlab.fit(models[1], (x, y), optimizer=SGD_CONFIG, max_epochs=1, batch_size=5)
    assert_close(models[0].state_dict(), models[1].state_dict(), rtol=0, atol=0)
    assert nnlab.evaluate(models[0], loader) == nnlab.evaluate(models[0], (x, y))


class Tenfold(TensorDataset):
    def __getitem__(self, index: int) -> Any:
        x, y = self.tensors
        return 10 * x[index], y[index]


class First(TensorDataset):
    def __len__(self) -> int:
        return 20


def test_a_dataset_of_the_users_gives_its_own_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = examples()
    split = gathered(Tenfold(x, y), network())
    assert_close(split.inputs, 10 * x, rtol=0, atol=0)
    assert_close(gathered(First(x, y), network()).inputs, x[:20], rtol=0, atol=0)
    subset: Dataset[Any] = Subset(Tenfold(x, y), [3, 1])
    assert_close(gathered(subset, network()).inputs, 10 * x[[3, 1]], rtol=0, atol=0)
    assert_close(gathered(DataLoader(Tenfold(x, y)), network()).inputs, 10 * x, rtol=0, atol=0)
    monkeypatch.setattr(TensorDataset, "__getitem__", lambda self, i: (-x[i], y[i]))
    assert_close(gathered(TensorDataset(x, y), network()).inputs, -x, rtol=0, atol=0)


class Loud(DataLoader[Any]):
    def __iter__(self) -> Any:
        for x, y in super().__iter__():
            yield 10 * x, y


class Backwards(SequentialSampler):
    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self))[::-1])


def test_a_data_loader_of_the_users_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = TensorDataset(*examples())
    for loader in (Loud(data), DataLoader(data, sampler=Backwards(data))):
        with pytest.raises(ValueError, match=r"DataLoader with .* give its dataset"):
            nnlab.fit(network(), loader, optimizer=SGD_CONFIG)
    for kind in (DataLoader, RandomSampler, BatchSampler):
        with monkeypatch.context() as patch:
            patch.setattr(kind, "__iter__", lambda self: iter(()))
            with pytest.raises(ValueError, match=r"DataLoader with .* give its dataset"):
                nnlab.fit(network(), DataLoader(data, shuffle=True), optimizer=SGD_CONFIG)


def test_train_epoch_takes_the_order_of_a_data_loader() -> None:
    x, y = examples()
    models = [network(), network()]
    sgds = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    generators = [torch.Generator().manual_seed(3) for _ in models]
    loader = DataLoader(TensorDataset(x, y), 7, shuffle=True, generator=generators[0])
    nnlab.train_epoch(models[0], loader, sgds[0])
    order = list(RandomSampler(range(43), generator=generators[1]))
    plain_loop.train(models[1], x, y, sgds[1], 7, [order])
    assert_close(models[0].state_dict(), models[1].state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": SubsetRandomSampler([0, 1])},
        {"sampler": RandomSampler(range(43), replacement=True)},
        {"sampler": RandomSampler(range(43), num_samples=20)},
        {"sampler": SequentialSampler(range(20))},
        {"batch_sampler": BatchSampler(SequentialSampler(range(43)), 5, False)},
        {"batch_size": None},
        {"collate_fn": list},
    ],
)
def test_a_data_loader_that_does_more_is_refused(options: dict[str, Any]) -> None:
    loader = DataLoader(TensorDataset(*examples()), **options)
    with pytest.raises(ValueError, match=r"a DataLoader with .* give its dataset"):
        nnlab.fit(network(), loader, optimizer=SGD_CONFIG)
    with pytest.raises(ValueError, match=r"a DataLoader with .* give its dataset"):
        nnlab.evaluate(network(), loader)


@pytest.mark.parametrize("batch_size", [7, 43])
def test_the_last_batch_can_be_left_out(engine: type[Engine], batch_size: int) -> None:
    """As a DataLoader does, in a loop by hand over whole batches."""
    x, y = examples()
    whole = 43 - 43 % batch_size
    models = [network() for _ in range(3)]
    sgd = torch.optim.SGD(models[0].parameters(), lr=0.1)
    kept = [order[:whole] for order in orders(43, 3)]
    expected = plain_loop.train(models[0], x, y, sgd, batch_size, kept)
    name = "torch" if engine is StackedEngine else engine.name
    given: list[tuple[Any, dict[str, Any]]] = [
        ((x, y), {"batch_size": batch_size, "drop_last": True}),
        (DataLoader(TensorDataset(x, y), batch_size, shuffle=True, drop_last=True), {}),
    ]
    for model, (data, options) in zip(models[1:], given):
        options |= {"optimizer": nnlab.SGD(lr=0.1), "max_epochs": 3, "engine": name}
        result = nnlab.fit(model, data, **options)
        # Of other engines the sums are rounded otherwise.
        assert_close(model.state_dict(), models[0].state_dict(), rtol=1e-5, atol=1e-6)
        measured = result.metrics[["train_loss", "train_accuracy"]].to_numpy()
        np.testing.assert_allclose(measured, expected, rtol=1e-5)


def test_where_no_example_may_be_left_out() -> None:
    x, y = examples()
    loader = DataLoader(TensorDataset(x, y), 7, drop_last=True)
    with pytest.raises(ValueError, match="drop_last=True is one to train with"):
        nnlab.evaluate(network(), loader)
    with pytest.raises(ValueError, match="drop_last=True is one to train with"):
        nnlab.fit(network(), (x, y), loader, optimizer=nnlab.SGD())
    with pytest.raises(ValueError, match="batch_size=44 exceeds the 43 training examples"):
        nnlab.fit(network(), (x, y), optimizer=nnlab.SGD(), batch_size=44, drop_last=True)
    with pytest.raises(ValueError, match=r"engine=stacked .* drop_last"):
        nnlab.fit(network(), loader, optimizer=nnlab.SGD(), engine="stacked")
    models = [network(), network()]
    sgds = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    nnlab.train_epoch(models[0], loader, sgds[0])
    plain_loop.train(models[1], x, y, sgds[1], 7, [range(42)])
    assert_close(models[0].state_dict(), models[1].state_dict(), rtol=0, atol=0)


def test_images_of_pil_are_inputs() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (43, 3, 4), dtype=np.uint8)
    _, y = examples()
    split = gathered(([Image.fromarray(each) for each in pixels], y), network())
    assert_close(split.inputs, torch.from_numpy(pixels).flatten(1).float(), rtol=0, atol=0)


# ---- after each epoch ----

Scheduler = torch.optim.lr_scheduler.LRScheduler
SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Scheduler]] = {
    "step": lambda sgd: torch.optim.lr_scheduler.StepLR(sgd, 2, gamma=0.5),
    "cosine": lambda sgd: torch.optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=5),
    "one after the other": lambda sgd: torch.optim.lr_scheduler.SequentialLR(
        sgd,
        [
            torch.optim.lr_scheduler.LinearLR(sgd, 0.1, total_iters=2),
            torch.optim.lr_scheduler.ExponentialLR(sgd, 0.5),
        ],
        milestones=[2],
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_is_that_of_a_loop_by_hand(name: str) -> None:
    x, y = examples()
    theirs, ours = network(), network()
    plain = torch.optim.SGD(theirs.parameters(), lr=0.2, momentum=0.5)
    schedule = SCHEDULERS[name](plain)
    rates = []
    for order in orders(43, 5):
        plain_loop.train(theirs, x, y, plain, 10, [order])
        schedule.step()
        rates.append(plain.param_groups[0]["lr"])
    sgd = torch.optim.SGD(ours.parameters(), lr=0.2, momentum=0.5)
    seen: list[float] = []
    result = nnlab.fit(
        *(ours, (x, y)),
        optimizer=sgd,
        scheduler=SCHEDULERS[name](sgd),
        on_epoch=lambda _: seen.append(sgd.param_groups[0]["lr"]),
        max_epochs=5,
    )
    assert seen == rates
    assert len(set(rates)) > 2
    assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    assert result.engine_reason == "a scheduler changes the optimizer after each epoch"


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("validated", [True, False])
def test_a_scheduler_that_waits_for_a_plateau(mode: Any, validated: bool) -> None:
    x, y = examples()
    model = network()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    make = torch.optim.lr_scheduler.ReduceLROnPlateau
    rates: list[float] = []
    result = nnlab.fit(
        *(model, (x, y), (x[:9], y[:9]) if validated else None),
        optimizer=sgd,
        scheduler=make(sgd, mode, factor=0.5, patience=1, threshold=0.3),
        on_epoch=lambda _: rates.append(sgd.param_groups[0]["lr"]),
        max_epochs=12,
    )
    other = torch.optim.SGD(network().parameters(), lr=0.1)
    plateau = make(other, mode, factor=0.5, patience=1, threshold=0.3)
    column = f"{'valid' if validated else 'train'}_{'loss' if mode == 'min' else 'accuracy'}"
    expected = []
    for value in result.metrics[column]:
        plateau.step(value)
        expected.append(other.param_groups[0]["lr"])
    assert rates == expected
    assert rates[-1] < 0.1


def test_on_epoch_sees_each_epoch_and_may_end_it() -> None:
    x, y = examples()
    models = [network(), network()]
    seen: list[Epoch] = []
    losses = []

    def on_epoch(epoch: Epoch) -> bool:
        seen.append(epoch)
        losses.append(nnlab.evaluate(models[0], (x, y))[0])
        return epoch.epoch == 3

    options: dict[str, Any] = {"optimizer": nnlab.SGD(lr=0.1), "valid": (x, y), "test": (x, y)}
    result = nnlab.fit(models[0], (x, y), on_epoch=on_epoch, **options)
    until = nnlab.fit(models[1], (x, y), max_epochs=3, engine="torch", **options)
    assert (result.status, result.stop_reason) == ("stopped", "on_epoch ended it after epoch 3")
    assert_close(models[0].state_dict(), models[1].state_dict(), rtol=0, atol=0)
    assert result.test_loss == until.test_loss
    assert losses == result.metrics["valid_loss"].tolist() == until.metrics["valid_loss"].tolist()
    assert [each._asdict() for each in seen] == result.metrics.to_dict("records")
    assert result.engine_reason == "on_epoch may look at the model after each epoch"
    for answer in (np.True_, 1, "yes"):  # no other value than True ends it
        result = nnlab.fit(
            *(network(), (x, y)),
            optimizer=nnlab.SGD(),
            max_epochs=2,
            on_epoch=lambda _, answer=answer: answer,  # type: ignore[misc]
        )
        assert len(result.metrics) == (1 if answer is np.True_ else 2)


def test_an_epoch_that_ends_by_itself_keeps_its_reason() -> None:
    result = nnlab.fit(
        *(network(), examples()), optimizer=nnlab.SGD(), max_epochs=2, on_epoch=lambda e: e[0] == 2
    )
    assert (result.status, result.stop_reason) == ("finished", "reached max_epochs=2")


def test_the_best_weights_are_restored_where_on_epoch_ends_it() -> None:
    model, data = network(), examples()
    rule = Says([1.0, 2.0, 3.0], patience=5)
    options: dict[str, Any] = {"stopping": rule, "on_epoch": lambda epoch: epoch.epoch == 3}
    result = nnlab.fit(model, data, data, optimizer=nnlab.SGD(lr=0.1), **options)
    assert (result.weights_of_epoch, len(result.metrics)) == (1, 3)
    assert nnlab.evaluate(model, data)[0] == result.valid_loss


def test_what_does_not_go_with_a_scheduler_or_on_epoch() -> None:
    model, data = network(), examples()
    sgd, other = (torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2))
    schedule = torch.optim.lr_scheduler.StepLR(other, 1)
    for optimizer in (sgd, nnlab.SGD()):
        with pytest.raises(ValueError, match="the StepLR changes another optimizer"):
            nnlab.fit(model, data, optimizer=optimizer, scheduler=schedule)
    for name in ("native", "stacked"):
        with pytest.raises(ValueError, match=f"engine={name} .* a scheduler changes"):
            nnlab.fit(model, data, optimizer=other, scheduler=schedule, engine=name)
        with pytest.raises(ValueError, match=f"engine={name} .* on_epoch may look"):
            nnlab.fit(model, data, optimizer=sgd, on_epoch=print, engine=name)


def test_progress_shows_the_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    data = examples()
    options: dict[str, Any] = {"optimizer": nnlab.SGD(), "max_epochs": 3}
    result = nnlab.fit(network(), data, data, progress=True, **options)
    shown = capsys.readouterr().err
    assert "3/3" in shown
    last = result.metrics.iloc[-1]
    assert f"valid loss={last['valid_loss']:.4g}, valid acc" in shown
    nnlab.fit(network(), data, **options)
    assert capsys.readouterr() == ("", "")


# ---- what can be asked of a result ----


def test_the_best_epoch_is_that_of_the_lowest_validation_loss() -> None:
    data = examples()
    result = nnlab.fit(network(), data, optimizer=nnlab.SGD(), max_epochs=3)
    assert result.best_epoch is None
    result = nnlab.fit(network(), data, data, optimizer=nnlab.SGD(), max_epochs=3)
    assert result.best_epoch == 3
    result.metrics["valid_loss"] = [2.0, 1.0, 3.0]
    assert result.best_epoch == 2


def test_predictions_are_the_softmax_of_the_model() -> None:
    x, y = examples()
    model = network()
    result = nnlab.fit(model, (x, y), optimizer=SGD_CONFIG, max_epochs=2)
    with torch.no_grad():
        expected = model(x).softmax(1)
    for inputs in (x, x.numpy(), pd.DataFrame(x.numpy()), x.view(-1, 3, 4), x.tolist()):
        assert_close(result.predict(inputs), expected, rtol=0, atol=0)
    assert result.predict(x[:0]).shape == (0, 4)
    with pytest.raises(ValueError, match=r"takes \[N, 12\]"):
        result.predict(torch.zeros(2, 5))
    uncertain = nn.Sequential(model, nn.Dropout(0.5))
    result = nnlab.fit(uncertain, (x, y), optimizer=SGD_CONFIG, max_epochs=0)
    assert_close(result.predict(x), expected, rtol=0, atol=0)
    assert uncertain.training


def test_a_result_draws_its_curves() -> None:
    data = examples()
    result = nnlab.fit(network(), data, data, optimizer=nnlab.SGD(lr=0.1), max_epochs=4)
    loss, accuracy = result.plot().axes
    for axes, quantity, scale in ((loss, "loss", 1), (accuracy, "accuracy", 100)):
        for line, part in zip(axes.lines, ("train", "valid")):
            np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3, 4])
            expected = scale * result.metrics[f"{part}_{quantity}"]
            np.testing.assert_array_equal(line.get_ydata(), expected)
    for alone in (
        nnlab.fit(network(), data, optimizer=nnlab.SGD(), max_epochs=1),
        nnlab.fit(network(), data, optimizer=nnlab.SGD(), max_epochs=0),
    ):
        picture: Any = alone.plot()
        assert picture._repr_png_().startswith(b"\x89PNG")


def test_an_optimizer_by_its_options_is_the_one_of_torch() -> None:
    inputs = torch.rand(40, 5, generator=torch.Generator().manual_seed(0))
    data = inputs, torch.arange(40) % 3
    losses = []
    for named in (True, False):
        model = nnlab.mlp(5, [4], 3, generator=torch.Generator().manual_seed(1))
        options = nnlab.SGD(lr=0.1) if named else torch.optim.SGD(model.parameters(), lr=0.1)
        losses.append(nnlab.fit(model, data, optimizer=options, max_epochs=3).metrics.train_loss)
    assert losses[0].tolist() == losses[1].tolist()
    with pytest.raises(ValueError, match=r"optimizer\.lr=-1"):
        nnlab.fit(model, data, optimizer=nnlab.SGD(lr=-1))


def test_fit_needs_no_hydra() -> None:
    code = (
        "import sys, nnlab, torch; nnlab.fit(nnlab.mlp(2, [], 2), "
        "(torch.eye(2), torch.arange(2)), optimizer=nnlab.Adam(), max_epochs=1); "
        "assert not {'hydra', 'omegaconf'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lr": "0.1"}, "optimizer.lr='0.1' is not possible: it is a str; give a number"),
        ({"lr": None}, "optimizer.lr=None is not possible: it is a NoneType; give a number"),
        ({"momentum": True}, "optimizer.momentum=True is not possible: it is a bool"),
        ({"nesterov": 1}, "optimizer.nesterov=1 is not possible: .* give True or False"),
        ({"warmup": 1.5}, "optimizer.warmup=1.5 is not possible: .* give a whole number"),
        ({"clip_norm": "1"}, "optimizer.clip_norm='1' is not possible: .* a number, or None"),
    ],
)
def test_an_optimizers_options_have_types(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        nnlab.fit(network(), examples(), optimizer=nnlab.SGD(**options))
    with pytest.raises(ValueError, match=r"betas='0.9' is not possible: .* a list of numbers"):
        nnlab.fit(network(), examples(), optimizer=nnlab.Adam(betas="0.9"))  # type: ignore[arg-type]


def test_numbers_of_any_type_are_options() -> None:
    sgd = nnlab.SGD(lr=np.float32(0.1), warmup=np.int64(0), momentum=0)
    assert nnlab.fit(network(), examples(), optimizer=sgd, max_epochs=1).status == "finished"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_targets_that_are_no_numbers_are_named_before_training(value: float) -> None:
    inputs, _ = examples()
    targets = inputs.sum(1)
    targets[[3, 7]] = value
    said = r"2 of 43 labels are missing values or not finite, the first that of example 3 \("
    for given in ((inputs, targets), (inputs[:3], targets[:3])):
        model = nnlab.mlp(12, [4], 1)
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(ValueError, match=said):
            nnlab.fit(model, given, (inputs, targets), optimizer=nnlab.SGD())
        assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_a_batch_of_one_is_not_normalised() -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(12, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4))

    options: dict[str, Any] = {"optimizer": nnlab.SGD(), "max_epochs": 1}
    said = "batch_size=14 makes a batch of 1 of the 43 training examples, .* drop_last=True"
    with pytest.raises(ValueError, match=said):
        nnlab.fit(model(), examples(), batch_size=14, **options)
    with pytest.raises(ValueError, match="batch_size=1 makes a batch of 1"):
        nnlab.fit(model(), examples(), batch_size=1, drop_last=False, **options)
    accepted: list[dict[str, Any]] = [{"batch_size": 14, "drop_last": True}, {"batch_size": 13}]
    for fine in accepted:
        assert nnlab.fit(model(), examples(), **options, **fine).status == "finished"


@pytest.mark.parametrize("engine", ["native", "torch", "stacked"])
def test_a_split_is_taken_in_any_types_and_read_only(engine: str) -> None:
    inputs = np.random.default_rng(0).random((20, 5)).astype(np.float32)
    labels = np.arange(20) % 2
    fixed = inputs.copy()
    fixed.flags.writeable = False
    losses = []
    for split in (
        Split.whole(inputs, labels),
        Split.whole(fixed, labels),
        Split.whole(inputs.astype(np.float64), labels.astype(np.int32)),
        Split(inputs, labels, np.arange(20, dtype=np.int32)),
    ):
        torch.manual_seed(0)
        sgd = nnlab.SGD(lr=0.1)
        model = nn.Sequential(nn.Linear(5, 2))
        fitted = nnlab.fit(model, split, optimizer=sgd, max_epochs=2, engine=engine)
        losses.append(fitted.train_loss)
    assert losses == losses[:1] * 4
