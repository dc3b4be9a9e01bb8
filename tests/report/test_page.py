"""The page, read with the parser of Python's own library."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
import json
import re
import shlex
import shutil
import subprocess
import tarfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import markupsafe
import numpy as np
import pytest

from nnlab import report, storage
from nnlab.compact import Compact
from nnlab.report import page as pages
from nnlab.report.run_folders import read_run
from nnlab.text import as_label, visible
from tests.names import HOSTILE
from tests.report.studies import FAILED, curves, lay

CELLS = ("td", "th", "p", "code")
PICTURE = Path(__file__).parents[2] / "docs" / "boolean.png"


class Page(HTMLParser):
    """The links, images, table rows and paragraphs of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.images: list[str] = []
        self.rows: list[list[str]] = []
        self.paragraphs: list[str] = []
        self.codes: list[str] = []
        self.sections: list[str] = []
        self.data = ""  # the JSON
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
        elif tag == "section":
            self.sections.append(values.get("class") or "")
        elif tag in CELLS:
            places = {"p": self.paragraphs, "code": self.codes}
            self.into = places[tag] if tag in places else self.rows[-1]
            self.into.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in CELLS:
            self.into = None

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and data.startswith("{"):
            self.data += data
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

    results = ["test accuracy (%)", "train accuracy (%)", "test loss", "train loss"]
    more = ["epochs", "time (s)", "status", "why it ended", "engine", "device", "run", "files"]
    assert page.rows[0] == ["train_size", *results, *more]
    numbers = ["500", "87.50", "83.33", "0.5000", "0.6667", "3", "0.500"]
    words = ["finished", "reached max_epochs=3", "native", "AMD EPYC", "train_size=500"]
    assert page.rows[1] == [*numbers, *words, "metrics.csv weights.png "]
    reason = "ValueError: <b>no</b> room & none"
    words = ["failed", reason, "-", "-", "train_size=2000"]
    assert page.rows[3][:-1] == ["2000", "-", "-", "-", "-", "0", "0", *words]
    start = page.paragraphs.index(made.notes[0])
    assert page.paragraphs[start : start + len(made.notes)] == made.notes
    assert f"train_size=2000 failed: {reason}" in page.paragraphs
    question = "train_size=500/weights.png"
    assert page.images == ["train_time.png", "accuracy.png", "loss.png", question]
    assert "train_size=500/weights.png" in page.links
    assert len(page.links) == 2 + 3 * 2 + 1  # no run.log was laid
    assert all((study / link).is_file() for link in page.links + page.images)


def test_settings_are_means_over_seeds_and_the_best_is_told(tmp_path: Path) -> None:
    accuracies = {(0.1, 0): 0.9, (0.1, 1): 0.8, (0.2, 0): 0.95, (0.2, 1): 0.85}
    for (lr, seed), accuracy in accuracies.items():
        lay(tmp_path, {"optimizer.lr": lr, "seed": seed}, test_accuracy=accuracy)
    lay(tmp_path, {"optimizer.lr": 0.3, "seed": 0}, **FAILED)
    report.write_report(tmp_path)
    page = Page(tmp_path / "index.html")
    head = page.rows[0].index("test accuracy (%)")
    means = [row[head].partition(" ")[0] for row in page.rows[1:4]]
    assert means == ["85.00", "90.00", "-"]
    best = next(said for said in page.paragraphs if said.startswith("optimizer.lr="))
    assert best.startswith("optimizer.lr=0.2: test accuracy 90.00")
    assert "python -m nnlab.run optimizer.lr=0.2 seed=0,1" in page.codes


def test_the_best_is_chosen_by_validation_where_there_was_any(tmp_path: Path) -> None:
    """Not by the test set, which says otherwise here; of equal ones the least loss decides."""
    for lr, loss, test in ((0.1, 0.5, 0.99), (0.2, 0.4, 0.5), (0.3, 0.6, 0.7)):
        lay(tmp_path, {"optimizer.lr": lr}, rows=curves([loss] * 3), test_accuracy=test)
    report.write_report(tmp_path)
    page = Page(tmp_path / "index.html")
    best = next(said for said in page.paragraphs if said.startswith("optimizer.lr="))
    # 62.5: three quarters of the training accuracy of epoch 3, 1 - 0.5 / 3.
    assert best == "optimizer.lr=0.2: valid accuracy 62.50 %, test accuracy 50.00 %."


