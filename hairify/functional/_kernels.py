"""How an operation with weights of its own for each image is computed, chosen by shapes.

    operation, input, weights ── choose_kernel() ──► plain │ matmul │ grouped │ loop │ unfolded ──► output

No single kernel will do. Medians on two cores of an EPYC (Zen 5) with PyTorch 2.13, eight images, relative to the
ordinary operation with one weight, within networks' forward passes (`make bench-kernels` measures such shapes apart):

| | matmul | grouped | loop |
|---|---|---|---|
| 1×1, 96 → 288 at 64² | 1.5 | **1.1** | 1.2 |
| 1×1, 192 → 1020 at 32² | **1.6** | 2.9 | 1.2 |
| 1×1, 1021 → 384 at 16² | 1.9 | **0.9** | 1.4 |
| 1×1, 128 → 256 at 32², channels last | 2.3 | 3.7 | **1.7** |
| 1×1, 384 → 1152 at 8² (by itself) | **2.1** | 2.2 | 1.8 |
| 3×3, 128 at 32² | | **1.1** | 1.1 |
| 3×3, 64 at 64² | | 1.1 | **1.2** |
| 3×3, 64 → 32 at 128² | | 1.1 | **0.7** |
| 3×3, 60 at 128² | | 3.2 | **1.3** |
| 3×3, 256 at 16² | | 2.0 | **1.4** |
| 3×3, 512 at 8² (by itself) | | 5.2 | **1.9** |
| 3×3 depthwise, 288 at 128² | | **1.0** | 1.3 |
| 3×3 depthwise, 64 at 128², channels last | | 20 | **3.9** |
| 2×2 transposed, 64 → 32 at 64² | | 1.2 | **0.6** |

Bold is what is taken on such a processor, on which MKL reaches half of oneDNN's speed. On Intel's own 1×1 layers are
products throughout; milliseconds on two cores of a Xeon (AVX512), by `hair.tune`:

| forward; backward | matmul | grouped | loop |
|---|---|---|---|
| 1×1, 256 → 512 at 16² | **1.9; 4.1** | 2.8; 5.7 | 3.3; 7.4 |
| 1×1, 64 → 128 at 64² | **1.8; 4.7** | 3.8; 9.6 | 5.5; 9.5 |
| 1×1, 64 → 64 at 64², channels last | **1.5; 2.2** | 7.4; 11 | 2.6; 4.4 |
| 1×1, 32 → 64 at 128², channels last | **13; 7.8** | 41; 95 | 16; 11 |
"""

from __future__ import annotations

import functools
import importlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from hairify._support.precision import (
    autocast_dtype,
    convolutions_round,
    is_autocast,
    lowered,
    lowered_dtype,
    products_round,
)
from hairify._support.processor import mkl_is_at_home
from hairify._support.symbolic import is_symbolic
from hairify._support.torch_internals import in_forward_mode, in_function_transform
from hairify.errors import BatchMismatchError, ShapeError
from hairify.functional._operations import Convolution, Operation, is_channels_last
from hairify.functional._unfolding import unfolded

Kernel: TypeAlias = Literal["plain", "matmul", "grouped", "loop", "unfolded", "triton"]


class Choice(NamedTuple):
    """The kernels for an operation and for its gradients."""

    forward: Kernel
    backward: Kernel


class Case(NamedTuple):
    """All by which a kernel is chosen.

    Attributes:
        operation: what is computed.
        batch: B.
        input: its shape, (k·B, ...).
        weight: shape of one image's weight.
        dtype: in which it is computed: under autocast its own.
        device: type of the device.
        channels_last: whether the input is so in memory.
    """

    operation: Operation
    batch: int
    input: torch.Size
    weight: torch.Size
    dtype: torch.dtype
    device: str
    channels_last: bool

    def by_rule(self) -> Kernel:
        """What `choose_kernel` chooses."""
        itemsize = self.dtype.itemsize
        return choose_kernel(
            self.operation, self.batch, self.input, self.weight, itemsize, self.device, self.channels_last
        )


class Chooser(Protocol):
    """What knows better than the rules, for some cases."""

    def choice(self, case: Case) -> Choice | None:
        """The kernels for a case, None for those of the rules."""


Needed: TypeAlias = tuple[bool, bool, bool]
Gradients: TypeAlias = tuple[Tensor | None, Tensor | None, Tensor | None]

