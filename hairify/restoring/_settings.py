"""How photographs are restored and written, as a user says it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from typing_extensions import Doc

from hairify.errors import OptionError


@dataclass(frozen=True)
class TilingSettings:
    """How an image is divided into tiles."""

    tile: Annotated[
        int, Doc("side of the tiles in pixels, a multiple of what the network needs; small tiles take less memory")
    ] = 256
    overlap: Annotated[
        int, Doc("pixels that neighbouring tiles share at least; they are blended over the middle half of these")
    ] = 32
    giv_tiles: Annotated[
        int, Doc("evenly spaced tiles, at most, whose mean GIV decides the weights of all tiles of an image")
    ] = 16

    def __post_init__(self) -> None:
        for name in ("tile", "giv_tiles"):
            if (value := getattr(self, name)) < 1:
                raise OptionError(f"`{name}` is {value}; accepted are numbers from 1.")
        if not 0 <= self.overlap < self.tile:
            raise OptionError(
                f"`overlap` is {self.overlap}; accepted are numbers from 0 to below `tile`, which is {self.tile}."
            )

    def check(self, multiple: int) -> None:
        """Whether such tiles can be given to a network that needs sides which are multiples of `multiple`.

        Raises:
            OptionError: they cannot.
        """
        if self.tile % multiple:
            near = max(round(self.tile / multiple), 1) * multiple
            raise OptionError(
                f"`tile` is {self.tile}; accepted are multiples of {multiple}, which the network needs, such as {near}."
            )
        if self.overlap > self.tile - multiple:
            raise OptionError(
                f"`overlap` is {self.overlap}; with tiles of {self.tile} pixels, which begin at multiples of "
                f"{multiple}, accepted are numbers up to {self.tile - multiple}."
            )


@dataclass(frozen=True)
class GuidanceSettings:
    """Which GIV photographs are restored with, where it is not simply their own."""

    strength: Annotated[
        float, Doc("how much of what is seen is restored: 0 as for a clean photograph, 1 all, up to 2 more than it")
    ] = 1.0
    as_degradation: Annotated[
        str | None, Doc("restore from this degradation that the restorer knows, whatever is seen; such as rain")
    ] = None
    like: Annotated[Path | None, Doc("restore as this photograph is restored")] = None
    passes: Annotated[
        int, Doc("look and restore so often, each time what came of it before: for several degradations at once")
    ] = 1

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 2:
            raise OptionError(f"`strength` is {self.strength}; accepted are numbers from 0 to 2.")
        if not 1 <= self.passes <= 10:
            raise OptionError(f"`passes` is {self.passes}; accepted are numbers from 1 to 10.")
        if self.as_degradation is not None and self.like is not None:
            raise OptionError("`as_degradation` and `like` both say what to restore from; give one of them.")
        if self.passes > 1 and (self.as_degradation is not None or self.like is not None):
            raise OptionError("`passes` look again each time, for which `as_degradation` and `like` leave no room.")


@dataclass(frozen=True)
class RestoringSettings:
    """How restored photographs are written."""

    overwrite: Annotated[bool, Doc("replace outputs that exist; without, they are skipped")] = False
    bake: Annotated[
        bool, Doc("make each photograph's static network and run that; the same result, of ordinary layers")
    ] = False
    output_format: Annotated[
        Literal["png", "jpg", "webp", "tif", "bmp"] | None, Doc("format of all outputs; by default that of each input")
    ] = None
    quality: Annotated[int, Doc("of JPEG and WebP outputs, 1 to 100")] = 95

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise OptionError(f"`quality` is {self.quality}; accepted are numbers from 1 to 100.")


@dataclass(frozen=True)
class VideoSettings:
    """How videos are restored and written."""

    smoothing: Annotated[
        float, Doc("of videos: seconds over which frames share what is seen in them, up to a cut; 0: each by itself")
    ] = 1.0
    crf: Annotated[int, Doc("of videos: what encoding may lose, 0 (nothing) to 51 (most)")] = 18

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < math.inf:
            raise OptionError(f"`smoothing` is {self.smoothing}; accepted are numbers from 0.")
        if not 0 <= self.crf <= 51:
            raise OptionError(f"`crf` is {self.crf}; accepted are numbers from 0 to 51.")
