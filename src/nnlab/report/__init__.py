"""Table, figures and page of a study: reads run folders, never trains, never imports torch."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from nnlab import memory, records, terminal
from nnlab.report import cells, figure_process, page, summary, summary_notes
from nnlab.report.run_folders import ROOM, distinct, left_out, read, read_all
from nnlab.report.runs import RunRecord
from nnlab.report.times import duration
from nnlab.study import RECORD
from nnlab.text import visible_lines

__all__ = ["Report", "duration", "look", "read", "write_report"]

MANY = 500  # runs, whose room in memory counts for more than 0.05 s and a second process


class Report(NamedTuple):
    """What there is to print: the table, what to say below it, the files written.

    ``rich.console.Console().print(report)`` prints the first two.
    """

    table: Table
    notes: list[str]
    files: list[Path]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield terminal.laid_out(self.table, options.max_width)
        yield from (Text(visible_lines(note)) for note in self.notes)


def look(study: Path, predict: Sequence[int] = ()) -> Report:
    """Return what ``write_report`` does, but write nothing and draw nothing.

    Raises NoRoomError where the runs are too many for the memory that is left.
    """
    runs = distinct(found(study)[0])
    return Report(summary.table(runs, terminal.width()), summary_notes.notes(runs, predict), [])


def found(study: Path) -> tuple[Sequence[RunRecord], list[str]]:
    """Return what ``read_all`` does. Raises NoRoomError where there is too little memory for it."""
    runs, damaged = read_all(study, room=ROOM)
    memory.check(RECORD * len(runs), f"a report of {len(runs):,} runs", "cut them into studies")
    return runs, damaged


def write_report(
    study: Path,
    curves: Sequence[Path] = (),
    predict: Sequence[int] = (),
    single_file: bool = False,
    formats: Collection[str] = (),
    loss_scale: str = "auto",
    style: str = "notebook",
) -> Report:
    """Write tables, figures and page of a study; remove what no longer applies, and complete what
    force=true was replacing. To be called with the study's lock held.

    curves: run folders that get a ``curves.png`` of their own. The only run of a study
    always gets one, and one that exists is drawn again when older than its metrics.
    predict: training-set sizes of which the accuracy is to be predicted.
    single_file: write a page that holds its pictures, ``single.html``, beside the usual one.
    formats: svg and pdf, in which the figures are to be there beside PNG, and tex: the table as
    ``summary.tex``. loss_scale: of the figures of losses, auto, log or linear. style: what sizes
    and fonts of figures are made for, notebook, paper or slides.
    Raises FileNotFoundError if there is no such study or no run in it, OSError if it cannot
    be written to, and as ``look`` does.
    """
    for new in study.glob(f"*/{records.NEW}"):
        with contextlib.suppress(ValueError):  # it is damaged, and trained anew by its command
            records.settle(new.parent)
    every, damaged = found(study)
    runs, files = distinct(every), [study / "summary.csv", study / "cells.csv"]
    table, notes = summary.table(runs, terminal.width()), summary_notes.notes(runs, predict)
    for file, rows in zip(files, (summary.rows(runs), cells.rows(runs))):
        summary.write_csv(rows, file)
    if "tex" in formats:
        made = summary.table(runs, leave_out=False)
        files.append(summary.write_tex(made, study / "summary.tex"))
    else:
        (study / "summary.tex").unlink(missing_ok=True)
    if len(runs) > MANY:
        figure_process.stop()  # what it had to be told of them takes room in both processes
        memory.give_back()
    drawn = figure_process.draw_all(runs, study, curves, formats, loss_scale, style)
    if len(runs) > MANY:
        memory.give_back()  # the figures, too, which refer to themselves
    said = left_out(damaged) + notes
    pages = [page.write_page(runs, said, drawn, study)]
    if single_file:
        pages.append(page.write_page(runs, said, drawn, study, single_file=True))
    return Report(table, notes, [*files, *drawn, *pages])
