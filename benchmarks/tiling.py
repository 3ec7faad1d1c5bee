"""`python -m benchmarks.tiling`: seams, the difference between a photograph restored in tiles and as a whole.

It prints Markdown. The photograph is one of scikit-image's, with noise; the networks are small ones, converted and
trained for a short while on others of its photographs. So short a while teaches them to restore, but not yet to tell
images apart: DAC and HSNs are then moved at random, so that GIVs and weights differ from tile to tile.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import skimage
import skimage.io
import torch
from torch import Generator, Tensor, nn

from benchmarks import machine
from benchmarks.networks import UNet
from benchmarks.report import table
from hairify import HairModel, hairify
from hairify.data.degradations import degradation
from hairify.models import restormer
from hairify.restoring import TilingSettings, giv_of, restore_tiled, restore_whole

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "restormer": lambda: restormer(dim=8, num_blocks=(1, 2, 2, 3), num_refinement_blocks=1),
    "unet": lambda: UNet((8, 16, 32, 64)),
}
MULTIPLE = 8
TRAINING = ("astronaut.png", "chelsea.png", "rocket.jpg")
TESTED = "coffee.png"
DEGRADATIONS = ("noise15", "noise50", "rain", "haze")
_PATCH = 64

_METHOD = """\
Given are the largest and the mean absolute difference between the photograph restored in tiles and as a whole, in
levels of 255.

- **one GIV**: the HairModel, its tiles and the whole with the mean GIV of at most 16 tiles.
- **static**: the static network baked for that GIV, in tiles and as a whole.
- **difference**: the largest between these two networks' tiled results.
- **own GIVs**: the HairModel with the GIV of each tile, and with that of the whole."""


@dataclass(frozen=True)
class Seams:
    """Largest and mean difference, in levels of 255."""

    largest: float
    mean: float

    @classmethod
    def between(cls, tiled: Tensor, whole: Tensor) -> Seams:
        """Two images of the same shape, in [0, 1]."""
        difference = (tiled - whole).abs() * 255
        return cls(difference.max().item(), difference.mean().item())

    def __str__(self) -> str:
        return f"{self.largest:.2f}; {self.mean:.4f}"


@dataclass(frozen=True)
class Result:
    """What an overlap gave; see the text before the table."""

    overlap: int
    one_giv: Seams
    static: Seams
    difference: Seams
    own_givs: Seams


class OwnGIVs(nn.Module):
    """A HairModel that tiles do not know to be one, so that each has its own GIV."""

    def __init__(self, hair: HairModel) -> None:
        super().__init__()
        self.held = (hair,)  # not as a part, or it would be found

    def forward(self, images: Tensor) -> Tensor:
        return self.held[0](images)


def measure(hair: HairModel, image: Tensor, tile: int, overlap: int) -> Result:
    """Restore an image (1, 3, H, W) in tiles and as a whole."""
    settings = TilingSettings(tile, overlap)
    giv = giv_of(hair, image, settings, MULTIPLE)
    static = hair.bake(giv=giv)
    with hair.conditioned_on(giv):
        whole = restore_whole(hair, image, MULTIPLE)
    tiled, static_tiled = (restore_tiled(model, image, settings, MULTIPLE) for model in (hair, static))
    own = restore_tiled(OwnGIVs(hair), image, settings, MULTIPLE)
    return Result(
        overlap,
        one_giv=Seams.between(tiled, whole),
        static=Seams.between(static_tiled, restore_whole(static, image, MULTIPLE)),
        difference=Seams.between(tiled, static_tiled),
        own_givs=Seams.between(own, restore_whole(hair, image, MULTIPLE)),
    )


def train(hair: HairModel, photographs: Sequence[Tensor], steps: int) -> None:
    """Adam, on random patches of photographs (3, H, W), each degradation on as many."""
    generator = Generator().manual_seed(0)
    optimizer = torch.optim.Adam(hair.parameters(), 1e-3)
    hair.train()
    for _ in range(steps):
        patches = torch.stack([_patch(photographs, generator) for _ in range(2 * len(DEGRADATIONS))])
        degraded = [
            degradation(name)(part, generator)
            for name, part in zip(DEGRADATIONS, patches.chunk(len(DEGRADATIONS)), strict=True)
        ]
        optimizer.zero_grad()
        (hair(torch.cat(degraded)) - patches).abs().mean().backward()
        optimizer.step()
    hair.eval()


def move(hair: HairModel, amount: float = 0.3) -> None:
    """Add noise to DAC and HSNs, which makes selecting vectors depend on the image."""
    with torch.no_grad():
        for parameter in (*hair.dac.parameters(), *hair.hsn.parameters()):
            parameter.add_(torch.randn_like(parameter) * amount)


def _patch(photographs: Sequence[Tensor], generator: Generator) -> Tensor:
    def draw(choices: int) -> int:
        return int(torch.randint(choices, (), generator=generator))

    photograph = photographs[draw(len(photographs))]
    top, left = (draw(side - _PATCH + 1) for side in photograph.shape[1:])
    return photograph[:, top : top + _PATCH, left : left + _PATCH]


def load(name: str) -> Tensor:
    """One of scikit-image's photographs, (3, H, W) in [0, 1]."""
    pixels = torch.from_numpy(skimage.io.imread(str(files(skimage) / "data" / name)))
    return pixels.permute(2, 0, 1).contiguous() / 255


def tables(options: argparse.Namespace) -> Iterator[str]:
    """One for each network."""
    image = degradation("noise25")(load(TESTED)[None], Generator().manual_seed(1))
    for name in options.networks:
        torch.manual_seed(0)
        hair = hairify(NETWORKS[name]())
        train(hair, [load(photograph) for photograph in TRAINING], options.steps)
        move(hair)
        results = [measure(hair, image, options.tile, overlap) for overlap in options.overlaps]
        rows = [
            [str(r.overlap), *map(str, (r.one_giv, r.static, r.own_givs)), f"{r.difference.largest:.4f}"]
            for r in results
        ]
        title = f"## {name}, {image.shape[2]}×{image.shape[3]} pixels in tiles of {options.tile}²"
        head = ["overlap", "one GIV: largest; mean", "static", "own GIVs", "difference"]
        yield f"{title}\n\n{table(head, rows)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tiling",
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--networks", choices=NETWORKS, nargs="+", default=[*NETWORKS], help="to measure")
    parser.add_argument("--tile", type=int, default=128, help="side of the tiles in pixels")
    parser.add_argument("--overlaps", type=int, nargs="+", default=[0, 16, 32, 64], help="in pixels")
    parser.add_argument("--steps", type=int, default=100, help="to train each network for")
    parser.add_argument("--output", type=Path, help="a Markdown file to write to as well")
    options = parser.parse_args(arguments)
    text = f"{machine.describe()}\n\n{_METHOD}"
    print(text, flush=True)
    for one in tables(options):
        print(f"\n{one}", flush=True)
        text += f"\n\n{one}"
    if options.output is not None:
        options.output.write_text(f"{text}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
