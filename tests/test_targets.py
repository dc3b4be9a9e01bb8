"""Files of a configuration name no code that Hydra, logging or a sweeper would run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.errors import HydraException
from omegaconf import OmegaConf

from nnlab import run, targets

MODULE = """
from hydra.experimental.callback import Callback

class Called(Callback):
    def on_multirun_end(self, **arguments):
        open("called", "w").close()
"""
CODE = {"_target_": "foreign.Called"}
PACKAGE = "# @package _global_\n"
FILES = {
    "experiment/callbacks": (PACKAGE, {"hydra": {"callbacks": {"a": CODE}}}),
    "experiment/text": (
        PACKAGE,
        {"hydra": {"callbacks": {"a": "${oc.create:{_target_: foreign.Called}}"}}},
    ),
    "experiment/led": (
        PACKAGE,
        {"hydra": {"callbacks": {"a": "${hydra.job.env_set}"}, "job": {"env_set": CODE}}},
    ),
    "experiment/deep": (PACKAGE, {"hydra": {"sweeper": {"params": {"a": [{"b": CODE}]}}}}),
    "experiment/space": (PACKAGE, {"hydra": {"sweeper": {"custom_search_space": "foreign.f"}}}),
    "experiment/task": (PACKAGE, {"evaluation": [CODE]}),
    "experiment/environment": (PACKAGE, {"hydra": {"job": {"env_set": {"PATH": "foreign.d"}}}}),
    "experiment/node": (
        PACKAGE,
        {"hydra": {"callbacks": {"a": "${hydra:sweeper.params}"}, "sweeper": {"params": CODE}}},
    ),
    "experiment/value": (
        PACKAGE,
        {
            "hydra": {
                "callbacks": {"a": {"_target_": "${hydra:sweeper.params.x}"}},
                "sweeper": {"params": {"x": "foreign.Called"}},
            }
        },
    ),
    "hydra/callbacks/mine": ("", {"mine": CODE}),
    "hydra/launcher/mine": ("", CODE),
    "hydra/sweeper/mine": ("", CODE),
    "hydra/sweeper/sampler/mine": ("", CODE),
    "hydra/job_logging/factory": ("", {"version": 1, "handlers": {"h": {"()": "foreign.Called"}}}),
    "hydra/job_logging/class": ("", {"version": 1, "handlers": {"h": {"class": "foreign.Called"}}}),
    "hydra/hydra_logging/stream": (
        "",
        {"version": 1, "handlers": {"h": {"stream": "ext://foreign.x"}}},
    ),
}


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a module and a folder of configuration files that name it."""
    (tmp_path / "foreign.py").write_text(MODULE)
    for name, (head, content) in FILES.items():
        path = tmp_path / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "foreign", raising=False)
    return tmp_path


def command(*arguments: str) -> int:
    quick = ["train_size=20", "test_size=10", "stopping.max_epochs=1"]
    with run.alone():
        return run.run([*arguments, *quick])


@pytest.mark.parametrize(
    "overrides",
    [
        *(
            [f"{name.rpartition('/')[0]}={name.rpartition('/')[2]}"]
            for name in FILES
            if name not in ("experiment/deep", "experiment/space", "hydra/sweeper/sampler/mine")
        ),
        ["hydra/sweeper=search", "experiment=deep"],
        ["hydra/sweeper=optuna", "experiment=deep"],
        ["hydra/sweeper=optuna", "experiment=space"],
        ["hydra/sweeper=optuna", "hydra/sweeper/sampler=mine"],
        ["hydra.launcher._target_=foreign.Called"],
        ["hydra.sweeper._target_=foreign.Called"],
        ["+x._target_=foreign.Called"],
        ["+optimizer.x={a:[{_target_:foreign.Called}]}"],
    ],
    ids=" ".join,
)
def test_code_is_refused_by_name_before_it_is_imported(foreign: Path, overrides: list[str]) -> None:
    if "hydra/sweeper=optuna" in overrides:
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    with pytest.raises(ValueError, match=r"=foreign\.\w+ names code|=ext://foreign\.x names code"):
        command(*overrides, "--config-dir", "conf")
    assert "foreign" not in sys.modules
    assert not (foreign / "outputs").exists()


