"""What any figure needs: sizes, axes, scales, colours, values as text.

Never pyplot: its global state is unsafe in threads, and slow to import.
"""

from __future__ import annotations

import io
import itertools
import math
import textwrap
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)

from nnlab.report.labels import NAMES
from nnlab.report.runs import Value, is_number, spell
from nnlab.report.statistics import Array
from nnlab.storage import write_atomic
from nnlab.text import shortened, visible

DPI, FONT = 200, 8
BESIDE_PNG = ("svg", "pdf")  # formats that a figure can have, too
LEFT, BOTTOM, RIGHT = 0.625, 0.46, 0.97  # inches, inches, of the width
LINE = 0.16  # inches
LINES, USUAL = 6, 4  # of a text at most, and of texts in a figure of the style's height
ROWS = 3  # of panels, beyond which a figure is as wide as its style allows
NAME = 32  # letters of a name
EDGE = 0.01  # of the width of a figure, that stays free
# Okabe & Ito, Color Universal Design (2008), without the yellow that is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
Line = tuple[Array, Array, Any, str]  # its x and y, colour and dash
FEW_LINES = 16  # which matplotlib has as objects of their own
MARK = 4  # size of a marker
DASHES, MARKERS = ("-", "--", ":", "-."), ("o", "s", "^", "D")


# Figures and their axes


@dataclass(frozen=True)
class Style:
    """The sizes of figures, in inches; what stands in them grows with the font.

    font: in points. width, height: of a figure with one panel. wide: the width of one with
    several, of which ``columns`` stand in a row, each ``panel`` high. dpi: of PNG files. widest:
    the width where ROWS of them do not hold all, with as many more in a row; None: as ever.
    """

    font: float
    width: float
    height: float
    wide: float
    columns: int
    panel: float
    dpi: int
    widest: float | None = None

    @property
    def scale(self) -> float:
        return self.font / FONT


NOTEBOOK = Style(FONT, 5.0, 3.4, 6.8, 3, 1.8, DPI)
STYLES = {
    "notebook": NOTEBOOK,
    # One column of a paper, or both.
    "paper": Style(7, 3.4, 2.5, 3.4, 2, 1.2, 400, 7.0),
    # On a screen of 1920 pixels, where the font is as one of 21 points on a slide of 13 inches.
    "slides": Style(10, 6.4, 3.6, 6.4, 3, 1.2, 300),
}


class Picture(Figure):
    """A figure that a notebook shows, though pyplot has no part in it."""

    style = NOTEBOOK

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="png", dpi=DPI / 2)
        return content.getvalue()


def picture(axes: Axes) -> Picture:
    """Return the figure of axes that ``frame`` has made."""
    assert isinstance(axes.figure, Picture)
    return axes.figure


