"""A search: Optuna proposes values, which train in batches, each of them a sweep."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from nnlab import (
    claims,
    hydra_jobs,
    memory,
    objective,
    records,
    refusals,
    storage,
    study,
    targets,
)
from nnlab.compose import Template
from nnlab.jobs import Job

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial, Trial

    from hydra_plugins.nnlab_search import NnlabSearchConf

log = logging.getLogger("nnlab")
RESULTS = "optimization_results.yaml"  # as Hydra's own sweepers call it
INSTALL = "pip install 'nnlab[search]'"
LOCK = ".search.lock"  # of a study whose search is stored
REPEATS = "repeats"  # the number of the trial in whose place one is that waits
TOLD = "told"  # what a trial in a storage says of itself, see ``told``
TRIAL = 10_000  # bytes that Optuna keeps of a trial
SAMPLERS = {
    "tpe": "TPESampler",
    "random": "RandomSampler",
    "gp": "GPSampler",
    "cmaes": "CmaEsSampler",
}
NEEDED = {"gp": "scipy", "cmaes": "cmaes"}  # packages that do not come with Optuna


class Trials:
    """The runs that a command line stands for, by the values of what it searches."""

    def __init__(
        self,
        launcher: Launcher,
        loader: ConfigLoader,
        command: hydra_jobs.Command,
        master: DictConfig,
        arguments: Sequence[str],
    ) -> None:
        """Raises ValueError where nothing is searched, or a range has no values."""
        self.launcher, self.loader, self.command, self.master = launcher, loader, command, master
        self.parser = OverridesParser.create(config_loader=loader)
        given = self.parser.parse_overrides(list(arguments))
        self.given = {each.get_key_element(): each for each in given}
        self.space = {
            key: distribution(each) for key, each in self.given.items() if each.is_sweep_override()
        }
        if not self.space:
            raise ValueError(
                "hydra/sweeper=search has nothing to search; give an option a range, "
                "as in 'optimizer.lr=tag(log,interval(0.001,0.1))'"
            )
        self.asked = [str(each.input_line) for each in self.given.values()]

    def overrides(self, params: Mapping[str, Any]) -> list[str]:
        """Return the overrides of one run, in the order of the command line."""
        return [
            f"{key}={params[key]}" if key in params else str(each.input_line)
            for key, each in self.given.items()
        ]

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the texts stand for that Optuna chose among."""
        return {
            key: self.parser.parse_override(f"{key}={text}").value() for key, text in params.items()
        }

    def job(self, params: Mapping[str, Any], number: int = 0) -> Job:
        """Compose one run. Raises Hydra's errors."""
        overrides = self.overrides(params)
        template = Template(self.loader.load_sweep_config(self.master, overrides))
        with targets.current(template.composed):
            folder = template.set_number(number)
            functions = getattr(self.command, "functions", ())
            return hydra_jobs.as_job(template, folder, overrides, {}, functions)

    def with_each_size(self, params: Mapping[str, Any], metric: str) -> list[Job]:
        """Compose a run for each size that is searched of the split that the metric is measured
        on: the search may come to each."""
        from optuna.distributions import CategoricalDistribution

        size = f"{metric.partition('_')[0]}_size"
        found = self.space.get(size)
        if not isinstance(found, CategoricalDistribution):
            return []
        return [self.job({**params, size: choice}) for choice in found.choices]

    def launch(self, trials: Sequence[Trial], first: int) -> Sequence[JobReturn]:
        """Train the runs of trials together. first: the number of the first of them."""
        overrides = [self.overrides(trial.params) for trial in trials]
        return hydra_jobs.launch_by(self.launcher, self.command, overrides, first)


