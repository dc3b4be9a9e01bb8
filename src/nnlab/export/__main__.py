"""``python -m nnlab.export STUDY --to mlflow``: finished runs for TensorBoard, MLflow and W&B."""

from __future__ import annotations

import argparse
import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm  # type: ignore[import-untyped]

from nnlab import claims, refusals, terminal
from nnlab.export import Finished, finished, mlflow, tensorboard, wandb

LOCK = ".export.lock"  # of a study; of two exports at once each would write what the other does
# What writes the runs that are not there yet, telling of each run whether it did so; where, by
# default.
TOOLS: dict[str, tuple[Callable[[Finished, str], Iterator[bool]], str]] = {
    "tensorboard": (tensorboard.write, "{study}/tensorboard"),
    "mlflow": (mlflow.write, "sqlite:///mlflow.db"),
    "wandb": (wandb.write, "{study}/wandb"),
}


@terminal.standard_streams()
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m nnlab.export",
        description=__doc__,
        epilog="Each tool is an extra: pip install 'nnlab[mlflow]'. Runs that are there already "
        "are not written again.",
    )
    terminal.add_version(parser)
    parser.add_argument("study", type=terminal.path, help="a study, say outputs/mnist")
    parser.add_argument("--to", choices=TOOLS, required=True, help="the tool")
    parser.add_argument(
        "--into",
        metavar="WHERE",
        help="a folder (STUDY/tensorboard, STUDY/wandb); for mlflow a tracking URI "
        "(sqlite:///mlflow.db), of a server say http://localhost:5000",
    )
    options = parser.parse_args(arguments)
    write, default = TOOLS[options.to]
    into = options.into or default.format(study=options.study)
    shown = mlflow.public(into)
    if not options.into and Path(into).is_symlink():
        terminal.complain(f"{into} is a link, which may lead anywhere: remove it, or give --into")
        return 1
    logging.raiseExceptions = False  # of W&B's own log, where a disk is full
    try:
        study = finished(options.study)
    except OSError as error:
        terminal.complain(error)
        return 1
    try:
        runs = one_at_a_time(options.study, write(study, into))
        count = sum(tqdm(runs, total=len(study.runs), unit=" runs", disable=None))
    except ValueError as error:
        terminal.complain(error)
        return 1
    except OSError as error:
        reason = error.strerror or error
        remedy = refusals.remedy(error, "choose another --into")
        terminal.complain(f"{shown} cannot be written ({reason}); {remedy}")
        return 1
    except KeyboardInterrupt:
        terminal.complain("interrupted; the same command goes on from there")
        return 128 + signal.SIGINT
    terminal.say(said(study, count, shown))
    return 0


def one_at_a_time(study: Path, runs: Iterator[bool]) -> Iterator[bool]:
    """Yield what a tool's writer does, while no other command exports the study."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a study on a disk that is only to be read
            stack.enter_context(claims.alone(study / LOCK, f"exports {study}"))
        yield from runs


def said(study: Finished, count: int, into: str) -> str:
    """Say what was written."""
    there = len(study.runs) - count
    parts = [f"{into}: {count:,} run{'s' * (count != 1)} written"]
    parts += [f"{there:,} there before"] if there else []
    parts += [f"{study.left_out:,} left out, not finished or damaged"] if study.left_out else []
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
