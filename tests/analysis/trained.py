"""Small trained runs for the tests of what is asked of them."""

from __future__ import annotations

from pathlib import Path

from nnlab import compose, datasets, sweep
from nnlab.config import Config
from nnlab.datasets import Data
from nnlab.jobs import Job, Outcome
from nnlab.network import Network, load


def outcome(folder: Path, *overrides: str) -> Outcome:
    """Train what the overrides describe into a folder, as the command line does."""
    options = compose.load(overrides)
    job = Job(folder, list(overrides), options.objective, {}, options)
    (done,) = sweep.train([job])
    return done


def trained(folder: Path, *overrides: str) -> tuple[Network, Data, Config]:
    """Train; return the loaded network, the data that it saw and its configuration."""
    done = outcome(folder, *overrides)
    assert done.error is None
    options = done.job.config
    assert options is not None
    return load(folder), datasets.load_for(options), options
