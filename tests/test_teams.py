"""A run on a team of threads: the same bits as on one thread, and threads that end with it."""

from __future__ import annotations

import gc
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nnlab import cores
from nnlab.config import OptimizerConfig
from nnlab.device import CPU
from nnlab.engines import Run, State, TrainedEpoch, library
from nnlab.engines.dual import DualNetwork
from nnlab.engines.library import NativeNetwork
from nnlab.engines.native import NativeEngine
from nnlab.engines.torch import TorchEngine
from nnlab.fitting import fit
from nnlab.losses import CrossEntropy, SquaredError
from tests.test_dual import wide_run
from tests.test_losses import with_loss
from tests.test_native import LEVELS, OPTIMIZERS, make_run, needs_library, sgd, shuffled

pytestmark = needs_library

TEAMS = (2, 3, 4)  # of which the largest are more than some machines have cores
TASKS = Path("/proc/self/task")
# Layers so large that a team divides all they do, of one panel and of parts of several.
SIZES = (300, 190, 130, 17)
# What may come after the gradient, and before it.
REGULARISED: dict[str, OptimizerConfig] = {
    **OPTIMIZERS,
    "penalties": sgd(l1=0.001, l2=0.01),
    "clipped": sgd(l1=0.001, l2=0.01, clip_norm=0.1, momentum=0.5),
}


