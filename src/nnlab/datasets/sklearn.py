"""The small real datasets that come with scikit-learn."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from nnlab.datasets.arrays import Arrays, DataSource, Sizes
from nnlab.datasets.labelled import LabelledConfig, Part, make_arrays, sha256_of
from nnlab.losses import CLASSIFICATION, REGRESSION, LearningTask
from nnlab.options import require

NAMES = ("digits", "iris", "wine", "breast_cancer", "diabetes")
REGRESSIONS = {"diabetes": "progression"}  # and what they predict
BLACKEST = 16  # of the pixels of digits, which begin at 0


@dataclass
class SklearnConfig(LabelledConfig):
    """``name`` says which."""

    title = "scikit-learn"

    @property
    def images(self) -> bool:
        return self.name == "digits"

    @property
    def learned(self) -> LearningTask:
        return learned_of(self.name)

    def check(self) -> None:
        super().check()
        limit = f"choose one of {', '.join(NAMES)}"
        require(self.name in NAMES, "dataset.name", self.name, limit)

    def choose_source(self, sizes: Sizes) -> DataSource:
        """Return the source. Reading it raises ValueError where scikit-learn is not installed."""
        return DataSource(f"{self.name} of scikit-learn", lambda: read(self.name))


def learned_of(name: str) -> LearningTask:
    return REGRESSION if name in REGRESSIONS else CLASSIFICATION


def read(name: str) -> Arrays:
    """Read one of NAMES. The pixels of digits are 8x8, from 0 to 1."""
    try:
        from sklearn import datasets  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        raise ValueError(
            f"dataset.name={name} comes with scikit-learn, which is not installed: "
            f"pip install 'nnlab[sklearn]'"
        ) from None
    found = getattr(datasets, f"load_{name}")()
    images = name == "digits"
    inputs = found.images / BLACKEST if images else found.data
    columns = {} if images else dict.fromkeys(map(str, found.feature_names))
    part = Part(inputs, found.target, np.arange(len(inputs)))
    provenance = {"sha256": {"x": sha256_of(inputs), "y": sha256_of(found.target)}}
    arrays = make_arrays(
        name,
        {"train": part},
        provenance,
        columns,
        task=learned_of(name),
        target=REGRESSIONS.get(name, "y"),
    )
    if arrays.targets:
        return arrays
    return dataclasses.replace(arrays, classes=tuple(map(str, found.target_names)))
