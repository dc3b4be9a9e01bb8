"""The arguments of ``python -m nnlab.run``: put in order for Hydra, and what people mistype."""

from __future__ import annotations

import dataclasses
import itertools
import re
import typing
from collections.abc import Iterator, Sequence

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException

from nnlab.config import GROUPS, Config

OPTIONS = [field.name for field in dataclasses.fields(Config)]
FIXED = "hydra.job.config.override_dirname.exclude_keys"
COMMANDS = ("run", "report", "describe", "predict", "import_images")


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
    given: list[str] = get_args_parser().parse_intermixed_args(arguments).overrides
    check(given)
    flags = [argument for argument in arguments if argument not in given]
    try:
        overrides = OverridesParser.create().parse_overrides(given)
    except OverrideParseException:
        return given + flags  # Hydra says what is wrong
    fixed = [each.key_or_group for each in overrides if not each.is_sweep_override()]
    naming = [f"{FIXED}=[{','.join(fixed)}]"] if fixed and FIXED not in fixed else []
    return given + naming + flags


def check(overrides: Sequence[str]) -> None:
    """Raise ValueError with the remedy for what Hydra would misread, or refuse in its own words.

    >>> check(["train_size=500", "1000"])
    Traceback (most recent call last):
    ValueError: train_size=500 1000: values of a sweep are joined by commas, without spaces: \
train_size=500,1000
    """
    kinds = dict(option_types())
    for index, word in enumerate(overrides):
        if "=" not in word and not word.startswith("~"):
            refuse_lone_word(overrides, index, kinds)
    for word in overrides:
        key, _, value = word.partition("=")
        key = key.lstrip("+")
        # Of options that nnlab does not know Hydra tells.
        if key in kinds and value[:1] not in ("'", '"'):
            check_value(word, key, value.strip(), kinds[key])


def check_value(word: str, key: str, value: str, kind: str) -> None:
    """Raise ValueError where a value of an option is not what was meant."""
    numeric = re.search(r"\b(int|float)\b", kind)
    spaced = numeric and re.search(r"[\d.]\s+[\d.]", value)
    listed = "list" not in kind and value[:1] in ("[", "(")
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


def refuse_lone_word(overrides: Sequence[str], index: int, kinds: dict[str, str]) -> None:
    """Raise ValueError for a word that is no NAME=VALUE."""
    word, rest = overrides[index], overrides[index + 1 :]
    if word.replace("-", "_") in COMMANDS:
        command = " ".join([f"python -m nnlab.{word.replace('-', '_')}", *rest])
        raise ValueError(f"{word} is a command of its own: did you mean {command}?")
    first = index - 1 if index > 0 and "=" in overrides[index - 1] else index
    others = itertools.takewhile(lambda each: "=" not in each.lstrip("="), rest)
    text = " ".join([*overrides[first : index + 1], *others])
    key, _, value = (part.strip() for part in text.partition("="))
    if key not in kinds or not value:
        raise ValueError(f"{word} is neither NAME=VALUE nor a flag; see --help")
    meant = joined(value, kinds[key])
    means = how_to_join(kinds[key]) if "," in meant else "an option is written without spaces"
    plain = re.fullmatch(r"[\d\s.,e+\[\]-]*", value)
    quoted = "" if plain else f"; what holds a space stands in quotes: '{key}={value}'"
    raise ValueError(f"{text}: {means}: {key}={meant}{quoted}")


def how_to_join(kind: str) -> str:
    what = "items of a list" if "list" in kind else "values of a sweep"
    return f"{what} are joined by commas, without spaces"


def joined(value: str, kind: str) -> str:
    """Write the values that stand in a text as nnlab takes them, for an option of a type.

    >>> joined("500, 1000", "int"), joined("[500,1000]", "int"), joined("[128, 64]", "list[int]")
    ('500,1000', '500,1000', '[128,64]')
    """
    values = ",".join(part for part in re.split(r"[\s,]+", value.strip("[](){}, ")) if part)
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
