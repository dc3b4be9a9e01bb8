"""docs/print_again.py, which carries out the commands of the pages."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

print_again: Any = import_module("docs.print_again")


def printed(command: str, folder: Path) -> str:
    block = print_again.BLOCK.fullmatch(f"```\n$ {command}\nold output\n```")
    assert block is not None
    said: str = print_again.printed(block, str(folder))
    return said


def test_a_block_gets_what_its_command_prints_now(tmp_path: Path) -> None:
    command = "echo new; echo error >&2; exit 1"
    assert printed(command, tmp_path) == f"```\n$ {command}\nnew\nerror\n```"


@pytest.mark.parametrize("command", ["sleep 60", "sleep 60 | cat", "sleep 60 &"])
def test_a_command_that_does_not_end_is_named(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(print_again, "MINUTES", 0.005)
    with pytest.raises(SystemExit) as ended:
        printed(command, tmp_path)
    assert str(ended.value.code).startswith(f"$ {command}\nhas not ended after 0.005 minutes; ")
