"""The training loop, over a list of runs; and the same loop for a notebook."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset, default_collate

import nnlab.engines.torch as reference
from nnlab import device, engines, seeds
from nnlab.config import EngineName, OptimizerConfig
from nnlab.datasets import Split
from nnlab.engines import Engine, Run
from nnlab.stopping import Budget, Epoch, StoppingRule

if TYPE_CHECKING:
    import pandas as pd

Data: TypeAlias = "Split | Dataset[Any] | Sequence[Any]"


def train_runs(runs: Sequence[Run], engine: Engine) -> Iterator[tuple[Run, Epoch | None]]:
    """Train runs until each has ended.

    Yields a run's metrics after each of its epochs, and (run, None) when it has ended and
    ``run`` holds its results. It ends at ``max_epochs``, when its stopping rule says so, or
    when its training or validation loss is not finite. Only then are the best weights
    restored, where its rule asks for it, and its test split read.
    """
    best: dict[Run, Any] = {}
    for run in runs:
        if run.max_epochs == 0:
            run.status, run.stop_reason = "finished", "no epochs: evaluated, not trained"
    active = list(runs)
    while active:
        ended = [run for run in active if run.status != "running"]
        active = [run for run in active if run.status == "running"]
        for run in ended:
            if run in best and run.stopping is not None:
                run.restored = run.stopping.restore
                engine.restore(run, best.pop(run))
        tested = evaluated([run for run in ended if run.status != "diverged"], engine, "test")
        for run, (test_loss, test_accuracy) in tested.items():
            run.test_loss, run.test_accuracy = test_loss, test_accuracy
        engine.release(ended)
        yield from ((run, None) for run in ended)
        if not active:
            return

        trained = engine.train_epoch(active, [draw_order(run) for run in active])
        validation = evaluated(active, engine, "valid")
        again = evaluated([run for run in active if run.full_train_metrics], engine, "train")
        for run, (loss, accuracy, seconds) in zip(active, trained):
            before = run.epochs[-1].seconds if run.epochs else 0.0
            loss, accuracy = again.get(run, (loss, accuracy))
            valid_loss, valid_accuracy = validation.get(run, (None, None))
            run.epochs.append(
                Epoch(
                    epoch=len(run.epochs) + 1,
                    train_loss=loss,
                    train_accuracy=accuracy,
                    valid_loss=valid_loss,
                    valid_accuracy=valid_accuracy,
                    seconds=before + seconds,
                )
            )
            run.status, run.stop_reason = judge(run)
            if run.stopping is not None and run.stopping.restore == run.epochs[-1].epoch:
                best[run] = engine.snapshot(run)
            yield run, run.epochs[-1]


def evaluated(runs: Sequence[Run], engine: Engine, split: str) -> dict[Run, tuple[float, float]]:
    """Return loss and accuracy of the runs that have such a split."""
    having = [run for run in runs if getattr(run, split) is not None]
    return dict(zip(having, engine.evaluate(having, split)))


def draw_order(run: Run) -> Tensor:
    """Return the order of the examples in the run's next epoch: [n] int64."""
    if run.order is None:
        return torch.arange(len(run.train))
    return torch.randperm(len(run.train), generator=run.order)


def judge(run: Run) -> tuple[str, str]:
    """Return the status of a run after its latest epoch, and why it ended if it did."""
    last = run.epochs[-1]
    for name, loss in (("training", last.train_loss), ("validation", last.valid_loss)):
        if loss is not None and not math.isfinite(loss):
            return "diverged", f"{name} loss became {loss} in epoch {last.epoch}"
    if run.stopping is not None:
        reason = run.stopping.update(last)
        if reason is not None:
            return "stopped", reason
    if last.epoch >= run.max_epochs:
        return "finished", f"reached max_epochs={run.max_epochs}"
    return "running", ""


def train_epoch(
    model: nn.Module,
    data: Data,
    optimizer: torch.optim.Optimizer,
    batch_size: int = 10,
    generator: torch.Generator | None = None,
) -> tuple[float, float]:
    """Train a model once through its data; return mean loss and accuracy over the examples.

    Both are measured as the model trains, on each batch before its step. data: a pair
    of inputs [N, ...] and labels [N], or a Dataset of such examples. The last, shorter
    batch is trained on too. ``generator`` shuffles; without one the given order is kept.
    """
    split = as_split(data, model)
    order = split.index if generator is None else split.index[_permutation(split, generator)]
    where = _device_of(model)
    inputs, labels = split.inputs.to(where), split.labels.to(where)
    return reference.train_epoch(model, inputs, labels, optimizer, batch_size, order.to(where))


