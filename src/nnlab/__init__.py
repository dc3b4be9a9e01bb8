"""nnlab: controlled experiments on small neural networks, a whole sweep as one computation."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Else MKL's sums follow how arrays lie in memory, and a run would not go on bit for bit.
os.environ.setdefault("MKL_CBWR", "AUTO")

if sys.argv[:1] == ["-m"]:  # as ``python -m nnlab.COMMAND`` begins, and nothing else does
    from nnlab import memory

    memory.begin_command()

if TYPE_CHECKING:
    from nnlab.boolean import truth_table as truth_table
    from nnlab.config import SGD as SGD
    from nnlab.config import Adam as Adam
    from nnlab.config import AdamW as AdamW
    from nnlab.datasets import Split as Split
    from nnlab.fitting import Fit as Fit
    from nnlab.fitting import evaluate as evaluate
    from nnlab.fitting import fit as fit
    from nnlab.fitting import train_epoch as train_epoch
    from nnlab.model import mlp as mlp
    from nnlab.model import perceptrons as perceptrons
    from nnlab.network import Network as Network
    from nnlab.network import load as load
    from nnlab.notebook import Splits as Splits
    from nnlab.notebook import load_data as load_data
    from nnlab.notebook import sweep as sweep
    from nnlab.report.frames import curves as curves
    from nnlab.report.frames import results as results
    from nnlab.report.ranking import Comparison as Comparison
    from nnlab.report.ranking import compare as compare
    from nnlab.stopping import Budget as Budget
    from nnlab.stopping import Epoch as Epoch
    from nnlab.stopping import Patience as Patience
    from nnlab.stopping import Plateau as Plateau
    from nnlab.stopping import Target as Target

    __version__: str

# Imported when first used, so that the command line starts without torch.
_HOME = {
    **dict.fromkeys(("SGD", "Adam", "AdamW"), "nnlab.config"),
    "Split": "nnlab.datasets",
    "truth_table": "nnlab.boolean",
    **dict.fromkeys(("mlp", "perceptrons"), "nnlab.model"),
    **dict.fromkeys(("Network", "load"), "nnlab.network"),
    **dict.fromkeys(("Splits", "load_data", "sweep"), "nnlab.notebook"),
    **dict.fromkeys(("Comparison", "compare"), "nnlab.report.ranking"),
    **dict.fromkeys(("curves", "results"), "nnlab.report.frames"),
    **dict.fromkeys(("Budget", "Epoch", "Patience", "Plateau", "Target"), "nnlab.stopping"),
    **dict.fromkeys(("Fit", "evaluate", "fit", "train_epoch"), "nnlab.fitting"),
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("nnlab")
    if name not in _HOME:
        raise AttributeError(f"module 'nnlab' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
