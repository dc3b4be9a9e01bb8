from __future__ import annotations

import itertools
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import nnlab
from nnlab import seeds
from nnlab.config import SGD, Adam, AdamW, OptimizerConfig
from nnlab.datasets import Split
from nnlab.datasets.sampling import Index
from nnlab.device import CPU, Device
from nnlab.engines import Run, State, stacked
from nnlab.engines.stacked import StackedEngine, unsupported_reason
from nnlab.engines.stacked_losses import PlainCrossEntropy
from nnlab.engines.torch import TorchEngine
from nnlab.training import draw_order, train_runs
from tests.test_native import module_of

INPUTS, CLASSES = 12, 4
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "identity": nn.Identity}
# Two roundings of the same sums; float64 has 1.1e-16, float32 6e-8, and steps add up.
TIGHT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-12}


def sgd(lr: float = 0.1, **options: Any) -> SGD:
    defaults: dict[str, Any] = {
        "weight_decay": 0.0,
        "momentum": 0.0,
        "dampening": 0.0,
        "nesterov": False,
    }
    return SGD(name="sgd", lr=lr, **defaults | options)


def adam(lr: float = 0.01, kind: type[Adam] = Adam, **options: Any) -> Adam:
    defaults: dict[str, Any] = {"weight_decay": 0.0, "betas": [0.9, 0.999], "eps": 1e-8}
    return kind(name=kind.__name__.lower(), lr=lr, **{"amsgrad": False} | defaults | options)


# The optimizers of three runs in one stack: every number that may differ does.
OPTIMIZERS: dict[str, list[OptimizerConfig]] = {
    "sgd": [sgd(0.1), sgd(0.02), sgd(0.3)],
    "sgd with decay": [sgd(0.1, weight_decay=0.1), sgd(0.02), sgd(0.3, weight_decay=0.01)],
    "penalties": [sgd(0.1, l1=0.01, l2=0.02), sgd(0.02), sgd(0.3, l1=0.005)],
    "clipped": [
        sgd(0.1, clip_norm=0.2),
        sgd(0.05, clip_norm=0.5, l2=0.1, weight_decay=0.1),
        sgd(0.3, clip_norm=100.0),
    ],
    "momentum": [
        sgd(0.1, momentum=0.9, dampening=0.5),
        sgd(0.05, momentum=0.5, weight_decay=0.05),
        sgd(0.2, dampening=0.3),  # without momentum torch does not dampen
    ],
    "nesterov": [
        sgd(0.1, momentum=0.9, nesterov=True),
        sgd(0.05, momentum=0.5, nesterov=True, weight_decay=0.1),
        sgd(0.02, momentum=0.1, nesterov=True),
    ],
    "adam": [
        adam(0.01),
        adam(0.03, betas=[0.5, 0.9], weight_decay=0.1),
        adam(0.001, eps=0.1, betas=[0.0, 0.99]),
    ],
    "adamw": [
        adam(0.01, AdamW),
        adam(0.03, AdamW, betas=[0.5, 0.9], weight_decay=0.1),
        adam(0.001, AdamW, eps=0.1, weight_decay=1.0),
    ],
}


def examples(count: int, inputs: int, classes: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, inputs, generator=generator, dtype=torch.float64)
    return x.to(dtype), torch.randint(classes, (count,), generator=generator)


def make_runs(
    optimizers: Sequence[OptimizerConfig],
    sizes: Sequence[int],
    *,
    hidden: Sequence[int] = (9, 7),
    inputs: int = INPUTS,
    classes: int = CLASSES,
    activation: str = "relu",
    batch_size: int = 7,
    dtype: torch.dtype = torch.float64,
    dropout: float = 0.0,
    **options: Any,
) -> list[Run]:
    """Make one run per optimizer, on ``sizes`` of the same examples; equal at every call."""
    x, y = (each.numpy() for each in examples(80, inputs, classes, dtype))
    runs = []
    for seed, (optimizer, size) in enumerate(zip(optimizers, sizes)):
        generator = torch.Generator().manual_seed(seed)
        layers = inputs, hidden, classes, activation, generator
        model = nnlab.mlp(*layers, dropout=dropout).to(dtype)
        train, rest = torch.randperm(80, generator=generator).split([size, 80 - size])
        valid, test = rest[: 5 + seed], rest[-9 - seed :]
        runs.append(
            Run(
                model,
                optimizer,
                Split(x, y, train),
                Split(x, y, valid) if len(valid) else None,
                Split(x, y, test) if len(test) else None,
                batch_size=batch_size,
                order=seeds.generator(seed, "order"),
                noise=seeds.generator(seed, "layers"),
                **options,
            )
        )
    return runs


def draw_orders(runs: Sequence[Run]) -> list[Index]:
    return [draw_order(run) for run in runs]


def assert_equal_states(
    found: StackedEngine | TorchEngine,
    ours: Sequence[Run],
    expected: StackedEngine | TorchEngine,
    theirs: Sequence[Run],
    **tolerance: Any,
) -> None:
    for our, their in zip(ours, theirs):
        assert_close(found.state(our), expected.state(their), **tolerance)


