"""Tables and figures of a study: reads run folders, never trains, never imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from nnlab.report import drawing, summary
from nnlab.report.runs import read, read_run
from nnlab.report.times import duration

__all__ = ["Report", "duration", "look", "read", "read_run", "write"]


class Report(NamedTuple):
    """What there is to print: the table, what to say below it, the files written.

    ``rich.console.Console().print(report)`` prints the first two.
    """

    table: Table
    notes: list[str]
    files: list[Path]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.table
        yield from map(Text, self.notes)


def look(study: Path) -> Report:
    """Return what ``write`` does, but write nothing and draw nothing."""
    runs = read(study)
    return Report(summary.table(runs), summary.notes(runs), [])


def write(study: Path, curves: Sequence[Path] = ()) -> Report:
    """Write ``summary.csv`` and the figures of a study; remove those that no longer apply.

    curves: run folders that get a ``curves.png`` of their own. The only run of a study
    always gets one, and one that exists is drawn again when older than its metrics.
    Raises FileNotFoundError if there is no such study or no run in it, OSError if it cannot
    be written to.
    """
    runs = read(study)
    files = [study / "summary.csv"]
    summary.write_csv(runs, files[0])
    files += drawing.write(runs, study, curves)
    return Report(summary.table(runs), summary.notes(runs), files)
