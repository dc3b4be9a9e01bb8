"""Which code a configuration may name, and a check of it before Hydra runs any.

Hydra calls what ``_target_`` names, logging what it finds under "()", and so on. A configuration
of files that came from somewhere is data: it may choose among installed plugins, and no more.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
from collections.abc import Collection, Iterator, Sequence
from typing import IO, Any, cast

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core.config_store import ConfigNode, ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from nnlab.config import Config, OwnNetworkConfig
from nnlab.datasets.function import FunctionConfig
from nnlab.text import visible

TARGET = "_target_"
CODE = (TARGET, "custom_search_space")  # keys whose values are imported, the latter by Optuna
# Likewise, in a configuration of logging, with what sets attributes, and where a log goes.
OF_LOGGING = ("()", "class", "queue", "listener", ".", "filename")
LOGGING = ("hydra.job_logging.", "hydra.hydra_logging.")
# Classes that may log: to streams and files, not to other machines.
LOGGERS = re.compile(
    r"logging\.(NullHandler|StreamHandler|FileHandler|Formatter|Filter)|colorlog\.[A-Z]\w*"
    r"|logging\.handlers\.(Watched|Rotating|TimedRotating)FileHandler"
)
LOGS = {  # the files that they may write, those of the run and of hydra/hydra_logging=hydra_debug
    LOGGING[0]: r"\$\{hydra\.runtime\.output_dir\}/(\$\{hydra\.job\.name\}|[\w.-]+)\.log",
    LOGGING[1]: r"hydra-\$\{hydra\.job\.name\}\.log",
}
ENVIRONMENT = "hydra.job.env_set."  # of the programs that are started, say PATH
NO_COPIES = (
    "it writes what may be secret into .hydra, and jobs have the variables anyway; remove it"
)
ACTS = (*LOGGING, "hydra.callbacks.", "hydra.launcher.", "hydra.sweeper.")  # by which Hydra acts
FUNCTIONS = (
    "dataset.function",
    "model.function",
)  # options whose code runs where the command line names it
# Options of launchers and searches that may name programs and servers; LOCAL: what names none.
PROGRAMS = re.compile(
    r"(hydra\.launcher\.(setup|options|additional_parameters|srun_args|python|address|ray)"
    r"|hydra\.sweeper\.storage)(?=\.|$)"
)
LOCAL = re.compile(r"sqlite:///[\w.-]+")
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
OF_A_FILE = "hydra.searchpath in main"  # what Hydra calls places that no command line names
# The same, but that it counts runs, and sees where they would go, before it begins.
HYDRAS_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
SWEEPER = "hydra_plugins.nnlab_sweeper.NnlabSweeper"
MOST = 100_000  # values in a configuration that has aliases
PLUGINS = ("hydra.launcher._target_", "hydra.sweeper._target_")  # of no other are those


@contextlib.contextmanager
def checked() -> Iterator[None]:
    """Have ``refuse_code`` look at whatever Hydra composes, before Hydra acts upon it, and no file
    name a package to be searched for more.

    Hydra has no place of its own for that: its callbacks are such code themselves.
    """
    compose, append = ConfigLoaderImpl.load_configuration, ConfigSearchPathImpl.append
    read = OmegaConf.load

    @functools.wraps(compose)
    def load(self: ConfigLoaderImpl, *arguments: Any, **options: Any) -> DictConfig:
        try:
            composed = compose(self, *arguments, **options)
        except RecursionError:
            raise ValueError(
                "a configuration includes itself, or is nested too deeply: see the defaults of "
                "the files in your --config-dir"
            ) from None
        except UnicodeDecodeError as error:
            raise ValueError(
                f"a file in your --config-dir is no configuration: it is no text in UTF-8 ({error})"
            ) from None
        except KeyError as error:
            if isinstance(error, OmegaConfBaseException):
                raise
            # Hydra looks it up in the environment.
            raise ValueError(f"hydra.job.env_copy={error}: {NO_COPIES}") from None
        for key in ("hydra.job.name", "hydra.output_subdir"):
            name = OmegaConf.select(composed, key)
            if name is not None and (os.path.basename(name) != name or name in ("", ".", "..")):
                raise ValueError(f"{key}={name} leaves the run's folder: give it without /")
        refuse_outside(composed)
        if copied := composed.hydra.job.env_copy:
            raise ValueError(f"hydra.job.env_copy={copied}: {NO_COPIES}")
        if OmegaConf.select(composed, "hydra.sweeper._target_") == HYDRAS_SWEEPER:
            with read_write(composed):
                composed.hydra.sweeper._target_ = SWEEPER
        refuse_code(composed, OmegaConf.to_container(composed.hydra.overrides.hydra))  # type: ignore[arg-type]
        return composed

    @functools.wraps(append)
    def place(self: ConfigSearchPathImpl, provider: str, path: str, anchor: Any = None) -> None:
        if provider == OF_A_FILE and path.startswith("pkg:"):  # a package, which is imported
            raise ValueError(
                f"hydra.searchpath=[{path}] names code, which a configuration may not: give it on "
                f"the command line, if it is to run"
            )
        append(self, provider, path, anchor)

    @functools.wraps(read)
    def read_file(file: Any) -> DictConfig | ListConfig:
        refuse_endless(file)
        return read(file)

    OmegaConf.load = read_file  # type: ignore[assignment, method-assign]
    ConfigLoaderImpl.load_configuration = load  # type: ignore[method-assign]
    ConfigSearchPathImpl.append = place  # type: ignore[method-assign]
    try:
        yield
    finally:
        ConfigSearchPathImpl.append = append  # type: ignore[method-assign]
        ConfigLoaderImpl.load_configuration = compose  # type: ignore[method-assign]
        OmegaConf.load = staticmethod(read)  # type: ignore[method-assign]


def refuse_outside(composed: DictConfig) -> None:
    """Raise ValueError where a run of a sweep would have its folder outside the study."""
    try:
        subdir = str(OmegaConf.select(composed, "hydra.sweep.subdir"))
    except OmegaConfBaseException:  # it depends on what is not known yet
        return
    # Without overrides there is no name yet.
    written = cast(Any, composed.hydra.sweep)._get_node("subdir")._value()
    parts = subdir.split("/") if subdir or not written else []
    if "\0" in subdir or any(part == "" or part.startswith(".") for part in parts):
        raise ValueError(
            f"hydra.sweep.subdir={visible(subdir)} is no folder of the study: give a name without "
            f"a dot or a slash at its beginning"
        )


def refuse_endless(file: IO[str]) -> None:
    """Raise ValueError where the aliases in a configuration (``*name``), which stand for copies,
    make it more than MOST values: some lines may stand for billions."""
    text = file.read()
    file.seek(0)
    if "&" not in text or "*" not in text:
        return
    counts: dict[int, int] = {}

    def count(node: yaml.Node) -> int:
        if id(node) not in counts:
            counts[id(node)] = 1  # of one that is within itself
            parts = node.value if isinstance(node, yaml.CollectionNode) else ()
            some = itertools.chain(*parts) if isinstance(node, yaml.MappingNode) else parts
            counts[id(node)] += sum(map(count, some))
        return counts[id(node)]

    root = yaml.compose(text, yaml.SafeLoader)
    if root is not None and count(root) > MOST:
        raise ValueError(
            f"the aliases in {file.name} stand for {count(root):,} values, at most {MOST:,} are "
            f"read: use fewer"
        )


@contextlib.contextmanager
def current(composed: DictConfig) -> Iterator[None]:
    """Make a job's configuration that which ${hydra:...} and ``HydraConfig.get`` read."""
    singleton = HydraConfig.instance()
    before, singleton.cfg = singleton.cfg, cast(Any, composed)
    try:
        yield
    finally:
        singleton.cfg = before