def assert_same_epoch(
    engine: StackedEngine | TorchEngine,
    ours: Sequence[Run],
    reference: TorchEngine,
    theirs: Sequence[Run],
    tolerance: dict[str, Any] = TIGHT,
) -> None:
    """Train an epoch in both engines; compare measures, weights and moments."""
    orders = draw_orders(theirs)
    found = engine.train_epoch(ours, orders)
    expected = reference.train_epoch(theirs, orders)
    assert_close([t.measures for t in found], [t.measures for t in expected], **tolerance)
    assert_equal_states(engine, ours, reference, theirs, **tolerance)


def assert_same_training(
    ours: list[Run], theirs: list[Run], epochs: int, *, device: Device = CPU, **options: Any
) -> None:
    """Train in the stacked and in the torch engine; compare everything after each epoch."""
    tolerance = options.pop("tolerance", TIGHT)
    engine, reference = StackedEngine(ours, device, **options), TorchEngine(theirs, CPU)
    for _ in range(epochs):
        assert_same_epoch(engine, ours, reference, theirs, tolerance)
    for split in ("train", "valid", "test"):
        found_there = engine.evaluate(ours, split)
        assert_close(found_there, reference.evaluate(theirs, split), **tolerance)


# ---- against the torch engine ----


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer(optimizer: str) -> None:
    """10 epochs; at least 30, 100 and 40 steps with shorter last batches."""
    ours, theirs = (make_runs(OPTIMIZERS[optimizer], [20, 66, 28]) for _ in range(2))
    assert_same_training(ours, theirs, 10)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_every_activation(activation: str, optimizer: str) -> None:
    ours, theirs = (
        make_runs(OPTIMIZERS[optimizer], [20, 40, 33], activation=activation) for _ in range(2)
    )
    assert_same_training(ours, theirs, 3)


@pytest.mark.parametrize(
    ("inputs", "hidden", "classes"),
    [
        (12, [], 4),
        (1, [1], 1),
        (7, [33], 3),
        (33, [1, 7], 2),
        (13, [17, 1, 33], 5),
        (64, [31, 33, 7, 5], 10),
    ],
)
def test_one_layer_to_five(inputs: int, hidden: list[int], classes: int) -> None:
    ours, theirs = (
        make_runs(
            OPTIMIZERS["momentum"],
            [20, 41, 33],
            hidden=hidden,
            inputs=inputs,
            classes=classes,
            activation="tanh",
        )
        for _ in range(2)
    )
    assert_same_training(ours, theirs, 3)


