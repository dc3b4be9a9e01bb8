"""Between Hydra and a sweep: composing jobs, their ``.hydra/`` record and their returns."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import json
import logging
import pickle
import re
import shutil
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple, TypeAlias, cast

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, Node, OmegaConf, grammar_parser
from omegaconf._utils import get_omega_conf_dumper

from nnlab import config as configuration
from nnlab import study, sweep
from nnlab.config import CONF
from nnlab.jobs import Job, Outcome

log = logging.getLogger("nnlab")
LONGEST_NAME = 100
OF_HYDRA = {".hydra", "run.log"}  # what its launchers put into a job's folder
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"  # tries what it is given
YAML: TypeAlias = dict[tuple[str, ...], str]  # by the keys that lead there
# What of hydra's node differs between jobs, and the entries that hold it.
OWN = {("hydra", key) for key in ("job", "overrides", "runtime")} | {
    *(("hydra", "job", key) for key in ("id", "num", "override_dirname")),
    *(("hydra", "overrides", "task"), ("hydra", "runtime", "output_dir")),
}

# Texts that YAML takes for nothing else, which holds where there is a / or = among letters;
# and those that it quotes, or they would be numbers.
PLAIN = re.compile(r"(/|[A-Za-z][\w.,+-]*[/=])[\w.,+/=\[\]-]*", re.ASCII)
NUMBER = re.compile(r"0|[1-9][0-9]*", re.ASCII)


def run_alone(composed: DictConfig) -> float:
    """Train one run where Hydra put it: the task that Hydra's own launchers call."""
    hydra = HydraConfig.get()
    overrides = list(hydra.overrides.task)
    job = as_job(composed, Path(hydra.runtime.output_dir), overrides, hydra_files={})
    check_search(hydra, [job])
    (outcome,) = sweep.train([job])
    sweep.history.append(outcome)
    if outcome.error is not None:
        raise outcome.error
    if outcome.twin is not None and {path.name for path in job.folder.iterdir()} <= OF_HYDRA:
        shutil.rmtree(job.folder, ignore_errors=True)  # Hydra made it for a run that is elsewhere
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
    here, objective = Path(master.hydra.sweep.dir), str(master.objective)
    now: dict[str, str | None] = {}  # content of the data, by what asks for them
    for number, composer in enumerate(composers, first):
        found = None if watched else loader.find(master, job_overrides[number - first])
        if found is not None and found.data in now and now[found.data] == found.content:
            line = list(job_overrides[number - first])
            jobs.append(Job(here / found.folder, line, objective, {}, found=found))
            continue
        if watched:
            lent = Lent(composer(), {}, {})
            context.callbacks.on_job_start(config=lent.config, task_function=task_function)
            hydra = lent.config.hydra
            folder = Path(hydra.sweep.dir, hydra.sweep.subdir)
        else:
            lent = loader.lend(master, job_overrides[number - first])
            hydra = lent.config.hydra
            folder = place(hydra, number)
        kept = hydra.output_subdir
        overrides = [str(override) for override in hydra.overrides.task]
        task = without_hydra(lent.config)
        files = {} if kept is None else hydra_files(kept, hydra, task, lent.yaml)
        singleton.cfg = SimpleNamespace(hydra=hydra)  # for ${hydra:...} in the task's options
        job = as_job(task, folder, overrides, files, lent.options)
        jobs.append(job)
        if found is not None and job.config is not None:
            now[study.data_key(job.identity["config"])] = sweep.content(job.config)
    singleton.cfg = ours
    check_search(master.hydra, jobs)
    outcomes = sweep.train(jobs, report=True)
    sweep.history.extend(outcomes)
    loader.remember(master, job_overrides, outcomes)
    forget_refused(here)
    returns: list[JobReturn] = []
    for composer, outcome in zip(composers, outcomes):
        returns.append(RunReturn(composer, outcome))
        if watched:
            context.callbacks.on_job_end(config=composer(), job_return=returns[-1])
    return returns


