"""What trains: a run, and the calls that an engine answers for the runs it holds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from nnlab.config import EngineName, OptimizerConfig
from nnlab.datasets.sampling import Index
from nnlab.datasets.splits import Split
from nnlab.device import Device
from nnlab.losses import PLAIN, CrossEntropy, Loss
from nnlab.perceptron import MLP
from nnlab.stopping import Epoch, StoppingRule, unsupported_rule

if TYPE_CHECKING:
    # Not `import torch`: the submodule of that name would take its place here.
    from torch import nn, optim

State: TypeAlias = "dict[str, NDArray[Any]]"  # numbers by their names


@dataclass(eq=False)
class Run:
    """One network, its data, and how it is to be trained; afterwards, how that went.

    ``model`` maps [B, ...] to logits [B, classes], in a regression to targets [B, k], and holds
    the initial weights, as numbers or as one of torch's modules; when the run has ended it holds
    the trained ones. ``loss``: what is minimised. ``order`` draws the order of the examples in
    every epoch (None: as given).
    ``max_epochs`` of 0 only evaluates. ``drop_last``: an epoch ends with the last whole batch.
    ``full_train_metrics``: the measures of training are evaluated after each epoch, not taken as
    it trains.
    ``noise``: seeds what the model's layers draw as it trains, as dropout does (None: they draw
    from the global generators as these are).
    ``lr``: the learning rate of the next epoch (None: the optimizer's own).
    ``threads``: how many the native engine may divide it among, which changes no bit.
    ``native_level``: the native engine's instruction set (None: the best of this processor's).
    While an engine holds it the splits stay as they are.
    """

    model: MLP | nn.Module
    optimizer: OptimizerConfig | optim.Optimizer
    train: Split
    valid: Split | None = None
    test: Split | None = None
    loss: Loss = PLAIN
    batch_size: int = 10
    max_epochs: int = 100
    stopping: StoppingRule | None = None
    order: Generator | None = None
    noise: Generator | None = None
    drop_last: bool = False
    full_train_metrics: bool = False
    native_level: str | None = None

    # In a regression these are ``RegressionEpoch``s, which rules take alike.
    epochs: list[Epoch] = field(default_factory=list)
    lr: float | None = None
    threads: int = 1
    most_threads: int = 1  # among which it was divided so far
    status: str = "running"
    stop_reason: str = ""
    cpu_seconds: float | None = 0.0  # of all epochs; None where that is not known
    tested: tuple[float, ...] | None = None  # the measures of the test split
    # Of the latest evaluation of a split which of its examples were classified rightly, [n].
    right: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    best: State | None = None  # a snapshot of the epoch to be restored, meanwhile
    restored: int | None = None  # the epoch whose weights the model holds, if not the last

    @property
    def test_loss(self) -> float | None:
        return self.test_measures["test_loss"]

    @property
    def test_accuracy(self) -> float | None:
        return self.test_measures.get("test_accuracy")

    @property
    def test_measures(self) -> dict[str, float | None]:
        """The measures of the test split by the names of their columns; None: not tested."""
        names = [f"test_{name}" for name in self.loss.task.measures]
        return dict(zip(names, self.tested or [None] * len(names)))

    @property
    def kept(self) -> Epoch | None:
        """The epoch whose weights the model holds when the run has ended; None if untrained."""
        epoch = self.restored or len(self.epochs)
        return self.epochs[epoch - 1] if epoch else None


class TrainedEpoch(NamedTuple):
    """An epoch's measures as it trained (``loss.task.measures``), and the seconds that it took.

    cpu_seconds: of all threads that trained the run; None where it shares them with other runs, or
    another processor trains it.
    """

    measures: tuple[float, ...]
    seconds: float
    cpu_seconds: float | None = None

    @property
    def loss(self) -> float:
        return self.measures[0]

    @property
    def accuracy(self) -> float:
        """The first measure beside the loss: of classes."""
        return self.measures[1]


class Engine(Protocol):
    """The arithmetic of training for the runs that it was made with.

    An engine knows nothing of files, stopping rules or Hydra, and a run's numbers do not
    depend on the other runs it holds. The static methods are as most engines have them.
    """

    name: ClassVar[str]
    # Whether engines of this kind may work in threads at the same time, each on its core.
    concurrent: ClassVar[bool]

    def __init__(self, runs: Sequence[Run], device: Device) -> None: ...

    @staticmethod
    def divide(runs: Sequence[Run], device: Device) -> list[list[Run]]:
        """Divide runs into those that are best given to one engine together, in their order."""
        return [[run] for run in runs]

    @staticmethod
    def form(run: Run) -> str | None:
        """Return in which form the engine trains a run, None if in the usual one.

        In another form a step's time depends on how many examples there are, and runs on the
        same examples share part of their set-up.
        """
        return None

    @staticmethod
    def level(run: Run) -> str | None:
        """Return the instruction set that a run is trained with, where the engine chooses it."""
        return None

    @staticmethod
    def most_threads(run: Run, form: str | None) -> int:
        """Return among how many threads at most a run of such a form is worth dividing."""
        return 1

    @staticmethod
    def sharing() -> contextlib.AbstractContextManager[None]:
        """Let engines of this kind share what their runs have in common, inside.

        No inputs may change meanwhile. At its end nothing shared is kept, and engines that
        other threads are still making stop soon.
        """
        return contextlib.nullcontext()

    def train_epoch(self, runs: Sequence[Run], orders: Sequence[Index]) -> list[TrainedEpoch]:
        """Train each run once through its examples.

        orders: per run [n] int64, positions in ``run.train.index``, all but with ``drop_last``;
        every batch takes the next ``run.batch_size`` of them, the last batch what is left.
        """

    def evaluate(self, runs: Sequence[Run], split: str) -> list[tuple[float, ...]]:
        """Return each run's measures (``loss.task.measures``) on its split; put into ``run.right``
        which of its examples are classified rightly, unless it is a regression.

        split: "train", "valid" or "test".
        """

    def snapshot(self, run: Run) -> State:
        """Return what ``restore`` takes to put a run back to where it is now, bit for bit.

        It may be asked for after every epoch, so it is as the engine has it: the names tell the
        engine's ``restore`` what each array is. None of them changes later. What the run itself
        has (its order's generator, its torch optimizer's options, its rule) is not in it.
        """

    def restore(self, run: Run, snapshot: State) -> None:
        """Put a run back to where it was when ``snapshot`` gave this.

        The snapshot may be one of another engine of this kind, in an earlier process, of the
        same run on the same data.
        """

    def load_state(self, run: Run, state: State) -> None:
        """Take weights and optimizer state in torch's names and layout, from any engine."""

    def release(self, runs: Sequence[Run]) -> None:
        """Put the weights of these runs into their models and forget the runs."""


