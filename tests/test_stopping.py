from __future__ import annotations

import math

import pytest

from nnlab import Plateau


@pytest.mark.parametrize(
    ("losses", "min_delta", "patience", "stops_after"),
    [
        # decreases between epochs: 0.5, 0.25, 0.125, 0.0625 (exact in binary)
        ([1.0, 0.5, 0.25, 0.125, 0.0625], 0.125, 1, 5),
        ([1.0, 0.5, 0.25, 0.125, 0.0625], 0.0625, 1, None),
        ([1.0, 1.0], 1e-4, 1, 2),  # equal values are no decrease
        ([1.0, 1.0], 0.0, 1, None),  # a decrease of 0 is not less than 0
        ([1.0, 2.0, 1.5, 2.0, 2.0], 0.1, 2, 5),  # an improvement starts the count again
        ([1.0, 2.0, 2.0], 0.1, 2, 3),
        ([1.0, math.nan], 0.0, 1, 2),  # NaN never counts as an improvement
        ([math.nan, 1.0], 0.0, 1, 1),
        ([1.0, math.nan, 0.5], 0.0, 2, 3),  # nor does a step from NaN
        ([math.inf, 1.0, 0.5], 0.1, 1, None),
        ([1.0, 0.5, 0.7, 0.4], 0.1, 1, 3),  # compared with the epoch before, not the best
    ],
)
def test_plateau_against_hand_computed_curves(
    losses: list[float], min_delta: float, patience: int, stops_after: int | None
) -> None:
    rule = Plateau(min_delta, patience)
    reasons = [rule.update(loss) for loss in losses]
    stopped = [i for i, reason in enumerate(reasons, 1) if reason is not None]
    assert (stopped[0] if stopped else None) == stops_after
