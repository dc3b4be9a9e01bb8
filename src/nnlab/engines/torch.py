"""The reference engine: plain PyTorch, one run after another. Any module, any optimizer.

Axes: B examples in a batch, N examples.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from nnlab import seeds
from nnlab.config import SGD, Adam, AdamW, OptimizerConfig
from nnlab.engines import Engine, Run, Trained
from nnlab.model import Shaped

EVALUATION_BATCH = 8192  # bounds memory, not results: sums are over examples
EVALUATION_VALUES = 2**24  # that a layer gives meanwhile, likewise
GATHERED = 1024  # examples copied out at a time: quicker than batch by batch


def train_epoch(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    optimizer: torch.optim.Optimizer,
    batch_size: int,
    order: Tensor,
    highest: int = 0,
    options: OptimizerConfig | None = None,
) -> tuple[float, float]:
    """Train once through the examples in ``order``; return mean loss and accuracy.

    inputs: [N, ...], labels: [N] int64, order: [n] int64 into both, all on the model's
    device. Loss and accuracy are those of each batch before its step. Raises ValueError
    before the first step where a label, or the ``highest`` one still to come, is no class.
    options: what ``regularise`` is to do; the loss is told without its penalties.
    """
    highest = max(highest, highest_label(labels[order]))
    losses: list[Tensor] = []
    outputs: list[Tensor] = []
    with mode(model, training=True):
        for part in order.split(max(1, GATHERED // batch_size) * batch_size):
            batches = inputs[part].split(batch_size), labels[part].split(batch_size)
            for batch, targets in zip(*batches):
                logits = model(batch)
                if not losses:
                    check_logits(logits, highest)
                loss = cross_entropy(logits, targets)
                optimizer.zero_grad()
                loss.backward()
                if options is not None:
                    regularise(model, options)
                optimizer.step()
                losses.append(loss.detach())
                outputs.append(logits.detach())
    # Summed up here: in the loop these few operations would cost a tenth of its time.
    sizes = torch.full((len(losses),), batch_size, device=order.device)
    sizes[-1] = len(order) - batch_size * (len(losses) - 1)  # the last batch may be shorter
    loss_sum = (torch.stack(losses).to(widest(order.device)) * sizes).sum()
    correct = (torch.cat(outputs).argmax(1) == labels[order]).sum()
    return loss_sum.item() / len(order), correct.item() / len(order)


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
    model: nn.Module, inputs: Tensor, labels: Tensor, index: Tensor
) -> tuple[float, float]:
    """Return mean loss and accuracy on the examples in ``index``; shapes as train_epoch.

    Raises ValueError where a label is no class.
    """
    highest = highest_label(labels[index])
    loss_sum = torch.zeros((), dtype=widest(labels.device), device=labels.device)
    correct = torch.zeros((), dtype=torch.int64, device=labels.device)
    with mode(model, training=False):
        for batch in index.split(evaluation_batch(model)):
            targets = labels[batch]
            logits = model(inputs[batch])
            check_logits(logits, highest)
            loss_sum += cross_entropy(logits, targets, reduction="sum")
            correct += (logits.argmax(1) == targets).sum()
    return loss_sum.item() / len(index), correct.item() / len(index)


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
    """Return the highest of labels [n]. Raises ValueError for one below 0.

    ``cross_entropy`` itself takes -100 for an example to leave out.
    """
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


def check_logits(logits: Tensor, highest: int) -> None:
    if logits.dim() != 2:
        raise ValueError(f"the model's output is {list(logits.shape)}, not logits [B, classes]")
    check_classes(highest, logits.shape[1])


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


def copied(tensor: Tensor) -> Tensor:
    """Return a copy on the CPU in torch's usual memory format, which files have."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


class TorchEngine(Engine):
    name: ClassVar = "torch"
    concurrent: ClassVar = False  # Python's lock would have the threads wait for each other

    def __init__(self, runs: Sequence[Run], device: torch.device) -> None:
        self.device = device
        self.optimizers: dict[Run, torch.optim.Optimizer] = {}
        self.moved: dict[int, Tensor] = {}  # the arrays that splits share, moved once
        self.highest: dict[Run, int] = {}  # label of all splits, so that none ends a run late
        for run in runs:
            splits = [split for split in (run.train, run.valid, run.test) if split is not None]
            self.highest[run] = max(highest_label(s.labels[s.index]) for s in splits)
            run.model.to(device)
            self.optimizers[run] = (
                run.optimizer
                if isinstance(run.optimizer, torch.optim.Optimizer)
                else build_optimizer(run.optimizer, run.model)
            )

    def on_device(self, array: Tensor) -> Tensor:
        if array.device == self.device:
            return array
        if id(array) not in self.moved:
            self.moved[id(array)] = array.to(self.device)
        return self.moved[id(array)]

    def train_epoch(self, runs: Sequence[Run], orders: Sequence[Tensor]) -> list[Trained]:
        results = []
        for run, order in zip(runs, orders):
            inputs, labels = self.on_device(run.train.inputs), self.on_device(run.train.labels)
            examples = run.train.index[order].to(self.device)
            started = time.perf_counter()
            if run.lr is not None:
                for group in self.optimizers[run].param_groups:
                    group["lr"] = run.lr
            with self.noise_of(run):
                loss, accuracy = train_epoch(
                    run.model,
                    inputs,
                    labels,
                    self.optimizers[run],
                    run.batch_size,
                    examples,
                    self.highest[run],
                    regularising(run),
                )
            results.append(Trained(loss, accuracy, time.perf_counter() - started))
        return results

    def noise_of(self, run: Run) -> contextlib.AbstractContextManager[None]:
        if run.noise is None:
            return contextlib.nullcontext()
        return seeds.drawing_from(run.noise, self.device)

    def evaluate(self, runs: Sequence[Run], split: str) -> list[tuple[float, float]]:
        results = []
        for run in runs:
            part = getattr(run, split)
            inputs, labels = self.on_device(part.inputs), self.on_device(part.labels)
            results.append(evaluate(run.model, inputs, labels, part.index.to(self.device)))
        return results

    def state(self, run: Run) -> dict[str, Tensor]:
        """Return weights, buffers and optimizer state, in torch's names and layout, on the CPU.

        Parameters carry their name in the model (``0.weight``, [outputs, inputs]),
        optimizer state that name and torch's (``0.weight.momentum_buffer``). What an optimizer
        keeps beside tensors is not in it; torch's SGD, Adam and AdamW keep nothing else.
        """
        state = {name: copied(tensor) for name, tensor in run.model.state_dict().items()}
        moments = self.optimizers[run].state
        for name, parameter in run.model.named_parameters():
            for key, value in moments.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    state[f"{name}.{key}"] = copied(value)
        return state

    def load_state(self, run: Run, state: dict[str, Tensor]) -> None:
        """Take back what ``state`` of any engine gave."""
        run.model.load_state_dict({name: state[name] for name in run.model.state_dict()})
        moments = self.optimizers[run].state
        for name, parameter in run.model.named_parameters():
            prefix = f"{name}."
            kept = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            # torch keeps step counts on the CPU and everything else beside the weights, in their
            # type but for single numbers.
            moments[parameter] = {
                key: value.clone().to(
                    "cpu" if key == "step" else parameter.device,
                    value.dtype if value.dim() == 0 else parameter.dtype,
                )
                for key, value in kept.items()
            }

    snapshot = state

    def restore(self, run: Run, snapshot: dict[str, Tensor]) -> None:
        self.load_state(run, snapshot)

    def release(self, runs: Sequence[Run]) -> None:
        for run in runs:
            del self.optimizers[run]
