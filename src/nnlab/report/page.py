"""The page of a study: ``index.html``, one file with all runs, their curves, figures and origin.

What it says stands in it as HTML, readable without JavaScript. ``templates/page.js`` makes the
tables sort, filter and choose, and draws the chosen runs with the library in ``vendored``.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import logging
import math
import os
import shlex
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from nnlab import storage
from nnlab.long_lists import Values
from nnlab.records import CURVES, LOG, METRICS, RESULT
from nnlab.report import provenance
from nnlab.report.columns import Column, counting, heading, shown
from nnlab.report.labels import OVER, phrase
from nnlab.report.runs import (
    RunRecord,
    Value,
    assignments,
    factors,
    is_number,
    is_seed,
    repeats,
)
from nnlab.report.selection import Groups, Singles, grouped, where
from nnlab.report.summary import INTERVAL, one_seed, written
from nnlab.report.thinned import thinned
from nnlab.text import visible, visible_lines

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup

TEMPLATES = Path(__file__).with_name("templates")
SCRIPT = TEMPLATES / "page.js"
LIBRARY = TEMPLATES / "vendored" / "chart.umd.min.js"
log = logging.getLogger("nnlab")
INDEX, SINGLE = "index.html", "single.html"
NOTES = "notes.md"  # which a person may lay into a study
FILES = (RESULT, METRICS, LOG)  # of a run, that the page leads to
LINKED = 300  # runs; where there are more, only the result of each is linked, the rest by script
PICTURES = 120  # of runs, that stand in the page; those of others appear as these are chosen
# Options by which runs learn other things, of which none is better for being easier.
PROBLEMS = {"dataset", "data", "dataset.function", "dataset.inputs", "dataset.label"}
CAPTIONS = {
    "train_time": "Training time over training-set size",
    "accuracy": "Test accuracy",
    "accuracy_map": "Test accuracy over two options",
    "r2": "Test R²",
    "r2_map": "Test R² over two options",
    "loss": "Training loss over epochs",
    "loss_curves": "Training and validation loss over epochs",
    "accuracy_curves": "Training and validation accuracy over epochs",
    "r2_curves": "Training and validation R² over epochs",
    "curves": "Curves over epochs",
    "hardest": "The most confident mistakes, then what was right with the least confidence",
    "confusion": "Which classes were taken for which",
    "fgsm": "Accuracy under changes made to mislead",
    "fgsm_examples": "Images before and after such changes",
    "weights": "Weights of the network",
    "boundary": "Where 1 is likelier than 0, and the corners on the wrong side",
    "reliability": "How often a class was right over its probability",
    "importance": "How much accuracy rests on each feature",
}


def write_page(
    runs: Sequence[RunRecord],
    notes: Sequence[str],
    figures: Sequence[Path],
    study: Path,
    single_file: bool = False,
) -> Path:
    """Write ``index.html``, as a whole or not at all, and return it.

    figures: PNG files of the study, which the page shows. All links are relative, so a study
    can be moved or sent as a whole. single_file: write ``single.html`` instead, which holds its
    pictures and links to nothing, to be sent by itself.
    """
    path = study / (SINGLE if single_file else INDEX)
    storage.write_atomic(path, render(runs, notes, figures, study, single_file))
    return path


def render(
    runs: Sequence[RunRecord],
    notes: Sequence[str],
    figures: Sequence[Path],
    study: Path,
    single_file: bool = False,
    live: str | None = None,
    above: str | None = None,
) -> Iterator[bytes]:
    """Return the page in UTF-8, in parts, see ``write_page``.

    live: the tag of this page, where its server may have a newer one, for which it asks then.
    above: a link to the page of all studies.
    """
    keys = factors(runs)
    options = [key for key in keys if not is_seed(key)]
    columns = shown("page", runs)
    groups = grouped(runs, options)
    files = Values()
    files.extend(file_names(run.folder) for run in runs)
    curves = thinned(runs)
    return page(
        "study.html",
        scripts_of_study(),
        title=study.resolve().name,
        live=live,
        above=above,
        states=counted_runs(str(run.results["status"]) for run in runs),
        command=provenance.last_command(study) or provenance.command(runs),
        facts=provenance.facts(runs),
        written=written_notes(study),
        best=best(groups, options, columns) if len(groups) > 1 else None,
        settings=sheet(groups, options, of_settings(columns)) if len(groups) < len(runs) else None,
        plus_minus=INTERVAL.format(repeats(runs)),
        runs=sheet(Singles(runs), keys, columns),
        named=runs,
        links=None if single_file else functools.partial(links, runs, files, study),
        linked=len(runs) <= LINKED,
        tables=not single_file and (study / "summary.csv").is_file(),
        thinning=thinning(runs, curves["points"]),
        notes=[*one_seed(groups), *notes],
        figures=[picture(file, study, single_file) for file in figures if file.suffix == ".png"],
        questions=questions(runs, files, study, single_file),
        data=json_in_html({"curves": curves, "files": iter(files)} | commands(runs)),
    )


# What stands on it


@dataclass
class Sheet:
    """A table of the page, with a row for each setting, or for each run.

    heads, numeric: of its columns, of which the first ``settings`` are options. rows: to be read
    once. runs: tells which each row is about, by their positions. alike: what all rows have in
    common, which has no column.
    """

    heads: list[str]
    numeric: list[bool]
    settings: int
    rows: Iterable[list[str]]
    runs: Callable[[int], Iterable[int]] | None
    alike: list[str]


@dataclass
class Best:
    """The setting with the best mean accuracy, in words; which command trains it, and which runs
    have it, by their positions."""

    setting: str
    results: str
    chosen_by: str
    command: str | None
    runs: Iterable[int]


def sheet(groups: Groups, keys: Sequence[str], columns: Sequence[Column]) -> Sheet:
    """Lay out what came of groups of runs. keys: what differs between them."""
    cells = {column.page: column.text for column in columns}
    words = {column.page for column in columns if column.words}
    if len(groups) < len(groups.runs):
        cells = {"n": lambda group: str(len(counting(group)))} | cells
    shared = {}
    for head, text in cells.items():
        first = text(groups[0])
        if (len(groups) > 1 or first == "-") and all(text(group) == first for group in groups):
            shared[head] = first
    left = [head for head in cells if head not in shared]

    def values(group: Sequence[RunRecord]) -> list[Value]:
        return [group[0].settings.get(key) for key in keys]

    return Sheet(
        heads=[*keys, *left],
        numeric=[
            *(all(number_or_none(group[0].settings.get(key)) for group in groups) for key in keys),
            *(head not in words for head in left),
        ],
        settings=len(keys),
        rows=(
            [
                *(written(keys, values(group), group[0]) if keys else ()),
                *(cells[head](group) for head in left),
            ]
            for group in groups
        ),
        runs=groups.indices,
        alike=[f"{head} {text}" for head, text in shared.items() if text != "-"],
    )


def number_or_none(value: Value) -> bool:
    return value is None or is_number(value)


def of_settings(columns: Sequence[Column]) -> list[Column]:
    """Leave out what is said in words of each run."""
    return [column for column in columns if not column.words or column.page == "status"]


def best(groups: Groups, keys: Sequence[str], columns: Sequence[Column]) -> Best | None:
    """Return the setting with the best mean accuracy, or R², of validation where there was any; of
    equal ones that of the least loss. None where no complete run has that, or the settings differ
    in what is learned."""
    complete = where(groups.runs, attrgetter("complete"))
    if not complete or PROBLEMS & set(keys):
        return None
    of = {column.page: column for column in columns}
    validated, main = any(run.reading for run in complete), complete[0].main
    split = "valid" if validated else "test"
    quality, loss = of[f"{split} {heading(main)}"], of[f"{split} loss"]

    def score(number: int) -> tuple[float, float]:
        qualities, losses = array("d"), array("d")
        for run in where(groups[number], attrgetter("complete")):
            pair = quality.of(run), loss.of(run)
            if None not in pair:
                qualities.append(pair[0])
                losses.append(pair[1])
        return (fmean(qualities), -fmean(losses)) if qualities else (-math.inf, 0.0)

    winner = max(range(len(groups)), key=score)
    if score(winner)[0] == -math.inf:
        return None
    group = groups[winner]
    told = [each for each in (quality, of[f"test {heading(main)}"]) if each.text(group) != "-"]
    unit = " %" * main.percent
    results = {each.page.removesuffix(" (%)"): each.text(group) + unit for each in told}
    seeds = f", {len(group)} runs" if len(group) > 1 else ""
    chosen_by = (
        f"Of {len(groups):,} settings it has the highest mean "
        f"{'validation' if validated else 'test'} {main.title} (of equal ones the least loss)."
    )
    if not validated and not all(run.tested_whole for run in group):
        chosen_by += (
            " As it was chosen by that, expect less of new examples; valid_size=… sets some apart "
            "to choose by."
        )
    return Best(
        setting=assignments(keys, groups.of(group[0])),
        results=", ".join(map(" ".join, results.items())) + seeds,
        chosen_by=chosen_by,
        command=provenance.command(group),
        runs=groups.indices(winner),
    )


def commands(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """Return the command of each run: its words or, of those that the first run has too, their
    positions in a list."""
    words = {word: place for place, word in enumerate(dict.fromkeys(runs[0].overrides))}
    listed = map(quoted, words)
    commands = ([words.get(word, quoted(word)) for word in run.overrides] for run in runs)
    return {"program": provenance.COMMAND, "words": listed, "commands": commands}


def quoted(word: str) -> str:
    return shlex.quote(visible(word))


def thinning(runs: Sequence[RunRecord], points: int) -> str:
    """Say what the curves on the page, of so many points at most, are of those in the files."""
    if max(run.last_epoch for run in runs) <= points:
        return "Curves hold every epoch, to three digits."
    return (
        f"Of runs with more than {points} epochs the curves hold {points}, evenly spread, with the "
        f"first and the last, to three digits; what lies between is not seen. All: metrics.csv."
    )


def counted_runs(states: Iterable[str]) -> str:
    """Write how many runs there are, and of each state.

    >>> counted_runs(["finished", "failed", "finished"])
    '3 runs: 2 finished, 1 failed'
    """
    counts = Counter(states)
    runs = "run" if counts.total() == 1 else "runs"
    return f"{counts.total():,} {runs}: {counted_states(counts)}"


def counted_states(states: Iterable[str]) -> str:
    return ", ".join(f"{count:,} {state}" for state, count in Counter(states).most_common())


def written_notes(study: Path) -> Markup | None:
    """Return the study's ``notes.md`` as HTML; None where there is none. What is HTML in it, and
    pictures, which might lie elsewhere, stand there as they were written."""
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    path = study / NOTES
    if path.is_symlink() or not path.is_file():
        return None
    try:
        text = storage.read(path).decode(errors="replace")
    except OSError as error:
        log.warning("left out %s: %s", path, error.strerror)
        return None
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    tokens = markdown.parse(visible_lines(text))
    for token in tokens:
        if token.type.startswith("heading"):  # below those of the page
            token.tag = f"h{min(6, int(token.tag[1:]) + 2)}"
    return Markup(markdown.renderer.render(tokens, markdown.options, {}))


# Files


class Link(NamedTuple):
    """A file of a run, and the link to it."""

    name: str
    link: str


def file_names(folder: Path) -> tuple[str, ...]:
    """Return the files of a run that the page leads to: the usual ones, then the pictures."""
    there = set(os.listdir(folder))
    pictures = sorted(name for name in there if name.endswith(".png"))
    return (*(name for name in FILES if name in there), *pictures)


def links(runs: Sequence[RunRecord], files: Values, study: Path, number: int) -> list[Link]:
    """Return the links to the files of a run, where there are many runs only that to its first,
    the result."""
    names = files[number] if len(runs) <= LINKED else files[number][:1]
    return [Link(name, link(runs[number].folder / name, study)) for name in names]


def questions(
    runs: Sequence[RunRecord], files: Values, study: Path, inline: bool
) -> list[dict[str, Any]]:
    """Return the pictures of each question, of as many runs as there is room for."""
    found: dict[str, array[int]] = {}
    for number, names in enumerate(files):
        for name in names:
            if name.endswith(".png") and name != CURVES:
                found.setdefault(name, array("I")).append(number)
    most = PICTURES // max(1, len(found))
    return [
        {
            "file": name,
            "caption": caption(name),
            "shown": f"{min(most, len(numbers))} of {len(numbers):,} pictures",
            "pictures": [
                picture(runs[number].folder / name, study, inline) | {"run": number}
                for number in numbers[:most]
            ],
        }
        for name, numbers in sorted(found.items())
    ]


def picture(file: Path, study: Path, inline: bool) -> dict[str, Any]:
    """Return how the page shows a PNG file; inline: with its content."""
    if not inline:
        return {"caption": caption(file.name), "link": link(file, study)}
    content = base64.b64encode(storage.read(file)).decode()
    return {"caption": caption(file.name), "link": f"data:image/png;base64,{content}"}


def caption(name: str) -> str:
    stem = Path(name).stem
    what, over, key = stem.partition(OVER)
    if over and what in CAPTIONS:
        return f"{CAPTIONS[what]} over {phrase(key)}"
    return CAPTIONS.get(stem, stem)


def link(file: Path, study: Path) -> str:
    """Return a link from the page to a file of the study."""
    return quote(file.relative_to(study).as_posix(), safe="/=,", errors="surrogateescape")


# Templates


def page(name: str, scripts: Sequence[str], **said: Any) -> Iterator[bytes]:
    """Fill a template in, and return it in UTF-8, in parts. Texts are escaped; only these scripts
    may run, and only this page's own server be asked for anything, whatever else is in a page."""
    from markupsafe import Markup

    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    parts = (
        templates()
        .get_template(name)
        .generate(
            policy=f"default-src 'none'; style-src 'unsafe-inline'; img-src 'self' file: data:; "
            f"connect-src 'self'; base-uri 'none'; form-action 'none'; script-src {hashes}",
            css=Markup(text_of(TEMPLATES / "page.css")),
            scripts=[Markup(script) for script in scripts],
            **said,
        )
    )
    return (part.encode() for part in parts)


