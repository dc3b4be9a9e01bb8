"""The native engine against the torch engine, and against loops written out here.

Axes: I inputs, O outputs, N examples.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import os
import shutil
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from nnlab.config import SGD, Adam, AdamW, EngineName, OptimizerConfig
from nnlab.datasets import Split
from nnlab.datasets.sampling import Index
from nnlab.device import CPU, Device
from nnlab.engines import Run, choose_engine, library
from nnlab.engines.modules import numbers, optimizer_config
from nnlab.engines.native import NativeEngine, unsupported_reason
from nnlab.engines.torch import TorchEngine, build_optimizer
from nnlab.model import mlp

REPOSITORY = Path(__file__).parents[1]
MISSING = library.available()
LEVELS = () if MISSING else library.levels()
needs_library = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

# Both engines compute in float32 but add in different orders, so they differ by some units
# in the last place (6e-8) of the largest terms, and a step passes on what the last one left.
CLOSE: dict[int, dict[str, float]] = {
    1: {"rtol": 1e-5, "atol": 1e-6},
    10: {"rtol": 3e-5, "atol": 3e-6},
    100: {"rtol": 3e-4, "atol": 3e-5},
}
KINK = 2e-6  # a ReLU's input that rounding may take to the other side of zero


def sgd(**options: Any) -> SGD:
    plain = {"lr": 0.1, "weight_decay": 0.0, "momentum": 0.0, "dampening": 0.0, "nesterov": False}
    return SGD(name="sgd", **{**plain, **options})


def adam(kind: type[Adam] = Adam, **options: Any) -> Adam:
    # With the usual eps=1e-8 a gradient that is only rounding error moves its weight by lr,
    # to either side; with this one such weights can be compared.
    plain = {"lr": 1e-3, "weight_decay": 0.0, "betas": [0.9, 0.99], "eps": 1e-3, "amsgrad": False}
    return kind(name=kind.__name__.lower(), **{**plain, **options})


OPTIMIZERS: dict[str, OptimizerConfig] = {
    "sgd": sgd(),
    "decay": sgd(weight_decay=0.02),
    "momentum": sgd(lr=0.03, momentum=0.9),
    "dampening": sgd(momentum=0.7, dampening=0.3, weight_decay=0.01),
    "nesterov": sgd(lr=0.03, momentum=0.8, nesterov=True, weight_decay=0.01),
    "adam": adam(),
    "adam_decay": adam(weight_decay=0.05, betas=[0.8, 0.95]),
    "adamw": adam(AdamW, weight_decay=0.05),
}


def make_run(
    sizes: tuple[int, ...] = (20, 33, 5),
    optimizer: OptimizerConfig | None = None,
    examples: int = 70,
    batch_size: int = 7,
    activation: str = "relu",
    density: float | Tensor = 1.0,
    seed: int = 0,
    max_epochs: int = 1,
    **network: Any,
) -> Run:
    """Return the same run every time: random data, of which a share ``density`` is not zero."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(examples, sizes[0], generator=generator)
    inputs *= torch.rand(inputs.shape, generator=generator) < density
    labels = torch.randint(sizes[-1], (examples,), generator=generator)
    split = Split.whole(inputs.numpy(), labels.numpy())
    model = mlp(sizes[0], sizes[1:-1], sizes[-1], activation, generator, **network)
    # In one epoch the dual form, which test_dual.py is about, never pays.
    return Run(
        model,
        optimizer or sgd(),
        split,
        valid=split,
        batch_size=batch_size,
        max_epochs=max_epochs,
        noise=np.random.default_rng(seed),
    )


def first_layer(run: Run) -> nn.Linear:
    layer = next(module_of(run).children())
    assert isinstance(layer, nn.Linear)
    return layer


def module_of(run: Run) -> nn.Module:
    assert isinstance(run.model, nn.Module)
    return run.model


def shuffled(run: Run, seed: int = 1) -> Index:
    return np.random.default_rng(seed).permutation(len(run.train))


def train(engine: NativeEngine | TorchEngine, run: Run, epochs: int = 1, first: int = 1) -> float:
    for epoch in range(first, first + epochs):
        trained = engine.train_epoch([run], [shuffled(run, epoch)])[0]
    return trained.loss


def assert_same_state(
    actual: Mapping[str, Any], expected: Mapping[str, Any], *, rtol: float, atol: float
) -> None:
    """Compare numbers by their names, arrays or tensors."""

    def named(name: str) -> Callable[[str], str]:
        return lambda message: f"{name}: {message}"

    assert list(actual) == list(expected)
    for name, value in expected.items():
        found, wanted = torch.as_tensor(actual[name]), torch.as_tensor(value)
        assert_close(found, wanted, rtol=rtol, atol=atol, equal_nan=True, msg=named(name))


def assert_engines_agree(
    epochs: int = 1,
    level: str | None = None,
    make: Callable[..., Run] = make_run,
    **options: Any,
) -> None:
    """Train the same run in both engines; compare every parameter, moment, loss, accuracy."""
    ours, reference = make(**options), make(**options)
    ours.native_level = level
    engine, oracle = NativeEngine([ours], CPU), TorchEngine([reference], CPU)
    steps = epochs * math.ceil(len(ours.train) / ours.batch_size)
    close = CLOSE[1 if steps <= 1 else 10 if steps <= 10 else 100]
    for epoch in range(1, epochs + 1):
        order = shuffled(ours, epoch)
        trained = engine.train_epoch([ours], [order])[0]
        expected = oracle.train_epoch([reference], [order])[0]
        assert trained.loss == pytest.approx(expected.loss, rel=close["rtol"], abs=close["atol"])
        assert trained.accuracy == expected.accuracy
        assert trained.seconds > 0
        for split in ("train", "valid", "test"):
            if getattr(ours, split) is not None:
                loss, accuracy = engine.evaluate([ours], split)[0]
                expected_loss, expected_accuracy = oracle.evaluate([reference], split)[0]
                assert loss == pytest.approx(expected_loss, rel=close["rtol"], abs=close["atol"])
                assert accuracy == expected_accuracy
    assert_same_state(engine.state(ours), oracle.state(reference), **close)


