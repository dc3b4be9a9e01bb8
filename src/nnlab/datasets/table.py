"""Tables: CSV, TSV, Parquet and other files that pandas reads, a row for each example.

Axes: N rows, I inputs: a column of numbers is one, a column of categories one for each of them.
"""

from __future__ import annotations

import bz2
import enum
import functools
import gzip
import hashlib
import importlib
import io
import logging
import lzma
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nnlab import memory
from nnlab.datasets import files
from nnlab.datasets.arrays import Arrays, DataSource, Sizes
from nnlab.datasets.labelled import (
    PARTS,
    SYNONYMS,
    Part,
    PredictedConfig,
    categories,
    check_finite,
    make_arrays,
    named_counts,
    read_bytes,
    sha256_of_file,
)
from nnlab.options import MISSING, require
from nnlab.text import as_label, for_csv, nearest

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("nnlab")
MOST_CATEGORIES = 1000  # of a column: each is an input
TEXT = (".csv", ".tsv", ".txt", ".json", ".jsonl")
UNPACK: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}  # of TEXT
ARROW = (".parquet", ".feather", ".orc")
PIECE = 2**24  # bytes that are unpacked at a time
# The packages that pandas needs for some of the suffixes.
INSTALL = {
    **dict.fromkeys(ARROW, "'nnlab[parquet]'"),
    ".xls": "xlrd",
    ".xlsx": "openpyxl",
    ".ods": "odfpy",
}


class Missing(enum.Enum):
    error = "error"
    mean = "mean"
    drop = "drop"


@dataclass
class TableConfig(PredictedConfig):
    file: str = MISSING
    label: str = MISSING
    features: list[str] | None = MISSING
    drop: list[str] = MISSING
    categorical: list[str] = MISSING
    missing: Missing = MISSING
    split: str | None = MISSING
    title = "Table"
    images = False

    @property
    def data_folder(self) -> str:
        return self.file

    def check(self) -> None:
        super().check()
        limit = "the mean of a column is known where it is standardised; set dataset.normalize=true"
        fine = self.missing is not Missing.mean or self.normalize
        require(fine, "dataset.missing", self.missing.name, limit)

    def choose_source(self, sizes: Sizes) -> DataSource:
        """Return the source.

        Reading it raises ValueError naming the column that is not as it should be.
        """
        path = files.input_folder(self.file)
        return DataSource(
            f"table {path}",
            lambda: read(path, self),
            lambda: {"sha256": sha256_of_file(path)},
            needs=path,
            options=repr(
                (
                    *(self.label, self.features, self.drop, self.categorical, self.missing),
                    *(self.split, self.task),
                )
            ),
        )


def read(path: Path, config: TableConfig) -> Arrays:
    """Read the examples of a table."""
    content = read_bytes(path)
    table = read_table(path, content)
    names = feature_names(path, list(table.columns), config)
    table, rows = without_gaps(path, table, names, config)
    columns = {name: categories_of(path, table[name], name, config) for name in names}
    inputs = encode(str(path), table, columns)
    check_finite(str(path), [inputs], input_names(columns), missing=True)
    labels = table[config.label]
    parts = {
        name: Part(inputs[mine], labels[mine], rows[mine])
        for name, mine in parts_of(path, table, config).items()
    }
    if "train" not in parts:
        raise ValueError(f"{path}: no row of column {config.split} says train; some have to")
    return make_arrays(
        str(path),
        parts,
        {"sha256": hashlib.sha256(content).hexdigest()},
        columns,
        missing=config.missing is Missing.mean,
        task=config.learned,
        target=config.label,
    )


def feature_names(path: Path, names: Sequence[str], config: TableConfig) -> list[str]:
    """Return which columns are features, in their order.

    Raises ValueError where an option names a column that is not there, or that is another's.
    """
    taken = {"label": [config.label], "drop": config.drop}
    taken["split"] = [] if config.split is None else [config.split]
    wanted = {"features": config.features or [], "categorical": config.categorical}
    for option, given in (taken | wanted).items():
        for name in given:
            if name not in names:
                raise ValueError(
                    f"dataset.{option}={name}: {path} has no such column; {nearest(name, names)}"
                )
    features = config.features
    if features is None:
        others = {name for given in taken.values() for name in given}
        features = [name for name in names if name not in others]
    if other := [name for name in config.categorical if name not in features]:
        raise ValueError(f"dataset.categorical={other[0]} is no feature; leave it out")
    for option, given in taken.items():
        if twice := [name for name in given if name in features]:
            raise ValueError(
                f"dataset.features and dataset.{option} both name {twice[0]}; remove it from one"
            )
    if not features:
        raise ValueError(f"{path} has no column left as a feature; it has {', '.join(names)}")
    return list(dict.fromkeys(features))


