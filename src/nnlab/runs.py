"""``python -m nnlab.runs``: every run below outputs/, how it stands and what came of it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from nnlab import claims, interrupts, records, standing, study, terminal
from nnlab.losses import CLASSIFICATION, REGRESSION
from nnlab.records import DONE
from nnlab.report import columns, summary
from nnlab.report.run_folders import flatten, name_data
from nnlab.report.runs import Value, brief, factors, is_number, rank
from nnlab.report.times import duration
from nnlab.standing import STATES, Standing
from nnlab.text import as_label, visible

REFRESH = 2.0  # seconds between two looks, or more where a look takes long
NOTES = 10  # lines below a table
RESULTS = ("test_accuracy", "test_loss", "train_seconds", "stop_reason")  # in --json

log = logging.getLogger("nnlab")


# The command


@terminal.standard_streams()
def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of_arguments()
    options = parser.parse_args(arguments)
    refuse_combinations(parser, options)
    try:
        if options.watch:
            return watch(options)
        return once(options)
    except (ValueError, OSError) as error:
        terminal.complain(error)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def parser_of_arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m nnlab.runs",
        description=__doc__,
        epilog=f"Accuracy and loss are those of the test split. States are {', '.join(STATES)}.",
    )
    terminal.add_version(parser)
    parser.add_argument(
        "study",
        nargs="*",
        type=terminal.path,
        help="a study, an output_dir or a run; without any: outputs. Links below it are not "
        "followed",
    )
    parser.add_argument("--json", action="store_true", help="an array, with an object for each run")
    parser.add_argument(
        "--state", type=states, metavar="STATE[,STATE]", help="only runs in one of these states"
    )
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="NAME=VALUE[,VALUE]",
        help="only runs whose configuration has one of these values, as in optimizer.lr=0.1",
    )
    parser.add_argument(
        "--delete", action="store_true", help="delete these runs, but for those in training"
    )
    parser.add_argument("--yes", action="store_true", help="delete without asking")
    parser.add_argument("--watch", action="store_true", help="look again and again, until Ctrl-C")
    return parser


def states(text: str) -> list[str]:
    given = text.split(",")
    for state in given:
        if state not in STATES:
            raise argparse.ArgumentTypeError(f"{state!r} is none of {', '.join(STATES)}")
    return given


def refuse_combinations(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    for first, second in (("json", "delete"), ("json", "watch"), ("watch", "delete")):
        if getattr(options, first) and getattr(options, second):
            parser.error(f"--{first} and --{second} do not go together; give one of them")
    if options.yes and not options.delete:
        parser.error("--yes answers the question of --delete; give both")
    if options.watch and not sys.stdout.isatty():
        parser.error("--watch needs a terminal; --json is for programs")
    if options.delete and not options.yes and not terminal.can_ask():
        parser.error("--delete asks first, but there is no terminal to ask on; add --yes")


def once(options: argparse.Namespace) -> int:
    """Print what was asked for; delete it, if that was asked for."""
    studies = chosen(options)
    if options.json:
        print_json(studies)
        return 0
    for part in shown(studies):
        if isinstance(part, str):
            terminal.say(part)
        else:
            terminal.show(part)
    return delete(studies, options.yes) if options.delete else 0


def watch(options: argparse.Namespace) -> int:
    """Show the runs, the unfinished first, as many as the terminal has lines, until Ctrl-C."""
    from rich.console import Console, Group

    console = Console()
    # Its end is to leave the terminal as it was.
    signals = set(interrupts.SIGNALS) - {signal.SIGINT}
    ending = {number: signal.signal(number, end) for number in signals}
    try:
        with console.screen() as screen:
            while True:
                started = time.monotonic()
                studies = [unfinished_first(each, console.height) for each in chosen(options)]
                parts = [
                    Text(part) if isinstance(part, str) else terminal.fitted(part, console.width)
                    for part in shown(studies)
                ]
                screen.update(Group(Text(f"{time.strftime('%H:%M:%S')}, Ctrl-C ends"), *parts))
                time.sleep(max(REFRESH, 4 * (time.monotonic() - started)))
    finally:
        for number, handler in ending.items():
            signal.signal(number, handler)


def end(number: int, _: object) -> None:
    sys.exit(128 + number)


# Finding the runs


@dataclass(frozen=True)
class Runs:
    """The runs of a study that were asked for. varied: the keys that differ between all it has."""

    study: Path
    varied: list[str]
    listed: list[Standing]


def chosen(options: argparse.Namespace) -> list[Runs]:
    """Return the runs that a command line asks for, by studies.

    Raises FileNotFoundError where there is no such study, ValueError for a condition that has no
    meaning.
    """
    for root in options.study:
        if not root.is_dir():
            raise FileNotFoundError(f"there is no folder {root}; give a study, say outputs/mnist")
    conditions = []
    if options.where:
        from nnlab.arguments import condition

        conditions = [condition(text, "--where") for text in options.where]
    folders = by_study(options.study or [Path("outputs")])
    studies = [runs_of(folder, runs) for folder, runs in folders.items()]
    if conditions:
        check_keys(studies, [key for key, _ in conditions])
    chosen = []
    for each in studies:
        listed = [
            run
            for run in each.listed
            if (options.state is None or run.state in options.state)
            and all(meets(run, key, values) for key, values in conditions)
        ]
        if listed:
            chosen.append(dataclasses.replace(each, listed=listed))
    return chosen


def by_study(roots: Iterable[Path]) -> dict[Path, list[Path]]:
    """Return the folders of runs in folders, each once, by those of their studies."""
    found: dict[Path, dict[Path, None]] = {}
    for root in roots:
        for folder in run_folders(root):
            found.setdefault(folder.parent, {})[folder] = None
    return {folder: list(runs) for folder, runs in sorted(found.items())}


def run_folders(root: Path) -> Iterator[Path]:
    """Yield the folders of runs in a folder, which may be one itself; links are not followed.

    Those that a process is still to make are among them.
    """
    if standing.is_run(root):
        yield root if root.name not in ("", "..") else root.resolve()
        return
    try:
        # By its own dot: what may be listed, but not entered, hides whether it is a run.
        entries = sorted(os.scandir(os.path.join(root, ".")), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("left out %s: %s", root, error.strerror)
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            yield from run_folders(root / entry.name)
    yield from (root / name for name in claims.waiting(root) if not (root / name).exists())


def runs_of(folder: Path, paths: Sequence[Path]) -> Runs:
    """Return how runs of one study stand, ordered by what varied."""
    try:
        whole = study.look(folder).entries.keys()
    except OSError as error:
        log.warning("%s: %s", folder, error)
        whole = {}.keys()
    waiting = claims.waiting(folder)
    found = [standing.of(path, path.name in whole, waiting.get(path.name)) for path in paths]
    listed = [each for each in found if each is not None]
    runs = [each.run for each in listed if each.run is not None]
    name_data(runs)
    keys = factors(runs)

    def order(each: Standing) -> tuple[Any, ...]:
        settings = settings_of(each)
        return *(rank(settings.get(key)) for key in keys), each.folder.name

    return Runs(folder, keys, sorted(listed, key=order))


# Choosing among them


def check_keys(studies: Sequence[Runs], keys: Sequence[str]) -> None:
    """Raise ValueError for a key that no run's configuration has."""
    names = {
        key
        for each in studies
        for run in each.listed
        for key in (*options_of(run), *settings_of(run))
    }
    for key in keys:
        if names and key not in names:
            from nnlab.options import did_you_mean

            raise ValueError(
                f"--where {key}=: none of these runs has {key}{did_you_mean(key, sorted(names))}"
            )


