"""Megapixels a second of `hairify.restoring` beside the network alone."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from benchmarks.tool.rounds import Row, by_turns
from hairify import hairify
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
    "restormer-8": lambda: restormer(dim=8, num_blocks=(1, 1, 1, 2), num_refinement_blocks=1),
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
        hair = hairify(network)
        giv = giv_of(hair, image, TilingSettings(), MULTIPLE)
        yield _tiled(f"{name}, converted, tiles of 256²", hair, image, 256, turns, giv)
        yield _files(name, network, image, turns)


def _tiled(name: str, network: nn.Module, image: Tensor, tile: int, rounds: int, giv: Tensor | None = None) -> Row:
    """After each tile of ours, the network on the same one; a GIV is known to both."""
    tiles = tiles_of(image, tile)
    ours: list[float] = []
    bare: list[float] = []
    began = [0.0]

    def on_tile(done: int, of: int) -> None:
        assert of == len(tiles)
        ended = time.perf_counter()
        if began[0]:  # the first one of all warms up
            ours.append(ended - began[0])
        again = time.perf_counter()
        network(tiles[done - 1])
        if began[0]:
            bare.append(time.perf_counter() - again)
        began[0] = time.perf_counter()

    for _ in range(max(rounds, 2 if len(tiles) == 1 else 1)):
        restore_tiled(network, image, TilingSettings(tile, OVERLAP), MULTIPLE, giv=giv, on_tile=on_tile)
    return Row(name, "megapixels", tiles[0].shape[2] * tiles[0].shape[3] / 1e6, ours, bare, AIM)


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
        seconds = by_turns({"ours": ours, "bare": bare}, rounds)
        megapixels = image.shape[2] * image.shape[3] / 1e6
        return Row(f"{name}, JPEG to JPEG in tiles of 256²", "megapixels", megapixels, seconds["ours"], seconds["bare"])


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
