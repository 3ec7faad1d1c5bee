"""Laws of the synthetic degradations."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peak_memory import PEAK
from torch import Generator, Tensor

from hairify.data.degradations import (
    DEGRADATIONS,
    Degradation,
    add_haze,
    add_noise,
    add_rain,
    add_sensor_noise,
    blur,
    compose,
    convolve,
    darken,
    defocus_blur,
    degradation,
    disc_kernels,
    motion_blur,
    path_kernels,
    scatter,
    smooth_depth,
    streak_kernels,
)
from hairify.errors import DataError

NAMES = (*DEGRADATIONS, "noise37", "noise5-50", "haze+noise25", "motion+low_light", "downscale2+jpeg")
every_degradation = pytest.mark.parametrize("degrade", [degradation(name) for name in NAMES], ids=NAMES)
every_blur = pytest.mark.parametrize("degrade", [defocus_blur, motion_blur])
SHAPES = [(1, 3, 32, 32), (3, 3, 40, 56), (2, 3, 8, 200), (2, 3, 1, 1)]


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def photographs(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=seeded(seed), dtype=dtype)


def numbers(count: int, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=seeded(), dtype=torch.float64)


def moments(kernels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The centre of mass (B, 2), and the mean squares down and right of the middle, (B,) each."""
    offset = torch.arange(kernels.shape[-1], dtype=kernels.dtype) - kernels.shape[-1] // 2
    down, right = kernels.sum(dim=2), kernels.sum(dim=1)
    return torch.stack([down @ offset, right @ offset], dim=1), down @ offset**2, right @ offset**2


def is_8_bit(images: Tensor) -> bool:
    levels = images * 255
    return torch.allclose(levels, levels.round(), atol=1e-4)


# What holds for all of them.