def nearest_to_kink(run: Run) -> float:
    """Return the least size of what an epoch gives to a ReLU, infinity without one: where it is
    below float32's rounding, that decides on which side of zero it lies."""
    sizes = [math.inf]
    for module in module_of(run).modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_pre_hook(
                lambda _, given: sizes.append(float(given[0].detach().abs().min()))
            )
    TorchEngine([run], CPU).train_epoch([run], [shuffled(run)])
    return min(sizes)


def movement(
    engine: type[NativeEngine] | type[TorchEngine], run: Run, double: bool = False
) -> Tensor:
    """Return how far three epochs move all weights, in float64; double: computed in it, too."""
    if double:
        module_of(run).double()
        run.train = dataclasses.replace(run.train, inputs=run.train.inputs.astype(np.float64))

    def weights() -> Tensor:
        return torch.cat([p.detach().double().flatten() for p in module_of(run).parameters()])

    before = weights()
    trainer = engine([run], CPU)
    for epoch in range(3):
        trainer.train_epoch([run], [shuffled(run, epoch)])
    trainer.release([run])
    return weights() - before


def assert_as_exact_as_torch(make: Callable[..., Run], **options: Any) -> None:
    """Compare the errors of both engines against float64, at all levels; medians of some seeds.

    A rounding that happens to bend a ReLU is passed on and grows, in either engine. The last
    place of a float32, 2e-7 of a sum of some, is as exact as any needs to be.
    """

    def small(seed: int) -> Run:
        run = make(seed=seed, **options)
        run.train.inputs *= 0.1  # so that a rate of 1 does not diverge
        return run

    errors: dict[str, list[float]] = {}
    for seed in range(3):
        exact = movement(TorchEngine, small(seed), double=True)

        def error(moved: Tensor, exact: Tensor = exact) -> float:
            return float((moved - exact).norm() / exact.norm())

        torchs = movement(TorchEngine, small(seed))
        errors.setdefault("torch", []).append(error(torchs))
        for level in LEVELS:
            run = small(seed)
            run.native_level = level
            errors.setdefault(level, []).append(error(movement(NativeEngine, run)))
    medians = {name: statistics.median(each) for name, each in errors.items()}
    assert max(medians.values()) < 2 * medians["torch"] + 2e-7, medians


# ---- the arithmetic ----


@needs_library
@pytest.mark.parametrize("steps", [1, 10, 100])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_optimizer_equals_torch(optimizer: OptimizerConfig, steps: int) -> None:
    # The last batch is a partial one, of 4.
    assert_engines_agree(optimizer=optimizer, examples=7 * steps - 3)


@needs_library
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_zeros_in_the_inputs_change_nothing(optimizer: OptimizerConfig) -> None:
    sizes = (200, 70, 5)
    assert_engines_agree(sizes=sizes, optimizer=optimizer, examples=100, density=0.15)


@needs_library
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_batches_with_and_without_zeros_follow_one_another(
    optimizer: OptimizerConfig, level: str
) -> None:
    """The next batch goes through the first layer while that is updated only if both are dense."""
    generator = torch.Generator().manual_seed(0)
    density = torch.rand(61, 1, generator=generator).round() * 0.95 + 0.05
    options: dict[str, Any] = {"density": density, "examples": 61, "level": level}
    for batch_size in (1, 3):
        assert_engines_agree(
            sizes=(200, 70, 5), optimizer=optimizer, batch_size=batch_size, **options
        )


@needs_library
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "identity"])
@pytest.mark.parametrize(
    "sizes",
    [(33, 7), (1, 1), (7, 1, 3), (784, 128, 64, 10), (33, 130, 7, 65, 4), (9, 8, 7, 64, 5, 17)],
    ids=str,
)
def test_every_shape_equals_torch(sizes: tuple[int, ...], activation: str) -> None:
    assert_engines_agree(sizes=sizes, activation=activation, optimizer=sgd(lr=0.03))


@needs_library
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 5, 7, 10, 13, 64, 69, 1000])
def test_every_batch_size_and_level_equals_torch(batch_size: int, level: str) -> None:
    options: dict[str, Any] = {"examples": 70, "batch_size": batch_size, "level": level}
    assert_engines_agree(sizes=(20, 150, 33, 5), **options)
    assert_engines_agree(sizes=(100, 20, 5), density=0.2, optimizer=sgd(momentum=0.5), **options)


@needs_library
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("optimizer", ["sgd", "decay", "momentum", "adam"])
@pytest.mark.parametrize("batch_size", [33, 256, 300])
def test_large_batches_and_layers_equal_torch(batch_size: int, optimizer: str, level: str) -> None:
    """Whose operands are packed, whose gradients take several goes, whose weights no L2 holds."""
    assert_engines_agree(
        sizes=(150, 530, 520, 5),
        optimizer=OPTIMIZERS[optimizer],
        examples=batch_size + 1,
        batch_size=batch_size,
        level=level,
    )


@needs_library
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_activations_of_extreme_inputs(activation: str, level: str) -> None:
    run = make_run(sizes=(1, 1, 2), activation=activation, examples=4001)
    run.train.inputs[:] = np.linspace(-200, 200, 4001)[:, None]
    with torch.no_grad():
        first_layer(run).weight.fill_(1)
        first_layer(run).bias.zero_()
    run.native_level = level
    loss, _ = NativeEngine([run], CPU).evaluate([run], "valid")[0]
    assert loss == pytest.approx(TorchEngine([run], CPU).evaluate([run], "valid")[0][0], rel=1e-6)


