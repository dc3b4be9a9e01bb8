"""A small network on a table, by every contender; how long files of one's own take to load."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from benchmarks import results
from benchmarks.one_run import NATIVE, PLAIN
from benchmarks.problem import Spec
from benchmarks.race import Entry, race, say
from benchmarks.results import Options, Result, Table, Target, number
from nnlab import datasets
from nnlab.compose import load
from nnlab.cores import usable as cores

CONTENDERS = {
    PLAIN: "plain",
    "scikit-learn MLPClassifier": "scikit_learn",
    "Keras on JAX": "keras",
    "nnlab torch": "nnlab_torch",
    NATIVE: "nnlab_native",
}
COLUMNS, ROWS, IMAGES = 30, 100_000, 50_000
CSV = "rows of CSV"


def measure(options: Options) -> Result:
    rounds, epochs = (2, 1) if options.quick else (9, 3)
    spec = Spec(
        data=str(COLUMNS),
        train_size=320 if options.quick else 9600,
        hidden=(64, 64),
        classes=2,
        batch=32,
    )
    measured = race(
        [Entry(label, peer, (spec,)) for label, peer in CONTENDERS.items()],
        rounds=rounds,
        epochs=epochs,
        band=None if options.quick else 0.015,
    )
    say("  loading")
    with tempfile.TemporaryDirectory() as folder:
        rows = table_times(Path(folder), 1000 if options.quick else ROWS)
        images = image_times(Path(folder), 100 if options.quick else IMAGES)
    loading = rows | images
    return Result(
        section="tables",
        about=(
            f"MLP {COLUMNS}-64-64-2 on {spec.train_size:,} generated rows, batch {spec.batch}, "
            f"SGD with lr {spec.rates[0]}, {1 + rounds * epochs} epochs, a process each on the "
            f"same core with one thread; {rounds} rounds in turn. All begin with the same weights."
        ),
        tables=[
            results.timing_table("a table", measured, NATIVE),
            Table(
                "loading",
                ["what", "seconds", "per second"],
                [
                    [f"{what}, {count:,}", number(seconds), f"{count / seconds:,.0f}"]
                    for what, (count, seconds) in loading.items()
                ],
                note=(
                    f"From the file to splits that are drawn, standardised and hashed, in this "
                    f"process, on {cores()} cores: of tables ({COLUMNS} columns of numbers and a "
                    f"label) the median of 3. The images are JPEGs of 32x32 in ten folders; from "
                    f"the cache: a second time, when their pixels have been kept."
                ),
            ),
        ],
        targets=[
            Target("a CSV file of 100,000 rows", 3, rows[CSV][1], "s", at_least=False),
            *(
                Target(f"against {slower}", wanted, results.times(measured, slower, NATIVE))
                for slower, wanted in (("scikit-learn MLPClassifier", 1), (PLAIN, 1))
            ),
        ],
        raw={"measured": results.raw(measured), "loading": loading},
    )


def table_times(folder: Path, rows: int) -> dict[str, tuple[int, float]]:
    """Return how many rows were loaded in how many seconds, of each kind of file."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        random.normal(size=(rows, COLUMNS)), columns=[f"x{n}" for n in range(COLUMNS)]
    )
    frame["kind"] = random.choice(["no", "yes"], rows)
    frame.to_csv(folder / "table.csv", index=False)
    frame.to_parquet(folder / "table.parquet")
    times = {}
    for what, file in ((CSV, "table.csv"), ("rows of Parquet", "table.parquet")):
        asked = ("dataset=table", f"dataset.file={folder / file}", "dataset.label=kind")
        times[what] = rows, statistics.median(seconds_to_load(*asked) for _ in range(3))
    return times


def image_times(folder: Path, images: int) -> dict[str, tuple[int, float]]:
    """Return how many images were loaded in how many seconds: from files, and from the cache."""
    leaves = folder / "leaves"
    random = np.random.default_rng(0)
    for image in range(images):
        path = leaves / f"kind{image % 10}" / f"{image:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        small.resize((32, 32), Image.Resampling.BICUBIC).save(path, quality=90)
    asked = ("dataset=images", f"dataset.folder={leaves}")
    whats = ("images", "images from the cache")
    return {what: (images, seconds_to_load(*asked)) for what in whats}


def seconds_to_load(*overrides: str) -> float:
    config = load(overrides)
    datasets.forget()
    started = time.perf_counter()
    config.load_data()
    return time.perf_counter() - started
