"""What an engine's snapshot is for: a run goes on from it as if it had not stopped, bit for bit."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch.testing import assert_close

from nnlab.device import CPU
from nnlab.engines import Engine, Run, library
from nnlab.engines.native import NativeEngine
from nnlab.engines.stacked import StackedEngine
from nnlab.engines.torch import TorchEngine, build_optimizer
from tests.test_dual import wide_run
from tests.test_native import (
    OPTIMIZERS,
    REPOSITORY,
    assert_same_state,
    make_run,
    module_of,
    needs_library,
    sgd,
    shuffled,
)

Kind: TypeAlias = type[NativeEngine | TorchEngine | StackedEngine]
CASES: list[tuple[Kind, str]] = [
    *(
        (engine, name)
        for engine in (NativeEngine, TorchEngine, StackedEngine)
        for name in OPTIMIZERS
    ),
    (NativeEngine, "dual"),
]


def resumable(name: str) -> list[Run]:
    """Return three runs with one of OPTIMIZERS, or in the dual form; the same at every call."""
    if name == "dual":
        return [wide_run(optimizer=sgd(lr=0.02), seed=seed) for seed in range(3)]
    return [make_run(optimizer=OPTIMIZERS[name], examples=67, seed=seed) for seed in range(3)]


def train_on(engine: Engine, runs: Sequence[Run], first: int, last: int) -> list[object]:
    """Train for some epochs; return all that was measured."""
    measured: list[object] = []
    for epoch in range(first, last + 1):
        trained = engine.train_epoch(runs, [shuffled(run, epoch) for run in runs])
        measured += [(each.loss, each.accuracy) for each in trained]
        measured += engine.evaluate(runs, "valid")
    return measured


def go_on(kind: Kind, name: str, folder: Path) -> tuple[list[object], list[Any]]:
    """Restore runs made anew from files, in an engine of their own, and train them on."""
    runs = resumable(name)
    engine = kind(runs, CPU)
    for number, run in enumerate(runs):
        engine.restore(run, load_file(folder / f"{number}.safetensors"))
    return train_on(engine, runs, 3, 4), [engine.snapshot(run) for run in runs]


@needs_library
@pytest.mark.parametrize(("kind", "name"), CASES, ids=lambda each: getattr(each, "name", each))
def test_a_run_goes_on_bit_for_bit_from_a_file(kind: Kind, name: str, tmp_path: Path) -> None:
    runs = resumable(name)
    assert {NativeEngine.form(run) for run in runs} == {"dual" if name == "dual" else None}
    engine = kind(runs, CPU)
    train_on(engine, runs, 1, 2)
    for number, run in enumerate(runs):
        save_file(engine.snapshot(run), tmp_path / f"{number}.safetensors")
    expected = train_on(engine, runs, 3, 4)
    measured, snapshots = go_on(kind, name, tmp_path)
    assert measured == expected
    assert_close(snapshots, [engine.snapshot(run) for run in runs], rtol=0, atol=0)


@needs_library
def test_a_run_goes_on_bit_for_bit_in_another_process(tmp_path: Path) -> None:
    cases: list[tuple[Kind, str]] = [
        (NativeEngine, "adam"),
        (NativeEngine, "dual"),
        (TorchEngine, "adam"),
    ]
    program = (
        "import sys, pathlib, torch; from safetensors.numpy import save_file\n"
        "torch.set_num_threads(1)\n"
        "from tests.test_snapshots import go_on, NativeEngine, StackedEngine, TorchEngine\n"
    )
    expected = {}
    for kind, name in cases:
        folder = tmp_path / kind.name / name
        folder.mkdir(parents=True)
        runs = resumable(name)
        engine = kind(runs, CPU)
        train_on(engine, runs, 1, 2)
        for number, run in enumerate(runs):
            save_file(engine.snapshot(run), folder / f"{number}.safetensors")
        train_on(engine, runs, 3, 4)
        expected[folder] = [engine.snapshot(run) for run in runs]
        program += (
            f"folder = pathlib.Path(sys.argv[1]) / {kind.name!r} / {name!r}\n"
            f"_, snapshots = go_on({kind.__name__}, {name!r}, folder)\n"
            "for number, each in enumerate(snapshots):\n"
            "    save_file(each, folder / f'{number}-after.safetensors')\n"
        )
    arguments = [sys.executable, "-c", program, str(tmp_path)]
    ran = subprocess.run(arguments, cwd=REPOSITORY, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    for folder, snapshots in expected.items():
        for number, snapshot in enumerate(snapshots):
            found = load_file(folder / f"{number}-after.safetensors")
            assert_close(found, snapshot, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [NativeEngine, StackedEngine])
def test_a_snapshot_counts_more_steps_than_a_float32(
    kind: type[NativeEngine | StackedEngine],
) -> None:
    """torch's own count, a float32, stops at 2^24: 280 epochs of MNIST, example by example."""
    if kind is NativeEngine and library.available() is not None:
        pytest.skip("no compiled library")
    run, again = (make_run(optimizer=OPTIMIZERS["adam"]) for _ in range(2))
    engine, other = kind([run], CPU), kind([again], CPU)
    train_on(engine, [run], 1, 1)
    state = engine.state(run)
    engine.load_state(run, {**state, "0.weight.step": np.array(2.0**24, np.float32)})
    train_on(engine, [run], 2, 2)
    snapshot = engine.snapshot(run)
    assert int(snapshot["steps"]) == 2**24 + 10
    other.restore(again, snapshot)
    assert int(other.snapshot(again)["steps"]) == 2**24 + 10


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_stack_goes_on_without_the_runs_that_have_ended(name: str) -> None:
    ended, *runs = resumable(name)
    _, *again = resumable(name)
    engine = StackedEngine([ended, *runs], CPU)
    train_on(engine, [ended, *runs], 1, 1)
    engine.release([ended])
    train_on(engine, runs, 2, 2)
    other = StackedEngine(again, CPU)
    for run, fresh in zip(runs, again):
        other.restore(fresh, engine.snapshot(run))
    assert train_on(other, again, 3, 4) == train_on(engine, runs, 3, 4)
    for run, fresh in zip(runs, again):
        assert_same_state(other.state(fresh), engine.state(run), rtol=0, atol=0)


