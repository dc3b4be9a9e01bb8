"""A process that trains for one contender, when told to: JSON lines on stdin and stdout.

Started by race.py as ``python -m benchmarks.worker PEER SPEC``. It builds the problem, then
the contender, trains one epoch to warm up, and says what that took. Every further line
{"epochs": E} is answered with {"seconds": S, "cpu": S}, {"accuracies": true} with those. A reply
{"problem": ...} says why there can be no more of them.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print is no reply

    def reply(**content: Any) -> None:
        replies.write(json.dumps(content) + "\n")
        replies.flush()

    try:
        serve(sys.argv[1], json.loads(sys.argv[2]), reply)
    except ImportError as error:
        reply(problem=f"not installed ({error.name})")
    except Exception as error:
        reply(problem=f"failed: {type(error).__name__}: {error}".splitlines()[0])


def serve(name: str, spec: dict[str, Any], reply: Any) -> None:
    import torch

    from benchmarks.peers import PEERS
    from benchmarks.problem import Problem, Spec

    torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    problem = Problem.of(Spec(**spec))
    started = time.perf_counter()
    peer = PEERS[name](problem)
    peer.train(1)
    reply(seconds=time.perf_counter() - started)
    for line in sys.stdin:
        question = json.loads(line)
        if "epochs" in question:
            started, cpu = time.perf_counter(), time.process_time()
            peer.train(question["epochs"])
            reply(seconds=time.perf_counter() - started, cpu=time.process_time() - cpu)
        else:
            reply(accuracies=peer.accuracies(), peak_bytes=peak_bytes())


def peak_bytes() -> int:
    """Return the most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: on Linux a process begins with the peak of the one that started it.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()
