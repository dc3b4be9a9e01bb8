"""Runs in an MLflow store: a file of SQLite, a folder, or a server."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from nnlab import refusals, storage
from nnlab.export import Finished, FinishedRun
from nnlab.extras import needed
from nnlab.report.runs import spell
from nnlab.text import shortened

SQLITE = "sqlite:///"
KEY = "nnlab.key"  # the tag by which a run is known
LONGEST = 6000, 5000  # a parameter and a tag, in characters
BATCH = 1000  # metrics that a server takes at a time; of parameters and tags 100
PATIENCE = 10.0  # seconds that a server has to answer


def write(study: Finished, into: str) -> Iterator[bool]:
    """Write the runs that an experiment, called by the study, does not have yet; tell of each run
    whether it was one.

    Raises OSError where the store cannot be written, ValueError where nobody answers or it refuses.
    """
    mlflow = needed("mlflow", "mlflow")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines a run
    reach(into)
    with refused(mlflow, into):
        client = mlflow.MlflowClient(into)
        experiment = experiment_of(client, study.study, into)
        known = runs_there(client, experiment)
    for run in study.runs:
        new = run.key not in known
        if new:
            with refused(mlflow, into):
                write_run(mlflow, client, experiment, run)
        yield new


def reach(uri: str) -> None:
    """Raise OSError or ValueError for a store that is not there: MLflow would try for minutes."""
    if uri.startswith(SQLITE):
        flags = os.O_WRONLY | os.O_CREAT
        os.close(storage.open_regular(uri.removeprefix(SQLITE), flags))
    elif uri.startswith(("http://", "https://")):
        import requests

        try:
            requests.get(uri, timeout=PATIENCE)
        except requests.RequestException as error:
            reason = type(error).__name__
            raise ValueError(f"no server answers at {public(uri)} ({reason}); start it") from None


@contextlib.contextmanager
def refused(mlflow: Any, uri: str) -> Iterator[None]:
    """Turn an error of MLflow's, or of its database, into a ValueError that names the store."""
    database = needed("sqlalchemy.exc", "mlflow")
    try:
        yield
    except (mlflow.exceptions.MlflowException, database.SQLAlchemyError) as error:
        raise ValueError(f"{public(uri)}: {refusals.of_database(error)}") from error


def public(uri: str) -> str:
    """Return the address of a store without a password.

    >>> public("http://user:secret@localhost:5000"), public("sqlite:///a@b.db")
    ('http://localhost:5000', 'sqlite:///a@b.db')
    """
    return re.sub(r"(?<=://)[^/]*@", "", uri)


def experiment_of(client: Any, name: str, uri: str) -> str:
    """Return the id of an experiment, made where it is not there.

    The files of one in SQLite lie beside it, not in the working directory. Raises ValueError for
    one that was deleted there, whose name MLflow keeps.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        local = Path(uri.removeprefix(SQLITE)).absolute().parent / "mlruns" / name
        made: str = client.create_experiment(
            name, artifact_location=local.as_uri() if uri.startswith(SQLITE) else None
        )
        return made
    known: str = found.experiment_id
    if found.lifecycle_stage == "deleted":
        raise ValueError(
            f"{public(uri)}: the experiment {name} was deleted there; "
            f"`mlflow experiments restore -x {known}` restores it, `mlflow gc` removes it for good"
        )
    return known


def runs_there(client: Any, experiment: str) -> set[str]:
    """Return the keys of the runs in an experiment; remove what was begun of others."""
    known, page = set(), None
    while True:
        found = client.search_runs([experiment], f"tags.`{KEY}` != ''", page_token=page)
        for run in found:
            if run.info.end_time is None:  # its export broke off
                client.delete_run(run.info.run_id)
            else:
                known.add(run.data.tags[KEY])
        page = found.token
        if not page:
            return known


def write_run(mlflow: Any, client: Any, experiment: str, run: FinishedRun) -> None:
    entities = mlflow.entities
    begun = client.create_run(
        experiment, start_time=milliseconds(run.started), run_name=run.name, tags={KEY: run.key}
    )
    run_id = begun.info.run_id
    ended = milliseconds(run.ended)
    results = [
        entities.Metric(name, value, ended, run.run.epochs) for name, value in run.results.items()
    ]
    curves = [
        entities.Metric(name, value, milliseconds(when), epoch)
        for epoch, when, measured in run.epochs()
        for name, value in measured.items()
    ]
    most, longest = LONGEST
    params = [
        entities.Param(name, shortened(spell(value), most)) for name, value in run.options.items()
    ]
    tags = [
        entities.RunTag(f"nnlab.{name}", shortened(text, longest))
        for name, text in run.texts.items()
    ]
    for some in batches(params, BATCH // 10):
        client.log_batch(run_id, params=some)
    for some in batches([*results, *curves], BATCH):
        client.log_batch(run_id, metrics=some)
    client.log_batch(run_id, tags=tags)
    for path in run.files:
        client.log_artifact(run_id, str(path))
    client.set_terminated(run_id, "FAILED" if run.failed else "FINISHED", ended)


def batches(items: list[Any], most: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while some := list(islice(rest, most)):
        yield some


def milliseconds(seconds: float) -> int:
    return round(1000 * seconds)
