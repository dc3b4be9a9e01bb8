"""Small and large networks on one core, on two and on all: where a team of threads pays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks import floor, results
from benchmarks.one_run import seconds_per_step
from benchmarks.problem import HIDDEN, Spec
from benchmarks.race import Entry, Measured, race
from benchmarks.results import Options, Result, Table, Target
from nnlab.cores import usable as cores

NATIVE, TORCH, JAX = "nnlab native", "eager PyTorch", "JAX jit + scan"
# Without zeros among the inputs; an epoch has so many steps that a round takes some tenths of a
# second.
SHAPES = {
    "784-128-64-10, batch 10": Spec("784", 10 * 2000, hidden=HIDDEN),
    "784-512-512-10, batch 64": Spec("784", 64 * 100, hidden=(512, 512), batch=64),
    "3072-1024-512-100, batch 128": Spec(
        "3072", 128 * 20, hidden=(1024, 512), classes=100, batch=128
    ),
    "784-1024-1024-10, batch 128": Spec("784", 128 * 30, hidden=(1024, 1024), batch=128),
    "784-2048-2048-2048-10, batch 256": Spec("784", 256 * 3, hidden=(2048,) * 3, batch=256),
}


def measure(options: Options) -> Result:
    rounds = 1 if options.quick else 9
    counts = sorted({1, min(2, cores()), cores()})
    measured = {}
    with floor.probe() as probe:
        for shape, spec in SHAPES.items():
            few = replace(spec, train_size=2 * spec.batch) if options.quick else spec
            sizes = (int(spec.data), *spec.hidden, spec.classes)
            bound = seconds_per_step(probe, sizes, few)
            measured[shape] = race(
                contenders(few, counts), rounds=rounds, epochs=1, band=None, floor=bound
            )
    return Result(
        section="shapes",
        about=(
            f"Microseconds per step of one run on generated images without zeros, SGD, by layers "
            f"and batch; medians of {rounds} rounds in turn, quartiles in `results/shapes.json`. "
            f"One thread is pinned to a core, more have all {cores()}. floor: the arithmetic at "
            f"the measured peak rate of one core, and of as many as there are."
        ),
        tables=[table(measured, counts)],
        targets=[
            Target(f"{shape}, against {TORCH} on {on(count)}", 1, times)
            for shape, race_of in measured.items()
            for count in counts
            if (times := against_torch(race_of, count)) is not None
        ],
        raw={shape: results.raw(race_of) for shape, race_of in measured.items()},
    )


def contenders(spec: Spec, counts: Sequence[int]) -> list[Entry]:
    ways = {NATIVE: "nnlab_native_usual_form", TORCH: "eager", JAX: "jax_scan"}
    return [
        Entry(f"{label}, {on(count)}", peer, (replace(spec, threads=count),))
        for label, peer in ways.items()
        for count in counts
        if label != JAX or count in (1, cores())  # which cannot be told how many to use
    ]


def on(threads: int) -> str:
    return f"{threads} thread{'s' * (threads > 1)}"


def against_torch(measured: Sequence[Measured], count: int) -> float | None:
    return results.times(measured, f"{TORCH}, {on(count)}", f"{NATIVE}, {on(count)}")


def table(measured: dict[str, list[Measured]], counts: Sequence[int]) -> Table:
    labels = [each.label for each in next(iter(measured.values()))]
    rows = []
    for shape, race_of in measured.items():
        cells = [
            each.problem or results.number(each.quartiles()[1]) if each.seconds else "-"
            for each in race_of
        ]
        if labels[-1] == "floor" and race_of[-1].seconds:
            cells[-1] = " / ".join(
                results.number(race_of[-1].quartiles()[1] / count) for count in counts
            )
        rows.append([shape, *cells])
    return Table("layers and batch", ["layers and batch", *labels], rows)
