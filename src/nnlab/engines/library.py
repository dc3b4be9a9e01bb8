"""The compiled library, native.c: how it is found, what it takes, and a network in its memory.

Axes: I inputs and O outputs of a layer, N examples, B examples in a batch.

It is optional. It is loaded with ctypes, which gives up the GIL during a call, and it has no
global state: networks in different threads train at the same time, each on one core or several.
"""

from __future__ import annotations

import ctypes
import functools
import threading
import weakref
from collections.abc import Iterator
from ctypes import POINTER, Structure, byref, c_double, c_int32, c_int64, c_void_p
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnlab import seeds
from nnlab.config import SGD, Adam, OptimizerConfig
from nnlab.datasets.sampling import Index
from nnlab.datasets.splits import Split
from nnlab.engines import Run, State, TrainedEpoch, measures
from nnlab.engines.supported import (
    MOMENTS,
    STEP_COUNT,
    optimizer_of,
    perceptron,
    rule,
    targets_of,
)
from nnlab.losses import CrossEntropy
from nnlab.perceptron import Array

# native.c knows these by their positions.
RULES = ("sgd", "momentum", "adam", "adamw")
ACTIVATIONS = ("identity", "relu", "tanh", "sigmoid")
LANES = 16  # floats that it may read at once
LEVELS = ("baseline", "avx2", "avx512")  # instruction sets of x86-64; elsewhere the first only
# A team pauses that has less of the time of its cores, for so many epochs at most.
OWN_SHARE, LONGEST_PAUSE = 0.75, 63
FINE, BAD_ORDER, BAD_INDEX, BAD_LABEL, BAD_WIDTH, EMPTY, NO_MEMORY = range(7)


class CSplit(Structure):
    held: tuple[object, ...]  # what the addresses point into
    _fields_ = (
        ("inputs", c_void_p),
        ("base", c_void_p),
        ("labels", c_void_p),
        ("targets", c_void_p),
        ("index", c_void_p),
        ("examples", c_int64),
        ("width", c_int64),
        ("length", c_int64),
    )


class CRows(Structure):
    held: tuple[object, ...]  # what the addresses point into
    _fields_ = (("matrix", c_void_p), ("index", c_void_p), ("count", c_int64))


class COptimizer(Structure):
    _fields_ = (
        ("rule", c_int32),
        ("nesterov", c_int32),
        ("lr", c_double),
        ("weight_decay", c_double),
        ("l1", c_double),
        ("l2", c_double),
        ("clip_norm", c_double),
        ("momentum", c_double),
        ("dampening", c_double),
        ("beta1", c_double),
        ("beta2", c_double),
        ("eps", c_double),
    )


