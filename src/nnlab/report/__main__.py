"""``python -m nnlab.report outputs/mnist``: make the table and figures of a study again."""

from __future__ import annotations

import argparse
import contextlib
import errno
import sys
from collections.abc import Sequence

from nnlab import claims, memory, refusals, report, study, terminal


@terminal.standard_streams()
def main(arguments: Sequence[str] | None = None) -> int:
    """Report on every study given; return 1 if one of them could not be, else 0."""
    parser = argparse.ArgumentParser(prog="python -m nnlab.report", description=__doc__)
    terminal.add_version(parser)
    parser.add_argument("study", nargs="+", type=terminal.path, help="a study, say outputs/mnist")
    parser.add_argument(
        "--single-file",
        action="store_true",
        help="also write single.html, a page that holds its pictures, to be sent by itself",
    )
    parser.add_argument(
        "--predict",
        nargs="+",
        type=int,
        default=[],
        metavar="SIZE",
        help="training-set sizes of which the test accuracy is to be predicted",
    )
    terminal.add_figures(parser, "tex", more="; tex: of the table, summary.tex")
    parser.add_argument(
        "--loss-scale",
        choices=("auto", "log", "linear"),
        default="auto",
        help="of the figures of losses; without it logarithmic where they span a factor of ten",
    )
    status = 0
    options = parser.parse_args(arguments)
    for folder in options.study:
        try:
            runs = study.look(folder)  # before they are read: one may end meanwhile
            with claims.exclusive(folder) if runs.entries else contextlib.nullcontext():
                made = report.write_report(
                    folder,
                    predict=options.predict,
                    single_file=options.single_file,
                    formats=options.formats,
                    loss_scale=options.loss_scale,
                    style=options.style,
                )
                runs.save(report=made.files)
                claims.clear_batches(folder, runs.ended)
        except OSError as error:
            status = 1
            refused = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
            copy = "its report is written there: copy it to where you may write"
            remedy = refusals.remedy(error, copy * refused)
            terminal.complain(f"{folder}: {error.strerror}; {remedy}" if remedy else error)
            if remedy:
                with contextlib.suppress(OSError, memory.NoRoomError):
                    terminal.show(report.look(folder, options.predict))
        except memory.NoRoomError as error:
            terminal.complain(error)
            status = 1
        else:
            terminal.show(made)
            terminal.say(*made.files)
    return status


if __name__ == "__main__":
    sys.exit(main())
