"""Megapixels a second of `hairify.restoring` beside the network alone."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from benchmarks.tool.rounds import Row, by_turns
from hairify import HairModel, hairify
from hairify.data.images import Image, write
from hairify.models import restormer, unet
from hairify.restoring import RestoringSettings, TilingSettings, giv_of, restore_files, restore_tiled
from hairify.restoring._tiling import tile_starts

SIDES = (544, 800)
TILES = (128, 256, 512)
OVERLAP = 32
MULTIPLE = 8
AIM = 0.95

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "unet": unet,
    "restormer-16": lambda: restormer(dim=16, num_blocks=(1, 1, 1, 2), num_refinement_blocks=1),
}


def rows(rounds: int) -> Iterator[Row]:
    """Each network in tiles of several sizes, beside the network on the same tiles; converted; and of files."""
    image = torch.rand(1, 3, *SIDES, generator=Generator().manual_seed(0))
    for name, make in NETWORKS.items():
        torch.manual_seed(0)
        network = make().eval()
        turns = rounds if name == "unet" else max(rounds // 3, 1)
        for tile in TILES:
            yield _tiled(f"{name}, tiles of {tile}²", network, image, tile, turns)
        yield _converted(name, hairify(network), image, turns)
        yield _files(name, network, image, turns)


def _row(name: str, image: Tensor, seconds: dict[str, list[float]], aim: float | None) -> Row:
    more = {"megapixels/s as a whole": _megapixels(image) / min(seconds["whole"])} if "whole" in seconds else {}
    return Row(name, "megapixels", _megapixels(image), seconds["ours"], seconds["bare"], aim, more)


def _tiled(name: str, network: nn.Module, image: Tensor, tile: int, rounds: int) -> Row:
    settings = TilingSettings(tile, OVERLAP)
    calls: dict[str, Callable[[], object]] = {
        "ours": functools.partial(restore_tiled, network, image, settings, MULTIPLE),
        "bare": functools.partial(_each, network, tiles_of(image, tile)),
        "whole": functools.partial(_each, network, [image]),
    }
    return _row(name, image, by_turns(calls, rounds), AIM)


def _converted(name: str, hair: HairModel, image: Tensor, rounds: int) -> Row:
    """Beside the converted network under the GIV of the image, which is known to both."""
    settings = TilingSettings(256, OVERLAP)
    giv = giv_of(hair, image, settings, MULTIPLE)
    tiles = tiles_of(image, 256)

    def bare() -> None:
        with hair.conditioned_on(giv):
            _each(hair, tiles)

    ours = functools.partial(restore_tiled, hair, image, settings, MULTIPLE, giv=giv)
    return _row(f"{name}, converted, tiles of 256²", image, by_turns({"ours": ours, "bare": bare}, rounds), AIM)


def _files(name: str, network: nn.Module, image: Tensor, rounds: int) -> Row:
    """From file to file, in tiles of 256²; the network alone neither reads nor writes."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "photograph.jpg")
        write(Image(image[0]), source)
        settings = TilingSettings(256, OVERLAP)
        counted = iter(range(1000))

        def ours() -> None:
            output = Path(folder, str(next(counted)))
            (outcome,) = restore_files(
                network, [source], output, multiple=MULTIPLE, tiling=settings, settings=RestoringSettings()
            )
            assert outcome.status == "restored", outcome.message

        bare = functools.partial(_each, network, tiles_of(image, 256))
        return _row(f"{name}, JPEG to JPEG", image, by_turns({"ours": ours, "bare": bare}, rounds), None)


def tiles_of(image: Tensor, tile: int) -> list[Tensor]:
    """The tiles that `restore_tiled` makes of an image."""
    lows = [
        [
            MULTIPLE * start
            for start in tile_starts(side // MULTIPLE, min(tile, side) // MULTIPLE, min(OVERLAP, side) // MULTIPLE)
        ]
        for side in image.shape[2:]
    ]
    return [image[:, :, top : top + tile, left : left + tile].contiguous() for top in lows[0] for left in lows[1]]


@torch.no_grad()
def _each(network: nn.Module, images: list[Tensor]) -> None:
    for image in images:
        network(image)


def _megapixels(image: Tensor) -> float:
    return image.shape[2] * image.shape[3] / 1e6