def refuse_code(composed: DictConfig, typed: Sequence[str]) -> None:
    """Raise ValueError for code that a configuration names and nobody has asked for.

    typed: what the command line says of Hydra's node: code that it names is meant to run.
    Installed plugins have registered theirs.
    """
    with current(composed):
        found = list(named(composed, "", set()))
    typed = [override.replace("\\", "") for override in typed]  # which may escape quotes
    for place, name in found:
        key = place.rpartition(".")[2]
        if place.startswith(LOGGING) and (LOGGERS.fullmatch(name) or name in STREAMS):
            continue
        if any(place.startswith(part) and re.fullmatch(LOGS[part], name) for part in LOGGING):
            continue
        if (place, name) in registered():
            continue
        option = PROGRAMS.match(place) or (place.startswith("hydra.launcher.") and key not in CODE)
        within = option[0] if isinstance(option, re.Match) else key
        asked = place.startswith("hydra.") and place not in PLUGINS
        plain = name.replace("\\", "")
        if asked and any(within in override and plain in override for override in typed):
            continue
        remedy = (
            "choose an installed plugin, as in hydra/launcher=joblib"
            if place in PLUGINS
            else "remove it, or give it on the command line, if that is meant"
            if option
            else f"remove it, or give it on the command line, '+{place}={name}', if it is to run"
            if place.startswith("hydra.")
            else "remove it: no option of nnlab's names code"
        )
        what = "a file" if key == "filename" else "programs or a server" if option else "code"
        raise ValueError(f"{place}={name} names {what}, which a configuration may not: {remedy}")


