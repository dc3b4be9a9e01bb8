"""From a configuration to a run: its data, network, stopping rule and engine."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnlab import interrupts, messages, records
from nnlab.compact import Compact
from nnlab.config import (
    CNNConfig,
    Config,
    EngineName,
    MLPConfig,
    OwnNetworkConfig,
    PerceptronConfig,
)
from nnlab.jobs import Outcome, Task
from nnlab.options import shared

if TYPE_CHECKING:
    from torch import nn

    from nnlab.datasets import Data, Split
    from nnlab.engines import Run
    from nnlab.losses import Loss
    from nnlab.model import Shaped
    from nnlab.perceptron import MLP

log = logging.getLogger("nnlab")
# Standardised copies, kept while a sweep trains: the next run often is on the same examples.
latest: list[Data] = []
KEPT, SMALL = 8, 2**18  # networks to choose engines by: how many are kept, of what size


def prepare(waiting: Sequence[tuple[Outcome, Config]]) -> list[Task]:
    """Look at the data and choose the engines, so that what cannot be trained is refused before
    anything is written."""
    tasks = []
    fallbacks: set[str] = set()
    networks: dict[str, MLP | nn.Module] = {}
    shapes: dict[str, MLP | nn.Module] = {}
    splits: dict[tuple[int, int], Split] = {}
    for outcome, config in waiting:
        interrupts.check()
        try:
            task = make_task(outcome, config, networks, shapes, splits)
        except Exception as error:
            outcome.error = error
            if messages.explain(error) is None and not config.plan:
                keep_traceback(outcome, error)
            continue
        tasks.append(task)
        automatic = config.engine is EngineName.auto and task.sketch.max_epochs > 0
        if automatic and task.engine.name == "torch":
            fallbacks.add(task.identity["engine_reason"])
    for reason in sorted(fallbacks):
        log.info("engine=torch: %s", reason)
    return tasks


def make_task(
    outcome: Outcome,
    config: Config,
    networks: dict[str, MLP | nn.Module],
    shapes: dict[str, MLP | nn.Module],
    splits: dict[tuple[int, int], Split],
) -> Task:
    """Look at a run's data and choose its engine.

    networks: the latest to choose by, of different shapes, without large ones. shapes: the same
    without their numbers, all of them. splits: see ``sketched``. To each a new one is added.
    Raises ValueError where the run cannot be trained, or does not fit into memory.
    """
    from nnlab import device, engines, footprint, perceptron

    where = device.choose_device(config.device)
    data = config.load_data()
    if "hardest" in config.evaluation:
        config.hardest.labels(data.classes)
    example, outputs = data.provenance["shape"], data.outputs
    sizes = math.prod(example), outputs, list(data.provenance["sizes"].values())
    shape = repr((config.model, config.dataset, example))
    if shape not in networks and not isinstance(config.model, OwnNetworkConfig):
        sketch = outline(config, example, outputs)
        likely = "torch" if sketch else engines.likely(config.engine, where)
        needed = footprint.of(config, likely, *sizes, network=sketch)
        footprint.check(config, needed, where)
    network = networks.get(shape) or build_model(config, example, outputs)
    run = build_run(config, data, network)
    engine, reason = engines.choose_engine(config.engine, run, where)
    with_engine = {
        "engine": engine.name,
        "engine_reason": reason,
        "engine_form": engine.form(run),
        "engine_level": engine.level(run),
        "device": {**device.describe(where), "threads": config.torch_threads},
    }
    identity = Compact.of(describe(outcome, config, run, data) | shared(with_engine))
    if shape not in networks and perceptron.parameters(network) <= SMALL:
        if len(networks) == KEPT:
            networks.clear()
        networks[shape] = network
    if not config.plan:
        if shape not in shapes:
            shapes[shape] = without_numbers(network)
        run = sketched(run, shapes[shape], config.dataset.normalize, splits)
        del network
    needed = footprint.of(config, engine.name, *sizes, identity["engine_form"], run.model)
    footprint.check(config, needed, where)
    return Task(outcome, config, run, engine, where, identity, needed)


def without_numbers(network: MLP | nn.Module) -> MLP | nn.Module:
    """Return a network that has the shapes of this one, but no memory for its numbers."""
    from nnlab.perceptron import MLP

    if isinstance(network, MLP):
        return network.outline()
    import torch

    shapes = {id(p): torch.nn.Parameter(p.detach().to("meta")) for p in network.parameters()}
    return copy.deepcopy(network, shapes)


def keep_traceback(outcome: Outcome, error: Exception) -> None:
    """Record a run that failed before it could be trained, by an error nobody foresaw."""
    job = outcome.job
    with contextlib.suppress(OSError):  # the folder may be what failed
        identity = {"name": outcome.folder.name, "overrides": job.overrides, **job.identity}
        records.RunFolder(outcome.folder, identity).begin(job.hydra_files).fail(error)


def sketched(
    run: Run, shapes: MLP | nn.Module, copied: bool, splits: dict[tuple[int, int], Split]
) -> Run:
    """Return a run that keeps no memory of its own: of its examples the number is left.

    shapes: its network, without numbers. copied: whether its inputs are a copy for it. splits:
    those of other such runs, which it shares, by whose inputs and how many they are.
    """
    import numpy as np

    from nnlab.datasets import Split

    def bare(split: Split) -> Split:
        key = (0 if copied else id(split.inputs), len(split))
        if key not in splits:
            nowhere = np.broadcast_to(np.int64(0), len(split))  # as long, in 8 bytes
            splits[key] = Split(np.empty(0) if copied else split.inputs, np.empty(0), nowhere)
        return splits[key]

    return dataclasses.replace(
        run,
        model=shapes,
        train=bare(run.train),
        valid=None if run.valid is None else bare(run.valid),
        test=None if run.test is None else bare(run.test),
        order=None,
        noise=None,
    )


def whole_run(task: Task) -> Run:
    """Build the run that a task sketches: with its own network, and its data."""
    config = task.config
    data = config.load_data()
    if config.dataset.normalize:
        latest[:] = [data]
    return build_run(config, data, build_model(config, data.provenance["shape"], data.outputs))


def build_run(config: Config, data: Data, network: MLP | nn.Module) -> Run:
    """Put a configuration's network, data and options together."""
    from nnlab import seeds
    from nnlab.engines import Run
    from nnlab.losses import PLAIN
    from nnlab.training import check_batch_norm

    options = config.model
    if isinstance(options, MLPConfig) and options.batch_norm and options.hidden:
        what, remedy = "model.batch_norm=true", " or train_size"
        check_batch_norm(what, len(data.train), config.batch_size, remedy)
    computed = isinstance(options, PerceptronConfig)  # from its truth table
    drops = isinstance(options, MLPConfig) and options.dropout > 0
    draws = drops or isinstance(options, OwnNetworkConfig)  # whose layers may
    return Run(
        model=network,
        optimizer=config.optimizer,
        train=data.train,
        valid=data.valid,
        test=data.test,
        loss=PLAIN if computed else loss_of(config, data),
        batch_size=config.batch_size,
        max_epochs=0 if computed else config.stopping.max_epochs,
        stopping=config.stopping.build(),
        order=seeds.generator(config.seed_of("order"), "order"),
        noise=seeds.generator(config.seed_of("order"), "layers") if draws else None,
        full_train_metrics=config.full_train_metrics,
        native_level=None if config.native_level is None else config.native_level.name,
    )


