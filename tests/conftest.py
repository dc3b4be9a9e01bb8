from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """As in a run: float32 sums differ with the number of threads."""
    torch.set_num_threads(1)
