from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from nnlab import datasets
from nnlab.run import main

Run = Callable[..., str]
MEMORY = "/dev/shm"  # where Linux has files that are on no disk


def has_room(folder: str) -> bool:
    """Return whether a folder takes the files of all tests, of which some build programs."""
    if not os.path.isdir(folder) or shutil.disk_usage(folder).free < 4 * 2**30:
        return False
    return sys.platform == "linux" and not os.statvfs(folder).f_flag & os.ST_NOEXEC


if has_room(MEMORY):
    # Runs sync what they write, which takes no time there. It is as good for tests that kill
    # processes; those that cut the power replay what was written.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", MEMORY)


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: tests wait for disks and for other processes."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else 2


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """As in a run: float32 sums differ with the number of threads."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def usual_handlers() -> Iterator[None]:
    """Commands get the signals that a terminal gives them, also where what started the tests
    ignores some, as nohup does."""
    before = [
        (signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler)),
        (signal.SIGHUP, signal.signal(signal.SIGHUP, signal.SIG_DFL)),
    ]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be in a folder of the test's own, with nothing read before."""
    monkeypatch.chdir(tmp_path)
    datasets.forget()


@pytest.fixture
def run(
    empty_folder: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Run:
    """Give the commands of a shell in an empty folder; each returns what it printed."""

    def command(*arguments: str, status: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["nnlab", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capfd.readouterr()
        said: str = printed.out + printed.err
        assert (ended.value.code or 0) == status, said
        return said

    return command