@pytest.mark.parametrize("batch_size", [1, 7, 10, 64, 1000])
@pytest.mark.parametrize("sizes", [[40, 40, 40], [1, 10, 66], [7, 6, 8]])
def test_every_batch_size(batch_size: int, sizes: list[int]) -> None:
    """Also last batches of one example, and batches larger than some or all training sets."""
    ours, theirs = (
        make_runs(OPTIMIZERS["momentum"], sizes, batch_size=batch_size) for _ in range(2)
    )
    assert_same_training(ours, theirs, 2)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    ("steps", "rtol", "atol"), [(1, 1e-5, 1e-6), (10, 1e-5, 1e-6), (100, 1e-4, 1e-5)]
)
def test_float32(optimizer: str, steps: int, rtol: float, atol: float) -> None:
    """The sums are taken in another order, and every step carries the difference on.

    Adam's first steps have the size of the learning rate however small the gradient, so an
    element whose gradient is mostly rounding moves further: eps is large enough here.
    """
    optimizers = [
        adam(o.lr, type(o), betas=o.betas, weight_decay=o.weight_decay, eps=1e-3)
        if isinstance(o, Adam)
        else o
        for o in OPTIMIZERS[optimizer]
    ]
    count = min(steps, 10)
    ours, theirs = (
        make_runs(optimizers, [7 * count, 7 * count, 7], dtype=torch.float32) for _ in range(2)
    )
    tolerance = {"rtol": rtol, "atol": atol}
    assert_same_training(ours, theirs, max(1, steps // 10), tolerance=tolerance)


def test_any_arrangement_of_activations() -> None:
    """Also two layers with nothing between them, and names that nn.Sequential was given."""

    def runs() -> list[Run]:
        made = make_runs(OPTIMIZERS["adam"], [20, 40, 33])
        for seed, run in enumerate(made):
            torch.manual_seed(seed)
            run.model = nn.Sequential()
            run.model.add_module(f"first{seed}", nn.Linear(12, 5))
            run.model.add_module("squash", nn.Sigmoid())
            run.model.add_module("second", nn.Linear(5, 6))
            run.model.add_module("third", nn.Linear(6, 7))
            run.model.add_module("rectify", nn.ReLU(inplace=True))
            run.model.add_module("last", nn.Linear(7, 4))
            run.model.double()
        return made

    assert_same_training(runs(), runs(), 3)


def test_runs_with_arrays_of_their_own() -> None:
    """As with dataset.normalize=true, where every subset is standardised by itself."""

    def runs() -> list[Run]:
        made = make_runs(OPTIMIZERS["sgd"], [20, 40, 33])
        for number, run in enumerate(made[1:]):
            x, y = run.train.inputs[run.train.index], run.train.labels[run.train.index]
            run.train = Split.whole(x * (number + 2), y)
        return made

    assert_same_training(runs(), runs(), 3)


def test_data_is_held_once() -> None:
    runs = make_runs(OPTIMIZERS["sgd"], [20, 40, 33])
    engine = StackedEngine(runs, CPU)
    assert engine.inputs.shape == (80, INPUTS)  # all nine splits share one array of 80
    assert engine.labels.shape == (80,)


sizes_of_layers = st.lists(st.integers(1, 9), min_size=2, max_size=6)


@st.composite
def architectures(draw: st.DrawFn) -> Callable[[], list[Run]]:
    sizes = draw(sizes_of_layers)
    between = st.sampled_from([None, *ACTIVATIONS.values()])
    kinds = draw(st.lists(between, min_size=len(sizes) - 2, max_size=len(sizes) - 2))
    optimizer = draw(st.sampled_from(["sgd", "momentum", "nesterov", "adam", "adamw"]))
    number = {
        name: st.floats(low, high, allow_nan=False)
        # Larger rates make training chaotic: a difference of 1e-16 then grows without bound.
        for name, low, high in [("lr", 0, 0.02), ("decay", 0, 0.2), ("beta", 0.05, 0.99)]
    }

    def options() -> OptimizerConfig:
        lr, decay, one, two = (draw(number[n]) for n in ("lr", "decay", "beta", "beta"))
        if optimizer.startswith("adam"):
            kind = AdamW if optimizer == "adamw" else Adam
            return adam(lr, kind, weight_decay=decay, betas=[one, two], eps=1e-3)
        if optimizer == "sgd":
            return sgd(lr, weight_decay=decay)
        nesterov = optimizer == "nesterov"
        dampening = 0.0 if nesterov else two
        return sgd(lr, weight_decay=decay, momentum=one, dampening=dampening, nesterov=nesterov)

    optimizers = [options() for _ in range(draw(st.integers(1, 5)))]
    counts = [draw(st.integers(1, 30)) for _ in optimizers]
    batch_size = draw(st.sampled_from([1, 3, 7, 10, 64]))

    def runs() -> list[Run]:
        made = make_runs(
            optimizers, counts, inputs=sizes[0], classes=sizes[-1], batch_size=batch_size
        )
        for seed, run in enumerate(made):
            torch.manual_seed(seed)
            modules: list[nn.Module] = []
            for (fan_in, fan_out), kind in zip(itertools.pairwise(sizes), [*kinds, None]):
                modules += [nn.Linear(fan_in, fan_out)] + ([] if kind is None else [kind()])
            run.model = nn.Sequential(*modules).double()
        return made

    return runs


@settings(max_examples=50, deadline=None)
@given(runs=architectures(), epochs=st.integers(1, 2))
def test_drawn_architectures_and_stacks(runs: Callable[[], list[Run]], epochs: int) -> None:
    assert_same_training(runs(), runs(), epochs, tolerance={"rtol": 1e-8, "atol": 1e-10})


# ---- a run and its neighbours ----


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_a_run_does_not_depend_on_its_neighbours(optimizer: str) -> None:
    """Neighbours of other sizes, in another order, ending early and diverging to NaN."""
    chosen = [*OPTIMIZERS[optimizer], *OPTIMIZERS[optimizer]]
    sizes = [33, 20, 66, 66, 33, 5]

    def runs(*which: int) -> list[Run]:
        made = make_runs(chosen, sizes)
        for run, epochs in zip(made, [8, 2, 9, 3, 6, 1]):
            run.max_epochs = epochs
        made[2].train.inputs = made[2].train.inputs.copy()
        made[2].train.inputs[made[2].train.index[11]] = torch.nan
        return [made[i] for i in which]

    finished = {}
    for which in [(0,), (0, 1, 2, 3, 4, 5), (5, 2, 4, 3, 0, 1), (2, 0)]:
        stack = runs(*which)
        for _ in train_runs(stack, StackedEngine(stack, CPU)):
            pass
        finished[which] = stack[which.index(0)]
        assert all(
            run.status == ("diverged" if i == 2 else "finished") for i, run in zip(which, stack)
        )
        assert [len(run.epochs) for run in stack] == [[8, 2, 1, 3, 6, 1][i] for i in which]
    alone = finished.pop((0,))
    for among in finished.values():
        assert_close(among.model.state_dict(), alone.model.state_dict(), **TIGHT)
        assert_close([e[:5] for e in among.epochs], [e[:5] for e in alone.epochs], **TIGHT)
        assert_close(among.test_loss, alone.test_loss, **TIGHT)
        assert among.test_accuracy == alone.test_accuracy


def test_a_large_learning_rate_diverges_alone() -> None:
    optimizers = [sgd(0.1), sgd(1e300), sgd(0.1)]
    ours, theirs = (make_runs(optimizers, [40, 40, 20], max_epochs=4) for _ in range(2))
    engines: list[StackedEngine | TorchEngine] = [
        StackedEngine(ours, CPU),
        TorchEngine(theirs, CPU),
    ]
    for runs, engine in zip((ours, theirs), engines):
        for _ in train_runs(runs, engine):
            pass
    assert [run.status for run in ours] == ["finished", "diverged", "finished"]
    assert [len(run.epochs) for run in ours] == [len(run.epochs) for run in theirs]
    for our, their in ((ours[0], theirs[0]), (ours[2], theirs[2])):
        assert_close(our.model.state_dict(), their.model.state_dict(), **TIGHT)


def test_ended_runs_are_compacted_away() -> None:
    """When few runs are left, or when the longest have ended; the others train on as before."""
    chosen = [*OPTIMIZERS["momentum"], *OPTIMIZERS["momentum"]]
    ours, theirs = (make_runs(chosen, [20, 40, 33, 38, 66, 20]) for _ in range(2))
    engine, reference = StackedEngine(ours, CPU), TorchEngine(theirs, CPU)
    rows = []
    for ended in ([], [5], [4], [0], [2, 3]):  # the others are 1 and 3, then 1
        for held, kind in ((ours, engine), (theirs, reference)):
            kind.release([held[i] for i in ended])
        for number in ended:
            trained = theirs[number].model.state_dict()
            assert_close(ours[number].model.state_dict(), trained, **TIGHT)
        left = [i for i in range(6) if ours[i] in engine.rows]
        our_left, their_left = [ours[i] for i in left], [theirs[i] for i in left]
        assert_same_epoch(engine, our_left, reference, their_left)
        rows.append(len(engine.stack))
        assert engine.weights.shape[0] == engine.moments[0].shape[0] == rows[-1]
    # 5 stays as a dead row; 4 was the longest; 0 is a dead row; 1 is left alone.
    assert rows == [6, 6, 4, 4, 1]
    assert engine.examples.shape == (6, 1, 7)


# ---- the loop ----


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_whole_loop_with_stopping(optimizer: str) -> None:
    results = []
    kinds: list[type[StackedEngine | TorchEngine]] = [StackedEngine, TorchEngine]
    for kind in kinds:
        runs = make_runs(OPTIMIZERS[optimizer] * 2, [20, 40, 33, 45, 66, 7], max_epochs=12)
        for run, patience in zip(runs, [1, 2, 1, None, 3, 1]):
            run.stopping = None if patience is None else nnlab.Plateau(0.02, patience)
        runs[3].valid = None
        runs[5].test = None
        seen = [
            (runs.index(run), epoch is None) for run, epoch in train_runs(runs, kind(runs, CPU))
        ]
        results.append((runs, seen))
    (ours, our_seen), (theirs, their_seen) = results
    assert our_seen == their_seen
    assert len({len(run.epochs) for run in ours}) > 2  # they ended at different times
    assert {run.status for run in ours} == {"stopped", "finished"}
    for our, their in zip(ours, theirs):
        assert (our.status, our.stop_reason) == (their.status, their.stop_reason)
        assert_close([e[:5] for e in our.epochs], [e[:5] for e in their.epochs], **TIGHT)
        assert_close(our.test_loss, their.test_loss, **TIGHT)
        assert our.test_accuracy == their.test_accuracy
        assert_close(our.model.state_dict(), their.model.state_dict(), **TIGHT)


def test_seconds_add_up_and_follow_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(100.0, 6.0)
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    runs = make_runs(OPTIMIZERS["sgd"], [7, 20, 14])  # 1, 3 and 2 steps
    trained = StackedEngine(runs, CPU).train_epoch(runs, draw_orders(runs))
    assert [run.seconds for run in trained] == pytest.approx([1.0, 3.0, 2.0])


@pytest.mark.parametrize("numbers", [1, 200, 2**26])
def test_evaluate_any_runs_in_any_order_and_any_chunks(
    numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacked, "EVALUATION_NUMBERS", numbers)
    runs = make_runs(OPTIMIZERS["sgd"], [20, 40, 33])
    engine, reference = StackedEngine(runs, CPU), TorchEngine(runs, CPU)
    for which in ([0, 1, 2], [2, 0], [1], [1, 2, 0], [1, 0, 2], []):
        some = [runs[i] for i in which]
        for split in ("train", "valid", "test"):
            found = engine.evaluate(some, split)
            assert_close(found, reference.evaluate(some, split), **TIGHT)


def test_an_engine_without_runs() -> None:
    engine = StackedEngine([], CPU)
    assert list(train_runs([], engine)) == []


def test_layers_may_share_an_activation() -> None:
    def runs() -> list[Run]:
        made = make_runs([sgd()], [40], hidden=[5, 6])
        for run in made:
            layers = [
                module for module in module_of(run).children() if isinstance(module, nn.Linear)
            ]
            tanh = nn.Tanh()
            run.model = nn.Sequential(layers[0], tanh, layers[1], tanh, layers[2])
        return made

    ours, theirs = runs(), runs()
    engine, reference = StackedEngine(ours, CPU), TorchEngine(theirs, CPU)
    assert_same_epoch(engine, ours, reference, theirs)


# ---- states ----


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_state_moves_between_engines(optimizer: str) -> None:
    """Stacked, torch, stacked: an epoch each, as if one engine had trained all the time."""
    stay, move = (make_runs(OPTIMIZERS[optimizer], [20, 40, 33]) for _ in range(2))
    unbroken = TorchEngine(stay, CPU)
    states: list[State] = []
    kinds: list[type[StackedEngine | TorchEngine]] = [StackedEngine, TorchEngine, StackedEngine]
    for kind in kinds:
        move = [Run(r.model, r.optimizer, r.train, batch_size=7, order=r.order) for r in move]
        engine = kind(move, CPU)
        for run, state in zip(move, states):
            engine.load_state(run, state)
        orders = draw_orders(stay)
        unbroken.train_epoch(stay, orders)
        engine.train_epoch(move, orders)
        states = [engine.state(run) for run in move]
        assert_equal_states(engine, move, unbroken, stay, **TIGHT)
        for run in move:
            nn.init.zeros_(first_linear(run).weight)  # only the state carries on


def test_a_state_from_before_the_first_step_forgets_all_steps() -> None:
    ours, theirs = (make_runs(OPTIMIZERS["adam"], [20, 40, 33]) for _ in range(2))
    engine = StackedEngine(ours, CPU)
    before = [engine.state(run) for run in ours]
    assert list(before[0]) == list(ours[0].model.state_dict())
    orders = draw_orders(ours)
    engine.train_epoch(ours, orders)
    engine.load_state(ours[1], before[1])
    assert_close(engine.state(ours[1]), before[1], rtol=0, atol=0)

    engine.train_epoch(ours, orders)
    reference = TorchEngine(theirs, CPU)
    reference.train_epoch(theirs, orders)
    assert_equal_states(engine, ours[1:2], reference, theirs[1:2], **TIGHT)
    reference.train_epoch(theirs, orders)
    assert_equal_states(engine, ours[::2], reference, theirs[::2], **TIGHT)


def test_a_state_is_a_copy() -> None:
    runs = make_runs(OPTIMIZERS["momentum"], [20, 40, 33])
    engine = StackedEngine(runs, CPU)
    engine.train_epoch(runs, draw_orders(runs))
    state = engine.state(runs[0])
    kept = {name: value.copy() for name, value in state.items()}
    engine.train_epoch(runs, draw_orders(runs))
    assert_close(state, kept, rtol=0, atol=0)
    for value in state.values():
        value[...] = math.nan
    assert all(np.isfinite(value).all() for value in engine.state(runs[0]).values())


def test_a_state_of_another_model_changes_nothing() -> None:
    runs = make_runs(OPTIMIZERS["sgd"], [20])
    engine = StackedEngine(runs, CPU)
    before = engine.state(runs[0])
    wrong = {name: np.zeros_like(value) for name, value in before.items()}
    wrong["4.bias"] = np.zeros(1)  # would broadcast
    with pytest.raises(ValueError, match=r"4\.bias is \[1\], not \[4\]"):
        engine.load_state(runs[0], wrong)
    assert_close(engine.state(runs[0]), before, rtol=0, atol=0)


# ---- torch.optim instances ----

INSTANCES: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
}


@pytest.mark.parametrize("name", INSTANCES)
def test_a_torch_optimizer_is_translated_and_given_back(name: str) -> None:
    """It brings its state, follows its schedule, and can go on with what the engine leaves.

    Six layers: the names 0.weight and 10.weight must not be taken for each other.
    """
    ours, theirs = (
        make_runs([sgd()] * 2, [20, 40], hidden=[5, 4, 3, 4, 5], activation="tanh")
        for _ in range(2)
    )
    for run in ours + theirs:
        run.optimizer = INSTANCES[name](run.model.parameters())
    kinds: list[type[StackedEngine | TorchEngine]] = [TorchEngine, StackedEngine, TorchEngine]
    reference = TorchEngine(theirs, CPU)
    for kind in kinds:
        engine = kind(ours, CPU)
        for _ in range(2):
            assert_same_epoch(engine, ours, reference, theirs)
            for run in ours + theirs:
                assert isinstance(run.optimizer, torch.optim.Optimizer)
                run.optimizer.param_groups[0]["lr"] *= 0.7
                run.optimizer.param_groups[0]["weight_decay"] += 0.1
        engine.release(ours)


def test_a_torch_optimizer_that_became_another_is_refused() -> None:
    runs = make_runs([sgd()], [20])
    optimizer = runs[0].optimizer = torch.optim.SGD(module_of(runs[0]).parameters(), lr=0.1)
    engine = StackedEngine(runs, CPU)
    optimizer.param_groups[0]["momentum"] = 0.9
    with pytest.raises(ValueError, match="changed into another"):
        engine.train_epoch(runs, draw_orders(runs))


def test_configured_optimizers_do_not_import_torch_dynamo() -> None:
    """Making a torch.optim object imports it, which takes a second."""
    code = (
        "import sys\n"
        "from tests.test_stacked import *\n"
        "runs = make_runs(OPTIMIZERS['adam'], [20, 40, 33], max_epochs=2)\n"
        "before = 'torch._dynamo' in sys.modules\n"
        "for _ in train_runs(runs, StackedEngine(runs, CPU)): pass\n"
        "assert not before and 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- what is refused ----


def refused(change: Callable[[Run], None]) -> str | None:
    (run,) = make_runs([sgd()], [20])
    change(run)
    return unsupported_reason(run, CPU)


def with_model(*modules: nn.Module) -> Callable[[Run], None]:
    def change(run: Run) -> None:
        run.model = nn.Sequential(*modules).double()

    return change


def first_linear(run: Run) -> nn.Linear:
    return next(module for module in module_of(run).modules() if isinstance(module, nn.Linear))


twice = nn.Linear(12, 12)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda run: setattr(run, "model", nn.Linear(12, 4)), "the model is Linear"),
        (with_model(nn.ReLU(), nn.Linear(12, 4)), "ReLU does not follow"),
        (with_model(nn.Linear(12, 4), nn.ReLU()), "does not end"),
        (with_model(), "does not end"),
        (with_model(nn.Linear(12, 4), nn.GELU(), nn.Linear(4, 4)), "GELU is none of Linear, "),
        (with_model(nn.Linear(12, 4), nn.ReLU(), nn.Tanh(), nn.Linear(4, 4)), "Tanh does not"),
        (with_model(twice, nn.ReLU(), twice), "in two places"),
        (with_model(nn.Linear(12, 5), nn.ReLU(), nn.Linear(4, 4)), "do not fit"),
        (lambda run: run.model.register_forward_hook(print), "hooks"),
        (lambda run: first_linear(run).weight.requires_grad_(False), "frozen"),
        (lambda run: run.model.half(), "torch.float16"),
        (lambda run: run.model.float(), "train inputs are float64"),
        (lambda run: first_linear(run).float(), "a parameter is torch.float64"),
        (lambda run: setattr(run, "optimizer", adam(amsgrad=True)), "amsgrad"),
        (
            lambda run: setattr(run, "optimizer", torch.optim.Adagrad(run.model.parameters())),
            "Adagrad",
        ),
        (lambda run: setattr(run, "batch_size", 0), "batch_size=0"),
        (with_model(nn.Linear(11, 4)), r"but the model takes float64 \[80, 11\]"),
        (with_model(nn.Linear(12, 3)), "train labels are 0 to 3; the model has classes 0 to 2"),
        (lambda run: run.train.index.fill(80), "train index holds 80 to 80"),
        (lambda run: run.test.index.fill(-1), "test index holds -1 to -1"),
        (lambda run: setattr(run.valid, "index", np.array([1.0])), "valid index are float64"),
        (lambda run: setattr(run.valid, "index", np.arange(0)), "there are no valid examples"),
    ],
)
def test_what_cannot_be_taken_is_refused(change: Callable[[Run], None], reason: str) -> None:
    found = refused(change)
    assert found is not None
    assert_contains(found, reason)
    (run,) = make_runs([sgd()], [20])
    change(run)
    with pytest.raises(ValueError, match=f"{reason}.*engine=torch can"):
        StackedEngine([run], CPU)


