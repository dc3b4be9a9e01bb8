"""What the system refuses: memory, a full disk, one without inodes, open files.

A message that says what helps, no traceback, and the same command goes on once there is room.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nnlab import checkpoint, memory, records, storage
from tests.reliability.studies import ENVIRONMENT, LIMIT, Ended, content_of, runs_of
from tests.reliability.warm import run

QUICK = ("train_size=40", "test_size=20", "stopping.max_epochs=3", "checkpoint.seconds=0")
SWEEP = (*QUICK, "seed=0,1,2,3")
Mount = Callable[..., Path]


def limited(code: str, *arguments: str, cwd: Path) -> Ended:
    """Run a command after some code in its process."""
    command = [sys.executable, "-c", f"{code}\nfrom nnlab import run\nrun.main()", *arguments]
    done = subprocess.run(
        command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=LIMIT
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def room(kind: str, mebibytes: int, imported: str = "torch") -> str:
    """Return code that leaves a process so much more memory than it has with what is imported."""
    return f"""
import resource, sys, {imported}
from nnlab import memory
used = memory.kilobytes(memory.PROC / "self/status")[{kind!r}]
limit = {{"VmSize": resource.RLIMIT_AS, "VmData": resource.RLIMIT_DATA}}[{kind!r}]
resource.setrlimit(limit, (used + {mebibytes} * 2**20,) * 2)"""


linux = pytest.mark.skipif(memory.free() is None, reason="the system does not tell its memory")


@linux
@pytest.mark.parametrize("kind", ["VmSize", "VmData"])
def test_a_network_that_does_not_fit_is_refused(kind: str, tmp_path: Path) -> None:
    done = limited(room(kind, 600), "model.hidden=[20000,10000]", cwd=tmp_path)
    assert done.status == 1
    # 216 million weights and biases: 4 bytes each, five times.
    assert "model.hidden=[20000, 10000] with optimizer=sgd needs 4." in done.err
    assert " MB is free; use smaller layers, or checkpoint.seconds=null (" in done.err
    assert "Traceback" not in done.said
    assert not (tmp_path / "outputs" / "mnist").exists()


@linux
def test_data_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    done = limited(room("VmData", 300), "dataset=dogset_synthetic", *QUICK, cwd=tmp_path)
    assert done.status == 1
    assert "making 10,165 images needs 375 MB of memory, " in done.err
    assert "Traceback" not in done.said
    assert not (tmp_path / "outputs").exists()


@linux
def test_a_run_that_does_not_fit_harms_no_other(tmp_path: Path) -> None:
    hidden = "model.hidden=[8],[3000000,3000000]"
    done = run(*QUICK, hidden, cwd=tmp_path)
    assert done.status == 1
    assert "model.hidden=[3000000, 3000000] with optimizer=sgd needs 180" in done.err
    assert [folder.name for folder in runs_of(tmp_path / "outputs" / "mnist")] == ["model.hidden=8"]


def test_memory_that_runs_out_unforeseen_is_explained(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    blind = "\nmemory.free = lambda: None"
    done = limited(room("VmData", 600) + blind, "model.hidden=[20000,10000]", cwd=tmp_path)
    assert done.status == 1
    assert "there is no memory left to allocate 763. MiB; use smaller layers" in done.err
    assert "Traceback" not in done.said
    assert not (tmp_path / "outputs" / "mnist").exists()


@linux
@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
@pytest.mark.parametrize(
    "more",
    [
        "seed=0,1",
        pytest.param("engine=torch", marks=pytest.mark.slow),
        pytest.param("evaluation=[hardest,fgsm]", marks=pytest.mark.slow),
    ],
)
def test_little_memory_is_foreseen(limit: str, more: str, tmp_path: Path) -> None:
    """From what Python just starts with to what is enough, in steps of a fifth."""
    resource = pytest.importorskip("resource")
    room = 25e6
    ended: list[int] = []
    command = [sys.executable, "-m", "nnlab.run", *QUICK, "seed=0,1", more]
    while not ended or (ended[-1] != 0 and room < 4e9):
        bounds = (int(room), int(room))
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            preexec_fn=lambda: resource.setrlimit(getattr(resource, limit), bounds),  # noqa: B023
        )
        ended.append(done.returncode)
        if done.returncode:
            assert " is free; raise ulimit " in done.stderr.splitlines()[-1]
            assert len(done.stderr.splitlines()) <= 2  # one for each run
        room *= 1.2
    assert set(ended) == {0, 1}


@linux
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parquet", "feather", "orc"])
@pytest.mark.parametrize(
    ("limit", "room", "enough"),
    [("AS", 310, False), ("AS", 360, False), ("AS", 700, True), ("DATA", 300, True)],
)
def test_the_reader_of_a_table_is_foreseen(
    limit: str, room: int, enough: bool, kind: str, tmp_path: Path
) -> None:
    resource = pytest.importorskip("resource")
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"a": np.arange(40.0), "y": [0, 1] * 20})
    getattr(frame, f"to_{kind}")(tmp_path / f"t.{kind}")
    asked = ("plan=true", "dataset=table", f"dataset.file=t.{kind}", "dataset.label=y")
    kept = getattr(resource, f"RLIMIT_{limit}"), (room * 10**6,) * 2
    done = subprocess.run(
        [sys.executable, "-m", "nnlab.run", *asked],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        preexec_fn=lambda: resource.setrlimit(*kept),
    )
    assert done.returncode == (0 if enough else 1)
    assert enough or done.stderr.endswith(" is free; raise ulimit -v\n")


@linux
@pytest.mark.slow
def test_other_commands_foresee_it_too(undisturbed: Path, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    (run, *_) = runs_of(undisturbed)
    for module, *arguments in (
        ("runs", undisturbed),
        ("report", undisturbed),
        ("compare", undisturbed),
        ("describe", "dataset=mnist"),
        ("predict", run, undisturbed / "loss.png"),
        ("export_model", run, "--to", "torch"),
        ("export", undisturbed, "--to", "tensorboard"),
    ):
        for kind, room in (
            (resource.RLIMIT_AS, 100),
            (resource.RLIMIT_AS, 300),
            (resource.RLIMIT_DATA, 150),
            (resource.RLIMIT_DATA, 285),
        ):
            done = subprocess.run(
                [sys.executable, "-m", f"nnlab.{module}", *map(str, arguments)],
                cwd=tmp_path,
                env=ENVIRONMENT,
                capture_output=True,
                text=True,
                timeout=LIMIT,
                preexec_fn=lambda: resource.setrlimit(kind, (room * 10**6,) * 2),  # noqa: B023
            )
            said = done.stderr.splitlines()
            assert "Traceback" not in done.stderr
            assert done.returncode == 0 or "free; raise ulimit" in said[-1] or len(said) == 1, said


# ---- disks ----


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Mount]:
    """Mount a disk of a size, or the same with other options; skip where that is not allowed."""
    folder = tmp_path / "disk"
    mounted = False

    def mount(options: str) -> Path:
        nonlocal mounted
        folder.mkdir(exist_ok=True)
        again = "remount," if mounted else ""
        command = ["mount", "-t", "tmpfs", "-o", f"{again}{options}", "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no disk can be mounted: {error}")
        mounted = True
        return folder

    yield mount
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(*SWEEP, cwd=folder).status == 0
    return folder / "outputs" / "mnist"


FULL = "outputs/mnist: No space left on device; free some space, and the same command goes on"


def test_a_full_disk_stops_with_one_message(small_disk: Mount, undisturbed: Path) -> None:
    """Four networks of 438 kB fit, but not the last one's checkpoints beside the others."""
    disk = small_disk("size=1900k")
    done = run(*SWEEP, cwd=disk)
    assert done.status == 1
    assert done.err.count("No space left") == done.err.count(FULL) == 1
    assert "Traceback" not in done.said
    study = disk / "outputs" / "mnist"
    assert not list(study.rglob(storage.LEFT_OVER))
    kept = {folder: checkpoint.load(folder / records.CHECKPOINT) for folder in runs_of(study)}
    finished = {
        folder for folder in kept if (records.read_result(folder) or {}).get("status") == "finished"
    }
    if finished:
        assert "test" in done.out  # the table of what is there
        assert "accuracy" in done.out

    small_disk("size=50m")
    again = run(*SWEEP, cwd=disk)
    assert again.status == 0, again.err
    assert content_of(study) == content_of(undisturbed)
    for folder, state in kept.items():
        if state is not None and folder not in finished:
            goes_on = f"goes on after epoch {len(state.epochs)}"
            assert goes_on in (folder / records.LOG).read_text()


