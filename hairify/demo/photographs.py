"""The demo's photographs: files inside scikit-image's wheel, divided into training and held-out ones.

A photograph is a tensor (3, H, W) with values in [0, 1].
"""

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from importlib.resources import files

import skimage
import skimage.io
import torch
from torch import Generator, Tensor

TRAINING = ("astronaut.png", "motorcycle_left.png", "motorcycle_right.png", "ihc.png", "retina.jpg")
"""Photographs to train on. The motorcycle is one scene seen by two cameras, so both views stay on this side."""

HELD_OUT = ("coffee.png", "chelsea.png", "rocket.jpg")
"""Photographs no network sees before it is evaluated."""


def load(names: Iterable[str]) -> dict[str, Tensor]:
    """Photographs by name, without the file's ending: {"coffee": (3, 400, 600) in [0, 1], ...}.

    The files are read where they lie: `skimage.data`'s own functions may go to the network.

    Raises:
        FileNotFoundError: this version of scikit-image does not ship a photograph.
    """
    photographs = {}
    for name in names:
        path = files(skimage) / "data" / name
        if not path.is_file():
            raise FileNotFoundError(
                f"scikit-image {version('scikit-image')} does not ship the photograph {name!r}; "
                "the demo is known to work with scikit-image 0.26"
            )
        pixels = torch.from_numpy(skimage.io.imread(str(path)))
        photographs[name.partition(".")[0]] = pixels.permute(2, 0, 1).contiguous() / 255
    return photographs


def random_crops(photographs: Sequence[Tensor], count: int, size: int, generator: Generator) -> Tensor:
    """Random square crops, each of a random photograph, mirrored, turned and with its colours exchanged at random.

    The exchange of colour channels is there because the few training photographs show few colours.

    Args:
        photographs: (3, H, W) each, both sides at least `size`.
        count: how many crops.
        size: their side in pixels.
        generator: the only source of randomness.

    Returns:
        (count, 3, size, size) in [0, 1].
    """

    def draw(choices: int) -> int:
        return int(torch.randint(choices, (), generator=generator))

    crops = []
    for _ in range(count):
        photograph = photographs[draw(len(photographs))]
        top, left = (draw(side - size + 1) for side in photograph.shape[1:])
        crop = photograph[:, top : top + size, left : left + size]
        crop = torch.rot90(crop, draw(4), dims=(1, 2))
        if draw(2):
            crop = crop.flip(2)
        crops.append(crop[torch.randperm(3, generator=generator)])
    return torch.stack(crops)


def centre_crop(photograph: Tensor, limit: int) -> Tensor:
    """The middle of a photograph, both sides multiples of 8 and at most `limit`.

    Returns: (3, h, w), a view of `photograph` (3, H, W).
    """
    height, width = (min(side, limit) // 8 * 8 for side in photograph.shape[1:])
    top, left = (photograph.shape[1] - height) // 2, (photograph.shape[2] - width) // 2
    return photograph[:, top : top + height, left : left + width]
