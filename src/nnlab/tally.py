"""What a command tells at its end, in little room however many runs it has trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnlab import messages, records
from nnlab.config import ReportConfig
from nnlab.jobs import Outcome

NAMED = 3  # runs that one error kept from their end
LISTED = 100  # errors, or files of evaluations, that are told


@dataclass
class Part:
    """What a command has asked of one study.

    runs: how many. ended: whether any came to its end. latest: the outcome of the last. report:
    what it is to show; None where no run was composed, as all were answered before. evaluated: the
    files of evaluations, LISTED at most; unlisted: how many more there are. left: the folders of
    runs in which a killed process has left something.
    """

    runs: int = 0
    ended: bool = False
    latest: Outcome | None = None
    report: ReportConfig | None = None
    evaluated: list[Path] = field(default_factory=list)
    unlisted: int = 0
    left: list[Path] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.runs += 1
        self.latest = outcome
        if self.report is None and outcome.job.config is not None:
            self.report = outcome.job.config.report
        if outcome.result is not None:
            self.ended = True
            if any((outcome.folder / name).exists() for name in records.LEFT):
                self.left.append(outcome.folder)
        room = LISTED - len(self.evaluated)
        self.evaluated += outcome.evaluation_files[:room]
        self.unlisted += len(outcome.evaluation_files[room:])


@dataclass
class Failure:
    """An error: how many runs it kept from their end, and the names of the first."""

    runs: int = 0
    names: list[str] = field(default_factory=list)


class Tally:
    """The outcomes of a command's runs, of which it keeps what there is to tell.

    studies: its part in each, by their folders. failed: how many runs have an error, of which
    first is the first, and refused whether all are refusals. folders: of the runs that came to
    their end; None where nobody asks for them.
    """

    def __init__(self, outcomes: Iterable[Outcome] = ()) -> None:
        self.runs = 0
        self.planned = False
        self.studies: dict[Path, Part] = {}
        self.failures: dict[str, Failure] = {}
        self.failed = 0
        self.first: Exception | None = None
        self.refused = True
        self.folders: list[Path] | None = None
        self.add(outcomes)

    def add(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            self.runs += 1
            self.planned |= outcome.job.config is not None and outcome.job.config.plan
            self.studies.setdefault(outcome.job.folder.parent, Part()).add(outcome)
            if (message := explain(outcome)) is not None:
                self.fail(outcome, message)
            if self.folders is not None and outcome.result is not None:
                self.folders.append(outcome.folder)

    def fail(self, outcome: Outcome, message: str) -> None:
        self.failed += 1
        self.first = self.first or outcome.error
        self.refused &= isinstance(outcome.error, ValueError)
        if len(self.failures) < LISTED or message in self.failures:
            found = self.failures.setdefault(message, Failure())
            found.runs += 1
            found.names += [outcome.job.name] * (len(found.names) < NAMED)

    def errors(self, problems: Sequence[str] = ()) -> list[str]:
        """Say each distinct error once, with the runs that it kept from ending.

        problems: messages of what else went wrong.
        """
        lines = [problem for problem in problems if problem not in self.failures]
        for message, failure in self.failures.items():
            more = failure.runs - len(failure.names)
            shown = ", ".join(failure.names) + f" and {more} more" * (more > 0)
            named = self.runs > 1 and not message.startswith(f"{shown} ")
            lines.append(f"{shown}: {message}" if named else message)
        others = self.failed - sum(failure.runs for failure in self.failures.values())
        return lines + [f"and {others:,} more runs, for other reasons"] * (others > 0)


def explain(outcome: Outcome) -> str | None:
    """Say what kept a run from its end, if anything did."""
    error, folder = outcome.error, outcome.job.folder
    if error is None:
        return None
    unforeseen = f"{type(error).__name__}: {error}; traceback in {folder / records.LOG}"
    return messages.explain(error, folder.parent) or unforeseen
