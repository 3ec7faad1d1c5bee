"""Images of any size in bounded memory: overlapping tiles that share one GIV.

Of an image only one tile at a time runs through the network, and a HairModel restores all tiles with the same weights:
those that the mean GIV of a few tiles selects, each run to the split only. Beside the network, memory holds the image,
the result and what one tile needs, whatever the image.

The default tile was measured in float32 on CPU (PyTorch 2.13), as the highest resident set of a process that runs one
tile. The published Res-HAIR takes 1.6 GiB with 256² and 2.7 GiB with 512² pixels, Restormer 1.2 GiB with 256² and 1.8
GiB with 384², AirNet 0.9 GiB with 256². An image of 24 megapixels adds 0.3 GiB in float32, its result as much. So tiles
of 256² pixels leave room below 3 GiB, and with an overlap of 32 pixels they cost 1.3 times an untiled image's work.

The DAC attends from each position of its lowest resolution to each other, so its time grows with the square of a
tile's pixels. Where the split is at full resolution (AirNet, SwinIR) a tile of 256² pixels has 64² such positions, and
the DAC takes less than a tenth of the network's own time. So a tile for the GIV is as large as the others.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hairify.errors import ImageError, NetworkError, OptionError
from hairify.model import HairModel
from hairify.networks._running import apply, for_network, number_of_inputs
from hairify.restoring._settings import TilingSettings


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Pad images on the right and at the bottom: by reflection, then by repeating the last where that cannot reach.

    Args:
        images: shape (B, C, H, W).
        multiple: of which both sides shall be multiples.

    Returns:
        Shape (B, C, H', W'), H' and W' the next multiples; `images` itself where these are H and W.
    """
    height, width = images.shape[2:]
    if height % multiple == 0 and width % multiple == 0:
        return images
    return _cut(images, _padded(height, multiple, images.device), _padded(width, multiple, images.device))