# ---- finding it ----


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
        "create": (
            c_void_p,
            *(c_int32, POINTER(c_int64), POINTER(c_int32), POINTER(c_int32), POINTER(c_double)),
            *(c_int32, c_int64),
        ),
        "free": (None, c_void_p),
        "set": (None, c_void_p, c_int32, c_int32, c_void_p, c_void_p),
        "get": (None, c_void_p, c_int32, c_int32, c_void_p, c_void_p),
        "set_loss": (None, c_void_p, c_void_p, c_void_p, c_void_p),
        "steps": (c_int64, c_void_p),
        "set_steps": (None, c_void_p, c_int64),
        "best_level": (c_int32,),
        "set_threads": (c_int32, c_void_p, c_int32),
        "train": (
            c_int32,
            *(c_void_p, POINTER(CSplit), c_void_p, c_int64, c_int64, c_void_p),
            *(POINTER(COptimizer), c_int32),
            *(POINTER(c_double), POINTER(c_double), POINTER(c_int64)),
        ),
        "inner_products": (
            c_int32,
            *(POINTER(CRows), POINTER(CRows), c_int64, c_int32, c_void_p),
        ),
        "evaluate": (
            c_int32,
            *(c_void_p, POINTER(CSplit), c_int32, POINTER(c_double), c_void_p, POINTER(c_int64)),
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


def open_library() -> ctypes.CDLL:
    """Return the library. Raises RuntimeError where there is none."""
    path = library_path()
    missing = available()
    if path is None or missing is not None:
        raise RuntimeError(f"engine=native is not available: {missing}, or take engine=torch")
    return load(path)


def levels() -> tuple[str, ...]:
    """Return the instruction sets that this processor can run, the best last."""
    best: int = open_library().nnlab_best_level()
    return LEVELS[: best + 1]


def level(run: Run) -> str:
    """Return the instruction set that a run is trained with."""
    return run.native_level or levels()[-1]


# ---- inner products ----


def inner_products(
    left: Array, left_index: Index, right: Array, right_index: Index, level: str
) -> Array:
    """Return the inner products [m, n] of m rows of a matrix [M, I] and n rows of another [N, I].

    The bits of each depend on its two rows and on the instruction set alone.
    Raises ValueError for matrices that are not contiguous float32 of one width, IndexError for a
    row that is not there, MemoryError.
    """
    rows = c_rows(left, left_index), c_rows(right, right_index)
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"rows of {left.shape[1]} and {right.shape[1]} numbers have no products")
    products = np.empty((len(left_index), len(right_index)), np.float32)
    addresses = byref(rows[0]), byref(rows[1])
    problem = open_library().nnlab_inner_products(
        *addresses, left.shape[1], LEVELS.index(level), products.ctypes.data
    )
    if problem == NO_MEMORY:
        raise MemoryError(f"no memory for inner products of rows of {left.shape[1]} numbers")
    return products


def c_rows(matrix: Array, index: Index) -> CRows:
    """Describe rows of a matrix to the library, which may use them as long as the result lives."""
    if matrix.dtype != np.float32 or matrix.ndim != 2 or not matrix.flags.c_contiguous:
        raise ValueError(
            f"a matrix is {matrix.dtype} {list(matrix.shape)} with strides {matrix.strides}; "
            f"it must be contiguous float32 [N, I]"
        )
    index = np.array(index, np.int64)  # another thread may change the given ones
    if len(index) > 0 and not 0 <= index.min() <= index.max() < len(matrix):
        raise IndexError(f"rows {index.min()} to {index.max()} of a matrix of {len(matrix)}")
    c = CRows(matrix.ctypes.data, index.ctypes.data, len(index))
    c.held = matrix, index
    return c


# ---- numbers that it reads ----


def c_optimizer(config: OptimizerConfig) -> COptimizer:
    c = COptimizer(rule=RULES.index(rule(config)), lr=config.lr, weight_decay=config.weight_decay)
    c.l1, c.l2, c.clip_norm = config.l1, config.l2, config.clip_norm or 0.0
    if isinstance(config, SGD):
        c.momentum, c.dampening, c.nesterov = config.momentum, config.dampening, config.nesterov
    if isinstance(config, Adam):
        (c.beta1, c.beta2), c.eps = config.betas, config.eps
    return c


def c_split(
    split: Split, name: str, width: int, targets: int | None, base: Array | None = None
) -> CSplit:
    """Describe a split to the library, which may use it as long as the result lives.

    width, targets: as ``unsupported_shapes`` has them. Raises ValueError for a split that it
    cannot take.
    """
    split = Split(split.inputs, split.labels, split.index)  # another thread may change it
    reason = unsupported_shapes(split, name, width, targets)
    if reason is not None:
        raise ValueError(f"{reason}; engine=native cannot take it")
    labels = split.labels.ctypes.data
    c = CSplit(
        split.inputs.ctypes.data,
        None if base is None else base.ctypes.data,
        labels if targets is None else None,
        None if targets is None else labels,
        split.index.ctypes.data,
        *split.inputs.shape,
        len(split.index),
    )
    c.held = split, base
    return c


