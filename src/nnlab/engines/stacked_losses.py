"""The losses of the stacked engine: of the outputs of many runs at a step, and their gradient.

Axes: R runs, T steps of the longest epoch, B examples in a batch, K outputs; k the first rows,
those that still train at a step.

A loss is made for the runs of a layout. ``begin`` takes the labels of an epoch, ``step`` what the
networks make of a step's examples, ``sums`` returns what that came to. What they write to stays
where it is, as a CUDA graph wants it, but for what an epoch makes anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from nnlab.engines import Run
from nnlab.losses import CrossEntropy


class PlainCrossEntropy:
    """Cross entropy without weights of classes and without smoothing.

    real: [T, R, B, 1] 1 for an example, 0 for a slot that is left over. wide: the type to sum in.
    columns: how many sums there are of a run.
    """

    columns = 3

    def __init__(self, runs: Sequence[Run], real: Tensor, outputs: int, wide: torch.dtype) -> None:
        T, R, B, _ = real.shape
        self.real = real.squeeze(3) > 0
        self.share = real / real.sum(2, keepdim=True).clamp(min=1)  # [T, R, B, 1]
        self.minus_one = -torch.ones_like(real[0])
        self.picked = torch.zeros_like(real)  # log-probability of the right class
        self.predicted = torch.zeros(T, R, B, dtype=torch.int64, device=real.device)
        self.wide = wide

    def begin(self, labels: Tensor) -> None:
        """Take the labels [T, R, B] of an epoch."""
        self.targets = labels[..., None]

    def step(self, t: int, k: int, logits: Tensor) -> Tensor:
        """Return the mean loss's derivative by the logits, [k, B, K] both, at step t."""
        target = self.targets[t, :k]
        likely = self.look(t, k, logits)
        # The mean cross entropy's derivative by the logits: (softmax - one-hot) / B.
        dy = likely.exp_().scatter_add_(2, target, self.minus_one[:k])
        return dy.mul_(self.share[t, :k])

    def look(self, t: int, k: int, logits: Tensor) -> Tensor:
        """Keep what the measures need, and return the log-probabilities."""
        likely = log_softmax(logits, 2)
        torch.gather(likely, 2, self.targets[t, :k], out=self.picked[t, :k])
        torch.argmax(logits, 2, out=self.predicted[t, :k])
        return likely

    def sums(self) -> Tensor:
        """Return each run's sums over the epoch's examples: loss, right answers and weight."""
        right = self.predicted == self.targets.squeeze(3)
        return totals(-self.picked.squeeze(3), right, None, self.real, self.wide)

    def evaluate(
        self, rows: list[int], logits: Tensor, labels: Tensor, real: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return the same of some examples, and which of them are classified rightly, [R, N]; None
        of a regression.

        rows: which runs these are. logits: [R, N, K], labels and real: [R, N].
        """
        picked = log_softmax(logits, 2).gather(2, labels[..., None]).squeeze(2)
        right = logits.argmax(2) == labels
        return totals(-picked[None], right[None], None, real[None], self.wide), right


class WeightedCrossEntropy(PlainCrossEntropy):
    """Cross entropy with weights of classes, or smoothing, each run's own; see ``terms``."""

    def __init__(self, runs: Sequence[Run], real: Tensor, outputs: int, wide: torch.dtype) -> None:
        super().__init__(runs, real, outputs, wide)
        terms = [run.loss.terms(outputs) for run in runs if isinstance(run.loss, CrossEntropy)]
        # [R, K] each
        self.base, self.peaks, self.weights = (
            torch.from_numpy(np.stack(rows)).to(real) for rows in zip(*terms)
        )
        self.spread = torch.zeros_like(real)  # the loss by all classes alike

    def begin(self, labels: Tensor) -> None:
        super().begin(labels)
        each = labels.transpose(0, 1).flatten(1)  # [R, T B]

        def of(term: Tensor) -> Tensor:
            found = term.gather(1, each).view(each.shape[0], labels.shape[0], -1, 1)
            return found.transpose(0, 1)  # [T, R, B, 1]

        self.peak, self.weight = of(self.peaks), of(self.weights) * self.real[..., None]
        self.mass = self.peak + self.base.sum(1)[:, None, None]
        total = self.weight.sum(2, keepdim=True)
        self.share = self.real[..., None] / torch.where(total > 0, total, 1)

    def step(self, t: int, k: int, logits: Tensor) -> Tensor:
        base, likely = self.base[:k, None], self.look(t, k, logits)
        torch.sum(likely * base, 2, keepdim=True, out=self.spread[t, :k])
        dy = likely.exp_().mul_(self.mass[t, :k]).sub_(base)
        dy.scatter_add_(2, self.targets[t, :k], -self.peak[t, :k])
        return dy.mul_(self.share[t, :k])

    def sums(self) -> Tensor:
        losses = -(self.peak * self.picked + self.spread).squeeze(3)
        right = self.predicted == self.targets.squeeze(3)
        return totals(losses, right, self.weight.squeeze(3), self.real, self.wide)

    def evaluate(
        self, rows: list[int], logits: Tensor, labels: Tensor, real: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        base, peak, weight = self.base[rows], self.peaks[rows], self.weights[rows]
        likely = log_softmax(logits, 2)
        picked = likely.gather(2, labels[..., None]).squeeze(2)
        losses = -(peak.gather(1, labels) * picked + (likely * base[:, None]).sum(2))
        right = logits.argmax(2) == labels
        weights = weight.gather(1, labels)
        return totals(losses[None], right[None], weights[None], real[None], self.wide), right


class SquaredErrors:
    """Squared error; labels are targets, [..., K]. Arguments as ``PlainCrossEntropy``."""

    def __init__(self, runs: Sequence[Run], real: Tensor, outputs: int, wide: torch.dtype) -> None:
        T, R, B, _ = real.shape
        self.columns = 2 * outputs
        self.real = real > 0
        count = outputs * real.sum(2, keepdim=True)
        self.share = 2 * real / count.clamp(min=1)  # [T, R, B, 1]
        self.wrong = torch.zeros(T, R, B, outputs, dtype=real.dtype, device=real.device)
        self.wide = wide

    def begin(self, labels: Tensor) -> None:
        self.targets = labels

    def step(self, t: int, k: int, outputs: Tensor) -> Tensor:
        wrong = torch.sub(outputs, self.targets[t, :k], out=self.wrong[t, :k])
        return wrong * self.share[t, :k]

    def sums(self) -> Tensor:
        """Return each run's sums: squared errors of each output, then absolute ones."""
        return self.total(self.wrong, self.real)

    def evaluate(
        self, rows: list[int], outputs: Tensor, labels: Tensor, real: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        return self.total((outputs - labels)[None], real[None, ..., None]), None

    def total(self, wrong: Tensor, real: Tensor) -> Tensor:
        """Sum errors [T, R, B, K] of real examples."""
        wrong = wrong.where(real, 0).to(self.wide)
        return torch.cat((wrong.square().sum((0, 2)), wrong.abs().sum((0, 2))), 1)


def kind_of(run: Run) -> type[PlainCrossEntropy] | type[SquaredErrors]:
    """Return which of the classes computes a run's loss: one for all runs of a stack."""
    if not isinstance(run.loss, CrossEntropy):
        return SquaredErrors
    return PlainCrossEntropy if run.loss.plain else WeightedCrossEntropy


def totals(
    losses: Tensor, right: Tensor, weights: Tensor | None, real: Tensor, dtype: torch.dtype
) -> Tensor:
    """Sum losses, right answers and weights (None: 1 each) of real examples: [T, R, B] each.

    Returns [R, 3].
    """
    weights = real if weights is None else weights.where(real, 0)
    return torch.stack(
        (
            losses.where(real, 0).sum((0, 2), dtype=dtype),
            (right & real).sum((0, 2)).to(dtype),
            weights.sum((0, 2), dtype=dtype),
        ),
        1,
    )
