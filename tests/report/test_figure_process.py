from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnlab import report
from nnlab.report import figure_process, figures
from nnlab.report.run_folders import read
from tests.report.test_figures import size_sweep


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Path]:
    size_sweep(tmp_path / "study")
    figure_process.start()
    yield tmp_path / "study"
    figure_process.stop()


def test_one_is_started_at_most(study: Path) -> None:
    """Each batch of a sweep's runs may ask for it."""
    first = figure_process._artist
    figure_process.start()
    assert figure_process._artist is first


def contents(files: list[Path]) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in files}


def test_both_processes_draw_the_same(study: Path) -> None:
    runs = read(study)
    found = contents(figure_process.draw_all(runs, study, []))
    assert len(found) == 3
    assert figure_process._artist is not None  # it drew, and could draw again
    assert found == contents(figures.draw_all(runs, study, []))


def test_of_many_runs_none_is_told(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MANY", len(read(study)) - 1)
    assert len([file for file in report.write_report(study).files if file.suffix == ".png"]) == 3
    assert figure_process._artist is None


def test_an_error_comes_back(study: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        figure_process.draw_all(read(study), study / "nowhere", [])


def test_without_the_second_process_this_one_draws(study: Path) -> None:
    assert figure_process._artist is not None
    figure_process._artist.kill()
    figure_process._artist.wait()
    assert len(figure_process.draw_all(read(study), study, [])) == 3
    assert figure_process._artist is None


def test_what_is_printed_by_chance_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('Using cache')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    size_sweep(tmp_path / "study")
    figure_process.start()
    assert len(figure_process.draw_all(read(tmp_path / "study"), tmp_path / "study", [])) == 3
    assert figure_process._artist is not None
    figure_process.stop()


@pytest.mark.skipif(os.name == "nt", reason="no SIGSTOP")
def test_a_second_process_that_is_stopped_is_given_up(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figure_process, "SILENT", 0.1)
    artist = figure_process._artist
    assert artist is not None
    artist.send_signal(signal.SIGSTOP)
    assert len(figure_process.draw_all(read(study), study, [])) == 3
    assert artist.returncode == -signal.SIGKILL


def test_a_second_process_ends_quietly_when_its_command_is_gone(tmp_path: Path) -> None:
    """Killed while figures are drawn."""
    size_sweep(tmp_path / "study")
    code = (
        "import os, pickle; from nnlab.report import figure_process;"
        "from nnlab.report.run_folders import read;"
        f"from pathlib import Path; study = Path({str(tmp_path / 'study')!r});"
        "figure_process.start(); artist = figure_process._artist;"
        "pickle.dump((read(study), study, []), artist.stdin); artist.stdin.flush(); os._exit(3)"
    )
    # Its end closes the pipe, after the second process's, which inherits it.
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (3, "")
