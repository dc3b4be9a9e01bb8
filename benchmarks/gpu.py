"""Stacked runs on a CUDA GPU, with and without the graph, beside the eager loop on the same GPU."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import floor, results
from benchmarks.problem import BATCH, CLASSES, HIDDEN, Spec
from benchmarks.race import Entry, Measured, race, ratio
from benchmarks.results import Options, Result, Table, number

EAGER, GRAPH, BARE = "eager PyTorch loop, one run", "stacked, CUDA graph", "stacked, no graph"
SIZES = (784, *HIDDEN, CLASSES)
RUNS = {1: 10, 16: 10, 128: 5, 1024: 2}  # and the epochs of a round


def measure(options: Options) -> Result:
    if not torch.cuda.is_available():
        return Result("gpu", "Skipped: no CUDA device here.", [])
    copied, multiplied = copy_rate(options), matmul_rate(options)
    flops, moved = floor.step_flops(SIZES, BATCH), step_bytes()
    tables = []
    raw: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "bytes_per_second": copied,
        "flops_per_second": multiplied,
        "bytes_per_step_of_a_run": moved,
        "flops_per_step_of_a_run": flops,
    }
    for runs, epochs in RUNS.items():
        spec = Spec(
            train_size=100 if options.quick else 1000,
            seeds=tuple(range(runs)),
            rates=(0.01,) * runs,
            device="cuda",
        )
        one = Spec(train_size=spec.train_size, device="cuda")
        measured = race(
            [
                Entry(EAGER, "eager", (one,)),
                Entry(BARE, "nnlab_stacked_without_graph", (spec,)),
                Entry(GRAPH, "nnlab_stacked", (spec,)),
            ],
            rounds=2 if options.quick else 7,
            epochs=1 if options.quick else epochs,
            band=None,  # the eager entry is one run of those that the others average
        )
        least = 1e6 * max(moved / copied, flops / multiplied)  # µs per step of a run
        tables.append(table(runs, measured, least))
        raw[str(runs)] = results.raw(measured)
    return Result(
        section="gpu",
        about=(
            f"MLP {'-'.join(map(str, SIZES))} on 1,000 MNIST images, batch {BATCH}, SGD, float32 "
            f"(TF32 off). A step of a run: {flops / 1e6:.2f} MFLOP and at least "
            f"{moved / 1e6:.2f} MB (weights and biases read and written once, the batch read "
            f"once). Measured here: {copied / 1e12:.2f} TB/s copying, {multiplied / 1e12:.1f} "
            f"TFLOP/s in a large float32 matmul; the roofline is the slower of the two, which a "
            f"stack whose weights stay in the GPU's cache may pass."
        ),
        tables=tables,
        raw=raw,
    )


def table(runs: int, measured: list[Measured], least: float) -> Table:
    """Tabulate one number of runs; least: the roofline's µs per step of a run."""
    eager = measured[0]
    rows = []
    for each in measured:
        if each.problem or not each.seconds:
            rows.append([each.label, each.problem, "", "", "", "", ""])
            continue
        low, middle, high = each.quartiles()
        mine = 1 if each is eager else runs
        rows.append(
            [
                each.label,
                number(middle * mine),
                number(middle),
                f"{number(low)} to {number(high)}",
                f"{ratio(eager, each):.1f}" if not eager.problem else "-",
                f"{least / middle:.2%}",
                f"{100 * each.accuracy:.1f} %",
            ]
        )
    columns = [
        *(f"{runs:,} runs", "µs per step of the stack", "µs per step of a run", "quartiles"),
        *("times as fast as eager", "of the roofline", "test accuracy"),
    ]
    return Table(f"{runs} runs", columns, rows)


def step_bytes() -> int:
    """Count the bytes that a step of one run cannot help moving."""
    parameters = sum(i * o + o for i, o in itertools.pairwise(SIZES))
    return 4 * (2 * parameters + BATCH * SIZES[0])


def copy_rate(options: Options) -> float:
    """Measure the bytes per second, read and written, of copying a large tensor."""
    size = 2**24 if options.quick else 2**28
    source = torch.ones(size, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / best(lambda: target.copy_(source))


def matmul_rate(options: Options) -> float:
    """Measure the FLOP per second of a large float32 product without TF32."""
    side = 1024 if options.quick else 8192
    torch.backends.cuda.matmul.allow_tf32 = False
    a, b = torch.randn(side, side, device="cuda"), torch.randn(side, side, device="cuda")
    product = torch.empty_like(a)
    return 2 * side**3 / best(lambda: torch.mm(a, b, out=product))


def best(work: Callable[[], object]) -> float:
    """Return the fewest seconds that some work on the GPU takes, of ten tries."""
    seconds = []
    for _ in range(12):
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return min(seconds[2:])
