"""Laws of the synthetic degradations."""

import pytest
import torch
from torch import Generator, Tensor

from hairify.demo.degradations import DEGRADATIONS, Degradation, add_haze, add_noise, add_rain, scatter, smooth_depth

every_degradation = pytest.mark.parametrize("degrade", DEGRADATIONS.values(), ids=DEGRADATIONS)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def photographs(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=seeded(seed))


@every_degradation
@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (3, 3, 40, 56), (2, 3, 8, 200)])
def test_keeps_shape_type_and_range(degrade: Degradation, shape: tuple[int, ...]) -> None:
    for clean in (photographs(*shape), torch.zeros(shape), torch.ones(shape)):
        degraded = degrade(clean, seeded())
        assert degraded.shape == clean.shape
        assert degraded.dtype == clean.dtype
        assert 0 <= degraded.min() <= degraded.max() <= 1


@every_degradation
def test_the_seed_decides_and_the_global_random_state_does_not(degrade: Degradation) -> None:
    clean = photographs(2, 3, 32, 32)
    first = degrade(clean, seeded(1))
    torch.rand(5)
    assert torch.equal(first, degrade(clean, seeded(1)))
    assert not torch.equal(first, degrade(clean, seeded(2)))


@every_degradation
def test_leaves_its_input_and_the_global_random_state_alone(degrade: Degradation) -> None:
    clean = photographs(2, 3, 32, 32)
    before, state = clean.clone(), torch.random.get_rng_state()
    degrade(clean, seeded())
    assert torch.equal(clean, before)
    assert torch.equal(torch.random.get_rng_state(), state)


@every_degradation
def test_images_of_a_batch_are_degraded_independently(degrade: Degradation) -> None:
    clean = photographs(3, 3, 32, 40)
    others = clean.clone()
    others[1] = 1 - clean[1]
    one, two = degrade(clean, seeded()), degrade(others, seeded())
    assert torch.allclose(one[[0, 2]], two[[0, 2]], atol=1e-6)
    assert not torch.allclose(one[1], two[1], atol=1e-2)


@every_degradation
def test_equal_images_of_a_batch_are_degraded_differently(degrade: Degradation) -> None:
    degraded = degrade(photographs(1, 3, 32, 32).expand(2, -1, -1, -1), seeded())
    assert not torch.allclose(degraded[0], degraded[1], atol=1e-3)


@pytest.mark.parametrize("sigma", [5.0, 25.0])
def test_noise_has_the_wanted_deviation_and_no_bias(sigma: float) -> None:
    # Mid-grey is five deviations away from clipping at sigma 25; 196,608 draws put both errors below 1 %.
    grey = torch.full((4, 3, 128, 128), 0.5)
    noise = (add_noise(grey, seeded(), sigma=sigma) - grey) * 255
    assert noise.std().item() == pytest.approx(sigma, rel=0.01)
    assert abs(noise.mean().item()) < 0.01 * sigma + 1e-3


def test_noise_yields_8_bit_values() -> None:
    levels = add_noise(photographs(1, 3, 32, 32), seeded()) * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)


def test_noise_without_deviation_only_rounds() -> None:
    clean = photographs(1, 3, 32, 32)
    assert (add_noise(clean, seeded(), sigma=0) - clean).abs().max() <= 0.5 / 255 + 1e-6


def test_rain_only_brightens_and_alike_in_all_colours() -> None:
    clean = photographs(4, 3, 64, 64) * 0.3  # dark enough that nothing is clipped
    streaks = add_rain(clean, seeded()) - clean
    assert streaks.min() >= 0
    assert streaks.flatten(1).max(dim=1).values.min() > 0.1, "each image has rain"
    assert torch.allclose(streaks, streaks[:, :1].expand_as(streaks), atol=1e-6)


def test_rain_runs_downwards() -> None:
    streaks = add_rain(torch.zeros(4, 3, 128, 128), seeded())
    along = (streaks[..., 1:, :] - streaks[..., :-1, :]).abs().mean()
    across = (streaks[..., :, 1:] - streaks[..., :, :-1]).abs().mean()
    assert across > 1.5 * along


def test_rain_is_as_dense_at_the_border_as_inside() -> None:
    streaks = add_rain(torch.zeros(32, 3, 96, 96), seeded())[:, 0]
    border = torch.cat([streaks[:, :8], streaks[:, -8:]], dim=1)
    assert border.mean().item() == pytest.approx(streaks[:, 24:-24].mean().item(), rel=0.2)


def test_full_transmission_is_no_haze_and_none_is_airlight() -> None:
    clean = photographs(2, 3, 16, 24)
    airlight = torch.tensor(0.8)
    assert torch.equal(scatter(clean, torch.ones(2, 1, 16, 24), airlight), clean)
    assert torch.allclose(scatter(clean, torch.zeros(2, 1, 16, 24), airlight), airlight)


def test_haze_lowers_contrast() -> None:
    clean = photographs(4, 3, 64, 64)
    hazy = add_haze(clean, seeded())
    assert (hazy.std(dim=(1, 2, 3)) < clean.std(dim=(1, 2, 3))).all()


def test_depth_is_smooth_and_stays_in_range() -> None:
    depth = smooth_depth(8, 64, 96, seeded())
    assert depth.shape == (8, 1, 64, 96)
    assert 0.2 <= depth.min() <= depth.max() <= 1
    steps = torch.cat([depth.diff(dim=2).flatten(), depth.diff(dim=3).flatten()])
    assert steps.abs().max() < 0.1
