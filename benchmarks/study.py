"""The DogSet study, experiment B: three learning rates for 100 epochs, validated after each."""

from __future__ import annotations

import csv
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import nnlab
from benchmarks.overhead import nnlab as command
from benchmarks.overhead import wall
from benchmarks.problem import BATCH, CLASSES, HIDDEN
from benchmarks.race import say
from benchmarks.results import Options, Result, Table, Target, number
from nnlab import datasets
from nnlab.cores import usable as cores
from nnlab.datasets import Split
from nnlab.datasets.arrays import Sizes
from nnlab.datasets.dogset import DogSetConfig
from nnlab.datasets.dogset_synthetic import SyntheticConfig
from nnlab.device import cpu_threads

RATES, EPOCHS = 3, 100
PARTITIONS = {"train": 7665, "valid": 2000, "test": 500}


def measure(options: Options) -> Result:
    epochs = 1 if options.quick else EPOCHS
    with tempfile.TemporaryDirectory() as folder:
        say(f"  the study, {epochs} epochs")
        study = wall(
            command(
                *("experiment=dogset_learning_rate", "stopping=epochs", "-m"),
                *(f"stopping.max_epochs={epochs}", f"output_dir={folder}"),
            )
        )
        (summary,) = Path(folder).glob("*/summary.csv")
        with summary.open(newline="", encoding="utf-8") as file:
            training = sum(float(row["train_seconds"]) for row in csv.DictReader(file))
        say("  eager PyTorch")
        eager = eager_epochs(1 if options.quick else 3)
        say("  decoding")
        first, cached = decoding(Path(folder), 100 if options.quick else sum(PARTITIONS.values()))
    epoch = statistics.median(eager)
    alone = RATES * epochs * epoch
    shared = alone / cores()
    rows = [
        ["nnlab, the whole command", number(study), "1.00"],
        [
            f"eager PyTorch on {cores()} cores",
            number(shared),
            ratio(shared, study),
        ],
        ["eager PyTorch, one after another", number(alone), ratio(alone, study)],
    ]
    return Result(
        section="study",
        about=(
            f"`python -m nnlab.run experiment=dogset_learning_rate stopping=epochs`: "
            f"{RATES} learning rates, {epochs} epochs of {PARTITIONS['train']:,} images of 64x64x3,"
            f" {PARTITIONS['valid']:,} validated after each, on {cores()} cores, from the shell."
        ),
        tables=[
            Table(
                "the study",
                ["the study", "wall, s", "times nnlab"],
                rows,
                note=(
                    f"eager PyTorch: {len(eager)} epochs with validation were timed on one core, "
                    f"median {epoch:.2f} s; the study is {RATES * epochs} of them, shared without "
                    f"loss by the cores. An epoch of nnlab's took "
                    f"{training / RATES / epochs:.2f} s, without validation."
                ),
            ),
            Table(
                "reading",
                [f"{sum(PARTITIONS.values()):,} JPEGs of 64x64", "wall, s"],
                [
                    ["decoded, the first time", f"{first:.2f}"],
                    ["from the cache", f"{cached:.2f}"],
                ],
            ),
        ],
        targets=[
            Target("the whole study", 90, study, "s", at_least=False),
            Target("the study against eager loops, one after another", 5, alone / study),
            Target(f"the study against eager loops on {cores()} cores", 5, shared / study),
            Target("decoding the first time", 20, first, "s", at_least=False),
            Target("from the cache", 2, cached, "s", at_least=False),
        ],
        raw={
            "study": study,
            "train_seconds": training,
            "eager_epochs": eager,
            "decoding": first,
            "cached": cached,
        },
    )


def ratio(slower: float, faster: float) -> str:
    return f"{slower / faster:.2f}"


def eager_epochs(count: int) -> list[float]:
    """Return the seconds of some epochs, with validation, of the leanest loop in PyTorch."""
    config = SyntheticConfig("dogset_synthetic", balanced=True, normalize=True, num_classes=None)
    data = datasets.load(config, Sizes(None, None, None), seed=0)
    inputs, labels = map(torch.from_numpy, data.train.examples)
    assert data.valid is not None
    model = nnlab.mlp(12288, HIDDEN, CLASSES, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
    seconds = []
    with cpu_threads(1):
        for _ in range(1 + count):
            started = time.perf_counter()
            for batch in torch.randperm(len(labels)).split(BATCH):
                optimizer.zero_grad()
                cross_entropy(model(inputs[batch]), labels[batch]).backward()
                optimizer.step()
            evaluate(model, data.valid)
            seconds.append(time.perf_counter() - started)
    return seconds[1:]  # the first one warms up


@torch.no_grad()
def evaluate(model: torch.nn.Module, split: Split) -> tuple[Tensor, Tensor]:
    inputs, labels = map(torch.from_numpy, split.examples)
    logits = model(inputs)
    return cross_entropy(logits, labels), (logits.argmax(1) == labels).float().mean()


def decoding(folder: Path, images: int) -> tuple[float, float]:
    """Return the seconds to read a DogSet-shaped folder the first time, and from its cache."""
    dogset = folder / "dogset"
    write_photographs(dogset, images)
    config = DogSetConfig("dogset", True, False, str(dogset), False, None)
    seconds = []
    for _ in range(2):
        datasets.forget()
        started = time.perf_counter()
        datasets.read(config, Sizes(None, None, None))
        seconds.append(time.perf_counter() - started)
    datasets.forget()
    return seconds[0], seconds[1]


def write_photographs(folder: Path, images: int) -> None:
    """Write JPEGs with smooth random content, about as large as small photographs are."""
    from PIL import Image

    random = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    partitions = [name for name, size in PARTITIONS.items() for _ in range(size)]
    kept = np.linspace(0, len(partitions) - 1, images).astype(int)
    lines = ["filename,semantic_label,numeric_label,partition"]
    for image, place in enumerate(kept):
        name, label = f"{image:05}.jpg", image % CLASSES
        coarse = Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        coarse.resize((64, 64), Image.Resampling.BICUBIC).save(folder / "images" / name, quality=90)
        lines.append(f"{name},breed {label},{label},{partitions[place]}")
    (folder / "dogs.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
