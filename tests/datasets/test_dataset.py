"""A dataset is what its class declares."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pytest

from nnlab import datasets
from nnlab.datasets.arrays import Arrays, DataSource, Partition, Sizes
from nnlab.datasets.dataset import DatasetConfig
from nnlab.options import MISSING

POINTS = np.linspace(0, 1, 12, dtype=np.float32).reshape(6, 2)
LABELS = np.arange(6) % 2


@dataclass
class PointsConfig(DatasetConfig):
    file: str = MISSING
    scale: float = MISSING
    title = "Points in the plane"
    images = False

    def choose_source(self, sizes: Sizes) -> DataSource:
        return DataSource(f"points in {self.file}", self.make)

    def make(self) -> Arrays:
        part = Partition(np.float32(self.scale) * POINTS, LABELS)
        return Arrays(part, None, part, ("even", "odd"), (2,), 6, 6, {"scale": self.scale})


class GeneratedConfig(PointsConfig):
    generated = True


def test_its_class_is_all_that_a_dataset_needs() -> None:
    config = PointsConfig("points", False, False, "a.csv", 0.5)
    data = datasets.load(config, Sizes(None, 0, None), seed=0)
    assert data.test is not None
    assert np.array_equal(data.train.inputs, POINTS / 2)
    assert data.train.labels.tolist() == LABELS.tolist()
    assert data.classes == ["even", "odd"]
    assert data.provenance["source"] == "points in a.csv"
    assert data.provenance["content"] == datasets.digest({"scale": 0.5})


def test_where_a_dataset_lies_is_no_part_of_its_identity() -> None:
    here, there = (PointsConfig("points", False, False, file, 0.5) for file in ("a", "b"))
    expected = {"name": "points", "balanced": False, "normalize": False, "scale": 0.5}
    assert here.identity() == there.identity() == expected


@pytest.mark.parametrize(("kind", "said"), [(PointsConfig, ["points in c"]), (GeneratedConfig, [])])
def test_the_source_is_told_unless_the_options_say_all_of_it(
    kind: type[PointsConfig], said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nnlab")
    datasets.forget()
    datasets.read(kind("points", False, False, "c", 0.5), Sizes(None, 0, None))
    assert [record.message for record in caplog.records] == said
