"""What the shape of an example says of it. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence


def image_like(shape: Sequence[int]) -> bool:
    """Say whether examples of this shape can be shown as images: grey, or of 1 or 3 channels.

    >>> image_like((28, 28)), image_like((64, 64, 3)), image_like((30,)), image_like((3, 64, 64))
    (True, True, False, False)
    """
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))