@torch.no_grad()
def restore_whole(model: nn.Module, images: Tensor, multiple: int) -> Tensor:
    """Restore images in one run, padded to what the network needs and cropped back.

    Args:
        model: a network that `hairify.networks.apply` can run. It runs in the mode it is in, on its own device and in
            its own dtype.
        images: shape (B, 3, H, W), in [0, 1], on any device.
        multiple: the network takes sides that are multiples of it.

    Returns:
        The restored images, of the shape, dtype and device of `images`, clipped to [0, 1].

    Raises:
        ImageError: the image has values that are not finite, and so has what the network makes of it.
        NetworkError: the network made numbers that are not finite, or something else than such images.
    """
    height, width = images.shape[2:]
    restored = _run(model, for_network(model, pad_to_multiple(images, multiple)))
    return restored[:, :, :height, :width].clamp(0, 1).to(images)


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin that cover a side: as few as possible, evenly spread, all within it.

    Args:
        length: of the side, at least `tile`.
        tile: length of each.
        overlap: shared by neighbours at least; less than `tile`.

    Returns:
        The first is 0, the last `length - tile`; distances differ by 1 at most.
    """
    count = max(math.ceil((length - overlap) / (tile - overlap)), 1)
    return [i * (length - tile) // max(count - 1, 1) for i in range(count)]


def blending_weights(starts: list[int], length: int, tile: int, ramp: int) -> Tensor:
    """How much each tile counts at each place of a side; at every place these sum to 1.

    From each tile to the next, the weight goes over smoothly, as sin² does from 0 to 1, within `ramp` places around
    the middle of what both cover. Nearer to its edges than that a tile does not count, unless the side ends there.

    Args:
        starts: see `tile_starts`.
        length: of the side.
        tile: length of each tile.
        ramp: length of the transitions, no more than neighbours overlap. 0: the middle is an edge.

    Returns:
        Shape (tiles, tile), in [0, 1].
    """
    place = torch.arange(length, dtype=torch.float64) + 0.5
    middles = [(after + before + tile) / 2 for before, after in itertools.pairwise(starts)]
    # Where each transition stands: 1 behind it. A tile has what lies between its two, so that all sum to 1.
    passed = [((place - middle) / max(ramp, 1) + 0.5).clamp(0, 1) for middle in middles]
    done = torch.stack([torch.ones(length), *(torch.sin(t * math.pi / 2) ** 2 for t in passed), torch.zeros(length)])
    counts = done[:-1] - done[1:]
    return torch.stack([row[start : start + tile] for row, start in zip(counts, starts, strict=True)]).float()


@torch.no_grad()
def giv_of(hair: HairModel, image: Tensor, settings: TilingSettings, multiple: int) -> Tensor:
    """The GIV that all tiles of an image share: the mean over at most `giv_tiles` of them, evenly spaced.

    Each of these runs through the network up to the split only, one at a time. Of an image that fits into one tile it
    is the GIV of the image itself, padded.

    Args:
        hair: the model.
        image: shape (1, 3, H, W), in [0, 1], on any device.
        settings: of the tiles.
        multiple: the network takes sides that are multiples of it.

    Returns:
        Shape (1, D), on the model's device.

    Raises:
        OptionError: `settings` do not fit the network, or `image` is not one image.
    """
    tiles = _Tiles(image, settings, multiple)
    rows, columns = _evenly_spaced(len(tiles.rows.starts), len(tiles.columns.starts), settings.giv_tiles)
    inputs, like = number_of_inputs(hair), for_network(hair, image.new_empty(0))
    givs = [hair.giv(*[tiles.cut(image, i, j).to(like)] * inputs) for i in rows for j in columns]
    return torch.stack(givs).mean(0)


@torch.no_grad()
def restore_tiled(
    model: nn.Module,
    image: Tensor,
    settings: TilingSettings,
    multiple: int,
    *,
    giv: Tensor | None = None,
    on_tile: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Restore an image of any size tile by tile, all tiles of a HairModel with one GIV and so with the same weights.

    An image that fits into one tile is restored as `restore_whole` does. All tiles of a larger one have the same size
    and begin at multiples of `multiple`, for a network that halves its resolution treats even and odd places
    differently. Where a network looks no further than a quarter of the overlap, the result is that of the whole image.

    Args:
        model: a HairModel, or any other network that `hairify.networks.apply` can run; in the mode it is in, on its
            own device and in its own dtype.
        image: shape (1, 3, H, W), in [0, 1]; it may stay on the CPU while the model is on a GPU.
        settings: of the tiles.
        multiple: the network takes sides that are multiples of it.
        giv: shape (1, D), on any device, what a HairModel's tiles share; None for `giv_of` the image.
        on_tile: is told after each tile how many are done, of how many.

    Returns:
        The restored image, of the shape, dtype and device of `image`, clipped to [0, 1].

    Raises:
        OptionError: `settings` do not fit the network, `image` is not one image, or `giv` is given to another network
            than a HairModel.
        ImageError: the image has values that are not finite, and so has what the network makes of it.
        NetworkError: the network made numbers that are not finite, or something else than such an image; or it is a
            HairModel within a wrapper, whose tiles could not share a GIV.
    """
    tiles = _Tiles(image, settings, multiple)
    height, width = image.shape[2:]
    output = torch.zeros_like(image, dtype=torch.promote_types(image.dtype, torch.float32))
    like = for_network(model, image.new_empty(0))  # once: it goes through all parameters
    with _sharing_giv(model, image, settings, multiple, giv, alone=len(tiles) == 1):
        done = 0
        for i, top in enumerate(tiles.rows.starts):
            for j, left in enumerate(tiles.columns.starts):
                weights = tiles.rows.weights[i, :, None] * tiles.columns.weights[j]
                restored = _run(model, tiles.cut(image, i, j).to(like)).to(output) * weights.to(output)
                output[:, :, top : top + tiles.rows.tile, left : left + tiles.columns.tile] += restored[
                    :, :, : height - top, : width - left
                ]
                done += 1
                if on_tile is not None:
                    on_tile(done, len(tiles))
    return output.clamp_(0, 1).to(image)


@contextlib.contextmanager
def _sharing_giv(
    model: nn.Module, image: Tensor, settings: TilingSettings, multiple: int, giv: Tensor | None, *, alone: bool
) -> Iterator[None]:
    """Within it, all tiles are restored with one GIV; a tile that is alone has its own one anyway."""
    if not isinstance(model, HairModel):
        name = type(model).__name__
        if giv is not None:
            raise OptionError(f"`giv` is for HairModels; this {name} is none.")
        if not alone and any(isinstance(part, HairModel) for part in model.modules()):
            raise NetworkError(
                f"This {name} has a HairModel within it, whose tiles would each get weights of their own. Give the "
                "HairModel itself, without a wrapper, or `hair.bake(giv=...)`."
            )
        yield
    elif alone and giv is None:
        yield
    else:
        # What is made for a single GIV is kept within `conditioned_on`: the tiles' weights are made once.
        with model.conditioned_on(giv_of(model, image, settings, multiple) if giv is None else on_model(model, giv)):
            yield