@needs_library
def test_a_dogset_sized_first_layer_equals_torch() -> None:
    sizes = (12288, 128, 64, 10)
    assert_engines_agree(sizes=sizes, examples=23, batch_size=10, optimizer=sgd(lr=1e-3))


@needs_library
@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 140), min_size=2, max_size=6).map(tuple),
    activation=st.sampled_from(["relu", "tanh", "sigmoid", "identity"]),
    optimizer=st.sampled_from(list(OPTIMIZERS.values())),
    batch_size=st.integers(1, 40),
    density=st.sampled_from([0.1, 1.0]),
    seed=st.integers(0, 1000),
    bias=st.booleans(),
    dropout=st.sampled_from([0.0, 0.3]),
    regularising=st.sampled_from(
        [{}, {"l1": 0.001}, {"l2": 0.01, "clip_norm": 0.1}, {"clip_norm": 1.0}]
    ),
)
def test_any_architecture_equals_torch(
    optimizer: OptimizerConfig, regularising: dict[str, Any], **options: Any
) -> None:
    optimizer = dataclasses.replace(optimizer, **regularising)
    if isinstance(optimizer, SGD):  # small steps, so that no draw diverges
        optimizer = dataclasses.replace(optimizer, lr=0.01)
    options |= {"optimizer": optimizer, "examples": 35}
    assume(nearest_to_kink(make_run(**options)) > KINK)
    assert_engines_agree(**options)


@needs_library
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("batch_size", [1, 10, 40, 1000])
@pytest.mark.parametrize("density", [0.2, 1.0])
def test_small_updates_are_not_lost(
    density: float, batch_size: int, optimizer: OptimizerConfig
) -> None:
    """A weight that got each example's part by itself would round it away."""
    # As in MNIST, some inputs are rarely zero and some almost always.
    share = 2 * density * torch.rand(200, generator=torch.Generator().manual_seed(0))
    for lr in (1e-6, 1e-3, 1.0 if isinstance(optimizer, SGD) else 0.01):
        assert_as_exact_as_torch(
            make_run,
            sizes=(200, 33, 5),
            optimizer=dataclasses.replace(optimizer, lr=lr),
            examples=max(batch_size, 10),
            batch_size=batch_size,
            density=share if density < 1 else 1.0,
        )


@needs_library
def test_adam_with_its_usual_eps_stays_close() -> None:
    """Few weights have gradients of rounding error alone, and none strays further than lr."""
    optimizer = adam(eps=1e-8)
    ours, reference = make_run(optimizer=optimizer), make_run(optimizer=optimizer)
    engine, oracle = NativeEngine([ours], CPU), TorchEngine([reference], CPU)
    assert train(engine, ours) == pytest.approx(train(oracle, reference), rel=1e-5)
    expected = oracle.state(reference)
    for name, value in engine.state(ours).items():
        distance = np.abs(value - expected[name])
        assert distance.max() < 10 * 1e-3, name
        assert (distance > 1e-5).mean() < 0.01, name


@needs_library
def test_training_equals_a_loop_written_out() -> None:
    """Weight decay, momentum and nesterov by their formulas, without torch.optim."""
    run = make_run(optimizer=OPTIMIZERS["nesterov"])
    weights = [p.detach().clone().requires_grad_() for p in module_of(run).parameters()]
    inputs, labels = torch.from_numpy(run.train.inputs), torch.from_numpy(run.train.labels)
    velocities = [torch.zeros_like(weight) for weight in weights]
    for batch in torch.from_numpy(shuffled(run)).split(7):
        hidden = (inputs[batch] @ weights[0].T + weights[1]).relu()
        loss = cross_entropy(hidden @ weights[2].T + weights[3], labels[batch])
        gradients = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            decayed = [g + 0.01 * w for g, w in zip(gradients, weights)]
            velocities = [0.8 * v + g for v, g in zip(velocities, decayed)]
            for weight, gradient, velocity in zip(weights, decayed, velocities):
                weight -= 0.03 * (gradient + 0.8 * velocity)
    engine = NativeEngine([run], CPU)
    train(engine, run)
    engine.release([run])
    for actual, weight in zip(module_of(run).parameters(), weights):
        assert_close(actual, weight, rtol=CLOSE[10]["rtol"], atol=CLOSE[10]["atol"])


@needs_library
@pytest.mark.parametrize("examples", [1, 6, 47, 48, 49, 200])
def test_evaluation_equals_torch(examples: int) -> None:
    run = make_run(sizes=(70, 33, 5), examples=200)
    index = np.random.default_rng(2).integers(200, size=examples)
    run.test = Split(run.train.inputs, run.train.labels, index)
    loss, accuracy = NativeEngine([run], CPU).evaluate([run], "test")[0]
    expected_loss, expected_accuracy = TorchEngine([run], CPU).evaluate([run], "test")[0]
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert accuracy == expected_accuracy


@needs_library
def test_the_first_of_equal_logits_is_the_prediction() -> None:
    run = make_run(sizes=(3, 20))
    run.train.labels[:] = 19
    run.train.labels[:7] = 0
    for parameter in module_of(run).parameters():
        parameter.data.zero_()
    assert NativeEngine([run], CPU).evaluate([run], "valid")[0][1] == 7 / 70


@needs_library
def test_a_short_order_trains_on_its_examples_only() -> None:
    ours, reference = make_run(), make_run()
    order = np.array([3, 1, 4, 15, 9, 2, 6, 5, 35])
    engine, oracle = NativeEngine([ours], CPU), TorchEngine([reference], CPU)
    trained = engine.train_epoch([ours], [order])[0]
    assert trained.loss == pytest.approx(oracle.train_epoch([reference], [order])[0].loss)
    assert_same_state(engine.state(ours), oracle.state(reference), **CLOSE[10])


