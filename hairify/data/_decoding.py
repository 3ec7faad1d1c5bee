"""Files as images."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import imagecodecs
import numpy as np
import tifffile
from einops import rearrange
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from hairify.data._exif import tiff_exif, upright
from hairify.data._image import PNG_SIGNATURE, Levels
from hairify.errors import ImageError

LARGEST = 2**29
"""Pixels in the largest image that is read, 6 GiB as float32. What claims to be larger is taken for a trap.

For WebP, Pillow's own limit is a third of that.
"""

_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# Opened by `PIL.Image.open`, a photograph of 90 megapixels would be taken for a decompression bomb; `LARGEST` is the
# limit here.
_READERS: dict[bytes, type[ImageFile]] = {
    PNG_SIGNATURE: PngImageFile,
    b"\xff\xd8\xff": JpegImageFile,
    b"RIFF": WebPImageFile,
    b"BM": BmpImageFile,
}


@dataclass(frozen=True, eq=False)
class Decoded:
    """What is in a file, as it is there."""

    levels: Levels
    icc_profile: bytes | None
    exif: bytes | None


def decode(path: Path) -> Decoded:
    """Decode a file by what it holds, whatever it is called."""
    if not path.is_file():
        raise ImageError(f"There is no file {path}.")
    try:
        with path.open("rb") as file:
            start = file.read(26)
            file.seek(0)
            if start.startswith(PNG_SIGNATURE) and start[24:25] == b"\x10":
                decoded = _decode_deep_png(file.read())
            elif start.startswith(_TIFF_SIGNATURES):
                decoded = _decode_tiff(file)
            else:
                readers = [reader for signature, reader in _READERS.items() if start.startswith(signature)]
                if not readers:
                    raise ImageError("it does not begin as such a file does" if start else "it is empty")
                decoded = _decode_by_pillow(readers[0](file))
        if decoded.levels.ndim != 3 or not decoded.levels.size:
            raise ImageError("it has no pixels")
        return decoded
    except MemoryError:
        raise
    except Exception as error:  # on damaged files, decoders raise whatever they stumble over
        raise ImageError(
            f"{path} cannot be read as an image ({str(error) or type(error).__name__}). It should be a whole PNG, "
            "JPEG, WebP, TIFF or BMP file."
        ) from error


def _check_size(width: int, height: int) -> None:
    if width * height > LARGEST:
        raise ImageError(f"it claims to be {width} × {height} pixels, and at most {LARGEST} pixels are read")


def _decode_by_pillow(image: ImageFile) -> Decoded:
    with image:
        _check_size(*image.size)
        image.load()
        info, mode = image.info, image.mode
        if mode in ("1", "L", "LA", "La"):
            wanted = "LA" if image.has_transparency_data else "L"
        elif mode in ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"):
            wanted = "RGBA" if image.has_transparency_data else "RGB"
        else:
            raise ImageError(f"its pixels are of kind {mode!r}, not grey, RGB, palette or CMYK of 8 or 16 bits")
        levels = np.asarray(image if mode == wanted else image.convert(wanted))
    return Decoded(
        levels=levels if levels.ndim == 3 else levels[..., None],
        icc_profile=info.get("icc_profile") if mode != "CMYK" else None,
        exif=info.get("exif"),
    )


def _decode_deep_png(data: bytes) -> Decoded:
    """A PNG file of 16 bits."""
    _check_size(*struct.unpack_from(">II", data, 16))
    levels = imagecodecs.png_decode(data)
    icc_profile = exif = None
    for kind, content in _chunks(data):
        if kind == b"iCCP":  # a name that ends in 0, the method, the profile
            compressed = content[content.index(b"\0") + 2 :]
            icc_profile = zlib.decompressobj().decompress(compressed, 2**24)  # more is no profile
        elif kind == b"eXIf":
            exif = content
    return Decoded(levels if levels.ndim == 3 else levels[..., None], icc_profile, exif)


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a PNG file by kind, without the pixels."""
    place = len(PNG_SIGNATURE)
    while place + 8 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, place)
        if kind != b"IDAT":
            yield kind, png[place + 8 : place + 8 + length]
        place += length + 12


def _decode_tiff(file: IO[bytes]) -> Decoded:
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages.first
        _check_size(page.imagewidth, page.imagelength)
        icc_profile, exif = page.iccprofile, tiff_exif(file, tiff)
        if page.photometric in (0, 1, 2) and (page.dtype, page.bitspersample) in ((np.uint8, 8), (np.uint16, 16)):
            return Decoded(_tiff_levels(page), icc_profile, exif)
    file.seek(0)
    decoded = _decode_by_pillow(TiffImageFile(file))
    # Pillow has applied the orientation, as it does to TIFF alone.
    return Decoded(decoded.levels, decoded.icc_profile, upright(exif)[1])


def _tiff_levels(page: tifffile.TiffPage) -> Levels:
    """The pixels of a TIFF page of grey or RGB."""
    stored = page.asarray()
    if stored.ndim == 2:
        stored = stored[..., None]
    elif page.axes == "SYX":
        stored = rearrange(stored, "c h w -> h w c")
    white = np.iinfo(stored.dtype).max
    colours = 3 if page.photometric == 2 else 1
    colour, alpha = stored[..., :colours], stored[..., colours : colours + 1]
    if page.photometric == 0:  # 0 is white
        colour = white - colour
    meaning = page.extrasamples[0] if page.extrasamples else 0
    if meaning not in (1, 2):  # the next channel is something else, if there is one
        return colour
    if meaning == 1:  # colours are stored times alpha
        share = np.minimum(colour / np.maximum(alpha, 1).astype(np.float32), 1)
        colour = np.rint(share * white).astype(stored.dtype)
    return np.concatenate((colour, alpha), axis=2)
