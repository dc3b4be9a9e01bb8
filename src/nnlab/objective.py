"""What a sweeper that optimises chooses runs by: ``objective=``, and what keeps it from that.

In all functions ``hydra`` is Hydra's node of a configuration.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from nnlab.jobs import Job
from nnlab.losses import rises
from nnlab.options import ImpossibleError

log = logging.getLogger("nnlab")
TRYING = ("nnlab", "basic")  # sweepers that try what they are given


def optimises(hydra: Any) -> bool:
    """Return whether the sweeper goes by results, instead of trying what it is given."""
    return hydra.runtime.choices["hydra/sweeper"] not in TRYING


def check(hydra: Any, jobs: Sequence[Job]) -> None:
    """Do what ``refuse`` does; choosing by the test set is possible, and said."""
    refuse(hydra, jobs)
    if optimises(hydra) and any(
        job.config and job.config.objective.startswith("test") for job in jobs
    ):
        log.info(
            "objective=%s: the test set chooses the best run here, so it no longer tests it",
            jobs[0].objective,
        )


def refuse(hydra: Any, jobs: Sequence[Job]) -> None:
    """Raise ValueError where a sweeper that optimises would choose by nothing, or the wrong way."""
    if not optimises(hydra):
        return
    sweeper = f"hydra/sweeper={hydra.runtime.choices['hydra/sweeper']}"
    if OmegaConf.select(hydra, "launcher.detach", default=False):
        raise ValueError(f"{sweeper} waits for results, and hydra.launcher.detach=true does not")
    given = OmegaConf.select(hydra, "sweeper.direction", default=None)
    directions = list(given) if OmegaConf.is_list(given) else [given]
    if len(directions) != 1:
        raise ValueError(f"{sweeper}: a run has one objective; give one hydra.sweeper.direction")
    for job in jobs:
        if isinstance(job.refused, ImpossibleError) and job.refused.option == "objective":
            raise job.refused
    chosen = getattr(directions[0], "name", str(directions[0])).lower()
    for config in (job.config for job in jobs if job.config is not None):
        metric = config.objective
        for split, kind in (("valid", "validation"), ("test", "test")):
            if metric.startswith(split) and not config.has(split):
                raise ValueError(
                    f"{sweeper} chooses runs by objective={metric}, but there is no {kind} set; "
                    f"set {split}_size (say {split}_size=500)"
                )
        wanted = direction(metric)
        if chosen in ("minimize", "maximize") and chosen != wanted:
            raise ValueError(
                f"{sweeper} would {chosen} objective={metric}; set hydra.sweeper.direction={wanted}"
            )


def direction(objective: str) -> str:
    """Return which way a metric is better, as Optuna says it."""
    return "maximize" if rises(objective) else "minimize"
