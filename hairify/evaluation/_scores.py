"""Likeness to the clean image, as the field measures it: PSNR and SSIM."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from skimage.metrics import mean_squared_error, structural_similarity
from torch import Tensor

from hairify.errors import ImageError
from hairify.evaluation._protocols import HAIRIFY, Protocol

_STRIP = 2**19  # pixels that are compared at once: SSIM makes a dozen images of its own, in float64
_BT601 = (65.481, 128.553, 24.966)  # what R, G and B in [0, 1] add to the 16 of black


@dataclass(frozen=True)
class Score:
    """Likeness to the clean image: PSNR in dB and SSIM, as a protocol has them."""

    psnr: float
    ssim: float


def score(image: Tensor, clean: Tensor, protocol: Protocol = HAIRIFY) -> Score:
    """Compares an image with the clean one, both (3, H, W) in [0, 1]. Equal images have an infinite PSNR.

    By default both numbers are those of scikit-image over all of RGB, data range 1. Large images are gone through in
    strips: the numbers are the same, and memory stays small.

    Raises:
        ImageError: less of the image is compared than the window of SSIM covers, 7 pixels, or 11, in each direction.
    """
    image, clean = (without_border(one, protocol) for one in (image, clean))
    height, width = clean.shape[1:]
    window = 11 if protocol.gaussian else 7
    if min(height, width) < window:
        raise ImageError(f"An image of {width}×{height} pixels has no SSIM; both sides must be {window} or more.")
    if torch.equal(clean, image):
        return Score(psnr=math.inf, ssim=1.0)
    options: dict[str, Any] = {"data_range": 255 if protocol.eight_bits else 1, "channel_axis": 0}
    if protocol.gaussian:
        options |= {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    error = similarity = 0.0
    for strip, inner in _strips(height, width, window // 2):
        pair = [_compared(one[:, strip], protocol) for one in (clean, image)]
        # A strip overlaps its neighbours by what the window sees beyond it, which counts for SSIM only there.
        similarity += structural_similarity(*pair, **options) * (strip.stop - strip.start - 2 * (window // 2))
        rows = slice(inner.start - strip.start, inner.stop - strip.start)
        error += mean_squared_error(*(one[:, rows] for one in pair)) * (inner.stop - inner.start)
    ssim = similarity / (height - 2 * (window // 2))
    if not error:  # equal in 8 bits, or in Y
        return Score(psnr=math.inf, ssim=float(ssim))
    psnr = 10 * math.log10(options["data_range"] ** 2 * height / error)
    return Score(psnr=psnr, ssim=float(ssim))


def without_border(image: Tensor, protocol: Protocol) -> Tensor:
    """What of an image (3, H, W) a protocol compares: it may leave pixels at each side out."""
    border = protocol.border
    return image[:, border : image.shape[1] - border, border : image.shape[2] - border]


def mean(scores: Sequence[Score]) -> Score:
    """The mean PSNR and the mean SSIM of at least one score."""
    return Score(sum(one.psnr for one in scores) / len(scores), sum(one.ssim for one in scores) / len(scores))


def _strips(height: int, width: int, margin: int) -> Iterator[tuple[slice, slice]]:
    """The rows of each strip, and those of them that no other strip counts."""
    rows = max(_STRIP // width, 1)
    for top in range(margin, height - margin, rows):
        bottom = min(top + rows, height - margin)
        inner = slice(0 if top == margin else top, height if bottom == height - margin else bottom)
        yield slice(top - margin, bottom + margin), inner


def _compared(image: Tensor, protocol: Protocol) -> npt.NDArray[np.float64]:
    """(3, h, W) in [0, 1] → (3 or 1, h, W) in what a protocol compares."""
    values: npt.NDArray[np.float64] = image.double().cpu().numpy()
    if protocol.eight_bits:
        values = np.round(values * 255) / 255
    if protocol.luma:
        values = 16 / 255 + np.tensordot(np.array(_BT601) / 255, values, axes=1)[None]
    return np.round(values * 255) if protocol.eight_bits else values
