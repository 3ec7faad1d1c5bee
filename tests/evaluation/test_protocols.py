"""Protocols: each one's numbers against libraries and formulas of others."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import cv2
import layouts
import numpy as np
import numpy.typing as npt
import pytest
import torch
from networks import UNet
from peak_memory import PEAK
from PIL import Image as PILImage
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn
from util import perturb

from hairify import hairify
from hairify.data.datasets import DataSettings, Task
from hairify.data.datasets import test_tasks as tasks_to_test
from hairify.data.degradations import degradation
from hairify.errors import ImageError
from hairify.evaluation import HAIRIFY, PROTOCOLS, OnTop, Pairs, Protocol, evaluate, score
from hairify.evaluation import _scores as scores_module
from hairify.restoring import TilingSettings, restore_tiled, restore_whole

Array = npt.NDArray[np.float64]
PROMPTIR, DERAIN = PROTOCOLS["promptir"], PROTOCOLS["derain"]


class Dimmed(nn.Module):
    """Takes sides that are multiples of 8 only."""

    def __init__(self) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(0.9))
        self.sizes: set[tuple[int, int]] = set()

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[2] % 8 == x.shape[3] % 8 == 0
        self.sizes.add((x.shape[2], x.shape[3]))
        return x * self.strength


@pytest.fixture
def photographs(tmp_path: Path) -> list[Task]:
    """Three photographs of 43 × 50 pixels, with noise of two strengths and haze."""
    layouts.photographs(tmp_path / "holiday", count=3, height=43, width=50)
    degradations = ("noise15", "noise50", "haze")
    return tasks_to_test(DataSettings(test_data=(tmp_path / "holiday",), degradations=degradations))


def in_8_bits(path: Path) -> Array:
    return np.asarray(PILImage.open(path)).astype(np.float64)


def published_noise(clean: list[Array], sigmas: tuple[int, ...], seed: int) -> list[list[Array]]:
    """As published code makes it: numpy's one generator, seeded once; one strength after the other; cut to 8 bits."""
    np.random.seed(seed)
    return [
        [np.clip(one + np.random.randn(*one.shape) * sigma, 0, 255).astype(np.uint8) / 255.0 for one in clean]
        for sigma in sigmas
    ]


def middle_32_by_48(image: Array) -> Array:
    """Of 43 × 50 pixels: 11 and 2 are too many, of which 5 and 1 go at the top and the left."""
    return image[5:37, 1:49]


@pytest.mark.parametrize("seed", [0, 7])
def test_promptir_crops_and_draws_as_published_code_does(photographs: list[Task], seed: int) -> None:
    clean = [middle_32_by_48(in_8_bits(path)) for path in photographs[0].clean]
    noisy = published_noise(clean, (15, 50), seed)
    network = Dimmed()
    results = evaluate(network, photographs, multiple=8, seed=seed, protocol=PROMPTIR)
    assert network.sizes == {(32, 48)}
    for task, degraded in zip(photographs[:2], noisy, strict=True):
        for scores, factor in ((results.inputs, 1.0), (results.scores, float(np.float32(0.9)))):
            pairs = [
                (one / 255, (other * factor).astype(np.float32)) for one, other in zip(clean, degraded, strict=True)
            ]
            psnrs = [peak_signal_noise_ratio(one, other, data_range=1) for one, other in pairs]
            ssims = [structural_similarity(one, other, data_range=1, channel_axis=2) for one, other in pairs]
            assert scores[task.name].psnr == pytest.approx(np.mean(psnrs), abs=1e-4)
            assert scores[task.name].ssim == pytest.approx(np.mean(ssims), abs=1e-5)
    assert results.protocol == "promptir"


def test_noise_in_turn_depends_on_what_was_asked_for_before(photographs: list[Task]) -> None:
    """And so does that of hairify not."""
    for protocol, depends in ((PROMPTIR, True), (HAIRIFY, False)):
        pairs = Pairs(protocol, 0)
        first, again = pairs(photographs[0], 0)[0], pairs(photographs[0], 0)[0]
        assert torch.equal(first, again) != depends
        assert [pairs.must_see(task) for task in photographs] == [depends, depends, False]


def test_of_promptirs_protocol_haze_is_hairifys(photographs: list[Task]) -> None:
    for index in range(3):
        own, clean = Pairs(PROMPTIR, 3)(photographs[2], index)
        whole, _ = Pairs(HAIRIFY, 3)(photographs[2], index)
        assert torch.equal(own, whole[:, 5:37, 1:49])
        assert clean.shape == (3, 32, 48)


