"""What many things of one kind have in common, in memory once: names, texts, columns of a table."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence
from typing import Any, TypeVar

from nnlab.long_lists import Numbers, Values, is_plain

Item = TypeVar("Item")
DIGEST = re.compile("[0-9a-f]{16}")


class Compact(Mapping[str, Item]):
    """A mapping whose names are those of all others that have the same; values may be set anew.

    Of 40 names it takes 0.4 kB beside its values, a dict 0.8 to 1.6 kB.

    >>> one, other = Compact.of({"a": 1, "b": 2}), Compact.of({"a": 3, "b": 4})
    >>> one["b"], other.get("c"), dict(other), one == {"a": 1, "b": 2}
    (2, None, {'a': 3, 'b': 4}, True)
    """

    __slots__ = ("_places", "_values")

    def __init__(self, names: Iterable[str], values: Sequence[Item]) -> None:
        """values: one for each name; a sequence that makes them when they are asked for will do."""
        self._places = _places(tuple(names))
        self._values: Any = values

    @classmethod
    def of(cls, content: Mapping[str, Item]) -> Compact[Item]:
        return cls(content, list(content.values()))

    def __getitem__(self, name: str) -> Item:
        found: Item = self._values[self._places[name]]
        return found

    def __setitem__(self, name: str, value: Item) -> None:
        self._values[self._places[name]] = value

    def get(self, name: str, default: Any = None) -> Any:
        place = self._places.get(name)
        return default if place is None else self._values[place]

    def keys(self) -> KeysView[str]:
        return self._places.keys()

    def items(self) -> ItemsView[str, Item]:
        return dict(zip(self._places, self._values)).items()  # not one call of Python's for each

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __repr__(self) -> str:
        return f"Compact({dict(self)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Compact, (self._places, self._values)  # of many a pickle has the names once


class Column:
    """A list in little room: a value that all its rows share is there once; numbers, digests of 16
    hexadecimal digits and all that ``Values`` can hold are on disk where they are many.

    >>> column = Column()
    >>> for value in (1, 1, True):
    ...     column.append(value)
    >>> [column[row] for row in range(3)]
    [1, 1, True]
    """

    __slots__ = ("_rows", "_values")

    def __init__(self, rows: int = 0) -> None:
        """rows: how many there are already, None each."""
        self._rows = rows
        self._values: Any = (None,)  # a tuple: the one value of all rows

    def __getitem__(self, row: int) -> Any:
        values = self._values
        if type(values) is tuple:
            return values[0]
        found = values[row]
        return f"{found:016x}" if kind_of(values) == "Q" else found

    @property
    def shared(self) -> bool:
        """Whether all rows have one value."""
        return type(self._values) is tuple

    def append(self, value: Any) -> None:
        if self._rows == 0:
            self._values = (value,)
        elif not self._shares(value):
            values = self._values_for(value)
            values.append(as_item(value, values))
        self._rows += 1

    def __setitem__(self, row: int, value: Any) -> None:
        if not self._shares(value):
            values = self._values_for(value)
            values[row] = as_item(value, values)

    def _shares(self, value: Any) -> bool:
        """Return whether all rows have this very value: 1 is neither 1.0 nor True."""
        if type(self._values) is not tuple:
            return False
        (own,) = self._values
        return own is value or (type(own) is type(value) and repr(own) == repr(value))

    def _values_for(self, value: Any) -> Any:
        """Return the values of all rows one by one, where another may be."""
        code, own = code_of(value), self._values
        before = code_of(own[0]) if type(own) is tuple else kind_of(own)
        if code != before:
            code = Values.typecode if code and before else ""
        if type(own) is tuple or code != before:
            values: Any = [] if not code else Values() if code == Values.typecode else Numbers(code)
            values.extend(as_item(self[row], values) for row in range(self._rows))
            self._values = values
        return self._values


def code_of(value: object) -> str:
    """Return the code of what holds a value in little room as it is, nothing where there is none:
    Q of digests, as numbers."""
    if type(value) is str and DIGEST.fullmatch(value):
        return "Q"
    if type(value) is float or (type(value) is int and abs(value) < 2**63):
        return "d" if type(value) is float else "q"
    return Values.typecode if is_plain(value) else ""


def kind_of(values: Any) -> str:
    """Return the code of what values hold."""
    return "" if type(values) is list else str(values.typecode)


def as_item(value: Any, values: Any) -> Any:
    """Return a value as these values hold it."""
    return int(value, 16) if kind_of(values) == "Q" else value


class Table:
    """Mappings, a row each, in columns."""

    __slots__ = ("alike", "columns", "rows", "shapes")

    def __init__(self) -> None:
        self.columns: dict[str, Column] = {}
        self.shapes = Column()  # the names that a row has
        self.alike: dict[int, tuple[dict[str, Any], list[str]]] = {}  # see ``split``
        self.rows = 0

    def append(self, content: Mapping[str, Any]) -> None:
        shape = _places(tuple(content))
        self.shapes.append(shape)
        for name in shape.keys() - self.columns.keys():
            self.columns[name] = Column(self.rows)
        for name, column in self.columns.items():
            column.append(content.get(name))
        self.rows += 1
        self.alike.clear()

    def split(self, row: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return a row of the same names, whose other values all have in common, and the values of
        its own that this row has. The first is looked up once, until a value is set."""
        shape, columns = self.shapes[row], self.columns
        if id(shape) not in self.alike:
            own = [name for name in shape if not columns[name].shared]
            self.alike[id(shape)] = {name: columns[name][row] for name in shape}, own
        common, own = self.alike[id(shape)]
        return common, {name: columns[name][row] for name in own}


