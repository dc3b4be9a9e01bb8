"""Between Hydra and a sweep: composing jobs, their ``.hydra/`` record and their returns."""

from __future__ import annotations

import functools
import hashlib
import json
import pickle
import re
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeAlias, cast

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_omega_conf_dumper

from nnlab import config as configuration
from nnlab import sweep

LONGEST_NAME = 100
YAML: TypeAlias = dict[tuple[str, ...], str]  # by the keys that lead there
# What of hydra's node differs between jobs, and the entries that hold it.
OWN = {("hydra", key) for key in ("job", "overrides", "runtime")} | {
    *(("hydra", "job", key) for key in ("id", "num", "override_dirname")),
    *(("hydra", "overrides", "task"), ("hydra", "runtime", "output_dir")),
}


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
    loader = cast(SweepLoader, context.config_loader)
    for number, composer in enumerate(composers, first):
        known: YAML = {}
        if watched:
            config = composer()
            context.callbacks.on_job_start(config=config, task_function=task_function)
            hydra = config.hydra
            folder = Path(hydra.sweep.dir, hydra.sweep.subdir)
        else:
            config, known = loader.lend(master, job_overrides[number - first])
            hydra = config.hydra
            folder = place(hydra, number)
        kept = hydra.output_subdir
        overrides = [str(override) for override in hydra.overrides.task]
        task = without_hydra(config)
        files = {} if kept is None else hydra_files(kept, hydra, task, known)
        singleton.cfg = SimpleNamespace(hydra=hydra)  # for ${hydra:...} in the task's options
        jobs.append(as_job(task, folder, overrides, files))
    singleton.cfg = ours
    outcomes = sweep.train(jobs, report=True)
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


class Shared(NamedTuple):
    """What jobs that differ in plain values only have in common, in parts.

    task: the configuration, pickled, with None in place of hydra's node. parts: its YAML,
    see ``yaml_parts``, apart from ``OWN``.
    """

    task: bytes
    hydra: DictConfig
    parts: YAML


class SweepLoader(ConfigLoaderImpl):
    """Hydra's configuration loader, with a short way to the jobs of a sweep.

    Hydra composes every job from its files, 0.05 s and twice over. Jobs that differ in
    plain values only are one composition here, to which each applies its values exactly
    as Hydra would, with Hydra's own code.
    """

    def __init__(self, search_path: ConfigSearchPath) -> None:
        super().__init__(search_path)
        self.templates: dict[tuple[tuple[str, ...], int], bytes] = {}
        self.parsed: dict[str, tuple[Override, bool]] = {}  # and whether it is plain

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        """Return what Hydra's loader would, composed from the files at most once per choice.

        Lent: Hydra's sweepers compose every job to see whether it is legal, and let it go.
        """
        return self.lend(master_config, sweep_overrides)[0]

    def own(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        """Return what ``load_sweep_config`` does, to be kept."""
        parsed = self.parse_all(sweep_overrides)
        config = pickle.loads(self.template(master_config, parsed))
        return self.fill(config, master_config, parsed)

    def lend(
        self, master_config: DictConfig, sweep_overrides: Sequence[str]
    ) -> tuple[DictConfig, YAML]:
        """Return what ``own`` does, in half the time, and what YAML is known of it.

        Its hydra node is every job's in turn: ``place`` it, and be done with it by the next call.
        """
        parsed = self.parse_all(sweep_overrides)
        task, hydra, parts = share(self.template(master_config, parsed))
        config = pickle.loads(task)
        hydra._set_parent(config)
        config.__dict__["_content"]["hydra"] = hydra
        changed = {each.key_or_group.partition(".")[0] for each, is_plain in parsed if is_plain}
        known = {path: text for path, text in parts.items() if path[0] not in changed}
        return self.fill(config, master_config, parsed), known

    def template(self, master: DictConfig, parsed: list[tuple[Override, bool]]) -> bytes:
        """Return the composition that lacks only the plain values, pickled."""
        choices = tuple(str(each.input_line) for each, is_plain in parsed if not is_plain)
        count = sum(not override.is_hydra_override() for override, _ in parsed)
        if (choices, count) not in self.templates:
            config = super().load_sweep_config(master, list(choices))
            config.hydra.overrides.task = [""] * count
            self.templates[choices, count] = pickle.dumps(config)
        return self.templates[choices, count]

    def fill(
        self, config: DictConfig, master: DictConfig, parsed: list[tuple[Override, bool]]
    ) -> DictConfig:
        """Make a template a job's configuration, in place; return it."""
        self._apply_overrides_to_config([each for each, is_plain in parsed if is_plain], config)
        task = [override for override, _ in parsed if not override.is_hydra_override()]
        hydra = config.hydra
        lines = hydra.overrides.task
        for index, override in enumerate(task):
            lines._get_node(index)._set_value(override.input_line)  # ten times as fast as lines[]
        job = hydra.job
        naming = job.config.override_dirname
        job.override_dirname = get_overrides_dirname(
            overrides=task,
            kv_sep=naming.kv_sep,
            item_sep=naming.item_sep,
            exclude_keys=naming.exclude_keys,
        )
        OmegaConf.copy_cache(from_config=master, to_config=config)
        return config

    def parse_all(self, overrides: Sequence[str]) -> list[tuple[Override, bool]]:
        """Parse a job's overrides, and say of each whether it is plain.

        Where something is added or deleted, the order of all of them matters: none is plain.
        """
        parsed = [self.parse(override) for override in overrides]
        in_order = any(override.type is not OverrideType.CHANGE for override, _ in parsed)
        return [(override, is_plain and not in_order) for override, is_plain in parsed]

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
                and override.key_or_group != "hydra"
                and not self.repository.group_exists(override.key_or_group)
            )
            self.parsed[text] = override, plain
        return self.parsed[text]


