"""Runs and groups of them are what lists and dicts of them would be; numbers stand for runs, where
nothing looks into these."""

from __future__ import annotations

import errno
import io
import itertools
import os
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnlab import long_lists, messages
from nnlab.report import run_folders
from nnlab.report.selection import Groups, Runs, where
from tests.report.studies import lay


@given(
    st.lists(
        st.integers(-5, 5)
        | st.sampled_from([1.0, True, (1, 2), (1.0, 2.0), -2.0, 2**60, 2**60 + 1, None])
    )
)
def test_groups_are_those_of_a_dict(values: list[Any]) -> None:
    """-1 and -2, of which Python's hashes are equal, are two."""
    expected: dict[tuple[Any, ...], list[int]] = {}
    for place, value in enumerate(values):
        expected.setdefault((value,), []).append(place)
    found = Groups(values, lambda run: (run,))
    assert [found.indices(number).tolist() for number in range(len(found))] == [*expected.values()]
    named = [(key, list(group)) for key, group in found.items()]
    assert named == [(key, [values[p] for p in places]) for key, places in expected.items()]
    assert list(found.settings()) == list(expected)
    assert [list(group) for group in found[1:3]] == [list(found[n]) for n in range(len(found))][1:3]


@given(st.lists(st.integers()), st.slices(9))
def test_a_selection_is_a_list(values: list[Any], some: slice) -> None:
    runs = Runs.of(values)
    assert list(runs[some]) == values[some]
    odd = where(where(runs, is_odd), is_positive)
    assert list(odd) == [value for value in values if value % 2 and value > 0]
    assert bool(odd) == any(value % 2 and value > 0 for value in values)


def is_odd(number: Any) -> bool:
    return bool(number % 2)


def is_positive(number: Any) -> bool:
    return bool(number > 0)


def test_many_runs_are_in_the_order_of_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folders, "TOGETHER", 2)
    values = list(itertools.product((0.1, 2e-5, 10.0), (2, 0, 1)))
    for rate, seed in values:
        lay(tmp_path, {"optimizer.lr": rate, "seed": seed})
    runs = run_folders.read(tmp_path)
    assert [(run.settings["optimizer.lr"], run.settings["seed"]) for run in runs] == sorted(values)


def test_curves_beyond_what_is_in_memory_are_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_lists, "BLOCK", 104)
    for seed in range(5):
        lay(tmp_path, {"seed": seed}, rows=f"1,{seed},0,,,1\n2,{seed / 7},0,,,2\n")
    runs = run_folders.read(tmp_path)
    for run in [*runs, *reversed(runs), *pickle.loads(pickle.dumps(list(runs)))]:
        seed = run.settings["seed"]
        assert isinstance(seed, int)
        np.testing.assert_array_equal(run.curves["train_loss"], [seed, seed / 7])


@pytest.fixture
def no_file() -> Iterator[None]:
    """Lists have no file yet, and have a new one after this."""
    long_lists.blocks.cache_clear()
    yield
    long_lists.blocks.cache_clear()


@pytest.mark.usefixtures("no_file")
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux's")
def test_no_room_for_temporary_files_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(long_lists, "BLOCK", 104)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: io.FileIO("/dev/full", "r+"))
    for seed in range(3):
        lay(tmp_path, {"seed": seed})
    monkeypatch.setattr(tempfile, "tempdir", "/full")
    with pytest.raises(OSError, match=r"no room in /full for .* \(No space left .*set TMPDIR to"):
        run_folders.read(tmp_path)
    assert not caplog.records


@pytest.mark.usefixtures("no_file")
def test_too_few_open_files_are_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(OSError, match="Too many open files") as raised:
        long_lists.Numbers("d").extend([0.5] * long_lists.BLOCK)
    assert "ulimit -n" in str(messages.explain(raised.value))
