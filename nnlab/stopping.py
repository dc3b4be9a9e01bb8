"""Rules that end a run before its last epoch: plain state and one ``update``."""

from __future__ import annotations

from typing import Protocol


class StoppingRule(Protocol):
    def update(self, valid_loss: float) -> str | None:
        """Take the validation loss after an epoch; return why to stop, or None to go on."""


class Plateau:
    """Stop when the validation loss decreased by less than ``min_delta`` for ``patience``
    epochs in a row, each compared with the epoch before it.

    The first epoch has nothing to be compared with and counts as progress. NaN is never
    an improvement, and a step down from infinity is one.

    >>> rule = Plateau(min_delta=0.1, patience=2)
    >>> [rule.update(loss) for loss in (1.0, 0.5, 0.45)]
    [None, None, None]
    >>> rule.update(0.44)
    'validation loss decreased by less than 0.1 for 2 epochs in a row'
    """

    def __init__(self, min_delta: float = 1e-4, patience: int = 1) -> None:
        self.min_delta = min_delta
        self.patience = patience
        self.previous: float | None = None
        self.flat_epochs = 0

    def update(self, valid_loss: float) -> str | None:
        # A NaN on either side makes the comparison false: no improvement.
        improved = self.previous is None or self.previous - valid_loss >= self.min_delta
        improved = improved and valid_loss == valid_loss
        self.flat_epochs = 0 if improved else self.flat_epochs + 1
        self.previous = valid_loss
        if self.flat_epochs < self.patience:
            return None
        epochs = "epoch" if self.patience == 1 else "epochs in a row"
        return (
            f"validation loss decreased by less than {self.min_delta:g} "
            f"for {self.patience} {epochs}"
        )
