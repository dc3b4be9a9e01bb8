"""The native engine: multilayer perceptrons on the CPU, an epoch in one call of native.c.

Axes: I inputs and O outputs of a layer, N examples.

The C library is optional. It is loaded with ctypes, which gives up the GIL during a call, and
it has no global state: runs in different threads train at the same time, each on one core.
"""

from __future__ import annotations

import copy
import ctypes
import functools
import time
import weakref
from collections.abc import Hashable, Iterator, Sequence
from ctypes import POINTER, Structure, byref, c_double, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from nnlab.config import SGD, Adam, OptimizerConfig
from nnlab.datasets import Split
from nnlab.engines import Run, Trained
from nnlab.engines.dual import Dual
from nnlab.engines.perceptron import (
    ACTIVATIONS,
    MOMENTS,
    described,
    linears,
    refuses_model,
    refuses_optimizer,
    rule,
    taken_over,
)

# native.c knows these, and perceptron.ACTIVATIONS, by their positions.
RULES = ("sgd", "momentum", "adam", "adamw")
LEVELS = ("baseline", "avx2", "avx512")  # instruction sets of x86-64; elsewhere the first only
FINE, BAD_ORDER, BAD_INDEX, BAD_LABEL, BAD_WIDTH, EMPTY = range(6)


class CSplit(Structure):
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


# ---- what the engine takes ----


def refuses(run: Run, device: torch.device) -> str | None:
    """Return why the engine cannot train this run on this device; None if it can.

    It takes ``nn.Sequential`` of ``nn.Linear`` with bias, with ReLU, Tanh, Sigmoid, Identity
    or nothing between them, in float32 on the CPU, trained by SGD, Adam or AdamW (without
    amsgrad), on splits with contiguous inputs [N, I].
    """
    if device.type != "cpu":
        return f"the native engine computes on the cpu, not on {device}"
    reason = refuses_model(run.model, (torch.float32,)) or refuses_optimizer(run)
    if reason is None and any(p.device.type != "cpu" for p in run.model.parameters()):
        return "a parameter is not on the cpu"
    for name in ("train", "valid", "test"):
        split = getattr(run, name)
        if reason is None and split is not None:
            reason = refuses_split(split, name, linears(run.model)[0][1].in_features)
    return reason


def refuses_split(split: Split, name: str, width: int) -> str | None:
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
        if tensor.device.type != "cpu":
            return f"{name} {part} are on {tensor.device}, not on cpu"
        if not tensor.is_contiguous():
            return f"{name} {part} are not contiguous (strides {tensor.stride()})"
    return None


def c_optimizer(config: OptimizerConfig) -> COptimizer:
    c = COptimizer(rule=RULES.index(rule(config)), lr=config.lr, weight_decay=config.weight_decay)
    if isinstance(config, SGD):
        c.momentum, c.dampening, c.nesterov = config.momentum, config.dampening, config.nesterov
    if isinstance(config, Adam):
        (c.beta1, c.beta2), c.eps = config.betas, config.eps
    return c