def without_gaps(
    path: Path, table: pd.DataFrame, features: Sequence[str], config: TableConfig
) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """Return the rows that count, and their places in the file.

    Raises ValueError that counts missing values by column, where they may not be.
    """
    used = [config.label, *features]
    gaps = table[used].isna()
    counts = gaps.sum().to_numpy()
    if config.missing is Missing.drop and counts.any():
        kept = ~gaps.any(axis=1).to_numpy()
        log.info(f"{path}: left out {(~kept).sum():,} of {len(table):,} rows with missing values")
        return table[kept], np.flatnonzero(kept)
    refused = counts.copy()
    if config.missing is Missing.mean:
        refused[1:] = 0
    empty = counts == len(table)
    if refused.any() or empty.any():
        some = refused if refused.any() else counts * empty
        raise ValueError(
            f"{path} has missing values: {named_counts(some, used)}, of {len(table):,} rows; "
            f"{remedies(some, empty)}"
        )
    return table, np.arange(len(table))


def remedies(missing: NDArray[np.int64], empty: NDArray[np.bool_]) -> str:
    """Say what helps where values are missing. missing: how many by column, the label first.
    empty: which columns have none."""
    if empty[0]:
        return "there is nothing to learn; choose another dataset.label"
    columns = "dataset.drop=[…] leaves out such columns"
    if empty.any():
        return columns
    rows = "dataset.missing=drop leaves such rows out"
    if missing[0]:
        return f"{rows}, for without its label a row teaches nothing"
    return f"dataset.missing=mean takes the mean of the training rows instead, {rows}, {columns}"


def parts_of(path: Path, table: pd.DataFrame, config: TableConfig) -> dict[str, NDArray[np.bool_]]:
    """Return which rows are of each part that the table names, all of train where it names none."""
    if config.split is None:
        return {"train": np.ones(len(table), np.bool_)}
    said = table[config.split].astype(str).str.strip().str.lower().replace(SYNONYMS)
    if not (known := said.isin(PARTS)).all():
        counts = table[config.split][~known].value_counts(dropna=False)
        shown = ", ".join(f"{as_label(str(k))} ({n:,} rows)" for k, n in counts.head(5).items())
        raise ValueError(
            f"{path}: column {config.split} says {shown}; it has to say one of {', '.join(PARTS)}"
        )
    masks = {name: (said == name).to_numpy() for name in PARTS}
    return {name: mask for name, mask in masks.items() if mask.any()}


# The columns


def categories_of(
    path: Path, column: pd.Series[Any], name: str, config: TableConfig
) -> list[str] | None:
    """Return the categories of a column, by their names, None where it is one of numbers.

    Raises ValueError where it is neither, or is one of texts that are no categories.
    """
    from pandas.api import types

    number = types.is_numeric_dtype(column) and not types.is_bool_dtype(column)
    if number and name not in config.categorical:
        return None
    where = f"{path}: column {as_label(name)}"
    leave = f"leave it out with dataset.drop=[{as_label(name)}]"
    if types.is_datetime64_any_dtype(column) or types.is_timedelta64_dtype(column):
        raise ValueError(f"{where} holds dates or times, not numbers or texts; {leave}")
    codes, names = categories(column, where)
    if name not in config.categorical:
        check_texts(where, list(names), codes, leave)
    if len(names) > MOST_CATEGORIES:
        raise ValueError(
            f"{where} has {len(names):,} categories, more than {MOST_CATEGORIES:,}; {leave}"
        )
    return list(names)


def check_texts(where: str, names: list[str], codes: NDArray[np.int64], leave: str) -> None:
    """Raise ValueError where texts look like numbers that were not read, or like identifiers."""
    import pandas as pd

    numbers = pd.to_numeric(pd.Series(names), errors="coerce").notna()
    if numbers.any() and numbers.mean() >= 0.5:
        others = [name for name, fine in zip(names, numbers) if not fine]
        what = "numbers as texts"
        if others:
            row = int(np.flatnonzero(codes == names.index(others[0]))[0])
            what = f"numbers, but {as_label(others[0])!r} in row {row} (counted from 0)"
        raise ValueError(
            f"{where} holds {what}; correct that (an empty cell is a missing value), {leave}, or "
            f"take all as categories with dataset.categorical"
        )
    if len(names) > 2 and len(names) == (codes >= 0).sum():
        raise ValueError(f"{where} has another text in every row, as a name has; {leave}")


