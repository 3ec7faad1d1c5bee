"""Calibration, and the DAC of moments that it serves."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from networks import NETWORKS, Pooled
from torch import Tensor, nn
from util import assert_close, perturb

from hairify import hairify, load, plan, save
from hairify.dac import MomentsDAC
from hairify.errors import CalibrationError
from hairify.models import restormer
from hairify.planning import plan as make_plan


def images(batch: int = 6, scale: float = 1.0) -> Tensor:
    """Of different detail each, as degradations leave it."""
    strength = torch.linspace(0.1, 1, batch, dtype=torch.float64)[:, None, None, None]
    return scale * strength * torch.rand(batch, 3, 64, 96, dtype=torch.float64)


def by_hand(feature: Tensor) -> Tensor:
    """The moments of one image, from all pairs of neighbours."""
    channels, height, width = feature.shape
    found = []
    for c in range(channels):
        pairs = [(i, j, i + 1, j) for i in range(height - 1) for j in range(width)]
        pairs += [(i, j, i, j + 1) for i in range(height) for j in range(width - 1)]
        squares = [float(feature[c, i, j] - feature[c, k, m]) ** 2 for i, j, k, m in pairs]
        found.append(sum(squares) / max(len(squares), 1))
    return (torch.tensor(found, dtype=torch.float64) + 1e-8).log() / 2


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 1), (3, 4)])
def test_moments_are_those_of_neighbours(size: tuple[int, int]) -> None:
    feature = torch.randn(3, 5, *size, dtype=torch.float64, requires_grad=True)
    dac = MomentsDAC(5, 7).double()
    moments = dac.moments(feature)
    assert_close(moments, torch.stack([by_hand(one) for one in feature]), 1e-12)
    dac(feature).sum().backward()
    assert feature.grad is not None
    assert feature.grad.isfinite().all()
    assert not [*dac.parameters()]


def test_an_images_own_scale_shifts_its_moments() -> None:
    feature = torch.randn(2, 5, 6, 7, dtype=torch.float64)
    dac = MomentsDAC(5, 7).double()
    shift = dac.moments(2 * feature) - dac.moments(feature)
    assert_close(shift, torch.full_like(shift, 2.0).log(), 1e-6)


@pytest.mark.parametrize(("channels", "giv_dim"), [(4, 9), (12, 5), (8, 8)])
@pytest.mark.parametrize("single", [False, True])
def test_whitened_moments_are_centred_and_uncorrelated(channels: int, giv_dim: int, single: bool) -> None:
    dac = MomentsDAC(channels, giv_dim, single=single).double()
    mixing = torch.randn(channels, channels, dtype=torch.float64)
    moments = 3 + torch.randn(500, channels, dtype=torch.float64) @ mixing
    state = torch.get_rng_state()
    dac.calibrate(moments)
    assert torch.equal(torch.get_rng_state(), state)
    giv = dac.from_moments(moments)
    kept = min(channels, giv_dim)
    values = torch.linalg.eigvalsh(giv.T @ giv / len(giv))[-kept:]
    assert giv.mean(0).abs().max() < 1e-9
    assert values.max() <= 1.01
    assert values.max() / values.min() < 20  # directions of little variance stay smaller, but not by much
    again = MomentsDAC(channels, giv_dim, single=single).double()
    again.calibrate(moments)
    assert torch.equal(again.whitening, dac.whitening)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("preset", ["default", "published"])
def test_what_is_computed_stays_the_same(name: str, preset: str) -> None:
    model = NETWORKS[name]().double().train()
    hair = hairify(model, preset=preset)
    buffers = {k: v.clone() for k, v in hair.base.named_buffers()}
    x = images()
    hair.calibrate(x)
    assert all(module.training for module in hair.modules())
    assert all(torch.equal(v, buffers[k]) for k, v in hair.base.named_buffers())
    with torch.no_grad():
        assert_close(hair.eval()(x), model.eval()(x), 1e-10)
        giv = hair.giv(x)
    assert giv.mean(0).abs().max() < 1e-4
    varies = hair.standardization.scale != 1
    assert varies.any()
    assert_close(giv.std(0)[varies], torch.ones_like(giv.std(0)[varies]), 1e-4)


def test_a_dac_of_ones_own_profits() -> None:
    hair = hairify(NETWORKS["unet"]().double().eval(), dac=Pooled, giv_dim=6)
    x = images()
    hair.calibrate(x)
    giv = hair.giv(x)
    assert_close(giv.std(0), torch.ones(6, dtype=torch.float64), 1e-6)
    hidden = hair.hsn[0].layers[0](giv.unsqueeze(0))
    assert hidden.mean(1).abs().max() < 1e-6
    assert_close(hidden.std(1), torch.ones_like(hidden.std(1)), 1e-6)


def test_copies_files_and_baked_networks_follow(tmp_path: Path) -> None:
    model, x = NETWORKS["unet"]().double().eval(), images()
    hair = hairify(model).calibrate(x)
    with torch.no_grad():
        for box in hair.boxes:
            for factor in box.factors():
                factor.normal_(std=0.1)
        save(hair, tmp_path / "hair")
        assert torch.equal(load(tmp_path / "hair", model)(x), hair(x))
        assert load(tmp_path / "hair", model).is_calibrated
        assert torch.equal(copy.deepcopy(hair)(x), hair(x))
        assert_close(hair.bake(x[:1])(x[:1]), hair(x[:1]), 1e-10)


def test_what_cannot_be_calibrated_stays_as_it_is() -> None:
    trained = perturb(hairify(NETWORKS["unet"]().double().eval()))
    fresh = hairify(NETWORKS["unet"]().double().eval())
    for hair, x, message in (
        (trained, images(), "has been trained"),
        (fresh, images(1), "2 images at least"),
        (fresh, images(0), "2 images at least"),
        (fresh, images(4) * float("nan"), "not finite"),
    ):
        before = {k: v.clone() for k, v in hair.state_dict().items()}
        with pytest.raises(CalibrationError, match=message):
            hair.calibrate(x)
        assert all(torch.equal(v, before[k]) for k, v in hair.state_dict().items())


@pytest.mark.parametrize("name", NETWORKS)
def test_dac_and_hsns_are_in_proportion(name: str) -> None:
    model = NETWORKS[name]()
    hair = hairify(model)
    added = sum(p.numel() for part in (hair.dac, hair.hsn) for p in part.parameters())
    assert added <= sum(p.numel() for p in model.parameters())


def test_in_large_networks_they_are_a_twentieth_at_most() -> None:
    model = restormer(dim=16, num_blocks=(2, 2, 2, 4))
    made = make_plan(model)
    before = made.parameters[0]
    assert before > 1_000_000
    nets = sum(
        len(level.blocks) * ((made.giv_dim + 1) * made.hsn_widths[0] + (made.hsn_widths[0] + 1) * level.box_size)
        for level in made.levels
    )
    assert nets <= before / 20
    held = sum(level.size - len(level.blocks) * level.row_size for level in made.levels)
    assert made.parameters[1] == before + nets + held


def test_a_pooled_vector_is_read_as_it_is() -> None:
    class Vectors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.look, self.change, self.out = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.out(self.change(self.look(x.mean((2, 3)))))[:, :, None, None]

    made = plan(Vectors(), split_at="look")
    assert made.feature.layout == "vector"
    assert made.make_dac().single