# ---- runs do not touch each other ----


@needs_library
def test_neighbours_change_no_bit() -> None:
    def runs() -> list[Run]:
        diverging = make_run(optimizer=sgd(lr=1e30), seed=1)
        wide = make_run(sizes=(300, 200, 5), density=0.1, batch_size=3, seed=2)
        return [make_run(optimizer=adam()), diverging, wide, make_run(batch_size=64, seed=3)]

    def measured(engine: NativeEngine, run: Run) -> dict[str, Any]:
        loss = train(engine, run, epochs=3)
        valid = engine.evaluate([run], "valid")[0]
        return {**engine.state(run), "losses": torch.tensor([loss, *valid], dtype=torch.float64)}

    alone = [measured(NativeEngine([run], CPU), run) for run in runs()]

    together = runs()
    engine = NativeEngine(together, CPU)
    for epoch in (1, 2, 3):
        turn = together if epoch != 2 else together[::-1]
        losses = engine.train_epoch(turn, [shuffled(run, epoch) for run in turn])
    evaluated = engine.evaluate(together, "valid")
    for run, expected, trained, valid in zip(together, alone, losses, evaluated):
        losses_now = torch.tensor([trained.loss, *valid], dtype=torch.float64)
        assert_same_state({**engine.state(run), "losses": losses_now}, expected, rtol=0, atol=0)

    crowd = runs()
    engine = NativeEngine(crowd, CPU)
    with ThreadPoolExecutor(4) as pool:
        for actual, expected in zip(pool.map(lambda run: measured(engine, run), crowd), alone):
            assert_same_state(actual, expected, rtol=0, atol=0)
    assert not math.isfinite(alone[1]["losses"][0])


# ---- what is not finite is seen ----


@needs_library
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("density", [0.1, 1.0])
def test_a_bad_input_makes_the_loss_bad(value: float, density: float, level: str) -> None:
    run = make_run(sizes=(100, 20, 5), density=density)
    run.train.inputs[17, 3] = value
    run.native_level = level
    engine = NativeEngine([run], CPU)
    assert not math.isfinite(engine.evaluate([run], "valid")[0][0])
    assert not math.isfinite(train(engine, run))
    assert not math.isfinite(engine.evaluate([run], "valid")[0][0])


@needs_library
@pytest.mark.parametrize("activation", ["relu", "identity"])
def test_a_huge_learning_rate_makes_the_loss_bad(activation: str) -> None:
    run = make_run(optimizer=sgd(lr=1e38), activation=activation)
    engine = NativeEngine([run], CPU)
    assert not math.isfinite(train(engine, run, epochs=2))
    assert not math.isfinite(engine.evaluate([run], "valid")[0][0])


@needs_library
def test_an_infinite_weight_is_seen_through_a_zero_input() -> None:
    run = make_run(sizes=(100, 20, 5), density=0.1)
    run.train.inputs[:, 3] = 0
    first_layer(run).weight.data[:, 3] = math.inf
    engine = NativeEngine([run], CPU)
    assert math.isnan(TorchEngine([run], CPU).evaluate([run], "valid")[0][0])
    assert math.isnan(engine.evaluate([run], "valid")[0][0])
    assert math.isnan(train(engine, run))


@needs_library
@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_subnormal_numbers_are_zero_within_a_call_only(optimizer: str) -> None:
    """Moments decay to them where an input is zero for long, and they cost time."""
    run = make_run(optimizer=OPTIMIZERS[optimizer])
    engine = NativeEngine([run], CPU)
    train(engine, run)
    state = engine.state(run)
    for name, value in state.items():
        if name.endswith(("exp_avg", "exp_avg_sq", "buffer")):
            value[...] = 1e-37
    engine.load_state(run, state)
    run.train.inputs[:, 3] = 0
    train(engine, run, epochs=3)
    moments = [v for k, v in engine.state(run).items() if k.endswith(("exp_avg", "buffer"))]
    kept = np.abs(np.concatenate([moment.ravel() for moment in moments]))
    assert (kept == 0).any()
    assert not ((kept > 0) & (kept < np.finfo(np.float32).tiny)).any()
    assert torch.tensor(1e-40) * 0.5 > 0  # the processor's mode is the caller's again


# ---- bad arguments are exceptions ----


@needs_library
@pytest.mark.parametrize(
    ("order", "message"),
    [
        (np.array([0, 70]), r"order\[1\]=70 is not in the train index: 0 to 69"),
        (np.array([0, 1, -1]), r"order\[2\]=-1"),
        (np.array([2**62]), r"order\[0\]=4611686018427387904"),
        (np.array([], np.int64), "no train examples"),
        (np.array([0, 1], np.int32), "int32"),
        (np.arange(140)[::2], r"strides \(16,\)"),
        (np.zeros((2, 2), np.int64), r"\[2, 2\]"),
        (np.zeros(71, np.int64), "71 entries, more than the 70"),
    ],
)
def test_a_bad_order_is_refused(order: Index, message: str) -> None:
    run = make_run()
    engine = NativeEngine([run], CPU)
    before = engine.state(run)
    with pytest.raises((IndexError, ValueError), match=message):
        engine.train_epoch([run], [order])
    assert_same_state(engine.state(run), before, rtol=0, atol=0)