@pytest.mark.parametrize("size", [20, *(pytest.param(n, marks=pytest.mark.slow) for n in (4, 40))])
def test_nor_has_hydras_launcher_another(size: int, small_disk: Mount, undisturbed: Path) -> None:
    """Which writes files of its own, of whose errors none names a file."""
    disk = small_disk(f"size={size}k")
    done = run(*SWEEP, "hydra/launcher=basic", cwd=disk)
    assert done.status == 1
    assert done.err.splitlines()[-1].endswith(FULL)
    assert "Traceback" not in done.said
    small_disk("size=50m")
    assert run(*SWEEP, "hydra/launcher=basic", cwd=disk).status == 0
    assert numbers_of(disk / "outputs" / "mnist") == numbers_of(undisturbed)


@pytest.mark.parametrize(
    "size", [150, *(pytest.param(n, marks=pytest.mark.slow) for n in (8, 115))]
)
def test_nor_has_a_searchs_storage(size: int, small_disk: Mount) -> None:
    pytest.importorskip("optuna", minversion="4")
    disk = small_disk(f"size={size}k")
    ranged = ("optimizer.lr=interval(0.01,0.5)", "objective=test_loss", "model.hidden=[]")
    stored = ("hydra.sweeper.storage=sqlite:///search.db", "hydra.sweeper.n_trials=3")
    command = (*QUICK, "hydra/sweeper=search", *stored, *ranged)
    done = run(*command, cwd=disk)
    assert done.status == 1
    said = "database or disk is full; free some space, and the same command goes on"
    assert "hydra.sweeper.storage" in done.err.splitlines()[-1]
    assert done.err.splitlines()[-1].endswith(said)
    assert "Traceback" not in done.said
    small_disk("size=50m")
    assert run(*command, cwd=disk).status == 0


