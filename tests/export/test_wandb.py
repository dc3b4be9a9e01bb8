"""What Weights & Biases would send of runs, read from its files."""

from __future__ import annotations

import errno
import importlib
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nnlab import storage
from nnlab.export import __main__ as command
from nnlab.export import finished
from tests.export import studies
from tests.report.studies import lay

pytest.importorskip("wandb")
# Of this package, not of nnlab.
pytestmark = pytest.mark.filterwarnings("ignore")


def export(*arguments: object) -> int:
    return command.main([*map(str, arguments), "--to", "wandb"])


def recorded(file: Path) -> Iterator[Any]:
    """Yield the records of a file: LevelDB's log format, behind a header of 7 bytes."""
    record_type = importlib.import_module("wandb.proto.wandb_internal_pb2").Record
    content, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", content[at : at + 7])
        parts += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = record_type()
            record.ParseFromString(parts)
            parts = b""
            yield record


def by_key(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def test_what_is_recorded_is_what_the_study_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "rates"
    runs = studies.study(study)
    monkeypatch.chdir(tmp_path)
    assert export("rates") == 0
    folders = list((study / "wandb").iterdir())
    assert len(folders) == len(runs)
    for run in finished(study).runs:
        (folder,) = (study / "wandb").glob(f"offline-run-*-{run.key}")
        records = list(recorded(folder / f"run-{run.key}.wandb"))
        result, oracle = studies.result(study / run.name), studies.metrics(study / run.name)
        begun = next(each.run for each in records if each.HasField("run"))
        assert (begun.run_id, begun.project, begun.display_name) == (run.key, "rates", run.name)
        config = by_key(begun.config.update)
        assert config["optimizer.lr"] == result["config"]["optimizer"]["lr"]
        assert config["model.hidden"] == result["config"]["model"]["hidden"]
        rows = [by_key(each.history.item) for each in records if each.HasField("history")]
        for row in (row for row in rows if "epoch/seconds" in row):
            expected = oracle.loc[row["_step"]].dropna()
            assert {key: row[f"epoch/{key}"] for key in expected.index} == dict(expected)
            assert row["_timestamp"] == studies.began() + expected["seconds"]
        assert sum("epoch/seconds" in row for row in rows) == len(oracle)
        summary: dict[str, Any] = {}
        for each in records:
            summary |= by_key(each.summary.update)
        if result["test_accuracy"] is not None:
            assert summary["test_accuracy"] == result["test_accuracy"]
        assert summary["fingerprint"] == result["fingerprint"]
        picture = folder / "files" / summary["curves/path"]
        assert picture.read_bytes() == (study / run.name / "curves.png").read_bytes()
        (artifact,) = (each.artifact for each in records if each.HasField("artifact"))
        files = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
        assert files["model.safetensors"] == study / run.name / "model.safetensors"
        (ended,) = (each.exit for each in records if each.HasField("exit"))
        assert ended.exit_code == (result["status"] == "diverged")


def test_a_second_export_adds_what_is_new(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, into = tmp_path / "study", tmp_path / "into"
    lay(study, {"seed": 1})
    assert export(study, "--into", into) == 0
    assert capsys.readouterr().out == f"{into}: 1 run written\n"
    before = sorted(into.rglob("*"))
    lay(study, {"seed": 2})
    assert export(study, "--into", into) == 0
    assert capsys.readouterr().out == f"{into}: 1 run written, 1 there before\n"
    assert set(before) < set(into.rglob("*"))
    assert len(list(into.iterdir())) == 2


def test_a_folder_that_cannot_be_made_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lay(tmp_path / "study")
    (tmp_path / "file").touch()
    assert export(tmp_path / "study", "--into", tmp_path / "file") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"{tmp_path}/file cannot be written (File exists); choose another --into"


def test_of_a_full_disk_nothing_is_left_that_would_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """W&B itself goes on as if it had written."""
    lay(tmp_path / "study")
    into = tmp_path / "study" / "wandb"

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_atomic", full)
        assert export(tmp_path / "study") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{into} cannot be written (No space left on device); free some space")
    assert list(into.iterdir()) == []
    (found,) = finished(tmp_path / "study").runs
    empty = into / f"offline-run-20261128_000000-{found.key}" / f"run-{found.key}.wandb"
    empty.parent.mkdir()  # as earlier versions left
    empty.touch()
    assert export(tmp_path / "study") == 0
    assert capsys.readouterr().out == f"{into}: 1 run written\n"
