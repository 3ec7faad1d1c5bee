"""Calibration: what DAC and HSNs take from degraded photographs before they are trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hairify._support.nested import tensors
from hairify._support.torch_internals import tree_map
from hairify.errors import CalibrationError
from hairify.nn._boxes import WeightBox
from hairify.nn._context import ForwardContext, Hypernetwork
from hairify.nn._hsn import GIVStandardization, HyperSelectingNet
from hairify.nn._moments_dac import MomentsDAC

_LEAST_IMAGES = 2
_AT_ONCE = 8  # images that run together


@torch.no_grad()
def calibrate(
    base: nn.Module, hypernetwork: Hypernetwork, context: ForwardContext, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Whiten the DAC's moments, standardise GIVs, and bring each unit of the HSNs to mean 0 and variance 1.

    The network and the DAC run in evaluation mode. Nothing is changed unless everything can be.

    Args:
        base: the network, with the context's hook at its split.
        hypernetwork: the parts that are calibrated.
        context: of the model.
        args: the network's inputs, for a batch of degraded images.
        kwargs: further inputs.

    Raises:
        CalibrationError: there are fewer than two images, F_g is not finite, or the parts are sharded.
    """
    if any(hasattr(p, "full_tensor") for part in (hypernetwork.dac, hypernetwork.hsn) for p in part.parameters()):
        raise CalibrationError("The model is sharded. Calibrate it before `fully_shard`; shards keep what it found.")
    dac, standardization = hypernetwork.dac, hypernetwork.standardization
    assert isinstance(standardization, GIVStandardization)
    read = dac.moments if isinstance(dac, MomentsDAC) else dac
    with context.observing(base, hypernetwork):
        parts = [read(context.at_split("feature", hypernetwork, base, *part)) for part in _parts(args, kwargs)]
    if (count := sum(map(len, parts))) < _LEAST_IMAGES:
        raise CalibrationError(f"Calibration takes {_LEAST_IMAGES} images at least, better 256 or so; got {count}.")
    found = torch.cat(parts)
    if not found.isfinite().all():
        raise CalibrationError("F_g of these images leads to GIVs that are not finite. Are the images finite?")
    if isinstance(dac, MomentsDAC):
        dac.calibrate(found)
        found = dac.from_moments(found)
    standardization.calibrate(found)
    giv = standardization(found)
    for hsn in hypernetwork.hsn:
        if isinstance(hsn, HyperSelectingNet):  # another may stand there in an ablation
            hsn.calibrate(giv)


def _parts(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """A batch's inputs, a few images at a time, where all tensors have the batch as their first dimension."""
    batches = {len(t) if t.ndim else None for t in tensors((args, kwargs))}
    batch = batches.pop() if len(batches) == 1 else None
    if batch is None:
        yield args, kwargs
        return
    for start in range(0, batch, _AT_ONCE):
        cut = slice(start, start + _AT_ONCE)
        yield tree_map(lambda x, cut=cut: x[cut] if isinstance(x, Tensor) else x, (args, kwargs))


def check_untrained(hypernetwork: Hypernetwork) -> None:
    """Make sure that calibration cannot change what the network computes.

    Raises:
        CalibrationError: in some level, selecting vectors depend on the image already, and its rows differ.
    """
    for index, (hsn, box) in enumerate(zip(hypernetwork.hsn, hypernetwork.boxes, strict=True)):
        if not isinstance(hsn, HyperSelectingNet) or not isinstance(box, WeightBox):
            continue  # another may stand there in an ablation
        if hsn.selects() and not box.rows_agree():
            raise CalibrationError(
                f"The HairModel has been trained since its conversion (level {index} has rows that differ, and "
                "selects among them by image), so calibrating it now would change what it computes. Calibrate "
                "right after `hairify`, before the first step."
            )
