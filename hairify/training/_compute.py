"""How steps are computed: what changes time and rounding, and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hairify._support.torch_internals import is_of_the_compiler
from hairify.errors import TrainingError


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Within it, CUDA may round the factors of float32 products to TF32; where not `allowed`, all is as it was."""
    if not allowed:
        yield
        return
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    # From PyTorch 2.9 on there are newer settings; the older ones cannot be read where users mix both kinds.
    newer = hasattr(cudnn, "conv")
    name, value = ("fp32_precision", "tf32") if newer else ("allow_tf32", True)
    owners = (matmul, cudnn.conv) if newer else (matmul, cudnn)
    before = [getattr(owner, name) for owner in owners]
    try:
        for owner in owners:
            setattr(owner, name, value)
        yield
    finally:
        for owner, former in zip(owners, before, strict=True):
            setattr(owner, name, former)


@contextlib.contextmanager
def telling_of_the_compiler(is_compiled: bool) -> Iterator[None]:
    """Within it, a compiler that fails is an error with a way out.

    Raises:
        TrainingError: it fails.
    """
    try:
        yield
    except Exception as error:
        if is_compiled and is_of_the_compiler(error):
            raise TrainingError(
                f"torch.compile fails on the network: {type(error).__name__}: {error}. Leave `compile` off; a run can "
                "go on without it."
            ) from error
        raise


def keep_channels_together(network: nn.Module) -> None:
    """Lay out its weights with four dimensions by pixels, channels together, in place."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def channels_together(images: Tensor) -> Tensor:
    """Images (B, C, H, W) laid out by pixels."""
    return images.contiguous(memory_format=torch.channels_last)
