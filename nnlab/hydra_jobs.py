"""Between Hydra and a sweep: composing jobs, their ``.hydra/`` record and their returns."""

from __future__ import annotations

import functools
import hashlib
import json
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf._utils import get_omega_conf_dumper

from nnlab import config as configuration
from nnlab import sweep

LONGEST_NAME = 100


def run_alone(composed: DictConfig) -> float:
    """Train one run where Hydra put it: the task that Hydra's own launchers call."""
    hydra = HydraConfig.get()
    overrides = list(hydra.overrides.task)
    job = as_job(composed, Path(hydra.runtime.output_dir), overrides, hydra_files={})
    (outcome,) = sweep.train([job])
    sweep.history.append(outcome)
    if outcome.error is not None:
        raise outcome.error
    return outcome.objective()


def launch(
    context: HydraContext,
    task_function: TaskFunction,
    master: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
) -> list[JobReturn]:
    """Compose every job, train them all as one sweep, and report each to Hydra."""
    setup_globals()
    configure_log(master.hydra.hydra_logging, master.hydra.verbose)
    composers = [
        functools.partial(compose, context, master, overrides, number)
        for number, overrides in enumerate(job_overrides, first)
    ]
    watched = bool(context.callbacks.callbacks)
    jobs = []
    singleton: Any = HydraConfig.instance()
    ours = singleton.cfg
    for composer in composers:
        config = composer()
        if watched:
            context.callbacks.on_job_start(config=config, task_function=task_function)
        hydra = config.hydra
        folder = Path(hydra.sweep.dir, hydra.sweep.subdir)
        overrides = [str(override) for override in hydra.overrides.task]
        files = hydra_files(config)
        singleton.cfg = SimpleNamespace(hydra=hydra)  # for ${hydra:...} in the task's options
        jobs.append(as_job(without_hydra(config), folder, overrides, files))
    singleton.cfg = ours
    outcomes = sweep.train(jobs)
    sweep.history.extend(outcomes)
    forget_refused(Path(master.hydra.sweep.dir))
    returns: list[JobReturn] = []
    for composer, outcome in zip(composers, outcomes):
        returns.append(RunReturn(composer, outcome))
        if watched:
            context.callbacks.on_job_end(config=composer(), job_return=returns[-1])
    return returns


class RunReturn(JobReturn):
    """A job's return, whose configurations are composed when somebody looks at them.

    The value can be read even where the job failed. Hydra's sweeper reads every value and
    would drop the batches still to come at the first that raises; a failed run gives the
    worst value of its objective instead, and the command ends with a non-zero status.
    """

    def __init__(self, composer: functools.partial[DictConfig], outcome: sweep.Outcome) -> None:
        self.composer = composer
        self.overrides = outcome.job.overrides
        self.working_dir = str(Path.cwd())
        self.task_name = "run"
        self.status = JobStatus.COMPLETED if outcome.error is None else JobStatus.FAILED
        self._return_value = outcome.objective()

    @property  # type: ignore[misc]
    def return_value(self) -> float:
        return cast(float, self._return_value)

    @property
    def cfg(self) -> DictConfig:  # type: ignore[override]
        return without_hydra(self.composer())

    @property
    def hydra_cfg(self) -> DictConfig:  # type: ignore[override]
        return OmegaConf.masked_copy(self.composer(), "hydra")


class SweepLoader(ConfigLoaderImpl):
    """Hydra's configuration loader, with a short way to the jobs of a sweep.

    Hydra composes every job from its files, 0.05 s and twice over. Jobs that differ in
    plain values only are one composition here, to which each applies its values exactly
    as Hydra would, with Hydra's own code.
    """

    def __init__(self, search_path: ConfigSearchPath) -> None:
        super().__init__(search_path)
        self.templates: dict[tuple[str, ...], bytes] = {}
        self.parsed: dict[str, tuple[Override, bool]] = {}  # and whether it is plain

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        """Return what Hydra's loader would, composed from the files at most once per choice."""
        parsed = [self.parse(override) for override in sweep_overrides]
        plain = [override for override, is_plain in parsed if is_plain]
        choices = tuple(str(each.input_line) for each, is_plain in parsed if not is_plain)
        if choices not in self.templates:
            composed = super().load_sweep_config(master_config, list(choices))
            self.templates[choices] = pickle.dumps(composed)
        config = cast(DictConfig, pickle.loads(self.templates[choices]))
        self._apply_overrides_to_config(plain, config)
        task = [override for override, _ in parsed if not override.is_hydra_override()]
        hydra = config.hydra
        hydra.overrides.task = [override.input_line for override in task]
        naming = hydra.job.config.override_dirname
        hydra.job.override_dirname = get_overrides_dirname(
            overrides=task,
            kv_sep=naming.kv_sep,
            item_sep=naming.item_sep,
            exclude_keys=naming.exclude_keys,
        )
        OmegaConf.copy_cache(from_config=master_config, to_config=config)
        return config

    def parse(self, text: str) -> tuple[Override, bool]:
        """Parse an override, and say whether it only sets a value of the task.

        Such a value is applied after all files have been composed.
        """
        if text not in self.parsed:
            override = OverridesParser.create().parse_override(text)
            plain = (
                override.type is OverrideType.CHANGE
                and override.package is None
                and not override.is_sweep_override()
                and not override.is_hydra_override()
                and not self.repository.group_exists(override.key_or_group)
            )
            self.parsed[text] = override, plain
        return self.parsed[text]


