from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from nnlab import device


def test_auto_and_cpu() -> None:
    assert device.choose_device("cpu") == device.CPU
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert device.choose_device("auto").type == expected


def test_torch_is_asked_for_a_gpu_only_where_there_may_be_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []

    def available() -> list[str]:
        asked.append("torch")
        return ["cpu", "cuda"]

    monkeypatch.setattr(device, "available", available)
    monkeypatch.setattr(device, "DRIVERS", (str(tmp_path / "driver"),))
    monkeypatch.setattr(sys, "platform", "linux")
    assert device.choose_device("auto") == device.CPU
    assert device.choose_device("cpu") == device.CPU
    assert asked == []
    (tmp_path / "driver").touch()
    assert device.choose_device("auto") == device.Device("cuda", 0)
    assert asked == ["torch"]
    monkeypatch.setattr(sys, "platform", "darwin")
    assert device.choose_device("auto") == device.CPU
    assert asked == ["torch"]


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "tpu", ""])
def test_an_unavailable_device_lists_the_available_ones(name: str) -> None:
    with pytest.raises(ValueError, match=f"device={name} is not available here.*auto, cpu"):
        device.choose_device(name)


def test_the_cpu_has_a_name() -> None:
    described = device.describe(device.CPU)
    assert described["type"] == "cpu"
    assert described["name"]


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with device.cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