def loss_of(config: Config, data: Data) -> Loss:
    """Return what a run minimises. Raises ValueError where its options do not fit the classes."""
    from nnlab.losses import SquaredError

    if data.targets:
        return SquaredError(tuple(data.provenance["target_deviation"]))
    if not config.loss.balanced:
        return config.loss.build(data.classes)
    import numpy as np

    labels = data.train.labels[data.train.index]
    counts = np.bincount(labels, minlength=len(data.classes)).tolist()
    return config.loss.build(data.classes, counts)


def outline(config: Config, shape: Sequence[int], outputs: int) -> Shaped | None:
    """Return a convolutional network without memory for its numbers; None for the other models,
    whose sizes are known from their options."""
    options = config.model
    if not isinstance(options, CNNConfig):
        return None
    from nnlab import model

    return model.cnn(shape, options.channels, options.kernel, options.hidden, outputs, None)


def build_model(config: Config, shape: Sequence[int], outputs: int) -> MLP | nn.Module:
    """Build the network with its initial weights, from the run's seed or a truth table.

    shape: of an example. Raises ValueError where there is no such network for these examples.
    """
    from nnlab import perceptron, seeds

    options, table = config.model, config.dataset.truth_table
    if isinstance(options, PerceptronConfig) and table is not None:
        return perceptron.classic_xor() if options.classic else perceptron.perceptrons(table)
    weights = seeds.generator(config.seed_of("weights"), "weights")
    if isinstance(options, MLPConfig):
        drawn = perceptron.draw(
            math.prod(shape),
            options.hidden,
            outputs,
            options.activation.name,
            weights,
            init=options.init.name,
            bias=options.bias,
            dropout=options.dropout,
        )
        if not options.batch_norm:
            return drawn
    from nnlab import device, model, own_network

    with device.cpu_threads(1):  # these tensors are too small for more to pay
        if isinstance(options, MLPConfig):
            return model.as_module(drawn, batch_norm=True)
        if isinstance(options, CNNConfig):
            layers = options.channels, options.kernel, options.hidden
            return model.cnn(shape, *layers, outputs, weights)
        if isinstance(options, OwnNetworkConfig):
            of_function = options.found, options.options
            return own_network.from_function(*of_function, shape, outputs, weights)
    raise ValueError(f"model={options.name} is not known; see --help")


def describe(outcome: Outcome, config: Config, run: Run, data: Data) -> dict[str, Any]:
    """Return what result.json says of a run before it has any results, but for its configuration,
    which the job has."""
    from nnlab import perceptron, seeds

    job = outcome.job
    weights = getattr(run.loss, "weights", None)
    special: dict[str, Any] = {} if weights is None else {"class_weights": weights}
    if isinstance(config.model, OwnNetworkConfig):
        special["model_source_sha256"] = config.model.found.sha256
    provenance = shared(data.provenance) | {"source": job.concealed(data.provenance["source"])}
    return {
        "name": outcome.folder.name,
        "overrides": job.overrides,
        "fingerprint": job.fingerprint,
        "seed": config.seed,
        "weights": perceptron.weights(run.model),
        "parameters": perceptron.parameters(run.model),
        **special,
        "dataset": Compact.of(provenance),
        "random_numbers": seeds.RANDOM_NUMBERS,
        "versions": records.versions(),
        "git": records.git_revisions(),
        "config": None,  # in its place among the others
    }
