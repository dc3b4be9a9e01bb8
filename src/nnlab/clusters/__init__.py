"""Where batches of runs are trained: Slurm, Ray, or any pool of workers from a list.

Each is a ``Cluster``: what ``batches`` asks of it is in that class. The libraries are imported
when they are chosen.
"""

from __future__ import annotations

from nnlab.clusters.cluster import Cluster, Future, Options, check
from nnlab.clusters.pools import POOLS, Pool

__all__ = ["POOLS", "Cluster", "Future", "Options", "choose"]


def choose(name: str, options: Options) -> Cluster:
    """Return the cluster of ``hydra/launcher=name``.

    Raises ValueError where it cannot be had: an option is not possible, a library is missing, or
    it does not answer.
    """
    check(options)
    if name == "slurm":
        from nnlab.clusters.slurm import Slurm

        return Slurm(options)
    if name == "ray":
        from nnlab.clusters.ray import Ray

        return Ray(options)
    return Pool(options)