def input_names(columns: Mapping[str, list[str] | None]) -> list[str]:
    """Name the inputs that columns make.

    >>> input_names({"age": None, "sex": ["female", "male"]})
    ['age', 'sex=female', 'sex=male']
    """
    return [
        each
        for name, known in columns.items()
        for each in ([name] if known is None else [f"{name}={value}" for value in known])
    ]


def inputs_of(columns: Mapping[str, Sequence[str] | None]) -> list[slice]:
    """Return which inputs each column makes: one of numbers one, of categories one for each.

    >>> inputs_of({"age": None, "sex": ["female", "male"], "fare": None})
    [slice(0, 1, None), slice(1, 3, None), slice(3, 4, None)]
    """
    ends = np.cumsum([1 if known is None else len(known) for known in columns.values()]).tolist()
    return [slice(start, end) for start, end in zip([0, *ends], ends)]


def encode(
    where: str, table: pd.DataFrame, columns: Mapping[str, list[str] | None]
) -> NDArray[np.float32]:
    """Return the inputs that rows make, [N, I] float32: numbers, and 1 in the place of a category.

    A missing value is NaN in all inputs of its column.
    Raises ValueError where a column is not there or holds what it may not.
    """
    width = len(input_names(columns))
    memory.check(
        4 * len(table) * width,
        f"{len(table):,} rows of {width:,} inputs",
        "leave columns out with dataset.drop",
    )
    inputs = np.zeros((len(table), width), np.float32)
    for (name, known), part in zip(columns.items(), inputs_of(columns)):
        if name not in table:
            raise ValueError(f"{where} has no column {name}; {nearest(name, list(table.columns))}")
        column, said = table[name], f"{where}: column {as_label(name)}"
        if known is None:
            inputs[:, part.start] = numbers_of(said, column)
        else:
            mark(said, column, known, inputs[:, part])
    return inputs


def numbers_of(where: str, column: pd.Series[Any]) -> NDArray[np.float32]:
    from pandas.api import types

    if not types.is_numeric_dtype(column):
        example = as_label(str(column.iloc[0]))
        raise ValueError(f"{where} has to hold numbers, but holds texts, say {example!r}")
    with np.errstate(over="ignore"):  # to infinity, which is refused
        return column.to_numpy(np.float64, na_value=np.nan).astype(np.float32)


def mark(
    where: str, column: pd.Series[Any], known: Sequence[str], inputs: NDArray[np.float32]
) -> None:
    """Write 1 where a row has a category, each in its column of inputs, NaN where it has none."""
    codes, names = categories(column, where)
    if new := [each for each in names if each not in known]:
        raise ValueError(
            f"{where} holds {as_label(new[0])!r}, which no training data had; "
            f"{nearest(new[0], known)}"
        )
    places = np.array([known.index(each) for each in names], np.int64)
    given = np.flatnonzero(codes >= 0)
    inputs[given, places[codes[given]]] = 1
    inputs[codes < 0] = np.nan


def decode(
    inputs: NDArray[np.float32], columns: Mapping[str, list[str] | None]
) -> Iterator[list[str]]:
    """Yield the cells of rows that ``encode`` made inputs [N, I] of, as text.

    Where the mean stands for a missing value, a number is that mean, and a category is empty.

    >>> list(decode(np.float32([[30, 0, 1]]), {"age": None, "sex": ["female", "male"]}))
    [['30', 'male']]
    """
    parts = inputs_of(columns)
    for row in inputs:
        yield [cell(known, row[part]) for known, part in zip(columns.values(), parts)]


def cell(known: list[str] | None, part: NDArray[np.float32]) -> str:
    if known is None:
        return f"{part[0]:.6g}"
    return for_csv(known[part.argmax()]) if part.max() > 0.999 else ""


# The file


def read_table(path: Path, content: bytes) -> pd.DataFrame:
    """Read a table by the suffix of its file. Its columns' names are texts, all different.

    A first column without a name, as pandas and R write it, is the number of the row, and left
    out. Nothing is unpickled.
    Raises ValueError naming the file where it cannot be read, or is empty.
    """
    import pandas as pd

    kind, unpack = path.suffix.lower(), UNPACK.get(path.suffix.lower())
    if unpack is not None:
        kind = Path(path.stem).suffix.lower()
    readers = table_readers()
    if kind not in readers or (unpack is not None and kind not in TEXT):
        raise ValueError(
            f"{path} is no table that can be read by its suffix; give one of {', '.join(readers)} "
            f"(text also as .gz, .bz2 or .xz)"
        )
    table: pd.DataFrame
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            whole = unpacked(path, unpack, content)
            if kind in ARROW:
                memory.check_room("PyArrow's reader")
            with memory.bounded(f"reading {path}", "give fewer examples", most_for(kind, whole)):
                table = readers[kind](io.BytesIO(whole))
    except memory.NoRoomError:
        raise
    except ImportError:
        raise ValueError(
            f"{path}: pandas needs another package for {kind}: pip install {INSTALL.get(kind)}"
        ) from None
    except Exception as error:  # readers raise anything for damaged files
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error
        raise ValueError(f"{path} cannot be read as a table: {reason}") from None
    names = [str(name).strip() for name in table.columns]
    name, count = Counter(names).most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise ValueError(f"{path} has more than one column {name}; rename one")
    if len(table) == 0 or not names:
        raise ValueError(f"{path} has no rows below its header")
    table = table.set_axis(names, axis="columns").reset_index(drop=True)
    if names[0] in ("", "Unnamed: 0"):
        table = table.drop(columns=names[0])
    return table