def test_there_is_no_best_of_settings_that_learn_other_things(tmp_path: Path) -> None:
    """The easiest function is no finding; of one function there is, and no new examples."""
    functions = ("0110", "0001")
    for function, lr in itertools.product(functions, (0.1, 0.2)):
        accuracy = 1.0 if function == "0001" else lr
        options = {"dataset": "boolean", "optimizer.lr": lr, "test_size": None}
        for study in ("all", function):
            folder = lay(tmp_path / study, options, name=f"{function},{lr}", test_accuracy=accuracy)
            result = json.loads((folder / "result.json").read_text())
            result["config"]["dataset"] = {"name": "boolean", "function": function, "inputs": 2}
            result["fingerprint"] = f"{function}{lr}"
            (folder / "result.json").write_text(json.dumps(result))
    said = {}
    for study in ("all", *functions):
        report.write_report(tmp_path / study)
        page = Page(tmp_path / study / "index.html")
        said[study] = [line for line in page.paragraphs if "highest mean" in line]
        assert ("best" in page.sections) == (study != "all")
    line = "Of 2 settings it has the highest mean test accuracy (of equal ones the least loss)."
    assert said == {"all": [], "0110": [line], "0001": [line]}


def test_damaged_runs_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for lr in (0.1, 0.2, 0.3):
        lay(tmp_path, {"optimizer.lr": lr})
    (tmp_path / "optimizer.lr=0.2" / "result.json").write_text("{")
    report.write_report(tmp_path)
    assert "left out" in caplog.text
    page = Page(tmp_path / "index.html")
    assert (
        "Left out, as their files are damaged or not to be read: optimizer.lr=0.2"
        in page.paragraphs
    )


def test_the_best_of_a_regression_is_told_where_a_run_failed(tmp_path: Path) -> None:
    """One that failed before anything was known of its data, first in the order of runs."""
    lay(tmp_path, {"optimizer.lr": 0.01}, **{**FAILED, "dataset": None})
    data = {"task": "regression", "targets": ["price"], "sizes": {"train": 500, "test": 50}}
    header = "epoch,train_loss,train_r2,train_mae,train_rmse,valid_loss,valid_r2,valid_mae,"
    rows = "1,0.5,0.5,9000.0,12345.6,,,,,0.1\n"
    for lr, r2 in ((0.1, 0.5), (0.2, 0.75)):
        scores: dict[str, Any] = {
            "test_r2": r2,
            "test_mae": 9999.4,
            "test_rmse": 12345.6,
            "test_accuracy": None,
        }
        run = lay(tmp_path, {"optimizer.lr": lr}, epochs=1, dataset=data, **scores)
        (run / "metrics.csv").write_text(f"{header}valid_rmse,seconds\n{rows}")
    report.write_report(tmp_path)
    page = Page(tmp_path / "index.html")
    assert any(line.startswith("optimizer.lr=0.2: test R² 0.7500") for line in page.paragraphs)
    for head, expected in (("test MAE", "9999"), ("test RMSE", "12346")):
        column = page.rows[0].index(head)
        assert [row[column] for row in page.rows[1:4]] == ["-", expected, expected]


def test_notes_are_markdown_without_html_or_pictures_from_elsewhere(tmp_path: Path) -> None:
    lay(tmp_path, name="default")
    text = "# Why\n**bold** <script>alert(1)</script>\n\n![x](https://example.org/x.png)\n\n"
    text += "[bad](javascript:alert(1)) [good](https://example.org)"
    (tmp_path / "notes.md").write_text(text)
    report.write_report(tmp_path)
    content = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<h3>Why</h3>" in content
    assert "<strong>bold</strong> &lt;script&gt;alert(1)" in content
    page = Page(tmp_path / "index.html")
    assert page.images == ["default/curves.png"]
    assert not any(link.startswith("javascript") for link in page.links)
    assert "https://example.org" in page.links
    (tmp_path / "notes.md").unlink()
    (tmp_path / "notes.md").symlink_to(tmp_path / "default" / "result.json")
    report.write_report(tmp_path)
    assert "notes" not in Page(tmp_path / "index.html").sections
    (tmp_path / "notes.md").unlink()
    with (tmp_path / "notes.md").open("wb") as file:
        file.truncate(storage.LARGEST + 1)
    report.write_report(tmp_path)
    assert "notes" not in Page(tmp_path / "index.html").sections


def test_a_single_file_has_its_pictures_and_no_links(tmp_path: Path) -> None:
    for lr in (0.1, 0.2):
        folder = lay(tmp_path, {"optimizer.lr": lr})
        shutil.copy(PICTURE, folder / "hardest.png")
    made = report.write_report(tmp_path, single_file=True)
    assert made.files[-1] == tmp_path / "single.html"
    page = Page(tmp_path / "single.html")
    assert page.links == []
    assert len(page.images) == 4  # accuracy, loss, a question to each of two
    contents = [
        base64.b64decode(image.removeprefix("data:image/png;base64,")) for image in page.images
    ]
    files = ["accuracy.png", "loss.png", *(f"optimizer.lr={lr}/hardest.png" for lr in (0.1, 0.2))]
    assert contents == [(tmp_path / file).read_bytes() for file in files]


