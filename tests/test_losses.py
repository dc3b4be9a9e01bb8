"""What training minimises and what is measured, in every engine: against a plain torch loop."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from sklearn import metrics  # type: ignore[import-untyped,unused-ignore]
from sklearn.utils.class_weight import compute_class_weight  # type: ignore[import-untyped,unused-ignore]
from torch import Tensor, nn
from torch.testing import assert_close

from nnlab import arguments, build, compose, notebook
from nnlab.config import OptimizerConfig
from nnlab.datasets import Split
from nnlab.datasets.sampling import Index
from nnlab.device import CPU
from nnlab.engines import Engine, Run
from nnlab.engines.native import NativeEngine
from nnlab.engines.stacked import StackedEngine
from nnlab.engines.torch import TorchEngine, build_optimizer
from nnlab.losses import CrossEntropy, Loss, LossConfig, SquaredError
from tests.test_dual import wide_run
from tests.test_native import OPTIMIZERS, make_run, module_of, needs_library, sgd, shuffled
from tests.test_stacked import Graphs, assert_same_epoch, make_runs

CLASSES = 5
Make: TypeAlias = Callable[..., Run]
WEIGHTS = (0.5, 2.0, 1.0, 3.0, 0.25)
LOSSES: dict[str, Loss] = {
    "plain": CrossEntropy(),
    "smoothing": CrossEntropy(0.2),
    "weights": CrossEntropy(weights=WEIGHTS),
    "both": CrossEntropy(0.1, WEIGHTS),
    "squared": SquaredError(),
    "scaled": SquaredError((2.0, 0.5, 10.0, 1.0, 3.0)),
}
ENGINES: dict[str, tuple[type[Engine], Make]] = {
    "torch": (TorchEngine, make_run),
    "native": (NativeEngine, make_run),
    "dual": (NativeEngine, wide_run),
    "stacked": (StackedEngine, make_run),
}
# float32 in other orders of summing, over up to 30 steps; see test_native.CLOSE.
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


def with_loss(run: Run, loss: Loss) -> Run:
    """Give a run a loss; where it is of numbers, also targets: sums of some inputs, and noise."""
    run.loss = loss
    if isinstance(loss, CrossEntropy):
        return run
    inputs, outputs = run.train.inputs, list(module_of(run).parameters())[-1].shape[0]
    noise = np.random.default_rng(9).normal(size=(len(inputs), outputs)).astype(inputs.dtype)
    noise *= 0.3
    targets = inputs[:, :outputs] + inputs[:, outputs : 2 * outputs] + noise
    for name in ("train", "valid", "test"):
        split = getattr(run, name)
        if split is not None:
            setattr(run, name, dataclasses.replace(split, labels=targets))
    return run


def criterion(loss: Loss) -> Callable[[Tensor, Tensor], Tensor]:
    if isinstance(loss, SquaredError):
        return nn.MSELoss()
    weight = None if loss.weights is None else torch.tensor(loss.weights)
    return nn.CrossEntropyLoss(weight, label_smoothing=loss.label_smoothing)


def expected_measures(loss: Loss, outputs: Tensor, labels: Tensor) -> list[float]:
    """What torch's loss and scikit-learn's metrics say of outputs [n, K]."""
    measured = [criterion(loss)(outputs, labels).item()]
    if isinstance(loss, CrossEntropy):
        return [*measured, metrics.accuracy_score(labels, outputs.argmax(1))]
    unit = torch.ones(outputs.shape[1]) if loss.deviation is None else torch.tensor(loss.deviation)
    y, found = (labels * unit).numpy(), (outputs * unit).numpy()
    return [
        *measured,
        metrics.r2_score(y, found),
        metrics.mean_absolute_error(y, found),
        metrics.root_mean_squared_error(y, found),
    ]


def by_hand(run: Run, orders: Sequence[Index]) -> tuple[nn.Module, list[list[float]], list[float]]:
    """Train with a plain loop; return the model, each epoch's measures as it trained, and those of
    the validation split at the end."""
    model, function = copy.deepcopy(module_of(run)), criterion(run.loss)
    inputs, targets = (torch.from_numpy(each) for each in (run.train.inputs, run.train.labels))
    assert isinstance(run.optimizer, OptimizerConfig)
    optimizer = build_optimizer(run.optimizer, model)
    history = []
    for order in orders:
        seen = []
        for batch in torch.from_numpy(run.train.index[order]).split(run.batch_size):
            outputs, labels = model(inputs[batch]), targets[batch]
            optimizer.zero_grad()
            function(outputs, labels).backward()
            optimizer.step()
            seen.append((outputs.detach(), labels))
        history.append(expected_measures(run.loss, *map(torch.cat, zip(*seen))))
    assert run.valid is not None
    inputs, targets = map(torch.from_numpy, run.valid.examples)
    with torch.no_grad():
        valid = expected_measures(run.loss, model(inputs), targets)
    return model, history, valid


@needs_library
@pytest.mark.parametrize(
    ("engine", "optimizer"),
    [(name, way) for name in ENGINES for way in ("sgd", "adam") if (name, way) != ("dual", "adam")],
)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_engine_trains_and_measures_as_a_plain_loop(
    engine: str, loss: str, optimizer: str
) -> None:
    kind, make = ENGINES[engine]
    option = sgd(lr=0.02) if engine == "dual" else OPTIMIZERS[optimizer]
    # The last of the batches is a partial one.
    run = with_loss(make(optimizer=option), LOSSES[loss])
    assert (NativeEngine.form(run) == "dual") == (engine == "dual")
    orders = [shuffled(run, epoch) for epoch in (1, 2, 3)]
    model, history, valid = by_hand(run, orders)
    trainer = kind([run], CPU)
    for order, expected in zip(orders, history):
        (trained,) = trainer.train_epoch([run], [order])
        assert_close(trained.measures, tuple(expected), **CLOSE)
    (found,) = trainer.evaluate([run], "valid")
    assert_close(found, tuple(valid), **CLOSE)
    trainer.release([run])
    for ours, theirs in zip(module_of(run).parameters(), model.parameters()):
        assert_close(ours, theirs, **CLOSE)


@needs_library
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_goes_on_from_a_snapshot_bit_for_bit(engine: str, loss: str) -> None:
    kind, make = ENGINES[engine]

    def fresh() -> Run:
        return with_loss(make(optimizer=sgd(lr=0.02)), LOSSES[loss])

    whole, again = fresh(), fresh()
    first, second = kind([whole], CPU), kind([again], CPU)
    first.train_epoch([whole], [shuffled(whole, 1)])
    second.restore(again, first.snapshot(whole))
    measured = [
        each.train_epoch([run], [shuffled(run, 2)])[0].measures
        for each, run in ((first, whole), (second, again))
    ]
    assert measured[0] == measured[1]
    expected = first.snapshot(whole)
    for name, array in second.snapshot(again).items():
        assert np.array_equal(array, expected[name]), name


def test_runs_of_one_stack_have_losses_of_their_own() -> None:
    """Against each run alone; products of several matrices are rounded otherwise than of one."""
    losses = [CrossEntropy(0.3), CrossEntropy(0.1, WEIGHTS), CrossEntropy(weights=WEIGHTS)]
    among = [with_loss(make_run(seed=seed), loss) for seed, loss in enumerate(losses)]
    assert len(StackedEngine.divide(among, CPU)) == 1
    together = StackedEngine(among, CPU)
    trained = together.train_epoch(among, [shuffled(run) for run in among])
    validated = together.evaluate(among, "valid")
    for seed, (run, loss) in enumerate(zip(among, losses)):
        alone = with_loss(make_run(seed=seed), loss)
        engine = StackedEngine([alone], CPU)
        (expected,) = engine.train_epoch([alone], [shuffled(alone)])
        assert trained[seed].measures == pytest.approx(expected.measures, rel=1e-6)
        assert validated[seed] == pytest.approx(engine.evaluate([alone], "valid")[0], rel=1e-6)
        state = together.state(run)
        for name, tensor in engine.state(alone).items():
            assert_close(state[name], tensor, rtol=1e-6, atol=1e-7)


def test_runs_of_unlike_losses_are_of_unlike_stacks() -> None:
    """So that a run's numbers are the same alone, where the plain loss has a shorter way."""
    losses = ("plain", "smoothing", "squared", "both")
    runs = [with_loss(make_run(), LOSSES[name]) for name in losses]
    assert StackedEngine.divide(runs, CPU) == [[runs[0]], [runs[1], runs[3]], [runs[2]]]


