from __future__ import annotations

import contextlib
import errno
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nnlab import records, report, storage
from nnlab.records import RunFolder, finished_result
from nnlab.seeds import RANDOM_NUMBERS
from nnlab.storage import write_atomic
from tests.report.studies import lay

IDENTITY: dict[str, Any] = {
    "fingerprint": "ours",
    "random_numbers": RANDOM_NUMBERS,
    "config": {"a": 1, "b": {"c": 2}},
}


def test_a_folder_says_whose_it_is_from_the_first_instant(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", IDENTITY).begin({".hydra/config.yaml": "a: 1\n"})
    assert records.read_result(tmp_path / "run") == {"status": "running", **IDENTITY}
    assert (tmp_path / "run" / ".hydra" / "config.yaml").read_text() == "a: 1\n"


def test_rows_of_long_epochs_are_in_the_file_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "ROWS", 0.0)
    folder = RunFolder(tmp_path, IDENTITY).begin({})
    header = "epoch,train_loss,train_accuracy,valid_loss,valid_accuracy,seconds\n"
    assert (tmp_path / "metrics.csv").read_text() == header
    folder.append((1, 0.5, 0.25, None, None, 1.5))
    assert (tmp_path / "metrics.csv").read_text() == header + "1,0.5,0.25,,,1.5\n"
    folder.append((2, 1 / 3, float("nan"), 0.1, 1.0, 2.0))
    last = (tmp_path / "metrics.csv").read_text().splitlines()[-1]
    assert last == "2,0.333333333,nan,0.1,1,2"


@pytest.mark.parametrize("end", ["write_rows", "finish", "fail"])
def test_rows_of_short_epochs_are_written_together(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "ROWS", 1000.0)
    folder = RunFolder(tmp_path, IDENTITY).begin({})
    for epoch in (1, 2):
        folder.append((epoch, 0.5, 0.25, None, None, 1.5))
    assert (tmp_path / "metrics.csv").read_text().count("\n") == 1
    given = {"finish": ({"status": "finished"}, None), "fail": (ValueError(),)}
    getattr(folder, end)(*given.get(end, ()))
    rows = (tmp_path / "metrics.csv").read_text().splitlines()[1:]
    assert rows == ["1,0.5,0.25,,,1.5", "2,0.5,0.25,,,1.5"]


def test_rows_that_a_full_disk_has_cut_are_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path, IDENTITY).begin({})
    append = storage.append

    def cut(path: Path, content: bytes) -> None:
        append(path, content[:7])
        monkeypatch.setattr(storage, "append", append)  # there is room again
        raise OSError(errno.ENOSPC, "full", str(path))

    monkeypatch.setattr(records, "ROWS", 0.0)
    monkeypatch.setattr(storage, "append", cut)
    with pytest.raises(OSError, match="full") as raised:
        folder.append((1, 0.5, 0.25, None, None, 1.5))
    folder.fail(raised.value)
    assert (tmp_path / "metrics.csv").read_text().splitlines()[1:] == ["1,0.5,0"]


def test_the_result_comes_last_and_whole(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, IDENTITY).begin({})
    weights = {"0.weight": torch.rand(3, 2)}
    returned = folder.finish({"status": "finished", "test_loss": None}, weights)
    assert records.read_result(tmp_path) == returned
    content = [(tmp_path / name).read_bytes() for name in ("metrics.csv", "model.safetensors")]
    sha256 = [hashlib.sha256(each).hexdigest() for each in content]
    files = dict(zip(("metrics.csv", "model.safetensors"), sha256))
    assert returned == {"status": "finished", "test_loss": None, "sha256": files, **IDENTITY}
    assert torch.equal(load_file(tmp_path / "model.safetensors")["0.weight"], weights["0.weight"])
    assert not list(tmp_path.glob(".*tmp"))


def test_a_failure_is_in_the_log_and_the_result(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, IDENTITY).begin({})
    try:
        raise RuntimeError("out of luck")
    except RuntimeError as error:
        folder.fail(error)
    log = (tmp_path / "run.log").read_text()
    assert "Traceback" in log
    assert "out of luck" in log
    result = records.read_result(tmp_path)
    assert result is not None
    assert (result["status"], result["error"]) == ("failed", "RuntimeError: out of luck")


def test_a_new_attempt_removes_the_old_files_but_not_the_log(tmp_path: Path) -> None:
    first = RunFolder(tmp_path, IDENTITY).begin({})
    first.log("first attempt")
    first.finish({"status": "finished"}, {"w": torch.zeros(1)})
    RunFolder(tmp_path, IDENTITY).begin({})
    assert not (tmp_path / "model.safetensors").exists()
    assert "first attempt" in (tmp_path / "run.log").read_text()


