"""The loop that users write by hand: Dataset, DataLoader, nn.Module, torch.optim.

Kept apart from nnlab as an independent oracle; it imports nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


class Images(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, inputs: Tensor, labels: Tensor) -> None:
        self.inputs, self.labels = inputs, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.labels[index]


def train(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    optimizer: torch.optim.Optimizer,
    batch_size: int,
    orders: Sequence[Sequence[int]],
    after_epoch: Callable[[float], None] = lambda loss: None,
    l1: float = 0.0,
    l2: float = 0.0,
    clip_norm: float | None = None,
) -> list[tuple[float, float]]:
    """Train an epoch per order; return each epoch's mean loss and accuracy.

    after_epoch: called with this loss, as to step a learning-rate scheduler. l1, l2: penalties on
    weights, which are no part of that loss. clip_norm: the longest that a gradient may be.
    """
    weights = [weight for weight in model.parameters() if weight.dim() > 1]
    history = []
    loss_function = nn.CrossEntropyLoss()
    for order in orders:
        loader = DataLoader(Images(inputs, labels), batch_size=batch_size, sampler=order)
        total, right, seen = 0.0, 0, 0
        for x, y in loader:
            optimizer.zero_grad()
            output = model(x)
            loss = loss_function(output, y)
            penalty = l1 * sum(w.abs().sum() for w in weights)
            penalty += l2 * sum(w.square().sum() for w in weights)
            (loss + penalty).backward()
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            optimizer.step()
            total += loss.item() * len(y)
            right += int((output.argmax(dim=1) == y).sum())
            seen += len(y)
        history.append((total / seen, right / seen))
        after_epoch(total / seen)
    return history


def plain_sgd(*, hidden: int, rate: float, batch: int, epochs: int, seed: int) -> dict[str, Any]:
    """Return the options of scikit-learn's MLPs for plain SGD, for so many epochs whatever comes
    of it."""
    return {
        "hidden_layer_sizes": [hidden],
        "solver": "sgd",
        "learning_rate_init": rate,
        "batch_size": batch,
        "momentum": 0.0,
        "alpha": 0.0,
        "tol": 0.0,
        "n_iter_no_change": epochs,
        "max_iter": epochs,
        "random_state": seed,
    }
