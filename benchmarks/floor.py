"""What no implementation can be faster than: a step's arithmetic at the core's peak rate."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SOURCE = Path(__file__).with_name("fma_probe.c")
FLAGS = ("-std=c11", "-O3", "-march=native", "-ffp-contract=fast")


def step_flops(sizes: Sequence[int], batch: int) -> int:
    """Count the floating-point operations in a step's matrix products.

    Two per weight and example forward, two for the weights' gradients, two for the inputs'
    gradients, which the first layer does not need. sizes: of all layers, inputs first.

    >>> step_flops([3, 2, 1], batch=10)  # 8 weights: 20 * (8 + 8 + 2)
    360
    """
    weights = [inputs * outputs for inputs, outputs in itertools.pairwise(sizes)]
    return 2 * batch * (3 * sum(weights) - weights[0])


@contextmanager
def probe() -> Iterator[Callable[[], float] | None]:
    """Compile fma_probe.c; give what measures GFLOP/s, or None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "fma_probe")
        build = subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(program)], check=False)
        if build.returncode != 0:
            yield None
            return

        def measure() -> float:
            return float(subprocess.check_output([str(program)], text=True).split()[0])

        yield measure
