"""From a configuration to a run: its data, network, stopping rule and engine."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnlab import messages, records
from nnlab.boolean import truth_table
from nnlab.config import (
    BooleanConfig,
    BudgetConfig,
    Config,
    EngineName,
    MLPConfig,
    PatienceConfig,
    PerceptronConfig,
    PlateauConfig,
    StoppingConfig,
    TargetConfig,
)
from nnlab.jobs import Job, Outcome, Task

if TYPE_CHECKING:
    from torch import nn

    from nnlab.datasets import Data
    from nnlab.engines import Run
    from nnlab.stopping import StoppingRule

log = logging.getLogger("nnlab")


def prepare(waiting: Sequence[tuple[Outcome, Config]]) -> list[Task]:
    """Load the data, build the networks and choose the engines, before anything is written."""
    from nnlab import datasets, device, engines

    tasks = []
    fallbacks: set[str] = set()
    for outcome, config in waiting:
        try:
            place = device.choose(config.device)
            data = datasets.load_for(config)
            run = build_run(config, data)
            engine, reason = engines.choose(config.engine, run, place)
            if config.engine is EngineName.auto and engine.name == "torch" and run.max_epochs > 0:
                fallbacks.add(reason)
            identity = describe(outcome.job, config, run, data) | {
                "engine": engine.name,
                "engine_reason": reason,
                "engine_form": engine.form(run),
                "engine_level": engines.level(engine, run),
                "device": {**device.describe(place), "threads": config.threads},
            }
        except Exception as error:
            outcome.error = error
            if messages.explain(error) is None and not config.plan:
                keep_traceback(outcome, error)
            continue
        tasks.append(Task(outcome, config, run, engine, place, identity))
    for reason in sorted(fallbacks):
        log.info("engine=torch: %s", reason)
    return tasks


def keep_traceback(outcome: Outcome, error: Exception) -> None:
    """Record a run that failed before it could be trained, by an error nobody foresaw."""
    job = outcome.job
    with contextlib.suppress(OSError):  # the folder may be what failed
        identity = {"name": job.name, "overrides": job.overrides, **job.identity}
        records.RunFolder(outcome.folder, identity, job.hydra_files).fail(error)


def build_run(config: Config, data: Data) -> Run:
    """Build the network that a configuration describes, on its data."""
    from nnlab import seeds
    from nnlab.engines import Run

    computed = isinstance(config.model, PerceptronConfig)  # from its truth table
    return Run(
        model=build_model(config, data.train.inputs[0].numel(), len(data.classes)),
        optimizer=config.optimizer,
        train=data.train,
        valid=data.valid,
        test=data.test,
        batch_size=config.batch_size,
        max_epochs=0 if computed else config.stopping.max_epochs,
        stopping=build_rule(config.stopping),
        order=seeds.generator(config.seed_of("order"), "order"),
        full_train_metrics=config.full_train_metrics,
        native_level=None if config.native_level is None else config.native_level.name,
    )


def build_model(config: Config, inputs: int, outputs: int) -> nn.Module:
    """Build the network with its initial weights, from the run's seed or a truth table."""
    from nnlab import model, seeds

    options, dataset = config.model, config.dataset
    if isinstance(options, PerceptronConfig) and isinstance(dataset, BooleanConfig):
        if options.classic:
            return model.classic_xor()
        return model.perceptrons(truth_table(dataset.function, dataset.inputs))
    if isinstance(options, MLPConfig):
        weights = seeds.generator(config.seed_of("weights"), "weights")
        return model.mlp(inputs, options.hidden, outputs, options.activation.name, weights)
    raise ValueError(f"model={options.name} is not known; see --help")


def build_rule(stopping: StoppingConfig) -> StoppingRule | None:
    """Build the rule that ends a run early; None where only max_epochs does."""
    from nnlab.stopping import Budget, Patience, Plateau, Target

    if isinstance(stopping, PlateauConfig):
        return Plateau(stopping.min_delta, stopping.patience)
    if isinstance(stopping, PatienceConfig):
        monitor = stopping.monitor.name
        return Patience(stopping.patience, stopping.min_delta, monitor, stopping.restore_best)
    if isinstance(stopping, BudgetConfig):
        return Budget(stopping.seconds)
    if isinstance(stopping, TargetConfig):
        return Target(stopping.valid_accuracy)
    return None


def describe(job: Job, config: Config, run: Run, data: Data) -> dict[str, Any]:
    """Return what result.json says of a run before it has any results."""
    from nnlab import model

    return {
        "name": job.name,
        "overrides": job.overrides,
        "fingerprint": job.identity["fingerprint"],
        "seed": config.seed,
        "weights": model.weights(run.model),
        "parameters": model.parameters(run.model),
        "dataset": data.provenance,
        "versions": records.versions(),
        "git": records.git_revisions(),
        "config": job.identity["config"],
    }
