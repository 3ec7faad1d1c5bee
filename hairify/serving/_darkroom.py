"""What the page does, without the page: looking at a photograph and restoring it, from file to file."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import PIL.Image
import torch
from PIL import ImageCms
from torch.nn.functional import interpolate

from hairify._support.modes import evaluation_mode
from hairify.data._image import Image
from hairify.data.images import read
from hairify.errors import ImageError, OptionError
from hairify.model import HairModel
from hairify.restoring import (
    CLEAN,
    Guidance,
    GuidanceSettings,
    RestoringSettings,
    Sight,
    TilingSettings,
    giv_of,
    restore_files,
)
from hairify.sharing import Restorer

AS_SEEN = "as seen"
"""The choice of restoring from what the network sees."""

_SHOWN = 1600  # pixels of the longer side, of what a browser shows


@dataclass(frozen=True)
class Darkroom:
    """A restorer and how it is used, by one visitor at a time: the network is one for all.

    Attributes:
        restorer: with its model on its device.
        tiling: of large photographs.
        pixel_limit: megapixels that a photograph may have.
    """

    restorer: Restorer
    tiling: TilingSettings
    pixel_limit: int
    _in_use: Lock = field(default_factory=Lock, repr=False)

    @property
    def choices(self) -> list[str]:
        """What a photograph can be restored from: what is seen, and the degradations that the restorer knows."""
        return [AS_SEEN, *(self.restorer.givs or ())]

    @property
    def knows_clean(self) -> bool:
        """Whether the GIVs of clean images are known, by which strength goes."""
        return CLEAN in (self.restorer.givs or ())

    def look(self, path: Path) -> tuple[PIL.Image.Image, Sight | None]:
        """A photograph as a browser shows it, and what the network sees in it; None where it keeps no known GIVs.

        Raises:
            ImageError: it cannot be read, or is too large.
        """
        self._check_size(path)
        image = read(path)
        model, known = self.restorer.model, self.restorer.givs
        if known is None or not isinstance(model, HairModel):
            return shown(image), None
        with self._in_use, evaluation_mode(model):
            giv = giv_of(model, image.pixels[None], self.tiling, self.restorer.multiple)
        return shown(image), known.look(giv)

    def restore(
        self, path: Path, output: Path, choice: str, strength: float, on_tile: Callable[[int, int], None]
    ) -> tuple[Path, str]:
        """Restore a photograph into a folder, as `hairify restore` does.

        Args:
            path: the photograph.
            output: the folder.
            choice: one of `choices`.
            strength: from 0, as for clean photographs, to 2; 1 is all of it.
            on_tile: is told how many tiles are done, and of how many.

        Returns:
            The restored file, and what could not be kept in it.

        Raises:
            ImageError: it cannot be read, is too large, or cannot be written.
            OptionError: there is no such choice or strength.
        """
        self._check_size(path)
        giv = None
        if choice != AS_SEEN:
            if self.restorer.givs is None:
                raise OptionError(f"This restorer knows no degradation {choice!r}.")
            giv = self.restorer.givs.giv(choice)
        guidance = Guidance(GuidanceSettings(strength=strength).strength, giv, known=self.restorer.givs)
        with self._in_use:
            (outcome,) = restore_files(
                self.restorer.model,
                [path],
                output,
                multiple=self.restorer.multiple,
                tiling=self.tiling,
                settings=RestoringSettings(overwrite=True),
                guidance=guidance,
                on_tile=lambda source, done, of: on_tile(done, of),
            )
        if outcome.target is None or outcome.status == "failed":
            raise ImageError(outcome.message)
        return outcome.target, outcome.message

    def _check_size(self, path: Path) -> None:
        """Refuse what is too large by what its head says, before it is decoded."""
        try:
            with PIL.Image.open(path) as head:
                megapixels = head.width * head.height / 1e6
        except PIL.Image.DecompressionBombError:
            megapixels = math.inf
        except Exception:  # reading it says better what is wrong
            return
        if megapixels > self.pixel_limit:
            raise ImageError(
                f"{path.name} has {megapixels:.0f} megapixels; this page takes {self.pixel_limit}. `hairify restore` "
                "takes any size."
            )


def shown(image: Image) -> PIL.Image.Image:
    """A photograph as a browser shows it: in 8 bits and sRGB, and not too large."""
    alpha = torch.ones(1) if image.alpha is None else image.alpha
    pixels = (image.pixels * alpha + 1 - alpha)[None]  # on white
    if (longer := max(pixels.shape[2:])) > _SHOWN:
        size = [max(round(side * _SHOWN / longer), 1) for side in pixels.shape[2:]]
        pixels = interpolate(pixels, size, mode="bilinear", antialias=True)
    picture = PIL.Image.fromarray((pixels[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())
    if image.icc_profile is None:
        return picture
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(image.icc_profile))
        converted = ImageCms.profileToProfile(picture, own, ImageCms.createProfile("sRGB"))
    except (ImageCms.PyCMSError, OSError):  # a damaged profile, or one of a grey file: shown as if it had none
        return picture
    return converted or picture
