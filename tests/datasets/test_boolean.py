from __future__ import annotations

import itertools

import pytest
import torch
from torch.testing import assert_close

from nnlab import datasets
from nnlab.datasets.arrays import Sizes
from nnlab.datasets.boolean import BooleanConfig


@pytest.mark.parametrize("inputs", [1, 2, 3, 12])
def test_the_splits_are_the_whole_truth_table(inputs: int) -> None:
    config = BooleanConfig("boolean", False, False, "and", inputs)
    data = datasets.load(config, Sizes(None, 0, None), seed=0)
    rows = torch.tensor(list(itertools.product([0.0, 1.0], repeat=inputs)))
    for split in (data.train, data.test):
        assert split is not None
        assert_close(torch.from_numpy(split.examples[0]), rows, rtol=0, atol=0)
        assert split.labels[split.index].tolist() == [0] * (len(rows) - 1) + [1]
    assert data.valid is None
    assert data.classes == ["0", "1"]
    assert data.provenance["truth_table"] == "0" * (len(rows) - 1) + "1"
    assert data.provenance["full_size"] == len(rows)


def test_some_rows_can_be_left_for_the_test() -> None:
    config = BooleanConfig("boolean", True, False, "parity", 4)
    data = datasets.load(config, Sizes(6, 4, None), seed=0)
    assert data.valid is not None
    assert data.test is not None
    assert (len(data.train), len(data.valid), len(data.test)) == (6, 4, 16)
    assert data.train.labels[data.train.index].sum() == 3
    assert not set(data.train.index.tolist()) & set(data.valid.index.tolist())
