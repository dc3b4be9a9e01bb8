"""Between Hydra and a sweep: the jobs of a command, their composition and their returns."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import math
import multiprocessing
import os
import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from nnlab import cores, datasets, interrupts, objective, records, storage, study, sweeps, targets
from nnlab.compose import Template
from nnlab.config import CONF, OwnNetworkConfig
from nnlab.jobs import Job, Outcome
from nnlab.records import HydraFiles
from nnlab.tally import Tally

log = logging.getLogger("nnlab")
MOST_TEMPLATES = 256  # of a third of a megabyte each
PARSED = 1024  # overrides that are not parsed again, of 2 kB each
SETTING = 500  # bytes of a setting in a report, where it has a row of the table and a line
JOB = 8_000  # and a run while its batch trains
OF_HYDRA = {".hydra", "run.log"}  # what its launchers put into a job's folder
SOURCES = ["hydra.conf", str(CONF), ""]  # of configurations, where none is the user's own
SEARCH = "search"  # nnlab's own that optimises
MULTIRUN = "multirun.yaml"  # Hydra's record of a command


class Command:
    """What a command line has Hydra call for each job; keeps a tally of their outcomes.

    nnlab's launcher hands it whole batches, see ``launch``; the other launchers call it.
    """

    def __init__(self) -> None:
        self.functions: Collection[str] = ()  # the user's own that may be called
        self.tally = Tally()
        self.forced: set[str] = set()  # see ``sweeps.train``
        self.last_lines: list[str] = []  # what it says at its end
        self.process = os.getpid()

    def __call__(self, task: DictConfig) -> float:
        """Train one run where Hydra put it.

        Raises what went wrong only in another process, whose outcomes this one does not see;
        else the sweep goes on, and the command tells it at its end.
        """
        hydra = HydraConfig.get()
        folder, overrides = Path(hydra.runtime.output_dir), list(hydra.overrides.task)
        job = as_job(Template(task), folder, overrides, {}, self.functions)
        job.concurrent = jobs_at_once(hydra)
        objective.check(hydra, [job])
        # joblib's workers may outlive this command's process, of which they are children.
        made_by = multiprocessing.parent_process()
        parent = self.process if made_by is not None and made_by.pid == self.process else None
        if parent is not None:
            interrupts.end_with(parent)
            logging.raiseExceptions = False  # a log on a full disk, which is told, has no traceback
        try:
            with interrupts.heeded(parent):
                (outcome,) = sweeps.train([job], forced=self.forced)
        except interrupts.Stopped as stopped:
            if parent is not None and os.getppid() != parent:
                os._exit(stopped.status)  # nobody is there to be told
            raise
        self.tally.add([outcome])
        if os.getpid() != self.process:
            if outcome.error is not None:
                raise outcome.error
            if outcome.result is not None and not task.plan:
                sweeps.clear_up(folder.parent, self.tally.studies[folder.parent].left)
        if {path.name for path in job.folder.iterdir()} <= OF_HYDRA:
            shutil.rmtree(job.folder, ignore_errors=True)  # the run was refused, or is elsewhere
        searched = hydra.runtime.choices["hydra/sweeper"] == SEARCH
        return math.nan if searched and outcome.error is not None else outcome.objective()


def launch_by(
    launcher: Launcher, command: TaskFunction, job_overrides: Sequence[Sequence[str]], first: int
) -> Sequence[JobReturn]:
    """Have a launcher train a command's jobs; first: the number of the first of them."""
    hydra = cast(Any, launcher).config.hydra
    with contextlib.ExitStack() as stack:
        # Of what a full disk has refused to Hydra itself no file is named.
        stack.enter_context(storage.named(Path(hydra.sweep.dir, MULTIRUN)))
        if is_joblib(launcher):
            check_workers(jobs_at_once(hydra))
            stack.enter_context(interrupts.heeded_here_only())
        try:
            returns = launcher.launch(job_overrides, initial_job_idx=first)
        except BrokenExecutor:
            raise ValueError(
                "one of joblib's workers was killed, for its memory perhaps, and all ended with "
                "it; finished runs are kept, and the same command goes on (hydra/launcher=batches "
                "starts such a worker anew)"
            ) from None
    note_elsewhere(command, returns)
    return returns