@functools.lru_cache(maxsize=16)
def share(template: bytes) -> Shared:
    """Take a pickled composition apart into what its jobs can share."""
    config = pickle.loads(template)
    content = config.__dict__["_content"]
    hydra, content["hydra"] = content["hydra"], None
    task = pickle.dumps(config)
    content.pop("hydra")
    parts = yaml_parts(config, (), {}) | yaml_parts(hydra, ("hydra",), {})
    return Shared(task, hydra, {path: text for path, text in parts.items() if path not in OWN})


def compose(
    context: HydraContext, master: DictConfig, overrides: Sequence[str], number: int
) -> DictConfig:
    """Compose one job as Hydra's own launchers do, with the folder where it goes."""
    loader = context.config_loader
    load = loader.own if isinstance(loader, SweepLoader) else loader.load_sweep_config
    config = load(master, list(overrides))
    place(config.hydra, number)
    return config


def place(hydra: DictConfig, number: int) -> Path:
    """Tell a job's hydra node its number and its folder; return the folder."""
    job = hydra.job
    job.id = str(number)
    job.num = number
    where = hydra.sweep
    folder = Path(where.dir, where.subdir)
    hydra.runtime.output_dir = str(folder.absolute())
    return folder


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
    del config.__dict__["_content"]["hydra"]  # whatever its flags say: they are not for us
    return config


def hydra_files(folder: str, hydra: DictConfig, task: DictConfig, known: YAML) -> dict[str, str]:
    """Return the content of the files that Hydra keeps in a run's folder, by their path."""
    lines = [_dump(json.dumps([line])) for line in to_tree(hydra.overrides.task)]
    return {
        f"{folder}/config.yaml": "".join(yaml_parts(task, (), known).values()),
        f"{folder}/hydra.yaml": "hydra:\n" + "".join(yaml_parts(hydra, ("hydra",), known).values()),
        f"{folder}/overrides.yaml": "".join(lines) or "[]\n",
    }


def yaml_parts(config: DictConfig, path: tuple[str, ...], known: YAML) -> YAML:
    """Return the YAML of a configuration that stands at ``path``, an entry each, in order.

    Those of ``OWN`` that have entries are their key only, followed by their entries.
    """
    parts: YAML = {}
    for key in map(str, config):
        here = (*path, key)
        if here in known:
            parts[here] = known[here]
            continue
        child = config._get_child(key)
        if here in OWN and isinstance(child, DictConfig):
            parts[here] = "  " * len(path) + f"{key}:\n"
            parts |= yaml_parts(child, here, known)
        else:
            parts[here] = to_yaml({key: to_tree(child)}, path)
    return parts


def to_tree(node: Any) -> Any:
    """Return a node as plain values, interpolations as they are written."""
    if OmegaConf.is_config(node):
        return OmegaConf.to_container(node, enum_to_str=True)
    value = node._value()
    return value.name if isinstance(value, Enum) else value


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
        if type(value) is int and header == f"{key}:":
            text += "  " * len(path) + f"{header} {value}\n"  # most often the seed
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
