"""Evaluations of trained networks, as ``evaluation=`` names them.

Each is the module of its name, with a function ``evaluate(network, data, config, folder)`` that
writes files into a run's folder and returns them. This package imports none of these modules:
they need torch and matplotlib, and configurations are checked without.
"""

from __future__ import annotations

from typing import NamedTuple


class Evaluation(NamedTuple):
    """What is known of an evaluation before it is run.

    files: that it may leave in a run's folder. images: whether the examples must be images.
    examples: whether it looks at some, of the split that its option ``split`` names, else test.
    """

    files: tuple[str, ...]
    images: bool = True
    examples: bool = True


EVALUATIONS = {
    "hardest": Evaluation(
        ("hardest.csv", "hardest.png", "confusion.csv", "confusion.png"), images=False
    ),
    "fgsm": Evaluation(("fgsm.csv", "fgsm.png", "fgsm_examples.png")),
    "weights": Evaluation(("weights.png",), examples=False),
}
EVALUATION_FILES = tuple(file for each in EVALUATIONS.values() for file in each.files)