def published_ssim(one: Array, other: Array) -> float:
    """Of Wang et al. (2004), by OpenCV: a Gaussian window of 11 × 11, where it lies wholly inside."""
    kernel = cv2.getGaussianKernel(11, 1.5)
    window = kernel @ kernel.T

    def filtered(image: Array) -> Array:
        return cv2.filter2D(image, -1, window)[5:-5, 5:-5]

    mean_1, mean_2 = filtered(one), filtered(other)
    variance_1, variance_2 = filtered(one**2) - mean_1**2, filtered(other**2) - mean_2**2
    covariance = filtered(one * other) - mean_1 * mean_2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_1 * mean_2 + c1) * (2 * covariance + c2)
    return float((similarity / ((mean_1**2 + mean_2**2 + c1) * (variance_1 + variance_2 + c2))).mean())


@pytest.mark.parametrize("border", [0, 4])
def test_derain_is_matlabs_y_in_8_bits(border: int) -> None:
    """Y by scikit-image, whose rgb2ycbcr is MATLAB's; PSNR by its definition; SSIM by OpenCV."""
    torch.manual_seed(1)
    clean = torch.rand(3, 40, 52)
    image = (clean + 0.05 * torch.randn(3, 40, 52)).clamp(0, 1)
    luma = [
        np.round(rgb2ycbcr(np.round(one.permute(1, 2, 0).double().numpy() * 255) / 255)[..., 0])
        for one in (clean, image)
    ]
    inner = slice(border, -border or None)
    y, other = (one[inner, inner] for one in luma)
    assert 16 <= y.min() < y.max() <= 235
    own = score(image, clean, dataclasses.replace(DERAIN, border=border))
    assert own.psnr == pytest.approx(10 * math.log10(255**2 / np.mean((y - other) ** 2)), abs=1e-9)
    assert own.ssim == pytest.approx(published_ssim(y, other), abs=1e-9)
    assert own != score(image, clean, dataclasses.replace(DERAIN, border=border, luma=False))


def test_what_is_equal_in_8_bits_has_no_error() -> None:
    clean = (torch.rand(3, 16, 16) * 255).round() / 255
    assert score(clean + 0.001, clean, DERAIN).psnr == math.inf
    assert score(clean + 0.001, clean, DERAIN).ssim == pytest.approx(1)
    assert score(clean + 0.001, clean).psnr == pytest.approx(60, abs=1e-3)


@pytest.mark.parametrize("protocol", [HAIRIFY, DERAIN], ids=lambda one: one.name)
def test_what_is_compared_must_be_as_large_as_the_window(protocol: Protocol) -> None:
    window = 11 if protocol.gaussian else 7
    protocol = dataclasses.replace(protocol, border=2)
    image = torch.rand(3, window + 4, 30)
    assert score(image, image / 2, protocol).ssim < 1
    with pytest.raises(ImageError, match=f"both sides must be {window} or more"):
        score(image[:, 1:], image[:, 1:], protocol)


