"""Runs as Weights & Biases records them offline, for ``wandb sync``."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from nnlab import storage
from nnlab.export import Finished, FinishedRun
from nnlab.extras import needed
from nnlab.text import shortened

FORBIDDEN = r"[/\\#?%:]"  # in the name of a project
ROOM = 2**16  # bytes
LONGEST = 128  # such a name, in characters
QUIET = {  # nothing of this process belongs to the run
    **dict.fromkeys(("silent", "disable_git", "x_disable_stats", "x_disable_meta"), True),
    **dict.fromkeys(("save_code", "x_save_requirements"), False),
    "console": "off",
}


def write(study: Finished, into: str) -> Iterator[bool]:
    """Write the runs that are not in a folder yet, each a folder of its own in it; tell of each run
    whether it was one.

    Raises OSError where it cannot be written.
    """
    wandb = needed("wandb", "wandb")
    folder = Path(into).absolute()  # W&B's own process may be in another
    folder.mkdir(parents=True, exist_ok=True)
    for run in study.runs:
        made = folder.glob(f"offline-run-*-{run.key}/*.wandb")
        new = not any(path.stat().st_size for path in made)
        if new:
            write_whole(wandb, study.study, run, folder)
        yield new


def write_whole(wandb: Any, study: str, run: FinishedRun, folder: Path) -> None:
    """Write a run's folder, whole or not at all. Raises ValueError where W&B refuses."""
    try:
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder) as unfinished:
            write_run(wandb, study, run, unfinished)
            made = next(Path(unfinished).glob(f"wandb/offline-run-*/run-{run.key}.wandb"), None)
            if made is None or not made.stat().st_size:
                raise ValueError(f"{folder}: W&B has written nothing of {run.name}")
            # W&B does not say where a disk is full, which then has no room for this either.
            storage.write_atomic(made.with_suffix(".room"), bytes(ROOM))
            made.with_suffix(".room").unlink()
            os.replace(made.parent, folder / made.parent.name)
    except (wandb.Error, UnicodeError) as error:  # it takes no path that is not UTF-8
        raise ValueError(f"{folder}: {error}") from error


def write_run(wandb: Any, study: str, run: FinishedRun, folder: str) -> None:
    offline = wandb.init(
        mode="offline",
        project=shortened(re.sub(FORBIDDEN, "-", study), LONGEST),
        name=run.name,
        id=run.key,
        dir=folder,
        config=run.options,
        settings=wandb.Settings(**QUIET),
        reinit="finish_previous",
    )
    ended = run.ended
    for epoch, ended, measured in run.epochs():
        offline.log({**measured, "_timestamp": ended}, step=epoch)
    pictures = {path.stem: wandb.Image(str(path)) for path in run.pictures}
    offline.log({**pictures, "_timestamp": ended}, step=run.run.epochs)  # of the last epoch, too
    times = {"started": as_iso(run.started), "ended": as_iso(run.ended)}
    offline.summary.update({**run.results, **run.texts, **times})
    artifact = wandb.Artifact(f"run-{run.key}", "run")
    for path in run.files:
        # Not copied: it is read where it is when the run is uploaded.
        artifact.add_file(str(path.absolute()), policy="immutable")
    offline.log_artifact(artifact)
    offline.finish(exit_code=int(run.failed))


def as_iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")
