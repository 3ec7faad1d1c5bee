"""Per-image operations that do not keep their weights for the backward pass, but make them again there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from hairify._support.precision import autocast_dtype, full_precision, lowered
from hairify._support.torch_internals import in_forward_mode, in_function_transform
from hairify.functional._kernels import Choice, Chooser, choice_for, per_image, per_image_backward
from hairify.functional._operations import Operation

Generate: TypeAlias = Callable[..., tuple[Tensor, Tensor | None]]
"""Selecting vectors (B, N), and parameters of a box → per-image weight (B, *shape) and bias (B, out)."""

# Making a weight again takes `terms` multiplications for each of its numbers, forward and backward of the operation
# three for each use of it. So at most a twelfth is added.
_USES_PER_TERM = 4


def is_worthwhile(operation: Operation, input: Tensor, batch: int, terms: int) -> bool:
    """Whether making the weights again costs little beside the operation itself, by shapes alone.

    Those of a single GIV are as many as the network's own, and kept.

    Args:
        operation: with its settings.
        input: shape (k·B, ...).
        batch: B.
        terms: multiplications by which one number of a weight is made.
    """
    return batch > 1 and operation.uses(input.shape) >= _USES_PER_TERM * terms * batch


def is_possible(*tensors: Tensor) -> bool:
    """Whether gradients will be asked of autograd's backward pass.

    Compilers and function transforms keep what they need by themselves; in forward mode there is no second time.
    """
    return (
        torch.is_grad_enabled()
        and any(t.requires_grad for t in tensors)
        and not torch.compiler.is_compiling()
        and not in_function_transform()
        and not in_forward_mode()
    )


def applied(
    operation: Operation, input: Tensor, weight: Tensor, bias: Tensor | None, tuning: Chooser | None = None
) -> Tensor:
    """Compute `per_image`, with gradients that take as many steps as there are images.

    Those that autograd makes of a loop take the square: to it, each image is cut out of the batch, so that its gradient
    is as large as the batch.

    Args:
        operation: with its settings.
        input: shape (k·B, ...).
        weight: shape (B, *shape).
        bias: shape (B, out) or None.
        tuning: chooses kernels; None for the rules.
    """
    made = (weight,) if bias is None else (weight, bias)
    choice = choice_for(operation, input, weight, tuning)
    own = choice.forward in ("loop", "triton") or choice.forward != choice.backward
    if own and is_possible(input, *made):
        return recomputed(operation, input, _given, *made, tuning=tuning)
    return per_image(operation, input, weight, bias, choice.forward)


def _given(weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    return weight, bias


def recomputed(
    operation: Operation,
    input: Tensor,
    generate: Generate,
    selecting: Tensor,
    *parameters: Tensor,
    tuning: Chooser | None = None,
) -> Tensor:
    """Compute `per_image(operation, input, *generate(selecting, *parameters))` without keeping weights for backward.

    Args:
        operation: with its settings.
        input: shape (k·B, ...).
        generate: makes the weights.
        selecting: selecting vectors, shape (B, N).
        parameters: of the box, for `generate`.
        tuning: chooses kernels; None for the rules.
    """
    dtype = autocast_dtype(input.device)
    apply: Any = _Recomputed.apply
    return apply(operation, tuning, dtype, generate, lowered(input, dtype), selecting, *parameters)


class _Recomputed(torch.autograd.Function):
    """Keeps input, selecting vectors and the box's own parameters, which are kept anyway."""

    @staticmethod
    def forward(
        ctx: Any,
        operation: Operation,
        tuning: Chooser | None,
        dtype: torch.dtype | None,
        generate: Generate,
        input: Tensor,
        selecting: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.operation, ctx.dtype, ctx.generate = operation, dtype, generate
        # Where the weights are not trained its values do not count, and it may be written to.
        ctx.like = (input.shape, input.stride(), input.dtype, input.device)
        ctx.save_for_backward(input if any(ctx.needs_input_grad[5:]) else None, selecting, *parameters)
        with full_precision(input.device):
            weight, bias = generate(selecting, *parameters)
            bias = None if bias is None else lowered(bias, dtype)
            # Without `data` it may be a view of a product, and networks may not write into views made here.
            weight = lowered(weight, dtype)
            choice: Choice = choice_for(operation, input, weight, tuning)
            ctx.kernel = choice.backward
            return per_image(operation, input, weight, bias, choice.forward).data

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, *sources = ctx.saved_tensors
        if input is None:
            size, stride, dtype, device = ctx.like
            input = torch.empty_strided(size, stride, dtype=dtype, device=device)
        with full_precision(input.device):
            with torch.enable_grad():
                sources = [t.view_as(t) for t in sources]  # so that differentiation ends here, whatever they come from
                weight, bias = ctx.generate(*sources)
            wanted = [t for t, needed in zip(sources, ctx.needs_input_grad[5:], strict=True) if needed]
            needed = (ctx.needs_input_grad[4], weight.requires_grad, bias is not None and bias.requires_grad)
            gradients = per_image_backward(ctx.operation, grad, input, lowered(weight, ctx.dtype), needed, ctx.kernel)
            into, *by_parameter = gradients
            made = [(w, g.to(w.dtype)) for w, g in zip((weight, bias), by_parameter, strict=True) if g is not None]
            grads = iter(_grads(made, wanted))
        return None, None, None, None, into, *(next(grads) if needed else None for needed in ctx.needs_input_grad[5:])


def _grads(made: list[tuple[Tensor, Tensor]], wanted: list[Tensor]) -> tuple[Tensor | None, ...]:
    """The gradients of what the weights were made of; differentiable where those of a second order are asked for."""
    if not made:
        return ()
    outputs, grads = zip(*made, strict=True)
    return torch.autograd.grad(outputs, wanted, grads, create_graph=torch.is_grad_enabled(), allow_unused=True)
