"""What a person sees while runs train: one line on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import threading
import time
from types import TracebackType

log = logging.getLogger("nnlab")


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
        self.bar = _bar(runs, work) if sys.stdout.isatty() else None

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


def pace(epochs: int, seconds: float) -> str:
    """Write how fast epochs follow one another, in the unit that has digits before the point.

    >>> pace(1200, 1.0), pace(9, 2.0), pace(1, 1.25), pace(2, 600.0)
    ('1,200 epochs/s', '4.5 epochs/s', '1.2 s/epoch', '300 s/epoch')
    """
    amount, unit = (
        (epochs / seconds, "epochs/s") if epochs > seconds else (seconds / epochs, "s/epoch")
    )
    return f"{amount:,.{0 if amount >= 10 else 1}f} {unit}"


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
