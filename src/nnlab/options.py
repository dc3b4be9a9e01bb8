"""What options are declared with: a value that has to be given, a limit, plain values.

Nothing here imports torch, nor do the modules that declare options: ``--help`` and a finished
sweep's rerun must start fast.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from collections.abc import Iterator
from typing import Any

MISSING: Any = "???"  # as OmegaConf writes what has to be given
LARGEST = 1e30  # of what multiplies a network's numbers, float32 that end at 3e38


def require(holds: bool, option: str, value: object, limit: str) -> None:
    """Raise ValueError that names an option, its value and the limit, unless it holds."""
    if not holds:
        shown = json.dumps(value) if value is None or isinstance(value, bool) else value
        raise ValueError(f"{option}={shown} is not possible: {limit}")


def require_finite(option: str, value: float, least: float = 0.0) -> None:
    limit = f"it must be a finite number, at least {least:g}"
    require(math.isfinite(value) and value >= least, option, value, limit)


def require_factor(option: str, value: float, least: float = 0.0) -> None:
    """Raise ValueError unless a network's numbers can be multiplied with a value."""
    limit = f"it must be at least {least:g} and at most {LARGEST:g}"
    require(least <= value <= LARGEST, option, value, limit)


def plain(options: Any) -> dict[str, Any]:
    """Return the options of a dataclass, nested ones too, as dicts of JSON values."""

    # Not by dataclasses.asdict, most of whose time is deep copies: a sweep asks for every job.
    def value(node: Any) -> Any:
        if dataclasses.is_dataclass(node):
            return {each.name: value(getattr(node, each.name)) for each in dataclasses.fields(node)}
        if isinstance(node, enum.Enum):
            return node.name
        if isinstance(node, dict):
            return {key: value(item) for key, item in node.items()}
        return [value(item) for item in node] if isinstance(node, (list, tuple)) else node

    tree: dict[str, Any] = value(options)
    return tree


def flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested dicts by their dotted names."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
