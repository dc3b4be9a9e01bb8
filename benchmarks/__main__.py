"""``python -m benchmarks [section ...] [--quick] [--write] [--data FOLDER]``."""

from __future__ import annotations

import argparse
import importlib
import os
from pathlib import Path

from benchmarks import race, results
from benchmarks.results import Options

SECTIONS = (
    "training",
    "one_run",
    "shapes",
    "sweep",
    "dogset",
    "tables",
    "study",
    "overhead",
    "growth",
    "cluster",
    "gpu",
)


def main() -> None:
    # Commands start as users' do, with compiled modules.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument(
        "sections", nargs="*", metavar="section", help=f"of {', '.join(SECTIONS)}; default: all"
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run: the numbers are noise")
    parser.add_argument(
        "--write", action="store_true", help="store JSON in benchmarks/results, update README.md"
    )
    parser.add_argument(
        "--data", type=Path, default=Path("data/mnist"), help="folder of the official MNIST files"
    )
    arguments = parser.parse_args()
    unknown = set(arguments.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}; choose of {', '.join(SECTIONS)}")
    if arguments.quick and arguments.write:
        parser.error("--quick measures noise; it is not to be written down")
    options = Options(arguments.quick, arguments.data.absolute())
    for name in arguments.sections or SECTIONS:
        race.say(name)
        where = results.machine()
        result = importlib.import_module(f"benchmarks.{name}").measure(options)
        print(results.markdown(result, where), flush=True)
        if arguments.write and result.tables:  # a section that was skipped replaces nothing
            race.say(f"written: {results.store(result, where)}")
    if arguments.write:
        results.rewrite_readme(SECTIONS)


if __name__ == "__main__":
    main()
