"""The native engine: multilayer perceptrons on the CPU, an epoch in one call of native.c.

The C library is optional; ``library.py`` has what touches it. Runs in different threads train at
the same time, each on one core or several.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import ClassVar

from nnlab.datasets.sampling import Index
from nnlab.device import Device
from nnlab.engines import Engine, Run, State, TrainedEpoch, dual, library
from nnlab.engines.dual import DualNetwork
from nnlab.engines.library import NativeNetwork, unsupported_shapes
from nnlab.engines.supported import (
    hand_over,
    initial_state,
    perceptron,
    targets_of,
    unsupported_loss,
    unsupported_model,
    unsupported_optimizer,
    unsupported_shared_memory,
)

# Of a step for each thread: 80 us of a core with AVX-512, where waiting for each other costs the
# members of a team 10 to 20.
FEWEST_PRODUCTS = 1 << 22

# ---- what the engine takes ----


def unsupported_reason(run: Run, device: Device) -> str | None:
    """Return why the engine cannot train this run on this device; None if it can.

    It takes perceptrons in float32 (see ``unsupported_model``) on the CPU, trained by SGD, Adam or
    AdamW (without amsgrad), on splits with contiguous inputs [N, I].
    """
    if device.type != "cpu":
        return f"the native engine computes on the cpu, not on {device}"
    reason = unsupported_model(run.model, ("float32",)) or unsupported_optimizer(run)
    reason = reason or unsupported_loss(run)
    if reason is not None:
        return reason
    width, targets = perceptron(run).sizes[0], targets_of(run)
    for name in ("train", "valid", "test"):
        split = getattr(run, name)
        if reason is None and split is not None:
            reason = unsupported_shapes(split, name, width, targets)
    reason = reason or unsupported_shared_memory(run)
    if reason is None and run.native_level is not None and library.available() is None:
        reason = unsupported_level(run.native_level)
    return reason


def unsupported_level(level: str) -> str | None:
    possible = library.levels()
    if level in possible:
        return None
    return f"native_level={level} is none of {', '.join(possible)}, which this processor can run"


# ---- the engine ----


class NativeEngine(Engine):
    """Train on the CPU without PyTorch; see ``unsupported_reason`` for the runs that it takes.

    A run's ``native_level`` forces one of ``library.levels()``; the default is the best of them.
    Calls for one run wait for each other. Raises ValueError for a run that it does not take,
    RuntimeError without the compiled library.
    """

    name: ClassVar[str] = "native"
    concurrent: ClassVar[bool] = True  # a call gives up the GIL; a run stays in its core's cache

    def __init__(self, runs: Sequence[Run], device: Device) -> None:
        library.open_library()  # an error even without runs
        self.networks: dict[Run, NativeNetwork] = {}
        for run in runs:
            reason = unsupported_reason(run, device)
            if reason is not None:
                raise ValueError(f"{reason}; engine=native cannot take it, engine=torch can")
            network = DualNetwork(run) if DualNetwork.pays(run) else NativeNetwork(run)
            network.load(initial_state(run))
            self.networks[run] = network

    @staticmethod
    def form(run: Run) -> str | None:
        return "dual" if DualNetwork.pays(run) else None

    @staticmethod
    def level(run: Run) -> str:
        return library.level(run)

    @staticmethod
    def most_threads(run: Run, form: str | None) -> int:
        sizes = perceptron(run).sizes
        if form == "dual":
            sizes[0] = len(run.train)
        weights = [inputs * outputs for inputs, outputs in itertools.pairwise(sizes)]
        products = min(run.batch_size, len(run.train)) * (3 * sum(weights) - weights[0])
        return max(1, products // FEWEST_PRODUCTS)

    @staticmethod
    def sharing() -> AbstractContextManager[None]:
        return dual.sharing()

    def train_epoch(self, runs: Sequence[Run], orders: Sequence[Index]) -> list[TrainedEpoch]:
        results = []
        for run, order in zip(runs, orders):
            self.networks[run].read_options(run)
            network = self.networks[run] = self.networks[run].fitting(run, "train")
            results.append(network.train(run, order))
        return results

    def evaluate(self, runs: Sequence[Run], split: str) -> list[tuple[float, ...]]:
        return [self.networks[run].fitting(run, split).evaluate(run, split) for run in runs]

    def snapshot(self, run: Run) -> State:
        return self.networks[run].snapshot()

    def restore(self, run: Run, snapshot: State) -> None:
        network, kind = self.networks[run], dual.kind_of(snapshot)
        if type(network) is not kind:  # a new engine, or one whose run came into the usual form
            network = kind(run)
        network.restore(snapshot)
        self.networks[run] = network

    def state(self, run: Run) -> State:
        """Return weights and optimizer state as ``TorchEngine.state`` does."""
        return self.networks[run].state()

    def load_state(self, run: Run, state: State) -> None:
        """Take back what ``state`` of any engine gave; up to rounding in the dual form."""
        self.networks[run].load(state)

    def release(self, runs: Sequence[Run]) -> None:
        for run in runs:
            hand_over(self.state(run), run)
            del self.networks[run]
