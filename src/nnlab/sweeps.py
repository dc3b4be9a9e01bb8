"""A command's story: which runs are done, training the others, its tables, figures and errors."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnlab import (
    build,
    claims,
    cores,
    interrupts,
    memory,
    messages,
    records,
    schedule,
    storage,
    study,
    terminal,
)
from nnlab.config import Config, ReportConfig
from nnlab.jobs import Job, Outcome, Task
from nnlab.tally import Tally
from nnlab.text import visible

if TYPE_CHECKING:
    from nnlab.report import Report

log = logging.getLogger("nnlab")
TWO_JOBS = "two jobs map to folder {}; give each value once, or one of them another study="


class Here:
    """Trains on this machine, in this process.

    waits: whether it trains elsewhere, and this process waits for it.
    """

    waits = False

    def plan(self, tasks: Sequence[Task]) -> None:
        """Tell what training would cost."""
        from nnlab import plan

        plan.show(plan.make(tasks, cores.usable(tasks[0].config.cores)))

    def train(self, tasks: Sequence[Task]) -> None:
        """Train all tasks, whose outcomes then tell what became of them."""
        schedule.train(tasks)


HERE = Here()


def train(
    jobs: Sequence[Job],
    report: bool = False,
    where: Here = HERE,
    forced: set[str] | None = None,
) -> list[Outcome]:
    """Train what is not done yet, each run into its folder; one bad job harms no other.

    report: whether this process is to ``conclude``, and may prepare for its figures. forced: the
    fingerprints of the runs that this command was to train anew, by batches before; added to.

    Returns an outcome per job, in order. Raises Stopped where a signal asked to stop: every run
    under way is saved after its epoch, and the same command goes on from there.
    """
    outcomes = [Outcome(job) for job in jobs]
    waiting = sort_out(outcomes, set() if forced is None else forced)
    done = sum(outcome.result is not None for outcome in outcomes)
    if done:
        log.info("already done: %d of %d (force=true trains anew)", done, len(jobs))
    if done == len(jobs) and any(each.job.config and each.job.config.plan for each in outcomes):
        log.info("plan=true: nothing is left to train")
    if waiting:
        # What has torch, as notebooks do, mostly has matplotlib, too.
        idle = "torch" not in sys.modules and (where.waits or cores.usable() > len(waiting))
        if report and idle and not waiting[0][1].plan:
            from nnlab.report import figure_process

            figure_process.start()  # on a core that no run needs, whose time it would lengthen
        tasks = build.prepare(waiting)
        planned = [task for task in tasks if task.config.plan]
        if planned:
            where.plan(planned)
        if unplanned := [task for task in tasks if not task.config.plan]:
            where.train(unplanned)
        interrupts.check()
    run_evaluations(outcomes)
    written: records.HydraFiles = {}
    for job in jobs:
        job.hydra_files = written  # they are in the folders now
    return outcomes


def sort_out(outcomes: Sequence[Outcome], forced: set[str]) -> list[tuple[Outcome, Config]]:
    """Find the runs that are done, and refuse what cannot be trained; return the others.

    forced: see ``train``.
    """
    waiting: list[tuple[Outcome, Config]] = []
    taken: dict[Path, str] = {}  # the fingerprint that a folder is for
    data: dict[str, str | None] = {}  # their content now, by what asks for them
    twins: list[str] = []
    unknown: dict[Path, set[str]] = {}  # by studies, the fingerprints of what is not known as done
    for outcome in outcomes:
        job = outcome.job
        if job.found is None:
            outcome.error = end_replacement(job)
            asked = unknown.setdefault(job.folder.parent, set())
            asked.update([job.fingerprint] if job.config is not None else [])
    known = {folder: study.look(folder, asked).find(asked) for folder, asked in unknown.items()}
    for outcome in outcomes:
        job, config = outcome.job, outcome.job.config
        outcome.error = outcome.error or job.refused
        if outcome.error is not None:
            continue
        try:
            found = job.found
            result = None if found is None else found.result
            if config is not None:
                records.check_no_link(job.folder)
                if taken.setdefault(job.folder, job.fingerprint) != job.fingerprint:
                    raise ValueError(TWO_JOBS.format(job.folder))
                config = unless_forced(job, config, forced)
                found = earlier(job, config, known[job.folder.parent][job.fingerprint], data)
                if found is not None and not config.force:
                    result = ended_still(job.folder.parent, found)
                    found = None if result is None else found
        except Exception as error:
            outcome.error = error
            continue
        if found is not None and found.folder != job.name:
            outcome.twin = job.folder.parent / found.folder
            twins.append(f"{visible(job.name)} is {visible(found.folder)}")
        if result is not None:
            outcome.result = result
        elif config is not None:
            waiting.append((outcome, config))
    forced.update(outcome.job.fingerprint for outcome, config in waiting if config.force)
    shown = ", ".join(twins[:5]) + (f" and {len(twins) - 5:,} more" if twins[5:] else "")
    if twins:
        log.info("the same under another name: %s", shown)
    return waiting


def end_replacement(job: Job) -> Exception | None:
    """Have the run that a job has trained with force=true take its place, where that was broken
    off; return why it cannot."""
    try:
        planned = job.config is None or job.config.plan  # nothing is written then
        if not planned and storage.is_folder(job.folder / records.NEW):
            with claims.exclusive(job.folder.parent):
                records.settle(job.folder)
    except (OSError, ValueError) as error:
        return error
    return None


def ended_still(folder: Path, entry: study.Entry) -> Mapping[str, Any] | None:
    """Return what the file of a run says that a study's index has as ended; None where that run is
    gone meanwhile, or begun anew. Raises as ``records.read_result``."""
    result = records.read_result(folder / entry.folder)
    if result is None or result["status"] not in records.DONE:
        return None
    return study.short(result) if entry.answers(result["fingerprint"]) else None


def unless_forced(job: Job, config: Config, forced: set[str]) -> Config:
    """Return a configuration, without force=true where this command has trained its run anew.

    Raises ValueError where it has trained another in the job's folder.
    """
    if not config.force or not forced:
        return config
    if job.fingerprint in forced:
        return replace(config, force=False)
    there = None
    with contextlib.suppress(ValueError):  # it is damaged, and will be trained anew
        there = records.read_result(job.folder)
    if there is not None and there["fingerprint"] in forced:
        raise ValueError(TWO_JOBS.format(job.folder))
    return config


def earlier(
    job: Job, config: Config, runs: Sequence[study.Entry], data: dict[str, str | None]
) -> study.Entry | None:
    """Return the run of a study that a job is: the same computation, on the data that are there.

    runs: those of the study that compute the same. data: the content of the data that are there, as
    far as it is known; what is asked is added.
    Raises ValueError where that run saw other data, or where another run has the job's folder,
    and as ``datasets.content`` does for data that cannot be read.
    """
    from nnlab import datasets

    identity = job.identity
    found = [
        entry for entry in runs if entry.done and records.serves(entry.result, identity["config"])
    ]
    found.sort(key=lambda entry: entry.folder != job.name)
    old = [entry for entry in found if not records.same_numbers(entry.result)]
    if old and not config.force and not config.plan:
        raise ValueError(records.told_numbers(job.folder.parent / old[0].folder))
    found = [entry for entry in found if entry not in old]
    asked = study.data_key(identity["config"])
    if found and asked not in data:
        data[asked] = datasets.content(config.dataset, config.sizes)
        if data[asked] is None:
            log.info("cannot tell whether the data have changed, for there are none")
    now = data.get(asked)
    for entry in found:
        if entry.content == now or (entry.data == asked and (now is None or config.force)):
            return entry
    if config.force or config.plan:  # the latter writes nothing, so nothing is in its way
        return None
    for entry in found:
        if entry.data == asked or entry.folder == job.name:
            source = datasets.choose_source(config.dataset, config.sizes).name
            raise ValueError(
                f"{job.folder.parent / entry.folder} is this run, but saw other data than there "
                f"are now ({source}); bring those back, give it another study=NAME, or train it "
                f"anew with force=true"
            )
    records.finished_result(job.folder, **identity)
    return None


def run_evaluations(outcomes: Sequence[Outcome]) -> None:
    """Do what ``evaluation=`` asks of every run that has come to its end."""
    for outcome in outcomes:
        config = outcome.job.config
        if config is None or not config.evaluation or config.plan or outcome.result is None:
            continue
        if outcome.elsewhere:  # its worker has done that
            continue
        if outcome.result["status"] == "diverged":
            log.info("%s diverged: its network is not evaluated", outcome.job.name)
            continue
        from nnlab.analysis import evaluations

        storage.clear_left_overs(outcome.folder)
        try:
            outcome.evaluation_files = evaluations.evaluate(config, outcome.folder)
        except Exception as error:
            outcome.error = error
        memory.give_back()  # the figures, some 10 MB, which refer to themselves


def conclude(tally: Tally) -> int:
    """Write the tables and figures of a command's runs, print them and tell the errors.

    Returns the exit status: 0 only if every run came to its end.
    """
    reports, problems = write_reports(tally)
    for shown, files in reports:
        terminal.show(shown)
        terminal.say(*files)
    return tell_errors(tally, problems)


def write_reports(tally: Tally) -> tuple[list[tuple[Report, list[Path | str]]], list[str]]:
    """Write the tables and figures of a command's runs.

    What is there already, of the runs as they are, is not made again. Returns the report of each
    study with the files to tell of, and messages of what went wrong.
    """
    studies = {} if tally.planned else {k: part for k, part in tally.studies.items() if part.ended}
    reports, problems = [], []
    if studies:
        from nnlab import report
    for folder, part in studies.items():
        interrupts.check()
        clear_up(folder, part.left)
        # Jobs that were not composed, as they were answered before, asked for no more.
        asked = part.report or ReportConfig.usual()
        runs = study.look(folder)
        alone = part.latest if part.runs == 1 else None
        curves = [alone.folder] if alone and (alone.result or {}).get("epochs") else []
        drawn = all((each / records.CURVES).is_file() for each in curves)
        if runs.reported() and drawn and not asked.asks and not part.evaluated:
            shown = report.look(folder)
        else:
            try:
                with claims.exclusive(folder):
                    shown = report.write_report(
                        folder,
                        curves=curves,
                        predict=asked.predict,
                        formats=asked.formats,
                        loss_scale=asked.loss_scale.name,
                        style=asked.style.name,
                    )
                    runs.save(report=shown.files)
            except (OSError, memory.NoRoomError) as error:  # the disk is full, or only to be read
                shown = report.look(folder, asked.predict)
                problems.append(messages.explain(error, folder) or str(error))
        files: list[Path | str] = [*(shown.files or [folder]), *part.evaluated]
        files += [f"and {part.unlisted:,} more, in the folders of the runs"] * (part.unlisted > 0)
        reports.append((shown, files))
        runs.save()
    return reports, problems


def clear_up(folder: Path, left: Sequence[Path]) -> None:
    """Remove what killed processes have left in a study, and in those of its runs where there is
    something."""
    patterns = (claims.PROCESSES, storage.LEFT_OVER, claims.BATCHES)
    if any(any(storage.matching(folder, each)) for each in patterns) or left:
        with contextlib.suppress(OSError), claims.exclusive(folder):  # a disk may be only to read
            claims.clear_dead(folder)
            if (folder / claims.BATCHES).exists():
                claims.clear_batches(folder, study.look(folder).ended)
            storage.clear_left_overs(folder)
            for run in left:
                records.clear_up(run)


def tell_errors(tally: Tally, problems: Sequence[str] = ()) -> int:
    """Print each line of its errors; return the exit status that follows."""
    lines = tally.errors(problems)
    for line in lines:
        terminal.complain(line)
    return int(bool(lines))
