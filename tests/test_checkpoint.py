from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save as safetensors
from torch import nn
from torch.testing import assert_close

import nnlab
from nnlab import checkpoint, records, seeds
from nnlab.config import SGD, Adam, AdamW, OptimizerConfig
from nnlab.datasets import Split
from nnlab.device import CPU
from nnlab.engines import Engine, Run, library
from nnlab.engines.native import NativeEngine
from nnlab.engines.stacked import StackedEngine
from nnlab.engines.torch import TorchEngine
from nnlab.stopping import Budget, Epoch, StoppingRule
from nnlab.training import train_runs
from tests.test_native import module_of

compiled = pytest.mark.skipif(library.available() is not None, reason="no compiled library")
ENGINES = [TorchEngine, StackedEngine, pytest.param(NativeEngine, marks=compiled)]
RULES: list[Callable[[], StoppingRule | None]] = [
    lambda: None,
    lambda: nnlab.Plateau(min_delta=0.02, patience=3),
    lambda: nnlab.Patience(patience=3, min_delta=0.01),
    lambda: nnlab.Target(0.95),
]
OPTIMIZERS = [SGD(lr=0.3), SGD(lr=0.1, momentum=0.9, nesterov=True), Adam(lr=0.02), AdamW(lr=0.02)]


def make_run(
    optimizer: OptimizerConfig, rule: StoppingRule | None = None, wide: bool = False, seed: int = 0
) -> Run:
    """Noisy examples of three classes. wide: so many inputs that native takes its dual form."""
    draws = torch.Generator().manual_seed(seed)
    inputs = torch.randn(90, 600 if wide else 6, generator=draws)
    labels = (inputs[:, :3] + torch.randn(90, 3, generator=draws)).argmax(1)
    parts = np.split(np.arange(90), 3)
    train, valid, test = (Split(inputs.numpy(), labels.numpy(), part) for part in parts)
    return Run(
        nnlab.mlp(inputs.shape[1], [5], 3, generator=torch.Generator().manual_seed(seed)),
        optimizer,
        train,
        valid,
        test,
        batch_size=4,
        max_epochs=20,
        stopping=rule,
        order=seeds.generator(seed, "order"),
    )


def train(make: Callable[[], list[Run]], engine: type[Engine], stop: int, path: Path) -> list[Run]:
    """Train runs, but break off after an epoch and go on from files, with all made anew."""
    runs = make()
    first = engine(runs, CPU)
    for run, epoch in train_runs(runs, first):
        if epoch is not None and epoch.epoch == stop and run is runs[-1]:
            for number, each in enumerate(runs):
                checkpoint.save(path / f"{number}", checkpoint.of(each, first, {"number": number}))
            break
    again = make()
    found = {run: checkpoint.load(path / f"{number}") for number, run in enumerate(again)}
    states = {run: state for run, state in found.items() if state is not None}
    assert [state.identity for state in states.values()] == [
        {"number": n} for n in range(len(again))
    ]
    for _ in train_runs(again, engine(again, CPU), states):
        pass
    return again


def undisturbed(make: Callable[[], list[Run]], engine: type[Engine]) -> list[Run]:
    runs = make()
    for _ in train_runs(runs, engine(runs, CPU)):
        pass
    return runs


def assert_right(run: Run) -> None:
    """Which examples the run has right are those of its own network, asked by hand."""
    model = module_of(run).eval()
    assert run.kept is not None
    for name, split, accuracy in (
        ("valid", run.valid, run.kept.valid_accuracy),
        ("test", run.test, run.test_accuracy),
    ):
        if split is None:
            continue
        inputs, labels = map(torch.from_numpy, split.examples)
        expected = model(inputs).argmax(1) == labels
        np.testing.assert_array_equal(run.right[name], expected.numpy())
        assert np.mean(run.right[name]) == pytest.approx(accuracy, abs=1e-12)


def assert_same(ours: Sequence[Run], theirs: Sequence[Run]) -> None:
    for our, their in zip(ours, theirs, strict=True):
        assert [row[:5] for row in our.epochs] == [row[:5] for row in their.epochs]
        assert (our.status, our.stop_reason, our.restored) == (
            their.status,
            their.stop_reason,
            their.restored,
        )
        assert (our.test_loss, our.test_accuracy) == (their.test_loss, their.test_accuracy)
        assert_right(our)
        assert_right(their)
        states = [module_of(run).state_dict() for run in (our, their)]
        assert_close(states[0], states[1], rtol=0, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda each: each.name)
def test_a_run_goes_on_bit_for_bit(
    tmp_path: Path, engine: type[Engine], optimizer: OptimizerConfig
) -> None:
    def make() -> list[Run]:
        return [make_run(optimizer)]

    assert_same(train(make, engine, 7, tmp_path), undisturbed(make, engine))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("wide", [False, True], ids=["usual", "dual"])
@pytest.mark.parametrize("rule", RULES)
def test_rules_and_best_weights_go_on(
    tmp_path: Path, engine: type[Engine], rule: Callable[[], StoppingRule | None], wide: bool
) -> None:
    def make() -> list[Run]:
        return [make_run(SGD(lr=0.3), rule(), wide)]

    if wide and engine is NativeEngine:
        assert NativeEngine.form(make()[0]) == "dual"
    expected = undisturbed(make, engine)
    if engine is not StackedEngine:
        assert all(each.cpu_seconds for each in train(make, engine, 1, tmp_path))
    for stop in (1, 3, len(expected[0].epochs)):
        assert_same(train(make, engine, stop, tmp_path), expected)


