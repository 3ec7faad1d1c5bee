"""What training brings down, one number for each image."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from hairify import hairify
from hairify.models import airnet
from hairify.networks import NetworkSettings
from hairify.training import airnet_loss, l1_loss, loss_for


class Recorder(nn.Module):
    """Returns its query with even logits, and remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Tensor] = []

    def forward(self, query: Tensor, key: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        self.given += [query, key]
        labels = torch.zeros(len(query), dtype=torch.long)
        return (query, torch.zeros(len(query), 5), labels) if self.training else query


def test_the_l1_loss_is_that_of_each_image() -> None:
    degraded, clean = torch.rand(3, 3, 8, 12), torch.rand(3, 3, 8, 12)
    losses = l1_loss(nn.Identity(), degraded, clean)
    assert losses.tolist() == pytest.approx([float((degraded[i] - clean[i]).abs().mean()) for i in range(3)])


def test_airnet_gets_two_patches_of_each_image() -> None:
    network, degraded = Recorder().train(), torch.rand(2, 3, 64, 32)
    losses = airnet_loss(network, degraded, degraded + torch.tensor([0.5, 0.25])[:, None, None, None])
    contrast = 0.1 * math.log(5)
    assert losses.tolist() == pytest.approx([0.5 + contrast, 0.25 + contrast], abs=1e-5)
    assert torch.equal(network.given[0], degraded[..., :48, :24])
    assert torch.equal(network.given[1], degraded[..., 16:, 8:])
    assert airnet_loss(network.eval(), degraded, degraded + 0.5).tolist() == pytest.approx([0.5, 0.5], abs=1e-5)


def test_each_network_has_its_loss() -> None:
    network = airnet(dim=8, blocks=2)
    assert loss_for(network) is airnet_loss
    assert loss_for(NetworkSettings(network="airnet", options={"dim": 8, "blocks": 2}).restorer(0)) is airnet_loss
    layers = [nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()) for _ in range(4)]
    assert loss_for(nn.Sequential(*layers)) is l1_loss
    assert loss_for(hairify(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(*layers)))) is l1_loss
