"""A study to export: runs that finished, one that diverged, others that did not come to an end."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from safetensors.numpy import save_file

from tests.report.studies import DIVERGED, FAILED, curves, lay

BEGAN = datetime(2025, 3, 30, 12, 0, 0, 125_000)
SECONDS = 40.5  # from the beginning of a run to its end
WEIGHTS = {"0.weight": np.linspace(-1, 2, 12, dtype=np.float32).reshape(3, 4)}
LOG = """[2025-03-30 12:00:00.125] the configuration
[2025-03-30 12:00:20.000] in the middle
with a second line [2025-03-30 12:00:21.000]
[2025-03-30 12:00:40.625] test accuracy
"""


def study(folder: Path) -> list[Path]:
    """Lay the study; return the folders of the runs that are exported."""
    made = [
        lay(
            folder,
            {"optimizer.lr": rate, "seed": seed},
            rows=curves([1.5 + seed, 1 + rate, 0.75]),
            test_accuracy=0.75 + rate + seed / 100,
            weights_of_epoch=2,
        )
        for rate in (0.01, 0.1)
        for seed in (0, 1)
    ]
    made.append(
        lay(
            folder,
            {"optimizer.lr": 10.0, "model.hidden": []},
            epochs=2,
            rows="1,2.5,0.125,,,0.5\n2,nan,0.125,,,1\n",
            **DIVERGED,
        )
    )
    for run in made:
        (run / "run.log").write_text(LOG)
        save_file(WEIGHTS, run / "model.safetensors")
        Image.new("RGB", (8, 6), (255, 0, 9)).save(run / "curves.png")
        (run / "confusion.csv").write_text("true,0,1\n")
    lay(folder, {"seed": 8}, status="running")
    lay(folder, {"seed": 9}, **FAILED)
    return made


def result(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "result.json").read_text())
    return content


def metrics(run: Path) -> pd.DataFrame:
    """The columns of metrics.csv that have numbers, by the epoch."""
    table = pd.read_csv(run / "metrics.csv").set_index("epoch")
    known: pd.DataFrame = table.dropna(axis=1, how="all")
    return known


def began() -> float:
    """When each run was begun, in seconds since 1970."""
    return BEGAN.timestamp()