def options_of(listed: Standing) -> dict[str, Value]:
    """Return the configuration of a run by dotted keys, as on the command line."""
    return dict(flatten(listed.config or {}, left_out=()))


def settings_of(listed: Standing) -> Mapping[str, Value]:
    """Return what was used in fact."""
    return listed.run.settings if listed.run else {}


def meets(listed: Standing, key: str, values: Sequence[Any]) -> bool:
    """Return whether a run was asked to have one of these values, or has it in fact."""
    both = (options_of(listed), settings_of(listed))
    return any(key in each and same(each[key], value) for each in both for value in values)


def same(ours: Value, theirs: Any) -> bool:
    """Compare values; true is not 1, but 1 is 1.0."""
    return isinstance(ours, bool) == isinstance(theirs, bool) and ours == theirs


# Showing them


def shown(studies: Sequence[Runs]) -> list[str | Table]:
    """Lay out each study: a line about it, its table, what else is to say."""
    if not studies:
        return ["no such runs"]
    parts: list[str | Table] = []
    for number, each in enumerate(studies):
        counts = Counter(run.state for run in each.listed)
        said = ", ".join(f"{counts[state]:,} {state}" for state in STATES if counts[state])
        runs = "run" if len(each.listed) == 1 else "runs"
        head = f"{visible(str(each.study))}: {len(each.listed):,} {runs} ({said})"
        made = table(each)
        parts += [*[""] * (number > 0), head, terminal.as_lines(made) or made, *notes(each.listed)]
    return parts