def numbers_of(study: Path) -> list[bytes]:
    return [(folder / records.WEIGHTS).read_bytes() for folder in runs_of(study)]


def test_a_write_that_is_refused(tmp_path: Path, undisturbed: Path) -> None:
    """As above, where no disk can be mounted."""
    code = """
import errno, itertools, os
fsync, count = os.fsync, itertools.count(1)
def full(number):
    if next(count) > 12:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    fsync(number)
os.fsync = full"""
    done = limited(code, *SWEEP, cwd=tmp_path)
    assert done.status == 1
    assert done.err.count("No space left") == done.err.count(FULL) == 1
    assert "Traceback" not in done.said
    assert run(*SWEEP, cwd=tmp_path).status == 0
    assert content_of(tmp_path / "outputs" / "mnist") == content_of(undisturbed)


def test_a_disk_without_inodes_says_so(small_disk: Mount, undisturbed: Path) -> None:
    disk = small_disk("nr_inodes=25")
    done = run(*SWEEP, cwd=disk)
    full = "outputs/mnist: No space left on device; it can hold no more files (df -i): remove some"
    assert done.status == 1
    assert done.err.count("No space left") == done.err.count(full) == 1
    assert "Traceback" not in done.said

    small_disk("nr_inodes=1000")
    again = run(*SWEEP, cwd=disk)
    assert again.status == 0, again.err
    assert content_of(disk / "outputs" / "mnist") == content_of(undisturbed)


@pytest.mark.parametrize("inodes", [5, 9])
def test_nor_does_one_that_has_hardly_any(inodes: int, small_disk: Mount) -> None:
    done = run(*SWEEP, cwd=small_disk(f"nr_inodes={inodes}"))
    assert done.status == 1
    assert "it can hold no more files (df -i)" in done.err


def test_a_disk_that_is_only_read(small_disk: Mount) -> None:
    disk = small_disk("size=50m")
    assert run(*QUICK, cwd=disk).status == 0
    small_disk("ro")
    done = run(*QUICK, "seed=1,2", cwd=disk)
    assert done.status == 1
    assert done.err.count("Read-only file system; results go to output_dir/study, choose") == 1
    assert "Traceback" not in done.said


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="limits are set as on Linux")
def test_too_few_open_files(tmp_path: Path, undisturbed: Path) -> None:
    code = """
import os, resource, torch, safetensors.torch, nnlab.training
from nnlab.report import figure_process
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 2,) * 2)"""
    done = limited(code, *SWEEP, cwd=tmp_path)
    assert done.status == 1
    assert "Too many open files; raise the limit with ulimit -n" in done.err
    assert done.err.count("Too many open files") == 1
    assert "Traceback" not in done.said
    assert run(*SWEEP, cwd=tmp_path).status == 0
    assert content_of(tmp_path / "outputs" / "mnist") == content_of(undisturbed)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="limits are set as on Linux")
