from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import torch


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