@pytest.mark.parametrize(
    ("status", "done"),
    [
        ("finished", True),
        ("stopped", True),
        ("diverged", True),
        ("failed", False),
        ("running", False),
    ],
)
def test_which_runs_are_done(tmp_path: Path, status: str, done: bool) -> None:
    result = IDENTITY | {"status": status, "config": {}}
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert (finished_result(tmp_path, "ours", {}) is not None) == done


def test_an_empty_file_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "result.json").touch()
    assert records.read_result(tmp_path) is None


@pytest.mark.parametrize(
    "wrong", [{"status": 1}, {"config": []}, {"sha256": 5}, {"parameters": "x"}], ids=str
)
def test_other_values_are_no_result(wrong: dict[str, Any], tmp_path: Path) -> None:
    result = IDENTITY | {"status": "finished", "config": {}} | wrong
    (tmp_path / "result.json").write_text(json.dumps(result))
    with pytest.raises(ValueError, match=r"is no result of nnlab's"):
        records.read_result(tmp_path)


def test_no_folder_is_no_result(tmp_path: Path) -> None:
    assert finished_result(tmp_path / "nothing", "ours", {}) is None


def test_a_foreign_run_is_named_by_what_differs(tmp_path: Path) -> None:
    RunFolder(tmp_path, IDENTITY).begin({})
    with pytest.raises(ValueError, match=r"holds a run with b.c=2; this one has b.c=3.*study="):
        finished_result(tmp_path, "other", {"a": 1, "b": {"c": 3}})


@pytest.mark.parametrize("content", ["{", "[]", "{}", '"text"'])
def test_a_damaged_result_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(ValueError, match=r"result\.json is"):
        finished_result(tmp_path, "ours", {})


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("depth", [90, 110, 950, 975, 985, 995, 20_000])
def test_a_result_nested_too_deeply_is_damaged(
    depth: int, opening: str, closing: str, tmp_path: Path
) -> None:
    """Those somewhat below Python's limit end no reader of it."""
    lay(tmp_path, {"seed": 0})
    result = json.loads((tmp_path / "seed=0" / "result.json").read_text())
    result["config"]["own"] = "nested"
    text = json.dumps(result).replace('"nested"', depth * opening + "1" + depth * closing)
    (tmp_path / "seed=0" / "result.json").write_text(text)
    if depth > records.DEEPEST:
        with pytest.raises(ValueError, match=r"result\.json is damaged .it is nested too deeply"):
            records.read_result(tmp_path / "seed=0")
    elif opening != "[":  # lists are values, which are checked elsewhere
        assert [run.name for run in report.read(tmp_path)] == ["seed=0"]


def test_a_file_is_whole_or_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"before")

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, b"after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def trained(folder: Path, name: str, weight: float) -> dict[str, Any]:
    run = RunFolder(folder, IDENTITY | {"name": name})
    run.begin({".hydra/overrides.yaml": f"- {name}\n"})
    run.append((1, weight, 0.5, None, None, 1.0))
    return run.finish({"status": "finished", "epochs": 1}, {"w": torch.tensor([weight])})


