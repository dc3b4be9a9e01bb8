"""The runs of a study side by side: ``summary.csv`` and the table for the terminal."""

from __future__ import annotations

import csv
import functools
import io
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from nnlab.boolean import function_name
from nnlab.datasets import DATASETS
from nnlab.report import columns
from nnlab.report.columns import TEST_ACCURACY, shown, validated
from nnlab.report.comparisons import compared
from nnlab.report.curves import RULES, epochs, extent, in_words
from nnlab.report.runs import (
    RunRecord,
    Value,
    assignments,
    brief,
    factors,
    grouped,
    is_number,
    is_seed,
    of_truth_table,
    rank,
    spell,
    varied,
)
from nnlab.report.times import most_concurrent, timings
from nnlab.storage import write_atomic
from nnlab.text import for_csv, inert, visible, visible_lines

STYLES = {"failed": "red", "diverged": "yellow", "running": "dim"}
TABLE_ROWS = 40
WIDTH = 80  # of a terminal
GRID_COLUMNS = 8
SETTINGS = 6  # whose curves are put into words
SCATTERED = "times per example differ too much to tell that of the full training set"
INTERVAL = "±: 95 % confidence interval of the mean over seeds (Student's t)"
WILSON = "number of test examples alone (95 %, Wilson)"
ACCURACY, LOSS = TEST_ACCURACY.table, "test\nloss"  # headings of the table


