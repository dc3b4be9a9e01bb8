"""The short way to a job's configuration against Hydra's own, to the last node and flag."""

from __future__ import annotations

import functools
import json
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, run_job
from hydra.errors import ConfigCompositionException
from hydra.types import HydraContext, RunMode
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import Container, DictConfig, OmegaConf
from omegaconf._utils import get_omega_conf_dumper

from nnlab import config, hydra_jobs
from nnlab.config import CONF
from nnlab.hydra_jobs import SweepLoader, folder_name
from nnlab.jobs import Job, Outcome

config.register()

JOBS = [
    ["train_size=500"],
    ["train_size=1000"],
    ["train_size=null", "seed=3"],
    ["optimizer.lr=1e-3", "model.hidden=[64]", "train_size=50"],
    ["model.hidden=[]", "study='with a comma, and = sign'"],
    ["dataset=fashion_mnist", "seed=1"],
    ["seed=2", "dataset=fashion_mnist"],
    ["optimizer=adam", "optimizer.betas=[0.5,0.9]"],
    ["optimizer=adam", "optimizer.eps=1e-6", "seed=5"],
    ["optimizer={lr:0.5,momentum:0.9}"],
    ["++seed=5", "train_size=8"],
    ["seed=3", "++seed=5"],
    ["++seed=5", "seed=3"],
    ["experiment=mnist_train_size", "train_size=70"],
    ["stopping=plateau", "valid_size=100", "stopping.patience=4"],
    ["model.activation=tanh", "engine=torch", "objective=${study}"],
    ["study=${dataset.name}-${seed}", "seed=9"],
    ["fgsm={shown:0.5,eps:[0,${fgsm.shown}]}", "fgsm.shown=0.25"],
    ["evaluation=[hardest]", "hardest.per_class=0"],
    ["+optimiser=adam"],
    ["+optimizer.rate=1"],
    ["~stopping", "seed=1"],
    ["seed=???"],
    ["hydra={verbose:true}", "seed=4"],
    [],
]


@pytest.fixture(scope="module")
def loader() -> Iterator[ConfigLoaderImpl]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        assert isinstance(hydra.config_loader, ConfigLoaderImpl)
        yield hydra.config_loader


def master(loader: ConfigLoaderImpl, *overrides: str) -> DictConfig:
    composed = loader.load_configuration(
        "config",
        ["hydra.job.config.override_dirname.exclude_keys=[dataset]", *overrides],
        RunMode.MULTIRUN,
    )
    composed.hydra.job.name = "run"
    return composed


@pytest.fixture(scope="module")
def used(loader: ConfigLoaderImpl) -> tuple[DictConfig, SweepLoader]:
    """A sweep and a loader that has composed all of JOBS before."""
    swept, ours = master(loader), SweepLoader(loader.get_search_path())
    for overrides in JOBS:
        ours.load_sweep_config(swept, overrides)
    return swept, ours


def nodes(node: Any, path: str = "") -> Iterator[tuple[object, ...]]:
    """Yield every node of a configuration with all that OmegaConf knows of it."""
    meta = node._metadata
    value = None if isinstance(node, Container) else node._value()
    types = (meta.optional, meta.ref_type, meta.object_type)
    yield path, type(node), value, meta.flags, types
    if isinstance(node, Container) and not node._is_none() and not node._is_missing():
        keys = range(len(node)) if OmegaConf.is_list(node) else list(node)  # type: ignore[arg-type]
        for key in keys:
            yield from nodes(node._get_node(key), f"{path}.{key}")


@pytest.mark.parametrize("overrides", JOBS, ids=" ".join)
def test_composition_is_hydras_own(
    loader: ConfigLoaderImpl, used: tuple[DictConfig, SweepLoader], overrides: list[str]
) -> None:
    swept, ours = used
    expected = loader.load_sweep_config(swept, overrides)
    for found in (ours.own(swept, overrides), ours.load_sweep_config(swept, overrides)):
        assert list(nodes(found)) == list(nodes(expected))
        assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(expected)
        assert found.hydra.job.override_dirname == expected.hydra.job.override_dirname


@pytest.mark.parametrize("overrides", JOBS, ids=" ".join)
def test_a_lent_composition_is_hydras_own(
    loader: ConfigLoaderImpl, used: tuple[DictConfig, SweepLoader], overrides: list[str]
) -> None:
    swept, ours = used
    expected = hydra_jobs.compose(HydraContext(loader, Callbacks()), swept, overrides, 3)
    for number, job in enumerate([*JOBS, overrides], 3 - len(JOBS)):
        found = ours.lend(swept, job).config
        hydra_jobs.place(found.hydra, number)
    assert list(nodes(found)) == list(nodes(expected))
    assert OmegaConf.to_yaml(found, resolve=True) == OmegaConf.to_yaml(expected, resolve=True)