def content(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != "run.log")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_a_run_that_replaces_another_takes_its_place_when_it_has_ended(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained(run, "first", 1.0)
    (run / "hardest.csv").write_text("of the first")
    (run / "notes.txt").write_text("the user's own")
    first = content(run)
    began = RunFolder(run / records.NEW, IDENTITY | {"name": "second"}).begin({})
    began.append((1, 2.0, 0.5, None, None, 1.0))
    assert content(run).items() >= first.items()  # what is there is whole, until the end
    trained(run / records.NEW, "second", 2.0)
    result = records.read_result(run)
    assert result is not None
    assert result["name"] == "second"
    records.check_files(run, result)
    assert load_file(run / "model.safetensors")["w"].item() == 2.0
    assert (run / ".hydra" / "overrides.yaml").read_text() == "- second\n"
    assert (run / "notes.txt").read_text() == "the user's own"
    assert not (run / "hardest.csv").exists()
    assert not (run / records.NEW).exists()


def test_a_replacement_that_is_broken_off_is_ended_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken off before each of its steps in turn; against one that was not."""
    trained(tmp_path / "expected", "second", 2.0)
    expected = content(tmp_path / "expected")
    steps = 0
    replace = Path.replace

    def counted(path: Path, target: Path) -> Path:
        nonlocal steps
        steps -= 1
        if steps == 0:
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", counted)
    for step in range(1, len(expected) + 1):
        run = tmp_path / str(step)
        trained(run, "first", 1.0)
        steps = step
        with pytest.raises(KeyboardInterrupt):
            trained(run / records.NEW, "second", 2.0)
        records.settle(run)
        assert content(run) == expected


def test_a_folder_of_somebody_else_s_is_no_place_for_a_run(tmp_path: Path) -> None:
    ours = {".hydra/config.yaml": "seed: 1\n"}
    records.check_free(tmp_path / "nowhere", ours)
    (tmp_path / ".result.json.abc.tmp").touch()
    (tmp_path / "run.log").touch()
    records.check_free(tmp_path, ours)
    (tmp_path / "metrics.csv").write_text("somebody's")
    with pytest.raises(ValueError, match=r"holds metrics\.csv, but no result\.json.*study=NAME"):
        records.check_free(tmp_path, ours)
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("seed: 2\n")
    with pytest.raises(ValueError, match="no result"):
        records.check_free(tmp_path, ours)
    (tmp_path / ".hydra" / "config.yaml").write_text("seed: 1\n")
    records.check_free(tmp_path, ours)  # this run's, whose result was lost
    # Also by a command that asks for more of it.
    records.check_free(
        tmp_path, {".hydra/config.yaml": "seed: 1\nforce: true\nevaluation: [weights]\n"}
    )
    for damaged in ("{", "seed: 1\na: 1\n", "[" * 3000, "5", ""):
        (tmp_path / ".hydra" / "config.yaml").write_text(damaged)
        with pytest.raises(ValueError, match="no result"):
            records.check_free(tmp_path, ours)


def test_damage_is_told(tmp_path: Path) -> None:
    trained(tmp_path / "a", "a", 1.0)
    trained(tmp_path / "b", "b", 2.0)
    result = records.read_result(tmp_path / "a")
    assert result is not None
    for name in ("metrics.csv", "model.safetensors"):
        file = tmp_path / "a" / name
        whole = file.read_bytes()
        for damage in (whole[:-1], b"", whole.replace(b"1", b"2"), whole + b" "):
            file.write_bytes(damage)
            with pytest.raises(records.DamagedError, match=f"{name} cannot be read.*force=true"):
                records.check_files(tmp_path / "a", result)
        file.write_bytes((tmp_path / "b" / name).read_bytes())  # another run's
        with pytest.raises(records.DamagedError, match=name):
            records.check_files(tmp_path / "a", result)
        file.unlink()
        with pytest.raises(records.DamagedError, match=name):
            finished_result(tmp_path / "a", "ours", IDENTITY["config"] | {"engine": "auto"})
        file.write_bytes(whole)
        records.check_files(tmp_path / "a", result)
    file = tmp_path / "a" / "result.json"
    whole = file.read_bytes()
    for place in range(0, len(whole), 7):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        found = None
        with contextlib.suppress(records.DamagedError):
            found = records.read_result(tmp_path / "a")
        if found is not None:  # the checksum's own name
            assert {key: found.get(key) for key in result} == result


def test_a_run_may_keep_only_its_numbers(tmp_path: Path) -> None:
    first = RunFolder(tmp_path, IDENTITY).begin({})
    first.finish({"status": "finished"}, {"w": torch.zeros(1)})
    second = RunFolder(tmp_path / records.NEW, IDENTITY).begin({})  # as with force=true
    result = second.finish({"status": "finished", "test_loss": 1.0}, None)
    assert list(result["sha256"]) == ["metrics.csv"]
    assert records.read_result(tmp_path) == result
    assert not (tmp_path / "model.safetensors").exists()  # that was of the former run
    records.check_files(tmp_path, result)


def test_a_swap_that_was_cut_off_keeps_the_new_weights(tmp_path: Path) -> None:
    RunFolder(tmp_path, IDENTITY).begin({}).finish({"status": "finished"}, {"w": torch.zeros(1)})
    new = tmp_path / records.NEW
    folder = RunFolder(new, IDENTITY).begin({})
    folder.path = tmp_path / "elsewhere"  # so that it is not swapped yet
    new.rename(folder.path)
    result = folder.finish({"status": "finished"}, {"w": torch.ones(1)})
    folder.path.rename(new)
    (new / "model.safetensors").replace(tmp_path / "model.safetensors")  # and here it is cut off
    records.settle(tmp_path)
    assert records.read_result(tmp_path) == result
    assert load_file(tmp_path / "model.safetensors")["w"] == 1
