"""The reference engine: plain PyTorch, one run after another. Any module, any optimizer.

Axes: B examples in a batch, N examples.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, pad
from torch.nn.utils import clip_grad_norm_

from nnlab import seeds
from nnlab.config import SGD, Adam, AdamW, OptimizerConfig
from nnlab.datasets.sampling import Index
from nnlab.device import Device
from nnlab.dropout import keys_from
from nnlab.engines import Engine, Run, State, TrainedEpoch, below
from nnlab.engines.supported import hand_over
from nnlab.losses import PLAIN, CrossEntropy, Loss, SquaredError
from nnlab.model import Shaped, as_module
from nnlab.perceptron import MLP

EVALUATION_BATCH = 8192  # bounds memory, not results: sums are over examples
EVALUATION_VALUES = 2**24  # that a layer gives meanwhile, likewise
GATHERED = 1024  # examples copied out at a time: quicker than batch by batch
# What holds the bits of numbers that NumPy has no type for.
BITS = {
    torch.bfloat16: torch.int16,
    torch.complex32: torch.int32,
    torch.float8_e4m3fn: torch.uint8,
    torch.float8_e5m2: torch.uint8,
}


def train_epoch(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    optimizer: torch.optim.Optimizer,
    batch_size: int,
    order: Tensor,
    highest: int = 0,
    loss: Loss = PLAIN,
    options: OptimizerConfig | None = None,
) -> tuple[float, ...]:
    """Train once through the examples in ``order``; return loss, accuracy or what a task measures.

    inputs: [N, ...], labels: [N] int64, of a regression [N, k] of the model's type, order: [n]
    int64 into both, all on the model's device. The measures are those of each batch before its
    step. Raises ValueError before the first step where a label, or the ``highest`` one still to
    come, is no class, and where outputs are not as many as targets.
    options: what ``regularise`` is to do; the loss is told without its penalties.
    """
    given, wide = labels[order], widest(order.device)
    highest = max(highest, highest_label(given))
    criterion = criterion_of(loss, inputs)
    losses: list[Tensor] = []
    outputs: list[Tensor] = []
    with mode(model, training=True):
        size = max(1, GATHERED // batch_size) * batch_size
        for part, wanted in zip(order.split(size), given.split(size)):
            for batch, targets in zip(inputs[part].split(batch_size), wanted.split(batch_size)):
                output = model(batch)
                if not losses:
                    check_outputs(output, targets, highest)
                batch_loss = criterion(output, targets)
                optimizer.zero_grad()
                batch_loss.backward()
                if options is not None:
                    regularise(model, options)
                optimizer.step()
                losses.append(batch_loss.detach())
                outputs.append(output.detach())
    # Summed up here: in the loop these few operations would cost a tenth of its time.
    if isinstance(loss, SquaredError):
        return measures(loss, errors(torch.cat(outputs), given, wide), given)
    weights = pad(importance(loss, given, wide), (0, -len(order) % batch_size))
    sizes = weights.view(-1, batch_size).sum(1)
    correct = (torch.cat(outputs).argmax(1) == given).sum()
    return measures(loss, ((torch.stack(losses) * sizes).sum(), correct, sizes.sum()), given)


@torch.no_grad()
def regularise(model: nn.Module, options: OptimizerConfig) -> None:
    """Add the gradients of the penalties on weights to those of the loss, then clip all of them.

    The penalties are l1 times the sum of absolute weights and l2 times that of their squares;
    biases, and whatever else has one axis, are no weights.
    """
    if options.penalised:
        for parameter in model.parameters():
            if parameter.dim() > 1 and parameter.grad is not None:
                parameter.grad.add_(parameter.sign(), alpha=options.l1)
                parameter.grad.add_(parameter, alpha=2 * options.l2)
    if options.clip_norm is not None:
        clip_grad_norm_(model.parameters(), options.clip_norm)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    index: Tensor,
    loss: Loss = PLAIN,
    right: list[Tensor] | None = None,
) -> tuple[float, ...]:
    """Return the measures of the examples in ``index``; shapes as train_epoch.

    right: takes which of them are classified rightly, in parts. Raises ValueError where a label is
    no class, or outputs are not as many as targets.
    """
    given, wide = labels[index], widest(labels.device)
    highest = highest_label(given)
    criterion = criterion_of(loss, inputs, "sum")
    sums: list[tuple[Tensor, ...]] = []
    with mode(model, training=False):
        size = evaluation_batch(model)
        for batch, targets in zip(index.split(size), given.split(size)):
            output = model(inputs[batch])
            check_outputs(output, targets, highest)
            if isinstance(loss, SquaredError):
                sums.append(errors(output, targets, wide))
            else:
                correct = output.argmax(1) == targets
                if right is not None:
                    right.append(correct)
                weight = importance(loss, targets, wide).sum()
                sums.append((criterion(output, targets).to(wide), correct.sum(), weight))
    return measures(loss, [torch.stack(each).sum(0) for each in zip(*sums)], given)


def criterion_of(
    loss: Loss, inputs: Tensor, reduction: str = "mean"
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return torch's function of outputs and targets that a loss is, for inputs of this type."""
    if isinstance(loss, SquaredError):
        return functools.partial(mse_loss, reduction=reduction)
    weight = None if loss.weights is None else inputs.new_tensor(loss.weights)
    smoothing = loss.label_smoothing
    return functools.partial(
        cross_entropy, weight=weight, label_smoothing=smoothing, reduction=reduction
    )