class Row(Mapping[str, Any]):
    """A row of a table; values may be set anew, also of names that it did not have.

    >>> table = Table()
    >>> table.append({"a": 1, "b": 0.5})
    >>> table.append({"b": 2.5, "a": 1})
    >>> one, other = Row(table, 0), Row(table, 1)
    >>> one["c"] = "new"
    >>> dict(one), dict(other), other.get("c", 3), "c" in other
    ({'a': 1, 'b': 0.5, 'c': 'new'}, {'b': 2.5, 'a': 1}, 3, False)
    """

    __slots__ = ("_row", "_table")

    def __init__(self, table: Table, row: int) -> None:
        self._table = table
        self._row = row

    def _shape(self) -> dict[str, int]:
        found: dict[str, int] = self._table.shapes[self._row]
        return found

    def __getitem__(self, name: str) -> Any:
        if name not in self._shape():
            raise KeyError(name)
        return self._table.columns[name][self._row]

    def __setitem__(self, name: str, value: Any) -> None:
        table = self._table
        if name not in self._shape():
            table.shapes[self._row] = _places((*self, name))
            table.columns.setdefault(name, Column(table.rows))
        table.columns[name][self._row] = value
        table.alike.clear()

    def get(self, name: str, default: Any = None) -> Any:
        return self._table.columns[name][self._row] if name in self._shape() else default

    def keys(self) -> KeysView[str]:
        return self._shape().keys()

    def items(self) -> ItemsView[str, Any]:
        common, own = self.split()
        return (common | own).items()

    def split(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Do what ``Table.split`` does."""
        return self._table.split(self._row)

    def __contains__(self, name: object) -> bool:
        return name in self._shape()

    def __iter__(self) -> Iterator[str]:
        return iter(self._shape())

    def __len__(self) -> int:
        return len(self._shape())

    def __repr__(self) -> str:
        return f"Row({dict(self)})"


def values_of(mappings: Iterable[Mapping[str, Item]], most: int) -> dict[str, set[Item]]:
    """Return the values of each name, so many at most.

    >>> values_of([{"a": 1, "b": 2}, {"a": 3}, {"a": 4}], most=2)
    {'a': {1, 3}, 'b': {2}}
    """
    found: dict[str, set[Item]] = {}
    seen: set[int] = set()
    for mapping in mappings:
        content: Mapping[str, Item] = mapping
        if isinstance(mapping, Row):  # what rows have in common counts once
            common, own = mapping.split()
            content = own if id(common) in seen else mapping
            seen.add(id(common))
        for name, value in content.items():
            values = found.setdefault(name, set())
            if len(values) < most:
                values.add(value)
    return found


def once(value: Any) -> Any:
    """Return a value; if it is a text, the one that is in memory of all that are equal."""
    return sys.intern(value) if type(value) is str else value


@functools.lru_cache(1024)
def _places(names: tuple[str, ...]) -> dict[str, int]:
    return {name: place for place, name in enumerate(names)}
