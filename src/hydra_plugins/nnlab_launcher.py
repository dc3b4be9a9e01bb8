"""Hydra's door to nnlab: hands a whole sweep over instead of running one job after another.

Hydra insists that a launcher class is defined in ``hydra_plugins``, and imports every
module here at each start; what is heavy stays behind ``launch``.
"""

# No postponed annotations here: Hydra loads this file without entering it in sys.modules,
# where a dataclass would look for them.
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class NnlabLauncherConf:
    _target_: str = "hydra_plugins.nnlab_launcher.NnlabLauncher"


ConfigStore.instance().store(
    group="hydra/launcher", name="nnlab", node=NnlabLauncherConf, provider="nnlab"
)


class NnlabLauncher(Launcher):
    """Train all runs of a batch together, in this process."""

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
            self.hydra_context, self.task_function, self.config, job_overrides, initial_job_idx
        )
