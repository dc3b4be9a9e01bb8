"""The dual form of a wide first layer: against the torch engine, and when it is taken.

Axes: I inputs, N examples, n training and v validation examples, H outputs of the first layer.
"""

from __future__ import annotations

import dataclasses
import gc
import math
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nnlab.config import OptimizerConfig
from nnlab.datasets import Split
from nnlab.device import CPU
from nnlab.engines import Run, dual
from nnlab.engines.dual import DualNetwork
from nnlab.engines.library import inner_products
from nnlab.engines.native import NativeEngine
from nnlab.engines.torch import TorchEngine, build_optimizer
from nnlab.stopping import Patience
from nnlab.training import train_runs
from tests.test_native import (
    CLOSE,
    KINK,
    LEVELS,
    OPTIMIZERS,
    adam,
    assert_as_exact_as_torch,
    assert_engines_agree,
    assert_same_state,
    make_run,
    module_of,
    nearest_to_kink,
    needs_library,
    sgd,
    shuffled,
    train,
)

BEST = LEVELS[-1] if LEVELS else "baseline"


def wide_run(
    sizes: tuple[int, ...] = (200, 33, 5),
    train: int = 60,
    valid: int = 20,
    max_epochs: int = 100,
    **options: Any,
) -> Run:
    """Return a run on fewer examples than it has inputs, drawn with repetition."""
    run = make_run(sizes, examples=train + valid, max_epochs=max_epochs, **options)
    drawn = np.random.default_rng(5).integers(train + valid, size=train + valid)
    run.train = dataclasses.replace(run.train, index=drawn[:train])
    run.valid = dataclasses.replace(run.train, index=drawn[train:]) if valid else None
    run.test = Split.whole(run.train.inputs, run.train.labels)
    return run


def assert_dual_equals_torch(**options: Any) -> None:
    """Train a run in the dual form and in torch; compare every parameter and measure."""
    run = {k: v for k, v in options.items() if k not in ("epochs", "level")}
    assert DualNetwork.pays(wide_run(**run))
    assert_engines_agree(make=wide_run, **options)


# ---- the arithmetic ----


@needs_library
@pytest.mark.parametrize("steps", [1, 10, 100])
def test_it_equals_torch(steps: int) -> None:
    # The last batch is a partial one, of 4.
    sizes = (800, 33, 5)
    assert_dual_equals_torch(sizes=sizes, train=7 * steps - 3, optimizer=sgd(lr=0.02))


@needs_library
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("batch_size", [1, 3, 7, 10, 64, 1000])
def test_every_batch_size_and_level_equals_torch(batch_size: int, level: str) -> None:
    options: dict[str, Any] = {"batch_size": batch_size, "level": level, "epochs": 2}
    assert_dual_equals_torch(sizes=(300, 150, 33, 5), optimizer=sgd(lr=0.02), **options)
    assert_dual_equals_torch(sizes=(300, 7), optimizer=sgd(lr=0.02), valid=0, **options)


@needs_library
@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 140), min_size=1, max_size=4).map(tuple),
    activation=st.sampled_from(["relu", "tanh", "sigmoid", "identity"]),
    batch_size=st.integers(1, 40),
    train=st.integers(1, 150),
    valid=st.integers(0, 30),
    seed=st.integers(0, 1000),
)
def test_any_architecture_equals_torch(sizes: tuple[int, ...], **options: Any) -> None:
    options |= {"sizes": (500, *sizes), "optimizer": sgd(lr=0.003), "max_epochs": 10_000}
    assume(nearest_to_kink(wide_run(**options)) > KINK)
    assert_dual_equals_torch(**options)


@needs_library
def test_examples_in_several_parts_equal_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dual, "CHUNK", 16)
    assert_dual_equals_torch(train=50, valid=35, epochs=3, optimizer=sgd(lr=0.02))


@needs_library
def test_dogset_sized_images_equal_torch() -> None:
    sizes = (12288, 128, 64, 10)
    assert_dual_equals_torch(sizes=sizes, batch_size=10, epochs=2, optimizer=sgd(lr=1e-3))


