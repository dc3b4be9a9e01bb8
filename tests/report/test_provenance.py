from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from nnlab import report
from nnlab.report import provenance
from tests.report.studies import lay


def test_the_command_of_runs_is_a_sweep_over_just_these(tmp_path: Path) -> None:
    for lr in (0.1, 0.2):
        for hidden in ([7], [8, 9]):
            lay(tmp_path, {"optimizer.lr": lr, "model.hidden": hidden}, name=f"{lr},{hidden}")
    runs = report.read(tmp_path)
    command = provenance.command(runs)
    assert command == "python -m nnlab.run optimizer.lr=0.1,0.2 'model.hidden=[7],[8, 9]'"
    assert provenance.command(runs[:3]) is None  # not every combination
    alone = provenance.command(runs[3:])
    assert shlex.split(alone or "")[3:] == list(runs[3].overrides)


def test_a_command_that_lists_too_many_values_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        lay(tmp_path, {"seed": seed, "optimizer.lr": 0.5})
    runs = report.read(tmp_path)
    monkeypatch.setattr(provenance, "VALUES", 3)
    command = "python -m nnlab.run seed=0,1,2 optimizer.lr=0.5"
    assert provenance.command(runs) == command
    monkeypatch.setattr(provenance, "VALUES", 2)
    assert provenance.command(runs) is None
    assert provenance.command(runs[:2]) == command.replace(",2", "")


def test_runs_with_other_options_are_no_sweep(tmp_path: Path) -> None:
    lay(tmp_path, {"seed": 0})
    lay(tmp_path, {"optimizer.lr": 0.5})
    assert provenance.command(report.read(tmp_path)) is None


@pytest.mark.parametrize(
    ("recorded", "command"),
    [
        (
            "hydra:\n  overrides:\n    hydra: [hydra/launcher=slurm, "
            "'hydra.job.config.override_dirname.exclude_keys=[seed]']\n"
            "    task: ['seed=range(3)', study=a b]\n",
            "python -m nnlab.run 'seed=range(3)' 'study=a b' hydra/launcher=slurm",
        ),
        ("hydra: 1\n", None),
        ("{", None),
        (None, None),
    ],
)
def test_the_last_command_is_what_hydra_recorded(
    tmp_path: Path, recorded: str | None, command: str | None
) -> None:
    if recorded is not None:
        (tmp_path / "multirun.yaml").write_text(recorded)
    assert provenance.last_command(tmp_path) == command


def test_of_many_data_the_first_are_listed(tmp_path: Path) -> None:
    dataset = json.loads((lay(tmp_path, {"seed": 0}) / "result.json").read_text())["dataset"]
    for seed in range(1, 21):
        named = dataset | {"content": f"{seed:016x}"}
        lay(tmp_path, {"seed": seed}, dataset=named)
    listed = dict(provenance.facts(report.read(tmp_path)))["Data"]
    assert listed[0] == f"bundled sample (content {1:016x}): 1 run"
    assert (len(listed), listed[-1]) == (13, "and 9 more, in each result.json")


def test_facts_are_told_once_or_with_their_runs(tmp_path: Path) -> None:
    dataset = json.loads((lay(tmp_path, {"seed": 0}) / "result.json").read_text())["dataset"]
    hashes = {f"file{number}": f"{number:064}" for number in range(20)}
    dataset |= {"source": "leaves", "content": "abc", "sha256": hashes}
    lay(tmp_path, {"seed": 1}, dataset=dataset, versions={"python": "3.12", "nnlab": "0.1.0"})
    facts = dict(provenance.facts(report.read(tmp_path)))
    assert facts["Data"] == ["bundled sample (content None): 1 run", "leaves (content abc): 1 run"]
    listed = facts["SHA-256 of the data"]
    assert listed[:2] == ["0" * 64, f"file0 {0:064}"]
    assert (len(listed), listed[-1]) == (13, "and 9 more, in each result.json")
    assert facts["Computed by"] == ["native on AMD EPYC"]
    assert [line.partition(",")[0] for line in facts["Versions"]] == ["nnlab 0.1.0", "python 3.12"]
