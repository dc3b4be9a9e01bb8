"""The questions of ``evaluation=``, put to the network of a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnlab import datasets, device
from nnlab.analysis import fgsm, hardest, weights
from nnlab.config import Config
from nnlab.network import load

QUESTIONS = {"hardest": hardest.answer, "fgsm": fgsm.answer, "weights": weights.answer}


def ask(config: Config, folder: Path) -> list[Path]:
    """Answer every question of a configuration by files in the folder of its run.

    Raises ValueError where a question does not fit the run or its data are no longer there,
    OSError where files cannot be written.
    """
    network = load(folder)
    with device.cpu_threads(config.threads):
        data = datasets.load_for(config)
        refuse_other_data(network.result["dataset"], data.provenance, folder)
        return [
            file
            for name in dict.fromkeys(config.evaluation)
            for file in QUESTIONS[name](network, data, config, folder)
        ]


def refuse_other_data(recorded: dict[str, Any], found: dict[str, Any], folder: Path) -> None:
    """Raise ValueError where a run saw other data than there are now, wherever these lie."""
    if any(recorded.get(key) != found[key] for key in ("content", "classes", "sizes")):
        raise ValueError(
            f"the run in {folder} saw other data than there are now ({found['source']}); "
            f"bring those back, or train it anew with force=true"
        )
