"""DogSet's shape on generated images: 1.6 million weights, which do not fit the inner cache."""

from __future__ import annotations

from benchmarks import floor, results
from benchmarks.one_run import EAGER, JAX, NATIVE, seconds_per_step
from benchmarks.problem import BATCH, CLASSES, HIDDEN, Spec
from benchmarks.race import Entry, race
from benchmarks.results import Options, Result, Target


def measure(options: Options) -> Result:
    rounds, epochs = (2, 1) if options.quick else (9, 4)
    spec = Spec(data="12288", train_size=50 if options.quick else 500, rates=(0.001,))
    contenders = {EAGER: "eager", JAX: "jax_scan", NATIVE: "nnlab_native"}
    sizes = (12288, *HIDDEN, CLASSES)
    with floor.probe() as probe:
        measured = race(
            [Entry(label, peer, (spec,)) for label, peer in contenders.items()],
            rounds=rounds,
            epochs=epochs,
            band=None if options.quick else 0.015,
            floor=seconds_per_step(probe, sizes, spec),
        )
    flops = floor.step_flops(sizes, BATCH)
    return Result(
        section="dogset",
        about=(
            f"MLP {'-'.join(map(str, sizes))} on {spec.train_size} generated images, batch {BATCH},"
            f" SGD, {1 + rounds * epochs} epochs of {spec.steps} steps, one thread on one core; "
            f"{rounds} rounds in turn."
        ),
        tables=[
            results.timing_table(
                "DogSet's shape",
                measured,
                NATIVE,
                note=f"floor: {flops / 1e6:.1f} MFLOP a step; no pixel is zero.",
            )
        ],
        targets=[
            Target("DogSet's shape against eager", 6, results.times(measured, EAGER, NATIVE)),
            Target(
                "DogSet's shape against the floor",
                1.2,
                results.times(measured, NATIVE, "floor"),
                at_least=False,
            ),
        ],
        raw={"measured": results.raw(measured), "flops_per_step": flops},
    )