def test_fewer_open_files_than_importing_takes(tmp_path: Path) -> None:
    code = """
import sys
sys.argv[0] = "-m"
import resource, nnlab, nnlab.run
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
sys.argv[0] = "nnlab"
"""
    done = limited(code, *SWEEP, cwd=tmp_path)
    assert done.status == 1
    assert "Too many open files; raise the limit with ulimit -n" in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="limits are set as on Linux")
@pytest.mark.parametrize("launcher", ["joblib", pytest.param("batches", marks=pytest.mark.slow)])
def test_too_few_open_files_for_workers(launcher: str, tmp_path: Path) -> None:
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    for count in (9, 16, 21):
        code = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({count},) * 2)"
        done = limited(code, *SWEEP, f"hydra/launcher={launcher}", cwd=tmp_path)
        assert done.status == 1
        assert "Too many open files; raise the limit with ulimit -n" in done.err.splitlines()[-1]
        assert "Traceback" not in done.said


REFUSED = {
    # 1 kB a run, and 0.5 kB a setting
    "seed=range(1500000)": "a sweep of 1,500,000 runs needs 1.5 GB of memory, ",
    "seed=range(1000000000)": "a sweep of 1,000,000,000 runs needs 1,000 GB of memory, ",
    "seed=shuffle(range(1000000000))": "a sweep of 1,000,000,000 runs needs 1,000 GB of memory, ",
    "seeds.data=range(1500) optimizer.lr=range(0.001,1.001,0.001)": "a sweep of 1,500,000 runs ",
    "optimizer.lr=range(0.001,1500.001,0.001)": "1,500,000 runs needs 2.2 GB of memory, ",
    "folds=1000000000": "a sweep of 1,000,000,000 runs needs 1,000 GB of memory, ",
    "seed=0 ++seed=range(1500000)": "a sweep of 1,500,000 runs needs 1.5 GB of memory, ",
    "seed=range(9) seed=range(1500000)": "a sweep of 1,500,000 runs needs 1.5 GB of memory, ",
    "seed=range(1500000) hydra/launcher=basic": "runs needs 1.5 GB of memory, ",
    "seed=range(1500000) hydra/sweeper=basic": "runs needs 1.5 GB of memory, ",
    "seed=range(1500000) hydra/launcher=batches": "runs needs 1.5 GB of memory, ",
    # and 8 kB of those in a batch, 250 kB where Hydra's launchers return them
    "seed=range(150000) hydra.sweeper.max_batch_size=150000": "give a smaller hydra.sweeper.max_",
    "seed=range(8000) hydra/launcher=joblib hydra.sweeper.max_batch_size=8000": "give a smaller ",
    "seed=range(1500000) hydra/launcher=joblib": "needs 1.5 GB of memory, ",
    "optimizer.lr=interval(0.001,0.1) hydra/sweeper=search hydra.sweeper.n_trials=300000": (
        "hydra.sweeper.n_trials=300000 needs 3.5 GB of memory, "
    ),
}


@linux
@pytest.mark.parametrize("options", REFUSED, ids=range(len(REFUSED)))
def test_more_runs_than_there_is_memory_for_are_refused(options: str, tmp_path: Path) -> None:
    if "search" in options:
        pytest.importorskip("optuna")
    code = room("VmSize", 1000, imported="hydra")
    done = limited(code, *QUICK, *options.split(), "valid_size=10", "-m", cwd=tmp_path)
    assert done.status == 1
    assert REFUSED[options] in done.err
    assert " is free; give " in done.err
    assert "Traceback" not in done.said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_a_job_of_hydras_launcher_returns_is_not_kept(tmp_path: Path) -> None:
    """Its configurations, 225 kB."""
    code = """
import gc
from nnlab import sweeps
def counted(tally):
    print("KEPT", sum(type(each).__name__ == "DictConfig" for each in gc.get_objects()))
    return 0
sweeps.conclude = counted"""
    kept = []
    for count in (2, 6):
        given = (f"seed=range({count})", f"study={count}", "hydra/launcher=basic", "-m")
        done = limited(code, *QUICK, *given, "hydra.sweeper.max_batch_size=2", cwd=tmp_path)
        assert done.status == 0, done.err
        assert len(runs_of(tmp_path / "outputs" / str(count))) == count
        kept.append(int(done.out.rpartition("KEPT ")[2].split()[0]))
    assert kept[1] == kept[0]


