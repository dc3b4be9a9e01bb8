"""Every option: its type, its limits, and the fingerprint that identifies a configuration.

Defaults live in ``conf/`` only; this schema has none, so an option has one place to look.
Nothing here imports torch: ``--help`` and a finished sweep's rerun must start fast. Nor Hydra:
``compose`` makes a ``Config`` of YAML and overrides.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnlab.boolean import truth_table

CONF = Path(__file__).with_name("conf")
MISSING: Any = "???"  # as OmegaConf writes what has to be given


class Activation(enum.Enum):
    relu = "relu"
    tanh = "tanh"
    sigmoid = "sigmoid"
    identity = "identity"


class EngineName(enum.Enum):
    auto = "auto"
    torch = "torch"
    native = "native"
    stacked = "stacked"


class Source(enum.Enum):
    auto = "auto"
    official = "official"
    bundled = "bundled"


class Monitor(enum.Enum):
    valid_loss = "valid_loss"
    valid_accuracy = "valid_accuracy"


class HardestSplit(enum.Enum):
    test = "test"
    valid = "valid"


@dataclass
class DatasetConfig:
    name: str = MISSING
    balanced: bool = MISSING
    normalize: bool = MISSING


@dataclass
class IdxConfig(DatasetConfig):
    """MNIST and Fashion-MNIST: four files in the IDX format."""

    source: Source = MISSING
    folder: str = MISSING


@dataclass
class DogSetConfig(DatasetConfig):
    """Photographs in a folder with a dogs.csv."""

    folder: str = MISSING
    resize: bool = MISSING
    num_classes: int | None = MISSING


@dataclass
class SyntheticConfig(DatasetConfig):
    """Generated images in DogSet's shape."""

    num_classes: int | None = MISSING


@dataclass
class BooleanConfig(DatasetConfig):
    """The truth table of a Boolean function."""

    function: str = MISSING
    inputs: int = MISSING


@dataclass
class ModelConfig:
    name: str = MISSING


@dataclass
class MLPConfig(ModelConfig):
    hidden: list[int] = MISSING
    activation: Activation = MISSING


@dataclass
class PerceptronConfig(ModelConfig):
    """Step activations with weights from a truth table; nothing is trained."""

    classic: bool = MISSING


@dataclass
class OptimizerConfig:
    """Options carry the names and meaning of ``torch.optim``."""

    name: str = MISSING
    lr: float = MISSING
    weight_decay: float = MISSING


@dataclass
class SGD(OptimizerConfig):
    momentum: float = MISSING
    dampening: float = MISSING
    nesterov: bool = MISSING


@dataclass
class Adam(OptimizerConfig):
    betas: list[float] = MISSING
    eps: float = MISSING
    amsgrad: bool = MISSING


@dataclass
class AdamW(Adam):
    pass


@dataclass
class StoppingConfig:
    name: str = MISSING
    max_epochs: int = MISSING


@dataclass
class PlateauConfig(StoppingConfig):
    min_delta: float = MISSING
    patience: int = MISSING


@dataclass
class PatienceConfig(StoppingConfig):
    monitor: Monitor = MISSING
    min_delta: float = MISSING
    patience: int = MISSING
    restore_best: bool = MISSING


@dataclass
class BudgetConfig(StoppingConfig):
    seconds: float = MISSING


@dataclass
class TargetConfig(StoppingConfig):
    valid_accuracy: float = MISSING


@dataclass
class SeedsConfig:
    """Parts of a run's chance that are set apart from the others; None: by the run's seed."""

    data: int | None = MISSING
    weights: int | None = MISSING
    order: int | None = MISSING
    test: int = MISSING


@dataclass
class HardestConfig:
    split: HardestSplit = MISSING
    per_class: int = MISSING


@dataclass
class FgsmConfig:
    eps: list[float] = MISSING
    shown: float = MISSING


@dataclass
class Config:
    dataset: DatasetConfig = MISSING
    model: ModelConfig = MISSING
    optimizer: OptimizerConfig = MISSING
    stopping: StoppingConfig = MISSING
    train_size: int | None = MISSING
    valid_size: int | None = MISSING
    test_size: int | None = MISSING
    batch_size: int = MISSING
    seed: int = MISSING
    seeds: SeedsConfig = MISSING
    device: str = MISSING
    engine: EngineName = MISSING
    threads: int = MISSING
    full_train_metrics: bool = MISSING
    evaluation: list[str] = MISSING
    hardest: HardestConfig = MISSING
    fgsm: FgsmConfig = MISSING
    plan: bool = MISSING
    objective: str = MISSING
    study: str = MISSING
    output_dir: str = MISSING
    force: bool = MISSING

    def seed_of(self, part: str) -> int:
        """Return the seed of a part of the run's chance: data, weights, order or test."""
        own: int | None = getattr(self.seeds, part)
        return self.seed if own is None else own


