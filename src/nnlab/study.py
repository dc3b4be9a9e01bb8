"""The runs of a study, found by what they compute, whatever their folders are called.

A run's ``result.json`` is the truth. What was read of it stands in the study's index too, which
is believed only where that file is as it was then, and is made anew otherwise.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import itertools
import json
import os
import sqlite3
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from nnlab import records, storage
from nnlab.compact import Compact, once
from nnlab.options import shared

INDEX = ".index.jsonl"
FILES = (records.RESULT, records.METRICS, records.WEIGHTS)  # of a run, that tell whether it changed
RECORD = 1_000  # bytes that a run takes in a report, at most
# Parts of a result that are long, and that nothing here looks at.
LONG = ("config", "dataset", "git", "overrides", "right", "sha256", "versions")


@dataclass(frozen=True, slots=True)
class Entry:
    """What the index says of a run.

    folder: its name in the study. stamp: a digest that tells whether its FILES have changed.
    written: the same of its result alone. result: without its LONG parts. content: of the data that
    the run saw. data: what it asked for, see ``data_key``. commands: digests of those that it
    answered, see ``SweepLoader.asked``.
    """

    folder: str
    stamp: str
    written: str
    result: Mapping[str, Any]
    content: str | None
    data: str
    commands: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        return self.result["status"] in records.DONE

    def answers(self, fingerprint: str) -> bool:
        """Return whether it is a whole run of a configuration."""
        return self.done and bool(self.result["fingerprint"] == fingerprint)


@functools.cache
def _database(process: int) -> sqlite3.Connection:
    """Return a process's database of all indexes, in a temporary file that goes with it: however
    many entries there are, SQLite holds two megabytes of them in memory.

    Without a journal it is no longer whole when a write has failed, see ``Entries.execute``.
    """
    made = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    made.executescript(
        """
        PRAGMA journal_mode = OFF;
        CREATE TABLE runs (
            study INTEGER, folder BLOB, fingerprint BLOB, stamp TEXT, line BLOB,
            PRIMARY KEY (study, folder)
        );
        CREATE INDEX by_fingerprint ON runs (study, fingerprint, folder);
        CREATE TABLE commands (
            study INTEGER, asked BLOB, folder BLOB, PRIMARY KEY (study, asked)
        ) WITHOUT ROWID;
        CREATE TABLE listed (study INTEGER, folder BLOB, PRIMARY KEY (study, folder)) WITHOUT ROWID;
        """
    )
    return made


def temporary_folder() -> str:
    """Return where SQLite has its temporary files: in the first folder that can be written to
    (https://sqlite.org/tempfiles.html)."""
    given = map(os.environ.get, ("SQLITE_TMPDIR", "TMPDIR"))
    for folder in (*given, "/var/tmp", "/usr/tmp", "/tmp"):
        if folder and os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
            return folder
    return tempfile.gettempdir()


class Entries(MutableMapping[str, Entry]):
    """The entries of an index by their folders, on disk."""

    numbers = itertools.count()
    AT_A_TIME = 1000  # that are read

    def __init__(self) -> None:
        self.number = next(self.numbers)

    def execute(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a statement, in which ``:study`` is this one.

        Raises OSError where the database's file has no room.
        """
        try:
            database = _database(os.getpid())  # a fork would write into the file of its parent
            return database.execute(statement, {"study": self.number, **values}).fetchall()
        except sqlite3.Error as error:
            forget()
            variable = "SQLITE_TMPDIR" if "SQLITE_TMPDIR" in os.environ else "TMPDIR"
            raise OSError(
                f"a list of a study's runs cannot be written to {temporary_folder()} ({error}); "
                f"set {variable} to a folder that has room, and the same command goes on"
            ) from None

    def __getitem__(self, folder: str) -> Entry:
        line = self.value("line", folder)
        if line is None:
            raise KeyError(folder)
        return as_entry(json.loads(line))

    def __setitem__(self, folder: str, entry: Entry) -> None:
        self.put(entry, as_line(entry))

    def put(self, entry: Entry, line: bytes) -> None:
        """Put an entry in; line: as ``as_line`` writes it."""
        folder = as_key(entry.folder)
        self.execute(
            "REPLACE INTO runs VALUES (:study, :folder, :fingerprint, :stamp, :line)",
            folder=folder,
            fingerprint=as_key(entry.result["fingerprint"]),
            stamp=entry.stamp,
            line=line,
        )
        for asked in entry.commands:
            values = {"asked": as_key(asked), "folder": folder}
            self.execute("REPLACE INTO commands VALUES (:study, :asked, :folder)", **values)

    def __delitem__(self, folder: str) -> None:
        statement = "DELETE FROM runs WHERE study = :study AND folder = :folder"
        self.execute(statement, folder=as_key(folder))

    def keep(self, folders: Iterable[str]) -> bool:
        """Drop the entries of all other folders; return whether there were any."""
        before = len(self)
        self.execute("DELETE FROM listed WHERE study = :study")
        for folder in folders:
            self.execute("REPLACE INTO listed VALUES (:study, :folder)", folder=as_key(folder))
        there = "SELECT folder FROM listed WHERE study = :study"
        self.execute(f"DELETE FROM runs WHERE study = :study AND folder NOT IN ({there})")
        return len(self) < before

    def value(self, column: str, folder: str) -> Any:
        """Return a column of a row of runs; None where there is none."""
        statement = f"SELECT {column} FROM runs WHERE study = :study AND folder = :folder"
        return next((found for (found,) in self.execute(statement, folder=as_key(folder))), None)

    def fingerprint(self, folder: str) -> str | None:
        found = self.value("fingerprint", folder)
        return None if found is None else as_text(found)

    def of(self, fingerprint: str) -> list[Entry]:
        """Return the runs that compute this, by their folders' names."""
        where = "WHERE study = :study AND fingerprint = :of ORDER BY folder"
        found = self.execute(f"SELECT line FROM runs {where}", of=as_key(fingerprint))
        return [as_entry(json.loads(line)) for (line,) in found]

    def answer(self, asked: str) -> Entry | None:
        """Return the run that answered a command, by the command's digest."""
        statement = "SELECT folder FROM commands WHERE study = :study AND asked = :asked"
        rows = self.execute(statement, asked=as_key(asked))
        found = [self.get(as_text(folder)) for (folder,) in rows]
        return next((entry for entry in found if entry and asked in entry.commands), None)

    def in_order(self, column: str) -> Iterator[tuple[bytes, Any]]:
        """Yield folders and a column of all rows of runs, by the folders' names."""
        statement = (
            f"SELECT folder, {column} FROM runs WHERE study = :study AND folder > :last "
            f"ORDER BY folder LIMIT {self.AT_A_TIME}"
        )
        last = b""
        while rows := self.execute(statement, last=last):
            yield from rows
            last, _ = rows[-1]

    def __iter__(self) -> Iterator[str]:
        return (as_text(folder) for folder, _ in self.in_order("stamp"))

    def __len__(self) -> int:
        return int(self.execute("SELECT COUNT(*) FROM runs WHERE study = :study")[0][0])


def as_key(text: str) -> bytes:
    """Return a text as the database has it: a folder's name may have letters that are none."""
    return text.encode(errors="surrogatepass")


def as_text(key: bytes) -> str:
    return key.decode(errors="surrogatepass")


class Study:
    """The runs in a study's folder; there may be none.

    A run whose result.json is damaged is left out here: whoever asks for its folder is told by
    ``records.read_result``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries, self.report = read_index(folder)
        self.changed = False

    def look(self, fingerprints: Collection[str] | None = None) -> None:
        """Bring the entries up to date; fingerprints: of new runs, and of known ones that compute
        these, only. Raises OSError where the folder cannot be read."""
        self.changed |= self.entries.keep(self.folders())
        for name in self.folders():
            known = self.entries.fingerprint(name)
            if fingerprints is None or known is None or known in fingerprints:
                self.update(name)

    def folders(self) -> Iterator[str]:
        """Yield the names of the folders that are there now; a link to one is none."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as found:
            yield from (each.name for each in found if each.is_dir(follow_symlinks=False))

    def update(self, name: str) -> None:
        """Bring the entry of a folder up to date."""
        before = self.entries.get(name)
        self.put(name, before, self.read(name, before))

    def read(self, name: str, before: Entry | None, whole: str = "") -> Entry | None:
        """Return the entry of a folder as it is now; None where it holds no run, a damaged one, or
        one in whose place another is to be put.

        whole: the stamp of a run whose files are known to be undamaged.
        """
        path = self.folder / name
        with contextlib.suppress(OSError, ValueError):  # damaged: that is told to who replaces it
            if records.is_replaced(path):
                return None
        try:
            stamps = stamps_of(path)
            stamp = records.checksum(stamps)
            if before is not None and before.stamp == stamp:
                return before
            result = records.read_result(path)
            if result is None:
                return None
            if result["status"] in records.DONE and stamp != whole:
                records.check_files(path, result)
        except (OSError, ValueError):
            return None
        return entry_of(name, stamp, records.checksum(stamps[0]), result)

    def put(self, name: str, before: Entry | None, entry: Entry | None) -> None:
        """Put an entry in the place of the one before."""
        if entry is before:
            return
        self.changed = True
        if entry is None:
            del self.entries[name]
        else:
            self.entries[name] = entry

    def remember(self, asked: str, folder: Path, fingerprint: str, whole: str = "") -> None:
        """Note that a command was answered by the run in a folder, unless that is another by now.

        asked: the command's digest. fingerprint: of the run that it asked for. whole: see ``read``.
        """
        if folder.parent.absolute() != self.folder:
            return
        before = self.entries.get(folder.name)
        entry = self.read(folder.name, before, whole)
        if entry is not None and entry.answers(fingerprint) and asked not in entry.commands:
            entry = replace(entry, commands=(*entry.commands, asked))
        self.put(folder.name, before, entry)

    def answer(self, asked: str) -> Entry | None:
        """Return the run that answered a command, by the command's digest."""
        found = self.entries.answer(asked)
        return found if found is not None and records.same_numbers(found.result) else None

    def ended(self, name: str) -> bool:
        """Return whether a folder's run has come to its end."""
        found = self.entries.get(name)
        return found is not None and found.done

    def find(self, fingerprints: Collection[str]) -> dict[str, list[Entry]]:
        """Return the runs that compute these, by their folders' names."""
        return {fingerprint: self.entries.of(fingerprint) for fingerprint in fingerprints}

    def digest(self) -> str:
        """Return what changes when a run does, or what draws the report of them."""
        found = hashlib.sha256(importlib.metadata.version("nnlab").encode())
        for folder, stamp in self.entries.in_order("stamp"):
            found.update(b"%b\0%b\0" % (folder, stamp.encode()))
        return found.hexdigest()[:16]

    def reported(self) -> bool:
        """Return whether the report is of these runs, and whole."""
        files = self.report.get("files", {})
        drawn = self.report.get("of") == self.digest() and bool(files)
        return drawn and all(stamp_of(self.folder / file) == stamp for file, stamp in files.items())

    def save(self, report: Sequence[Path] | None = None) -> None:
        """Write the index, if there is news. report: the files of one that was just made.

        It is only a help: where it cannot be written, the next command reads every result again.
        """
        if report is not None:
            files = [file.absolute() for file in report]
            stamps = {file.relative_to(self.folder).as_posix(): stamp_of(file) for file in files}
            self.report = {"of": self.digest(), "files": stamps}
            self.changed = True
        if self.changed and self.entries:
            head = {"nnlab": importlib.metadata.version("nnlab"), "report": self.report}
            entries = (line for _, line in self.entries.in_order("line"))
            content = (line + b"\n" for line in itertools.chain([records.sealed(head)], entries))
            with contextlib.suppress(OSError):
                storage.write_atomic(self.folder / INDEX, content, durable=False)
                self.changed = False


@functools.cache
def _known(folder: Path) -> Study:
    return Study(folder)


def known(folder: Path) -> Study:
    """Return a study as it was last looked at by this process."""
    return _known(folder.absolute())


def forget() -> None:
    """Forget what this process knows of studies."""
    _known.cache_clear()
    _database.cache_clear()


def look(folder: Path, fingerprints: Collection[str] | None = None) -> Study:
    """Return a study as it is now; a process reads what has not changed once. fingerprints: see
    ``Study.look``."""
    study = known(folder)
    study.look(fingerprints)
    return study


def stamp_of(path: Path) -> list[int]:
    """Return what tells whether a file has changed; nothing where there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return []
    return [found.st_mtime_ns, found.st_size, found.st_ino]


def stamps_of(folder: Path) -> list[list[int]]:
    """Return what tells whether a run's FILES have changed."""
    return [stamp_of(folder / file) for file in FILES]


def entry_of(folder: str, stamp: str, written: str, result: dict[str, Any]) -> Entry:
    content = (result.get("dataset") or {}).get("content")
    asked = data_key(result.get("config") or {})
    return Entry(folder, stamp, written, short(result), content, asked)


def as_line(entry: Entry) -> bytes:
    """Return an entry as the index has it."""
    found = {each.name: getattr(entry, each.name) for each in fields(entry)}
    return records.sealed(found | {"result": dict(entry.result)})


def short(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a result without its LONG parts. Its keys, and texts that are those of others, are in
    memory once, whatever read it."""
    kept = {key: value for key, value in result.items() if key not in LONG}
    return Compact.of({once(key): once(value) for key, value in shared(kept).items()})


def data_key(config: dict[str, Any]) -> str:
    """Return what a configuration (JSON values) says of the data, as text."""
    keys = ("dataset", "train_size", "valid_size", "test_size")
    return json.dumps([config.get(key) for key in keys], sort_keys=True)


def read_index(folder: Path) -> tuple[Entries, dict[str, Any]]:
    """Return the entries of a study's index and what it says of the report; nothing where it
    is missing, of another nnlab, or damaged."""
    try:
        with storage.opened(folder / INDEX) as index:
            lines = iter(functools.partial(index.readline, storage.LARGEST), b"")
            head = records.undamaged(next(lines))
            if head["nnlab"] != importlib.metadata.version("nnlab"):
                return Entries(), {}
            report = head["report"]
            if not all(isinstance(stamp, list) for stamp in report.get("files", {}).values()):
                return Entries(), {}
            entries = Entries()
            for line in lines:
                entry = as_entry(records.undamaged(line))
                if not sound(entry):
                    return Entries(), {}
                entries.put(entry, line.strip())
            return entries, report
    except (OSError, ValueError, TypeError, KeyError, AttributeError, StopIteration):
        return Entries(), {}


def as_entry(found: dict[str, Any]) -> Entry:
    """Return the entry that a line of the index is, in JSON. Raises TypeError, KeyError or
    AttributeError where it is something else."""
    found.pop("checksum", None)
    own = {"result": Compact.of(found["result"]), "commands": tuple(found["commands"])}
    return Entry(**found | own)


def sound(entry: Entry) -> bool:
    """Return whether an entry that was read is as ``save`` writes it."""
    names = [
        entry.folder,
        entry.stamp,
        entry.written,
        entry.data,
        *entry.commands,
        *map(entry.result.get, ("fingerprint", "status")),
    ]
    content = entry.content is None or isinstance(entry.content, str)
    return content and all(isinstance(n, str) for n in names)
