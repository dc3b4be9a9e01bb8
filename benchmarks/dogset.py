"""DogSet's shape on generated images: 1.6 million weights, which do not fit the inner cache."""

from __future__ import annotations

from dataclasses import replace

from benchmarks import floor, results
from benchmarks.one_run import EAGER, JAX, NATIVE, race_to_floor
from benchmarks.problem import BATCH, CLASSES, HIDDEN, Spec
from benchmarks.results import Options, Result, Target

USUAL = "nnlab native, usual form"
CONTENDERS = {
    EAGER: "eager",
    JAX: "jax_scan",
    USUAL: "nnlab_native_usual_form",
    NATIVE: "nnlab_native",
}
ALL_IMAGES = 7660  # DogSet's training partition in whole batches, as JAX's scan needs them


def measure(options: Options) -> Result:
    rounds, epochs = (2, 1) if options.quick else (9, 4)
    few = Spec(
        data="12288",
        train_size=50 if options.quick else 500,
        rates=(0.001,),
        max_epochs=1 + rounds * epochs,
    )
    every = replace(few, train_size=60 if options.quick else ALL_IMAGES, max_epochs=100)
    sizes = (12288, *HIDDEN, CLASSES)
    with floor.probe() as probe:
        measured, whole = (
            race_to_floor(CONTENDERS, spec, sizes, probe, taken, each, options)
            for spec, taken, each in ((few, rounds, epochs), (every, min(rounds, 5), 1))
        )
    flops = floor.step_flops(sizes, BATCH)
    return Result(
        section="dogset",
        about=(
            f"MLP {'-'.join(map(str, sizes))} on generated images, batch {BATCH}, SGD, one thread "
            f"on one core: {few.train_size} images for {few.max_epochs} epochs of {few.steps} "
            f"steps, {rounds} rounds in turn; and as many as DogSet has, but for 5, "
            f"{every.train_size:,}, in {min(rounds, 5)} rounds of an epoch, nnlab told that a run "
            f"has {every.max_epochs}."
        ),
        tables=[
            results.timing_table(
                f"{few.train_size} images",
                measured,
                NATIVE,
                note=(
                    f"floor: {flops / 1e6:.1f} MFLOP a step, as every one but the dual form has; "
                    f"no pixel is zero. The dual form (`nnlab/engines/dual.py`) computes the "
                    f"inner products of all images once, in its set-up, and has "
                    f"{dual_flops(sizes, few) / 1e6:.1f} MFLOP a step afterwards."
                ),
            ),
            results.timing_table(
                f"{every.train_size:,} images",
                whole,
                NATIVE,
                note=(
                    f"{dual_flops(sizes, every) / 1e6:.1f} MFLOP a step in the dual form. A sweep "
                    f"whose runs train on the same images has its set-up once."
                ),
            ),
        ],
        targets=[
            Target("DogSet's shape against eager", 6, results.times(measured, EAGER, NATIVE)),
            Target("all its images against eager", 6, results.times(whole, EAGER, NATIVE)),
            Target(
                "DogSet's shape against the floor",
                1.2,
                results.times(measured, NATIVE, "floor"),
                at_least=False,
            ),
            Target(
                "the usual form against the floor",
                1.2,
                results.times(measured, USUAL, "floor"),
                at_least=False,
            ),
            Target("the usual form against eager", 6, results.times(measured, EAGER, USUAL)),
        ],
        raw={
            "measured": results.raw(measured),
            "whole": results.raw(whole),
            "flops_per_step": flops,
        },
    )


def dual_flops(sizes: tuple[int, ...], spec: Spec) -> int:
    """Return the operations of a step in the dual form, without its set-up."""
    narrow = floor.step_flops((spec.train_size, *sizes[1:]), BATCH)
    return narrow - 2 * BATCH * spec.train_size * sizes[1]  # the update multiplies nothing