@pytest.mark.parametrize(("name", "package"), [("mine", "foreign"), ("deep", "foreign.sub")])
def test_nor_is_a_package_that_a_file_has_searched(name: str, package: str, foreign: Path) -> None:
    content = f"defaults: [/config, _self_]\nhydra:\n  searchpath: ['pkg://{package}']\n"
    (foreign / "conf" / f"{name}.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"hydra\.searchpath=\[pkg://foreign.*\] names code"):
        command("--config-dir", "conf", "--config-name", name)
    assert "foreign" not in sys.modules
    assert not (foreign / "outputs").exists()


@pytest.mark.parametrize("flag", ["--experimental-rerun", "--experimental"])
def test_nor_is_a_job_that_was_pickled(flag: str, foreign: Path) -> None:
    (foreign / "job.pickle").write_bytes(b"cforeign\nCalled\n.")
    with pytest.raises(ValueError, match=r"--experimental-rerun would run code that job\.pickle"):
        command(flag, "job.pickle")
    assert "foreign" not in sys.modules


@pytest.mark.parametrize("content", ["defaults: [itself]", f"hidden: {'[' * 3000}{']' * 3000}"])
def test_what_has_no_end_is_told(content: str, foreign: Path) -> None:
    (foreign / "conf" / "model").mkdir()
    (foreign / "conf" / "model" / "itself.yaml").write_text(content)
    with pytest.raises(ValueError, match="includes itself, or is nested too deeply"):
        command("model=itself", "--config-dir", "conf")


def test_aliases_of_aliases_are_counted_before_they_are_followed(foreign: Path) -> None:
    """Each of twelve lines has ten of the one above: a thousand billion values."""
    (foreign / "conf" / "model").mkdir()
    file = foreign / "conf" / "model" / "bomb.yaml"
    lines = [
        "a0: &a0 [1]",
        *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 13)),
    ]
    file.write_text("\n".join(lines))
    # Line n has 1 + 10 times the values of the line above, and a key; all are in one mapping.
    values = [2]
    while len(values) < 13:
        values.append(1 + 10 * values[-1])
    stands_for = f"{1 + sum(values) + 13:,}"
    with pytest.raises(
        ValueError, match=rf"bomb\.yaml stand for {stands_for} values, at most 100,000"
    ):
        command("model=bomb", "--config-dir", "conf")


def test_a_few_aliases_are_followed(foreign: Path) -> None:
    (foreign / "conf" / "model").mkdir()
    content = "defaults: [mlp, _self_]\nhidden: &h [8, &n 4]\n"
    (foreign / "conf" / "model" / "mine.yaml").write_text(content.replace("4]", "4, *n]"))
    command("model=mine", "--config-dir", "conf")
    result = json.loads(next((foreign / "outputs").rglob("result.json")).read_text())
    assert result["config"]["model"]["hidden"] == [8, 4, 4]


def test_a_configuration_that_is_no_text_is_told(foreign: Path) -> None:
    (foreign / "conf" / "mine.yaml").write_bytes(b"a: \xff")
    with pytest.raises(ValueError, match="is no configuration: it is no text in UTF-8"):
        command("--config-dir", "conf", "--config-name", "mine")


