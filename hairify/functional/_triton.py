"""Per-image convolutions on GPUs by Triton: one kernel for all images, whatever the layout.

    images (k·B, C, H, W), weights (B, ...) ── convolve() ──► output
    their gradients ◄── input_gradient(), weight_gradient()

cuDNN takes the groups of a grouped convolution one after another, with a kernel or more for each, and copies maps with
channels last. Here each program computes a tile of the output of one image by that image's weight: a product of
matrices over channels for each place of the kernel (an implicit matrix product, as cuDNN has it for a single weight),
or for depthwise convolutions a sum. Sums are taken in float32.

What is computed here is said by `computing` in `functional/_kernels.py`, which imports no Triton.

A transposed convolution gathers what the gradient of a convolution by its input does, and the other way about. Both
relate positions of a fine map to those of a coarse one, fine = coarse · stride - padding + place · dilation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hairify._support.precision import convolutions_round
from hairify.functional._operations import Convolution, is_channels_last

# So many programs keep a large GPU busy: a sum over positions is cut into parts until there are as many, though not
# into parts of fewer positions.
_PROGRAMS, _LEAST_POSITIONS = 512, 512


def convolve(operation: Convolution, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The operation with weights of its own for each image.

    Args:
        operation: with its settings.
        input: shape (k·B, C, H, W).
        weight: shape (B, *shape).
        bias: shape (B, out) or None.

    Returns:
        Shape (k·B, out, H', W'); channels last in memory where those of the input are.
    """
    size = operation.output_size(input.shape[2:])
    shape = (input.shape[0], operation.channels(weight.shape[1:])[1], *size)
    return _gathered(operation, input, weight, bias, shape, to_fine=operation.transposed)


def input_gradient(operation: Convolution, grad: Tensor, input: Tensor, weight: Tensor) -> Tensor:
    """That of `convolve` by its input, by the gradient of its output."""
    return _gathered(operation, grad, weight, None, input.shape, to_fine=not operation.transposed)


def _gathered(
    operation: Convolution,
    source: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    shape: Sequence[int],
    *,
    to_fine: bool,
) -> Tensor:
    """At each position of a map of this shape, the sum over the places of the kernel and the channels of `source`."""
    source = _compact(source)
    form = torch.channels_last if is_channels_last(source) else torch.contiguous_format
    output = torch.empty(tuple(shape), dtype=source.dtype, device=source.device, memory_format=form)
    rows, out, height, width = shape
    sizes = (*source.shape[2:], height, width, *source.stride(), *output.stride(), *_settings(operation))
    common = {
        "TO_FINE": to_fine,
        "HAS_BIAS": bias is not None,
        "PLACES": math.prod(operation.kernel),
        "KERNEL_WIDTH": operation.kernel[1],
    }
    per_image, bias = rows // weight.shape[0], source if bias is None else bias.contiguous()
    with torch.cuda.device_of(source):
        if operation.groups > 1:
            blocks = _depthwise_blocks(is_channels_last(source), out)
            grid = (rows * triton.cdiv(height * width, blocks["POSITIONS"]), triton.cdiv(out, blocks["CHANNELS"]))
            weight = _arranged(weight.squeeze(2), (0, 2, 3, 1), source.dtype)
            _depthwise[grid](source, weight, bias, output, per_image, out, *sizes, **common, **blocks)
        else:
            blocks = _blocks(source.shape[1], out)
            grid = (rows * triton.cdiv(height * width, blocks["POSITIONS"]), triton.cdiv(out, blocks["OUT"]))
            weight = _arranged(weight, (0, 3, 4, 1, 2) if to_fine else (0, 3, 4, 2, 1), source.dtype)
            constants = {"ALL_CHANNELS": source.shape[1], "PRECISION": _precision(source)}
            _dense[grid](source, weight, bias, output, per_image, out, *sizes, **constants, **common, **blocks)
    return output


