"""A comparison as table, CSV files, figures and a page."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from rich.table import Table

from nnlab.report import summary
from nnlab.report.comparison import ALIKE, BEST, Comparison, named
from nnlab.report.plotting import COLOURS, DPI, FONT, Picture, save
from nnlab.report.runs import is_number, spell
from nnlab.storage import make_folder, write_atomic
from nnlab.text import shortened, visible_lines

if TYPE_CHECKING:
    import pandas as pd

TEMPLATE = Path(__file__).with_name("comparison.html")
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
    for name, values in shown[found.by].items():
        made.add_column(str(name), justify="right" if all(map(is_number, values)) else "left")
    percent = "accuracy" in found.metric
    heads = [found.metric.replace("_", "\n"), "95 %", "n", "from\nthe best", "95 %"]
    tests = [name for name in ("test_accuracy", "test_loss") if name in shown]
    baseline = ["from the\nbaseline", "95 %"] if "baseline_difference" in shown else []
    for head in (*heads, *baseline, *(name.replace("_", "\n") for name in tests)):
        made.add_column(head, justify="right")
    made.add_column("")
    for _, row in shown.iterrows():
        cells = [
            number(row["mean"], percent),
            span(row, "ci95", percent),
            str(row["n"]),
            *difference(row, "", percent),
            *(difference(row, "baseline_", percent) if baseline else ()),
            *(number(row[name], "accuracy" in name) for name in tests),
        ]
        made.add_row(*(summary.brief(row[key]) for key in found.by), *cells, row["verdict"])
    if len(found.ranking) > SHOWN:
        made.caption = f"and {len(found.ranking) - SHOWN:,} more, in comparison.csv"
    return made


def number(value: float, percent: bool) -> str:
    if math.isnan(value):
        return "-"
    return f"{100 * value:.1f} %" if percent else f"{value:.4g}"


def span(row: pd.Series[Any], name: str, percent: bool) -> str:
    """Write an interval; ``name`` is what its columns begin with."""
    ends = [row[f"{name}_{end}"] for end in ("low", "high")]
    if any(map(math.isnan, ends)):
        return "-"
    return " to ".join(number(end, percent).removesuffix(" %") for end in ends)


def difference(row: pd.Series[Any], prefix: str, percent: bool) -> tuple[str, str]:
    """Write a difference, which is 0 for what it is from, and its interval."""
    value = row[f"{prefix}difference"]
    if value == 0 and math.isnan(row[f"{prefix}p"]):
        return "", ""
    text = number(value, percent).removesuffix(" %")
    return f"+{text}" if value > 0 else text, span(row, f"{prefix}difference", percent)


# Figures


def ranking(found: Comparison) -> Figure:
    """Draw the mean and interval of the best settings, a row each."""
    shown = found.ranking.head(SHOWN)[::-1]
    figure = picture(6.8, 1.2 + 0.22 * len(shown))
    axes = figure.subplots()
    for place, (_, row) in enumerate(shown.iterrows()):
        best = row["verdict"] in LOOKS
        half = (row["ci95_high"] - row["ci95_low"]) / 2
        axes.errorbar(
            row["mean"],
            place,
            xerr=None if math.isnan(half) else half,
            fmt=LOOKS.get(row["verdict"], "x"),
            color=COLOURS[0] if best else "0.5",
            ms=4,
            lw=1,
        )
    labels = [shortened(named(row, found.by), 60) for _, row in shown.iterrows()]
    axes.set_yticks(range(len(shown)), labels, fontsize=FONT)
    axes.set_xlabel(f"{found.metric} (bar: 95 % interval over seeds)", fontsize=FONT + 1)
    axes.set_title(
        "circle: the best; square: cannot be told from it, paired by seed; cross: other",
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
    for axes, (factor, values) in zip(panels, factors):
        places = range(len(values))
        half = (values["ci95_high"] - values["ci95_low"]) / 2
        axes.errorbar(places, values["mean"], yerr=half.fillna(0), fmt="o-", ms=3, lw=1, capsize=2)
        labels = [shortened(spell(value), 14) for value in values["value"]]
        step = -(-len(labels) // 8)  # more do not fit
        axes.set_xticks(list(places)[::step], labels[::step], fontsize=FONT, rotation=30)
        axes.set_title(f"{factor}: {share[factor]:.0%} of the variance", fontsize=FONT, loc="left")
    for axes in list(panels):
        axes.remove()
    figure.supylabel(f"{found.metric} (mean over all else, 95 % interval)", fontsize=FONT + 1)
    return figure


def picture(width: float, height: float) -> Figure:
    return Picture((width, height), dpi=DPI, layout="constrained")


# The page


def write_page(found: Comparison, folder: Path) -> Path:
    """Write ``comparison.html`` and return it."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible_lines(value) if isinstance(value, str) else value,
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(
        title=f"Comparison by {found.metric}",
        notes=found.notes,
        figures=[
            {"name": "comparison.png", "caption": "The best settings"},
            {"name": "effects.png", "caption": "What each factor does"},
        ],
        tables=[
            rows(found.ranking, "Settings, the best first"),
            rows(found.effects, "Factors: means over all else"),
            rows(found.shares, "Shares of the variance"),
        ],
    )
    path = folder / "comparison.html"
    write_atomic(path, page.encode())
    return path


def rows(frame: pd.DataFrame, caption: str) -> dict[str, Any]:
    """Return what the page says of a table."""
    numeric = [bool(is_number(value)) for value in frame.iloc[0]]
    return {
        "caption": caption,
        "heads": list(frame.columns),
        "numeric": numeric,
        "rows": [[cell(value) for value in row] for row in frame.itertuples(index=False)],
    }


def cell(value: Any) -> str:
    if missing(value):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else spell(value)
