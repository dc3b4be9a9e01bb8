"""The terminal: what commands write there, whatever becomes of it."""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import errno
import io
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import nnlab
from nnlab.text import visible, visible_lines

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

NAME = 20  # columns of a terminal that a name is given before its line is broken
BROKEN_PIPE = 141  # the exit status that shells have for a command that nobody reads any more


def add_version(parser: argparse.ArgumentParser) -> None:
    """Let ``--version`` print nnlab's version."""
    parser.add_argument("--version", action="version", version=version())


def path(text: str) -> Path:
    """Return a path that the command line gives; an empty text, as of a variable that is not set,
    would be the working directory. Raises ArgumentTypeError for that."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty; . is the folder that you are in")
    return Path(text)


def add_function(parser: argparse.ArgumentParser) -> None:
    """Let ``--function`` name the user's own that makes the network of a run."""
    parser.add_argument(
        "--function",
        metavar="MODULE:NAME",
        help="of a run with model=function: what makes its network, in the working directory",
    )


def add_figures(parser: argparse.ArgumentParser, *others: str, more: str = "") -> None:
    """Let ``--formats`` and ``--style`` say what figures are to be like; others: formats that are
    none of figures, more: what these are."""
    parser.add_argument(
        "--formats",
        nargs="+",
        choices=("png", "svg", "pdf", *others),
        default=[],
        help=f"of the figures, beside PNG, which the page shows{more}",
    )
    parser.add_argument(
        "--style",
        choices=("notebook", "paper", "slides"),
        default="notebook",
        help="what sizes and fonts of the figures are for: a screen, one column of a paper, slides",
    )


def version() -> str:
    return f"nnlab {nnlab.__version__}"


def say(*lines: object) -> None:
    """Print texts and paths, each on lines of its own; not by rich, which cuts long paths."""
    shown = (
        visible(str(line)) if isinstance(line, Path) else visible_lines(str(line)) for line in lines
    )
    print(*shown, sep="\n", flush=True)


def complain(message: object) -> None:
    print(visible_lines(str(message)), file=sys.stderr, flush=True)


def can_ask() -> bool:
    """Return whether there is somebody to answer a question."""
    return sys.stdin is not None and sys.stdin.isatty()


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """Let a command come to its end whatever becomes of its standard streams.

    Characters that their encoding lacks become question marks. When nobody reads the output any
    more (``| head -1``), the rest of it goes nowhere and the exit status is that of a broken
    pipe; when it cannot be written, or no memory is left, 1 and a message; after Ctrl-C 130 and
    one. Streams that are not the interpreter's own, as in a notebook, are left alone.
    """
    before = sys.stdout, sys.stderr
    out, err = Output(1), Output(2)
    log = logging.getLogger("nnlab")
    ended = None
    with contextlib.ExitStack() as opened:
        if sys.stdout is sys.__stdout__:
            sys.stdout = text_stream(sys.stdout, out, opened)
        if sys.stderr is sys.__stderr__:
            sys.stderr = text_stream(sys.stderr, err, opened)
        log.addFilter(visible_record)
        try:
            yield
        except SystemExit as raised:
            ended = raised
        except KeyboardInterrupt:
            complain("stopped by SIGINT")
            ended = SystemExit(128 + signal.SIGINT)
        except MemoryError:
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            complain("there is no memory left to go on; end other programs, or ask for fewer runs")
            ended = SystemExit(1)
        finally:
            log.removeFilter(visible_record)
            sys.stdout.flush()
            if out.error is not None and out.error.errno != errno.EPIPE:
                complain(f"standard output cannot be written ({out.error.strerror})")
            sys.stderr.flush()
            sys.stdout, sys.stderr = before
    if out.error is not None and (ended is None or not ended.code):
        sys.exit(BROKEN_PIPE if out.error.errno == errno.EPIPE else 1)
    if ended is not None:
        raise ended


@contextlib.contextmanager
def logging_restored() -> Iterator[None]:
    """Put handlers and levels back that logging.config, as Hydra uses it, replaces.

    Meanwhile a log that cannot be written, as on a full disk, prints no traceback.
    """
    root = logging.getLogger()
    known = [
        root,
        *(each for each in root.manager.loggerDict.values() if isinstance(each, logging.Logger)),
    ]
    before = [(logger, logger.handlers[:], logger.level) for logger in known]
    raises, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        yield
    finally:
        logging.raiseExceptions = raises
        for logger, handlers, level in before:
            for handler in set(logger.handlers) - set(handlers):
                handler.close()
            logger.handlers[:] = handlers
            logger.setLevel(level)


class Output(io.FileIO):
    """A standard stream by its number; once it cannot be written, it swallows what comes.

    error: why it cannot be written, None as long as it can.
    """

    def __init__(self, number: int) -> None:
        self.error: OSError | None = None
        with contextlib.suppress(OSError):  # nothing is open there
            super().__init__(number, "w", closefd=False)

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                return super().write(data) or 0
            except OSError as error:
                self.error = error
        return len(data)


