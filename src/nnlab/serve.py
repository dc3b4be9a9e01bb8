"""``python -m nnlab.serve outputs``: the pages of all studies, live while runs train.

It only reads: pages are made in memory, of the runs as they are now.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import http.server
import ipaddress
import logging
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from nnlab import claims, standing, storage, terminal
from nnlab.records import CURVES, DONE, RESULT
from nnlab.report import page, summary_notes
from nnlab.report.run_folders import distinct, left_out, read_all, read_run
from nnlab.report.runs import RunRecord
from nnlab.runs import by_study
from nnlab.storage import opened
from nnlab.study import stamp_of
from nnlab.text import visible

TYPES = {  # of the files that are served, by how their names end
    ".csv": "text/csv; charset=utf-8",
    ".json": "application/json",
    ".log": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".safetensors": "application/octet-stream",
    ".svg": "image/svg+xml",
}
# What a file contains runs nothing and asks nobody, whoever wrote it.
INERT = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
LOCAL = {"localhost", "127.0.0.1", "::1"}


@terminal.standard_streams()
def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C; return 1 where that cannot be begun."""
    options = parser_of_arguments().parse_args(arguments)
    try:
        if not options.folder.is_dir():
            raise FileNotFoundError(f"there is no folder {options.folder}; give one with studies")
        if standing.is_run(options.folder):
            study = options.folder.resolve().parent
            raise FileNotFoundError(f"{options.folder} is a run; give its study, {study}")
        server = Server(options.folder, options.host, options.port)
    except OSError as error:
        terminal.complain(error)
        return 1
    logging.getLogger("nnlab").setLevel(logging.ERROR)  # a damaged run would be told at each look
    with server, contextlib.suppress(KeyboardInterrupt):
        terminal.say(f"{visible(str(options.folder))}: {server.address}, Ctrl-C ends")
        if not is_local(options.host):
            terminal.say("whoever reaches this machine can read these results")
        server.serve_forever()
    return 0


def parser_of_arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m nnlab.serve", description=__doc__)
    terminal.add_version(parser)
    parser.add_argument(
        "folder",
        nargs="?",
        type=terminal.path,
        default=Path("outputs"),
        help="an output_dir or a study; without it: outputs. Links below it are not followed",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="the address to serve on; usually this machine alone"
    )
    parser.add_argument("--port", type=port, default=8000, help="usually 8000; 0: one that is free")
    return parser


def port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port, a number from 0 to 65535")
    return int(text)


