"""How good a network is beyond its accuracy: class by class, in its ranking, in its confidence.

Axes: N examples, K classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import log_softmax  # type: ignore[import-untyped,unused-ignore]
from sklearn import metrics  # type: ignore[import-not-found,import-untyped,unused-ignore]

from nnlab import records
from nnlab.analysis import SCORES, pictures
from nnlab.config import Config
from nnlab.datasets import Data
from nnlab.report import plotting
from nnlab.storage import write_csv
from nnlab.text import class_for_csv
from nnlab.trained import Trained, log_odds, softmax

Array = NDArray[np.float64]
Labels = NDArray[np.int64]


class Bin(NamedTuple):
    """The examples whose confidence, the probability of the predicted class, is in a range.

    confidence: their mean one. accuracy: the share that is right; both NaN without examples.
    """

    low: float
    high: float
    examples: int
    confidence: float
    accuracy: float


def evaluate(network: Trained, data: Data, config: Config, folder: Path) -> list[Path]:
    """Write scores.csv, classes.csv, reliability.csv and reliability.png."""
    options = config.metrics
    inputs, labels = data.split(options.split.name).examples
    logits = network.logits(inputs).astype(np.float64)
    classes = by_class(labels, logits)
    bins = reliability(labels, logits, options.bins)
    k = min(options.top_k, logits.shape[1] - 1)  # among all classes everything is right
    found = scores(labels, logits, k, classes) | {"ece": calibration_error(bins)}
    row = {"split": options.split.name, "examples": len(labels), "top_k": k}
    row |= {name: cell(score) for name, score in found.items()}
    said = {name: str(value) for name, value in row.items()}
    row["checksum"] = records.checksum_of_run(network.result, said)
    about = pictures.evaluated(network, len(labels), options.split.name)
    error = f"expected calibration error {found['ece']:.3f}"
    return [
        write_csv([list(row), list(row.values())], folder / SCORES),
        write_classes(classes, network.classes, folder / "classes.csv"),
        write_csv(
            [Bin._fields, *(list(map(cell, each)) for each in bins)], folder / "reliability.csv"
        ),
        plotting.save(draw(bins, about, error), folder / "reliability.png"),
    ]


def by_class(labels: Labels, logits: Array) -> dict[str, Array]:
    """Return precision, recall, F1, AUC and support of each class, [K] each.

    labels: [N] int64, logits: [N, K] float64. auc: of the class against all others, by the log
    odds, which rank as probabilities do but do not round to 1. NaN is what is not defined: the
    precision of a class that is never predicted, the recall and AUC of one without examples.
    """
    known = range(logits.shape[1])
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, logits.argmax(1), labels=known, zero_division=np.nan
    )
    auc = np.array([area(labels == k, odds) for k, odds in enumerate(all_log_odds(logits).T)])
    found = {"precision": precision, "recall": recall, "f1": f1, "auc": auc}
    return found | {"support": support}


def all_log_odds(logits: Array) -> Array:
    """Return what ``log_odds`` does, for every class: [N, K]."""
    likely = logits.argmax(1)
    with np.errstate(divide="ignore"):  # of the likeliest class, which follows
        # Exact where p is below 1/2.
        found: Array = log_softmax(logits, axis=1) - np.log1p(-softmax(logits))
    np.put_along_axis(found, likely[:, None], log_odds(logits, likely)[:, None], axis=1)
    return found


def area(own: NDArray[np.bool_], odds: Array) -> float:
    """Return the area under the ROC curve of a class; NaN where all examples are its, or none is.

    own: [N], whether an example is of the class. odds: [N], that it is.
    """
    if own.all() or not own.any():
        return float("nan")
    return float(metrics.roc_auc_score(own, odds))


def scores(labels: Labels, logits: Array, k: int, classes: dict[str, Array]) -> dict[str, float]:
    """Return what the whole network scores.

    classes: as ``by_class`` returns them; of these the means are over those classes for which they
    are defined. k: right is an example whose class is among so many most probable ones. brier: of
    Brier, Verification of forecasts expressed in terms of probability, 1950: squared distances
    summed over the classes, 0 to 2, and of two classes half of that, 0 to 1.
    """
    probabilities, known = softmax(logits), range(logits.shape[1])
    squares = ((probabilities - np.eye(len(known))[labels]) ** 2).sum(1)
    # scikit-learn takes the probability of the second of two classes.
    chances = probabilities[:, 1] if len(known) == 2 else probabilities
    return {
        "balanced_accuracy": mean(classes["recall"]),
        "f1_macro": mean(classes["f1"]),
        "top_k_accuracy": float(metrics.top_k_accuracy_score(labels, chances, k=k, labels=known)),
        "auc": mean(classes["auc"]),
        "brier": float(squares.mean()) / (2 if len(known) == 2 else 1),
    }


def mean(values: Array) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def reliability(labels: Labels, logits: Array, bins: int) -> list[Bin]:
    """Divide examples by their confidence into equal parts of 0 to 1, each with its upper end."""
    confidence, right = softmax(logits).max(1), logits.argmax(1) == labels
    edges = np.linspace(0, 1, bins + 1)
    places = np.searchsorted(edges[1:-1], confidence)
    counts, sure, true = (
        np.bincount(places, weights, bins) for weights in (None, confidence, right)
    )
    with np.errstate(invalid="ignore"):
        means = sure / counts, true / counts
    return [Bin(*each) for each in zip(edges[:-1], edges[1:], counts.tolist(), *means)]


def calibration_error(bins: list[Bin]) -> float:
    """Return how far accuracy is from confidence, over bins, weighted by their examples.

    Source: Guo, Pleiss, Sun & Weinberger, On calibration of modern neural networks, 2017.
    """
    total = sum(each.examples for each in bins)
    apart = (each.examples * abs(each.accuracy - each.confidence) for each in bins if each.examples)
    return float(sum(apart) / total)


def cell(value: float) -> Any:
    """Write a number for a CSV file: nothing for NaN."""
    return "" if np.isnan(value) else f"{value:.9g}"


def write_classes(classes: dict[str, Array], names: list[str], path: Path) -> Path:
    rows = [
        [class_for_csv(name), *map(cell, values)] for name, *values in zip(names, *classes.values())
    ]
    return write_csv([["class", *classes], *rows], path)


def draw(bins: list[Bin], about: str, error: str) -> Figure:
    """Draw accuracy over confidence, and below it how many examples have which."""
    figure, (axes,) = plotting.frame(f"Reliability: {about}", [error])
    full = [each for each in bins if each.examples]
    total = sum(each.examples for each in full)
    middle, wide = [(each.low + each.high) / 2 for each in full], 0.94 / len(bins)
    shares = [100 * each.examples / total for each in full]
    axes.bar(middle, shares, wide, color="0.85", label="share of the examples")
    axes.plot([0, 1], [0, 100], color="0.6", lw=0.8, ls=":", label="calibrated")
    confidence = [each.confidence for each in full]
    accuracy = [100 * each.accuracy for each in full]
    look: dict[str, Any] = {"color": plotting.COLOURS[1], "marker": "o", "ms": 4, "lw": 1.3}
    axes.plot(confidence, accuracy, label="accuracy", clip_on=False, **look)
    axes.set_xlabel("Confidence (probability of the predicted class)", size=plotting.FONT)
    axes.set_ylabel("Accuracy (%)", size=plotting.FONT)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 100)
    axes.legend(fontsize=plotting.FONT - 1, frameon=False, loc="upper left")
    return figure
