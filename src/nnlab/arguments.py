"""The arguments of ``python -m nnlab.run``: put in order for Hydra, and what people mistype."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import re
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException

from nnlab.config import GROUPS, Config

OPTIONS = [field.name for field in dataclasses.fields(Config)]
FIXED = "hydra.job.config.override_dirname.exclude_keys"
COMMANDS = (
    "run",
    "runs",
    "report",
    "compare",
    "describe",
    "predict",
    "import_images",
    "export_model",
)


def arrange(arguments: list[str]) -> list[str]:
    """Put overrides before flags, so that -m may stand anywhere, and name folders by what varies.

    Options that are fixed for the whole sweep are kept out of the names of its folders.

    >>> arrange(["seed=1", "-m", "train_size=500,1000"])[:2]
    ['seed=1', 'train_size=500,1000']
    >>> arrange(["seed=1", "-m", "train_size=500,1000"])[2:]
    ['hydra.job.config.override_dirname.exclude_keys=[seed]', '-m']

    Raises ValueError for an option that is written as a flag, and as ``check`` does.
    """
    for argument in arguments:
        name = argument.lstrip("-").partition("=")[0]
        if argument.startswith("--") and name.partition(".")[0] in OPTIONS:
            raise ValueError(f"{argument} is no flag; options have no dashes: {name}=VALUE")
    known = get_args_parser().parse_intermixed_args(arguments)
    if known.experimental_rerun is not None:
        raise ValueError(
            f"--experimental-rerun would run code that {known.experimental_rerun}, a pickle, may "
            f"hold: give the options of that run, which are in its .hydra/overrides.yaml"
        )
    given: list[str] = known.overrides
    overrides = check(given)
    flags = [argument for argument in arguments if argument not in given]
    if overrides is None:
        return given + flags  # Hydra says what is wrong
    fixed = [each.key_or_group for each in overrides if not each.is_sweep_override()]
    naming = [f"{FIXED}=[{','.join(fixed)}]"] if fixed and FIXED not in fixed else []
    return given + naming + flags


def check(overrides: Sequence[str]) -> list[Override] | None:
    """Raise ValueError with the remedy for what Hydra would misread, or refuse in its own words.

    Returns what ``parsed`` does.

    >>> check(["train_size=500", "1000"])
    Traceback (most recent call last):
    ValueError: train_size=500 1000: values of a sweep are joined by commas, without spaces: \
train_size=500,1000
    """
    kinds = {
        name: kind
        for name, kind in option_types()
        if name in GROUPS or not kind.endswith("Config")  # others have no value of their own
    }
    for index, word in enumerate(overrides):
        if "=" not in word and not word.startswith("~"):
            refuse_lone_word(overrides, index, kinds)
    for word in overrides:
        key, _, value = word.partition("=")
        key = key.lstrip("+")
        # Of options that nnlab does not know Hydra tells.
        if key in kinds and value[:1] not in ("'", '"'):
            check_value(word, key, value.strip(), kinds[key])
            if key in GROUPS:
                refuse_numbers(word, key, value)
    return parsed(overrides)


def parsed(overrides: Sequence[str]) -> list[Override] | None:
    """Parse overrides; None where Hydra refuses one that is well-formed, and says why.

    Raises ValueError for one that is not.
    """
    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except OverrideParseException as error:
        if error.__cause__ is not None:
            return None
        key, _, value = error.override.partition("=")
        raise ValueError(
            f"{error.override}: {value or key} cannot be read; brackets and quotes come in pairs, "
            f"and a text with signs other than letters, digits and /-:._+% stands in quotes of "
            f"its own, as in '{key}=\"{value}\"'"
        ) from None


def check_value(word: str, key: str, value: str, kind: str) -> None:
    """Raise ValueError where a value of an option is not what was meant."""
    numeric = is_numeric(kind)
    if numeric and value.count("[") != value.count("]"):
        paired = f"{key}={joined(value, kind)}"
        raise ValueError(f"{word}: a bracket has no other half; did you mean {paired}?")
    spaced = numeric and re.search(r"[\d.]\s*[\s;]\s*[\d.]", value)
    listed = "list" not in kind and kind != "Any" and value[:1] in ("[", "(")
    if spaced or listed or re.search(r"^,|,\s*(,|$)", value):
        raise ValueError(f"{word}: {how_to_join(kind)}: {key}={joined(value, kind)}")
    for number in re.split(r"[\s,\[\]()]+", value) if numeric else ():
        if re.fullmatch(r"0\d+", number):
            meant = f"0.{number}" if "float" in kind else int(number)
            raise ValueError(
                f"{word}: {number} is no number; did you mean {meant}? Decimals follow a dot, "
                f"commas separate the values of a sweep"
            )
    if kind == "float" and (decimal := re.fullmatch(r"0,(\d+)", value)):
        raise ValueError(
            f"{word} would be two runs, with {key}=0 and {key}={decimal[1]}; did you mean "
            f"{key}=0.{decimal[1]}? If both are meant: {key}=0.0,{decimal[1]}"
        )


def refuse_numbers(word: str, group: str, value: str) -> None:
    """Raise ValueError where a number stands among the names of a group's choices."""
    first, *others = value.split(",")
    numbers = [each for each in others if re.fullmatch(r"[\d.]+", each)]
    if numbers and first in GROUPS[group]:
        own = {field.name for field in dataclasses.fields(GROUPS[group][first])} - {"name"}
        raise ValueError(
            f"{word}: {numbers[0]} is none of {', '.join(GROUPS[group])}; the options of {first} "
            f"have names: {', '.join(f'{group}.{name}' for name in sorted(own))}"
        )