def test_a_thousand_runs_take_less_than_a_megabyte(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(8):
        losses = random.uniform(0.1, 2.0, size=(2, 100))
        options = {"optimizer.lr": 0.001 * number, "optimizer.momentum": 0.5, "seed": number}
        rows = curves(losses[0], losses[1])
        (lay(tmp_path, options, epochs=100, rows=rows) / "hardest.png").touch()
    runs = map(read_run, sorted(path.parent for path in tmp_path.glob("*/result.json")))
    many = [
        dataclasses.replace(
            run,
            name=f"{run.name},{number}",
            settings=Compact.of({**run.settings, "seed": number}),
        )
        for run in runs
        for number in range(125)
    ]
    assert len(many) == 1000
    content = b"".join(pages.render(many, [], [], tmp_path))
    assert len(content) < 1_000_000
    assert b"Of runs with more than" in content


def test_the_library_is_the_published_one() -> None:
    """By its hash in the README beside it, and that of npm's own package where npm can be asked."""
    folder = pages.LIBRARY.parent
    content = pages.LIBRARY.read_bytes()
    known = "87364cc2b2a76a6684929e7d6b80b18a897794db38400caff1fcf1791c6925d2"
    assert hashlib.sha256(content).hexdigest() == known
    assert known in (folder / "README.md").read_text()
    assert b"Chart.js v4.6.1" in content[:200]
    assert "MIT License" in (folder / "chart.js.LICENSE.md").read_text()


@pytest.mark.skipif(shutil.which("npm") is None, reason="there is no npm to ask")
def test_npm_has_the_same_library(tmp_path: Path) -> None:
    command = ["npm", "pack", "--silent", "chart.js@4.6.1", "--pack-destination", str(tmp_path)]
    if subprocess.run(command, capture_output=True, timeout=60, check=False).returncode:
        pytest.skip("npm does not reach its registry")
    with tarfile.open(next(tmp_path.glob("*.tgz"))) as package:
        for name, file in (
            ("dist/chart.umd.min.js", pages.LIBRARY),
            ("LICENSE.md", pages.LIBRARY.with_name("chart.js.LICENSE.md")),
        ):
            published = package.extractfile(f"package/{name}")
            assert published is not None
            assert published.read() == file.read_bytes()


def test_the_page_of_one_run_shows_its_curves(tmp_path: Path) -> None:
    lay(tmp_path, name="default")
    report.write_report(tmp_path)
    page = Page(tmp_path / "index.html")
    assert page.images == ["default/curves.png"]
    assert page.rows[1][-2] == "default"


def test_headings_in_lines_are_whole_names_on_the_page(tmp_path: Path) -> None:
    study = tmp_path / "wide"
    for size, hidden, seed in itertools.product((500, 1000), ([7] * 12, [8] * 12), (0, 1)):
        options = {"train_size": size, "model.hidden": hidden, "seed": seed}
        lay(study, options, train_seconds=1.0 + seed, test_accuracy=0.8 + 0.1 * seed)
    lay(study, {"train_size": 500, "model.hidden": [900, 100], "seed": 0}, epochs=2)
    table = report.write_report(study).table
    page = Page(study / "index.html")
    assert [str(column.header) for column in table.columns][:2] == [
        "train_\nsize",
        "model.\nhidden",
    ]
    assert page.rows[0][:3] == ["train_size", "model.hidden", "n"]


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
    reasons = {row[page.rows[0].index("why it ended")] for row in page.rows[1:]}
    assert f"ValueError: {HOSTILE[0]}" in reasons
    assert f"ValueError: {'x' * 300}" in reasons  # whole
    assert all((study / link).is_file() for link in page.links)
    assert "<" not in page.data
    words = [shlex.quote(visible(f"dataset.variant={name}")) for name in HOSTILE]
    data = json.loads(page.data)
    said = itertools.chain(*data["commands"])
    told = {data["words"][word] if isinstance(word, int) else word for word in said}
    assert set(words) <= told


def test_a_figure_over_an_option_says_so(tmp_path: Path) -> None:
    for lr, batch in itertools.product((0.1, 0.2), (5, 10)):
        lay(tmp_path, {"optimizer.lr": lr, "batch_size": batch})
    report.write_report(tmp_path)
    shown = (tmp_path / "index.html").read_text()
    assert "<figcaption>Test accuracy over batch size</figcaption>" in shown
    assert "accuracy_over_batch_size.png" in shown


def test_a_picture_of_others_is_called_by_its_file(tmp_path: Path) -> None:
    shutil.copy(PICTURE, lay(tmp_path) / "cats_over_dogs.png")
    report.write_report(tmp_path)
    assert "<summary>cats_over_dogs " in (tmp_path / "index.html").read_text()