@needs_library
@pytest.mark.parametrize("batch_size", [1, 10, 60])
@pytest.mark.parametrize("lr", [1e-6, 1e-3, 0.3])
def test_small_updates_are_not_lost(lr: float, batch_size: int) -> None:
    options: dict[str, Any] = {"sizes": (400, 33, 5), "batch_size": batch_size}
    assert DualNetwork.pays(wide_run(**options))
    assert_as_exact_as_torch(wide_run, optimizer=sgd(lr=lr), **options)


@needs_library
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("width", [1, 111, 300])
def test_inner_products_are_exact_and_do_not_depend_on_where_they_are_cut(
    width: int, level: str
) -> None:
    generator = np.random.default_rng(0)
    left = generator.standard_normal((700, width), np.float32)  # more than are computed in one go
    right = generator.standard_normal((600, width), np.float32)
    rows, columns = generator.permutation(700)[:533], generator.integers(600, size=521)
    products = inner_products(left, rows, right, columns, level)
    exact = left[rows].astype(float) @ right[columns].T.astype(float)
    # A sum of `width` terms is rounded that often, each time by half a unit in the last place.
    sizes = np.abs(left[rows]).astype(float) @ np.abs(right[columns]).T.astype(float)
    assert (np.abs(products - exact) <= 2**-24 * width * sizes).all()
    for cut in (slice(1), slice(1, 8), slice(8, 75), slice(500, 533)):
        part = inner_products(left, rows[cut], right, columns[cut], level)
        np.testing.assert_array_equal(part, products[cut, cut])
    np.testing.assert_array_equal(inner_products(right, columns, left, rows, level).T, products)


@needs_library
def test_inner_products_of_other_matrices_are_refused() -> None:
    matrix, rows = np.ones((3, 4), np.float32), np.arange(3)
    for bad in (matrix.astype(float), matrix[:, ::2], matrix[0]):
        with pytest.raises(ValueError, match="must be contiguous float32"):
            inner_products(matrix, rows, bad, rows, LEVELS[0])
    with pytest.raises(ValueError, match="rows of 4 and 5 numbers"):
        inner_products(matrix, rows, np.ones((3, 5), np.float32), rows, LEVELS[0])
    for index in ([0, 3], [-1]):
        with pytest.raises(IndexError, match="of a matrix of 3"):
            inner_products(matrix, rows, matrix, np.array(index), LEVELS[0])


@needs_library
@pytest.mark.parametrize("level", LEVELS)
def test_a_gram_matrix_is_of_one_instruction_set(level: str) -> None:
    run = wide_run()
    split = Split.whole(run.train.inputs, run.train.labels)
    rows = split.inputs, np.arange(len(split))
    with dual.sharing():
        gram = dual.gram_of([split], level)
        assert dual.gram_of([split], level) is gram
        for other in set(LEVELS) - {level}:
            assert dual.gram_of([split], other) is not gram
        np.testing.assert_array_equal(gram.matrix(), inner_products(*rows, *rows, level))


@needs_library
def test_the_gram_matrix_has_all_inner_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dual, "CHUNK", 16)
    run = wide_run(train=50, valid=35)
    assert run.valid is not None
    rows = np.concatenate([run.train.index, run.valid.index])
    inputs = run.train.inputs.astype(np.float64)
    expected = inputs[rows] @ inputs[run.train.index].T
    train, valid = (DualNetwork(run).splits[name] for name in ("train", "valid"))
    np.testing.assert_allclose(train.inputs, expected, rtol=1e-5, atol=1e-5)
    assert np.array_equal(valid.inputs, train.inputs)
    assert np.array_equal(train.labels, run.train.labels[rows])


# ---- a run is its own ----