def unpacked(path: Path, unpack: Any, content: bytes) -> bytes:
    """Return the content of a compressed file, by what opens its kind; None: it is none.

    Raises NoRoomError where it does not fit into memory with its examples.
    """
    if unpack is None:
        return content
    pieces: list[bytes] = []
    whole = 0
    with unpack(io.BytesIO(content)) as stream:
        while piece := stream.read(PIECE):
            pieces.append(piece)
            whole += len(piece)
            memory.check(3 * whole, f"unpacking {path}", "give fewer examples")
    return b"".join(pieces)


def most_for(kind: str, content: bytes) -> int | None:
    """Return how many bytes reading a table may take; None: all that are free.

    A spreadsheet with a cell in its last row and column has all of the cells before, 17 billion.
    """
    if kind not in (".xlsx", ".ods") or not zipfile.is_zipfile(io.BytesIO(content)):
        return None
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        return 2**28 + 100 * sum(each.file_size for each in packed.infolist())


def table_readers() -> dict[str, Callable[[io.BytesIO], Any]]:
    """Return what reads each kind of table. Those that unpickle, as of .pkl and .h5, are none."""
    import pandas as pd

    return {
        ".csv": read_text,
        ".tsv": functools.partial(read_text, separator="\t"),
        ".txt": read_text,
        **{kind: functools.partial(read_arrow, kind[1:]) for kind in ARROW},
        ".xlsx": functools.partial(with_header, pd.read_excel),
        ".xls": functools.partial(with_header, pd.read_excel),
        ".ods": functools.partial(with_header, pd.read_excel),
        ".json": pd.read_json,
        ".jsonl": functools.partial(pd.read_json, lines=True),
        ".dta": pd.read_stata,
    }


def read_arrow(kind: str, file: io.BytesIO) -> pd.DataFrame:
    """Read a table by Arrow, as pandas does, but that it is checked: pandas believes the places of
    texts that a damaged file has, and the process would end without a word."""
    pyarrow: Any = importlib.import_module("pyarrow")
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())  # others take a gigabyte of addresses
    module = importlib.import_module(f"pyarrow.{kind}")
    if kind == "parquet":
        table = module.ParquetFile(file, pre_buffer=False).read(use_threads=False)
    elif kind == "feather":
        table = module.read_table(file, use_threads=False)
    else:
        table = module.ORCFile(file).read()
    table.validate(full=True)
    read: pd.DataFrame = table.to_pandas(use_threads=False)
    return read


def read_text(file: io.BytesIO, separator: str | None = None) -> pd.DataFrame:
    """Read a CSV file: separated by comma, semicolon or tab, as its header has most of them."""
    import pandas as pd

    start = file.getvalue()[: 2**16]
    encoding = "utf-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    text = start.decode(encoding, errors="replace")
    header, _, rest = text.lstrip("\r\n").partition("\n")
    separator = separator or max(",;\t", key=header.count)
    # Where a comma does not separate columns, it may be in numbers.
    comma = separator != "," and re.search(r"\d,\d", rest) and not re.search(r"\d\.\d", rest)
    return with_header(
        pd.read_csv,
        file,
        sep=separator,
        decimal="," if comma else ".",
        encoding=encoding,
        index_col=False,
        low_memory=False,
        skipinitialspace=True,
    )


def with_header(
    reader: Callable[..., pd.DataFrame], file: io.BytesIO, **options: Any
) -> pd.DataFrame:
    """Read a table whose columns are named by its first row.

    Raises ValueError where two have one name: pandas would rename the second.
    """
    names = reader(file, header=None, nrows=1, dtype=str, **options).iloc[0].dropna()
    if (double := names[names.str.strip().duplicated()]).any():
        raise ValueError(f"it has more than one column {double.iloc[0].strip()}; rename one")
    file.seek(0)
    return reader(file, **options)
