"""Two machines that share a folder by a real NFS: they divide a sweep, whatever happens to one of
them, the server included."""

from __future__ import annotations

import json
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import real_nfs
from tests.reliability import studies

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(real_nfs.missing()), reason=f"needs {', '.join(real_nfs.missing())}"),
]
REPOSITORY = Path(__file__).parents[2]
RUNS = 8
# Of an emulated processor 4 seconds each; its instructions are other ones than this machine's.
SWEEP = (
    *("model.hidden=[8]", f"seed=range({RUNS})", "train_size=50", "test_size=50"),
    *("stopping.max_epochs=600", "native_level=baseline", "checkpoint.seconds=1", "-m"),
)
NNLAB = shlex.join([sys.executable, "-m", "nnlab.run", *SWEEP])
PATH = f"export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={REPOSITORY}:{REPOSITORY / 'src'}\n"
# ls has NFS look again.
BOTH = PATH + "touch $HOSTNAME; until ls | grep -q c1 && ls | grep -q c2; do sleep 0.2; done\n"
TELL = """
python - << END
import json
from pathlib import Path
from tests.reliability.studies import content_of, runs_of, trained
study = Path("outputs/mnist")
print("TRAINED", json.dumps([trained(folder) for folder in runs_of(study)]))
print("FOUND", json.dumps(content_of(study)))
END
""".replace("python", sys.executable)
TRAIN = f"{NNLAB} 2>&1 | cat; echo ended with ${{PIPESTATUS[0]}}\n"  # it prints to no terminal
LIMIT = 400.0  # seconds
FIRST, SECOND = "c1", "c2"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the machines see as this one does: none of pytest's, which end with it."""
    with tempfile.TemporaryDirectory(prefix="nfs-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    cwd = tmp_path_factory.mktemp("undisturbed")
    ended = studies.run(*SWEEP, cwd=cwd)
    assert ended.status == 0, ended.said
    return numbers(studies.content_of(cwd / "outputs" / "mnist"))


def numbers(content: dict[str, Any]) -> dict[str, Any]:
    """Return what does not depend on the machine."""
    runs = {name: run for name, run in content.items() if name.startswith("seed=")}
    return {name: [run["metrics"], run["weights"]] for name, run in runs.items()}


def told(said: str, what: str) -> Any:
    found = re.search(rf"^{what} (.*)$", said, re.M)
    assert found is not None, said
    return json.loads(found[1])


@pytest.mark.parametrize("options", ["vers=4.2", "vers=3"])
def test_machines_divide_a_sweep(options: str, folder: Path, undisturbed: dict[str, Any]) -> None:
    scripts = {
        FIRST: BOTH + TRAIN + "touch done\n",
        SECOND: BOTH + TRAIN + "until ls | grep -q done; do sleep 0.2; done\n" + TELL,
    }
    with real_nfs.running(folder, options, scripts) as machines:
        said = {name: machine.end(LIMIT) for name, machine in machines.items()}
    assert all("ended with 0" in text for text in said.values()), said
    assert numbers(told(said[SECOND], "FOUND")) == undisturbed
    assert told(said[SECOND], "TRAINED") == [1] * RUNS
    for text, other in ((said[FIRST], SECOND), (said[SECOND], FIRST)):
        assert re.search(rf"process \d+ on {other} trains", text), text


def test_a_command_is_killed(folder: Path, undisturbed: dict[str, Any]) -> None:
    """The other goes on with its run at once; given again, it finds all done."""
    third = "until [ $(ls -d outputs/mnist/seed* | wc -l) -ge 3 ]; do sleep 1; done; sleep 2\n"
    killed = f"({TRAIN}) &\n{third}pkill -KILL -f nnlab.run; wait; sleep {LIMIT}\n"
    scripts = {FIRST: BOTH + killed, SECOND: BOTH + TRAIN + TRAIN + TELL}
    with real_nfs.running(folder, "vers=4.2", scripts) as machines:
        said = machines[SECOND].end(LIMIT)
        assert "ended with 137" in machines[FIRST].said(), machines[FIRST].said()
    assert said.count("ended with 0") == 2, said
    assert f"already done: {RUNS} of {RUNS}" in said
    assert numbers(told(said, "FOUND")) == undisturbed


def test_a_machine_is_lost(folder: Path, undisturbed: dict[str, Any]) -> None:
    """The server lets go of its locks after some seconds; the other then ends its run."""
    scripts = {FIRST: BOTH + TRAIN, SECOND: BOTH + TRAIN + TELL}
    with real_nfs.running(folder, "vers=4.2", scripts) as machines:
        machines[FIRST].until_said(f"/{RUNS}] seed=", LIMIT)  # it has ended one, and trains another
        machines[FIRST].pull_the_plug()
        said = machines[SECOND].end(LIMIT)
    assert "ended with 0" in said, said
    assert numbers(told(said, "FOUND")) == undisturbed


def test_the_server_is_started_again(folder: Path, undisturbed: dict[str, Any]) -> None:
    scripts = {
        FIRST: BOTH + f"(sleep 20; touch restart) &\n{TRAIN}touch done\n",
        SECOND: BOTH + TRAIN + "until ls | grep -q done; do sleep 0.2; done\n" + TELL,
    }
    with real_nfs.running(folder, "vers=4.2", scripts) as machines:
        said = {name: machine.end(LIMIT) for name, machine in machines.items()}
    assert all("ended with 0" in text for text in said.values()), said
    assert numbers(told(said[SECOND], "FOUND")) == undisturbed
    assert told(said[SECOND], "TRAINED") == [1] * RUNS


def test_locks_of_one_machine_only_are_told(folder: Path) -> None:
    scripts = {FIRST: BOTH + TRAIN, SECOND: BOTH}
    with real_nfs.running(folder, "vers=3,nolock", scripts) as machines:
        said = machines[FIRST].end(LIMIT)
    assert "nolock" in said, said
