"""Every option: its type, its limits, and the fingerprint that identifies a configuration.

Defaults live in ``conf/``; this schema has none but those of the optimizers, which Python code
makes too, and which a test holds to conf's.
Nothing here imports torch: ``--help`` and a finished sweep's rerun must start fast. Nor Hydra:
``compose`` makes a ``Config`` of YAML and overrides.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnlab import datasets, functions
from nnlab.analysis import EVALUATIONS, EvaluationOptions
from nnlab.datasets.arrays import Sizes
from nnlab.datasets.dataset import DatasetConfig
from nnlab.functions import Function
from nnlab.identity import ASKED, NOT_IDENTITY, without_added
from nnlab.losses import CLASSIFICATION, REGRESSION, LossConfig
from nnlab.options import (
    LARGEST,
    MISSING,
    check_types,
    plain,
    require,
    require_factor,
    require_finite,
)
from nnlab.stopping import RULES, BudgetConfig, StoppingConfig

if TYPE_CHECKING:
    from nnlab.datasets import Data

FORMATS = ("png", "svg", "pdf", "tex")  # of figures; the last of the table
CONF = Path(__file__).with_name("conf")


class Activation(enum.Enum):
    relu = "relu"
    tanh = "tanh"
    sigmoid = "sigmoid"
    identity = "identity"


class Init(enum.Enum):
    default = "default"
    he = "he"
    glorot = "glorot"
    orthogonal = "orthogonal"
    zeros = "zeros"


class LossScale(enum.Enum):
    auto = "auto"
    log = "log"
    linear = "linear"


class FigureStyle(enum.Enum):
    """What the sizes and fonts of figures are for; ``plotting.STYLES`` has them."""

    notebook = "notebook"
    paper = "paper"
    slides = "slides"


class EngineName(enum.Enum):
    auto = "auto"
    torch = "torch"
    native = "native"
    stacked = "stacked"


class NativeLevel(enum.Enum):
    baseline = "baseline"
    avx2 = "avx2"
    avx512 = "avx512"


@dataclass
class ModelConfig:
    name: str = MISSING

    def check(self) -> None: ...

    def identity(self) -> dict[str, Any]:
        """Return what decides which network it is (JSON values)."""
        return plain(self)


@dataclass
class MLPConfig(ModelConfig):
    hidden: list[int] = MISSING
    activation: Activation = MISSING
    init: Init = MISSING
    bias: bool = MISSING
    batch_norm: bool = MISSING
    dropout: float = MISSING

    def check(self) -> None:
        limit = "it is the fraction of a hidden layer's units that is dropped: at least 0, below 1"
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, limit)
        limit = "every hidden layer needs at least 1 unit; [] means no hidden layer"
        fine = all(width >= 1 for width in self.hidden)
        require(fine, "model.hidden", list(self.hidden), limit)
        limit = "it acts on hidden layers, and model.hidden=[] has none; leave it out, or add some"
        some = len(self.hidden) > 0
        require(some or self.dropout == 0, "model.dropout", self.dropout, limit)
        require(some or not self.batch_norm, "model.batch_norm", self.batch_norm, limit)


@dataclass
class PerceptronConfig(ModelConfig):
    """Step activations with weights from a truth table; nothing is trained."""

    classic: bool = MISSING


@dataclass
class CNNConfig(ModelConfig):
    channels: list[int] = MISSING
    kernel: int = MISSING
    hidden: list[int] = MISSING

    def check(self) -> None:
        limit = "give a convolution or more, each of at least 1 channel, as in [16,32]"
        fine = len(self.channels) > 0 and all(each >= 1 for each in self.channels)
        require(fine, "model.channels", list(self.channels), limit)
        limit = "it must be odd, at least 1, so that a convolution keeps the size of an image"
        require(self.kernel >= 1 and self.kernel % 2 == 1, "model.kernel", self.kernel, limit)
        limit = "every hidden layer needs at least 1 unit; [] means no hidden layer"
        fine = all(width >= 1 for width in self.hidden)
        require(fine, "model.hidden", list(self.hidden), limit)


@dataclass
class OwnNetworkConfig(ModelConfig):
    """A network that a function of the user's own makes.

    options: that the function is called with, by their names: a dict, or None.
    """

    function: str = MISSING
    options: Any = MISSING  # OmegaConf takes no keys that it does not know in a typed dict

    def check(self) -> None:
        limit = "give names and values that the function takes, as in {width: 32}"
        require(isinstance(self.options, (dict, type(None))), "model.options", self.options, limit)
        assert self.found

    @functools.cached_property
    def found(self) -> Function:
        """The function, with the source that its module had when this was first asked for: a
        change made while a command trains is for the next command."""
        return functions.find("model.function", self.function)

    def identity(self) -> dict[str, Any]:
        """Beside the options: the SHA-256 of the module's source."""
        return super().identity() | {"source_sha256": self.found.sha256}


