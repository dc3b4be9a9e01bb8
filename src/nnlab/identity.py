"""Which options are no part of what identifies a run: they change none of its numbers."""

from __future__ import annotations

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