@needs_library
@pytest.mark.parametrize(
    ("part", "position", "value", "error", "message"),
    [
        ("index", 5, 70, IndexError, "holds 70, but the inputs have examples 0 to 69"),
        ("index", 69, -1, IndexError, "holds -1"),
        ("labels", 69, 5, ValueError, "hold 5, but the model has classes 0 to 4"),
        ("labels", 0, -100, ValueError, "hold -100"),
    ],
)
def test_a_bad_number_in_the_data_is_refused(
    part: str, position: int, value: int, error: type[Exception], message: str
) -> None:
    run = make_run()
    engine = NativeEngine([run], CPU)
    getattr(run.train, part)[position] = value
    with pytest.raises(error, match=message):
        train(engine, run)
    with pytest.raises(error, match=message):
        engine.evaluate([run], "valid")


def zeros(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)


def unaligned(*shape: int) -> NDArray[np.float32]:
    raw = bytearray(4 * math.prod(shape) + 1)
    return np.frombuffer(raw, np.float32, offset=1).reshape(shape)


BAD_SPLITS: dict[str, tuple[Split, str]] = {
    "width": (Split.whole(zeros(9, 19), np.zeros(9, int)), "takes [N, 20]"),
    "dims": (Split.whole(zeros(9, 20, 1), np.zeros(9, int)), "[9, 20, 1]"),
    "dtype": (Split.whole(np.zeros((9, 20)), np.zeros(9, int)), "float64"),
    "labels": (Split.whole(zeros(9, 20), zeros(9)), "float32"),
    "length": (Split.whole(zeros(9, 20), np.zeros(8, int)), "labels [8]"),
    "stride": (Split.whole(zeros(20, 9).T, np.zeros(9, int)), "strides (4, 36)"),
    "unaligned": (Split.whole(unaligned(9, 20), np.zeros(9, int)), "not contiguous and aligned"),
    "index": (Split(zeros(9, 20), np.zeros(9, int), np.zeros(2)), "float64"),
}


@needs_library
@pytest.mark.parametrize("name", BAD_SPLITS)
def test_a_bad_split_is_refused(name: str) -> None:
    split, message = BAD_SPLITS[name]
    run = make_run()
    run.train = split
    reason = unsupported_reason(run, CPU)
    assert reason is not None
    assert message in reason
    with pytest.raises(ValueError, match="engine=native cannot take it"):
        NativeEngine([run], CPU)
    changed = make_run()  # ... also when the data are changed under the engine
    engine = NativeEngine([changed], CPU)
    changed.train = changed.valid = split
    with pytest.raises(ValueError, match="engine=native cannot take it"):
        engine.train_epoch([changed], [np.arange(2)])
    with pytest.raises(ValueError, match="engine=native cannot take it"):
        engine.evaluate([changed], "valid")


@needs_library
def test_an_empty_split_and_batch_are_refused() -> None:
    run = make_run()
    run.valid = Split(run.train.inputs, run.train.labels, np.arange(0))
    with pytest.raises(ValueError, match="no valid examples"):
        NativeEngine([run], CPU).evaluate([run], "valid")
    with pytest.raises(ValueError, match="batch_size=0"):
        NativeEngine([make_run(batch_size=0)], CPU)


def resized(tensor: Tensor, size: int = 0) -> Tensor:
    tensor = tensor.clone()
    tensor.untyped_storage().resize_(size)
    return tensor


def fake(tensor: Tensor) -> Tensor:
    with FakeTensorMode():
        return torch.empty(tensor.shape, dtype=tensor.dtype)


def mapped(tensor: Tensor) -> Tensor:
    """Return what a function sees that is mapped over a dimension."""
    seen: list[Tensor] = []

    def look(inside: Tensor) -> Tensor:
        seen.append(inside)
        return inside

    torch.func.vmap(look)(tensor[None])
    return seen[0]