@pytest.mark.parametrize(
    "protocol", [HAIRIFY, DERAIN, dataclasses.replace(HAIRIFY, border=3)], ids=lambda one: one.title
)
@pytest.mark.parametrize("pixels", [1, 200, 37 * 9, 37 * 30])
def test_strips_change_no_number(protocol: Protocol, pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = torch.rand(3, 41, 37)
    image = (clean + 0.1 * torch.randn(3, 41, 37)).clamp(0, 1)
    whole = score(image, clean, protocol)
    monkeypatch.setattr(scores_module, "_STRIP", pixels)
    assert dataclasses.astuple(score(image, clean, protocol)) == pytest.approx(dataclasses.astuple(whole), abs=1e-10)


def test_a_border_is_not_compared(photographs: list[Task]) -> None:
    image = torch.rand(3, 30, 40)
    other = image.clone()
    other[:, :4] = other[:, :, -4:] = 0
    assert score(other, image).psnr < 20
    assert score(other, image, dataclasses.replace(HAIRIFY, border=4)).psnr == math.inf
    results = evaluate(Dimmed(), photographs, multiple=8, protocol=dataclasses.replace(HAIRIFY, border=4))
    assert results.protocol == "hairify, without 4 pixels at each border"
    assert results.scores != evaluate(Dimmed(), photographs, multiple=8).scores


# Degradations on top


@pytest.fixture
def rainy(tmp_path: Path) -> Task:
    layouts.build("Rain100L", tmp_path / "sets")
    (task,) = tasks_to_test(DataSettings(test_data=(tmp_path / "sets",)))
    return task


def test_a_degradation_is_put_on_top_of_the_degraded_image(rainy: Task) -> None:
    task = OnTop.of(rainy, "noise25")
    assert (task.name, task.degradation) == ("Rain100L + noise25", "rain+noise25")
    rain, clean = Pairs(HAIRIFY, 5)(rainy, 1)
    both, same = Pairs(HAIRIFY, 5)(task, 1)
    assert torch.equal(clean, same)
    assert torch.equal(both, Pairs(HAIRIFY, 5)(task, 1)[0])
    assert not torch.equal(both, Pairs(HAIRIFY, 6)(task, 1)[0])
    inside = (rain > 0.3) & (rain < 0.7)
    assert float((both - rain)[inside].std()) == pytest.approx(25 / 255, rel=0.1)
    haze = Pairs(HAIRIFY, 5)(OnTop.of(rainy, "haze"), 1)[0]
    assert haze.std() < rain.std()


def test_noise_on_top_is_that_of_the_protocol(rainy: Task) -> None:
    """The rainy images of 40 × 48 are cropped to 32 × 48, and get the noise of published code, in turn."""
    task = OnTop.of(rainy, "noise25")
    pairs = Pairs(PROMPTIR, 0)
    assert pairs.must_see(task)
    assert not pairs.must_see(rainy)
    rain = [in_8_bits(path)[4:36] for path in rainy.degraded or () if path]
    (expected,) = published_noise(rain, (25,), 0)
    for index, one in enumerate(expected):
        assert np.abs(pairs(task, index)[0].permute(1, 2, 0).numpy() - one).max() < 1e-6


def test_of_a_composition_each_part_is_as_the_protocol_has_it(photographs: list[Task]) -> None:
    task = dataclasses.replace(photographs[0], degradation="haze+noise25")
    own, clean = Pairs(PROMPTIR, 0)(task, 0)
    hazy = dataclasses.replace(task, degradation="haze")
    assert own.shape == clean.shape == (3, 32, 48)
    assert not torch.equal(own, Pairs(PROMPTIR, 0)(hazy, 0)[0])
    assert torch.equal((own * 255).round() / 255, own)
    assert degradation("haze+noise25")(clean[None], torch.Generator().manual_seed(0)).shape == own[None].shape


# Large images


def test_large_images_are_restored_in_tiles_of_one_giv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against `restore_tiled` itself; images up to the bound are restored whole."""
    monkeypatch.setattr("hairify.evaluation._choosing._TILE", 64)
    hair = perturb(hairify(UNet().eval()))
    layouts.write(tmp_path / "sizes" / "large.png", layouts.pixels("large", 100, 90))
    layouts.write(tmp_path / "sizes" / "small.png", layouts.pixels("small", 60, 70))
    (task,) = tasks_to_test(DataSettings(test_data=(tmp_path / "sizes",), degradations=("noise25",)))
    kept: dict[str, Tensor] = {}

    def keep(task: Task, index: int, degraded: Tensor, clean: Tensor, restored: Tensor) -> None:
        name = task.clean[index].stem
        with torch.no_grad():
            whole = restore_whole(hair, degraded[None], 8)[0]
            tiled = restore_tiled(hair, degraded[None], TilingSettings(tile=64), 8)[0]
        kept[name] = restored
        assert torch.equal(restored, tiled if name == "large" else whole)
        assert name == "small" or not torch.equal(whole, tiled)

    results = evaluate(hair, [task], multiple=8, tile_above=0.008, keep=keep)
    assert set(kept) == {"large", "small"}
    assert {(one.size, one.tiled) for one in results.images} == {((90, 100), True), ((70, 60), False)}
    assert not any(one.tiled for one in evaluate(hair, [task], multiple=8, tile_above=0.009).images)


def test_what_inputs_score_is_measured_once(photographs: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    inputs: dict[tuple[str, int], dict[str, float]] = {}
    first = evaluate(Dimmed(), photographs, multiple=8, inputs=inputs)
    assert len(inputs) == 9
    calls: list[None] = []

    def counted(image: Tensor, clean: Tensor, protocol: Protocol) -> scores_module.Score:
        calls.append(None)
        return score(image, clean, protocol)

    monkeypatch.setattr("hairify.evaluation._running.score", counted)
    assert evaluate(Dimmed(), photographs, multiple=8, inputs=inputs) == first
    assert len(calls) == 9


# Memory

VALIDATED = """
import torch
from hairify.data.datasets import DataSettings, test_tasks
from hairify.evaluation import evaluate
from hairify.models import unet

torch.set_num_threads(1)
(task,) = test_tasks(DataSettings(test_data=(Path(sys.argv[1]),), degradations=("noise25",)))
network, before = unet(), peak()
results = evaluate(network, [task], multiple=4)
assert results.images[0].tiled
print(peak() - before)
"""


@pytest.mark.slow
def test_a_large_image_takes_the_memory_of_images_and_no_more(tmp_path: Path) -> None:
    """Its degraded, clean and restored versions, 12 bytes a pixel each, and what noise, reading and one tile take.

    The network's own features of the whole image, and scikit-image's of an SSIM of it, would be several times that.
    """
    layouts.write(tmp_path / "photographs" / "large.png", layouts.pixels("large", 1500, 1600))
    program = [sys.executable, "-c", PEAK + VALIDATED, tmp_path / "photographs"]
    used = int(subprocess.run(program, capture_output=True, text=True, check=True).stdout)
    assert used < 1600 * 1500 * 120  # restored whole, it takes 350 a pixel
