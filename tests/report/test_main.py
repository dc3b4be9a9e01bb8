from __future__ import annotations

import errno
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nnlab import claims, memory, report, study
from nnlab.report.__main__ import main
from tests.imports import imported
from tests.report.studies import FAILED, lay


def test_report_prints_the_table_the_notes_and_the_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for size in (500, 1000):
        lay(tmp_path, {"train_size": size}, train_seconds=size / 1000)
    lay(tmp_path, {"train_size": 2000}, **FAILED)
    assert main([str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [line.split()[:2] for line in lines[3:6]] == [["500", "3"], ["1000", "3"], ["2000", "0"]]
    said = "3 epochs on all 60,000 examples would take 60 s (52 to 70; 95 % interval)."
    assert f"By the fitted line {said}" in " ".join(out.split())
    files = ["summary.csv", "cells.csv", "train_time.png", "accuracy.png", "loss.png", "index.html"]
    # However long the path: on one line, to be copied.
    assert lines[-6:] == [str(tmp_path / file) for file in files]
    assert all((tmp_path / file).is_file() for file in files)
    assert "\x1b" not in out
    assert err == ""


def test_runs_that_need_more_memory_than_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in (500, 1000, 1500):
        lay(tmp_path, {"train_size": size})
    monkeypatch.setattr(memory, "SMALL", 0)
    monkeypatch.setattr(memory, "free", lambda: 2_999)
    assert main([str(tmp_path)]) == 1
    said = "a report of 3 runs needs 3.0 kB of memory, 3.0 kB is free; cut them into studies\n"
    assert capsys.readouterr() == ("", said.replace("3.0 kB", "3 kB"))
    monkeypatch.setattr(memory, "free", lambda: 3_000)
    assert main([str(tmp_path)]) == 0


def test_a_link_to_a_run_is_no_run(tmp_path: Path) -> None:
    """Nothing is written where it leads, as a figure of the only run would be."""
    lay(tmp_path / "theirs", {"train_size": 500})
    theirs = {path: path.stat().st_mtime_ns for path in (tmp_path / "theirs").rglob("*")}
    (run,) = (tmp_path / "theirs").iterdir()
    lay(tmp_path / "study", {"train_size": 1000})
    (tmp_path / "study" / run.name).symlink_to(run)
    assert main([str(tmp_path / "study")]) == 0
    assert run.name not in (tmp_path / "study" / "summary.csv").read_text()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "theirs").rglob("*")} == theirs


def test_a_run_that_ends_meanwhile_is_not_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a study that another process trains: its own report is not thought to be there."""
    result = lay(tmp_path, {"train_size": 500}, status="running") / "result.json"
    write = report.write_report

    def write_while_it_ends(folder: Path, **options: Any) -> report.Report:
        made = write(folder, **options)
        result.write_text(result.read_text().replace("running", "finished"))
        return made

    monkeypatch.setattr(report, "write_report", write_while_it_ends)
    assert main([str(tmp_path)]) == 0
    now = study.Study(tmp_path)
    now.look()
    assert not now.reported()
    monkeypatch.undo()
    assert main([str(tmp_path)]) == 0
    now = study.Study(tmp_path)
    now.look()
    assert now.reported()


def test_a_missing_study_is_one_message_and_the_others_are_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lay(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / name) for name in ("nowhere", "empty", "a")]) == 1
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        f"there is no folder {tmp_path / 'nowhere'}; give a study, say outputs/mnist",
        f"{tmp_path / 'empty'} holds no runs",
    ]
    assert (tmp_path / "a" / "summary.csv").is_file()
    assert out.splitlines()[-2].endswith("curves.png")


def test_a_folder_of_studies_lists_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for size in (500, 1000):
        lay(tmp_path / "mnist", {"train_size": size})
    lay(tmp_path / "rates", name="default")
    lay(tmp_path / "older" / "depth", name="default")
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path} holds no runs, but studies; give one of them:",
        f"{tmp_path / 'mnist'} (2 runs)",
        f"{tmp_path / 'older' / 'depth'} (1 run)",
        f"{tmp_path / 'rates'} (1 run)",
    ]
    assert not list(tmp_path.glob("*.csv"))


def test_many_studies_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(50):
        lay(tmp_path / f"{number:02}", name="default")
    assert main([str(tmp_path)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 + 40 + 1
    assert lines[-1] == "and 10 more"


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"nnlab {importlib.metadata.version('nnlab')}\n"


def test_command_line_in_a_pipe(tmp_path: Path) -> None:
    lay(tmp_path, {"train_size": 500})
    (lay(tmp_path, {"train_size": 1000}) / "result.json").write_text("{")
    command = [sys.executable, "-W", "error", "-m", "nnlab.report", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0
    assert "curves.png" in done.stdout
    assert len(done.stderr.splitlines()) == 1
    assert "train_size=1000" in done.stderr
    done = subprocess.run([*command, "/nowhere"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_what_the_package_offers_is_there() -> None:
    assert [name for name in report.__all__ if not hasattr(report, name)] == []


def test_the_report_starts_without_what_is_slow_to_import() -> None:
    slow = {"torch", "pandas", "scipy", "hydra", "matplotlib.pyplot"}
    assert imported("nnlab.report.__main__, nnlab.report.figures", slow) == set()


def test_a_prediction_is_printed_and_on_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for size, accuracy in ((500, 0.85), (1000, 0.88), (2000, 0.9)):
        lay(tmp_path, {"train_size": size}, test_accuracy=accuracy)
    assert main([str(tmp_path), "--predict", "5000"]) == 0
    assert "5,000 examples: test accuracy 9" in capsys.readouterr().out
    assert "5,000 examples: test accuracy 9" in (tmp_path / "index.html").read_text()


def test_a_study_that_cannot_be_written_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path, {"train_size": 500})

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / ".lock"))

    monkeypatch.setattr(claims, "exclusive", refuse)
    monkeypatch.setattr(report, "write_report", refuse)
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"{tmp_path}: Permission denied; its report is written there: copy it to where you may "
        f"write\n"
    )


def test_on_a_full_disk_the_table_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path, {"train_size": 500})

    def full(*_: object, **__: object) -> report.Report:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "summary.csv"))

    monkeypatch.setattr(report, "write_report", full)
    assert main([str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    remedy = "free some space, and the same command goes on"
    assert err == f"{tmp_path}: No space left on device; {remedy}\n"
    assert out.split()[:2] == ["test", "test"]
