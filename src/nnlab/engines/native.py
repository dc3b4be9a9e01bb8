"""The native engine: multilayer perceptrons on the CPU, an epoch in one call of native.c.

Axes: I inputs and O outputs of a layer, N examples.

The C library is optional. It is loaded with ctypes, which gives up the GIL during a call, and
it has no global state: runs in different threads train at the same time, each on one core.
"""

from __future__ import annotations

import copy
import ctypes
import functools
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from ctypes import POINTER, Structure, byref, c_double, c_int32, c_int64, c_void_p
from dataclasses import dataclass, field
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from nnlab.config import SGD, Adam, OptimizerConfig
from nnlab.datasets import Split
from nnlab.engines import Run, Trained
from nnlab.engines.dual import Dual
from nnlab.engines.supported import (
    ACTIVATIONS,
    MOMENTS,
    initial_state,
    linears,
    optimizer_of,
    rule,
    unsupported_model,
    unsupported_optimizer,
    unsupported_shared_memory,
)

# native.c knows these, and perceptron.ACTIVATIONS, by their positions.
RULES = ("sgd", "momentum", "adam", "adamw")
LEVELS = ("baseline", "avx2", "avx512")  # instruction sets of x86-64; elsewhere the first only
FINE, BAD_ORDER, BAD_INDEX, BAD_LABEL, BAD_WIDTH, EMPTY, NO_MEMORY = range(7)


class CSplit(Structure):
    held: tuple[object, ...]  # what the addresses point into
    _fields_ = (
        ("inputs", c_void_p),
        ("base", c_void_p),
        ("labels", c_void_p),
        ("index", c_void_p),
        ("examples", c_int64),
        ("width", c_int64),
        ("length", c_int64),
    )


class COptimizer(Structure):
    _fields_ = (
        ("rule", c_int32),
        ("nesterov", c_int32),
        ("lr", c_double),
        ("weight_decay", c_double),
        ("momentum", c_double),
        ("dampening", c_double),
        ("beta1", c_double),
        ("beta2", c_double),
        ("eps", c_double),
    )


# ---- the library ----


def library_path() -> Path | None:
    """Return where the compiled library lies, beside this file; None if there is none."""
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_native{suffix}")
        if path.exists():
            return path
    return None


@functools.cache
def load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    signatures = {
        "create": (c_void_p, c_int32, POINTER(c_int64), POINTER(c_int32), c_int32, c_int64),
        "free": (None, c_void_p),
        "set": (None, c_void_p, c_int32, c_int32, c_void_p, c_void_p),
        "get": (None, c_void_p, c_int32, c_int32, c_void_p, c_void_p),
        "steps": (c_int64, c_void_p),
        "set_steps": (None, c_void_p, c_int64),
        "best_level": (c_int32,),
        "train": (
            c_int32,
            *(c_void_p, POINTER(CSplit), c_void_p, c_int64, c_int64, POINTER(COptimizer)),
            *(c_int32, POINTER(c_double), POINTER(c_int64)),
        ),
        "evaluate": (
            c_int32,
            *(c_void_p, POINTER(CSplit), c_int32, POINTER(c_double), POINTER(c_int64)),
        ),
    }
    for name, (result, *arguments) in signatures.items():
        function = getattr(library, f"nnlab_{name}")
        function.restype, function.argtypes = result, arguments
    return library


def available() -> str | None:
    """Return why the engine cannot run on this installation; None if it can."""
    path = library_path()
    if path is None:
        return "no compiled library; install a C compiler (gcc or clang) and reinstall nnlab"
    try:
        load(path)
    except (OSError, AttributeError) as error:
        return f"{path} cannot be used ({error}); reinstall nnlab with a C compiler at hand"
    return None


def library() -> ctypes.CDLL:
    path = library_path()
    missing = available()
    if path is None or missing is not None:
        raise RuntimeError(f"engine=native is not available: {missing}, or take engine=torch")
    return load(path)


