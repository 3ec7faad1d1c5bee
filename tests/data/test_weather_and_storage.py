"""Laws of snow, drops, resampled noise, JPEG, downscaling and the second-order chain, against other libraries."""

from __future__ import annotations

import io
import math

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor

from hairify.data.degradations import (
    add_raindrops,
    add_resampled_noise,
    add_snow,
    bayer_mosaic,
    compress,
    degradation,
    demosaic,
    downscale,
    flake_kernels,
    gaussian_kernels,
    moved,
    second_order,
    sinc_kernels,
)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def photographs(*shape: int, seed: int = 0) -> Tensor:
    """Smooth ones, of 8 bits."""
    coarse = torch.rand((*shape[:2], 6, 6), generator=seeded(seed))
    images = torch.nn.functional.interpolate(coarse, size=shape[2:], mode="bicubic").clamp(0, 1)
    return (images * 255).round() / 255


# Snow.


def test_snow_only_brightens_and_alike_in_all_colours() -> None:
    clean = photographs(4, 3, 64, 64)
    snowy = add_snow(clean, seeded())
    assert (snowy >= clean - 1e-6).all()
    white, black = (add_snow(value, seeded()) for value in (torch.ones(4, 3, 64, 64), torch.zeros(4, 3, 64, 64)))
    assert torch.equal(white, torch.ones_like(white))
    assert torch.allclose(black, black[:, :1].expand_as(black))
    assert (black.flatten(1).max(dim=1).values > 0.55).all()
    assert (black.flatten(1).max(dim=1).values <= 1).all()


def test_flakes_hide_what_is_behind_them_in_proportion() -> None:
    # Of I = J (1 - z) + A z with one A for each image, z follows from black and a grey below all A.
    black, grey = (add_snow(torch.full((4, 3, 96, 96), value), seeded()) for value in (0.0, 0.5))
    opacity = 1 - (grey - black) / 0.5
    assert opacity.min() > -1e-5
    assert 0.6 < opacity.max() <= 1
    airlight = (black / opacity.clamp(min=1e-3))[opacity > 0.3]
    assert 0.85 - 1e-3 < airlight.min() <= airlight.max() < 1 + 1e-3
    assert 0.005 < (opacity > 0.3).float().mean() < 0.3, "flakes are some of the pixels"


def test_snow_is_as_dense_at_the_border_as_inside() -> None:
    flakes = add_snow(torch.zeros(64, 3, 96, 96), seeded())[:, 0]
    border = torch.cat([flakes[:, :8], flakes[:, -8:]], dim=1)
    assert border.mean().item() == pytest.approx(flakes[:, 24:-24].mean().item(), rel=0.2)


def test_a_flake_is_as_large_as_asked_and_lies_along_the_wind() -> None:
    radius = torch.tensor([2.0, 3.0, 4.0, 3.0]).double()
    length = torch.tensor([0.0, 0.0, 0.0, 9.0]).double()
    kernels = flake_kernels(radius, length, torch.zeros(4).double())
    assert torch.allclose(kernels[:3].sum(dim=(1, 2)), math.pi * radius[:3] ** 2, rtol=0.15)
    assert torch.allclose(kernels[:3], kernels[:3].mT)
    area = math.pi * 3**2 + 2 * 3 * 9
    assert kernels[3].sum().item() == pytest.approx(area, rel=0.1)
    aside = flake_kernels(radius, length, torch.full((4,), math.pi / 2).double())
    assert torch.allclose(aside, kernels.mT, atol=1e-9)


# Drops on glass.


def test_drops_change_some_of_the_image_and_leave_the_rest() -> None:
    clean = torch.rand(8, 3, 96, 96, generator=seeded())
    changed = (add_raindrops(clean, seeded()) != clean).any(dim=1).flatten(1).float().mean(dim=1)
    assert (changed > 0.02).all()
    assert 0.1 < changed.mean() < 0.7


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_drops_add_no_light_of_their_own(value: float) -> None:
    constant = torch.full((4, 3, 64, 48), value)
    assert torch.allclose(add_raindrops(constant, seeded()), constant, atol=1e-6)


