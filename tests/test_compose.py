"""Text that goes into files and names; composing itself is tested with Hydra's jobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import yaml
from hydra._internal import config_loader_impl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf import base as omegaconf_base
from PIL import Image

from nnlab import compose, hydra_jobs, run, targets
from nnlab.compose import as_json, folder_name, from_environment
from nnlab.config import CONF

WRITABLE = st.characters(exclude_categories=["Cs"])  # a file in UTF-8 has no half of a pair


@given(
    st.lists(st.text(WRITABLE) | st.integers() | st.from_regex(r"\A[a-z0-9/=.,+_~<:#\[\] -]*\Z"))
)
@settings(deadline=None)
def test_json_is_yaml(value: list[Any]) -> None:
    assert yaml.safe_load(f"key:\n  inner: {as_json(value)}\n") == {"key": {"inner": value}}
    for each in value:
        assert yaml.safe_load(f"- {as_json(each)}\n") == [each]


@pytest.mark.parametrize(
    "text",
    [
        "\x85",
        "\u2028",
        "\x7f",
        "\ufffe",
        "\ufeff",
        "😀",
        "\\ud83d\\ude00",
        "\\😀",
        "on",
        "1e3",
        "08",
    ],
)
def test_json_of_words_that_yaml_reads_otherwise(text: str) -> None:
    assert yaml.safe_load(f"- {as_json(text)}\n") == [text]


def test_folder_names() -> None:
    for bad in ("a=b/c", "a=[x y]", "a='q'", "x=" + "y" * 300, "a=(1)", "a={b:1}", 'a="/"'):
        name = folder_name(bad)
        assert not set(name) & set("/[]{}() '\"\\")
        assert len(name) <= compose.LONGEST_NAME + 9
    assert folder_name("a=b/c") != folder_name("a=b-c") != folder_name("a=b c")
    assert folder_name("x=" + "y" * 300) != folder_name("x=" + "y" * 301)


def test_groups_are_listed_as_hydra_lists_them(monkeypatch: pytest.MonkeyPatch) -> None:
    compose.register()
    with hydra.initialize_config_dir(str(CONF), **compose.VERSION_BASE):
        loader = GlobalHydra.instance().config_loader()
        places = ["", "dataset", "optimizer", "hydra", "hydra/launcher", "hydra/schema", "nowhere"]
        asked = [(place, kind) for place in places for kind in ObjectType]
        expected = [loader.get_group_options(*each) for each in asked]
        assert "mnist" in expected[asked.index(("dataset", ObjectType.CONFIG))]
        with compose.quick_hydra():
            # Only overrides, which may add places to look in, have it read anything again.
            monkeypatch.setattr(config_loader_impl, "CachingConfigRepository", None)
            assert [loader.get_group_options(*each) for each in asked] == expected
            groups = loader.list_groups("hydra")
            with pytest.raises(TypeError):
                loader.get_group_options("dataset", overrides=["optimizer=adam"])
        assert groups == expected[asked.index(("hydra", ObjectType.GROUP))]


@pytest.mark.parametrize("written", ["${oc.env:EPOCHS}", "${ oc.env:EPOCHS }"])
def test_each_run_of_a_sweep_is_another_with_another_value_of_the_environment(
    written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["seed=0,1", "train_size=20", "test_size=20", "model.hidden=[4]", "study=s"]
    errors = []
    for epochs in ("1", "1", "2"):
        monkeypatch.setenv("EPOCHS", epochs)
        command = hydra_jobs.Command()
        with run.alone():
            run.train(command, [*arguments, f"stopping.max_epochs={written}"])
        errors.append((command.tally.failed, command.tally.refused, command.tally.runs))
    assert errors == [(0, True, 2)] * 2 + [(2, True, 2)]


@pytest.mark.parametrize(
    ("overrides", "short"),
    [
        (["seed=1,2", "hydra.job.name=a", "hydra/sweeper=basic"], True),
        (["hydra.mode=RUN"], False),
        (["seed=1", "hydra={mode: RUN}"], False),
        (["~hydra.mode"], False),
        (["hydra.searchpath=[file://own]", "experiment=own"], False),
    ],
)
@pytest.mark.skipif(not compose.HYDRA_1_3, reason="later Hydra does so itself")
def test_the_mode_is_hydras_own(
    overrides: list[str], short: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    own = "# @package _global_\nhydra:\n  mode: RUN\n"
    (tmp_path / "own" / "experiment" / "own.yaml").write_text(own)
    compose.register()
    with hydra.initialize_config_dir(str(CONF), **compose.VERSION_BASE):
        whole = GlobalHydra.instance().hydra
        assert whole is not None
        expected = whole.get_mode("config", overrides)
        composed: list[Any] = []
        with compose.quick_hydra():
            monkeypatch.setattr(whole, "compose_config", lambda **_: composed.append(1))
            whole.get_mode("config", overrides)
            assert (composed == []) == short
            monkeypatch.undo()
            monkeypatch.chdir(tmp_path)
            assert whole.get_mode("config", overrides) == expected
    assert (expected is RunMode.MULTIRUN) == short


def test_a_changed_file_of_the_users_own_is_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also where the command line names its folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    arguments = ["hydra.searchpath=[file://own]", "experiment=own", "train_size=20", "study=s"]
    for batch_size, status in [(7, 0), (7, 0), (5, 1)]:
        own = f"# @package _global_\nbatch_size: {batch_size}\nstopping:\n  max_epochs: 1\n"
        (tmp_path / "own" / "experiment" / "own.yaml").write_text(own)
        with run.alone():
            assert run.run([*arguments, "test_size=20", "model.hidden=[4]"]) == status
    assert "holds a run with batch_size=7; this one has batch_size=5" in capfd.readouterr().err


def test_interpolations_are_read_as_omegaconf_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["${a}", "run ${.a}", "${nnlab.folder_name:${a}}", "${b[${c}]}", r"\${a}", "${b.2}"]

    def read(number: int) -> list[object]:
        tree = OmegaConf.create(
            {"a": f"x=[{number}]", "b": [number, 7, "${.0}"], "c": str(number % 2)}
        )
        return [OmegaConf.merge(tree, {"text": text}).text for text in texts]

    expected = [read(number) for number in range(3)]
    assert expected[1] == ["x=[1]", "run x=[1]", "x=1", 7, "${a}", 1]
    parsed = []

    def parse(text: str) -> Any:
        parsed.append(text)
        return omegaconf_parse(text)

    omegaconf_parse = omegaconf_base.parse  # type: ignore[attr-defined]
    monkeypatch.setattr(omegaconf_base, "parse", parse)
    with compose.quick_hydra():
        assert [read(number) for number in range(3)] == expected
    assert omegaconf_base.parse is parse  # type: ignore[attr-defined]
    assert len(parsed) == len(set(parsed)) >= len(texts)


@pytest.mark.parametrize(
    "written",
    [
        "${oc.env :PLACE}/c",
        "${oc.select:dataset.folder}",
        "${dataset[folder]}",
        "${hydra:help.header}",
        "${oc.decode:${oc.env:PLACE}}",
        "${oc.env:NO_SUCH_NAME,${oc.env:PLACE}}",
    ],
)
def test_a_value_of_the_environment_is_known_by_whichever_way_it_came(
    written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACE", "hunter2")
    setup_globals()
    dataset = {"folder": "${oc.env:PLACE}", "title": written, "name": "a", "list": [written, "b"]}
    composed = OmegaConf.create(
        {"dataset": dataset, "hydra": {"help": {"header": "${oc.env:PLACE}"}}}
    )
    with targets.current(composed):
        found = from_environment(composed)
    assert found.keys() == {"dataset.folder", "dataset.title", "dataset.list"}
    assert all("hunter2" not in text and "#" in text for text in found.values())


def test_values_of_the_environment_are_kept_as_they_were_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET", "5ecret-place")
    monkeypatch.setenv("EPOCHS", "2")
    (tmp_path / "5ecret-place" / "images").mkdir(parents=True)
    lines = ["filename,semantic_label,numeric_label,partition"]
    for number, part in enumerate(["train", "train", "test", "test"]):
        pixels = np.full((64, 64, 3), 50 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "5ecret-place" / "images" / f"{number}.png")
        lines.append(f"{number}.png,breed {number % 2},{number % 2},{part}")
    (tmp_path / "5ecret-place" / "dogs.csv").write_text("\n".join(lines))
    arguments = [
        *("dataset=dogset", "dataset.folder=${oc.env:SECRET}", "study=s", "train_size=null"),
        *("valid_size=0", "test_size=null", "model.name=${dataset.folder}"),
        "stopping.max_epochs=${oc.env:EPOCHS}",
    ]

    def command() -> None:
        with run.alone():
            assert run.run(arguments) == 0

    command()
    folder = tmp_path / "outputs" / "s" / "default"
    texts = {path: path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()}
    assert [path for path, text in texts.items() if b"5ecret" in text] == []
    result = json.loads(texts[folder / "result.json"])
    assert result["config"]["dataset"]["folder"].startswith("${oc.env:SECRET}#")
    assert result["dataset"]["source"].startswith("DogSet in ${oc.env:SECRET}#")
    assert result["config"]["stopping"]["max_epochs"] == 2
    command()  # is already done
    assert (folder / "result.json").read_bytes() == texts[folder / "result.json"]
    monkeypatch.setenv("EPOCHS", "3")
    with run.alone():
        assert run.run(arguments) == 1  # the value decides, though its name is the same
