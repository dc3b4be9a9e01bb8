from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nnlab.report import figure_process, figures
from nnlab.report.runs import read
from tests.report.test_figures import size_sweep


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Path]:
    size_sweep(tmp_path / "study")
    figure_process.start()
    yield tmp_path / "study"
    figure_process.stop()


def contents(files: list[Path]) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in files}


def test_both_processes_draw_the_same(study: Path) -> None:
    runs = read(study)
    found = contents(figure_process.draw_all(runs, study, []))
    assert len(found) == 3
    assert figure_process._artist is not None  # it drew, and could draw again
    assert found == contents(figures.draw_all(runs, study, []))


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
