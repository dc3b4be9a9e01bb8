"""From YAML files and overrides to a typed ``Config``; a sweep's jobs from few compositions."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from nnlab.config import CONF, GROUPS, Config

LONGEST_NAME = 100
MARK = uuid.uuid4().hex  # occurs in no configuration
HYDRA_1_3 = hydra.__version__.startswith("1.3.")
# The behaviour to have; later versions have no other.
VERSION_BASE: dict[str, Any] = {"version_base": "1.3"} if HYDRA_1_3 else {}


@functools.cache
def register() -> None:
    """Put the schemas into Hydra's ConfigStore, which takes each once."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config, provider="nnlab")
    for group, schemas in GROUPS.items():
        for name, schema in schemas.items():
            # Below hydra/ the schemas stay out of --help and shell completion.
            store.store(group=f"hydra/schema/{group}", name=name, node=schema, provider="nnlab")


def load(overrides: Sequence[str]) -> Config:
    """Compose one configuration. Raises Hydra's errors, and ValueError as ``from_hydra`` does."""
    register()
    with hydra.initialize_config_dir(str(CONF), **VERSION_BASE):
        return from_hydra(hydra.compose("config", overrides=list(overrides)))


def from_hydra(composed: DictConfig, known: Mapping[str, Any] = MappingProxyType({})) -> Config:
    """Turn what Hydra composed into plain typed values and check their limits.

    known: typed values of keys that need no second look.
    Raises ValueError naming the option, its value, the limit and the remedy.
    """
    for key in keys_of(composed, Config):
        if key not in known and key != "hydra":
            refuse_unknown(composed, Config, key)
    keys = [field.name for field in dataclasses.fields(Config)]
    config = Config(**{key: known[key] if key in known else typed(composed, key) for key in keys})
    config.check()
    return config


def typed(composed: DictConfig, key: str) -> Any:
    value = composed[key]
    return OmegaConf.to_object(value) if OmegaConf.is_config(value) else value


def keys_of(node: DictConfig, schema: type) -> list[str]:
    """Return the keys that a node has, then those that it lacks of its schema's."""
    given = [str(key) for key in node]
    return given + sorted({field.name for field in dataclasses.fields(schema)} - set(given))


def refuse_unknown(node: DictConfig, schema: type, key: str, prefix: str = "") -> None:
    """Raise ValueError for an option that no schema knows, or that is gone: Hydra's
    ``+key=value`` adds any, ``~key`` deletes any."""
    options = {field.name for field in dataclasses.fields(schema)}
    if key not in options:
        near = difflib.get_close_matches(key, options, n=1)
        hint = f"did you mean {prefix}{near[0]}?" if near else "see --help"
        raise ValueError(f"{prefix}{key} is not an option of nnlab; {hint}")
    if key not in list(node) or OmegaConf.is_missing(node, key):
        raise ValueError(f"{prefix}{key} has no value; set {prefix}{key}=...")
    child = None if OmegaConf.is_interpolation(node, key) else node[key]
    if isinstance(child, DictConfig):
        schema = OmegaConf.get_type(child) or dict
        for each in keys_of(child, schema):
            refuse_unknown(child, schema, each, f"{prefix}{key}.")


class Template:
    """A composition into which jobs that set the same keys write their values, one after another.

    What no job changes keeps its typed value and its YAML.
    """

    def __init__(self, composed: DictConfig, keys: Sequence[str] = ()) -> None:
        self.composed = composed
        self.changed = sorted({re.split(r"[.[]", key)[0] for key in keys})
        parts = {key: to_yaml(composed, [key]) for key in map(str, composed) if key != "hydra"}
        unchanged = {key: text for key, text in parts.items() if key not in self.changed}
        self.yaml = "".join(unchanged.values())
        # An interpolation may lead to what changes.
        self.constant = [key for key, text in unchanged.items() if "${" not in text]

    def update(self, overrides: Sequence[Override]) -> None:
        """Write a job's values: of all the keys of the template, in their order."""
        for override in overrides:
            OmegaConf.update(self.composed, override.key_or_group, override.value())

    @functools.cached_property
    def known(self) -> dict[str, Any]:
        """The typed values that all jobs share, as far as they are legal."""
        known = {}
        for key in self.constant:
            with contextlib.suppress(ValueError):  # every job gets it from ``config``
                refuse_unknown(self.composed, Config, key)
                known[key] = typed(self.composed, key)
        return known

    def config(self) -> Config:
        """Return the job's configuration. Raises ValueError as ``from_hydra`` does."""
        return from_hydra(self.composed, self.known)

    def files(self) -> dict[str, str]:
        """Return what Hydra keeps of a job in a folder of its own, by the files' paths.

        To be called after ``set_output_dir``. Nothing where hydra.output_subdir is null.
        """
        folder = self.composed.hydra.output_subdir
        if folder is None:
            return {}
        values = own_of_hydra(self.composed.hydra)
        parts = self.hydra_yaml
        filled = [as_json(values[part]) if n % 2 else part for n, part in enumerate(parts)]
        lines = [f"- {as_json(line)}\n" for line in values["overrides.task"]]
        return {
            f"{folder}/config.yaml": self.yaml + to_yaml(self.composed, self.changed),
            f"{folder}/hydra.yaml": "".join(filled),
            f"{folder}/overrides.yaml": "".join(lines) or "[]\n",
        }

    @functools.cached_property
    def hydra_yaml(self) -> list[str]:
        """The YAML of Hydra's node, in parts; each second one is a key that jobs fill in."""
        shown = OmegaConf.masked_copy(self.composed, "hydra")
        tree: Any = OmegaConf.to_container(shown, enum_to_str=True)
        for key in own_of_hydra(self.composed.hydra):
            parent, _, name = key.partition(".")
            tree["hydra"][parent][name] = f"{MARK}{key}{MARK}"
        return OmegaConf.to_yaml(tree).split(MARK)


