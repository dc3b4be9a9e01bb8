"""A comparison as table, CSV files, figures and a page."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from rich.table import Table

from nnlab.losses import METRICS
from nnlab.report import summary
from nnlab.report.labels import label as label_of
from nnlab.report.page import SCRIPT, Sheet, page, text_of
from nnlab.report.plotting import (
    COLOURS,
    NOTEBOOK,
    STYLES,
    Picture,
    Style,
    entry,
    frame,
    keep_inside,
    label_below,
    place_of,
    remove,
    save_each,
    scale_of,
    ticks,
)
from nnlab.report.ranking import ALIKE, BEST, WORSE, Comparison, is_percent, number
from nnlab.report.runs import brief, is_number, spell
from nnlab.storage import make_folder, write_atomic

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 20  # settings in the table and in a figure
TESTS = (*METRICS, "loss")  # results of the test set
LOOKS = {BEST: "o", ALIKE: "s"}  # markers by verdict; others are crosses
FIGURES = {"comparison.png": "The best settings", "effects.png": "What each factor does"}
LETTERS = 14  # of a name below a panel
DOT: dict[str, Any] = {"ms": 4, "lw": 1}


def write(
    found: Comparison, folder: Path, formats: Collection[str] = (), style: str = "notebook"
) -> list[Path]:
    """Write ``comparison.csv``, ``effects.csv``, figures and the page; return their paths.

    formats, style: of the figures, see ``report.write_report``.
    """
    make_folder(folder)
    paths = [folder / name for name in ("comparison.csv", "effects.csv")]
    for path, table_of in zip(paths, (found.ranking, found.effects)):
        rows = [
            {str(name): None if missing(value) else value for name, value in row.items()}
            for row in table_of.to_dict("records")
        ]
        summary.write_csv(rows, path)
    drawn = []
    for name, draw in zip(FIGURES, (ranking, effects)):
        figure = draw(found, STYLES[style])
        if figure is None:
            remove(folder / name)
        else:
            drawn += save_each(figure, folder / name, formats)
    return [*paths, *drawn, write_page(found, folder, drawn)]


def missing(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def table(found: Comparison, terminal_width: int = summary.WIDTH) -> Table:
    """Lay out the best settings for a terminal; what does not fit is left out, and named below."""
    differences = {"difference from\nthe best (95 %)": ""}
    if "baseline_difference" in found.ranking:
        differences["difference from\nthe baseline"] = "baseline_"
    tests = [f"test_{name}" for name in TESTS if f"test_{name}" in found.ranking]
    tests = [name for name in tests if name != found.metric]
    made, left_out = summary.fitting(
        functools.partial(rows_of, found, differences),
        [found.metric, "n", *differences, *tests],
        ["n", *differences, *tests],
        terminal_width,
    )
    made.caption = f"±: 95 % confidence interval of the mean over {found.over} (Student's t)"
    if len(found.ranking) > SHOWN:
        made.caption += f"; {len(found.ranking) - SHOWN:,} more settings in comparison.csv"
    if left_out:
        names = ", ".join(summary.one_line(name) for name in left_out)
        made.caption += f"\nLeft out: {names}, on the page and in comparison.csv"
    return made


def rows_of(found: Comparison, differences: Mapping[str, str], results: Sequence[str]) -> Table:
    """Make a table of a row per setting, with its results by their headings.

    differences: what the columns of a difference begin with, by its heading.
    """
    made, shown = summary.empty(), found.ranking.head(SHOWN)
    for key in found.by:
        numeric = all(map(is_number, shown[key]))
        made.add_column(broken(key), justify="right" if numeric else "left")
    for head in results:
        made.add_column(broken(head), justify="right", no_wrap=True)
    made.add_column("")
    for _, row in shown.iterrows():
        cells = {found.metric: within(row["mean"], margin_of(row), found.percent)}
        cells["n"] = str(row["n"])
        for head in results:
            if head in differences:
                cells[head] = difference(row, differences[head], found.percent)
            elif head not in cells:
                cells[head] = within(row[head], math.nan, is_percent(head))
        made.add_row(
            *(brief(row[key]) for key in found.by),
            *(cells[head] for head in results),
            row["verdict"],
        )
    return made


def margin_of(row: pd.Series[Any]) -> float:
    return float(row["ci95_high"] - row["ci95_low"]) / 2


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
    if math.isnan(value) or (value == 0 and not low < 0 < high):
        return ""
    text = f"{'+' * (value > 0)}{number(value, percent)}"
    if math.isnan(low):
        return text
    return f"{text} ({number(low, percent)} to {number(high, percent)})"


# Figures


def ranking(found: Comparison, style: Style = NOTEBOOK) -> Picture:
    """Draw the mean and interval of the best settings, a row each."""
    shown = found.ranking.head(SHOWN)[::-1]
    settings = list(shown[found.by].itertuples(index=False, name=None))
    letters = int(7 * style.wide / style.scale)  # half the width
    rows = ["\n".join(textwrap.wrap(", ".join(map(entry, each)), letters)) for each in settings]
    lines = sum(row.count("\n") + 1.5 for row in rows)
    height = (1.6 + 0.14 * lines) * style.scale
    notes = [f"the best {len(shown)} of {len(found.ranking):,} settings"] * (
        len(shown) < len(found.ranking)
    )
    looks = {verdict: look_of(verdict) for verdict in dict.fromkeys(shown["verdict"][::-1])}
    if ALIKE in looks or WORSE in looks:
        notes.append(f"compared {found.how}")
    notes += interval_note(found, shown)
    handles = [Line2D([], [], label=verdict, **look) for verdict, look in looks.items()]
    style = dataclasses.replace(style, width=style.wide, height=height)
    figure, (axes,) = frame(f"Settings by {found.title}", notes, handles=handles, style=style)
    label, factor = axis_of(found)
    for place, (_, row) in enumerate(shown.iterrows()):
        half = factor * margin_of(row)
        look = look_of(row["verdict"])
        axes.errorbar(factor * row["mean"], place, xerr=None if math.isnan(half) else half, **look)
    if found.percent:
        low, high = axes.get_xlim()
        axes.set_xlim(max(low, -2), min(high, 102))  # beyond are ends of intervals alone
    axes.set_yticks(range(len(shown)), rows)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    named = ", ".join(map(label_of, found.by))
    letters = int(13 * axes.get_position().height * figure.get_figheight() / style.scale)
    axes.set_ylabel("\n".join(textwrap.wrap(named, letters)))
    axes.set_xlabel(label)
    keep_inside([axes])
    return figure


def look_of(verdict: str) -> dict[str, Any]:
    """Return how a setting is marked: in colour where none is better."""
    marker = LOOKS.get(verdict, "x")
    return {"marker": marker, "color": COLOURS[0] if verdict in LOOKS else "0.5", **DOT}


def interval_note(found: Comparison, rows: pd.DataFrame) -> list[str]:
    known = bool(rows["ci95_low"].notna().any())
    return [f"bar: 95 % confidence interval of the mean over {found.over}"] * known


def effects(found: Comparison, style: Style = NOTEBOOK) -> Picture | None:
    """Draw the mean over all else at each value of each factor, a panel for each. None where no
    factor has two values."""
    factors = [
        (str(factor), rows)
        for factor, rows in found.effects.groupby("factor", sort=False)
        if len(rows) > 1
    ]
    if not factors:
        return None
    kinds = [scale_of(factor, list(rows["value"])) for factor, rows in factors]
    words = [rows["value"] for (_, rows), kind in zip(factors, kinds) if kind == "category"]
    longest = max((len(entry(value, LETTERS)) for values in words for value in values), default=0)
    style = dataclasses.replace(style, panel=style.panel + 0.06 * longest * style.scale)
    share = dict(zip(found.shares["factor"], found.shares["share"]))
    titles = [f"{100 * share[factor]:.0f} % of the variance" for factor, _ in factors]
    notes = ["means over all else"] * (len(found.by) > 1)
    notes += interval_note(found, found.effects)
    title = f"What each factor does to {found.title}"
    figure, panels = frame(title, notes, len(factors), titles=titles, style=style, alike=False)
    label, scale = axis_of(found)
    for axes, (factor, rows), kind in zip(panels, factors, kinds):
        values = list(rows["value"])
        x = range(len(values)) if kind == "category" else values
        half = scale * (rows["ci95_high"] - rows["ci95_low"]).fillna(0) / 2
        look = {"ls": "" if kind == "category" else "-", "marker": "o", **DOT}
        axes.errorbar(x, scale * rows["mean"], yerr=half, color=COLOURS[0], **look)
        ticks(axes, values, kind, LETTERS)
        label_below(axes, label_of(factor))
        if place_of(axes).is_first_col():
            axes.set_ylabel(label)
    same_bottoms(panels)
    keep_inside(panels)
    return figure


def same_bottoms(panels: Sequence[Axes]) -> None:
    """Let panels in a row begin at the same height, above the longest of their labels."""
    rows = itertools.groupby(panels, key=lambda axes: place_of(axes).rowspan.start)
    for row in (list(each) for _, each in rows):
        bottom = max(axes.get_position().y0 for axes in row)
        for axes in row:
            box = axes.get_position()
            axes.set_position((box.x0, bottom, box.width, box.y1 - bottom))


def axis_of(found: Comparison) -> tuple[str, float]:
    """Return what an axis of the metric is called, and what its values are multiplied by."""
    name = found.title[0].upper() + found.title[1:]
    return (f"{name} (%)", 100.0) if found.percent else (name, 1.0)


# The page


def write_page(found: Comparison, folder: Path, drawn: Sequence[Path]) -> Path:
    """Write ``comparison.html``, with those of the figures that were drawn, and return it."""
    made = page(
        "comparison.html",
        [text_of(SCRIPT)],
        title=f"Settings by {found.title}",
        notes=found.notes,
        figures=[
            {"name": path.name, "caption": FIGURES[path.name]}
            for path in drawn
            if path.name in FIGURES
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
    write_atomic(path, made)
    return path


def sheet(frame: pd.DataFrame) -> Sheet:
    """Lay out a frame for the page."""
    return Sheet(
        heads=[str(name) for name in frame.columns],
        numeric=[all(is_number(value) for value in frame[name]) for name in frame.columns],
        settings=0,
        rows=[[cell(value) for value in row] for row in frame.itertuples(index=False)],
        runs=None,
        alike=[],
    )


def cell(value: Any) -> str:
    if missing(value):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else spell(value)
