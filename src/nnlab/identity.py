"""Which options are no part of what identifies a run: they change none of its numbers."""

from __future__ import annotations

from typing import Any

from nnlab.analysis import EVALUATIONS

# Options that say where results go or what is done with them, not what is computed.
NOT_IDENTITY = (
    *("study", "output_dir", "force", "objective", "checkpoint", "cores", "save_weights"),
    *("plan", "evaluation", *EVALUATIONS),
)
# Options that ask for a way to compute; ``records.serves`` compares what was really used.
ASKED = ("device", "engine", "native_level", "threads")
# Options of a dataset that say where its files are; their content is compared instead.
WHERE = ("file", "folder", "source")
# Options that came after others, at the value that does what was done before them: left out of an
# identity there, so that a study trained before is still known as done.
ADDED: dict[str, Any] = {
    "folds": None,
    "fold": None,
    "model.init": "default",
    "model.bias": True,
    "model.batch_norm": False,
    "model.dropout": 0.0,
    "optimizer.l1": 0.0,
    "optimizer.l2": 0.0,
    "optimizer.clip_norm": None,
    "optimizer.schedule": "constant",
    "optimizer.warmup": 0,
    "optimizer.step_size": 30,
    "optimizer.gamma": 0.1,
    "optimizer.patience": 10,
    "optimizer.min_lr": 0.0,
    "loss.label_smoothing": 0.0,
    "loss.class_weights": None,
    "dataset.task": "classification",
}


def without_added(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a tree of options without those of ``ADDED`` that are at the value given there, and
    without what is empty then."""
    kept = {}
    for key, value in tree.items():
        name = prefix + key
        if isinstance(value, dict) and value:
            value = without_added(value, f"{name}.")
            if value:
                kept[key] = value
        elif name not in ADDED or value != ADDED[name]:
            kept[key] = value
    return kept
