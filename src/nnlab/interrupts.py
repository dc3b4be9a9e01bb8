"""Signals that ask a command to stop: what it trains is saved, and it says how to go on.

A handler only sets a flag. A thread, which a signal wakes even while the others compute, ends the
process where they do not come to an end soon. They need not: what is on disk is whole at any time,
and only the epoch under way is lost.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Hashable, Iterator

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
LONG = 5.0  # seconds: an epoch is waited for as long; where they take longer, each is saved
SHORT = 1.0  # where there is nothing to save
GO_ON = "finished runs are kept, and the same command goes on from here"


class Stopped(KeyboardInterrupt):
    """A signal, by its number, asked the command to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}; {GO_ON}"

    @property
    def status(self) -> int:
        """The exit status, as shells have it."""
        return 128 + self.number


class Request:
    """Whether a signal asked the command to stop.

    number: of the first one. patient: see ``patient``. unsaved: whoever trained epochs that are on
    no disk yet. saving: held while they are being put there. told: whether the user knows.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.patient = False
        self.told = False
        self.unsaved: set[Hashable] = set()
        self.saving = threading.RLock()

    def clear(self) -> None:
        self.number = None
        self.told = False
        self.unsaved.clear()


request = Request()


def watched() -> bool:
    """Return whether this process heeds signals already."""
    return any(signal.getsignal(number) is note for number in SIGNALS)


def requested() -> bool:
    return request.number is not None


def stop() -> None:
    """Ask what this process trains to stop, as SIGTERM does."""
    note(signal.SIGTERM, None)
    if watched():
        signal.raise_signal(signal.SIGTERM)  # its patience has an end


def check() -> None:
    """Raise Stopped where a signal asked to stop."""
    if request.number is not None:
        raise Stopped(request.number)


@contextlib.contextmanager
def patient() -> Iterator[None]:
    """In this block whoever is asked to stop sees to it, however long that takes."""
    request.patient = True
    try:
        yield
    finally:
        request.patient = False


def awaited() -> bool:
    """Return whether a ``patient`` block is asked to stop: nothing else ends it meanwhile."""
    return request.patient and requested()


def heed_to_the_end() -> None:
    """Let signals ask for a stop until this process ends, in whose last instants none does."""
    heeding = contextlib.ExitStack()
    heeding.enter_context(heeded(afterwards=signal.SIG_IGN))
    atexit.register(heeding.close)


@contextlib.contextmanager
def heeded(
    parent: int | None = None,
    patience: float | None = None,
    afterwards: signal.Handlers | None = None,
) -> Iterator[None]:
    """Let signals ask for a stop in this block; parent: a process whose end does so too.

    afterwards: what signals then do; None: what they did before.

    Signals that are ignored (nohup does so), or that have another handler, are left alone; not
    so the latter where a patience is given, the seconds that the epochs under way then have to
    end. Only the main thread can do this; in others only ``stop`` is heeded.
    """
    if watched():
        yield
        return
    if threading.current_thread() is not threading.main_thread():
        try:
            yield
        finally:
            request.clear()
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    usual = (signal.SIG_DFL, signal.default_int_handler)
    ours = {number for number, handler in before.items() if handler in usual}
    if patience is not None:
        ours = {
            number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)
        }
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    woken = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    for number in ours:
        signal.signal(number, note)
    watcher = threading.Thread(target=watch, args=(reader, ours, parent, patience), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number] if afterwards is None else afterwards)
        signal.set_wakeup_fd(woken)
        writer.close()
        watcher.join()
        reader.close()
        request.clear()


@contextlib.contextmanager
def noted(waits: bool = False) -> Iterator[None]:
    """Have what trains in this block save where a signal asks a process to stop that does not heed
    them otherwise, as a notebook; then the signal does what it would have done, a second at once.

    waits: whether this thread only waits for others; it breaks that off with KeyboardInterrupt.
    Raises KeyboardInterrupt where that is what the signal does.
    """
    if watched() or threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    ours = {number: handler for number, handler in before.items() if handler in usual}

    def give_back() -> None:
        for number, handler in ours.items():
            signal.signal(number, handler)

    asked = []

    def note_one(number: int, _: object) -> None:
        give_back()
        asked.append(number)
        note(number, None)
        if waits:
            raise KeyboardInterrupt

    for number in ours:
        signal.signal(number, note_one)
    try:
        yield
    except KeyboardInterrupt:
        if not asked:
            raise
    finally:
        give_back()
        request.number = None
    for number in asked:
        if before[number] is signal.default_int_handler:
            raise KeyboardInterrupt(str(Stopped(number)))
        tell(str(Stopped(number)))
        signal.raise_signal(number)


@functools.cache
def end_with(parent: int) -> None:
    """Have this process end when its parent has, and what it trains is saved: one of joblib's would
    wait for ever for what to do next."""

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        while watched():
            time.sleep(0.1)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()


@contextlib.contextmanager
def heeded_here_only() -> Iterator[None]:
    """Have processes that are started in this block not heed signals; this one's end ends them.

    A terminal sends them to all. A worker that has nothing to save would end first, at which
    joblib kills those that are saving.
    """
    ours = [number for number in SIGNALS if signal.getsignal(number) is note]
    if not ours or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    quiet_tracker()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ours)  # ``watch`` gets them nevertheless
    try:
        resource_tracker.ensure_running()  # which then unblocks some of them
        signal.pthread_sigmask(signal.SIG_BLOCK, ours)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def quiet_tracker() -> None:
    """Have the process that removes what another has left of its pools say nothing of that: where
    one leaves at once, it is no fault. To be called before there are pools."""
    quiet = "ignore:resource_tracker:UserWarning"
    if quiet not in sys.warnoptions:
        sys.warnoptions.append(quiet)  # the process is given these


def note(number: int, _: object) -> None:
    if request.number is None:
        request.number = number


def watch(
    reader: socket.socket, ours: set[int], parent: int | None, patience: float | None
) -> None:
    """Wait for signals until the block of ``heeded`` ends."""
    leaving: float | None = None
    while True:
        waits = 1.0 if parent is not None else None
        if leaving is not None:
            waits = max(0.0, leaving - time.monotonic())
        if select.select([reader], [], [], waits)[0]:
            numbers = reader.recv(64)
            if not numbers:
                return
        elif leaving is not None:
            if not request.patient:
                leave()
            numbers, leaving = b"", time.monotonic() + SHORT
        else:
            numbers = bytes([signal.SIGTERM]) if os.getppid() != parent else b""
        for number in numbers:
            if leaving is None and number in ours:
                note(number, None)
                leaving = time.monotonic() + (patience or (LONG if request.unsaved else SHORT))
                request.told |= parent is not None  # others tell of what workers do
                if request.unsaved and patience is None and not request.told:
                    tell(f"{signal.Signals(number).name}: saving what trains; Ctrl-C leaves now")
            elif number == signal.SIGINT:
                if not request.told and parent is None:
                    tell(str(Stopped(request.number or number)))
                os._exit(128 + number)


def leave() -> None:
    """End the process, but not while it saves."""
    assert request.number is not None
    with request.saving:
        if not request.told:
            tell(str(Stopped(request.number)))
        os._exit(128 + request.number)


def tell(line: str) -> None:
    """Print a line, past the locks of Python's streams, which another thread may hold."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())
