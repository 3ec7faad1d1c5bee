"""How images are taken and compared, by name: the conventions of which published numbers depend."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hairify.data.datasets import Task, load_pair, seeded_generator
from hairify.data.degradations import degradation
from hairify.data.images import read_rgb

_NOISE = re.compile(r"noise(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Protocol:
    """A convention of how a restorer is tested. A network is always given whole images, and one at a time.

    Attributes:
        name: by which it is asked for.
        about: what is compared, in words.
        crop: images are cropped around their middle to multiples of it.
        numpy_noise: noise is drawn and rounded as published code does, see `Pairs`; else as hairify does.
        eight_bits: what is compared are the values 0, 1, ..., 255 that a file would have.
        luma: what is compared is Y of ITU-R BT.601, in [16, 235] of 255; else R, G and B.
        gaussian: SSIM looks through a Gaussian window of 11 × 11 pixels (σ = 1.5), as Wang et al. published it; else
            through an even one of 7 × 7, as scikit-image does.
        border: pixels at each side that are not compared.
    """

    name: str
    about: str
    crop: int = 1
    numpy_noise: bool = False
    eight_bits: bool = False
    luma: bool = False
    gaussian: bool = False
    border: int = 0

    @property
    def title(self) -> str:
        """Its name, and what makes it another than that of this name."""
        return f"{self.name}, without {self.border} pixels at each border" if self.border else self.name


HAIRIFY = Protocol("hairify", "whole RGB images")
PROTOCOLS: Mapping[str, Protocol] = {
    one.name: one
    for one in (
        HAIRIFY,
        Protocol("promptir", "RGB images cropped to multiples of 16", crop=16, numpy_noise=True),
        Protocol("derain", "Y of whole images in 8 bits", eight_bits=True, luma=True, gaussian=True),
    )
}
"""The protocols by name. "promptir" is that of AirNet, PromptIR and what followed them; "derain" that of the tables on
Rain100 and Rain13k, which are made with MATLAB."""


@dataclass(frozen=True)
class OnTop(Task):
    """Pairs on whose degraded images another degradation is put, as in the paper's Tables 9 to 11."""

    on_top: str = ""
    """The degradation that is put on top."""

    @classmethod
    def of(cls, task: Task, name: str) -> OnTop:
        """A task of pairs with a degradation on top of each degraded image."""
        composite = f"{task.degradation}+{name}"
        return cls(f"{task.name} + {name}", composite, task.clean, task.degraded, task.border, on_top=name)

    @property
    def below(self) -> str:
        """The degradation of the pairs themselves."""
        return self.degradation.removesuffix(f"+{self.on_top}")


class Pairs:
    """Reads the pairs of tasks as a protocol has them.

    In hairify's own way, what is synthesised depends on the seed, the task's degradation and the image's index alone.
    Published code draws the noise of one image after the other from numpy's one generator, seeded once, adds it to
    8-bit values and cuts their fractions off. So the noise of an image depends on all before it, and all pairs must
    be asked for in their order.

    Args:
        protocol: how.
        seed: of what is synthesised.
    """

    def __init__(self, protocol: Protocol, seed: int) -> None:
        self._protocol, self._seed = protocol, seed
        self._numbers = np.random.RandomState(seed)

    def __call__(self, task: Task, index: int) -> tuple[Tensor, Tensor]:
        """The degraded and the clean image of a task, both (3, H, W) in [0, 1].

        Raises:
            ImageError: a file cannot be read as an image, or the two images differ in size.
        """
        clean_file = task.files(index)[1]
        if task.files(index)[0] is None and self._draws_in_turn(task.degradation):
            clean = self._cropped(read_rgb(clean_file))
            return self._degraded(clean, task.degradation, task, index), clean
        degraded, clean = map(self._cropped, load_pair(task, index, self._seed))
        if isinstance(task, OnTop):
            degraded = self._degraded(degraded, task.on_top, task, index)
        return degraded, clean

    def must_see(self, task: Task) -> bool:
        """Whether what is drawn for an image of this task changes what later ones get."""
        return self._draws_in_turn(task.on_top if isinstance(task, OnTop) else task.degradation) and (
            isinstance(task, OnTop) or task.degraded is None or None in task.degraded
        )

    def _draws_in_turn(self, name: str) -> bool:
        return self._protocol.numpy_noise and any(map(_NOISE.fullmatch, name.split("+")))

    def _cropped(self, image: Tensor) -> Tensor:
        crop = self._protocol.crop
        if crop == 1:
            return image
        (top, height), (left, width) = ((side % crop // 2, side // crop * crop) for side in image.shape[1:])
        return image[:, top : top + height, left : left + width]

    def _degraded(self, image: Tensor, name: str, task: Task, index: int) -> Tensor:
        generator = seeded_generator(task.degradation, index, self._seed)
        for part in name.split("+"):
            strength = _NOISE.fullmatch(part)
            if strength and self._protocol.numpy_noise:
                image = self._with_numpy_noise(image, float(strength[1]))
            else:
                image = degradation(part)(image[None], generator)[0]
        return image

    def _with_numpy_noise(self, image: Tensor, sigma: float) -> Tensor:
        values = (image * 255).round().permute(1, 2, 0).numpy()
        noisy = np.clip(values + self._numbers.randn(*values.shape) * sigma, 0, 255).astype(np.uint8)
        return torch.from_numpy(noisy).permute(2, 0, 1).float() / 255
