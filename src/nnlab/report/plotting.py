"""What any figure needs: axes, scales, colours, legends, values as text.

Never pyplot: its global state is unsafe in threads, and slow to import.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)

from nnlab.datasets import DATASETS
from nnlab.report.runs import Value, is_number, rank, spell
from nnlab.report.statistics import Array
from nnlab.stopping import RULES
from nnlab.storage import write_atomic
from nnlab.text import shortened, visible

DPI, FONT = 200, 8
BESIDE_PNG = ("svg", "pdf")  # formats that a figure can have, too
LEFT, BOTTOM, RIGHT = 0.125, 0.135, 0.97
ENTRIES = 8  # that a legend can have; beyond, a colour bar
# Okabe & Ito, Color Universal Design (2008), without the yellow that is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES, MARKERS = ("-", "--", ":", "-."), ("o", "s", "^", "D")
LABELS = {
    "train_size": "Training-set size (examples)",
    "valid_size": "Validation-set size (examples)",
    "batch_size": "Batch size (examples)",
    "dataset": "Dataset",
    "dataset.function": "Boolean function",
    "dataset.inputs": "Inputs",
    "dataset.num_classes": "Classes",
    "model": "Model",
    "optimizer": "Optimizer",
    "optimizer.lr": "Learning rate",
    "optimizer.momentum": "Momentum",
    "optimizer.weight_decay": "Weight decay",
    "model.hidden": "Hidden layers (units)",
    "model.activation": "Activation",
    "stopping": "Stopping rule",
    "stopping.max_epochs": "Epochs at most",
    "stopping.min_delta": "Least decrease",
    "stopping.patience": "Patience (epochs)",
    "engine": "Engine",
    "random_numbers": "Random numbers",
    "device": "Device",
    "data": "Data",
}
NAMES = {name: dataset.title for name, dataset in DATASETS.items()}
NAMES["images"] = "Images"  # unless the user calls them otherwise
NAMES |= {name: rule.title for name, rule in RULES.items() if rule.title}
NAMES |= {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}
NAMES |= {"mlp": "MLP", "deep_linear": "deep linear", "perceptron": "perceptrons"}

Style = tuple[Any, str, str]  # colour, dash, marker


# Figures and their axes


class Picture(Figure):
    """A figure that a notebook shows, though pyplot has no part in it."""

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="png", dpi=DPI / 2)
        return content.getvalue()


def frame(
    title: str,
    notes: Sequence[str],
    panels: int = 1,
    handles: Sequence[Line2D] = (),
    titles: Sequence[str] = (),
) -> tuple[Figure, list[Axes]]:
    """Make a figure with its title, and below that notes in grey and a legend of handles,
    above empty axes.

    titles: of each panel; panels with titles share their axes, three in a row.
    """
    rows = -(-panels // 3) if titles else 1
    columns = -(-panels // rows)
    width, height = (5.0, 3.4) if panels == 1 else (6.8, 1.2 + 1.8 * rows)
    figure = Picture((width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    lines = textwrap.wrap(title, int(14.5 * width))
    line = 0.16 / height
    top = 1 - 0.35 * line
    left = LEFT * 5 / width
    figure.text(left, top, "\n".join(lines), size=FONT, va="top", linespacing=1.25)
    top -= line * len(lines)
    remarks = textwrap.wrap("; ".join(notes), int(15.5 * width))
    figure.text(left, top, "\n".join(remarks), size=FONT - 1, va="top", color="0.35")
    top -= line * len(remarks)
    if handles:
        figure.legend(
            handles=handles,
            ncols=len(handles),
            fontsize=FONT,
            frameon=False,
            borderaxespad=0,
            borderpad=0.1,
            columnspacing=1.5,
            handlelength=1.8,
            loc="upper left",
            bbox_to_anchor=(left, top),
        )
        top -= line
    wrapped = ["\n".join(textwrap.wrap(text, 90 // columns)) for text in titles]
    head = line * max((text.count("\n") + 1.2 for text in wrapped), default=0)
    top -= line / 2 + head
    bottom = BOTTOM * 3.4 / height
    # matplotlib wants the gaps in units of a panel's width and height.
    aside, below = 0.03 if titles else 0.1, head + line
    across = (RIGHT - left + aside) / columns - aside
    up = (top - bottom + below) / rows - below
    grid = {"left": left, "right": RIGHT, "bottom": bottom, "top": top}
    grid |= {"wspace": aside / across, "hspace": below / up}
    shared = bool(titles)
    made = list(
        figure.subplots(
            rows, columns, sharex=shared, sharey=shared, squeeze=False, gridspec_kw=grid
        ).flat
    )
    for axes in made:
        axes.tick_params(labelsize=FONT, width=0.6)
        axes.xaxis.label.set_fontsize(FONT + 1)
        axes.yaxis.label.set_fontsize(FONT + 1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_linewidth(0.6)
        axes.grid(axis="y", color="0.9", lw=0.6)
        axes.set_axisbelow(True)
    for axes, text in zip(made, wrapped):
        axes.set_title(text, size=FONT, loc="left")
    for axes in made[panels:]:
        axes.remove()
    return figure, made[:panels]


def label_outer(panels: Sequence[Axes]) -> None:
    """Label only the outer axes of panels that share them."""
    columns = panels[0].get_subplotspec().get_gridspec().ncols  # type: ignore[union-attr]
    for index, axes in enumerate(panels):
        axes.label_outer()
        if index + columns >= len(panels):  # the last row may be shorter
            axes.set_xlabel("Epoch")
            axes.tick_params(labelbottom=True)


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


# Scales


def over_epochs(axes: Axes, label: str, values: Sequence[Array]) -> None:
    axes.set_xlabel("Epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(number))
    axes.set_xlim(0, 1.02 * max(2, *map(len, values)))


def fit_loss(axes: Axes, losses: Sequence[Array], scale: str = "auto") -> None:
    """Fit the ordinate to these losses, on a log scale where they span a factor of ten, or as
    ``scale`` says, log or linear.

    What falls below 1e-5 of the loss that a curve typically begins with is as good as none.
    Leave out of them the runs that diverged, or those press all others flat.
    """
    known = np.concatenate(losses)
    known = known[np.isfinite(known) & (known > 0)]
    if not len(known):
        return
    begin = np.median(
        [curve[np.isfinite(curve)][:1] for curve in losses if np.isfinite(curve).any()]
    )
    low, high = max(float(known.min()), 1e-5 * float(begin)), float(known.max())
    if scale == "linear" or (scale == "auto" and high <= 10 * low):
        low = float(known.min())
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


def ticks(axes: Axes, values: Sequence[Any], scale: str) -> None:
    """Label the abscissa at the values themselves where they lie far enough apart."""
    axis = axes.xaxis
    if scale == "category":
        shown = range(0, len(values), -(-len(values) // 16))
        labels = [entry(values[index]) for index in shown]
        axes.set_xlim(-0.5, len(values) - 0.5)
        axes.set_xticks(shown, labels)
        if sum(map(len, labels)) > 50:
            steep = len(labels) > 12
            axis.set_tick_params(rotation=90 if steep else 20)
            for label in axis.get_ticklabels():
                label.set_horizontalalignment("center" if steep else "right")
            left, bottom, width, height = axes.get_position().bounds
            extra = (0.018 if steep else 0.012) * max(map(len, labels))
            axes.set_position((left, bottom + extra, width, height - extra))
        return
    axes.set_xscale(scale)
    low, high = axes.get_xlim()
    places = np.log(values) if scale == "log" else np.array(values, dtype=float)
    length = np.log(high / low) if scale == "log" else high - low
    inches = 5 * axes.get_position().width
    room = 0.1 + 0.07 * max(len(number(value)) for value in values)
    if len(values) < 2 or np.diff(places).min() / length * inches >= room:
        axis.set_major_locator(FixedLocator(values))
        axis.set_minor_locator(NullLocator())
    elif scale == "linear":
        whole = all(float(value).is_integer() for value in values)
        axis.set_major_locator(MaxNLocator(5, integer=whole))
    axis.set_major_formatter(FuncFormatter(number))
    axis.set_minor_formatter(NullFormatter())


# Colours and legends


def styles(settings: Sequence[tuple[Value, ...]]) -> list[Style]:
    """Give each setting its colour by its first value, dash and marker by the others."""
    firsts, others = legend_values(settings)
    colours = dict(zip(firsts, palette(firsts)))
    kinds = {other: index for index, other in enumerate(others)}
    found = [(colours[setting[:1]], kinds.get(setting[1:], 0)) for setting in settings]
    return [(colour, DASHES[kind], MARKERS[kind]) for colour, kind in found]


def legend_values(settings: Sequence[tuple[Value, ...]]) -> tuple[list[Any], list[Any]]:
    """List what colours tell apart, and what dashes and markers do: nothing where there
    are more than can be told apart."""

    def distinct(parts: set[tuple[Value, ...]]) -> list[tuple[Value, ...]]:
        return sorted(parts, key=lambda part: tuple(map(rank, part)))

    others = distinct({setting[1:] for setting in settings})
    few = len(others) <= len(DASHES) and len(settings) <= 5 * ENTRIES
    return distinct({setting[:1] for setting in settings}), others if few else []


def palette(firsts: Sequence[tuple[Value, ...]]) -> list[Any]:
    """Choose colours: in sequence for numbers and for many, told apart at sight for words."""
    if len(firsts) == 1 or (
        len(firsts) <= len(COLOURS) and not all(is_number(value) for (value,) in firsts)
    ):
        return list(COLOURS[: len(firsts)])
    # The bright end of viridis is too faint on white.
    return list(matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(firsts))))


def explain(
    figure: Figure,
    panels: Sequence[Axes],
    settings: Sequence[tuple[Value, ...]],
    keys: Sequence[str],
    markers: bool = False,
) -> None:
    """Say right of the axes what colours and dashes mean, and make the axes narrower by it."""
    firsts, others = legend_values(settings)
    boxes = [axes.get_position() for axes in panels]
    left, bottom = min(box.x0 for box in boxes), min(box.y0 for box in boxes)
    height = max(box.y1 for box in boxes) - bottom
    titles = [LABELS.get(key, key) for key in keys]
    sample: dict[str, Any] = {"xdata": [], "ydata": [], "ms": 4, "lw": 1.2}
    parts: list[tuple[str, list[Line2D]]] = []
    if 1 < len(firsts) <= ENTRIES:
        colours = zip(firsts, palette(firsts))
        marker = "o" if markers else ""
        lines = [Line2D(color=c, marker=marker, label=entry(v), **sample) for (v,), c in colours]
        parts.append((titles[0], lines))
    if len(others) > 1:
        looks = zip(others, DASHES, MARKERS if markers else [""] * len(DASHES))
        lines = [
            Line2D(color="0.2", ls=dash, marker=marker, label=", ".join(map(entry, v)), **sample)
            for v, dash, marker in looks
        ]
        parts.append((", ".join(titles[1:]), lines))

    legends, top, used = [], bottom + height, 0.0
    for title, lines in parts:
        made = figure.legend(
            handles=lines,
            title="\n".join(textwrap.wrap(title, 18)),
            title_fontsize=FONT,
            fontsize=FONT,
            frameon=False,
            alignment="left",
            loc="upper left",
            borderaxespad=0,
        )
        extent = made.get_window_extent().transformed(figure.transFigure.inverted())
        legends.append((made, top))
        top -= extent.height + 0.02
        used = max(used, extent.width)
    if len(firsts) > ENTRIES:
        used = max(used, 0.18)
        place = figure.add_axes((0.99 - used, bottom, 0.02, top - bottom - 0.09))
        colour_bar(place, titles[0], [value for (value,) in firsts])
    for made, top in legends:
        made.set_bbox_to_anchor((0.99 - used, top))
    share = (RIGHT - left - used) / (RIGHT - left)
    for axes, box in zip(panels, boxes):
        axes.set_position((left + share * (box.x0 - left), box.y0, share * box.width, box.height))


def colour_bar(axes: Axes, title: str, values: Sequence[Value]) -> None:
    """Fill axes with the colours of many values, from the first at the bottom to the last."""
    colours = palette([(value,) for value in values])
    scale = ScalarMappable(Normalize(-0.5, len(values) - 0.5), ListedColormap(colours))
    shown = np.unique(np.linspace(0, len(values) - 1, 6).round().astype(int))
    bar = axes.figure.colorbar(scale, cax=axes, ticks=shown)
    bar.set_ticklabels([entry(values[index]) for index in shown])
    axes.set_title("\n".join(textwrap.wrap(title, 18)), size=FONT, loc="left")
    bar.outline.set_visible(False)
    bar.minorticks_off()
    axes.tick_params(labelsize=FONT - 1, length=2, width=0.6)


# Values as text


def entry(value: Value) -> str:
    """Write a value for a reader, as short as a legend needs.

    >>> [entry(value) for value in (60000, 1e-5, 0.0123456, "sgd", (128, 64), (), None)]
    ['60,000', '1e-5', '0.01235', 'SGD', '128-64', 'none', '-']
    """
    if isinstance(value, tuple):
        return "-".join(map(entry, value)) or "none"
    if value is None:
        return "-"
    if isinstance(value, float):
        return number(float(f"{value:.4g}"))
    if is_number(value):
        return number(value)
    return plain(NAMES.get(spell(value), spell(value)))


def plain(text: str, most: int = 32) -> str:
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
