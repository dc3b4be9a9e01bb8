"""The questions of ``evaluation=``, put to the network of a finished run."""

from __future__ import annotations

from pathlib import Path

from nnlab import datasets, device
from nnlab.analysis import fgsm, hardest, weights
from nnlab.config import Config
from nnlab.network import load

QUESTIONS = {"hardest": hardest.answer, "fgsm": fgsm.answer, "weights": weights.answer}


def ask(config: Config, folder: Path) -> list[Path]:
    """Answer every question of a configuration by files in the folder of its run.

    Raises ValueError where a question does not fit the run, OSError where files cannot be
    written.
    """
    network = load(folder)
    with device.cpu_threads(config.threads):
        data = datasets.load(
            config.dataset,
            train_size=config.train_size,
            valid_size=config.valid_size,
            test_size=config.test_size,
            seed=config.seed,
        )
        return [
            file
            for name in dict.fromkeys(config.evaluation)
            for file in QUESTIONS[name](network, data, config, folder)
        ]
