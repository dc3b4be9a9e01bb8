"""What nnlab costs outside training: start-up, each job of a sweep, and the whole main job."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.race import REPOSITORY, quartiles, say
from benchmarks.results import Options, Result, Table, Target, number
from nnlab import build, checkpoint, claims, device, engines, records, training
from nnlab.compose import load
from nnlab.cores import usable as cores

MAIN_JOB = ("dataset=mnist", "train_size=500,1000,1500,2000", "-m")
TINY = ("train_size=10", "test_size=10", "stopping.max_epochs=1", "-m")
BARE, HYDRA, HELP = "python -c pass", "python -c 'import hydra'", "nnlab --help"
TORCH = "python -c 'import torch'"  # which the main job does not
GUARDS = "locks and hashes of a job"
JOB, RERUN, SCRIPT = "main job", "main job again, all done", "plain script of the main job"


def measure(options: Options) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        seconds, trained = starts_and_main_job(options, Path(folder))
        jobs = per_job(options, Path(folder))
        saving = checkpoints(options, Path(folder))
        guarding = locks_and_hashes(options, Path(folder))
    middle = {label: statistics.median(values) for label, values in seconds.items()}
    above = middle[JOB] - middle[HYDRA] - trained
    starts = Table(
        "command",
        ["command", "wall, s", "quartiles", "above import hydra, s"],
        [
            [label, f"{m:.2f}", f"{low:.2f} to {high:.2f}", f"{m - middle[HYDRA]:+.2f}"]
            for label, values in seconds.items()
            for low, m, high in [quartiles(values)]
        ],
        note=(
            f"main job: `python -m nnlab.run {' '.join(MAIN_JOB)}`, from the shell, with its table"
            f" and figures, into a new folder each time; the plain script "
            f"(`benchmarks/plain_script.py`) takes {middle[SCRIPT] / middle[JOB]:.1f} times as long"
            f" ({len(seconds[SCRIPT])} repetitions, the others {len(seconds[JOB])}, in turn). "
            f"The script is held to one thread, which is its fastest; the others choose."
        ),
    )
    rows = [
        [f"{launcher}, {count:,} jobs", f"{wall:.2f}", f"{training:.3f}", number(1000 * each)]
        for (launcher, count), (wall, training, each) in jobs.items()
    ]
    tiny = " ".join(TINY)
    costs = Table(
        "jobs",
        ["launcher", "wall, s", "of it training, s", "per job, ms"],
        rows,
        note=(
            f"`python -m nnlab.run seed=range(N) {tiny}`, medians. Per job: the wall time less "
            f"that of one job and less the training (the sum of train_seconds, over the "
            f"{cores()} cores for nnlab), over N - 1: composing, reading, writing, reporting."
        ),
    )
    interval = load(()).checkpoint.seconds or 0.0
    safety = Table(
        "safety",
        ["what", "size, MB", "ms", "quartiles", "share of the time"],
        [
            [
                f"checkpoint of {label}",
                f"{size / 1e6:.1f}",
                *in_ms(low, m, high),
                f"{m / interval:.3%}",
            ]
            for label, (size, values) in saving.items()
            for low, m, high in [quartiles(values)]
        ]
        + [[GUARDS, "", *in_ms(low, m, high), ""] for low, m, high in [quartiles(guarding)]],
        note=(
            f"A checkpoint from the engine's snapshot to the synced file, {len(guarding)} times; "
            f"its share of the time where one is written every {interval:g} s, the default. A run "
            f"that ends sooner, as those of the main job, writes none. {GUARDS.capitalize()}: the "
            f"study's lock taken, the owner of the folder looked up, the weights and 100 rows of "
            f"metrics hashed, the latter twice."
        ),
    )
    targets = [
        Target("main job above its training, Python and Hydra", 0.6, above, "s", at_least=False),
        Target("main job again, all done", 0.5, middle[RERUN], "s", at_least=False),
        Target("nnlab --help", 0.5, middle[HELP], "s", at_least=False),
        *(
            Target(f"a job outside training, of {count:,}", 10, 1000 * each, "ms", at_least=False)
            for (launcher, count), (_, _, each) in jobs.items()
            if launcher == "nnlab"
        ),
        *(
            Target(
                f"checkpoints of {label}",
                1,
                100 * statistics.median(values) / interval,
                "%",
                at_least=False,
            )
            for label, (_, values) in saving.items()
        ),
        Target(GUARDS, 1, 1000 * statistics.median(guarding), "ms", at_least=False),
    ]
    raw_jobs = [
        {"launcher": launcher, "jobs": count, "wall": wall, "training": training, "per_job": each}
        for (launcher, count), (wall, training, each) in jobs.items()
    ]
    return Result(
        section="overhead",
        about="Wall times of whole commands, each a new process.",
        tables=[starts, costs, safety],
        targets=targets,
        raw={"seconds": seconds, "jobs": raw_jobs, "checkpoints": saving, "guards": guarding},
    )


def starts_and_main_job(options: Options, folder: Path) -> tuple[dict[str, list[float]], float]:
    """Return the wall times of each command, and of the training in the main job, in seconds."""
    study = f"output_dir={folder / 'main'}"
    main_job = nnlab(*MAIN_JOB, study)
    script = [sys.executable, str(REPOSITORY / "benchmarks" / "plain_script.py"), str(folder)]
    if options.quick:
        main_job.append("stopping.max_epochs=1")
        script.append("1")
    commands = {
        BARE: [sys.executable, "-c", "pass"],
        HYDRA: [sys.executable, "-c", "import hydra"],
        TORCH: [sys.executable, "-c", "import torch"],
        HELP: nnlab("--help"),
        JOB: main_job,
        RERUN: main_job,
        SCRIPT: script,
    }
    seconds: dict[str, list[float]] = {label: [] for label in commands}
    trained = []
    for repetition in range(1 if options.quick else 7):
        say(f"  start-up and main job, {repetition + 1}")
        shutil.rmtree(folder / "main", ignore_errors=True)
        for label, command in commands.items():
            if label != SCRIPT or repetition % 3 == 0:  # it takes as long as all the others
                threads = {"OMP_NUM_THREADS": "1"} if label == SCRIPT else {}
                seconds[label].append(wall(command, threads))
        trained.append(train_seconds(folder / "main" / "mnist" / "summary.csv") / cores())
    return seconds, statistics.median(trained)


def per_job(options: Options, folder: Path) -> dict[tuple[str, int], tuple[float, float, float]]:
    """Return wall and training seconds, and seconds per job outside training."""
    cases = [("nnlab", 20)] if options.quick else [("nnlab", 200), ("nnlab", 2000), ("basic", 200)]
    found = {}
    for launcher, count in cases:
        say(f"  {count} jobs, {launcher} launcher")
        one, every, training = [], [], []
        for repetition in range(1 if options.quick or launcher == "basic" else 3):
            output = folder / f"{launcher}-{count}-{repetition}"
            common = (*TINY, f"output_dir={output}", f"hydra/launcher={launcher}")
            one.append(wall(nnlab("seed=0", "study=one", *common)))
            every.append(wall(nnlab(f"seed=range({count})", "study=all", *common)))
            seconds = train_seconds(output / "all" / "summary.csv")
            training.append(seconds / cores() if launcher == "nnlab" else seconds)
            # Its 1 GB stays until all is measured: before ext4 without a journal makes a file, it
            # looks at every inode freed in the last minutes, and takes ten times as long.
        total, trained = statistics.median(every), statistics.median(training)
        each = (total - statistics.median(one) - trained) / (count - 1)
        found[launcher, count] = total, trained, each
    return found


def in_ms(low: float, middle: float, high: float) -> tuple[str, str]:
    """Write seconds in milliseconds: the median and the quartiles."""
    return number(1000 * middle), f"{number(1000 * low)} to {number(1000 * high)}"


def checkpoints(options: Options, folder: Path) -> dict[str, tuple[int, list[float]]]:
    """Return the size of a checkpoint in bytes, and the seconds that saving it takes."""
    best = ("stopping=patience", "stopping.patience=1000", "valid_size=500")
    dogset = ("dataset=dogset_synthetic", "train_size=500", *best)
    cases = {"the main job": (), "its Adam with the best weights": ("optimizer=adam", *best)}
    cases |= {"DogSet's study": dogset[: 2 if options.quick else None]}
    found = {}
    for label, overrides in cases.items():
        say(f"  checkpoints of {label}")
        config = load(overrides)
        data = config.load_data()
        network = build.build_model(config, data.provenance["shape"], len(data.classes))
        run, path, seconds = build.build_run(config, data, network), folder / "checkpoint", []
        run.max_epochs = 2
        kind, _ = engines.choose_engine(config.engine, run, device.CPU)
        engine = kind([run], device.CPU)
        next(training.train_runs([run], engine))
        for _ in range(3 if options.quick else 50):
            started = time.perf_counter()
            checkpoint.save(path, checkpoint.of(run, engine, {}))
            seconds.append(time.perf_counter() - started)
        found[label] = path.stat().st_size, seconds
    return found


def locks_and_hashes(options: Options, folder: Path) -> list[float]:
    """Return the seconds that it takes to keep a run from others and from unseen damage."""
    study, seconds = folder / "guarded", []
    weights, metrics = os.urandom(437_000), os.urandom(100 * 60)
    with claims.Claim(study) as claim:
        records.RunFolder(study / "run", {"fingerprint": ""}, claim.owner).begin({})
        for _ in range(3 if options.quick else 50):
            started = time.perf_counter()
            with claims.exclusive(study):
                claims.owner(study / "run")
            for content in (weights, metrics, metrics):  # the latter also when the run has ended
                hashlib.sha256(content).hexdigest()
            seconds.append(time.perf_counter() - started)
    return seconds


def nnlab(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "nnlab.run", *arguments]


def wall(command: Sequence[str], variables: Mapping[str, str] | None = None) -> float:
    """Run a command in the repository, without output, and return the seconds that it took."""
    environment = os.environ | {"MPLBACKEND": "agg"} | dict(variables or {})
    started = time.perf_counter()
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True)
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr.decode()[-2000:]}")
    return seconds


def train_seconds(summary: Path) -> float:
    with summary.open(newline="", encoding="utf-8") as file:
        return sum(float(row["train_seconds"]) for row in csv.DictReader(file))