@contextlib.contextmanager
def checked_launchers() -> Iterator[None]:
    """Have one of Hydra's launchers ``check_jobs`` first, whatever sweeper launches them; nnlab's
    usual one has looked at all of a sweep."""
    make = Plugins.instantiate_launcher

    @functools.wraps(make)
    def checked(
        self: Plugins, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> Launcher:
        made = make(self, hydra_context, task_function, config)
        ours = config.hydra.launcher._target_.startswith("hydra_plugins.nnlab_")
        if not ours and config.hydra.sweeper._target_ != targets.SWEEPER:
            launch = made.launch

            def after_checks(
                job_overrides: Sequence[Sequence[str]], initial_job_idx: int
            ) -> Sequence[JobReturn]:
                loader = hydra_context.config_loader
                check_jobs(loader, config, job_overrides, initial_job_idx)
                return launch(job_overrides, initial_job_idx)

            made.launch = after_checks  # type: ignore[method-assign]
        return made

    Plugins.instantiate_launcher = checked  # type: ignore[method-assign]
    try:
        yield
    finally:
        Plugins.instantiate_launcher = make  # type: ignore[method-assign]


def is_joblib(launcher: Launcher | None) -> bool:
    """Return whether it is Hydra's joblib launcher, which an extra brings."""
    return type(launcher).__name__ == "JoblibLauncher"


def note_elsewhere(command: TaskFunction, returns: Sequence[JobReturn]) -> None:
    """Have a command say what makes the table of runs that trained in other processes."""
    if isinstance(command, Command) and not command.tally.runs:
        for each in returns:
            assert each.hydra_cfg is not None
            folder = os.path.relpath(Path(each.hydra_cfg.hydra.runtime.output_dir).parent)
            line = f"trained in other processes: python -m nnlab.report {folder} makes the table"
            if line not in command.last_lines:
                command.last_lines.append(line)


def launch(
    context: HydraContext,
    command: TaskFunction,
    master: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    where: sweeps.Here = sweeps.HERE,
) -> list[JobReturn]:
    """Compose every job, train them all as one sweep, and report each to Hydra.

    first: the number of the first job among all of the command. where: it trains.
    Raises ValueError where the command is none of nnlab's.
    """
    if not isinstance(command, Command):
        raise ValueError(
            f"hydra/launcher=nnlab trains nnlab's runs, not those of {command}; "
            f"choose another, say hydra/launcher=basic"
        )
    loader, callbacks = cast(SweepLoader, context.config_loader), context.callbacks

    def composer(place: int) -> functools.partial[DictConfig]:
        overrides = list(job_overrides[place])
        return functools.partial(compose_job, loader.hydras, master, overrides, first + place)

    if callbacks.callbacks:  # else a composition of each job, 0.1 s, would be for nobody
        for place in range(len(job_overrides)):
            callbacks.on_job_start(config=composer(place)(), task_function=command)
    jobs = make_jobs(loader, job_overrides, first, command.functions)
    objective.check(master.hydra, jobs)
    try:
        outcomes = sweeps.train(jobs, report=True, where=where, forced=command.forced)
    finally:
        record_command(master, jobs)
    command.tally.add(outcomes)
    loader.remember(job_overrides, outcomes)
    returns = [RunReturn(composer(place), outcome) for place, outcome in enumerate(outcomes)]
    if callbacks.callbacks:
        for each in returns:
            callbacks.on_job_end(config=each.composer(), job_return=each)
    return list(returns)


def record_command(master: DictConfig, jobs: Sequence[Job]) -> None:
    """Write Hydra's record of a command, where it has trained runs of a study."""
    folder = Path(master.hydra.sweep.dir)
    planned = any(job.config is not None and job.config.plan for job in jobs)
    if folder.is_dir() and not planned:
        with contextlib.suppress(OSError):  # what it is a record of has been said
            storage.write_atomic(folder / MULTIRUN, OmegaConf.to_yaml(master).encode())


def make_jobs(
    loader: SweepLoader,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    functions: Collection[str] = (),
) -> list[Job]:
    """Make a batch's jobs; those answered before, on the data that are there, are not composed.

    One alone is: its name is told where the run has another.
    """
    content: dict[str, str | None] = {}  # of the data now, by what asks for them
    jobs = []
    for number, overrides in enumerate(job_overrides, first):
        found = loader.find(overrides) if len(job_overrides) > 1 else None
        if found is not None and found.data not in content:
            content[found.data] = content_now(loader.template(overrides))
        if found is not None and found.content == content[found.data] is not None:
            folder, metric = loader.study / found.folder, str(loader.master.objective)
            jobs.append(Job(folder, list(overrides), metric, {}, found=found))
        else:
            jobs.append(fill(loader.template(overrides), number, functions))
    return jobs


def content_now(template: Template) -> str | None:
    """Return a digest of the data that the job in a template would read; None where that cannot
    be told, and the job's own outcome will say why."""
    with targets.current(template.composed), contextlib.suppress(Exception):
        config = template.config()
        return datasets.content(config.dataset, config.sizes)
    return None


def fill(template: Template, number: int, functions: Collection[str] = ()) -> Job:
    """Make the job whose values are in a template."""
    with targets.current(template.composed):
        folder = template.set_number(number)
        overrides = template.own["overrides.task"]
        return as_job(template, folder, overrides, template.files(), functions)


def as_job(
    template: Template,
    folder: Path,
    overrides: list[str],
    hydra_files: HydraFiles,
    functions: Collection[str] = (),
) -> Job:
    """Make a job of a composed configuration; what is wrong with it is kept in the job.

    functions: the user's own that may be called.
    """
    job = Job(folder, overrides, str(template.composed.objective), hydra_files)
    try:
        config = template.config()
        targets.refuse_unnamed(config, functions)
        job.config = config
        job.environment = template.environment()
    except ValueError as error:
        job.refused = error
    return job


def check_workers(count: int) -> None:
    """Raise ValueError where this process may not have as many files open as workers of joblib
    take."""
    try:
        storage.check_open_files(16 + 6 * count)
    except OSError as error:
        raise ValueError(
            f"{count:,} workers of joblib (hydra.launcher.n_jobs): {error.strerror}; raise the "
            f"limit with ulimit -n, or have fewer"
        ) from None


def jobs_at_once(hydra: Any) -> int:
    """Return how many jobs a launcher has run at a time on this machine, as joblib counts them."""
    given: int = OmegaConf.select(hydra, "launcher.n_jobs", default=1)
    return given if given > 0 else max(1, cores.usable() + 1 + given)


def compose_job(
    loader: ConfigLoader, master: DictConfig, overrides: list[str], number: int
) -> DictConfig:
    """Compose one job as Hydra's own launchers do, with the folder where it goes."""
    template = Template(loader.load_sweep_config(master, overrides))
    with targets.current(template.composed):
        template.set_number(number)
    return template.composed


def check_jobs(
    loader: ConfigLoader, master: DictConfig, job_overrides: Sequence[Sequence[str]], first: int
) -> None:
    """See whether jobs are legal for Hydra's launchers, which write into a job's folder before
    nnlab is called. first: the number of the first of them.

    Raises Hydra's errors where one cannot be composed, ValueError where they would follow a link.
    """
    for number, overrides in enumerate(job_overrides, first):
        node = compose_job(loader, master, list(overrides), number).hydra
        folder = Path(node.runtime.output_dir)
        record = folder / (node.output_subdir or "")
        for path in (folder, folder / f"{node.job.name}.log", record, *storage.matching(record)):
            records.check_no_link(path)


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
        composed = self.composer()
        with read_write(composed), open_dict(composed):
            del composed["hydra"]
        return composed

    @property
    def hydra_cfg(self) -> DictConfig:  # type: ignore[override]
        return OmegaConf.masked_copy(self.composer(), "hydra")


class SweepLoader:
    """Hydra's configuration loader, with a short way to the jobs of a sweep.

    Hydra composes every job from its files, 0.05 s and twice over. Jobs that differ in
    values only are one composition here, into which each writes its values. One that was
    answered before is not composed at all: 10,000 would take half a minute.
    """

    def __init__(self, hydras: ConfigLoader, master: DictConfig) -> None:
        """hydras: its own loader. master: what it composed of the command line."""
        self.hydras = hydras
        self.master = master
        self.study = Path(master.hydra.sweep.dir)
        self.parse = functools.lru_cache(PARSED)(OverridesParser.create().parse_override)
        self.templates = functools.lru_cache(MOST_TEMPLATES)(self.compose)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.hydras, name)

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        """Return what Hydra's loader would, good until the next call.

        Hydra's sweepers compose every job to see whether it is legal, and let it go. One
        that was answered before is.
        """
        if self.find(sweep_overrides) is not None:
            return master_config
        return self.template(sweep_overrides).composed

    def template(self, overrides: Sequence[str]) -> Template:
        """Return a template with a job's values in it, until another job's are."""
        parsed = [self.parse(override) for override in overrides]
        values = self.values(parsed)
        choices = tuple(text for text, each in zip(overrides, parsed) if each not in values)
        template = self.templates(choices, tuple(each.key_or_group for each in values))
        OmegaConf.copy_cache(from_config=self.master, to_config=template.composed)
        try:
            template.write(values)
        except Exception:  # Hydra has its own words for it
            template = self.compose(overrides)
        template.set_overrides(parsed)
        return template

    def compose(self, overrides: Sequence[str], keys: Sequence[str] = ()) -> Template:
        """Have Hydra compose a template for jobs that will set the same keys."""
        return Template(self.hydras.load_sweep_config(self.master, list(overrides)))

    def values(self, overrides: Sequence[Override]) -> list[Override]:
        """Return which of a job's overrides only set values, after all else is composed."""
        first = 0
        for place, override in enumerate(overrides):
            if override.type is not OverrideType.CHANGE:
                return []  # where something is added or deleted, the whole order matters
            if isinstance(override.value(), dict):
                first = place + 1  # it is merged with what the overrides before it set
        return [override for override in overrides[first:] if self.sets_value(override)]

    def sets_value(self, override: Override) -> bool:
        """Say whether an override sets a value of the task, and chooses no group."""
        key = override.key_or_group
        chosen = override.package is not None or "/" in key or key in self.groups
        hydras = override.is_hydra_override() or key == "hydra"
        return not (chosen or hydras or override.is_sweep_override())

    @functools.cached_property
    def groups(self) -> list[str]:
        node = self.master.hydra
        given: Any = OmegaConf.to_container(node.overrides.hydra)
        return self.hydras.get_group_options("", ObjectType.GROUP, node.job.config_name, given)

    def find(self, overrides: Sequence[str]) -> study.Entry | None:
        """Return the finished run that the same command led to before, by the study's index."""
        known = self.known
        asked = self.asked(overrides) if known else None
        return known.answer(asked) if known and asked else None

    @functools.cached_property
    def known(self) -> study.Study | None:
        """The study, if it has runs, which may answer commands."""
        found = None if objective.optimises(self.master.hydra) else study.look(self.study)
        return found if found and found.entries else None

    def remember(self, job_overrides: Sequence[Sequence[str]], outcomes: Sequence[Outcome]) -> None:
        """Tell the study's index which commands led to which runs, for ``find``."""
        runs = study.known(self.study)
        for overrides, outcome in zip(job_overrides, outcomes):
            config, asked = outcome.job.config, self.asked(overrides)
            if config is None or isinstance(config.model, OwnNetworkConfig):
                continue  # the source of the latter may change
            asks = config.evaluation or config.report.asks or config.plan or config.force
            if asked and not asks and outcome.error is None and outcome.result is not None:
                fingerprint = outcome.result["fingerprint"]
                runs.remember(asked, outcome.folder, fingerprint, outcome.stamp)

    def asked(self, overrides: Sequence[str]) -> str | None:
        """Return a digest of all that a job's configuration is composed of.

        None where that cannot be told: a folder of the user's own, or a resolver such as oc.env.
        """
        text = "\0".join([self.files, *overrides])
        unescaped = text.replace("\\", "")  # Hydra's sweeper escapes some signs of a value
        if not self.files or re.search(r"\$\{\s*(?!nnlab\.)[\w.]+\s*:", unescaped):
            return None
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @functools.cached_property
    def files(self) -> str:
        """The YAML files that configurations are composed of, if they are nnlab's, as one text."""
        if [each.path for each in self.master.hydra.runtime.config_sources] != SOURCES:
            return ""
        return "\0".join(path.read_text(encoding="utf-8") for path in sorted(CONF.rglob("*.yaml")))
