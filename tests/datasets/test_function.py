"""A function of the user's own is called where the command line names it, and nowhere else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
import yaml
from torch.testing import assert_close

from nnlab import compose, datasets, describe, run
from nnlab.config import Config, fingerprint
from nnlab.datasets import Data

SOURCE = """
from pathlib import Path
import numpy as np
from beside import OFFSET

def load():
    Path("called").write_text(str(Path("called").exists() + 1))
    x = np.arange(40.0).reshape(20, 2) + OFFSET
    return x, np.resize(["b", "a"], 20)
"""


@pytest.fixture(autouse=True)
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_data.py").write_text(SOURCE)
    Path("beside.py").write_text("OFFSET = 0.5")
    datasets.forget()


def config(function: str = "my_data:load", *overrides: str) -> Config:
    return compose.load(["dataset=function", f"dataset.function={function}", *overrides])


def data(body: str) -> Data:
    """Return the data of a function with this body."""
    head = "import numpy as np\nimport torch\n\ndef load():\n    "
    Path("made.py").write_text(head + "\n    ".join(body.splitlines()) + "\n")
    return config("made:load").load_data()


def command(*arguments: str) -> int:
    with run.alone():
        return run.run([*arguments, "stopping.max_epochs=1"])


X = "x = np.arange(40.0).reshape(20, 2); y = np.resize([1, 0], 20)\n"


@pytest.mark.parametrize(
    "returned",
    [
        "x, y",
        "[x, y]",
        "{'x': x, 'y': y}",
        "torch.from_numpy(x), torch.from_numpy(y)",
        "x.tolist(), y.tolist()",
    ],
)
def test_its_arrays_are_the_examples(returned: str) -> None:
    found = data(f"{X}return {returned}")
    assert found.train.rows is not None
    rows = found.train.rows
    expected = torch.arange(40.0).view(20, 2)[rows]
    assert_close(torch.from_numpy(found.train.examples[0]), expected, rtol=0, atol=0)
    assert found.train.labels[found.train.index].tolist() == (1 - rows % 2).tolist()


@pytest.mark.parametrize(
    "returned",
    [
        "((x[:12], y[:12]), (x[12:], y[12:]))",
        "dict(x_train=x[:12], y_train=y[:12], x_test=x[12:], y_test=y[12:])",
    ],
)
def test_it_may_name_its_test_examples(returned: str) -> None:
    found = data(f"{X}return {returned}")
    assert found.test is not None
    assert found.test.inputs.tolist() == torch.arange(24, 40).view(8, 2).tolist()
    assert len(found.train) == 12


def test_the_source_is_part_of_what_a_run_is() -> None:
    assert command("dataset=function", "dataset.function=my_data:load") == 0
    result = json.loads(Path("outputs/function/default/result.json").read_text())
    digest = hashlib.sha256(SOURCE.encode()).hexdigest()
    assert result["dataset"]["source_sha256"] == digest
    assert Path("called").read_text() == "1"
    before = fingerprint(config())
    Path("my_data.py").write_text(SOURCE + "# changed\n")
    assert fingerprint(config()) != before


def test_a_package_may_hold_it() -> None:
    Path("package").mkdir()
    Path("package/__init__.py").write_text("")
    Path("package/inner.py").write_text(SOURCE)
    assert config("package.inner:load").load_data().classes == ["a", "b"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return 3", r"made:load returned what is no data \(a int\): it has to return \(x, y\)"),
        ("return None", r"\(a NoneType\)"),
        ("return np.ones(3), np.ones(3), np.ones(3)", r"\(a tuple of 3\)"),
        ("return {'images': np.ones(3)}", "holds the arrays images: x, y is missing"),
        ("return np.ones((4, 2)), np.array([0, 0, 1])", "4 examples but 3 labels"),
        ("return np.array([['a']] * 4), np.array([0, 0, 1, 1])", "examples are of type"),
        ("return [[1, 2], [3]], [0, 1]", "made:load returned what is no data"),
        ("return 1 / 0", r"made:load raised ZeroDivisionError: .*\(line 5 of made.py\)"),
        ("raise SystemExit(0)", r"made:load raised SystemExit: 0 \(line 5 of made.py\)"),
    ],
)
def test_what_it_returns_otherwise_is_said(body: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        data(body)


@pytest.mark.parametrize(
    ("function", "source", "said"),
    [
        ("my_dta:load", "", r"there is no my_dta\.py in the working directory; did you mean my_d"),
        ("broken:laod", "def load(): ...", "broken.py has no function laod; did you mean load"),
        (
            "broken:load",
            "import no_such",
            r"broken.py cannot be imported: ModuleNotFoundError: .*"
            r"no_such.* \(line 1 of broken.py\)",
        ),
        ("broken:load", "def load(:", r"cannot be imported: SyntaxError: .*\(line 1 of broken"),
        ("broken:load", "raise SystemExit(2)", r"imported: SystemExit: 2 \(line 1 of broken"),
        ("my_data", "", "dataset.function=my_data is not possible: name a module"),
        ("../x:load", "", "is not possible: name a module"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named(function: str, source: str, said: str) -> None:
    Path("broken.py").write_text(source)
    with pytest.raises(ValueError, match=said):
        config(function).load_data()
    assert not Path("outputs").exists()


# Configuration files

PACKAGE = "# @package _global_\n"
CHOOSE = {"defaults": [{"override /dataset": "function"}]}
NAMED = {"dataset": {"function": "my_data:load"}}
FILES = {
    "value": CHOOSE | NAMED,
    "swept": CHOOSE | {"hydra": {"sweeper": {"params": {"dataset.function": "my_data:load"}}}},
    "led": CHOOSE | {"dataset": {"function": "${output_dir}"}, "output_dir": "my_data:load"},
}


@pytest.fixture
def files() -> str:
    folder = Path("conf/experiment")
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / f"{name}.yaml").write_text(PACKAGE + yaml.safe_dump(content, sort_keys=False))
    return f"hydra.searchpath=[file://{folder.parent.absolute()}]"


@pytest.mark.parametrize("name", FILES)
def test_a_file_may_not_name_it(files: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for launcher in ([], ["hydra/launcher=basic"]):
        assert command(files, f"experiment={name}", *launcher) == 1
        said = "dataset.function=my_data:load names code, which a configuration may not"
        assert said in capsys.readouterr().err
        assert not Path("called").exists()


def test_describe_does_not_call_what_a_file_names(
    files: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert describe.main([files, "experiment=value"]) == 1
    assert "names code" in capsys.readouterr().err
    assert not Path("called").exists()
    assert describe.main(["dataset=function", "dataset.function=my_data:load"]) == 0
    assert Path("called").exists()


def test_the_command_line_may_name_it(files: str) -> None:
    function = "dataset.function=my_data:load"
    assert command(files, "experiment=value", function) == 0
    Path("other.py").write_text(SOURCE.replace("0.5", "1"))
    names = "dataset.function=my_data:load,other:load"
    assert command("dataset=function", names, "study=two", "-m") == 0
    assert len(list(Path("outputs/two").glob("*/result.json"))) == 2
    assert config().load_data().train.inputs.shape == (20, 2)


def test_a_search_may_call_it_likewise(files: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna")
    search = ["hydra/sweeper=search", "hydra.sweeper.n_trials=2", "valid_size=4"]
    search.append("optimizer.lr=interval(0.01,0.1)")
    assert command(files, "experiment=value", *search) == 1
    assert "names code" in capsys.readouterr().err
    assert not Path("called").exists()
    assert command("dataset=function", "dataset.function=my_data:load", *search) == 0
    assert len(list(Path("outputs/function").glob("*/result.json"))) == 2