def on_model(hair: HairModel, giv: Tensor) -> Tensor:
    """A GIV (1, D) where a model takes it, in its precision; it may come from a file."""
    return giv.to(next(hair.hsn.parameters()))


@dataclass(frozen=True)
class _Side:
    """One side of an image, divided.

    Attributes:
        pixels: the image's pixel at each place of the padded side.
        starts: where tiles begin.
        tile: their length.
        weights: see `blending_weights`.
    """

    pixels: Tensor
    starts: list[int]
    tile: int
    weights: Tensor


class _Tiles:
    """The tiles of one image (1, 3, H, W), by row and column.

    Padding is done where a tile is cut: a padded copy of the whole image would be one more of its size.
    """

    def __init__(self, image: Tensor, settings: TilingSettings, multiple: int) -> None:
        if image.ndim != 4 or image.shape[0] != 1 or image.numel() == 0:
            raise OptionError(f"`image` has shape {tuple(image.shape)}; accepted is one image, (1, 3, H, W).")
        settings.check(multiple)
        self.rows, self.columns = (self._divide(n, settings, multiple, image.device) for n in image.shape[2:])

    def __len__(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)

    def cut(self, image: Tensor, row: int, column: int) -> Tensor:
        """One tile (1, 3, h, w), h and w multiples of what the network needs."""
        sides = ((self.rows, row), (self.columns, column))
        rows, columns = (slice(side.starts[i], side.starts[i] + side.tile) for side, i in sides)
        if rows.stop <= image.shape[2] and columns.stop <= image.shape[3]:  # all but those with padding: far quicker
            return image[:, :, rows, columns].contiguous()
        return _cut(image, self.rows.pixels[rows], self.columns.pixels[columns])

    @staticmethod
    def _divide(length: int, settings: TilingSettings, multiple: int, device: torch.device) -> _Side:
        pixels = _padded(length, multiple, device)
        tile = min(settings.tile, len(pixels))
        # Counted in multiples, so that tiles begin at these.
        overlap = min(math.ceil(settings.overlap / multiple), tile // multiple - 1)
        starts = [multiple * i for i in tile_starts(len(pixels) // multiple, tile // multiple, overlap)]
        return _Side(pixels, starts, tile, blending_weights(starts, len(pixels), tile, settings.overlap // 2))


def _padded(length: int, multiple: int, device: torch.device) -> Tensor:
    """Which pixel of a side stands at each place of the padded one."""
    place = torch.arange(math.ceil(length / multiple) * multiple, device=device)
    return torch.where(place < length, place, (2 * (length - 1) - place).clamp(min=0))


def _cut(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return images[:, :, rows[:, None], columns]


def _evenly_spaced(rows: int, columns: int, most: int) -> tuple[list[int], list[int]]:
    """Rows and columns whose crossings are at most `most` tiles, about as far apart downwards as across."""
    down = min(max(round(math.sqrt(most * rows / columns)), 1), rows, most)
    across = min(columns, most // down)
    down = min(rows, most // across)

    def spaced(count: int, of: int) -> list[int]:
        return [(2 * i + 1) * of // (2 * count) for i in range(count)]

    return spaced(down, rows), spaced(across, columns)


def _run(model: nn.Module, images: Tensor) -> Tensor:
    """The network on images that are where it is, in its precision."""
    restored = apply(model, images)
    # A sum is not finite where one of its parts is not, and is found in a twentieth of the time.
    if not restored.sum(dtype=torch.promote_types(restored.dtype, torch.float32)).isfinite() and not (
        restored.isfinite().all()
    ):
        if not images.isfinite().all():
            raise ImageError("The image has values that are not finite.")
        raise NetworkError(
            f"The network made numbers that are not finite of an image {tuple(images.shape)}. Its weights may be "
            "damaged, or its precision too low: try float32."
        )
    return restored