@pytest.mark.parametrize(
    "hydra",
    [
        # Only as the job begins is it known where these lead.
        {"callbacks": {"a": "${hydra:job.config.${hydra:job.num}}"}},
        {"callbacks": {"a": {"_target_": "${hydra:job.num}.Called"}}},
        {"job_logging": {"version": 1, "handlers": {"h": "${hydra:verbose.${hydra:job.num}}"}}},
        {"job_logging": {"version": 1, "handlers": {"h": {"()": "logging.os.system"}}}},
        {"hydra_logging": {"version": 1, "formatters": {"h": {"()": "logging.config.fileConfig"}}}},
        {"job_logging": {"handlers": {"h": {"class": "logging.handlers.SocketHandler"}}}},
        {"job_logging": {"handlers": {"console": {".": {"stream": 1}}}}},
        # It was looked at before, where it does no harm.
        {"job_logging": "${hydra:callbacks.x}", "callbacks": {"x": {"h": {"()": "foreign.f"}}}},
        {"hydra_logging": "${hydra:verbose}", "verbose": {"h": {"()": "foreign.f"}}},
        {
            "job": {"env_set": "${hydra.sweeper.params}"},
            "sweeper": {"params": {"PATH": "foreign.d"}},
        },
        {"callbacks": {"a": {"_target_": "${oc.select:hydra.verbose${hydra:job.num},logging.X}"}}},
    ],
    ids=str,
)
def test_nor_is_what_is_not_named_at_once(hydra: dict[str, Any], foreign: Path) -> None:
    (foreign / "conf" / "experiment" / "it.yaml").write_text(
        PACKAGE + yaml.safe_dump({"hydra": hydra})
    )
    with pytest.raises((ValueError, HydraException), match="names code"):
        command("experiment=it", "--config-dir", "conf")
    assert "foreign" not in sys.modules


@pytest.mark.parametrize(
    "name",
    [
        "victim",
        "${hydra.runtime.output_dir}/../victim.log",
        "${hydra.runtime.output_dir}/metrics.csv",
        "${hydra.sweep.dir}/victim.log",
        "${hydra.runtime.output_dir}/${study}.log",
    ],
)
def test_logs_go_nowhere_else(name: str, foreign: Path) -> None:
    (foreign / "victim").write_text("kept")
    handler = {"class": "logging.FileHandler", "mode": "w", "filename": name}
    node = {"hydra": {"job_logging": {"handlers": {"file": handler}}}}
    (foreign / "conf" / "experiment" / "it.yaml").write_text(PACKAGE + yaml.safe_dump(node))
    with pytest.raises(ValueError, match="names a file"):
        command("experiment=it", "--config-dir", "conf", "hydra/launcher=basic")
    for option in ("hydra.job.name=../victim", "hydra.output_subdir=../victim"):
        with pytest.raises(ValueError, match="give it without /"):
            command(option, "hydra/launcher=basic")
    assert (foreign / "victim").read_text() == "kept"
    assert not (foreign / "outputs").exists()


def test_nor_where_the_runs_folder_is_said_to_be(foreign: Path) -> None:
    handler = {"class": "logging.FileHandler", "filename": "${hydra.runtime.output_dir}/mine.log"}
    node = {"hydra_logging": {"handlers": {"h": handler}}, "runtime": {"output_dir": "elsewhere"}}
    (foreign / "conf" / "experiment" / "it.yaml").write_text(
        PACKAGE + yaml.safe_dump({"hydra": node})
    )
    with pytest.raises(ValueError, match="names a file"):
        command("experiment=it", "--config-dir", "conf")