# Up to here one grouped convolution gains by being one call; beyond, one for each image stays within the caches.
_SMALL_MAP = 32 * 32
_SMALL_WEIGHTS = 2**24  # bytes, of all images together

# Numbers in a vector register of 512 bits. oneDNN's layouts hold so many channels side by side, else it falls back;
# for 1×1 convolutions with channels not in multiples of 4 to a product of matrices, which is good as well.
_CHANNELS_IN_A_BLOCK = 16

# Bytes of a float32, from which on products are MKL's on CPUs.
_SINGLE = 4

# Below, products of many small matrices by columns are products of matrices and vectors, many times slower.
_FEW_POSITIONS = 16

# From here, on CPUs, arithmetic limits a 1×1 convolution, at which oneDNN is ahead of MKL by two where MKL is a guest.
_MANY_POSITIONS = 256

# Read once: compilers trace the choice, and could not follow how it is found.
_MKL_IS_AT_HOME = mkl_is_at_home()


def choose_kernel(
    operation: Operation,
    batch: int,
    input: Sequence[int],
    weight: Sequence[int],
    itemsize: int,
    device: str,
    channels_last: bool = False,
) -> Kernel:
    """The kernel for an operation with per-image weights, by shapes, layout, size of a number and type of device alone.

    Args:
        operation: what is computed.
        batch: B; may be symbolic while a compiler or exporter traces.
        input: its shape, (k·B, ...).
        weight: shape of one image's weight.
        itemsize: bytes of one number.
        device: type of the device, such as "cpu".
        channels_last: whether the input is so in memory.

    Returns:
        "plain": the ordinary operation, for a single set of weights.
        "matmul": one batched matrix product, for linear layers and 1×1 convolutions.
        "grouped": one convolution with the images as groups.
        "loop": one convolution for each image.
        "unfolded": a batched matrix product with the patches under the kernel, for any number of images.
    """
    if is_symbolic(batch):  # then the number of groups, or of turns of a loop, cannot depend on it
        return "matmul" if operation.is_matrix_product else "unfolded"
    if batch == 1:
        return "plain"
    if not isinstance(operation, Convolution):
        return "matmul"
    if device != "cpu" or any(map(is_symbolic, input[2:])):
        return "matmul" if operation.is_matrix_product else "grouped"
    channels, positions = operation.channels(weight), math.prod(input[2:])
    if operation.is_matrix_product:
        if positions < _MANY_POSITIONS or (_MKL_IS_AT_HOME and itemsize >= _SINGLE):
            return "matmul"
        if channels_last:
            return "loop"
        return "grouped" if all(c % _CHANNELS_IN_A_BLOCK == 0 or c % 4 for c in channels) else "matmul"
    per_group = [c // operation.groups for c in channels]
    if operation.transposed or channels_last:
        return "loop"
    if per_group[0] == 1:  # depthwise
        return "grouped"
    is_small = positions <= _SMALL_MAP and batch * math.prod(weight) * itemsize <= _SMALL_WEIGHTS
    return "grouped" if is_small and all(c % _CHANNELS_IN_A_BLOCK == 0 for c in per_group) else "loop"


def per_image(
    operation: Operation, input: Tensor, weight: Tensor, bias: Tensor | None, kernel: Kernel | None = None
) -> Tensor:
    """Apply an operation with weights of its own to each image.

    Args:
        operation: with its settings.
        input: shape (k·B, ...).
        weight: shape (B, *shape).
        bias: shape (B, out) or None.
        kernel: one that is able to; None for what the rules say.

    Raises:
        BatchMismatchError: the input's first dimension is not a multiple of B.
        ShapeError: the bias does not fit the weight.
    """
    out = operation.channels(weight.shape[1:])[1]
    if bias is not None and bias.shape != (weight.shape[0], out):
        raise ShapeError(f"The bias has shape {tuple(bias.shape)}; with this weight it is ({weight.shape[0]}, {out}).")
    kernel = kernel or choice_for(operation, input, weight).forward
    if kernel == "plain":
        return operation(input, weight[0], None if bias is None else bias[0])
    rows_per_image(input, weight.shape[0])
    output = _KERNELS[kernel](operation, input, weight, bias)
    return laid_out_like(operation, input, output)


def choice_for(operation: Operation, input: Tensor, weight: Tensor, tuning: Chooser | None = None) -> Choice:
    """The kernels for these tensors: those of a tuning, where it has some, else what `choose_kernel` says.

    Compilers, exporters and function transforms see the rules alone: they follow no kernel of Triton.
    """
    batch, one, device = weight.shape[0], weight.shape[1:], input.device
    case = Case(operation, batch, input.shape, one, weight.dtype, device.type, is_channels_last(input))
    if torch.compiler.is_compiling() or any(map(is_symbolic, (batch, *input.shape))):
        return Choice(case.by_rule(), case.by_rule())
    if is_autocast(device):
        case = case._replace(dtype=lowered_dtype(weight.dtype, autocast_dtype(device)))
    if tuning is not None and not in_function_transform() and not in_forward_mode():
        choice = tuning.choice(case)
        if choice is not None:
            return choice
    return _remembering(choose_kernel)(case)


@functools.cache
def _remembering(choose: Callable[..., Kernel]) -> Callable[[Case], Choice]:
    """The rule, which remembers its last answers."""

    @functools.lru_cache(maxsize=4096)
    def remember(case: Case) -> Choice:
        return Choice(case.by_rule(), case.by_rule())

    return remember


def able(case: Case) -> list[Kernel]:
    """The kernels among which can be chosen here for several images: they compute the same, up to rounding."""
    names = computing(case)
    if "triton" in names and not has_triton():
        names.remove("triton")
    # By default convolutions of float32 round to TF32 on CUDA and products do not; a choice must not change that.
    rounds_alike = case.device != "cuda" or case.dtype != torch.float32 or convolutions_round() == products_round()
    return names if rounds_alike or "matmul" not in names else ["matmul"]


def computing(case: Case) -> list[Kernel]:
    """The kernels that compute a case, with gradients of their own, on its device where all is installed.

    Triton's have been seen right but never timed on a GPU, so that rules do not choose them yet.
    """
    operation = case.operation
    if not isinstance(operation, Convolution):
        return ["matmul"]
    names: list[Kernel] = ["matmul", "grouped", "loop"] if operation.is_matrix_product else ["grouped", "loop"]
    return [*names, "triton"] if case.device == "cuda" and _is_tritons(case, operation) else names


def _is_tritons(case: Case, operation: Convolution) -> bool:
    """Convolutions of maps, of one group or depthwise, in float32 or lower, with offsets of 32 bits in a row."""
    if len(operation.stride) != 2 or case.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False
    channels = operation.channels(case.weight)
    if operation.groups != 1 and {*channels} != {operation.groups}:
        return False
    output = (channels[1], *operation.output_size(case.input[2:]))
    return all(math.prod(row) < 2**31 for row in (case.input[1:], output))


@functools.cache
def has_triton() -> bool:
    """Whether Triton can be imported: it comes with PyTorch for GPUs."""
    try:
        importlib.import_module("triton.language")
    except ImportError:
        return False
    return True


def rows_per_image(input: Tensor, batch: int) -> int:
    """k, where `input` has k·B rows.

    Raises:
        BatchMismatchError: the rows of `input` are no multiple of B.
    """
    rows = input.shape[0]
    if batch == 0:
        raise BatchMismatchError("The batch is empty: per-image weights need at least one image.")
    if rows % batch:
        raise BatchMismatchError(
            f"An input of shape {tuple(input.shape)} cannot be divided among {batch} images: its first dimension "
            f"must be a multiple of {batch}. Call the model with as many images as its GIV was made from, or with "
            "one GIV of shape (1, D) for all."
        )
    return rows // batch


def _matmul(operation: Operation, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    batch, matrix = weight.shape[0], weight.flatten(2)  # (B, out, in)
    by_rows = _is_by_rows(operation, input, batch)
    images = _to_matrices(operation, input, batch, by_rows)
    factors = (images, matrix.transpose(1, 2)) if by_rows else (matrix, images)
    product = torch.bmm(*factors) if bias is None else torch.baddbmm(bias.unsqueeze(1 if by_rows else 2), *factors)
    return _from_matrices(operation, product, input, by_rows)


def _is_by_rows(operation: Operation, input: Tensor, batch: int) -> bool:
    """Whether positions are the rows of the matrices: where channels are last, or few columns would make it slow."""
    if not isinstance(operation, Convolution) or is_channels_last(input):
        return True
    sizes = (input.shape[0], *input.shape[2:])
    return not any(map(is_symbolic, sizes)) and math.prod(sizes) < batch * _FEW_POSITIONS


def _to_matrices(operation: Operation, features: Tensor, batch: int, by_rows: bool) -> Tensor:
    """The features of each image as a matrix, that of all its parts: (B, positions, C), or (B, C, positions)."""
    if not isinstance(operation, Convolution):
        return features.reshape(batch, -1, features.shape[-1])
    if by_rows:  # copies nothing where channels are last in memory
        return features.movedim(1, -1).reshape(batch, -1, features.shape[1])
    return features.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2)


def _from_matrices(operation: Operation, matrices: Tensor, input: Tensor, by_rows: bool) -> Tensor:
    """The reverse, to features with the positions and the layout of the input."""
    if not isinstance(operation, Convolution):
        return matrices.reshape(*input.shape[:-1], matrices.shape[-1])
    rows, size = input.shape[0], input.shape[2:]
    if by_rows:
        return matrices.reshape(rows, *size, matrices.shape[2]).movedim(-1, 1)
    parts: Tensor = matrices.unflatten(2, (rows // matrices.shape[0], -1)).transpose(1, 2)
    return parts.reshape(rows, matrices.shape[1], *size)


def _grouped(operation: Convolution, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The images become groups of one convolution (Yang et al., CondConv, NeurIPS 2019)."""
    batch = weight.shape[0]
    output = operation(
        _to_groups(input, batch), weight.flatten(0, 1), None if bias is None else bias.flatten(), images=batch
    )
    return _from_groups(output, batch)


def _to_groups(images: Tensor, batch: int) -> Tensor:
    """(k·B, C, *size) to (k, B·C, *size); reshape, not view: images may be channels_last or otherwise strided."""
    parts: Tensor = images.unflatten(0, (batch, -1)).transpose(0, 1)
    return parts.reshape(parts.shape[0], -1, *images.shape[2:])


def _from_groups(grouped: Tensor, batch: int) -> Tensor:
    """(k, B·C, *size) to (k·B, C, *size)."""
    if torch.compiler.is_compiling():  # which may guess wrongly how a gradient lies in memory, and take it for a view
        return torch.cat(grouped.chunk(batch, dim=1))
    images: Tensor = grouped.unflatten(1, (batch, -1)).transpose(0, 1)
    return images.reshape(-1, *images.shape[2:])


def _loop(operation: Convolution, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    biases = [None] * weight.shape[0] if bias is None else bias.unbind()
    images = _by_image(input, weight.shape[0])
    outputs = (operation(x, w, b) for x, w, b in zip(images, weight.unbind(), biases, strict=True))
    return _joined(outputs, weight.shape[0])


def _triton(operation: Convolution, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    from hairify.functional import _triton as triton  # which is installed where PyTorch is for GPUs alone

    dtype = autocast_dtype(input.device)
    input, weight = lowered(input, dtype), lowered(weight, dtype)
    return triton.convolve(operation, input, weight, None if bias is None else lowered(bias, dtype))


def _triton_backward(operation: Convolution, grad: Tensor, input: Tensor, weight: Tensor, needed: Needed) -> Gradients:
    from hairify.functional import _triton as triton

    into = triton.input_gradient(operation, grad, input, weight) if needed[0] else None
    by_weight = triton.weight_gradient(operation, grad, input, weight) if needed[1] else None
    by_bias = grad.unflatten(0, (weight.shape[0], -1)).sum((1, 3, 4)) if needed[2] else None
    return into, by_weight, by_bias


def _by_image(features: Tensor, batch: int) -> list[Tensor]:
    """The rows of each image; views apart from each other, so that networks may write to what they are of."""
    rows = features.shape[0] // batch
    return [features.narrow(0, image * rows, rows) for image in range(batch)]


def _joined(parts: Iterator[Tensor], batch: int) -> Tensor:
    """The parts of all images one after another; without gradients no more than one is held beside the whole."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or in_function_transform():
        return torch.cat(list(parts))
    first = next(parts)
    shape = (batch * first.shape[0], *first.shape[1:])
    form = torch.channels_last if is_channels_last(first) else torch.contiguous_format
    whole = torch.empty(shape, dtype=first.dtype, device=first.device, memory_format=form)
    for place, part in zip(_by_image(whole, batch), itertools.chain((first,), parts), strict=True):
        place.copy_(part)
    return whole


def laid_out_like(operation: Operation, input: Tensor, output: Tensor) -> Tensor:
    """In the layout that the ordinary operation gives: networks take views of it, dropout draws in its order.

    Convolutions return channels last where the input is so.
    """
    if isinstance(operation, Convolution) and is_channels_last(input):
        return output.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    return output.contiguous()


def per_image_backward(
    operation: Operation, grad: Tensor, input: Tensor, weight: Tensor, needed: Needed, kernel: Kernel | None = None
) -> Gradients:
    """The gradients of `per_image`.

    Args:
        operation: with its settings.
        grad: that of the output.
        input: as given to `per_image`.
        weight: as given to `per_image`.
        needed: whether the gradients of input, weight and bias are.
        kernel: one that is able to; None for what the rules say.

    Returns:
        Those gradients, None where not needed.
    """
    kernel = kernel or choice_for(operation, input, weight).backward
    if kernel == "triton" and torch.is_grad_enabled():  # for gradients of a second order
        kernel = "grouped"
    if not isinstance(operation, Convolution) or kernel == "matmul":
        return _matmul_backward(operation, grad, input, weight, needed)
    batch = weight.shape[0]
    if kernel == "plain":
        into, *others = _convolution_backward(operation, grad, input, weight[0], needed)
        by_weight, by_bias = (None if t is None else t.unsqueeze(0) for t in others)
        return into, by_weight, by_bias
    if kernel == "grouped":
        grads, images = _to_groups(grad, batch), _to_groups(input, batch)
        into, *others = _convolution_backward(operation, grads, images, weight.flatten(0, 1), needed, batch)
        into = None if into is None else laid_out_like(operation, input, _from_groups(into, batch))
        by_weight, by_bias = (None if t is None else t.unflatten(0, (batch, -1)) for t in others)
        return into, by_weight, by_bias
    if kernel == "triton":
        return _triton_backward(operation, grad, input, weight, needed)
    return _loop_backward(operation, grad, input, weight, needed)


def _loop_backward(operation: Convolution, grad: Tensor, input: Tensor, weight: Tensor, needed: Needed) -> Gradients:
    batch = weight.shape[0]
    others: list[tuple[Tensor | None, ...]] = []

    def each() -> Iterator[Any]:
        for g, x, w in zip(_by_image(grad, batch), _by_image(input, batch), weight.unbind(), strict=True):
            into, *rest = _convolution_backward(operation, g, x, w, needed)
            others.append(tuple(rest))
            yield into

    into = _joined(each(), batch) if needed[0] else None
    if not needed[0]:
        list(each())
    by_weight, by_bias = (
        torch.stack(parts) if n else None for parts, n in zip(zip(*others, strict=True), needed[1:], strict=True)
    )
    return into, by_weight, by_bias


def _convolution_backward(
    operation: Convolution, grad: Tensor, input: Tensor, weight: Tensor, needed: Needed, images: int = 1
) -> Gradients:
    """The gradients of one convolution, with `images` times the groups."""
    output_padding = operation.output_padding[: len(operation.stride)]
    gradients: Gradients = torch.ops.aten.convolution_backward(
        grad,
        input,
        weight,
        [grad.shape[1]],
        operation.stride,
        operation.padding,
        operation.dilation,
        operation.transposed,
        output_padding,
        images * operation.groups,
        needed,
    )
    return gradients


def _matmul_backward(operation: Operation, grad: Tensor, input: Tensor, weight: Tensor, needed: Needed) -> Gradients:
    batch, matrix = weight.shape[0], weight.flatten(2)  # (B, out, in)
    by_rows = _is_by_rows(operation, input, batch)
    images, grads = (_to_matrices(operation, t, batch, by_rows) for t in (input, grad))
    into = by_weight = None
    if needed[0]:
        product = torch.bmm(grads, matrix) if by_rows else torch.bmm(matrix.transpose(1, 2), grads)
        into = _from_matrices(operation, product, input, by_rows)
    if needed[1]:
        factors = (grads.transpose(1, 2), images) if by_rows else (grads, images.transpose(1, 2))
        by_weight = torch.bmm(*factors).view_as(weight)
    return into, by_weight, grads.sum(1 if by_rows else 2) if needed[2] else None


_KERNELS: dict[Kernel, Callable[..., Tensor]] = {
    "matmul": _matmul,
    "grouped": _grouped,
    "loop": _loop,
    "unfolded": unfolded,
    "triton": _triton,
}