def _permutation(split: Split, generator: torch.Generator) -> Tensor:
    return torch.randperm(len(split), generator=generator, device=generator.device).cpu()


def evaluate(model: nn.Module, data: Data) -> tuple[float, float]:
    """Return the model's mean cross entropy and its accuracy on data, without training.

    data: as for ``train_epoch``. The model is put in evaluation mode meanwhile.
    """
    split = as_split(data, model)
    where = _device_of(model)
    inputs, labels = split.inputs.to(where), split.labels.to(where)
    return reference.evaluate(model, inputs, labels, split.index.to(where))


@dataclass
class Fit:
    """What ``fit`` found. ``metrics`` has the columns of metrics.csv, a row per epoch."""

    metrics: pd.DataFrame
    status: str
    stop_reason: str
    test_loss: float | None
    test_accuracy: float | None
    engine: str


def fit(
    model: nn.Module,
    train: Data,
    valid: Data | None = None,
    test: Data | None = None,
    *,
    optimizer: torch.optim.Optimizer | OptimizerConfig,
    batch_size: int = 10,
    max_epochs: int = 100,
    stopping: StoppingRule | None = None,
    shuffle: bool = True,
    seed: int = 0,
    engine: str = "auto",
    full_train_metrics: bool = False,
) -> Fit:
    """Train a classifier with cross entropy, in place, until it is time to stop.

    model: any module from inputs [B, ...] to logits [B, classes]; it stays on its device.
    train, valid, test: a pair of inputs [N, ...] and labels [N] (tensors or arrays), or a
    Dataset of such examples. ``stopping`` needs ``valid``; test is read once, at the end.
    ``seed`` draws the order of the examples. ``full_train_metrics`` evaluates the training
    examples after each epoch; otherwise their loss and accuracy are measured as it trains.
    On the CPU one thread is used.

    >>> inputs, labels = torch.eye(4), torch.arange(4)
    >>> model = nn.Linear(4, 4)
    >>> sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    >>> result = fit(model, (inputs, labels), test=(inputs, labels), optimizer=sgd)
    >>> result.stop_reason, result.test_accuracy
    ('reached max_epochs=100', 1.0)
    """
    import pandas as pd

    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} is not possible: it must be at least 1")
    if max_epochs < 0:
        raise ValueError(f"max_epochs={max_epochs} is not possible: it must be at least 0")
    if engine not in EngineName.__members__:
        raise ValueError(f"engine={engine} is none of {', '.join(EngineName.__members__)}")
    if stopping is not None and valid is None and not isinstance(stopping, Budget):
        raise ValueError("stopping watches the validation loss; pass valid=(inputs, labels)")
    run = Run(
        model,
        optimizer,
        train=as_split(train, model),
        valid=None if valid is None else as_split(valid, model),
        test=None if test is None else as_split(test, model),
        batch_size=batch_size,
        max_epochs=max_epochs,
        stopping=stopping,
        order=seeds.generator(seed, "order") if shuffle else None,
        full_train_metrics=full_train_metrics,
    )
    where = _device_of(model)
    build, _ = engines.choose(EngineName[engine], run, where)
    with device.cpu_threads(1):
        for _ in train_runs([run], build([run], where)):
            pass
    return Fit(
        metrics=pd.DataFrame(run.epochs, columns=list(Epoch._fields)),
        status=run.status,
        stop_reason=run.stop_reason,
        test_loss=run.test_loss,
        test_accuracy=run.test_accuracy,
        engine=build.name,
    )


def as_split(data: Data, model: nn.Module) -> Split:
    """Gather examples into one Split, inputs in the floating-point type of the model.

    Raises ValueError where data is not a pair of equally many inputs and labels.
    """
    if isinstance(data, Split):
        return data
    if isinstance(data, TensorDataset) and len(data.tensors) == 2:
        data = data.tensors
    elif isinstance(data, Dataset):
        size = len(data)  # type: ignore[arg-type]
        if size > 0:
            data = default_collate([data[i] for i in range(size)])
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise ValueError(
            "data must be a pair (inputs, labels) or a non-empty Dataset of such pairs"
        )
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    inputs = torch.as_tensor(data[0]).to(dtype)
    labels = torch.as_tensor(data[1])
    if labels.dim() != 1 or labels.is_floating_point():
        raise ValueError(
            f"labels have shape {list(labels.shape)} and type {labels.dtype}; "
            f"give one class number per example, shape [N], of an integer type"
        )
    if len(inputs) != len(labels) or len(labels) == 0:
        raise ValueError(
            f"{len(inputs)} inputs and {len(labels)} labels: give equally many, at least one"
        )
    return Split.whole(inputs, labels.long())


def _device_of(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
