"""The stacked engine: many perceptrons of one shape as one batched computation, for GPUs.

Axes: R runs, T steps of the longest epoch, B examples in a batch, N examples,
I inputs and O outputs of a layer, P the parameters of one run.

The runs of a stack are rows, the longest epoch first, so that those still training at a
step are the first k rows. All parameters of a run lie in one row of [R, P]: an optimizer's
step is a few operations on the whole stack, whatever the number of layers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import os
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nnlab import memory, seeds
from nnlab.config import SGD, Adam, AdamW, OptimizerConfig
from nnlab.datasets.sampling import Index
from nnlab.datasets.splits import Split
from nnlab.device import Device
from nnlab.dropout import multipliers
from nnlab.engines import Engine, Run, State, TrainedEpoch, measures, stacked_losses
from nnlab.engines.supported import (
    MOMENTS,
    STEP_COUNT,
    hand_over,
    initial_state,
    optimizer_of,
    perceptron,
    rule,
    targets_of,
    unsupported_loss,
    unsupported_model,
    unsupported_optimizer,
    unsupported_shared_memory,
)

EVALUATION_NUMBERS = 2**26  # in one layer at once: bounds memory, not results
SHARE = 0.8  # of the free memory that a stack may take: its size is an estimate
ALIGNMENT = 32  # numbers; a parameter begins at a multiple, as cuBLAS's fast kernels want it

Layer: TypeAlias = tuple[Tensor, Tensor | None]  # weight and bias
aten = torch.ops.aten
# What follows a layer: in place on its output y, and backward from dy and y.
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "identity": (lambda y: y, lambda dy, y: dy),
    "relu": (torch.relu_, lambda dy, y: aten.threshold_backward(dy, y, 0)),
    "tanh": (torch.tanh_, aten.tanh_backward),
    "sigmoid": (torch.sigmoid_, aten.sigmoid_backward),
}


class Shape(NamedTuple):
    """The layers of a perceptron."""

    sizes: tuple[int, ...]  # I of the first layer, then O of every layer
    activations: tuple[str, ...]  # after every layer
    biases: tuple[bool, ...]  # whether it has one
    dropouts: tuple[float, ...]  # the probability that an output of it is dropped

    @classmethod
    def of(cls, run: Run) -> Shape:
        network = perceptron(run)
        layers = network.layers
        return cls(
            tuple(network.sizes),
            tuple(layer.activation for layer in layers),
            tuple(layer.bias is not None for layer in layers),
            tuple(layer.dropout for layer in layers),
        )

    def places(self) -> tuple[list[tuple[int, tuple[int, ...]]], int]:
        """Return where each parameter begins in a row, with its shape, in torch's order; and P."""
        places: list[tuple[int, tuple[int, ...]]] = []
        end = 0
        for (inputs, outputs), bias in zip(itertools.pairwise(self.sizes), self.biases):
            for shape in ((outputs, inputs), (outputs,))[: 2 if bias else 1]:
                places.append((end, shape))
                end += -(-math.prod(shape) // ALIGNMENT) * ALIGNMENT
        return places, end

    def parameters(self, rows: Tensor) -> list[Tensor]:
        """View rows [..., P] as weights [..., O, I] and biases [..., O], in torch's order."""
        return [
            rows[..., start : start + math.prod(shape)].unflatten(-1, shape)
            for start, shape in self.places()[0]
        ]

    def layers(self, rows: Tensor) -> list[Layer]:
        """View rows [R, P] as a weight [R, O, I] and a bias [R, O], if it has one, per layer."""
        parameters = iter(self.parameters(rows))
        return [(next(parameters), next(parameters) if bias else None) for bias in self.biases]


# ---- what the engine takes ----


def unsupported_reason(run: Run, device: Device) -> str | None:
    """Return why the engine cannot train this run on this device; None if it can.

    It takes perceptrons in float32 or float64 (see ``unsupported_model``), trained by SGD, Adam or
    AdamW (without amsgrad), on splits with inputs [N, I].
    """
    dtypes = ("float32",) if device.type == "mps" else ("float32", "float64")
    reason = unsupported_model(run.model, dtypes) or unsupported_optimizer(run)
    reason = reason or unsupported_loss(run)
    if reason is None and run.batch_size < 1:
        return f"batch_size={run.batch_size} is not possible: at least 1"
    if reason is None and run.drop_last:
        return "drop_last leaves examples out of an epoch"
    for name in ("train", "valid", "test"):
        split = getattr(run, name)
        if reason is None and split is not None:
            reason = unsupported_split(split, name, run)
    return reason or unsupported_shared_memory(run)


def unsupported_split(split: Split, name: str, run: Run) -> str | None:
    inputs, labels, index = split.inputs, split.labels, split.index
    sizes, dtype = Shape.of(run).sizes, dtype_of(run)
    if inputs.shape != (len(labels), sizes[0]) or inputs.dtype != dtype:
        return (
            f"{name} inputs are {inputs.dtype} {list(inputs.shape)}, "
            f"but the model takes {dtype} [{len(labels)}, {sizes[0]}]"
        )
    targets = targets_of(run)
    if targets is not None and (labels.dtype != dtype or labels.shape[1:] != (targets,)):
        shape = list(labels.shape)
        return f"{name} targets are {labels.dtype} {shape}, not {dtype} [N, {targets}]"
    classes = {} if targets is not None else {"labels": labels}
    for part, array in (classes | {"index": index}).items():
        if array.dtype != np.int64 or array.ndim != 1:
            return f"{name} {part} are {array.dtype} {list(array.shape)}, not int64 [N]"
    if len(index) == 0:
        return f"there are no {name} examples"
    # On a GPU, an index out of bounds would end the process's use of it.
    low, high = index.min(), index.max()
    if low < 0 or high >= len(labels):
        return f"the {name} index holds {low} to {high}; the examples are 0 to {len(labels) - 1}"
    if targets is not None:
        return None
    low, high = labels[index].min(), labels[index].max()
    if low < 0 or high >= sizes[-1]:
        return f"{name} labels are {low} to {high}; the model has classes 0 to {sizes[-1] - 1}"
    return None


def dtype_of(run: Run) -> np.dtype[Any]:
    """Return the type of a perceptron's numbers."""
    return perceptron(run).layers[0].weight.dtype


# ---- the arithmetic ----


def forward(
    layers: Sequence[Layer],
    activations: Sequence[str],
    x: Tensor,
    factors: Sequence[Tensor | None],
) -> list[Tensor]:
    """Return x [R, B, I] and the output of every layer after it, [R, B, O]; the last: logits.

    factors: what a layer's inputs are multiplied with, 0 for those dropped; None: with nothing.
    """
    values = [x]
    for (weight, bias), activation, factor in zip(layers, activations, factors):
        activate, _ = ACTIVATIONS[activation]
        given = values[-1] if factor is None else values[-1] * factor
        product = given, weight.transpose(1, 2)
        y = torch.bmm(*product) if bias is None else torch.baddbmm(bias[:, None], *product)
        values.append(activate(y))
    return values


def backward(
    layers: Sequence[Layer],
    activations: Sequence[str],
    values: Sequence[Tensor],
    factors: Sequence[Tensor | None],
    dy: Tensor,
    gradients: Sequence[Layer],
) -> None:
    """Write the gradients of layers; dy: the loss's by the logits, [R, B, O]."""
    for number in reversed(range(len(layers))):
        x, (weight, _), (by_weight, by_bias) = values[number], layers[number], gradients[number]
        factor = factors[number]
        given = x if factor is None else x * factor
        torch.bmm(dy.transpose(1, 2), given, out=by_weight)
        if by_bias is not None:
            torch.sum(dy, 1, out=by_bias)
        if number > 0:
            _, differentiate = ACTIVATIONS[activations[number - 1]]
            dy = torch.bmm(dy, weight)
            dy = differentiate(dy if factor is None else dy * factor, x)


def coefficients(
    options: Sequence[OptimizerConfig], taken: Tensor, steps: int
) -> dict[str, Tensor]:
    """Return what an optimizer's step multiplies with, [1 or T, R, 1] each, by step and run.

    taken: [R] steps taken before this epoch. Formulas as in ``torch.optim``. What has no
    effect on any run is left out.
    """

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=taken.dtype, device=taken.device)[None, :, None]

    step = torch.arange(1, steps + 1, dtype=taken.dtype, device=taken.device)[:, None, None]
    step = step + taken[None, :, None]
    lr = column([option.lr for option in options])
    decay = column([option.weight_decay for option in options])
    result = {"lr": lr}
    for name in ("l1", "l2", "clip_norm"):
        values = [getattr(option, name) for option in options]
        if any(values):
            result[name] = column(values)
    if any(option.weight_decay != 0 for option in options):
        decoupled = isinstance(options[0], AdamW)
        result |= {"shrink": 1 - lr * decay} if decoupled else {"weight_decay": decay}
    descents = [option for option in options if isinstance(option, SGD)]
    if any(option.momentum != 0 for option in descents):
        momentum = column([option.momentum for option in descents])
        gain = 1 - column([option.dampening for option in descents])
        # The first gradient is taken whole, and so is every one where there is no momentum.
        result |= {"momentum": momentum, "gain": gain.where((step > 1) & (momentum != 0), 1)}
        if descents[0].nesterov:
            result["ahead"] = momentum
    adams = [option for option in options if isinstance(option, Adam)]
    if adams:
        beta1 = column([option.betas[0] for option in adams])
        beta2 = column([option.betas[1] for option in adams])
        result |= {
            "lr": lr / (1 - beta1**step),
            "scale": (1 - beta2**step).rsqrt(),
            "gain1": 1 - beta1,
            "gain2": 1 - beta2,
            "eps": column([option.eps for option in adams]),
        }
    return result


