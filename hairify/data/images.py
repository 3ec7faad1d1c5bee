"""Reading and writing photographs, with all that must survive restoring: depth, alpha, colours, resolution and EXIF.

Pillow decodes and encodes most of it, but cuts 16 bits down to 8. So 16-bit PNG is read by imagecodecs, which writes
PNG of any depth, several times faster, and TIFF is read by tifffile. TIFF is written here: none of these libraries
writes both 16 bits and EXIF.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from hairify._support.files import replacing
from hairify.data._decoding import LARGEST, decode, decode_content
from hairify.data._encoding import BY_PILLOW, LONGEST_SIDE, encode, lost
from hairify.data._exif import upright
from hairify.data._formats import FOR_OTHER_PROGRAMS, IMAGES, SUFFIXES, needed_for, readable
from hairify.data._image import Image, to_integers, to_pixels, to_tensor, turned
from hairify.errors import DataError, ImageError, OptionError

__all__ = [
    "FOR_OTHER_PROGRAMS",
    "IMAGES",
    "LARGEST",
    "SUFFIXES",
    "Image",
    "find_images",
    "find_unread",
    "integers_in",
    "lost",
    "needed_for",
    "read",
    "read_integers",
    "read_rgb",
    "readable",
    "write",
]

_BITS: dict[type, Literal[8, 16, 32]] = {np.uint8: 8, np.uint16: 16, np.float32: 32}


def read(path: str | os.PathLike[str]) -> Image:
    """Read a PNG, JPEG, WebP, TIFF or BMP file, whatever its ending: grey, RGB or palette, with or without alpha.

    GIF, JPEG 2000, AVIF, PPM and QOI files are read as far as Pillow does, HEIC and JPEG XL by its plug-ins pillow-heif
    and pillow-jxl-plugin; of them, colours have 8 bits. The orientation that EXIF gives is applied. Of an animation or
    a file of several pages, the first is read, and `Image.frames` says how many there are. CMYK is converted to RGB as
    Pillow does it, without the CMYK profile, which no longer fits the pixels. TIFF may be of floating-point values in
    [0, 1].

    Raises:
        ImageError: there is no such file; it is damaged or of another kind; or it is larger than `LARGEST`.
    """
    decoded = decode(Path(path))
    orientation, exif = upright(decoded.exif)
    levels = turned(decoded.levels, orientation)
    channels = levels.shape[2]
    return Image(
        pixels=to_pixels(levels),
        alpha=to_tensor(levels[..., -1:]) if channels in (2, 4) else None,
        grey=channels < 3,
        bits=_BITS[levels.dtype.type],
        icc_profile=decoded.icc_profile,
        exif=exif,
        resolution=_turned(decoded.resolution, orientation),
        colour_chunks=decoded.colour_chunks,
        frames=decoded.frames,
    )


def _turned(resolution: tuple[float, float] | None, orientation: int) -> tuple[float, float] | None:
    return resolution[::-1] if resolution is not None and orientation >= 5 else resolution


def read_rgb(path: str | os.PathLike[str]) -> Tensor:
    """The pixels of a file alone, as `read` gives them; alpha is ignored.

    Returns: (3, H, W) float32 in [0, 1].

    Raises:
        ImageError: as for `read`.
    """
    decoded = decode(Path(path))
    return to_pixels(turned(decoded.levels, upright(decoded.exif)[0]))


def read_integers(path: str | os.PathLike[str]) -> Tensor:
    """The same as whole numbers, 8 bits for each value, or 16 where 8 do not hold them.

    Returns: (3, H, W) uint8 or uint16.

    Raises:
        ImageError: as for `read`.
    """
    decoded = decode(Path(path))
    return to_integers(turned(decoded.levels, upright(decoded.exif)[0]))


def integers_in(content: bytes, name: str) -> Tensor:
    """As `read_integers`, of the content of a file.

    Raises:
        ImageError: as for `read`; it has the name.
    """
    decoded = decode_content(content, name)
    return to_integers(turned(decoded.levels, upright(decoded.exif)[0]))


def write(image: Image, path: str | os.PathLike[str], *, quality: int = 95) -> None:
    """Write an image in the format of the path's ending. The file appears under its name only when it is complete.

    PNG and TIFF have as many bits as the image, TIFF floating-point values, too, and are lossless; the other formats
    have 8. Values are clipped to [0, 1] and rounded. All keep alpha but JPEG, which drops it; all keep the colour
    profile and EXIF but BMP, which has no room for them. JPEG has none for EXIF of more than 64 KiB. TIFF keeps the
    descriptive part of EXIF, without the thumbnail. PNG alone keeps `Image.colour_chunks`; WebP knows no resolution but
    that of EXIF. A grey image is the mean of the three channels; WebP, which knows no grey, holds three equal ones.
    `lost` lists what a format cannot keep.

    Args:
        image: the image.
        path: the file to write, ending in one of `SUFFIXES`; one that exists is replaced.
        quality: of JPEG and WebP, 1 to 100.

    Raises:
        ImageError: the ending is not known, there is no such folder, the path is a folder, the image is too large
            for the format, or it holds values that are not finite.
        OptionError: `quality` is out of range.
        OSError: the file cannot be written, as on a full disk. What the path held before is left as it was.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if not 1 <= quality <= 100:
        raise OptionError(f"`quality` is {quality!r}; it should be between 1 and 100.")
    if suffix not in SUFFIXES:
        raise ImageError(f"{target} does not end in one of {', '.join(sorted(SUFFIXES))}, which tell the format.")
    if not target.parent.is_dir() or target.is_dir():
        wrong = f"{target} is a folder" if target.is_dir() else f"There is no folder {target.parent}"
        raise ImageError(f"{wrong}; `path` is the file to write.")
    longest = max(image.pixels.shape)
    if longest > LONGEST_SIDE.get(suffix, longest):
        raise ImageError(
            f"{target}: a side of {longest} pixels is too long for {BY_PILLOW[suffix]}, whose longest is "
            f"{LONGEST_SIDE[suffix]}. Write it as PNG or TIFF."
        )
    try:
        content = encode(image, suffix, quality)
    except (OSError, ValueError, struct.error) as error:  # of the encoders: nothing has been written yet
        raise ImageError(f"{target} cannot be written: {error}") from error
    # Encoded in memory first, since Pillow's encoders hide the reason why a file cannot be written.
    with replacing(target) as file:
        file.write_bytes(content)


def find_images(folder: str | os.PathLike[str], *, recursive: bool = True) -> list[Path]:
    """The image files in a folder that are read here, by their endings in upper or lower case, sorted.

    Hidden files and folders are left out, and folders that may not be entered. Links to folders are followed, each
    folder being entered once.

    Raises:
        DataError: there is no such folder.
    """
    return sorted(path for path in _files(folder, recursive) if path.suffix.lower() in readable())


def find_unread(folder: str | os.PathLike[str]) -> list[Path]:
    """The image files in a folder, and all folders in it, of formats that are not read here, sorted.

    Raises:
        DataError: there is no such folder.
    """
    return sorted(path for path in _files(folder, recursive=True) if path.suffix.lower() in IMAGES - readable())


def _files(folder: str | os.PathLike[str], recursive: bool) -> Iterator[Path]:
    if not Path(folder).is_dir():
        raise DataError(f"There is no folder {folder}.")
    entered: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        if (place := os.path.realpath(root)) in entered:
            folders.clear()
            continue
        entered.add(place)
        yield from (Path(root, name) for name in files if not name.startswith("."))
