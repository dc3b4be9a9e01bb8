"""A trained network, loaded from the folder of its run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nnlab import functions, records
from nnlab.boolean import truth_table
from nnlab.functions import Function
from nnlab.identity import ADDED
from nnlab.losses import count_outputs
from nnlab.model import cnn, mlp, perceptrons
from nnlab.own_network import from_function

if TYPE_CHECKING:
    import pandas as pd


@dataclass(eq=False)
class Network:
    """A trained network and what its inputs and outputs mean.

    model: maps standardised inputs [B, I] to logits [B, K], of a regression to standardised targets
    [B, k], on the CPU, in evaluation mode.
    config: the run's configuration as nested dicts, result: its result.json. classes: K names.
    shape: that of one example, an image's channels last. mean, deviation: of each channel, an
    image's in [0, 1], or of each input of a table, [C] float32, that inputs were standardised
    with; None where they were not. target_mean, target_deviation: [k] of the targets of a
    regression.
    """

    model: nn.Module
    config: dict[str, Any]
    result: dict[str, Any]
    classes: list[str]
    shape: tuple[int, ...]
    mean: Tensor | None
    deviation: Tensor | None
    target_mean: Tensor | None = None
    target_deviation: Tensor | None = None

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

    def standardised(self, pixels: Tensor) -> Tensor:
        """Turn examples as they are, [B, ...] and pixels in [0, 1], into inputs [B, I]."""
        inputs = pixels.flatten(1)
        if self.mean is None or self.deviation is None:
            return inputs
        channels: Tensor = inputs.unflatten(1, (-1, self.mean.numel()))
        inputs = channels.sub(self.mean).div(self.deviation).flatten(1)
        return inputs.nan_to_num(nan=0.0) if self.fills else inputs

    def pixels(self, inputs: Tensor) -> Tensor:
        """Turn inputs [B, I] back into examples as they are, [B, I]."""
        if self.mean is None or self.deviation is None:
            return inputs
        channels: Tensor = inputs.unflatten(1, (-1, self.mean.numel()))
        return channels.mul(self.deviation).add(self.mean).flatten(1)

    @torch.no_grad()
    def logits(self, inputs: Tensor) -> Tensor:
        """Return the model's outputs for standardised inputs [B, I]: [B, K]."""
        return torch.cat([self.model(some) for some in inputs.split(1024)])

    def probabilities(self, inputs: Tensor) -> Tensor:
        """Return the probability of each class for standardised inputs [B, I]: [B, K]."""
        return self.logits(inputs).softmax(1)

    def answer(self, outputs: Tensor) -> Tensor:
        """Turn the model's outputs [B, K] into what they say: the probability of each class, or
        of a regression the targets in their own units."""
        if not self.targets:
            return outputs.softmax(1)
        assert self.target_mean is not None
        assert self.target_deviation is not None
        return outputs * self.target_deviation + self.target_mean

    def predict(self, examples: Tensor | NDArray[Any] | pd.DataFrame) -> Tensor:
        """Return the probability of each class for examples as they are, [B, ...]: [B, K].

        Of a regression the targets in their own units, [B, k]. B may be 0. Pixels lie in [0, 1].
        Raises ValueError for others, for numbers that are not finite, or another shape than the
        network was trained on.
        """
        pixels = (
            examples.detach()
            if isinstance(examples, Tensor)
            else torch.from_numpy(np.array(examples, dtype=np.float32))
        )
        if pixels.dim() < 2 or math.prod(pixels.shape[1:]) != math.prod(self.shape):
            shape = " x ".join(map(str, self.shape))
            raise ValueError(
                f"examples of shape {list(pixels.shape[1:])} do not fit: "
                f"this network takes {shape}; give a batch of those"
            )
        finite = pixels.isfinite() | (pixels.isnan() if self.fills else False)
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
        return self.answer(self.logits(self.standardised(pixels.float())))


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the logarithm of p / (1 - p), p being the probability of a class: [B], in nats.

    logits: [B, K], labels: [B] int64. Unlike p, it does not round to the same number for all
    examples that a network is very sure of.

    >>> log_odds(torch.tensor([[0.0, 0.0], [200.0, 0.0]]), torch.tensor([0, 0]))
    tensor([  0., 200.])
    """
    own = labels[:, None]
    others = logits.scatter(1, own, -math.inf).logsumexp(1)
    return logits.gather(1, own)[:, 0] - others


def load(folder: str | Path, function: str | None = None) -> Network:
    """Load the network that a run trained, say from ``outputs/mnist/default``.

    function: of a run with model=function, the one of the working directory that makes the
    network, as in ``my_nets:cnn``; nothing else has its code called.
    Raises ValueError where the folder holds no finished run, or one whose weights do not fit;
    where the function is not named, or its module has changed since.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as safetensors

    folder = Path(folder)
    result = records.read_result(folder)
    if result is None:
        raise ValueError(f"{folder} holds no run ({records.RESULT} is missing); see outputs/")
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
        model.load_state_dict(safetensors(records.read_file(folder, records.WEIGHTS, result)))
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{weights} cannot be read ({reason}); train the run anew") from None

    return Network(model.eval(), config, result, classes, shape, *scales)


def channels(values: Sequence[float] | None) -> Tensor | None:
    return None if values is None else torch.tensor(values, dtype=torch.float32)


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
) -> nn.Module:
    """Build the network of a run's recorded configuration; its weights are to be loaded.

    own: the function that makes it, if one of the user's does.
    """
    model, dataset = config["model"], config["dataset"]
    if own is not None:
        return from_function(own, model["options"], shape, outputs, np.random.default_rng())
    if "channels" in model:
        layers = model["channels"], model["kernel"], model["hidden"]
        return cnn(shape, *layers, outputs, np.random.default_rng())
    if "hidden" in model:
        names = "bias", "batch_norm", "dropout"  # of which older results say nothing
        options = {name: model.get(name, ADDED[f"model.{name}"]) for name in names}
        return mlp(math.prod(shape), model["hidden"], outputs, model["activation"], **options)
    return perceptrons(truth_table(dataset["function"], dataset["inputs"]))