def without_hydra(config: DictConfig) -> DictConfig:
    """Take Hydra's own node out of a composed configuration, in place; return it."""
    with read_write(config), open_dict(config):
        del config["hydra"]
    return config


def to_yaml(config: DictConfig, keys: list[str]) -> str:
    return OmegaConf.to_yaml(OmegaConf.masked_copy(config, keys)) if keys else ""


def set_overrides(hydra: DictConfig, overrides: Sequence[Override]) -> None:
    """Tell a job's hydra node what Hydra would of its overrides."""
    task = [override for override in overrides if not override.is_hydra_override()]
    hydra.overrides.task = [override.input_line for override in task]
    if HYDRA_1_3:  # later it is an interpolation
        naming = hydra.job.config.override_dirname
        excluded = set(naming.exclude_keys)
        named = [str(each.input_line) for each in task if each.key_or_group not in excluded]
        text = naming.item_sep.join(sorted(named))
        hydra.job.override_dirname = text.replace("=", naming.kv_sep)


def set_output_dir(hydra: DictConfig, number: int) -> Path:
    """Tell a job's hydra node its number and its folder; return the folder."""
    hydra.job.id = str(number)
    hydra.job.num = number
    folder = Path(hydra.sweep.dir, hydra.sweep.subdir)
    hydra.runtime.output_dir = str(folder.absolute())
    return folder


def own_of_hydra(hydra: DictConfig) -> dict[str, Any]:
    """Return what of Hydra's node differs between the jobs of a template, by its keys."""
    job: Any = OmegaConf.to_container(hydra.job)  # interpolations as they are written
    return {
        **{f"job.{key}": job[key] for key in ("id", "num", "override_dirname")},
        "overrides.task": OmegaConf.to_container(hydra.overrides.task),
        "runtime.output_dir": hydra.runtime.output_dir,
    }


def as_json(value: object) -> str:
    r"""Return a value as JSON that YAML reads as the same.

    >>> as_json(["a=1", "\x85"]), as_json("\U0001f600")
    ('["a=1", "\\u0085"]', '"😀"')
    """
    # Of a character beyond \uffff, which JSON writes as two, YAML would make two.
    pair = r"\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}"
    return re.sub(pair, lambda found: json.loads(f'"{found[0]}"'), json.dumps(value))


def folder_name(override_dirname: str) -> str:
    """Turn swept overrides into a directory name without slashes, brackets or spaces.

    >>> folder_name("train_size=500,optimizer.lr=0.1")
    'train_size=500,optimizer.lr=0.1'
    >>> folder_name("model.hidden=[128,64],seed=1"), folder_name("model.hidden=[]")
    ('model.hidden=128-64,seed=1', 'model.hidden=none')
    >>> folder_name("dataset.folder=a/b")
    'dataset.folder=a-b-536bbc24'
    >>> folder_name("")
    'default'
    """
    name = re.sub(r"\[([\d, ]*)\]", lambda found: _listed(found[1]), override_dirname)
    plain = re.sub(r"[^\w.,=+-]+", "-", name)
    if plain != name or len(plain) > LONGEST_NAME:
        # Different overrides must not meet in one folder once characters are lost.
        digest = hashlib.sha256(override_dirname.encode()).hexdigest()[:8]
        plain = f"{plain[:LONGEST_NAME].rstrip('-')}-{digest}"
    return plain or "default"


def _listed(items: str) -> str:
    return "-".join(item.strip() for item in items.split(",")) or "none"


# OmegaConf 2.4, which Hydra 1.4 brings, has another name for it.
register_resolver: Any = (
    OmegaConf.register_new_resolver if HYDRA_1_3 else OmegaConf.register_resolver
)
register_resolver("nnlab.folder_name", folder_name, replace=True)
