"""Hydra's door to nnlab: hands a whole sweep over instead of running one job after another.

Hydra insists that a launcher class is defined in ``hydra_plugins``, and imports every
module here at each start; what is heavy stays behind ``launch``.
"""

# No postponed annotations here: Hydra loads this file without entering it in sys.modules,
# where a dataclass would look for them.
import contextlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from types import SimpleNamespace
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import MISSING, DictConfig, OmegaConf


@dataclass
class NnlabLauncherConf:
    _target_: str = "hydra_plugins.nnlab_launcher.NnlabLauncher"


@dataclass
class BatchLauncherConf:
    """What all launchers have that train in batches.

    batches: into how many a sweep is cut; None: so many that each takes about minutes_per_batch,
    and no worker is idle at the end. max_retries: how often a batch that was lost is sent again.
    """

    _target_: str = "hydra_plugins.nnlab_launcher.BatchLauncher"
    cluster: str = MISSING
    batches: int | None = None
    minutes_per_batch: float = 5.0
    max_retries: int = 3


@dataclass
class BatchesConf(BatchLauncherConf):
    """In the workers of a pool.

    executor: one of nnlab's list, see docs/clusters.md; options: what it is made with. workers: how
    many train at a time; None: as many as there are cores for.
    """

    cluster: str = "batches"
    executor: str = "processes"
    workers: int | None = None
    cores_per_worker: int | None = 1
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class SlurmConf(BatchLauncherConf):
    """Each batch a task of a Slurm job array, by submitit.

    What is None is left to Slurm. detach: submit, and do not wait.
    """

    cluster: str = "slurm"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    cpus_per_task: int = 1
    mem_gb: float | None = None
    gpus_per_node: int | None = None
    timeout_min: int = 60
    array_parallelism: int = 256
    setup: list[str] = field(default_factory=list)
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    max_num_timeout: int = 3
    detach: bool = False


@dataclass
class RayConf(BatchLauncherConf):
    """Each batch a task of Ray.

    address: of a Ray cluster; None: one of its own on this machine.
    """

    cluster: str = "ray"
    address: str | None = None
    num_cpus: int = 1
    num_gpus: float = 0.0


LAUNCHERS: dict[str, Any] = {
    "nnlab": NnlabLauncherConf,
    "batches": BatchesConf,
    "slurm": SlurmConf,
    "ray": RayConf,
}
# Hydra's own plugin for Ray registers its launcher as ray, too. It does so once, here, before
# ours takes that name; then it is to be had by another.
with contextlib.suppress(ImportError):
    plugin = importlib.import_module("hydra_plugins.hydra_ray_launcher._config")
    LAUNCHERS["hydra_ray"] = plugin.RayLauncherConf
for name, node in LAUNCHERS.items():
    ConfigStore.instance().store(group="hydra/launcher", name=name, node=node, provider="nnlab")


class NnlabLauncher(Launcher):
    """Train all runs of a batch of Hydra's together, in this process."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from nnlab.hydra_jobs import SweepLoader

        # The sweeper shares this context: its check of every job takes the short way as well.
        loader: Any = SweepLoader(hydra_context.config_loader, config)
        hydra_context.config_loader = loader
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from nnlab import hydra_jobs

        return hydra_jobs.launch(
            self.hydra_context,
            self.task_function,
            self.config,
            job_overrides,
            initial_job_idx,
            self.where(),
        )

    def where(self) -> Any:
        """Return where runs are trained."""
        from nnlab import sweeps

        return sweeps.HERE


class BatchLauncher(NnlabLauncher):
    """Train the runs in batches, in processes of their own, on this machine or on others."""

    def __init__(self, cluster: str, **options: Any) -> None:
        self.cluster = cluster
        plain: Any = OmegaConf.to_container(OmegaConf.create(options))
        self.options = SimpleNamespace(**plain)

    def where(self) -> Any:
        """Raises ValueError for an option that the launcher does not have, given with a +."""
        from nnlab.batches import Batches
        from nnlab.options import did_you_mean

        known = [each.name for each in fields(LAUNCHERS[self.cluster])]
        for name in vars(self.options).keys() - set(known):
            raise ValueError(
                f"hydra.launcher.{name}: hydra/launcher={self.cluster} has no such option"
                f"{did_you_mean(name, known)}"
            )
        return Batches(self.cluster, self.options)
