"""The state of a run in mid-training, from which it goes on as if it had not been interrupted.

One file of the safetensors format: the engine's numbers, those of the best epoch, what was measured
in each epoch so far, and as text the generators and the state of the stopping rule. Nothing is
unpickled, and a checksum tells damage.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnlab import memory, records, storage
from nnlab.engines import Engine, Run, State, below, dual
from nnlab.records import EPOCHS

ENGINE, BEST = "engine/", "best/"
HOW = ("engine", "engine_level", "device", "threads", "versions")  # it was computed
EXACT = ("engine", "engine_form")  # where equal, the engine knows its own numbers again


class UnknownError(ValueError):
    """A run cannot go on from its checkpoint, which is whole: it is of another nnlab."""

    def __init__(self, run: Run, reason: Exception) -> None:
        super().__init__(
            f"its checkpoint is of an nnlab that kept other numbers ({reason}), and was removed; "
            f"the same command begins the run anew"
        )
        self.run = run


@dataclass
class Checkpoint:
    """A run's state after an epoch.

    identity: what tells the run from others, and what computed it. order, noise: the states of
    the run's generators. numbers: by names that begin with ENGINE or BEST. exact: whether the
    engine is to take them bit for bit.
    """

    identity: dict[str, Any]
    epochs: list[tuple[float | None, ...]]
    status: str
    stop_reason: str
    rule: dict[str, Any]
    order: Any
    noise: Any
    numbers: State
    exact: bool = True
    cpu_seconds: float | None = None  # not known to earlier versions, as is the next
    most_threads: int = 1

    def restore(self, run: Run, engine: Engine) -> None:
        """Put a run that an engine has just taken to where it was.

        Raises UnknownError where it does not know the numbers, also once some are in their places.
        """
        try:
            self.put_back(run, engine)
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            if memory.is_short(error):
                raise
            raise UnknownError(run, error) from error

    def put_back(self, run: Run, engine: Engine) -> None:
        run.epochs = [run.loss.task.epoch(*row) for row in self.epochs]
        run.status, run.stop_reason = self.status, self.stop_reason
        run.cpu_seconds, run.most_threads = self.cpu_seconds, self.most_threads
        if run.stopping is not None:
            vars(run.stopping).update(self.rule)
        if run.order is not None:
            run.order.bit_generator.state = self.order
        if run.noise is not None:
            run.noise.bit_generator.state = self.noise
        state, best = below(self.numbers, ENGINE), below(self.numbers, BEST)
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
    numbers = {ENGINE + name: array for name, array in engine.snapshot(run).items()}
    # What does not change as it trains is one array in both, and is kept once.
    kept = {id(array) for array in numbers.values()}
    best = (run.best or {}).items()
    numbers |= {BEST + name: array for name, array in best if id(array) not in kept}
    generators = (run.order, run.noise)
    order, noise = (None if each is None else each.bit_generator.state for each in generators)
    # A copy, because a rule leaves out of it what holds in this process only.
    rule = {} if run.stopping is None else vars(copy.copy(run.stopping))
    epochs: list[tuple[float | None, ...]] = list(run.epochs)
    told = dict(identity), epochs, run.status, run.stop_reason
    made = Checkpoint(*told, rule, order, noise, numbers)
    made.cpu_seconds, made.most_threads = run.cpu_seconds, run.most_threads
    return made


def save(path: Path, checkpoint: Checkpoint) -> None:
    from safetensors.numpy import save as serialised

    rows = checkpoint.epochs
    empty = [column for column, value in enumerate(rows[0] if rows else ()) if value is None]
    state = {k: v for k, v in vars(checkpoint).items() if k not in ("numbers", "epochs")}
    text = json.dumps({"empty": empty, **state})
    numbers = {**checkpoint.numbers, EPOCHS: np.array(rows, np.float64)}  # of None it makes NaN
    content = serialised(numbers, {"state": text, "sha256": records.digest_of(text, numbers)})
    storage.write_atomic(path, content)


def load(path: Path, parameters: int = 0) -> Checkpoint | None:
    """Return a checkpoint; None where there is none.

    parameters: of the network, which bound its size. Raises as ``records.read_checkpoint``.
    """
    found = records.read_checkpoint(path, parameters)
    if found is None:
        return None
    state, numbers = found
    try:
        empty, rows = state.pop("empty"), numbers.pop(EPOCHS)
        epochs = [
            (int(epoch), *(None if k in empty else value for k, value in enumerate(values, 1)))
            for epoch, *values in rows.tolist()
        ]
        return Checkpoint(**state, epochs=epochs, numbers=numbers)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(records.OTHER_CHECKPOINT.format(path, error)) from None
