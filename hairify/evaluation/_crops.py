"""Whether a network uses its GIV, measured on crops of test images."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from hairify.data.datasets import Task
from hairify.evaluation._conditioning import Conditioning, measure_conditioning
from hairify.evaluation._protocols import HAIRIFY, Pairs
from hairify.model import HairModel
from hairify.restoring._failures import failure_in_words
from hairify.restoring._known_givs import CLEAN, KnownGIVs, known_givs

_LOGGER = logging.getLogger(__name__)
_CROP = 128  # side in pixels of what the use of the GIV is measured on
_CROPS = 8  # of each task


@dataclass(frozen=True)
class Crops:
    """The middles of some images of several degradations.

    Attributes:
        degraded: shape (B, 3, H, W), in [0, 1], sides of at most 128 pixels or the network's multiple.
        clean: the same without degradation.
        degradations: the name of each.
    """

    degraded: Tensor
    clean: Tensor
    degradations: list[str]

    def by_degradation(self) -> dict[str, list[Tensor]]:
        """Images (3, H, W) of each degradation, and each clean one once, by the name of clean images.

        What a degradation has left as it was, as noise of strength 0 does, is a clean image.
        """
        images: dict[str, list[Tensor]] = {}
        for name, image, clean_image in zip(self.degradations, self.degraded, self.clean, strict=True):
            if not torch.equal(image, clean_image):
                images.setdefault(name, []).append(image)
        clean = {image.numpy().tobytes(): image for image in self.clean}
        return {**images, CLEAN: [*images.get(CLEAN, []), *clean.values()]}


def crops_of(
    tasks: Sequence[Task], *, multiple: int, crops: int = _CROPS, seed: int = 0, without: Collection[str] = ()
) -> Crops | None:
    """The middle of some images of each task.

    Args:
        tasks: the images.
        multiple: of which the crops' sides are multiples.
        crops: of each task, at most.
        seed: of degradations that are synthesised.
        without: images that are left out, by the names that `Results.unreadable` has.

    Returns:
        They; None where there are no images of at least `multiple` pixels that can be read.
    """
    load, pairs = Pairs(HAIRIFY, seed), dict[str, list[tuple[Tensor, Tensor]]]()
    for task in tasks:
        for index in range(min(crops, len(task.clean))):
            if str(task.files(index)[0] or task.clean[index]) in without:
                continue
            try:
                pair = load(task, index)
            except Exception:  # it is named where all images are evaluated
                continue
            if _side(pair) >= multiple and all(bool(image.isfinite().all()) for image in pair):
                kept_of_it = [_evenly_cropped(image, max(_CROP, multiple)) for image in pair]
                pairs.setdefault(task.degradation, []).append((kept_of_it[0], kept_of_it[1]))
    if not pairs:
        return None
    # Small images give small crops; but one that is smaller than most of its degradation is left out.
    side = min(_CROP, *(int(median(map(_side, of_one))) for of_one in pairs.values()))
    side = max(side // multiple * multiple, multiple)
    kept = [(name, pair) for name, of_one in pairs.items() for pair in of_one if _side(pair) >= side]
    degraded, clean = (torch.stack([middle(pair[i], side) for _, pair in kept]) for i in (0, 1))
    return Crops(degraded, clean, [name for name, _ in kept])


def conditioning_on(
    network: HairModel,
    tasks: Sequence[Task],
    *,
    multiple: int,
    crops: int = _CROPS,
    seed: int = 0,
    without: Collection[str] = (),
) -> Conditioning | None:
    """Whether a HairModel uses its GIV, on the middle of some images of each task.

    Args:
        network: the network.
        tasks: the images.
        multiple: of which images' sides must be multiples.
        crops: of each task, at most.
        seed: of degradations that are synthesised.
        without: images that are left out, by the names that `Results.unreadable` has.

    Returns:
        The measurement; None where no two degradations have images of at least `multiple` pixels that can be read and
        restored.
    """
    found = crops_of(tasks, multiple=multiple, crops=crops, seed=seed, without=without)
    if found is None or len({*found.degradations}) < 2:
        return None
    for batch_size in (8, 1):  # several at once may take more memory than there is
        try:
            return measure_conditioning(network, found.degraded, found.clean, found.degradations, batch_size=batch_size)
        except Exception as error:
            reason = failure_in_words(error, "Out of memory.")
    _LOGGER.warning("The use of the GIV could not be measured: %s", reason)
    return None


def known_givs_on(network: HairModel, crops: Crops) -> KnownGIVs | None:
    """Where the GIVs of the crops' degradations lie, and of clean images; None where that cannot be found.

    Args:
        network: the network.
        crops: of images.
    """
    try:
        return known_givs(network, crops.by_degradation())
    except Exception as error:  # a run is to go on
        reason = failure_in_words(error, "Out of memory.")
    _LOGGER.warning("Where the GIVs of the degradations lie could not be found: %s", reason)
    return None


def _side(pair: tuple[Tensor, Tensor]) -> int:
    return min(pair[0].shape[1:])


def _evenly_cropped(image: Tensor, limit: int) -> Tensor:
    """About the middle of an image, whose own middle is that of the image: the rest need not stay in memory."""
    height, width = (min(side, limit + (side - limit) % 2) for side in image.shape[1:])
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return image[:, top : top + height, left : left + width].clone()


def middle(image: Tensor, limit: int) -> Tensor:
    """The middle of an image (3, H, W), both sides at most `limit`."""
    height, width = (min(side, limit) for side in image.shape[1:])
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return image[:, top : top + height, left : left + width]