@pytest.fixture(autouse=True)
def own_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A team works on, however busy others keep the machine."""
    monkeypatch.setattr(library, "OWN_SHARE", 0.0)


def outcome(run: Run, threads: tuple[int, ...]) -> tuple[list[TrainedEpoch], State]:
    """Train an epoch on each number of threads; return what was measured, and the numbers."""
    engine, measured = NativeEngine([run], CPU), []
    for epoch, run.threads in enumerate(threads):
        measured += engine.train_epoch([run], [shuffled(run, epoch)])
        measured += [TrainedEpoch(each, 0.0) for each in engine.evaluate([run], "valid")]
    timeless = [each._replace(seconds=0.0, cpu_seconds=None) for each in measured]
    return timeless, engine.state(run)


def assert_same_bits(make: Callable[..., Run] = make_run, **options: Any) -> None:
    """Compare every number with those of the same run on one thread, without a tolerance."""
    level, loss = options.pop("level", None), options.pop("loss", CrossEntropy())

    def trained(*threads: int) -> tuple[list[TrainedEpoch], State]:
        run = with_loss(make(**options), loss)
        run.native_level = level
        return outcome(run, threads)

    expected, numbers = trained(1, 1)
    for threads in (*((team, team) for team in TEAMS), (3, 1), (1, 2)):
        measured, state = trained(*threads)
        assert measured == expected
        assert list(state) == list(numbers)
        for name, value in numbers.items():
            assert np.array_equal(state[name], value), f"{name} on {threads} threads"


def threads_of_this_process() -> int:
    return len(list(TASKS.iterdir()))


# ---- the same bits ----


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("density", [0.2, 1.0])
@pytest.mark.parametrize("optimizer", REGULARISED.values(), ids=REGULARISED)
def test_every_optimizer(optimizer: OptimizerConfig, density: float, level: str) -> None:
    for batch_size in (30, 70):  # plain SGD adds no more than 32 examples at once
        options: dict[str, Any] = {"optimizer": optimizer, "density": density, "level": level}
        assert_same_bits(sizes=SIZES, batch_size=batch_size, **options)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 13, 33])
def test_every_batch_size(batch_size: int, level: str) -> None:
    sizes = (500, 400, 350, 300)  # even a single example is divided
    assert_same_bits(sizes=sizes, batch_size=batch_size, examples=2 * batch_size + 3, level=level)


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "identity"])
@pytest.mark.parametrize("loss", [CrossEntropy(0.1, (1.0, 0.5, 2.0) * 5), SquaredError()])
def test_every_loss_and_activation(loss: CrossEntropy | SquaredError, activation: str) -> None:
    sizes = (400, 150, 15)
    assert_same_bits(sizes=sizes, batch_size=32, loss=loss, activation=activation)


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(90, 260), min_size=2, max_size=5).map(tuple),
    outputs=st.integers(1, 70),
    optimizer=st.sampled_from(list(REGULARISED.values())),
    batch_size=st.integers(20, 70),
    density=st.sampled_from([0.1, 1.0]),
    dropout=st.sampled_from([0.0, 0.3]),
    bias=st.booleans(),
    level=st.sampled_from(LEVELS or [None]),
)
def test_every_shape(sizes: tuple[int, ...], outputs: int, **options: Any) -> None:
    assert_same_bits(sizes=(*sizes, outputs), **options)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_dual_form(dropout: float, level: str) -> None:
    options: dict[str, Any] = {
        "sizes": (900, 330, 130, 17),
        "train": 300,
        "valid": 40,
        "dropout": dropout,
    }
    assert DualNetwork.pays(wide_run(**options))
    assert_same_bits(wide_run, **options, batch_size=64, level=level)


def test_a_run_says_how_many_threads_it_had() -> None:
    run = make_run(sizes=SIZES)
    outcome(run, (1, 3, 2))
    assert run.most_threads == 3


# ---- the threads ----


@pytest.mark.skipif(not TASKS.exists(), reason="counts threads as Linux does")
def test_threads_end_with_the_network() -> None:
    before = threads_of_this_process()
    run = make_run(sizes=SIZES, batch_size=64)
    engine = NativeEngine([run], CPU)
    for threads, helpers in ((3, 2), (3, 2), (2, 1), (1, 0), (4, 3)):
        run.threads = threads
        engine.train_epoch([run], [shuffled(run)])
        assert threads_of_this_process() == before + helpers
    time.sleep(0.05)  # long enough for them to sleep
    del engine
    gc.collect()
    assert threads_of_this_process() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system forks no processes")
def test_a_forked_process_has_threads_of_its_own() -> None:
    run = make_run(sizes=SIZES, batch_size=64)
    run.threads = 3
    engine = NativeEngine([run], CPU)
    engine.train_epoch([run], [shuffled(run)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads
        child = os.fork()
    if child == 0:
        engine.train_epoch([run], [shuffled(run)])
        del engine
        gc.collect()
        os._exit(0)
    assert os.waitpid(child, 0) == (child, 0)


# ---- who gets one ----


def test_a_team_pauses_where_others_have_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "OWN_SHARE", 0.75)
    run = make_run(sizes=SIZES)
    run.threads = 2
    network = NativeNetwork(run)
    had = []
    for busy in [True] * 14 + [False] * 10:
        network.gather(run)
        had.append(network.threads)
        network.judge_team(1.0, 1.4 if busy and network.threads == 2 else network.threads)
    # Pauses of 1, 3 and 7 epochs, after each an epoch in which the team tries again.
    assert had == [2, *[1], 2, *[1] * 3, 2, *[1] * 7, *[2] * 10]
    network.judge_team(1.0, 1.4)
    assert network.alone == 1


def test_only_long_steps_are_worth_dividing() -> None:
    def most(*sizes: int, batch_size: int) -> int:
        run = make_run(sizes=sizes, batch_size=batch_size, examples=100)
        return NativeEngine.most_threads(run, NativeEngine.form(run))

    assert most(784, 128, 64, 10, batch_size=10) == 1
    assert most(784, 512, 512, 10, batch_size=64) >= 16
    assert most(784, 512, 512, 10, batch_size=1) == 1
    assert TorchEngine.most_threads(make_run(), None) == 1


@pytest.mark.parametrize(("asked", "given"), [(None, 3), (2, 2), (1, 1)])
def test_fit_uses_the_cores_that_the_process_may_use(
    asked: int | None, given: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gather, had = NativeNetwork.gather, []

    def spy(network: NativeNetwork, run: Run) -> None:
        gather(network, run)
        had.append(run.most_threads)

    monkeypatch.setattr(cores, "limits", lambda: iter([3]))
    monkeypatch.setattr(NativeNetwork, "gather", spy)
    train = make_run(sizes=(300, 10), examples=320).train
    model = nn.Sequential(nn.Linear(300, 500), nn.ReLU(), nn.Linear(500, 10))
    data = train.inputs, train.labels
    fit(model, data, optimizer=sgd(), batch_size=64, max_epochs=2, threads=asked)
    assert had == [given] * 2
