"""Table, figures and page of a study: reads run folders, never trains, never imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from nnlab.report import figure_process, page, summary
from nnlab.report.runs import distinct, read, read_run
from nnlab.report.times import duration
from nnlab.terminal import fitted
from nnlab.text import visible_lines

__all__ = ["Report", "duration", "look", "read", "read_run", "write"]


class Report(NamedTuple):
    """What there is to print: the table, what to say below it, the files written.

    ``rich.console.Console().print(report)`` prints the first two.
    """

    table: Table
    notes: list[str]
    files: list[Path]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield fitted(self.table, options.max_width)
        yield from (Text(visible_lines(note)) for note in self.notes)


def look(study: Path) -> Report:
    """Return what ``write`` does, but write nothing and draw nothing."""
    runs = distinct(read(study))
    return Report(summary.table(runs), summary.notes(runs), [])


def write_report(study: Path, curves: Sequence[Path] = (), single_file: bool = False) -> Report:
    """Write ``summary.csv``, the figures and the page of a study; remove what no longer applies.

    curves: run folders that get a ``curves.png`` of their own. The only run of a study
    always gets one, and one that exists is drawn again when older than its metrics.
    single_file: write a page that holds its pictures, ``single.html``, beside the usual one.
    Raises FileNotFoundError if there is no such study or no run in it, OSError if it cannot
    be written to.
    """
    runs, results = distinct(read(study)), study / "summary.csv"
    table, notes = summary.table(runs), summary.notes(runs)
    summary.write_csv(runs, results)
    drawn = figure_process.draw_all(runs, study, curves)
    made = [page.write_page(runs, notes, drawn, study)]
    if single_file:
        made.append(page.write_page(runs, notes, drawn, study, single_file=True))
    return Report(table, notes, [results, *drawn, *made])
