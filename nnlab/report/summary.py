"""The runs of a study side by side: ``summary.csv`` and the table for the terminal."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from nnlab.records import COLUMNS, write_whole
from nnlab.report.runs import Run, Value, factors, grouped, is_number, spell, varied
from nnlab.report.times import duration_within, timings

STYLES = {"failed": "red", "diverged": "yellow", "running": "dim"}
TABLE_ROWS = 40


def rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Make the rows of ``summary.csv``: a run each, in the order they come."""
    keys = varied(runs)
    made = []
    for run in runs:
        settings: dict[str, Any] = {key: run.settings.get(key) for key in keys}
        results: dict[str, Any] = {
            "status": run.status,
            "stop_reason": run.stop_reason,
            "epochs": run.epochs,
            "train_seconds": run.train_seconds,
            **{column: run.last(column) for column in COLUMNS[1:5]},
            "test_loss": run.test_loss,
            "test_accuracy": run.test_accuracy,
            "weights": run.weights,
            "engine": run.engine,
            "device": run.device,
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
        cells = {
            key: spell(value) if isinstance(value, (tuple, bool)) else value
            for key, value in row.items()
        }
        writer.writerow(cells)
    write_whole(path, text.getvalue().encode())


def table(runs: Sequence[Run]) -> Table:
    """Lay the runs out for a terminal; runs that differ only in their seed share a row."""
    keys = factors(runs)
    alone = keys == ["seed"]
    if not alone:
        keys = [key for key in keys if key != "seed"]
    groups = list(grouped(runs, keys).items()) if keys else [((run.name,), [run]) for run in runs]
    if alone:
        groups.append((("mean",), list(runs)))
    repeated = any(len(group) > 1 for _, group in groups)

    made = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), caption_justify="left")
    for index, key in enumerate(keys or ["run"]):
        right = is_number(groups[0][0][index])
        made.add_column(key, justify="right" if right else "left", overflow="fold")
    for name in ["n"] * repeated + ["epochs", "stopped by", "time", "test\naccuracy", "test\nloss"]:
        words = name == "stopped by"
        made.add_column(name, justify="left" if words else "right", no_wrap=not words)

    hidden = range(TABLE_ROWS // 2, len(groups) - TABLE_ROWS // 2)
    for index, (values, group) in enumerate(groups):
        if index not in hidden:
            cells = [brief(value) for value in values]
            cells += [str(len(group))] * repeated + outcome(group)
            states = {run.status for run in group}
            style = next((look for state, look in STYLES.items() if state in states), "")
            last = index == len(groups) - 2 and alone
            made.add_row(*(Text(cell, style) for cell in cells), end_section=last)
        elif index == hidden.start:
            made.add_row("…")
            made.caption = f"…: {len(hidden):,} more rows, all of them in summary.csv"
    return made


def brief(value: Value) -> str:
    """Write a value as on the command line, drawn ones to four digits."""
    return spell(float(f"{value:.4g}") if isinstance(value, float) else value)


def outcome(group: Sequence[Run]) -> list[str]:
    """Write epochs, why they ended, time, test accuracy and loss: mean ± standard deviation."""
    words = {"finished": "max_epochs", "running": "unfinished"}
    ends = []
    for run in group:
        stopped = run.status == "stopped"
        ends.append(
            spell(run.settings.get("stopping")) if stopped else words.get(run.status, run.status)
        )
    counts = {end: ends.count(end) for end in ends}
    ended = ", ".join(f"{n} {end}" if len(counts) > 1 else end for end, n in counts.items())
    whole = [run for run in group if run.complete] or group

    def spread(values: Sequence[float | None], style: str, scale: float = 1) -> str:
        known = scale * np.array([v for v in values if v is not None and math.isfinite(v)])
        if not len(known):
            return "-"
        mean = format(known.mean(), style)
        return mean if len(known) == 1 else f"{mean} ± {known.std(ddof=1):{style}}"

    epochs = [run.epochs for run in whole]
    seconds = np.array([run.train_seconds for run in whole])
    margin = float(seconds.std(ddof=1)) if len(seconds) > 1 else 0.0
    accuracy = spread([run.test_accuracy for run in whole], ".1f", 100)
    return [
        str(epochs[0]) if len(set(epochs)) == 1 else spread(epochs, ".0f"),
        ended,
        duration_within(float(seconds.mean()), margin) if any(epochs) else "-",
        accuracy if accuracy == "-" else f"{accuracy} %",
        spread([run.test_loss for run in whole], ".3f"),
    ]


def notes(runs: Sequence[Run]) -> list[str]:
    """Say what the table cannot: the time of the full training set, what failed and why."""
    said = []
    keys, epochs, fits = timings(runs)
    what = "an epoch" if epochs is None else f"{epochs:,} epoch" + "s" * (epochs > 1)
    for fit in fits[:5]:
        if (answer := fit.answer()) is not None:
            setting = ", ".join(f"{key}={brief(value)}" for key, value in zip(keys, fit.values))
            interval = " (95 % interval)" if "±" in answer else ""
            time = f"{what} on all {fit.full_size:,} examples would take {answer}{interval}"
            said.append(f"{setting}: {time}" if setting else f"By the fitted line {time}.")
    lost = [run for run in runs if run.status in ("failed", "diverged")]
    for run in lost[:5]:
        said.append(f"{run.name} {run.status}: {run.error or run.stop_reason}")
    if len(lost) > 5:
        said.append(f"and {len(lost) - 5:,} more failed or diverged")
    return said
