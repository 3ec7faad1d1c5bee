"""Calibration: what DAC and HSNs take from degraded photographs before they are trained."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from hairify.boxes import GIVStandardization, HyperSelectingNet, WeightBox
from hairify.dac import MomentsDAC
from hairify.errors import CalibrationError
from hairify.scope import Hyper
from hairify.warmstart import SPREAD

LEAST_IMAGES = 2


@torch.no_grad()
def calibrate(hyper: Hyper, features: Iterable[Tensor]) -> None:
    """Whiten the DAC's moments, standardise GIVs, and bring each unit of the HSNs to mean 0 and variance 1.

    Nothing is changed unless everything can be.

    Args:
        hyper: the parts of a HairModel.
        features: F_g of degraded images, (B, C, H, W) each.

    Raises:
        CalibrationError: there are fewer than two images, F_g is not finite, or the parts are sharded.
    """
    if any(hasattr(p, "full_tensor") for part in (hyper.dac, hyper.hsn) for p in part.parameters()):
        raise CalibrationError("The model is sharded. Calibrate it before `fully_shard`; shards keep what it found.")
    dac, standardization = hyper.dac, hyper.standardization
    assert isinstance(standardization, GIVStandardization)
    read = dac.moments if isinstance(dac, MomentsDAC) else dac
    parts = [read(feature) for feature in features]
    if (count := sum(map(len, parts))) < LEAST_IMAGES:
        raise CalibrationError(f"Calibration takes {LEAST_IMAGES} images at least, better 64 or more; got {count}.")
    found = torch.cat(parts)
    if not found.isfinite().all():
        raise CalibrationError("F_g of these images leads to GIVs that are not finite. Are the images finite?")
    if isinstance(dac, MomentsDAC):
        dac.calibrate(found)
        found = dac.from_moments(found)
    standardization.calibrate(found)
    giv = standardization(found)
    for hsn in hyper.hsn:
        if isinstance(hsn, HyperSelectingNet):  # another may stand there in an ablation
            hsn.calibrate(giv, SPREAD)


def check_untrained(hyper: Hyper) -> None:
    """Make sure that calibration cannot change what the network computes.

    Raises:
        CalibrationError: in some level, selecting vectors depend on the image already, and its rows differ.
    """
    for index, (hsn, box) in enumerate(zip(hyper.hsn, hyper.boxes, strict=True)):
        if not isinstance(hsn, HyperSelectingNet) or not isinstance(box, WeightBox):
            continue  # another may stand there in an ablation
        if hsn.selects() and not box.rows_agree():
            raise CalibrationError(
                f"The HairModel has been trained since its conversion (level {index} has rows that differ, and "
                "selects among them by image), so calibrating it now would change what it computes. Calibrate "
                "right after `hairify`, before the first step."
            )