def levels() -> tuple[str, ...]:
    """Return the instruction sets that this processor can run, the best last."""
    best: int = library().nnlab_best_level()
    return LEVELS[: best + 1]


def level(run: Run) -> str:
    """Return the instruction set that a run is trained with."""
    return run.native_level or levels()[-1]


# ---- what the engine takes ----


def unsupported_reason(run: Run, device: torch.device) -> str | None:
    """Return why the engine cannot train this run on this device; None if it can.

    It takes ``nn.Sequential`` of ``nn.Linear`` with bias, with ReLU, Tanh, Sigmoid, Identity
    or nothing between them, in float32 on the CPU, trained by SGD, Adam or AdamW (without
    amsgrad), on splits with contiguous inputs [N, I].
    """
    if device.type != "cpu":
        return f"the native engine computes on the cpu, not on {device}"
    reason = unsupported_model(run.model, (torch.float32,)) or unsupported_optimizer(run)
    if reason is not None:
        return reason
    for name, tensor in initial_state(run).items():
        reason = reason or unsupported_memory(tensor, name)
    for name in ("train", "valid", "test"):
        split = getattr(run, name)
        if reason is None and split is not None:
            reason = unsupported_split(split, name, linears(run.model)[0][1].in_features)
    reason = reason or unsupported_shared_memory(run)
    if reason is None and run.native_level is not None and available() is None:
        reason = unsupported_level(run.native_level)
    return reason


def unsupported_split(split: Split, name: str, width: int) -> str | None:
    for part in ("inputs", "labels", "index"):
        reason = unsupported_memory(getattr(split, part), f"{name} {part}")
        if reason is not None:
            return reason
    return unsupported_shapes(split, name, width)


def unsupported_shapes(split: Split, name: str, width: int) -> str | None:
    inputs, labels, index = split.inputs, split.labels, split.index
    if inputs.dim() != 2 or inputs.shape[1] != width:
        return f"{name} inputs are {list(inputs.shape)}, but the model takes [N, {width}]"
    if inputs.dtype != torch.float32:
        return f"{name} inputs are {inputs.dtype}, not torch.float32"
    if labels.dtype != torch.int64 or index.dtype != torch.int64:
        return f"{name} labels and index are {labels.dtype} and {index.dtype}, not torch.int64"
    if labels.shape != inputs.shape[:1] or index.dim() != 1:
        return (
            f"{name} labels {list(labels.shape)} and index {list(index.shape)} "
            f"do not fit inputs {list(inputs.shape)}"
        )
    for part, tensor in (("inputs", inputs), ("labels", labels), ("index", index)):
        if not tensor.is_contiguous():
            return f"{name} {part} are not contiguous (strides {tensor.stride()})"
    return None


def unsupported_level(level: str) -> str | None:
    possible = levels()
    if level in possible:
        return None
    return f"native_level={level} is none of {', '.join(possible)}, which this processor can run"


def unsupported_memory(tensor: Tensor, name: str) -> str | None:
    """Return why ``memory`` cannot take a tensor; None if it can."""
    try:
        memory(tensor, name)
    except ValueError as error:
        return str(error)
    return None