def run(options: NnlabSearchConf, trials: Trials) -> None:
    """Search with as many trials as are asked for, and have the command tell the best.

    Raises ValueError for what keeps a search from beginning, and what kept a run in another
    process from its end; the command tells what did so in this one.
    """
    import optuna

    rehearsal = open_study(optuna.samplers.RandomSampler(0))
    params = rehearsal.ask(trials.space).params
    example = trials.job(params)
    others = trials.with_each_size(params, example.objective)
    objective.refuse(trials.master.hydra, [example, *others])
    if trials.master.plan:
        trials.launch([rehearsal.ask(trials.space) for _ in range(options.n_trials)], 0)
        return
    try:
        with alone(options, example.folder.parent):
            search = open_search(options, trials, example)
            failed = train(search, options, trials)
            tell_best(search, trials, example.objective)
    except optuna.exceptions.StorageInternalError as error:  # the database's own
        otherwise = "if it is damaged, give another one (runs that are there are not trained again)"
        said = refusals.of_database(error.__cause__ or error, otherwise)
        raise ValueError(f"hydra.sweeper.storage cannot be used: {said}") from error
    for each in failed:
        _ = each.return_value  # raises where it failed in another process


@contextlib.contextmanager
def alone(options: NnlabSearchConf, folder: Path) -> Iterator[None]:
    """Wait until no other command is at the stored searches of a study; then none is but this."""
    if options.storage is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        stack.callback(remove_empty, folder)
        while True:
            storage.make_folder(folder)
            with contextlib.suppress(FileNotFoundError):  # another has removed it, as it was empty
                stack.enter_context(claims.alone(folder / LOCK, f"is at the search in {folder}"))
                break
        yield


def remove_empty(folder: Path) -> None:
    """Remove a folder, unless something is in it."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def check(options: NnlabSearchConf) -> None:
    """Raise ValueError for options out of their limits, what does not fit into memory, and packages
    that are missing."""
    for name in ("n_trials", "n_jobs"):
        value = getattr(options, name)
        if value < 1:
            raise ValueError(f"hydra.sweeper.{name}={value} is too small; give 1 or more")
    memory.check(
        options.n_trials * (study.RECORD + hydra_jobs.SETTING + TRIAL),
        f"hydra.sweeper.n_trials={options.n_trials}",
        "give fewer",
    )
    if find_spec("optuna") is None:
        raise ValueError(f"hydra/sweeper=search needs Optuna: {INSTALL}")
    installed = version("optuna")
    if int(installed.partition(".")[0]) < 4:
        raise ValueError(
            f"hydra/sweeper=search needs Optuna 4 or later, and {installed} is installed: "
            f"{INSTALL} in an environment without hydra-optuna-sweeper, which needs Optuna 2"
        )
    name = options.sampler.name.name
    package = NEEDED.get(name, "optuna")
    if find_spec(package) is None:
        raise ValueError(
            f"hydra.sweeper.sampler.name={name} needs {package}: pip install {package}"
        )


def distribution(override: Override) -> BaseDistribution:
    """Return what Optuna draws an option from, read as hydra-optuna-sweeper reads it: a range
    includes its end. Raises ValueError where Optuna takes no such range."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    limits: dict[str, Any]
    if isinstance(value, IntervalSweep):
        limits = {"low": value.start, "high": value.end}
    elif isinstance(value, RangeSweep) and not value.shuffle:
        limits = {"low": value.start, "high": value.stop, "step": value.step}
    else:
        choices = list(override.sweep_string_iterator())
        if not choices:
            raise ValueError(f"{override.input_line} has no values; give at least one")
        return CategoricalDistribution(choices)
    if not all(math.isfinite(limit) for limit in limits.values()):
        raise ValueError(f"{override.input_line} has no end; give numbers")
    whole = all(isinstance(limit, int) for limit in limits.values())
    try:
        kind = IntDistribution if whole else FloatDistribution
        return kind(**limits, log="log" in value.tags)
    except ValueError as error:
        raise ValueError(f"{override.input_line}: {error}") from None