def weight_gradient(operation: Convolution, grad: Tensor, input: Tensor, weight: Tensor) -> Tensor:
    """That of `convolve` by its weight, by the gradient of its output; summed in the same order each time."""
    fine, coarse = map(_compact, (grad, input) if operation.transposed else (input, grad))
    batch, places, is_depthwise = weight.shape[0], math.prod(operation.kernel), operation.groups > 1
    channels, others = fine.shape[1], 1 if is_depthwise else coarse.shape[1]
    blocks = _depthwise_blocks(is_channels_last(fine), channels) if is_depthwise else _blocks(channels, others)
    tiles = triton.cdiv(channels, blocks["CHANNELS"]) * triton.cdiv(others, blocks.get("OUT", 1))
    positions = fine.shape[0] // batch * math.prod(coarse.shape[2:])
    wanted = triton.cdiv(_PROGRAMS, batch * places * tiles)
    parts = max(1, min(wanted, positions // _LEAST_POSITIONS))
    steps = triton.cdiv(positions, parts * blocks["POSITIONS"])
    by_part = torch.empty((parts, batch, places, channels, others), dtype=torch.float32, device=input.device)
    sizes = (*fine.shape[2:], *coarse.shape[2:], *fine.stride(), *coarse.stride(), *_settings(operation))
    common = {"STEPS": steps, "PLACES": places, "KERNEL_WIDTH": operation.kernel[1], **blocks}
    grid = (parts * batch, places * tiles)
    with torch.cuda.device_of(input):
        if is_depthwise:
            _depthwise_weight_gradient[grid](fine, coarse, by_part, batch, positions, channels, *sizes, **common)
        else:
            _weight_gradient[grid](
                fine, coarse, by_part, batch, positions, channels, others, *sizes, PRECISION=_precision(input), **common
            )
    total = by_part.sum(0).unflatten(1, operation.kernel)  # (B, *kernel, channels, others)
    return _arranged(total, (0, 3, 4, 1, 2) if is_depthwise else (0, 4, 3, 1, 2), weight.dtype)


def _arranged(tensor: Tensor, order: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Its dimensions in this order in memory, and in this dtype, by one kernel."""
    permuted = tensor.permute(*order)
    return torch.empty(permuted.shape, dtype=dtype, device=tensor.device).copy_(permuted)


def _compact(features: Tensor) -> Tensor:
    """Without gaps between numbers: kernels count within a row in 32 bits, for which rows are checked by their size."""
    return features if features.is_contiguous() or is_channels_last(features) else features.contiguous()


def _settings(operation: Convolution) -> tuple[int, ...]:
    return (*operation.stride, *operation.padding, *operation.dilation)


def _precision(tensor: Tensor) -> str:
    """In which float32 is multiplied: as the user lets convolutions be computed."""
    return "tf32" if tensor.dtype == torch.float32 and convolutions_round() else "ieee"


def _blocks(channels: int, out: int) -> dict[str, Any]:
    """The sizes of a tile, no larger than what there is; products of matrices are of 16 at least."""
    return {
        "POSITIONS": 128,
        "CHANNELS": min(32, max(16, triton.next_power_of_2(channels))),
        "OUT": min(64, max(16, triton.next_power_of_2(out))),
    }


def _depthwise_blocks(channels_last: bool, channels: int) -> dict[str, Any]:
    """The sizes of a tile, long in the direction in which numbers are neighbours in memory."""
    if channels_last:
        return {"POSITIONS": 32, "CHANNELS": min(64, triton.next_power_of_2(channels))}
    return {"POSITIONS": 512, "CHANNELS": 2}


@triton.jit  # type: ignore[untyped-decorator]
def _along(at, stride, padding, dilation, size, place, TO_FINE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Where along one side of the source a position of the output finds a place of the kernel, and whether there."""
    if TO_FINE:
        shifted = at + padding - place * dilation
        found = shifted // stride
        return found, (shifted >= 0) & (found * stride == shifted) & (found < size)
    else:
        found = at * stride - padding + place * dilation
        return found, (found >= 0) & (found < size)


@triton.jit  # type: ignore[untyped-decorator]
def _source_of(  # type: ignore[no-untyped-def]
    y, x, place, source_height, source_width, source_y, source_x,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    TO_FINE: tl.constexpr, KERNEL_WIDTH: tl.constexpr,
):  # fmt: skip
    """How far into its map positions of the output find a place of the kernel, and whether there."""
    from_y, there_y = _along(y, stride_y, padding_y, dilation_y, source_height, place // KERNEL_WIDTH, TO_FINE)
    from_x, there_x = _along(x, stride_x, padding_x, dilation_x, source_width, place % KERNEL_WIDTH, TO_FINE)
    return from_y * source_y + from_x * source_x, there_y & there_x


@triton.jit  # type: ignore[untyped-decorator]
def _dense(  # type: ignore[no-untyped-def]
    source, weight, bias, output, per_image, out,
    source_height, source_width, height, width,
    source_row, source_channel, source_y, source_x, output_row, output_channel, output_y, output_x,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    ALL_CHANNELS: tl.constexpr, TO_FINE: tl.constexpr, HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr,
    PLACES: tl.constexpr, KERNEL_WIDTH: tl.constexpr,
    POSITIONS: tl.constexpr, CHANNELS: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """A tile of one row's output, (POSITIONS, OUT); the weight is (B, places, channels, out)."""
    tiles = tl.cdiv(height * width, POSITIONS)
    row = tl.program_id(0) // tiles
    at = tl.program_id(0) % tiles * POSITIONS + tl.arange(0, POSITIONS)
    y, x = at // width, at % width
    is_inside = at < height * width
    n = tl.program_id(1) * OUT + tl.arange(0, OUT)
    source += row.to(tl.int64) * source_row
    output += row.to(tl.int64) * output_row
    image = row // per_image
    weight += image.to(tl.int64) * PLACES * ALL_CHANNELS * out
    total = tl.zeros((POSITIONS, OUT), dtype=tl.float32)
    for place in range(PLACES):
        offset, is_there = _source_of(
            y, x, place, source_height, source_width, source_y, source_x,
            stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x, TO_FINE, KERNEL_WIDTH,
        )  # fmt: skip
        is_there &= is_inside
        spot = source + offset
        for first in range(0, ALL_CHANNELS, CHANNELS):
            c = first + tl.arange(0, CHANNELS)
            is_channel = c < ALL_CHANNELS
            values = tl.load(
                spot[:, None] + c[None, :] * source_channel, mask=is_there[:, None] & is_channel[None, :], other=0.0
            )
            weights = tl.load(
                weight + (place * ALL_CHANNELS + c)[:, None] * out + n[None, :],
                mask=is_channel[:, None] & (n < out)[None, :],
                other=0.0,
            )
            total = tl.dot(values, weights, total, input_precision=PRECISION)
    if HAS_BIAS:
        total += tl.load(bias + image * out + n, mask=n < out, other=0.0).to(tl.float32)[None, :]
    spot = output + y * output_y + x * output_x
    tl.store(
        spot[:, None] + n[None, :] * output_channel,
        total.to(output.dtype.element_ty),
        mask=is_inside[:, None] & (n < out)[None, :],
    )


@triton.jit  # type: ignore[untyped-decorator]
def _depthwise(  # type: ignore[no-untyped-def]
    source, weight, bias, output, per_image, channels,
    source_height, source_width, height, width,
    source_row, source_channel, source_y, source_x, output_row, output_channel, output_y, output_x,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    TO_FINE: tl.constexpr, HAS_BIAS: tl.constexpr, PLACES: tl.constexpr, KERNEL_WIDTH: tl.constexpr,
    POSITIONS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """A tile of one row's output, (POSITIONS, CHANNELS); the weight is (B, places, channels)."""
    tiles = tl.cdiv(height * width, POSITIONS)
    row = tl.program_id(0) // tiles
    at = tl.program_id(0) % tiles * POSITIONS + tl.arange(0, POSITIONS)
    y, x = at // width, at % width
    is_inside = at < height * width
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    is_channel = c < channels
    source += row.to(tl.int64) * source_row
    output += row.to(tl.int64) * output_row
    image = row // per_image
    total = tl.zeros((POSITIONS, CHANNELS), dtype=tl.float32)
    for place in range(PLACES):
        offset, is_there = _source_of(
            y, x, place, source_height, source_width, source_y, source_x,
            stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x, TO_FINE, KERNEL_WIDTH,
        )  # fmt: skip
        is_there &= is_inside
        spot = source + offset
        values = tl.load(
            spot[:, None] + c[None, :] * source_channel, mask=is_there[:, None] & is_channel[None, :], other=0.0
        )
        weights = tl.load(weight + (image * PLACES + place) * channels + c, mask=is_channel, other=0.0)
        total += values.to(tl.float32) * weights.to(tl.float32)[None, :]
    if HAS_BIAS:
        total += tl.load(bias + image * channels + c, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    spot = output + y * output_y + x * output_x
    tl.store(
        spot[:, None] + c[None, :] * output_channel,
        total.to(output.dtype.element_ty),
        mask=is_inside[:, None] & is_channel[None, :],
    )


@triton.jit  # type: ignore[untyped-decorator]
def _weight_gradient(  # type: ignore[no-untyped-def]
    fine, coarse, by_part, batch, positions, channels, others,
    fine_height, fine_width, height, width,
    fine_row, fine_channel, fine_y, fine_x, coarse_row, coarse_channel, coarse_y, coarse_x,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    STEPS: tl.constexpr, PRECISION: tl.constexpr, PLACES: tl.constexpr, KERNEL_WIDTH: tl.constexpr,
    POSITIONS: tl.constexpr, CHANNELS: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """A tile of one place's gradient, (CHANNELS, OUT), of one image, by a part of its positions in the coarse map."""
    part, image = tl.program_id(0) // batch, tl.program_id(0) % batch
    place, tile = tl.program_id(1) % PLACES, tl.program_id(1) // PLACES
    tiles = tl.cdiv(others, OUT)
    c = tile // tiles * CHANNELS + tl.arange(0, CHANNELS)
    n = tile % tiles * OUT + tl.arange(0, OUT)
    rows = positions // (height * width)
    total = tl.zeros((CHANNELS, OUT), dtype=tl.float32)
    for step in range(STEPS):
        at = (part * STEPS + step) * POSITIONS + tl.arange(0, POSITIONS)
        is_inside = at < positions
        row = (image * rows + at // (height * width)).to(tl.int64)
        y, x = at % (height * width) // width, at % width
        offset, is_there = _source_of(
            y, x, place, fine_height, fine_width, fine_y, fine_x,
            stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x, False, KERNEL_WIDTH,
        )  # fmt: skip
        is_there &= is_inside
        spot = fine + row * fine_row + offset
        values = tl.load(
            spot[None, :] + c[:, None] * fine_channel, mask=is_there[None, :] & (c < channels)[:, None], other=0.0
        )
        spot = coarse + row * coarse_row + y * coarse_y + x * coarse_x
        grads = tl.load(
            spot[:, None] + n[None, :] * coarse_channel, mask=is_inside[:, None] & (n < others)[None, :], other=0.0
        )
        total = tl.dot(values, grads, total, input_precision=PRECISION)
    by_part += ((part * batch + image).to(tl.int64) * PLACES + place) * channels * others
    tl.store(by_part + c[:, None] * others + n[None, :], total, mask=(c < channels)[:, None] & (n < others)[None, :])


@triton.jit  # type: ignore[untyped-decorator]
def _depthwise_weight_gradient(  # type: ignore[no-untyped-def]
    fine, coarse, by_part, batch, positions, channels,
    fine_height, fine_width, height, width,
    fine_row, fine_channel, fine_y, fine_x, coarse_row, coarse_channel, coarse_y, coarse_x,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    STEPS: tl.constexpr, PLACES: tl.constexpr, KERNEL_WIDTH: tl.constexpr,
    POSITIONS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """One place's gradient for some channels, of one image, by a part of its positions in the coarse map."""
    part, image = tl.program_id(0) // batch, tl.program_id(0) % batch
    place = tl.program_id(1) % PLACES
    c = tl.program_id(1) // PLACES * CHANNELS + tl.arange(0, CHANNELS)
    is_channel = c < channels
    rows = positions // (height * width)
    total = tl.zeros((POSITIONS, CHANNELS), dtype=tl.float32)
    for step in range(STEPS):
        at = (part * STEPS + step) * POSITIONS + tl.arange(0, POSITIONS)
        is_inside = at < positions
        row = (image * rows + at // (height * width)).to(tl.int64)
        y, x = at % (height * width) // width, at % width
        offset, is_there = _source_of(
            y, x, place, fine_height, fine_width, fine_y, fine_x,
            stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x, False, KERNEL_WIDTH,
        )  # fmt: skip
        is_there &= is_inside
        spot = fine + row * fine_row + offset
        values = tl.load(
            spot[:, None] + c[None, :] * fine_channel, mask=is_there[:, None] & is_channel[None, :], other=0.0
        )
        spot = coarse + row * coarse_row + y * coarse_y + x * coarse_x
        grads = tl.load(
            spot[:, None] + c[None, :] * coarse_channel, mask=is_inside[:, None] & is_channel[None, :], other=0.0
        )
        total += values.to(tl.float32) * grads.to(tl.float32)
    by_part += ((part * batch + image).to(tl.int64) * PLACES + place) * channels
    tl.store(by_part + c, tl.sum(total, 0), mask=is_channel)