@needs_library
def test_neighbours_change_no_bit() -> None:
    """Alone, beside others with the same examples, beside others with different ones."""

    def numbers(run: Run) -> dict[str, Any]:
        engine = NativeEngine([run], CPU)
        losses = [train(engine, run, epochs=3), *engine.evaluate([run], "valid")[0]]
        losses += engine.evaluate([run], "test")[0]
        return {**engine.state(run), "losses": torch.tensor(losses, dtype=torch.float64)}

    rates = (0.01, 0.02, 0.04)
    alone = [numbers(wide_run(seed=seed, optimizer=sgd(lr=lr))) for seed in (0, 1) for lr in rates]
    first, second = wide_run(seed=0), wide_run(seed=1)
    crowd = []
    for whole in (first, second):
        for lr in rates:
            seed = 0 if whole is first else 1
            run = wide_run(seed=seed, optimizer=sgd(lr=lr))
            run.train, run.valid, run.test = whole.train, whole.valid, whole.test
            crowd.append(run)
    with dual.sharing(), ThreadPoolExecutor(6) as pool:
        for actual, expected in zip(pool.map(numbers, crowd), alone):
            assert_same_state(actual, expected, rtol=0, atol=0)


@needs_library
def test_asking_for_its_state_changes_no_bit() -> None:
    asked, left = wide_run(optimizer=sgd(lr=0.02)), wide_run(optimizer=sgd(lr=0.02))
    engine, other = NativeEngine([asked], CPU), NativeEngine([left], CPU)
    for epoch in (1, 2, 3):
        train(engine, asked, first=epoch)
        train(other, left, first=epoch)
        engine.state(asked)
        engine.evaluate([asked], "test")
    assert_same_state(engine.state(asked), other.state(left), rtol=0, atol=0)


@needs_library
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped() -> None:
    whole, part, rest = (wide_run(optimizer=sgd(lr=0.02)) for _ in range(3))
    uninterrupted, before, after = (NativeEngine([run], CPU) for run in (whole, part, rest))
    train(uninterrupted, whole, epochs=4)
    train(before, part, epochs=2)
    state = before.state(part)
    train(after, rest, epochs=1)  # something that load_state must replace
    after.load_state(rest, state)
    assert_same_state(after.state(rest), state, rtol=0, atol=0)
    train(after, rest, epochs=2, first=3)
    assert_same_state(after.state(rest), uninterrupted.state(whole), **CLOSE[10])


@needs_library
def test_a_snapshot_is_restored_bit_for_bit() -> None:
    run = wide_run(optimizer=sgd(lr=0.02))
    engine = NativeEngine([run], CPU)
    train(engine, run, epochs=2)
    before, snapshot = engine.state(run), engine.snapshot(run)
    train(engine, run, epochs=2, first=3)
    after = engine.state(run)
    engine.restore(run, snapshot)
    assert_same_state(engine.state(run), before, rtol=0, atol=0)
    train(engine, run, epochs=2, first=3)
    assert_same_state(engine.state(run), after, rtol=0, atol=0)


@needs_library
def test_a_snapshot_outlives_the_dual_form_and_other_states() -> None:
    run = wide_run()
    run.optimizer = build_optimizer(sgd(lr=0.02), module_of(run))
    engine = NativeEngine([run], CPU)
    train(engine, run)
    before, snapshot = engine.state(run), engine.snapshot(run)
    train(engine, run, first=2)
    engine.load_state(run, engine.state(run))
    engine.restore(run, snapshot)
    assert_same_state(engine.state(run), before, rtol=0, atol=0)
    run.optimizer.param_groups[0]["weight_decay"] = 0.05
    train(engine, run, first=3)
    engine.restore(run, snapshot)
    assert_same_state(engine.state(run), before, rtol=0, atol=0)


@needs_library
def test_the_best_weights_are_restored() -> None:
    def trained(engine: type[NativeEngine] | type[TorchEngine]) -> Run:
        run = wide_run(sizes=(400, 33, 5), optimizer=sgd(lr=0.03), train=40)
        run.stopping = Patience(3, 0.0, "valid_loss", True)
        assert DualNetwork.pays(run)
        for _ in train_runs([run], engine([run], CPU)):
            pass
        return run

    ours, reference = trained(NativeEngine), trained(TorchEngine)
    assert ours.restored == reference.restored
    assert ours.restored is not None
    assert ours.stop_reason == reference.stop_reason
    assert ours.test_loss == pytest.approx(reference.test_loss, rel=1e-4)
    expected = reference.model.state_dict()
    assert_same_state(ours.model.state_dict(), expected, **CLOSE[100])


