"""Which Degradation-Aware Classifier (DAC) maps F_g to the GIV: one of hairify's own, or the user's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn

from hairify._support.copying import copy_model
from hairify.errors import DACError
from hairify.nn._moments_dac import MomentsDAC
from hairify.nn._published_dac import DegradationAwareClassifier

DACName: TypeAlias = Literal["moments", "published"]
DACSource: TypeAlias = nn.Module | Callable[[int, int], nn.Module] | DACName | None
"""What users give as `dac`: a module F_g → (B, D), a factory (in_channels, giv_dim) → module, the name of one of
hairify's own, or None for the preset's."""


def make_dac(source: DACSource, feature: tuple[int, int, int], giv_dim: int, *, single: bool = False) -> nn.Module:
    """The DAC that the user asked for.

    Args:
        source: a module as it is, a factory's product, or the name of one of hairify's own.
        feature: (C, h, w) of F_g.
        giv_dim: D.
        single: F_g always has a single position.

    Raises:
        DACError: `source` is something else, it raises, or its product is no module.
    """
    if source == "moments":
        return MomentsDAC(feature[0], giv_dim, single=single)
    if source == "published":
        return DegradationAwareClassifier(feature[0], giv_dim)
    dac: Any = source
    if callable(source) and not isinstance(source, nn.Module):
        try:
            dac = source(feature[0], giv_dim)
        except Exception as error:
            raise DACError(
                f"The DAC factory was called with in_channels={feature[0]} and giv_dim={giv_dim}, and raised "
                f"{type(error).__name__}: {error}"
            ) from error
    if not isinstance(dac, nn.Module):
        raise DACError(
            f"`dac` is {source!r}; accepted are {', '.join(map(repr, get_args(DACName)))}, a module that maps F_g "
            f"(B, {feature[0]}, h, w) to (B, D), and a factory (in_channels, giv_dim) -> module."
        )
    return dac


def measure_dac(dac: nn.Module, feature: tuple[int, int, int]) -> int:
    """D, by running a copy of the DAC on two blank features.

    Raises:
        DACError: it fails on them, or does not return one vector per image.
    """
    if type(dac) in (MomentsDAC, DegradationAwareClassifier) and dac.in_channels == feature[0]:
        return cast(int, dac.giv_dim)
    like = next((p for p in dac.parameters() if p.is_floating_point()), torch.empty(0))
    expected = f"(2, D) for a feature of shape (2, {', '.join(map(str, feature))})"
    try:
        with torch.no_grad():
            giv = copy_model(dac).eval()(torch.zeros(2, *feature).to(like))
    except Exception as error:
        raise DACError(
            f"The DAC ({type(dac).__name__}) must return {expected}, but it raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(giv, Tensor) or giv.ndim != 2 or giv.shape[0] != 2:
        got = tuple(giv.shape) if isinstance(giv, Tensor) else type(giv).__name__
        raise DACError(f"The DAC ({type(dac).__name__}) must return {expected}, but it returned {got}.")
    return giv.shape[1]
