"""What is wrong with a configuration: Hydra's own words, and the nearest valid name."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import yaml
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from nnlab.config import GROUPS, Config
from nnlab.options import did_you_mean


def explain(error: Exception) -> str | None:
    """Return what to tell a person about an error of Hydra's or OmegaConf's, None of others."""
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
    return None


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


def suggest_choice(text: str) -> str:
    """Return a hint at the nearest of the options that Hydra lists for a config group."""
    missing = re.search(r"Could not find '(?:.*/)?([^'/]*)'", text)
    choices = re.findall(r"^\t(\S+)$", text, flags=re.MULTILINE)
    return did_you_mean(missing[1], choices) if missing else ""
