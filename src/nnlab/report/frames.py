"""The runs of a study as pandas frames."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnlab.report import summary
from nnlab.report.run_folders import distinct, read
from nnlab.report.runs import RunRecord, varied

if TYPE_CHECKING:
    import pandas as pd


def results(study: str | Path) -> pd.DataFrame:
    """Return a row for each run of a study: the columns of summary.csv.

    What has no value is NaN; values that are lists, as of model.hidden, are tuples.
    Raises FileNotFoundError if there is no such folder, or no run in it.
    """
    return frame(distinct(read(Path(study))))


def curves(study: str | Path) -> pd.DataFrame:
    """Return a row for each epoch of each run of a study: the columns of metrics.csv, behind the
    name of the run and what varied between the runs.

    Raises FileNotFoundError if there is no such folder, or no run in it.
    """
    import pandas as pd

    runs = distinct(read(Path(study)))
    keys = varied(runs)
    names = pd.DataFrame(
        [[run.name, *map(run.settings.get, keys)] for run in runs], columns=["name", *keys]
    )
    epochs = [len(run.curves["epoch"]) for run in runs]
    measured = pd.concat([pd.DataFrame(dict(run.curves)) for run in runs], ignore_index=True)
    repeated = names.loc[names.index.repeat(epochs)].reset_index(drop=True)
    made: pd.DataFrame = pd.concat([repeated, measured.astype({"epoch": int})], axis=1)
    return made


def of_runs(folders: Collection[Path], settings: Sequence[str]) -> pd.DataFrame:
    """Return a row for each of these runs, as ``results`` does.

    settings: options that have a column whether or not the runs differ in them.
    """
    places = {folder.absolute() for folder in folders}
    studies = {folder.parent: None for folder in folders}
    read_runs = [run for study in studies for run in read(study)]
    return frame([run for run in read_runs if run.folder.absolute() in places], settings)


def frame(runs: Sequence[RunRecord], settings: Sequence[str] = ()) -> pd.DataFrame:
    """Make the frame of runs: a row each, in the order they come."""
    import pandas as pd

    made: pd.DataFrame = pd.DataFrame(summary.rows(runs, settings))
    for name in made.columns[made.isna().all()]:  # else they would hold None
        made[name] = math.nan
    return made