def importance(loss: CrossEntropy, labels: Tensor, dtype: torch.dtype) -> Tensor:
    """Return how much each example counts in the mean, [n] like labels."""
    if loss.weights is None:
        return torch.ones(len(labels), dtype=dtype, device=labels.device)
    return torch.tensor(loss.weights, dtype=dtype, device=labels.device)[labels]


def errors(outputs: Tensor, targets: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the sums over examples of squared and absolute errors, [k] each."""
    wrong = (outputs - targets).to(dtype)
    return wrong.square().sum(0), wrong.abs().sum(0)


def measures(loss: Loss, sums: Sequence[Tensor], labels: Tensor) -> tuple[float, ...]:
    """Return what sums over the examples with these labels come to."""
    if isinstance(loss, SquaredError):
        squared, absolute = sums
        return loss.measures(squared.tolist(), absolute.tolist(), labels.cpu().numpy())
    total, correct, weight = (each.item() for each in sums)
    return loss.measures(total, correct, weight, len(labels))


def evaluation_batch(model: nn.Module | None) -> int:
    """Return how many examples a model is evaluated on at a time."""
    if not isinstance(model, Shaped):
        return EVALUATION_BATCH
    return max(1, min(EVALUATION_BATCH, EVALUATION_VALUES // max(model.values)))


@contextlib.contextmanager
def mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Put a model in training or evaluation mode inside; each part of it back afterwards."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was_training in before:
            module.training = was_training


def highest_label(labels: Tensor) -> int:
    """Return the highest of labels [n], 0 for the targets of a regression.

    Raises ValueError for one below 0: ``cross_entropy`` itself takes -100 for an example to leave
    out.
    """
    if labels.is_floating_point():
        return 0
    low, high = torch.stack(labels.aminmax()).tolist()
    if low < 0:
        raise ValueError(f"the labels hold {low}; classes are numbered from 0")
    return int(high)


def check_classes(highest: int, classes: int) -> None:
    """Raise ValueError if the highest label is beyond the model's classes."""
    if highest >= classes:
        raise ValueError(
            f"the labels hold {highest}, but the model has classes 0 to {classes - 1}; "
            f"give the model {highest + 1} outputs, or leave those examples out"
        )


def check_outputs(outputs: Tensor, labels: Tensor, highest: int) -> None:
    """Raise ValueError unless a batch's outputs are logits of all classes, or as its targets."""
    if labels.is_floating_point():
        if outputs.shape != labels.shape:
            raise ValueError(
                f"the model's output is {list(outputs.shape)}, but the targets are "
                f"{list(labels.shape)}; give the model an output for each target"
            )
        return
    if outputs.dim() != 2:
        raise ValueError(f"the model's output is {list(outputs.shape)}, not logits [B, classes]")
    check_classes(highest, outputs.shape[1])


def widest(device: torch.device) -> torch.dtype:
    """Return the type to sum losses in."""
    return torch.float32 if device.type == "mps" else torch.float64


def regularising(run: Run) -> OptimizerConfig | None:
    """Return the options of a run whose gradients ``regularise`` changes; else None."""
    options = run.optimizer
    return options if isinstance(options, OptimizerConfig) and options.regularised else None


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Build the ``torch.optim`` optimizer that the options describe."""
    parameters = model.parameters()
    if isinstance(config, SGD):
        return torch.optim.SGD(
            parameters,
            lr=config.lr,
            momentum=config.momentum,
            dampening=config.dampening,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov,
        )
    if isinstance(config, Adam):
        build = torch.optim.AdamW if isinstance(config, AdamW) else torch.optim.Adam
        return build(
            parameters,
            lr=config.lr,
            betas=(config.betas[0], config.betas[1]),
            eps=config.eps,
            weight_decay=config.weight_decay,
            amsgrad=config.amsgrad,
        )
    raise ValueError(f"optimizer={config.name} has no torch optimizer")


def as_array(tensor: Tensor) -> NDArray[Any]:
    """Return a copy of a tensor as an array, in the usual memory format, which files have.

    Of a type that NumPy lacks, as bfloat16, it has the bits.
    """
    copied = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    found: NDArray[Any] = copied.view(BITS.get(copied.dtype, copied.dtype)).numpy()
    return found


def as_tensor(array: NDArray[Any], dtype: torch.dtype) -> Tensor:
    """Return a copy of an array that ``as_array`` made of a tensor of this type."""
    copied = torch.tensor(array)
    return copied.view(dtype) if copied.dtype is BITS.get(dtype) else copied


class TorchEngine(Engine):
    name: ClassVar = "torch"
    concurrent: ClassVar = False  # Python's lock would have the threads wait for each other

    def __init__(self, runs: Sequence[Run], device: Device) -> None:
        self.device = torch.device(str(device))
        self.models: dict[Run, nn.Module] = {}
        self.optimizers: dict[Run, torch.optim.Optimizer] = {}
        # The arrays that splits share, moved once, as they are or in bfloat16.
        self.moved: dict[tuple[int, bool], Tensor] = {}
        self.highest: dict[Run, int] = {}  # label of all splits, so that none ends a run late
        for run in runs:
            splits = [split for split in (run.train, run.valid, run.test) if split is not None]
            labels = (torch.from_numpy(split.labels[split.index]) for split in splits)
            self.highest[run] = max(map(highest_label, labels))
            model = as_module(run.model) if isinstance(run.model, MLP) else run.model
            self.models[run] = model.to(self.device)
            self.optimizers[run] = (
                run.optimizer
                if isinstance(run.optimizer, torch.optim.Optimizer)
                else build_optimizer(run.optimizer, model)
            )

    def examples(self, run: Run, split: str) -> tuple[Tensor, Tensor]:
        """Return the inputs and labels that a split is of, on the device."""
        part = getattr(run, split)
        kind = next((p.dtype for p in self.models[run].parameters()), None)
        narrow = kind is torch.bfloat16
        targets = part.labels.dtype.kind == "f"
        return self.on_device(part.inputs, narrow), self.on_device(part.labels, narrow and targets)

    def on_device(self, array: NDArray[Any], narrow: bool) -> Tensor:
        """narrow: whether it becomes bfloat16, which no array can have."""
        key = id(array), narrow
        if key not in self.moved:
            moved = torch.from_numpy(array).to(self.device)
            self.moved[key] = moved.bfloat16() if narrow else moved
        return self.moved[key]

    def train_epoch(self, runs: Sequence[Run], orders: Sequence[Index]) -> list[TrainedEpoch]:
        results = []
        for run, order in zip(runs, orders):
            inputs, labels = self.examples(run, "train")
            examples = torch.from_numpy(run.train.index[order]).to(self.device)
            started, used = time.perf_counter(), time.process_time()
            if run.lr is not None:
                for group in self.optimizers[run].param_groups:
                    group["lr"] = run.lr
            with self.noise_of(run):
                measured = train_epoch(
                    self.models[run],
                    inputs,
                    labels,
                    self.optimizers[run],
                    run.batch_size,
                    examples,
                    self.highest[run],
                    run.loss,
                    regularising(run),
                )
            seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - used
            on_cpu = self.device.type == "cpu"
            results.append(TrainedEpoch(measured, seconds, cpu_seconds if on_cpu else None))
        return results

    @contextlib.contextmanager
    def noise_of(self, run: Run) -> Iterator[None]:
        """Have the layers of a run's model draw what its ``noise`` says, inside."""
        if run.noise is None:
            yield
            return
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(seeds.drawing_from(run.noise, str(self.device)))
            stack.enter_context(keys_from(source, self.models[run]))
            yield

    def evaluate(self, runs: Sequence[Run], split: str) -> list[tuple[float, ...]]:
        results = []
        for run in runs:
            inputs, labels = self.examples(run, split)
            index = torch.from_numpy(getattr(run, split).index).to(self.device)
            right: list[Tensor] = []
            results.append(evaluate(self.models[run], inputs, labels, index, run.loss, right))
            if right:
                run.right[split] = torch.cat(right).cpu().numpy()
        return results

    def state(self, run: Run) -> State:
        """Return weights, buffers and optimizer state, in torch's names and layout.

        Parameters carry their name in the model (``0.weight``, [outputs, inputs]),
        optimizer state that name and torch's (``0.weight.momentum_buffer``). What an optimizer
        keeps beside tensors is not in it; torch's SGD, Adam and AdamW keep nothing else.
        """
        model, moments = self.models[run], self.optimizers[run].state
        state = {name: as_array(tensor) for name, tensor in model.state_dict().items()}
        for name, parameter in model.named_parameters():
            for key, value in moments.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    state[f"{name}.{key}"] = as_array(value)
        return state

    def load_state(self, run: Run, state: State) -> None:
        """Take back what ``state`` of any engine gave."""
        model, moments = self.models[run], self.optimizers[run].state
        now = model.state_dict()
        model.load_state_dict({name: as_tensor(state[name], now[name].dtype) for name in now})
        for name, parameter in model.named_parameters():
            kept = below(state, f"{name}.")
            # torch keeps step counts on the CPU and everything else beside the weights, in their
            # type but for single numbers.
            found = {key: as_tensor(value, parameter.dtype) for key, value in kept.items()}
            moments[parameter] = {
                key: value.to(
                    "cpu" if key == "step" else parameter.device,
                    value.dtype if value.dim() == 0 else parameter.dtype,
                )
                for key, value in found.items()
            }

    snapshot = state

    def restore(self, run: Run, snapshot: State) -> None:
        self.load_state(run, snapshot)

    def release(self, runs: Sequence[Run]) -> None:
        for run in runs:
            if isinstance(run.model, MLP):  # of a GPU the numbers are not there yet
                hand_over(self.state(run), run)
            del self.optimizers[run], self.models[run]
