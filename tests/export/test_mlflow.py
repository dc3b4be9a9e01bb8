"""Runs in a store of MLflow's on SQLite, read by MLflow itself."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nnlab.export import __main__ as command
from nnlab.export import mlflow as exporting
from tests.export import studies
from tests.report.studies import lay

mlflow: Any = pytest.importorskip("mlflow")
pytest.importorskip("sqlalchemy")
# Of these packages, not of nnlab.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A study, and the store that it was exported to."""
    folder = tmp_path_factory.mktemp("mlflow")
    studies.study(folder / "rates")
    uri = f"sqlite:///{folder}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.chdir(folder)
        assert export(folder / "rates", "--into", uri) == 0
        yield folder / "rates", uri


def export(*arguments: object) -> int:
    return command.main([*map(str, arguments), "--to", "mlflow"])


def run_table(uri: str, experiment: str = "rates") -> pd.DataFrame:
    """Return the table that MLflow shows of an experiment's runs, by their names."""
    mlflow.set_tracking_uri(uri)
    table = mlflow.search_runs(experiment_names=[experiment])
    named: pd.DataFrame = table.set_index("tags.mlflow.runName")
    return named


def test_the_run_table_shows_parameters_and_results(stored: tuple[Path, str]) -> None:
    study, uri = stored
    table = run_table(uri)
    oracle = [path for path in study.iterdir() if "lr" in path.name]
    assert sorted(table.index) == sorted(path.name for path in oracle)
    for run in oracle:
        row, result = table.loc[run.name], studies.result(run)
        config = result["config"]
        assert float(row["params.optimizer.lr"]) == config["optimizer"]["lr"]
        assert int(row["params.seed"]) == config["seed"]
        assert row["params.model.hidden"] == str(config["model"]["hidden"]).replace(" ", "")
        if result["test_accuracy"] is not None:
            assert row["metrics.test_accuracy"] == result["test_accuracy"]
            assert row["metrics.valid_loss"] == studies.metrics(run)["valid_loss"][2]  # as kept
        assert row["tags.nnlab.fingerprint"] == result["fingerprint"]
        assert row["status"] == ("FAILED" if result["status"] == "diverged" else "FINISHED")
        assert row["start_time"].timestamp() == studies.began()
        assert row["end_time"].timestamp() == studies.began() + studies.SECONDS


def test_curves_and_files_are_those_of_the_run(stored: tuple[Path, str]) -> None:
    study, uri = stored
    client = mlflow.MlflowClient(uri)
    for name, run_id in run_table(uri)["run_id"].items():
        oracle = studies.metrics(study / str(name))
        for column, values in oracle.items():
            known = values.dropna()
            found = client.get_metric_history(run_id, f"epoch/{column}")
            assert [each.step for each in found] == list(known.index)
            assert [each.value for each in found] == list(known)
            times = studies.began() + oracle["seconds"][known.index]
            assert [each.timestamp / 1000 for each in found] == list(times)
        for file in client.list_artifacts(run_id):
            artifact = client.download_artifacts(run_id, file.path)
            assert Path(artifact).read_bytes() == (study / str(name) / file.path).read_bytes()
        files = {file.path for file in client.list_artifacts(run_id)}
        assert files >= {"result.json", "model.safetensors", "curves.png", "confusion.csv"}


def test_a_second_export_adds_what_is_new_or_broke_off(
    stored: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, uri = stored
    for seed in range(3):
        lay(tmp_path / "more", {"seed": seed})
    terminate = mlflow.MlflowClient.set_terminated
    ended: list[Any] = []

    def interrupted(*arguments: Any) -> None:
        if ended:
            raise KeyboardInterrupt
        terminate(*arguments)
        ended.append(arguments)

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "set_terminated", interrupted)
        assert export(tmp_path / "more", "--into", uri) == 130
    assert len(run_table(uri, "more")) == 2
    capsys.readouterr()
    assert export(tmp_path / "more", "--into", uri) == 0
    assert capsys.readouterr().out == f"{uri}: 2 runs written, 1 there before\n"
    table = run_table(uri, "more")
    assert sorted(table.index) == ["seed=0", "seed=1", "seed=2"]
    assert set(table["status"]) == {"FINISHED"}
    assert export(tmp_path / "more", "--into", uri) == 0
    assert capsys.readouterr().out == f"{uri}: 0 runs written, 3 there before\n"


OPTIONS = {f"x{number}": number for number in range(150)}


def test_many_epochs_and_options_are_written_in_parts(
    stored: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, uri = stored
    rows = "".join(f"{epoch},{2 / epoch},0.5,,,{epoch / 10}\n" for epoch in range(1, 701))
    lay(tmp_path / "long", {"model.options": OPTIONS}, rows=rows, name="run")
    log_batch = mlflow.MlflowClient.log_batch
    most: list[int] = []

    def counted(client: Any, run: str, **items: Any) -> None:
        most.append(sum(map(len, items.values())))
        log_batch(client, run, **items)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", counted)
    assert export(tmp_path / "long", "--into", uri) == 0
    assert max(most) <= exporting.BATCH
    row = run_table(uri, "long").iloc[0]
    assert row["params.model.options.x149"] == "149"
    assert (
        len(mlflow.MlflowClient(uri).get_metric_history(row["run_id"], "epoch/train_loss")) == 700
    )


def test_a_store_that_is_not_there_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    lay(tmp_path / "study")
    (tmp_path / "text.db").write_text("this is no database" * 99)
    with socket.socket() as free:  # nobody listens there
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    os.mkfifo(tmp_path / "pipe.db")
    before = sorted(tmp_path.rglob("*"))
    for uri, message in (
        (address, f"no server answers at {address}"),
        (address.replace("//", "//me:secret@"), f"no server answers at {address}"),
        (f"sqlite:///{tmp_path}/pipe.db", "pipe.db cannot be written"),
        (f"sqlite:///{tmp_path}/no/mlflow.db", "No such file or directory"),
        ("nonsense://x", "nonsense"),
        (f"sqlite:///{tmp_path}/text.db", "text.db"),
    ):
        assert export(tmp_path / "study", "--into", uri) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert sorted(tmp_path.rglob("*")) == before


def test_an_experiment_that_was_deleted_is_one_message(
    stored: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, uri = stored
    lay(tmp_path / "gone")
    assert export(tmp_path / "gone", "--into", uri) == 0
    client = mlflow.MlflowClient(uri)
    number = client.get_experiment_by_name("gone").experiment_id
    client.delete_experiment(number)
    assert export(tmp_path / "gone", "--into", uri) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"gone was deleted there; `mlflow experiments restore -x {number}`" in line
    client.restore_experiment(number)
    assert export(tmp_path / "gone", "--into", uri) == 0
    assert capsys.readouterr().out.endswith(": 0 runs written, 1 there before\n")