def json_in_html(content: Any) -> Iterator[Markup]:
    """Return JSON that ends no script and begins no tag, of mappings and iterators part by part."""
    from jinja2.utils import htmlsafe_json_dumps
    from markupsafe import Markup

    if isinstance(content, Mapping):
        yield Markup("{")
        for number, (name, value) in enumerate(content.items()):
            yield Markup(", " * (number > 0)) + htmlsafe_json_dumps(name) + ": "
            yield from json_in_html(value)
        yield Markup("}")
    elif isinstance(content, Iterator):
        yield Markup("[")
        for number, value in enumerate(content):
            yield Markup(", " * (number > 0)) + htmlsafe_json_dumps(value)
        yield Markup("]")
    else:
        yield htmlsafe_json_dumps(content)


@functools.cache
def templates() -> jinja2.Environment:
    import jinja2
    from markupsafe import Markup

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: (
            visible_lines(value)
            if isinstance(value, str) and not isinstance(value, Markup)
            else value
        ),
    )


@functools.cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def scripts_of_study() -> list[str]:
    """Return the library that draws, without the name of its source map, which is not here, and
    the script of the page."""
    library = text_of(LIBRARY).partition("//# sourceMappingURL")[0]
    return [library, text_of(SCRIPT)]


def render_studies(title: str, studies: Sequence[Sequence[str]], live: str) -> Iterator[bytes]:
    """Return the page of all studies, in UTF-8, in parts. live: its tag, see ``render``.

    studies: of each its link ("" where it has no page), its name, how many runs it has, their
    states, and when it changed.
    """
    heads, numeric = ["study", "runs", "states", "changed"], [False, True, False, False]
    table = Sheet(heads, numeric, 1, [list(row) for row in studies], None, [])
    return page("studies.html", [text_of(SCRIPT)], title=title, live=live, studies=table)
