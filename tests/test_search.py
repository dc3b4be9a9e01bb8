"""Searches against Optuna used by hand, and against searches that nothing disturbed."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

optuna = pytest.importorskip("optuna", minversion="4")

from optuna.distributions import (  # noqa: E402
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState  # noqa: E402

from nnlab import claims, run, search, sweeps  # noqa: E402
from tests.reliability import studies, warm  # noqa: E402

QUICK = ("stopping.max_epochs=2", "train_size=40", "valid_size=50", "test_size=50")
SPACE = (
    "optimizer.lr=tag(log,interval(0.001,0.5))",
    "batch_size=range(5,20,5)",
    "model.hidden=choice([],[8])",
)
BY_HAND = {
    "optimizer.lr": FloatDistribution(0.001, 0.5, log=True),
    "batch_size": IntDistribution(5, 20, step=5),
    "model.hidden": CategoricalDistribution(["[]", "[8]"]),
}
STORED = "hydra.sweeper.storage=sqlite:///trials.db"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, and no tables and figures, which take longer than all else here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweeps, "conclude", sweeps.tell_errors)


def command(*arguments: str) -> int:
    """Do what the command line does that has hydra/sweeper=search."""
    with run.alone():
        return run.run(["hydra/sweeper=search", *QUICK, *arguments])


def stored(name: str = "mnist") -> list[Any]:
    """Return the trials of a stored search."""
    study = optuna.load_study(study_name=name, storage="sqlite:///trials.db")
    trials: list[Any] = study.get_trials()
    return trials


def results(name: str = "mnist") -> list[dict[str, Any]]:
    paths = Path("outputs", name).glob("*/result.json")
    return [json.loads(path.read_text()) for path in paths]


def result_of(params: dict[str, Any], name: str = "mnist") -> dict[str, Any]:
    """Return the result of the one run that has these values."""
    sizes = {"[]": [], "[8]": [8]}

    def values(config: dict[str, Any]) -> tuple[Any, ...]:
        return config["optimizer"]["lr"], config["batch_size"], config["model"]["hidden"]

    wanted = (params["optimizer.lr"], params["batch_size"], sizes[params["model.hidden"]])
    (found,) = [each for each in results(name) if values(each["config"]) == wanted]
    return found


@pytest.mark.parametrize(
    ("launcher", "name", "objective"),
    [
        ("nnlab", "tpe", "valid_loss"),
        ("nnlab", "random", "valid_accuracy"),
        pytest.param("basic", "tpe", "valid_accuracy", marks=pytest.mark.slow),
    ],
)
def test_trials_are_those_of_optuna_by_hand(launcher: str, name: str, objective: str) -> None:
    """The same sampler, seed and values, asked for in the same batches: the same trials."""
    options = [f"hydra.sweeper.sampler.name={name}", "hydra.sweeper.sampler.seed=3", STORED]
    numbers = ["hydra.sweeper.n_trials=14", "hydra.sweeper.n_jobs=4", f"objective={objective}"]
    assert command(*options, *numbers, f"hydra/launcher={launcher}", *SPACE) == 0

    sampler = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}[name]
    direction = "maximize" if objective == "valid_accuracy" else "minimize"
    oracle = optuna.create_study(sampler=sampler(seed=3), direction=direction)
    for count in (4, 4, 4, 2):
        batch = [oracle.ask(BY_HAND) for _ in range(count)]
        for trial in batch:
            oracle.tell(trial, result_of(trial.params)[objective])

    found = [(trial.params, trial.value) for trial in stored()]
    assert found == [(trial.params, trial.value) for trial in oracle.trials]
    best = yaml.safe_load(Path("outputs/mnist/optimization_results.yaml").read_text())
    hidden = {"[]": [], "[8]": [8]}[oracle.best_params["model.hidden"]]
    assert best == {
        "name": "optuna",
        "best_params": oracle.best_params | {"model.hidden": hidden},
        "best_value": oracle.best_value,
    }


@pytest.mark.parametrize(("name", "package"), [("gp", "scipy"), ("cmaes", "cmaes")])
def test_other_samplers_are_optunas(name: str, package: str) -> None:
    pytest.importorskip(package)
    kind = {"gp": "GPSampler", "cmaes": "CmaEsSampler"}[name]
    options = [f"hydra.sweeper.sampler.name={name}", "hydra.sweeper.n_trials=13", STORED]
    space = ("optimizer.lr=interval(0.001,0.5)", "batch_size=int(interval(5,20))")
    assert command(*options, "hydra.sweeper.n_jobs=5", "model.hidden=[]", *space) == 0

    by_hand = {"optimizer.lr": FloatDistribution(0.001, 0.5), "batch_size": IntDistribution(5, 20)}
    oracle = optuna.create_study(sampler=getattr(optuna.samplers, kind)(seed=0))
    for count in (5, 5, 3):
        batch = [oracle.ask(by_hand) for _ in range(count)]
        for trial in batch:
            oracle.tell(trial, result_of(trial.params | {"model.hidden": "[]"})["valid_loss"])
    assert [each.params for each in stored()] == [each.params for each in oracle.trials]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=interval(1,3)", FloatDistribution(1.0, 3.0)),
        ("a=int(interval(1,3))", IntDistribution(1, 3)),
        ("a=tag(log,interval(0.1,3))", FloatDistribution(0.1, 3, log=True)),
        ("a=tag(log,int(interval(1,3)))", IntDistribution(1, 3, log=True)),
        ("a=range(1,7,2)", IntDistribution(1, 7, step=2)),
        ("a=range(0,1,0.25)", FloatDistribution(0, 1, step=0.25)),
        ("a=choice(sgd,adam)", CategoricalDistribution(["sgd", "adam"])),
        ("a=1,null,true", CategoricalDistribution(["1", "null", "True"])),
        ("a=choice([1],[1,2],[])", CategoricalDistribution(["[1]", "[1,2]", "[]"])),
        ("a=choice('x, y',z)", CategoricalDistribution([r"x\,\ y", "z"])),
    ],
)
def test_ranges_are_read_as_hydra_optuna_sweeper_reads_them(
    text: str, expected: BaseDistribution
) -> None:
    assert search.distribution(OverridesParser.create().parse_override(text)) == expected


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE trial_values SET value = 0.05 WHERE trial_id = 2",
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in (
                "UPDATE trial_params SET param_value = 0.05 WHERE trial_id = 2",
                "UPDATE study_directions SET direction = 'MAXIMIZE'",
                "DELETE FROM study_directions",
                "UPDATE study_user_attributes SET value_json = '123'",
                "DELETE FROM trial_user_attributes WHERE trial_id = 2",
            )
        ),
    ],
)
def test_a_stored_trial_that_has_changed_is_told(damage: str) -> None:
    options = damaged(damage)
    with pytest.raises(ValueError, match=r"storage is damaged: .*hydra\.sweeper\.study_name"):
        command(*options)
    before = len(results())
    assert command(*options, "hydra.sweeper.study_name=again") == 0
    assert len(results()) == before


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE trial_values SET value = NULL, value_type = 'NOTHING' WHERE trial_id = 2",
        "UPDATE trials SET state = 'NOTHING' WHERE trial_id = 2",
        "UPDATE trial_params SET distribution_json = '{' WHERE trial_id = 2",
    ],
)
@pytest.mark.slow
def test_a_storage_that_cannot_be_read_is_told(damage: str) -> None:
    with pytest.raises(ValueError, match=r"hydra\.sweeper\.storage cannot be opened: "):
        command(*damaged(damage))


def damaged(statement: str) -> list[str]:
    """Return the options of a stored search that has ended, and was damaged since."""
    options = ["hydra.sweeper.n_trials=4", STORED, "model.hidden=[]", SPACE[0]]
    assert command(*options) == command(*options) == 0
    with contextlib.closing(sqlite3.connect("trials.db")) as database, database:
        database.execute("PRAGMA ignore_check_constraints = ON")
        assert database.execute(statement).rowcount == 1
    return options


@pytest.mark.parametrize(
    "storage",
    [
        pytest.param((), id="in memory", marks=pytest.mark.slow),
        pytest.param((STORED,), id="stored"),
    ],
)
def test_a_killed_search_goes_on(
    storage: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    """Killed in its second batch, against a search that nothing disturbed."""
    options = ["hydra.sweeper.n_trials=8", "hydra.sweeper.n_jobs=2", *storage, "model.hidden=[64]"]
    arguments = [*options, "stopping.max_epochs=150", "train_size=400", SPACE[0]]
    process = warm.Command(["hydra/sweeper=search", *QUICK, *arguments], Path.cwd(), draw=False)
    while len(list(Path("outputs/mnist").glob("*/metrics.csv"))) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.end()
    before = {path.parent.name for path in Path("outputs/mnist").glob("*/result.json")}
    trained = [each for each in results() if each["status"] == "finished"]
    assert 2 <= len(trained) < 8

    assert command(*arguments) == 0
    after = {path.parent.name for path in Path("outputs/mnist").glob("*/result.json")}
    assert before < after
    assert len(after) == 8  # no trial was lost, and none was asked for again
    assert all(each in results() for each in trained)  # times and all: not trained again
    if storage:
        complete = [each for each in stored() if each.state == TrialState.COMPLETE]
        assert {f"optimizer.lr={each.params['optimizer.lr']}" for each in complete} == after
    else:
        assert command(*arguments, "study=undisturbed") == 0
        assert after == {
            path.parent.name for path in Path("outputs/undisturbed").glob("*/result.json")
        }
        values = [Path("outputs", name, search.RESULTS) for name in ("mnist", "undisturbed")]
        assert values[0].read_text() == values[1].read_text()

    capfd.readouterr()
    assert command(*arguments) == 0
    assert "epochs in" not in capfd.readouterr().out  # nothing is left to train
    assert {path.parent.name for path in Path("outputs/mnist").glob("*/result.json")} == after


def killed(
    place: Any, name: str, left: int, arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Search, up to a call of a function after which so many are left; those of studies that are
    in memory are not counted."""
    do, calls = getattr(place, name), iter(range(left))

    def call(*given: Any, **options: Any) -> Any:
        found = do(*given, **options)
        stored = getattr(given[0], "study_name", "mnist") == "mnist"
        if stored and next(calls, None) is None:
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patch:
        patch.setattr(place, name, call)
        with pytest.raises(KeyboardInterrupt):
            command(*arguments)


