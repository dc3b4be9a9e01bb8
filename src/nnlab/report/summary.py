"""The runs of a study side by side: ``summary.csv`` and the table for the terminal."""

from __future__ import annotations

import csv
import functools
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from nnlab.boolean import described
from nnlab.records import COLUMNS, write_whole
from nnlab.report.curves import RULES, epochs, in_words
from nnlab.report.runs import (
    Run,
    Value,
    factors,
    grouped,
    is_number,
    is_seed,
    rank,
    spell,
    varied,
)
from nnlab.report.times import duration_within, side_by_side, timings
from nnlab.text import as_label, for_csv

STYLES = {"failed": "red", "diverged": "yellow", "running": "dim"}
TABLE_ROWS = 40
WIDTH = 80  # of a terminal
GRID_COLUMNS = 8
SETTINGS = 6  # whose curves are put into words
READING = ("best_epoch", "learned_until", "overfits_from", "gap_loss", "gap_accuracy")


def rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Make the rows of ``summary.csv``: a run each, in the order they come."""
    keys = varied(runs)
    # Where any run ended with other weights than its last, what it came to then is told as well.
    restored = any(run.weights_of_epoch not in (None, run.epochs) for run in runs)
    made = []
    for run in runs:
        settings: dict[str, Any] = {key: run.settings.get(key) for key in keys}
        results: dict[str, Any] = {
            "status": run.status,
            "stop_reason": run.stop_reason,
            "epochs": run.epochs,
            "weights_of_epoch": run.weights_of_epoch,
            "train_seconds": run.train_seconds,
            **{column: run.kept(column) for column in COLUMNS[1:5]},
            **({f"last_{column}": run.last(column) for column in COLUMNS[1:5]} if restored else {}),
            "test_loss": run.test_loss,
            "test_accuracy": run.test_accuracy,
            **{name: getattr(run.reading, name, None) for name in READING},
            **(dict.fromkeys(READING[1:3]) if run.reading and run.reading.short else {}),
            "weights": run.weights,
            "engine": run.engine,
            "engine_form": run.form,
            "device": run.device,
            "concurrent_runs": run.concurrent,
            "folder": run.folder.name,
        }
        made.append({"name": run.name} | settings | results)
    return made


def write_csv(runs: Sequence[Run], path: Path) -> None:
    """Write ``summary.csv``, as a whole or not at all; empty where there is no value."""
    text = io.StringIO()
    table = rows(runs)
    writer = csv.DictWriter(text, fieldnames=list(table[0]), lineterminator="\n")
    writer.writeheader()
    for row in table:
        writer.writerow({key: cell(value) for key, value in row.items()})
    write_whole(path, text.getvalue().encode())


def cell(value: Any) -> Any:
    """Write a value for a table that pandas reads: a text is read back as one."""
    if isinstance(value, str):
        return for_csv(value)
    return spell(value) if isinstance(value, (tuple, bool)) else value


def table(runs: Sequence[Run]) -> Table:
    """Lay the runs out for a terminal; runs that differ only in their seed share a row.

    What would be wider than a terminal has its headings in lines, then says once below what
    all rows have in common, then has one column for all that was varied.
    """
    keys = factors(runs)
    alone = len(keys) == 1 and is_seed(keys[0])
    if not alone:
        keys = [key for key in keys if not is_seed(key)]
    groups = list(grouped(runs, keys).items()) if keys else [((run.name,), [run]) for run in runs]
    if len(keys) == 2 and len(groups) > TABLE_ROWS:
        (columns, across), (lines, down) = sorted((len(grouped(runs, [key])), key) for key in keys)
        if columns <= GRID_COLUMNS and lines <= TABLE_ROWS:
            return grid(runs, down, across)
    if alone:
        groups.append((("mean",), list(runs)))
    results = ["epochs", "stopped by", "time", "test\naccuracy", "test\nloss"]
    repeated = any(len(group) > 1 for _, group in groups)
    if any(run.reading for run in runs):
        # Means and deviations of everything do not fit into 80 columns.
        results = [*(results[:-1] if repeated else results), "best\nepoch"]
    results = ["n"] * repeated + results
    settings = [
        # An option that these runs do not have is not one that is null.
        [brief(v) if v is not None or k in group[0].settings else "-" for k, v in zip(keys, values)]
        if keys
        else [brief(*values)]
        for values, group in groups
    ]
    numbers = [is_number(value) for value in groups[0][0]]
    found = [(outcome(group), style(group)) for _, group in groups]
    lay = functools.partial(laid_out, found=found, mean=alone)

    heads, said = keys or ["run"], []
    made = lay(heads, settings, numbers, results)
    if width(made) > WIDTH:
        heads = [head.replace(".", ".\n").replace("_", "_\n") for head in heads]
        made = lay(heads, settings, numbers, results)
    if width(made) > WIDTH:
        first = found[0][0]
        same = [name for name in results if all(came[name] == first[name] for came, _ in found)]
        shared = [name for name in same if name in ("n", "epochs", "stopped by")]
        results = [name for name in results if name not in shared]
        made = lay(heads, settings, numbers, results)
        if shared:
            said.append("All rows: " + ", ".join(f"{name} {first[name]}" for name in shared))
    if width(made) > WIDTH and len(keys) > 1:
        # The value that most rows have, the first of equals.
        usual = [max(column, key=column.count) for column in map(list, zip(*settings))]
        own = [
            [f"{k}={v}" for k, v, u in zip(keys, row, usual) if v not in (u, "-")]
            for row in settings
        ]
        made = lay(["setting"], [["\n".join(each) or "as below"] for each in own], [False], results)
        rest = ", ".join(f"{key}={value}" for key, value in zip(keys, usual) if value != "-")
        said.append(f"Where a row does not say otherwise: {rest}")
    if said:
        made.caption = Text("\n".join([str(made.caption or ""), *said]).strip())
    return made


def laid_out(
    heads: Sequence[str],
    settings: Sequence[Sequence[str]],
    numbers: Sequence[bool],
    results: Sequence[str],
    *,
    found: Sequence[tuple[dict[str, str], str]],
    mean: bool,
) -> Table:
    """Make a table of a row per setting, TABLE_ROWS at most.

    numbers: which columns of the settings hold numbers. found: the outcome of each row, and
    its style. mean: the last row sums up the others.
    """
    made = empty()
    for head, right in zip(heads, numbers):
        made.add_column(head, justify="right" if right else "left", overflow="fold")
    for name in results:
        words = name == "stopped by"
        made.add_column(name, justify="left" if words else "right", no_wrap=not words)
    hidden = range(TABLE_ROWS // 2, len(settings) - TABLE_ROWS // 2)
    for index, (cells, (came, look)) in enumerate(zip(settings, found)):
        if index not in hidden:
            row = [Text(cell, look) for cell in (*cells, *(came[name] for name in results))]
            made.add_row(*row, end_section=mean and index == len(settings) - 2)
        elif index == hidden.start:
            made.add_row("…")
            made.caption = f"…: {len(hidden):,} more rows, all of them in summary.csv"
    return made


def width(made: Table) -> int:
    """Return how many columns of a terminal a table takes without breaking a line."""
    console = Console(width=10_000)
    return Measurement.get(console, console.options, made).maximum


def grid(runs: Sequence[Run], down: str, across: str) -> Table:
    """Lay out the test accuracy in % over two options: a line for each value of ``down``."""
    made = empty()
    columns = sorted((value for (value,) in grouped(runs, [across])), key=rank)
    made.add_column(down, overflow="fold")
    for value in columns:
        made.add_column(Text(brief(value)), justify="right", overflow="fold")
    for (value,), row in grouped(runs, [down]).items():
        cells = grouped(row, [across])
        shown = []
        for group in (cells.get((key,), []) for key in columns):
            found = outcome(group) if group else {"test\naccuracy": ""}
            accuracy = found["test\naccuracy"].removesuffix(" %")
            shown.append(Text(found["stopped by"] if accuracy == "-" else accuracy, style(group)))
        named = down == "dataset.function" and across != "dataset.inputs"
        made.add_row(Text(function(row[0]) if named else brief(value)), *shown)
    made.caption = f"Test accuracy in %, a column for each {across}; all else is in summary.csv"
    return made


def empty() -> Table:
    return Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), caption_justify="left")


def style(group: Sequence[Run]) -> str:
    """Return the style of what did not go well."""
    states = {run.status for run in group}
    return next((name for state, name in STYLES.items() if state in states), "")


def function(run: Run) -> str:
    """Write a Boolean function: its truth table and its name."""
    name, inputs = run.settings["dataset.function"], run.settings["dataset.inputs"]
    assert isinstance(name, str)
    assert isinstance(inputs, int)
    return described(name, inputs)


def brief(value: Value) -> str:
    """Write a value as on the command line, drawn ones to four digits, long ones shortened."""
    return as_label(spell(float(f"{value:.4g}") if isinstance(value, float) else value))


def outcome(group: Sequence[Run]) -> dict[str, str]:
    """Write what came out, by column: mean ± standard deviation."""
    words = {"finished": "max_epochs", "running": "unfinished"}
    ends = []
    for run in group:
        if run.status == "stopped":
            ends.append(spell(run.settings.get("stopping")))
        elif run.status == "finished" and run.epochs == 0:
            ends.append("not trained")
        else:
            ends.append(words.get(run.status, run.status))
    counts = {end: ends.count(end) for end in ends}
    ended = ",\n".join(f"{n} {end}" if len(counts) > 1 else end for end, n in counts.items())
    whole = [run for run in group if run.complete] or group

    def spread(values: Sequence[float | None], style: str, scale: float = 1) -> str:
        known = scale * np.array([v for v in values if v is not None and math.isfinite(v)])
        if not len(known):
            return "-"
        mean = format(known.mean(), style)
        return mean if len(known) == 1 else f"{mean} ± {known.std(ddof=1):{style}}"

    trained = [run.epochs for run in whole]
    seconds = np.array([run.train_seconds for run in whole])
    margin = float(seconds.std(ddof=1)) if len(seconds) > 1 else 0.0
    accuracy = spread([run.test_accuracy for run in whole], ".1f", 100)
    best = [run.reading.best_epoch for run in whole if run.reading]
    return {
        "n": str(len(whole)),
        "epochs": str(trained[0]) if len(set(trained)) == 1 else spread(trained, ".0f"),
        "stopped by": ended,
        "time": duration_within(float(seconds.mean()), margin) if any(trained) else "-",
        "test\naccuracy": accuracy if accuracy == "-" else f"{accuracy} %",
        "test\nloss": spread([run.test_loss for run in whole], ".3f"),
        "best\nepoch": str(best[0]) if len(set(best)) == 1 else spread(best, ".0f"),
    }


def notes(runs: Sequence[Run]) -> list[str]:
    """Say what the table cannot: the time of the full training set, why rules stopped the
    runs, what the curves show, what failed and why."""
    said = []
    keys, length, fits = timings(runs)
    what = "an epoch" if length is None else f"{length:,} epoch" + "s" * (length > 1)
    for fit in fits[:5]:
        if (answer := fit.answer()) is not None:
            interval = " (95 % interval)" if "±" in answer else ""
            time = f"{what} on all {fit.full_size:,} examples would take {answer}{interval}"
            setting = assignments(keys, fit.values)
            said.append(f"{setting}: {time}" if setting else f"By the fitted line {time}.")
    if fits and any(run.form for run in runs) and all(fit.line is None for fit in fits):
        said.append("no line through training times of the dual form (README), which grow faster")
    if fits and (most := side_by_side(runs)) > 1:
        said.append(f"times are of runs that trained side by side, up to {most:,} at once")
    said += tested(runs) + stopped(runs) + readings(runs) + computed(runs)
    for name in sorted({spell(run.settings.get("dataset")) for run in runs if run.synthetic}):
        said.append(f"dataset={name}: synthetic data, made by a program")
    lost = [run for run in runs if run.status in ("failed", "diverged")]
    for run in lost[:5]:
        said.append(f"{run.name} {run.status}: {run.error or run.stop_reason}")
    if len(lost) > 5:
        said.append(f"and {len(lost) - 5:,} more failed or diverged")
    return said


def tested(runs: Sequence[Run]) -> list[str]:
    """Say on which part of a test split the runs were tested, and which saw other data."""
    said = []
    tests = [(run.settings.get("test_size"), run.full_test_size) for run in runs if run.complete]
    sizes = {(n, full) for n, full in tests if isinstance(n, int) and full and 0 < n < full}
    for size, full in sorted(sizes):
        said.append(f"Tested on {size:,} of the {full:,} test examples, the same for every seed.")
    asked = sorted({key for run in runs for key in run.settings if key.startswith("dataset")})
    for same in grouped(runs, asked).values():
        seen = grouped([run for run in same if run.settings.get("data")], ["data"])
        if len(seen) > 1:
            parts = [f"{len(part)} {part[0].source} ({data})" for (data,), part in seen.items()]
            said.append(f"Not all runs saw the same data: {', '.join(parts)}; never averaged.")
    return said


def stopped(runs: Sequence[Run]) -> list[str]:
    """Say why a rule stopped runs: once where it says the same of all, else run by run."""
    ended = [run for run in runs if run.status == "stopped"]
    if len({run.stop_reason for run in ended}) == 1:
        return [f"{spell(ended[0].settings.get('stopping'))}: {ended[0].stop_reason}"]
    said = [f"{run.name} stopped: {run.stop_reason}" for run in ended[:SETTINGS]]
    more = len(ended) - SETTINGS
    return said + [f"and {more:,} more stopped, their reasons are in summary.csv"] * (more > 0)


def readings(runs: Sequence[Run]) -> list[str]:
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


def computed(runs: Sequence[Run]) -> list[str]:
    """Say of each network which Boolean functions it computes, in every row of their tables."""
    tables = [run for run in runs if run.test_accuracy is not None and tested_whole(run)]
    known = ("dataset.function", "dataset.inputs")
    keys = [key for key in factors(runs) if key not in known and not is_seed(key)]
    said, chance = [], False
    for values, group in grouped(tables, keys).items():
        functions = grouped(group, ["dataset.function", "dataset.inputs"]).values()
        missed = [same for same in functions if any(run.test_accuracy != 1 for run in same)]
        few = []
        for same in missed[:SETTINGS]:
            found = outcome(same)
            accuracy, loss = found["test\naccuracy"], found["test\nloss"]
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


def tested_whole(run: Run) -> bool:
    """Tell whether a run was tested on every row of a truth table."""
    inputs = run.settings.get("dataset.inputs")
    return isinstance(inputs, int) and run.settings.get("test_size") in (None, 2**inputs)


def assignments(keys: Sequence[str], values: Sequence[Value]) -> str:
    return ", ".join(f"{key}={brief(value)}" for key, value in zip(keys, values))
