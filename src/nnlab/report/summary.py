"""The runs of a study side by side: ``summary.csv`` and the table for the terminal."""

from __future__ import annotations

import csv
import functools
import io
import itertools
import re
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from nnlab.boolean import function_name
from nnlab.report import columns
from nnlab.report.columns import TEST_ACCURACY, TESTED, shown
from nnlab.report.curves import extent
from nnlab.report.runs import (
    RunRecord,
    Value,
    brief,
    factors,
    is_number,
    is_seed,
    of_truth_table,
    rank,
    repeats,
    spell,
    varied,
)
from nnlab.report.selection import Groups, grouped
from nnlab.storage import write_atomic
from nnlab.terminal import as_rows, broken, least_width, natural_width
from nnlab.text import for_csv, inert, visible, visible_lines

STYLES = {"failed": "red", "diverged": "yellow", "running": "dim"}
TABLE_ROWS = 40
WIDTH = 80  # of a terminal
GRID_COLUMNS = 8
INTERVAL = "±: 95 % confidence interval of the mean over {} (Student's t)"
WILSON = "number of test examples alone (95 %, Wilson)"
# Headings of the table.
ACCURACY, LOSS, BEST = TEST_ACCURACY.table, "test\nloss", "best\nepoch"
SAID_ONCE = ("n", "epochs", "stopped by", BEST)  # below a table of which all rows have the same
LATEX = {  # what pandas leaves as it is
    "±": r"$\pm$",
    "²": "$^2$",
    "…": r"\dots{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}
NO_RULE = ("not trained", "unfinished", "diverged", "failed")  # ended a run
LAST = ("time", "epochs", "n", "stopped by")  # that a narrow table does without, in this order


def rows(runs: Sequence[RunRecord], settings: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Yield the rows of ``summary.csv``: a run each, in the order they come.

    settings: options that have a column whether or not the runs differ in them.
    """
    found, results = varied(runs), shown("csv", runs)
    alike = [
        key for key in settings if key not in found and any(key in run.settings for run in runs)
    ]
    keys = [*alike, *found]
    return (
        {"name": run.name}
        | {key: run.settings.get(key) for key in keys}
        | {column.csv: column.of(run) for column in results}
        for run in runs
    )


def write_csv(table: Iterable[dict[str, Any]], path: Path) -> None:
    """Write rows, one or more, as a whole or not at all; empty where there is no value."""
    rows = iter(table)
    first = next(rows)

    def lines() -> Iterator[bytes]:
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(first), lineterminator="\n")
        writer.writerow({key: inert(key) for key in first})
        for row in itertools.chain([first], rows):
            writer.writerow({key: cell(value) for key, value in row.items()})
            yield text.getvalue().encode()
            text.seek(0)
            text.truncate()

    write_atomic(path, lines())


def write_tex(made: Table, path: Path) -> Path:
    """Write a table for LaTeX (needs the package booktabs), as a whole or not at all."""
    import pandas as pd

    heads, *cells = as_rows(made)
    aligned = "".join("r" if column.justify == "right" else "l" for column in made.columns)
    styler = pd.DataFrame(cells, columns=heads).style.hide(axis="index")
    styler = styler.format(for_latex, escape="latex")
    styler = styler.format_index(for_latex, escape="latex", axis=1)
    text = styler.to_latex(hrules=True, column_format=aligned)
    notes = "".join(f"% {line}\n" for line in str(made.caption or "").splitlines())
    write_atomic(path, (notes + text).encode())
    return path


def for_latex(escaped: str) -> str:
    r"""Write what pandas has escaped so that it stands in a table as it is, whatever its fonts.

    >>> for_latex("[128,64]"), for_latex("-0.5 ± 0.1"), for_latex("a<b")
    ('{}[128,64]', '$-$0.5 $\\pm$ 0.1', 'a\\textless{}b')
    """
    text = re.sub(r"(?<![\w.)-])-(?=\d)", "$-$", escaped)
    for letter, command in LATEX.items():
        text = text.replace(letter, command)
    # After the end of a row a bracket would begin a length, a star forbid a break of the page.
    return "{}" + text if text.startswith(("[", "*")) else text


def cell(value: Any) -> Any:
    """Write a value for a table that pandas reads: a text is read back as one."""
    if isinstance(value, str):
        return for_csv(value)
    return spell(value) if isinstance(value, (tuple, bool)) else value


def table(runs: Sequence[RunRecord], terminal_width: int = WIDTH, leave_out: bool = True) -> Table:
    """Lay the runs out for a terminal: a row for each setting, many settings of two options as
    a grid. Runs that differ only in their seed are one setting.

    What several rows have in common is said once below. What would be wider than the terminal has
    its headings in lines, then leaves results out (unless not to ``leave_out``) and says which;
    ``terminal.fitted`` lays out what is wider still.
    """
    keys = factors(runs)
    alone = bool(keys) and all(map(is_seed, keys))
    if not alone:
        keys = [key for key in keys if not is_seed(key)]
    groups = grouped(runs, keys) if keys else Groups(runs, lambda run: (run.name,))
    if len(keys) == 2 and not alone and len(groups) > TABLE_ROWS:
        (wide, across), (high, down) = sorted((len(grouped(runs, [key])), key) for key in keys)
        if wide <= GRID_COLUMNS and high <= TABLE_ROWS:
            made = grid(runs, down, across, terminal_width)
            if least_width(made) <= terminal_width:
                return made
    results = [column.table for column in shown("table", runs)]
    if alone or len(groups) < len(runs):
        results = ["n", *results]
    common = in_common(groups, results[1:] if alone else results)  # the mean has another n
    results = [name for name in results if name not in common]
    lay = functools.partial(setting_rows, keys=keys, groups=groups, mean=alone)

    heads = keys or ["run"]
    left_out: Sequence[str] = []
    made = lay(heads, results)
    if natural_width(made) > terminal_width:
        heads = list(map(broken, heads))
        dispensable = least_first(runs, results) if leave_out else []
        made, left_out = fitting(
            functools.partial(lay, heads), results, dispensable, terminal_width
        )
    if common:
        said = ", ".join(said_once(*each) for each in common.items())
        add_caption(made, f"All rows: {said}")
    if left_out:
        names = ", ".join(map(one_line, left_out))
        add_caption(made, f"Left out: {names}, on the page and in summary.csv")
    name_intervals(made, groups)
    return made


def fitting(
    lay: Callable[[Sequence[str]], Table],
    results: Sequence[str],
    dispensable: Sequence[str],
    terminal_width: int,
) -> tuple[Table, Sequence[str]]:
    """Lay out a table of results, and return which of the dispensable ones it does without to fit
    into the terminal: none where all of them are not enough, for its rows will be lines then."""
    for count in range(len(dispensable) + 1):
        left_out = dispensable[:count]
        made = lay([name for name in results if name not in left_out])
        if least_width(made) <= terminal_width:
            return made, left_out
    return lay(results), []


def in_common(groups: Groups, results: Sequence[str]) -> dict[str, str]:
    """Return the results, of those that need not stand in each row, that several rows share."""
    names = [name for name in SAID_ONCE if name in results] if len(groups) > 1 else []
    found = {name: outcome(groups[0], [name])[name] for name in names}
    return {
        name: text
        for name, text in found.items()
        if "\n" not in text and all(outcome(group, [name])[name] == text for group in groups)
    }


def said_once(heading: str, value: str) -> str:
    """Write a result that all rows have alike.

    >>> said_once("best\\nepoch", "3"), said_once("stopped by", "plateau")
    ('best epoch 3', 'stopped by plateau')
    >>> said_once("stopped by", "failed")
    'failed'
    """
    return value if value in NO_RULE else f"{one_line(heading)} {value}"


def least_first(runs: Sequence[RunRecord], results: Sequence[str]) -> list[str]:
    """Order the results in which a narrow terminal does without them; it never does without the
    accuracy, or R², of the test set."""
    main = {TESTED[run.main.name].table for run in runs}
    others = [name for name in reversed(results) if name not in main and name not in LAST]
    return [*others, *(name for name in LAST if name in results)]


def one_line(heading: str) -> str:
    return heading.replace("\n", " ")


def add_caption(made: Table, line: str) -> None:
    made.caption = Text(f"{made.caption or ''}\n{line}".strip())


def name_intervals(made: Table, groups: Groups) -> None:
    """Say in the caption what ± is in a table's cells, and how far those of one seed are known."""
    if any("±" in str(cell) for column in made.columns for cell in column.cells):
        add_caption(made, INTERVAL.format(repeats(groups.runs)))
    for line in one_seed(groups):
        add_caption(made, line)


def one_seed(groups: Sequence[Sequence[RunRecord]]) -> list[str]:
    """Say how far accuracies of one seed are known."""
    tested = (group for group in groups if len(TEST_ACCURACY.known(group)))
    found = map(TEST_ACCURACY.estimate, tested)
    margins = array("d", (100 * each.margin for each in found if each.of == "examples"))
    within = extent(margins, ".1f") if margins else ""
    return [f"Accuracy of one seed: ± {within} points by the {WILSON}"] if margins else []


def setting_rows(
    heads: Sequence[str],
    results: Sequence[str],
    *,
    keys: Sequence[str],
    groups: Groups,
    mean: bool,
) -> Table:
    """Make a table of a row per setting, TABLE_ROWS at most.

    heads: headings of what varied, results: of what came out. groups: the runs of each setting,
    which is values of the keys. mean: the last row sums up the others.
    """
    made = empty()
    for head, value in zip(heads, groups.of(groups[0][0])):
        made.add_column(
            visible_lines(head), justify="right" if is_number(value) else "left", overflow="fold"
        )
    texts = {column.table for column in columns.RESULTS if column.words}
    for name in results:
        words = name in texts
        made.add_column(name, justify="left" if words else "right", no_wrap=not words)
    rows = len(groups) + mean
    hidden = range(TABLE_ROWS // 2, rows - TABLE_ROWS // 2)
    for index in range(rows):
        if index not in hidden:
            last = index == len(groups)  # the mean
            group = groups.runs if last else groups[index]
            values = ("mean", *[""] * (len(keys) - 1)) if last else groups.of(group[0])
            came = outcome(group, results)
            cells = [*written(keys, values, group[0]), *(came[name] for name in results)]
            row = [Text(visible_lines(cell), style(group)) for cell in cells]
            made.add_row(*row, end_section=mean and index == rows - 2)
        elif index == hidden.start:
            made.add_row("…")
            made.caption = f"…: {len(hidden):,} more rows, on the page and in summary.csv"
    return made


def written(keys: Sequence[str], values: Sequence[Value], run: RunRecord) -> list[str]:
    """Write a setting, an option that its runs do not have as a dash; without keys a name."""
    if not keys:
        return [brief(value) for value in values]
    return [
        "-" if value is None and key not in run.settings else brief(value)
        for key, value in zip(keys, values)
    ]


def grid(runs: Sequence[RunRecord], down: str, across: str, terminal_width: int) -> Table:
    """Lay out test accuracy in %, or R², over two options: a line for each value of ``down``.
    Without intervals where they do not fit into the terminal."""
    made = cells_of(runs, down, across, intervals=True)
    narrow = natural_width(made) > terminal_width
    if narrow:
        made = cells_of(runs, down, across, intervals=False)
    main = runs[0].main
    shown_as = f"Test {main.title}{' in %' if main.percent else ''}"
    made.caption = f"{shown_as}, a column for each {across}; all else is in summary.csv"
    groups = grouped(runs, [down, across])
    if narrow and any(len(group) > 1 for group in groups):
        add_caption(made, f"Means over {repeats(runs)}, whose intervals are in cells.csv")
    name_intervals(made, groups)
    return made


def cells_of(runs: Sequence[RunRecord], down: str, across: str, intervals: bool) -> Table:
    made = empty()
    heading = TESTED[runs[0].main.name].table
    values = sorted((value for (value,) in grouped(runs, [across]).settings()), key=rank)
    made.add_column(down, overflow="fold")
    for value in values:
        made.add_column(Text(brief(value)), justify="right", overflow="fold")
    for (value,), row in grouped(runs, [down]).items():
        cells = dict(grouped(row, [across]).items())
        shares = []
        for group in (cells.get((key,), []) for key in values):
            found = outcome(group, [heading, "stopped by"]) if group else {heading: ""}
            quality = found[heading].removesuffix(" %")
            quality = quality if intervals else quality.partition(" ±")[0]
            shares.append(Text(found["stopped by"] if quality == "-" else quality, style(group)))
        named = down == "dataset.function" and across != "dataset.inputs"
        named = named and of_truth_table(row[0].settings)
        made.add_row(Text(function(row[0]) if named else brief(value)), *shares)
    return made


def empty() -> Table:
    return Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), caption_justify="left")


def style(group: Sequence[RunRecord]) -> str:
    """Return the style of what did not go well."""
    states = {run.status for run in group}
    return next((name for state, name in STYLES.items() if state in states), "")


def function(run: RunRecord) -> str:
    """Write a Boolean function: its truth table and its name."""
    name, inputs = run.settings["dataset.function"], run.settings["dataset.inputs"]
    assert isinstance(name, str)
    assert isinstance(inputs, int)
    return visible(function_name(name, inputs)) + f" of {inputs} inputs" * (inputs > 3)


def outcome(group: Sequence[RunRecord], names: Collection[str]) -> dict[str, str]:
    """Write what came out of runs that differ only in their seeds.

    names: the headings of the table, or "n", by which it is returned.
    """
    return {"n": str(len(columns.counting(group)))} | {
        column.table: column.text(group) for column in columns.RESULTS if column.table in names
    }