def too_small(tensor: Tensor) -> Tensor:
    return resized(tensor, tensor.nbytes // 2)


class Subclass(Tensor):
    pass


WITHOUT_MEMORY: dict[str, Callable[[Tensor], Tensor]] = {
    "resized": resized,
    "too small": too_small,
    "fake": fake,
    "functional": torch._to_functional_tensor,
    "zero": lambda tensor: torch._efficientzerotensor(tensor.shape, dtype=tensor.dtype),
    "meta": lambda tensor: tensor.to("meta"),
    "negated": torch._neg_view,
    "vmap": mapped,
    "subclass": lambda tensor: tensor.as_subclass(Subclass),
    "sparse": lambda tensor: tensor.to_sparse(),
    "unaligned": lambda tensor: torch.from_numpy(unaligned(*tensor.shape)),
}


@pytest.mark.parametrize("kind", WITHOUT_MEMORY)
def test_numbers_without_plain_memory_are_refused(kind: str) -> None:
    """As a model's weights, as an optimizer's moments."""
    with pytest.raises(ValueError, match="the weights: "):
        numbers(WITHOUT_MEMORY[kind](torch.rand(9, 20)), "the weights")
    taken = make_run()
    taken.optimizer = build_optimizer(OPTIMIZERS["momentum"], module_of(taken))
    train(TorchEngine([taken], CPU), taken)
    weight = first_layer(taken).weight
    spoilt = WITHOUT_MEMORY[kind](weight.detach().clone())
    taken.optimizer.state[weight]["momentum_buffer"] = spoilt
    assert "momentum_buffer" in (unsupported_reason(taken, CPU) or "")


@needs_library
@pytest.mark.parametrize("size", [0, 40])
def test_a_model_whose_memory_is_gone_is_refused(size: int) -> None:
    run, later = make_run(), make_run()
    run.model, later.model = (nn.Sequential(nn.Linear(20, 5)) for _ in range(2))
    engine = NativeEngine([later], CPU)
    first_layer(run).weight.untyped_storage().resize_(size)
    assert "0.weight: a tensor without" in (unsupported_reason(run, CPU) or "")
    with pytest.raises(RuntimeError, match="not resizable"):
        first_layer(later).weight.untyped_storage().resize_(size)
    engine.release([later])


@needs_library
def test_a_snapshot_of_another_network_is_refused() -> None:
    ours, other = make_run(), make_run(sizes=(20, 40, 5))
    engine, source = NativeEngine([ours], CPU), NativeEngine([other], CPU)
    before = engine.state(ours)
    with pytest.raises(ValueError, match=r"0.weight is float32 \[40, 20\]"):
        engine.restore(ours, source.snapshot(other))
    assert_same_state(engine.state(ours), before, rtol=0, atol=0)


@needs_library
@pytest.mark.parametrize("steps", [math.nan, math.inf, -1.0, 1e300])
def test_a_step_count_that_none_can_be_is_refused(steps: float) -> None:
    run = make_run(optimizer=adam())
    engine = NativeEngine([run], CPU)
    train(engine, run)
    bad = {**engine.state(run), "0.weight.step": np.array(steps)}
    with pytest.raises(ValueError, match="step is "):
        engine.load_state(run, bad)


@needs_library
@pytest.mark.parametrize("mode", [FakeTensorMode, lambda: torch.device("meta")])
def test_modes_of_the_caller_do_no_harm(mode: Callable[[], Any]) -> None:
    """Either an answer or an exception: new tensors have no memory in these modes."""
    run, order = make_run(), np.arange(70)
    engine = NativeEngine([run], CPU)
    expected = engine.evaluate([run], "valid")
    with mode():
        for call in (
            lambda: engine.state(run),
            lambda: engine.train_epoch([run], [order]),
            lambda: engine.restore(run, engine.snapshot(run)),
            lambda: NativeEngine([make_run()], CPU),
        ):
            with contextlib.suppress(ValueError, RuntimeError, AssertionError, TypeError):
                call()
    assert math.isfinite(engine.evaluate([run], "valid")[0][0])
    assert expected != engine.evaluate([run], "valid") or mode is FakeTensorMode


@needs_library
@pytest.mark.parametrize("part", ["index", "labels", "order"])
def test_another_thread_may_change_positions_at_any_time(part: str) -> None:
    """They are copied before they are checked; what is wrong by then is an exception."""
    run, order = make_run(examples=2000, sizes=(20, 5)), np.arange(2000)
    numbers = order if part == "order" else getattr(run.train, part)
    engine = NativeEngine([run], CPU)
    ended = threading.Event()

    def flip() -> None:
        while not ended.is_set():
            numbers[-1] = 2**40
            numbers[-1] = 0

    thread = threading.Thread(target=flip)
    thread.start()
    try:
        for _ in range(200):
            with contextlib.suppress(IndexError, ValueError):
                engine.train_epoch([run], [order])
    finally:
        ended.set()
        thread.join()


def test_memory_in_use_is_not_resized() -> None:
    """By another thread, say: the library would go on reading where it was."""
    inputs, labels, index = torch.rand(9, 20), torch.zeros(9, dtype=torch.int64), torch.arange(9)
    split = Split(inputs, labels, index)
    assert split.inputs.ctypes.data == inputs.data_ptr()
    for tensor in (inputs, labels, index):
        with pytest.raises(RuntimeError, match="not resizable"):
            tensor.untyped_storage().resize_(0)


@needs_library
def test_calls_for_one_run_wait_for_each_other() -> None:
    run = make_run(examples=500, density=0.1, sizes=(100, 20, 5))
    engine = NativeEngine([run], CPU)
    with ThreadPoolExecutor(4) as pool:
        losses = list(pool.map(lambda epoch: train(engine, run, first=epoch), range(40)))
    assert all(math.isfinite(loss) for loss in losses)


# ---- instruction sets ----


@needs_library
def test_a_run_says_with_which_instruction_set_it_trains() -> None:
    trained = {}
    for level in LEVELS:
        run = make_run(sizes=(200, 70, 5))
        run.native_level = level
        engine, reason = choose_engine(EngineName.native, run, CPU)
        assert (engine, reason) == (NativeEngine, "asked for")
        assert engine.level(run) == level
        trainer = NativeEngine([run], CPU)
        train(trainer, run)
        trained[level] = trainer.state(run)
    best = make_run(sizes=(200, 70, 5))
    assert NativeEngine.level(best) == LEVELS[-1]
    assert TorchEngine.level(best) is None
    trainer = NativeEngine([best], CPU)
    train(trainer, best)
    assert_same_state(trainer.state(best), trained[LEVELS[-1]], rtol=0, atol=0)
    for state in trained.values():
        assert_same_state(state, trained[LEVELS[-1]], **CLOSE[10])
    if len(LEVELS) > 1:  # as they fuse other products, they round elsewhere
        first, last = trained[LEVELS[0]], trained[LEVELS[-1]]
        assert not np.array_equal(first["0.weight"], last["0.weight"])


@needs_library
def test_an_instruction_set_that_cannot_be_used_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    run.native_level = "baseline"
    with pytest.raises(ValueError, match=r"native_level=baseline is of the native .*torch"):
        choose_engine(EngineName.torch, run, CPU)
    run.native_level = "avx512"
    monkeypatch.setattr(library, "levels", lambda: ("baseline", "avx2"))
    message = "native_level=avx512 is none of baseline, avx2"
    with pytest.raises(ValueError, match=message):
        choose_engine(EngineName.native, run, CPU)
    with pytest.raises(ValueError, match=message):  # auto would fall back to torch
        choose_engine(EngineName.auto, run, CPU)
    with pytest.raises(ValueError, match=message):
        NativeEngine([run], CPU)


# ---- what it takes ----


class Doubling(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return 2 * super().forward(inputs)


def hooked() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(20, 5))
    model[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    return model


def tied() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 5))
    model[1].weight = model[0].weight
    return model