def test_what_layers_draw_goes_on(tmp_path: Path) -> None:
    def make() -> list[Run]:
        run = make_run(Adam(lr=0.02), nnlab.Patience(patience=3))
        with seeds.drawing_from(seeds.generator(0, "weights")):
            layers = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3)
        run.model, run.noise = nn.Sequential(*layers), seeds.generator(0, "layers")
        run.batch_size = 5
        return [run]

    for stop in (1, 4):
        assert_same(train(make, TorchEngine, stop, tmp_path), undisturbed(make, TorchEngine))
    # And they do draw: other noise, other numbers.
    (other,) = make()
    other.noise = seeds.generator(1, "layers")
    (expected,) = undisturbed(make, TorchEngine)
    undisturbed(lambda: [other], TorchEngine)
    assert other.epochs[0].train_loss != expected.epochs[0].train_loss


def test_a_stack_goes_on_with_those_that_have_not_ended(tmp_path: Path) -> None:
    def make() -> list[Run]:
        runs = [make_run(SGD(lr=0.3), nnlab.Patience(patience=9), seed=seed) for seed in range(3)]
        runs[0].max_epochs = 5
        return runs

    assert_same(train(make, StackedEngine, 5, tmp_path), undisturbed(make, StackedEngine))


@compiled
@pytest.mark.parametrize("before", [NativeEngine, TorchEngine, StackedEngine])
@pytest.mark.parametrize("after", [NativeEngine, TorchEngine, StackedEngine])
@pytest.mark.parametrize("optimizer", [SGD(lr=0.3), SGD(lr=0.02, momentum=0.9), Adam(lr=0.02)])
@pytest.mark.parametrize("wide", [False, True], ids=["usual", "dual"])
def test_another_engine_goes_on_up_to_rounding(
    tmp_path: Path,
    before: type[Engine],
    after: type[Engine],
    optimizer: OptimizerConfig,
    wide: bool,
) -> None:
    """With the best weights, too; against an undisturbed run of the second engine."""

    def make() -> Run:
        return make_run(optimizer, nnlab.Patience(patience=20), wide)

    run = make()
    first = before([run], CPU)
    for _, epoch in train_runs([run], first):
        if epoch is not None and epoch.epoch == 6:
            checkpoint.save(tmp_path / "state", checkpoint.of(run, first, {}))
            break
    found = checkpoint.load(tmp_path / "state")
    assert found is not None
    found.exact = before is after
    run = make()
    for _ in train_runs([run], after([run], CPU), {run: found}):
        pass
    (expected,) = undisturbed(lambda: [make()], after)
    assert run.restored == expected.restored
    # float32 sums in other orders: 1e-7 each, over some 160 steps.
    for name, value in run.model.state_dict().items():
        assert_close(value, expected.model.state_dict()[name], rtol=1e-3, atol=1e-4)
    losses = [[row.valid_loss for row in each.epochs] for each in (run, expected)]
    assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=1e-4, atol=1e-5)


def test_a_budget_goes_on_with_the_time_that_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    run = make_run(SGD(lr=0.1), Budget(10))
    engine = TorchEngine([run], CPU)
    run.stopping = Budget(10)
    for epoch in (1, 2):
        clock[0] += 3
        assert run.stopping.update(Epoch(epoch, 1.0, 0.5, 1.0, 0.5, 2.0 * epoch)) is None
    state = checkpoint.of(run, engine, {})
    clock[0] = 5.0  # another computer
    again = make_run(SGD(lr=0.1), Budget(10))
    state.restore(again, TorchEngine([again], CPU))
    assert again.stopping is not None
    assert again.stopping.update(Epoch(3, 1.0, 0.5, 1.0, 0.5, 6.0)) is None  # 2 + 3 + 2 s
    clock[0] += 3
    reason = again.stopping.update(Epoch(4, 1.0, 0.5, 1.0, 0.5, 8.0))
    assert reason == "10 s have passed, the budget is 10 s"


def test_damage_is_told(tmp_path: Path) -> None:
    run = make_run(Adam(lr=0.02), nnlab.Patience())
    engine = TorchEngine([run], CPU)
    next(train_runs([run], engine))
    path = tmp_path / "state"
    checkpoint.save(path, checkpoint.of(run, engine, {"fingerprint": "ours"}))
    whole = path.read_bytes()
    assert json.loads(whole[8:].split(b"\n")[0][: int.from_bytes(whole[:8], "little")])
    for place in torch.randint(len(whole), (200,), generator=torch.Generator().manual_seed(0)):
        flipped = bytearray(whole)
        flipped[place] ^= 4
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match="state is damaged"):
            checkpoint.load(path)
    for length in (0, 5, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="state is damaged"):
            checkpoint.load(path)
    numbers = {"epochs": np.empty((0, 6))}
    text = json.dumps({"empty": [], "of_the_future": 1})
    digest = records.digest_of(text, numbers)
    path.write_bytes(safetensors(numbers, {"state": text, "sha256": digest}))
    with pytest.raises(ValueError, match="state is damaged, or another nnlab's"):
        checkpoint.load(path)
    path.unlink()
    assert checkpoint.load(path) is None


def test_epochs_are_kept_to_the_last_bit(tmp_path: Path) -> None:
    """What was not measured stays None beside what became NaN, and numbers of epochs integers."""
    rows: list[tuple[float | None, ...]] = [
        (1, 0.1, math.nan, None, 1 / 3),
        (2, math.inf, 5e-324, None, 2.0),
    ]
    made = checkpoint.Checkpoint({}, rows, "running", "", {}, None, None, {})
    for kept in (rows, []):
        made.epochs = kept
        checkpoint.save(tmp_path / "state", made)
        found = checkpoint.load(tmp_path / "state")
        assert found is not None
        assert repr(found.epochs) == repr(kept)
