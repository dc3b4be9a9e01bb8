"""Damaged files are named, never used; downloads survive dead and lying mirrors."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import socket
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pooch  # type: ignore[import-untyped]
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nnlab import messages
from nnlab.datasets import files, mnist
from nnlab.datasets.files import File, content_sha256, fetch, find, read_idx, read_input

DEAD = "http://127.0.0.1:1/"
ONE_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=3)


def idx(array: NDArray[np.uint8]) -> bytes:
    """Write the format independently of the reader."""
    header = struct.pack(">HBB", 0, 8, array.ndim)
    return header + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def image(shape: list[int]) -> NDArray[np.uint8]:
    return np.arange(1, np.prod(shape) + 1).astype(np.uint8).reshape(shape)


def write(folder: Path, content: bytes) -> Path:
    path = folder / "images-idx3-ubyte"
    path.write_bytes(content)
    return path


@ONE_FOLDER
@given(SHAPES, st.booleans())
def test_an_intact_file_is_read_exactly(tmp_path: Path, shape: list[int], packed: bool) -> None:
    content = idx(image(shape))
    path = write(tmp_path, gzip.compress(content) if packed else content)
    read = read_idx(path, hashlib.sha256(content).hexdigest())
    np.testing.assert_array_equal(read, image(shape), strict=True)


@ONE_FOLDER
@given(SHAPES, st.booleans(), st.data())
def test_a_truncated_file_is_named(
    tmp_path: Path, shape: list[int], packed: bool, data: st.DataObject
) -> None:
    content = idx(image(shape))
    content = gzip.compress(content) if packed else content
    path = write(tmp_path, content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(ValueError, match="images-idx3-ubyte is damaged"):
        read_idx(path)


@ONE_FOLDER
@given(SHAPES, st.binary(min_size=1, max_size=9), st.booleans())
def test_trailing_bytes_are_named(
    tmp_path: Path, shape: list[int], more: bytes, packed: bool
) -> None:
    content = idx(image(shape)) + more
    path = write(tmp_path, gzip.compress(content) if packed else content)
    with pytest.raises(ValueError, match=r"images-idx3-ubyte is damaged.* more than"):
        read_idx(path)


@ONE_FOLDER
@given(SHAPES, st.data(), st.integers(1, 255))
def test_a_changed_header_never_passes(
    tmp_path: Path, shape: list[int], data: st.DataObject, change: int
) -> None:
    content = bytearray(idx(image(shape)))
    content[data.draw(st.integers(0, 3 + 4 * len(shape)))] ^= change
    with pytest.raises(ValueError, match="images-idx3-ubyte is damaged"):
        read_idx(write(tmp_path, bytes(content)))


@ONE_FOLDER
@given(SHAPES, st.data(), st.integers(1, 255))
def test_a_changed_byte_of_a_gz_file_is_named_or_harmless(
    tmp_path: Path, shape: list[int], data: st.DataObject, change: int
) -> None:
    content = bytearray(gzip.compress(idx(image(shape))))
    content[data.draw(st.integers(0, len(content) - 1))] ^= change
    path = write(tmp_path, bytes(content))
    try:
        read = read_idx(path)  # gzip's own header holds a time and a system: harmless
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017 - either outcome is right
    else:
        np.testing.assert_array_equal(read, image(shape), strict=True)


@ONE_FOLDER
@given(st.binary(max_size=40))
def test_any_bytes_are_an_array_or_a_named_error(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path, content)
    try:
        read = read_idx(path)
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert idx(read) == content


@ONE_FOLDER
@given(SHAPES, st.data(), st.integers(1, 255))
def test_changed_pixels_do_not_match_the_hash(
    tmp_path: Path, shape: list[int], data: st.DataObject, change: int
) -> None:
    content = bytearray(idx(image(shape)))
    known = hashlib.sha256(content).hexdigest()
    content[data.draw(st.integers(4 + 4 * len(shape), len(content) - 1))] ^= change
    with pytest.raises(ValueError, match=f"its SHA-256 is .*{known[:16]}") as caught:
        read_idx(write(tmp_path, bytes(content)), known)
    assert "nnlab.fit" in str(caught.value)
    assert "delete" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("00000800", "magic number 00000800"),
        ("00000805" + 5 * "00000001", "magic number 00000805"),
        ("00000d01" + "00000001", "magic number 00000d01"),
        ("01000801" + "00000001", "magic number 01000801"),
        ("00000802" + "00000000" + "00000007", r"dimensions \[0, 7\]"),
        ("00000802" + "00000001" + "0000", r"dimensions \[1, 0\]"),
    ],
)
def test_a_header_that_is_not_of_images_or_labels(
    tmp_path: Path, header: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_idx(write(tmp_path, bytes.fromhex(header)))


@pytest.mark.parametrize("packed", [False, True])
def test_a_forged_header_allocates_nothing(tmp_path: Path, packed: bool) -> None:
    content = struct.pack(">HBB3I", 0, 8, 3, *[2**32 - 1] * 3) + b"few"
    path = write(tmp_path, gzip.compress(content) if packed else content)
    with pytest.raises(ValueError, match="only 3 bytes follow"):  # not MemoryError
        read_idx(path)


@pytest.mark.parametrize("read", [read_idx, lambda path: content_sha256(path, File("x", "", ""))])
def test_what_expands_without_end_is_not_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object]
) -> None:
    monkeypatch.setattr(files, "LARGEST", 2**16)
    content = idx(np.zeros((2**24,), np.uint8))
    path = write(tmp_path, gzip.compress(content))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"images-idx3-ubyte is damaged.* more than 65,536"):
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**21  # of 16 million bytes


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    read: Callable[[Path], object]
    path = write(tmp_path, b"")
    os.truncate(path, 2**40)  # it takes no room
    for read in (read_input, read_idx):
        with pytest.raises(ValueError, match="images-idx3-ubyte cannot be read: it has more than"):
            read(path)
    packed = gzip.compress(idx(image([3])))
    path.write_bytes(packed)
    os.truncate(path, 2**40)  # gzip passes over zeros, however many
    with pytest.raises(ValueError, match="images-idx3-ubyte cannot be read: it has more than"):
        read_idx(path)


def test_a_missing_file_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_idx(tmp_path / "nowhere")


def make_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (make_folder, "it is a folder"),
        (os.mkfifo, "it is a pipe"),
        (lambda path: path.symlink_to("gone"), "it is a link to gone, which does not exist"),
        (lambda path: path.symlink_to(path), "symbolic links"),
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
    ],
)
@pytest.mark.parametrize("read", [read_idx, read_input])
def test_what_is_no_file_is_named(
    tmp_path: Path, make: Callable[[Path], None], reason: str, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "images-idx3-ubyte"
    make(path)
    with pytest.raises(ValueError, match=f"images-idx3-ubyte cannot be read: .*{reason}"):
        read(path)


@pytest.mark.parametrize(
    ("name", "reason"), [("a\0b", "null byte"), ("a" * 300, "too long"), ("a/b", "Not a directory")]
)
def test_names_that_no_file_can_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a").touch()
    with pytest.raises(ValueError, match=f"cannot be read: .*{reason}") as caught:
        read_idx(Path(name))
    assert "\0" not in str(caught.value)


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "Permission denied", "x")])
def test_a_file_that_may_not_be_read_is_named_as_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def refuse(*arguments: object) -> None:
        raise error

    path = write(tmp_path, idx(image([1])))
    monkeypatch.setattr(Path, "open", refuse)  # the superuser may read everything
    with pytest.raises(ValueError, match=f"{path} cannot be read: Permission denied") as caught:
        read_idx(path)
    assert "output_dir" not in str(messages.explain(caught.value))


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), MemoryError()])
def test_an_error_while_reading_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(stream: object) -> None:
        raise error

    monkeypatch.setattr(files, "_read_idx", fail)
    with pytest.raises(ValueError, match=r"idx3-ubyte cannot be read: (Input/output|too large)"):
        read_idx(write(tmp_path, idx(image([1]))))


def published(name: str) -> tuple[File, bytes]:
    """Make up a published file: its hashes, and the .gz that mirrors serve."""
    content = idx(np.frombuffer(name.encode(), np.uint8))
    packed = gzip.compress(content)
    hashes = (hashlib.sha256(data).hexdigest() for data in (content, packed))
    return File(name, *hashes), packed


FILES, PACKED = zip(*map(published, ("a-images", "a-labels", "b-images", "b-labels")))


def test_files_are_found_with_or_without_gz(tmp_path: Path) -> None:
    assert find(tmp_path / "nowhere", FILES) == {}
    (tmp_path / "a-images").touch()
    (tmp_path / "a-images.gz").touch()
    (tmp_path / "b-labels.gz").touch()
    (tmp_path / "b-images").mkdir()
    found = {FILES[0]: tmp_path / "a-images", FILES[3]: tmp_path / "b-labels.gz"}
    assert find(tmp_path, FILES) == found


@pytest.mark.parametrize(
    "layout",
    [
        "{0}-idx3-ubyte",
        "{0}-idx3-ubyte.gz",
        "{0}.idx3-ubyte",
        "{0}.idx3-ubyte.gz",
        "{0}-idx3-ubyte/{0}-idx3-ubyte",
        "{0}.idx3-ubyte/{0}-idx3-ubyte.gz",
        "{0}-idx3-ubyte.gz/{0}.idx3-ubyte",
        "MNIST/raw/{0}-idx3-ubyte.gz",
        "MNIST/raw/{0}-idx3-ubyte/{0}.idx3-ubyte",
    ],
)
def test_layouts_of_other_tools_are_found(tmp_path: Path, layout: str) -> None:
    path = tmp_path / layout.format("a-images")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    file = File("a-images-idx3-ubyte", "", "")
    assert find(tmp_path, [file], ["raw", "MNIST/raw"]) == {file: path}


def test_another_image_set_of_torchvision_is_left_alone(tmp_path: Path) -> None:
    file = mnist.MNIST.files[0]
    for parent in ("FashionMNIST/raw", "MNIST/raw"):
        (tmp_path / parent).mkdir(parents=True)
        (tmp_path / parent / file.name).touch()
        path = tmp_path / parent / file.name
        images = mnist.MNIST if parent == "MNIST/raw" else mnist.FASHION_MNIST
        assert list(images.find(tmp_path).values()) == [path]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder; yield its address and the paths that were asked for."""
    asked: list[str] = []

    class Handler(Quiet):
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", asked
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "mirror"
    folder.mkdir()
    for file, packed in zip(FILES, PACKED):
        (folder / f"{file.name}.gz").write_bytes(packed)
    with served(folder) as server:
        yield server