def c_split(split: Split, name: str, width: int, base: Tensor | None = None) -> CSplit:
    reason = refuses_split(split, name, width)
    if reason is not None:
        raise ValueError(f"{reason}; engine=native cannot take it")
    return CSplit(
        split.inputs.data_ptr(),
        None if base is None else base.data_ptr(),
        split.labels.data_ptr(),
        split.index.data_ptr(),
        *split.inputs.shape,
        len(split.index),
    )


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
    dual: Dual | None  # its first weight in the library holds coefficients, if any
    seconds: float = 0.0  # what its dual form took, until an epoch has told so

    def part(self, run: Run, name: str) -> CSplit:
        """Return one of the run's splits as the library takes it."""
        if self.dual is None:
            return c_split(getattr(run, name), name, self.shapes[0][1])
        split: Split = getattr(self.dual, name)
        return c_split(split, name, split.inputs.shape[1], self.dual.base)

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
    """Train on the CPU without PyTorch; see ``refuses`` for the runs that it takes.

    ``level`` forces one of ``levels()``; the default is the best that the processor has.
    Raises ValueError for a run that it refuses, RuntimeError without the compiled library.
    """

    name: ClassVar[str] = "native"
    side_by_side: ClassVar[bool] = True  # a call gives up the GIL and shares nothing

    def __init__(self, runs: Sequence[Run], device: torch.device, level: str | None = None) -> None:
        self.library = library()
        possible = levels()
        if level is not None and level not in possible:
            raise ValueError(f"level={level} is none of {', '.join(possible)} of this processor")
        self.level = LEVELS.index(level or possible[-1])
        self.networks: dict[Run, Network] = {}
        for run in runs:
            reason = refuses(run, device)
            if reason is not None:
                raise ValueError(f"{reason}; engine=native cannot take it, engine=torch can")
            started = time.perf_counter()
            network = self.networks[run] = self.build(run, Dual(run) if Dual.pays(run) else None)
            self.load_state(run, taken_over(run))
            if network.dual is not None:
                network.seconds = time.perf_counter() - started

    @staticmethod
    def group(run: Run) -> Hashable:
        return id(run)  # each run stays in the cache of its own core

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
        config = described(run)
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
            check_order(order, len(run.train))
            split = network.part(run, "train")
            sums, bad = (c_double * 3)(), (c_int64 * 3)()
            problem = self.library.nnlab_train(
                network.handle,
                byref(split),
                order.data_ptr(),
                len(order),
                network.batch_size,
                byref(network.optimizer),
                self.level,
                sums,
                bad,
            )
            raise_for(problem, "train", *bad)
            loss, correct, seconds = sums
            seconds += network.seconds
            network.seconds = 0.0
            results.append(Trained(loss / len(order), correct / len(order), seconds))
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
        config = described(run)
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
            problem = self.library.nnlab_evaluate(
                network.handle, byref(part), self.level, sums, bad
            )
            raise_for(problem, split, *bad)
            results.append((sums[0] / part.length, sums[1] / part.length))
        return results

    def snapshot(self, run: Run) -> Snapshot:
        network = self.networks[run]
        weights, biases = [], []
        for layer, which, _, _ in network.entries():
            outputs, inputs = network.shapes[layer]
            if layer == 0 and network.dual is not None:
                inputs = len(network.dual.train)
            weights.append(torch.empty(outputs, inputs, dtype=torch.float32))
            biases.append(torch.empty(outputs, dtype=torch.float32))
            arrays = weights[-1].data_ptr(), biases[-1].data_ptr()
            self.library.nnlab_get(network.handle, layer, which, *arrays)
        steps = self.library.nnlab_steps(network.handle)
        return Snapshot(copy.copy(network.dual), steps, weights, biases)

    def restore(self, run: Run, snapshot: Snapshot) -> None:
        network, (dual, steps, weights, biases) = self.networks[run], snapshot
        if network.dual is not None:
            network.dual = dual
        elif dual is not None:  # it has come into the usual form since
            weights = [dual.weight(weights[0]), *weights[1:]]
        self.put(network, steps, weights, biases)

    def put(
        self, network: Network, steps: int, weights: Sequence[Tensor], biases: Sequence[Tensor]
    ) -> None:
        for (layer, which, _, _), weight, bias in zip(network.entries(), weights, biases):
            self.library.nnlab_set(network.handle, layer, which, weight.data_ptr(), bias.data_ptr())
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
            steps = int(state[f"{first}.step"]) if f"{first}.step" in state else 1
        # Everything is looked at before anything is changed.
        weights, biases = [], []
        for layer, which, weight_name, bias_name in network.entries():
            shape = network.shapes[layer]
            if which > 0 and steps == 0:
                weights.append(torch.zeros(shape, dtype=torch.float32))
                biases.append(torch.zeros(shape[0], dtype=torch.float32))
            else:
                weights.append(checked(state, weight_name, shape))
                biases.append(checked(state, bias_name, shape[:1]))
        if network.dual is not None:
            network.dual.begin(weights[0])
            weights[0] = torch.zeros(
                weights[0].shape[0], len(network.dual.train), dtype=torch.float32
            )
        self.put(network, steps, weights, biases)

    @torch.no_grad()
    def release(self, runs: Sequence[Run]) -> None:
        for run in runs:
            state = self.state(run)
            for name, parameter in run.model.named_parameters():
                parameter.copy_(state[name])
                if isinstance(run.optimizer, torch.optim.Optimizer):
                    prefix = f"{name}."
                    kept = {
                        k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)
                    }
                    if kept:
                        run.optimizer.state[parameter] = kept
            del self.networks[run]


def check_order(order: Tensor, examples: int) -> None:
    if order.dtype != torch.int64 or order.dim() != 1 or not order.is_contiguous():
        raise ValueError(
            f"the order is {order.dtype} {list(order.shape)} with strides {order.stride()}; "
            f"it must be contiguous int64 [n]"
        )
    if order.device.type != "cpu":
        raise ValueError(f"the order is on {order.device}; it must be on the cpu")
    if len(order) > examples:
        raise ValueError(
            f"the order has {len(order)} entries, more than the {examples} training examples"
        )


def checked(state: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """Return a contiguous float32 CPU tensor of this name; KeyError, ValueError if it is not."""
    if name not in state:
        raise KeyError(f"the state has no {name}; it holds {', '.join(state)}")
    value = state[name]
    if tuple(value.shape) != shape or value.dtype != torch.float32:
        raise ValueError(
            f"{name} is {value.dtype} {list(value.shape)}; it must be float32 {list(shape)}"
        )
    return value.detach().cpu().contiguous()


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
    if problem == EMPTY:
        raise ValueError(f"there are no {name} examples; give at least 1")