@needs_library
@pytest.mark.parametrize("later", [{"lr": 0.005}, {"weight_decay": 0.05}], ids=str)
def test_a_torch_optimizer_may_change_its_options(later: dict[str, float]) -> None:
    ours, reference = wide_run(), wide_run()
    for run in (ours, reference):
        run.optimizer = build_optimizer(sgd(lr=0.02), module_of(run))
    assert DualNetwork.pays(ours)
    engine, oracle = NativeEngine([ours], CPU), TorchEngine([reference], CPU)
    train(engine, ours)
    train(oracle, reference)
    for run in (ours, reference):
        assert isinstance(run.optimizer, torch.optim.Optimizer)
        run.optimizer.param_groups[0].update(later)
    assert train(engine, ours, first=2) == pytest.approx(train(oracle, reference, first=2))
    assert_same_state(engine.state(ours), oracle.state(reference), **CLOSE[100])
    engine.release([ours])
    assert_same_state(ours.model.state_dict(), oracle.state(reference), **CLOSE[100])


@needs_library
@pytest.mark.parametrize("level", LEVELS)
def test_what_is_not_finite_is_seen(level: str) -> None:
    run = wide_run(optimizer=sgd(lr=1e30))
    run.native_level = level
    engine = NativeEngine([run], CPU)
    assert not math.isfinite(train(engine, run, epochs=2))
    assert not math.isfinite(engine.evaluate([run], "valid")[0][0])
    run = wide_run()
    run.train.inputs[run.train.index[17], 3] = math.nan
    run.native_level = level
    engine = NativeEngine([run], CPU)
    assert not math.isfinite(train(engine, run))
    assert not math.isfinite(engine.evaluate([run], "test")[0][0])


@needs_library
def test_the_first_epoch_pays_for_the_matrix() -> None:
    """Otherwise a budget of seconds and the record of the times would not know of it."""
    run = wide_run()
    engine = NativeEngine([run], CPU)
    assert engine.networks[run].seconds > 0
    engine.networks[run].seconds = 1000.0
    first, second = (engine.train_epoch([run], [shuffled(run)])[0].seconds for _ in range(2))
    assert first > 1000 > second


@needs_library
@pytest.mark.parametrize("index", [-1, 80])
def test_a_bad_index_is_an_exception(index: int) -> None:
    run = wide_run()
    run.train.index[3] = index
    with pytest.raises(IndexError):
        NativeEngine([run], CPU)


@needs_library
def test_another_split_is_seen_while_a_run_trains() -> None:
    ours, reference = wide_run(optimizer=sgd(lr=0.02)), wide_run(optimizer=sgd(lr=0.02))
    engine, oracle = NativeEngine([ours], CPU), TorchEngine([reference], CPU)
    train(engine, ours)
    train(oracle, reference)
    for run in (ours, reference):
        run.train = Split.whole(run.train.inputs * 2, run.train.labels)
    expected = train(oracle, reference, first=2)
    assert train(engine, ours, first=2) == pytest.approx(expected, rel=1e-5)
    assert_same_state(engine.state(ours), oracle.state(reference), **CLOSE[100])


# ---- when it is taken ----


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        ({}, True),
        ({"max_epochs": 1}, False),
        ({"max_epochs": 0}, False),
        ({"train": 201, "valid": 0}, False),  # more examples than inputs
        ({"valid": 150, "max_epochs": 4}, False),
        ({"valid": 20, "max_epochs": 4}, True),
        ({"train": 60, "density": 0.1}, False),  # zeros are skipped instead
        ({"train": 10, "density": 0.1}, True),
        ({"optimizer": OPTIMIZERS["decay"]}, False),
        ({"optimizer": OPTIMIZERS["momentum"]}, False),
        ({"optimizer": adam()}, False),
    ],
    ids=str,
)
def test_when_it_is_taken(options: dict[str, Any], taken: bool) -> None:
    run = wide_run(**options)
    assert DualNetwork.pays(run) == taken
    assert NativeEngine.form(run) == ("dual" if taken else None)
    assert TorchEngine.form(run) is None


