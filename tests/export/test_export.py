"""What other tools are given of runs, and what the command says."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnlab.export import __main__ as command
from nnlab.export import finished
from nnlab.report.frames import results
from tests.export import studies
from tests.imports import imported
from tests.names import HOSTILE
from tests.report.studies import lay
from tests.test_run import QUICK, nnlab_run


@pytest.fixture
def study(tmp_path: Path) -> Path:
    studies.study(tmp_path / "rates")
    return tmp_path / "rates"


def test_finished_runs_are_those_that_came_to_their_end(study: Path) -> None:
    found = finished(study)
    oracle = [path.name for path in study.iterdir() if "lr" in path.name]
    assert sorted(run.name for run in found.runs) == sorted(oracle)
    assert found.left_out == 2
    assert found.study == "rates"
    assert sorted(found.varied) == ["model.hidden", "optimizer.lr", "seed"]
    assert [run.name for run in found.runs if run.failed] == ["optimizer.lr=10.0,model.hidden=[]"]
    assert len({run.key for run in found.runs}) == len(oracle)


def test_results_are_the_row_of_the_summary(study: Path) -> None:
    table = results(study).set_index("name")
    for run in finished(study).runs:
        row = table.loc[run.name].dropna()
        numbers = {key: value for key, value in row.items() if not isinstance(value, (str, tuple))}
        for key in ("optimizer.lr", "seed"):  # options
            del numbers[key]
        assert run.results == numbers
        assert run.texts["status"] == row["status"]
        assert run.texts["fingerprint"] == studies.result(study / run.name)["fingerprint"]


def test_epochs_have_the_times_at_which_they_ended(study: Path) -> None:
    for run in finished(study).runs:
        oracle = studies.metrics(study / run.name)
        assert (run.started, run.ended) == (studies.began(), studies.began() + studies.SECONDS)
        for epoch, ended, measured in run.epochs():
            row = oracle.loc[epoch].dropna()
            assert measured == {f"epoch/{name}": value for name, value in row.items()}
            assert ended == studies.began() + row["seconds"]
        assert epoch == len(oracle)


@pytest.mark.parametrize("log", [None, "", "[0001-01-01 00:00:00.000] x\n"])
def test_times_without_a_log_are_those_of_the_result(log: str | None, tmp_path: Path) -> None:
    run = lay(tmp_path, train_seconds=7.5)
    if log is not None:
        (run / "run.log").write_text(log)
    os.utime(run / "result.json", (1_000_000, 1_000_000))
    (found,) = finished(tmp_path).runs
    assert (found.started, found.ended) == (999_992.5, 1_000_000)


@pytest.mark.slow
def test_a_trained_run_was_begun_before_it_ended(tmp_path: Path) -> None:
    nnlab_run(*QUICK, cwd=tmp_path)
    folder = next(tmp_path.rglob("result.json")).parent
    (found,) = finished(folder.parent).runs
    written = os.stat(folder / "result.json").st_mtime
    begun = os.stat(folder / ".hydra" / "config.yaml").st_mtime
    # What is logged first is written after Hydra's record, what is logged last before the result.
    assert begun - 0.1 <= found.started <= found.ended <= written + 0.1
    assert [epoch for epoch, _, _ in found.epochs()] == [1, 2]
    assert {path.name for path in found.files} >= {"model.safetensors", "curves.png", "run.log"}


def test_a_damaged_run_is_left_out(tmp_path: Path) -> None:
    lay(tmp_path, {"seed": 1}, sha256={"metrics.csv": "0" * 64})
    lay(tmp_path, {"seed": 2})
    lay(tmp_path, {"seed": 3}, sha256={"model.safetensors": "0" * 64})
    (tmp_path / "seed=3" / "model.safetensors").touch()
    (tmp_path / "seed=4").mkdir()
    (tmp_path / "seed=4" / "result.json").write_text("{}")
    found = finished(tmp_path)
    assert [run.name for run in found.runs] == ["seed=2"]
    assert found.left_out == 3


def test_a_link_in_a_run_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = lay(tmp_path / "study")
    (tmp_path / "private").write_text("nobody else's business")
    for name in ("run.log", "curves.png", "hardest.csv"):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(tmp_path / "private")
    (found,) = finished(tmp_path / "study").runs
    assert [path.name for path in found.files] == ["result.json", "metrics.csv"]
    assert found.pictures == []
    assert f"left out {run / 'run.log'}: it is a link" in caplog.messages


@pytest.mark.parametrize("tool", command.TOOLS)
def test_a_missing_package_is_one_message(
    tool: str, study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("tensorboardX", "mlflow", "wandb"):
        monkeypatch.setitem(sys.modules, module, None)
    before = sorted(study.rglob("*"))
    monkeypatch.chdir(study)
    assert command.main([str(study), "--to", tool]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"pip install 'nnlab[{tool}]'" in line
    assert sorted(study.rglob("*")) == before


@pytest.mark.filterwarnings("ignore")  # of the packages
@pytest.mark.parametrize(
    ("tool", "package"),
    [("tensorboard", "tensorboardX"), ("mlflow", "mlflow"), ("wandb", "wandb")],
)
def test_names_that_others_chose_are_only_text(
    tool: str,
    package: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip(package)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)
    # W&B writes no path that is not UTF-8.
    unfit = {"/", "\0", "\udcff" if tool == "wandb" else "/"}
    names = [name for name in HOSTILE if not unfit & set(name) and len(name) < 200]
    study = "100 %: $a$#?" + "\udcff" * (tool != "wandb")
    for number, name in enumerate(names):
        lay(tmp_path / study, {"seed": number, "dataset": name}, name=name)
    for written in (len(names), 0):
        assert command.main([study, "--to", tool]) == 0
        assert f": {written} runs written" in capsys.readouterr().out


def test_of_two_exports_at_once_one_waits(
    study: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each of which would write the runs that the other does."""
    holds = (
        "import sys; from pathlib import Path; from nnlab import claims\n"
        "with claims.alone(Path(sys.argv[1]), ''):\n"
        "    print('holds', flush=True); sys.stdin.readline(); print('ended', flush=True)\n"
    )
    pipe = subprocess.PIPE
    line = [sys.executable, "-c", holds, str(study / command.LOCK)]
    with subprocess.Popen(line, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "holds\n"
        said = []

        def write(*_: object) -> Iterator[bool]:
            said.append(other.stdout and other.stdout.readline())
            yield True

        monkeypatch.setitem(command.TOOLS, "mlflow", (write, "nowhere"))
        threading.Timer(0.5, lambda: print(file=other.stdin, flush=True)).start()
        assert command.main([str(study), "--to", "mlflow"]) == 0
    assert said == ["ended\n"]
    assert [each.split()[:2] for each in caplog.messages] == [["waiting", "for"]]


def test_no_study_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, message in ((tmp_path / "no", "there is no folder"), (tmp_path, "holds no runs")):
        assert command.main([str(folder), "--to", "tensorboard"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    with pytest.raises(SystemExit) as ended:
        command.main([str(tmp_path), "--to", "excel"])
    assert ended.value.code == 2
    assert "choose from tensorboard, mlflow, wandb" in capsys.readouterr().err.replace("'", "")


def test_it_starts_without_what_is_slow_to_import() -> None:
    slow = {"torch", "pandas", "scipy", "hydra", "matplotlib.pyplot", "mlflow", "wandb"}
    assert imported("nnlab.export.__main__", slow) == set()
