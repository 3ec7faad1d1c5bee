"""Images as the bytes of a file."""

from __future__ import annotations

import io
import struct
import zlib
from itertools import accumulate
from typing import Any

import imagecodecs
import numpy as np
import PIL.Image

from hairify.data._exif import (
    EXIF_PREFIX,
    ICC_PROFILE,
    LONG,
    SHORT,
    UNDEFINED,
    descriptive_fields,
    directory,
    tiff_header,
)
from hairify.data._image import PNG_SIGNATURE, Image, Levels, to_levels


def encode(image: Image, suffix: str, quality: int) -> bytes:
    """The content of a file."""
    deep = image.bits == 16 and suffix in {".png", *TIFF}
    levels = to_levels(image, np.uint16 if deep else np.uint8, alpha=suffix not in {".jpg", ".jpeg"})
    if suffix in TIFF:
        return _encode_tiff(levels, image)
    if suffix == ".png":
        return _encode_png(levels, image)
    if suffix == ".bmp" and image.alpha is not None:
        return _encode_bmp_with_alpha(levels)
    return _encode_by_pillow(levels, image, BY_PILLOW[suffix], quality)


def _encode_by_pillow(levels: Levels, image: Image, format: str, quality: int) -> bytes:
    picture = PIL.Image.fromarray(levels if levels.shape[2] > 1 else levels[..., 0])
    options: dict[str, Any] = {}
    if format == "JPEG":
        options = {"quality": quality, "subsampling": 0}  # colours as sharp as brightness
    elif format == "WEBP":
        options = {"quality": quality, "exact": True}  # also what is transparent keeps its colour
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    if image.icc_profile is not None and not (format == "WEBP" and image.grey):  # of grey, the profile does not fit RGB
        options["icc_profile"] = image.icc_profile
    if image.exif is not None:
        options["exif"] = EXIF_PREFIX + image.exif
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def _encode_png(levels: Levels, image: Image) -> bytes:
    """A PNG file of 8 or 16 bits: imagecodecs writes the pixels, and the other chunks are put in after the header."""
    png = imagecodecs.png_encode(levels)
    more = b""
    if image.icc_profile is not None:
        more += _chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(image.icc_profile))
    if image.exif is not None:
        more += _chunk(b"eXIf", image.exif)
    header = len(PNG_SIGNATURE) + len(_chunk(b"IHDR", bytes(13)))
    return b"".join((png[:header], more, png[header:]))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _encode_bmp_with_alpha(levels: Levels) -> bytes:
    """A BMP file with the fourth version of the header, which alone tells that there is alpha; Pillow writes none."""
    height, width, channels = levels.shape
    blue_to_alpha = levels[::-1, :, [2, 1, 0, 3] if channels == 4 else [0, 0, 0, 1]].tobytes()
    header = 14 + 108
    return b"".join(
        (
            struct.pack("<2sIII", b"BM", header + len(blue_to_alpha), 0, header),
            struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(blue_to_alpha), 0, 0, 0, 0),
            struct.pack("<IIII", 0xFF << 16, 0xFF << 8, 0xFF, 0xFF << 24),  # where the four channels are
            b"BGRs".ljust(52, b"\0"),  # sRGB
            blue_to_alpha,
        )
    )


def _encode_tiff(levels: Levels, image: Image) -> bytes:
    """A TIFF file of 8 or 16 bits: compressed strips, each pixel less the one before it (TIFF 6.0, section 14)."""
    height, width, channels = levels.shape
    order, fields = descriptive_fields(image.exif) if image.exif is not None else ("<", {})
    rows = max(2**18 // (width * channels * levels.itemsize), 1)
    change = levels.copy()
    change[:, 1:] -= levels[:, :-1]
    change = change.astype(change.dtype.newbyteorder(order), copy=False)
    strips = [zlib.compress(change[top : top + rows].tobytes()) for top in range(0, height, rows)]
    *starts, end = accumulate((len(strip) for strip in strips), initial=8)
    strips.append(bytes(end % 2))  # directories begin at even places

    def numbers(kind: int, *values: int) -> tuple[int, bytes]:
        return kind, struct.pack(f"{order}{len(values)}{'H' if kind == SHORT else 'I'}", *values)

    fields |= {
        256: numbers(LONG, width),
        257: numbers(LONG, height),
        258: numbers(SHORT, *[8 * levels.itemsize] * channels),
        259: numbers(SHORT, 8),  # compression: deflate
        262: numbers(SHORT, 2 if channels > 2 else 1),  # RGB, or grey whose 0 is black
        273: numbers(LONG, *starts),
        277: numbers(SHORT, channels),
        278: numbers(LONG, rows),
        279: numbers(LONG, *(len(strip) for strip in strips[:-1])),
        284: numbers(SHORT, 1),  # channels side by side
        317: numbers(SHORT, 2),  # differences
    }
    if channels in (2, 4):
        fields[338] = numbers(SHORT, 2)  # alpha, by which colours are not multiplied
    if image.icc_profile is not None:
        fields[ICC_PROFILE] = (UNDEFINED, image.icc_profile)
    return b"".join((tiff_header(order, end + end % 2), *strips, directory(fields, order, end + end % 2)))


TIFF = {".tif", ".tiff"}

BY_PILLOW = {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}

LONGEST_SIDE = {".jpg": 65535, ".jpeg": 65535, ".webp": 16383}
