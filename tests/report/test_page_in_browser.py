"""The page in a real browser: what its script does, and what accessibility checkers say of it.

Needs the extra ``page`` and a Chromium: Playwright's own (``playwright install chromium``) or the
system's.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from nnlab import report
from nnlab.report import page as pages
from tests.report.studies import FAILED, lay
from tests.report.test_page import PICTURE
from tests.test_serve import serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Request

EPOCHS = 12
# Those that the pages break were told of: WCAG 2.2 and best practices, target sizes among them.
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    api = pytest.importorskip("playwright.sync_api", reason="needs the extra page")
    with api.sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
        found = str(own) if own.exists() else shutil.which("chromium")
        if found is None:
            pytest.skip("there is no Chromium; playwright install chromium, or the system's")
        started = playwright.chromium.launch(executable_path=found)
        yield started
        started.close()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rates with two seeds, a third that failed; their curves are those of ``loss``."""
    folder = tmp_path_factory.mktemp("page") / "a study"
    for lr in (0.01, 0.1):
        for seed in (0, 1):
            rows = "".join(
                f"{epoch},{loss(epoch, lr, seed)},0.5,{2 * loss(epoch, lr, seed)},{lr},0.1\n"
                for epoch in range(1, EPOCHS + 1)
            )
            run = lay(folder, {"optimizer.lr": lr, "seed": seed}, epochs=EPOCHS, rows=rows)
            shutil.copy(PICTURE, run / "confusion.png")
    lay(folder, {"optimizer.lr": 1.0, "seed": 0}, **FAILED)
    (folder / "notes.md").write_text("# Why\n\nTo see which rate is best.")
    figure = Path(shutil.copy(PICTURE, folder / "accuracy.png"))
    pages.write_page(report.read(folder), ["Nothing to say."], [figure], folder)
    return folder


def loss(epoch: int, lr: float, seed: int) -> float:
    return 1 / (epoch + 10 * lr + seed)


@pytest.fixture
def page(browser: Browser, study: Path) -> Iterator[Page]:
    """The page, opened from the disk; nothing may go wrong on it, and no other host be asked."""
    with opened(browser, (study / "index.html").as_uri()) as found:
        yield found


@contextlib.contextmanager
def opened(browser: Browser, address: str, **context: Any) -> Iterator[Page]:
    """Yield a page in a tab of its own. What it tells the console, and what it asks other hosts
    for, fails the test."""
    wrong = []

    def check(request: Request) -> None:
        if urlsplit(request.url)[:2] != urlsplit(address)[:2] and request.url[:5] != "data:":
            wrong.append(f"asked for {request.url}")

    tab = browser.new_context(viewport={"width": 1280, "height": 900}, **context)
    page = tab.new_page()
    page.set_default_timeout(5000)
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", check)
    page.goto(address)
    yield page
    tab.close()
    assert wrong == []


def column(page: Page, table: str, head: str) -> list[str]:
    """Return the cells of a column in the rows that are seen."""
    heads = page.locator(f"#{table} thead th").all_inner_texts()
    number = [text.strip() for text in heads].index(head) + 1
    cells = page.locator(f"#{table} tbody tr:visible :nth-child({number}):is(td, th)")
    return [text.strip() for text in cells.all_inner_texts()]


def head(page: Page, table: str, name: str) -> Locator:
    return page.locator(f"#{table} thead").get_by_role("button", name=name, exact=True)


def test_tables_sort_filter_and_hide_columns(page: Page) -> None:
    assert column(page, "settings", "optimizer.lr") == ["0.01", "0.1", "1"]
    head(page, "settings", "valid accuracy (%)").click()  # of accuracies the best first
    assert column(page, "settings", "optimizer.lr") == ["0.1", "0.01", "1"]
    losses = [loss(EPOCHS, lr, seed) for lr in (0.01, 0.1) for seed in (0, 1)]
    head(page, "runs", "train loss").click()
    expected = [f"{each:.4f}" for each in sorted(losses)]
    assert column(page, "runs", "train loss") == [*expected, "-"]  # what has none comes last
    head(page, "runs", "train loss").click()
    assert column(page, "runs", "train loss") == [*expected[::-1], "-"]
    sorted_head = page.locator("#runs th[aria-sort=descending]")
    assert sorted_head.inner_text().strip() == "train loss"

    for asked, expected in (
        ("optimizer.lr=0.1", ["0.1", "0.1"]),
        ("seed=0 optimizer.lr<1", ["0.01", "0.1"]),
        (f"train_loss>{min(losses) + 1e-4}", ["0.01", "0.01", "0.1"]),
        ("ValueError", ["1"]),
        ("nowhere", []),
    ):
        page.locator("#runs-filter").fill(asked)
        assert sorted(column(page, "runs", "optimizer.lr")) == expected
        assert page.locator("#runs-shown").inner_text() == f"{len(expected)} of 5 rows"
    page.locator("#runs-filter").fill("")
    page.locator("#runs-columns summary").click()
    page.locator("#runs-columns").get_by_label("engine").uncheck()
    assert not head(page, "runs", "engine").is_visible()
    assert head(page, "runs", "device").is_visible()