def compose(
    context: HydraContext, master: DictConfig, overrides: Sequence[str], number: int
) -> DictConfig:
    """Compose one job as Hydra's own launchers do, with the folder where it goes."""
    config = context.config_loader.load_sweep_config(master, list(overrides))
    hydra = config.hydra
    hydra.job.id = str(number)
    hydra.job.num = number
    hydra.runtime.output_dir = str(Path(hydra.sweep.dir, hydra.sweep.subdir).absolute())
    return config


def as_job(
    composed: DictConfig, folder: Path, overrides: list[str], hydra_files: dict[str, str]
) -> sweep.Job:
    """Make a job of a composed configuration; what is wrong with it is kept in the job."""
    job = sweep.Job(folder, overrides, str(composed.objective), hydra_files)
    try:
        job.config = configuration.from_hydra(composed)
    except ValueError as error:
        job.refused = error
    return job


def without_hydra(config: DictConfig) -> DictConfig:
    """Take Hydra's own part out of a composed configuration, in place; return it."""
    with read_write(config), open_dict(config):
        del config["hydra"]
    return config


def hydra_files(config: DictConfig) -> dict[str, str]:
    """Return the content of the files that Hydra keeps in a run's folder, by their path."""
    folder = config.hydra.output_subdir
    if folder is None:
        return {}
    tree = cast("dict[str, Any]", OmegaConf.to_container(config, enum_to_str=True))
    hydra = {"hydra": tree.pop("hydra")}
    return {
        f"{folder}/config.yaml": to_yaml(tree),
        f"{folder}/hydra.yaml": to_yaml(hydra),
        f"{folder}/overrides.yaml": _dump(json.dumps(hydra["hydra"]["overrides"]["task"])),
    }


def to_yaml(tree: dict[str, Any], path: tuple[str, ...] = ()) -> str:
    """Return a tree as OmegaConf.to_yaml writes it, each part dumped once for all jobs.

    path: the keys that lead to the tree, where it is part of a larger one.
    """
    text = ""
    for key, value in tree.items():
        nested = isinstance(value, dict) and value and len(path) < 2
        header = _dump(json.dumps({key: 0})).partition(" 0\n")[0]
        if nested and header == f"{key}:":  # a key that needs no quotes
            text += "  " * len(path) + header + "\n" + to_yaml(value, (*path, key))
            continue
        node: Any = {key: value}
        for name in reversed(path):
            node = {name: node}
        text += _dump(json.dumps(node)).split("\n", len(path))[-1]
    return text


@functools.lru_cache(maxsize=4096)
def _dump(tree: str) -> str:
    """Return a JSON tree as OmegaConf.to_yaml writes it."""
    text: str = yaml.dump(
        json.loads(tree),
        default_flow_style=False,
        allow_unicode=True,
        sort_keys=False,
        Dumper=get_omega_conf_dumper(),
    )
    return text


def forget_refused(study: Path) -> None:
    """Remove what Hydra's sweeper wrote if every run of the study was refused."""
    if [path.name for path in study.iterdir()] == ["multirun.yaml"]:
        (study / "multirun.yaml").unlink()
        study.rmdir()
        if not any(study.parent.iterdir()):
            study.parent.rmdir()


def folder_name(override_dirname: str) -> str:
    """Turn swept overrides into a directory name without slashes, brackets or spaces.

    >>> folder_name("train_size=500,optimizer.lr=0.1")
    'train_size=500,optimizer.lr=0.1'
    >>> folder_name("model.hidden=[128,64],seed=1"), folder_name("model.hidden=[]")
    ('model.hidden=128-64,seed=1', 'model.hidden=none')
    >>> folder_name("dataset.folder=a/b")
    'dataset.folder=a-b-536bbc24'
    >>> folder_name("")
    'default'
    """
    name = re.sub(r"\[([\d, ]*)\]", lambda found: _listed(found[1]), override_dirname)
    plain = re.sub(r"[^\w.,=+-]+", "-", name)
    if plain != name or len(plain) > LONGEST_NAME:
        # Different overrides must not meet in one folder once characters are lost.
        digest = hashlib.sha256(override_dirname.encode()).hexdigest()[:8]
        plain = f"{plain[:LONGEST_NAME].rstrip('-')}-{digest}"
    return plain or "default"


def _listed(items: str) -> str:
    return "-".join(item.strip() for item in items.split(",")) or "none"


OmegaConf.register_new_resolver("nnlab.folder_name", folder_name, replace=True)
