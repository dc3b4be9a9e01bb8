"""Drawing the figures, in a second process if one was started in time.

That one imports matplotlib, which takes half a second, while this one reads data and trains on
other cores.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ANSWER = b"nnlab has drawn:\n"  # before an answer; anything else was printed by chance
SILENT = 30.0  # seconds after which the second process is given up
_saying = threading.Lock()
_artist: subprocess.Popen[bytes] | None = None


def start() -> None:
    """Start the second process, unless there is one; it ends with this one."""
    global _artist
    if _artist is not None:
        return
    # With the path of this process: -c alone would put the working directory first.
    run = "from nnlab.report import figure_process; figure_process.serve()"
    code = f"import sys; sys.path[:] = {sys.path!r}; {run}"
    command, pipe = [sys.executable, "-c", code], subprocess.PIPE
    try:
        # In a session of its own: Ctrl-C is for the runs, and this process ends it.
        _artist = subprocess.Popen(
            command,
            stdin=pipe,
            stdout=pipe,
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # on Windows
        )
    except OSError:
        return
    atexit.register(stop)


def stop() -> None:
    """End the second process, if there is one."""
    global _artist
    if _artist is not None:
        _artist.kill()
        _artist.communicate()
        _artist = None
        atexit.unregister(stop)


def draw_all(*asked: Any) -> list[Path]:
    """Do what ``figures.draw_all`` does, in the second process or, without it, in this one."""
    if _artist is not None:
        assert _artist.stdin is not None
        assert _artist.stdout is not None
        try:
            with unless_silent(_artist) as hear:
                pickle.dump(asked, _artist.stdin)
                _artist.stdin.flush()
                while (line := _artist.stdout.readline()) != ANSWER:
                    if not line:
                        raise EOFError
                    hear()
                drawn: list[Path] | Exception = pickle.load(_artist.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):  # it was ended from outside
            stop()
        else:
            if isinstance(drawn, Exception):
                raise drawn
            return drawn
    from nnlab.report import figures

    return figures.draw_all(*asked)


@contextlib.contextmanager
def unless_silent(artist: subprocess.Popen[bytes]) -> Iterator[Callable[[], None]]:
    """Kill a process that gives no sign for SILENT seconds, as one that was stopped does not.

    Yields what is to be called at each sign of it.
    """
    heard, ended = time.monotonic(), threading.Event()

    def watch() -> None:
        while not ended.wait(1):
            if time.monotonic() - heard > SILENT:
                artist.kill()

    def hear() -> None:
        nonlocal heard
        heard = time.monotonic()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield hear
    finally:
        ended.set()


def serve() -> None:
    """Draw what is asked for on the standard input, until that ends."""
    try:
        threading.Thread(target=give_signs, daemon=True).start()
        from nnlab.report import figures, plotting

        plotting.frame("", [])[0].canvas.draw()  # the first one takes longer: it loads the fonts
        while True:
            asked = pickle.load(sys.stdin.buffer)
            answer: list[Path] | Exception
            try:
                answer = figures.draw_all(*asked)
            except Exception as error:
                answer = error
            say(b"\n" + ANSWER + pickle.dumps(answer))
    except (OSError, EOFError, pickle.UnpicklingError):
        os._exit(0)  # the command is gone, and nobody reads what Python would still print


def give_signs() -> None:
    with contextlib.suppress(OSError):
        while True:
            time.sleep(1)
            say(b"\n")


def say(content: bytes) -> None:
    with _saying:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