def test_texts_that_begin_with_a_number_are_none(browser: Browser, tmp_path: Path) -> None:
    """Dates, and the studies that are called by them."""
    days = ["2026-11-24", "2026-11-25", "2026-11-26"]
    for number, day in enumerate(days):
        run = lay(tmp_path / f"{day} rates", name="default")
        when = time.mktime((2026, 11, 26 - number, 12, 0, 0, 0, 0, -1))
        for name in ("result.json", "metrics.csv"):
            os.utime(run / name, (when, when))
    with serving(tmp_path) as server, opened(browser, server.address) as page:
        for name, expected in (("changed", days[::-1]), ("study", days)):
            head(page, "studies", name).click()
            assert [text[:10] for text in column(page, "studies", "study")] == expected
            head(page, "studies", name).click()
            assert [text[:10] for text in column(page, "studies", "study")] == expected[::-1]
        page.locator("#studies-filter").fill("changed>2026-11-25")
        assert [text[:10] for text in column(page, "studies", "study")] == days[1::-1]


def test_runs_are_chosen_and_their_curves_read(page: Page) -> None:
    # The best setting is chosen at first; its command is a sweep over its seeds.
    assert "python -m nnlab.run optimizer.lr=0.1 seed=0,1" in page.locator("#best").inner_text()
    chosen = page.locator("#chosen summary")
    assert [text.strip() for text in chosen.all_inner_texts()] == [
        "optimizer.lr=0.1,seed=0",
        "optimizer.lr=0.1,seed=1",
    ]
    tools = page.locator("section", has=page.locator("#runs"))
    tools.get_by_role("button", name="Choose none").click()
    assert chosen.count() == 0
    tools.get_by_label("Choose optimizer.lr=0.01,seed=1").check()
    assert "optimizer.lr=0.01 seed=1" in page.locator("#chosen code").inner_text()
    figures = page.locator(".question figure:visible")
    assert figures.all_inner_texts() == ["optimizer.lr=0.01,seed=1"]

    # Its values under the pointer, against what was laid, to the three digits that are kept.
    canvas = page.locator("#curves")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    said = page.locator("#curves-value").inner_text()
    epoch = int(re.search(r"^optimizer.lr=0.01,seed=1, epoch (\d+);", said)[1])  # type: ignore[index]
    assert 1 < epoch < EPOCHS
    expected = loss(epoch, 0.01, 1)
    assert values(said) == pytest.approx([expected, 2 * expected], rel=6e-3)
    # And by keys: the first epoch, then from it to the last and back around.
    canvas.focus()
    page.mouse.move(0, 0)
    for key, epoch in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("ArrowLeft", 12)):
        page.keyboard.press(key)
        said = page.locator("#curves-value").inner_text()
        assert f"epoch {epoch};" in said
        expected = loss(epoch, 0.01, 1)
        assert values(said) == pytest.approx([expected, 2 * expected], rel=6e-3)
    page.locator("#metric").select_option("accuracy")
    page.keyboard.press("Tab")


def values(said: str) -> list[float]:
    """Return the training and the validation loss that are told."""
    return [float(text) for text in re.findall(r"(?:training|validation) loss ([\d.]+)", said)]