ENDLESS = 10**6  # epochs of stopping=budget, which it does not mean to reach
SCHEDULES = ("constant", "step", "cosine", "plateau")
# Options of a schedule, none of which changes how long a step takes.
OF_RATES = ("lr", "schedule", "warmup", "step_size", "gamma", "patience", "min_lr")


@dataclass
class OptimizerConfig:
    """Options carry the names and meaning of ``torch.optim``.

    Those of the classes below have the defaults of conf/, for use in Python.
    """

    name: str = MISSING
    lr: float = MISSING
    weight_decay: float = MISSING
    _: KW_ONLY
    l1: float = 0.0
    l2: float = 0.0
    clip_norm: float | None = None
    schedule: str = "constant"
    warmup: int = 0
    step_size: int = 30
    gamma: float = 0.1
    patience: int = 10
    min_lr: float = 0.0

    def check(self) -> None:
        check_types("optimizer", self)
        require_factor("optimizer.lr", self.lr)
        require_factor("optimizer.weight_decay", self.weight_decay)
        require_factor("optimizer.l1", self.l1)
        require_factor("optimizer.l2", self.l2)
        if self.clip_norm is not None:
            limit = "it must be a finite number above 0 (null: gradients as they are)"
            fine = math.isfinite(self.clip_norm) and self.clip_norm > 0
            require(fine, "optimizer.clip_norm", self.clip_norm, limit)
        limit = f"choose one of {', '.join(SCHEDULES)}"
        require(self.schedule in SCHEDULES, "optimizer.schedule", self.schedule, limit)
        limit = "it is a number of epochs, at least 0"
        require(self.warmup >= 0, "optimizer.warmup", self.warmup, limit)
        require(self.patience >= 0, "optimizer.patience", self.patience, limit)
        limit = "it is a number of epochs, at least 1"
        require(self.step_size >= 1, "optimizer.step_size", self.step_size, limit)
        limit = "the learning rate is multiplied with it: above 0, at most 1"
        require(0 < self.gamma <= 1, "optimizer.gamma", self.gamma, limit)
        require_factor("optimizer.min_lr", self.min_lr)
        limit = f"the rate falls to it from optimizer.lr={self.lr:g}; give less"
        falls = self.min_lr <= self.lr or self.schedule not in ("cosine", "plateau")
        require(falls, "optimizer.min_lr", self.min_lr, limit)

    @property
    def penalised(self) -> bool:
        """Whether the size of weights is part of what is minimised."""
        return self.l1 > 0 or self.l2 > 0

    @property
    def regularised(self) -> bool:
        """Whether more than the loss decides the gradients of a step."""
        return self.penalised or self.clip_norm is not None

    @property
    def scheduled(self) -> bool:
        """Whether the learning rate may change as a run trains."""
        return self.schedule != "constant" or self.warmup > 0


@dataclass
class SGD(OptimizerConfig):
    name: str = "sgd"
    lr: float = 0.01
    weight_decay: float = 0.0
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False

    def check(self) -> None:
        super().check()
        require_factor("optimizer.momentum", self.momentum)
        require_factor("optimizer.dampening", self.dampening, least=-LARGEST)
        limit = "nesterov needs momentum above 0 and dampening=0"
        steady = self.momentum > 0 and self.dampening == 0
        require(steady or not self.nesterov, "optimizer.nesterov", True, limit)


@dataclass
class Adam(OptimizerConfig):
    name: str = "adam"
    lr: float = 0.001
    weight_decay: float = 0.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    amsgrad: bool = False

    def check(self) -> None:
        super().check()
        inside = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        limit = "two numbers of at least 0 and below 1, as in [0.9,0.999]"
        require(inside, "optimizer.betas", list(self.betas), limit)
        require_factor("optimizer.eps", self.eps)