def assert_contains(text: str, pattern: str) -> None:
    with pytest.raises(ValueError, match=pattern):
        raise ValueError(text)


def test_what_can_be_taken_is_not_refused() -> None:
    assert refused(lambda run: None) is None
    (run,) = make_runs([sgd()], [20], dtype=torch.float32)
    assert unsupported_reason(run, Device("cuda")) is None
    assert unsupported_reason(run, Device("mps")) is None
    (run,) = make_runs([sgd()], [20])
    assert unsupported_reason(run, Device("mps")) == (  # which has no float64
        "a parameter is torch.float64; all must be torch.float32"
    )


@pytest.mark.parametrize(
    ("options", "together"),
    [
        ({"optimizers": [sgd(0.5, momentum=0.9, weight_decay=0.1)], "sizes": [30]}, True),
        ({"optimizers": [adam()]}, False),
        ({"optimizers": [sgd(momentum=0.9, nesterov=True)]}, False),
        ({"max_epochs": 3, "stopping": nnlab.Plateau()}, True),
        ({"hidden": [9, 8]}, False),
        ({"activation": "tanh"}, False),
        ({"batch_size": 8}, False),
        ({"dtype": torch.float32}, False),
    ],
)
def test_group_says_what_is_trained_together(options: dict[str, Any], together: bool) -> None:
    (run,) = make_runs([sgd()], [20])
    arguments: dict[str, Any] = {"optimizers": [sgd()], "sizes": [20]}
    (other,) = make_runs(**arguments | options)
    assert (StackedEngine.group(run) == StackedEngine.group(other)) == together
    assert (hash(StackedEngine.group(run)) == hash(StackedEngine.group(other))) == together
    if together:
        StackedEngine([run, other], CPU)
    else:
        with pytest.raises(ValueError, match="an engine for each group"):
            StackedEngine([run, other], CPU)


