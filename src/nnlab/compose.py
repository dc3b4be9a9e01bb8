"""From YAML files and overrides to a typed ``Config``; a sweep's jobs from few compositions."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import itertools
import json
import re
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf import base as omegaconf_base
from omegaconf.resolvers import oc

from nnlab.compact import Compact
from nnlab.config import CONF, GROUPS, Config
from nnlab.options import check_lists, flat

LONGEST_NAME = 100
MARK = uuid.uuid4().hex  # occurs in no configuration
OWN = "${dataset.name}"  # the interpolation of nnlab's own configuration
asked: list[str] = []  # environment variables, since it was last cleared
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


@contextlib.contextmanager
def quick_hydra() -> Iterator[None]:
    """Spare Hydra what it does over and over.

    It copies every configuration that it has read before it lists the options of one group: of
    ``--help`` and of completion in a shell that was four fifths of the time. It parses a value
    such as ``${dataset.name}`` each time that it is read: of a job that was 1 ms. Before 1.4 it
    composes each command once more for ``hydra.mode``, 0.1 s.
    """
    listed, composed_mode = ConfigLoaderImpl.get_group_options, Hydra.get_mode
    parse = omegaconf_base.parse  # type: ignore[attr-defined]

    @functools.wraps(listed)
    def options(self: ConfigLoaderImpl, group_name: str, *others: Any, **named: Any) -> list[str]:
        # A configuration or overrides may add places to look in.
        if len(others) > 1 or any(named.get(key) for key in ("config_name", "overrides")):
            return listed(self, group_name, *others, **named)
        kind = others[0] if others else named.get("results_filter", ObjectType.CONFIG)
        return self.repository.get_group_options(group_name, kind)

    @functools.wraps(composed_mode)
    def mode(self: Hydra, config_name: str | None, overrides: list[str]) -> Any:
        places = [element.path for element in self.config_loader.get_search_path().get_path()]
        named = any(re.match(r"[+~]*hydra(\.mode|\.searchpath)?(=|$)", each) for each in overrides)
        if named or places != ["pkg://hydra.conf", str(CONF), "structured://"]:
            return composed_mode(self, config_name, overrides)
        return RunMode.MULTIRUN

    if HYDRA_1_3:
        Hydra.get_mode = mode  # type: ignore[method-assign]
    ConfigLoaderImpl.get_group_options = options  # type: ignore[method-assign]
    omegaconf_base.parse = functools.lru_cache(parse)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        Hydra.get_mode = composed_mode  # type: ignore[method-assign]
        ConfigLoaderImpl.get_group_options = listed  # type: ignore[method-assign]
        omegaconf_base.parse = parse  # type: ignore[attr-defined]


def load(overrides: Sequence[str]) -> Config:
    """Compose one configuration. Raises Hydra's errors, and ValueError as ``from_hydra`` does."""
    register()
    with hydra.initialize_config_dir(str(CONF), **VERSION_BASE):
        return from_hydra(hydra.compose("config", overrides=list(overrides)))


def from_hydra(composed: DictConfig, known: Mapping[str, Any] = {}) -> Config:
    """Turn what Hydra composed into plain typed values and check their limits.

    known: typed values of keys that need no second look.
    Raises ValueError naming the option, its value, the limit and the remedy.
    """
    refuse_unknown(composed, Config, known={"hydra", *known})
    keys = [field.name for field in dataclasses.fields(Config)]
    config = Config(**{key: known[key] if key in known else typed(composed[key]) for key in keys})
    check_lists(config, known=known)
    config.check()
    return config


def typed(value: Any) -> Any:
    return OmegaConf.to_object(value) if OmegaConf.is_config(value) else value


