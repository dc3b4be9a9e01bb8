"""Choosing a device, and saying what it is.

torch is asked about GPUs, and is not imported where there can be none.
"""

from __future__ import annotations

import contextlib
import functools
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What the drivers of GPUs that torch calls cuda leave on Linux: NVIDIA's, also within Windows and
# on its boards, and AMD's.
DRIVERS = ("nvidiactl", "nvidia0", "dxg", "nvmap", "kfd")


@dataclass(frozen=True)
class Device:
    """A device as torch has it: its type, such as cpu or cuda, and which one of several.

    >>> str(Device("cuda", 0)), str(CPU)
    ('cuda:0', 'cpu')
    """

    type: str
    index: int | None = None

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"


CPU = Device("cpu")


def available() -> list[str]:
    """List the devices of this machine as ``device=`` takes them."""
    import torch

    names = ["cpu"]
    if torch.cuda.is_available():
        names += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        names.append("mps")
    return names


def gpu_possible() -> bool:
    """Return whether there may be a CUDA GPU: the driver of one, where its place is known."""
    if sys.platform == "darwin":
        return False
    return sys.platform != "linux" or any(Path("/dev", name).exists() for name in DRIVERS)


def choose_device(name: str) -> Device:
    """Return the device called ``name``; auto is a CUDA GPU where there is one, else the CPU.

    Raises ValueError listing the available devices.
    """
    if name == "cpu" or (name == "auto" and not gpu_possible()):
        return CPU
    names = available()
    if name == "auto":
        name = "cuda" if "cuda" in names else "cpu"
    if name not in names:
        raise ValueError(
            f"device={name} is not available here; choose one of {', '.join(['auto', *names])}"
        )
    kind, _, index = name.partition(":")
    return Device(kind, int(index or 0) if kind == "cuda" else None)


@functools.cache
def describe(device: Device) -> dict[str, Any]:
    """Return what makes times comparable: the device's type, its name and its driver."""
    if device.type == "cuda":
        import torch

        return {
            "type": "cuda",
            "name": torch.cuda.get_device_name(device.index),
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
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