def test_adam_and_adamw_are_not_trained_together() -> None:
    runs = make_runs([adam(), adam(kind=AdamW)], [20, 20])
    with pytest.raises(ValueError, match="an engine for each group"):
        StackedEngine(runs, CPU)


def test_bad_calls_of_train_epoch_are_refused() -> None:
    runs = make_runs(OPTIMIZERS["sgd"], [20, 40, 33])
    engine = StackedEngine(runs, CPU)
    before = [engine.state(run) for run in runs]
    orders = draw_orders(runs)
    with pytest.raises(ValueError, match="got 2 runs, which are not the 3"):
        engine.train_epoch(runs[:2], orders[:2])
    with pytest.raises(ValueError, match=r"an order is \[19\] for 20 examples"):
        engine.train_epoch(runs, [orders[0][1:], *orders[1:]])
    for bad in (20, -1):
        wrong = orders[0].copy()
        wrong[7] = bad
        with pytest.raises(IndexError, match="a position that is not in its training index"):
            engine.train_epoch(runs, [wrong, *orders[1:]])
    assert_close([engine.state(run) for run in runs], before, rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_tf32_is_off_inside_and_as_before_outside(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    original = stacked.forward

    def spy(*arguments: Any) -> list[Tensor]:
        seen.append(torch.get_float32_matmul_precision())
        return original(*arguments)

    monkeypatch.setattr(stacked, "forward", spy)
    runs = make_runs(OPTIMIZERS["sgd"], [7, 7, 7])
    engine = StackedEngine(runs, CPU)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        engine.train_epoch(runs, draw_orders(runs))
        engine.evaluate(runs, "test")
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == ["highest", "highest"]


# ---- the graph ----


class Recording(TorchDispatchMode):
    """Records operations with the tensors that they read and write, as a CUDA graph does."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # These would wait for the device, which a capture does not allow.
        assert func.overloadpacket not in (
            torch.ops.aten._local_scalar_dense,
            torch.ops.aten.nonzero,
            torch.ops.aten.masked_select,
        )
        result = func(*args, **kwargs or {})
        self.calls.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, recorded in self.calls:
            fresh = func(*args, **kwargs)
            if recorded.data_ptr() != fresh.data_ptr():  # neither a view nor in place
                recorded.copy_(fresh)


class Graphs:
    """Stands in for CUDA's graphs on the CPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.captures = self.warmed = 0
        monkeypatch.setattr(stacked, "captured", self.captured)
        monkeypatch.setattr(stacked, "on_side_stream", self.on_side_stream)

    def on_side_stream(self, work: Callable[[], None], device: torch.device) -> None:
        self.warmed += 1
        work()

    def captured(self, work: Any, device: torch.device) -> Callable[[], None]:
        """Record without doing: what was overwritten meanwhile is put back."""
        self.captures += 1
        engine: StackedEngine = work.__self__
        arrays = [engine.weights, *engine.moments]
        before = [array.clone() for array in arrays]
        recording = Recording()
        with recording:
            work()
        for array, value in zip(arrays, before):
            array.copy_(value)
        own = [getattr(engine.loss, name, None) for name in ("picked", "spread", "wrong")]
        scratches = [engine.gradients, engine.batch, engine.sums, *own]
        for scratch in (each for each in scratches if each is not None):
            scratch.fill_(torch.nan if scratch is not engine.gradients else 0.5)
        return recording.replay


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_replayed_epoch_is_an_epoch(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With orders, states and learning rates that change between replays, and with compaction."""
    graphs = Graphs(monkeypatch)
    chosen = [*OPTIMIZERS[optimizer], *OPTIMIZERS[optimizer]]
    ours, theirs = (make_runs(chosen, [20, 66, 33, 33, 66, 5]) for _ in range(2))
    engine, reference = StackedEngine(ours, CPU), TorchEngine(theirs, CPU)
    engine.graph = True
    counts = []
    for ended in ([], [], [], [5], [], [1, 4], [], []):
        for held, kind in ((ours, engine), (theirs, reference)):
            kind.release([held[i] for i in ended])
        left = [i for i in range(6) if ours[i] in engine.rows]
        our_left, their_left = [ours[i] for i in left], [theirs[i] for i in left]
        if ended == [5]:
            reference.load_state(theirs[0], engine.state(ours[2]))
            engine.load_state(ours[0], engine.state(ours[2]))
        assert_same_epoch(engine, our_left, reference, their_left)
        counts.append((graphs.warmed, graphs.captures))
    # Not captured at once, nor anew when a run ends whose row stays; anew after compaction.
    assert counts == [(1, 0), (1, 1), (1, 1), (1, 1), (1, 1), (2, 1), (2, 2), (2, 2)]


def test_a_schedule_reaches_a_replayed_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = Graphs(monkeypatch)
    ours, theirs = (make_runs([sgd()] * 2, [20, 40]) for _ in range(2))
    for run in ours + theirs:
        run.optimizer = torch.optim.SGD(module_of(run).parameters(), lr=0.1, momentum=0.9)
    engine, reference = StackedEngine(ours, CPU), TorchEngine(theirs, CPU)
    engine.graph = True
    for epoch in range(6):
        assert_same_epoch(engine, ours, reference, theirs)
        for run in ours + theirs:
            assert isinstance(run.optimizer, torch.optim.Optimizer)
            run.optimizer.param_groups[0]["lr"] *= 0.5
            # From 0 it adds an operation, which the graph does not have.
            run.optimizer.param_groups[0]["weight_decay"] = 0.1 if epoch >= 2 else 0.0
    assert (graphs.warmed, graphs.captures) == (2, 2)


def test_a_replayed_epoch_drops_other_units(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = Graphs(monkeypatch)
    ours, theirs = (make_runs(OPTIMIZERS["clipped"], [20, 40, 33], dropout=0.3) for _ in range(2))
    engine, reference = StackedEngine(ours, CPU), TorchEngine(theirs, CPU)
    engine.graph = True
    for _ in range(4):
        assert_same_epoch(engine, ours, reference, theirs)
    assert (graphs.warmed, graphs.captures) == (1, 1)


def test_there_is_no_graph_on_the_cpu() -> None:
    runs = make_runs([sgd()], [20])
    assert not StackedEngine(runs, CPU).graph


# ---- on a GPU ----

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@cuda
@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_on_cuda(optimizer: str, graph: bool) -> None:
    ours, theirs = (make_runs(OPTIMIZERS[optimizer], [20, 66, 28]) for _ in range(2))
    assert_same_training(ours, theirs, 5, device=Device("cuda", 0), graph=graph)


@cuda
@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_the_whole_loop_on_cuda(optimizer: str, graph: bool) -> None:
    """With stopped runs, compaction and new captures."""
    chosen = [*OPTIMIZERS[optimizer], *OPTIMIZERS[optimizer]]
    ours, theirs = (make_runs(chosen, [20, 66, 33, 33, 66, 5]) for _ in range(2))
    for runs in (ours, theirs):
        for run, epochs in zip(runs, [12, 8, 4, 10, 5, 3]):
            run.max_epochs = epochs
    for _ in train_runs(ours, StackedEngine(ours, Device("cuda", 0), graph=graph)):
        pass
    for _ in train_runs(theirs, TorchEngine(theirs, CPU)):
        pass
    for our, their in zip(ours, theirs):
        assert_close([e[:5] for e in our.epochs], [e[:5] for e in their.epochs], **TIGHT)
        assert_close(our.test_loss, their.test_loss, **TIGHT)
        assert_close(our.model.state_dict(), their.model.state_dict(), **TIGHT)


@cuda
@pytest.mark.parametrize("graph", [True, False])
def test_float32_on_cuda_is_not_tf32(graph: bool) -> None:
    """TF32 keeps 10 bits of a factor: its error would be near 1e-3."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        shape: dict[str, Any] = {"inputs": 784, "hidden": [128, 64], "dtype": torch.float32}
        # One step so large that the gradient is most of the weights.
        ours, theirs = (make_runs([sgd(10.0)] * 3, [7, 7, 7], **shape) for _ in range(2))
        tolerance = {"rtol": 1e-4, "atol": 1e-5}
        device = Device("cuda", 0)
        assert_same_training(ours, theirs, 1, device=device, graph=graph, tolerance=tolerance)
    finally:
        torch.set_float32_matmul_precision(before)


def test_runs_that_do_not_fit_into_memory_are_several_stacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = make_runs([Adam("adam", 0.01, 0.0, [0.9, 0.999], 1e-8, False)] * 5, [40] * 5)
    each, data = max(map(stacked.stacked_bytes, runs)), stacked.data_bytes(runs)
    for most, expected in ((5, [5]), (2, [2, 2, 1]), (1, [1] * 5), (0, [1] * 5)):
        free = math.ceil((data + (most + 0.5) * each) / stacked.SHARE)
        monkeypatch.setattr(stacked, "free_memory", lambda device, free=free: free)
        stacks = StackedEngine.divide(runs, CPU)
        assert [len(stack) for stack in stacks] == expected
        assert [run for stack in stacks for run in stack] == runs
    # No less than what the stack's own arrays take.
    engine = StackedEngine(runs, CPU)
    assert isinstance(engine.loss, PlainCrossEntropy)
    held = [engine.weights, engine.gradients, *engine.moments, engine.batch, engine.loss.picked]
    held += [engine.loss.predicted, engine.examples, engine.slots]
    assert sum(array.nbytes for array in held) <= 5 * each
