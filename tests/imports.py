"""Which modules a new process imports."""

from __future__ import annotations

import subprocess
import sys


def imported(modules: str, slow: set[str]) -> set[str]:
    """Return which of the slow modules a process has that imports some, given as in an import
    statement; it must say nothing."""
    code = f"import sys, {modules}; print(*({slow!r} & set(sys.modules)))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return set(done.stdout.split())
