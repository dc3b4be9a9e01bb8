"""Hydra's own sweeper, but for the files that it writes before it knows that there are runs.

Hydra insists that a sweeper class is defined in ``hydra_plugins``.
"""

# No postponed annotations here: see nnlab_launcher.py.
import itertools
import logging
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

log = logging.getLogger("nnlab")
RETURN = 250_000  # bytes that Hydra's launchers keep of a job to the end of its batch
MANY = 1000  # runs: fewer take about 1 s to compose, and 250 MB at most
LONG = 1_000_000  # values, which are not listed to count them
AT_ONCE = 100  # jobs that Hydra's basic launcher, which trains one after another, is given
TOGETHER = 1000  # runs that nnlab's launcher trains together, or joblib's, with a record of each
SENT = 10_000  # likewise of its launchers that train elsewhere, where many wait for the last run


@dataclass
class NnlabSweeperConf:
    _target_: str = "hydra_plugins.nnlab_sweeper.NnlabSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = field(default_factory=dict)  # into None Hydra cannot put any


ConfigStore.instance().store(
    group="hydra/sweeper", name="nnlab", node=NnlabSweeperConf, provider="nnlab"
)


class NnlabSweeper(BasicSweeper):
    """Try every combination of the values that are given, and of folds all."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.task_function = task_function

    def sweep(self, arguments: list[str]) -> None:
        """Launch the jobs in batches, once all are known to be legal; ``multirun.yaml`` is left to
        the command.

        Raises ValueError where what is kept of so many runs does not fit into memory.
        """
        assert self.config is not None
        assert self.hydra_context is not None
        assert self.launcher is not None
        from hydra_plugins.nnlab_launcher import NnlabLauncher
        from nnlab import memory
        from nnlab.hydra_jobs import JOB, check_jobs

        size = self.max_batch_size
        if size is not None and size < 1:
            raise ValueError(f"hydra.sweeper.max_batch_size={size} is too small; give 1 or more")
        ours = isinstance(self.launcher, NnlabLauncher)
        if size is None and not self.config.plan:  # which is one, of all runs
            size = self.usual_size()
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        overrides += parser.parse_overrides(all_folds(self.config.folds, overrides))
        last = {each.get_key_element(): each for each in overrides}  # of a key given twice
        runs = foresee(last.values(), size, JOB if ours else RETURN)
        options = [texts(each) for each in last.values()]
        if not ours or runs > (size or runs):  # nnlab's looks at all of a batch first, too
            for place, batch in enumerate(batches(options, size)):
                if ours:
                    self.validate_batch_is_legal(batch)
                else:
                    check_jobs(
                        self.hydra_context.config_loader, self.config, batch, place * (size or 0)
                    )
        first, failed = 0, None
        for batch in batches(options, size):
            after = first + len(batch)
            if ours and len(batch) < runs:
                log.info("runs %s to %s of %s", f"{first + 1:,}", f"{after:,}", f"{runs:,}")
            returned = self.launch(batch, first)
            first, failed = after, failed or returned
            # Configurations refer to themselves, of each job two; of one small batch they may stay.
            if not ours or len(batch) < runs or runs > AT_ONCE:
                memory.give_back()
        if failed is not None:
            _ = failed.return_value  # raises, as in Hydra's, where all jobs have been tried

    def usual_size(self) -> int | None:
        """Return how many jobs the launcher is given at a time; None: all."""
        from hydra_plugins.nnlab_launcher import BatchLauncher, NnlabLauncher
        from nnlab.hydra_jobs import is_joblib

        if is_joblib(self.launcher):
            return TOGETHER
        sizes = {BatchLauncher: SENT, NnlabLauncher: TOGETHER, BasicLauncher: AT_ONCE}
        return next((size for kind, size in sizes.items() if isinstance(self.launcher, kind)), None)

    def launch(self, batch: Sequence[Sequence[str]], first: int) -> JobReturn | None:
        """Launch one batch; return only what the first of its jobs that failed did.

        first: the number of its first job.
        """
        from nnlab import hydra_jobs

        assert self.launcher is not None
        returns = hydra_jobs.launch_by(self.launcher, self.task_function, batch, first)
        return next((each for each in returns if each.status is not JobStatus.COMPLETED), None)


def texts(override: Override) -> Callable[[], Iterable[str]]:
    """Return what tells the texts that an option has in jobs; those of a range are made one by one,
    each time."""
    value = override.value()
    if isinstance(value, RangeSweep) and not value.shuffle:
        key = override.get_key_element()
        return lambda: (f"{key}={each}" for each in override.sweep_string_iterator())
    listed = [text for (text,) in BasicSweeper.split_arguments([override], None)[0]]
    return lambda: listed


def batches(
    options: Sequence[Callable[[], Iterable[str]]], size: int | None
) -> Iterator[list[list[str]]]:
    """Yield all jobs in batches, made as they are asked for.

    options: their ``texts``. size: of a batch; None: one has them all.
    """
    jobs = combinations(options)
    while batch := list(itertools.islice(jobs, size)):
        yield batch


def combinations(options: Sequence[Callable[[], Iterable[str]]]) -> Iterator[list[str]]:
    """Yield what ``itertools.product`` does, which would keep all texts."""
    if not options:
        yield []
        return
    first, *others = options
    for text in first():
        for rest in combinations(others):
            yield [text, *rest]


def foresee(overrides: Collection[Override], size: int | None, each: int) -> int:
    """Return how many runs a sweep has; say so, if it will take a while to compose them.

    size: how many jobs a launcher is given at a time; each: bytes that are kept of these.
    Raises ValueError where what is kept of all runs does not fit into memory.
    """
    from nnlab import memory, study
    from nnlab.hydra_jobs import SETTING

    counts = [(override.key_or_group, values(override)) for override in overrides]
    runs = math.prod(count for _, count in counts)
    if runs < MANY:
        return runs
    from nnlab.report.runs import is_seed

    what = f"a sweep of {runs:,} runs"
    settings = math.prod(count for key, count in counts if not is_seed(key))
    kept = runs * study.RECORD + settings * SETTING
    fewer = "give fewer values in each command, and each command a study=NAME of its own"
    memory.check(kept, what, fewer)
    kept += min(runs, size or runs) * each
    memory.check(kept, what, "give a smaller hydra.sweeper.max_batch_size")
    log.info("composing %s runs", f"{runs:,}")
    return runs


def values(override: Override) -> int:
    """Return how many values an option has; those of a long range are not listed for it.

    Raises ValueError where there are none, or no end of them.
    """
    value = override.value()
    if not isinstance(value, RangeSweep):
        listed = override.is_sweep_override() and override.is_discrete_sweep()
        count = sum(1 for _ in override.sweep_iterator()) if listed else 1
    else:
        start, stop, step = (Decimal(each or 0) for each in (value.start, value.stop, value.step))
        if not step or not all(each.is_finite() for each in (start, stop, step)):
            raise ValueError(f"{override.input_line} has no end; give its start, stop and step")
        count = math.ceil((stop - start) / step)
        if count < LONG:  # of fractions there is now and then one more, by their rounding
            count = sum(1 for _ in value.range())
    if count < 1:
        raise ValueError(f"{override.input_line} has no values; give at least one")
    return count


def all_folds(folds: int | None, overrides: Sequence[Override]) -> list[str]:
    """Return the sweep over its folds that a number of folds stands for, unless one is chosen.

    Raises ValueError for several numbers of folds.
    """
    chosen = any(each.key_or_group == "fold" for each in overrides)
    for each in overrides:
        if each.key_or_group == "folds" and each.is_sweep_override() and not chosen:
            raise ValueError(
                f"{each.input_line}: a command tries all folds of one number of them; give each "
                f"its own command, or those to try, as in fold=0,1"
            )
    if folds is None or folds < 2 or chosen:  # too few are refused, run by run
        return []
    return [f"fold=range({folds})"]
