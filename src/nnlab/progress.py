"""What a person sees while runs train: one line on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.status import Status

log = logging.getLogger("nnlab")
EVERY = 10.0  # seconds between two lines on how batches stand, where there is no terminal


def on_terminal() -> bool:
    """Return whether standard output, which a program may lack or have closed, is a terminal."""
    return sys.stdout is not None and not sys.stdout.closed and sys.stdout.isatty()


class Progress:
    """Counts epochs and runs; safe to call from the threads that train.

    work: the examples that all runs will see if none stops early, which time left is
    judged by.
    """

    def __init__(self, runs: int, work: int) -> None:
        self.runs = runs
        self.ended = 0
        self.told: set[str] = set()
        self.epochs = 0
        self.lock = threading.Lock()
        self.bar = _bar(runs, work) if on_terminal() else None

    def __enter__(self) -> Progress:
        self.started = time.perf_counter()
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def epoch(self, examples: int) -> None:
        """Count one epoch of one run."""
        with self.lock:
            self.epochs += 1
            if self.bar is not None:
                rate = pace(self.epochs, time.perf_counter() - self.started)
                self.bar.update(self.bar.task_ids[0], advance=examples, rate=rate)

    def tell(self, line: str) -> None:
        """Print a line, unless it was told before."""
        with self.lock:
            if line not in self.told:
                self.told.add(line)
                log.info("%s", line)

    def end(self, line: str, examples_left: int = 0) -> None:
        """Count a run that ended, ``examples_left`` before it could have."""
        with self.lock:
            self.ended += 1
            if self.bar is None:
                log.info("[%d/%d] %s", self.ended, self.runs, line)
            else:
                task = self.bar.task_ids[0]
                self.bar.update(task, advance=examples_left, ended=self.ended)


class BatchProgress:
    """Shows how the runs of batches stand: a line on a terminal, log lines elsewhere.

    work: what all runs cost together, which time left is judged by.
    """

    def __init__(self, runs: int, work: float) -> None:
        self.runs = runs
        self.work = work
        self.line = ""
        self.begun: tuple[float, float] | None = None  # when, and what of the work was done then
        self.next_line = 0.0
        self.console = _status() if on_terminal() else None

    def __enter__(self) -> BatchProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Clear the terminal's line, until there is another."""
        if self.console is not None:
            self.console.stop()

    def show(self, counts: Mapping[str, int], done: float) -> None:
        """Show how many runs are in each state; done: what of the work is."""
        now = time.monotonic()
        ended = counts.get("done", 0) + counts.get("failed", 0)
        line = f"{counts.get('done', 0):,} of {self.runs:,} runs done"
        for state in ("running", "queued", "elsewhere", "failed"):
            line += f", {counts[state]:,} {state}" if counts.get(state) else ""
        if self.console is None and (
            line == self.line or (now < self.next_line and ended < self.runs)
        ):
            return
        self.line, self.next_line = line, now + EVERY
        if self.begun is None and counts.get("running"):
            self.begun = now, done
        if self.begun is not None and done > self.begun[1] and ended < self.runs:
            left = (self.work - done) * (now - self.begun[0]) / (done - self.begun[1])
            line += f", about {timedelta(seconds=round(left))} left"
        if self.console is None:
            log.info("%s", line)
        else:
            self.console.update(line)
            self.console.start()


class EpochBar:
    """A bar of the epochs of one run, also in a notebook."""

    def __init__(self, epochs: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where a notebook has no widgets, a text does
            from tqdm.auto import tqdm  # type: ignore[import-untyped]
        self.bar = tqdm(total=epochs, unit=" epochs")

    def __enter__(self) -> EpochBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def show(self, row: Mapping[str, float | None]) -> None:
        """Count an epoch, and show what it came to: a row of metrics.csv."""
        measured = {
            name.replace("_", " "): f"{value:.4g}"
            for name, value in row.items()
            if name not in ("epoch", "seconds") and value is not None
        }
        self.bar.set_postfix(measured, refresh=False)
        self.bar.update()


def pace(epochs: int, seconds: float) -> str:
    """Write how fast epochs follow one another, in the unit that has digits before the point.

    >>> pace(1200, 1.0), pace(9, 2.0), pace(1, 1.25), pace(2, 600.0)
    ('1,200 epochs/s', '4.5 epochs/s', '1.2 s/epoch', '300 s/epoch')
    """
    amount, unit = (
        (epochs / seconds, "epochs/s") if epochs > seconds else (seconds / epochs, "s/epoch")
    )
    return f"{amount:,.{0 if amount >= 10 else 1}f} {unit}"


def _status() -> Status:
    from rich.console import Console

    return Console().status("")


def _bar(runs: int, work: int):  # type: ignore[no-untyped-def]
    from rich import progress

    bar = progress.Progress(
        progress.TextColumn("{task.fields[ended]}/" + f"{runs} runs"),
        progress.BarColumn(),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeRemainingColumn(),
        transient=True,
    )
    bar.add_task("", total=work, ended=0, rate="")
    return bar
