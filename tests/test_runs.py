"""``python -m nnlab.runs``, on runs that the command line made, and on folders laid by hand."""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nnlab import claims, records, runs, standing, study
from tests.imports import imported
from tests.names import HOSTILE
from tests.report.studies import DIVERGED, FAILED, lay
from tests.test_run import QUICK, nnlab_run

LONG = ("stopping.max_epochs=100000", "train_size=1000", "checkpoint.seconds=0", "seed=0,1,2")


FAILING = """
from nnlab import run, training

def broken(*_):
    raise RuntimeError("no room")

training.train_runs = broken
run.main()
"""


def listed(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> list[dict[str, Any]]:
    """Return what --json prints."""
    assert runs.main([*map(str, arguments), "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def states(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, str]:
    return {Path(run["folder"]).name: run["state"] for run in listed(capsys, *arguments)}


def result(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return content


@contextlib.contextmanager
def trained(cwd: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Train in another process, which is killed in the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "nnlab.run", *arguments],
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs, one that diverged, one that failed."""
    cwd = tmp_path_factory.mktemp("runs")
    nnlab_run(*QUICK, "optimizer.lr=0.01,0.1,1e30", cwd=cwd)
    failing = [sys.executable, "-c", FAILING, *QUICK, "study=other", "seed=3"]
    subprocess.run(failing, cwd=cwd, capture_output=True, check=False)
    return cwd / "outputs"


def test_json_is_what_result_files_say(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    oracle = {path.parent: json.loads(path.read_text()) for path in outputs.rglob("result.json")}
    found = {Path(run["folder"]): run for run in listed(capsys, outputs)}
    assert found.keys() == oracle.keys()
    assert len({tuple(run) for run in found.values()}) == 1  # the same keys
    for folder, run in found.items():
        told = oracle[folder]
        assert run["state"] == told["status"]
        assert run["study"] == str(folder.parent)
        same = ("config", "test_accuracy", "test_loss", "stop_reason", "error")
        assert [run[key] for key in same] == [told.get(key) for key in same]
        assert run["train_seconds"] == told.get("train_seconds", 0.0)
        assert run["epochs"] == told.get("epochs", 0)
        assert run["max_epochs"] == 2
        assert run["host"] is run["process"] is run["damaged"] is None
        times = [
            os.stat(folder / name).st_mtime for name in study.FILES if (folder / name).exists()
        ]
        assert run["changed"] == pytest.approx(max(times), abs=1e-6)  # of a float
        assert 0 <= run["age"] < 3600
    rates = {run["varied"].get("optimizer.lr") for run in found.values()}
    assert {0.01, 0.1, 1e30} <= rates
    states = sorted(run["state"] for run in found.values())
    assert states == ["diverged", "failed", "finished", "finished"]


def test_the_table_has_every_run(
    outputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert runs.main([str(outputs / "mnist")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == f"{outputs / 'mnist'}: 3 runs (2 finished, 1 diverged)"
    rows = [line.split() for line in lines if line.startswith(("finished", "diverged"))]
    accuracy = [result(outputs / "mnist" / row[-1])["test_accuracy"] for row in rows]
    assert [row[1] for row in rows] == ["0.01", "0.1", "1e30"]
    assert [row[3] for row in rows[:2]] == [f"{100 * share:.1f}" for share in accuracy[:2]]
    reason = result(outputs / "mnist" / "optimizer.lr=1e+30")["stop_reason"]
    assert lines[-1] == f"optimizer.lr=1e+30: diverged: {reason}"


def test_a_narrow_terminal_keeps_numbers_whole(
    outputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert runs.main([str(outputs / "mnist"), "--where", "optimizer.lr=0.1"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    told = result(outputs / "mnist" / "optimizer.lr=0.1")
    assert max(map(len, lines)) <= 40
    (shown,) = [line for line in lines if line.startswith("accuracy")]
    assert shown.split()[1:] == [f"{100 * told['test_accuracy']:.1f}", "%"]


WHERE = {
    ("optimizer.lr=0.1",): {"optimizer.lr=0.1"},
    ("optimizer.lr=1e-1",): {"optimizer.lr=0.1"},
    ("optimizer.lr=0.01,0.1",): {"optimizer.lr=0.01", "optimizer.lr=0.1", "default"},
    ("study=other",): {"default"},
    ("optimizer.lr=0.1", "seed=1"): set(),
    ("optimizer.lr=0.1", "seed=0.0"): {"optimizer.lr=0.1"},
    ("seed=false", "optimizer.lr=0.1"): set(),
    ("engine=auto", "optimizer.lr=0.1"): {"optimizer.lr=0.1"},
    ("engine=native", "optimizer.lr=0.1"): {"optimizer.lr=0.1"},
    ("model=mlp", "optimizer.lr=0.1"): {"optimizer.lr=0.1"},
    ("dataset.name=mnist", "optimizer.lr=0.1"): {"optimizer.lr=0.1"},
    ("model.hidden=[128,64]", "optimizer.lr=0.1"): {"optimizer.lr=0.1"},
    ("model.hidden=[128]",): set(),
    ("native_level=null", "optimizer.lr=0.1"): {"optimizer.lr=0.1"},
    ("study=mnist", "optimizer.lr=0.1"): {"optimizer.lr=0.1"},
}


@pytest.mark.parametrize("where", WHERE)
def test_where_compares_as_the_configuration_has_it(
    where: tuple[str, ...], outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [part for each in where for part in ("--where", each)]
    assert states(capsys, outputs, *options).keys() == WHERE[where]


def test_state_chooses(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert states(capsys, outputs / "mnist", "--state", "diverged,failed") == {
        "optimizer.lr=1e+30": "diverged"
    }
    assert states(capsys, outputs / "mnist", "--state", "training") == {}


@pytest.mark.parametrize(
    ("arguments", "told", "status"),
    [
        (["--where", "optimizer.lrr=0.1"], "Did you mean 'optimizer.lr'?", 1),
        (["--where", "optimizer.lr"], "write NAME=VALUE", 1),
        (["--where", "=1"], "write NAME=VALUE", 1),
        (["--where", "optimizer.lr=[1"], "write NAME=VALUE", 1),
        (["--where", "optimizer.lr=interval(0,1)"], "write NAME=VALUE", 1),
        (["--state", "finish"], "'finish' is none of finished, stopped", 2),
        (["--yes"], "--yes answers the question of --delete", 2),
        (["--json", "--delete"], "do not go together", 2),
        (["--watch"], "--watch needs a terminal", 2),
        (["nowhere"], "there is no folder nowhere; give a study", 1),
    ],
)
def test_what_has_no_meaning_is_refused(
    arguments: list[str],
    told: str,
    status: int,
    outputs: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(outputs.parent)
    try:
        ended = runs.main(arguments)
    except SystemExit as error:
        ended = int(error.code or 0)
    out, err = capsys.readouterr()
    assert ended == status
    assert out == ""
    assert told in err


def test_runs_are_seen_while_a_process_trains_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of three runs is in training, two wait; then the process is killed."""
    folder = tmp_path / "outputs" / "mnist"
    with trained(tmp_path, *LONG, "engine=torch", "-m") as process:
        wait_for(lambda: (folder / "seed=0" / records.CHECKPOINT).exists())
        found = {Path(run["folder"]).name: run for run in listed(capsys, tmp_path)}
        assert {name: run["state"] for name, run in found.items()} == {
            "seed=0": "training",
            "seed=1": "waiting",
            "seed=2": "waiting",
        }
        assert {run["process"] for run in found.values()} == {process.pid}
        assert found["seed=0"]["epochs"] >= 1
        assert found["seed=0"]["max_epochs"] == 100000
        assert runs.main([str(folder), "--delete", "--yes"]) == 0
        assert capsys.readouterr().out.endswith("nothing to delete\n")
        assert (folder / "seed=0" / "result.json").exists()
    metrics = folder / "seed=0" / "metrics.csv"
    rows = metrics.read_text().count("\n") - 1  # without the header
    with metrics.open("a") as file:
        file.write("7,0.1")  # as if it had been killed as it wrote
    (run,) = listed(capsys, tmp_path)
    assert run["state"] == "interrupted"
    assert run["process"] is None
    assert run["epochs"] == rows
    assert 0 < run["goes_on"] <= run["epochs"]
    assert runs.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"interrupted at epoch {run['epochs']}" in out
    assert f"the same command goes on after epoch {run['goes_on']}" in out
    assert not list(folder.glob(".process-*"))
    checkpoint = folder / "seed=0" / records.CHECKPOINT
    whole = checkpoint.read_bytes()
    damages = (b"\x08\0\0\0\0\0\0\0damaged", whole[:-8] + bytes(8), whole[:-1])
    for damage in damages:
        checkpoint.write_bytes(damage)
        assert listed(capsys, tmp_path)[0]["goes_on"] == 0
    checkpoint.write_bytes(whole)
    record = json.loads((folder / "seed=0" / "result.json").read_text())
    del record["checksum"]
    record["fingerprint"] = "another run's"
    (folder / "seed=0" / "result.json").write_text(json.dumps(record))
    assert listed(capsys, tmp_path)[0]["goes_on"] == 0


def test_a_run_that_is_trained_anew_is_in_training(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = finished / "result.json"
    content = before.read_bytes()
    options = (*LONG[:3], "optimizer.lr=0.1", "force=true", f"output_dir={finished.parent.parent}")
    with trained(finished, *options, "study=study", "hydra.sweep.subdir=run"):
        wait_for(lambda: (finished / records.NEW / records.CHECKPOINT).exists())
        (run,) = listed(capsys, finished)
        assert (run["state"], run["max_epochs"], run["epochs"] > 0) == ("training", 100000, True)
    assert before.read_bytes() == content
    (run,) = listed(capsys, finished)
    assert (run["state"], run["goes_on"] > 0) == ("finished", True)
    assert runs.main([str(finished)]) == 0
    told = f"broken off; the same command goes on after epoch {run['goes_on']}"
    assert told in capsys.readouterr().out
    assert runs.main([str(finished), "--delete", "--yes"]) == 0
    assert not finished.exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


@pytest.mark.parametrize("name", ["result.json", "metrics.csv", "model.safetensors"])
@pytest.mark.parametrize("damage", [cut, emptied, as_folder, as_pipe, dangling, Path.unlink])
def test_a_damaged_file_is_named(
    damage: Callable[[Path], None],
    name: str,
    finished: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(finished / name)
    (run,) = listed(capsys, finished.parent)
    assert run["state"] == "damaged"
    assert run["damaged"] == str(finished / name)
    assert str(finished / name) in run["error"]
    assert (run["config"] is None) == (name == "result.json")
    assert runs.main([str(finished.parent), "--delete", "--yes"]) == 0
    left = [name] if damage is as_folder else []
    assert [path.name for path in finished.rglob("*")] == left


@pytest.fixture
def finished(outputs: Path, tmp_path: Path) -> Path:
    """A copy of a run."""
    return Path(shutil.copytree(outputs / "mnist/optimizer.lr=0.1", tmp_path / "study" / "run"))


def test_the_index_of_a_study_is_believed_while_it_is_fresh(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights of a study that nothing has changed in are not read again."""
    study.look(finished.parent).save()
    weights = finished / "model.safetensors"
    content, times = weights.read_bytes(), os.stat(weights)
    with weights.open("rb+") as file:
        file.write(bytes(len(content)))
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert states(capsys, finished) == {"run": "finished"}
    os.utime(weights)
    assert states(capsys, finished) == {"run": "damaged"}


def test_delete_takes_what_is_nnlabs_and_follows_no_link(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = finished.parent.parent / "elsewhere"
    elsewhere.mkdir()
    kept = [elsewhere / name for name in ("config.yaml", "metrics.csv", "result.json")]
    for path in kept:
        path.write_text("mine")
    for path in (finished / ".hydra").iterdir():
        path.unlink()
    (finished / ".hydra").rmdir()
    (finished / ".hydra").symlink_to(elsewhere)
    (finished / "hardest.csv").symlink_to(elsewhere / "metrics.csv")
    (finished / "notes.txt").write_text("mine")
    (finished.parent / "linked").symlink_to(elsewhere)
    assert runs.main([str(finished.parent), "--delete", "--yes"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"deleted {finished}, but not notes.txt, which nnlab did not write"
    )
    assert [path.name for path in finished.iterdir()] == ["notes.txt"]
    assert [path.read_text() for path in kept] == ["mine"] * 3


def test_a_run_that_cannot_be_deleted_is_whole_and_keeps_no_other(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = finished.with_name("run2")
    shutil.copytree(finished, other)
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    locked = finished / ".hydra"  # root may write anywhere
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked)
    assert runs.main([str(finished.parent), "--delete", "--yes"]) == 1
    said = capsys.readouterr()
    assert said.err == f"{finished} is not deleted: {locked}: Permission denied\n"
    assert said.out.splitlines()[-1] == f"deleted {other}"
    assert {path: path.read_bytes() for path in before} == before
    assert states(capsys, finished) == {"run": "finished"}


def test_runs_whose_study_cannot_be_written_are_kept(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = finished.parent
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != study)
    assert runs.main([str(study), "--delete", "--yes"]) == 1
    assert f"{finished} is not deleted: {study}: Permission denied\n" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before


def test_without_a_standard_input_nobody_is_asked(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # as after <&-
    with pytest.raises(SystemExit):
        runs.main([str(finished.parent), "--delete"])
    assert "--delete asks first, but there is no terminal to ask on" in capsys.readouterr().err
    assert finished.is_dir()


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Have no more rights than any user, where root runs the tests."""
    if (before := os.geteuid()) == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_run_that_cannot_be_entered_is_told(
    finished: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = finished.with_name("run2")
    shutil.copytree(finished, other)
    monkeypatch.chdir(finished.parent)  # what is above is root's
    finished.parent.chmod(0o777)
    assert len(states(capsys, ".")) == 2  # and all is imported, which may be root's
    other.chmod(0o444)
    with as_nobody():
        assert set(states(capsys, ".")) == {finished.name}
    assert "left out run2: Permission denied" in caplog.messages


@pytest.mark.parametrize("module", ["runs", "compare", "report", "predict", "serve"])
def test_no_path_is_not_the_working_directory(
    module: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["nnlab", ""])
    found = importlib.import_module(f"nnlab.{module}" + ".__main__" * (module == "report"))
    with pytest.raises(SystemExit) as ended:
        found.main()
    assert ended.value.code == 2
    assert "it is empty; . is the folder that you are in" in capsys.readouterr().err


def test_what_is_not_nnlabs_is_neither_listed_nor_deleted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "result.json").write_text('{"accuracy": 1}')
    (theirs / "metrics.csv").write_text("a,b\n")
    assert listed(capsys, tmp_path) == []
    (theirs / "result.json").write_text('{"accuracy": ')  # it may have been nnlab's
    assert states(capsys, tmp_path) == {"theirs": "damaged"}
    assert runs.main([str(tmp_path), "--delete", "--yes"]) == 1
    assert "nothing in it says that nnlab wrote it" in capsys.readouterr().out
    assert sorted(path.name for path in theirs.iterdir()) == ["metrics.csv", "result.json"]


def test_a_run_that_went_on_after_the_question_is_kept(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = standing.of(finished)
    assert found is not None
    (finished / "metrics.csv").write_bytes(b"")
    assert runs.reason_to_keep(found) == "it has changed meanwhile; look at it again"
    with claims.Claim(finished.parent) as claim:
        new = {**result(finished), "status": "running", "owner": claim.owner}
        del new["checksum"]
        (finished / "result.json").write_text(json.dumps(new))
        assert runs.reason_to_keep(found) == f"{claims.named(claim.owner)} trains it"
    with claims.Claim(finished.parent) as claim:
        claim.announce(["run", "other"])
        assert states(capsys, finished.parent) == {"run": "waiting", "other": "waiting"}
        assert runs.main([str(finished.parent), "--delete", "--yes"]) == 0
        assert finished.exists()
        capsys.readouterr()
        os.utime(finished / "result.json", (2**32, 2**32))  # it has had its turn
        assert states(capsys, finished.parent) == {"run": "interrupted", "other": "waiting"}
    assert states(capsys, finished.parent) == {"run": "interrupted"}


@pytest.mark.parametrize(("answer", "status"), [("y\n", 0), ("n\n", 1), ("\n", 1), ("\x04", 1)])
def test_delete_asks_on_a_terminal(answer: str, status: int, finished: Path) -> None:
    ended, shown = on_terminal(str(finished), "--delete", answer=answer)
    assert "Delete this run? [y/N]" in shown
    assert ended == status
    assert finished.exists() == (status == 1)


def test_delete_without_a_terminal_needs_yes(finished: Path) -> None:
    done = nnlab_run(str(finished), "--delete", cwd=finished, module="nnlab.runs")
    assert done.returncode == 2
    assert "add --yes" in done.stderr
    assert finished.exists()


def test_watch_ends_quietly(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished.parent)
    ended, shown = on_terminal("run", "--watch", answer="\x03")
    assert ended == 128 + signal.SIGINT
    assert "1 run (1 finished)" in shown
    assert "Traceback" not in shown
    assert shown.endswith("\x1b[?1049l\x1b[?25h")  # the terminal is as it was


def on_terminal(*arguments: str, answer: str) -> tuple[int, str]:
    """Carry a command out on a terminal, and answer when it has shown something."""
    process, terminal = pty.fork()
    if process == 0:
        os.execv(sys.executable, [sys.executable, "-m", "nnlab.runs", *arguments])
    shown, answered = b"", False
    while select.select([terminal], [], [], 60)[0]:
        try:
            part = os.read(terminal, 65536)
        except OSError:
            break
        shown += part
        if not answered and (b"folder" in shown and (b"y/N" in shown or answer == "\x03")):
            os.write(terminal, answer.encode())
            answered = True
    ended = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    os.close(terminal)
    return ended, shown.decode()


def test_no_runs_are_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert runs.main([]) == 0
    assert capsys.readouterr().out == "no such runs\n"
    assert listed(capsys) == []
    assert runs.main(["--delete", "--yes"]) == 0


def test_names_that_others_chose_are_only_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [name for name in HOSTILE if "/" not in name and "\0" not in name and len(name) < 200]
    failed = {**FAILED, "error": "a\x1b[2Jb"}
    for number, name in enumerate(names):
        lay(tmp_path / "s\x1b[31m", {"seed": number}, name=name, **failed)
    assert {Path(run["folder"]).name for run in listed(capsys, tmp_path)} == set(names)
    assert runs.main([str(tmp_path)]) == 0
    assert runs.main([str(tmp_path), "--delete", "--yes"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\r" not in out
    assert r"s\x1b[31m" in out
    assert r"a\x1b[2Jb" in out


def test_failed_and_diverged_say_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lay(tmp_path, {"seed": 1}, **FAILED)
    lay(tmp_path, {"seed": 2}, **DIVERGED)
    lay(tmp_path, {"seed": 3}, status="running", rows="")
    assert runs.main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3:] == [
        "seed=1: failed: ValueError: no room; the same command begins it anew",
        "seed=2: diverged: training loss is nan",
        "seed=3: the same command begins it anew",
    ]
    assert lines[0] == f"{tmp_path}: 3 runs (1 diverged, 1 waiting, 1 failed)"


def test_a_lock_that_can_only_be_read_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a read-only disk, or in another user's study."""
    dead = tmp_path / ".process-dead.lock"
    dead.touch()
    with claims.Claim(tmp_path) as claim:
        dead.touch()

        def read_only(path: Path, timeout: float) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

        monkeypatch.setattr(claims, "acquire", read_only)
        assert claims.held(claim.path)
        assert not claims.held(dead)
    assert dead.exists()


def test_a_study_that_cannot_be_locked_is_kept(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(path: Path, timeout: float) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(claims, "acquire", read_only)
    assert runs.main([str(finished), "--delete", "--yes"]) == 1
    assert capsys.readouterr().err == (
        f"{finished.parent}: Read-only file system; its runs are kept\n"
    )
    assert (finished / "result.json").exists()


def test_a_run_may_be_the_working_directory(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    assert states(capsys, ".") == {"run": "finished"}
    monkeypatch.chdir("..")
    assert states(capsys, ".") == {"run": "finished"}
    assert states(capsys) == {}


def test_a_pipe_in_the_place_of_a_new_result_stops_no_list(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (finished / records.NEW).mkdir()
    os.mkfifo(finished / records.NEW / "result.json")
    assert states(capsys, finished) == {"run": "finished"}
    failed = {**result(finished), "status": "failed", "error": "no room"}
    del failed["checksum"]
    (finished / "result.json").write_text(json.dumps(failed))
    assert states(capsys, finished) == {"run": "failed"}


def test_it_starts_without_what_is_slow_to_import() -> None:
    slow = {"torch", "pandas", "scipy", "hydra", "matplotlib.pyplot"}
    assert imported("nnlab.runs", slow) == set()


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        runs.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"nnlab {importlib.metadata.version('nnlab')}\n"