@pytest.mark.parametrize(
    ("launcher", "given"),
    [
        ("basic", ["0 100 ['seed=0']", "100 100 ['seed=100']", "200 50 ['seed=200']"]),
        ("joblib", ["0 1000 ['seed=0']", "1000 1 ['seed=1000']"]),
    ],
)
def test_hydras_launchers_are_given_so_many_jobs_at_a_time(
    launcher: str, given: list[str], tmp_path: Path
) -> None:
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    code = """
from nnlab import hydra_jobs
hydra_jobs.check_jobs = lambda *_: None
def launched(launcher, command, batch, first):
    print("GIVEN", first, len(batch), batch[0])
    return []
hydra_jobs.launch_by = launched"""
    runs = {"basic": 250, "joblib": 1001}[launcher]
    done = limited(code, f"seed=range({runs})", f"hydra/launcher={launcher}", "-m", cwd=tmp_path)
    assert done.status == 0, done.err
    said = [line for line in done.out.splitlines() if line.startswith("GIVEN")]
    assert said == [f"GIVEN {each}" for each in given]


def test_a_job_that_fails_keeps_no_later_batch_back(tmp_path: Path) -> None:
    """Also where its launcher returns an error, as joblib's does."""
    code = """
from hydra.core.utils import JobReturn, JobStatus
from nnlab import hydra_jobs
def launched(launcher, command, batch, first):
    print("GIVEN", first)
    failed = JobReturn(overrides=batch[0], status=JobStatus.FAILED)
    failed.return_value = ValueError(f"{batch[0][0]} cannot be trained")
    return [failed]
hydra_jobs.launch_by = launched"""
    batch = "hydra.sweeper.max_batch_size=2"
    done = limited(code, "seed=range(5)", "hydra/launcher=basic", batch, "-m", cwd=tmp_path)
    assert done.status == 1
    assert "seed=0 cannot be trained" in done.err
    assert [line for line in done.out.splitlines() if line.startswith("GIVEN")] == [
        *("GIVEN 0", "GIVEN 2", "GIVEN 4"),
    ]


def test_a_thousand_runs_train_at_a_time(tmp_path: Path) -> None:
    """Here three."""
    code = """
from hydra.core.plugins import Plugins
made = Plugins.instantiate_sweeper
def small(self, **given):
    sweeper = made(self, **given)
    assert sweeper.usual_size() == 1000
    type(sweeper).usual_size = lambda self: 3
    return sweeper
Plugins.instantiate_sweeper = small"""
    done = limited(code, *QUICK, "seed=range(4)", cwd=tmp_path)
    assert done.status == 0
    assert "runs 1 to 3 of 4\n" in done.said
    assert "runs 4 to 4 of 4\n" in done.said


@pytest.mark.parametrize(
    "force",
    [
        pytest.param((), id="usual", marks=pytest.mark.slow),
        pytest.param(("force=true",), id="force"),
    ],
)
def test_a_batch_leaves_what_one_before_has_trained(force: tuple[str, ...], tmp_path: Path) -> None:
    """Refused where another run has its folder, done where it is the same, in whichever."""
    batch = "hydra.sweeper.max_batch_size=2"
    swept = ("seed=0,1,2,3", "hydra.sweep.subdir=only", batch, "study=one")
    done = run(*QUICK, *swept, *force, cwd=tmp_path)
    assert done.status == 1
    assert "only: two jobs map to folder" in done.err
    (only,) = runs_of(tmp_path / "outputs" / "one")
    assert json.loads((only / "result.json").read_text())["seed"] == 0
    twins = ("seed=0,1,0,1,2", "hydra.sweep.subdir=${hydra.job.num}", batch, "study=two")
    done = run(*QUICK, *twins, *force, cwd=tmp_path)
    assert done.status == 0, done.err
    assert "the same under another name: 2 is 0, 3 is 1" in done.said
    assert {each.name for each in runs_of(tmp_path / "outputs" / "two")} == {"0", "1", "4"}
    trained = [each / "run.log" for each in runs_of(tmp_path / "outputs" / "two")]
    assert [log.read_text().count("3 epochs in") for log in trained] == [1, 1, 1]


