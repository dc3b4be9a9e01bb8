from __future__ import annotations

import numpy as np
import pytest
from matplotlib.lines import Line2D

from nnlab.report import plotting
from tests.names import HOSTILE


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_drawn_as_it_is_written(name: str) -> None:
    """Against the same letters that matplotlib is forbidden to parse, after what is invisible."""
    figure, (axes,) = plotting.frame("", [])
    shown = plotting.plain(f"{name} {name}", 64)
    (line,) = axes.plot([0], [0], label=shown)
    legend = axes.legend()
    figure.canvas.draw()
    assert legend.legend_handles, name
    (text,) = legend.get_texts()
    plain = axes.text(0, 0, shown.replace(r"\$", "$"), parse_math=False, size=text.get_fontsize())
    widths = [each.get_window_extent().width for each in (text, plain)]
    assert widths[0] == pytest.approx(widths[1], abs=1)
    assert line.get_label() == shown
    assert len(shown.replace(r"\$", "$")) <= 65
    assert "\n" not in shown


def test_what_a_font_lacks_is_spelled_out() -> None:
    assert plotting.plain("犬 é ± Ω") == "\\u72ac é ± Ω"


def test_a_curve_that_began_wildly_leaves_the_others_in_the_figure() -> None:
    """Of each what does not fall below 1e-5 of where the lowest began."""
    losses = [np.array([2.3, 1.0, 1e-9]), np.array([1e33, 1e8, 3.0])]
    _, (axes,) = plotting.frame("", [])
    plotting.fit_loss(axes, plotting.span(losses))
    low, high = axes.get_ylim()
    margin = (1e33 / 2.3e-5) ** 0.05
    assert (low, high) == pytest.approx((2.3e-5 / margin, 1e33 * margin))


@pytest.mark.parametrize("style", plotting.STYLES)
@pytest.mark.parametrize("panels", [1, 2, 9])
def test_what_is_said_at_length_leaves_room_for_what_is_drawn(style: str, panels: int) -> None:
    words, titles = "of many words " * 500, ["a setting " * 100] * panels * (panels > 2)
    handles = [Line2D([], [], label="a long name " * 9) for _ in range(9)]
    made = plotting.STYLES[style]
    usual, some = plotting.frame("", [], panels, style=made, titles=["a"] * len(titles))
    figure, axes = plotting.frame(words, [words], panels, handles, titles, style=made)
    for each, other in zip(axes, some, strict=True):
        height = each.get_position().height * figure.get_figheight()
        assert height > 0.4 * other.get_position().height * usual.get_figheight()