def functions_named(arguments: Sequence[str]) -> frozenset[str]:
    """Return the functions of the user's own that the arguments of a command name, with the
    option of each.

    >>> sorted(functions_named(["dataset.function=my_data:load,my_data:other", "seed=1"]))
    ['dataset.function=my_data:load', 'dataset.function=my_data:other']
    """
    values = (text.lstrip("+").partition("=") for text in arguments)
    return frozenset(
        f"{key}={name}"
        for key, _, value in values
        if key in FUNCTIONS
        for name in re.findall(r"[\w.]+:\w+", value)
    )


def refuse_unnamed(config: Config, functions: Collection[str]) -> None:
    """Raise ValueError where a configuration would call a function that the command did not name.

    functions: as ``functions_named`` returns them.
    """
    called = []
    if isinstance(config.dataset, FunctionConfig):
        called.append(f"dataset.function={config.dataset.function}")
    if isinstance(config.model, OwnNetworkConfig):
        called.append(f"model.function={config.model.function}")
    for each in called:
        if each not in functions:
            raise ValueError(
                f"{each} names code, which a configuration may not: give it on the command line, "
                f"if it is to run"
            )


def named(
    node: DictConfig | ListConfig, path: str, seen: set[tuple[int, str | None]]
) -> Iterator[tuple[str, str]]:
    """Yield the place and the name of all code that a configuration names.

    seen: nodes that were looked at, by their ids and by which of Hydra's nodes led there, as what
    names code depends on that: interpolations lead to some again.
    """
    looked = (id(node), next(filter(path.startswith, (*ACTS, ENVIRONMENT)), None))
    if looked in seen or node._is_none() or node._is_missing():
        return
    seen.add(looked)
    keys: Any = node if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        place = f"{path}{key}"
        written = cast(Any, node)._get_node(key)._value()
        try:
            value = node[key]
        except OmegaConfBaseException:  # it has no value, so far
            value = None
        code = (
            key in CODE
            or place.startswith(ENVIRONMENT)
            or (place.startswith(LOGGING) and (key in OF_LOGGING or is_stream(value)))
        )
        if isinstance(value, (DictConfig, ListConfig)):
            if code:  # attributes of a handler
                yield place, str(value)
            yield from named(value, f"{place}.", seen)
        elif isinstance(value, str) and code and key != "filename":
            yield place, value
        elif may_be_a_program(place, value):
            yield place, str(written)
        # An interpolation may lead elsewhere when the job begins.
        text = written if isinstance(written, str) else ""
        node_or_nothing = not isinstance(value, (str, int, float)) and re.match(r"\$\{.*\}$", text)
        open_yet = key == "filename" or "${" in text
        if f"{place}.".startswith(ACTS) and ((code and open_yet) or node_or_nothing):
            yield place, text


def may_be_a_program(place: str, value: object) -> bool:
    """Return whether an option of a launcher, or a search, may name a program or a server: a text
    of some, one of several lines in a script for Slurm, also in the name of an option."""
    if PROGRAMS.match(place) and isinstance(value, str):
        return LOCAL.fullmatch(value) is None
    return place.startswith("hydra.launcher.") and "\n" in f"{place}{value}"


def is_stream(value: object) -> bool:
    return isinstance(value, str) and value.startswith("ext://")


@functools.cache
def registered() -> frozenset[tuple[str, str]]:
    """Return the places and names of code that Hydra and installed plugins have registered."""

    def found(tree: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
        for name, each in tree.items():
            if isinstance(each, ConfigNode):
                yield from named(each.node, path, set())
            else:
                yield from found(each, f"{path}{name}.")

    return frozenset(found(ConfigStore.instance().repo, ""))
