"""Errors in one clear message: Hydra's own words, and the nearest valid name."""

from __future__ import annotations

import dataclasses
import difflib
import errno
import os
import re
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from nnlab.config import GROUPS, Config

GO_ON = "and the same command goes on"
# What helps where the system refused something, by the number of its error.
REMEDIES = {
    errno.ENOSPC: f"free some space, {GO_ON}",
    errno.EDQUOT: f"remove files of yours there, {GO_ON}",
    errno.EMFILE: f"raise the limit with ulimit -n, {GO_ON}",
    errno.ENFILE: f"end other programs, which have the rest, {GO_ON}",
    errno.ENAMETOOLONG: "choose a shorter study=, output_dir= or hydra.sweep.subdir=",
    errno.ENOTDIR: "move away what is in the place of this folder, or choose another output_dir=",
    errno.EISDIR: "move away this folder, which is in the place of a file",
    errno.EEXIST: "move away what is in the place of this folder, or choose another output_dir=",
}
ELSEWHERE = "results go to output_dir/study, choose a folder that can be written with output_dir="
# These are of all that lies in a folder: of many runs, they are told once.
OF_FOLDERS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE)
NO_MEMORY = "use smaller layers, a smaller batch_size or fewer examples, or end other programs"


def explain(error: Exception, study: Path | None = None) -> str | None:
    """Return what to tell a person about an error, or None where it is not theirs to mend.

    study: the folder in which it was, that of other runs with the same error too.
    """
    if isinstance(error, MissingConfigException):
        # What follows the options is where Hydra searched, which helps nobody here.
        text = str(error).partition("\nConfig search path:")[0]
        return text + suggest_choice(text)
    if isinstance(error, HydraException):
        # Its advice to append with + would only meet the next refusal.
        lines = [line for line in str(error).splitlines() if not line.startswith("To append")]
        cause = error.__cause__
        if isinstance(cause, OmegaConfBaseException):
            lines.append(str(cause).splitlines()[0] + suggest(cause))
            override = re.match(r"Error merging override ([^=]+)=([\w.,]+)$", lines[0])
            if override and "is not a ListConfig" in lines[-1]:
                lines.append(f"Give a list, as in {override[1]}=[{override[2]}]")
        return "\n".join(lines)
    if isinstance(error, OmegaConfBaseException):
        return str(error).splitlines()[0] + suggest(error)
    if isinstance(error, yaml.YAMLError):  # of a file that it names
        return f"a configuration cannot be read: {' '.join(str(error).split())}"
    if isinstance(error, OSError) and (error.filename is not None or error.errno in OF_FOLDERS):
        return refused(error, study)
    if type(error).__name__ == "OutOfMemoryError":  # torch's own, which is not imported here
        return (
            f"{str(error).splitlines()[0]} "
            f"Bound how many runs train together with hydra.sweeper.max_batch_size=N"
        )
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):  # torch's words
        found = re.search(r"allocate (\d+ bytes|[\d.]+ \w?i?B)", str(error))
        return f"there is no memory left to {found[0] if found else 'go on'}; {NO_MEMORY}"
    return str(error) if isinstance(error, (ValueError, OSError)) else None


def refused(error: OSError, study: Path | None) -> str:
    """Say what the system refused, where, and what helps."""
    named = error.filename2 or error.filename  # of a file that was to be renamed: what it was to be
    where = None if named is None else Path(os.fsdecode(named))
    if error.errno in OF_FOLDERS:
        where = study or (where and where.parent)
    remedy = REMEDIES.get(error.errno or 0, ELSEWHERE)
    if error.errno == errno.ENOSPC and where is not None and no_more_files(where):
        remedy = f"it can hold no more files (df -i): remove some, {GO_ON}"
    return f"{'' if where is None else f'{where}: '}{error.strerror}; {remedy}"


def no_more_files(folder: Path) -> bool:
    """Return whether a full disk lacks inodes; a few, of files just removed, may be there again."""
    try:
        found = os.statvfs(folder)
    except (AttributeError, OSError):  # Windows; or it is gone
        return False
    return found.f_favail < 10 < found.f_files  # the latter is 0 where there is no limit


def suggest(error: OmegaConfBaseException) -> str:
    """Return a hint at the nearest option or value, or nothing."""
    if isinstance(error, (ConfigAttributeError, ConfigKeyError)) and error.full_key:
        return other_choices(error.full_key) or did_you_mean(error.full_key, options_beside(error))
    found = re.match(r"Invalid value '(.*)', expected one of \[(.*)\]", str(error))
    return did_you_mean(found[1], found[2].split(", ")) if found else ""


def other_choices(key: str) -> str:
    """Return which choices of a group have the option that the present one lacks."""
    group, _, name = key.partition(".")
    schemas = GROUPS.get(group, {}).items()
    having = [f"{group}={choice}" for choice, schema in schemas if name in _fields(schema)]
    return f"\n{key} goes with {' or '.join(having)}" if having else ""


def options_beside(error: OmegaConfBaseException) -> list[str]:
    """List the options beside a refused one, and where it stands alone those of all groups."""
    parent = str(error.full_key).rpartition(".")[0]
    if parent:
        return [f"{parent}.{name}" for name in _fields(error.object_type)]
    return _fields(Config) + [
        f"{group}.{name}"
        for group, schemas in GROUPS.items()
        for schema in schemas.values()
        for name in _fields(schema)
    ]


def _fields(schema: Any) -> list[str]:
    return (
        [field.name for field in dataclasses.fields(schema)]
        if dataclasses.is_dataclass(schema)
        else []
    )


def did_you_mean(given: str, names: list[str]) -> str:
    leaves = {name.rpartition(".")[2]: name for name in reversed(names) if name != given}
    near = difflib.get_close_matches(given.rpartition(".")[2], leaves, n=1, cutoff=0.55)
    return f"\nDid you mean '{leaves[near[0]]}'?" if near else ""


def suggest_choice(text: str) -> str:
    """Return a hint at the nearest of the options that Hydra lists for a config group."""
    missing = re.search(r"Could not find '(?:.*/)?([^'/]*)'", text)
    choices = re.findall(r"^\t(\S+)$", text, flags=re.MULTILINE)
    return did_you_mean(missing[1], choices) if missing else ""