def twice() -> nn.Sequential:
    layer = nn.Linear(20, 20)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(20, 5))


REFUSED_MODELS: dict[str, tuple[nn.Module, str]] = {
    "module": (nn.Linear(20, 5), "Linear, not nn.Sequential"),
    "layer": (nn.Sequential(nn.Linear(20, 5), nn.LeakyReLU()), "LeakyReLU is none of"),
    "subclass": (nn.Sequential(Doubling(20, 5)), "Doubling is none of"),
    "dropout": (nn.Sequential(nn.Linear(20, 5), nn.Dropout(), nn.Linear(5, 5)), "Dropout"),
    "end": (nn.Sequential(nn.Linear(20, 5), nn.ReLU()), "does not end"),
    "begin": (nn.Sequential(nn.ReLU(), nn.Linear(20, 5)), "does not follow"),
    "empty": (nn.Sequential(), "does not end"),
    "two": (nn.Sequential(nn.Linear(20, 5), nn.ReLU(), nn.Tanh(), nn.Linear(5, 5)), "follow"),
    "sizes": (nn.Sequential(nn.Linear(20, 6), nn.ReLU(), nn.Linear(5, 5)), "do not fit"),
    "float64": (nn.Sequential(nn.Linear(20, 5)).double(), "float64"),
    "frozen": (nn.Sequential(nn.Linear(20, 5)).requires_grad_(False), "frozen"),
    "hooks": (hooked(), "hooks"),
    "tied": (tied(), "share a parameter"),
    "twice": (twice(), "in two places"),
}


@pytest.mark.parametrize("name", REFUSED_MODELS)
def test_models_that_it_cannot_take(name: str) -> None:
    model, message = REFUSED_MODELS[name]
    run = make_run()
    run.model = model
    assert message in (unsupported_reason(run, CPU) or "")


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (adam(amsgrad=True), "amsgrad"),
        (sgd(nesterov=True), "nesterov needs momentum"),
        (OptimizerConfig(name="lion", lr=1.0, weight_decay=0.0), "lion"),
    ],
)
def test_optimizers_that_it_cannot_take(optimizer: OptimizerConfig, message: str) -> None:
    assert message in (unsupported_reason(make_run(optimizer=optimizer), CPU) or "")


def test_it_takes_the_cpu_only() -> None:
    assert unsupported_reason(make_run(), CPU) is None
    assert "not on meta" in (unsupported_reason(make_run(), Device("meta")) or "")


@needs_library
def test_layers_may_follow_one_another_and_share_an_activation() -> None:
    def run() -> Run:
        torch.manual_seed(0)
        relu = nn.ReLU()
        result = make_run()
        layers = (nn.Linear(20, 9), relu, nn.Linear(9, 8), relu, nn.Linear(8, 7), nn.Linear(7, 5))
        result.model = nn.Sequential(*layers)
        return result

    ours, reference = run(), run()
    assert unsupported_reason(ours, CPU) is None
    engine, oracle = NativeEngine([ours], CPU), TorchEngine([reference], CPU)
    train(engine, ours)
    train(oracle, reference)
    assert_same_state(engine.state(ours), oracle.state(reference), **CLOSE[10])


# ---- state, and torch's own optimizers ----


@needs_library
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("epochs", [0, 3])
def test_a_run_moves_between_engines(optimizer: OptimizerConfig, epochs: int) -> None:
    first, second, third = (make_run(optimizer=optimizer, seed=4) for _ in range(3))
    oracle, engine = TorchEngine([first], CPU), NativeEngine([second], CPU)
    if epochs:
        train(oracle, first, epochs)
        train(engine, second, 1)  # something that load_state must replace
    engine.load_state(second, oracle.state(first))
    assert_same_state(engine.state(second), oracle.state(first), rtol=0, atol=0)
    back = TorchEngine([third], CPU)
    back.load_state(third, engine.state(second))
    for other, run in ((oracle, first), (engine, second), (back, third)):
        train(other, run, epochs=2, first=4)
    assert_same_state(engine.state(second), oracle.state(first), **CLOSE[100])
    assert_same_state(back.state(third), oracle.state(first), rtol=0, atol=0)


@needs_library
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_resumed_run_is_the_same_bit_for_bit(optimizer: OptimizerConfig) -> None:
    whole, part, rest = (make_run(optimizer=optimizer) for _ in range(3))
    uninterrupted, before, after = (NativeEngine([run], CPU) for run in (whole, part, rest))
    train(uninterrupted, whole, epochs=4)
    train(before, part, epochs=2)
    after.load_state(rest, before.state(part))
    train(after, rest, epochs=2, first=3)
    assert_same_state(after.state(rest), uninterrupted.state(whole), rtol=0, atol=0)


@needs_library
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_snapshot_is_restored_bit_for_bit(optimizer: OptimizerConfig) -> None:
    run = make_run(optimizer=optimizer)
    engine = NativeEngine([run], CPU)
    train(engine, run)
    snapshot = engine.snapshot(run)
    train(engine, run, first=2)
    after = engine.state(run)
    engine.restore(run, snapshot)
    train(engine, run, first=2)
    assert_same_state(engine.state(run), after, rtol=0, atol=0)


@needs_library
def test_a_bad_state_is_refused_and_changes_nothing() -> None:
    run = make_run(optimizer=OPTIMIZERS["momentum"])
    engine = NativeEngine([run], CPU)
    train(engine, run)
    good = engine.state(run)
    lacking = {name: value for name, value in good.items() if name != "2.bias.momentum_buffer"}
    with pytest.raises(KeyError, match=r"no 2\.bias.momentum_buffer"):
        engine.load_state(run, lacking)
    with pytest.raises(ValueError, match=r"2.weight is float32 \[33, 5\]"):
        engine.load_state(run, {**good, "2.weight": good["2.weight"].T})
    assert_same_state(engine.state(run), good, rtol=0, atol=0)