def test_a_point_is_a_run_that_a_click_chooses(page: Page) -> None:
    page.get_by_role("button", name="Choose none").first.click()
    page.locator("#x").select_option("optimizer.lr")
    page.locator("#y").select_option("train_loss")
    canvas = page.locator("#scatter")
    canvas.focus()
    page.keyboard.press("ArrowRight")
    said = page.locator("#scatter-value").inner_text()
    name, x, y = said.split("; ")
    assert (name, x) == ("optimizer.lr=0.01,seed=0", "optimizer.lr 0.01")
    assert y == f"train_loss {loss(EPOCHS, 0.01, 0):.4f}"
    page.keyboard.press("Enter")
    assert page.locator("#chosen summary").inner_text().strip() == name
    # Until the chart has the size of its place its points are elsewhere.
    page.wait_for_function(
        "(({width, height, canvas}) => width === canvas.parentNode.clientWidth"
        " && height === canvas.parentNode.clientHeight)(Chart.getChart('scatter'))"
    )
    position = page.evaluate(
        "(() => { const {x, y} = Chart.getChart('scatter').getDatasetMeta(0).data[2];"
        " return {x, y}; })()"
    )
    canvas.click(position=position)
    page.locator("#chosen summary", has_text="optimizer.lr=0.1,seed=0").wait_for()


def test_words_that_look_like_numbers_stand_side_by_side(browser: Browser, tmp_path: Path) -> None:
    """The bits of truth tables; other options are numbers, though some runs do not have them."""
    names = ("0110", "1000", "1110")
    for name, momentum in zip(names, (0.5, 0.9, None)):
        lay(tmp_path, {"dataset": name, "optimizer.momentum": momentum})
    pages.write_page(report.read(tmp_path), [], [], tmp_path)
    with opened(browser, (tmp_path / "index.html").as_uri()) as page:
        for option, kind in (("dataset", "category"), ("optimizer.momentum", "linear")):
            page.locator("#x").select_option(option)
            assert page.evaluate("Chart.getChart('scatter').scales.x.type") == kind
        assert page.evaluate("Chart.getChart('scatter').scales.y.type") == "linear"


def test_axe_finds_nothing_and_nothing_is_too_wide(browser: Browser, study: Path) -> None:
    """In both widths and colour schemes; of the second scheme the contrasts are all that differ."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    everything = {"runOnly": {"type": "tag", "values": TAGS}}
    contrast = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}
    with opened(browser, (study / "index.html").as_uri()) as page:
        for width, scheme, rules in (
            (1280, "light", everything),
            (390, "light", everything),
            (390, "dark", contrast),
        ):
            page.set_viewport_size({"width": width, "height": 844})
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            found = axe.run(page, options=rules).response["violations"]
            assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
            assert page.evaluate("document.documentElement.scrollWidth") == width


def test_without_scripts_all_is_there_to_be_read(browser: Browser, study: Path) -> None:
    address = (study / "index.html").as_uri()
    with opened(browser, address, java_script_enabled=False) as page:
        assert page.locator("#runs tbody tr:visible").count() == 5
        assert page.locator(".question img:visible").count() == 4
        assert "To see which rate is best." in page.locator(".notes").inner_text()
        assert not page.locator(".script:visible, .tools:visible").count()


def test_what_is_printed_has_all_rows_and_the_light_colours(browser: Browser, study: Path) -> None:
    with opened(browser, (study / "index.html").as_uri(), color_scheme="dark") as page:
        page.emulate_media(media="print", color_scheme="dark")
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == "rgb(255, 255, 255)"
        box = page.locator(".wide").last
        assert box.evaluate("box => getComputedStyle(box).overflow") == "visible"
        assert not page.locator(".tools:visible").count()
        assert (
            page.locator("figure").first.evaluate("f => getComputedStyle(f).breakInside") == "avoid"
        )
        # Paper may be narrower than the screen that the charts were drawn for, and is laid out
        # before they are drawn anew.
        width = "(chart.parentNode.style.width = '9rem', chart.offsetWidth)"
        assert page.locator("#scatter").evaluate(f"chart => {width}") == 9 * 16
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        ink = "Chart.getChart('curves').options.scales.x.title.color"
        assert page.evaluate(ink) == "#222222"
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.evaluate(ink) == "#e6e6e6"


def test_a_served_page_renews_itself(browser: Browser, tmp_path: Path) -> None:
    """While a run trains: its curve grows, what was chosen and typed stays."""
    for seed in (0, 1):
        lay(tmp_path / "mnist", {"seed": seed}, epochs=3)
    with serving(tmp_path) as server, opened(browser, server.address) as page:
        page.get_by_role("link", name="mnist").click()
        page.locator("#runs-filter").fill("seed=")
        assert page.locator("#runs tbody tr").count() == 2
        lay(tmp_path / "mnist", {"seed": 2}, epochs=3, status="running")
        page.locator("#runs tbody tr").nth(2).wait_for()
        assert page.locator("#runs-filter").input_value() == "seed="
        assert column(page, "runs", "status") == ["finished", "finished", "interrupted"]