@pytest.mark.parametrize("step", ["tell", "enqueue_trial"])
def test_a_trial_that_was_broken_off_is_not_lost_by_a_second_kill(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first comes in the first batch, the second after a step of putting one of its trials in
    the queue again."""
    arguments = ["hydra.sweeper.n_trials=4", STORED, "model.hidden=[8]", SPACE[0]]
    killed(sweeps, "train", 0, arguments, monkeypatch)
    asked = {each.params["optimizer.lr"] for each in stored() if each.state == TrialState.RUNNING}
    assert len(asked) == 4
    killed(optuna.Study, step, 0, arguments, monkeypatch)
    assert command(*arguments) == 0
    complete = [each for each in stored() if each.state == TrialState.COMPLETE]
    assert sorted(each.params["optimizer.lr"] for each in complete) == sorted(asked)


KILLS = [(sweeps, "train", 1), (optuna.Study, "tell", 6), (optuna.Study, "ask", 5)]


@pytest.mark.parametrize(
    ("sampler", "place", "name", "after"),
    [
        ("tpe", *KILLS[0]),
        *(pytest.param("tpe", *each, marks=pytest.mark.slow) for each in KILLS[1:]),
        *(pytest.param(each, *KILLS[2], marks=pytest.mark.slow) for each in ("gp", "cmaes")),
    ],
)
def test_a_stored_search_that_was_killed_twice_asks_for_what_it_would_have(
    sampler: str, place: Any, name: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are 12 trials in batches of 4."""
    pytest.importorskip({"gp": "scipy", "cmaes": "cmaes"}.get(sampler, "optuna"))
    options = ["hydra.sweeper.n_trials=12", "hydra.sweeper.n_jobs=4", "model.hidden=[8]"]
    arguments = [f"hydra.sweeper.sampler.name={sampler}", *options, STORED, *SPACE[:2]]
    killed(place, name, after, arguments, monkeypatch)
    killed(place, name, 0, arguments, monkeypatch)
    assert command(*arguments) == 0
    assert command(*arguments, "study=undisturbed") == 0
    found, expected = (
        {tuple(each.params.values()): each.value for each in stored(of) if each.value is not None}
        for of in ("mnist", "undisturbed")
    )
    assert len(expected) == 12
    assert found == expected


@pytest.mark.parametrize("delay", [0.0, pytest.param(1.0, marks=pytest.mark.slow)])
def test_two_commands_at_one_search_do_it_once(delay: float) -> None:
    options = ["hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=2", STORED, "model.hidden=[64]"]
    arguments = [*options, "stopping.max_epochs=40", "train_size=400", SPACE[0]]
    both = []
    for _ in range(2):
        line = ["hydra/sweeper=search", *QUICK, *arguments]
        both.append(warm.Command(line, Path.cwd(), draw=False))
        time.sleep(delay)
    assert [process.end().status for process in both] == [0, 0]
    assert [trial.state for trial in stored()] == [TrialState.COMPLETE] * 6
    assert len(results()) == 6


def test_a_folder_that_the_other_command_removes_is_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a refused command does with that of a search that has not begun."""
    acquire, folder, calls = claims.acquire, Path("outputs/a"), []

    def removed(path: Path, timeout: float) -> Any:
        calls.append(timeout)
        if len(calls) == 1:
            folder.rmdir()
        return acquire(path, timeout)

    monkeypatch.setattr(claims, "acquire", removed)
    options: Any = SimpleNamespace(storage="sqlite:///a.db")
    with search.alone(options, folder):
        assert (folder / search.LOCK).exists()
    assert not folder.exists()
    with search.alone(options, folder):
        (folder / "seed=0").mkdir()
    assert [path.name for path in folder.iterdir()] == ["seed=0"]


def test_a_stored_search_may_grow(capsys: pytest.CaptureFixture[str]) -> None:
    space = ("hydra.sweeper.sampler.name=random", SPACE[0], STORED)
    assert command("hydra.sweeper.n_trials=4", *space) == 0
    assert command("hydra.sweeper.n_trials=6", *space) == 0
    assert len(stored()) == 6
    assert len({trial.params["optimizer.lr"] for trial in stored()}) == 6
    assert "best of 6 trials" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"mnist is one with .* not with .*seed=4; give this one"):
        command("hydra.sweeper.n_trials=8", *space, "seed=4")
    other = (space[0], "optimizer.lr=interval(0.5,0.9)", STORED)
    with pytest.raises(ValueError, match=r"not with .*interval\(0\.5,0\.9\).*; give this one"):
        command("hydra.sweeper.n_trials=8", *other)
    assert command("hydra.sweeper.n_trials=2", *space, "seed=4", "study=b") == 0
    assert len(stored("b")) == 2


@pytest.mark.parametrize(
    "launcher", ["nnlab", "basic", pytest.param("joblib", marks=pytest.mark.slow)]
)
def test_a_failed_run_is_told_as_failed(launcher: str) -> None:
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    options = [f"hydra/launcher={launcher}", "hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=6"]
    arguments = ["hydra/sweeper=search", *QUICK, *options, STORED, "optimizer.lr=choice(-1,0.1)"]
    start = studies.run if launcher == "joblib" else warm.run
    done = start(*arguments, cwd=Path.cwd())
    assert done.status == 1
    assert "optimizer.lr=-1.0 is not possible" in done.err
    assert "Traceback" not in done.err
    found = [(each.params["optimizer.lr"], each.state, each.value) for each in stored()]
    (loss,) = (each["valid_loss"] for each in results())
    expected = {"-1": (TrialState.FAIL, None), "0.1": (TrialState.COMPLETE, loss)}
    assert len(found) == 6
    assert {lr for lr, *_ in found} == {"-1", "0.1"}
    assert all((state, value) == expected[lr] for lr, state, value in found)
    good = sum(lr == "0.1" for lr, *_ in found)
    assert f"best of {good} trials: valid_loss={loss:.6g}" in done.out


def test_the_best_run_is_told_with_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    """It is also found where another command has trained it under another name."""
    with run.alone():
        assert run.run([*QUICK, "optimizer.lr=0.1"]) == 0
    capsys.readouterr()
    assert command("hydra.sweeper.n_trials=3", "optimizer.lr=choice(0.1,0.1)") == 0
    line, again, folder = capsys.readouterr().out.splitlines()[-3:]
    (result,) = results()
    assert line == f"best of 3 trials: valid_loss={result['valid_loss']:.6g}"
    assert folder == "outputs/mnist/default"
    assert again == f"python -m nnlab.run {' '.join(QUICK)} optimizer.lr=0.1"


def test_a_stored_search_whose_runs_are_gone_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["hydra.sweeper.n_trials=2", STORED, SPACE[0]]
    assert command(*options) == 0
    told = capsys.readouterr().out.splitlines()[-3:-1]
    shutil.rmtree("outputs")
    assert command(*options) == 0
    gone = f"its run is gone from {Path('outputs/mnist')}: this trains it anew"
    assert capsys.readouterr().out.splitlines()[-3:] == [*told, gone]
    assert Path("outputs/mnist/optimization_results.yaml").is_file()


def test_a_plan_is_of_all_trials_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("hydra.sweeper.n_trials=7", SPACE[0], STORED, "plan=true") == 0
    assert "7 runs take about" in capsys.readouterr().out
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hydra.sweeper.n_trials=0", SPACE[0]], "n_trials=0 is too small; give 1 or more"),
        (["hydra.sweeper.n_jobs=0", SPACE[0]], "n_jobs=0 is too small; give 1 or more"),
        ([], "has nothing to search; give an option a range"),
        (["optimizer.lr=interval(0.1,0.01)"], r"interval\(0.1,0.01\): .*`low"),
        (["optimizer.lr=tag(log,interval(0,1))"], r"interval\(0,1\)\): .*`low"),
        (["optimizer.lr=range(0,inf)"], r"range\(0,inf\) has no end; give numbers"),
        (["optimizer.lr=interval(0,inf)"], r"interval\(0,inf\) has no end; give numbers"),
        (["optimizer=glob(x*)"], r"optimizer=glob\(x\*\) has no values; give at least one"),
        (["hydra.sweeper.direction=maximize", SPACE[0]], "set hydra.sweeper.direction=minimize"),
        (["valid_size=0", SPACE[0]], "there is no validation set; set valid_size"),
        (["test_size=0", "objective=test_loss", SPACE[0]], "there is no test set; set test_size"),
        (
            ["objective=valid_r2", SPACE[0]],
            "objective=valid_r2 is not possible: it is of a regression",
        ),
        (["objective=valid_los", SPACE[0]], "objective=valid_los is not possible: choose one of"),
        (["valid_size=50,40,0", SPACE[0]], "there is no validation set; set valid_size"),
        (["hydra.sweeper.storage=sqlite:///no/such.db", SPACE[0]], "storage cannot be opened"),
        (["hydra.sweeper.storage=trials.db", SPACE[0]], "give the URL of a database"),
    ],
)
@pytest.mark.parametrize("launcher", ["nnlab", "basic"])
def test_what_keeps_a_search_from_beginning(
    launcher: str, arguments: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        command(f"hydra/launcher={launcher}", *arguments)
    assert not list(Path().glob("outputs/*/*"))


def without(package: str) -> Callable[[str], Any]:
    return lambda name: None if name == package else importlib.util.find_spec(name)


@pytest.mark.parametrize(
    ("sampler", "package", "message"),
    [
        ("tpe", "optuna", r"search needs Optuna: pip install 'nnlab\[search\]'"),
        ("gp", "scipy", r"sampler.name=gp needs scipy: pip install scipy"),
        ("cmaes", "cmaes", r"sampler.name=cmaes needs cmaes: pip install cmaes"),
    ],
)
def test_a_package_that_is_missing_is_named(
    sampler: str, package: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "find_spec", without(package))
    with pytest.raises(ValueError, match=message):
        command(f"hydra.sweeper.sampler.name={sampler}", SPACE[0])


def test_an_old_optuna_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "version", lambda name: "2.10.1")
    with pytest.raises(ValueError, match=r"needs Optuna 4 or later, and 2\.10\.1 is installed"):
        command(SPACE[0])