def memory(tensor: Tensor, name: str, keep: bool = False) -> Tensor:
    """Return a tensor of the same memory, which C may use while that lives and has its size.

    keep: torch refuses to resize that memory from now on, in any thread.
    Raises ValueError where the numbers do not lie in the CPU's memory as shape and strides say: of
    another device or layout, a subclass, fake, functional, wrapped by a transform, negated when it
    is read, or with a storage that was made too small.
    """
    if type(tensor) is not Tensor and type(tensor) is not nn.Parameter:
        raise ValueError(f"{name}: a {type(tensor).__name__}, not a plain tensor")
    if tensor.device.type != "cpu" or tensor.layout is not torch.strided or tensor.is_nested:
        raise ValueError(f"{name}: not a strided tensor on the cpu ({tensor.device})")
    if tensor.is_neg() or tensor.is_conj():
        raise ValueError(f"{name}: a view that negates or conjugates its numbers when it is read")
    try:
        plain = tensor.detach()  # its shape and storage are its own
        if keep:
            plain.numpy()  # torch resizes no memory that it has lent
        address, size = plain.data_ptr(), plain.untyped_storage().nbytes()
    except (RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{name}: a tensor without memory ({reason})") from error
    last = sum((length - 1) * stride for length, stride in zip(plain.shape, plain.stride()))
    needed = (plain.storage_offset() + last + 1) * plain.element_size()
    if type(plain) is not Tensor or (plain.numel() > 0 and (address == 0 or needed > size)):
        raise ValueError(f"{name}: a tensor without the {needed} bytes of memory of its shape")
    if address % plain.element_size() != 0:
        raise ValueError(f"{name}: not aligned to its numbers of {plain.element_size()} bytes")
    return plain


def c_optimizer(config: OptimizerConfig) -> COptimizer:
    c = COptimizer(rule=RULES.index(rule(config)), lr=config.lr, weight_decay=config.weight_decay)
    if isinstance(config, SGD):
        c.momentum, c.dampening, c.nesterov = config.momentum, config.dampening, config.nesterov
    if isinstance(config, Adam):
        (c.beta1, c.beta2), c.eps = config.betas, config.eps
    return c


def c_split(split: Split, name: str, width: int, base: Tensor | None = None) -> CSplit:
    """Describe a split to the library, which may use it as long as the result lives.

    Raises ValueError for one that it cannot take.
    """
    # Other threads may change the split and its tensors, but none of these shapes and sizes.
    split = Split(
        memory(split.inputs, f"{name} inputs", keep=True),
        memory(split.labels, f"{name} labels", keep=True),
        memory(split.index, f"{name} index", keep=True),
    )
    reason = unsupported_shapes(split, name, width)
    if reason is not None:
        raise ValueError(f"{reason}; engine=native cannot take it")
    c = CSplit(
        split.inputs.data_ptr(),
        None if base is None else base.data_ptr(),
        split.labels.data_ptr(),
        split.index.data_ptr(),
        *split.inputs.shape,
        len(split.index),
    )
    c.held = split, base
    return c


# ---- the engine ----


@dataclass(eq=False)
class Network:
    """A run's weights and optimizer state in the library's memory."""

    handle: int
    layers: list[str]  # names in the model
    shapes: list[tuple[int, int]]  # [O, I]
    rule: str
    optimizer: COptimizer
    batch_size: int
    level: int  # position in LEVELS
    dual: Dual | None  # its first weight in the library holds coefficients, if any
    lock: threading.Lock = field(default_factory=threading.Lock)  # held while the library uses it
    seconds: float = 0.0  # what its dual form took, until an epoch has told so

    def part(self, run: Run, name: str) -> CSplit:
        """Return one of the run's splits as the library takes it."""
        if self.dual is None:
            return c_split(getattr(run, name), name, self.shapes[0][1])
        split: Split = getattr(self.dual, name)
        return c_split(split, name, split.inputs.shape[1], self.dual.base)

    def shape(self, layer: int) -> tuple[int, int]:
        """Return the size of a layer's weight in the library: [O, I]; [O, n] in the dual form."""
        outputs, inputs = self.shapes[layer]
        return outputs, len(self.dual.train) if layer == 0 and self.dual is not None else inputs

    def entries(self) -> Iterator[tuple[int, int, str, str]]:
        """Yield layer, number of the array in the library, and names of weight and bias."""
        for layer, name in enumerate(self.layers):
            for which, suffix in enumerate(("", *(f".{key}" for key in MOMENTS[self.rule]))):
                yield layer, which, f"{name}.weight{suffix}", f"{name}.bias{suffix}"


class Snapshot(NamedTuple):
    """A network's numbers as the library has them, in the order of ``Network.entries``."""

    dual: Dual | None
    steps: int
    weights: list[Tensor]
    biases: list[Tensor]


class NativeEngine:
    """Train on the CPU without PyTorch; see ``unsupported_reason`` for the runs that it takes.

    A run's ``native_level`` forces one of ``levels()``; the default is the best of them. Calls
    for one run wait for each other. Raises ValueError for a run that it refuses, RuntimeError
    without the compiled library.
    """

    name: ClassVar[str] = "native"
    concurrent: ClassVar[bool] = True  # a call gives up the GIL and shares nothing

    def __init__(self, runs: Sequence[Run], device: torch.device) -> None:
        self.library = library()
        self.networks: dict[Run, Network] = {}
        for run in runs:
            reason = unsupported_reason(run, device)
            if reason is not None:
                raise ValueError(f"{reason}; engine=native cannot take it, engine=torch can")
            started = time.perf_counter()
            network = self.networks[run] = self.build(run, Dual(run) if Dual.pays(run) else None)
            self.load_state(run, initial_state(run))
            if network.dual is not None:
                network.seconds = time.perf_counter() - started

    @staticmethod
    def divide(runs: Sequence[Run], device: torch.device) -> list[list[Run]]:
        return [[run] for run in runs]  # each stays in the cache of its own core

    @staticmethod
    def form(run: Run) -> str | None:
        return "dual" if Dual.pays(run) else None

    def build(self, run: Run, dual: Dual | None = None) -> Network:
        if run.batch_size < 1:
            raise ValueError(f"batch_size={run.batch_size} is not possible: at least 1")
        layers = linears(run.model)
        kinds = []
        assert isinstance(run.model, nn.Sequential)
        for module in run.model:
            if isinstance(module, nn.Linear):
                kinds.append(0)
            else:
                kinds[-1] = ACTIVATIONS.index(type(module))
        config = optimizer_of(run)
        assert config is not None
        sizes = [layers[0][1].in_features, *(linear.out_features for _, linear in layers)]
        if dual is not None:
            sizes[0] = len(run.train)
        batch = max(1, min(run.batch_size, len(run.train.index)))
        moments = len(MOMENTS[rule(config)])
        handle = self.library.nnlab_create(
            len(layers),
            (c_int64 * len(sizes))(*sizes),
            (c_int32 * len(kinds))(*kinds),
            moments,
            batch,
        )
        if handle is None:
            raise MemoryError(f"no memory to train layers of sizes {sizes} in batches of {batch}")
        network = Network(
            handle,
            [name for name, _ in layers],
            [(linear.out_features, linear.in_features) for _, linear in layers],
            rule(config),
            c_optimizer(config),
            batch,
            LEVELS.index(level(run)),
            dual,
        )
        weakref.finalize(network, self.library.nnlab_free, handle)
        return network

    def train_epoch(self, runs: Sequence[Run], orders: Sequence[Tensor]) -> list[Trained]:
        results = []
        for run, order in zip(runs, orders):
            network = self.networks[run]
            if isinstance(run.optimizer, torch.optim.Optimizer):
                network.optimizer = self.current(run, network)
            if network.dual is not None and (
                network.optimizer.weight_decay != 0 or not network.dual.holds(run)
            ):
                network = self.networks[run] = self.without_dual(run)
            positions = check_order(order, len(run.train))
            split = network.part(run, "train")
            sums, bad = (c_double * 3)(), (c_int64 * 3)()
            with network.lock:
                problem = self.library.nnlab_train(
                    network.handle,
                    byref(split),
                    positions.data_ptr(),
                    len(positions),
                    network.batch_size,
                    byref(network.optimizer),
                    network.level,
                    sums,
                    bad,
                )
            raise_for(problem, "train", *bad)
            loss, correct, seconds = sums
            seconds += network.seconds
            network.seconds = 0.0
            results.append(Trained(loss / len(positions), correct / len(positions), seconds))
        return results

    def without_dual(self, run: Run) -> Network:
        """Return a copy of the run's network in the usual form."""
        network = self.networks[run]
        usual = self.build(run)
        usual.optimizer, usual.seconds = network.optimizer, network.seconds
        self.fill(usual, self.state(run))
        return usual

    def current(self, run: Run, network: Network) -> COptimizer:
        """Read the options of the run's torch optimizer, which a schedule may have changed."""
        config = optimizer_of(run)
        if config is None or rule(config) != network.rule:
            raise ValueError("the optimizer was changed into one that engine=native cannot take")
        return c_optimizer(config)

    def evaluate(self, runs: Sequence[Run], split: str) -> list[tuple[float, float]]:
        results = []
        for run in runs:
            network = self.networks[run]
            if network.dual is not None and (split == "test" or not network.dual.holds(run)):
                network = self.without_dual(run)  # read once, and not worth a Gram matrix
            part = network.part(run, split)
            sums, bad = (c_double * 2)(), (c_int64 * 3)()
            with network.lock:
                problem = self.library.nnlab_evaluate(
                    network.handle, byref(part), network.level, sums, bad
                )
            raise_for(problem, split, *bad)
            results.append((sums[0] / part.length, sums[1] / part.length))
        return results

    def snapshot(self, run: Run) -> Snapshot:
        network = self.networks[run]
        weights, biases = [], []
        with network.lock:
            for layer, which, _, _ in network.entries():
                shape = network.shape(layer)
                # Not torch's: its defaults and modes might have no memory for them.
                weight, bias = np.empty(shape, np.float32), np.empty(shape[:1], np.float32)
                arrays = weight.ctypes.data, bias.ctypes.data
                self.library.nnlab_get(network.handle, layer, which, *arrays)
                weights.append(torch.from_numpy(weight))
                biases.append(torch.from_numpy(bias))
            steps = self.library.nnlab_steps(network.handle)
        return Snapshot(copy.copy(network.dual), steps, weights, biases)

    def restore(self, run: Run, snapshot: Snapshot) -> None:
        network, (dual, steps, weights, biases) = self.networks[run], snapshot
        if dual is not None and network.dual is None:  # it has come into the usual form since
            weights = [dual.weight(weights[0]), *weights[1:]]
        self.put(network, steps, weights, biases)
        if network.dual is not None:
            network.dual = dual

    def put(
        self, network: Network, steps: int, weights: Sequence[Tensor], biases: Sequence[Tensor]
    ) -> None:
        """Give the library numbers in the order of ``Network.entries``; ValueError for others."""
        arrays = []
        for entry, weight, bias in zip(network.entries(), weights, biases, strict=True):
            layer, which, weight_name, bias_name = entry
            outputs, inputs = network.shape(layer)
            weight = checked(weight, weight_name, (outputs, inputs))
            bias = checked(bias, bias_name, (outputs,))
            arrays.append((layer, which, weight, bias))
        with network.lock:
            for layer, which, w, b in arrays:
                self.library.nnlab_set(network.handle, layer, which, w.data_ptr(), b.data_ptr())
            self.library.nnlab_set_steps(network.handle, steps)

    def state(self, run: Run) -> dict[str, Tensor]:
        network = self.networks[run]
        dual, steps, weights, biases = self.snapshot(run)
        if dual is not None:
            weights[0] = dual.weight(weights[0])
        state: dict[str, Tensor] = {}
        moments: dict[str, Tensor] = {}
        for entry, weight, bias in zip(network.entries(), weights, biases):
            _, which, weight_name, bias_name = entry
            (state if which == 0 else moments).update({weight_name: weight, bias_name: bias})
        for name in list(state):
            if steps == 0:
                break  # torch has no moments before the first step
            if network.rule in ("adam", "adamw"):
                state[f"{name}.step"] = torch.tensor(float(steps))
            for key in MOMENTS[network.rule]:
                state[f"{name}.{key}"] = moments[f"{name}.{key}"]
        return state

    def load_state(self, run: Run, state: dict[str, Tensor]) -> None:
        self.fill(self.networks[run], state)

    def fill(self, network: Network, state: dict[str, Tensor]) -> None:
        first = f"{network.layers[0]}.weight"
        moments = MOMENTS[network.rule]
        steps = 0
        if moments and f"{first}.{moments[0]}" in state:
            steps = checked_steps(state[f"{first}.step"]) if f"{first}.step" in state else 1
        # Everything is looked at before anything is changed.
        weights, biases = [], []
        for layer, which, weight_name, bias_name in network.entries():
            shape = network.shapes[layer]
            if which > 0 and steps == 0:
                weights.append(torch.zeros(shape, dtype=torch.float32, device="cpu"))
                biases.append(torch.zeros(shape[0], dtype=torch.float32, device="cpu"))
            else:
                weights.append(checked(named(state, weight_name), weight_name, shape))
                biases.append(checked(named(state, bias_name), bias_name, shape[:1]))
        if network.dual is not None:
            network.dual.begin(weights[0])
            weights[0] = torch.zeros(network.shape(0), dtype=torch.float32, device="cpu")
        self.put(network, steps, weights, biases)

    @torch.no_grad()
    def release(self, runs: Sequence[Run]) -> None:
        for run in runs:
            state = self.state(run)
            for name, parameter in run.model.named_parameters():
                memory(parameter, name)
                parameter.copy_(state[name])
                if isinstance(run.optimizer, torch.optim.Optimizer):
                    prefix = f"{name}."
                    kept = {
                        k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)
                    }
                    if kept:
                        run.optimizer.state[parameter] = kept
            del self.networks[run]