def text_stream(stream: Any, output: Output, opened: contextlib.ExitStack) -> TextIO:
    """Return a stream that writes to ``output`` as ``stream`` would, or nowhere if that is None."""
    if stream is None:  # the command was started with it closed, as by >&-
        return opened.enter_context(open(os.devnull, "w", encoding="utf-8"))
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(output),
        encoding=stream.encoding,
        errors="replace",
        line_buffering=stream.line_buffering or stream.write_through,
    )


def visible_record(record: logging.LogRecord) -> bool:
    """Make a log record's control characters visible; signature of a logging filter."""
    record.msg, record.args = visible_lines(record.getMessage()), ()
    return True


# Tables


def width() -> int:
    """Return how many columns the terminal has; 80 where there is none."""
    from rich.console import Console

    return Console().width


def show(*parts: RenderableType) -> None:
    """Print tables and texts as wide as the terminal is; a string is plain text, not markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for part in parts:
        if isinstance(part, Table):
            console.print(laid_out(part, console.width))
        else:
            console.print(Text(visible_lines(part)) if isinstance(part, str) else part)


def laid_out(table: Table, width: int) -> Group:
    """Return a table as ``fitted`` makes it, and its caption, whose lines are as wide as the
    terminal where the table is not."""
    from rich.console import Group
    from rich.text import Text

    made = copy.copy(fitted(table, width))
    made.caption = None
    return Group(made, *[Text(str(table.caption), "table.caption")] * bool(table.caption))


def fitted(table: Table, width: int) -> Table:
    """Return a table that keeps numbers whole in so many columns of a terminal.

    Columns of words may break their lines. Where little would be left for them, each row
    becomes lines of a heading and a value.
    """
    from rich.table import Table
    from rich.text import Text

    heads, *rows = as_rows(table)
    if not rows or natural_width(table) <= width:
        return table
    if least_width(table) <= width:
        return narrowed(table)
    made = Table.grid(padding=(0, 1, 0, 0))
    made.add_column(overflow="fold", no_wrap=True)
    made.add_column(overflow="fold")
    for number, row in enumerate(rows):
        if number > 0:
            made.add_row()
        for head, cell in zip(heads, row):
            made.add_row(Text(head), Text(cell))
    made.caption, made.caption_justify = table.caption, "left"
    return made


def natural_width(table: Table) -> int:
    """Return how many columns of a terminal a table takes with no line of it broken."""
    from rich.console import Console
    from rich.measure import Measurement

    console = Console(width=10_000)
    return Measurement.get(console, console.options, table).maximum


def narrowed(table: Table) -> Table:
    """Return a table whose headings of numbers are broken where words end, these as they are."""
    made = copy.copy(table)
    made.pad_edge = False  # a blank at the end of each line
    made.columns = []
    for column, head in zip(table.columns, as_rows(table)[0]):
        if column.justify == "right":
            head = re.sub(r"\s+", "\n", broken(head))
            most = max(map(longest_line, map(str, [head, *column.cells])))
            column = dataclasses.replace(column, header=head, width=most, no_wrap=False)
        made.columns.append(column)
    return made


def broken(name: str) -> str:
    """Break the name of an option where its words end.

    >>> broken("optimizer.weight_decay")
    'optimizer.\\nweight_\\ndecay'
    """
    return re.sub(r"(?<=[._])(?=.)", "\n", name)


def least_width(table: Table) -> int:
    """Return how many columns of a terminal a table takes at least: headings broken, numbers whole,
    of names NAME characters in a line."""
    made = narrowed(table)
    for index, column in enumerate(made.columns):
        if column.justify != "right":
            most = max(map(longest_line, map(str, [column.header, *column.cells])))
            made.columns[index] = dataclasses.replace(column, width=min(most, NAME))
    return natural_width(made)


def as_lines(table: Table) -> str | None:
    """Lay out a table by plain letters, for which rich takes long where rows are thousands.

    Returns None where it is wider than the terminal.
    """
    from rich.cells import cell_len
    from rich.console import Console

    right = [column.justify == "right" for column in table.columns]
    rows = as_rows(table)
    widths = [max(map(cell_len, cells)) for cells in zip(*rows)]
    if sum(widths) + 2 * len(widths) - 2 > Console().width:
        return None
    rows.insert(1, ["─" * width for width in widths])
    lines = []
    for row in rows:
        padded = [
            blanks + cell if to_right else cell + blanks
            for cell, width, to_right in zip(row, widths, right)
            for blanks in [" " * (width - cell_len(cell))]
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def longest_line(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    from rich.cells import cell_len

    return max(map(cell_len, text.split("\n")))


def as_rows(table: Table) -> list[list[str]]:
    """Return what a table holds: its header and its rows."""
    heads = [str(column.header) for column in table.columns]
    # Names were broken by ``broken``, words between them.
    header = [re.sub(r"(?<=[._])\n", "", head).replace("\n", " ") for head in heads]
    cells = [[str(cell) for cell in column.cells] for column in table.columns]
    return [header, *(list(row) for row in zip(*cells))]