@needs_library
def test_a_run_that_came_into_the_usual_form_goes_on_in_it() -> None:
    """Its first weight was decayed, which the dual form cannot do."""

    def scheduled() -> tuple[Run, NativeEngine]:
        run = wide_run()
        run.optimizer = build_optimizer(sgd(lr=0.02), module_of(run))
        return run, NativeEngine([run], CPU)

    (run, engine), (again, other) = scheduled(), scheduled()
    train_on(engine, [run], 1, 1)
    for each in (run, again):
        assert isinstance(each.optimizer, torch.optim.Optimizer)
        each.optimizer.param_groups[0]["weight_decay"] = 0.01
    train_on(engine, [run], 2, 2)
    other.restore(again, engine.snapshot(run))
    assert train_on(other, [again], 3, 4) == train_on(engine, [run], 3, 4)
    assert_same_state(other.state(again), engine.state(run), rtol=0, atol=0)


@needs_library
def test_a_dual_snapshot_of_other_examples_is_refused() -> None:
    """Its coefficients would be multiplied with them and give wrong weights."""
    run, other = wide_run(seed=0), wide_run(seed=1)
    engine, another = NativeEngine([run], CPU), NativeEngine([other], CPU)
    train_on(engine, [run], 1, 1)
    before = another.state(other)
    with pytest.raises(ValueError, match="other training examples"):
        another.restore(other, engine.snapshot(run))
    assert_same_state(another.state(other), before, rtol=0, atol=0)


@pytest.mark.parametrize("build", [torch.optim.NAdam, torch.optim.ASGD, torch.optim.Rprop])
def test_what_torch_counts_in_float32_stays_so(build: Callable[..., torch.optim.Optimizer]) -> None:
    """Beside weights in float64."""

    def doubled() -> tuple[Run, TorchEngine]:
        run = make_run()
        module_of(run).double()
        run.train = dataclasses.replace(run.train, inputs=run.train.inputs.astype(np.float64))
        run.valid = run.train
        run.optimizer = build(module_of(run).parameters())
        return run, TorchEngine([run], CPU)

    (run, engine), (again, other) = doubled(), doubled()
    train_on(engine, [run], 1, 2)
    other.restore(again, engine.snapshot(run))
    assert train_on(other, [again], 3, 4) == train_on(engine, [run], 3, 4)
    assert_same_state(other.state(again), engine.state(run), rtol=0, atol=0)
