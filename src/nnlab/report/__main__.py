"""``python -m nnlab.report outputs/mnist``: make the table and figures of a study again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from nnlab import report, study


def main(arguments: Sequence[str] | None = None) -> int:
    """Report on every study given; return 1 if one of them could not be, else 0."""
    parser = argparse.ArgumentParser(prog="python -m nnlab.report", description=__doc__)
    parser.add_argument("study", nargs="+", type=Path, help="a study, say outputs/mnist")
    status = 0
    for folder in parser.parse_args(arguments).study:
        try:
            made = report.write(folder)
            study.look(folder).save(report=made.files)
        except OSError as error:
            print(error, file=sys.stderr)
            status = 1
        else:
            Console().print(made)
            # Not by rich, which cuts a long path; one copies these from the terminal.
            print(*made.files, sep="\n", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
