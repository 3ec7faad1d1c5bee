"""Modulated deformable convolution (Zhu et al., Deformable ConvNets v2, CVPR 2019), in pure PyTorch."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable

import torch
import torch.fx
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

# One named node in a graph, for it computes with sizes. fx replaces the name in this file only: see its one caller.
torch.fx.wrap("_deform_conv2d")


def modulated_deform_conv2d(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """A k×k convolution, k odd, whose taps read the image anywhere: out(p) = Σ_t w_t · m_t(p) · x(p + p_t + Δ_t(p)).

    Stride 1, "same" size, without a bias. Between pixels x is interpolated bilinearly; outside of the image it is zero.
    Where torchvision has its compiled operator and agrees with this function, that operator computes it, in float32 and
    float64; never while a compiler or exporter traces, so that what is exported needs nothing but PyTorch.

    Args:
        x: shape (B, C, H, W), of any floating-point type; the sum is taken in it, positions at least in float32.
        offset: Δ in pixels, (B, 2·k², H, W): (down, right) for each tap, taps row by row.
        mask: m, (B, k², H, W).
        weight: w, (out, C, k, k).

    Returns:
        Shape (B, out, H, W).
    """
    return _deform_conv2d(x, offset, mask, weight)


def _deform_conv2d(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    operator = _torchvision_operator(x.device.type) if _is_plain(x, offset, mask, weight) else None
    return (operator or _by_sampling)(x, offset, mask, weight)


def _is_plain(x: Tensor, *others: Tensor) -> bool:
    """Whether these are numbers that torchvision's operator knows: all of one type, and nobody traces them."""
    tracing = torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()
    known = type(x) is Tensor and not x.is_meta and x.dtype in (torch.float32, torch.float64)
    return known and not tracing and all(other.dtype == x.dtype for other in others)


def _by_sampling(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    height, width = x.shape[2:]
    k = weight.shape[-1]
    wide = torch.promote_types(x.dtype, torch.float32)  # bfloat16 has no number between 256 and 258
    tap = torch.arange(k, device=x.device) - k // 2
    down, right = rearrange(offset.to(wide), "b (taps axes) h w -> axes b taps h w", axes=2).unbind()
    rows = down + tap.repeat_interleave(k)[:, None, None] + torch.arange(height, device=x.device)[:, None]
    columns = right + tap.repeat(k)[:, None, None] + torch.arange(width, device=x.device)
    # grid_sample counts from -1 to 1, with pixel i at the middle of the i-th of equal parts.
    grid = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], -1)
    grid = rearrange(grid, "b taps h w xy -> b (taps h) w xy")
    sampled = F.grid_sample(x.to(wide), grid, align_corners=False)
    taps = rearrange(sampled, "b c (taps h) w -> b c taps h w", h=height) * mask.unsqueeze(1)
    columns = rearrange(taps.to(x.dtype), "b c taps h w -> b (c taps) (h w)")
    return rearrange(weight.flatten(1) @ columns, "b out (h w) -> b out h w", h=height, w=width)


@functools.cache
def _torchvision_operator(device: str) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None:
    """The operator of torchvision, where it is installed, runs on the device, and agrees with `_by_sampling`."""
    try:
        deform_conv2d = importlib.import_module("torchvision.ops").deform_conv2d
    except Exception:  # not installed, or built for another PyTorch: it then raises as it likes
        return None

    def operator(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
        return deform_conv2d(x, offset, weight, padding=weight.shape[-1] // 2, mask=mask)

    generator = torch.Generator().manual_seed(0)
    shapes = (1, 2, 5, 6), (1, 18, 5, 6), (1, 9, 5, 6), (3, 2, 3, 3)
    example = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
    try:
        # Whatever the caller is in: the answer is kept.
        with torch.no_grad(), torch.autocast(device, enabled=False):
            agrees = torch.allclose(operator(*example), _by_sampling(*example), rtol=1e-4, atol=1e-4)
    except Exception:  # such as an operator without a kernel for the device
        return None
    return operator if agrees else None
