"""Held-out samples, and how well a network restores them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Generator, Tensor, nn

from hairify.demo.degradations import DEGRADATIONS
from hairify.demo.photographs import centre_crop


@dataclass(frozen=True)
class Sample:
    """A held-out photograph under one draw of one degradation. Both images are (3, H, W) in [0, 1]."""

    photograph: str
    degradation: str
    draw: int
    clean: Tensor
    degraded: Tensor


@dataclass(frozen=True)
class Score:
    """Likeness to the clean image: PSNR in dB and SSIM, both by scikit-image over all of RGB, data range 1."""

    psnr: float
    ssim: float


def held_out_samples(photographs: Mapping[str, Tensor], *, crop: int, draws: int, seed: int) -> list[Sample]:
    """Every photograph's middle under `draws` draws of every degradation; the same seed gives the same samples."""
    generator = Generator().manual_seed(seed)
    samples = []
    for name, photograph in photographs.items():
        clean = centre_crop(photograph, crop)
        for degradation, degrade in DEGRADATIONS.items():
            degraded = degrade(clean.expand(draws, -1, -1, -1), generator)
            samples += [Sample(name, degradation, draw, clean, degraded[draw]) for draw in range(draws)]
    return samples


@torch.no_grad()
def restore(network: nn.Module, samples: Sequence[Sample], on_sample: Callable[[], None]) -> list[Tensor]:
    """What a network, put into evaluation mode, makes of each sample: (3, H, W) each, clipped to [0, 1]."""
    network.eval()
    restored = []
    for sample in samples:
        restored.append(network(sample.degraded[None])[0].clamp(0, 1))
        on_sample()
    return restored


def score(image: Tensor, clean: Tensor) -> Score:
    """Compares an image with the clean one, both (3, H, W) in [0, 1]. Equal images have an infinite PSNR."""
    pair = clean.double().numpy(), image.double().numpy()
    return Score(
        psnr=float(peak_signal_noise_ratio(*pair, data_range=1)),
        ssim=float(structural_similarity(*pair, channel_axis=0, data_range=1)),
    )


def mean_scores(samples: Sequence[Sample], scores: Sequence[Score]) -> dict[str, Score]:
    """The mean score of each degradation, and under "average" the mean of these."""
    means = {}
    for degradation in DEGRADATIONS:
        own = [one for sample, one in zip(samples, scores, strict=True) if sample.degradation == degradation]
        means[degradation] = _mean(own)
    return means | {"average": _mean(list(means.values()))}


def _mean(scores: Sequence[Score]) -> Score:
    return Score(psnr=sum(one.psnr for one in scores) / len(scores), ssim=sum(one.ssim for one in scores) / len(scores))
