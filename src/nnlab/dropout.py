"""Dropout whose masks follow from keys alone, so that every engine drops the same units.

Axes: B examples in a batch, O units of a layer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from numpy.random import Generator
from torch import Tensor, nn

from nnlab import seeds
from nnlab.options import require

WORD = 2**32 - 1  # the bits of a mixed number; products stay below 2^63, in int64
STEPS = 2**24  # of a probability


class KeyedDropout(nn.Module):
    """In training, set each of the values [B, O] to zero with probability p, and divide the others
    by 1 - p.

    For each batch it draws a key from torch's global generator of the CPU, or from the one that
    ``keys_from`` lends. Raises ValueError unless 0 <= p < 1.
    Source: Srivastava et al., Dropout: a simple way to prevent neural networks from overfitting,
    2014.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        limit = "it is a fraction, at least 0 and below 1"
        require(0 <= p < 1, "dropout", f"{p:g}", limit)
        self.p = p
        self.source: Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if self.source is None:
            key = torch.randint(2**63 - 1, (1,), device="cpu")
        else:
            key = torch.from_numpy(seeds.draw(self.source))
        return x * multipliers(key.to(x.device), *x.shape, p=self.p, dtype=x.dtype)[0]

    def extra_repr(self) -> str:
        return f"p={self.p:g}"


@contextlib.contextmanager
def keys_from(source: Generator, model: nn.Module) -> Iterator[None]:
    """Have the dropout of a model draw its keys from a generator of its own, inside."""
    layers = [module for module in model.modules() if isinstance(module, KeyedDropout)]
    for layer in layers:
        layer.source = source
    try:
        yield
    finally:
        for layer in layers:
            layer.source = None


def multipliers(keys: Tensor, rows: int, units: int, *, p: float, dtype: torch.dtype) -> Tensor:
    """Return what values are multiplied with: 0 with probability p, else 1 / (1 - p).

    keys: [R] int64. Returns [R, rows, units]. kernels.h computes the same.
    """
    keys = keys[:, None, None]
    places = torch.arange(rows * units, device=keys.device).view(rows, units)
    random = mixed(mixed(places + (keys & WORD) & WORD) ^ (keys >> 32))
    return (random >> 8 >= threshold(p)).to(dtype).mul_(1 / (1 - p))


def threshold(p: float) -> int:
    """Return below which of STEPS numbers a value is dropped."""
    return round(p * STEPS)


def mixed(x: Tensor) -> Tensor:
    """Return numbers of 32 bits that look as random as x is different: [...] int64.

    Source: https://github.com/skeeto/hash-prospector, the constants 21f0aaad and 735a2d97.
    """
    x = (x ^ (x >> 16)) * 0x21F0AAAD & WORD
    x = (x ^ (x >> 15)) * 0x735A2D97 & WORD
    return x ^ (x >> 15)
