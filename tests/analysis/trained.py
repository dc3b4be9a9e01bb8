"""Small trained runs for the tests of what is asked of them."""

from __future__ import annotations

from pathlib import Path

from hydra import compose, initialize_config_dir

from nnlab import hydra_jobs, sweeps
from nnlab.compose import VERSION_BASE, Template, register
from nnlab.config import CONF, Config
from nnlab.datasets import Data
from nnlab.jobs import Outcome
from nnlab.trained import Trained, load


def outcome(folder: Path, *overrides: str) -> Outcome:
    """Train what the overrides describe into a folder, as the command line does."""
    register()
    with initialize_config_dir(str(CONF), **VERSION_BASE):
        composed = compose("config", overrides=list(overrides))
    (done,) = sweeps.train(
        [hydra_jobs.as_job(Template(composed), folder, list(overrides), hydra_files={})]
    )
    return done


def trained(folder: Path, *overrides: str) -> tuple[Trained, Data, Config]:
    """Train; return the loaded network, the data that it saw and its configuration."""
    done = outcome(folder, *overrides)
    assert done.error is None
    options = done.job.config
    assert options is not None
    return load(folder), options.load_data(), options
