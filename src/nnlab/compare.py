"""``python -m nnlab.compare STUDY``: which setting is best, and what cannot be told from it.

Nothing imports this module: ``nnlab.compare`` is the function, from ``report.ranking``.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnlab import arguments, messages, refusals, terminal
from nnlab.report import ranking, ranking_files


@terminal.standard_streams()
def main(given: Sequence[str] | None = None) -> int:
    options = parser().parse_args(given)
    try:
        found = ranking.compare(
            *options.study,
            by=options.by,
            metric=options.metric,
            baseline=dict(map(single, options.baseline)) if options.baseline else None,
            test=options.test,
            merge=options.merge,
            label=options.label,
        )
    except (ValueError, OSError) as error:
        terminal.complain(as_flags(messages.explain(error) or str(error)))
        return 1
    terminal.show(ranking_files.table(found, terminal.width()))
    terminal.say(*found.notes)
    folder = options.into or place(options.study, options.merge)
    try:
        terminal.say(*ranking_files.write(found, folder, options.formats, options.style))
    except OSError as error:
        remedy = refusals.remedy(error, "choose another --into")
        terminal.complain(f"{folder} cannot be written ({error.strerror}); {remedy}")
        return 1
    except ValueError as error:
        terminal.complain(error)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m nnlab.compare",
        description="Rank the settings of studies by a result of the validation set, paired by "
        "seed; say which cannot be told from the best, and what each factor does.",
    )
    terminal.add_version(made)
    made.add_argument("study", nargs="*", type=terminal.path, help="one or more, say outputs/mnist")
    made.add_argument(
        "--by",
        type=lambda text: [name for name in text.split(",") if name],
        default=[],
        metavar="NAME[,NAME]",
        help="the factors that make a setting, as in optimizer.lr,model.hidden; without it all "
        "that varied",
    )
    made.add_argument(
        "--metric",
        metavar="COLUMN",
        help="of summary.csv, that settings are ranked by; without it valid_accuracy, of "
        "regressions valid_r2",
    )
    made.add_argument(
        "--baseline",
        action="append",
        metavar="NAME=VALUE",
        help="a setting to compare all others with, as in optimizer.lr=0.01; once for each factor",
    )
    made.add_argument(
        "--test", action="store_true", help="test results of all settings, not of the best alone"
    )
    made.add_argument(
        "--merge",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="folders with the studies of one person or machine each, as in class/*",
    )
    made.add_argument(
        "--as",
        dest="label",
        default="study",
        metavar="NAME",
        help="what the factor is called that tells these folders apart, as in student",
    )
    made.add_argument(
        "--into",
        type=terminal.path,
        metavar="FOLDER",
        help="where files go; without it into the study or, of several, into comparison beside "
        "them",
    )
    terminal.add_figures(made)
    return made


def as_flags(message: str) -> str:
    """Name options as they are written here, not as in Python.

    >>> as_flags("by=x: no run has it"), as_flags("label=seed is an option already")
    ('--by=x: no run has it', '--as=seed is an option already')
    """
    names = {"by": "by", "metric": "metric", "baseline": "baseline", "label": "as"}
    return re.sub(
        rf"(?<![\w.-])({'|'.join(names)})=", lambda found: f"--{names[found[1]]}=", message
    )


def single(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE as the command line of nnlab.run does."""
    name, values = arguments.condition(text, "--baseline")
    if len(values) != 1:
        raise ValueError(f"--baseline {text} has {len(values)} values; give one")
    return name, values[0]


def place(studies: Sequence[Path], merge: Sequence[Path | str]) -> Path:
    """Return the folder of the one study, or one beside several."""
    if len(studies) == 1 and not merge:
        return studies[0]
    parents = [str(Path(each).absolute().parent) for each in (*studies, *merge)]
    return Path(os.path.relpath(os.path.commonpath(parents))) / "comparison"


if __name__ == "__main__":
    sys.exit(main())