@needs_library
@pytest.mark.parametrize("where", ["train", "valid"])
@pytest.mark.parametrize("value", [1e20, 1e16, -math.inf, math.nan])
def test_inner_products_that_overflow_are_not_taken(value: float, where: str) -> None:
    """A run's numbers are those of torch, though its Gram matrix would be infinite."""
    ours, reference = wide_run(optimizer=sgd(lr=0.02)), wide_run(optimizer=sgd(lr=0.02))
    assert DualNetwork.pays(ours)
    for run in (ours, reference):
        split = getattr(run, where)
        only = sorted({*split.index.tolist()} - {*run.train.index.tolist()}) or split.index
        run.train.inputs[only[0] if where == "valid" else split.index[0], 3] = value
    assert not DualNetwork.pays(ours)
    assert NativeEngine.form(ours) is None
    engine, oracle = NativeEngine([ours], CPU), TorchEngine([reference], CPU)
    if where == "valid":  # all that is trained on is as it was
        train(engine, ours)
        train(oracle, reference)
        assert_same_state(engine.state(ours), oracle.state(reference), **CLOSE[10])
    expected = oracle.evaluate([reference], "valid")[0][0]
    assert engine.evaluate([ours], "valid")[0][0] == pytest.approx(expected, nan_ok=True)


def test_huge_inputs_of_other_examples_change_nothing() -> None:
    run = wide_run()
    others = {*range(80)} - {*run.train.index.tolist()}
    run.valid = None
    run.train.inputs[list(others)] = 1e30
    assert DualNetwork.pays(run)


def test_a_run_that_may_end_early_counts_on_few_epochs() -> None:
    run = wide_run(sizes=(200, 5), train=60)
    assert DualNetwork.pays(run)
    run.stopping = Patience(3, 0.0, "valid_loss", False)
    assert not DualNetwork.pays(run)


def test_evaluating_the_training_examples_counts() -> None:
    """The usual form goes through all inputs for it once more, the dual form does not."""
    run = wide_run(sizes=(200, 33, 5), train=60, max_epochs=3)
    assert not DualNetwork.pays(run)
    run.full_train_metrics = True
    assert DualNetwork.pays(run)


def test_examples_drawn_again_and_again_are_not_taken() -> None:
    """Their matrix would be larger than the inputs."""
    run = wide_run(sizes=(800, 33, 5), train=60, max_epochs=10_000)
    assert DualNetwork.pays(run)
    run.train = dataclasses.replace(run.train, index=np.tile(run.train.index, 5))
    assert not DualNetwork.pays(run)


def test_an_optimizer_without_a_name_is_not_taken() -> None:
    run = wide_run(optimizer=OptimizerConfig(name="lion", lr=1.0, weight_decay=0.0))
    run.optimizer = torch.optim.RMSprop(module_of(run).parameters(), lr=0.1)
    assert not DualNetwork.pays(run)


# ---- the matrix is shared ----


def test_runs_on_the_same_examples_share_a_matrix() -> None:
    split = wide_run().train
    other = dataclasses.replace(split, index=split.index[::-1])
    with dual.sharing():
        first = dual.gram_of([split], BEST)
        assert dual.gram_of([dataclasses.replace(split, index=split.index.copy())], BEST) is first
        copy = dataclasses.replace(split, inputs=split.inputs.copy())
        for unlike in ([split, other], [other], [copy]):
            assert dual.gram_of(unlike, BEST) is not first
    assert dual.gram_of([split], BEST) is not first


@needs_library
def test_inputs_may_change_between_two_runs() -> None:
    """As they may in a notebook, where nobody tells when."""
    first, second, reference = (wide_run(optimizer=sgd(lr=0.02)) for _ in range(3))
    second.train, second.valid = first.train, first.valid
    train(NativeEngine([first], CPU), first)
    first.train.inputs *= 2
    reference.train.inputs *= 2
    engine, oracle = NativeEngine([second], CPU), TorchEngine([reference], CPU)
    assert train(engine, second) == pytest.approx(train(oracle, reference))


