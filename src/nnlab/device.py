"""Choosing a device, and saying what it is."""

from __future__ import annotations

import contextlib
import functools
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch


def available() -> list[str]:
    """List the devices of this machine as ``device=`` takes them."""
    names = ["cpu"]
    if torch.cuda.is_available():
        names += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        names.append("mps")
    return names


def choose_device(name: str) -> torch.device:
    """Return the device called ``name``; auto is a CUDA GPU where there is one, else the CPU.

    Raises ValueError listing the available devices.
    """
    names = available()
    if name == "auto":
        name = "cuda" if "cuda" in names else "cpu"
    if name not in names:
        raise ValueError(
            f"device={name} is not available here; choose one of {', '.join(['auto', *names])}"
        )
    return torch.device("cuda:0" if name == "cuda" else name)


@functools.cache
def describe(device: torch.device) -> dict[str, Any]:
    """Return what makes times comparable: the device's type, its name and its driver."""
    if device.type == "cuda":
        return {
            "type": "cuda",
            "name": torch.cuda.get_device_name(device),
            "driver": _nvidia_driver(),
            "cuda": torch.version.cuda,
        }
    if device.type == "mps":
        return {"type": "mps", "name": platform.processor(), "driver": platform.mac_ver()[0]}
    return {"type": "cpu", "name": _cpu_name()}


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _nvidia_driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.check_output(command, text=True, timeout=10).split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


@contextlib.contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` CPU threads inside, and as many as before afterwards.

    MKL's float32 sums differ with the number of threads, so a run fixes it.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
