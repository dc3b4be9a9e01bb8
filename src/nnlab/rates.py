"""The learning rate of each epoch, as the schedulers of ``torch.optim.lr_scheduler`` have it.

Those change an optimizer of torch, which only one engine has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from nnlab.config import OptimizerConfig
from nnlab.stopping import Epoch

THRESHOLD, SMALLEST = 1e-4, 1e-8  # of a relative decrease and of a step, as in ReduceLROnPlateau


class Schedule:
    """The learning rate of each epoch of one run: what its options say, and how it went so far.

    After ``warmup`` epochs that rise linearly to ``lr`` (LinearLR from 1 / (warmup + 1) on) comes
    StepLR, CosineAnnealingLR to the last epoch, or ReduceLROnPlateau with ``gamma`` as factor.

    >>> from nnlab.config import SGD
    >>> schedule = Schedule(SGD(lr=0.8, schedule="step", step_size=2, gamma=0.5), max_epochs=5)
    >>> [schedule.rate_of(epoch) for epoch in range(1, 6)]
    [0.8, 0.8, 0.4, 0.4, 0.2]
    """

    def __init__(self, options: OptimizerConfig, max_epochs: int) -> None:
        self.options = options
        self.max_epochs = max_epochs
        self.seen = 0  # epochs
        self.lr, self.best, self.waited = options.lr, math.inf, 0  # of plateau

    def next(self, epochs: Sequence[Epoch]) -> float:
        """Return the rate of the epoch that comes after these, which are all so far."""
        for epoch in epochs[self.seen :]:
            self.take(epoch)
        return self.rate_of(self.seen + 1)

    def rates(self, epochs: Sequence[Epoch]) -> list[float]:
        """Return the rate of each of these epochs, which are a run's first."""
        found = []
        for epoch in epochs:
            found.append(self.rate_of(epoch.epoch))
            self.take(epoch)
        return found

    def take(self, epoch: Epoch) -> None:
        """Lower the rate of ``plateau`` after ``patience`` epochs without a lower loss."""
        self.seen = epoch.epoch
        if self.seen <= self.options.warmup:
            return
        loss = epoch.train_loss if epoch.valid_loss is None else epoch.valid_loss
        if loss < self.best * (1 - THRESHOLD):
            self.best, self.waited = loss, 0
        else:
            self.waited += 1
        if self.waited > self.options.patience:
            lower = max(self.lr * self.options.gamma, self.options.min_lr)
            self.lr, self.waited = lower if self.lr - lower > SMALLEST else self.lr, 0

    def rate_of(self, epoch: int) -> float:
        """Return the rate of an epoch, the first being 1."""
        options, past = self.options, epoch - 1 - self.options.warmup
        if past < 0:
            return options.lr * epoch / (options.warmup + 1)
        if options.schedule == "step":
            return options.lr * options.gamma ** (past // options.step_size)
        if options.schedule == "cosine":
            share = past / (self.max_epochs - options.warmup)
            height = options.lr - options.min_lr
            return options.min_lr + height * (1 + math.cos(math.pi * share)) / 2
        return self.lr


def schedule_of(optimizer: object, max_epochs: int) -> Schedule | None:
    """Return the schedule of a run; None where nnlab does not change the learning rate."""
    if isinstance(optimizer, OptimizerConfig) and optimizer.scheduled:
        return Schedule(optimizer, max_epochs)
    return None
