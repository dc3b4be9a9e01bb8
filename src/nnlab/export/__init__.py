"""Finished runs, as other tools for experiments take them."""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from nnlab import records, storage, study
from nnlab.analysis import EVALUATION_FILES
from nnlab.datasets import images
from nnlab.report.columns import Column, shown
from nnlab.report.run_folders import distinct, read_all
from nnlab.report.runs import RunRecord, Value, varied
from nnlab.text import visible

log = logging.getLogger("nnlab")
FILES = (
    *(records.RESULT, records.METRICS, records.LOG, records.WEIGHTS, records.CURVES),
    *EVALUATION_FILES,
)
STAMP = re.compile(r"^\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3})\] ", re.MULTILINE)


@dataclass(frozen=True)
class FinishedRun:
    """A run that has ended, and when: seconds since 1970. Its texts are visible, hence UTF-8.

    columns: the results that the study's runs have, as in summary.csv.
    """

    run: RunRecord
    columns: list[Column]
    started: float
    ended: float

    @property
    def name(self) -> str:
        return visible(self.run.folder.name)

    @property
    def failed(self) -> bool:
        """Whether its network is of no use."""
        return self.run.status == "diverged"

    @functools.cached_property
    def key(self) -> str:
        """A digest, equal for runs whose numbers are equal: of fingerprint, data, what computed."""
        return hashlib.sha256(repr(self.run.computed).encode()).hexdigest()[:16]

    @property
    def options(self) -> dict[str, Value]:
        """What the run was trained with, by dotted keys; without those that are null."""
        return {
            key: visible(value) if isinstance(value, str) else value
            for key, value in self.run.settings.items()
            if value is not None
        }

    @property
    def results(self) -> dict[str, float]:
        """The numbers of its row in summary.csv that are finite."""
        return {
            name: value
            for name, value in self._row().items()
            if isinstance(value, (int, float)) and math.isfinite(value)
        }

    @property
    def texts(self) -> dict[str, str]:
        """The texts of its row in summary.csv, and its fingerprint."""
        known = {"fingerprint": self.run.results.get("fingerprint")} | self._row()
        return {name: visible(value) for name, value in known.items() if isinstance(value, str)}

    def _row(self) -> dict[str, Value]:
        return {column.csv: column.of(self.run) for column in self.columns}

    def epochs(self) -> Iterator[tuple[int, float, dict[str, float]]]:
        """Yield each epoch, when it ended, and what metrics.csv has of it that is finite.

        Only training is timed: evaluation, or a break, would have every epoch end later.
        """
        curves = self.run.curves
        for row, epoch in enumerate(curves["epoch"]):
            measured = {
                f"epoch/{name}": float(values[row])
                for name, values in curves.items()
                if name != "epoch" and math.isfinite(values[row])
            }
            ended = self.started + measured.get("epoch/seconds", 0.0)
            yield int(epoch), min(ended, self.ended), measured

    @functools.cached_property
    def files(self) -> list[Path]:
        """Its files; a link among them, which may lead anywhere, is left out."""
        paths = [self.run.folder / name for name in FILES]
        for link in filter(Path.is_symlink, paths):
            log.warning("left out %s: it is a link", link)
        return [path for path in paths if path.is_file() and not path.is_symlink()]

    @functools.cached_property
    def pictures(self) -> list[Path]:
        return [path for path in self.files if path.suffix == ".png" and is_picture(path)]


@dataclass(frozen=True)
class Finished:
    """The finished runs of a study; varied: the options that differ between them; left_out:
    how many others there are, unfinished or damaged."""

    study: str
    runs: list[FinishedRun]
    varied: list[str]
    left_out: int


def is_picture(path: Path) -> bool:
    """Return whether a file holds a whole PNG image; where it is damaged, say so."""
    try:
        with storage.opened(path) as file, images.opened(file) as image:
            return image.format == "PNG"
    except Exception as error:  # decoders raise anything for damaged files
        log.warning("left out %s: %s", path, images.explained(error))
        return False


def finished(folder: Path) -> Finished:
    """Read the finished runs of a study. Raises OSError where there is none to be read."""
    every, damaged = read_all(folder)
    whole = study.look(folder).entries
    done = [run for run in every if run.folder.name in whole and whole[run.folder.name].done]
    runs = distinct(done)
    columns = shown("csv", runs)
    made = [FinishedRun(run, columns, *times(run)) for run in runs]
    left_out = len(every) + len(damaged) - len(done)
    return Finished(visible(folder.resolve().name), made, varied(runs), left_out)


def times(run: RunRecord) -> tuple[float, float]:
    """Return when a run was begun and when it ended, in seconds since 1970, as its log says.

    Without a log, or with one that is damaged: it ended when its result was written.
    """
    try:
        log = storage.read(run.folder / records.LOG).decode(errors="replace")
        first, *_, last = 2 * STAMP.findall(log)
        return datetime.fromisoformat(first).timestamp(), datetime.fromisoformat(last).timestamp()
    except (OSError, ValueError, OverflowError):
        ended = (run.folder / records.RESULT).stat().st_mtime
        return ended - run.train_seconds, ended
