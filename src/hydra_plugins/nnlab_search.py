"""Hydra's door to a search by Optuna, ``hydra/sweeper=search``; what is heavy stays behind it.

Hydra insists that a sweeper class is defined in ``hydra_plugins``.
"""

# No postponed annotations here: see nnlab_launcher.py.
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

# The names of options are those of hydra-optuna-sweeper, whose commands work here.
SamplerName = Enum("SamplerName", ["tpe", "random", "gp", "cmaes"])
Direction = Enum("Direction", ["minimize", "maximize"])


@dataclass
class SamplerConf:
    name: SamplerName = SamplerName.tpe
    seed: int | None = 0  # null: another search each time


@dataclass
class NnlabSearchConf:
    _target_: str = "hydra_plugins.nnlab_search.NnlabSearch"
    n_trials: int = 20  # of the whole search
    n_jobs: int = 4  # trials that are asked for at once, and train together
    direction: Direction | None = None  # null: the objective's; the other one is refused
    sampler: SamplerConf = field(default_factory=SamplerConf)
    storage: str | None = None  # where Optuna keeps the trials, say sqlite:///search.db
    study_name: str | None = None  # there; null: that of nnlab's study
    params: dict[str, str] | None = None


ConfigStore.instance().store(
    group="hydra/sweeper", name="search", node=NnlabSearchConf, provider="nnlab"
)


class NnlabSearch(Sweeper):
    """Have Optuna propose values by the results of earlier trials."""

    def __init__(self, **options: Any) -> None:
        self.options = NnlabSearchConf(**options)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self.loader = hydra_context.config_loader  # where nnlab's launcher has put its own
        self.command: Any = task_function
        self.config: Any = config

    def sweep(self, arguments: list[str]) -> None:
        from nnlab import search

        search.check(self.options)
        params = self.options.params or {}
        given = [*(f"{key}={value}" for key, value in params.items()), *arguments]
        trials = search.Trials(self.launcher, self.loader, self.command, self.config, given)
        search.run(self.options, trials)
