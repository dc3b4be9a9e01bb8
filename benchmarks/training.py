"""``python -m benchmarks.training``: the plain loop beside nnlab's engines, in one process."""

from __future__ import annotations

import time

from benchmarks import results
from benchmarks.peers import nnlab_native, nnlab_torch, plain
from benchmarks.problem import Problem, Spec
from benchmarks.race import Measured
from benchmarks.results import Options, Result, Target
from nnlab.device import cpu_threads

PLAIN, TORCH, NATIVE = "plain DataLoader loop", "nnlab torch", "nnlab native"
BUILDERS = {PLAIN: plain, TORCH: nnlab_torch, NATIVE: nnlab_native}


def measure(options: Options) -> Result:
    rounds, epochs = (2, 1) if options.quick else (9, 11)
    spec = Spec(train_size=100 if options.quick else 1000)
    problem = Problem.of(spec)
    measured = [Measured(label, epochs * spec.steps) for label in BUILDERS]
    peers = []
    with cpu_threads(1):
        for each in measured:
            started = time.perf_counter()
            try:
                peers.append(BUILDERS[each.label](problem))
            except RuntimeError as error:
                each.problem = str(error)
                continue
            peers[-1].train(1)
            each.setup = time.perf_counter() - started
        running = [each for each in measured if not each.problem]
        for _ in range(rounds):
            for each, peer in zip(running, peers):
                started, cpu = time.perf_counter(), time.process_time()
                peer.train(epochs)
                each.seconds.append(time.perf_counter() - started)
                each.cpu.append(time.process_time() - cpu)
        for each, peer in zip(running, peers):
            each.accuracies = peer.accuracies()
    return Result(
        section="training",
        about=(
            f"MLP {'-'.join(map(str, problem.sizes))} on {spec.train_size:,} MNIST images, "
            f"batch 10, SGD, {1 + rounds * epochs} epochs, one thread, all in one process; "
            f"{rounds} rounds in turn."
        ),
        tables=[results.timing_table("in one process", measured, NATIVE)],
        targets=[
            Target("nnlab torch against the plain loop", 1.4, results.times(measured, PLAIN, TORCH))
        ],
        raw={"measured": results.raw(measured)},
    )


def main() -> None:
    where = results.machine()
    print(results.markdown(measure(Options()), where))


if __name__ == "__main__":
    main()
