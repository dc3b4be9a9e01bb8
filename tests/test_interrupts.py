from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import pytest

from nnlab import interrupts

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")


def in_process(code: str) -> subprocess.CompletedProcess[str]:
    """Run code that has heeded signals; ``hold(seconds)`` computes past Python's own checks."""
    start = (
        "import os, signal, threading, time\n"
        "from nnlab import interrupts\n"
        "def later(number, seconds=0.2):\n"
        "    threading.Timer(seconds, os.kill, (os.getpid(), number)).start()\n"
        "def hold(seconds):\n"
        "    blocked = threading.Lock(); blocked.acquire(); blocked.acquire(timeout=seconds)\n"
    )
    command = [sys.executable, "-c", start + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("number", interrupts.SIGNALS, ids=lambda number: number.name)
def test_a_signal_asks_for_a_stop_and_raises_nothing(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with interrupts.heeded():
        interrupts.check()
        os.kill(os.getpid(), number)
        assert interrupts.requested()
        with pytest.raises(interrupts.Stopped) as caught:
            interrupts.check()
        assert caught.value.status == 128 + number
        assert number.name in str(caught.value)
        assert pickle.loads(pickle.dumps(caught.value)).status == 128 + number
    assert not interrupts.requested()
    assert signal.getsignal(number) is before


def test_ignored_signals_and_handlers_of_others_are_left_alone() -> None:
    heard: list[int] = []
    before = [signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGUSR1)]
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    try:
        with interrupts.heeded():
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.1)
            assert not interrupts.requested()
        assert heard == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGHUP, before[0])
        signal.signal(signal.SIGUSR1, before[1])


def test_elsewhere_than_in_the_main_thread_nothing_happens() -> None:
    handlers: list[object] = []

    def work() -> None:
        with interrupts.heeded():
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]


def test_a_command_that_does_not_come_to_an_end_is_left() -> None:
    ended = in_process(
        "with interrupts.heeded():\n    later(signal.SIGTERM)\n    hold(50)\n    print('reached')\n"
    )
    assert (ended.returncode, ended.stdout) == (143, "")
    assert ended.stderr.count("\n") == 1
    assert "stopped by SIGTERM" in ended.stderr
    assert "the same command goes on" in ended.stderr


def test_what_is_not_saved_yet_is_waited_for() -> None:
    ended = in_process(
        "with interrupts.heeded():\n"
        "    later(signal.SIGUSR2)\n"
        "    interrupts.request.unsaved.add('run')\n"
        "    hold(2)\n"
        "    print('saved', interrupts.requested(), flush=True)\n"
        "    interrupts.request.unsaved.discard('run')\n"
    )
    assert (ended.returncode, ended.stdout) == (0, "saved True\n")


def test_a_process_does_not_end_while_it_saves() -> None:
    ended = in_process(
        "with interrupts.heeded(), interrupts.request.saving:\n"
        "    later(signal.SIGTERM)\n"
        "    hold(2.5)\n"
        "    print('saved', flush=True)\n"
        "hold(5)\n"
    )
    assert ended.stdout == "saved\n"


def test_a_second_ctrl_c_leaves_at_once() -> None:
    ended = in_process(
        "with interrupts.heeded():\n"
        "    interrupts.request.unsaved.add('run')\n"
        "    later(signal.SIGINT); later(signal.SIGINT, 0.4)\n"
        "    started = time.monotonic(); hold(50)\n"
    )
    assert ended.returncode == 130
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("number", interrupts.SIGNALS, ids=lambda number: number.name)
def test_a_signal_while_a_process_ends_changes_nothing(number: signal.Signals) -> None:
    """Also one that comes when Python has dropped its handlers and clears its modules."""
    ended = in_process(
        "import atexit\n"
        "class Last:\n"
        "    def __del__(self, kill=os.kill, me=os.getpid(), out=os.write):\n"
        f"        kill(me, {int(number)}); out(1, b'to the end')\n"
        "last = Last()\n"
        f"atexit.register(lambda: os.kill(os.getpid(), {int(number)}))\n"
        "interrupts.heed_to_the_end()\n"
        f"atexit.register(lambda: os.kill(os.getpid(), {int(number)}))\n"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "to the end", "")


def test_a_process_that_does_not_end_is_left() -> None:
    ended = in_process(
        "import atexit\n"
        "interrupts.heed_to_the_end()\n"
        "atexit.register(hold, 50)\n"
        "later(signal.SIGTERM)\n"
    )
    assert ended.returncode == 143
    assert ended.stderr.count("stopped by SIGTERM") == 1


def test_a_worker_stops_when_its_parent_is_gone() -> None:
    """The worker's parent ends at once; the worker's output stays open until it ends, too."""
    ended = in_process(
        "if os.fork() == 0:\n"
        "    parent = os.getppid()\n"
        "    with interrupts.heeded(parent):\n"
        "        while not interrupts.requested():\n"
        "            time.sleep(0.01)\n"
        "        print(interrupts.request.number, flush=True)\n"
        "    os._exit(0)\n"
        "time.sleep(0.5)\n"
        "os._exit(0)\n"
    )
    assert ended.stdout == f"{int(signal.SIGTERM)}\n"


def test_a_worker_that_does_not_end_with_its_parent_is_left_in_silence() -> None:
    ended = in_process(
        "if os.fork() == 0:\n"
        "    parent = os.getppid()\n"
        "    with interrupts.heeded(parent):\n"
        "        interrupts.request.unsaved.add('a run')\n"
        "        interrupts.LONG = 0.1\n"
        "        hold(50)\n"
        "time.sleep(0.5)\n"
        "os._exit(0)\n"
    )
    assert (ended.stdout, ended.stderr) == ("", "")


def test_a_stop_is_told_once() -> None:
    """Also where telling it takes until the command is to be ended."""
    done = in_process(
        "from nnlab import run, terminal\n"
        "tell = terminal.complain\n"
        "terminal.complain = lambda line: (tell(line), hold(1.5))\n"
        "run.run = lambda given: (later(signal.SIGTERM, 0), hold(0.3), interrupts.check())\n"
        "run.command_line()\n"
    )
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stderr.count("stopped by SIGTERM") == 1, done.stderr