def unfinished_first(runs: Runs, most: int) -> Runs:
    """Return the runs in the order in which a person watches them, ``most`` of them."""
    order = (*STATES[len(DONE) :], *DONE)
    listed = sorted(runs.listed, key=lambda run: order.index(run.state))
    return dataclasses.replace(runs, listed=listed[:most])


def results_of(runs: Runs) -> dict[str, columns.Column]:
    """Return the results that are shown, by their headings: accuracy or R², and the loss."""
    tasks = {each.run.task for each in runs.listed if each.run is not None} or {CLASSIFICATION}
    wanted = {summary.LOSS, *(columns.TESTED[task.metrics[0].name].table for task in tasks)}
    return {
        column.table.removeprefix("test\n"): column
        for column in columns.RESULTS
        if column.table in wanted
    }


def table(runs: Runs) -> Table:
    """Make a table with a row for each run."""
    made = summary.empty()
    made.add_column("state", overflow="fold")
    for key in runs.varied:
        known = [settings_of(run)[key] for run in runs.listed if key in settings_of(run)]
        made.add_column(
            key, justify="right" if all(map(is_number, known)) else "left", overflow="fold"
        )
    results = results_of(runs)
    for head in ("epochs", *results, "age"):
        made.add_column(head, justify="right", no_wrap=True)
    made.add_column("folder", overflow="fold")
    now = time.time()
    for each in runs.listed:
        made.add_row(*(Text(cell) for cell in cells(each, runs.varied, now, results.values())))
    return made


def cells(
    each: Standing, keys: Sequence[str], now: float, results: Iterable[columns.Column]
) -> list[str]:
    """Write a run's row of the table."""
    settings = settings_of(each)
    state = f"interrupted at epoch {each.epochs}" if each.state == "interrupted" else each.state
    varied = [brief(settings[key]) if key in settings else "-" for key in keys]
    most = each.max_epochs
    epochs = f"{each.epochs}/{most}" if most and each.state not in DONE else str(each.epochs)
    came = [column.text([each.run]) if each.run else "-" for column in results]
    age = duration(max(0.0, now - each.changed)) if each.changed else "-"
    return [state, *varied, epochs if each.run else "-", *came, age, as_label(each.folder.name)]


def notes(runs: Sequence[Standing]) -> list[str]:
    """Say of runs what their rows do not, the same of several once."""
    names: dict[str, list[str]] = {}
    for each in runs:
        if (said := remark(each)) is not None:
            names.setdefault(said, []).append(each.folder.name)
    lines = []
    for said, which in list(names.items())[:NOTES]:
        more = f" and {len(which) - 3:,} more" * (len(which) > 3)
        lines.append(f"{', '.join(which[:3])}{more}: {said}")
    return lines + [f"and {len(names) - NOTES:,} more remarks, in --json"] * (len(names) > NOTES)


