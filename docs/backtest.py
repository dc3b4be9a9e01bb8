"""Print the back-tests of docs/statistics.md: test errors predicted, then measured.

``python docs/backtest.py FOLDER``, where the official MNIST files are: a quarter of an hour on one
core. Of each seed by itself, and of all together, the law through the small sizes predicts the mean
error that networks of the larger ones then really have.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import nnlab
from nnlab.report.learning_curves import Law, fit
from nnlab.report.statistics import Array

NETWORKS: dict[str, dict[str, Any]] = {
    "SGD, 0.01": {"optimizer.lr": 0.01},
    "SGD, 0.1": {"optimizer.lr": 0.1},
    "Adam": {"optimizer": "adam"},
}


@dataclass
class Data:
    """Training-set sizes that a law is fitted to, and sizes that it is to predict.

    examples: that networks are tested on. seeds: of the small sizes; the large ones have three.
    """

    options: dict[str, Any]
    known: tuple[int, ...]
    targets: tuple[int, ...]
    examples: int
    epochs: int
    seeds: int = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cores", type=int, help="that train; without it all")
    options = parser.parse_args()
    mnist = {"dataset.source": "official", "dataset.folder": str(options.folder.absolute())}
    data = {
        "MNIST": Data(mnist, (225, 450, 675, 900), (1800, 5400, 54_000), 1000, 40),
        "synthetic DogSet": Data(
            {"dataset": "dogset_synthetic"},
            (125, 250, 375, 500),
            (1000, 3000, 7600),
            500,
            20,
        ),
    }
    held, lines = (0, 0), []
    for name, one in data.items():
        for network, chosen in NETWORKS.items():
            for line, found in back_test(one, chosen | {"cores": options.cores}):
                lines.append(f"| {name}, {network} | {line} | {found[0]} of {found[1]} |")
                held = held[0] + found[0], held[1] + found[1]
    print("| network | images | predicted error, ten seeds | measured | of single seeds, held |")
    print("| --- | --- | --- | --- | --- |", *lines, sep="\n")
    print(f"{held[0]} of {held[1]}: {held[0] / held[1]:.1%}")


def back_test(data: Data, network: dict[str, Any]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Train all sizes; yield of each target what the law of all seeds says, what was measured, and
    how many of the laws of single seeds held it."""
    known = errors(data, network, data.known, data.seeds)
    measured = errors(data, network, data.targets, 3)
    laws = [
        law({size: each[[seed]] for size, each in known.items()}, data.examples)
        for seed in range(data.seeds)
    ]
    together = law(known, data.examples)
    for size, found in measured.items():
        error, low, high = together.predict(size)
        truth = float(found.mean())
        ends = [each.predict(size)[1:] for each in laws]
        times = f"{size:,} ({size / max(data.known):.0f} times)"
        line = f"{times} | {error:.3f} ({low:.3f} to {high:.3f}) | {truth:.3f}"
        yield line, (sum(low <= truth <= high for low, high in ends), len(ends))


def errors(
    data: Data, network: dict[str, Any], sizes: tuple[int, ...], seeds: int
) -> dict[int, Array]:
    """Train networks; return their test errors [seeds] by size."""
    asked = {
        "train_size": list(sizes),
        "valid_size": 0,
        "test_size": data.examples,
        "seed": list(range(seeds)),
        "stopping.max_epochs": data.epochs,
        "save_weights": False,
    }
    with tempfile.TemporaryDirectory() as output:
        runs = nnlab.sweep(asked | data.options | network | {"output_dir": output}, study="back")
    right = runs["test_accuracy"].to_numpy(np.float64)
    return {size: 1 - right[runs["train_size"] == size] for size in sizes}


def law(errors: dict[int, Array], examples: int) -> Law:
    found = fit(errors, examples)
    assert found is not None
    return found


if __name__ == "__main__":
    main()
