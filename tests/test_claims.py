from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnlab import claims, records

TRAINS = """
import sys, time, json
from pathlib import Path
from nnlab import claims
study = Path(sys.argv[1])
with claims.Claim(study) as claim:
    (study / "run").mkdir()
    running = {"fingerprint": "ours", "status": "running", "owner": claim.owner}
    (study / "run" / "result.json").write_text(json.dumps(running))
    print("claimed", flush=True)
    sys.stdin.read()
"""


def start(study: Path) -> subprocess.Popen[str]:
    command, pipe = [sys.executable, "-c", TRAINS, str(study)], subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "claimed\n"
    return process


@pytest.mark.parametrize(
    ("mount", "local"),
    [
        ("ext4 /dev/sda1 rw", None),
        ("nfs4 server:/home rw,vers=4.2,proto=tcp,local_lock=none,addr=10.0.0.1", None),
        ("nfs server:/home rw,vers=3,nolock,proto=tcp,local_lock=all", "nolock"),
        ("nfs server:/home rw,vers=3,local_lock=flock", "local_lock=flock"),
        ("lustre 10.0.0.1@tcp:/scratch rw,localflock", "localflock"),
        ("lustre 10.0.0.1@tcp:/scratch rw,flock", None),
        ("cifs //server/share rw,nobrl", "nobrl"),
        ("fuse.sshfs me@host:/home rw,user_id=0", "fuse.sshfs"),
    ],
)
@pytest.mark.parametrize("place", ["{}", "{}/a\\040study"])
def test_locks_that_others_do_not_see_are_told(
    mount: str,
    local: str | None,
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    lines = [
        "22 27 0:21 / / rw,relatime shared:1 - overlay overlay rw",
        f"36 35 98:0 / {place.format(tmp_path.resolve())} rw,noatime master:1 - {mount}",
        f"37 35 98:0 / {tmp_path.resolve()}/other rw - nfs server:/other rw,nolock",
    ]
    monkeypatch.setattr(claims, "MOUNTS", tmp_path / "mounts")
    claims.MOUNTS.write_text("\n".join(lines))
    with claims.Claim(tmp_path / "a study"):
        told = [message for message in caplog.messages if f"see ({local})" in message]
    assert len(told) == len(caplog.messages) == (local is not None)


def test_a_run_is_its_process_s_until_that_ends(tmp_path: Path) -> None:
    with start(tmp_path) as process:
        found = claims.owner(tmp_path / "run")
        assert found is not None
        assert found["process"] == process.pid
        assert str(process.pid) in claims.named(found)
        process.communicate("")
    assert claims.owner(tmp_path / "run") is None
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [claims.LOCK]


def test_a_dead_process_holds_nothing(tmp_path: Path) -> None:
    with start(tmp_path) as process:
        process.kill()
        process.wait()
    assert len(list(tmp_path.glob(".process-*"))) == 1
    assert claims.owner(tmp_path / "run") is None
    with claims.Claim(tmp_path):  # the next one clears up
        assert len(list(tmp_path.glob(".process-*"))) == 1
    assert list(tmp_path.glob(".process-*")) == []


def test_a_stopped_process_still_holds_its_runs(tmp_path: Path) -> None:
    if os.name == "nt":
        pytest.skip("no SIGSTOP")
    import signal

    with start(tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        assert claims.owner(tmp_path / "run") is not None
        process.kill()


def test_one_process_at_a_time_has_the_study(tmp_path: Path) -> None:
    """Four processes add to a number 50 times each; none is lost."""
    number = tmp_path / "number"
    number.write_text("0")
    adds = (
        "import sys, time; from pathlib import Path; from nnlab import claims\n"
        "number = Path(sys.argv[1]) / 'number'\n"
        "for _ in range(50):\n"
        "    with claims.exclusive(number.parent):\n"
        "        value = int(number.read_text()) + 1\n"
        "        time.sleep(0.001)\n"
        "        number.write_text(str(value))"
    )
    command = [sys.executable, "-c", adds, str(tmp_path)]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert number.read_text() == "200"


def test_who_sees_to_a_stop_itself_does_not_wait_for_the_study(tmp_path: Path) -> None:
    """A signal asks one that waits for the lock, which another process holds all the while."""
    waits = (
        "import signal, sys, threading; from pathlib import Path; from nnlab import claims\n"
        "from nnlab import interrupts\n"
        "signal.signal(signal.SIGTERM, interrupts.note)\n"
        "threading.Timer(0.3, signal.raise_signal, [signal.SIGTERM]).start()\n"
        "try:\n"
        "    with interrupts.patient(), claims.exclusive(Path(sys.argv[1])): print('in')\n"
        "except interrupts.Stopped as stopped: print(stopped.number)\n"
    )
    with claims.exclusive(tmp_path):
        command = [sys.executable, "-c", waits, str(tmp_path)]
        said = subprocess.check_output(command, text=True, timeout=30)
    assert said == "15\n"


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(OSError, match=r"cannot lock files.*" + tmp_path.name):
        claims.Claim(tmp_path)


@pytest.mark.parametrize("owner", [None, 3, {}, {"claim": "../../x"}, {"claim": "a"}])
def test_what_names_no_living_process_is_no_owner(tmp_path: Path, owner: object) -> None:
    result = {"fingerprint": "ours", "status": "running", "owner": owner}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text(json.dumps(result))
    assert claims.owner(tmp_path / "run") is None


def test_what_is_left_of_batches_takes_nothing_else_along(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    batches = tmp_path / claims.BATCHES
    batches.mkdir()
    (batches / "kept").touch()
    record = records.sealed({"owner": {}, "ticket": None, "runs": []})
    (batches / "..-0.json").write_bytes(record)
    claims.clear_batches(tmp_path, lambda _: True)
    assert (tmp_path / "run").is_dir()
    assert [path.name for path in batches.iterdir()] == ["kept"]
