"""The entries of a study's index, against those of a dict."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnlab import study

FOLDERS = ("seed=0", "seed=1", "é", "\udce9", "\ud800", 'a"\0b')  # two of which are no text
FINGERPRINTS = ("0" * 16, "f" * 16, "\ud800")


def entry(
    folder: str, fingerprint: str, commands: tuple[str, ...] = (), more: Any = 1
) -> study.Entry:
    result = {"fingerprint": fingerprint, "status": "finished", "more": more}
    return study.Entry(folder, "stamp", "written", study.short(result), None, "[]", commands)


def plain(found: Mapping[str, study.Entry]) -> dict[str, study.Entry]:
    return {folder: replace(each, result=dict(each.result)) for folder, each in found.items()}


def in_use() -> int:
    """Return how many bytes this process has in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


entries_to_set = st.builds(
    entry,
    st.sampled_from(FOLDERS),
    st.sampled_from(FINGERPRINTS),
    st.lists(st.sampled_from(["c" * 16, "d" * 16]), unique=True).map(tuple),
    st.sampled_from([None, 0.1, float("inf"), "\ud800", [1, 2]]),
)


@given(st.lists(entries_to_set | st.sampled_from(FOLDERS), max_size=12))
def test_entries_are_those_of_a_dict(steps: list[study.Entry | str]) -> None:
    found, expected = study.Entries(), dict[str, study.Entry]()
    for step in steps:
        if isinstance(step, study.Entry):
            found[step.folder] = expected[step.folder] = step
        else:
            assert (found.pop(step, None) is None) == (expected.pop(step, None) is None)
    assert plain(found) == plain(expected)
    assert len(found) == len(expected)
    for folder in FOLDERS:
        assert (folder in found) == (folder in expected)
        known = expected[folder].result["fingerprint"] if folder in expected else None
        assert found.fingerprint(folder) == known
    for fingerprint in FINGERPRINTS:
        of = [each for each in expected.values() if each.answers(fingerprint)]
        assert {each.folder for each in found.of(fingerprint)} == {each.folder for each in of}
    for asked in ("c" * 16, "d" * 16, "e" * 16):
        answered = found.answer(asked)
        assert answered is None or asked in expected[answered.folder].commands


def test_the_run_that_answered_a_command_last_is_found() -> None:
    entries = study.Entries()
    for folder in ("seed=0", "seed=1"):
        entries[folder] = entry(folder, "0" * 16, ("c" * 16,))
    found = entries.answer("c" * 16)
    assert found is not None
    assert found.folder == "seed=1"
    entries["seed=1"] = entry("seed=1", "f" * 16)  # which is another run now
    assert entries.answer("c" * 16) is None


def test_looking_an_entry_up_takes_no_longer_among_many() -> None:
    """Counted in steps of SQLite's machine: none may go through all entries."""
    steps = dict[tuple[int, str], int]()
    entries = study.Entries()
    counts = (100, 1000)
    for number in range(counts[-1]):
        entries[f"seed={number}"] = entry(f"seed={number}", f"{number:016x}", (f"{number:016d}",))
        if number + 1 not in counts:
            continue
        for what, look in {
            "folder": lambda: entries["seed=7"],
            "no folder": lambda: entries.get("seed=x"),
            "fingerprint": lambda: entries.of(f"{7:016x}"),
            "command": lambda: entries.answer(f"{7:016d}"),
            "put": lambda: entries.update({"seed=7": entry("seed=7", "f" * 16)}),
            "put back": lambda: entries.update({"seed=7": entry("seed=7", f"{7:016x}")}),
        }.items():
            steps[number + 1, what] = steps_of(look)
    few, many = ([n for (count, _), n in steps.items() if count == each] for each in counts)
    assert all(now < 2 * before for now, before in zip(many, few)), steps


def steps_of(look: Callable[[], object]) -> int:
    """Return how many steps of its machine SQLite takes for something."""
    taken = [0]

    def count() -> int:
        taken[0] += 1
        return 0

    database = study._database(os.getpid())
    database.set_progress_handler(count, 1)
    look()
    database.set_progress_handler(None, 0)
    return taken[0]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_entries_take_no_memory_for_a_run() -> None:
    """SQLite's, which Python does not see: 20,000 entries have 12 MB."""

    entries = study.Entries()
    taken = []
    for number in range(30_000):
        entries[f"seed={number}"] = entry(f"seed={number}", f"{number:016x}", more="x" * 400)
        if number % 10_000 == 9_999:
            taken.append(in_use())
    assert taken[-1] - taken[0] < 4e6
    assert [each.folder for each in entries.of(f"{29_999:016x}")] == ["seed=29999"]


def test_no_room_among_temporary_files_is_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is known is forgotten, as a write that fails leaves no whole database."""
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    before = study.Entries()
    before["seed=0"] = entry("seed=0", "0" * 16)
    before.execute("PRAGMA max_page_count = 20")
    many = {f"seed={number}": entry(f"seed={number}", "0" * 16) for number in range(1000)}
    with pytest.raises(OSError, match=rf"a list .* to {tmp_path} .*SQLITE_TMPDIR"):
        before.update(many)
    assert not before
    before.update(many)
    assert before.keys() == many.keys()


def test_entries_of_folders_that_are_not_there_are_dropped() -> None:
    entries, others = study.Entries(), study.Entries()
    for each in (entries, others):
        for folder in ("seed=0", "seed=1", "../seed=2", ".", "SEED=0"):
            each[folder] = entry(folder, "0" * 16)
    assert entries.keep(["seed=1", "seed=0", "new"])
    assert sorted(entries) == ["seed=0", "seed=1"]
    assert not entries.keep(["seed=0", "seed=1"])
    assert len(others) == 5


def test_a_fork_writes_into_no_database_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = study.Entries()
    entries["seed=0"] = entry("seed=0", "0" * 16)
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        entries["seed=1"] = entry("seed=1", "0" * 16)
    assert list(entries) == ["seed=0"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_many_studies_take_little_memory() -> None:
    before = in_use()
    for number in range(500):
        study.Entries()[f"seed={number}"] = entry(f"seed={number}", "0" * 16)
    assert in_use() - before < 10e6