def regularise(layers: Sequence[Layer], gradients: Sequence[Layer], c: dict[str, Tensor]) -> None:
    """Do with the gradients of layers what the torch engine's does; c: [R, 1] each."""
    for (weight, _), (by_weight, _) in zip(layers, gradients):
        if "l1" in c:
            by_weight.addcmul_(weight.sign(), c["l1"][..., None])
        if "l2" in c:
            by_weight.addcmul_(weight, c["l2"][..., None], value=2)
    if "clip_norm" in c:
        every = [each for layer in gradients for each in layer if each is not None]
        norms = torch.stack([torch.linalg.vector_norm(each.flatten(1), dim=1) for each in every])
        norm = torch.linalg.vector_norm(norms, dim=0)[:, None]
        shrink = (c["clip_norm"] / (norm + 1e-6)).clamp(max=1)  # as clip_grad_norm_
        for each in every:
            each.mul_(shrink if each.dim() == 2 else shrink[..., None])


def descend(
    weights: Tensor, gradients: Tensor, moments: Sequence[Tensor], c: dict[str, Tensor]
) -> None:
    """Take one step of the optimizer that ``c`` describes. Tensors: [R, P], c's [R, 1]."""
    if "weight_decay" in c:
        gradients.addcmul_(weights, c["weight_decay"])
    if "shrink" in c:
        weights.mul_(c["shrink"])
    if "eps" in c:  # Adam, AdamW
        mean, square = moments
        mean.lerp_(gradients, c["gain1"])
        square.lerp_(gradients.square_(), c["gain2"])
        # From here on the gradients' memory holds the denominator, then the step.
        torch.addcmul(c["eps"], torch.sqrt(square, out=gradients), c["scale"], out=gradients)
        torch.div(mean, gradients, out=gradients)
    elif "momentum" in c:
        (velocity,) = moments
        velocity.mul_(c["momentum"]).addcmul_(gradients, c["gain"])
        gradients = gradients.addcmul_(velocity, c["ahead"]) if "ahead" in c else velocity
    weights.addcmul_(gradients, c["lr"], value=-1)