@dataclass
class AdamW(Adam):
    name: str = "adamw"
    weight_decay: float = 0.01


@dataclass
class SeedsConfig:
    """Parts of a run's chance that are set apart from the others; None: by the run's seed."""

    data: int | None = MISSING
    weights: int | None = MISSING
    order: int | None = MISSING
    test: int = MISSING

    def check(self) -> None:
        for name, seed in vars(self).items():
            require_seed(f"seeds.{name}", seed)


def require_seed(option: str, seed: int | None) -> None:
    inside = seed is None or 0 <= seed < 2**63
    require(inside, option, seed, "it must lie in 0 to 2**63 - 1")


@dataclass
class CheckpointConfig:
    seconds: float | None = MISSING

    def check(self) -> None:
        if self.seconds is not None:
            require_finite("checkpoint.seconds", self.seconds)


@dataclass
class ReportConfig:
    predict: list[int] = MISSING
    formats: list[str] = MISSING
    loss_scale: LossScale = MISSING
    style: FigureStyle = MISSING

    @classmethod
    def usual(cls) -> ReportConfig:
        """Return what every report has."""
        return cls([], ["png"], LossScale.auto, FigureStyle.notebook)

    @property
    def asks(self) -> bool:
        """Whether it asks for more than every report has."""
        return replace(self, formats=sorted(set(self.formats))) != self.usual()

    def check(self) -> None:
        limit = f"give some of {', '.join(FORMATS)}; png is always there, for the page"
        require(set(self.formats) <= set(FORMATS), "report.formats", self.formats, limit)
        limit = "give training-set sizes of 1 or more, as in [5000,60000]"
        require(all(size >= 1 for size in self.predict), "report.predict", self.predict, limit)


@dataclass(slots=True)
class RunConfig:
    """What a run computes, and with what."""

    dataset: DatasetConfig = MISSING
    model: ModelConfig = MISSING
    optimizer: OptimizerConfig = MISSING
    loss: LossConfig = MISSING
    stopping: StoppingConfig = MISSING
    train_size: int | None = MISSING
    valid_size: int | None = MISSING
    test_size: int | None = MISSING
    folds: int | None = MISSING
    fold: int | None = MISSING
    batch_size: int = MISSING
    seed: int = MISSING
    seeds: SeedsConfig = MISSING
    device: str = MISSING
    engine: EngineName = MISSING
    native_level: NativeLevel | None = MISSING
    threads: int | None = MISSING
    cores: int | None = MISSING
    full_train_metrics: bool = MISSING
    save_weights: bool = MISSING
    checkpoint: CheckpointConfig = MISSING
    evaluation: list[str] = MISSING


