"""What a section of the benchmarks found: tables for people, numbers in JSON, the machine."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.race import Measured, ratio
from nnlab import device, records, storage

HERE = Path(__file__).parent
STORED = HERE / "results"
README = HERE / "README.md"
BEGIN, END = "<!-- begin results: python -m benchmarks --write -->", "<!-- end results -->"
PACKAGES = (
    *("nnlab", "torch", "numpy", "scikit-learn", "skorch", "lightning", "keras"),
    *("jax", "jaxlib", "hydra-core"),
)


@dataclass
class Options:
    """quick: a smoke run, whose numbers mean nothing. folder: the official MNIST files."""

    quick: bool = False
    folder: Path = Path("data/mnist")


@dataclass
class Table:
    title: str
    columns: Sequence[str]
    rows: list[list[str]]
    note: str = ""


@dataclass
class Target:
    """A number that the issue asks for, and what was reached (None: not measured)."""

    text: str
    wanted: float
    reached: float | None
    unit: str = "x"
    at_least: bool = True

    def row(self) -> list[str]:
        word = "at least" if self.at_least else "at most"
        wanted = f"{word} {self.wanted:g} {self.unit}"
        if self.reached is None:
            return [self.text, wanted, "-", "not measured"]
        met = self.reached >= self.wanted if self.at_least else self.reached <= self.wanted
        return [self.text, wanted, f"{self.reached:.2f} {self.unit}", "yes" if met else "**no**"]


@dataclass
class Result:
    """A section's outcome. raw: every measured number, JSON values."""

    section: str
    about: str
    tables: list[Table]
    targets: list[Target] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)


def timing_table(
    title: str, measured: Sequence[Measured], base: str, unit: str = "µs per step", note: str = ""
) -> Table:
    """Tabulate a race; base: the label of what the others are compared with."""
    yardstick = next((m for m in measured if m.label == base and not m.problem), None)
    columns = [
        *(title, unit, "quartiles", f"times {base}", "CPU time, µs", "set-up, s"),
        "test accuracy",
    ]
    rows = []
    for each in measured:
        if each.problem or not each.seconds:
            rows.append([each.label, each.problem or "-", *[""] * 5])
            continue
        low, middle, high = each.quartiles()
        rows.append(
            [
                each.label,
                number(middle),
                f"{number(low)} to {number(high)}",
                f"{ratio(each, yardstick):.2f}" if yardstick is not None else "-",
                number(1e6 * statistics.median(each.cpu) / each.steps) if each.cpu else "",
                f"{each.setup:.1f}" if each.setup is not None else "",
                f"{100 * each.accuracy:.1f} %" if each.accuracies else "",
            ]
        )
    return Table(title, columns, rows, note)


def times(measured: Sequence[Measured], slower: str, faster: str) -> float | None:
    """Return how many times as long ``slower`` took as ``faster``, if both were timed."""
    by_label = {each.label: each for each in measured if each.seconds and not each.problem}
    if slower not in by_label or faster not in by_label:
        return None
    return ratio(by_label[slower], by_label[faster])


def raw(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    return [asdict(each) | {"micros_per_step": each.micros} for each in measured]


def number(value: float) -> str:
    """Write a positive number with three significant digits or all before the point.

    >>> number(4.567), number(45.67), number(4567.8)
    ('4.57', '45.7', '4,568')
    """
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}"


def machine() -> dict[str, Any]:
    """Describe the machine and the software, and how busy others kept it."""
    described: dict[str, Any] = {
        "cpu": device.describe(device.CPU)["name"],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "instructions": [name for name in ("avx2", "avx512f") if name in _cpu_flags()],
        "memory_gib": _memory_gib(),
        "system": platform.platform(),
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "git": records.git_revisions()["nnlab"],
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | versions(),
    }
    if torch.cuda.is_available():
        described["gpu"] = device.describe(device.Device("cuda", 0))
    return described


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    # A build may say more than the package's metadata: torch's carries +cpu or +cu130.
    return found | {"torch": torch.__version__}


def _cpu_flags() -> list[str]:
    information = Path("/proc/cpuinfo")
    if not information.exists():
        return []
    lines = information.read_text(errors="replace").splitlines()
    return next((line.split() for line in lines if line.startswith("flags")), [])


def _memory_gib() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def store(result: Result, where: dict[str, Any]) -> Path:
    """Write a section's JSON, which the README's tables are made from."""
    STORED.mkdir(exist_ok=True)
    path = STORED / f"{result.section}.json"
    content = {"machine": where} | asdict(result)
    storage.write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())
    return path


def stored(path: Path) -> tuple[Result, dict[str, Any]]:
    content = json.loads(path.read_text(encoding="utf-8"))
    where = content.pop("machine")
    content["tables"] = [Table(**table) for table in content["tables"]]
    content["targets"] = [Target(**target) for target in content["targets"]]
    return Result(**content), where


def markdown(result: Result, where: dict[str, Any]) -> str:
    """Write a section as Markdown: what it measured and where, tables, targets."""
    gpu = where.get("gpu") if result.section == "gpu" else None
    on = f"{where['cpu']}, {where['cores']} cores"
    on = f"{gpu['name']}, driver {gpu.get('driver')}, in a machine with {on}" if gpu else on
    used = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    instructions = " and ".join(where["instructions"]) or "no vector instructions listed"
    load, day = where["load_before"][0], where["date"][:10]
    parts = [
        f"## {result.section}",
        result.about,
        f"{on} ({instructions}), load before {load}, {day}; {used}.",
    ]
    for table in result.tables:
        parts.append(grid([table.columns, *table.rows]))
        if table.note:
            parts.append(table.note)
    if result.targets:
        head = ["to reach", "wanted", "here", "reached"]
        parts.append(grid([head, *(target.row() for target in result.targets)]))
    return "\n\n".join(parts) + "\n"


def grid(rows: Sequence[Sequence[str]]) -> str:
    """Write rows as a Markdown table; the first is the head, the first column text.

    >>> print(grid([["way", "time"], ["a", "1"]]))
    | way | time |
    | --- | ---: |
    | a | 1 |
    """
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    rule = "| --- |" + " ---: |" * (len(rows[0]) - 1)
    return "\n".join([lines[0], rule, *lines[1:]])


def rewrite_readme(order: Sequence[str]) -> None:
    """Put the tables of all stored results between the README's two markers."""
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    paths = [STORED / f"{section}.json" for section in order]
    shown = "\n".join(markdown(*stored(path)) for path in paths if path.exists())
    storage.write_atomic(README, f"{before}{BEGIN}\n\n{shown}\n{END}{after}".encode())
