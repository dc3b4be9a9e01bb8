"""Study folders as training leaves them, built by hand."""

from __future__ import annotations

import copy
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnlab.records import packed

CONFIG: dict[str, Any] = {
    "dataset": {"name": "mnist", "source": "auto", "folder": "data/mnist", "balanced": True},
    "model": {"name": "mlp", "hidden": [128, 64], "activation": "relu"},
    "optimizer": {"name": "sgd", "lr": 0.01, "weight_decay": 0.0, "momentum": 0.0},
    "stopping": {"name": "epochs", "max_epochs": 100},
    "train_size": 500,
    "valid_size": 0,
    "test_size": 1000,
    "batch_size": 10,
    "seed": 0,
    "device": "auto",
    "engine": "auto",
    "threads": 1,
    "hardest": {"split": "test", "per_class": 5},
    "objective": "test_loss",
    "study": "mnist",
    "output_dir": "outputs",
    "force": False,
}


def lay(
    study: Path,
    options: dict[str, Any] | None = None,
    *,
    epochs: int = 3,
    rows: str | None = None,
    name: str | None = None,
    right: Any = None,
    **result: Any,
) -> Path:
    """Lay a run folder into a study: options by dotted keys, result.json's keys by name.

    rows: the text of metrics.csv below its header; by default a loss of 2/epoch, an
    accuracy of 1 - 0.5/epoch, and the training time spread evenly over the epochs.
    right: by a split, [n] bool, which examples of it, the same ones in each run, are classified
    rightly.
    """
    config = copy.deepcopy(CONFIG)
    for key, value in (options or {}).items():
        *groups, last = (key if "." in key or key not in GROUPS else f"{key}.name").split(".")
        node = config
        for group in groups:
            node = node[group]
        node[last] = value
    overrides = [f"{key}={value}" for key, value in (options or {}).items()]
    name = name or ",".join(overrides) or "default"
    size = config["train_size"] or 60000
    seconds = result.get("train_seconds") or 0.25
    asked = {key: value for key, value in config.items() if key not in ("engine", "device")}
    content = {
        "name": name,
        "status": "finished",
        "stop_reason": f"reached max_epochs={epochs}",
        "epochs": epochs,
        "weights_of_epoch": epochs,
        "train_seconds": seconds,
        "test_loss": 0.5,
        "test_accuracy": 0.847,
        "weights": 109184,
        "parameters": 109386,
        "engine": "native",
        "engine_reason": "it can",
        "engine_form": None,
        "device": {"type": "cpu", "name": "AMD EPYC", "threads": 1},
        "dataset": {
            "name": "mnist",
            "source": "bundled sample",
            "sha256": "0" * 64,
            "shape": [28, 28],
            "classes": list("0123456789"),
            "sizes": {"train": size, "valid": config["valid_size"], "test": 1000},
            "full_size": 60000,
            "synthetic": False,
        },
        "seed": config["seed"],
        "versions": {"nnlab": "0.1.0"},
        "git": "0" * 40,
        "fingerprint": f"{zlib.crc32(repr(asked).encode()):016x}",
        "error": None,
        "overrides": overrides,
        "config": config,
    } | result
    for split, each in (right or {}).items():
        content["dataset"] |= {
            "content": "0" * 16,
            "examples": dict.fromkeys(right or {}, "1" * 16),
        }
        content["dataset"]["sizes"][split] = len(each)
        content.setdefault("right", {})[split] = packed(each)
    if rows is None:
        rows = "".join(
            f"{epoch},{2 / epoch},{1 - 0.5 / epoch},,,{seconds * epoch / epochs}\n"
            for epoch in range(1, epochs + 1)
        )
    folder = study / name
    folder.mkdir(parents=True)
    header = "epoch,train_loss,train_accuracy,valid_loss,valid_accuracy,seconds\n"
    (folder / "metrics.csv").write_text(header + rows)
    (folder / "result.json").write_text(json.dumps(content))
    return folder


def curves(valid_loss: Sequence[float], train_loss: Sequence[float] | None = None) -> str:
    """Write rows of metrics.csv: a validation loss; by default a training loss of 2/epoch.

    Training accuracy is 1 - 0.5/epoch, validation accuracy three quarters of that.
    """
    rows = ""
    for epoch, valid in enumerate(valid_loss, 1):
        train = 2 / epoch if train_loss is None else train_loss[epoch - 1]
        accuracy = 1 - 0.5 / epoch
        rows += f"{epoch},{train},{accuracy},{valid},{0.75 * accuracy},{epoch / 10}\n"
    return rows


GROUPS = ("dataset", "model", "optimizer", "stopping")
DIVERGED: dict[str, Any] = {
    "status": "diverged",
    "stop_reason": "training loss is nan",
    "test_loss": None,
    "test_accuracy": None,
}
FAILED: dict[str, Any] = {
    "status": "failed",
    "stop_reason": None,
    "error": "ValueError: no room",
    "epochs": 0,
    "weights_of_epoch": None,
    "train_seconds": 0.0,
    "test_loss": None,
    "test_accuracy": None,
    "engine": None,
    "device": None,
    "rows": "",
}
# Of a network that is computed from a truth table, or only evaluated.
UNTRAINED: dict[str, Any] = {
    "stop_reason": "no epochs: evaluated, not trained",
    "epochs": 0,
    "weights_of_epoch": 0,
    "train_seconds": 0.0,
    "test_accuracy": 1.0,
    "rows": "",
}


def computed(study: Path, function: str) -> Path:
    """Lay the run of a network of perceptrons, which has no hidden layers as an option."""
    folder = lay(
        study, {"dataset": "boolean"}, name=f"perceptron,{function}", weights=6, **UNTRAINED
    )
    result = json.loads((folder / "result.json").read_text())
    config = result["config"]
    config["dataset"] = {"name": "boolean", "function": function, "inputs": 2}
    config["model"] = {"name": "perceptron", "classic": False}
    config["train_size"] = result["dataset"]["sizes"]["train"] = 4
    config["test_size"] = None
    (folder / "result.json").write_text(json.dumps(result))
    return folder
