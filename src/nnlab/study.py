"""The runs of a study, found by what they compute, whatever their folders are called.

A run's ``result.json`` is the truth. What was read of it stands in the study's index too, which
is believed only where that file is as it was then, and is made anew otherwise.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import io
import itertools
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from nnlab import records, storage
from nnlab.compact import Compact, Row, Table, once
from nnlab.options import shared

INDEX = ".index.jsonl"
FILES = (records.RESULT, records.METRICS, records.WEIGHTS)  # of a run, that tell whether it changed
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


class Entries(MutableMapping[str, Entry]):
    """The entries of an index by their folders, some hundred bytes each.

    An entry that is set anew has another row: whoever has the old one still has what it said.
    """

    OWN = ("stamp", "written", "content", "data", "commands")  # columns, beside those of results

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.rows: dict[str, int] = {}
        self.table, self.results = Table(), Table()
        for entry in entries:
            self[entry.folder] = entry

    def __getitem__(self, folder: str) -> Entry:
        row = self.rows[folder]
        own = dict(Row(self.table, row).items())
        own["commands"] = tuple(own["commands"].split())
        return Entry(folder, result=Row(self.results, row), **own)

    def __setitem__(self, folder: str, entry: Entry) -> None:
        self.rows[folder] = self.table.rows
        own = {name: getattr(entry, name) for name in self.OWN}
        self.table.append(own | {"commands": " ".join(entry.commands)})
        self.results.append(entry.result)
        if self.table.rows > 2 * len(self.rows) + 100:  # most are of entries that are gone
            anew = Entries(self.values())
            self.rows, self.table, self.results = anew.rows, anew.table, anew.results

    def fingerprint(self, folder: str) -> str:
        return str(Row(self.results, self.rows[folder])["fingerprint"])

    def __delitem__(self, folder: str) -> None:
        del self.rows[folder]

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


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
        try:
            with os.scandir(self.folder) as found:
                names = sorted(each.name for each in found if is_folder(each))
        except FileNotFoundError:
            names = []
        for name in self.entries.keys() - set(names):
            del self.entries[name]
            self.changed = True
        for name in names:
            if (
                fingerprints is None
                or name not in self.entries
                or self.entries.fingerprint(name) in fingerprints
            ):
                self.update(name)

    def update(self, name: str) -> None:
        """Bring the entry of a folder up to date."""
        before = self.entries.get(name)
        self.put(name, before, self.read(name, before))

    def read(self, name: str, before: Entry | None, trusted: bool = False) -> Entry | None:
        """Return the entry of a folder as it is now; None where it holds no run, or a damaged one.

        trusted: its files are as they were written.
        """
        path = self.folder / name
        try:
            written, *others = (stamp_of(path / file) for file in FILES)
            stamp = records.checksum([written, *others])
            if before is not None and before.stamp == stamp:
                return before
            result = records.read_result(path)
            if result is None:
                return None
            if result["status"] in records.DONE and not trusted:
                records.check_files(path, result)
        except (OSError, ValueError):
            return None
        return entry_of(once(name), stamp, records.checksum(written), result)

    def put(self, name: str, before: Entry | None, entry: Entry | None) -> None:
        """Put an entry in the place of the one before."""
        if entry is before:
            return
        self.changed = True
        if entry is None:
            del self.entries[name]
        else:
            self.entries[name] = entry

    def remember(self, asked: str, folder: Path, fingerprint: str) -> None:
        """Note that a command was answered by the run in a folder, unless that is another by now.

        asked: the command's digest. fingerprint: of the run that it asked for.
        """
        if folder.parent.absolute() != self.folder:
            return
        before = self.entries.get(folder.name)
        entry = self.read(folder.name, before, trusted=True)
        if entry is not None and entry.answers(fingerprint) and asked not in entry.commands:
            entry = replace(entry, commands=(*entry.commands, asked))
        self.put(folder.name, before, entry)

    def answers(self) -> dict[str, str]:
        """Return the folders of runs by the commands that they answered."""
        return {
            asked: entry.folder
            for entry in self.entries.values()
            if records.same_numbers(entry.result)
            for asked in entry.commands
        }

    def find(self, fingerprints: Collection[str]) -> dict[str, list[Entry]]:
        """Return the runs that compute these, by their folders' names."""
        found: dict[str, list[Entry]] = {fingerprint: [] for fingerprint in fingerprints}
        for folder in sorted(self.entries):
            computed = self.entries.fingerprint(folder)
            if computed in found:
                found[computed].append(self.entries[folder])
        return found

    def digest(self) -> str:
        """Return what changes when a run does, or what draws the report of them."""
        stamps = {folder: entry.stamp for folder, entry in self.entries.items()}
        return records.checksum([importlib.metadata.version("nnlab"), stamps])

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
            lines = itertools.chain([head], map(as_json, self.entries.values()))
            content = (records.sealed(line) + b"\n" for line in lines)
            with contextlib.suppress(OSError):
                storage.write_atomic(self.folder / INDEX, content, durable=False)
                self.changed = False


