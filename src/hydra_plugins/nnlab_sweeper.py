"""Hydra's own sweeper, but for the files that it writes before it knows that there are runs.

Hydra insists that a sweeper class is defined in ``hydra_plugins``.
"""

# No postponed annotations here: see nnlab_launcher.py.
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class NnlabSweeperConf:
    _target_: str = "hydra_plugins.nnlab_sweeper.NnlabSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None


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

    def sweep(self, arguments: list[str]) -> Any:
        """Launch the jobs in batches; ``multirun.yaml`` is left to the command."""
        assert self.config is not None
        assert self.hydra_context is not None
        assert self.launcher is not None
        from hydra_plugins.nnlab_launcher import NnlabLauncher
        from nnlab import hydra_jobs

        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        overrides += parser.parse_overrides(all_folds(self.config.folds, overrides))
        returns, count = [], 0
        for batch in self.split_arguments(overrides, self.max_batch_size):
            if not isinstance(self.launcher, NnlabLauncher):  # which looks at all jobs first, too
                self.validate_batch_is_legal(batch)
            results = hydra_jobs.launch_by(self.launcher, self.task_function, batch, count)
            for each in results:
                _ = each.return_value  # raises where the job failed, as in Hydra's
            count += len(batch)
            returns.append(results)
        return returns


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
    return [f"fold={','.join(map(str, range(folds)))}"]