@pytest.mark.parametrize("name", ["both", "squared"])
def test_a_replayed_epoch_is_an_epoch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a CUDA graph replays it, with runs of unlike lengths; against the torch engine."""
    graphs = Graphs(monkeypatch)
    loss = CrossEntropy(0.1, WEIGHTS[:4]) if name == "both" else SquaredError()
    ours, theirs = (
        [with_loss(run, loss) for run in make_runs([sgd(lr=0.05)] * 3, [20, 66, 33])]
        for _ in range(2)
    )
    engine, reference = StackedEngine(ours, CPU), TorchEngine(theirs, CPU)
    engine.graph = True
    for _ in range(3):
        assert_same_epoch(engine, ours, reference, theirs)
    assert graphs.captures == 1


@needs_library
@pytest.mark.parametrize("kind", [NativeEngine, StackedEngine])
def test_targets_and_weights_of_another_number_are_refused(kind: type[Engine]) -> None:
    run = with_loss(make_run(), SquaredError())
    run.train = Split.whole(run.train.inputs, run.train.labels[:, :3].copy())
    with pytest.raises(ValueError, match=r"train (labels|targets) .*3\]"):
        kind([run], CPU)
    run = with_loss(make_run(), CrossEntropy(weights=(1.0, 2.0)))
    with pytest.raises(ValueError, match="weights of 2 classes, the model 5 outputs"):
        kind([run], CPU)


def test_the_torch_engine_does_not_broadcast_outputs_over_targets() -> None:
    run = with_loss(make_run(sizes=(20, 1)), SquaredError())
    run.train = Split.whole(run.train.inputs, np.zeros((len(run.train), 3), np.float32))
    with pytest.raises(ValueError, match=r"\[7, 1\], but the targets are \[7, 3\]"):
        TorchEngine([run], CPU).train_epoch([run], [shuffled(run)])


def test_a_constant_target_has_the_r2_of_scikit_learn() -> None:
    targets = torch.tensor([[1.0, 2.0]] * 4)
    for wrong in (0.0, 0.5):
        errors = torch.tensor([wrong, 0.0]).expand(4, 2)
        _, r2, _, _ = SquaredError().measures(
            (errors**2).sum(0).tolist(), errors.sum(0).tolist(), targets.numpy()
        )
        assert r2 == metrics.r2_score(targets, targets + errors)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_a_single_example_has_the_r2_of_scikit_learn() -> None:
    targets = np.array([[1.0, 2.0]])
    _, r2, mae, rmse = SquaredError().measures([0.25, 4.0], [0.5, 2.0], targets)
    assert math.isnan(r2)
    assert math.isnan(metrics.r2_score(targets, targets + np.array([[0.5, 2.0]])))
    assert (mae, rmse) == (1.25, 1.25)


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels = torch.tensor([0] * 5 + [1] * 2 + [2] * 13)
    built = LossConfig(0.0, "balanced").build(["a", "b", "c"], labels.bincount().tolist())
    oracle = compute_class_weight("balanced", classes=labels.unique().numpy(), y=labels.numpy())
    assert built.weights == pytest.approx(oracle.tolist(), rel=1e-15)


def test_class_weights_of_a_command() -> None:
    words = ["dataset=sklearn", "dataset.name=wine", "loss.class_weights=balanced"]
    config = compose.load(words)
    data = config.load_data()
    labels = data.train.examples[1]
    oracle = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    loss = build.loss_of(config, data)
    assert isinstance(loss, CrossEntropy)
    assert loss.weights == pytest.approx(oracle.tolist(), rel=1e-15)

    listed = "loss.class_weights=[1,2.5]"
    arguments.check([listed])
    with pytest.raises(ValueError, match=r"\[1, 2.5\] has 2 numbers; give one for .* 3 classes"):
        build.loss_of(compose.load([*words[:2], listed]), data)
    with pytest.raises(ValueError, match="balanced, but there is no training example of class b"):
        LossConfig(0.0, "balanced").build(["a", "b"], [3, 0])


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ([1, 2.5], "[1,2.5]"),
        ([[1, 2], [2, 1]], "[1,2],[2,1]"),
        (["balanced", None], "balanced,null"),
        ("balanced", "balanced"),
    ],
)
def test_class_weights_in_python_are_a_list_or_several(value: Any, word: str) -> None:
    assert notebook.overrides({"loss.class_weights": value}) == [f"loss.class_weights={word}"]
