"""The page of a study: ``index.html``, its table, what is to say of it, its figures, its runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.table import Table

from nnlab.records import LOG, METRICS, RESULT
from nnlab.report.columns import shown
from nnlab.report.runs import RunRecord, spell
from nnlab.storage import write_atomic
from nnlab.terminal import as_rows
from nnlab.text import visible_lines

TEMPLATE = Path(__file__).with_name("page.html")
FILES = (RESULT, METRICS, LOG)  # of a run, that the page leads to
CAPTIONS = {
    "train_time": "Training time over training-set size",
    "accuracy": "Test accuracy",
    "r2": "Test R²",
    "loss": "Training loss over epochs",
    "loss_curves": "Training and validation loss over epochs",
    "accuracy_curves": "Training and validation accuracy over epochs",
    "r2_curves": "Training and validation R² over epochs",
}


def write_page(
    runs: Sequence[RunRecord],
    table: Table,
    notes: Sequence[str],
    figures: Sequence[Path],
    study: Path,
) -> Path:
    """Write ``index.html``, as a whole or not at all, and return it.

    figures: PNG files of the study, which the page shows. All links are relative, so a study
    can be moved or sent as a whole.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible_lines(value) if isinstance(value, str) else value,
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(
        title=study.resolve().name,
        table=as_rows(table),
        numeric=[column.justify == "right" for column in table.columns],
        caption=str(table.caption or ""),
        notes=notes,
        figures=[{"link": link(file, study), "caption": caption(file, runs)} for file in figures],
        columns=[column.page for column in shown("page", runs)],
        runs=[row(run, runs, study) for run in runs],
    )
    path = study / "index.html"
    write_atomic(path, page.encode())
    return path


def caption(file: Path, runs: Sequence[RunRecord]) -> str:
    if file.stem == "curves":  # of a single run
        return f"Loss and {runs[0].main.title} over epochs"
    return CAPTIONS.get(file.stem, file.stem)


def row(run: RunRecord, runs: Sequence[RunRecord], study: Path) -> dict[str, Any]:
    """Return what the page says of one of the runs."""
    found = [column.of(run) for column in shown("page", runs)]
    return {
        "name": run.name,
        "cells": ["" if value is None else spell(value) for value in found],
        "links": [
            {"name": name, "link": link(run.folder / name, study)}
            for name in (*FILES, *sorted(path.name for path in run.folder.glob("*.png")))
            if (run.folder / name).exists()
        ],
    }


def link(file: Path, study: Path) -> str:
    """Return a link from the page to a file of the study."""
    return quote(file.relative_to(study).as_posix(), errors="surrogateescape")
