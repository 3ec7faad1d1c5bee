"""The demo's network, its training patches, and one training recipe for every network."""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from hairify.demo.degradations import DEGRADATIONS
from hairify.demo.photographs import random_crops
from hairify.models import restormer


def build_network(seed: int) -> nn.Module:
    """A Restormer of about a million parameters: (B, 3, H, W) → the same shape, sides multiples of 8.

    The same seed gives the same weights; the global random state stays as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return restormer(dim=16, num_blocks=(1, 1, 2, 2), num_refinement_blocks=1)


def degrade_in_turn(clean: Tensor, generator: Generator) -> Tensor:
    """Each degradation on an equal share of the batch: the first images noise, the next rain, the last haze.

    Args:
        clean: (B, 3, H, W) in [0, 1], B a multiple of the number of degradations.
        generator: the only source of randomness.

    Returns:
        (B, 3, H, W) in [0, 1].
    """
    shares = clean.chunk(len(DEGRADATIONS))
    return torch.cat([degrade(share, generator) for degrade, share in zip(DEGRADATIONS.values(), shares, strict=True)])


def training_batches(
    photographs: Sequence[Tensor], *, patches: int, size: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (degraded, clean) batches, `patches` of each degradation; the same seed gives the same batches.

    Both tensors are (3 · patches, 3, size, size) in [0, 1].
    """
    generator = Generator().manual_seed(seed)
    while True:
        clean = random_crops(photographs, patches * len(DEGRADATIONS), size, generator)
        yield degrade_in_turn(clean, generator), clean


Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""A network, degraded and clean images (B, 3, H, W) in [0, 1] → the loss to bring down, a scalar."""


def l1_loss(network: nn.Module, degraded: Tensor, clean: Tensor) -> Tensor:
    """The mean absolute error of the restored images."""
    return F.l1_loss(network(degraded), clean)


def train(
    network: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    *,
    steps: int,
    learning_rate: float,
    on_step: Callable[[float], None] = lambda _: None,
    loss: Loss = l1_loss,
) -> list[float]:
    """Trains a network in place: AdamW, the learning rate falling to 0 along a cosine.

    Args:
        network: images → images of the same shape; left in training mode.
        batches: (degraded, clean) pairs, at least `steps` of them.
        steps: how many batches to learn from.
        learning_rate: of the first step.
        on_step: is told the loss after each step.
        loss: what is brought down, of one batch.

    Returns:
        The loss of each step.
    """
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, betas=(0.9, 0.999), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(steps, 1))
    losses = []
    for _ in range(steps):
        value = loss(network, *next(batches))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        losses.append(value.item())
        on_step(losses[-1])
    return losses
