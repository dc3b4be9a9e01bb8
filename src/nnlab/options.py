"""What options are declared with: a value that has to be given, a limit, plain values.

Nothing here imports torch, nor do the modules that declare options: ``--help`` and a finished
sweep's rerun must start fast.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import functools
import json
import math
import operator
from collections.abc import Collection, Iterator
from typing import Any

MISSING: Any = "???"  # as OmegaConf writes what has to be given
LARGEST = 1e30  # of what multiplies a network's numbers, float32 that end at 3e38


class ImpossibleError(ValueError):
    """The value of an option is outside its limits."""

    option = ""


def require(holds: bool, option: str, value: object, limit: str) -> None:
    """Raise ImpossibleError that names an option, its value and the limit, unless it holds."""
    if not holds:
        shown = json.dumps(value) if value is None or isinstance(value, bool) else value
        error = ImpossibleError(f"{option}={shown} is not possible: {limit}")
        error.option = option
        raise error


def require_finite(option: str, value: float, least: float = 0.0) -> None:
    limit = f"it must be a finite number, at least {least:g}"
    require(math.isfinite(value) and value >= least, option, value, limit)


def require_factor(option: str, value: float, least: float = 0.0) -> None:
    """Raise ValueError unless a network's numbers can be multiplied with a value."""
    limit = f"it must be at least {least:g} and at most {LARGEST:g}"
    require(least <= value <= LARGEST, option, value, limit)


def check_types(group: str, options: Any) -> None:
    """Raise ValueError for an option of a group, a dataclass, that is not of its type."""
    for each in dataclasses.fields(options):
        value, kind = getattr(options, each.name), str(each.type)
        limit = f"it is a {type(value).__name__}; give {KINDS.get(kind, kind)}"
        require(is_of(value, kind), f"{group}.{each.name}", repr(value), limit)


KINDS = {
    "float": "a number",
    "float | None": "a number, or None",
    "int": "a whole number",
    "bool": "True or False",
    "list[float]": "a list of numbers",
}


def is_of(value: Any, kind: str) -> bool:
    """Return whether a value is of one of KINDS; of other kinds every value is."""
    if kind == "list[float]":
        return isinstance(value, (list, tuple)) and all(is_of(item, "float") for item in value)
    if kind not in KINDS or (value is None and "None" in kind):
        return True
    if kind == "bool" or isinstance(value, (bool, str, bytes)):
        return kind == "bool" and isinstance(value, bool)
    try:
        if kind == "int":
            operator.index(value)
        else:
            float(value)
    except (TypeError, ValueError):
        return False
    return True


def plain(options: Any) -> dict[str, Any]:
    """Return the options of a dataclass, nested ones too, as dicts of JSON values."""

    # Not by dataclasses.asdict, most of whose time is deep copies: a sweep asks for every job.
    def value(node: Any) -> Any:
        if node is None or type(node) in (bool, float, int, str):  # most are, so this is first
            return node
        if dataclasses.is_dataclass(node):
            return {each.name: value(getattr(node, each.name)) for each in dataclasses.fields(node)}
        if isinstance(node, enum.Enum):
            return node.name
        if isinstance(node, dict):
            return {key: value(item) for key, item in node.items()}
        return [value(item) for item in node] if isinstance(node, (list, tuple)) else node

    tree: dict[str, Any] = value(options)
    return tree


def shared(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the same JSON values; dicts and lists in it are those of other trees, where they are
    equal, as a sweep's mostly are. So they are not to be changed.

    >>> one, other = shared({"a": {"b": 1}, "c": 1}), shared({"a": {"b": 1}, "c": 2})
    >>> one["a"] is other["a"], other
    (True, {'a': {'b': 1}, 'c': 2})
    """
    return {
        key: _latest(json.dumps(value)) if isinstance(value, (dict, list)) else value
        for key, value in tree.items()
    }


_latest = functools.lru_cache(256)(json.loads)


def flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested dicts by their dotted names."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def check_lists(config: Any, prefix: str = "", known: Collection[str] = ()) -> None:
    """Raise ValueError where an option that takes a list of values has another list in it, which
    OmegaConf lets pass. config: a dataclass of options, and of others below it. known: options that
    need no second look."""
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        if name in known:
            continue
        if dataclasses.is_dataclass(value):
            check_lists(value, f"{name}.")
        elif isinstance(value, list) and str(field.type).startswith("list["):
            for each in value:
                if isinstance(each, (list, dict)):
                    raise ValueError(f"{name}={value} has a list in it; give values, as in [a,b]")


def did_you_mean(given: str, names: list[str]) -> str:
    """Return a hint at the name that a mistyped one is nearest to, or nothing."""
    leaves = {name.rpartition(".")[2]: name for name in reversed(names) if name != given}
    near = difflib.get_close_matches(given.rpartition(".")[2], leaves, n=1, cutoff=0.55)
    return f"\nDid you mean '{leaves[near[0]]}'?" if near else ""
