"""The datasets of scikit-learn, against scikit-learn itself."""

from __future__ import annotations

import json
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnlab
from nnlab import compose, run
from nnlab.datasets.sklearn import NAMES
from tests.plain_loop import plain_sgd

pytestmark = pytest.mark.usefixtures("empty_folder")


def loaded(name: str) -> Any:
    pytest.importorskip("sklearn")
    return getattr(import_module("sklearn.datasets"), f"load_{name}")()


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_those_of_scikit_learn(name: str) -> None:
    expected = loaded(name)
    found = compose.load(
        ["dataset=sklearn", f"dataset.name={name}", "dataset.normalize=false"]
    ).load_data()
    assert found.classes == list(map(str, expected.get("target_names", [])))
    inputs = expected.data / (16 if name == "digits" else 1)
    rows = []
    for split in (found.train, found.test):
        assert split is not None
        assert split.rows is not None
        mine = split.rows
        found_inputs, labels = split.examples
        assert (found_inputs == inputs[mine].astype(np.float32).reshape(len(mine), -1)).all()
        labels = labels.astype(np.float64).ravel()
        if name == "diabetes":  # numbers, standardised
            mean, deviation = (found.provenance[f"target_{key}"] for key in ("mean", "deviation"))
            labels = labels * deviation[0] + mean[0]
        np.testing.assert_allclose(labels, expected.target[mine], rtol=1e-6)
        rows += mine.tolist()
    assert sorted(rows) == list(range(len(inputs)))
    shape = [8, 8] if name == "digits" else [inputs.shape[1]]
    assert found.provenance["shape"] == shape


def test_inputs_are_standardised_as_scikit_learn_does() -> None:
    wine = loaded("wine")
    scaler = import_module("sklearn.preprocessing").StandardScaler()
    found = compose.load(["dataset=sklearn", "dataset.name=wine"]).load_data()
    assert found.test is not None
    assert found.train.rows is not None
    assert found.test.rows is not None
    scaler.fit(wine.data[found.train.rows])
    expected = scaler.transform(wine.data[found.test.rows])
    # Numbers of about 1, computed from float32 means and deviations.
    np.testing.assert_allclose(found.test.inputs, expected, rtol=1e-5, atol=1e-5)


def test_digits_are_learnt_as_by_mlp_classifier() -> None:
    """The same network, SGD and epochs, over ten seeds, each with initial weights of its own."""
    seeds, epochs = range(10), 15
    neural_network = import_module("sklearn.neural_network")
    options = {"dataset": "sklearn", "dataset.name": "digits", "seed": seeds, "batch_size": 32}
    training = {"model.hidden": [[64]], "optimizer.lr": 0.1, "stopping.max_epochs": epochs}
    mine = nnlab.sweep(options | training, study="digits")
    assert set(mine["engine"]) == {"native"}
    theirs = []
    for seed in seeds:
        data = compose.load(["dataset=sklearn", "dataset.name=digits", f"seed={seed}"]).load_data()
        assert data.test is not None
        train, test = (split.examples for split in (data.train, data.test))
        sgd = plain_sgd(hidden=64, rate=0.1, batch=32, epochs=epochs, seed=seed)
        classifier = neural_network.MLPClassifier(**sgd)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged
            classifier.fit(*train)
        theirs.append(classifier.score(*test))
    differences = mine.sort_values("seed")["test_accuracy"].to_numpy() - np.array(theirs)
    # Paired by seed, since a seed draws the same rows for both; |t| of 10 pairs, 99.9 %.
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    assert abs(differences.mean()) < 4.78 * error + 1e-3
    assert np.mean(theirs) > 0.9


def test_a_table_of_irises_is_swept_from_the_command_line() -> None:
    iris = loaded("iris")
    names = [name.replace(" (cm)", "") for name in iris.feature_names]
    lines = [",".join([*names, "species"])]
    for row, label in zip(iris.data, iris.target):
        lines.append(",".join([*map(str, row), str(iris.target_names[label])]))
    Path("iris.csv").write_text("\n".join(lines))
    table = ["dataset=table", "dataset.file=iris.csv", "dataset.label=species", "study=iris"]
    with run.alone():
        rule = ["stopping.max_epochs=40", "optimizer=adam", "seed=0,1,2", "-m"]
        assert run.run([*table, *rule]) == 0
    paths = list(Path("outputs/iris").glob("*/result.json"))
    results = [json.loads(path.read_text()) for path in paths]
    assert len(results) == 3
    for result in results:
        assert result["engine"] == "native"
        assert result["dataset"]["classes"] == ["setosa", "versicolor", "virginica"]
        assert result["dataset"]["sizes"] == {"train": 120, "valid": 0, "test": 30}
        # Linear models reach 0.9 to 1 on any 30 irises: three, at most, are between the classes.
        assert result["test_accuracy"] >= 0.9


def test_pictures_are_for_digits_alone() -> None:
    with pytest.raises(ValueError, match="weights needs images; dataset=iris has none"):
        compose.load(["dataset=sklearn", "dataset.name=iris", "evaluation=[weights]"])
    digits = compose.load(["dataset=sklearn", "dataset.name=digits", "evaluation=[weights]"])
    assert digits.dataset.images


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"dataset.name=irs is not possible: choose one of digits"):
        compose.load(["dataset=sklearn", "dataset.name=irs"])
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ValueError, match=r"not installed: pip install 'nnlab\[sklearn\]'"):
        compose.load(["dataset=sklearn"]).load_data()