@needs_library
@pytest.mark.parametrize("config", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_torch_optimizer_is_taken_over_and_given_back(config: OptimizerConfig) -> None:
    ours, reference = make_run(), make_run()
    for run in (ours, reference):
        run.optimizer = build_optimizer(config, module_of(run))
        assert optimizer_config(run.optimizer, module_of(run)) == config
        train(TorchEngine([run], CPU), run)  # so that there is state to take over
    engine, oracle = NativeEngine([ours], CPU), TorchEngine([reference], CPU)
    for run in (ours, reference):
        assert isinstance(run.optimizer, torch.optim.Optimizer)
        run.optimizer.param_groups[0]["lr"] *= 0.5  # as a schedule does
    train(engine, ours, epochs=2)
    train(oracle, reference, epochs=2)
    expected = oracle.state(reference)
    engine.release([ours])
    after = TorchEngine([ours], CPU)
    assert_same_state(after.state(ours), expected, **CLOSE[100])
    train(after, ours)
    train(oracle, reference)
    assert_same_state(after.state(ours), oracle.state(reference), **CLOSE[100])


def test_torch_optimizers_without_an_equal() -> None:
    run = make_run()
    parameters = list(module_of(run).parameters())
    groups = [{"params": parameters[:2]}, {"params": parameters[2:]}]
    foreign: list[dict[str, Any]] = [{"params": parameters}, {"params": [torch.zeros(1)]}]
    for optimizer in (
        torch.optim.SGD(parameters, lr=0.1, maximize=True),
        torch.optim.SGD(parameters, lr=torch.tensor(0.1)),
        torch.optim.SGD(parameters[:2], lr=0.1),
        torch.optim.SGD(groups, lr=0.1),
        torch.optim.SGD(foreign, lr=0.1),
        torch.optim.Adam(parameters, lr=torch.tensor(0.1)),
        torch.optim.RMSprop(parameters, lr=0.1),
    ):
        assert optimizer_config(optimizer, module_of(run)) is None
        run.optimizer = optimizer
        assert "is not a plain SGD, Adam or AdamW" in (unsupported_reason(run, CPU) or "")
    uneven = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    uneven.state[parameters[0]]["momentum_buffer"] = torch.zeros_like(parameters[0])
    run.optimizer = uneven
    assert "unlike numbers of steps" in (unsupported_reason(run, CPU) or "")


@needs_library
def test_release_gives_the_weights_back_and_forgets_the_run() -> None:
    run = make_run()
    engine = NativeEngine([run], CPU)
    pointer = first_layer(run).weight.data_ptr()
    train(engine, run)
    trained = engine.state(run)
    engine.release([run])
    assert_same_state(run.model.state_dict(), trained, rtol=0, atol=0)
    assert first_layer(run).weight.data_ptr() == pointer
    with pytest.raises(KeyError):
        engine.state(run)


# ---- the library ----


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "library_path", lambda: None)
    assert "install a C compiler" in (library.available() or "")
    with pytest.raises(RuntimeError, match="install a C compiler"):
        NativeEngine([make_run()], CPU)


def test_a_broken_library_is_no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "_native.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(library, "library_path", lambda: broken)
    assert "cannot be used" in (library.available() or "")
    with pytest.raises(RuntimeError, match="cannot be used"):
        NativeEngine([make_run()], CPU)


needs_setuptools = pytest.mark.skipif(
    importlib.util.find_spec("setuptools") is None or sys.platform == "win32",
    reason="the build needs setuptools and, for its failure, a POSIX system",
)


def run_setup(folder: Path, *arguments: str, **environment: str) -> str:
    """Run setup.py in a folder; returns what it wrote to standard error."""
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@needs_setuptools
def test_a_failing_compiler_does_not_fail_the_build(tmp_path: Path) -> None:
    folders = ["--build-lib", str(tmp_path / "lib"), "--build-temp", str(tmp_path / "temp")]
    run_setup(REPOSITORY, "build_ext", *folders, CC="false")
    assert not list(tmp_path.glob("**/*.so"))


@pytest.mark.slow
@needs_setuptools
@needs_library
def test_a_source_distribution_builds_the_library_and_again_after_a_change(tmp_path: Path) -> None:
    run_setup(REPOSITORY, "egg_info", "--egg-base", str(tmp_path), "sdist", "-d", str(tmp_path))
    (archive,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path)
    folder = tmp_path / archive.name.removesuffix(".tar.gz")
    run_setup(folder, "build_ext", "--inplace")
    (built,) = folder.glob("src/nnlab/engines/_native*.so")
    assert library.load(built).nnlab_best_level() == len(LEVELS) - 1
    # A compiler that fails shows whether anything would be compiled.
    assert "failed" not in run_setup(folder, "build_ext", "--inplace", CC="false")
    headers = sorted(folder.glob("src/nnlab/engines/*.h"))
    assert headers
    for header in headers:
        unchanged = header.stat()
        os.utime(header, (built.stat().st_mtime + 1,) * 2)
        assert "failed" in run_setup(folder, "build_ext", "--inplace", CC="false"), header.name
        os.utime(header, (unchanged.st_atime, unchanged.st_mtime))


@needs_library
def test_a_run_from_a_config_constructs_no_torch_optimizer() -> None:
    """Constructing one imports torch._dynamo, which takes a second."""
    program = (
        "import sys; sys.path.insert(0, 'tests'); import test_native as t\n"
        "run = t.make_run(optimizer=t.adam()); engine = t.NativeEngine([run], t.CPU)\n"
        "t.train(engine, run); engine.release([run]); assert 'torch._dynamo' not in sys.modules"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
