"""A comparison as table, CSV files, figures and a page."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from rich.table import Table

from nnlab.losses import METRICS
from nnlab.report import summary
from nnlab.report.page import SCRIPT, Sheet, page, text_of
from nnlab.report.plotting import COLOURS, DPI, FONT, Picture, save
from nnlab.report.ranking import ALIKE, BEST, Comparison, is_percent, named, number
from nnlab.report.runs import brief, is_number, spell
from nnlab.storage import make_folder, write_atomic
from nnlab.text import shortened

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 20  # settings in the table and in a figure
PANELS = 3  # in a row
LOOKS = {BEST: "o", ALIKE: "s"}  # markers by verdict; others are crosses


def write(found: Comparison, folder: Path) -> list[Path]:
    """Write ``comparison.csv``, ``effects.csv``, both figures and the page; return their paths."""
    make_folder(folder)
    paths = [folder / name for name in ("comparison.csv", "effects.csv")]
    for path, frame in zip(paths, (found.ranking, found.effects)):
        rows = [
            {str(name): None if missing(value) else value for name, value in row.items()}
            for row in frame.to_dict("records")
        ]
        summary.write_csv(rows, path)
    drawn = [
        save(ranking(found), folder / "comparison.png"),
        save(effects(found), folder / "effects.png"),
    ]
    return [*paths, *drawn, write_page(found, folder)]


def missing(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def table(found: Comparison) -> Table:
    """Lay out the best settings for a terminal."""
    made = summary.empty()
    shown = found.ranking.head(SHOWN)
    for key in found.by:
        numeric = all(map(is_number, shown[key]))
        made.add_column(broken(key), justify="right" if numeric else "left")
    percent = found.percent
    tests = [f"test_{name}" for name in (*METRICS, "loss") if f"test_{name}" in shown]
    prefixes = {"difference from\nthe best (95 %)": ""}
    if "baseline_difference" in shown:
        prefixes["difference from\nthe baseline"] = "baseline_"
    for head in (found.metric, "n", *prefixes, *tests):
        made.add_column(broken(head), justify="right", no_wrap=True)
    made.add_column("")
    for _, row in shown.iterrows():
        half = (row["ci95_high"] - row["ci95_low"]) / 2
        made.add_row(
            *(brief(row[key]) for key in found.by),
            within(row["mean"], half, percent),
            str(row["n"]),
            *(difference(row, prefix, percent) for prefix in prefixes.values()),
            *(within(row[name], math.nan, is_percent(name)) for name in tests),
            row["verdict"],
        )
    made.caption = f"±: 95 % confidence interval of the mean over {found.over} (Student's t)"
    if len(found.ranking) > SHOWN:
        made.caption += f"; {len(found.ranking) - SHOWN:,} more settings in comparison.csv"
    return made


def broken(head: str) -> str:
    return head.replace(".", ".\n").replace("_", "\n")


def within(value: float, half: float, percent: bool) -> str:
    """Write a value and half its interval, if it has one; shares of 1 in per cent."""
    if math.isnan(value):
        return "-"
    ends = "" if math.isnan(half) else f" ± {number(half, percent)}"
    return f"{number(value, percent)}{ends}{' %' * percent}"


def difference(row: pd.Series[Any], prefix: str, percent: bool) -> str:
    """Write a difference and its interval; nothing for what it is from."""
    value, low, high = (row[f"{prefix}difference{end}"] for end in ("", "_low", "_high"))
    if value == low == high == 0 or math.isnan(value):
        return ""
    text = f"{'+' * (value > 0)}{number(value, percent)}"
    if math.isnan(low):
        return text
    return f"{text} ({number(low, percent)} to {number(high, percent)})"


# Figures


def ranking(found: Comparison) -> Figure:
    """Draw the mean and interval of the best settings, a row each."""
    shown = found.ranking.head(SHOWN)[::-1]
    figure = picture(6.8, 1.2 + 0.22 * len(shown))
    axes = figure.subplots()
    label, factor = axis_of(found)
    for place, (_, row) in enumerate(shown.iterrows()):
        best = row["verdict"] in LOOKS
        half = (row["ci95_high"] - row["ci95_low"]) / 2
        axes.errorbar(
            factor * row["mean"],
            place,
            xerr=None if math.isnan(half) else factor * half,
            fmt=LOOKS.get(row["verdict"], "x"),
            color=COLOURS[0] if best else "0.5",
            ms=4,
            lw=1,
        )
    labels = [shortened(named(row, found.by), 60) for _, row in shown.iterrows()]
    axes.set_yticks(range(len(shown)), labels, fontsize=FONT)
    axes.tick_params(labelsize=FONT)
    axes.set_xlabel(f"{label}; bar: 95 % interval over {found.over}", fontsize=FONT + 1)
    axes.set_title(
        f"circle: the best; square: cannot be told from it, {found.how}; cross: other",
        fontsize=FONT,
        loc="left",
    )
    return figure


def effects(found: Comparison) -> Figure:
    """Draw the mean over all else at each value of each factor, a panel for each."""
    factors = list(found.effects.groupby("factor", sort=False))
    rows = -(-len(factors) // PANELS)
    columns = min(PANELS, len(factors))
    figure = picture(2.4 * columns + 1, 2.2 * rows + 0.6)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    share = dict(zip(found.shares["factor"], found.shares["share"]))
    label, scale = axis_of(found)
    for axes, (factor, values) in zip(panels, factors):
        places = range(len(values))
        half = scale * (values["ci95_high"] - values["ci95_low"]).fillna(0) / 2
        axes.errorbar(places, scale * values["mean"], yerr=half, fmt="o-", ms=3, lw=1, capsize=2)
        axes.tick_params(labelsize=FONT)
        labels = [shortened(spell(value), 14) for value in values["value"]]
        step = -(-len(labels) // 8)  # more do not fit
        axes.set_xticks(list(places)[::step], labels[::step], fontsize=FONT, rotation=30)
        axes.set_title(f"{factor}: {share[factor]:.0%} of the variance", fontsize=FONT, loc="left")
    for axes in list(panels):
        axes.remove()
    figure.supylabel(label, fontsize=FONT + 1)
    figure.suptitle(f"mean over all else, with its 95 % interval over {found.over}", fontsize=FONT)
    return figure


def axis_of(found: Comparison) -> tuple[str, float]:
    """Return what an axis of the metric is called, and what its values are multiplied by."""
    name = found.title.capitalize()
    return (f"{name} (%)", 100.0) if found.percent else (name, 1.0)


def picture(width: float, height: float) -> Figure:
    return Picture((width, height), dpi=DPI, layout="constrained")


# The page


def write_page(found: Comparison, folder: Path) -> Path:
    """Write ``comparison.html`` and return it."""
    made = page(
        "comparison.html",
        [text_of(SCRIPT)],
        title=f"Settings by {found.title}",
        notes=found.notes,
        figures=[
            {"name": "comparison.png", "caption": "The best settings"},
            {"name": "effects.png", "caption": "What each factor does"},
        ],
        tables=[
            {"id": name, "heading": heading, "sheet": sheet(frame)}
            for name, heading, frame in (
                ("settings", "Settings", found.ranking),
                ("effects", "Factors: means over all else", found.effects),
                ("shares", "Shares of the variance", found.shares),
            )
        ],
    )
    path = folder / "comparison.html"
    write_atomic(path, made.encode())
    return path


def sheet(frame: pd.DataFrame) -> Sheet:
    """Lay out a frame for the page."""
    return Sheet(
        heads=[str(name) for name in frame.columns],
        numeric=[all(is_number(value) for value in frame[name]) for name in frame.columns],
        settings=0,
        rows=[[cell(value) for value in row] for row in frame.itertuples(index=False)],
        runs=[],
        alike=[],
    )


def cell(value: Any) -> str:
    if missing(value):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else spell(value)