@dataclass(slots=True)
class Config(EvaluationOptions, RunConfig):
    """All options. In results they stand in this order: ``RunConfig``'s come first.

    With slots, as a sweep has one for each job: a dict of so many names takes 1.6 kB.
    """

    report: ReportConfig = MISSING
    plan: bool = MISSING
    objective: str = MISSING
    study: str = MISSING
    output_dir: str = MISSING
    force: bool = MISSING

    @property
    def sizes(self) -> Sizes:
        """How many examples of each split the run asks for."""
        return Sizes(self.train_size, self.valid_size, self.test_size)

    @property
    def torch_threads(self) -> int:
        """How many CPU threads torch uses, whose rounding depends on them."""
        return 1 if self.threads is None else self.threads

    def load_data(self) -> Data:
        """Draw the splits of the run, as ``datasets.load`` does."""
        return datasets.load(
            self.dataset,
            self.sizes,
            seed=self.seed_of("data"),
            test_seed=self.seed_of("test"),
            fold=None if self.fold is None or self.folds is None else (self.fold, self.folds),
        )

    def has(self, split: str) -> bool:
        """Whether the run has examples of a split: test, or valid, which may be a fold."""
        folds = split == "valid" and self.folds is not None
        return folds or getattr(self, f"{split}_size") != 0

    def seed_of(self, part: str) -> int:
        """Return the seed of a part of the run's chance: data, weights, order or test."""
        own: int | None = getattr(self.seeds, part)
        return self.seed if own is None else own

    def check(self) -> None:
        """Raise ValueError for the first option outside its limits, before anything is read."""
        if self.train_size is not None:
            limit = "training needs at least 1 example (null takes the whole split)"
            require(self.train_size >= 1, "train_size", self.train_size, limit)
        if self.valid_size is not None:
            limit = "0 means no validation set, null the dataset's own"
            require(self.valid_size >= 0, "valid_size", self.valid_size, limit)
        if self.test_size is not None:
            limit = "0 means no test set, null the whole split"
            require(self.test_size >= 0, "test_size", self.test_size, limit)
        self.check_folds()
        require(self.batch_size >= 1, "batch_size", self.batch_size, "it must be at least 1")
        require_seed("seed", self.seed)
        for name, null in (("threads", "what pays"), ("cores", "all that this process may use")):
            value = getattr(self, name)
            require(
                value is None or value >= 1, name, value, f"it must be at least 1 (null: {null})"
            )
        limit = f"choose one of {', '.join(OBJECTIVES)}"
        require(self.objective in OBJECTIVES, "objective", self.objective, limit)
        limit = "it names a folder; . is the one that you are in"
        require(self.output_dir.strip() != "", "output_dir", repr(self.output_dir), limit)
        signs = '/\\:*?"<>|'
        limit = f"it names one folder under output_dir, with no . before it and none of {signs}"
        named = self.study.strip() and self.study[0] != "." and not {*self.study} & {*signs, "\0"}
        require(bool(named), "study", repr(self.study), limit)
        for part in (getattr(self, each.name) for each in fields(self)):
            if hasattr(part, "check"):
                part.check()
        self.check_together()

    def check_folds(self) -> None:
        if self.folds is None:
            limit = "it is the number of one of some folds; set folds (say folds=5)"
            require(self.fold is None, "fold", self.fold, limit)
            return
        require(self.folds >= 2, "folds", self.folds, "it must be at least 2 (null: no folds)")
        limit = (
            f"a run validates on one of them, fold=0 to fold={self.folds - 1}; without fold, "
            f"hydra/sweeper=nnlab tries them all, of a single number of folds"
        )
        require(self.fold is not None, "folds", self.folds, limit)
        limit = f"of folds={self.folds} choose one from 0 to {self.folds - 1}"
        require(self.fold in range(self.folds), "fold", self.fold, limit)
        limit = f"with folds={self.folds} a fold is the validation set; set valid_size=0"
        require(self.valid_size == 0, "valid_size", self.valid_size, limit)
        limit = "model=perceptron is not trained, and has nothing to validate"
        require(not isinstance(self.model, PerceptronConfig), "folds", self.folds, limit)

    def check_together(self) -> None:
        """Raise ValueError for options that do not go together."""
        table = self.dataset.truth_table
        if isinstance(self.model, PerceptronConfig):
            limit = "it computes a truth table; choose dataset=boolean"
            require(table is not None, "model", self.model.name, limit)
            limit = "the classic three perceptrons compute dataset.function=xor of dataset.inputs=2"
            require(not self.model.classic or table == "0110", "model.classic", True, limit)
        if isinstance(self.model, CNNConfig):
            limit = f"it takes images; dataset={self.dataset.name} has none"
            require(self.dataset.images, "model", self.model.name, limit)
            limit = "weights shows those of a layer that sees all pixels; model=cnn has none"
            require("weights" not in self.evaluation, "evaluation", list(self.evaluation), limit)
        self.check_task()
        if self.stopping.watches:
            limit = "it watches the validation set; set valid_size (say valid_size=500)"
            require(self.has("valid"), "stopping", self.stopping.name, limit)
        if isinstance(self.stopping, BudgetConfig):
            limit = (
                f"the rate would fall over stopping.max_epochs={self.stopping.max_epochs}, which "
                f"the budget hardly allows; set that to as many as it does, or take another one"
            )
            endless = self.stopping.max_epochs >= ENDLESS and self.optimizer.schedule == "cosine"
            require(not endless, "optimizer.schedule", self.optimizer.schedule, limit)
        if not self.save_weights:
            limit = "it asks the trained network, of which save_weights=false keeps nothing"
            require(not self.evaluation, "evaluation", list(self.evaluation), limit)
        for name in self.evaluation:
            limit = f"choose any of {', '.join(EVALUATIONS)}"
            require(name in EVALUATIONS, "evaluation", list(self.evaluation), limit)
            limit = f"{name} needs images; dataset={self.dataset.name} has none"
            instead = EVALUATIONS[name].tables and table is not None
            fits = self.dataset.images or not EVALUATIONS[name].images or instead
            require(fits, "evaluation", list(self.evaluation), limit)
            limit = f"{name} needs rows of numbers; dataset={self.dataset.name} has none"
            fits = self.dataset.rows or not EVALUATIONS[name].rows
            require(fits, "evaluation", list(self.evaluation), limit)
            limit = f"{name} needs a Boolean function of two inputs; choose dataset=boolean"
            fits = (table is not None and len(table) == 4) or not EVALUATIONS[name].square
            require(fits, "evaluation", list(self.evaluation), limit)
            package = EVALUATIONS[name].package
            limit = f"{name} needs {package}, not installed here: pip install 'nnlab[{package}]'"
            there = package is None or find_spec(package) is not None
            require(there, "evaluation", list(self.evaluation), limit)
            options: Any = getattr(self, name, None)
            split = options.split.name if hasattr(options, "split") else "test"
            limit = f"{name} looks at the {split} examples, but {split}_size=0; give a number"
            some = not EVALUATIONS[name].examples or self.has(split)
            require(some, "evaluation", list(self.evaluation), limit)
            limit = f"{name} shuffles examples, of which {split}_size=1 is too few; raise it"
            several = name != "importance" or getattr(self, f"{split}_size") != 1
            require(several, "evaluation", list(self.evaluation), limit)

    def check_task(self) -> None:
        """Raise ValueError for options that what is learned has no use for."""
        learned = self.dataset.learned
        wanted = OBJECTIVES[self.objective] or learned
        limit = f"it is of a {wanted.name}, and this is a {learned.name}; take valid_loss"
        require(wanted is learned, "objective", self.objective, limit)
        split, _, metric = self.objective.partition("_")
        if metric == "r2":
            limit = f"R² of a single example is not defined; raise {split}_size=1"
            require(getattr(self, f"{split}_size") != 1, "objective", self.objective, limit)
        if learned is CLASSIFICATION:
            return
        limit = "a regression has no classes; leave it out"
        smoothing, weights = self.loss.label_smoothing, self.loss.class_weights
        require(smoothing == 0, "loss.label_smoothing", smoothing, limit)
        require(weights is None, "loss.class_weights", weights, limit)
        limit = "a regression has no accuracy; take stopping=plateau, or stopping=patience with "
        limit += "stopping.monitor=valid_loss"
        column = self.stopping.monitored
        watched = f"{self.stopping.name}, which watches {column}"
        require(column != "valid_accuracy", "stopping", watched, limit)
        for name in self.evaluation:
            limit = f"{name} asks for classes, of which a regression has none; leave it out"
            fits = name not in EVALUATIONS or not EVALUATIONS[name].classes
            require(fits, "evaluation", list(self.evaluation), limit)


