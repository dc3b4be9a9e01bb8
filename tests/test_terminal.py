"""Standard streams as they come, and tables in narrow terminals."""

from __future__ import annotations

import io
import itertools
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

import nnlab
from nnlab import terminal

PROGRAM = """
import logging, sys
from pathlib import Path
from nnlab import terminal

@terminal.standard_streams()
def main():
    logging.basicConfig(stream=sys.stdout, level=logging.INFO)
    for number in range(2000):
        terminal.say(f"line {number} ± \\x1b")
        logging.getLogger("nnlab").info("\\x1b %s", "\\x1b")
    Path("done").write_text("all of it")
    return int(sys.argv[1])

sys.exit(main())
"""


def program(
    folder: Path, status: int, shell: str, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the program above where ``shell`` says what becomes of its output."""
    (folder / "program.py").write_text(PROGRAM, encoding="utf-8")
    command = f"{sys.executable} program.py {status} {shell}"
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("shell", "status", "expected"),
    [
        ("| head -1; exit ${PIPESTATUS[0]}", 0, 141),
        ("2>&1 | head -1; exit ${PIPESTATUS[0]}", 0, 141),
        ("| head -1; exit ${PIPESTATUS[0]}", 3, 141),
        (">&-", 0, 0),
        (">&- 2>&- <&-", 0, 0),
        (">/dev/null", 3, 3),
    ],
)
def test_a_command_ends_its_work_whoever_reads(
    shell: str, status: int, expected: int, tmp_path: Path
) -> None:
    done = program(tmp_path, status, shell)
    assert (tmp_path / "done").read_text() == "all of it"
    assert done.returncode == expected
    assert done.stderr == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full disk to write to")
def test_output_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    done = program(tmp_path, 0, ">/dev/full")
    assert (tmp_path / "done").exists()
    assert done.returncode == 1
    assert done.stderr == b"standard output cannot be written (No space left on device)\n"


@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}]
)
def test_what_an_encoding_lacks_is_replaced(environment: dict[str, str], tmp_path: Path) -> None:
    done = program(tmp_path, 0, "", **environment)
    assert done.returncode == 0
    lines = done.stdout.decode("ascii").splitlines()
    assert lines[0] == "line 0 ? \\x1b"
    assert lines[1] == "INFO:nnlab:\\x1b \\x1b"
    assert len(lines) == 4000


def test_streams_of_others_are_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with terminal.standard_streams():
        assert (sys.stdout, sys.stderr) == before
        terminal.say("a", Path("b"), "c\x1b")
        terminal.complain("d\ne")
    assert capsys.readouterr() == ("a\nb\nc\\x1b\n", "d\ne\n")


def test_an_exit_status_passes_through() -> None:
    with pytest.raises(SystemExit) as ended, terminal.standard_streams():
        sys.exit(5)
    assert ended.value.code == 5


def test_memory_that_runs_out_is_a_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as ended, terminal.standard_streams():
        bytearray(2**62)
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("there is no memory left to go on; end other")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(MemoryError), terminal.standard_streams():
        bytearray(2**62)


def test_ctrl_c_is_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, terminal.standard_streams():
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err == "stopped by SIGINT\n"


def test_ctrl_c_is_one_while_a_command_is_imported_too(tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("raise KeyboardInterrupt")
    done = subprocess.run(
        [sys.executable, "-m", "nnlab.runs"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stderr == "stopped by SIGINT\n"
    assert done.returncode in (-signal.SIGINT, 130)


@pytest.mark.skipif(os.name == "nt", reason="such a folder cannot be removed")
def test_a_working_directory_that_is_gone_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    for command in ("run", "runs", "export_model RUN --to torch"):
        done = subprocess.run(
            ["bash", "-c", f"rmdir ../gone; {sys.executable} -m nnlab.{command}; mkdir ../gone"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(nnlab.__file__).parents[1])},
            capture_output=True,
            text=True,
        )
        assert done.stderr.startswith("the working directory is gone: cd into another")
        assert len(done.stderr.splitlines()) == 1


def test_logging_is_as_it_was() -> None:
    root, own = logging.getLogger(), logging.getLogger("nnlab.test")
    handlers, levels = root.handlers[:], (root.level, own.level)
    with terminal.logging_restored():
        root.addHandler(logging.StreamHandler(io.StringIO()))
        root.setLevel(logging.DEBUG)
        own.setLevel(logging.DEBUG)
    assert root.handlers == handlers
    assert (root.level, own.level) == levels


ROWS = [
    ("train_size=1000,optimizer.lr=0.01,seed=1", "123,456", "84.7 ± 0.3 %"),
    ("b", "7", "100.0 %"),
]


def results() -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("run", overflow="fold")
    table.add_column("train_\nsize", justify="right", overflow="fold")
    table.add_column("test\naccuracy", justify="right", no_wrap=True)
    for row in ROWS:
        table.add_row(*map(Text, row))
    table.caption = Text("a caption")
    return table


@pytest.mark.parametrize("width", [30, 40, 44, 50, 60, 80, 200])
def test_no_width_breaks_a_number(width: int) -> None:
    out = io.StringIO()
    Console(file=out, width=width).print(terminal.fitted(results(), width))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    for _, *numbers in ROWS:
        for number in numbers:
            assert any(number in line for line in lines), (number, lines)
    assert "a caption" in out.getvalue()
    beside = any("123,456" in line and "84.7" in line for line in lines)
    assert beside == (width >= 44)


def test_a_table_that_fits_is_left_alone() -> None:
    table = results()
    assert terminal.fitted(table, 200) is table
    assert list(itertools.chain(*terminal.as_rows(table))) == [
        *("run", "train_size", "test accuracy"),
        *itertools.chain(*ROWS),
    ]


@pytest.mark.parametrize("width", [40, 200])
def test_a_caption_is_as_wide_as_the_terminal(width: int) -> None:
    table, out = results(), io.StringIO()
    table.caption = "a b " * 30
    Console(file=out, width=width).print(terminal.laid_out(table, width))
    lines = [line for line in out.getvalue().splitlines() if line.startswith("a b")]
    assert len(lines) == {40: 3, 200: 1}[width]
    assert " ".join(" ".join(lines).split()) == table.caption.strip()


def test_text_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show("[/b] [red]no\x1b colour[/red] :dog:")
    assert capsys.readouterr().out == "[/b] [red]no\\x1b colour[/red] :dog:\n"
