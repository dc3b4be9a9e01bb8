"""The page, read with the parser of Python's own library."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import markupsafe

from nnlab import report
from nnlab.text import as_label, visible
from tests.names import HOSTILE
from tests.report.studies import FAILED, lay


class Page(HTMLParser):
    """The links, images, table rows and paragraphs of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.images: list[str] = []
        self.rows: list[list[str]] = []
        self.paragraphs: list[str] = []
        self.into: list[str] | None = None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "a":
            self.links.append(unquote(values["href"] or ""))
        elif tag == "img":
            self.images.append(unquote(values["src"] or ""))
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th", "p"):
            self.into = self.paragraphs if tag == "p" else self.rows[-1]
            self.into.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "p"):
            self.into = None

    def handle_data(self, data: str) -> None:
        if self.into is not None:
            self.into[-1] += re.sub(r"\s+", " ", data)


def test_the_page_holds_table_notes_figures_and_runs(tmp_path: Path) -> None:
    study = tmp_path / "a study"
    for size in (500, 1000):
        lay(study, {"train_size": size}, train_seconds=size / 1000, test_accuracy=0.875)
    (study / "train_size=500" / "weights.png").touch()
    lay(study, {"train_size": 2000}, **{**FAILED, "error": "ValueError: <b>no</b> room & none"})
    made = report.write_report(study)
    assert made.files[-1] == study / "index.html"
    page = Page(study / "index.html")

    assert page.rows[0] == [
        "train_size",
        "epochs",
        "stopped by",
        "time",
        "test accuracy",
        "test loss",
    ]
    assert page.rows[1] == ["500", "3", "max_epochs", "0.50 s", "87.5 %", "0.500"]
    assert page.rows[3] == ["2000", "0", "failed", "-", "-", "-"]
    caption = str(made.table.caption)
    assert caption == (
        "Accuracy of one seed: ± 2.1 points by the number of test examples alone (95 %, Wilson)"
    )
    notes = [note for note in page.paragraphs if not note.startswith("All numbers")]
    assert notes == [caption, *made.notes]
    assert "train_size=2000 failed: ValueError: <b>no</b> room & none" in page.paragraphs
    assert page.images == ["train_time.png", "accuracy.png", "loss.png"]
    assert [row[:3] for row in page.rows[5:]] == [
        ["train_size=500", "finished", "reached max_epochs=3"],
        ["train_size=1000", "finished", "reached max_epochs=3"],
        ["train_size=2000", "failed", "ValueError: <b>no</b> room & none"],
    ]
    assert "train_size=500/weights.png" in page.links
    assert len(page.links) == 2 + 3 * 2 + 1  # no run.log was laid
    assert all((study / link).is_file() for link in page.links + page.images)


def test_the_page_of_one_run_shows_its_curves(tmp_path: Path) -> None:
    lay(tmp_path, name="default")
    report.write_report(tmp_path)
    page = Page(tmp_path / "index.html")
    assert page.images == ["default/curves.png"]
    assert page.rows[1][0] == "default"


def test_headings_in_lines_are_whole_names_on_the_page(tmp_path: Path) -> None:
    study = tmp_path / "wide"
    for size, hidden, seed in itertools.product((500, 1000), ([7], [8]), (0, 1)):
        options = {"train_size": size, "model.hidden": hidden, "seed": seed}
        lay(study, options, train_seconds=1.0 + seed, test_accuracy=0.8 + 0.1 * seed)
    lay(study, {"train_size": 500, "model.hidden": [900, 100], "seed": 0}, epochs=2)
    table = report.write_report(study).table
    assert [str(column.header) for column in table.columns][:2] == [
        "train_\nsize",
        "model.\nhidden",
    ]
    assert Page(study / "index.html").rows[0][:2] == ["train_size", "model.hidden"]


def test_names_are_text_on_the_page(tmp_path: Path) -> None:
    study = tmp_path / "&<b>\x1b[1m\"' {{ 1 }}"
    for number, name in enumerate(HOSTILE):
        error = {**FAILED, "error": f"ValueError: {name}"}
        lay(study, {"dataset.variant": name, "seed": number}, name=f"{number} <&\x1b>", **error)
    report.write_report(study)
    content = (study / "index.html").read_text(encoding="utf-8")
    assert all(line.isprintable() for line in content.splitlines())
    page = Page(study / "index.html")
    shown = [re.sub(r"\s+", " ", as_label(name)) for name in HOSTILE]
    assert sorted(row[0] for row in page.rows[1 : 1 + len(shown)]) == sorted(shown)
    assert content.count(str(markupsafe.escape(visible(study.name)))) == 2
    reasons = {row[2] for row in page.rows[2 + len(HOSTILE) :]}
    assert f"ValueError: {HOSTILE[0]}" in reasons
    assert f"ValueError: {'x' * 300}" in reasons  # whole
    assert all((study / link).is_file() for link in page.links)
