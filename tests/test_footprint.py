"""What a run will take, against what a process has taken in the end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nnlab import compose, cores, footprint, memory, schedule
from nnlab.engines import library
from nnlab.footprint import Footprint

MEASURING = """
import sys
from pathlib import Path
from nnlab import build, memory, run, schedule
import torch, nnlab.training, safetensors.torch
torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])  # the first one imports a lot
train = schedule.train
def spied(tasks):
    (task,) = tasks
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = memory.kilobytes(memory.PROC / "self/status")["VmRSS"]
    train(tasks)
    peak = memory.kilobytes(memory.PROC / "self/status")["VmHWM"]
    print("MEASURED", peak - before, task.needed.own + task.needed.data)
    sys.exit()  # no figures
schedule.train = spied
run.main()
"""


OTHERS = [
    ("engine=native", "train_size=1000", "model.hidden=[12000]", "checkpoint.seconds=null"),
    ("engine=native", "train_size=200", "model.hidden=[5000]", "stopping.max_epochs=20"),
    ("engine=torch", "optimizer.momentum=0.9", "model.hidden=[1500,2500]"),
    ("engine=stacked", "model.hidden=[6000]", "stopping=patience", "valid_size=100"),
    ("engine=stacked", "model.dropout=0.5", "batch_size=100", "model.hidden=[9000,90,9000]"),
    ("model=cnn", "model.channels=[64]", "model.hidden=[500]", "batch_size=100"),
]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are told by Linux")
@pytest.mark.parametrize(
    "options",
    [
        ("engine=native", "optimizer=adam", "model.hidden=[1500,3000]"),
        *(pytest.param(options, marks=pytest.mark.slow) for options in OTHERS),
    ],
    ids=["adam", "unsaved", "dual", "torch", "stacked", "dropout", "cnn"],
)
def test_it_is_foreseen_what_a_run_takes(options: tuple[str, ...], tmp_path: Path) -> None:
    """Within a half, of a convolutional network 1.8 times: peaks that do not coincide are added up,
    there those of a batch and of saving. Large blocks go back to the system as soon as they are
    freed; else the peak tells how they happened to lie in memory."""
    if "engine=native" in options and library.available() is not None:
        pytest.skip("no compiled library")
    quick = ("train_size=100", "test_size=100", "stopping.max_epochs=2", "checkpoint.seconds=0")
    given = {each.partition("=")[0]: each for each in (*quick, *options)}
    command = [sys.executable, "-c", MEASURING, *given.values()]
    apart = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**17)}
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, env=apart
    )
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("MEASURED"))
    taken, foreseen = map(int, line.split()[1:])
    most = 1.8 if "model=cnn" in options else 1.5
    assert taken / 1.25 <= foreseen <= most * taken, f"{foreseen / taken:.2f}"


def test_by_hand_what_a_small_network_takes() -> None:
    config = compose.load(["model.hidden=[3]", "optimizer=adam", "batch_size=5"])
    found = footprint.of(config, "native", 7, 2, [50, 0, 20])
    weights = 4 * (7 * 3 + 3 + 3 * 2 + 2)
    batch = 4 * 48 * (7 + 3 + 2 + 4 * 7)
    assert found.training == 3 * weights + batch
    assert found.copies == weights + 3 * weights
    assert found.saving == 2 * 3 * weights
    assert found.data == 0
    never = compose.load(["model.hidden=[3]", "optimizer=adam", "checkpoint.seconds=null"])
    assert footprint.of(never, "native", 7, 2, [50, 0, 20]).saving == 0
    dogs = compose.load(["dataset=dogset_synthetic"])
    assert footprint.of(dogs, "native", 10, 2, [50, 30, 20]).data == 4 * 10 * 100


def of(own: int, data: int, examples: str) -> Footprint:
    return Footprint(own, 0, 0, data, examples)


def test_runs_on_the_same_examples_take_their_data_once() -> None:
    runs = [of(10, 100, "a"), of(30, 100, "a"), of(20, 100, "a"), of(5, 70, "b")]
    assert footprint.together(runs, 1) == 30 + 100
    assert footprint.together(runs, 2) == 30 + 20 + 100 + 70
    assert footprint.together(runs, 9) == 65 + 170


@pytest.mark.parametrize(("free", "threads"), [(10**9, 1), (3 * 10**9, 2), (10**10, 4), (None, 4)])
def test_fewer_runs_train_at_a_time_where_memory_is_short(
    free: int | None,
    threads: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of four threads the last seven runs are there at a time, of two three."""
    monkeypatch.setattr(memory, "free", lambda: free)
    monkeypatch.setattr(cores, "usable", lambda asked=None: 4)
    config = SimpleNamespace(cores=None)
    groups: Any = [[SimpleNamespace(needed=of(10**9, 0, str(n)), config=config)] for n in range(9)]
    with caplog.at_level("INFO", "nnlab"):
        assert schedule.how_many_threads(groups) == threads
    told = [f"{threads} of 4 cores are used: more would need 7.0 GB of memory"]
    assert caplog.messages == (told if threads < 4 else [])