def test_a_dead_mirror_is_passed_over(tmp_path: Path, mirror: tuple[str, list[str]]) -> None:
    folder = tmp_path / "data" / "set"
    fetch(folder, FILES, [DEAD, mirror[0]])
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert contents == {f"{file.name}.gz": packed for file, packed in zip(FILES, PACKED)}
    assert mirror[1] == [f"/{file.name}.gz" for file in FILES]
    for file, path in find(folder, FILES).items():
        assert read_idx(path, file.sha256).tobytes().decode() == file.name


def test_altered_content_is_not_kept(tmp_path: Path, mirror: tuple[str, list[str]]) -> None:
    liar = tmp_path / "liar"
    liar.mkdir()
    for file in FILES:
        (liar / f"{file.name}.gz").write_bytes(PACKED[1])
    with served(liar) as (address, asked):
        with pytest.raises(OSError, match=r"a-images\.gz could not .*altered content"):
            fetch(tmp_path / "data", FILES, [address, DEAD])
        assert list((tmp_path / "data").iterdir()) == []
        fetch(tmp_path / "data", FILES, [address, mirror[0]])
    assert len(asked) == 2  # once in each fetch; then the mirror that works goes first
    names = {f"{file.name}.gz": packed for file, packed in zip(FILES, PACKED)}
    assert {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()} == names


