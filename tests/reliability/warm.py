"""Commands in processes forked from one that has imported what takes long: started in no time."""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from tests.reliability.studies import LIMIT, Ended

MODULES = {"nnlab.run": "nnlab.run", "nnlab.report": "nnlab.report.__main__"}
HEAVY = (
    *("nnlab.build", "nnlab.training", "nnlab.network", "nnlab.sweeps", "nnlab.hydra_jobs"),
    *("nnlab.report.figures", "nnlab.report.page", "nnlab.engines.native", "nnlab.engines.stacked"),
    *("safetensors.torch", "hydra_plugins.nnlab_launcher", "hydra_plugins.nnlab_sweeper"),
    *("hydra_plugins.hydra_joblib_launcher", "hydra_plugins.hydra_submitit_launcher"),
    "tests.reliability.rehearsal",
)

server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(["tests.reliability.warm", *MODULES.values(), *HEAVY])


class Command:
    """A command under way, in a process group of its own."""

    def __init__(
        self, arguments: Sequence[str], cwd: Path, module: str = "nnlab.run", draw: bool = True
    ) -> None:
        cwd.mkdir(parents=True, exist_ok=True)
        self.streams = tempfile.TemporaryDirectory()
        given = (module, tuple(arguments), cwd, Path(self.streams.name), draw)
        self.process = server.Process(target=be, args=given)
        self.process.start()
        assert self.process.pid is not None
        self.pid = self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()

    def end(self, limit: float = LIMIT) -> Ended:
        """Wait for it. Raises TimeoutError, and kills it, where it hangs."""
        self.process.join(limit)
        hangs = self.process.exitcode is None
        if hangs:
            self.kill()
            self.process.join()
        out, err = (
            path.read_text(errors="replace") if path.exists() else ""
            for path in (Path(self.streams.name) / name for name in ("out", "err"))
        )
        self.streams.cleanup()
        if hangs:
            raise TimeoutError(f"this hangs after {out}{err}")
        status = self.process.exitcode
        assert status is not None
        return Ended(status, out, err)


def run(*arguments: str, cwd: Path, module: str = "nnlab.run", draw: bool = True) -> Ended:
    return Command(arguments, cwd, module, draw).end()


def be(module: str, arguments: Sequence[str], cwd: Path, streams: Path, draw: bool) -> None:
    """Be a command: its standard streams are files in a folder. draw: its figures, too."""
    import torch

    from nnlab.report import figures

    gc.freeze()  # what it was forked with, the collector need not go through
    warnings.filterwarnings("error", category=UserWarning)
    os.setsid()
    torch.set_num_threads(1)
    for number, name in enumerate(("out", "err"), 1):
        file = os.open(streams / name, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.chdir(cwd)
    for name in [name for name in os.environ if name.startswith("HYDRA")]:
        del os.environ[name]
    if not draw:
        figures.draw_all = lambda *_: []
    sys.argv = [module, *arguments]
    command = importlib.import_module(MODULES.get(module, module))
    sys.exit(getattr(command, "command_line", command.main)())