def test_what_is_seen_through_a_drop_is_turned_around_its_middle() -> None:
    # On a ramp, an upright view rises with it within a drop, and a turned one falls.
    ramp = torch.linspace(0, 1, 128).expand(8, 3, 128, 128).contiguous()
    seen = add_raindrops(ramp, seeded())
    slope = seen.diff(dim=3)
    inside = ((seen - ramp).abs() > 1e-3)[..., 1:] & ((seen - ramp).abs() > 1e-3)[..., :-1]
    assert slope[~inside].median() > 0
    assert (slope[inside] < 0).float().mean() > 0.5


def test_moved_images_show_other_places() -> None:
    images = torch.rand(2, 3, 20, 30, generator=seeded()).double()
    down, right = torch.full((2, 1, 20, 30), 2.0).double(), torch.full((2, 1, 20, 30), -3.0).double()
    assert torch.allclose(moved(images, down, right)[..., :-2, 3:], images[..., 2:, :-3], atol=1e-9)
    half = moved(images, torch.zeros_like(down), torch.full_like(right, 0.5))
    assert torch.allclose(half[..., :-1], (images[..., :-1] + images[..., 1:]) / 2, atol=1e-9)


# A sensor's noise, resampled.


def test_resampled_noise_has_no_bias_and_grows_with_the_light() -> None:
    noises = [add_resampled_noise(torch.full((16, 3, 64, 64), v), seeded()) - round(v * 255) / 255 for v in (0.2, 0.7)]
    assert all(abs(noise.mean().item()) < 2e-3 for noise in noises)
    assert (noises[1].flatten(1).std(dim=1) > noises[0].flatten(1).std(dim=1)).all()


def test_resampled_noise_comes_in_coloured_grains() -> None:
    noise = add_resampled_noise(torch.full((8, 3, 128, 128), 0.5), seeded()) - 128 / 255
    flat = noise.transpose(0, 1).flatten(1)
    neighbours = [torch.corrcoef(torch.stack([one[..., 1:].flatten(), one[..., :-1].flatten()]))[0, 1] for one in noise]
    white = torch.corrcoef(torch.randn(2, 8 * 127 * 128, generator=seeded()))[0, 1].abs()
    assert white < 0.01
    assert min(neighbours) > 0.1, "neighbours are alike, as they are not in white noise"
    assert torch.corrcoef(flat)[0, 2] < 0.5, "colours are not grey"
    assert (noise.flatten(1).std(dim=1) > 0.01).all()


def test_a_mosaic_is_interpolated_as_bilinear_demosaicing_does() -> None:
    scene = torch.randint(0, 256, (32, 40), generator=seeded(), dtype=torch.uint8)
    wanted = cv2.cvtColor(scene.numpy(), cv2.COLOR_BayerRGGB2RGB)
    got = demosaic(scene[None, None].double())[0].permute(1, 2, 0)
    # OpenCV rounds to whole levels, and treats the outermost pixels in its own way.
    assert np.abs(got.numpy() - wanted)[1:-1, 1:-1].max() <= 0.51
    constant = demosaic(torch.full((1, 1, 7, 9), 0.4))
    assert torch.allclose(constant, torch.full((1, 3, 7, 9), 0.4))
    assert torch.equal(bayer_mosaic(7, 9, constant).sum(dim=1), torch.ones(1, 7, 9))


# JPEG and resolution.


@pytest.mark.parametrize("quality", [5, 30, 95])
def test_jpeg_is_that_of_the_library(quality: int) -> None:
    clean = photographs(2, 3, 40, 50)
    for image, got in zip(clean, degradation(f"jpeg{quality}")(clean, seeded()), strict=True):
        file = io.BytesIO()
        levels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(levels).save(file, "JPEG", quality=quality, subsampling=2)
        wanted = cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert np.abs((got * 255).permute(1, 2, 0).round().numpy() - wanted).max() <= 2  # decoders round as they like