def unsupported_shapes(split: Split, name: str, width: int, targets: int | None) -> str | None:
    """Return what is wrong with a split; None if nothing is.

    width: of the inputs. targets: how many a regression has; None: labels are classes.
    """
    inputs, labels, index = split.inputs, split.labels, split.index
    kind = np.dtype(np.int64 if targets is None else np.float32)
    if inputs.ndim != 2 or inputs.shape[1] != width:
        return f"{name} inputs are {list(inputs.shape)}, but the model takes [N, {width}]"
    if inputs.dtype != np.float32:
        return f"{name} inputs are {inputs.dtype}, not float32"
    if labels.dtype != kind or index.dtype != np.int64:
        return (
            f"{name} labels and index are {labels.dtype} and {index.dtype}, "
            f"not {'' if targets is None else f'{kind} and '}int64"
        )
    if labels.shape != (len(inputs), *([] if targets is None else [targets])) or index.ndim != 1:
        return (
            f"{name} labels {list(labels.shape)} and index {list(index.shape)} "
            f"do not fit inputs {list(inputs.shape)}"
        )
    for part, array in (("inputs", inputs), ("labels", labels), ("index", index)):
        if not array.flags.c_contiguous or not array.flags.aligned:
            return f"{name} {part} are not contiguous and aligned (strides {array.strides})"
    return None


def check_order(order: Index, examples: int) -> None:
    """Raise ValueError for an order that the library cannot take."""
    if order.dtype != np.int64 or order.ndim != 1 or not order.flags.c_contiguous:
        raise ValueError(
            f"the order is {order.dtype} {list(order.shape)} with strides {order.strides}; "
            f"it must be contiguous int64 [n]"
        )
    if len(order) > examples:
        raise ValueError(
            f"the order has {len(order)} entries, more than the {examples} training examples"
        )


def named(state: State, name: str) -> NDArray[Any]:
    if name not in state:
        raise KeyError(f"the state has no {name}; it holds {', '.join(state)}")
    return state[name]


def checked(value: NDArray[Any], name: str, shape: tuple[int, ...]) -> Array:
    """Return a contiguous copy of a float32 array of this shape; ValueError if it is none."""
    if value.shape != shape or value.dtype != np.float32:
        raise ValueError(
            f"{name} is {value.dtype} {list(value.shape)}; it must be float32 {list(shape)}"
        )
    return np.array(value, order="C")


def given(numbers: State, name: str | None, shape: tuple[int, ...]) -> Array:
    """Return a copy of the float32 array of this name and shape; zeros where it has no name."""
    if name is None:
        return np.zeros(shape, np.float32)
    return checked(named(numbers, name), name, shape)


def checked_steps(value: NDArray[Any]) -> int:
    if value.size != 1 or not 0 <= float(value) < 2**53:
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


# ---- the network ----


