"""The command line: ``python -m nnlab.run dataset=mnist train_size=500,1000 -m``.

What takes long to import is imported where it is used: by then signals are heeded.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nnlab import interrupts, memory, terminal

if TYPE_CHECKING:
    from nnlab.hydra_jobs import Command


def command_line() -> None:
    """Be a command in a process of its own."""
    memory.begin_command()
    interrupts.heed_to_the_end()
    main()


@terminal.standard_streams()
def main() -> None:
    """Do what the command line says, and leave the process as it was."""
    if "--version" in sys.argv[1:]:
        terminal.say(terminal.version())
        return
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        with interrupts.heeded(), alone():
            status = run(sys.argv[1:])
    except interrupts.Stopped as stopped:
        with interrupts.request.saving:  # what would end this now would tell it, too
            terminal.complain(str(stopped))
            interrupts.request.told = True
        sys.exit(stopped.status)
    except Exception as error:
        from nnlab import messages

        message = messages.explain(error)
        if wants_traceback or message is None:
            raise
        terminal.complain(message)
        sys.exit(1)
    sys.exit(status)


def run(given: list[str]) -> int:
    """Do what the arguments of a command line say; return its exit status."""
    from nnlab import hydra_jobs, sweeps

    command = hydra_jobs.Command()
    try:
        train(command, given)
        return sweeps.conclude(command.tally)
    finally:
        for line in command.last_lines:
            terminal.say(line)


def train(command: Command, given: list[str]) -> None:
    """Train what the arguments of a command line say; the command has a tally of them then."""
    import hydra

    from nnlab import arguments, compose, hydra_jobs, targets
    from nnlab.config import CONF

    compose.register()
    sys.argv[1:] = arguments.arrange(given)
    command.functions = targets.functions_named(given)
    decorate = hydra.main(config_path=str(CONF), config_name="config", **compose.VERSION_BASE)
    with targets.checked(), compose.quick_hydra(), hydra_jobs.checked_launchers():
        decorate(command)()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Give a command a process as if it were its own: afterwards it is as before."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    arguments_given, threshold = sys.argv[:], gc.get_threshold()
    full_error = os.environ.get("HYDRA_FULL_ERROR")
    hydra_now, composed = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    gc.set_threshold(100_000, 20)  # the default looks for garbage 100 times per job
    # Hydra words an error and ends the process itself unless told to raise it.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # Else Python's last search for garbage goes through all of torch: 0.3 s.
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
    forget()
    try:
        with terminal.logging_restored():
            yield
    finally:
        sys.argv[:] = arguments_given
        gc.set_threshold(*threshold)
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = hydra_now, composed
        forget()


def forget() -> None:
    """Drop what a command keeps while it lasts; what it did not need is not imported for this."""
    if "nnlab.records" in sys.modules:
        from nnlab import records

        records.git_revisions.cache_clear()
    if "nnlab.datasets" in sys.modules:
        from nnlab import datasets

        datasets.forget()
    if "nnlab.report.figure_process" in sys.modules:
        from nnlab.report import figure_process

        figure_process.stop()


if __name__ == "__main__":
    command_line()
