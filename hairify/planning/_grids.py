"""Where the rows and columns of token features are found, at any size of the image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from hairify._support.isolation import pass_on_lack_of_memory
from hairify._support.nested import Size
from hairify._support.torch_internals import tree_flatten, tree_unflatten
from hairify.nn._features import Feature, Grid
from hairify.planning._inputs import Inputs
from hairify.planning._probe import Probe
from hairify.planning._recording import Recording

# Windows and patches of a larger side are unknown.
_MOST_ROUNDED = 64
_UNKNOWN = (
    "the grid of tokens: no map that the network makes on the way to the split has their number, nor have the image's "
    "sides rounded to a multiple; they are folded by the image's aspect ratio"
)


@dataclass(frozen=True)
class _Seen:
    """What one run shows: the size of the image, the number of tokens, and the shapes of what modules returned first.

    Shapes are those before the split's end, by name and index, in the order of the calls.
    """

    image: Size
    length: int
    shapes: Mapping[tuple[str, int], tuple[int, ...]]

    @classmethod
    def of(cls, recording: Recording, image: Size, batch: int, split: str, index: int) -> _Seen:
        first = recording.first_calls()
        shapes = {
            (name, i): returned.shape
            for name, call in first.items()
            if name and call.end <= first[split].end
            for i, returned in enumerate(call.returned)
            if len(returned.shape) == 4 and returned.shape[0] == batch
        }
        return cls(image, first[split].returned[index].shape[1], shapes)

    def size(self, grid: Grid) -> Size | None:
        """What a grid gives here; None where its module returned no map."""
        if grid.module is None:
            return grid.of(self.image)
        shape = self.shapes.get((grid.module, grid.index))
        return None if shape is None else grid.of((shape[grid.axis], shape[grid.axis + 1]))

    def fits(self, grid: Grid) -> bool:
        """Whether there are as many tokens as positions."""
        size = self.size(grid)
        return size is not None and size[0] * size[1] == self.length


def with_grid(probe: Probe, split: str, feature: Feature) -> tuple[Feature, list[str]]:
    """A feature of tokens, with what tells their grid at any size; another feature as it is.

    Networks pad images to a multiple of their windows or patches by themselves, so that the image's aspect ratio is not
    the grid's. That has the size of a map which the network made on the way to the split; else sides of the image
    rounded to a multiple. Which, runs on images of other sizes show.

    Returns:
        The feature, and what could not be checked, in words.
    """
    image = probe.inputs.image
    if feature.layout != "tokens" or image is None:
        return feature, []
    seen = [_Seen.of(probe.recording, image, probe.inputs.batch, split, feature.index)]
    failures: list[str] = []
    for size in _other_sizes(image):
        try:
            recording = probe.run(_resized(probe.inputs, image, size))
            seen.append(_Seen.of(recording, size, probe.inputs.batch, split, feature.index))
        except Exception as error:  # sizes that the network does not take
            pass_on_lack_of_memory(error)
            failures.append(f"the grid of tokens at {size[0]}×{size[1]}: {type(error).__name__}: {error}")
    grid = next((grid for grid in _grids(seen[0], feature.shape[1:], len(seen) > 1) if _fit(seen, grid)), None)
    unchecked = failures if len(seen) == 1 else []
    if grid is None:
        return feature, [*unchecked, _UNKNOWN]
    found = seen[0].size(grid)
    assert found is not None
    return replace(feature, shape=(feature.channels, *found), grid=grid), unchecked


def _fit(seen: list[_Seen], grid: Grid) -> bool:
    return all(one.fits(grid) for one in seen)


def _grids(seen: _Seen, size: Size, rounded: bool) -> Iterator[Grid]:
    """Grids in question, the likelier first.

    Args:
        seen: the run on the example inputs.
        size: of the grid as far as its length and the image tell.
        rounded: whether to look further than for maps of the very size.
    """
    maps = [Grid(name, index, axis) for name, index in seen.shapes for axis in (2, 1)]
    yield from sorted(maps, key=lambda grid: seen.size(grid) != size)
    if not rounded:
        return
    for multiple in range(1, _MOST_ROUNDED + 1):
        for grid in (Grid(None), *maps):
            for up in (True, False):
                units = replace(grid, multiple=multiple, up=up)
                h, w = seen.size(units) or (0, 0)
                per = math.isqrt(seen.length // (h * w)) if h and w else 0
                # Windows and patches hold a whole number of positions a side, or these of them.
                if per and (multiple % per == 0 or per % multiple == 0):
                    yield replace(units, per=per)


def _other_sizes(image: Size) -> Iterator[Size]:
    """Sizes to try: half and one more, which each multiple rounds to another number; what keeps more; and squares.

    One alone does not tell all multiples apart: half of 56 and one more is 32 by windows of 4 and of 8.
    """
    height, width = image
    half = height // 2 + 1, width // 2 + 1
    yield half
    yield half[0], width
    yield height // 2, width
    yield height, width // 2
    if height == width:
        yield half[0], half[0]
        yield height // 2, height // 2


def _resized(inputs: Inputs, image: Size, size: Size) -> Inputs:
    """The inputs for an image of another, smaller size; two numbers in a row that are its sides are changed with it."""
    leaves, structure = tree_flatten((inputs.args, inputs.kwargs))
    for i, value in enumerate(leaves):
        if isinstance(value, Tensor):
            if value.ndim > 2 and tuple(value.shape[-2:]) == image:
                leaves[i] = value[..., : size[0], : size[1]]
        elif all(type(n) is int for n in leaves[i : i + 2]) and tuple(leaves[i : i + 2]) == image:
            leaves[i : i + 2] = size
    args, kwargs = tree_unflatten(leaves, structure)
    return Inputs(args, kwargs, inputs.batched)
