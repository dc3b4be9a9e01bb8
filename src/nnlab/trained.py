"""A trained network, loaded from the folder of its run: numbers, or a module of torch's.

Axes: B examples, I inputs, K outputs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nnlab import functions, perceptron, records
from nnlab.boolean import truth_table
from nnlab.functions import Function
from nnlab.identity import ADDED
from nnlab.losses import count_outputs
from nnlab.perceptron import MLP

if TYPE_CHECKING:
    from torch import nn

Floats = NDArray[Any]  # float32, or float64 where that is given


@dataclass(eq=False)
class Trained:
    """A trained network and what its inputs and outputs mean.

    model: maps standardised inputs [B, I] to logits [B, K], of a regression to standardised targets
    [B, k]; a module is on the CPU, in evaluation mode.
    config: the run's configuration as nested dicts, result: its result.json. classes: K names.
    shape: that of one example, an image's channels last. mean, deviation: of each channel, an
    image's in [0, 1], or of each input of a table, [C] float32, that inputs were standardised
    with; None where they were not. target_mean, target_deviation: [k] of the targets of a
    regression.
    """

    model: MLP | nn.Module
    config: dict[str, Any]
    result: dict[str, Any]
    classes: list[str]
    shape: tuple[int, ...]
    mean: Floats | None
    deviation: Floats | None
    target_mean: Floats | None = None
    target_deviation: Floats | None = None

    @property
    def bounded(self) -> bool:
        """Whether examples lie in [0, 1], as pixels do."""
        return bool(self.result["dataset"].get("bounded", True))

    @property
    def columns(self) -> dict[str, list[str] | None]:
        """The columns of the table that it was trained on, as ``Arrays`` has them; else none."""
        found: dict[str, list[str] | None] = self.result["dataset"].get("columns", {})
        return found

    @property
    def fills(self) -> bool:
        """Whether NaN counts as the mean of the training examples."""
        return bool(self.config["dataset"].get("missing") == "mean")

    @property
    def targets(self) -> list[str]:
        """The names of the numbers that it predicts, where it was trained in a regression."""
        return list(self.result["dataset"].get("targets", []))

    def standardised(self, pixels: Floats) -> Floats:
        """Turn examples as they are, [B, ...] and pixels in [0, 1], into inputs [B, I]."""
        inputs = pixels.reshape(len(pixels), math.prod(self.shape))
        if self.mean is None or self.deviation is None:
            return inputs
        channels = inputs.reshape(len(inputs), -1, len(self.mean))
        scaled: Floats = ((channels - self.mean) / self.deviation).reshape(inputs.shape)
        return np.nan_to_num(scaled, nan=0.0) if self.fills else scaled

    def pixels(self, inputs: Floats) -> Floats:
        """Turn inputs [B, I] back into examples as they are, [B, I]."""
        if self.mean is None or self.deviation is None:
            return inputs
        channels = inputs.reshape(len(inputs), -1, len(self.mean))
        return (channels * self.deviation + self.mean).reshape(inputs.shape)

    def logits(self, inputs: Floats) -> Floats:
        """Return the model's outputs for standardised inputs [B, I]: [B, K].

        Computed in float64 where these are.
        """
        parts = [inputs[at : at + 1024] for at in range(0, len(inputs), 1024)] or [inputs]
        if isinstance(self.model, MLP):
            return np.concatenate([self.model(part) for part in parts])
        import torch

        model = copy.deepcopy(self.model).double() if inputs.dtype == np.float64 else self.model
        with torch.no_grad():
            return np.concatenate([model(torch.from_numpy(part)).numpy() for part in parts])

    def probabilities(self, inputs: Floats) -> Floats:
        """Return the probability of each class for standardised inputs [B, I]: [B, K]."""
        return softmax(self.logits(inputs))

    def accuracy(self, inputs: Floats, labels: NDArray[np.int64]) -> float:
        """Return the share of standardised inputs [B, I] whose classes [B] it tells."""
        return float((self.logits(inputs).argmax(1) == labels).mean())

    def answer(self, outputs: Floats) -> Floats:
        """Turn the model's outputs [B, K] into what they say: the probability of each class, or
        of a regression the targets in their own units."""
        if not self.targets:
            return softmax(outputs)
        assert self.target_mean is not None
        assert self.target_deviation is not None
        return outputs * self.target_deviation + self.target_mean

    def predict(self, examples: Any) -> Floats:
        """Return the probability of each class for examples as they are, [B, ...]: [B, K].

        Of a regression the targets in their own units, [B, k]. B may be 0. Raises ValueError as
        ``checked``.
        """
        with np.errstate(over="ignore", invalid="ignore"):  # then it is NaN, as torch has it
            return self.answer(self.logits(self.standardised(self.checked(examples))))

    def checked(self, examples: Any) -> NDArray[np.float32]:
        """Return examples as they are, [B, ...], as an array; pixels lie in [0, 1].

        Raises ValueError for others, for numbers that are not finite, or another shape than the
        network was trained on.
        """
        with np.errstate(over="ignore"):  # it is infinite then, and refused
            pixels: NDArray[np.float32] = np.asarray(examples, np.float32)
        if pixels.ndim < 2 or math.prod(pixels.shape[1:]) != math.prod(self.shape):
            shape = " x ".join(map(str, self.shape))
            raise ValueError(
                f"examples of shape {list(pixels.shape[1:])} do not fit: "
                f"this network takes {shape}; give a batch of those"
            )
        finite = np.isfinite(pixels) | (np.isnan(pixels) if self.fills else False)
        if not self.bounded and not finite.all():
            raise ValueError(
                f"{int((~finite).sum()):,} numbers of the examples are NaN or infinite; correct "
                f"them, or leave those examples out"
            )
        if self.bounded and len(pixels) > 0 and not (pixels.min() >= 0 and pixels.max() <= 1):
            raise ValueError(
                f"examples lie in {pixels.min():g} to {pixels.max():g}; "
                f"give pixels from 0 to 1 (divide those from 0 to 255 by 255)"
            )
        return pixels


def softmax(logits: Floats) -> Floats:
    """Return the probability of each class, [B, K]."""
    likely = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Floats = likely / likely.sum(axis=1, keepdims=True)
    return found


def log_odds(logits: Floats, labels: NDArray[np.int64]) -> Floats:
    """Return the logarithm of p / (1 - p), p being the probability of a class: [B], in nats.

    logits: [B, K], labels: [B]. Unlike p, it does not round to the same number for all examples
    that a network is very sure of.

    >>> log_odds(np.array([[0.0, 0.0], [200.0, 0.0]]), np.array([0, 0]))
    array([  0., 200.])
    """
    from scipy.special import logsumexp  # type: ignore[import-untyped,unused-ignore]

    own, others = labels[:, None], logits.copy()
    np.put_along_axis(others, own, -np.inf, axis=1)
    found: Floats = np.take_along_axis(logits, own, axis=1)[:, 0] - logsumexp(others, axis=1)
    return found


def load(folder: str | Path, function: str | None = None) -> Trained:
    """Load the network that a run trained, say from ``outputs/mnist/default``.

    function: of a run with model=function, the one of the working directory that makes the
    network, as in ``my_nets:cnn``; nothing else has its code called.
    Raises ValueError where the folder holds no finished run, or one whose weights do not fit;
    where the function is not named, or its module has changed since.
    """
    from safetensors import SafetensorError

    folder = Path(folder)
    result = records.read_result(folder)
    if result is None:
        reason = f"{records.RESULT} is missing or empty"
        raise ValueError(f"{folder} holds no run ({reason}); see outputs/")
    if result["status"] not in records.DONE:
        failed = result["status"] == "failed"
        state = "failed" if failed else "is running, or was interrupted"
        raise ValueError(
            f"the run in {folder} {state}, so it has no network yet; its command trains it"
        )
    own = own_function(folder, result, function)
    try:
        data, config = result["dataset"], result["config"]
        shape, classes = tuple(data["shape"]), list(data["classes"])
        if not isinstance(config["dataset"], dict) or not all(isinstance(c, str) for c in classes):
            raise TypeError("its dataset or its classes are none")
        scales = [channels(data[name]) for name in ("mean", "deviation")]
        scales += [channels(data.get(name)) for name in ("target_mean", "target_deviation")]
        model = build(config, shape, count_outputs(data), own)
    except (LookupError, TypeError, ValueError, RuntimeError, MemoryError) as error:
        raise ValueError(
            f"{folder / records.RESULT} does not describe a network ({error}), or was written by "
            f"an older nnlab; train it anew with force=true"
        ) from None
    if not config.get("save_weights", True):
        raise ValueError(
            f"the run in {folder} kept no network (save_weights=false); train it anew with "
            f"save_weights=true force=true"
        )
    weights = folder / records.WEIGHTS
    try:
        put(records.read_file(folder, records.WEIGHTS, result), model)
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{weights} cannot be read ({reason}); train the run anew") from None

    return Trained(model, config, result, classes, shape, *scales)


def put(content: bytes, model: MLP | nn.Module) -> None:
    """Put the weights of a file into a network. Raises RuntimeError where they do not fit."""
    if not isinstance(model, MLP):
        from safetensors.torch import load as tensors

        model.load_state_dict(tensors(content))
        model.eval()
        return
    from safetensors.numpy import load as arrays

    given, wanted = arrays(content), model.state_dict()
    shapes = [{name: (each.shape, each.dtype) for name, each in d.items()} for d in (given, wanted)]
    if shapes[0] != shapes[1]:
        raise RuntimeError(f"its weights are {', '.join(given)} of other shapes or names")
    for layer in model.layers:
        layer.weight = given[f"{layer.name}.weight"]
        layer.bias = given.get(f"{layer.name}.bias")


def channels(values: Sequence[float] | None) -> Floats | None:
    return None if values is None else np.array(values, np.float32)


def own_function(folder: Path, result: dict[str, Any], named: str | None) -> Function | None:
    """Return the function that makes the network of a run; None where nnlab makes it itself.

    Raises ValueError where it is not the one named, is not there, or has changed.
    """
    sha256 = result.get("model_source_sha256")
    if sha256 is None:
        return None
    needed = result["config"]["model"]["function"]
    if named != needed:
        raise ValueError(
            f"the network of the run in {folder} is made by {needed}, code of your own; to have "
            f"it called name it, where its module lies, as in --function {needed} or "
            f"nnlab.load(RUN, function={needed!r})"
        )
    function = functions.find("function", needed)
    if function.sha256 != sha256:
        raise ValueError(
            f"{function.path} has changed since the run in {folder}, whose network takes it as it "
            f"was (SHA-256 {sha256[:16]}…): bring that back, or train the run anew"
        )
    return function


def build(
    config: dict[str, Any], shape: tuple[int, ...], outputs: int, own: Function | None
) -> MLP | nn.Module:
    """Build the network of a run's recorded configuration; its weights are to be loaded.

    own: the function that makes it, if one of the user's does.
    """
    model, dataset = config["model"], config["dataset"]
    any_numbers = np.random.default_rng(0)
    if own is not None:
        from nnlab.own_network import from_function

        return from_function(own, model["options"], shape, outputs, any_numbers)
    if "channels" in model:
        from nnlab.model import cnn

        layers = model["channels"], model["kernel"], model["hidden"]
        return cnn(shape, *layers, outputs, any_numbers)
    if "hidden" not in model:
        return perceptron.perceptrons(truth_table(dataset["function"], dataset["inputs"]))
    # Of what was added later older results say nothing.
    bias, batch_norm, dropout = (
        model.get(name, ADDED[f"model.{name}"]) for name in ("bias", "batch_norm", "dropout")
    )
    sizes = math.prod(shape), model["hidden"], outputs, model["activation"]
    made = perceptron.draw(*sizes, any_numbers, init="zeros", bias=bias, dropout=dropout)
    if not batch_norm:
        return made
    from nnlab.model import as_module

    return as_module(made, batch_norm)
