"""A power cut at any instant: what is left of the files leads to those of an undisturbed command.

The operations of a command on files are recorded, cut at any place, and replayed without what was
not synced, or with a part of it; then the same command, the report and ``load`` meet the rest.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

import nnlab
from nnlab import records
from tests.reliability import disk, warm
from tests.reliability.studies import assert_same, content_of, runs_of, table_of

SMALL = (
    *("test_size=50", "valid_size=20", "model.hidden=[4]", "study=s", "checkpoint.seconds=0"),
    *("stopping=patience", "stopping.patience=2", "stopping.max_epochs=4"),
)
CASES = {
    "two runs": ("train_size=40,50", *SMALL),
    "one run, torch, Adam": ("train_size=40", "engine=torch", "optimizer=adam", *SMALL),
    "trained anew": ("train_size=40,50", "force=true", *SMALL),
}


class Recorded(NamedTuple):
    """command: whose operations these are. start: the files before it. weights: old or new."""

    command: tuple[str, ...]
    operations: list[disk.Operation]
    start: Path
    content: dict[str, Any]
    weights: dict[str, list[dict[str, torch.Tensor]]]
    tables: list[dict[str, str]]


@pytest.fixture(scope="module", params=CASES)
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    command = CASES[request.param]
    folder = tmp_path_factory.mktemp("recorded")
    cwd, start = folder / "cut", folder / "start"
    cwd.mkdir()
    study = cwd / "outputs" / "s"
    weights: dict[str, list[dict[str, torch.Tensor]]] = {}
    tables = []
    if "force=true" in command:
        assert warm.run(*command, "optimizer.lr=0.02", cwd=cwd, draw=False).status == 0
        tables += table_of(study)
        weights = {run.name: [load_file(run / records.WEIGHTS)] for run in runs_of(study)}
    shutil.copytree(cwd, start)
    operations = disk.record(command, cwd)
    content = content_of(study)
    for run in runs_of(study):
        weights.setdefault(run.name, []).append(load_file(run / records.WEIGHTS))
    shutil.rmtree(cwd)
    return Recorded(command, operations, start, content, weights, tables + table_of_(content))


def table_of_(content: dict[str, Any]) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = content["summary.csv"]
    return rows


def test_operations_are_those_of_the_command(recorded: Recorded) -> None:
    """Replayed whole, they leave what the command left; so nothing was missed."""
    whole = disk.after(recorded.operations, recorded.start).crashed("all", random.Random(0))
    folder = recorded.start.with_name("cut")
    disk.write_out(whole, folder)
    assert_same(content_of(folder / "outputs" / "s"), recorded.content)
    shutil.rmtree(folder)
    # And whatever a finished run consists of is certain to be on disk.
    certain = disk.after(recorded.operations, recorded.start).crashed("lost", random.Random(0))
    for run in recorded.weights:
        for name in (records.RESULT, records.METRICS, records.WEIGHTS):
            path = f"outputs/s/{run}/{name}"
            assert certain.get(path) == whole[path], path


def cut(recorded: Recorded, place: int, mode: str, seed: int) -> None:
    """Cut the power after so many operations."""
    note = f"{place} of {len(recorded.operations)}, {mode}, seed {seed}"
    left = disk.after(recorded.operations[:place], recorded.start)
    folder = recorded.start.with_name("cut")  # the place is part of what Hydra writes
    shutil.rmtree(folder, ignore_errors=True)
    disk.write_out(left.crashed(mode, random.Random(f"{place} {seed}")), folder)
    study = folder / "outputs" / "s"
    for name, known in recorded.weights.items():
        loads_what_was_trained(study / name, known, note)
    if seed % 2:
        reports_what_was_trained(study, recorded, note)
    done = warm.run(*recorded.command, cwd=folder, draw=False)
    assert "Traceback" not in done.said, f"{note}\n{done.said}"
    assert done.status == 0, f"{note}\n{done.said}"
    assert_same(content_of(study), recorded.content, note)
    shutil.rmtree(folder)


def loads_what_was_trained(run: Path, known: list[dict[str, torch.Tensor]], note: str) -> None:
    try:
        weights = nnlab.load(run).model.state_dict()
    except ValueError:
        return
    same = [all(torch.equal(weights[key], each[key]) for key in each) for each in known]
    assert any(same), f"{run.name}: {note}"


def reports_what_was_trained(study: Path, recorded: Recorded, note: str) -> None:
    done = warm.run("outputs/s", cwd=study.parents[1], module="nnlab.report", draw=False)
    assert "Traceback" not in done.said, f"{note}\n{done.said}"
    if done.status == 0:
        for row in table_of(study):
            known = [
                each
                for each in recorded.tables
                if each["folder"] == row["folder"]
                and all(each.get(key, value) == value for key, value in row.items())
            ]
            assert known or row["status"] == "running", f"{note}\n{row}"


@pytest.mark.parametrize("seed", range(5))
def test_the_power_is_cut_at_some_instants(seed: int, recorded: Recorded) -> None:
    chance = random.Random(seed)
    place = chance.randrange(len(recorded.operations) + 1)
    cut(recorded, place, disk.MODES[seed % len(disk.MODES)], seed)


def test_a_cut_in_the_last_moment_leaves_nothing(recorded: Recorded) -> None:
    """Between a run's result and the removal of its checkpoint; a report comes first."""
    done = [
        place
        for place, operation in enumerate(recorded.operations, 1)
        if operation.target.endswith(records.RESULT)
    ]
    cut(recorded, done[-1], "all", 1)
    written = [
        place
        for place, operation in enumerate(recorded.operations, 1)
        if operation.name == "sync" and "multirun" in operation.path
    ]
    cut(recorded, written[-1], "all", 1)


@pytest.mark.long
@pytest.mark.parametrize("part", range(8))
def test_the_power_is_cut_at_every_instant(part: int, recorded: Recorded) -> None:
    for place in range(part, len(recorded.operations) + 1, 8):
        for seed, mode in enumerate([*disk.MODES, "any", "names only", "any"]):
            cut(recorded, place, mode, seed)
