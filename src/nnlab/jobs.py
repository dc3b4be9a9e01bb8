"""What a sweep is made of: jobs, their outcomes, and tasks, the jobs that are to be trained now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnlab import records, study
from nnlab.config import Config, fingerprint
from nnlab.losses import worst
from nnlab.options import plain
from nnlab.records import HydraFiles

# Texts that are read in a result again, to build its network or to find what it was trained with.
READ = ("device", "objective", "dataset.function")

if TYPE_CHECKING:
    from nnlab.checkpoint import Checkpoint
    from nnlab.device import Device
    from nnlab.engines import Engine, Run
    from nnlab.footprint import Footprint


@dataclass(slots=True)
class Job:
    """One configuration, and the folder where its run goes.

    overrides: what Hydra composed it from. objective: the metric for Hydra's sweepers.
    hydra_files: content of the files that Hydra keeps in the folder, by their path there, in parts
    that jobs share; none once they are written. refused: why there is no configuration. found: the
    run that it is, where that is known without one. concurrent: how many jobs its launcher has
    train at a time. environment: as they were written, the options that environment variables are
    part of. asked: what the command gave to options of which its worker has other values.
    """

    folder: Path
    overrides: list[str]
    objective: str
    hydra_files: HydraFiles
    config: Config | None = None
    refused: Exception | None = None
    found: study.Entry | None = None
    concurrent: int = 1
    environment: dict[str, str] = field(default_factory=dict)
    asked: Mapping[str, Any] | None = None
    _fingerprint: str | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def fingerprint(self) -> str:
        """That of its configuration, as it was when this was first asked for."""
        if self._fingerprint is None:
            assert self.config is not None
            self._fingerprint = fingerprint(self.config)
        return self._fingerprint

    @property
    def identity(self) -> dict[str, Any]:
        """What tells its result from another's: its fingerprint, and config as JSON values.

        Made anew each time, which takes 0.1 ms: kept, it would be a third of what a job takes of
        memory. What came from the environment may be a secret, and stands there as it was written,
        but for what a result cannot be read without.
        """
        assert self.config is not None
        config = plain(self.config) | dict(self.asked or {})
        for key, text in self.environment.items():
            group, _, name = key.rpartition(".")
            if key not in READ:
                (config[group] if group else config)[name] = text
        return {"fingerprint": self.fingerprint, "config": config}

    def concealed(self, source: str) -> str:
        """Return the name of a source of data without what came from the environment."""
        assert self.config is not None
        folder = self.config.dataset.data_folder
        texts = (self.environment.get(f"dataset.{key}") for key in ("folder", "file"))
        text = next(filter(None, texts), None)
        if text is None or folder is None:
            return source
        return source.replace(str(Path(folder).expanduser()), text)


@dataclass(slots=True)
class Outcome:
    """What became of a job: its result, or why there is none."""

    job: Job
    result: Mapping[str, Any] | None = None  # without its long parts, as the study's index has it
    error: Exception | None = None
    trained: bool = False  # by this command, not by an earlier one
    stamp: str = ""  # of its files, as they were when it ended here, as a study's index has it
    elsewhere: bool = False  # a worker trained it, and has evaluated it
    twin: Path | None = None  # the folder of the run that this job is, where it has another name
    evaluation_files: list[Path] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """The folder of the run, whatever the job calls it."""
        return self.twin or self.job.folder

    def objective(self) -> float:
        """Return the metric that Hydra's sweepers optimise.

        A run that did not come to a good end has the worst value of every metric.
        """
        metric = self.job.objective
        good = self.result is not None and self.result["status"] in ("finished", "stopped")
        value = self.result.get(metric) if self.result is not None and good else None
        if value is None:
            return worst(metric)
        return float(value)


@dataclass(eq=False, slots=True)
class Task:
    """A job that is to be trained now.

    sketch: its run without the numbers of its network, and without copies of data: what an
    engine is chosen by, and its cost; whole where it is only planned. identity: what its result
    says before there is any, but for the configuration, see ``whole_identity``. needed: the memory
    that it takes. run: the whole, from its turn to its end; so a sweep holds the networks of the
    runs that train, not of all. concurrent: how many runs trained at a time with it, at most: they
    share the machine. threads: among how many its next epoch is divided.
    """

    outcome: Outcome
    config: Config
    sketch: Run
    engine: type[Engine]
    device: Device
    identity: Mapping[str, Any]
    needed: Footprint
    run: Run | None = None
    folder: records.RunFolder | None = None
    concurrent: int = 1
    threads: int = 1
    owner: Mapping[str, Any] | None = None  # another process that trains it
    checkpoint: Checkpoint | None = None  # of an earlier attempt, until the run has taken it

    def whole_identity(self) -> dict[str, Any]:
        """Return what result.json says of the run before it has results."""
        config, data = self.outcome.job.identity["config"], dict(self.identity["dataset"])
        return dict(self.identity) | {"config": config, "dataset": data}

    def most_threads(self) -> int:
        """Return among how many threads it may be divided at most."""
        most = self.engine.most_threads(self.sketch, self.identity["engine_form"])
        return most if self.config.threads is None else min(most, self.config.threads)

    def examples(self) -> int:
        """Return how many examples it has still to see if nothing stops it early."""
        run = self.run or self.sketch
        return len(run.train) * (run.max_epochs - len(run.epochs))

    def cost(self) -> int:
        """Return a number that grows as the time that it still takes."""
        return self.examples() * int(self.identity["parameters"])
