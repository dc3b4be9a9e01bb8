from __future__ import annotations

import pytest
import torch

from nnlab import device


def test_auto_and_cpu() -> None:
    assert device.choose_device("cpu") == torch.device("cpu")
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert device.choose_device("auto").type == expected


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "tpu", ""])
def test_an_unavailable_device_lists_the_available_ones(name: str) -> None:
    with pytest.raises(ValueError, match=f"device={name} is not available here.*auto, cpu"):
        device.choose_device(name)


def test_the_cpu_has_a_name() -> None:
    described = device.describe(torch.device("cpu"))
    assert described["type"] == "cpu"
    assert described["name"]


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with device.cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
