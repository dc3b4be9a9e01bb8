"""The runs of a study in one table, on disk where they are many."""

from __future__ import annotations

import operator
from array import array
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from nnlab import records, storage
from nnlab.compact import Compact, Row, Table
from nnlab.long_lists import Pieces
from nnlab.report.curves import Reading
from nnlab.report.runs import RunRecord, right_of
from nnlab.report.selection import Runs
from nnlab.report.statistics import Array

# What a table of its own is for, and what is not kept.
PARTS = ("settings", "results", "overrides", "examples", "curves", "folder", "right", "every")
PLAIN = [each.name for each in fields(RunRecord) if each.name not in PARTS]
READ = [each.name for each in fields(Reading)]


class RunTable:
    """The runs of a study, as records that read their values in it.

    every: the curves have one epoch in so many. numbers: how many these are.
    """

    def __init__(self, study: Path) -> None:
        self.study = study
        self.plain, self.settings, self.results = Table(), Table(), Table()
        self.overrides, self.examples, self.readings = Table(), Table(), Table()
        self.curves = Pieces()
        self.latest: tuple[int, Mapping[str, Array]] | None = None
        self.every, self.numbers, self.longest = 1, 0, 0

    def run(self, row: int) -> RunRow:
        return RunRow(self, row)

    def runs(self) -> Runs:
        """Return the runs, in the order in which they came."""
        return Runs(self.run, array("I", range(self.plain.rows)))

    def curves_of(self, row: int) -> Mapping[str, Array]:
        """Return the curves of a run; of one that was asked for last, the same."""
        if self.latest is None or self.latest[0] != row:
            names = self.plain.columns["names"][row]
            numbers: Any = np.frombuffer(self.curves.piece(row)).reshape(len(names), -1)
            self.latest = row, Compact(names, numbers)
        return self.latest[1]

    def append(self, run: RunRecord, room: float) -> None:
        """Add a run. room: how many numbers the curves may have; where they are more, all are
        thinned, to one epoch in 2, 4, 8 and so on. What curves say is read before.

        Raises OSError where the disk has no room for them.
        """
        curves = run.thinned(self.every) if self.every > 1 else run.curves
        reading = run.reading
        plain = {name: getattr(run, name) for name in PLAIN} | {
            "folder_name": run.folder.name,
            "names": tuple(curves),
            "last_epoch": run.last_epoch,
            "still_falls": run.still_falls,
            "knows_right": run.knows_right,
        }
        self.plain.append(plain)
        self.curves.add(as_bytes(curves))
        self.settings.append(run.settings)
        self.results.append(run.results)
        self.examples.append(run.examples)
        self.overrides.append({str(place): text for place, text in enumerate(run.overrides)})
        self.readings.append({key: getattr(reading, key) for key in READ} if reading else {})
        self.numbers += len(curves) * len(curves["epoch"])
        self.longest = max(self.longest, run.last_epoch)
        while self.numbers > room and self.every < self.longest:
            self.thin(2 * self.every)

    def thin(self, every: int) -> None:
        thinned, self.numbers = Pieces(), 0
        for run in self.runs():
            curves = run.thinned(every)
            thinned.add(as_bytes(curves))
            self.numbers += len(curves) * len(curves["epoch"])
        self.curves, self.every, self.latest = thinned, every, None


def as_bytes(curves: Mapping[str, Array]) -> bytes:
    """Return the numbers of curves, one column after the other."""
    return b"".join(np.ascontiguousarray(values).tobytes() for values in curves.values())


class RunRow(RunRecord):
    """A run in a table."""

    __slots__ = ("row", "table")
    table: RunTable
    row: int

    def __init__(self, table: RunTable, row: int) -> None:
        object.__setattr__(self, "table", table)  # it is frozen, as those that were just read are
        object.__setattr__(self, "row", row)

    def plain(self, name: str) -> Any:
        return self.table.plain.columns[name][self.row]

    def __reduce__(self) -> tuple[Any, ...]:
        return RunRow, (self.table, self.row)

    @property
    def folder(self) -> Path:
        return self.table.study / str(self.plain("folder_name"))

    @property
    def every(self) -> int:
        return int(self.table.every)

    @property
    def settings(self) -> Row:
        return Row(self.table.settings, self.row)

    @property
    def results(self) -> Row:
        return Row(self.table.results, self.row)

    @property
    def examples(self) -> Row:
        return Row(self.table.examples, self.row)

    @property
    def overrides(self) -> tuple[str, ...]:
        return tuple(text for _, text in Row(self.table.overrides, self.row).items())

    @property
    def curves(self) -> Mapping[str, Array]:
        return self.table.curves_of(self.row)

    @property
    def reading(self) -> Reading | None:
        found = Row(self.table.readings, self.row)
        return Reading(**found) if found else None

    @property
    def still_falls(self) -> bool:
        return bool(self.plain("still_falls"))

    @property
    def knows_right(self) -> bool:
        return bool(self.plain("knows_right"))

    @property
    def last_epoch(self) -> int:
        return int(self.plain("last_epoch"))

    @property
    def right(self) -> Mapping[str, tuple[int, str]]:
        """Of many test examples the longest by far, and of few runs asked for: read again."""
        try:
            return right_of(records.undamaged(storage.read(self.folder / records.RESULT)))
        except (OSError, ValueError):
            return {}


for _name in PLAIN:
    setattr(RunRow, _name, property(operator.methodcaller("plain", _name)))
