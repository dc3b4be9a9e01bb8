from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from nnlab import compose, config, identity
from nnlab.config import CONF, Config, ReportConfig
from nnlab.datasets import DATASETS
from nnlab.options import plain
from nnlab.report.plotting import entry
from nnlab.stopping import RULES
from tests.imports import imported

TABLE = ("dataset=table", "dataset.file=a.csv", "dataset.label=y")


def composed(*overrides: str) -> Config:
    return compose.load(overrides)


def test_defaults_are_experiment_a() -> None:
    assert plain(composed()) == {
        "dataset": {
            "name": "mnist",
            "balanced": True,
            "normalize": False,
            "source": "auto",
            "folder": None,
        },
        "model": {
            "name": "mlp",
            "hidden": [128, 64],
            "activation": "relu",
            "init": "default",
            "bias": True,
            "batch_norm": False,
            "dropout": 0.0,
        },
        "optimizer": {
            "name": "sgd",
            "lr": 0.01,
            "weight_decay": 0.0,
            "momentum": 0.0,
            "dampening": 0.0,
            "nesterov": False,
            "l1": 0.0,
            "l2": 0.0,
            "clip_norm": None,
            "schedule": "constant",
            "warmup": 0,
            "step_size": 30,
            "gamma": 0.1,
            "patience": 10,
            "min_lr": 0.0,
        },
        "stopping": {"name": "epochs", "max_epochs": 100},
        "train_size": 1000,
        "valid_size": 0,
        "test_size": 1000,
        "folds": None,
        "fold": None,
        "batch_size": 10,
        "seed": 0,
        "seeds": {"data": None, "weights": None, "order": None, "test": 0},
        "device": "auto",
        "engine": "auto",
        "native_level": None,
        "threads": None,
        "loss": {"label_smoothing": 0.0, "class_weights": None},
        "cores": None,
        "save_weights": True,
        "checkpoint": {"seconds": 30.0},
        "full_train_metrics": False,
        "evaluation": [],
        "hardest": {"split": "test", "per_class": 5, "classes": None},
        "fgsm": {"eps": [0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2], "shown": 0.1},
        "metrics": {"split": "test", "top_k": 5, "bins": 15},
        "importance": {"split": "test", "repeats": 10},
        "plan": False,
        "report": {"predict": [], "formats": ["png"], "loss_scale": "auto", "style": "notebook"},
        "objective": "valid_loss",
        "study": "mnist",
        "output_dir": "outputs",
        "force": False,
    }


OPTIMIZERS = (config.SGD, config.Adam, config.AdamW)


@pytest.mark.parametrize(
    "schema", [Config, *(s for g in config.GROUPS.values() for s in g.values())]
)
def test_defaults_live_in_yaml_only(schema: type) -> None:
    if schema in OPTIMIZERS:
        return
    defaults = {field.default for field in dataclasses.fields(schema)}
    assert defaults == {"???"}


@pytest.mark.parametrize("schema", OPTIMIZERS)
def test_optimizers_in_python_have_the_defaults_of_yaml(schema: type) -> None:
    given = dataclasses.asdict(schema())
    assert given == plain(composed(f"optimizer={given['name']}"))["optimizer"]


def test_a_report_is_usual_as_yaml_has_it() -> None:
    report = composed().report
    assert report == ReportConfig.usual()
    assert not report.asks
    for asked in ("predict=[5000]", "formats=[svg]", "loss_scale=log", "style=paper"):
        assert composed(f"report.{asked}").report.asks


