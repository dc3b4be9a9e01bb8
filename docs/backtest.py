"""Print the back-test of docs/statistics.md: accuracies on MNIST predicted, then measured.

``python docs/backtest.py FOLDER``, where the official MNIST files are; a minute on two cores.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import nnlab
from nnlab.report.learning_curves import fit

KNOWN, TARGETS = (500, 1000, 1500, 2000), (5000, 10_000)
EXAMPLES = 1000  # that the networks are tested on
NETWORKS: dict[str, dict[str, Any]] = {
    "SGD, 0.01": {"optimizer.lr": 0.01},
    "SGD, 0.1": {"optimizer.lr": 0.1},
    "Adam": {"optimizer": "adam"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = str(parser.parse_args().folder.absolute())
    lines = []
    with tempfile.TemporaryDirectory() as output:
        for number, (name, options) in enumerate(NETWORKS.items()):
            asked = {
                "train_size": [*KNOWN, *TARGETS],
                "seed": [0, 1, 2],
                "test_size": EXAMPLES,
                "stopping.max_epochs": 40,
                "dataset.source": "official",
                "dataset.folder": folder,
                "output_dir": output,
            }
            runs = nnlab.sweep(asked | options, study=str(number))
            errors = {
                size: 1 - runs["test_accuracy"][runs["train_size"] == size].to_numpy()
                for size in (*KNOWN, *TARGETS)
            }
            law = fit({size: errors[size] for size in KNOWN}, EXAMPLES)
            assert law is not None
            for size in TARGETS:
                error, low, high = law.predict(size)
                measured = errors[size].mean()
                found = f"{error:.3f} ({low:.3f} to {high:.3f}) | {measured:.3f}"
                lines.append(f"| {name} | {size:,} | {found} |")
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
