"""What the tests on a GPU share. HAIRIFY_TEST_DEVICE=cpu tries the tests themselves where there is none."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator

import pytest
import torch
from networks import NETWORKS, all_kinds
from torch import Tensor, nn
from util import perturb

from hairify import HairModel, hairify
from hairify.models import promptir, res_hair

DEVICE = os.environ.get("HAIRIFY_TEST_DEVICE", "cuda")

needed = pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a GPU")
only = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
"""Of what there is nothing like on a CPU, such as streams."""


@contextlib.contextmanager
def tf32() -> Iterator[None]:
    """Within it, convolutions and products of float32 may round to TF32, which these tests otherwise forbid."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


BUILDERS = NETWORKS | {
    "all kinds": all_kinds,
    "res-hair": lambda: res_hair(dim=8, num_blocks=(1, 1, 2, 2), num_refinement_blocks=1),
    "promptir": lambda: promptir(
        dim=8, num_blocks=(1, 1, 1, 2), num_refinement_blocks=1, prompt_dims=(4, 8, 8), prompt_sizes=(8, 4, 2)
    ),
}
"""Networks to convert; Res-HAIR is one already."""


def images(batch: int = 3, size: tuple[int, int] = (32, 48), dtype: torch.dtype = torch.float64) -> Tensor:
    """On the CPU, from dark to bright, so that their selecting vectors differ."""
    generator = torch.Generator().manual_seed(0)
    brightness = torch.linspace(0.2, 1, batch, dtype=torch.float64).view(-1, 1, 1, 1)
    return (brightness * torch.rand(batch, 3, *size, dtype=torch.float64, generator=generator)).to(dtype)


@functools.cache
def converted(name: str) -> HairModel:
    """On the CPU, in float64 and evaluation mode, its weights made to depend on the image; to be copied."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network: nn.Module = BUILDERS[name]().double().eval()
        for parameter in network.parameters() if name == "unet" else ():
            parameter.data.mul_(2)  # signals fade in it by PyTorch's own start
        return perturb(network if isinstance(network, HairModel) else hairify(network, example_inputs=images(1)))
