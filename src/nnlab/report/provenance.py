"""Where the runs of a study come from: the command, the programs, the data."""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from pathlib import Path

from nnlab import storage
from nnlab.report.runs import RunRecord, spell
from nnlab.report.selection import Groups, where

COMMAND = "python -m nnlab.run"
SWEEP = "multirun.yaml"  # in which Hydra records the last command
NAMING = "hydra.job.config.override_dirname."  # how nnlab.run has Hydra name folders
LISTED = 12  # files of data, and whatever else differs between runs
VALUES = 1000  # of an option, that a command lists


def command_line(overrides: Iterable[str]) -> str:
    """Return the command that says these overrides, as a shell reads it."""
    return shlex.join([*COMMAND.split(), *overrides])


def last_command(study: Path) -> str | None:
    """Return the last command that trained runs of a study; None where that is not recorded."""
    import yaml

    try:
        said = yaml.safe_load(storage.read(study / SWEEP))["hydra"]["overrides"]
        overrides = [*said["task"], *said["hydra"]]
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError, RecursionError):
        return None
    return command_line(str(each) for each in overrides if not str(each).startswith(NAMING))


def command(runs: Sequence[RunRecord]) -> str | None:
    """Return a command that trains these runs and no others; None where there is none.

    Where one of them has been given other options than the others, or not every combination of
    values is there, no command is a sweep over just these; nor would one be read that lists more
    than a thousand values of an option.
    """
    keys = tuple(map(key_of, runs[0].overrides))
    texts: list[dict[str, None]] = [{} for _ in keys]
    for run in runs:
        if tuple(map(key_of, run.overrides)) != keys:
            return None
        for known, text in zip(texts, run.overrides):
            known[text] = None
            if len(known) > VALUES:
                return None
    if math.prod(map(len, texts)) != len(Groups(runs, attrgetter("overrides"))):
        return None
    return command_line(
        ",".join([first, *(other.partition("=")[2] for other in others)])
        for first, *others in texts
    )


def key_of(override: str) -> str:
    return override.partition("=")[0]


def facts(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Return what is to know of programs, machines and data: a heading, and what stands there."""
    hashes = {name: None for run in runs for name in run.hashes.items()}
    of_data = where(runs, attrgetter("source"))
    said = [
        ("Data", counted(of_data, lambda run: f"{run.source} (content {run.content})")),
        ("SHA-256 of the data", listed((" ".join(each).strip() for each in hashes), len(hashes))),
        ("Computed by", counted(where(runs, attrgetter("device")), computed_by)),
        ("Versions", counted(runs, lambda run: ", ".join(map(" ".join, run.versions.items())))),
    ]
    return [(head, lines) for head, lines in said if any(lines)]


def computed_by(run: RunRecord) -> str:
    level = run.settings.get("native_level")
    return f"{run.engine} on {run.device}" + f" ({spell(level)})" * bool(level)


def counted(runs: Sequence[RunRecord], text: Callable[[RunRecord], str]) -> list[str]:
    """Write a text of each run once, with the number of runs that have it where they differ."""
    groups = Groups(runs, text)
    if len(groups) == 1:
        return [text(runs[0])]
    lines = (f"{said}: {len(same):,} run{'s' * (len(same) > 1)}" for said, same in groups.items())
    return listed(lines, len(groups))


def listed(lines: Iterable[str], count: int) -> list[str]:
    """Return the first of so many lines, and how many more there are."""
    more = [f"and {count - LISTED:,} more, in each result.json"] * (count > LISTED)
    return [*itertools.islice(lines, LISTED), *more]