def test_two_half_mirrors_make_a_whole(tmp_path: Path, mirror: tuple[str, list[str]]) -> None:
    half = tmp_path / "half"
    half.mkdir()
    (half / "a-images.gz").write_bytes(PACKED[0])
    (tmp_path / "mirror" / "a-images.gz").unlink()
    with served(half) as (address, _):
        fetch(tmp_path / "data", FILES, [mirror[0], address])
    assert len(find(tmp_path / "data", FILES)) == 4


def test_without_a_mirror_the_error_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"ConnectionError.*ConnectionError") as caught:
        fetch(tmp_path / "data", FILES, [DEAD, "http://127.0.0.1:2/"])
    assert "\n" not in str(caught.value)
    for name in (str(tmp_path / "data"), DEAD, *(f"{file.name}.gz" for file in FILES)):
        assert name in str(caught.value)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_silent_mirror_times_out(tmp_path: Path, mirror: tuple[str, list[str]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts, and never answers
        silent = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        start = time.monotonic()
        fetch(tmp_path / "data", FILES[:1], [silent, mirror[0]], timeout=0.1)
        assert time.monotonic() - start < 9  # not the default, nor pooch's 30 s
    assert len(find(tmp_path / "data", FILES)) == 1


@contextmanager
def sending(piece: bytes, pause: float) -> Iterator[str]:
    """Serve the same bytes without end at any address; yield that of the server."""

    class Handler(Quiet):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                while True:
                    self.wfile.write(piece)
                    time.sleep(pause)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("piece", "pause", "reason"), [(bytes(2**16), 0, "more than"), (b"x", 0.01, "less than")]
)
def test_a_mirror_that_sends_without_end_is_left(
    tmp_path: Path, mirror: tuple[str, list[str]], piece: bytes, pause: float, reason: str
) -> None:
    with sending(piece, pause) as endless:
        with pytest.raises(OSError, match=f"a-images.gz could not .*: it sends {reason}"):
            fetch(tmp_path / "data", FILES[:1], [endless], timeout=0.1)
        assert list((tmp_path / "data").iterdir()) == []
        fetch(tmp_path / "data", FILES[:1], [endless, mirror[0]], timeout=0.1)
    assert len(find(tmp_path / "data", FILES)) == 1


def test_an_unusable_folder_is_the_machines_fault(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(FileExistsError, match="data"):
        fetch(tmp_path / "data", FILES, [DEAD])


def test_a_full_disk_is_not_blamed_on_the_mirrors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "data")

    monkeypatch.setattr(pooch, "retrieve", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        fetch(tmp_path / "data", FILES, [DEAD, DEAD])
    assert caught.value.errno == errno.ENOSPC
