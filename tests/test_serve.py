"""``python -m nnlab.serve``, asked over HTTP, and as a command."""

from __future__ import annotations

import contextlib
import html
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import pytest

from nnlab import report, serve
from tests.names import HOSTILE
from tests.report.studies import lay


@contextlib.contextmanager
def serving(folder: Path, host: str = "127.0.0.1") -> Iterator[serve.Server]:
    with serve.Server(folder, host, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(
    server: serve.Server, path: str, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Return the status, headers and content of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, {name.lower(): text for name, text in answer.getheaders()}, content


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    folder = tmp_path / "outputs"
    for size in (500, 1000):
        lay(folder / "mnist", {"train_size": size})
    lay(folder / "older" / "depth", name="default", status="running")
    (tmp_path / "secret.json").write_text("{}")
    return folder


def test_all_studies_and_the_page_of_each(outputs: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in outputs.rglob("*")}
    with serving(outputs) as server:
        status, _, content = ask(server, "/")
        assert status == 200
        page = content.decode()
        assert '<a href="/mnist/">mnist</a>' in page
        assert '<a href="/older/depth/">older/depth</a>' in page
        assert "<td>2 finished</td>" in page
        assert "<td>1 interrupted</td>" in page
        status, headers, _ = ask(server, "/mnist")
        assert (status, headers["location"]) == (301, "/mnist/")
        for path in ("/mnist/", "/mnist/index.html"):
            status, headers, content = ask(server, path)
            assert status == 200
            assert "train_size=500" in content.decode()
        status, headers, content = ask(server, "/mnist/train_size=500/result.json")
        assert headers["content-type"] == "application/json"
        assert json.loads(content)["name"] == "train_size=500"
        status, headers, content = ask(server, "/mnist/train_size=500/metrics.csv", "HEAD")
        assert (status, content) == (200, b"")
    after = {path: path.stat().st_mtime_ns for path in outputs.rglob("*")}
    assert after == before  # it only reads


def test_every_link_leads_somewhere(outputs: Path) -> None:
    """Also that of a study without a report."""
    lay(outputs / "reported", {"seed": 0})
    report.write_report(outputs / "reported")
    with serving(outputs) as server:
        for page in ("/", "/mnist/", "/reported/"):
            links = re.findall(r'(?:href|src)="([^"#:]+)"', ask(server, page)[2].decode())
            assert links
            for link in links:
                assert ask(server, urljoin(page, html.unescape(link)))[0] == 200, link
    assert "summary.csv" in links


def test_a_study_of_which_nothing_can_be_read_leads_nowhere(outputs: Path) -> None:
    (lay(outputs / "broken", name="default") / "result.json").write_text('{"config": 3')
    with serving(outputs) as server:
        page = ask(server, "/")[2].decode()
    assert "<td>1 damaged</td>" in page
    assert '<th scope="row">broken</th>' in page


def test_a_run_that_cannot_be_read_is_named(outputs: Path) -> None:
    with serving(outputs) as server:
        assert "damaged" not in ask(server, "/mnist/")[2].decode()
        (outputs / "mnist" / "train_size=500" / "result.json").write_text("{")
        page = ask(server, "/mnist/")[2].decode()
    assert "Left out, as their files are damaged or not to be read: train_size=500" in page


def test_a_page_is_made_anew_when_a_run_has_changed(outputs: Path) -> None:
    with serving(outputs) as server:
        for path, change in (
            ("/mnist/", lambda: lay(outputs / "mnist", {"train_size": 1500})),
            ("/mnist/", lambda: (outputs / "mnist" / "notes.md").write_text("Seen.")),
            ("/", lambda: lay(outputs / "rates", name="default")),
        ):
            _, headers, before = ask(server, path)
            known = {"If-None-Match": headers["etag"]}
            assert ask(server, path, **known)[0] == 304
            change()
            status, headers, content = ask(server, path, **known)
            assert status == 200
            assert headers["etag"] != known["If-None-Match"]
            assert content != before


def test_nothing_else_is_served(outputs: Path, tmp_path: Path) -> None:
    run = outputs / "mnist" / "train_size=500"
    (outputs / "mnist" / ".index.jsonl").write_text("{}")
    (run / "program.py").write_text("")
    (run / "page.html").write_text("<script>alert(1)</script>")
    (run / "link.json").symlink_to(tmp_path / "secret.json")
    (outputs / "away").symlink_to(tmp_path)
    (outputs / "mnist" / "loop.png").symlink_to("loop.png")
    os.mkfifo(run / "pipe.json")
    paths = [
        "/../secret.json",
        "/%2e%2e/secret.json",
        "/mnist/..%2f..%2fsecret.json",
        "//../secret.json",
        "/away/secret.json",
        "/mnist/.index.jsonl",
        "/mnist/train_size=500/link.json",
        "/mnist/train_size=500/program.py",
        "/mnist/train_size=500/page.html",
        "/mnist/train_size=500/nothing.json",
        "//[/mnist/",
        "/mnist/train_size=500/",
        "/mnist/%00.json",
        "/mnist/loop.png",
        "/mnist/loop.png/",
        f"/mnist/{'a' * 300}.png",
        "/older/",
    ]
    with serving(outputs) as server:
        assert [(path, ask(server, path)[0]) for path in paths] == [(path, 404) for path in paths]
        assert ask(server, "/mnist/train_size=500/pipe.json")[0] == 503
        for method in ("POST", "PUT", "DELETE"):
            assert ask(server, "/mnist/", method)[0] == 501


def test_another_site_that_points_here_is_refused(outputs: Path) -> None:
    """By its name in Host (DNS rebinding); where others may ask, any name is right."""
    with serving(outputs) as server:
        for name in ("evil.example", "127.0.0.1.evil.example", "[", ""):
            assert ask(server, "/", Host=name)[0] == 421
        assert ask(server, "/", Host="localhost:8000")[0] == 200
    with serving(outputs, "0.0.0.0") as server:
        assert ask(server, "/", Host="workstation.example")[0] == 200


def test_names_of_studies_are_text(tmp_path: Path) -> None:
    names = [name for name in HOSTILE if "/" not in name and "\0" not in name and len(name) < 250]
    for name in names:
        lay(tmp_path / name, name="default")
    with serving(tmp_path) as server:
        page = ask(server, "/")[2].decode()
        assert "<a href" in page
        links = [part.partition('"')[0] for part in page.split('<a href="')[1:]]
        assert len(links) == len([name for name in names if not name.startswith(".")])
        assert [ask(server, link)[0] for link in links] == [200] * len(links)


def test_the_command_and_its_end(outputs: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "nnlab.serve", str(outputs)]
    pipe = subprocess.PIPE
    process = subprocess.Popen([*command, "--port", "0"], stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith(f"{outputs}: http://127.0.0.1:")
    with socket.create_connection(("127.0.0.1", int(line.split(":")[-1].partition("/")[0]))) as who:
        who.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert who.recv(12) == b"HTTP/1.0 200"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == 0


def test_what_cannot_be_served_is_one_message(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        assert serve.main([str(outputs), "--port", str(number)]) == 1
    assert serve.main([str(outputs / "nowhere")]) == 1
    run = outputs / "mnist" / "train_size=500"
    assert serve.main([str(run)]) == 1
    assert serve.main([str(outputs), "--host", "a..b"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"127.0.0.1, port {number}, cannot be served on (Address already in use); "
        f"choose others with --host and --port (0: a free one)",
        f"there is no folder {outputs / 'nowhere'}; give one with studies",
        f"{run} is a run; give its study, {run.parent}",
        err.splitlines()[-1],
    ]
    assert re.match(
        r"a\.\.b, port 8000, cannot be served on \(.*idna.*\); choose", err.splitlines()[-1]
    )
    for text in ("-1", "65536", "http"):
        with pytest.raises(SystemExit):
            serve.main(["--port", text])
        assert "is no port" in capsys.readouterr().err
