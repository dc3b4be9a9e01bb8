"""The short way to a job's configuration against Hydra's own, to the last node and flag."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.errors import ConfigCompositionException
from hydra.types import HydraContext, RunMode
from omegaconf import Container, DictConfig, OmegaConf

from hydra_plugins import nnlab_sweeper
from nnlab import compose, hydra_jobs
from nnlab.compose import Template
from nnlab.config import CONF, Config
from nnlab.hydra_jobs import SweepLoader
from nnlab.jobs import Job, Outcome

compose.register()
setup_globals()

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
    ["stopping=plateau", "valid_size=100", "stopping.patience=4"],
    ["model.activation=tanh", "engine=torch", "objective=${study}"],
    ["study=${dataset.name}-${seed}", "seed=9"],
    ["fgsm={shown:0.5,eps:[0,${fgsm.shown}]}", "fgsm.shown=0.25"],
    ["fgsm.shown=0.25", "fgsm={shown:0.5}"],
    ["fgsm={eps:[0.5]}", "seed=1"],
    ["seed=1", "hardest={per_class:3}"],
    ["seeds={data:1}", "seeds.order=2"],
    ["fgsm.eps.0=0.5"],
    ["fgsm.eps.0=0.25", "fgsm.eps=[]"],
    ["seeds.data=${seeds.order}", "seeds.order=1"],
    ["seeds.data=1", "seeds.order=${seeds.data}"],
    ["model.hidden=[${seed},4]", "seed=2"],
    ["study='Größe 😀 \x85\u2028 # :'"],
    ["study=on", "output_dir='a: b'"],
    ["study=run${hydra:job.num}"],
    ["seed=1", "hydra.sweep.subdir=${seed}"],
    ["seed=1", "seed=2"],
    ["evaluation=[hardest]", "hardest.per_class=0"],
    ["+optimiser=adam"],
    ["+optimizer.rate=1"],
    ["~stopping", "seed=1"],
    ["seed=???"],
    ["hydra={verbose:true}", "seed=4"],
    [],
]
if compose.HYDRA_1_3:  # later it has to be the same for the whole sweep, whose values it says
    JOBS.append(["experiment=mnist_train_size", "train_size=70"])


@pytest.fixture(scope="module")
def loader() -> Iterator[ConfigLoader]:
    with initialize_config_dir(str(CONF), **compose.VERSION_BASE):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        yield hydra.config_loader


def master(loader: ConfigLoader, *overrides: str) -> DictConfig:
    composed = loader.load_configuration(
        "config",
        ["hydra.job.config.override_dirname.exclude_keys=[dataset]", *overrides],
        RunMode.MULTIRUN,
    )
    composed.hydra.job.name = "run"
    return composed


@pytest.fixture(scope="module")
def swept(loader: ConfigLoader) -> DictConfig:
    return master(loader)


@pytest.fixture(scope="module")
def used(loader: ConfigLoader, swept: DictConfig) -> tuple[DictConfig, SweepLoader]:
    """A sweep and a loader that has composed all of JOBS before."""
    ours = SweepLoader(loader, swept)
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
    loader: ConfigLoader,
    used: tuple[DictConfig, SweepLoader],
    overrides: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    swept, ours = used
    expected = loader.load_sweep_config(swept, overrides)
    expected.hydra.job.num = 3
    monkeypatch.setattr(HydraConfig.instance(), "cfg", expected)
    Template(expected).set_number(3)
    for number, job in enumerate([overrides, JOBS[0], overrides], 1):
        found = ours.load_sweep_config(swept, job)
        Template(found).set_number(number)
    assert list(nodes(found)) == list(nodes(expected))
    assert OmegaConf.to_yaml(found, resolve=True) == OmegaConf.to_yaml(expected, resolve=True)


def read(made: Callable[[], Config]) -> Config | str:
    try:
        return made()
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("overrides", JOBS, ids=" ".join)
def test_typed_options_are_those_of_hydras_own(
    loader: ConfigLoader,
    used: tuple[DictConfig, SweepLoader],
    overrides: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    swept, ours = used
    for job in (["seed=8", *overrides], overrides):
        composed = loader.load_sweep_config(swept, job)
        composed.hydra.job.num = 0
        monkeypatch.setattr(HydraConfig.instance(), "cfg", composed)
        expected = read(functools.partial(compose.from_hydra, composed))
        template = ours.template(job)
        assert read(template.config) == expected


def test_most_typed_options_are_shared(
    loader: ConfigLoader, used: tuple[DictConfig, SweepLoader]
) -> None:
    _, ours = used
    first = ours.template(["seed=1"]).config()
    template = ours.template(["seed=2"])
    keys = {each.name for each in dataclasses.fields(first)}
    assert template.known.keys() == keys - {"study", "seed"}
    second = template.config()
    assert second.seed == 2
    assert second.model is first.model  # not made again


def test_a_job_does_not_change_the_next(loader: ConfigLoader, swept: DictConfig) -> None:
    ours = SweepLoader(loader, swept)
    jobs = [["seed=1"], ["seed=1", "optimizer.lr=0.1"], ["optimizer.lr=0.1"]]
    expected = [list(nodes(loader.load_sweep_config(swept, job))) for job in jobs]
    ours.load_sweep_config(swept, ["optimizer={lr:0.5}", "model.hidden=[3]", "seed=2"])
    ours.load_sweep_config(swept, ["optimizer.lr=${seed}"])
    for wrong in (["optimizer.lr=7", "optimizer.nothing=7"], ["seed=7", "optimizer.lr=abc"]):
        with pytest.raises(ConfigCompositionException):
            ours.load_sweep_config(swept, wrong)
    found = [list(nodes(ours.load_sweep_config(swept, job))) for job in jobs]
    assert found == expected


def test_what_jobs_set_alike_is_kept_and_no_more(loader: ConfigLoader, swept: DictConfig) -> None:
    ours = SweepLoader(loader, swept)
    keys = ("fgsm.eps", "fgsm.eps.1", "fgsm.shown", "output_dir", "device", "optimizer.lr")
    for values in (
        ("[0.1,0.2]", "0.5", "${fgsm.eps.0}", "${device}", "cpu", "0.1"),
        ("[0.3,0.2]", "0.5", "${fgsm.eps.0}", "${device}", "cpu", "0.1"),
        ("[0.3,0.2]", "0.6", "${fgsm.eps.0}", "${device}", "cpu", "0.1"),
        ("[0.7,0.2]", "abc", "${fgsm.eps.0}", "${device}", "cpu", "0.1"),  # Hydra refuses it
        ("[0.3,0.2]", "0.6", "${fgsm.eps.0}", "${device}", "cpu", "0.1"),
        ("[0.3,0.2]", "0.6", "${fgsm.eps.0}", "${device}", "auto", "0.1"),
        ("[0.3,0.2]", "0.6", "${fgsm.eps.0}", "${device}", "cpu", "-1"),  # nnlab does
        ("[0.3,0.2]", "0.6", "${fgsm.eps.0}", "${device}", "cpu", "0.2"),
    ):
        overrides = [f"{key}={value}" for key, value in zip(keys, values)]
        if "abc" in values:
            with pytest.raises(ConfigCompositionException, match=r"override fgsm.eps.1=abc"):
                ours.template(overrides)
            continue
        template, hydras = (
            ours.template(overrides),
            Template(loader.load_sweep_config(swept, overrides)),
        )
        for each in (template, hydras):
            each.set_number(1)
        assert list(nodes(template.composed)) == list(nodes(hydras.composed))
        text = "".join(template.files()[".hydra/config.yaml"])
        assert yaml.safe_load(text) == OmegaConf.to_container(
            without_hydra(hydras.composed), enum_to_str=True
        )
        assert read(template.config) == read(hydras.config)


def without_hydra(composed: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])


@pytest.mark.parametrize(
    "text",
    [
        *("7", "[1,2]", "1,2", "'1,2'", "choice(a,b,c)", "sort(3,1,2)", "glob(*)", "range(5)"),
        *("range(2,9,3)", "range(9,0,-2)", "shuffle(range(1,8))", "tag(log,range(3))"),
        *("range(0,0.2,0.1)", "range(0.1,0.4,0.1)", "range(0,1,0.25)", "range(1.2,0.7,-0.5)"),
    ],
)
def test_jobs_are_those_that_hydras_sweeper_lists(loader: ConfigLoader, text: str) -> None:
    overrides = [f"optimizer={text}", "seed=0,1,2", "test_size=range(10,30,5)", "study=s"]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(overrides)
    assert nnlab_sweeper.values(parsed[0]) == len(BasicSweeper.split_arguments(parsed[:1], None)[0])
    options = list(map(nnlab_sweeper.texts, parsed))
    ours, again = (list(nnlab_sweeper.batches(options, 5)) for _ in range(2))
    assert ours == again  # shuffled once
    hydras = BasicSweeper.split_arguments(parsed, 5)
    assert list(map(len, ours)) == list(map(len, hydras))
    if "shuffle" in text:
        ours, hydras = [sorted(itertools.chain(*ours))], [sorted(itertools.chain(*hydras))]
    assert ours == hydras


def test_a_job_may_refer_to_hydras_own_node(loader: ConfigLoader) -> None:
    swept = master(loader, "hydra.sweep.subdir=run${hydra:job.num}")
    job = hydra_jobs.fill(SweepLoader(loader, swept).template(["seed=1"]), 3)
    composed = hydra_jobs.compose_job(loader, swept, ["seed=1"], 3)
    assert job.name == "run3"
    assert composed.hydra.runtime.output_dir == str(job.folder.absolute())


def test_jobs_that_differ_in_values_are_one_composition(
    loader: ConfigLoader, swept: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = SweepLoader(loader, swept)
    calls = []
    original = loader.load_sweep_config

    def spy(*arguments: Any) -> DictConfig:
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(loader, "load_sweep_config", spy)
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
        ["hardest=null"],
        ["hardest.per_class=1", "hardest={per_clas:2}"],
    ],
)
def test_errors_are_hydras_own(
    loader: ConfigLoader, swept: DictConfig, overrides: list[str]
) -> None:
    with pytest.raises(Exception) as expected:  # noqa: PT011
        loader.load_sweep_config(swept, overrides)
    with pytest.raises(type(expected.value)) as found:
        SweepLoader(loader, swept).load_sweep_config(swept, overrides)
    assert str(found.value) == str(expected.value)
    assert str(found.value.__cause__) == str(expected.value.__cause__)


@pytest.mark.parametrize("overrides", JOBS, ids=" ".join)
def test_hydras_files_are_those_that_run_job_writes(
    loader: ConfigLoader,
    swept: DictConfig,
    overrides: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    ours = SweepLoader(loader, swept)
    found = []
    for before in (JOBS[0], overrides):
        for job, number in ((before, 8), (overrides, 7)):
            template = ours.template(job)
            monkeypatch.setattr(HydraConfig.instance(), "cfg", template.composed)
            template.set_number(number)
            files = template.files()
        found.append({path: yaml.safe_load("".join(parts)) for path, parts in files.items()})

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
    texts = {f".hydra/{path.name}": path.read_text() for path in folder.glob(".hydra/*")}
    assert texts.keys() == {f".hydra/{name}.yaml" for name in ("config", "hydra", "overrides")}
    assert found == [{path: yaml.safe_load(text) for path, text in texts.items()}] * 2


def test_a_return_shows_the_configurations(loader: ConfigLoader, swept: DictConfig) -> None:
    composer = functools.partial(hydra_jobs.compose_job, loader, swept, ["seed=4"], 0)
    job = Job(Path("somewhere"), ["seed=4"], "test_accuracy", {})
    returned = hydra_jobs.RunReturn(composer, Outcome(job, error=ValueError("no")))
    assert returned.return_value == 0.0  # the worst accuracy
    assert returned.status.name == "FAILED"
    assert returned.cfg.seed == 4
    assert compose.from_hydra(returned.cfg).seed == 4
    assert "hydra" not in returned.cfg
    assert list(returned.hydra_cfg) == ["hydra"]


def test_hydra_errors_are_composition_errors(loader: ConfigLoader, swept: DictConfig) -> None:
    with pytest.raises(ConfigCompositionException):
        SweepLoader(loader, swept).load_sweep_config(swept, ["nothing=1"])


def test_what_is_not_nnlabs_is_refused(loader: ConfigLoader, swept: DictConfig) -> None:
    context = HydraContext(cast(Any, SweepLoader(loader, swept)), Callbacks())
    with pytest.raises(ValueError, match="choose another, say hydra/launcher=basic"):
        hydra_jobs.launch(context, print, swept, [["seed=1"]], 0)


def test_the_singleton_is_put_back() -> None:
    assert HydraConfig.instance().cfg is None


def test_a_return_can_be_pickled(loader: ConfigLoader, swept: DictConfig, tmp_path: Path) -> None:
    """As Hydra's PickleJobInfoCallback does."""
    composer = functools.partial(hydra_jobs.compose_job, loader, swept, ["seed=1"], 0)
    outcome = Outcome(Job(tmp_path, ["seed=1"], "test_loss", {}))
    found = pickle.loads(pickle.dumps(hydra_jobs.RunReturn(composer, outcome)))
    assert found.cfg.seed == 1