def test_matrices_are_kept_that_take_no_more_memory_than_the_inputs() -> None:
    drawn = np.random.default_rng(0)
    inputs, labels = drawn.random((100, 120), np.float32), np.zeros(100, np.int64)
    splits = [Split(inputs, labels, drawn.permutation(100)[:60]) for _ in range(4)]
    with dual.sharing():
        first, *last = [dual.gram_of([split], BEST) for split in splits]
        # 3 x 60 x 60 numbers of 100 x 120, and the latest goes last
        assert dual.gram_of([splits[1]], BEST) is last[0]
        assert dual._sharing is not None
        assert dual._sharing.latest == [last[1], last[2], last[0]]
        assert dual.gram_of([splits[0]], BEST) is not first


def test_runs_that_wait_for_a_block_compute_it_where_it_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = wide_run(train=50)
    gram = dual.Gram([run.train], BEST)
    (block,) = gram.blocks
    begun, waiting = threading.Event(), threading.Event()
    computed, lock = gram.compute, block.lock

    def compute(row: dual.Part, column: dual.Part) -> None:
        if begun.is_set():
            return computed(row, column)
        begun.set()
        assert waiting.wait(10)
        raise MemoryError("not for this one")

    class Watched:
        release = lock.release

        def acquire(self, blocking: bool) -> bool:
            if blocking and lock.locked():
                waiting.set()
            return lock.acquire(blocking)

    monkeypatch.setattr(gram, "compute", compute)
    monkeypatch.setattr(block, "lock", Watched())
    with ThreadPoolExecutor(2) as pool:
        failing = pool.submit(gram.matrix)
        assert begun.wait(10)
        made = pool.submit(gram.matrix).result(20)
        with pytest.raises(MemoryError):
            failing.result()
    inputs = run.train.inputs[run.train.index]
    np.testing.assert_allclose(made, inputs @ inputs.T, rtol=1e-5, atol=1e-5)


def test_the_end_of_sharing_stops_who_is_at_a_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its block: an interrupted sweep does not wait for the whole matrix."""
    monkeypatch.setattr(dual, "CHUNK", 16)
    run = wide_run(train=50)
    begun, ended = threading.Event(), threading.Event()
    computed = []

    def compute(gram: dual.Gram, row: dual.Part, column: dual.Part) -> None:
        computed.append((row.place, column.place))
        begun.set()
        assert ended.wait(10)

    monkeypatch.setattr(dual.Gram, "compute", compute)
    with ThreadPoolExecutor(1) as pool:
        with dual.sharing():
            making = pool.submit(lambda: dual.gram_of([run.train], BEST).matrix())
            assert begun.wait(10)
        ended.set()
        with pytest.raises(KeyboardInterrupt):
            making.result(10)
    assert computed == [(0, 0)]


def test_nothing_shared_is_kept_after_its_end() -> None:
    with dual.sharing():
        matrices = [weakref.ref(dual.gram_of([wide_run(seed=seed).train], BEST)) for seed in (0, 1)]
        gc.collect()
        assert all(matrix() is not None for matrix in matrices)
    gc.collect()
    assert [matrix() for matrix in matrices] == [None, None]


def test_a_block_that_failed_is_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dual, "CHUNK", 16)
    run = wide_run(train=50)
    gram = dual.Gram([run.train], BEST)
    computed, begun, failed = gram.compute, threading.Event(), threading.Event()

    def compute(row: dual.Part, column: dual.Part) -> None:
        if threading.current_thread() is not threading.main_thread() and not begun.is_set():
            begun.set()
            raise MemoryError("not for this one")
        computed(row, column)

    monkeypatch.setattr(gram, "compute", compute)

    def fail() -> None:
        with pytest.raises(MemoryError):
            gram.matrix()
        failed.set()

    thread = threading.Thread(target=fail)
    thread.start()
    assert failed.wait(10)
    thread.join()
    inputs = run.train.inputs[run.train.index]
    np.testing.assert_allclose(gram.matrix(), inputs @ inputs.T, rtol=1e-5, atol=1e-5)