OBJECTIVES = {
    "valid_loss": None,
    "valid_accuracy": CLASSIFICATION,
    "valid_r2": REGRESSION,
    "test_loss": None,
    "test_accuracy": CLASSIFICATION,
    "test_r2": REGRESSION,
    "train_seconds": None,
}  # and of which task they are; None: of all


# The schemas that the YAML files of each config group extend.
GROUPS: dict[str, Mapping[str, type]] = {
    "dataset": datasets.DATASETS,
    "model": {
        "mlp": MLPConfig,
        "perceptron": PerceptronConfig,
        "cnn": CNNConfig,
        "function": OwnNetworkConfig,
    },
    "optimizer": {"sgd": SGD, "adam": Adam, "adamw": AdamW},
    "stopping": RULES,
}


def identity(config: Config) -> dict[str, Any]:
    """Return what decides the numbers of a run, beside its data and what it computes with."""
    tree = {k: v for k, v in plain(config).items() if k not in (*NOT_IDENTITY, *ASKED, "seed")}
    tree["dataset"] = config.dataset.identity()
    tree["model"] = config.model.identity()
    tree["seeds"] = {part: config.seed_of(part) for part in tree["seeds"]}
    if isinstance(config.model, PerceptronConfig):  # computed from its table, and only tested
        tree["seeds"] = config.seeds.test
        tree = {key: tree[key] for key in ("dataset", "model", "test_size", "seeds")}
    return without_added(tree)


def fingerprint(config: Config) -> str:
    """Return 16 hex digits that differ wherever two configurations compute different things."""
    text = json.dumps(identity(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
