"""Images as the bytes of a file."""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction
from itertools import accumulate
from typing import Any

import imagecodecs
import numpy as np
import PIL.Image

from hairify.data._exif import (
    EXIF_PREFIX,
    ICC_PROFILE,
    LONG,
    RATIONAL,
    RESOLUTION_UNIT,
    SHORT,
    UNDEFINED,
    X_RESOLUTION,
    Y_RESOLUTION,
    density,
    descriptive_fields,
    directory,
    resolution_in,
    tiff_header,
)
from hairify.data._image import Image, Levels, to_levels
from hairify.data._png import PNG_SIGNATURE, chunk, profile_chunk, resolution_chunk


def encode(image: Image, suffix: str, quality: int) -> bytes:
    """The content of a file."""
    kind: type[np.uint8 | np.uint16 | np.float32] = np.uint8
    if image.bits > 8 and suffix in {".png", *TIFF}:
        kind = np.float32 if image.bits == 32 and suffix in TIFF else np.uint16
    levels = to_levels(image, kind, alpha=suffix not in JPEG)
    if suffix in TIFF:
        return _encode_tiff(levels, image)
    if suffix == ".png":
        return _encode_png(levels, image)
    if suffix == ".bmp" and image.alpha is not None:
        return _encode_bmp_with_alpha(levels, image)
    return _encode_by_pillow(levels, image, BY_PILLOW[suffix], quality)


def lost(image: Image, suffix: str) -> list[str]:
    """What a file of the format cannot keep of an image."""
    floats = image.bits == 32 and suffix not in TIFF
    kinds = {kind.decode() for kind, _ in image.colour_chunks}
    no_profile = suffix == ".bmp" or (suffix == ".webp" and image.grey)
    without = {
        "transparency": image.alpha is not None and suffix in JPEG,
        "floating-point values": floats,
        "more than 8 bits": image.bits > 8 and suffix not in {".png", *TIFF},
        "colour profile": image.icc_profile is not None and no_profile,
        "EXIF": image.exif is not None and suffix == ".bmp",
        "EXIF of more than 64 KiB": image.exif is not None and suffix in JPEG and not _fits_jpeg(image.exif),
        # sRGB is what files are taken for that say nothing.
        f"colours as {', '.join(sorted(kinds))} say": bool(kinds) and "sRGB" not in kinds and suffix != ".png",
        "resolution": image.resolution is not None and suffix == ".webp" and resolution_in(image.exif) is None,
    }
    return [what for what, is_lost in without.items() if is_lost]


def _fits_jpeg(exif: bytes) -> bool:
    return len(EXIF_PREFIX + exif) <= 65533  # in one segment, as EXIF has to be


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
    if image.exif is not None and (format != "JPEG" or _fits_jpeg(image.exif)):
        options["exif"] = EXIF_PREFIX + image.exif
    unit = 2
    if image.resolution is not None and format == "JPEG":
        unit, *numbers = density(image.resolution)
        options["dpi"] = tuple(min(number, 65535) for number in numbers)
    elif image.resolution is not None and format == "BMP":
        options["dpi"] = tuple(one / 39.3701 for one in image.resolution)  # as Pillow has it
    file = io.BytesIO()
    picture.save(file, format, **options)
    content = file.getvalue()
    if unit == 3 and content[6:10] == b"JFIF":  # centimetres; Pillow writes inches
        content = content[:13] + b"\2" + content[14:]
    return content


def _encode_png(levels: Levels, image: Image) -> bytes:
    """A PNG file of 8 or 16 bits: imagecodecs writes the pixels, and the other chunks are put in after the header."""
    png = imagecodecs.png_encode(levels)
    kept = dict(image.colour_chunks)
    more = chunk(b"cICP", kept.pop(b"cICP")) if b"cICP" in kept else b""  # which goes before the profile
    if image.icc_profile is not None:
        more += profile_chunk(image.icc_profile)
    more += b"".join(chunk(kind, content) for kind, content in kept.items())
    if image.resolution is not None:
        more += resolution_chunk(image.resolution)
    if image.exif is not None:
        more += chunk(b"eXIf", image.exif)
    header = len(PNG_SIGNATURE) + len(chunk(b"IHDR", bytes(13)))
    return b"".join((png[:header], more, png[header:]))


def _encode_bmp_with_alpha(levels: Levels, image: Image) -> bytes:
    """A BMP file with the fourth version of the header, which alone tells that there is alpha; Pillow writes none."""
    height, width, channels = levels.shape
    blue_to_alpha = levels[::-1, :, [2, 1, 0, 3] if channels == 4 else [0, 0, 0, 1]].tobytes()
    header = 14 + 108
    resolution = [round(one) for one in image.resolution or (0, 0)]
    return b"".join(
        (
            struct.pack("<2sIII", b"BM", header + len(blue_to_alpha), 0, header),
            struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(blue_to_alpha), *resolution, 0, 0),
            struct.pack("<IIII", 0xFF << 16, 0xFF << 8, 0xFF, 0xFF << 24),  # where the four channels are
            b"BGRs".ljust(52, b"\0"),  # sRGB
            blue_to_alpha,
        )
    )


def _encode_tiff(levels: Levels, image: Image) -> bytes:
    """A TIFF file: compressed strips, of integers each pixel less the one before it (TIFF 6.0, section 14)."""
    height, width, channels = levels.shape
    order, fields = descriptive_fields(image.exif) if image.exif is not None else ("<", {})
    rows = max(2**18 // (width * channels * levels.itemsize), 1)
    floats = levels.dtype == np.float32
    change = levels.copy()
    if not floats:
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
        317: numbers(SHORT, 1 if floats else 2),  # differences
        339: numbers(SHORT, *[3 if floats else 1] * channels),  # floating point, or unsigned integers
    }
    if image.resolution is not None and not {X_RESOLUTION, Y_RESOLUTION} <= fields.keys():
        unit, *both = density(image.resolution)
        exact = [Fraction(one).limit_denominator(10**4) for one in both]
        for tag, one in zip((X_RESOLUTION, Y_RESOLUTION), exact, strict=True):
            fields[tag] = (RATIONAL, struct.pack(order + "II", one.numerator, one.denominator))
        fields[RESOLUTION_UNIT] = numbers(SHORT, unit)
    if channels in (2, 4):
        fields[338] = numbers(SHORT, 2)  # alpha, by which colours are not multiplied
    if image.icc_profile is not None:
        fields[ICC_PROFILE] = (UNDEFINED, image.icc_profile)
    return b"".join((tiff_header(order, end + end % 2), *strips, directory(fields, order, end + end % 2)))


TIFF = {".tif", ".tiff"}

JPEG = {".jpg", ".jpeg", ".jpe", ".jfif"}

BY_PILLOW = {**dict.fromkeys(JPEG, "JPEG"), ".webp": "WEBP", ".bmp": "BMP"}

LONGEST_SIDE = {**dict.fromkeys(JPEG, 65535), ".webp": 16383}
