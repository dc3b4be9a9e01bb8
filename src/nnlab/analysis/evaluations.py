"""The evaluations of ``evaluation=``, of the network of a finished run."""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path
from typing import Any

from nnlab import device
from nnlab.config import Config, OwnNetworkConfig
from nnlab.perceptron import MLP
from nnlab.trained import load


def evaluate(config: Config, folder: Path) -> list[Path]:
    """Run every evaluation of a configuration; return the files that it left in the run's folder.

    Raises ValueError where an evaluation does not fit the run or its data are no longer there,
    OSError where files cannot be written.
    """
    own = config.model.function if isinstance(config.model, OwnNetworkConfig) else None
    network = load(folder, own)
    files: list[Path] = []
    numbers = isinstance(network.model, MLP)
    with contextlib.nullcontext() if numbers else device.cpu_threads(config.torch_threads):
        data = config.load_data()
        refuse_other_data(network.result["dataset"], data.provenance, folder)
        for name in dict.fromkeys(config.evaluation):
            module = importlib.import_module(f"nnlab.analysis.{name}")
            files += module.evaluate(network, data, config, folder)
    return files


def refuse_other_data(recorded: dict[str, Any], found: dict[str, Any], folder: Path) -> None:
    """Raise ValueError where a run saw other data than there are now, wherever these lie."""
    if any(recorded.get(key) != found[key] for key in ("content", "classes", "sizes")):
        raise ValueError(
            f"the run in {folder} saw other data than there are now ({found['source']}); "
            f"bring those back, or train it anew with force=true"
        )
