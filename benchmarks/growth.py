"""How time and memory grow: with the training-set size, and with the runs of a sweep."""

from __future__ import annotations

import itertools
import os
import subprocess
import tempfile
from dataclasses import replace

from benchmarks import results
from benchmarks.overhead import nnlab
from benchmarks.problem import BATCH, CLASSES, HIDDEN, Spec
from benchmarks.race import Entry, Measured, race, ratio
from benchmarks.results import Options, Result, Table, Target, number
from nnlab.cores import usable as cores
from nnlab.datasets import files, mnist

PLAIN, NATIVE = "plain DataLoader loop", "nnlab native"
SIZES = (500, 1000, 2000, 5000, 10_000, 20_000, 60_000)
RUNS = (1, 4, 16, 64, 256, 1024)
COMMANDS = (100, 1000, 10_000)
MIB = 2**20


def measure(options: Options) -> Result:
    by_size = {size: with_images(size, options) for size in ((500,) if options.quick else SIZES)}
    by_runs = {runs: with_runs(runs, options) for runs in ((1, 4) if options.quick else RUNS)}
    by_command = {runs: whole_command(runs) for runs in ((4,) if options.quick else COMMANDS)}
    sizes = (784, *HIDDEN, CLASSES)
    weight_bytes = 4 * sum(a * b for a, b in itertools.pairwise(sizes))
    one = by_runs[1].peak_bytes
    # The process without any run is known from the one with a single run.
    multiples = {
        runs: (m.peak_bytes - one) / (runs - 1) / weight_bytes
        for runs, m in by_runs.items()
        if runs > 1 and not m.problem
    }
    official = official_files(options)
    return Result(
        section="growth",
        about=(
            f"MLP 784-128-64-10, batch {BATCH}, SGD. Images up to 5,000: the bundled sample; "
            f"above: {'the official files' if official else 'generated, MNIST-shaped'}. "
            f"Medians of 3 rounds."
        ),
        tables=[
            Table(
                "size",
                [
                    *("training images", "nnlab native, 100 epochs, s", "µs per step"),
                    *("plain loop, 100 epochs, s", "times native", "nnlab's peak memory, MiB"),
                ],
                [size_row(size, measured) for size, measured in by_size.items()],
                note=(
                    "One thread on one core; 100 epochs from the median time of a step. The memory "
                    "holds the images twice: the benchmark copies the subset that it trains on."
                ),
            ),
            Table(
                "runs",
                ["runs", "µs per step of a run", "peak memory, MiB", "memory per run over weights"],
                [
                    [f"{runs:,}", m.problem, "", ""]
                    if m.problem
                    else [
                        f"{runs:,}",
                        number(m.quartiles()[1]),
                        number(m.peak_bytes / MIB),
                        f"{multiples[runs]:.1f} x" if runs in multiples else "",
                    ]
                    for runs, m in by_runs.items()
                ],
                note=(
                    f"{cores()} threads, 1,000 images held once. Memory per run: the peak less that"
                    f" of one run, over the other runs and the {weight_bytes / 1024:.0f} KiB of "
                    f"their weights."
                ),
            ),
            Table(
                "command",
                ["runs of a command", "peak memory, MiB"],
                [[f"{runs:,}", number(peak / MIB)] for runs, peak in by_command.items()],
                note=(
                    "`python -m nnlab.run seed=0,1,...`: 4 hidden units, 20 images, one epoch. "
                    "What stays of a run is what it is called and what it came to."
                ),
            ),
        ],
        targets=[
            Target(
                "memory per run over its weights (a small multiple: 4 taken)",
                4,
                multiples.get(max(by_runs)),
                at_least=False,
            ),
            Target(
                "peak memory of a command of 10,000 runs, MiB",
                1024,
                by_command[max(by_command)] / MIB,
                at_least=False,
            ),
        ],
        raw={
            "by_size": {str(size): results.raw(measured) for size, measured in by_size.items()},
            "by_runs": results.raw(list(by_runs.values())),
            "by_command": {str(runs): peak for runs, peak in by_command.items()},
            "weight_bytes": weight_bytes,
        },
    )


def with_images(size: int, options: Options) -> list[Measured]:
    large = "official" if official_files(options) else "784"
    data = "mnist" if size <= 5000 else large
    spec = Spec(data=data, train_size=size, folder=str(options.folder))
    return race(
        [
            Entry(f"{PLAIN}, {size} images", "plain", (spec,)),
            Entry(NATIVE, "nnlab_native", (spec,)),
        ],
        rounds=1 if options.quick else 3,
        epochs=max(1, 5000 // size),
        band=None,  # too few epochs for the accuracies to settle
    )


def with_runs(runs: int, options: Options) -> Measured:
    spec = Spec(seeds=tuple(range(runs)), rates=(0.01,) * runs, threads=cores())
    if options.quick:
        spec = replace(spec, train_size=100)
    (measured,) = race(
        [Entry(f"{NATIVE}, {runs} runs", "nnlab_native", (spec,))],
        rounds=1 if options.quick else 3,
        epochs=max(1, 64 // runs),
    )
    return measured


def whole_command(runs: int) -> int:
    """Return the most memory that a command of so many small runs takes, in bytes."""
    options = ("train_size=20", "test_size=20", "stopping.max_epochs=1", "model.hidden=[4]")
    with tempfile.TemporaryDirectory() as folder:
        command = nnlab(f"seed=range({runs})", *options, f"output_dir={folder}")
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed")
    return used.ru_maxrss * 1024


def official_files(options: Options) -> bool:
    wanted = mnist.IMAGE_SETS["mnist"].files
    return len(files.find(options.folder, wanted)) == len(wanted)


def size_row(size: int, measured: list[Measured]) -> list[str]:
    plain, native = measured
    if native.problem or plain.problem:
        return [f"{size:,}", native.problem or plain.problem, "", "", "", ""]
    hundred = 100 * size / BATCH / 1e6
    step, plain_step = native.quartiles()[1], plain.quartiles()[1]
    return [
        f"{size:,}",
        number(step * hundred),
        number(step),
        number(plain_step * hundred),
        f"{ratio(plain, native):.1f}",
        number(native.peak_bytes / MIB),
    ]