def test_jpeg_of_better_quality_is_nearer() -> None:
    clean = torch.rand(4, 1, 48, 48, generator=seeded()).expand(-1, 3, -1, -1)  # of colours, JPEG keeps half
    errors = [(compress(clean, seeded(), quality) - clean).square().mean().item() for quality in (5, 20, 50, 90, 100)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 4


def test_a_smaller_copy_is_that_of_pillow_and_enlarged_as_pillow_does() -> None:
    clean = photographs(1, 3, 48, 60)
    for factor, size in ((2, (30, 24)), (3, (20, 16)), (2.5, (24, 19))):
        got = downscale(clean, seeded(), factor)[0]
        for channel, plane in zip(got, clean[0], strict=True):
            small = Image.fromarray(plane.numpy(), mode="F").resize(size, Image.Resampling.BICUBIC)
            small = Image.fromarray((np.asarray(small) * 255).round().clip(0, 255) / np.float32(255), mode="F")
            wanted = np.asarray(small.resize((60, 48), Image.Resampling.BICUBIC)).clip(0, 1)
            assert np.abs(channel.numpy() - wanted).max() < 1.6 / 255  # one level of the small copy may round off


def test_a_factor_of_1_changes_nothing_and_larger_ones_more_and_more() -> None:
    clean = photographs(2, 3, 64, 64) * 0.5 + (torch.rand(2, 3, 64, 64, generator=seeded()) * 127).round() / 255
    clean = (clean * 255).round() / 255
    assert torch.allclose(degradation("downscale1")(clean, seeded()), clean, atol=1e-6)
    errors = [(downscale(clean, seeded(), factor) - clean).square().mean().item() for factor in (1, 1.5, 2, 3, 4)]
    assert errors == sorted(errors)
    assert errors[0] < errors[1]


# The second-order chain.


def test_gaussian_kernels_have_the_wanted_deviations() -> None:
    along, across = torch.tensor([3.0, 1.5, 2.0]).double(), torch.tensor([1.0, 1.5, 1.2]).double()
    offset = torch.arange(21).double() - 10
    level = gaussian_kernels(along, across, torch.zeros(3).double())
    assert torch.allclose(level.sum(dim=(1, 2)), torch.ones(3).double())
    assert torch.allclose((level.sum(dim=1) @ offset**2).sqrt(), along, rtol=0.01)
    assert torch.allclose((level.sum(dim=2) @ offset**2).sqrt(), across, rtol=0.01)
    upright = gaussian_kernels(along, across, torch.full((3,), math.pi / 2).double())
    assert torch.allclose(upright, level.mT, atol=1e-12)


def test_sinc_kernels_let_low_frequencies_through_and_no_high_ones() -> None:
    cutoff = 1.5
    kernel = sinc_kernels(torch.tensor([cutoff]).double())[0]
    assert kernel.sum().item() == pytest.approx(1)
    assert kernel.min() < 0
    response = torch.fft.fft2(kernel, s=(256, 256)).abs()
    frequency = torch.fft.fftfreq(256).double() * 2 * math.pi
    radius = torch.hypot(frequency[:, None], frequency[None])
    assert (response[radius < cutoff - 0.6] - 1).abs().max() < 0.2
    assert response[radius > cutoff + 0.6].abs().max() < 0.15


def test_the_chain_degrades_each_image_in_its_own_way() -> None:
    clean = photographs(1, 3, 64, 64).expand(24, -1, -1, -1)
    degraded = second_order(clean, seeded())
    errors = (degraded - clean).square().mean(dim=(1, 2, 3))
    assert errors.min() > 1e-6
    assert errors.max() > 4 * errors.min()
    assert (degraded.mean(dim=(1, 2, 3)) - clean.mean(dim=(1, 2, 3))).abs().mean() < 0.02, "no light is lost"
    levels = degraded * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)


def test_in_the_chain_no_image_moves_the_draws_of_another() -> None:
    clean = photographs(3, 3, 40, 40)
    others = clean.clone()
    others[0] = 0  # of which Poisson noise takes other numbers
    assert torch.equal(second_order(clean, seeded())[1:], second_order(others, seeded())[1:])