def is_local(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host in LOCAL


# The runs, as they are now


class Results:
    """The studies below a folder; of runs whose files have not changed, what was read before."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.known: dict[Path, tuple[object, RunRecord]] = {}
        self.pages: dict[Path, tuple[str, bytes]] = {}  # the last of each study, with its tag
        self.lock = threading.Lock()

    def read_run(self, folder: Path) -> RunRecord:
        """Do what ``run_folders.read_run`` does, and say of an unfinished run how it stands."""
        stamp = standing.stamp_of(folder)
        if folder not in self.known or self.known[folder][0] != stamp:
            self.known[folder] = stamp, read_run(folder)
        run = self.known[folder][1]
        if run.status in DONE:
            return run
        return dataclasses.replace(
            run, results={**run.results, "status": state_of(folder, run.status)}
        )

    def page(self, study: Path) -> tuple[str, bytes]:
        """Return the page of a study and its tag, which is another when the page is."""
        with self.lock:
            found, damaged = read_all(study, self.read_run)
            runs = distinct(found)
            drawn = sorted(
                path for path in storage.matching(study, "*.png") if not path.is_symlink()
            )
            curves = runs[0].folder / CURVES
            if len(runs) == 1 and curves.is_file():
                drawn.append(curves)
            parts = [
                *((run.folder, self.known[run.folder][0], run.results["status"]) for run in runs),
                *(stamp_of(path) for path in (*drawn, study / page.NOTES)),
                *damaged,
            ]
            tag = digest(parts)
            if self.pages.get(study, ("", b""))[0] != tag:
                above = None if study == self.root else "/"
                notes = left_out(damaged) + summary_notes.notes(runs)
                made = page.render(runs, notes, drawn, study, live=tag, above=above)
                self.pages[study] = tag, b"".join(made)
            return self.pages[study]

    def overview(self) -> tuple[str, bytes]:
        """Return the page of all studies and its tag."""
        with self.lock:
            rows = [self.row(study, folders) for study, folders in by_study([self.root]).items()]
        tag = digest(rows)
        return tag, b"".join(page.render_studies(visible(str(self.root)), rows, live=tag))

    def row(self, study: Path, folders: Sequence[Path]) -> list[str]:
        """Return what the page of all studies says of one, without a link where no run can be
        read, of which a page would be."""
        states, times, readable = [], [], False
        for folder in folders:
            times += [part[0] / 1e9 for part in standing.stamp_of(folder) if part]
            try:
                states.append(str(self.read_run(folder).results["status"]))
                readable = True
            except (OSError, ValueError):
                states.append(state_of(folder, "waiting"))
        name = study.relative_to(self.root).as_posix()
        changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(max(times))) if times else "-"
        link = quote(f"/{name}/", errors="surrogateescape") if readable else ""
        return [link, name, f"{len(states):,}", page.counted_states(states), changed]


def state_of(folder: Path, otherwise: str) -> str:
    """Return how a run stands; ``otherwise`` where nothing of it is there any more."""
    found = standing.of(folder, waiting=claims.waiting(folder.parent).get(folder.name))
    return found.state if found else otherwise


def digest(parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


# The server


class Server(http.server.ThreadingHTTPServer):
    """Serves the studies of a folder. Raises OSError, which says what to do, where it cannot."""

    def __init__(self, folder: Path, host: str, port: int) -> None:
        self.results = Results(folder)
        self.host = host
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            self.address_family, *_, address = found[0]
            super().__init__(address[:2], Handler)  # type: ignore[arg-type]
        except (OSError, UnicodeError) as error:  # the latter of what is no name
            reason = getattr(error, "strerror", error)
            raise OSError(
                f"{host}, port {port}, cannot be served on ({reason}); "
                f"choose others with --host and --port (0: a free one)"
            ) from None

    @property
    def address(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.server_address[1]}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # who asked has gone
            super().handle_error(request, client_address)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request."""

    server: Server
    server_version, sys_version = "nnlab", ""

    def do_GET(self) -> None:
        if is_local(self.server.host) and not self.asked_here():
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return
        try:
            path = self.path_asked()
            if path.is_dir():
                self.send_page(path)
            else:
                self.send_file(path)
        except (FileNotFoundError, NotADirectoryError):
            self.send_error(HTTPStatus.NOT_FOUND)
        except (OSError, ValueError, MemoryError):  # a run changes now; no memory
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)

    do_HEAD = do_GET

    def asked_here(self) -> bool:
        """Tell whether it was this machine that was asked for: a name that another site has for
        it would let that site read the results."""
        with contextlib.suppress(ValueError):  # of what is no name
            name = urlsplit(f"//{self.headers.get('Host', '')}").hostname
            return name in LOCAL or name == self.server.host
        return False

    def path_asked(self) -> Path:
        """Return the file or folder asked for. Raises FileNotFoundError where there is none to be
        served: it is hidden, above the folder, or reached by a link."""
        try:
            asked = unquote(urlsplit(self.path).path, errors="surrogateescape")
        except ValueError:  # it is no address
            raise FileNotFoundError from None
        parts = [part for part in asked.split("/") if part]
        if parts and parts[-1] == page.INDEX:
            parts.pop()
        root = self.server.results.root
        path = root.joinpath(*parts)
        hidden = any(part.startswith(".") or "\0" in part or os.sep in part for part in parts)
        with contextlib.suppress(OSError, RuntimeError):  # the latter of a link to itself
            if not hidden and path.resolve(strict=True) == root.resolve().joinpath(*parts):
                return path
        raise FileNotFoundError

    def send_page(self, folder: Path) -> None:
        """Send the page of a study, or that of all studies."""
        results = self.server.results
        if not urlsplit(self.path).path.endswith(("/", page.INDEX)):  # else its links lead nowhere
            self.send_response(HTTPStatus.MOVED_PERMANENTLY)
            self.send_header("Location", f"{urlsplit(self.path).path}/".replace("//", "/"))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if any(folder.glob(f"*/{RESULT}")):
            tag, made = results.page(folder)
        elif folder == results.root:
            tag, made = results.overview()
        else:
            raise FileNotFoundError
        if self.headers.get("If-None-Match") == f'"{tag}"':
            self.send_response(HTTPStatus.NOT_MODIFIED)
            self.end_headers()
            return
        self.send_head("text/html; charset=utf-8", len(made), {"ETag": f'"{tag}"'})
        if self.command == "GET":
            self.wfile.write(made)

    def send_file(self, path: Path) -> None:
        if path.suffix not in TYPES:
            raise FileNotFoundError
        with opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            self.send_head(TYPES[path.suffix], size, {"Content-Security-Policy": INERT})
            if self.command == "GET":
                shutil.copyfileobj(file, self.wfile)

    def send_head(self, kind: str, size: int, more: dict[str, str]) -> None:
        self.send_response(HTTPStatus.OK)
        usual = {
            "Content-Type": kind,
            "Content-Length": str(size),
            "Cache-Control": "no-cache",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        for name, value in (usual | more).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing of a request."""


if __name__ == "__main__":
    sys.exit(main())