@pytest.mark.parametrize("subdir", ["../b", "a/../../b", "/b", ".new", "a/.", "a\0", ""])
def test_a_run_of_a_sweep_stays_in_its_study(subdir: str, foreign: Path) -> None:
    content = PACKAGE + yaml.safe_dump({"hydra": {"sweep": {"subdir": subdir}}})
    (foreign / "conf" / "experiment" / "it.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"hydra\.sweep\.subdir=.* is no folder of the study"):
        command("experiment=it", "seed=0,1", "-m", "--config-dir", "conf")
    assert not (foreign / "outputs").exists()


def test_a_log_of_the_runs_own_may_have_another_name(foreign: Path) -> None:
    handler = {"filename": "${hydra.runtime.output_dir}/mine.log"}
    node = {"hydra": {"job_logging": {"handlers": {"file": handler}}}}
    (foreign / "conf" / "experiment" / "it.yaml").write_text(PACKAGE + yaml.safe_dump(node))
    assert command("experiment=it", "--config-dir", "conf", "hydra/launcher=basic") == 0
    assert list(foreign.glob("outputs/mnist/*/mine.log"))


@pytest.mark.parametrize(
    ("group", "options", "typed"),
    [
        (
            "hydra/launcher=slurm",
            {"setup": ["touch called it's"]},
            r"hydra.launcher.setup=['touch called it\'s']",
        ),
        (
            "hydra/launcher=slurm",
            {"additional_parameters": {"wrap": "touch called"}},
            "hydra.launcher.additional_parameters={wrap:touch called}",
        ),
        (
            "hydra/launcher=slurm",
            {"additional_parameters": {"x\ntouch called #": 1}},
            "",  # there it cannot be given
        ),
        (
            "hydra/launcher=slurm",
            {"partition": "x\ntouch called #"},
            "hydra.launcher.partition='x\ntouch called #'",
        ),
        (
            "hydra/launcher=batches",
            {"executor": "dask", "options": {"address": "there:1"}},
            "hydra.launcher.options={address:there:1}",
        ),
        (
            "hydra/launcher=ray",
            {"address": "ray://there:1"},
            "hydra.launcher.address='ray://there:1'",
        ),
        (
            "hydra/sweeper=search",
            {"storage": "mysql://there/x"},
            "hydra.sweeper.storage='mysql://there/x'",
        ),
        (
            "hydra/sweeper=search",
            {"storage": "${oc.env:HOME}"},
            "hydra.sweeper.storage='${oc.env:HOME}'",
        ),
    ],
)
def test_programs_and_servers_are_named_on_the_command_line(
    group: str, options: dict[str, Any], typed: str, foreign: Path
) -> None:
    part = group.partition("/")[2].partition("=")[0]
    content = PACKAGE + yaml.safe_dump({"hydra": {part: options}})
    (foreign / "conf" / "experiment" / "it.yaml").write_text(content)
    asked = ("experiment=it", group, "--config-dir", "conf", "--cfg", "hydra")
    with pytest.raises(ValueError, match=rf"(?s)^hydra\.{part}\..* names programs or a server"):
        command(*asked)
    if typed:
        assert command(*asked, typed) == 0


def test_a_search_may_be_kept_where_its_file_says(foreign: Path) -> None:
    content = PACKAGE + yaml.safe_dump(
        {"hydra": {"sweeper": {"storage": "sqlite:///my-search.db"}}}
    )
    (foreign / "conf" / "experiment" / "it.yaml").write_text(content)
    asked = ("experiment=it", "hydra/sweeper=search", "--config-dir", "conf", "--cfg", "hydra")
    assert command(*asked) == 0


def test_the_command_line_may_set_the_environment(foreign: Path) -> None:
    assert command("+hydra.job.env_set.MINE=a") == 0


@pytest.mark.parametrize("name", ["PATH", "NO_SUCH_NAME"])
def test_nothing_of_the_environment_is_copied_into_files(name: str, foreign: Path) -> None:
    with pytest.raises(ValueError, match=rf"hydra.job.env_copy=.*{name}.*remove it"):
        command(f"hydra.job.env_copy=[{name}]")
    assert not list(foreign.rglob("hydra.yaml"))


def test_a_callback_that_the_command_line_names_runs(foreign: Path) -> None:
    assert command("+hydra.callbacks.mine._target_=foreign.Called") == 0
    assert (foreign / "called").exists()


@pytest.mark.parametrize(
    "overrides",
    [
        ["hydra/launcher=mine"],
        ["hydra/launcher=submitit_local"],
        ["hydra/sweeper=search"],
        ["hydra/sweeper=optuna", "hydra/sweeper/sampler=random"],
        ["hydra/job_logging=stdout"],
        ["hydra/hydra_logging=hydra_debug"],
    ],
    ids=" ".join,
)
def test_what_is_installed_may_be_chosen(overrides: list[str], tmp_path: Path) -> None:
    if "hydra/sweeper=optuna" in overrides:
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    (tmp_path / "hydra" / "launcher").mkdir(parents=True)
    (tmp_path / "hydra" / "launcher" / "mine.yaml").write_text("defaults: [joblib]\nn_jobs: 2\n")
    with run.alone():
        run.run([*overrides, "--config-dir", str(tmp_path), "--cfg", "hydra"])


def test_interpolations_in_a_circle_end() -> None:
    node = OmegaConf.create({"hydra": {"a": "${hydra}", "b": ["${hydra.b}", {"c": "${hydra}"}]}})
    targets.refuse_code(node, [])