def frame(
    title: str,
    notes: Sequence[str],
    panels: int = 1,
    handles: Sequence[Line2D] = (),
    titles: Sequence[str] = (),
    style: Style = NOTEBOOK,
    beside: bool = False,
    alike: bool = True,
) -> tuple[Picture, list[Axes]]:
    """Make a figure with its title, and below that notes in grey and a legend of handles,
    above empty axes.

    titles: of each panel; panels with titles share their axes, as many in a row as the style has,
    and where these are many rows as its greatest width has.
    beside: whether something will stand right of them, so that their titles get less room.
    alike: whether they share their abscissas, too.
    """
    scale, font = style.scale, style.font
    wide, most = style.wide, style.columns
    if style.widest and panels > ROWS * most:
        wide, most = style.widest, int(most * style.widest / style.wide)
    rows = -(-panels // most) if titles else 1
    columns = -(-panels // rows)
    width, height = style.width, style.height
    if panels > 1:
        own = 0 if alike else BOTTOM * (rows - 1)  # of abscissas
        width, height = wide, (1.2 + own) * scale + style.panel * rows
    lines = wrap(title, int(14.5 * width / scale))
    remarks = wrap("; ".join(notes), int(15.5 * width / scale))
    letters = sum(len(str(handle.get_label())) + 6 for handle in handles)
    legend_rows = 0 if not handles else 1 if letters <= 14 * width / scale else 2
    letters = int((9.5 if beside else 13.24) * width / scale) // columns
    wrapped = ["\n".join(wrap(text, letters)) for text in titles]
    heads = max((text.count("\n") + 1.2 for text in wrapped), default=0)
    # What is said by more lines than usual takes no room from what is drawn.
    more = max(0, len(lines) + len(remarks) + legend_rows - USUAL) + rows * max(0, heads - 2.2)
    height += LINE * scale * more
    figure = Picture((width, height), dpi=style.dpi)
    figure.style = style
    FigureCanvasAgg(figure)
    line = LINE * scale / height
    top = 1 - 0.35 * line
    left = LEFT * scale / width
    figure.text(left, top, "\n".join(lines), size=font, va="top", linespacing=1.25)
    top -= line * len(lines)
    figure.text(left, top, "\n".join(remarks), size=font - 1, va="top", color="0.35")
    top -= line * len(remarks)
    if handles:
        figure.legend(
            handles=handles,
            ncols=-(-len(handles) // legend_rows),
            fontsize=font,
            frameon=False,
            borderaxespad=0,
            borderpad=0.1,
            columnspacing=1.5,
            handlelength=1.8,
            loc="upper left",
            bbox_to_anchor=(left, top),
        )
        top -= line * legend_rows
    head = line * heads
    top -= line / 2 + head
    bottom = BOTTOM * scale / height
    # matplotlib wants the gaps in units of a panel's width and height.
    aside, below = 0.03 if titles else 0.1, head + line + (0 if alike else bottom)
    across = (RIGHT - left + aside) / columns - aside
    up = (top - bottom + below) / rows - below
    grid = {"left": left, "right": RIGHT, "bottom": bottom, "top": top}
    grid |= {"wspace": aside / across, "hspace": below / up}
    shared = bool(titles)
    made = list(
        figure.subplots(
            rows, columns, sharex=shared and alike, sharey=shared, squeeze=False, gridspec_kw=grid
        ).flat
    )
    for axes in made:
        axes.tick_params(labelsize=font, width=0.6)
        axes.xaxis.label.set_fontsize(font + 1)
        axes.yaxis.label.set_fontsize(font + 1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_linewidth(0.6)
        axes.grid(axis="y", color="0.9", lw=0.6)
        axes.set_axisbelow(True)
    for axes, text in zip(made, wrapped):
        axes.set_title(text, size=font, loc="left")
    for axes in made[panels:]:
        axes.remove()
    return figure, made[:panels]


def wrap(text: str, letters: int) -> list[str]:
    """Break a text into lines, LINES at most."""
    return textwrap.wrap(text, letters, max_lines=LINES, placeholder=" …")


def place_of(axes: Axes) -> SubplotSpec:
    """Return where axes stand among the panels that ``frame`` has made."""
    place = axes.get_subplotspec()
    assert place is not None
    return place


def label_below(axes: Axes, label: str) -> None:
    """Label the abscissa, without a unit for which there is no room."""
    figure = picture(axes)
    room = 12 * figure.get_figwidth() * axes.get_position().width / figure.style.scale
    axes.set_xlabel(label if len(label) <= room else label.partition(" (")[0])


def label_outer(panels: Sequence[Axes]) -> None:
    """Label only the outer axes of panels that share them."""
    label_below(panels[0], panels[0].get_xlabel())
    label = panels[0].get_xlabel()
    columns = place_of(panels[0]).get_gridspec().ncols
    for index, axes in enumerate(panels):
        axes.label_outer()
        if index + columns >= len(panels):  # the last row may be shorter
            axes.set_xlabel(label)
            axes.tick_params(labelbottom=True)


def keep_inside(panels: Sequence[Axes]) -> None:
    """Make axes narrower where their labels would lie left of the figure."""
    figure = picture(panels[0])
    outer = [axis.get_tightbbox() for axes in panels for axis in (axes.xaxis, axes.yaxis)]
    least = min(box.x0 for box in outer if box is not None) / figure.bbox.width
    if least >= EDGE:
        return
    boxes = [axes.get_position() for axes in panels]
    left, right = min(box.x0 for box in boxes), max(box.x1 for box in boxes)
    share = (right - left - EDGE + least) / (right - left)
    for axes, box in zip(panels, boxes):
        start = right - share * (right - box.x0)
        axes.set_position((start, box.y0, share * box.width, box.height))


def narrow(panels: Sequence[Axes], used: float) -> None:
    """Leave a share of the figure free, right of its panels."""
    boxes = [axes.get_position() for axes in panels]
    left = min(box.x0 for box in boxes)
    share = (RIGHT - left - used) / (RIGHT - left)
    for axes, box in zip(panels, boxes):
        axes.set_position((left + share * (box.x0 - left), box.y0, share * box.width, box.height))


def save_each(figure: Figure, path: Path, formats: Collection[str]) -> list[Path]:
    """Write a PNG and, where they are among the formats, an SVG and a PDF beside it, in which text
    stays text; remove those that are not. Return what there is."""
    files = [save(figure, path)]
    for suffix in BESIDE_PNG:
        other = path.with_suffix(f".{suffix}")
        if suffix not in formats:
            other.unlink(missing_ok=True)
            continue
        content = io.BytesIO()
        with rc_context({"svg.fonttype": "none", "pdf.fonttype": 42}):
            figure.savefig(content, format=suffix)
        write_atomic(other, content.getvalue())
        files.append(other)
    return files


def remove(path: Path) -> None:
    """Remove a figure in all its formats."""
    for suffix in ("png", *BESIDE_PNG):
        path.with_suffix(f".{suffix}").unlink(missing_ok=True)


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG, as a whole or not at all."""
    # Lightly compressed: four times as fast, a tenth larger.
    content = io.BytesIO()
    figure.savefig(content, pil_kwargs={"compress_level": 2})
    write_atomic(path, content.getvalue())
    return path


def plot(axes: Axes, x: Array, y: Array, **look: Any) -> None:
    """Draw a line through the finite values; a lone one as a dot, or it would not be seen."""
    finite = np.isfinite(y)
    if finite.any():
        axes.plot(x[finite], y[finite], marker="." if finite.sum() == 1 else None, **look)


def plot_many(axes: Axes, lines: Sequence[Line], lw: float, alpha: float) -> None:
    """Draw lines as ``plot`` does; more than FEW_LINES as one object, and their lone values as
    another: as 4,000 of matplotlib's lines they would take 45 MB and a second more."""
    if len(lines) <= FEW_LINES:
        for x, y, colour, dash in lines:
            plot(axes, x, y, color=colour, ls=dash, lw=lw, alpha=alpha)
        return
    points = [np.column_stack((x, y))[np.isfinite(y)] for x, y, _, _ in lines]
    looks = [look for _, _, *look in lines]
    long = [(path, *look) for path, look in zip(points, looks) if len(path) > 1]
    lone = [(*path[0], colour) for path, (colour, _) in zip(points, looks) if len(path) == 1]
    if long:
        paths, colours, dashes = zip(*long)
        made = LineCollection(paths, colors=colours, linestyles=dashes, lw=lw, alpha=alpha)
        # As matplotlib has it for lines, but that ends of solid ones are half a width longer.
        made.set(capstyle="butt", joinstyle="round", zorder=2)
        axes.add_collection(made)
        axes.autoscale_view()
    if lone:
        xs, ys, colours = zip(*lone)
        axes.scatter(xs, ys, 36, colours, marker=".", alpha=alpha, linewidths=1, zorder=2)


def plot_marked(
    axes: Axes, lines: Sequence[Line], markers: Sequence[str], lw: float = 1.2, **look: Any
) -> None:
    """Draw lines with a marker at each value, a kind for each line; more than FEW_LINES as few
    objects."""
    if len(lines) <= FEW_LINES:
        for (x, y, colour, dash), marker in zip(lines, markers):
            axes.plot(x, y, marker + dash, color=colour, lw=lw, ms=MARK, **look)
        return
    plot_many(axes, [line for line in lines if line[-1]], lw, alpha=1.0)
    for kind in dict.fromkeys(markers):
        same = [line for line, marker in zip(lines, markers) if marker == kind]
        xs, ys = (np.concatenate([line[part] for line in same]) for part in (0, 1))
        colours = [colour for x, _, colour, _ in same for _ in x]
        axes.scatter(xs, ys, MARK**2, colours, marker=kind, linewidths=1, **({"zorder": 2} | look))


# Scales


def over_epochs(axes: Axes, label: str, epochs: int) -> None:
    axes.set_xlabel("Epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(number))
    axes.set_xlim(0, 1.02 * max(2, epochs))


class Span(NamedTuple):
    """What losses lie between, of those above zero, and the first that any curve has."""

    low: float
    high: float
    begin: float


def span(losses: Iterable[Array]) -> Span | None:
    """Return what curves of losses lie between; None where none is above zero."""
    low, high, begin = math.inf, 0.0, math.inf
    for curve in losses:
        finite = curve[np.isfinite(curve)]
        positive = finite[finite > 0]
        if len(positive):
            low, high = min(low, float(positive.min())), max(high, float(positive.max()))
        if len(finite):
            begin = min(begin, float(finite[0]))
    return Span(low, high, begin) if high else None


def fit_loss(axes: Axes, losses: Span | None, scale: str = "auto") -> None:
    """Fit the ordinate to losses, on a log scale where they span a factor of ten, or as
    ``scale`` says, log or linear.

    What falls below 1e-5 of the loss that any curve begins with, at the least, is as good as none.
    Leave out of them the runs that diverged, or those press all others flat.
    """
    if losses is None:
        return
    least, high, begin = losses
    low = max(least, 1e-5 * begin)
    if scale == "linear" or (scale == "auto" and high <= 10 * low):
        low = least
        margin = 0.05 * (high - low) or 0.05 * high
        axes.set_ylim(low - margin, high + margin)
        return
    axes.set_yscale("log")
    margin = (high / low) ** 0.05
    axes.set_ylim(low / margin, high * margin)
    steps = (1, 2, 5) if high < 500 * low else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=steps, numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(power))
    axes.yaxis.set_minor_locator(NullLocator())


def scale_of(key: str, values: Sequence[Value]) -> str:
    """Choose linear or log for numbers, category for all else."""
    if not all(map(is_number, values)):
        return "category"
    positive = [value for value in values if value > 0]  # type: ignore[operator]
    wide = len(positive) > 1 and positive[-1] >= 30 * positive[0]  # type: ignore[operator]
    if wide or (key == "optimizer.lr" and positive):
        return "log" if len(positive) == len(values) else "category"
    return "linear"


def ticks(axes: Axes, values: Sequence[Any], scale: str, most: int = NAME) -> None:
    """Label the abscissa at the values themselves where they lie far enough apart; words by
    ``most`` letters."""
    axis, figure = axes.xaxis, picture(axes)
    size = figure.style.scale
    inches = figure.get_figwidth() * axes.get_position().width
    if scale == "category":
        shown = range(0, len(values), -(-len(values) // 16))
        labels = [entry(values[index], most) for index in shown]
        axes.set_xlim(-0.5, len(values) - 0.5)
        axes.set_xticks(shown, labels)
        room = inches / size / len(labels)
        pairs = itertools.pairwise(map(len, labels))
        if any((one + other) / 2 + 1 > 13 * room for one, other in pairs):
            steep = room < 0.33
            axis.set_tick_params(rotation=90 if steep else 20)
            for label in axis.get_ticklabels():
                label.set_horizontalalignment("center" if steep else "right")
            left, bottom, width, height = axes.get_position().bounds
            extra = (0.06 if steep else 0.04) * size * max(map(len, labels))
            extra /= figure.get_figheight()
            axes.set_position((left, bottom + extra, width, height - extra))
        return
    axes.set_xscale(scale)
    low, high = axes.get_xlim()
    places = np.log(values) if scale == "log" else np.array(values, dtype=float)
    length = np.log(high / low) if scale == "log" else high - low
    room = size * (0.1 + 0.07 * max(len(number(value)) for value in values))
    if len(values) < 2 or np.diff(places).min() / length * inches >= room:
        axis.set_major_locator(FixedLocator(values))
        axis.set_minor_locator(NullLocator())
    elif scale == "linear":
        whole = all(float(value).is_integer() for value in values)
        axis.set_major_locator(MaxNLocator(5, integer=whole))
    axis.set_major_formatter(FuncFormatter(number))
    axis.set_minor_formatter(NullFormatter())


# Values as text


def entry(value: Value, most: int = NAME) -> str:
    """Write a value for a reader, as short as a legend needs, a name by ``most`` letters.

    >>> [entry(value) for value in (60000, 1e-5, 0.0123456, "sgd", (128, 64), (), None)]
    ['60,000', '1e-5', '0.01235', 'SGD', '128-64', 'none', '-']
    """
    if isinstance(value, tuple):
        return shortened("-".join(map(entry, value)), most) or "none"
    if value is None:
        return "-"
    if isinstance(value, float):
        return number(float(f"{value:.4g}"))
    if is_number(value):
        return number(value)
    return plain(NAMES.get(spell(value), spell(value)), most)


def plain(text: str, most: int = NAME) -> str:
    r"""Write a name that others chose as a text for matplotlib, which shows it as it is.

    Shortened; characters that its font lacks as Python would write them.

    >>> plain("$x$ in $"), plain("_x"), plain("beagle")
    ('\\$x\\$ in \\$', ' _x', 'beagle')
    """
    fonts = [get_font(findfont(FontProperties(family=[name]))) for name in rcParams["font.family"]]
    shown = "".join(
        c
        if c.isascii() or any(font.get_char_index(ord(c)) for font in fonts)
        else c.encode("unicode_escape").decode()
        for c in visible(text)
    )
    shown = shortened(shown, most).replace("$", r"\$")  # two of them would begin a formula
    return f" {shown}" if shown.startswith("_") else shown  # or a legend would leave it out


def power(value: Any, _: object = None) -> str:
    """Write a number of any size in few characters; signature of a tick formatter.

    >>> [power(value) for value in (1e-5, 0.5, 1000, 2e7)]
    ['1e-5', '0.5', '1,000', '2e7']
    """
    return number(value) if value < 1e4 else f"{value:.0e}".replace("e+0", "e").replace("e+", "e")


def number(value: Any, _: object = None) -> str:
    """Write a number with thousands separators; signature of a tick formatter.

    >>> [number(value) for value in (60000, 0.015, 1e-4, 2.5e-5)]
    ['60,000', '0.015', '1e-4', '2.5e-5']
    """
    if 0 < abs(value) < 1e-3:
        return spell(float(f"{value:.10g}"))
    return f"{value:,.10g}".replace("e+0", "e").replace("e+", "e")
