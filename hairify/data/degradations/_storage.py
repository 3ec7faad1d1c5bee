"""What storing does to photographs: JPEG's blocks, and a lower resolution."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from hairify.data.degradations._numbers import to_8_bits, uniform


def compress(clean: Tensor, generator: Generator, quality: int | None = None) -> Tensor:
    """JPEG as Pillow (libjpeg) writes it, its colours at half the resolution, as is usual (4:2:0).

    Args:
        clean: (B, 3, H, W) in [0, 1].
        generator: the only source of randomness.
        quality: 1 to 100; None draws one for each image, 10 to 60, which is visible.

    Returns:
        (B, 3, H, W), multiples of 1/255 in [0, 1].
    """
    batch = clean.shape[0]
    drawn = uniform(batch, 10, 60, generator, clean).round().int().tolist() if quality is None else [quality] * batch
    levels = to_8_bits(clean.clone()).mul_(255).round_().byte().permute(0, 2, 3, 1).cpu().numpy()
    decoded = np.stack([_as_jpeg(one, of) for one, of in zip(levels, drawn, strict=True)])
    return torch.from_numpy(decoded).permute(0, 3, 1, 2).to(clean).div_(255)


def _as_jpeg(levels: np.typing.NDArray[np.uint8], quality: int) -> np.typing.NDArray[np.uint8]:
    file = io.BytesIO()
    PIL.Image.fromarray(levels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(PIL.Image.open(file))


def downscale(clean: Tensor, generator: Generator, factor: float | None = None) -> Tensor:
    """A smaller copy, enlarged again: bicubic both ways, and 8 bits in between.

    Args:
        clean: (B, 3, H, W) in [0, 1].
        generator: the only source of randomness.
        factor: by which each side is smaller, 1 or more; None draws one for each image, 2 to 4.

    Returns:
        (B, 3, H, W), multiples of 1/255 in [0, 1].
    """
    batch = clean.shape[0]
    drawn = uniform(batch, 2, 4, generator, clean).tolist() if factor is None else [factor] * batch
    height, width = clean.shape[2:]
    restored = []
    for image, by in zip(clean.split(1), drawn, strict=True):
        small = resize(image, (max(round(height / by), 1), max(round(width / by), 1)), "bicubic")
        restored.append(resize(to_8_bits(small), (height, width), "bicubic"))
    return to_8_bits(torch.cat(restored))


def resize(images: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Images (B, C, H, W) in another size, without aliases where it is smaller.

    Args:
        images: the images.
        size: height and width.
        mode: "area", "bilinear" or "bicubic"; the last may overshoot.
    """
    if mode == "area":
        return F.interpolate(images, size=size, mode=mode)
    return F.interpolate(images, size=size, mode=mode, align_corners=False, antialias=True)
