"""The training loop, over a list of runs."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from nnlab import rates
from nnlab.checkpoint import Checkpoint
from nnlab.datasets.sampling import Index
from nnlab.engines import Engine, Run
from nnlab.losses import CLASSIFICATION
from nnlab.perceptron import MLP
from nnlab.stopping import Epoch, StoppingRule


def train_runs(
    runs: Sequence[Run],
    engine: Engine,
    checkpoints: Mapping[Run, Checkpoint] = MappingProxyType({}),
) -> Iterator[tuple[Run, Epoch | None]]:
    """Train runs until each has ended.

    checkpoints: of those that go on from where an earlier attempt was.

    Yields a run's metrics after each of its epochs, and (run, None) when it has ended and
    ``run`` holds its results; all runs are at the end of an epoch then. A run ends at
    ``max_epochs``, when its stopping rule says so, or when its training or validation loss is
    not finite. Only then are the best weights restored, where its rule asks for it, and its
    test split read.
    """
    for run in runs:
        run.stopping = own_rule(run)
        if run in checkpoints:
            checkpoints[run].restore(run, engine)
        if run.max_epochs == 0:
            run.status, run.stop_reason = "finished", "no epochs: evaluated, not trained"
    schedules = {run: rates.schedule_of(run.optimizer, run.max_epochs) for run in runs}
    active = list(runs)
    while active:
        ended = [run for run in active if run.status != "running"]
        active = [run for run in active if run.status == "running"]
        for run in ended:
            if run.best is not None and run.stopping is not None:
                run.restored = run.stopping.restore
                engine.restore(run, run.best)
                run.best = None
        evaluated([run for run in ended if validated_otherwise(run)], engine, "valid")
        tested = evaluated([run for run in ended if run.status != "diverged"], engine, "test")
        for run, measures in tested.items():
            run.tested = measures
        engine.release(ended)
        yield from ((run, None) for run in ended)
        if not active:
            return

        for run in active:
            schedule = schedules[run]
            run.lr = None if schedule is None else schedule.next(run.epochs)
        trained = engine.train_epoch(active, [draw_order(run) for run in active])
        validation = evaluated(active, engine, "valid")
        again = evaluated([run for run in active if run.full_train_metrics], engine, "train")
        for run, (measures, seconds, cpu_seconds) in zip(active, trained):
            task, before = run.loss.task, run.epochs[-1].seconds if run.epochs else 0.0
            measures = again.get(run, measures)
            validated = validation.get(run, (None,) * len(measures))
            row = (len(run.epochs) + 1, *measures, *validated, before + seconds)
            run.epochs.append(task.epoch(*row))
            known = None not in (run.cpu_seconds, cpu_seconds)
            run.cpu_seconds = (run.cpu_seconds or 0.0) + (cpu_seconds or 0.0) if known else None
            run.status, run.stop_reason = judge(run)
            if run.stopping is not None and run.stopping.restore == run.epochs[-1].epoch:
                run.best = engine.snapshot(run)
        yield from ((run, run.epochs[-1]) for run in active)


def own_rule(run: Run) -> StoppingRule | None:
    """Copy a run's stopping rule, so that neither other runs nor a later one go on from its state.

    Where it reaches the run's model or optimizer (a schedule of learning rates does), those are
    not copied. Raises ValueError where it cannot be copied.
    """
    trained: list[object] = [run.optimizer, *run.model.parameters()]
    if not isinstance(run.model, MLP):
        trained += run.model.modules()
    try:
        return copy.deepcopy(run.stopping, {id(each): each for each in trained})
    except (TypeError, RuntimeError, copy.Error) as error:
        raise ValueError(
            f"the stopping rule {type(run.stopping).__name__} cannot be copied ({error}), and "
            f"every run works on a copy of its own; give it a __deepcopy__ that can"
        ) from error


def evaluated(runs: Sequence[Run], engine: Engine, split: str) -> dict[Run, tuple[float, ...]]:
    """Return the measures of the runs that have such a split."""
    having = [run for run in runs if getattr(run, split) is not None]
    return dict(zip(having, engine.evaluate(having, split))) if having else {}


def validated_otherwise(run: Run) -> bool:
    """Return whether this process has not last validated a classifier with the weights kept."""
    if run.status == "diverged" or not run.epochs or run.loss.task is not CLASSIFICATION:
        return False
    return run.restored not in (None, len(run.epochs)) or "valid" not in run.right


def draw_order(run: Run) -> Index:
    """Return the order of the examples in the run's next epoch: [n] int64.

    With ``drop_last`` it ends with the last whole batch.
    """
    count = len(run.train)
    order = np.arange(count) if run.order is None else run.order.permutation(count)
    return order[: in_whole_batches(count, run.batch_size)] if run.drop_last else order


def in_whole_batches(examples: int, batch_size: int) -> int:
    """Return how many examples fill whole batches. Raises ValueError where none does."""
    if examples < batch_size:
        raise ValueError(
            f"drop_last=True leaves nothing to train on: batch_size={batch_size} exceeds the "
            f"{examples} training examples; lower it, or keep the last batch"
        )
    return examples - examples % batch_size


def check_batch_norm(what: str, examples: int, batch_size: int, remedy: str) -> None:
    """Raise ValueError where a batch is a single example, which cannot be normalised.

    what: is to normalise it. remedy: what helps beside another batch_size.
    """
    if batch_size == 1 or examples % batch_size == 1:
        raise ValueError(
            f"{what} is not possible: batch_size={batch_size} makes a batch of 1 of the "
            f"{examples:,} training examples, and one has no deviation; change batch_size{remedy}"
        )


def judge(run: Run) -> tuple[str, str]:
    """Return the status of a run after its latest epoch, and why it ended if it did."""
    last = run.epochs[-1]
    for name, loss in (("training", last.train_loss), ("validation", last.valid_loss)):
        if loss is not None and not math.isfinite(loss):
            return "diverged", f"{name} loss became {loss} in epoch {last.epoch}"
    if run.stopping is not None:
        reason = run.stopping.update(last)
        if reason is not None:
            return "stopped", reason
    if last.epoch >= run.max_epochs:
        return "finished", f"reached max_epochs={run.max_epochs}"
    return "running", ""
