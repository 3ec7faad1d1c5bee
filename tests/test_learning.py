"""Conditioning is learned: from the exact start of a trained network, on photographs, within 200 steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from training_runs import run

from hairify import HairModel, hairify
from hairify.cli._demonstration import PATCH, tasks
from hairify.data.photographs import HELD_OUT, TRAINING
from hairify.data.samples import TrainingSamples
from hairify.evaluation import conditioning_on

CHANNELS = 12


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.GELU(), nn.Conv2d(channels, channels, 3, padding=1)
        )
        nn.init.zeros_(self.body[2].weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.body(x)
        return out


class TwoLevels(nn.Module):
    """A U-Net that is none of hairify's, in which nothing sees the whole image."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.encoder = nn.Sequential(Residual(CHANNELS), Residual(CHANNELS))
        self.down = nn.Conv2d(CHANNELS, 2 * CHANNELS, 2, stride=2)
        self.middle = nn.Sequential(Residual(2 * CHANNELS), Residual(2 * CHANNELS))
        self.up = nn.ConvTranspose2d(2 * CHANNELS, CHANNELS, 2, stride=2)
        self.decoder = nn.Sequential(Residual(CHANNELS), Residual(CHANNELS))
        self.tail = nn.Conv2d(CHANNELS, 3, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        skip = self.encoder(self.head(image))
        out: torch.Tensor = self.tail(self.decoder(skip + self.up(self.middle(self.down(skip)))))
        return image + out


def trained(model: nn.Module, folder: Path, steps: int, rate: float) -> nn.Module:
    samples = TrainingSamples(tasks(TRAINING), PATCH, 0, 2**28)
    rates = {"learning_rate": rate, "final_learning_rate": rate}
    return run(
        model, folder, samples, steps=steps, batch_size=10, clip_norm=1.0, ema_decay=0.0, save_every=0, **rates
    ).model


@pytest.mark.slow
def test_a_trained_network_uses_its_giv_200_steps_after_the_conversion(tmp_path: Path) -> None:
    torch.manual_seed(0)
    static = trained(TwoLevels(), tmp_path / "static", 400, 1e-3)
    hair = trained(hairify(static), tmp_path / "converted", 200, 5e-4)
    assert isinstance(hair, HairModel)
    found = conditioning_on(hair, tasks(HELD_OUT), multiple=2)
    assert found is not None
    assert found.is_used
    assert found.cost_of_wrong >= 0.3
    assert found.gain > 0
    assert max(found.spread.values()) >= 0.1
    assert found.recognised >= 0.6  # three photographs are few; five degradations told apart by chance: 0.2