class NativeNetwork:
    """A run's weights and optimizer state in the library's memory, and its training there.

    Calls for one network wait for each other. ``seconds`` and ``cpu_seconds`` are what its set-up
    took, until the next epoch has told so. Raises RuntimeError without the library.
    """

    def __init__(self, run: Run, inputs: int | None = None) -> None:
        """Make the network of a run; ``load`` or ``restore`` is to give it numbers.

        inputs: how many numbers of an example the first layer meets, if not the model's.
        """
        if run.batch_size < 1:
            raise ValueError(f"batch_size={run.batch_size} is not possible: at least 1")
        layers, config = perceptron(run).layers, optimizer_of(run)
        assert config is not None
        self.library = open_library()
        self.layers = [each.name for each in layers]
        self.shapes = [(each.outputs, each.inputs) for each in layers]  # [O, I]
        self.biases = [each.bias is not None for each in layers]
        dropouts = [each.dropout for each in layers]
        self.dropping = sum(p > 0 for p in dropouts)  # layers
        if inputs is not None:
            self.shapes[0] = self.shapes[0][0], inputs
        self.rule = rule(config)
        self.optimizer = c_optimizer(config)
        self.batch_size = max(1, min(run.batch_size, len(run.train.index)))
        self.level = LEVELS.index(level(run))
        self.threads = 1
        self.alone = self.pause = 0  # epochs to train on one thread; how many it was the last time
        self.seconds = self.cpu_seconds = 0.0
        self.lock = threading.RLock()  # held while the library uses the network
        sizes = [self.shapes[0][1], *(outputs for outputs, _ in self.shapes)]
        kinds = [ACTIVATIONS.index(each.activation) for each in layers]
        self.handle = self.library.nnlab_create(
            len(layers),
            (c_int64 * len(sizes))(*sizes),
            (c_int32 * len(kinds))(*kinds),
            (c_int32 * len(kinds))(*self.biases),
            (c_double * len(kinds))(*dropouts),
            len(MOMENTS[self.rule]),
            self.batch_size,
        )
        if self.handle is None:
            raise MemoryError(
                f"no memory to train layers of sizes {sizes} in batches of {self.batch_size}"
            )
        weakref.finalize(self, self.library.nnlab_free, self.handle)
        self.targets = targets_of(run)
        if isinstance(run.loss, CrossEntropy) and not run.loss.plain:
            terms = run.loss.terms(self.shapes[-1][0]).astype(np.float32)
            self.terms = np.pad(terms, ((0, 0), (0, -terms.shape[1] % LANES)))  # it reads vectors
            self.library.nnlab_set_loss(self.handle, *(row.ctypes.data for row in self.terms))

    # ---- the arithmetic ----

    def fitting(self, run: Run, split: str) -> NativeNetwork:
        """Return the network in a form in which it can meet a split of the run: itself, if it can.

        split: "train", "valid" or "test".
        """
        return self

    def split(self, run: Run, name: str) -> CSplit:
        """Return one of the run's splits as the library takes it."""
        return c_split(getattr(run, name), name, self.shapes[0][1], self.targets)

    def read_options(self, run: Run) -> None:
        """Read the options of a run's torch optimizer and its rate, which may have changed."""
        if not isinstance(run.optimizer, OptimizerConfig):
            config = optimizer_of(run)
            if config is None or rule(config) != self.rule:
                raise ValueError(
                    "the optimizer was changed into one that engine=native cannot take"
                )
            self.optimizer = c_optimizer(config)
        if run.lr is not None:
            self.optimizer.lr = run.lr

    def train(self, run: Run, order: Index) -> TrainedEpoch:
        """Train once through the examples at these positions, [n] int64, of the training split."""
        check_order(order, len(run.train))
        split = self.split(run, "train")
        steps, dropping = -(-len(order) // self.batch_size), self.dropping
        keys = seeds.draw_keys(run.noise, steps, dropping) if dropping else np.empty(0)
        sums, seconds, bad = self.sums(), (c_double * 2)(), (c_int64 * 3)()
        with self.lock:
            self.gather(run)
            problem = self.library.nnlab_train(
                self.handle,
                byref(split),
                order.ctypes.data,
                len(order),
                self.batch_size,
                keys.ctypes.data,
                byref(self.optimizer),
                self.level,
                sums,
                seconds,
                bad,
            )
        raise_for(problem, "train", *bad)
        self.judge_team(*seconds)
        took, used = seconds[0] + self.seconds, seconds[1] + self.cpu_seconds
        self.seconds = self.cpu_seconds = 0.0
        return TrainedEpoch(measures(run, "train", list(sums), order), took, used)

    def evaluate(self, run: Run, name: str) -> tuple[float, ...]:
        """Return the measures of one of the run's splits."""
        split = self.split(run, name)
        sums, bad = self.sums(), (c_int64 * 3)()
        right = np.zeros(split.length, np.bool_)
        with self.lock:
            self.gather(run)
            problem = self.library.nnlab_evaluate(
                self.handle, byref(split), self.level, sums, right.ctypes.data, bad
            )
        raise_for(problem, name, *bad)
        if self.targets is None:
            run.right[name] = right
        return measures(run, name, list(sums))

    def gather(self, run: Run) -> None:
        """Gather as many threads as the run may have. They live until there are to be others."""
        wanted = 1 if self.alone > 0 else run.threads
        self.threads = self.library.nnlab_set_threads(self.handle, wanted)
        run.most_threads = max(run.most_threads, self.threads)

    def judge_team(self, seconds: float, cpu_seconds: float) -> None:
        """Train the next epochs on one thread, ever more of them, where a team had not its cores.

        Other programs keep them busy then, and its members wait for each other most of the time.
        """
        if self.alone > 0:
            self.alone -= 1
        elif self.threads > 1 and cpu_seconds < OWN_SHARE * self.threads * seconds:
            self.alone = self.pause = min(2 * self.pause + 1, LONGEST_PAUSE)
        else:
            self.pause = 0

    def sums(self) -> ctypes.Array[c_double]:
        """Return room for what the library sums over examples."""
        return (c_double * (3 if self.targets is None else 2 * self.targets))()

    # ---- its numbers ----

    def state(self) -> State:
        """Return weights and optimizer state in torch's names and layout."""
        return self.get()

    def load(self, state: State) -> None:
        """Take weights and optimizer state as ``state`` gives them.

        Raises KeyError for one that is missing, ValueError for one of another type or shape;
        nothing is changed then.
        """
        self.put(state)

    def snapshot(self) -> State:
        """Return all that ``restore`` needs to go on from here bit for bit; see Engine."""
        with self.lock:
            return self.get() | {STEP_COUNT: np.array(self.library.nnlab_steps(self.handle))}

    def restore(self, snapshot: State) -> None:
        """Go back to where ``snapshot`` gave this. Raises as ``load``."""
        self.put(snapshot)

    def entries(self) -> Iterator[tuple[int, int, str, str | None]]:
        """Yield layer, number of the array in the library, and names of weight and bias, if any."""
        for layer, name in enumerate(self.layers):
            for which, suffix in enumerate(("", *(f".{key}" for key in MOMENTS[self.rule]))):
                bias = f"{name}.bias{suffix}" if self.biases[layer] else None
                yield layer, which, f"{name}.weight{suffix}", bias

    def get(self) -> State:
        """Return the library's numbers in torch's names; moments only where a step was taken."""
        numbers: State = {}
        moments: State = {}
        with self.lock:
            steps = self.library.nnlab_steps(self.handle)
            for layer, which, weight_name, bias_name in self.entries():
                shape = self.shapes[layer]
                weight, bias = np.empty(shape, np.float32), np.empty(shape[:1], np.float32)
                arrays = weight.ctypes.data, bias.ctypes.data
                self.library.nnlab_get(self.handle, layer, which, *arrays)
                some = numbers if which == 0 else moments
                some[weight_name] = weight
                if bias_name is not None:
                    some[bias_name] = bias
        if steps == 0:
            return numbers  # as in torch
        for name in list(numbers):
            if self.rule in ("adam", "adamw"):
                numbers[f"{name}.step"] = np.array(steps, np.float32)
            for key in MOMENTS[self.rule]:
                numbers[f"{name}.{key}"] = moments[f"{name}.{key}"]
        return numbers

    def put(self, numbers: State) -> None:
        """Give the library numbers as ``get`` returns them. Raises as ``load``."""
        first = f"{self.layers[0]}.weight"
        steps = 0
        if STEP_COUNT in numbers:
            steps = checked_steps(numbers[STEP_COUNT])
        elif any(f"{first}.{key}" in numbers for key in MOMENTS[self.rule]):
            # torch does not count those of SGD; what matters is whether it is the first.
            step = numbers.get(f"{first}.step")
            steps = 1 if step is None else checked_steps(step)
        arrays = []  # everything is looked at before anything is changed
        for layer, which, weight_name, bias_name in self.entries():
            shape = self.shapes[layer]
            unset = which > 0 and steps == 0
            weight = given(numbers, None if unset else weight_name, shape)
            bias = given(numbers, None if unset else bias_name, shape[:1])
            arrays.append((layer, which, weight, bias))
        with self.lock:
            for layer, which, weight, bias in arrays:
                addresses = weight.ctypes.data, bias.ctypes.data
                self.library.nnlab_set(self.handle, layer, which, *addresses)
            self.library.nnlab_set_steps(self.handle, steps)