def check_search(hydra: Any, jobs: Sequence[Job]) -> None:
    """Raise ValueError where a sweeper that optimises would choose by nothing, or the wrong way.

    Choosing by the test set is possible, and said.
    """
    if hydra.sweeper._target_ == BASIC_SWEEPER:
        return
    sweeper = f"hydra/sweeper={hydra.runtime.choices['hydra/sweeper']}"
    for config in (job.config for job in jobs if job.config is not None):
        metric = config.objective
        if metric.startswith("valid") and config.valid_size == 0:
            raise ValueError(
                f"{sweeper} chooses runs by objective={metric}, but there is no validation set; "
                f"set valid_size (say valid_size=500)"
            )
        direction = str(OmegaConf.select(hydra, "sweeper.direction", default="")).rpartition(".")[2]
        wanted = "maximize" if metric.endswith("accuracy") else "minimize"
        if direction in ("minimize", "maximize") and direction != wanted:
            raise ValueError(
                f"{sweeper} would {direction} objective={metric}; "
                f"set hydra.sweeper.direction={wanted}"
            )
    if any(job.config and job.config.objective.startswith("test") for job in jobs):
        log.info(
            "objective=%s: the test set chooses the best run here, so it no longer tests it",
            jobs[0].objective,
        )


class RunReturn(JobReturn):
    """A job's return, whose configurations are composed when somebody looks at them.

    The value can be read even where the job failed. Hydra's sweeper reads every value and
    would drop the batches still to come at the first that raises; a failed run gives the
    worst value of its objective instead, and the command ends with a non-zero status.
    """

    def __init__(self, composer: functools.partial[DictConfig], outcome: Outcome) -> None:
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


class Lent(NamedTuple):
    """A job's composition until the next one is lent, and what is known of it.

    yaml: its YAML, see ``yaml_parts``, as far as known. options: typed values, by their key.
    """

    config: DictConfig
    yaml: YAML
    options: dict[str, Any]


