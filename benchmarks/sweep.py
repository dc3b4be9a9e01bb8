"""Sweeps of 4 to 256 runs on all cores: time per step, when every core is busy."""

from __future__ import annotations

from dataclasses import replace

from benchmarks import results
from benchmarks.problem import Spec
from benchmarks.race import Entry, Measured, race
from benchmarks.results import Options, Result, Table, Target
from nnlab.cores import usable as cores

NATIVE, PLAIN = "nnlab native", "plain DataLoader loops"
IN_TURN = f"{PLAIN}, one after another"
RATES = (0.01, 0.02, 0.05, 0.1)
EPOCHS = {4: 20, 16: 8, 64: 3, 256: 1}  # of a round


def measure(options: Options) -> Result:
    rounds = 1 if options.quick else 5
    sweeps = {4: 1} if options.quick else EPOCHS
    tables: list[Table] = []
    targets: list[Target] = []
    raw = {}
    for runs, epochs in sweeps.items():
        whole = Spec(
            train_size=100 if options.quick else 1000,
            seeds=tuple(range(runs)),
            rates=tuple(RATES[run % len(RATES)] for run in range(runs)),
            threads=cores(),
        )
        shares = divided(whole, cores())
        in_turn = [Entry(IN_TURN, "plain", divided(whole, 1))] if runs == 16 else []
        measured = race(
            [
                *in_turn,
                Entry(f"{PLAIN}, {len(shares)} processes", "plain", shares),
                Entry(f"eager PyTorch, {len(shares)} processes", "eager", shares),
                Entry(f"JAX jit + scan, {len(shares)} processes", "jax_scan", shares),
                Entry("JAX vmap over the runs", "jax_vmap", (whole,)),
                Entry(f"nnlab stacked, {len(shares)} processes", "nnlab_stacked", shares),
                Entry(NATIVE, "nnlab_native", (whole,)),
            ],
            rounds=rounds,
            epochs=epochs,
            band=None if options.quick else 0.015,
        )
        note = f"{runs} runs of {1 + rounds * epochs} epochs; {rounds} rounds in turn."
        tables.append(results.timing_table(f"{runs} runs", measured, NATIVE, note=note))
        raw[str(runs)] = results.raw(measured)
        if runs == 16:
            targets = [
                Target(
                    f"16 runs against {each.label}", 25, results.times(measured, each.label, NATIVE)
                )
                for each in measured[:2]
            ]
    for runs in (1, 2, 3):
        title = f"{runs} large run{'s' * (runs > 1)}"
        measured = race_of_large(runs, rounds, options)
        note = f"MLP 784-512-512-10, batch 64, generated images; {rounds} rounds in turn."
        tables.append(results.timing_table(title, measured, NATIVE, note=note))
        raw[title] = results.raw(measured)
    return Result(
        section="sweep",
        about=(
            f"Runs with different seeds and learning rates on {whole.train_size:,} MNIST images, "
            f"MLP 784-128-64-10, batch 10, SGD, on {cores()} cores. Time per step: wall time over "
            f"the steps of all runs. Processes take their share of the runs, a core and "
            f"one thread each, one run after another (stacked: all at once); nnlab native and vmap "
            f"are one process with {cores()} threads; 'one after another' is one process with one "
            f"thread, as a script that trains run by run. Test accuracy: the mean over the runs. "
            f"Of 1 to 3 runs of a larger network nnlab native divides the last among the cores."
        ),
        tables=tables,
        targets=targets,
        raw=raw,
    )


def race_of_large(runs: int, rounds: int, options: Options) -> list[Measured]:
    """Race a few runs of a network that is large enough to be divided among cores."""
    whole = Spec(
        data="784",
        train_size=64 * (2 if options.quick else 50),
        seeds=tuple(range(runs)),
        rates=RATES[:runs],
        threads=cores(),
        hidden=(512, 512),
        batch=64,
    )
    shares = divided(whole, cores())
    return race(
        [
            Entry(f"eager PyTorch, {cores()} threads, one after another", "eager", (whole,)),
            Entry(f"eager PyTorch, {len(shares)} processes", "eager", shares),
            Entry(f"JAX jit + scan, {len(shares)} processes", "jax_scan", shares),
            Entry(NATIVE, "nnlab_native_usual_form", (whole,)),
        ],
        rounds=rounds,
        epochs=6,
        band=None,
    )


def divided(spec: Spec, processes: int) -> tuple[Spec, ...]:
    """Deal a sweep's runs out to processes of one thread each."""
    return tuple(
        replace(spec, seeds=spec.seeds[p::processes], rates=spec.rates[p::processes], threads=1)
        for p in range(min(processes, len(spec.seeds)))
    )