# ---- the engine ----


class StackedEngine(Engine):
    """Train runs of one ``group`` together on one device; see ``unsupported_reason``.

    ``graph``: capture the epoch as a CUDA graph where the device is a CUDA GPU.
    Raises ValueError for a run that it does not take and for runs of different groups.
    """

    name: ClassVar[str] = "stacked"
    concurrent: ClassVar[bool] = False  # one stack fills a GPU

    def __init__(self, runs: Sequence[Run], device: Device, graph: bool = True) -> None:
        for run in runs:
            reason = unsupported_reason(run, device)
            if reason is not None:
                raise ValueError(f"{reason}; engine=stacked cannot take it, engine=torch can")
        if len({self.group(run) for run in runs}) > 1:
            raise ValueError(
                "the runs differ in StackedEngine.group; make an engine for each group"
            )
        self.device = torch.device(str(device))
        self.graph = graph and device.type == "cuda"
        self.rows: dict[Run, int] = {}  # of the runs held
        if not runs:
            return
        self.taken = dict.fromkeys(runs, 0)  # optimizer steps
        self.kinds = {
            run: kind(option) for run in runs if (option := optimizer_of(run)) is not None
        }
        first = runs[0]
        self.shape = Shape.of(first)
        self.kind_of_loss = stacked_losses.kind_of(first)
        self.dtype = getattr(torch, dtype_of(first).name)
        self.wide = torch.float32 if device.type == "mps" else torch.float64
        self.inputs, self.labels, self.offsets = pool(runs, self.device)
        self.weights = self._zeros(len(runs), self.shape.places()[1])
        moments = max(len(self._moments(run)) for run in runs)
        self.moments = [torch.zeros_like(self.weights) for _ in range(moments)]
        self._lay_out(sorted(runs, key=epoch_steps, reverse=True))
        for run in runs:
            self.load_state(run, initial_state(run))

    @staticmethod
    def group(run: Run) -> Hashable:
        """Return what must be equal in a stack: shape, batch size, optimizer, nesterov, dtype,
        whether gradients are clipped, and whether the loss is that of classes, all alike, or of
        numbers.

        Data, seed, train_size, max_epochs, stopping, and the numbers of the loss and of the
        optimizer may vary.
        """
        option, dtype = optimizer_of(run), dtype_of(run)
        nesterov = isinstance(option, SGD) and option.nesterov
        clipped = option is not None and option.clip_norm is not None
        return (
            *(Shape.of(run), run.batch_size, type(option), nesterov, dtype),
            *(clipped, stacked_losses.kind_of(run)),
        )

    @staticmethod
    def divide(runs: Sequence[Run], device: Device) -> list[list[Run]]:
        """Put the runs of a ``group`` into one stack, or into several that fit into memory."""
        groups: dict[Hashable, list[Run]] = {}
        for run in runs:
            groups.setdefault(StackedEngine.group(run), []).append(run)
        stacks = []
        for group in groups.values():
            room = SHARE * free_memory(device) - data_bytes(group)
            ends = [0, *itertools.accumulate(map(stacked_bytes, group))]
            start = 0
            while start < len(group):
                end = start + 1  # a single one is tried whatever its size
                while end < len(group) and ends[end + 1] - ends[start] <= room:
                    end += 1
                stacks.append(group[start:end])
                start = end
        return stacks

    # ---- the epoch ----

    @torch.no_grad()
    def train_epoch(self, runs: Sequence[Run], orders: Sequence[Index]) -> list[TrainedEpoch]:
        """Train each run once through its examples; see Engine.

        A run's ``seconds`` are its part of the wall time of the whole stack's epoch, in
        proportion to its steps, so that the seconds of all runs add up to the time spent.
        Raises ValueError unless ``runs`` are all the runs that the engine holds.
        """
        if set(runs) != set(self.rows):
            raise ValueError(
                f"train_epoch got {len(runs)} runs, which are not the {len(self.rows)} that the "
                f"stack holds; train all of them together, and release those that have ended"
            )
        started = time.perf_counter()
        for run, order in zip(runs, orders):
            if order.shape != run.train.index.shape:
                raise ValueError(f"an order is {list(order.shape)} for {len(run.train)} examples")
            self.orders[self.rows[run]] = torch.from_numpy(order)
            self.options[self.rows[run]] = self._option(run)
            if self.dropping:
                drawn = seeds.draw_keys(run.noise, epoch_steps(run), len(self.dropping))
                self.drawn[self.rows[run]] = torch.from_numpy(drawn)
        with full_precision():
            self._refill()
            self._launch()
        sums = self.sums.tolist()  # the epoch's only transfer; it waits for the device
        seconds = time.perf_counter() - started
        for run in self.stack:
            self.taken[run] += epoch_steps(run)
        share = seconds / sum(epoch_steps(run) for run in runs)
        return [
            TrainedEpoch(
                measures(run, "train", sums[self.rows[run]], order), share * epoch_steps(run)
            )
            for run, order in zip(runs, orders)
        ]

    def _lay_out(self, runs: Sequence[Run]) -> None:
        """Make what an epoch of these runs, the longest first, reads and writes.

        A CUDA graph keeps the addresses of these arrays: they are refilled, never replaced.
        """
        self.stack = list(runs)
        self.rows = {run: row for row, run in enumerate(runs)}
        self.replay: Callable[[], None] | None = None
        self.warm = False
        self.evaluated: dict[str, tuple[list[Run], Tensor, Tensor]] = {}
        self.coefficients: dict[str, Tensor] = {}
        self.orders = [torch.arange(len(run.train)) for run in runs]
        self.options = [self._option(run) for run in runs]
        self.index, lengths = self._examples(runs, "train")
        self.lengths = lengths.cpu()

        R, T = len(runs), epoch_steps(runs[0])
        B = min(runs[0].batch_size, self.index.shape[1])
        slots = torch.arange(T * B, device=self.device)
        # A slot that is left over repeats the batch's last example, with weight 0: whatever
        # is not finite there is not finite in that example either.
        self.slots = slots.minimum(lengths - 1)
        real = (slots < lengths).view(R, T, B, 1).transpose(0, 1).to(self.dtype)
        self.loss = self.kind_of_loss(runs, real, self.shape.sizes[-1], self.wide)
        steps = [epoch_steps(run) for run in runs]
        self.prefixes = [
            (sum(count >= end for count in steps), range(start, end))
            for start, end in itertools.pairwise([0, *sorted(set(steps))])
        ]

        self.dropping = [number for number, p in enumerate(self.shape.dropouts) if p > 0]
        steps_and_layers = [(epoch_steps(run), len(self.dropping)) for run in runs]
        self.drawn = [torch.zeros(each, dtype=torch.int64) for each in steps_and_layers]
        self.keys = pad_sequence(self.drawn).to(self.device)  # [T, R, layers]
        self.examples = torch.zeros(T, R, B, dtype=torch.int64, device=self.device)
        self.batch = self._zeros(R * B, self.shape.sizes[0])
        self.gradients = torch.zeros_like(self.weights)
        self.sums = torch.zeros(R, self.loss.columns, dtype=self.wide, device=self.device)

    def _refill(self) -> None:
        """Put the epoch's order and the optimizer's numbers where the graph reads them."""
        orders = pad_sequence(self.orders, batch_first=True)
        if ((orders < 0) | (orders >= self.lengths)).any():
            raise IndexError("an order holds a position that is not in its training index")
        slots = orders.to(self.device).gather(1, self.slots)
        T, R, B = self.examples.shape
        self.examples.copy_(self.index.gather(1, slots).view(R, T, B).transpose(0, 1))
        if self.dropping:
            self.keys.copy_(pad_sequence(self.drawn))

        taken = torch.tensor([float(self.taken[run]) for run in self.stack])
        fresh = coefficients(self.options, taken.to(self.device, self.wide), T)
        if fresh.keys() != self.coefficients.keys():
            self.coefficients = {name: value.to(self.dtype) for name, value in fresh.items()}
            self.replay, self.warm = None, False
        for name, value in fresh.items():
            self.coefficients[name].copy_(value)

    def _launch(self) -> None:
        """Train an epoch: replay its graph, or run it as it is where there is none.

        The first epoch of a layout is not captured: it loads the kernels and makes cuBLAS's
        workspaces, which must not happen in a capture, and one epoch alone needs no graph.
        """
        if not self.graph:
            self._epoch()
        elif not self.warm:
            on_side_stream(self._epoch, self.device)
            self.warm = True
        else:
            if self.replay is None:
                self.replay = captured(self._epoch, self.device)
            self.replay()

    @torch.no_grad()
    def _epoch(self) -> None:
        """Train every run once through its batches: the same operations in every epoch."""
        T, R, B = self.examples.shape
        self.loss.begin(self.labels[self.examples])
        table = {name: value.expand(T, R, 1) for name, value in self.coefficients.items()}
        for k, steps in self.prefixes:
            layers = self.shape.layers(self.weights[:k])
            gradients = self.shape.layers(self.gradients[:k])
            moments = [moment[:k] for moment in self.moments]
            batch = self.batch[: k * B]
            for t in steps:
                torch.index_select(self.inputs, 0, self.examples[t, :k].flatten(), out=batch)
                factors = self._factors(t, k)
                values = forward(layers, self.shape.activations, batch.view(k, B, -1), factors)
                dy = self.loss.step(t, k, values[-1])
                backward(layers, self.shape.activations, values, factors, dy, gradients)
                row = {name: value[t, :k] for name, value in table.items()}
                regularise(layers, gradients, row)
                descend(self.weights[:k], self.gradients[:k], moments, row)
        self.sums.copy_(self.loss.sums())

    def _factors(self, step: int, runs: int) -> list[Tensor | None]:
        """Return what the inputs of each layer are multiplied with, [runs, B, I], in a step."""
        factors: list[Tensor | None] = [None] * len(self.shape.dropouts)
        rows = self.examples.shape[2]
        for place, number in enumerate(self.dropping):
            p, units = self.shape.dropouts[number], self.shape.sizes[number + 1]
            keys = self.keys[step, :runs, place]
            factors[number + 1] = multipliers(keys, rows, units, p=p, dtype=self.dtype)
        return factors

    # ---- the other calls ----

    @torch.no_grad()
    def evaluate(self, runs: Sequence[Run], split: str) -> list[tuple[float, ...]]:
        if not runs:
            return []
        if self.evaluated.get(split, ([],))[0] != list(runs):
            self.evaluated[split] = (list(runs), *self._examples(runs, split))
        _, index, lengths = self.evaluated[split]
        rows = [self.rows[run] for run in runs]
        whole = rows == list(range(len(self.stack)))
        layers = self.shape.layers(self.weights if whole else self.weights[rows])
        sums = torch.zeros(len(runs), self.loss.columns, dtype=self.wide, device=self.device)
        everything = [None] * len(layers)
        chunk = max(1, EVALUATION_NUMBERS // (len(runs) * max(self.shape.sizes)))
        real = torch.arange(index.shape[1], device=self.device) < lengths
        right: list[Tensor] = []
        with full_precision():
            for part, kept in zip(index.split(chunk, 1), real.split(chunk, 1)):
                inputs = self.inputs[part]
                outputs = forward(layers, self.shape.activations, inputs, everything)[-1]
                found, correct = self.loss.evaluate(rows, outputs, self.labels[part], kept)
                sums += found
                if correct is not None:
                    right.append(correct)
        if right:
            for run, mine in zip(runs, torch.cat(right, 1).cpu().numpy()):
                run.right[split] = mine[: len(getattr(run, split))]
        return [measures(run, split, each) for run, each in zip(runs, sums.tolist())]

    @torch.no_grad()
    def state(self, run: Run) -> State:
        """Return weights and optimizer state as ``TorchEngine.state`` does."""
        names, steps = self.names_of(run), self.taken[run]
        keys = self._moments(run) if steps > 0 else ()
        state: State = {}
        for rows, suffix in [(self.weights, ""), *zip(self.moments, (f".{key}" for key in keys))]:
            values = self.shape.parameters(rows[self.rows[run]].cpu())
            state |= {f"{name}{suffix}": value.numpy().copy() for name, value in zip(names, values)}
        if "exp_avg" in keys:
            state |= {f"{name}.step": np.array(steps, np.float32) for name in names}
        return state

    @torch.no_grad()
    def load_state(self, run: Run, state: State) -> None:
        """Take back what ``state`` of any engine gave."""
        names, keys = self.names_of(run), self._moments(run)
        began = bool(keys) and f"{names[0]}.{keys[0]}" in state
        copies = []  # everything is looked at before anything is changed
        for rows, suffix in [(self.weights, ""), *zip(self.moments, (f".{key}" for key in keys))]:
            for name, place in zip(names, self.shape.parameters(rows[self.rows[run]])):
                value = state[name + suffix] if began or not suffix else np.zeros(place.shape)
                if value.shape != place.shape:
                    shapes = f"{list(value.shape)}, not {list(place.shape)}"
                    raise ValueError(f"{name}{suffix} is {shapes}; this is another model's state")
                copies.append((place, value))
        for place, value in copies:
            place.copy_(torch.from_numpy(value))
        self.taken[run] = int(state.get(f"{names[0]}.step", began))

    def snapshot(self, run: Run) -> State:
        return self.state(run) | {STEP_COUNT: np.array(self.taken[run])}

    def restore(self, run: Run, snapshot: State) -> None:
        self.load_state(run, snapshot)
        self.taken[run] = int(snapshot[STEP_COUNT])

    @torch.no_grad()
    def release(self, runs: Sequence[Run]) -> None:
        for run in runs:
            hand_over(self.state(run), run)
        for run in runs:
            del self.rows[run]
        # A graph costs about as much to capture as two epochs to train, so a few runs that
        # have ended train on for nobody. They go when the epoch gets shorter without them, or
        # when they are as many as those that are left.
        left = list(self.rows)
        if left and (
            2 * len(left) <= len(self.stack) or epoch_steps(left[0]) < epoch_steps(self.stack[0])
        ):
            kept_rows = list(self.rows.values())
            self.weights = self.weights[kept_rows]
            self.moments = [moment[kept_rows] for moment in self.moments]
            self._lay_out(left)

    def names_of(self, run: Run) -> list[str]:
        """Return the names of a run's parameters, which may be its own."""
        return list(perceptron(run).state_dict())

    def _zeros(self, *sizes: int) -> Tensor:
        return torch.zeros(sizes, dtype=self.dtype, device=self.device)

    def _option(self, run: Run) -> OptimizerConfig:
        """Return a run's options with the learning rate of now.

        In a torch optimizer a schedule may have changed the numbers.
        """
        option = optimizer_of(run)
        if option is None or kind(option) != self.kinds[run]:
            raise ValueError("the optimizer was changed into another; engine=torch can go on so")
        return option if run.lr is None else dataclasses.replace(option, lr=run.lr)

    def _moments(self, run: Run) -> tuple[str, ...]:
        return MOMENTS[self.kinds[run][0]]

    def _examples(self, runs: Sequence[Run], split: str) -> tuple[Tensor, Tensor]:
        """Return where the runs' examples lie in ``inputs``, [R, N] padded, and N, [R, 1]."""
        parts = [getattr(run, split) for run in runs]
        index = [
            torch.from_numpy(part.index + self.offsets[id(part.inputs), id(part.labels)])
            for part in parts
        ]
        lengths = torch.tensor([[len(part)] for part in parts])
        return pad_sequence(index, batch_first=True).to(self.device), lengths.to(self.device)


def kind(option: OptimizerConfig) -> tuple[str, bool]:
    """Return the update rule and whether it is Nesterov's."""
    return rule(option), isinstance(option, SGD) and option.nesterov


def epoch_steps(run: Run) -> int:
    return -(-len(run.train) // run.batch_size)


def free_memory(device: Device) -> int:
    """Return how many bytes a device has left.

    Of other devices than GPUs what this process has, half the machine's where that is not known.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device.index)[0]
    left = memory.free()
    if left is not None:
        return left
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def data_bytes(runs: Sequence[Run]) -> int:
    """Return the bytes that the examples of some runs take, each array once."""
    splits = [getattr(run, name) for run in runs for name in ("train", "valid", "test")]
    arrays = {id(array): array for s in splits if s is not None for array in (s.inputs, s.labels)}
    return sum(array.nbytes for array in arrays.values())


def stacked_bytes(run: Run) -> int:
    """Return about how many bytes a run takes in a stack, beside its data."""
    shape, config = Shape.of(run), optimizer_of(run)
    assert config is not None
    size = dtype_of(run).itemsize
    # The model, weights, gradients, an optimizer's moments; a batch's inputs, outputs and deltas.
    numbers = (3 + len(MOMENTS[rule(config)])) * shape.places()[1]
    numbers += 3 * run.batch_size * sum(shape.sizes)
    if any(shape.dropouts):  # what is kept, the factors, and where they are drawn
        numbers += run.batch_size * (2 * sum(shape.sizes) + 6 * max(shape.sizes))
    steps = epoch_steps(run) * run.batch_size  # examples, slots, predictions, probabilities
    lengths = sum(len(s) for s in (run.train, run.valid, run.test) if s is not None)
    return size * (numbers + steps) + 8 * (3 * steps + 2 * lengths)


def pool(
    runs: Sequence[Run], device: torch.device
) -> tuple[Tensor, Tensor, dict[tuple[int, int], int]]:
    """Put the data of all splits on the device, each array once, one after another.

    Returns inputs [N, I], labels [N] or targets [N, O], and where the examples of each split's
    arrays begin.
    """
    splits = [getattr(run, name) for run in runs for name in ("train", "valid", "test")]
    arrays = {
        (id(split.inputs), id(split.labels)): (split.inputs, split.labels)
        for split in splits
        if split is not None
    }
    starts = [0, *itertools.accumulate(len(labels) for _, labels in arrays.values())]
    first = runs[0].train

    def room(like: NDArray[Any]) -> Tensor:
        shape, dtype = (starts[-1], *like.shape[1:]), getattr(torch, like.dtype.name)
        return torch.empty(shape, dtype=dtype, device=device)

    inputs, labels = room(first.inputs), room(first.labels)
    for (some_inputs, some_labels), (start, end) in zip(
        arrays.values(), itertools.pairwise(starts)
    ):
        inputs[start:end] = torch.from_numpy(some_inputs)
        labels[start:end] = torch.from_numpy(some_labels)
    return inputs, labels, dict(zip(arrays, starts))


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Multiply float32 matrices in float32, not in TF32, inside; as before afterwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@functools.cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def on_side_stream(work: Callable[[], None], device: torch.device) -> None:
    """Run the work on the stream of the captures, after what was asked for before."""
    stream, current = side_stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        work()
    current.wait_stream(stream)


def captured(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Record the work as a CUDA graph, without doing it; return what does it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph, stream=side_stream(device)):
        work()
    return graph.replay