@pytest.mark.parametrize(
    "overrides",
    [
        ["train_size=null", "test_size=null"],
        ["test_size=0"],
        ["model.hidden=[]"],
        ["model.hidden=[1]"],
        ["optimizer.lr=0"],
        ["optimizer=sgd", "optimizer.momentum=0.9", "optimizer.nesterov=true"],
        ["optimizer=adam", "optimizer.betas=[0.5,0.9]"],
        ["stopping=plateau", "valid_size=100"],
        ["objective=valid_accuracy", "valid_size=100"],
        ["dataset=boolean", "model=perceptron", "model.classic=true", "evaluation=[hardest]"],
        ["dataset=boolean", "dataset.function=0110", "dataset.inputs=2"],
        ["dataset=boolean", "dataset.function=1000"],
        ["seed=9223372036854775807"],
    ],
)
def test_what_is_possible_is_accepted(overrides: list[str]) -> None:
    composed(*overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train_size=0"], "train_size=0 .* at least 1 example"),
        (["valid_size=-1"], "valid_size=-1"),
        (["test_size=-1"], "test_size=-1"),
        (["batch_size=0"], "batch_size=0"),
        (["seed=-1"], "seed=-1"),
        (["threads=0"], "threads=0"),
        (["loss.label_smoothing=1"], "loss.label_smoothing=1.0 .* below 1"),
        (["loss.label_smoothing=-0.1"], "loss.label_smoothing=-0.1"),
        (["loss.class_weights=even"], "loss.class_weights=even .* balanced, or a list"),
        (["loss.class_weights=2"], "loss.class_weights=2"),
        (["loss.class_weights=[]"], r"loss.class_weights=\[\]"),
        (["loss.class_weights=[1,0]"], r"loss.class_weights=\[1, 0\] .* above 0"),
        (["loss.class_weights=[1,true]"], r"loss.class_weights=\[1, True\]"),
        (["objective=speed"], "objective=speed .* test_loss, test_accuracy"),
        (["seeds.data=-1"], "seeds.data=-1"),
        (["seeds.test=-1"], "seeds.test=-1"),
        (["study=a/b"], "study='a/b'"),
        (["study=.a"], r"study='\.a' is not possible: .* no \. before it"),
        (["study='a<b'"], r"none of /\\:\*\?\"<>\|"),
        (["output_dir="], "output_dir='' is not possible"),
        (["study=.."], r"study='\.\.'"),
        (["model.hidden=[8,0]"], r"model.hidden=\[8, 0\]"),
        (["model.dropout=1"], "model.dropout=1.0 .* below 1"),
        (["model.dropout=-0.1"], "model.dropout=-0.1"),
        (["optimizer.lr=-0.5"], "optimizer.lr=-0.5"),
        (["optimizer.lr=inf"], "optimizer.lr=inf"),
        (["optimizer.lr=nan"], "optimizer.lr=nan"),
        (["optimizer.lr=1e300"], r"optimizer.lr=1e\+300 .* at most 1e\+30"),
        (["optimizer.l1=1e39"], r"optimizer.l1=1e\+39 .* at most 1e\+30"),
        (["optimizer.l2=1e39"], r"optimizer.l2=1e\+39 .* at most 1e\+30"),
        (["optimizer.weight_decay=1e39"], r"optimizer.weight_decay=1e\+39 .* at most 1e\+30"),
        (["optimizer.momentum=1e39"], r"optimizer.momentum=1e\+39 .* at most 1e\+30"),
        (["optimizer.dampening=-1e39"], r"optimizer.dampening=-1e\+39 .* at least -1e\+30"),
        (["optimizer=adam", "optimizer.eps=1e39"], r"optimizer.eps=1e\+39 .* at most 1e\+30"),
        (["loss.class_weights=[1,1e39]"], r"loss.class_weights=\[1, 1e\+39\] .* to 1e\+30\)"),
        (["loss.class_weights=[1,1e-50]"], r"loss.class_weights=\[1, 1e-50\] .* \(1e-30 to"),
        (["optimizer.weight_decay=-1"], "optimizer.weight_decay=-1"),
        (["optimizer.schedule=cosin"], "schedule=cosin .* constant, step, cosine, plateau"),
        (["optimizer.warmup=-1"], "optimizer.warmup=-1"),
        (["optimizer.l1=-1"], "optimizer.l1=-1"),
        (["optimizer.l2=inf"], "optimizer.l2=inf"),
        (["optimizer.clip_norm=0"], "optimizer.clip_norm=0.0 .* above 0"),
        (["optimizer.step_size=0"], "optimizer.step_size=0"),
        (["optimizer.gamma=0"], "optimizer.gamma=0"),
        (["optimizer.gamma=1.5"], "optimizer.gamma=1.5"),
        (["optimizer.patience=-1"], "optimizer.patience=-1"),
        (["optimizer.min_lr=-1"], "optimizer.min_lr=-1"),
        (["optimizer.schedule=cosine", "optimizer.min_lr=1"], "falls to it from optimizer.lr=0.01"),
        (["optimizer.momentum=-1"], "optimizer.momentum=-1"),
        (["optimizer.nesterov=true"], "optimizer.nesterov=true .* momentum above 0"),
        (["optimizer=adam", "optimizer.betas=[0.9]"], r"optimizer.betas=\[0.9\]"),
        (["optimizer=adam", "optimizer.betas=[0.9,1]"], r"optimizer.betas=\[0.9, 1.0\]"),
        (["optimizer=adamw", "optimizer.eps=-1"], "optimizer.eps=-1"),
        (["stopping.max_epochs=-1"], "stopping.max_epochs=-1"),
        (["stopping=plateau"], "stopping=plateau .* set valid_size"),
        (["stopping=patience"], "stopping=patience .* set valid_size"),
        (["stopping=target"], "stopping=target .* set valid_size"),
        (["stopping=patience", "valid_size=9", "stopping.patience=0"], "stopping.patience=0"),
        (["stopping=patience", "valid_size=9", "stopping.min_delta=nan"], "stopping.min_delta=nan"),
        (["stopping=target", "valid_size=9", "stopping.valid_accuracy=90"], "=90.0 .* at most 1"),
        (["stopping=budget", "stopping.seconds=0"], "stopping.seconds=0"),
        (
            ["stopping=budget", "optimizer.schedule=cosine"],
            "schedule=cosine .* fall over stopping.max_epochs=1000000, .* set that to as many",
        ),
        (["model=linear", "model.dropout=0.5"], r"model.dropout=0.5 .* model.hidden=\[\] has none"),
        (["model.hidden=[]", "model.batch_norm=true"], r"batch_norm=true .* model.hidden=\[\] has"),
        (
            [*TABLE, "dataset.task=regression", "objective=valid_r2", "valid_size=1"],
            "objective=valid_r2 .* single example is not defined; raise valid_size=1",
        ),
        (
            [*TABLE, "evaluation=[importance]", "test_size=1"],
            "importance shuffles examples, of which test_size=1 is too few",
        ),
        (["evaluation=[weights,fgms]"], r"evaluation=\['weights', 'fgms'\] .* choose any of"),
        (["dataset=boolean", "evaluation=[hardest,fgsm]"], "fgsm needs images"),
        (["dataset=boolean", "dataset.inputs=13"], "dataset.inputs=13"),
        (["dataset=boolean", "dataset.function=011"], "dataset.function=011 has 3 bits"),
        (["model=perceptron"], "model=perceptron .* choose dataset=boolean"),
        (
            ["dataset=boolean", "dataset.inputs=3", "model=perceptron", "model.classic=true"],
            "model.classic=true .* dataset.function=xor of dataset.inputs=2",
        ),
        (["fgsm.eps=[]"], "fgsm.eps"),
        (["fgsm.shown=1.5"], "fgsm.eps.*shown: 1.5"),
        (["report.predict=[5000,0]"], r"report.predict=\[5000, 0\] .* sizes of 1 or more"),
        (["hardest.per_class=0"], "hardest.per_class=0"),
        (["stopping=plateau", "valid_size=9", "stopping.patience=0"], "stopping.patience=0"),
        (["stopping=plateau", "valid_size=9", "stopping.min_delta=-1"], "stopping.min_delta=-1"),
        (["+optimizer.lrr=1"], "optimizer.lrr is not an option .* did you mean optimizer.lr"),
        (["+anything=1"], "anything is not an option"),
    ],
)
def test_what_is_not_possible_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        composed(*overrides)


