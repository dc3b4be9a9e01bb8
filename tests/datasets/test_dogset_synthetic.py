"""Generated images: what a linear model and a network can learn of them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import nnlab
from nnlab.datasets import dogset_synthetic

Pair = tuple[Any, NDArray[Any]]  # pixels [N, 12288] and labels


def linear_accuracy(train: Pair, test: Pair) -> float:
    """Return that of logistic regression on the mean colours of 8x8 patches."""
    pytest.importorskip("sklearn")
    pipeline, linear = map(import_module, ("sklearn.pipeline", "sklearn.linear_model"))
    scaler = import_module("sklearn.preprocessing").StandardScaler()
    model = pipeline.make_pipeline(scaler, linear.LogisticRegression(C=0.01, max_iter=1000))

    def colours(pixels: Any) -> Any:
        return pixels.reshape(-1, 8, 8, 8, 8, 3).mean((2, 4)).reshape(len(pixels), -1)

    model.fit(colours(train[0]), train[1])
    return float(model.score(colours(test[0]), test[1]))


def test_a_linear_model_learns_next_to_nothing() -> None:
    random = np.random.default_rng(0)
    looks = dogset_synthetic.Looks(random)
    labels = np.arange(1500) % 10
    pixels = looks.draw(random, labels)
    # Chance is 0.1, and a standard error of 500 examples 0.013.
    assert linear_accuracy((pixels[:1000], labels[:1000]), (pixels[1000:], labels[1000:])) < 0.18


@pytest.mark.long
def test_a_network_learns_ten_points_more_and_overfits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arrays = dogset_synthetic.make(10)
    train, test = arrays.train, arrays.test
    assert test is not None
    options = {"dataset": "dogset_synthetic", "optimizer.lr": 1e-4, "valid_size": None}
    nnlab.sweep(options | {"stopping.max_epochs": 100}, study="dogs")
    losses = nnlab.curves("outputs/dogs")["valid_loss"].to_numpy()
    assert 10 < losses.argmin() < 95
    assert np.median(losses[-5:]) > losses.min() + 0.01
    (result,) = nnlab.results("outputs/dogs")["test_accuracy"]
    linear = linear_accuracy((train.inputs, train.labels), (test.inputs, test.labels))
    assert result > linear + 0.1