@every_degradation
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keeps_shape_type_and_range(degrade: Degradation, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for clean in (photographs(*shape, dtype=dtype), torch.zeros(shape, dtype=dtype), torch.ones(shape, dtype=dtype)):
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
    # The Fourier transform's rounding may tip a value over to the next of the 8-bit levels.
    assert ((one - two)[[0, 2]].abs() > 1e-5).sum() <= 2
    assert not torch.allclose(one[1], two[1], atol=1e-3)


@every_degradation
def test_equal_images_of_a_batch_are_degraded_differently(degrade: Degradation) -> None:
    degraded = degrade(photographs(1, 3, 32, 32).expand(2, -1, -1, -1), seeded())
    assert not torch.allclose(degraded[0], degraded[1], atol=1e-3)


@every_degradation
def test_can_be_sent_to_another_process(degrade: Degradation) -> None:
    clean = photographs(1, 3, 16, 16)
    assert torch.equal(pickle.loads(pickle.dumps(degrade))(clean, seeded()), degrade(clean, seeded()))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells its memory in another way")
@pytest.mark.parametrize("name", ["noise25", "rain", "haze", "motion", "low_light", "raindrops", "second_order"])
def test_a_whole_photograph_takes_a_few_times_its_own_memory(name: str) -> None:
    program = """
        import torch
        from hairify.data.degradations import degradation

        torch.set_num_threads(1)
        clean, generator = torch.rand(1, 3, 2000, 3000, dtype=torch.float64), torch.Generator()
        degradation(sys.argv[1])(clean[..., :64, :64], generator)  # what libraries load at first use
        before = peak()
        degradation(sys.argv[1])(clean, generator)
        print((peak() - before) / (clean.numel() * clean.element_size()))
    """
    result = subprocess.run(
        [sys.executable, "-c", PEAK + textwrap.dedent(program), name], capture_output=True, text=True, check=True
    )
    assert 0 < float(result.stdout) < 8


# Noise.


@pytest.mark.parametrize("sigma", [5.0, 25.0])
def test_noise_has_the_wanted_deviation_and_no_bias(sigma: float) -> None:
    # Level 128 is five deviations away from clipping at sigma 25; 196,608 draws put both errors below 1 %.
    grey = torch.full((4, 3, 128, 128), 128 / 255)
    noise = (add_noise(grey, seeded(), sigma=sigma) - grey) * 255
    assert noise.std().item() == pytest.approx(sigma, rel=0.01)
    assert abs(noise.mean().item()) < 0.01 * sigma + 1e-3  # truncation would move it by half a level


def test_noise_is_white() -> None:
    noise = add_noise(torch.full((1, 3, 256, 256), 0.5), seeded(), sigma=20).flatten(2)[0] - 0.5
    neighbours = torch.corrcoef(torch.stack([noise[0, :-1], noise[0, 1:]]))[0, 1]
    assert (torch.corrcoef(noise) - torch.eye(3)).abs().max() < 0.02, "colours are independent"
    assert abs(neighbours) < 0.02, "pixels are independent"


def test_noise_is_gaussian_rounded_and_clipped() -> None:
    levels = torch.arange(256).repeat(3, 1)[None, :, None, :] / 255
    drawn = torch.randn(levels.shape, generator=seeded())
    wanted = (levels.double() * 255 + 25 * drawn.double()).clamp(0, 255)
    got = add_noise(levels, seeded(), sigma=25) * 255
    assert is_8_bit(got / 255)
    assert (got - wanted).abs().max() <= 0.5 + 1e-4
    assert got.min() == 0
    assert got.max() == 255


def test_noise_without_deviation_leaves_8_bit_images_as_they_are() -> None:
    clean = torch.arange(256).repeat(3, 1)[None, :, None, :] / 255
    assert torch.equal(add_noise(clean, seeded(), sigma=0), clean)


# Rain.


def test_rain_only_brightens_and_alike_in_all_colours() -> None:
    clean = photographs(4, 3, 64, 64) * 0.3  # dark enough that nothing is clipped
    rainy = add_rain(clean, seeded())
    streaks = rainy - clean
    assert (rainy >= clean).all()
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


def test_a_streak_is_as_long_and_as_slanted_as_asked() -> None:
    slant, length = numbers(8, -0.6, 0.6), numbers(8, 9, 23)
    kernels = streak_kernels(slant, length)
    centre, down, _ = moments(kernels / kernels.sum(dim=(1, 2), keepdim=True))
    assert kernels.max() <= 1
    assert centre.abs().max() < 1e-6
    # A thin line of length L has the mean square L² / 12 along itself.
    assert torch.allclose(down.sqrt(), (length**2 / 12).sqrt() * slant.cos(), rtol=0.06)


# Haze.


def test_full_transmission_is_no_haze_and_none_is_airlight() -> None:
    clean = photographs(2, 3, 16, 24)
    airlight = torch.tensor(0.8)
    assert torch.equal(scatter(clean, torch.ones(2, 1, 16, 24), airlight), clean)
    assert torch.equal(scatter(clean, torch.zeros(2, 1, 16, 24), airlight), airlight.expand_as(clean))


def test_scattering_mixes_the_image_with_airlight() -> None:
    clean, transmission = photographs(2, 3, 16, 24), photographs(2, 1, 16, 24, seed=1)
    airlight = torch.tensor([0.7, 1.0])[:, None, None, None]
    wanted = clean * transmission + airlight * (1 - transmission)
    assert torch.allclose(scatter(clean, transmission, airlight), wanted, atol=1e-6)


def test_haze_lets_through_what_its_depth_allows() -> None:
    # White and black see the same haze: what they differ by is t = exp(-β d), with β in [0.6, 1.8], d in [0.2, 1].
    shape = (16, 3, 64, 96)
    black, white = (add_haze(value, seeded()) for value in (torch.zeros(shape), torch.ones(shape)))
    transmission = white - black
    assert math.exp(-1.8) - 1e-6 <= transmission.min() <= transmission.max() <= math.exp(-0.6 * 0.2) + 1e-6
    airlight = black / (1 - transmission)
    assert 0.7 - 1e-5 <= airlight.min() <= airlight.max() <= 1 + 1e-5
    assert airlight.flatten(1).std(dim=1).max() < 1e-4, "one airlight for each image"
    assert airlight[:, 0, 0, 0].std() > 0.03, "images have different airlights"


def test_haze_lowers_contrast() -> None:
    clean = photographs(4, 3, 64, 64)
    hazy = add_haze(clean, seeded())
    assert (hazy.std(dim=(1, 2, 3)) < clean.std(dim=(1, 2, 3))).all()


def test_depth_is_smooth_and_stays_in_range() -> None:
    depth = smooth_depth(8, 64, 96, seeded())
    assert depth.shape == (8, 1, 64, 96)
    assert 0.2 <= depth.min() <= depth.max() <= 1
    assert depth.max() - depth.min() > 0.4
    steps = torch.cat([depth.diff(dim=2).flatten(), depth.diff(dim=3).flatten()])
    assert steps.abs().max() < 0.1


# Blur.


@pytest.mark.parametrize("side", [1, 5, 13])
def test_convolution_of_a_batch_is_that_of_each_image(side: int) -> None:
    images, kernels = photographs(3, 2, 37, 50, dtype=torch.float64), photographs(3, side, side, seed=1).double()
    for image, kernel, got in zip(images, kernels, convolve(images, kernels), strict=True):
        # What torch calls convolution is correlation: the kernel has to be turned.
        wanted = F.conv2d(image[:, None], kernel.flip(0, 1)[None, None])[:, 0]
        assert torch.allclose(got, wanted, atol=1e-10)


@pytest.mark.parametrize("size", [(40, 33), (8, 50), (3, 2), (1, 1)])
def test_blurred_images_go_on_as_their_reflection(size: tuple[int, int]) -> None:
    images = photographs(2, 3, *size, dtype=torch.float64)
    kernels = path_kernels(numbers(2, 12, 25), numbers(2, 0, 6), numbers(2, -1, 1))
    margin = kernels.shape[-1] // 2
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (margin, margin), (margin, margin)), mode="reflect")
    for image, kernel, got in zip(torch.from_numpy(padded), kernels, blur(images, kernels), strict=True):
        wanted = F.conv2d(image[:, None], kernel.flip(0, 1)[None, None])[:, 0]
        assert torch.allclose(got, wanted, atol=1e-10)