@functools.cache
def _known(folder: Path) -> Study:
    return Study(folder)


def known(folder: Path) -> Study:
    """Return a study as it was last looked at by this process."""
    return _known(folder.absolute())


def look(folder: Path, fingerprints: Collection[str] | None = None) -> Study:
    """Return a study as it is now; a process reads what has not changed once. fingerprints: see
    ``Study.look``."""
    study = known(folder)
    study.look(fingerprints)
    return study


def is_folder(found: os.DirEntry[str]) -> bool:
    """Return whether it is a folder, or a link to one: not one to itself."""
    linked = found.is_symlink() and Path(found.path).is_dir()
    return linked or found.is_dir(follow_symlinks=False)


def stamp_of(path: Path) -> list[int]:
    """Return what tells whether a file has changed; nothing where there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return []
    return [found.st_mtime_ns, found.st_size, found.st_ino]


def entry_of(folder: str, stamp: str, written: str, result: dict[str, Any]) -> Entry:
    content = (result.get("dataset") or {}).get("content")
    asked = data_key(result.get("config") or {})
    return Entry(folder, stamp, written, short(result), content, asked)


def as_json(entry: Entry) -> dict[str, Any]:
    """Return an entry as the index has it."""
    found = {each.name: getattr(entry, each.name) for each in fields(entry)}
    return found | {"result": dict(entry.result)}


def short(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a result without its LONG parts. Its keys, and texts that are those of others, are in
    memory once, whatever read it."""
    kept = {key: value for key, value in result.items() if key not in LONG}
    return Compact.of({once(key): once(value) for key, value in shared(kept).items()})


def data_key(config: dict[str, Any]) -> str:
    """Return what a configuration (JSON values) says of the data, as text."""
    keys = ("dataset", "train_size", "valid_size", "test_size")
    key: str = once(json.dumps([config.get(key) for key in keys], sort_keys=True))
    return key


def read_index(folder: Path) -> tuple[Entries, dict[str, Any]]:
    """Return the entries of a study's index and what it says of the report; nothing where it
    is missing, of another nnlab, or damaged."""
    try:
        lines = map(records.undamaged, io.BytesIO(storage.read(folder / INDEX)))
        head = next(lines)
        if head["nnlab"] != importlib.metadata.version("nnlab"):
            return Entries(), {}
        report = head["report"]
        entries = Entries(map(as_entry, lines))
        if not all(map(sound, entries.values())) or not all(
            isinstance(stamp, list) for stamp in report.get("files", {}).values()
        ):
            return Entries(), {}
        return entries, report
    except (OSError, ValueError, TypeError, KeyError, AttributeError, StopIteration):
        return Entries(), {}


def as_entry(found: dict[str, Any]) -> Entry:
    """Do the opposite of ``as_json``."""
    own = {"data": once(found["data"]), "commands": tuple(found["commands"])}
    return Entry(**found | own | {"result": short(found["result"])})


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
