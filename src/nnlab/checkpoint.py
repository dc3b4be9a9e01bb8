"""The state of a run in mid-training, from which it goes on as if it had not been interrupted.

One file of the safetensors format: the engine's numbers, those of the best epoch, the generator
of the order, and as text the epochs so far and the state of the stopping rule. Nothing is
unpickled, and a checksum tells damage.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnlab import storage
from nnlab.engines import Engine, Run, dual

ENGINE, BEST, ORDER, NOISE = "engine/", "best/", "order", "noise"
HOW = ("engine", "engine_level", "device", "threads", "versions")  # it was computed
LARGEST = 2**30  # bytes of a checkpoint of a small network on many examples
BYTES = 64  # at most, per parameter: its value, the best one, what the optimizer knows of it
EXACT = ("engine", "engine_form")  # where equal, the engine knows its own numbers again


@dataclass
class Checkpoint:
    """A run's state after an epoch.

    identity: what tells the run from others, and what computed it. tensors: by names that begin
    with ENGINE, BEST or are ORDER or NOISE. exact: whether the engine is to take them bit for bit.
    """

    identity: dict[str, Any]
    epochs: list[tuple[float | None, ...]]
    status: str
    stop_reason: str
    rule: dict[str, Any]
    tensors: dict[str, Tensor]
    exact: bool = True
    cpu_seconds: float | None = None  # not known to earlier versions

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names begin so, by the rest of their names."""
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }

    def restore(self, run: Run, engine: Engine) -> None:
        """Put a run that an engine has just taken to where it was."""
        run.epochs = [run.loss.task.epoch(*row) for row in self.epochs]
        run.status, run.stop_reason = self.status, self.stop_reason
        run.cpu_seconds = self.cpu_seconds
        if run.stopping is not None:
            vars(run.stopping).update(self.rule)
        if run.order is not None:
            run.order.set_state(self.tensors[ORDER])
        if run.noise is not None:
            run.noise.set_state(self.tensors[NOISE])
        state, best = self.part(ENGINE), self.part(BEST)
        best = state | best if best else best
        if self.exact:
            engine.restore(run, state)
            run.best = best or None
            return
        if best:
            engine.load_state(run, dual.usual(run, best))
            run.best = engine.snapshot(run)
        engine.load_state(run, dual.usual(run, state))


def of(run: Run, engine: Engine, identity: Mapping[str, Any]) -> Checkpoint:
    """Return the state of a run after its latest epoch."""
    tensors = {ENGINE + name: tensor for name, tensor in engine.snapshot(run).items()}
    # What does not change as it trains is one tensor in both, and is kept once.
    kept = {id(tensor) for tensor in tensors.values()}
    best = (run.best or {}).items()
    tensors |= {BEST + name: tensor for name, tensor in best if id(tensor) not in kept}
    if run.order is not None:
        tensors[ORDER] = run.order.get_state()
    if run.noise is not None:
        tensors[NOISE] = run.noise.get_state()
    # A copy, because a rule leaves out of it what holds in this process only.
    rule = {} if run.stopping is None else vars(copy.copy(run.stopping))
    return Checkpoint(
        dict(identity),
        list(run.epochs),
        run.status,
        run.stop_reason,
        rule,
        tensors,
        cpu_seconds=run.cpu_seconds,
    )


def save(path: Path, checkpoint: Checkpoint) -> None:
    from safetensors.torch import save as serialised

    text = json.dumps({k: v for k, v in vars(checkpoint).items() if k != "tensors"})
    digest = digest_of(text, checkpoint.tensors)
    content = serialised(checkpoint.tensors, {"state": text, "sha256": digest})
    storage.write_atomic(path, content)


def load(path: Path, parameters: int = 0) -> Checkpoint | None:
    """Return a checkpoint; None where there is none.

    parameters: of the network, which bound its size. Raises ValueError where it is damaged,
    OSError where it cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as deserialised

    try:
        content = storage.read(path, LARGEST + BYTES * parameters)
    except FileNotFoundError:
        return None
    try:
        tensors = deserialised(content)
        length = int.from_bytes(content[:8], "little")
        told = json.loads(content[8 : 8 + length])["__metadata__"]
        if told["sha256"] != digest_of(told["state"], tensors):
            raise ValueError("its checksum differs")
        state = json.loads(told["state"])
        epochs = [tuple(row) for row in state.pop("epochs")]
        return Checkpoint(**state, epochs=epochs, tensors=tensors)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged, or another nnlab's ({error})") from None


def digest_of(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(dtype=torch.uint8).numpy().data)
    return digest.hexdigest()