def open_study(sampler: BaseSampler, **options: Any) -> optuna.Study:
    """Open a study of Optuna's, without its own word on that."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(sampler=sampler, **options)
    finally:
        optuna.logging.set_verbosity(level)


def open_search(options: NnlabSearchConf, trials: Trials, example: Job) -> optuna.Study:
    """Open the study of a search, with the trials that are stored.

    Raises ValueError where the storage cannot be opened, or has another search by that name.
    """
    from optuna.trial import TrialState

    name = options.study_name or example.folder.parent.name
    made, direction = sampler(options, 0), objective.direction(example.objective)
    try:
        search = open_study(
            made,
            direction=direction,
            storage=options.storage,
            study_name=name,
            load_if_exists=True,
        )
        ended = [each for each in search.get_trials() if each.state is TrialState.COMPLETE]
    except Exception as error:  # the database's own
        otherwise = "give the URL of a database that can be written, say sqlite:///search.db"
        said = refusals.of_database(error, otherwise)
        raise ValueError(f"hydra.sweeper.storage cannot be opened: {said}") from error
    known = search.user_attrs.get("asked", trials.asked)
    if isinstance(known, list) and known != trials.asked:
        raise ValueError(
            f"the stored search {name} is one with {' '.join(known)}, not with "
            f"{' '.join(trials.asked)}; give this one another hydra.sweeper.study_name"
        )
    directions = [each.name.lower() for each in search.directions]
    same = known == trials.asked and directions == [direction]
    if not same or any(map(changed, ended)):
        raise ValueError(
            f"hydra.sweeper.storage is damaged: the search {name} in it has changed since its "
            f"trials ended; give this one another hydra.sweeper.study_name (runs that are there "
            f"are not trained again)"
        )
    search.set_user_attr("asked", trials.asked)
    search.sampler = sampler(options, len(search.trials))
    return search


class Rehearsal:
    """A study in memory that has the trials of a stored search proposed.

    A sampler's random numbers are not stored. After a kill the trials that are there are asked for
    once more, in the same batches, so that the next are what they would have been. Where that gives
    others (without a seed, or in other batches), the search itself goes on.

    goes_on: whether it is this that proposes. open: trials that have no value yet. twins: the
    trials here of those that the search has, by their numbers there.
    """

    def __init__(self, search: optuna.Study, options: NnlabSearchConf, trials: Trials) -> None:
        from optuna.trial import TrialState

        self.search, self.space = search, trials.space
        self.study = open_study(sampler(options, 0), direction=search.direction)
        self.goes_on = options.storage is not None and options.sampler.seed is not None
        self.open: list[Trial] = []
        self.twins: dict[int, Trial] = {}
        every = search.get_trials() if self.goes_on else []
        again = {each.user_attrs[REPEATS]: each for each in every if REPEATS in each.user_attrs}
        asked = [each for each in every if REPEATS not in each.user_attrs]
        for start in range(0, len(asked), options.n_jobs):
            batch = asked[start : start + options.n_jobs]
            twins = [self.study.ask(self.space) for _ in batch]
            if any(known.params.items() - twin.params.items() for known, twin in zip(batch, twins)):
                self.goes_on, self.open, self.twins = False, [], {}
                return
            for known, twin in zip(batch, twins):
                self.twins[known.number] = twin
                while known.number in again:
                    known = again[known.number]
                    self.twins[known.number] = twin
                if known.state.is_finished():
                    complete = known.state is TrialState.COMPLETE
                    self.study.tell(twin, known.value if complete else None, known.state)
                else:
                    self.open.append(twin)

    def ask(self) -> Trial:
        """Return the next trial of the search: one that waits there, or else a new one."""
        if not self.goes_on:
            return self.search.ask(self.space)
        if not self.open:
            self.open.append(self.study.ask(self.space))
            self.search.enqueue_trial(self.open[0].params)
        trial = self.search.ask(self.space)
        twin = next((each for each in self.open if each.params == trial.params), None)
        if twin is None:  # somebody else has put it in the queue
            self.goes_on = False
            return trial
        self.open.remove(twin)
        self.twins[trial.number] = twin
        return trial

    def tell(self, trial: Trial, value: float | None) -> None:
        """Tell what became of a trial of the search; None: its run failed."""
        from optuna.trial import TrialState

        if self.goes_on:
            state = TrialState.FAIL if value is None else TrialState.COMPLETE
            self.study.tell(self.twins[trial.number], value, state)


def sampler(options: NnlabSearchConf, asked: int) -> BaseSampler:
    """Make the sampler of a search. asked: how many trials there are, from which its random
    numbers go on; else it would propose the first of them again."""
    import optuna

    seed = None if options.sampler.seed is None else options.sampler.seed + asked
    made: BaseSampler = getattr(optuna.samplers, SAMPLERS[options.sampler.name.name])(seed=seed)
    return made


def train(search: optuna.Study, options: NnlabSearchConf, trials: Trials) -> list[JobReturn]:
    """Train what is left of a search, batch by batch; return the runs that failed."""
    import optuna
    from optuna.trial import TrialState

    rehearsal = Rehearsal(search, options, trials)
    repeated = [each.user_attrs.get(REPEATS) for each in search.get_trials()]
    for broken_off in search.get_trials(states=[TrialState.RUNNING]):
        number = broken_off.number
        if number not in repeated:
            twin = rehearsal.twins.get(number, broken_off)  # which may have but some of its values
            search.enqueue_trial(twin.params, user_attrs={REPEATS: number})
        search.tell(number, state=TrialState.FAIL)
    first, failed = len(search.get_trials(states=[TrialState.COMPLETE])), []
    waiting = len(search.get_trials(states=[TrialState.WAITING]))
    # A batch that was broken off is completed.
    some = waiting + -repeated.count(None) % options.n_jobs or options.n_jobs
    while first < options.n_trials:
        count = min(some, options.n_trials - first)
        log.info("trials %d to %d of %d", first + 1, first + count, options.n_trials)
        batch = [rehearsal.ask() for _ in range(count)]
        for trial, each in zip(batch, trials.launch(batch, first)):
            value = each.return_value if each.status is JobStatus.COMPLETED else math.nan
            rehearsal.tell(trial, None if math.isnan(value) else value)
            # Another command with this storage may have told it before.
            if math.isnan(value):
                search.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
                failed.append(each)
            else:
                with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                    trial.set_user_attr(TOLD, told(trial.params, value))
                search.tell(trial, value, skip_if_finished=True)
        first, some = first + count, options.n_jobs
    return failed


def changed(trial: FrozenTrial) -> bool:
    """Return whether a trial is otherwise than when it ended."""
    return bool(trial.user_attrs.get(TOLD) != told(trial.params, trial.value))


def told(params: Mapping[str, Any], value: float | None) -> str:
    """Return a digest of a trial, by which damage to it in its storage shows."""
    return records.checksum([dict(params), value])


def tell_best(search: optuna.Study, trials: Trials, metric: str) -> None:
    """Have the command tell the best trial, and write it where Hydra's own sweepers do."""
    from optuna.trial import TrialState

    from nnlab.report.provenance import command_line

    try:
        best = search.best_trial
    except ValueError:  # there is none
        return
    job = trials.job(best.params, best.number)
    parent = job.folder.parent
    runs = study.look(parent).find([job.fingerprint])[job.fingerprint]
    names = sorted((run.folder for run in runs if run.done), key=job.name.__ne__)
    values = trials.values(best.params)
    found = {"name": "optuna", "best_params": values, "best_value": best.value}
    results = Path(trials.master.hydra.sweep.dir) / RESULTS
    storage.make_folder(results.parent)
    storage.write_atomic(results, OmegaConf.to_yaml(found).encode())
    ended = len(search.get_trials(states=[TrialState.COMPLETE]))
    trials.command.last_lines += [
        f"best of {ended} trials: {metric}={best.value:.6g}",
        command_line(job.overrides),
        str(parent / names[0]) if names else f"its run is gone from {parent}: this trains it anew",
    ]