class Option(NamedTuple):
    """What stands at a key of the task's configuration, which jobs share.

    value: typed and in a tuple; an empty one where that takes the job's other options, as an
    interpolation does, or fails.
    """

    node: Node
    yaml: str
    value: tuple[Any, ...]


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
        self.parser = OverridesParser.create()
        self.answers: dict[str, study.Entry] | None = None  # the runs by what asked for them

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        """Return what Hydra's loader would, composed from the files at most once per choice.

        Lent: Hydra's sweepers compose every job to see whether it is legal, and let it go. One
        that was answered before is.
        """
        if self.find(master_config, sweep_overrides) is not None:
            return master_config
        return self.lend(master_config, sweep_overrides).config

    def find(self, master: DictConfig, overrides: Sequence[str]) -> study.Entry | None:
        """Return the finished run that the same command led to before, by the study's index.

        So of 10,000 finished runs not one is composed, which would take half a minute.
        """
        if self.answers is None:
            self.answers = {}
            if master.hydra.sweeper._target_ == BASIC_SWEEPER:
                self.answers = study.look(Path(master.hydra.sweep.dir)).answers()
        return self.answers.get(self.asked(overrides) or "") if self.answers else None

    def remember(
        self,
        master: DictConfig,
        job_overrides: Sequence[Sequence[str]],
        outcomes: Sequence[Outcome],
    ) -> None:
        """Tell the study's index which commands led to which runs, for ``find``."""
        runs = study.look(Path(master.hydra.sweep.dir))
        for overrides, outcome in zip(job_overrides, outcomes):
            config = outcome.job.config
            asked = self.asked(overrides)
            if config and asked and not (config.evaluation or config.plan or config.force):
                runs.remember(asked, outcome.folder)

    def asked(self, overrides: Sequence[str]) -> str | None:
        """Return a digest of all that a job's configuration is composed of.

        None where that cannot be told: a folder of the user's own, or a resolver such as oc.env.
        """
        text = "\0".join([self.files, *overrides])
        if not self.files or re.search(r"\$\{(?!nnlab\.)[\w.]+:", text):
            return None
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @functools.cached_property
    def files(self) -> str:
        """The YAML files that configurations are composed of, if they are nnlab's, as one text."""
        paths = {element.path for element in self.get_search_path().get_path()}
        if paths != {"pkg://hydra.conf", str(CONF), "structured://"}:
            return ""
        return "\0".join(path.read_text(encoding="utf-8") for path in sorted(CONF.rglob("*.yaml")))

    def own(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        """Return what ``load_sweep_config`` does, to be kept."""
        parsed = self.parse_all(sweep_overrides)
        config = pickle.loads(self.template(master_config, parsed))
        self._apply_overrides_to_config([each for each, is_plain in parsed if is_plain], config)
        self.tell_hydra(config, master_config, parsed)
        return cast(DictConfig, config)

    def lend(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> Lent:
        """Return what ``own`` does, in a tenth of the time, and what is known of it.

        Its nodes are other jobs' as well: ``place`` it, read it, and be done with it by the
        next call.
        """
        parsed = self.parse_all(sweep_overrides)
        shared = share(self.template(master_config, parsed))
        config, yaml, options = shared.lend([each for each, is_plain in parsed if is_plain])
        self.tell_hydra(config, master_config, parsed)
        return Lent(config, yaml, options)

    def template(self, master: DictConfig, parsed: list[tuple[Override, bool]]) -> bytes:
        """Return the composition that lacks only the plain values, pickled."""
        choices = tuple(str(each.input_line) for each, is_plain in parsed if not is_plain)
        count = sum(not override.is_hydra_override() for override, _ in parsed)
        if (choices, count) not in self.templates:
            config = super().load_sweep_config(master, list(choices))
            config.hydra.overrides.task = [""] * count
            self.templates[choices, count] = pickle.dumps(config)
        return self.templates[choices, count]

    def tell_hydra(
        self, config: DictConfig, master: DictConfig, parsed: list[tuple[Override, bool]]
    ) -> None:
        """Tell a job's hydra node what Hydra would of its overrides."""
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
            override = self.parser.parse_override(text)
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


class Shared:
    """A composition that is lent to one job after another, with each job's values in it.

    A key's node, with all values below it, is made once for all jobs that give it the same.
    """

    def __init__(self, composed: DictConfig) -> None:
        self.config = composed
        self.nodes: dict[str, Node] = dict(composed.__dict__["_content"])
        hydra = yaml_parts(composed.hydra, ("hydra",), {})
        self.yaml = {path: text for path, text in hydra.items() if path not in OWN}
        self.options: dict[tuple[str, ...], Option] = {}

    def lend(self, overrides: list[Override]) -> Lent:
        """Return the composition with plain overrides applied to it."""
        given: dict[str, list[Override]] = {key: [] for key in self.nodes if key != "hydra"}
        for override in overrides:
            given.setdefault(override.key_or_group.partition(".")[0], []).append(override)
        options = {key: self.option(key, values) for key, values in given.items()}
        nodes = {key: option.node for key, option in options.items()}
        self.config.__dict__["_content"] = self.nodes | nodes
        yaml = {(key,): option.yaml for key, option in options.items()}
        known = {key: option.value[0] for key, option in options.items() if option.value}
        return Lent(self.config, self.yaml | yaml, known)

    def option(self, key: str, overrides: list[Override]) -> Option:
        """Return what the overrides of a key make of it."""
        lines = (key, *(str(override.input_line) for override in overrides))
        if lines not in self.options:
            content = {each: node for each, node in self.nodes.items() if each != "hydra"}
            if overrides and key in content:
                content[key] = copy.deepcopy(content[key])
            self.config.__dict__["_content"] = content
            SweepLoader._apply_overrides_to_config(overrides, self.config)
            yaml = to_yaml({key: to_tree(self.config._get_child(key))})
            value: tuple[Any, ...] = ()
            if "${" not in yaml:
                with contextlib.suppress(ValueError):  # which ``as_job`` keeps in each job
                    value = (configuration.option(self.config, key),)
            self.options[lines] = Option(content[key], yaml, value)
        return self.options[lines]


@functools.lru_cache(maxsize=16)
def share(template: bytes) -> Shared:
    """Return what jobs share of a pickled composition."""
    return Shared(pickle.loads(template))


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
    folder = Path(resolved(hydra.sweep, "dir"), resolved(hydra.sweep, "subdir"))
    hydra.runtime.output_dir = str(folder.absolute())
    return folder


def resolved(node: DictConfig, key: str) -> Any:
    """Return ``node[key]``, as OmegaConf does, but parse an interpolation once for all jobs."""
    child: Any = node._get_node(key)
    if not child._is_interpolation():
        return node[key]
    found = node._resolve_interpolation_from_parse_tree(
        parent=node,
        value=child,
        key=key,
        parse_tree=_grammar(child._value()),
        throw_on_resolution_failure=True,
        memo=set(),
    )
    assert found is not None
    return found._value()


@functools.lru_cache(maxsize=16)
def _grammar(interpolation: str) -> Any:  # a parse tree
    return grammar_parser.parse(interpolation)


def as_job(
    composed: DictConfig,
    folder: Path,
    overrides: list[str],
    hydra_files: dict[str, str],
    known: Mapping[str, Any] = MappingProxyType({}),
) -> Job:
    """Make a job of a composed configuration; what is wrong with it is kept in the job.

    known: as for ``config.from_hydra``.
    """
    job = Job(folder, overrides, str(composed.objective), hydra_files)
    try:
        job.config = configuration.from_hydra(composed, known)
    except ValueError as error:
        job.refused = error
    return job


def without_hydra(config: DictConfig) -> DictConfig:
    """Take Hydra's own part out of a composed configuration, in place; return it."""
    del config.__dict__["_content"]["hydra"]  # whatever its flags say: they are not for us
    return config


def hydra_files(folder: str, hydra: DictConfig, task: DictConfig, known: YAML) -> dict[str, str]:
    """Return the content of the files that Hydra keeps in a run's folder, by their path."""
    overrides = to_tree(hydra.overrides.task)
    lines = [f"- {word(each)}\n" if word(each) else _dump(json.dumps([each])) for each in overrides]
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
    return "".join(_entry(key, value, path) for key, value in tree.items())


def _entry(key: str, value: Any, path: tuple[str, ...]) -> str:
    indent = "  " * len(path)
    if _dump(json.dumps({key: 0})) == f"{key}: 0\n":  # a key that needs no quotes
        if isinstance(value, dict) and value and len(path) < 2:
            return f"{indent}{key}:\n" + to_yaml(value, (*path, key))
        if isinstance(value, list) and value and all(map(word, value)):
            return f"{indent}{key}:\n" + "".join(f"{indent}- {word(each)}\n" for each in value)
        if word(value):
            return f"{indent}{key}: {word(value)}\n"
    node: Any = {key: value}
    for name in reversed(path):
        node = {name: node}
    return _dump(json.dumps(node)).split("\n", len(path))[-1]


def word(value: Any) -> str | None:
    """Return a value's YAML where it is the same in every place, None where YAML has to judge.

    That takes 0.1 ms for each value; this is enough for nearly all that a job has of its own.

    >>> word(3), word("3"), word("optimizer.lr=0.1"), word("/a/b"), word("null"), word("a b")
    ('3', "'3'", 'optimizer.lr=0.1', '/a/b', None, None)
    """
    if type(value) is str:
        if NUMBER.fullmatch(value):
            return f"'{value}'"
        return value if PLAIN.fullmatch(value) else None
    return str(value) if type(value) is int else None


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