def rows(runs: Sequence[RunRecord], settings: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Make the rows of ``summary.csv``: a run each, in the order they come.

    settings: options that have a column whether or not the runs differ in them.
    """
    found, results = varied(runs), shown("csv", runs)
    alike = [
        key for key in settings if key not in found and any(key in run.settings for run in runs)
    ]
    keys = [*alike, *found]
    return [
        {"name": run.name}
        | {key: run.settings.get(key) for key in keys}
        | {column.csv: column.of(run) for column in results}
        for run in runs
    ]


def write_csv(table: Sequence[dict[str, Any]], path: Path) -> None:
    """Write rows, one or more, as a whole or not at all; empty where there is no value."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(table[0]), lineterminator="\n")
    writer.writerow({key: inert(key) for key in table[0]})
    for row in table:
        writer.writerow({key: cell(value) for key, value in row.items()})
    write_atomic(path, text.getvalue().encode())


def cell(value: Any) -> Any:
    """Write a value for a table that pandas reads: a text is read back as one."""
    if isinstance(value, str):
        return for_csv(value)
    return spell(value) if isinstance(value, (tuple, bool)) else value


def table(runs: Sequence[RunRecord]) -> Table:
    """Lay the runs out for a terminal: a row for each setting, many settings of two options as
    a grid. Runs that differ only in their seed are one setting.

    What would be wider than a terminal has its headings in lines, then says once below what all
    rows have in common; ``terminal.fitted`` lays out what is wider still.
    """
    keys = factors(runs)
    alone = len(keys) == 1 and is_seed(keys[0])
    if not alone:
        keys = [key for key in keys if not is_seed(key)]
    groups = list(grouped(runs, keys).items()) if keys else [((run.name,), [run]) for run in runs]
    if len(keys) == 2 and len(groups) > TABLE_ROWS:
        (wide, across), (high, down) = sorted((len(grouped(runs, [key])), key) for key in keys)
        if wide <= GRID_COLUMNS and high <= TABLE_ROWS:
            return grid(runs, down, across)
    if alone:
        groups.append((("mean",), list(runs)))
    results = [column.table for column in shown("table", runs)]
    if any(len(group) > 1 for _, group in groups):
        results = ["n", *results]
        if validated(runs):  # means and intervals of everything do not fit into 80 columns
            results.remove(LOSS)
    lay = functools.partial(setting_rows, keys=keys, groups=groups, mean=alone)

    heads = keys or ["run"]
    made = lay(heads, results)
    if width(made) > WIDTH:
        heads = [head.replace(".", ".\n").replace("_", "_\n") for head in heads]
        made = lay(heads, results)
    if width(made) > WIDTH:
        first, *others = [outcome(group) for _, group in groups]
        common = [
            name
            for name in ("n", "epochs", "stopped by")
            if name in results and all(other[name] == first[name] for other in others)
        ]
        made = lay(heads, [name for name in results if name not in common])
        if common:
            add_caption(made, "All rows: " + ", ".join(f"{name} {first[name]}" for name in common))
    name_intervals(made, [group for _, group in groups])
    return made


def add_caption(made: Table, line: str) -> None:
    made.caption = Text(f"{made.caption or ''}\n{line}".strip())


def name_intervals(made: Table, groups: Sequence[Sequence[RunRecord]]) -> None:
    """Say in the caption what ± is in a table's cells, and how far those of one seed are known."""
    if any("±" in str(cell) for column in made.columns for cell in column.cells):
        add_caption(made, INTERVAL)
    tested = [group for group in groups if len(TEST_ACCURACY.known(group))]
    found = [TEST_ACCURACY.estimate(group) for group in tested]
    margins = [100 * each.margin for each in found if each.of == "examples"]
    if margins:
        within = extent(margins, ".1f")
        add_caption(made, f"Accuracy of one seed: ± {within} points by the {WILSON}")


def setting_rows(
    heads: Sequence[str],
    results: Sequence[str],
    *,
    keys: Sequence[str],
    groups: Sequence[tuple[tuple[Value, ...], list[RunRecord]]],
    mean: bool,
) -> Table:
    """Make a table of a row per setting, TABLE_ROWS at most.

    heads: headings of what varied, results: of what came out. groups: the settings, values of
    the keys, and their runs. mean: the last row sums up the others.
    """
    made = empty()
    for head, value in zip(heads, groups[0][0]):
        made.add_column(
            visible_lines(head), justify="right" if is_number(value) else "left", overflow="fold"
        )
    texts = {column.table for column in columns.RESULTS if column.words}
    for name in results:
        words = name in texts
        made.add_column(name, justify="left" if words else "right", no_wrap=not words)
    hidden = range(TABLE_ROWS // 2, len(groups) - TABLE_ROWS // 2)
    for index, (values, group) in enumerate(groups):
        if index not in hidden:
            came = outcome(group)
            cells = [*written(keys, values, group[0]), *(came[name] for name in results)]
            row = [Text(visible_lines(cell), style(group)) for cell in cells]
            made.add_row(*row, end_section=mean and index == len(groups) - 2)
        elif index == hidden.start:
            made.add_row("…")
            made.caption = f"…: {len(hidden):,} more rows, all of them in summary.csv"
    return made


def written(keys: Sequence[str], values: Sequence[Value], run: RunRecord) -> list[str]:
    """Write a setting, an option that its runs do not have as a dash; without keys a name."""
    if not keys:
        return [brief(value) for value in values]
    return [
        "-" if value is None and key not in run.settings else brief(value)
        for key, value in zip(keys, values)
    ]


def width(made: Table) -> int:
    """Return how many columns of a terminal a table takes without breaking a line."""
    console = Console(width=10_000)
    return Measurement.get(console, console.options, made).maximum


def grid(runs: Sequence[RunRecord], down: str, across: str) -> Table:
    """Lay out the test accuracy in % over two options: a line for each value of ``down``."""
    made = empty()
    values = sorted((value for (value,) in grouped(runs, [across])), key=rank)
    made.add_column(down, overflow="fold")
    for value in values:
        made.add_column(Text(brief(value)), justify="right", overflow="fold")
    for (value,), row in grouped(runs, [down]).items():
        cells = grouped(row, [across])
        shares = []
        for group in (cells.get((key,), []) for key in values):
            found = outcome(group) if group else {ACCURACY: ""}
            accuracy = found[ACCURACY].removesuffix(" %")
            shares.append(Text(found["stopped by"] if accuracy == "-" else accuracy, style(group)))
        named = down == "dataset.function" and across != "dataset.inputs"
        named = named and of_truth_table(row[0].settings)
        made.add_row(Text(function(row[0]) if named else brief(value)), *shares)
    made.caption = f"Test accuracy in %, a column for each {across}; all else is in summary.csv"
    name_intervals(made, list(grouped(runs, [down, across]).values()))
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
    return visible(function_name(name, inputs))


def outcome(group: Sequence[RunRecord]) -> dict[str, str]:
    """Write what came out of runs that differ only in their seeds, by the table's headings."""
    count = sum(run.complete for run in group) or len(group)
    return {"n": str(count)} | {
        column.table: column.text(group) for column in columns.RESULTS if column.table
    }


def notes(runs: Sequence[RunRecord]) -> list[str]:
    """Say what the table cannot: the time of the full training set, why rules stopped the
    runs, what the curves show, what failed and why."""
    said = []
    keys, length, fits = timings(runs)
    what = "an epoch" if length is None else f"{length:,} epoch" + "s" * (length > 1)
    for fit in fits[:5]:
        setting = assignments(keys, fit.values)
        if (answer := fit.answer()) is not None:
            answer = answer.replace(")", "; 95 % interval)")
            time = f"{what} on all {fit.full_size:,} examples would take {answer}"
            said.append(f"{setting}: {time}" if setting else f"By the fitted line {time}.")
        elif fit.scattered:
            said.append(
                f"{setting}: {SCATTERED}" if setting else f"{SCATTERED[0].upper()}{SCATTERED[1:]}."
            )
    if fits and any(run.form for run in runs) and all(fit.line is None for fit in fits):
        form = "the dual form (docs/engines.md)"
        said.append(f"no line through training times of {form}, which grow faster")
    if fits and (most := most_concurrent(runs)) > 1:
        said.append(f"Times are of runs that trained side by side, up to {most:,} at once.")
    said += compared(runs) + tested(runs) + stopped(runs) + readings(runs) + computed(runs)
    for name in sorted({spell(run.settings.get("dataset")) for run in runs if run.synthetic}):
        said.append(f"dataset={name}: synthetic data, made by a program")
    lost = [run for run in runs if run.status in ("failed", "diverged")]
    for run in lost[:5]:
        said.append(f"{run.name} {run.status}: {run.error or run.stop_reason}")
    if len(lost) > 5:
        said.append(f"and {len(lost) - 5:,} more failed or diverged")
    return said


def tested(runs: Sequence[RunRecord]) -> list[str]:
    """Say on which part of a test split the runs were tested, and which saw other data."""
    said = []
    tests: dict[tuple[int, int], set[Value]] = {}
    for run in runs:
        size, full = run.settings.get("test_size"), run.full_test_size
        if run.complete and isinstance(size, int) and full and 0 < size < full:
            tests.setdefault((size, full), set()).add(run.settings.get("seeds.test"))
    for (size, full), drawn in sorted(tests.items()):
        which = "the same for every seed" if len(drawn) == 1 else "others for each seeds.test"
        said.append(f"Tested on {size:,} of the {full:,} test examples, {which}.")
    for (name,), same in grouped(runs, ["dataset"]).items():
        dataset = DATASETS.get(spell(name))
        counts = Counter(run.settings["data"] for run in same if run.settings.get("data"))
        if len(counts) > 1 and not (dataset and dataset.generated):
            parts = ", ".join(f"{count} {spell(data)}" for data, count in counts.items())
            said.append(f"Not all runs saw the same data: {parts}.")
    return said


def stopped(runs: Sequence[RunRecord]) -> list[str]:
    """Say why a rule stopped runs, and where it may have by chance."""
    ended = [run for run in runs if run.status == "stopped"]
    return reasons(ended) + by_chance(ended)


def by_chance(ended: Sequence[RunRecord]) -> list[str]:
    """Warn where plateau waits for less than the noise of an epoch's loss."""
    noise = [
        run.reading.loss_noise
        for run in ended
        if run.settings.get("stopping") == "plateau" and run.reading
        if is_number(least := run.settings.get("stopping.min_delta"))
        if run.reading.loss_noise > least  # type: ignore[operator]
    ]
    if not noise:
        return []
    return [
        f"plateau may have stopped {len(noise)} of {len(ended)} runs by chance: validation loss "
        f"changes by {extent(noise, '.2g')} from epoch to epoch, more than stopping.min_delta; "
        f"stopping=patience waits for several epochs"
    ]


def reasons(ended: Sequence[RunRecord]) -> list[str]:
    """Say why a rule stopped them: once where it says the same of all, else run by run."""
    if len({run.stop_reason for run in ended}) == 1:
        return [f"{spell(ended[0].settings.get('stopping'))}: {ended[0].stop_reason}"]
    said = [f"{run.name} stopped: {run.stop_reason}" for run in ended[:SETTINGS]]
    more = len(ended) - SETTINGS
    return said + [f"and {more:,} more stopped, their reasons are in summary.csv"] * (more > 0)


def readings(runs: Sequence[RunRecord]) -> list[str]:
    """Put the curves of each setting into words, and say once how they were read."""
    keys = [key for key in factors(runs) if not is_seed(key)]
    read = [run for run in runs if run.reading and run.status != "running"]
    groups = list(grouped(read, keys).items())
    said = []
    for values, group in groups[:SETTINGS]:
        setting = assignments(keys, values)
        line = in_words([run.reading for run in group if run.reading])
        restored = [run.weights_of_epoch or run.epochs for run in group]
        if restored != [run.epochs for run in group]:
            line += f"; tested with the weights of {epochs(restored)}"
        said.append(f"{setting}: {line}" if setting else line.capitalize())
    if len(groups) > SETTINGS:
        said.append(f"and {len(groups) - SETTINGS:,} more settings, all of them in summary.csv")
    return [*said, RULES] if said else []


def computed(runs: Sequence[RunRecord]) -> list[str]:
    """Say of each network which Boolean functions it computes, in every row of their tables."""
    tables = [run for run in runs if run.test_accuracy is not None and run.tested_whole]
    known = ("dataset.function", "dataset.inputs")
    keys = [key for key in factors(runs) if key not in known and not is_seed(key)]
    said, chance = [], False
    for values, group in grouped(tables, keys).items():
        functions = grouped(group, ["dataset.function", "dataset.inputs"]).values()
        missed = [same for same in functions if any(run.test_accuracy != 1 for run in same)]
        few = []
        for same in missed[:SETTINGS]:
            found = outcome(same)
            accuracy, loss = found[ACCURACY], found[LOSS]
            chance = chance or loss.startswith(f"{math.log(2):.3f}")
            few.append(f"{function(same[0])} ({accuracy}, loss {loss})")
        few += [f"{len(missed) - SETTINGS} more"] * (len(missed) > SETTINGS)
        if len(functions) > 1:
            line = f"computes {len(functions) - len(missed)} of {len(functions)} functions"
            line += f", not {', '.join(few)}" * bool(few)
        else:
            line = f"does not compute {few[0]}" if few else f"computes {function(group[0])}"
        setting = assignments(keys, values)
        said.append(f"{setting}: {line}" if setting else line.capitalize())
    if chance:
        said.append(
            f"a loss of ln 2 = {math.log(2):.3f} is chance: 0 and 1 are equally probable in every "
            f"row, and rounding decides which rows come out right"
        )
    return said
