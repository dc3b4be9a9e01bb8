"""Print how often the interval of a training time holds the time that is then measured.

``python docs/time_trials.py FOLDER``, where the official MNIST files are: five minutes on a quiet
machine. A trial trains 500 to 2,000 images, as a sweep does, has the time of a large training set
predicted, and trains that. With ``--busy`` another process computes all the time on each core.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nnlab
from nnlab import cores
from nnlab.report import read
from nnlab.report.times import duration_between, timings

KNOWN = (500, 1000, 1500, 2000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=54_000, help="of the large training set")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--busy", action="store_true", help="another process on each core")
    given = parser.parse_args()
    asked = {
        "dataset.source": "official",
        "dataset.folder": str(given.folder.absolute()),
        "test_size": 0,
        "stopping.max_epochs": given.epochs,
        "save_weights": False,
        "cores": 1,
    }
    held = told = 0
    with burning(cores.usable() if given.busy else 0):
        for trial in range(given.trials):
            with tempfile.TemporaryDirectory() as output:
                place = {"output_dir": output, "seed": trial}
                nnlab.sweep(asked | place | {"train_size": list(KNOWN)}, study="known")
                (timing,) = timings(read(Path(output, "known")))[2]
                nnlab.sweep(asked | place | {"train_size": given.size}, study="large")
                (run,) = read(Path(output, "large"))
            found = timing.within(given.size)
            if found is None:
                print(f"trial {trial}: not predicted; {run.train_seconds:.1f} s", flush=True)
                continue
            told += 1
            held += found[1] <= run.train_seconds <= found[2]
            spent = "" if run.cpu_seconds is None else f", of the processor {run.cpu_seconds:.1f} s"
            said = duration_between(*found)
            print(f"trial {trial}: {said}; {run.train_seconds:.1f} s{spent}", flush=True)
    print(f"held {held} of {told} told, of {given.trials} trials")


@contextlib.contextmanager
def burning(count: int) -> Iterator[None]:
    """Have so many processes compute for nothing inside."""
    others = [multiprocessing.Process(target=burn, daemon=True) for _ in range(count)]
    for each in others:
        each.start()
    try:
        yield
    finally:
        for each in others:
            each.terminate()


def burn() -> None:
    while True:
        pass


if __name__ == "__main__":
    main()
