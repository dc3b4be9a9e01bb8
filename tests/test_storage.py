from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import pytest

from nnlab import storage


def test_a_file_is_synced_before_it_takes_its_place_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(number: int) -> None:
        done.append("fsync of " + Path(os.readlink(f"/proc/self/fd/{number}")).name)
        fsync(number)

    def replaced(source: Path, target: Path) -> None:
        done.append("rename to " + target.name)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    (tmp_path / "folder").mkdir()
    storage.write_atomic(tmp_path / "folder" / "file", b"content")
    assert done[0].startswith("fsync of .file.")
    assert done[1:] == ["rename to file", "fsync of folder"]


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    """Many at a time, in threads, which share a process id as containers may."""
    file, contents = tmp_path / "file", [bytes([n]) * 100_000 for n in range(8)]
    storage.write_atomic(file, contents[0])
    errors: list[BaseException] = []

    def write(content: bytes) -> None:
        try:
            for _ in range(20):
                storage.write_atomic(file, content, durable=False)
                assert storage.read(file) in contents
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("place", ["folder", "fifo", "dangling", "nothing"])
def test_what_is_no_file_is_an_error_and_no_wait(tmp_path: Path, place: str) -> None:
    path = tmp_path / "file"
    if place == "folder":
        path.mkdir()
    elif place == "fifo":
        os.mkfifo(path)
    elif place == "dangling":
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match=re.escape(str(path))):
        storage.read(path)
    if place != "nothing":
        with pytest.raises(OSError, match=re.escape(str(path))):
            storage.append(path, b"row\n")
    assert not (tmp_path / "nowhere").exists()


def test_links_are_replaced_and_not_followed(tmp_path: Path) -> None:
    theirs, link = tmp_path / "theirs", tmp_path / "link"
    theirs.write_text("theirs")
    link.symlink_to(theirs)
    with pytest.raises(OSError, match="link"):
        storage.append(link, b"ours")
    storage.write_atomic(link, b"ours")
    assert not link.is_symlink()
    assert (theirs.read_text(), link.read_text()) == ("theirs", "ours")


def test_left_overs_of_killed_processes_are_cleared(tmp_path: Path) -> None:
    (tmp_path / ".metrics.csv.0123456789abcdef.tmp").write_text("half a fi")
    (tmp_path / "notes.tmp").write_text("somebody's own")
    storage.clear_left_overs(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.tmp"]


def test_an_error_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left.*'.*/file'") as caught:
        storage.write_atomic(tmp_path / "file", b"content")
    assert caught.value.errno == 28


def test_what_a_living_process_writes_is_not_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clear_first(number: int) -> None:
        storage.clear_left_overs(tmp_path)

    monkeypatch.setattr(os, "fsync", clear_first)
    storage.write_atomic(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"
    assert os.listdir(tmp_path) == ["file"]


def test_an_error_names_the_file_and_not_the_one_that_was_to_become_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as raised:
        storage.put(tmp_path / "file" / "below", b"content")
    assert raised.value.filename == str(tmp_path / "file" / "below")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as other:
        storage.put(tmp_path / "folder", b"content")
    assert other.value.filename2 == str(tmp_path / "folder")  # what it was to be
