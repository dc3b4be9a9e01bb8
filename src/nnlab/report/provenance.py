"""Where the runs of a study come from: the command, the programs, the data."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from nnlab import storage
from nnlab.report.runs import RunRecord, spell

COMMAND = "python -m nnlab.run"
SWEEP = "multirun.yaml"  # in which Hydra records the last command
NAMING = "hydra.job.config.override_dirname."  # how nnlab.run has Hydra name folders
HASHES = 12  # of files of data, that are listed


def command_line(overrides: Iterable[str]) -> str:
    """Return the command that says these overrides, as a shell reads it."""
    return shlex.join([*COMMAND.split(), *overrides])


def last_command(study: Path) -> str | None:
    """Return the last command that trained runs of a study; None where that is not recorded."""
    import yaml

    try:
        said = yaml.safe_load(storage.read(study / SWEEP))["hydra"]["overrides"]
        overrides = [*said["task"], *said["hydra"]]
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError):
        return None
    return command_line(str(each) for each in overrides if not str(each).startswith(NAMING))


def command(runs: Sequence[RunRecord]) -> str | None:
    """Return a command that trains these runs and no others; None where there is none.

    Where one of them has been given other options than the others, or not every combination of
    values is there, no command is a sweep over just these.
    """
    if len({tuple(map(key_of, run.overrides)) for run in runs}) != 1:
        return None
    texts = [list(dict.fromkeys(column)) for column in zip(*(run.overrides for run in runs))]
    if math.prod(map(len, texts)) != len({run.overrides for run in runs}):
        return None
    return command_line(
        ",".join([first, *(other.partition("=")[2] for other in others)])
        for first, *others in texts
    )


def key_of(override: str) -> str:
    return override.partition("=")[0]


def facts(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Return what is to know of programs, machines and data: a heading, and what stands there."""
    data = Counter(f"{run.source} (content {run.content})" for run in runs if run.source)
    hashes = {name: None for run in runs for name in run.hashes.items()}
    listed = [f"{name} {digest}".strip() for name, digest in hashes]
    if len(listed) > HASHES:
        listed[HASHES:] = [f"and {len(listed) - HASHES:,} more, in each result.json"]
    engines = Counter(
        f"{run.engine} on {run.device}"
        + f" ({spell(run.settings['native_level'])})" * bool(run.settings.get("native_level"))
        for run in runs
        if run.device
    )
    versions = Counter(", ".join(map(" ".join, run.versions.items())) for run in runs)
    said = [
        ("Data", counted(data)),
        ("SHA-256 of the data", listed),
        ("Computed by", counted(engines)),
        ("Versions", counted(versions)),
    ]
    return [(head, lines) for head, lines in said if any(lines)]


def counted(texts: Counter[str]) -> list[str]:
    """Write texts once each, with the number of their runs where they differ."""
    return [
        f"{text}: {count:,} run{'s' * (count > 1)}" if len(texts) > 1 else text
        for text, count in texts.items()
    ]
