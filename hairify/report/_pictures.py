"""Photographs within a page."""

from __future__ import annotations

import base64
import io

import PIL.Image
from einops import rearrange
from torch import Tensor

_QUALITY = 92  # noise and rain must not look like compression


def data_uri(image: Tensor) -> str:
    """An image (3, H, W) in [0, 1] as a JPEG within an address, its colours at full resolution.

    WebP would be smaller, but halves the resolution of colours, and with it the noise.
    """
    pixels = rearrange((image.clamp(0, 1) * 255).round().byte(), "c h w -> h w c").contiguous().numpy()
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "JPEG", quality=_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
