from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nnlab import records
from nnlab.records import RunFolder, finished_result
from nnlab.storage import write_atomic

IDENTITY: dict[str, Any] = {"fingerprint": "ours", "config": {"a": 1, "b": {"c": 2}}}


def test_a_folder_says_whose_it_is_from_the_first_instant(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", IDENTITY, {".hydra/config.yaml": "a: 1\n"})
    assert records.read_result(tmp_path / "run") == {"status": "running", **IDENTITY}
    assert (tmp_path / "run" / ".hydra" / "config.yaml").read_text() == "a: 1\n"


def test_a_row_is_on_disk_as_soon_as_its_epoch_ends(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, IDENTITY, {})
    header = "epoch,train_loss,train_accuracy,valid_loss,valid_accuracy,seconds\n"
    assert (tmp_path / "metrics.csv").read_text() == header
    folder.append((1, 0.5, 0.25, None, None, 1.5))
    assert (tmp_path / "metrics.csv").read_text() == header + "1,0.5,0.25,,,1.5\n"
    folder.append((2, 1 / 3, float("nan"), 0.1, 1.0, 2.0))
    last = (tmp_path / "metrics.csv").read_text().splitlines()[-1]
    assert last == "2,0.333333333,nan,0.1,1,2"


def test_the_result_comes_last_and_whole(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, IDENTITY, {})
    weights = {"0.weight": torch.rand(3, 2)}
    returned = folder.finish({"status": "finished", "test_loss": None}, weights)
    assert records.read_result(tmp_path) == returned
    content = [(tmp_path / name).read_bytes() for name in ("metrics.csv", "model.safetensors")]
    sha256 = [hashlib.sha256(each).hexdigest() for each in content]
    files = dict(zip(("metrics.csv", "model.safetensors"), sha256))
    assert returned == {"status": "finished", "test_loss": None, "sha256": files, **IDENTITY}
    assert torch.equal(load_file(tmp_path / "model.safetensors")["0.weight"], weights["0.weight"])
    assert not list(tmp_path.glob(".*tmp"))


def test_a_failure_is_in_the_log_and_the_result(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, IDENTITY, {})
    try:
        raise RuntimeError("out of luck")
    except RuntimeError as error:
        folder.fail(error)
    log = (tmp_path / "run.log").read_text()
    assert "Traceback" in log
    assert "out of luck" in log
    result = records.read_result(tmp_path)
    assert result is not None
    assert (result["status"], result["error"]) == ("failed", "RuntimeError: out of luck")


def test_a_new_attempt_removes_the_old_files_but_not_the_log(tmp_path: Path) -> None:
    first = RunFolder(tmp_path, IDENTITY, {})
    first.log("first attempt")
    first.finish({"status": "finished"}, {"w": torch.zeros(1)})
    RunFolder(tmp_path, IDENTITY, {})
    assert not (tmp_path / "model.safetensors").exists()
    assert "first attempt" in (tmp_path / "run.log").read_text()


@pytest.mark.parametrize(
    ("status", "done"),
    [
        ("finished", True),
        ("stopped", True),
        ("diverged", True),
        ("failed", False),
        ("running", False),
    ],
)
def test_which_runs_are_done(tmp_path: Path, status: str, done: bool) -> None:
    (tmp_path / "result.json").write_text(json.dumps({"status": status, "fingerprint": "ours"}))
    assert (finished_result(tmp_path, "ours", {}) is not None) == done


def test_an_empty_file_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "result.json").touch()
    assert records.read_result(tmp_path) is None


def test_no_folder_is_no_result(tmp_path: Path) -> None:
    assert finished_result(tmp_path / "nothing", "ours", {}) is None


def test_a_foreign_run_is_named_by_what_differs(tmp_path: Path) -> None:
    RunFolder(tmp_path, IDENTITY, {})
    with pytest.raises(ValueError, match=r"holds a run with b.c=2; this one has b.c=3.*study="):
        finished_result(tmp_path, "other", {"a": 1, "b": {"c": 3}})


@pytest.mark.parametrize("content", ["{", "[]", "{}", '"text"'])
def test_a_damaged_result_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(ValueError, match=r"result\.json is"):
        finished_result(tmp_path, "ours", {})


def test_a_file_is_whole_or_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"before")

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, b"after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
