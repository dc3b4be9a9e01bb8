"""How much memory is left, by files as Linux has them."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest

from nnlab import memory

MEMINFO = (
    "MemTotal: 9000 kB\nMemFree: 100 kB\nMemAvailable: 6000 kB\nSwapFree: 500 kB\nHugePages: 0\n"
)
KIB = 1024


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "limits", lambda: iter(()))
    put(tmp_path / "proc/meminfo", MEMINFO)
    put(tmp_path / "proc/self/cgroup", "0::/\n")
    return tmp_path


def put(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def group(folder: Path, limit: str, used: int, cached: int) -> None:
    put(folder / "memory.max", f"{limit}\n")
    put(folder / "memory.current", f"{used}\n")
    put(folder / "memory.stat", f"anon 5\ninactive_file {cached}\nactive_file 7\nfile 99\n")


def test_what_lies_between_what_is_used_is_given_back() -> None:
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("the C library is not glibc")

    def resident() -> int:
        return memory.kilobytes(Path("/proc/self/status"))["VmRSS"]

    held = [bytes(2000) for _ in range(50_000)]  # 100 MB
    kept = held[::10]
    circle: list[object] = [held]
    circle.append(circle)
    del held, circle
    filled = resident()
    memory.give_back()
    assert resident() < filled - 50e6
    assert len(kept) == 5000


def test_without_groups_it_is_what_the_machine_has(system: Path) -> None:
    assert memory.free() == 6500 * KIB


def test_the_tightest_group_counts_without_its_files(system: Path) -> None:
    put(system / "proc/self/cgroup", "1:name=systemd:/x\n0::/slice/job/step\n")
    group(system / "cgroup/slice", "5000000", 3000000, 1000)
    group(system / "cgroup/slice/job", "4000000", 3500000, 200000)
    group(system / "cgroup/slice/job/step", "max", 10, 0)
    assert memory.free() == 4000000 - (3500000 - 200000 - 7) + 500 * KIB
    group(system / "cgroup/slice/job", "4000000", 9000000, 0)
    assert memory.free() == 0


def test_a_container_finds_its_group_at_the_root(system: Path) -> None:
    put(system / "proc/self/cgroup", "4:cpu,memory:/docker/abc\n")
    folder = system / "cgroup/memory"
    put(folder / "memory.limit_in_bytes", "3000000\n")
    put(folder / "memory.usage_in_bytes", "1000000\n")
    put(
        folder / "memory.stat",
        "inactive_file 4\ntotal_inactive_file 300\ntotal_active_file 20\n",
    )
    assert memory.free() == 3000000 - (1000000 - 320) + 500 * KIB


def test_elsewhere_it_is_not_known_and_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "PROC", tmp_path)
    assert memory.free() is None
    memory.check(10**18, "all of it", "buy some")


@pytest.mark.skipif(sys.platform != "linux", reason="limits are told by /proc")
@pytest.mark.parametrize(("limit", "entry"), [("RLIMIT_AS", "VmSize"), ("RLIMIT_DATA", "VmData")])
def test_the_limits_of_the_process_count(
    limit: str, entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    used = memory.kilobytes(memory.PROC / "self/status")[entry]
    unlimited = resource.RLIM_INFINITY

    def limits(asked: int) -> tuple[int, int]:
        return (used + 10**7 if asked == getattr(resource, limit) else unlimited, unlimited)

    monkeypatch.setattr(resource, "getrlimit", limits)
    # What the test itself takes meanwhile, at most.
    assert 10**7 - 2**20 <= (memory.free() or 0) <= 10**7 + 2**20


def test_what_does_not_fit_is_refused_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free", lambda: 7_100_000_000)
    memory.check(7_100_000_000, "it", "")
    with pytest.raises(
        ValueError, match=r"^it needs 160 GB of memory, 7\.1 GB is free; shrink it$"
    ):
        memory.check(160_000_000_000, "it", "shrink it")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system does not tell")
def test_what_cannot_be_foreseen_is_bounded() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    said = r"^it needs more than 1 MB of memory, .*; shrink it, or see whether it is damaged$"
    with pytest.raises(memory.NoRoomError, match=said), memory.bounded("it", "shrink it", 10**6):
        bytes(10**8)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    with memory.bounded("it", "shrink it"):
        assert len(bytes(10**8)) == 10**8
    assert resource.getrlimit(resource.RLIMIT_AS) == before
