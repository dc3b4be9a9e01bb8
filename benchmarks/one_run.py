"""One run of experiment A, by every contender; and the floor of its arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from benchmarks import floor, results
from benchmarks.problem import BATCH, CLASSES, HIDDEN, Spec
from benchmarks.race import Entry, Measured, core_of, pinned, race
from benchmarks.results import Options, Result, Target

NATIVE, PLAIN, JAX = "nnlab native", "plain DataLoader loop", "JAX jit + scan"
EAGER = "eager PyTorch, tensors in memory"
CONTENDERS = {
    PLAIN: "plain",
    EAGER: "eager",
    "torch.compile of the step": "compiled",
    "scikit-learn MLPClassifier": "scikit_learn",
    "skorch": "skorch",
    "Lightning": "lightning",
    "Keras on JAX": "keras",
    JAX: "jax_scan",
    "nnlab torch": "nnlab_torch",
    NATIVE: "nnlab_native",
}
FEWER = {label: CONTENDERS[label] for label in (EAGER, JAX, NATIVE)}


def measure(options: Options) -> Result:
    rounds, epochs = (2, 1) if options.quick else (9, 11)
    spec = Spec(train_size=100 if options.quick else 1000)
    # Most of MNIST's pixels are zero, and the native engine skips those; here none is.
    filled = replace(spec, data="784")
    sizes = (784, *HIDDEN, CLASSES)
    with floor.probe() as probe:
        measured, without_zeros = (
            race_to_floor(contenders, images, sizes, probe, rounds, epochs, options)
            for images, contenders in ((spec, CONTENDERS), (filled, FEWER))
        )
    flops = floor.step_flops(sizes, BATCH) / 1e6
    return Result(
        section="one_run",
        about=(
            f"MLP {'-'.join(map(str, sizes))} on {spec.train_size:,} MNIST images, batch {BATCH}, "
            f"SGD with lr {spec.rates[0]}, {1 + rounds * epochs} epochs, a process each on the "
            f"same core with one thread; {rounds} rounds in turn. All begin with the same weights."
        ),
        tables=[
            results.timing_table(
                "one run",
                measured,
                NATIVE,
                note=(
                    f"floor: a step's {flops:.2f} MFLOP at the core's measured peak rate of fused "
                    f"multiply-adds{'' if probe else ' (not measured: no C compiler)'}. Set-up: "
                    f"building, compiling and the first epoch. A time is printed only where the "
                    f"final accuracy is within 1.5 points of the plain loop's. The floor counts "
                    f"every pixel; nnlab native skips those that are zero, four fifths of them "
                    f"here, and may go below it."
                ),
            ),
            results.timing_table(
                "images without zeros",
                without_zeros,
                NATIVE,
                note="Generated images in which no pixel is zero: all of the floor's arithmetic.",
            ),
        ],
        targets=[
            Target("one run against the plain loop", 13, results.times(measured, PLAIN, NATIVE)),
            Target("one run against JAX jit + scan", 1.8, results.times(measured, JAX, NATIVE)),
            *(
                Target(
                    f"one run against the floor, {images}",
                    1.4,
                    results.times(table, NATIVE, "floor"),
                    at_least=False,
                )
                for images, table in (("MNIST", measured), ("images without zeros", without_zeros))
            ),
        ],
        raw={
            "measured": results.raw(measured),
            "without_zeros": results.raw(without_zeros),
            "flops_per_step": floor.step_flops(sizes, BATCH),
        },
    )


def race_to_floor(
    contenders: dict[str, str],
    spec: Spec,
    sizes: tuple[int, ...],
    probe: Callable[[], float] | None,
    rounds: int,
    epochs: int,
    options: Options,
) -> list[Measured]:
    """Race contenders, peers by their labels, on one core; the floor is measured beside them."""
    return race(
        [Entry(label, peer, (spec,)) for label, peer in contenders.items()],
        rounds=rounds,
        epochs=epochs,
        band=None if options.quick else 0.015,
        floor=seconds_per_step(probe, sizes, spec),
    )


def seconds_per_step(
    probe: Callable[[], float] | None, sizes: tuple[int, ...], spec: Spec
) -> Callable[[], float] | None:
    """Return what measures the floor on the core where the contenders run."""
    if probe is None:
        return None

    def seconds() -> float:
        with pinned(core_of(0, spec, spread=False)):
            return floor.step_flops(sizes, spec.batch) / (1e9 * probe())

    return seconds
