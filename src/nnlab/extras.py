"""Packages that come with an extra of nnlab's only."""

from __future__ import annotations

import importlib
from typing import Any


def needed(module: str, extra: str) -> Any:
    """Import a library. Raises ValueError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{module} is needed, and not installed ({error}): pip install 'nnlab[{extra}]'"
        ) from error
