"""A real Ray cluster of two nodes on this machine."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ADDRESSES = ("127.0.0.1", "127.0.0.2")  # Ray turns the first into the machine's own; see Cluster
CPUS = 2
STORE = 100_000_000  # bytes; Ray would take a third of the memory
ENVIRONMENT = {"RAY_AUTH_MODE": "disabled"}  # else Ray keeps a token in the user's home
LIMIT = 60  # seconds for a node to start
SCRIPT = Path(sys.executable).with_name("ray")


class Node:
    """A node, started by ``ray start``: a process group of its own.

    head: the address of the cluster's first node; None: this is that. before: a command that
    starts another one, where the node is to see other files.
    """

    def __init__(
        self,
        folder: Path,
        ip: str,
        head: str | None = None,
        before: Sequence[str] = (),
        cpus: int = CPUS,
    ) -> None:
        where = ["--head", "--port=0"] if head is None else [f"--address={head}"]
        options = [f"--node-ip-address={ip}", f"--num-cpus={cpus}", "--num-gpus=0", "--block"]
        own = ["--include-dashboard=false", f"--temp-dir={folder}"] if head is None else []
        store = ["--disable-usage-stats", f"--object-store-memory={STORE}"]
        self.log = folder / f"{ip}.txt"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*before, str(SCRIPT), "start", *where, *options, *own, *store],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**os.environ, **ENVIRONMENT},
                start_new_session=True,
            )
        until = time.monotonic() + LIMIT
        while "Ray runtime started" not in self.said():
            if self.process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise RuntimeError(f"Ray has not started:\n{self.said()}")
            time.sleep(0.1)

    def said(self) -> str:
        return self.log.read_text()

    def processes(self) -> list[int]:
        """Return the processes of this node, whatever groups they have made for themselves."""
        return descendants(self.process.pid)

    def workers(self) -> list[int]:
        """Return the processes of this node that train a batch now."""
        return [pid for pid in self.processes() if title(pid).startswith("ray::nnlab batch")]

    def kill(self) -> None:
        """End all of it at once, as when the power fails."""
        for pid in [*self.processes(), self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def descendants(pid: int) -> list[int]:
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            after_name = path.read_text().rpartition(")")[2].split()
            parents[int(path.parent.name)] = int(after_name[1])
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found[1:]


def title(pid: int) -> str:
    """Return what a process calls itself, empty if it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    return ""


class Cluster:
    """Two nodes. address: what ``hydra.launcher.address`` takes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes = [Node(folder, ADDRESSES[0])]
        found = re.search(r"--address='([^']+)'", self.nodes[0].said())
        assert found, self.nodes[0].said()
        self.address = found[1]

    def add(self, hidden: Path | None = None, cpus: int = CPUS) -> Node:
        """Start the second node, if need be again; hidden: a folder that it is not to see."""
        for node in self.nodes[1:]:
            node.kill()
        hide = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            f'mount -t tmpfs none \'{hidden}\' && exec "$0" "$@"',
        ]
        before = [] if hidden is None else hide
        self.nodes[1:] = [Node(self.folder, ADDRESSES[1], self.address, before, cpus)]
        return self.nodes[1]

    def stop(self) -> None:
        for node in self.nodes[::-1]:
            node.kill()


@contextlib.contextmanager
def running() -> Iterator[Cluster]:
    """Lend a cluster of one node, to which others may be added."""
    # Sockets have short paths: not a folder of pytest's.
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    try:
        cluster = Cluster(folder)
        try:
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
