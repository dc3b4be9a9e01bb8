"""What takes longer for the first time, done once in the process that commands are forked from."""

from __future__ import annotations

import contextlib
import io
import tempfile

import torch

import nnlab

torch.set_num_threads(1)  # a process with more cannot be forked
torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])  # the first one imports a lot
with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
    # On a GPU none of the forked processes could use it.
    small = {"device": "cpu", "train_size": 20, "test_size": 20, "stopping.max_epochs": 1}
    nnlab.sweep({"seed": [0, 1], **small}, output_dir=folder)