@every_blur
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_blur_leaves_constant_images_as_they_are(degrade: Degradation, value: float) -> None:
    constant = torch.full((4, 3, 40, 24), value)
    assert torch.allclose(degrade(constant, seeded()), constant, atol=1e-6)


@every_blur
def test_blur_keeps_all_light_of_a_point_and_its_place(degrade: Degradation) -> None:
    point = torch.zeros(8, 3, 65, 65, dtype=torch.float64)
    point[..., 32, 32] = 1
    spread = degrade(point, seeded())
    assert torch.allclose(spread.sum(dim=(2, 3)), torch.ones(8, 3).double(), atol=1e-6)
    assert spread.amax(dim=(1, 2, 3)).max() < 0.5
    assert moments(spread[:, 0])[0].abs().max() < 1e-6


@every_blur
def test_blur_removes_detail_and_keeps_the_mean(degrade: Degradation) -> None:
    clean = photographs(4, 3, 128, 128)
    blurred = degrade(clean, seeded())
    assert (blurred.std(dim=(1, 2, 3)) < 0.6 * clean.std(dim=(1, 2, 3))).all()
    assert torch.allclose(blurred.mean(dim=(1, 2, 3)), clean.mean(dim=(1, 2, 3)), atol=2e-3)


def test_a_disc_is_round_and_counts_a_pixel_by_how_much_of_it_is_covered() -> None:
    radius = torch.linspace(1, 6, 11, dtype=torch.float64)
    kernels = disc_kernels(radius)
    assert kernels.min() >= 0
    assert torch.allclose(kernels.sum(dim=(1, 2)), torch.ones(11).double())
    assert torch.equal(kernels, kernels.mT)
    assert torch.equal(kernels, kernels.flip(1))
    side, parts = kernels.shape[-1], 20
    place = (torch.arange(side * parts) + 0.5) / parts - side / 2
    inside = (place[:, None] ** 2 + place[None] ** 2 < radius[:, None, None] ** 2).double()
    covered = F.avg_pool2d(inside, parts) / (math.pi * radius**2)[:, None, None]
    assert ((kernels - covered).abs().sum(dim=(1, 2)) < 0.06).all()


