"""A sweep with its report, in the process that commands are forked from: what takes longer for
the first time, such as the parser's tables, the fonts and the templates, each of them then has."""

from __future__ import annotations

import contextlib
import io
import tempfile

import torch

import nnlab

torch.set_num_threads(1)  # a process with threads cannot be forked
with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
    sizes = {"seed": [0, 1], "train_size": 20, "test_size": 20, "stopping.max_epochs": 1}
    nnlab.sweep(sizes, output_dir=folder)
