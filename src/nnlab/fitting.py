"""The training loop for a notebook: any module, data as people have them."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

import nnlab.engines.torch as reference
from nnlab import cores, device, engines, rates, seeds
from nnlab.config import EngineName, OptimizerConfig
from nnlab.datasets.splits import Split
from nnlab.device import Device
from nnlab.engines import Engine, Run
from nnlab.engines.modules import is_torchs
from nnlab.losses import CLASSIFICATION, PLAIN, REGRESSION, LearningTask, Loss, SquaredError
from nnlab.progress import EpochBar
from nnlab.stopping import Epoch, StoppingRule, watches
from nnlab.training import check_batch_norm, in_whole_batches, train_runs

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Data: TypeAlias = "Split | Dataset[Any] | DataLoader[Any] | Sequence[Any]"

log = logging.getLogger("nnlab")
MLP_MODULES = [
    *(f"torch.nn.modules.{name}" for name in ("linear", "activation", "batchnorm", "dropout")),
    "nnlab.dropout",
]


def train_epoch(
    model: nn.Module,
    data: Data,
    optimizer: torch.optim.Optimizer,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
) -> tuple[float, ...]:
    """Train a model once through its data; return mean loss and accuracy over the examples.

    Where labels are floating-point numbers, these are the mean squared error, R², MAE and RMSE.
    They are measured as the model trains, on each batch before its step. data: as for
    ``gathered``. ``batch_size``: 10, or a DataLoader's. The last, shorter batch is trained on
    too, unless a DataLoader drops it. ``generator`` shuffles; without one the order is the given
    one, or drawn by a DataLoader that shuffles. Raises ValueError as ``fit``.
    """
    check_optimizer(optimizer, model)
    batches = batching(data, batch_size)
    with torch.inference_mode(False):  # so that there are gradients, wherever it is called
        examples = gathered(examples_of(data), model)
        order = examples.places
        if generator is not None:
            order = order[_permutation(len(order), generator)]
        elif isinstance(data, DataLoader):
            order = torch.tensor(list(data.sampler))
        if batches.drop_last:
            order = order[: in_whole_batches(len(order), batches.size)]
        inputs, labels, order = (
            each.to(_device_of(model)) for each in (examples.inputs, examples.labels, order)
        )
        options = optimizer, batches.size, order
        return reference.train_epoch(model, inputs, labels, *options, loss=loss_of(labels))


def _permutation(count: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(count, generator=generator, device=generator.device).cpu()


def check_optimizer(optimizer: torch.optim.Optimizer | OptimizerConfig, model: nn.Module) -> None:
    """Raise ValueError unless the optimizer holds all parameters that require gradients.

    It may hold others besides. Options without parameters are for all of them.
    """
    trained = {name: id(p) for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise ValueError(
            "no parameter of the model requires gradients: there is nothing to train; "
            "requires_grad_(True) changes that"
        )
    if not isinstance(optimizer, torch.optim.Optimizer):
        optimizer.check()
        return
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    lacking = [name for name, identity in trained.items() if identity not in held]
    if len(lacking) == len(trained):
        raise ValueError(
            "the optimizer holds none of the model's parameters, perhaps those of an earlier "
            "model; make it anew with model.parameters()"
        )
    if lacking:
        raise ValueError(
            f"the optimizer holds {len(trained) - len(lacking)} of the model's {len(trained)} "
            f"parameters, not {', '.join(lacking)}; give it model.parameters(), or freeze "
            f"the others with requires_grad_(False)"
        )


def evaluate(model: nn.Module, data: Data) -> tuple[float, ...]:
    """Return the model's mean cross entropy and its accuracy on data, without training.

    Where labels are floating-point numbers, the mean squared error, R², MAE and RMSE. data: as for
    ``gathered``. The model is put in evaluation mode meanwhile.
    """
    inputs, labels, index = (each.to(_device_of(model)) for each in gathered(data, model))
    return reference.evaluate(model, inputs, labels, index, loss_of(labels))


@dataclass
class Fit:
    """What ``fit`` found.

    metrics: the columns of metrics.csv, a row per epoch; NaN where nothing was validated.
    status: finished, stopped or diverged, and stop_reason says why. weights_of_epoch: the epoch
    whose weights the model now has, 0 if untrained. Losses and accuracies are those of this
    epoch, and with ``last_`` those of the last one; None if untrained or without such a split.
    engine trained the model, because of engine_reason. measures: all losses and metrics by their
    names. Of a regression, whose accuracies are None, R², MAE and RMSE are attributes too, as
    ``test_r2``.
    """

    model: nn.Module = field(repr=False)

    metrics: pd.DataFrame
    status: str
    stop_reason: str
    weights_of_epoch: int
    train_loss: float | None
    train_accuracy: float | None
    valid_loss: float | None
    valid_accuracy: float | None
    last_train_loss: float | None
    last_train_accuracy: float | None
    last_valid_loss: float | None
    last_valid_accuracy: float | None
    test_loss: float | None
    test_accuracy: float | None
    engine: str
    engine_reason: str
    measures: dict[str, float | None] = field(default_factory=dict, repr=False)
    task: LearningTask = field(default=CLASSIFICATION, repr=False)

    def __getattr__(self, name: str) -> float | None:
        measures: dict[str, float | None] = vars(self).get("measures", {})
        if name not in measures:
            raise AttributeError(f"a fit has no {name}; it measured {', '.join(measures)}")
        return measures[name]

    @property
    def best_epoch(self) -> int | None:
        """The epoch of the lowest validation loss; None where nothing was validated."""
        rows = self.metrics.dropna(subset=["valid_loss"])
        return None if rows.empty else int(rows["epoch"].iloc[rows["valid_loss"].argmin()])

    def predict(self, inputs: Any) -> Tensor:
        """Return the probability of each class for inputs as ``fit`` takes them: [B, classes]; of
        a regression what is predicted, [B, k].

        Of the model as it is now, in evaluation mode; on the CPU. Raises ValueError for inputs
        that do not fit the model.
        """
        where, dtype = _device_of(self.model), type_of(self.model)
        given = fitting(numbers(inputs, "inputs").to(dtype), self.model)
        with torch.no_grad(), reference.mode(self.model, training=False):
            batches = given.split(reference.EVALUATION_BATCH)
            outputs = torch.cat([self.model(some.to(where)).cpu() for some in batches])
        return outputs if self.task is REGRESSION else outputs.softmax(1)

    def plot(self) -> Figure:
        """Draw loss and accuracy, or R², over the epochs: training and, if any, validation."""
        from nnlab.report import figures, run_folders

        told = ("status", "stop_reason", "weights_of_epoch")
        result: dict[str, Any] = {name: getattr(self, name) for name in told} | {"config": {}}
        result |= {"dataset": {"task": self.task.name}, **self.measures}
        result |= {"epochs": len(self.metrics), "train_seconds": self.metrics["seconds"].max()}
        curves = {str(name): values.to_numpy(float) for name, values in self.metrics.items()}
        return figures.curves(run_folders.as_run(Path(), result, curves))


def fit(
    model: nn.Module,
    train: Data,
    valid: Data | None = None,
    test: Data | None = None,
    *,
    optimizer: torch.optim.Optimizer | OptimizerConfig,
    batch_size: int | None = None,
    max_epochs: int = 100,
    stopping: StoppingRule | None = None,
    shuffle: bool | None = None,
    drop_last: bool | None = None,
    scheduler: LRScheduler | None = None,
    on_epoch: Callable[[Epoch], bool | None] | None = None,
    progress: bool = False,
    seed: int = 0,
    engine: str = "auto",
    full_train_metrics: bool = False,
    threads: int | None = None,
) -> Fit:
    """Train a classifier with cross entropy, in place, until it is time to stop; or where labels
    are floating-point numbers, a regression with the mean squared error.

    model: any module from inputs [B, ...] to logits [B, classes], or to numbers [B, k]; it stays
    on its device. train, valid, test: as for ``gathered``. ``optimizer`` holds all parameters that
    require gradients, and goes on from the state it has. ``batch_size``: 10, or that of train if
    it is a DataLoader, which also says whether to ``shuffle`` and whether to ``drop_last``, a last
    batch that is shorter, where nothing else does. ``stopping`` needs ``valid`` if it watches it,
    and is left as it is given; test is read once, at the end. ``scheduler``: changes the learning
    rate after each epoch; one that waits for a plateau is given the validation loss, in its mode
    "max" the accuracy or R², and those of training where nothing is validated. ``on_epoch`` is
    called after each epoch with its ``Epoch``, and ends training by returning True. ``progress``
    shows a bar. ``seed`` draws the order of the examples. ``engine``: auto takes torch wherever
    code of yours takes part in training (hooks, subclasses, patches, a stopping rule of your own,
    a scheduler, on_epoch). ``full_train_metrics`` evaluates the training examples after each
    epoch; otherwise their loss and accuracy are measured as it trains. ``threads``: of the CPU, for
    torch so many (None: 1), for the native engine so many at most (None: as many as this process
    may use), where large steps are worth dividing; only torch's rounding depends on them. Raises
    ValueError, before it trains, for options and data that do not fit the model.

    >>> inputs, labels = torch.eye(4), torch.arange(4)
    >>> model = nn.Linear(4, 4)
    >>> sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    >>> result = fit(model, (inputs, labels), test=(inputs, labels), optimizer=sgd)
    >>> result.stop_reason, result.test_accuracy
    ('reached max_epochs=100', 1.0)
    """
    import pandas as pd

    batches = batching(train, batch_size)
    check_whole("max_epochs", max_epochs, 0)
    check_whole("seed", seed, 0)
    if threads is not None:
        check_whole("threads", threads, 1)
    if engine not in EngineName.__members__:
        raise ValueError(f"engine={engine} is none of {', '.join(EngineName.__members__)}")
    if stopping is not None and valid is None and watches(stopping):
        raise ValueError("stopping watches the validation loss; pass valid=(inputs, labels)")
    if max_epochs > 0:
        check_optimizer(optimizer, model)
    check_scheduler(scheduler, optimizer)
    shuffle = batches.shuffle if shuffle is None else shuffle
    examples = as_split(examples_of(train), model)
    run = Run(
        model,
        optimizer,
        train=examples,
        valid=None if valid is None else as_split(valid, model),
        test=None if test is None else as_split(test, model),
        loss=SquaredError() if examples.labels.dtype.kind == "f" else PLAIN,
        batch_size=batches.size,
        max_epochs=max_epochs,
        stopping=stopping,
        order=seeds.generator(seed, "order") if shuffle else None,
        drop_last=batches.drop_last if drop_last is None else drop_last,
        full_train_metrics=full_train_metrics,
    )
    check_labels(run)
    if run.drop_last:
        in_whole_batches(len(run.train), run.batch_size)
    elif max_epochs > 0:
        check_batches(run)
    placed = _device_of(model)
    where = Device(placed.type, placed.index)
    # There are to be gradients, wherever it is called.
    with device.cpu_threads(threads or 1), torch.inference_mode(False):
        build, reason = choose_engine(engine, run, where, scheduler, on_epoch)
        run.threads = min(cores.usable(threads), build.most_threads(run, build.form(run)))
        if engine == "auto" and build.name == "torch":
            log.info("engine=torch: %s", reason)
        with EpochBar(max_epochs) if progress else contextlib.nullcontext() as bar:
            for _, epoch in train_runs([run], build([run], where)):
                if epoch is not None:
                    after_epoch(run, epoch, scheduler, on_epoch)
                if epoch is not None and bar is not None:
                    bar.show(epoch._asdict())
    kept, last, task = run.kept, run.epochs[-1] if run.epochs else None, run.loss.task
    measures = task.measured(kept) | task.measured(last, "last_") | run.test_measures
    names = [each.name for each in dataclasses.fields(Fit)]
    metrics = pd.DataFrame(run.epochs, columns=list(task.columns)).astype(
        dict.fromkeys(task.columns, float) | {"epoch": int}
    )
    schedule = rates.schedule_of(optimizer, max_epochs)
    return Fit(
        model,
        metrics=metrics if schedule is None else metrics.assign(lr=schedule.rates(run.epochs)),
        status=run.status,
        stop_reason=run.stop_reason,
        weights_of_epoch=0 if kept is None else kept.epoch,
        engine=build.name,
        engine_reason=reason,
        measures=measures,
        task=task,
        **{name: measures.get(name) for name in names if name.endswith(("_loss", "_accuracy"))},
    )


def loss_of(labels: Tensor) -> Loss:
    """Return what is minimised for labels such as these."""
    return SquaredError() if labels.is_floating_point() else PLAIN


def check_labels(run: Run) -> None:
    """Raise ValueError unless all splits are of classes, or all of numbers to predict."""
    kinds = {
        name: getattr(run, name).labels.dtype.kind == "f"
        for name in ("train", "valid", "test")
        if getattr(run, name) is not None
    }
    for name, numeric in kinds.items():
        if numeric != kinds["train"]:
            words = "numbers to predict", "class numbers"
            raise ValueError(
                f"the labels of train are {words[numeric]}, those of {name} {words[not numeric]}; "
                f"give floating-point numbers to predict, or class numbers of an integer type"
            )


def check_batches(run: Run) -> None:
    """Raise ValueError where a batch of an MLP is a single example, which cannot be normalised."""
    assert isinstance(run.model, nn.Module)
    layers = parts(run.model)
    normalised = any(type(layer) is nn.BatchNorm1d for layer in layers)
    if normalised and of_mlps(layers) and run.train.inputs.ndim == 2:
        remedy = ", or leave the last batch out with drop_last=True"
        check_batch_norm("BatchNorm1d", len(run.train), run.batch_size, remedy)


def check_scheduler(
    scheduler: LRScheduler | None, optimizer: torch.optim.Optimizer | OptimizerConfig
) -> None:
    """Raise ValueError unless a scheduler is one of this optimizer."""
    if scheduler is not None and scheduler.optimizer is not optimizer:
        raise ValueError(
            f"the {type(scheduler).__name__} changes another optimizer; make it with the one of "
            f"torch.optim that optimizer= is given"
        )


def choose_engine(
    wanted: str,
    run: Run,
    where: Device,
    scheduler: LRScheduler | None,
    on_epoch: Callable[[Epoch], bool | None] | None,
) -> tuple[type[Engine], str]:
    """Return the engine that is to train a run of ``fit``, and why that one.

    Only torch has the model and the optimizer at hand after each epoch. Raises ValueError where
    another is asked for, and as ``engines.choose_engine``.
    """
    if scheduler is None and on_epoch is None:
        return engines.choose_engine(EngineName[wanted], run, where)
    reason = (
        "on_epoch may look at the model after each epoch"
        if scheduler is None
        else "a scheduler changes the optimizer after each epoch"
    )
    if wanted not in ("auto", "torch"):
        raise ValueError(
            f"engine={wanted} cannot train this run: {reason}; engine=auto takes what can"
        )
    return reference.TorchEngine, "asked for" if wanted == "torch" else reason


def after_epoch(
    run: Run,
    epoch: Epoch,
    scheduler: LRScheduler | None,
    on_epoch: Callable[[Epoch], bool | None] | None,
) -> None:
    """Do what the caller of ``fit`` wants done after an epoch; end the run where he says so."""
    if isinstance(scheduler, ReduceLROnPlateau):
        split = "train" if epoch.valid_loss is None else "valid"
        best = run.loss.task.metrics[0].name
        measure = best if scheduler.mode == "max" else "loss"
        scheduler.step(getattr(epoch, f"{split}_{measure}"))
    elif scheduler is not None:
        scheduler.step()
    if on_epoch is not None:
        answer = on_epoch(epoch)
        if isinstance(answer, (bool, np.bool_)) and answer and run.status == "running":
            run.status, run.stop_reason = "stopped", f"on_epoch ended it after epoch {epoch.epoch}"


def check_whole(name: str, value: object, least: int) -> None:
    """Raise ValueError unless an option is a whole number, of any type, and large enough."""
    try:
        if operator.index(value) >= least:  # type: ignore[arg-type]
            return
    except TypeError:
        pass
    raise ValueError(
        f"{name}={value!r} is not possible: it must be a whole number of at least {least}"
    )


# ---- data as people have it ----


class Batching(NamedTuple):
    """How many examples a batch has, whether they are shuffled, and a shorter batch left out."""

    size: int
    shuffle: bool
    drop_last: bool


def batching(data: Data, batch_size: int | None) -> Batching:
    """Return how data are batched, with the batch size wanted, if any.

    Raises ValueError for a batch size below 1, and for a DataLoader that does more than to batch
    and to shuffle a Dataset.
    """
    if batch_size is not None:
        check_whole("batch_size", batch_size, 1)
    if not isinstance(data, DataLoader):
        return Batching(10 if batch_size is None else batch_size, True, False)
    sampler: Any = data.sampler
    shuffles = (
        gives_as_torch(sampler, RandomSampler)
        and not sampler.replacement
        and sampler.num_samples == len(sampler.data_source)
    )
    if (
        not gives_as_torch(data, DataLoader)
        or not gives_as_torch(data.batch_sampler, BatchSampler)
        or not (shuffles or gives_as_torch(sampler, SequentialSampler))
        or sampler.data_source is not data.dataset
        or data.batch_size is None
        or data.collate_fn is not default_collate
    ):
        raise ValueError(
            "a DataLoader with a class, sampler, batch_sampler or collate_fn of its own is not "
            "taken; give its dataset (torch.utils.data.Subset takes a part of one) with "
            "batch_size and shuffle, or a pair (inputs, labels)"
        )
    size = data.batch_size if batch_size is None else batch_size
    return Batching(size, shuffles, data.drop_last)


def examples_of(data: Data) -> Data:
    """Return the Dataset of a DataLoader to train with, whose batches are known; else data."""
    return data.dataset if isinstance(data, DataLoader) else data


def gives_as_torch(data: object, kind: type) -> bool:
    """Return whether data is of exactly this class, and gives what torch has it give."""
    methods = vars(kind).keys() & {"__iter__", "__getitem__", "__len__"}
    return type(data) is kind and all(is_torchs(vars(kind)[name]) for name in methods)


class Examples(NamedTuple):
    """Examples as a model takes them: inputs [N, ...], labels [N] or [N, k], and the places [n] of
    those that are meant."""

    inputs: Tensor
    labels: Tensor
    places: Tensor


def as_split(data: Data, model: nn.Module) -> Split:
    """Gather examples into one Split, which shares their memory where that is the CPU's; data: as
    for ``gathered``."""
    inputs, labels, places = (each.cpu() for each in gathered(data, model))
    inputs, labels = (
        each.float() if each.dtype is torch.bfloat16 else each for each in (inputs, labels)
    )
    found = Split(inputs, labels, places)
    # Splits of the same arrays, which are not to be moved twice, stay so.
    return data if isinstance(data, Split) and same_arrays(found, data) else found


def same_arrays(a: Split, b: Split) -> bool:
    """Return whether two splits are of the same memory, in the same types and shapes."""
    pairs = (a.inputs, b.inputs), (a.labels, b.labels), (a.index, b.index)
    return all(mine.__array_interface__ == other.__array_interface__ for mine, other in pairs)


def gathered(data: Data, model: nn.Module) -> Examples:
    """Gather examples, inputs in the floating-point type of the model.

    data: a pair of inputs [N, ...] and labels, each a tensor, an array, a pandas frame or
    series, or lists; a Dataset of such examples, which is read once; or a DataLoader of one.
    Labels are class numbers from 0, [N] or [N, 1], or one-hot rows [N, classes]; other
    floating-point numbers, [N] or [N, k], are to be predicted by a regression. Images are
    flattened where the model begins with an ``nn.Linear`` of their size. The caller's own numbers
    are never changed.
    Raises ValueError where inputs and labels are not equally many, at least one, or do not fit
    the model.
    """
    if _device_of(model).type == "meta":
        raise ValueError(
            "the model is on the meta device, where its weights have no values; move it with "
            "model.to_empty(device='cpu') and set them, or build it on the cpu"
        )
    with torch.inference_mode(False):
        if isinstance(data, Split):
            inputs, labels = gather((data.inputs, data.labels), model)
            found = Examples(inputs, labels, numbers(data.index, "the index").long())
        else:
            inputs, labels = gather(data, model)
            found = Examples(inputs, labels, torch.arange(len(labels)))
    if len(found.places) == 0:
        raise ValueError("there are no examples; give at least one")
    low, high = torch.stack(found.places.aminmax()).tolist()
    if low < 0 or high >= len(found.labels):
        raise ValueError(
            f"the index holds {low} to {high}; the examples are 0 to {len(found.labels) - 1}"
        )
    highest, outputs = reference.highest_label(found.labels[found.places]), outputs_of(model)
    if outputs is not None and not found.labels.is_floating_point():
        reference.check_classes(highest, outputs)
    return found


def gather(data: Any, model: nn.Module) -> tuple[Tensor, Tensor]:
    if isinstance(data, DataLoader):
        if batching(data, None).drop_last:
            raise ValueError(
                "a DataLoader with drop_last=True is one to train with, for it leaves examples "
                "out; to evaluate, give its dataset"
            )
        data = data.dataset
    if (
        isinstance(data, TensorDataset)
        and gives_as_torch(data, TensorDataset)
        and len(data.tensors) == 2
    ):
        data = data.tensors
    elif isinstance(data, Dataset):
        data = collate(data)
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise ValueError(
            "data must be a pair (inputs, labels), a non-empty Dataset of such pairs, "
            "or a DataLoader of one"
        )
    inputs = numbers(data[0], "inputs").to(type_of(model))
    labels = labels_of(numbers(data[1], "labels"), model)
    count = len(inputs) if inputs.dim() > 0 else 0
    if count != len(labels) or len(labels) == 0:
        raise ValueError(
            f"{count} inputs and {len(labels)} labels: give equally many, at least one"
        )
    return fitting(inputs, model), labels


def collate(dataset: Dataset[Any]) -> Any:
    """Return all examples of a Dataset as tensors; the Dataset itself if it has none."""
    try:
        size = len(dataset)  # type: ignore[arg-type]
        return default_collate([dataset[i] for i in range(size)]) if size > 0 else dataset
    except (TypeError, RuntimeError) as error:
        raise ValueError(
            f"the examples of the {type(dataset).__name__} cannot be put together ({error}); "
            f"it must have a length and give pairs of a tensor, all of one shape, and a class "
            f"number"
        ) from error


def numbers(values: Any, name: str) -> Tensor:
    """Return numbers as a tensor, which shares their memory where torch can take it as it is."""
    if isinstance(values, Tensor) and not values.is_complex():
        if values.is_nested or values.is_quantized or torch._is_functional_tensor(values):
            raise ValueError(
                f"{name} are a nested, quantized or functional tensor; give a plain tensor"
            )
        tensor = values.detach().resolve_neg()
        try:
            tensor = tensor if tensor.layout is torch.strided else tensor.to_dense()
            if tensor.numel() > 0:
                tensor[(-1,) * tensor.dim()].item()  # a fake one has none, nor one without memory
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{name} cannot be read ({reason}); give a plain tensor") from error
        return tensor
    try:
        array = np.asarray(values)
        if array.dtype == object:  # pandas' columns of unlike types, or of numbers that may lack
            array = np.array(array.tolist())
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} cannot be read as one array ({error})") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} are of type {array.dtype}; give real numbers "
            f"(pandas.factorize numbers names, and missing values need one)"
        )
    dtype = array.dtype.newbyteorder("=")
    if dtype.kind == "u" and dtype.itemsize > 1:
        dtype = np.dtype(np.int64)
    elif dtype.itemsize > 8:
        dtype = np.dtype(np.float64)
    # What torch takes without a warning: also contiguous and writeable.
    return torch.from_numpy(np.require(array, dtype, ["C", "W"]))


def labels_of(labels: Tensor, model: nn.Module) -> Tensor:
    """Return labels as class numbers, [N] int64, or as targets of a regression, [N, k]."""
    if labels.dim() == 2 and labels.shape[1] > 1:
        ones = labels == 1
        if (ones | (labels == 0)).all() and (ones.sum(1) == 1).all():
            return ones.long().argmax(1)
        if labels.is_floating_point() and (labels >= 0).all() and sums_to_1(labels):
            raise ValueError(
                "labels look like probabilities of classes, which are not taken; give class "
                "numbers (labels.argmax(1)) or one-hot rows [N, classes]"
            )
    if labels.is_floating_point() and labels.dim() in (1, 2) and labels.shape[1:] != (0,):
        return targets_of(labels.reshape(len(labels), -1), model)
    if labels.dim() == 2 and labels.shape[1] == 1:
        labels = labels.flatten()
    if labels.dim() != 1:
        raise ValueError(
            f"labels have shape {list(labels.shape)} and type {labels.dtype}; "
            f"give one class number per example, shape [N], of an integer type "
            f"(labels.long(), labels.astype(int)), or one-hot rows [N, classes]"
        )
    return labels.long()


def sums_to_1(rows: Tensor) -> bool:
    sums = rows.double().sum(1)
    return torch.allclose(sums, torch.ones_like(sums), rtol=0, atol=1e-3)


def targets_of(targets: Tensor, model: nn.Module) -> Tensor:
    """Return numbers to predict, [N, k], in the type of the model.

    Raises ValueError where one is not finite, or a last ``nn.Linear`` has not an output for each.
    """
    lacking = (~targets.isfinite()).any(1).nonzero().flatten().tolist()
    if lacking:
        raise ValueError(
            f"{len(lacking):,} of {len(targets):,} labels are missing values or not finite, the "
            f"first that of example {lacking[0]} (counted from 0): "
            f"{targets[lacking[0]].tolist()}; leave such examples out"
        )
    outputs = outputs_of(model)
    if outputs not in (None, targets.shape[1]):
        raise ValueError(
            f"labels of type {targets.dtype} are numbers to predict, {targets.shape[1]} of each "
            f"example, but the model has {outputs} outputs; give it as many, or class numbers of "
            f"an integer type (labels.long(), labels.astype(int))"
        )
    return targets.to(type_of(model)).contiguous()


def fitting(inputs: Tensor, model: nn.Module) -> Tensor:
    """Return inputs as the model takes them: flattened where it begins with an ``nn.Linear``."""
    first, *others = parts(model) or [model]
    if type(first) is not nn.Linear:
        return inputs
    width = first.in_features
    # What follows may want the other axes, which an MLP has no use for.
    kept = inputs.dim() == 2 or not of_mlps(others)
    if inputs.dim() > 1 and inputs.shape[-1] == width and kept:
        return inputs
    if math.prod(inputs.shape[1:]) != width:
        raise ValueError(f"the inputs are {list(inputs.shape)}, but the model takes [N, {width}]")
    return inputs.reshape(len(inputs), width)


def parts(model: nn.Module) -> list[nn.Module]:
    """Return the modules that a Sequential calls, in order; a model of another kind itself."""
    if type(model) is not nn.Sequential:
        return [model]
    return [part for module in model for part in parts(module)]


def outputs_of(model: nn.Module) -> int | None:
    """Return how many outputs a model has that ends with an ``nn.Linear``; else None."""
    last = parts(model)[-1:]
    return last[0].out_features if last and type(last[0]) is nn.Linear else None


def of_mlps(layers: Sequence[nn.Module]) -> bool:
    """Return whether these are layers that MLPs are made of."""
    return all(type(layer).__module__ in MLP_MODULES for layer in layers)


def type_of(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters()), torch.float32)


def _device_of(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