def check_order(order: Tensor, examples: int) -> Tensor:
    """Return the order as the library takes it; ValueError if it cannot."""
    order = memory(order, "the order")
    if order.dtype != torch.int64 or order.dim() != 1 or not order.is_contiguous():
        raise ValueError(
            f"the order is {order.dtype} {list(order.shape)} with strides {order.stride()}; "
            f"it must be contiguous int64 [n]"
        )
    if len(order) > examples:
        raise ValueError(
            f"the order has {len(order)} entries, more than the {examples} training examples"
        )
    return order


def named(state: dict[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise KeyError(f"the state has no {name}; it holds {', '.join(state)}")
    return state[name]


def checked(value: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
    """Return a contiguous copy of a float32 tensor of this shape; ValueError if it is none."""
    value = memory(value, name)
    if tuple(value.shape) != shape or value.dtype != torch.float32:
        raise ValueError(
            f"{name} is {value.dtype} {list(value.shape)}; it must be float32 {list(shape)}"
        )
    return memory(value.clone(memory_format=torch.contiguous_format), name)


def checked_steps(value: Tensor) -> int:
    memory(value, "step")
    if value.numel() != 1 or not 0 <= float(value) < 2**53:
        raise ValueError(f"step is {value.tolist()}; it must be one number of steps taken")
    return int(value)


def raise_for(problem: int, name: str, place: int, value: int, limit: int) -> None:
    """Turn what native.c found wrong into an exception."""
    if problem == BAD_ORDER:
        raise IndexError(f"order[{place}]={value} is not in the {name} index: 0 to {limit - 1}")
    if problem == BAD_INDEX:
        raise IndexError(
            f"the {name} index holds {value}, but the inputs have examples 0 to {limit - 1}"
        )
    if problem == BAD_LABEL:
        raise ValueError(
            f"the {name} labels hold {value}, but the model has classes 0 to {limit - 1}"
        )
    if problem == BAD_WIDTH:
        raise ValueError(f"{name} inputs have width {value}, but the model takes {limit}")
    if problem == NO_MEMORY:
        raise MemoryError(f"no memory for the positions of the {name} examples")
    if problem == EMPTY:
        raise ValueError(f"there are no {name} examples; give at least 1")