def other(value: Any) -> Any:
    """Return another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, list):
        return [*value, 1]
    if isinstance(value, str):
        return value + "x"
    if value is None:  # native_level
        return config.NativeLevel.avx2
    return value + 1


def test_every_option_but_where_results_go_changes_the_fingerprint() -> None:
    base = composed()
    expected = config.fingerprint(base)
    assert config.fingerprint(composed()) == expected
    checked = 0
    for owner in (base, base.dataset, base.model, base.optimizer, base.stopping, base.seeds):
        same = (*identity.NOT_IDENTITY, *identity.ASKED) if owner is base else identity.WHERE
        for field in dataclasses.fields(owner):
            before = getattr(owner, field.name)
            if dataclasses.is_dataclass(before) or hasattr(before, "name"):
                continue
            setattr(owner, field.name, 1 if before is None else other(before))
            changed = config.fingerprint(base) != expected
            assert changed == (field.name not in same), field.name
            setattr(owner, field.name, before)
            checked += 1
    assert checked == 49


@pytest.mark.parametrize(
    ("expected", "arguments"),
    [
        ("fd3138bf4dc764a6", ()),
        ("75818652d5e741ea", ("optimizer=adam",)),
        ("5b33a44a75127d43", ("optimizer=adamw", "stopping=plateau", "valid_size=100")),
        ("4d8b7b8cf3e97824", ("dataset=boolean", "model=perceptron")),
        ("6dc076be22ff3238", ("dataset=boolean", "model=deep_linear")),
        ("9d8e2df5a519d011", ("model=cnn",)),
        ("9744809b04a7feb6", ("dataset=sklearn", "dataset.name=iris")),
        ("05a0d4172f200d84", ("dataset=dogset", "stopping=target")),
        (
            "e7d76a031bde294f",
            ("dataset=table", "dataset.file=iris.csv", "dataset.label=species"),
        ),
    ],
)
def test_runs_of_before_are_known_by_the_fingerprints_that_they_had(
    expected: str, arguments: tuple[str, ...]
) -> None:
    assert config.fingerprint(composed(*arguments)) == expected


def test_options_that_came_later_count_only_where_they_change_something(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(identity, "ADDED", {"a": 0, "loss.b": None})
    assert identity.without_added({"a": 0, "loss": {"b": None}, "c": {}}) == {"c": {}}
    changed = {"a": 1, "loss": {"b": None, "a": 0}}
    assert identity.without_added(changed) == {"a": 1, "loss": {"a": 0}}


def test_a_seed_and_its_parts_are_one_identity() -> None:
    whole = composed("seed=3")
    parts = composed("seed=9", "seeds.data=3", "seeds.weights=3", "seeds.order=3")
    assert config.fingerprint(whole) == config.fingerprint(parts)
    for part in ("data", "weights", "order", "test"):
        assert config.fingerprint(composed("seed=3", f"seeds.{part}=4")) != config.fingerprint(
            whole
        )
        assert composed("seed=3", f"seeds.{part}=4").seed_of(part) == 4
    assert whole.seed_of("test") == 0


def test_group_names_of_the_schemas_are_those_of_conf() -> None:
    assert {path.name for path in CONF.iterdir() if path.is_dir()} == {*config.GROUPS, "experiment"}
    for path in CONF.glob("*/*.yaml"):
        if path.parent.name != "experiment":
            file = OmegaConf.load(path)
            own = OmegaConf.select(file, path.parent.name) or file  # where it sets other groups
            # Of scikit-learn's datasets the name says which.
            named = "digits" if path.stem == "sklearn" else path.stem
            assert OmegaConf.select(own, "name") == named


def test_hydra_is_not_needed_to_fit() -> None:
    """As in a notebook, where starting has to be quick; Hydra brings OmegaConf."""
    code = "import sys, nnlab.config; nnlab.fit, nnlab.load; print('omegaconf' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_options_are_declared_without_what_is_slow_to_import() -> None:
    slow = {"torch", "matplotlib", "pandas", "PIL", "rich"}
    assert imported("nnlab.config", slow) == set()


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("dataset/*.yaml")))
def test_every_dataset_of_conf_is_declared(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_data.py").touch()
    needed = {
        "table": ["dataset.file=a.csv", "dataset.label=b"],
        "arrays": ["dataset.file=a.npz"],
        "images": ["dataset.folder=leaves"],
        "function": ["dataset.function=my_data:load"],
    }
    dataset = composed(f"dataset={name}", *needed.get(name, [])).dataset
    assert type(dataset) is DATASETS[name]
    assert entry(name) == dataset.title != name


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("stopping/*.yaml")))
def test_every_stopping_rule_of_conf_is_declared(name: str) -> None:
    """And takes all options of its YAML, under their names."""
    options = composed(f"stopping={name}", "valid_size=10").stopping
    assert type(options) is RULES[name]
    rule = options.build()
    assert (None if rule is None else type(rule)) == options.rule
    own = {k: v for k, v in plain(options).items() if k not in ("name", "max_epochs")}
    assert {key: getattr(rule, key) for key in own} == own


def test_what_is_listed_has_its_yaml() -> None:
    for group, listed in (("dataset", DATASETS), ("stopping", RULES)):
        assert {path.stem for path in CONF.glob(f"{group}/*.yaml")} == set(listed)
