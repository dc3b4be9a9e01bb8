from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.data import TensorDataset

import nnlab
from nnlab import seeds
from nnlab.datasets import Split
from nnlab.engines import Engine, Run, native
from nnlab.engines.native import NativeEngine
from nnlab.engines.stacked import StackedEngine
from nnlab.engines.torch import TorchEngine
from nnlab.stopping import Epoch
from nnlab.training import as_split, draw_order, judge, train_runs
from tests import plain_loop

CPU = torch.device("cpu")

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
    return [torch.randperm(count, generator=generator).tolist() for _ in range(epochs)]


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

    def spy(self: TorchEngine, runs: list[Run], split: str) -> list[tuple[float, float]]:
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
    ],
)
def test_bad_data_is_refused(data: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_split(data, network())  # type: ignore[arg-type]


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
    run.optimizer = torch.optim.Adam(run.model.parameters(), lr=0.01)
    engine = TorchEngine([run], CPU)
    order = torch.arange(len(y))
    engine.train_epoch([run], [order])
    state = engine.state(run)
    assert {"0.weight", "0.weight.exp_avg", "0.weight.exp_avg_sq", "0.weight.step"} <= set(state)
    engine.train_epoch([run], [order])
    expected = engine.state(run)

    other = Run(network(9), run.optimizer, split)
    other.optimizer = torch.optim.Adam(other.model.parameters(), lr=0.01)
    resumed = TorchEngine([other], CPU)
    resumed.load_state(other, state)
    resumed.train_epoch([other], [order])
    assert_close(resumed.state(other), expected, rtol=0, atol=0)


ENGINES = [TorchEngine, NativeEngine, StackedEngine]


@pytest.fixture(params=ENGINES, ids=lambda engine: engine.name)
def engine(request: pytest.FixtureRequest) -> type[Engine]:
    if request.param is NativeEngine and native.available() is not None:
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


def test_without_training_a_run_is_evaluated(engine: type[Engine]) -> None:
    run, trained = make_run(0, 43, 0), make_run(1, 43, 2)
    before = copy.deepcopy(run.model.state_dict())
    expected = nnlab.evaluate(copy.deepcopy(run.model), run.test or ())
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