@pytest.mark.parametrize("overrides", JOBS, ids=" ".join)
def test_lent_options_are_hydras_own(
    loader: ConfigLoaderImpl, used: tuple[DictConfig, SweepLoader], overrides: list[str]
) -> None:
    swept, ours = used

    def read(composed: DictConfig, known: Mapping[str, Any]) -> config.Config | str:
        task = hydra_jobs.without_hydra(composed)
        try:
            return config.from_hydra(task, known)
        except ValueError as error:
            return str(error)

    for job in (overrides, ["seed=8", *overrides], overrides):
        expected = read(loader.load_sweep_config(swept, job), {})
        lent = ours.lend(swept, job)
        assert read(lent.config, lent.options) == expected


def test_most_options_are_lent_as_typed_values(
    loader: ConfigLoaderImpl, used: tuple[DictConfig, SweepLoader]
) -> None:
    swept, ours = used
    first, second = (ours.lend(swept, [f"seed={seed}"]) for seed in (1, 2))
    assert first.options.keys() == second.options.keys() == first.config.keys() - {"study", "hydra"}
    assert second.options["seed"] == 2
    assert second.options["model"] is first.options["model"]  # not made again


def test_a_job_does_not_change_the_next(loader: ConfigLoaderImpl) -> None:
    swept, ours = master(loader), SweepLoader(loader.get_search_path())
    expected = list(nodes(loader.load_sweep_config(swept, ["seed=1"])))
    spoilt = ours.own(swept, ["seed=1"])
    OmegaConf.set_struct(spoilt, False)
    spoilt.optimizer.lr = 7
    spoilt.model.hidden.append(3)
    del spoilt["dataset"]
    spoilt.hydra.job.name = "other"
    spoilt.hydra.sweep.dir = "elsewhere"
    ours.lend(swept, ["optimizer={lr:0.5}", "model.hidden=[3]", "seed=2", "optimizer.lr=7"])
    with pytest.raises(ConfigCompositionException):
        ours.lend(swept, ["optimizer.lr=7", "optimizer.nothing=7"])
    for found in (ours.own(swept, ["seed=1"]), ours.lend(swept, ["seed=1"]).config):
        assert list(nodes(found)) == expected


