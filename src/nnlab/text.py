"""Names that others chose, of classes and folders, and numbers as text for people and files."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

# What pandas.read_csv takes for a missing value, a truth value or a number.
MISSING = re.compile(
    r"|#N/A( N/A)?|#NA|<NA>|N/A|n/a|NA|NULL|null|None|-?(NaN|nan|1\.#IND|1\.#QNAN)"
)
TRUTH = re.compile(r"true|false", re.IGNORECASE)
FORMULA = re.compile(r"\s*[=+@\-\uff1d\uff0b\uff20\uff0d]")  # the latter four are wide ones
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?", re.IGNORECASE)


def visible(text: str) -> str:
    r"""Write characters that do not print as Python would: control characters, line ends.

    >>> visible("a\x1b[31m\nb"), visible("größer ±")
    ('a\\x1b[31m\\nb', 'größer ±')
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def visible_lines(text: str) -> str:
    """Do what ``visible`` does, but keep the lines apart, and tabs as blanks."""
    return "\n".join(map(visible, text.expandtabs(4).split("\n")))


def shortened(text: str, most: int) -> str:
    """Leave out the middle of a text that is longer than ``most`` characters.

    >>> shortened("Staffordshire bullterrier", 15), shortened("beagle", 15)
    ('Staffor…terrier', 'beagle')
    """
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}…{text[len(text) - (most - 1) // 2 :]}"


def as_label(text: str, most: int = 60) -> str:
    """Write a name in one line of a table: visible and shortened."""
    return shortened(visible(text), most)


def inert(text: str) -> str:
    """Put a text into quotes where a spreadsheet would run it.

    Control characters become visible: the line ends among them would break a row.

    >>> inert("=1+1"), inert("a=1"), inert("-")
    ("'=1+1'", 'a=1', "'-'")
    """
    text = visible(text)
    return f"'{text}'" if FORMULA.match(text) else text


def for_csv(text: str) -> str:
    """Put a text into quotes, as on the command line, where pandas would read something else, or
    where ``inert`` would.

    >>> for_csv("0110"), for_csv("NA"), for_csv("xor"), for_csv("[128,64]")
    ("'0110'", "'NA'", 'xor', '[128,64]')
    """
    kinds = (MISSING, TRUTH, NUMBER)
    known = visible(text)
    return f"'{known}'" if any(kind.fullmatch(known.strip()) for kind in kinds) else inert(text)


def class_for_csv(name: str) -> str:
    """Do what ``for_csv`` does, but leave a class that is called by a whole number as it is.

    >>> class_for_csv("7"), class_for_csv("007")
    ('7', "'007'")
    """
    return name if re.fullmatch(r"0|[1-9]\d{0,17}", name, re.ASCII) else for_csv(name)


def decimal(value: float, style: str) -> str:
    """Format a number, without the sign of one that is written as zero.

    >>> decimal(-0.04, ".1f"), decimal(-0.06, ".1f")
    ('0.0', '-0.1')
    """
    text = format(value, style)
    return text if text.strip("-0.") else text.lstrip("-")


def nearest(name: str, names: Collection[str]) -> str:
    """Return a hint at the name that was meant, or at those there are.

    >>> nearest("specis", ["species", "width"]), nearest("x", ["species", "width"])
    ('did you mean species?', 'choose one of species, width')
    """
    near = difflib.get_close_matches(
        name.lower(), {each.lower(): each for each in names}, n=1, cutoff=0.7
    )
    if near:
        return f"did you mean {next(each for each in names if each.lower() == near[0])}?"
    shown = [as_label(each) for each in list(names)[:20]]
    return f"choose one of {', '.join(shown)}{', …' * (len(names) > 20)}"
