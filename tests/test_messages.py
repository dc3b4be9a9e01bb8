from __future__ import annotations

import pytest
import torch
import yaml

from nnlab import messages


def test_memory_that_runs_out_names_the_remedy() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nDetails follow")
    assert messages.explain(error) == (
        "CUDA out of memory. Tried to allocate 2 GiB. "
        "Bound how many runs train together with hydra.sweeper.max_batch_size=N"
    )


def test_what_is_not_theirs_to_mend_is_not_explained() -> None:
    assert messages.explain(RuntimeError("a bug")) is None


def test_an_error_of_the_system_without_a_file_says_its_words() -> None:
    assert messages.explain(OSError("no mirror answered")) == "no mirror answered"


def test_yaml_that_cannot_be_read_is_named() -> None:
    with pytest.raises(yaml.YAMLError) as caught:
        yaml.safe_load("a: b: c")
    said = messages.explain(caught.value) or ""
    assert said.startswith("a configuration cannot be read: mapping values are not allowed here in")
    assert "\n" not in said