def test_jobs_that_differ_in_values_are_one_composition(
    loader: ConfigLoaderImpl, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept, ours = master(loader), SweepLoader(loader.get_search_path())
    calls = []
    original = ConfigLoaderImpl.load_sweep_config

    def spy(self: ConfigLoaderImpl, *arguments: Any) -> DictConfig:
        calls.append(arguments)
        return original(self, *arguments)

    monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", spy)
    for seed in range(20):
        composed = ours.load_sweep_config(swept, ["dataset=mnist", f"seed={seed}"])
        assert composed.seed == seed
    assert len(calls) == 1


@pytest.mark.parametrize(
    "overrides",
    [
        ["trainsize=5"],
        ["optimizer.lr=abc"],
        ["optimizer=adam", "optimizer.momentum=1"],
        ["optimizer=sdg"],
        ["train_size=1,2"],
        ["model.activation=rleu"],
    ],
)
def test_errors_are_hydras_own(loader: ConfigLoaderImpl, overrides: list[str]) -> None:
    swept = master(loader)
    with pytest.raises(Exception) as expected:  # noqa: PT011
        loader.load_sweep_config(swept, overrides)
    with pytest.raises(type(expected.value)) as found:
        SweepLoader(loader.get_search_path()).load_sweep_config(swept, overrides)
    assert str(found.value) == str(expected.value)
    assert str(found.value.__cause__) == str(expected.value.__cause__)


@pytest.mark.parametrize("overrides", JOBS, ids=" ".join)
def test_hydras_files_are_those_that_run_job_writes(
    loader: ConfigLoaderImpl, overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    swept = master(loader)
    ours = SweepLoader(loader.get_search_path())
    found = []
    composed = hydra_jobs.compose(HydraContext(ours, Callbacks()), swept, overrides, 7)
    hydra = composed.hydra
    found.append(hydra_jobs.hydra_files(".hydra", hydra, hydra_jobs.without_hydra(composed), {}))
    for before in (JOBS[0], overrides):  # a second time, or after another job
        hydra_jobs.place(ours.lend(swept, before).config.hydra, 8)
        composed, known, _ = ours.lend(swept, overrides)
        hydra = composed.hydra
        hydra_jobs.place(hydra, 7)
        task = hydra_jobs.without_hydra(composed)
        found.append(hydra_jobs.hydra_files(".hydra", hydra, task, known))

    composed = loader.load_sweep_config(swept, overrides)
    composed.hydra.job.id, composed.hydra.job.num = "7", 7
    returned: JobReturn = run_job(
        lambda config: None,
        composed,
        "hydra.sweep.dir",
        "hydra.sweep.subdir",
        HydraContext(loader, Callbacks()),
        configure_logging=False,
    )
    assert returned.hydra_cfg is not None
    folder = Path(returned.hydra_cfg.hydra.runtime.output_dir)
    expected = {f".hydra/{path.name}": path.read_text() for path in folder.glob(".hydra/*")}
    assert found == [expected] * 3


def test_a_return_shows_the_configurations(loader: ConfigLoaderImpl) -> None:
    import functools

    from nnlab.jobs import Job, Outcome

    swept = master(loader)
    context = HydraContext(loader, Callbacks())
    composer = functools.partial(hydra_jobs.compose, context, swept, ["seed=4"], 0)
    job = Job(Path("somewhere"), ["seed=4"], "test_accuracy", {})
    returned = hydra_jobs.RunReturn(composer, Outcome(job, error=ValueError("no")))
    assert returned.return_value == 0.0  # the worst accuracy
    assert returned.status.name == "FAILED"
    assert returned.cfg.seed == 4
    assert config.from_hydra(returned.cfg).seed == 4
    assert "hydra" not in returned.cfg
    assert list(returned.hydra_cfg) == ["hydra"]


WORDS = (
    *("null", "true", "No", "on", "1e3", "1_000", "0x1f", "010", "08", "12:30:00", "2001-01-01"),
    *(
        "=",
        "<<",
        "~",
        "-",
        "---",
        "a: b",
        "a #b",
        "-1",
        "+1",
        "1.5",
        ".5",
        ".inf",
        "nan",
        "?",
        "%a",
    ),
    *(
        "0",
        "7",
        "10",
        "/",
        "/a b",
        "a=b",
        "a=",
        "seed=0",
        "a.b-c=[1,2]",
        "x/y",
        "1/2",
        "=1",
        "[a=b]",
    ),
    *(
        "a=b: c",
        "a=b #c",
        "a=1\n",
        "\u0661",
        "\xe9=1",
        "@a=b",
        "a=" + 30 * "b c " + "d",
        "a=" + 99 * "b",
    ),
)


def yaml_of(tree: dict[str, Any]) -> str:
    written: str = yaml.dump(
        json.loads(json.dumps(tree)),  # as it comes from a configuration: nothing twice
        default_flow_style=False,
        allow_unicode=True,
        sort_keys=False,
        Dumper=get_omega_conf_dumper(),
    )
    return written


@pytest.mark.parametrize("value", WORDS)
def test_a_word_is_written_as_omegaconf_writes_it(value: str) -> None:
    tree = {"key": value, "list": [value, "a=b"], "other": {"on": value, "inner": {"k": [value]}}}
    assert hydra_jobs.to_yaml(tree) == yaml_of(tree)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=200)
        | st.from_regex(r"\A[a-z0-9/=.,+_~<:#\[\] -]{1,9}\Z"),  # words of overrides
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )
)
@settings(deadline=None)
def test_yaml_is_written_as_omegaconf_writes_it(value: Any) -> None:
    tree = {"key": value, "other": {"on": value, "inner": {"value": value}}}
    assert hydra_jobs.to_yaml(tree) == yaml_of(tree)


def test_folder_names() -> None:
    for bad in ("a=b/c", "a=[x y]", "a='q'", "x=" + "y" * 300, "a=(1)", "a={b:1}", 'a="/"'):
        name = folder_name(bad)
        assert not set(name) & set("/[]{}() '\"\\")
        assert len(name) <= hydra_jobs.LONGEST_NAME + 9
    assert folder_name("a=b/c") != folder_name("a=b-c") != folder_name("a=b c")
    assert folder_name("x=" + "y" * 300) != folder_name("x=" + "y" * 301)


def test_hydra_errors_are_composition_errors(loader: ConfigLoaderImpl) -> None:
    with pytest.raises(ConfigCompositionException):
        SweepLoader(loader.get_search_path()).load_sweep_config(master(loader), ["nothing=1"])


def test_the_singleton_is_put_back() -> None:
    assert HydraConfig.instance().cfg is None


def test_a_return_can_be_pickled(loader: ConfigLoaderImpl, tmp_path: Path) -> None:
    """As Hydra's PickleJobInfoCallback does."""
    ours = SweepLoader(loader.get_search_path())
    ours.lend(master(loader), ["seed=1"])
    composer = functools.partial(
        hydra_jobs.compose, HydraContext(ours, Callbacks()), master(loader), ["seed=1"], 0
    )
    outcome = Outcome(Job(tmp_path, ["seed=1"], "test_loss", {}))
    found = pickle.loads(pickle.dumps(hydra_jobs.RunReturn(composer, outcome)))
    assert found.cfg.seed == 1