def refuse_lone_word(overrides: Sequence[str], index: int, kinds: dict[str, str]) -> None:
    """Raise ValueError for a word that is no NAME=VALUE."""
    word, rest = overrides[index], overrides[index + 1 :]
    name = word.replace("-", "_")
    near = [name] if name in COMMANDS else difflib.get_close_matches(name, COMMANDS, 1, 0.8)
    if name in COMMANDS or (near and index == 0):
        command = " ".join([f"python -m nnlab.{near[0]}", *rest])
        what = "a command of its own" if name in COMMANDS else "none of nnlab's commands"
        raise ValueError(f"{word} is {what}: did you mean {command}?")
    others = itertools.takewhile(
        lambda each: "=" not in each.lstrip("=") and each not in kinds, rest
    )
    text = " ".join([word, *others])
    named = re.fullmatch(r"([\w.]+)(?:\s*[:=]\s*|\s+)(.+)", text)
    if named is None or named[1] not in kinds:  # it may go on with what stands before it
        text = " ".join([*overrides[index - 1 : index], text])
        named = re.fullmatch(r"([^=]+?)\s*=\s*(.+)", text)
    key, value = named.groups() if named else ("", "")
    plain = re.fullmatch(r"[\d\s.,e+\[\]-]*", value)
    if key not in kinds or not (plain or not is_numeric(kinds[key])):
        raise ValueError(f"{word} is neither NAME=VALUE nor a flag; see --help")
    meant = joined(value, kinds[key])
    means = "an option is written " + ("without spaces" if " " in text else "NAME=VALUE")
    means = how_to_join(kinds[key]) if "," in meant else means
    quoted = (
        ""
        if plain or " " not in value
        else f"; what holds a space stands in quotes: '{key}={value}'"
    )
    raise ValueError(f"{text}: {means}: {key}={meant}{quoted}")


def is_numeric(kind: str) -> bool:
    return re.search(r"\b(int|float)\b", kind) is not None


def how_to_join(kind: str) -> str:
    what = "items of a list" if "list" in kind else "values of a sweep"
    return f"{what} are joined by commas, without spaces"


def joined(value: str, kind: str) -> str:
    """Write the values that stand in a text as nnlab takes them, for an option of a type.

    >>> joined("500, 1000", "int"), joined("[500,1000]", "int"), joined("[128, 64]", "list[int]")
    ('500,1000', '500,1000', '[128,64]')
    """
    values = ",".join(part for part in re.split(r"[\s,;]+", value.strip("[](){},; ")) if part)
    return f"[{values}]" if "list" in kind else values


def option_types() -> Iterator[tuple[str, str]]:
    """Yield every option's name and its type, as the schema has it; that of a group is a class."""
    parts = {"": Config} | typing.get_type_hints(Config)
    schemas: dict[str, list[type]] = {
        name: [kind]
        for name, kind in parts.items()
        if isinstance(kind, type) and dataclasses.is_dataclass(kind)
    }
    schemas |= {group: list(choices.values()) for group, choices in GROUPS.items()}
    for group, classes in schemas.items():
        for schema in classes:
            for field in dataclasses.fields(schema):
                yield f"{group}.{field.name}".lstrip("."), str(field.type)


def condition(text: str, option: str) -> tuple[str, list[Any]]:
    """Read NAME=VALUE[,VALUE], what an option was given, as nnlab.run does; a list of values.

    >>> condition("optimizer.lr=1e-1", "--where"), condition("model.hidden=[128,64]", "--where")
    (('optimizer.lr', [0.1]), ('model.hidden', [(128, 64)]))
    >>> condition("seed=0,1", "--where")
    ('seed', [0, 1])
    """
    try:
        override = OverridesParser.create().parse_override(text)
        sweep = override.is_sweep_override()
        values = list(override.sweep_iterator()) if sweep else [override.value()]
        if not override.key_or_group:
            raise HydraException
    except HydraException:
        raise ValueError(
            f"{option} {text} cannot be read; write NAME=VALUE, as in seed=0"
        ) from None
    plain = [getattr(value, "text", value) for value in values]  # of a text in quotes
    listed = [tuple(value) if isinstance(value, list) else value for value in plain]
    return override.key_or_group.removesuffix(".name"), listed