def measures(
    run: Run, split: str, sums: Sequence[float], order: Index | None = None
) -> tuple[float, ...]:
    """Return a run's measures on a split ("train", "valid", "test"), of sums over its examples.

    sums: loss, right answers and weight; of a regression the squared errors of each output, then
    the absolute ones. order: [n] positions in the split's index, None for all.
    """
    part: Split = getattr(run, split)
    if isinstance(run.loss, CrossEntropy):
        loss, correct, weight = sums
        return run.loss.measures(loss, correct, weight, len(part if order is None else order))
    index = part.index if order is None else part.index[order]
    half = len(sums) // 2
    return run.loss.measures(sums[:half], sums[half:], part.labels[index])


def below(numbers: State, prefix: str) -> State:
    """Return the numbers whose names begin so, by the rest of their names."""
    found = numbers.items()
    return {name.removeprefix(prefix): each for name, each in found if name.startswith(prefix)}


@contextlib.contextmanager
def sharing(kinds: Iterable[type[Engine]]) -> Iterator[None]:
    """Let engines of each kind share what their runs have in common, inside."""
    with contextlib.ExitStack() as stack:
        for kind in kinds:
            stack.enter_context(kind.sharing())
        yield


def choose_engine(wanted: EngineName, run: Run, device: Device) -> tuple[type[Engine], str]:
    """Return the engine that is to train a run on a device, and why that one.

    auto takes the stacked engine on a GPU and the native one on the CPU, and the torch
    engine for what they do not take. Raises ValueError where the engine asked for by name
    cannot take the run, or none has the native_level asked for.
    """
    engine, reason = engine_and_reason(wanted, run, device)
    if run.native_level is not None and engine.name != "native":
        raise ValueError(
            f"native_level={run.native_level} is of the native engine, but engine={engine.name} "
            f"would train this run ({reason}); leave native_level out"
        )
    return engine, reason


def likely(wanted: EngineName, device: Device) -> str:
    """Return the name of the engine that trains most runs on a device, where none is at hand."""
    if wanted is not EngineName.auto:
        return wanted.name
    return {"cpu": "native", "cuda": "stacked"}.get(device.type, "torch")


def engine_and_reason(wanted: EngineName, run: Run, device: Device) -> tuple[type[Engine], str]:
    if wanted is EngineName.torch:
        return torch_engine(), "asked for"
    if wanted is EngineName.auto and device.type not in ("cpu", "cuda"):
        return torch_engine(), f"the others are not tested on {device.type}"
    engine: type[Engine]
    if wanted is EngineName.native or (wanted is EngineName.auto and device.type == "cpu"):
        from nnlab.engines import library, native

        engine = native.NativeEngine
        reason = library.available() or native.unsupported_reason(run, device)
    else:
        from nnlab.engines import stacked

        engine = stacked.StackedEngine
        reason = stacked.unsupported_reason(run, device)
    # They write the model only when a run has ended; a rule of the user's may look at it before.
    reason = reason or unsupported_rule(run.stopping)
    if wanted is not EngineName.auto:
        if reason is not None:
            raise ValueError(
                f"engine={wanted.name} cannot train this run: {reason}; engine=auto takes what can"
            )
        return engine, "asked for"
    if reason is None:
        return engine, f"the fastest on {device.type}"
    return torch_engine(), f"{engine.name} cannot: {reason}"


def torch_engine() -> type[Engine]:
    from nnlab.engines.torch import TorchEngine

    return TorchEngine