@linux
@pytest.mark.parametrize("swept", ["seed", pytest.param("model.hidden", marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_runs(swept: str, tmp_path: Path) -> None:
    """A network has 1 MB, and 50 runs more would take 50 MB."""
    code = """
import atexit, resource
atexit.register(lambda: print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))"""
    peaks = []
    for count in (10, 60):
        values = range(count) if swept == "seed" else [f"[{300 + n}]" for n in range(count)]
        options = ("test_size=20", "checkpoint.seconds=null", "stopping.max_epochs=1")
        given = f"{swept}={','.join(map(str, values))}"
        done = limited(code, *options, given, f"study={count}", cwd=tmp_path)
        assert done.status == 0, done.err
        peaks.append(int(done.out.rpartition("PEAK ")[2]))
    # What Python has not yet collected, and what the allocator keeps, is a few MB.
    assert peaks[1] - peaks[0] < 50 * 300_000


TRACED = """
import tracemalloc
from nnlab import hydra_jobs
launch = hydra_jobs.launch
def traced(*given):
    tracemalloc.start()  # not what is imported before, which would take long
    hydra_jobs.launch = launch
    return launch(*given)
hydra_jobs.launch = traced"""


def bytes_a_run(code: str, counts: tuple[int, int], *options: str, cwd: Path) -> float:
    """Return by how much what a command prints as BYTES grows with each of its runs."""
    small = ("test_size=20", "model.hidden=[2]", "checkpoint.seconds=null", *options)
    found = []
    for count in counts:
        given = ("stopping.max_epochs=1", f"seed=range({count})", f"study={count}", "-m")
        done = limited(code, *small, *given, cwd=cwd)
        assert done.status == 0, done.err
        found.append(int(done.out.rpartition("BYTES ")[2].split()[0]))
    return (found[1] - found[0]) / (counts[1] - counts[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "most"),
    [((), 5_200), (("dataset.normalize=true", "valid_size=300"), 7_200)],
    ids=["usual", "normalize"],
)
def test_of_a_run_its_record_is_kept(options: tuple[str, ...], most: int, tmp_path: Path) -> None:
    """What it is called, what it was asked for, what it came to; not which of 2,000 examples it
    had, 16 kB, nor what it has in common with others."""
    code = """
import gc, sys
from nnlab import schedule
train = schedule.train
def counted(tasks):
    train(tasks)
    gc.collect()
    print("BYTES", tracemalloc.get_traced_memory()[0])
    sys.exit()  # no figures
schedule.train = counted"""
    assert bytes_a_run(TRACED + code, (5, 60), "train_size=2000", *options, cwd=tmp_path) < most


SMALL = ("train_size=10", "save_weights=false")


@pytest.mark.slow
def test_nothing_is_kept_of_a_run_that_has_trained(tmp_path: Path) -> None:
    """Of the batch that trains a record of each run; of those before nothing."""
    code = """
import gc, sys
from nnlab import sweeps
def counted(tally):
    gc.collect()
    print("BYTES", tracemalloc.get_traced_memory()[0])
    sys.exit()  # no figures
sweeps.conclude = counted"""
    batch = "hydra.sweeper.max_batch_size=20"
    # Caches that hold a hundred things are full.
    assert bytes_a_run(TRACED + code, (120, 200), *SMALL, batch, cwd=tmp_path) < 100


@pytest.mark.slow
def test_a_report_needs_little_for_a_run(tmp_path: Path) -> None:
    """A few numbers, of what its files say, which is 4 kB; all else is in a temporary file."""
    code = """
import gc, tracemalloc
from nnlab import long_lists, report
from nnlab.report import figure_process, page
long_lists.BLOCK = 256  # is kept of each column, however many runs
page.LINKED = 5
figure_process.draw_all = lambda *asked: []  # figures need much more, whatever the runs
write = report.write_report
def counted(*given, **options):
    gc.collect()
    tracemalloc.start()
    written = write(*given, **options)
    print("BYTES", tracemalloc.get_traced_memory()[1])
    return written
report.write_report = counted"""
    assert bytes_a_run(code, (60, 160), *SMALL, cwd=tmp_path) < 250