def remark(each: Standing) -> str | None:
    if each.state == "waiting" and each.owner is not None:
        return f"{claims.named(each.owner)} has others to train first"
    if each.owner is not None:
        return f"trained by {claims.named(each.owner)}"
    if each.state in ("interrupted", "waiting"):
        return f"the same command {goes_on(each)}"
    if each.state == "failed":
        return f"failed: {each.error}; the same command {goes_on(each)}"
    if each.state in DONE and each.goes_on is not None:
        return f"what is to replace it was broken off; the same command {goes_on(each)}"
    if each.state == "diverged":
        return f"diverged: {each.run.stop_reason}" if each.run else None
    return each.error


def goes_on(each: Standing) -> str:
    return f"goes on after epoch {each.goes_on}" if each.goes_on else "begins it anew"


def print_json(studies: Sequence[Runs]) -> None:
    """Print an array, an object a line, so that it can be searched line by line too."""
    now = time.time()
    lines = [json.dumps(as_json(each, runs, now)) for runs in studies for each in runs.listed]
    print("[", *([",\n".join(lines)] if lines else []), "]", sep="\n", flush=True)


def as_json(each: Standing, runs: Runs, now: float) -> dict[str, Any]:
    """Return all that is known of a run, the same keys for each."""
    run, owner, settings = each.run, each.owner or {}, settings_of(each)
    return {
        "folder": str(each.folder),
        "study": str(runs.study),
        "state": each.state,
        "epochs": each.epochs,
        "max_epochs": each.max_epochs,
        "goes_on": each.goes_on,
        "host": owner.get("host"),
        "process": owner.get("process"),
        "error": each.error,
        "damaged": None if each.file is None else str(each.file),
        **{name: getattr(run, name, None) for name in RESULTS},
        **{f"test_{metric.name}": run and run.tested(metric) for metric in REGRESSION.metrics},
        "changed": each.changed,
        "age": None if each.changed is None else max(0.0, now - each.changed),
        "varied": {key: settings[key] for key in runs.varied if key in settings},
        "config": each.config,
    }


# Deleting them


def delete(studies: Sequence[Runs], sure: bool) -> int:
    """Delete runs, but for those that a process trains; return 1 if others were kept, too."""
    count = sum(each.owner is None for runs in studies for each in runs.listed)
    if not count:
        terminal.say("nothing to delete")
        return 0
    runs = "this run" if count == 1 else f"these {count:,} runs"
    if not sure and not confirmed(f"Delete {runs}? [y/N] "):
        terminal.say("nothing is deleted")
        return 1
    status = 0
    for each in studies:
        try:
            with claims.exclusive(each.study):
                status |= delete_from(each)
        except OSError as error:
            terminal.complain(f"{each.study}: {error.strerror}; its runs are kept")
            status = 1
    return status


def delete_from(runs: Runs) -> int:
    """Do what ``delete`` does in a study that is locked."""
    status = 0
    for run in runs.listed:
        kept = reason_to_keep(run)
        if kept is not None:
            terminal.say(f"kept {visible(str(run.folder))}: {kept}")
            status |= run.owner is None
            continue
        try:
            remove(run.folder)
        except OSError as error:
            where = error.filename or run.folder
            terminal.complain(f"{run.folder} is not deleted: {where}: {error.strerror}")
            status = 1
    return status


def confirmed(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False


def reason_to_keep(each: Standing) -> str | None:
    """Return why a run is not deleted; to be asked while its study is locked."""
    waiting = claims.waiting(each.folder.parent).get(each.folder.name)
    now = standing.of(each.folder, whole=True, waiting=waiting)
    if now is not None and now.owner is not None:
        return f"{claims.named(now.owner)} trains it"
    if now is None or now.stamp != each.stamp:
        return "it has changed meanwhile; look at it again"
    if each.state in ("damaged", "waiting") and not standing.recognised(each.folder):
        return "nothing in it says that nnlab wrote it; delete it yourself"
    return None


def remove(folder: Path) -> None:
    records.remove_run(folder)
    left = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    others = f", but not {', '.join(map(visible, left))}, which nnlab did not write" * bool(left)
    terminal.say(f"deleted {visible(str(folder))}{others}")


if __name__ == "__main__":
    sys.exit(main())
