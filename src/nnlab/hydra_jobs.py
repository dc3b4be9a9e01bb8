"""Between Hydra and a sweep: its jobs, their ``.hydra/`` record and their returns."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.config_source import ConfigSource
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from nnlab import datasets, study, sweep
from nnlab.compose import Template, from_hydra, set_output_dir, set_overrides, without_hydra
from nnlab.config import CONF
from nnlab.jobs import Job, Outcome
from nnlab.schedule import cores

log = logging.getLogger("nnlab")
MOST_TEMPLATES = 256  # of a third of a megabyte each
OF_HYDRA = {".hydra", "run.log"}  # what its launchers put into a job's folder
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"  # tries what it is given


class Command:
    """What a command line has Hydra call for each job; keeps the outcomes of all of them.

    nnlab's launcher hands it whole batches, see ``launch``; the other launchers call it.
    """

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.process = os.getpid()

    def __call__(self, task: DictConfig) -> float:
        """Train one run where Hydra put it.

        Raises what went wrong only in another process, whose outcomes this one does not see;
        else the sweep goes on, and the command tells it at its end.
        """
        hydra = HydraConfig.get()
        job = as_job(task, Path(hydra.runtime.output_dir), list(hydra.overrides.task), {})
        job.concurrent = jobs_at_once(hydra)
        check_search(hydra, [job])
        (outcome,) = sweep.train([job])
        self.outcomes.append(outcome)
        if outcome.error is not None and os.getpid() != self.process:
            raise outcome.error
        if {path.name for path in job.folder.iterdir()} <= OF_HYDRA:
            shutil.rmtree(job.folder, ignore_errors=True)  # the run was refused, or is elsewhere
        return outcome.objective()


def launch(
    context: HydraContext,
    command: TaskFunction,
    master: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
) -> list[JobReturn]:
    """Compose every job, train them all as one sweep, and report each to Hydra.

    Raises ValueError where the command is none of nnlab's.
    """
    if not isinstance(command, Command):
        raise ValueError(
            f"hydra/launcher=nnlab trains nnlab's runs, not those of {command}; "
            f"choose another, say hydra/launcher=basic"
        )
    setup_globals()
    configure_log(master.hydra.hydra_logging, master.hydra.verbose)
    loader = cast(SweepLoader, context.config_loader)
    composers = [
        functools.partial(compose_job, loader.hydras, master, list(overrides), number)
        for number, overrides in enumerate(job_overrides, first)
    ]
    callbacks = context.callbacks if context.callbacks.callbacks else None
    if callbacks is None:
        jobs = make_jobs(loader, master, job_overrides, first)
    else:
        jobs = []
        for composer in composers:
            composed = composer()
            callbacks.on_job_start(config=composed, task_function=command)
            jobs.append(fill(Template(composed), composed.hydra.job.num))
    check_search(master.hydra, jobs)
    outcomes = sweep.train(jobs, report=True)
    command.outcomes.extend(outcomes)
    loader.remember(master, job_overrides, outcomes)
    forget_refused(Path(master.hydra.sweep.dir))
    returns: list[JobReturn] = []
    for composer, outcome in zip(composers, outcomes):
        returns.append(RunReturn(composer, outcome))
        if callbacks is not None:
            callbacks.on_job_end(config=composer(), job_return=returns[-1])
    return returns


def make_jobs(
    loader: SweepLoader, master: DictConfig, job_overrides: Sequence[Sequence[str]], first: int
) -> list[Job]:
    """Make a batch's jobs; what was answered before, on the data that are there, is not composed.

    first: the number of the first job among all of the sweep.
    """
    here, objective = Path(master.hydra.sweep.dir), str(master.objective)
    content: dict[str, str | None] = {}  # of the data now, by what asks for them
    jobs = []
    for number, overrides in enumerate(job_overrides, first):
        found = loader.find(master, overrides)
        if found is not None and found.data in content and content[found.data] == found.content:
            jobs.append(Job(here / found.folder, list(overrides), objective, {}, found=found))
            continue
        job = fill(loader.template(master, overrides), number)
        if found is not None and job.config is not None:
            data, sizes = job.config.dataset, job.config.sizes
            with contextlib.suppress(Exception):  # told of each job, which then are all composed
                content[study.data_key(job.identity["config"])] = datasets.content(data, sizes)
        jobs.append(job)
    return jobs


def fill(template: Template, number: int) -> Job:
    """Make the job whose values are in a template."""
    hydra = template.composed.hydra
    singleton = HydraConfig.instance()
    before, singleton.cfg = singleton.cfg, cast(Any, template.composed)  # for ${hydra:...}
    try:
        folder = set_output_dir(hydra, number)
        overrides = [str(line) for line in hydra.overrides.task]
        return as_job(template.composed, folder, overrides, template.files(), template.known)
    finally:
        singleton.cfg = before


def jobs_at_once(hydra: Any) -> int:
    """Return how many jobs a launcher has run at a time on this machine, as joblib counts them."""
    given: int = OmegaConf.select(hydra, "launcher.n_jobs", default=1)
    return given if given > 0 else max(1, cores() + 1 + given)


def check_search(hydra: Any, jobs: Sequence[Job]) -> None:
    """Raise ValueError where a sweeper that optimises would choose by nothing, or the wrong way.

    Choosing by the test set is possible, and said.
    """
    if hydra.sweeper._target_ == BASIC_SWEEPER:
        return
    sweeper = f"hydra/sweeper={hydra.runtime.choices['hydra/sweeper']}"
    given = OmegaConf.select(hydra, "sweeper.direction", default=None)
    directions = list(given) if OmegaConf.is_list(given) else [given]
    if len(directions) != 1:
        raise ValueError(f"{sweeper}: a run has one objective; give one hydra.sweeper.direction")
    direction = getattr(directions[0], "name", str(directions[0])).lower()
    for config in (job.config for job in jobs if job.config is not None):
        metric = config.objective
        if metric.startswith("valid") and config.valid_size == 0:
            raise ValueError(
                f"{sweeper} chooses runs by objective={metric}, but there is no validation set; "
                f"set valid_size (say valid_size=500)"
            )
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


class SweepLoader(ConfigLoader):
    """Hydra's configuration loader, with a short way to the jobs of a sweep.

    Hydra composes every job from its files, 0.05 s and twice over. Jobs that differ in
    values only are one composition here, into which each writes its values.
    """

    def __init__(self, hydras: ConfigLoader) -> None:
        self.hydras = hydras
        self.templates: dict[tuple[tuple[str, ...], ...], Template] = {}
        self.parsed: dict[str, Override] = {}
        self.parser = OverridesParser.create()
        self.groups: set[str] = set()
        self.answers: dict[str, study.Entry] | None = None  # the runs by what asked for them

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        """Return what Hydra's loader would, good until the next call.

        Hydra's sweepers compose every job to see whether it is legal, and let it go. One
        that was answered before is.
        """
        if self.find(master_config, sweep_overrides) is not None:
            return master_config
        return self.template(master_config, sweep_overrides).composed

    def template(self, master: DictConfig, overrides: Sequence[str]) -> Template:
        """Return a template with a job's values in it, until another job's are."""
        parsed = [self.parse(override) for override in overrides]
        places = self.places_of_values(master, parsed)
        values = [parsed[place] for place in places]
        choices = tuple(text for place, text in enumerate(overrides) if place not in places)
        key = choices, tuple(override.key_or_group for override in values)
        if key not in self.templates:
            while len(self.templates) >= MOST_TEMPLATES:
                del self.templates[next(iter(self.templates))]
            composed = self.hydras.load_sweep_config(master, list(choices))
            self.templates[key] = Template(composed, key[1])
        template = self.templates[key]
        OmegaConf.copy_cache(from_config=master, to_config=template.composed)
        try:
            template.update(values)
        except Exception:  # Hydra has its own words for it
            del self.templates[key]
            return Template(self.hydras.load_sweep_config(master, list(overrides)))
        set_overrides(template.composed.hydra, parsed)
        return template

    def places_of_values(self, master: DictConfig, overrides: Sequence[Override]) -> list[int]:
        """Return which of a job's overrides only set values, after all else is composed."""
        places: list[int] = []
        for place, override in enumerate(overrides):
            if override.type is not OverrideType.CHANGE:
                return []  # where something is added or deleted, the whole order matters
            if isinstance(override.value(), dict):
                places = []  # it is merged with what the overrides before it set
            elif self.sets_value(master, override):
                places.append(place)
        return places

    def parse(self, text: str) -> Override:
        if text not in self.parsed:
            self.parsed[text] = self.parser.parse_override(text)
        return self.parsed[text]

    def sets_value(self, master: DictConfig, override: Override) -> bool:
        """Say whether an override sets a value of the task, and chooses no group."""
        if not self.groups:
            hydras = list(master.hydra.overrides.hydra)
            name = master.hydra.job.config_name
            groups = self.hydras.get_group_options("", ObjectType.GROUP, name, hydras)
            self.groups = {"hydra", *groups}
        key = override.key_or_group
        return (
            override.package is None
            and not override.is_sweep_override()
            and re.split("[./]", key)[0] != "hydra"
            and "/" not in key
            and key not in self.groups
        )

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
        runs = study.known(Path(master.hydra.sweep.dir))
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

    # The rest is Hydra's.

    def load_configuration(self, *given: Any, **named: Any) -> DictConfig:
        return self.hydras.load_configuration(*given, **named)

    def get_search_path(self) -> ConfigSearchPath:
        return self.hydras.get_search_path()

    def get_sources(self) -> list[ConfigSource]:
        return self.hydras.get_sources()

    def list_groups(self, parent_name: str) -> list[str]:
        return self.hydras.list_groups(parent_name)

    def get_group_options(self, *given: Any, **named: Any) -> list[str]:
        return self.hydras.get_group_options(*given, **named)

    def compute_defaults_list(self, *given: Any, **named: Any) -> Any:
        return self.hydras.compute_defaults_list(*given, **named)


def compose_job(
    loader: ConfigLoader, master: DictConfig, overrides: list[str], number: int
) -> DictConfig:
    """Compose one job as Hydra's own launchers do, with the folder where it goes."""
    composed = loader.load_sweep_config(master, overrides)
    set_output_dir(composed.hydra, number)
    return composed


def as_job(
    composed: DictConfig,
    folder: Path,
    overrides: list[str],
    hydra_files: dict[str, str],
    known: Mapping[str, Any] = MappingProxyType({}),
) -> Job:
    """Make a job of a composed configuration; what is wrong with it is kept in the job.

    composed, known: as for ``compose.from_hydra``.
    """
    job = Job(folder, overrides, str(composed.objective), hydra_files)
    try:
        job.config = from_hydra(composed, known)
    except ValueError as error:
        job.refused = error
    return job


def forget_refused(study: Path) -> None:
    """Remove what Hydra's sweeper wrote if every run of the study was refused."""
    if [path.name for path in study.iterdir()] == ["multirun.yaml"]:
        (study / "multirun.yaml").unlink()
        study.rmdir()
        if not any(study.parent.iterdir()):
            study.parent.rmdir()