def refuse_unknown(
    node: DictConfig, schema: type, prefix: str = "", known: Collection[str] = ()
) -> None:
    """Raise ValueError for an option that the schema does not know, or that is gone: Hydra's
    ``+key=value`` adds any, ``~key`` deletes any."""
    options = {field.name for field in dataclasses.fields(schema)}
    given = [str(key) for key in node]
    for key in [*given, *sorted(options.difference(given))]:
        if key in known:
            continue
        if key not in options:
            near = difflib.get_close_matches(key, options, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else "see --help"
            raise ValueError(f"{prefix}{key} is not an option of nnlab; {hint}")
        if key not in given or OmegaConf.is_missing(node, key):
            raise ValueError(f"{prefix}{key} has no value; set {prefix}{key}=...")
        child = None if OmegaConf.is_interpolation(node, key) else node[key]
        if isinstance(child, DictConfig) and OmegaConf.get_type(child) is not dict:
            refuse_unknown(child, OmegaConf.get_type(child) or dict, f"{prefix}{key}.")


class Template:
    """A composition into which jobs that set the same keys write their values, one after another.

    A part, which is what stands below one of its own keys, is written anew only where a job sets
    it otherwise than the job before; else its YAML and its typed value are kept.
    """

    def __init__(self, composed: DictConfig) -> None:
        self.composed = composed
        self.written: dict[str, list[Any]] = {}  # what the latest job set, by parts
        self.yaml: dict[str, str] = {}
        self.between: dict[tuple[str, ...], str] = {}  # YAML of parts that no job writes
        self.known: dict[str, Any] = {}  # typed values
        self.own: dict[str, Any] = {}  # what of Hydra's node is the latest job's

    def write(self, values: Sequence[Override]) -> None:
        """Write a job's values: of all the keys that its jobs set, in one order."""
        parts: dict[str, list[Override]] = {}
        for override in values:
            parts.setdefault(re.split(r"[.[]", override.key_or_group)[0], []).append(override)
        for part, overrides in parts.items():
            lines = [override.input_line for override in overrides]
            if self.written.pop(part, None) != lines:
                self.yaml.pop(part, None)
                self.known.pop(part, None)
                for override in overrides:
                    OmegaConf.update(self.composed, override.key_or_group, override.value())
            self.written[part] = lines

    def set_overrides(self, overrides: Sequence[Override]) -> None:
        """Tell Hydra's node of all of a job's overrides what Hydra would."""
        task = [override for override in overrides if not override.is_hydra_override()]
        lines = [override.input_line for override in task]
        before, node = self.own.get("overrides.task", []), self.composed.hydra
        if len(before) != len(lines):
            node.overrides.task = lines
        else:  # a list that is set anew takes 0.3 ms
            for place, (old, new) in enumerate(zip(before, lines)):
                if new != old:
                    node.overrides.task[place] = new
        self.own = {"overrides.task": lines}
        if HYDRA_1_3:  # later it is an interpolation
            naming = node.job.config.override_dirname
            excluded = set(naming.exclude_keys)
            named = [str(each.input_line) for each in task if each.key_or_group not in excluded]
            text = naming.item_sep.join(sorted(named)).replace("=", naming.kv_sep)
            self.own["job.override_dirname"] = node.job.override_dirname = text

    def set_number(self, number: int) -> Path:
        """Tell Hydra's node a job's number and the folder that follows; return the folder."""
        node = self.composed.hydra
        node.job.id, node.job.num = str(number), number
        folder = Path(node.sweep.dir, node.sweep.subdir)
        node.runtime.output_dir = str(folder.absolute())
        self.own |= {"job.id": str(number), "job.num": number}
        self.own["runtime.output_dir"] = str(folder.absolute())
        return folder

    def config(self) -> Config:
        """Return the job's configuration. Raises ValueError as ``from_hydra`` does."""
        config = from_hydra(self.composed, self.known)
        # An interpolation may lead to what the next job changes.
        keys = [field.name for field in dataclasses.fields(Config)]
        self.known = {k: getattr(config, k) for k in keys if "${" not in self.part_yaml(k)}
        return config

    def files(self) -> Mapping[str, tuple[str, ...]]:
        """Return what Hydra keeps of a job in a folder of its own, by the files' paths.

        Each in parts; those that are the same in other jobs are in memory once. To be called after
        ``set_overrides`` and ``set_number``. Nothing where hydra.output_subdir is null.
        """
        folder = self.composed.hydra.output_subdir
        if folder is None:
            return {}
        own = {f"{MARK}{key}": as_json(value) for key, value in self.own.items()}
        files = {
            f"{folder}/config.yaml": self.task_yaml(),
            f"{folder}/hydra.yaml": tuple(own.get(part, part) for part in self.hydra_yaml),
            f"{folder}/overrides.yaml": (own[f"{MARK}overrides.task"], "\n"),
        }
        return Compact.of(files)

    def environment(self) -> dict[str, str]:
        """Return the texts that an environment variable is part of, as they were written."""
        given = any("${" in part.replace(OWN, "") for part in self.task_yaml())
        return from_environment(self.composed) if given else {}

    def task_yaml(self) -> tuple[str, ...]:
        """Return the YAML of all but Hydra's node, in parts: those that jobs write, and one of all
        between two of them."""
        keys = (str(key) for key in self.composed if key != "hydra")
        texts: list[str] = []
        for written, group in itertools.groupby(keys, self.written.__contains__):
            some = tuple(group)
            texts += map(self.part_yaml, some) if written else [self.joined(some)]
        return tuple(texts)

    def joined(self, keys: tuple[str, ...]) -> str:
        """Return the YAML of parts that no job writes."""
        if keys not in self.between:
            self.between[keys] = "".join(map(self.part_yaml, keys))
        return self.between[keys]

    def part_yaml(self, key: str) -> str:
        if key not in self.yaml:
            self.yaml[key] = OmegaConf.to_yaml(OmegaConf.masked_copy(self.composed, key))
        return self.yaml[key]

    @functools.cached_property
    def hydra_yaml(self) -> list[str]:
        """The YAML of Hydra's node in parts, with marks where a job's own values belong."""
        shown = OmegaConf.masked_copy(self.composed, "hydra")
        tree: Any = OmegaConf.to_container(shown, enum_to_str=True)
        for key in self.own:
            parent, _, name = key.partition(".")
            tree["hydra"][parent][name] = f"{MARK}{key}"
        marks = "|".join(re.escape(f"{MARK}{key}") for key in self.own)
        return re.split(f"({marks})", OmegaConf.to_yaml(tree))


def from_environment(composed: DictConfig) -> dict[str, str]:
    """Return the options that environment variables are part of, in whichever way.

    By dotted names, each as it was written and with a digest of its value, which tells it from
    another. Those that a single interpolation makes are named one by one.

    >>> import os
    >>> os.environ["PLACE"] = "/secret"
    >>> composed = OmegaConf.create({"a": {"b": "${oc.env:PLACE}/c"}, "d": "${a.b}", "e": "${.f}"})
    >>> from_environment(OmegaConf.merge(composed, {"f": 1}))
    {'a.b': '${oc.env:PLACE}/c#58bce460', 'd': '${a.b}#58bce460'}
    """
    task: Any = OmegaConf.to_container(composed)
    task.pop("hydra", None)
    found = {}
    for key, written in flat(task):
        text = written if isinstance(written, str) else json.dumps(written, default=str)
        if "${" not in text:
            continue
        asked.clear()
        value: Any = OmegaConf.select(composed, key)
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value, resolve=True)
        if asked:
            values = dict(flat(value, f"{key}.")) if isinstance(value, dict) else {key: value}
            for name, each in values.items():
                if isinstance(each, (str, list)):  # without its numbers a result cannot be read
                    digest = hashlib.sha256(str(each).encode()).hexdigest()[:8]
                    found[name] = f"{text}#{digest}"
    return found


def variable(*given: Any) -> str | None:
    """Return an environment variable, as OmegaConf does, and keep in mind that it was asked for."""
    asked.append(given[0])
    return oc.env(*given)


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

    def joined(found: re.Match[str]) -> str:
        return re.sub(r"\s*,\s*", "-", found[1].strip()) or "none"

    name = re.sub(r"\[([\d, ]*)\]", joined, override_dirname)
    plain = re.sub(r"[^\w.,=+-]+", "-", name)
    if plain != name or len(plain) > LONGEST_NAME:
        # Different overrides must not meet in one folder once characters are lost.
        digest = hashlib.sha256(override_dirname.encode()).hexdigest()[:8]
        plain = f"{plain[:LONGEST_NAME].rstrip('-')}-{digest}"
    return plain or "default"


# OmegaConf 2.4, which Hydra 1.4 brings, has another name for it.
register_resolver: Any = (
    OmegaConf.register_new_resolver if HYDRA_1_3 else OmegaConf.register_resolver
)
register_resolver("nnlab.folder_name", folder_name, replace=True)
register_resolver("oc.env", variable, replace=True)