OBJECTIVES = ("valid_loss", "valid_accuracy", "test_loss", "test_accuracy", "train_seconds")
# Options that say where results go or what is done with them, not what is computed.
NOT_IDENTITY = (
    *("study", "output_dir", "force", "objective"),
    *("plan", "evaluation", "hardest", "fgsm"),
)
# Options that ask for a way to compute; ``records.serves`` compares what was really used.
ASKED = ("device", "engine", "native_level", "threads")
# Options of a dataset that say where its files are; their content is compared instead.
WHERE = ("folder", "source")
EVALUATIONS = ("hardest", "fgsm", "weights")


# The schemas that the YAML files of each config group extend.
GROUPS: dict[str, dict[str, type]] = {
    "dataset": {
        "idx": IdxConfig,
        "dogset": DogSetConfig,
        "synthetic": SyntheticConfig,
        "boolean": BooleanConfig,
    },
    "model": {"mlp": MLPConfig, "perceptron": PerceptronConfig},
    "optimizer": {"sgd": SGD, "adam": Adam, "adamw": AdamW},
    "stopping": {
        "epochs": StoppingConfig,
        "plateau": PlateauConfig,
        "patience": PatienceConfig,
        "budget": BudgetConfig,
        "target": TargetConfig,
    },
}


def validate(config: Config) -> None:
    """Raise ValueError for the first option outside its limits, before anything is read."""

    def require(holds: bool, option: str, value: object, limit: str) -> None:
        if not holds:
            shown = str(value).lower() if isinstance(value, bool) else value
            raise ValueError(f"{option}={shown} is not possible: {limit}")

    def finite(option: str, value: float, least: float = 0.0) -> None:
        limit = f"it must be a finite number, at least {least:g}"
        require(math.isfinite(value) and value >= least, option, value, limit)

    if config.train_size is not None:
        limit = "training needs at least 1 example (null takes the whole split)"
        require(config.train_size >= 1, "train_size", config.train_size, limit)
    if config.valid_size is not None:
        limit = "0 means no validation set, null the dataset's own"
        require(config.valid_size >= 0, "valid_size", config.valid_size, limit)
    if config.test_size is not None:
        limit = "0 means no test set, null the whole split"
        require(config.test_size >= 0, "test_size", config.test_size, limit)
    require(config.batch_size >= 1, "batch_size", config.batch_size, "it must be at least 1")
    seeds = {f"seeds.{name}": seed for name, seed in vars(config.seeds).items()}
    for name, seed in {"seed": config.seed, **seeds}.items():
        inside = seed is None or 0 <= seed < 2**63
        require(inside, name, seed, "it must lie in 0 to 2**63 - 1")
    require(config.threads >= 1, "threads", config.threads, "it must be at least 1")
    limit = f"choose one of {', '.join(OBJECTIVES)}"
    require(config.objective in OBJECTIVES, "objective", config.objective, limit)
    limit = "it names one folder under output_dir, without / and not . or .."
    named = config.study.strip(". ") != "" and not set(config.study) & set('/\\:*?"<>|\0')
    require(named, "study", repr(config.study), limit)

    dataset, model = config.dataset, config.model
    if isinstance(dataset, (DogSetConfig, SyntheticConfig)) and dataset.num_classes is not None:
        limit = "it must be at least 2 (null takes every class)"
        require(dataset.num_classes >= 2, "dataset.num_classes", dataset.num_classes, limit)
    table = None
    if isinstance(dataset, BooleanConfig):
        table = truth_table(dataset.function, dataset.inputs)
    if isinstance(model, MLPConfig):
        limit = "every hidden layer needs at least 1 unit; [] means no hidden layer"
        fine = all(width >= 1 for width in model.hidden)
        require(fine, "model.hidden", list(model.hidden), limit)
    if isinstance(model, PerceptronConfig):
        limit = "it computes a truth table; choose dataset=boolean"
        require(table is not None, "model", model.name, limit)
        limit = "the classic three perceptrons compute dataset.function=xor of dataset.inputs=2"
        require(not model.classic or table == "0110", "model.classic", True, limit)

    optimizer = config.optimizer
    finite("optimizer.lr", optimizer.lr)
    finite("optimizer.weight_decay", optimizer.weight_decay)
    if isinstance(optimizer, SGD):
        finite("optimizer.momentum", optimizer.momentum)
        finite("optimizer.dampening", optimizer.dampening, least=-math.inf)
        limit = "nesterov needs momentum above 0 and dampening=0"
        steady = optimizer.momentum > 0 and optimizer.dampening == 0
        require(steady or not optimizer.nesterov, "optimizer.nesterov", True, limit)
    if isinstance(optimizer, Adam):
        inside = len(optimizer.betas) == 2 and all(0 <= beta < 1 for beta in optimizer.betas)
        limit = "two numbers of at least 0 and below 1, as in [0.9,0.999]"
        require(inside, "optimizer.betas", list(optimizer.betas), limit)
        finite("optimizer.eps", optimizer.eps)

    stopping = config.stopping
    limit = "it must be at least 0 (0 evaluates the untrained network)"
    require(stopping.max_epochs >= 0, "stopping.max_epochs", stopping.max_epochs, limit)
    if isinstance(stopping, (PlateauConfig, PatienceConfig)):
        finite("stopping.min_delta", stopping.min_delta)
        require(stopping.patience >= 1, "stopping.patience", stopping.patience, "at least 1")
    if isinstance(stopping, BudgetConfig):
        limit = "it must be a finite number of seconds above 0"
        some = math.isfinite(stopping.seconds) and stopping.seconds > 0
        require(some, "stopping.seconds", stopping.seconds, limit)
    if isinstance(stopping, TargetConfig):
        limit = "an accuracy lies above 0 and is at most 1"
        inside = 0 < stopping.valid_accuracy <= 1
        require(inside, "stopping.valid_accuracy", stopping.valid_accuracy, limit)
    if isinstance(stopping, (PlateauConfig, PatienceConfig, TargetConfig)):
        limit = "it watches the validation set; set valid_size (say valid_size=500)"
        require(config.valid_size != 0, "stopping", stopping.name, limit)

    for name in config.evaluation:
        limit = f"choose any of {', '.join(EVALUATIONS)}"
        require(name in EVALUATIONS, "evaluation", list(config.evaluation), limit)
        limit = f"{name} looks at images, which dataset={dataset.name} has none of"
        images = table is None or name == "hardest"
        require(images, "evaluation", list(config.evaluation), limit)
        split = config.hardest.split.name if name == "hardest" else "test"
        limit = f"{name} looks at the {split} examples, but {split}_size=0; give a number"
        some = name == "weights" or getattr(config, f"{split}_size") != 0
        require(some, "evaluation", list(config.evaluation), limit)
    limit = "it must be at least 1"
    require(config.hardest.per_class >= 1, "hardest.per_class", config.hardest.per_class, limit)
    limit = "give sizes of the perturbation from 0 to 1, the range of a pixel"
    eps = [*config.fgsm.eps, config.fgsm.shown]
    fine = len(config.fgsm.eps) > 0 and all(0 <= size <= 1 for size in eps)
    require(fine, "fgsm.eps", f"{list(config.fgsm.eps)} (shown: {config.fgsm.shown:g})", limit)


def plain(config: Config) -> dict[str, Any]:
    """Return the configuration as nested dicts of JSON values."""

    def value(node: Any) -> Any:
        if isinstance(node, enum.Enum):
            return node.name
        if isinstance(node, dict):
            return {key: value(item) for key, item in node.items()}
        return list(node) if isinstance(node, (list, tuple)) else node

    tree: dict[str, Any] = value(dataclasses.asdict(config))
    return tree


def identity(config: Config) -> dict[str, Any]:
    """Return what decides the numbers of a run, beside its data and what it computes with."""
    tree = {k: v for k, v in plain(config).items() if k not in (*NOT_IDENTITY, *ASKED, "seed")}
    tree["dataset"] = {k: v for k, v in tree["dataset"].items() if k not in WHERE}
    tree["seeds"] = {part: config.seed_of(part) for part in tree["seeds"]}
    return tree


def fingerprint(config: Config) -> str:
    """Return 16 hex digits that differ wherever two configurations compute different things."""
    text = json.dumps(identity(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