def test_no_radius_and_no_length_are_no_blur() -> None:
    images, none = photographs(2, 3, 20, 20, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for kernels in (disc_kernels(none), path_kernels(none, none, none)):
        assert torch.allclose(blur(images, kernels), images, atol=1e-10)


@pytest.mark.parametrize("turn", [-math.pi / 2, 0.0, 1.0])
def test_paths_are_centred_and_of_sum_1(turn: float) -> None:
    kernels = path_kernels(numbers(8, 5, 25), numbers(8, 0, 2 * math.pi), torch.full((8,), turn).double())
    assert kernels.min() >= 0
    assert torch.allclose(kernels.sum(dim=(1, 2)), torch.ones(8).double())
    assert moments(kernels)[0].abs().max() < 1e-6


def test_a_straight_path_is_as_long_as_asked_and_lies_in_its_direction() -> None:
    length, straight = torch.tensor([5.0, 11, 18, 25]).double(), torch.zeros(4).double()
    to_the_right = path_kernels(length, straight, straight)
    _, down, right = moments(to_the_right)
    # A line of length L has the mean square L² / 12; sharing out between pixels adds 1/6.
    assert torch.allclose(right, length**2 / 12 + 1 / 6, rtol=0.02)
    assert down.abs().max() < 1e-6
    downwards = path_kernels(length, straight + math.pi / 2, straight)
    assert torch.allclose(downwards, to_the_right.mT, atol=1e-9)
    diagonal = path_kernels(length, straight + math.pi / 4, straight)
    assert torch.allclose(diagonal, diagonal.mT, atol=1e-9)
    assert (diagonal.diagonal(dim1=1, dim2=2).sum(dim=1) > diagonal.flip(1).diagonal(dim1=1, dim2=2).sum(dim=1)).all()


def test_a_path_that_turns_by_360_degrees_is_a_circle() -> None:
    length = torch.tensor([12.0, 18, 25]).double()
    _, down, right = moments(path_kernels(length, torch.zeros(3).double(), torch.full((3,), 2 * math.pi).double()))
    radius = length / (2 * math.pi)
    assert torch.allclose(down + right, radius**2 + 1 / 3, rtol=0.02)
    assert torch.allclose(down, right, rtol=0.05)


# Low light.


def test_low_light_is_exposure_times_value_to_the_gamma() -> None:
    # Over exposures e in [0.1, 0.4] and gammas g in [1.5, 2.5], e c^g has the mean 0.25 (c^1.5 - c^2.5) / ln(1 / c).
    for value in (0.4, 0.8):
        wanted = 0.25 * (value**1.5 - value**2.5) / math.log(1 / value)
        dark = darken(torch.full((4096, 3, 4, 4), value), seeded())
        assert dark.mean().item() == pytest.approx(wanted, rel=0.02)


def test_low_light_keeps_the_order_of_brightness_and_yields_8_bits() -> None:
    ramp = torch.linspace(0, 1, 256).expand(8, 3, 256, 256)
    dark = darken(ramp, seeded())
    assert is_8_bit(dark)
    columns = dark.mean(dim=(1, 2))
    assert (columns <= ramp[:, 0, 0] + 0.02).all()
    assert (columns[:, 32::32].diff(dim=1) > 0).all()


def test_sensor_noise_grows_with_the_light() -> None:
    shot, read = torch.tensor(0.002), torch.tensor(0.01)
    for value in (0.0, 0.05, 0.4):
        noise = add_sensor_noise(torch.full((1, 3, 256, 256), value), seeded(), shot, read) - value
        assert noise.std().item() == pytest.approx(math.sqrt(0.002 * value + 0.01**2), rel=0.01)
        assert abs(noise.mean().item()) < 3e-4


# Names and compositions.


def test_a_composition_goes_from_left_to_right_on_one_generator() -> None:
    clean, generator = photographs(2, 3, 24, 24), seeded(3)
    wanted = add_noise(add_haze(clean, generator), generator, sigma=25)
    assert torch.equal(degradation("haze+noise25")(clean, seeded(3)), wanted)
    assert torch.equal(compose(add_haze, DEGRADATIONS["noise25"])(clean, seeded(3)), wanted)
    assert not torch.equal(degradation("noise25+haze")(clean, seeded(3)), wanted)


@pytest.mark.parametrize(("name", "sigma"), [("noise15", 15), ("noise50", 50), ("noise37", 37), ("noise2.5", 2.5)])
def test_noise_is_named_by_its_deviation(name: str, sigma: float) -> None:
    clean = photographs(1, 3, 24, 24)
    assert torch.equal(degradation(name)(clean, seeded()), add_noise(clean, seeded(), sigma=sigma))


def test_noise_between_two_deviations_is_of_one_for_each_image() -> None:
    grey = torch.full((200, 3, 16, 16), 0.5)
    sigmas = (255 * (degradation("noise5-50")(grey, seeded()) - grey)).flatten(1).std(dim=1)
    assert 4 < sigmas.min() < 8
    assert 45 < sigmas.max() < 54
    assert abs(sigmas.mean() - 27.5) < 3
    assert 19.5 < 255 * degradation("noise20-20")(grey, seeded()).std() < 20.5


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("fog", "fog"),
        ("", ""),
        ("noise", "noise"),
        ("noise-5", "noise-5"),
        ("noise50-5", "noise50-5"),
        ("noise5-", "noise5-"),
        ("haze+", ""),
        ("haze+fog+rain", "fog"),
        ("jpeg0", "jpeg0"),
        ("jpeg101", "jpeg101"),
        ("downscale0.5", "downscale0.5"),
    ],
)
def test_an_unknown_name_is_told_and_the_known_ones_listed(name: str, part: str) -> None:
    with pytest.raises(DataError) as caught:
        degradation(name)
    assert repr(part) in str(caught.value)
    assert repr(name) in str(caught.value)
    for known in (*DEGRADATIONS, "noise37", "noise5-50", "jpeg20", "downscale3", "haze+noise25"):
        assert known in str(caught.value)
