"""The loss of the bundled restorer's second stage."""

from __future__ import annotations

from torch import Tensor

_LEAST = 1e-4  # below which it is no longer worth while: a fortieth of a level of 8 bits


def root_l1(restored: Tensor, clean: Tensor) -> Tensor:
    """The root of each image's mean absolute error, (B,): between L1, by which what is lost most is learnt first, and
    its logarithm, by which a decibel counts alike everywhere."""
    return (restored - clean).abs().mean(dim=(1, 2, 3)).add(_LEAST).sqrt()
