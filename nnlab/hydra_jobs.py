"""Between Hydra and a sweep: composing jobs, their ``.hydra/`` record and their returns."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from nnlab import sweep

LONGEST_NAME = 100


class RunReturn(JobReturn):
    """A job's return whose value can be read even where the job failed.

    Hydra's sweeper reads every value and would drop the batches still to come at the first
    that raises; a failed run gives the worst value of its objective instead, and the
    command ends with a non-zero status.
    """

    @property
    def return_value(self) -> float:
        return float(self._return_value)

    @return_value.setter
    def return_value(self, value: float) -> None:
        self._return_value = value


def run_alone(composed: DictConfig) -> float:
    """Train one run where Hydra put it: the task that Hydra's own launchers call."""
    hydra = HydraConfig.get()
    job = sweep.Job(
        composed=composed,
        folder=Path(hydra.runtime.output_dir),
        overrides=list(hydra.overrides.task),
        write_hydra=lambda folder: None,  # Hydra has written it
    )
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
    composed = [
        compose(context, master, overrides, number)
        for number, overrides in enumerate(job_overrides, first)
    ]
    for config in composed:
        context.callbacks.on_job_start(config=config, task_function=task_function)
    outcomes = sweep.train([as_job(config) for config in composed])
    sweep.history.extend(outcomes)
    forget_refused(Path(master.hydra.sweep.dir))
    returns = [job_return(config, outcome) for config, outcome in zip(composed, outcomes)]
    for config, returned in zip(composed, returns):
        context.callbacks.on_job_end(config=config, job_return=returned)
    return returns


def compose(
    context: HydraContext, master: DictConfig, overrides: Sequence[str], number: int
) -> DictConfig:
    """Compose one job as Hydra's own launchers do, with the folder where it goes."""
    config = context.config_loader.load_sweep_config(master, list(overrides))
    with open_dict(config):
        config.hydra.job.id = str(number)
        config.hydra.job.num = number
    folder = Path(config.hydra.sweep.dir, config.hydra.sweep.subdir)
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = str(folder.absolute())
    return config


def as_job(config: DictConfig) -> sweep.Job:
    return sweep.Job(
        composed=task_config(config),
        folder=Path(config.hydra.sweep.dir, config.hydra.sweep.subdir),
        overrides=list(config.hydra.overrides.task),
        write_hydra=lambda folder: write_hydra(config, folder),
    )


def task_config(config: DictConfig) -> DictConfig:
    """Return the part of a composed configuration that is not Hydra's own."""
    task = copy.deepcopy(config)
    with read_write(task), open_dict(task):
        del task["hydra"]
    return task


def write_hydra(config: DictConfig, folder: Path) -> None:
    """Write ``.hydra/`` as Hydra's run_job does."""
    if config.hydra.output_subdir is None:
        return
    record = folder / config.hydra.output_subdir
    record.mkdir(parents=True, exist_ok=True)
    for name, node in (
        ("config", task_config(config)),
        ("hydra", OmegaConf.masked_copy(config, "hydra")),
        ("overrides", config.hydra.overrides.task),
    ):
        (record / f"{name}.yaml").write_text(OmegaConf.to_yaml(node), encoding="utf-8")


def forget_refused(study: Path) -> None:
    """Remove what Hydra's sweeper wrote if every run of the study was refused."""
    if [path.name for path in study.iterdir()] == ["multirun.yaml"]:
        (study / "multirun.yaml").unlink()
        study.rmdir()
        if not any(study.parent.iterdir()):
            study.parent.rmdir()


def job_return(config: DictConfig, outcome: sweep.Outcome) -> JobReturn:
    return RunReturn(
        overrides=list(config.hydra.overrides.task),
        cfg=outcome.job.composed,
        hydra_cfg=OmegaConf.masked_copy(config, "hydra"),
        working_dir=config.hydra.runtime.cwd,
        task_name=config.hydra.job.name,
        status=JobStatus.COMPLETED if outcome.error is None else JobStatus.FAILED,
        _return_value=outcome.objective(),
    )


def folder_name(override_dirname: str) -> str:
    """Turn swept overrides into a directory name without slashes, brackets or spaces.

    >>> folder_name("train_size=500,optimizer.lr=0.1")
    'train_size=500,optimizer.lr=0.1'
    >>> folder_name("model.hidden=[128,64],seed=1"), folder_name("model.hidden=[]")
    ('model.hidden=128-64,seed=1', 'model.hidden=none')
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
