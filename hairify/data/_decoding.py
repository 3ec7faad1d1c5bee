"""Files as images."""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

import imagecodecs
import numpy as np
import PIL.Image
import tifffile
from einops import rearrange
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from hairify.data._exif import resolution_in, tiff_exif, upright
from hairify.data._formats import BY_PILLOW, missing_for, readable
from hairify.data._image import Levels, white_of
from hairify.data._png import PNG_SIGNATURE, taken_apart
from hairify.errors import ImageError

LARGEST = 2**29
"""Pixels in the largest image that is read, 6 GiB as float32. What claims to be larger is taken for a trap.

For WebP, Pillow's own limit is a third of that.
"""

_ROUNDING = 1e-3  # by which floating-point values may leave [0, 1]

_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_PNG_COLOURS = (b"\0", b"\2", b"\4", b"\6")  # grey and RGB, both with and without alpha; no palette

# Opened by `PIL.Image.open`, a photograph of 90 megapixels would be taken for a decompression bomb; `LARGEST` is the
# limit here.
_READERS: dict[bytes, type[ImageFile]] = {
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
    resolution: tuple[float, float] | None = None
    colour_chunks: tuple[tuple[bytes, bytes], ...] = ()
    frames: int = 1


def decode(path: Path) -> Decoded:
    """Decode a file by what it holds, whatever it is called."""
    if not path.is_file():
        raise ImageError(f"There is no file {path}.")
    with _naming(path), path.open("rb") as file:
        return _decode(file, path)


def decode_content(content: bytes, name: str) -> Decoded:
    """Decode the content of a file that lies within another; the name is for errors."""
    with _naming(Path(name)):
        return _decode(io.BytesIO(content), Path(name))


def _decode(file: BinaryIO, path: Path) -> Decoded:
    start = file.read(26)
    file.seek(0)
    if start.startswith(PNG_SIGNATURE):
        decoded = _decode_png(file.read())
    elif start.startswith(_TIFF_SIGNATURES):
        decoded = _decode_tiff(file)
    else:
        decoded = _decode_by_pillow(_opened(file, start, path))
    if decoded.levels.ndim != 3 or not decoded.levels.size:
        raise ImageError("it has no pixels")
    return decoded


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Whatever decoders raise is an error that names the file."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # on damaged files, decoders raise whatever they stumble over
        raise ImageError(
            f"{path} cannot be read as an image ({str(error) or type(error).__name__}). It should be a whole PNG, "
            "JPEG, WebP, TIFF or BMP file, or another that Pillow reads."
        ) from error


def _check_size(width: int, height: int) -> None:
    if width * height > LARGEST:
        raise ImageError(f"it claims to be {width} × {height} pixels, and at most {LARGEST} pixels are read")


def _opened(file: IO[bytes], start: bytes, path: Path) -> ImageFile:
    """A file of another format than PNG and TIFF, by the way it begins."""
    for signature, reader in _READERS.items():
        if start.startswith(signature):
            return reader(file)
    readable()  # Pillow then has its own formats and those of plug-ins
    failure: Exception | None = None
    for name in sorted(BY_PILLOW & PIL.Image.OPEN.keys()):
        reads, accepts = PIL.Image.OPEN[name]
        if accepts is not None and accepts(start) is True:
            try:
                opened = reads(file, str(path))
            except Exception as error:  # AVIF and HEIF may begin alike
                failure = error
                file.seek(0)
            else:
                assert isinstance(opened, ImageFile)
                return opened
    if package := missing_for(start):
        raise ImageError(f"such files are read where the package {package} is installed, a plug-in of Pillow")
    raise failure or ImageError("it does not begin as such a file does" if start else "it is empty")


def _decode_by_pillow(image: ImageFile) -> Decoded:
    with image:
        _check_size(*image.size)
        frames = getattr(image, "n_frames", 1)
        image.load()
        info, mode = image.info, image.mode
        if mode in ("1", "L", "LA", "La"):
            wanted = "LA" if image.has_transparency_data else "L"
        elif mode in ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"):
            wanted = "RGBA" if image.has_transparency_data else "RGB"
        elif mode in ("I;16", "I;16B", "I;16L", "I") and image.format in ("PPM", "JPEG2000", "HEIF"):
            wanted = mode
        else:
            raise ImageError(f"its pixels are of kind {mode!r}, not grey, RGB, palette or CMYK of 8 or 16 bits")
        levels = np.asarray(image if mode == wanted else image.convert(wanted))
    if levels.dtype != np.uint8:
        levels = levels.astype(np.uint16)
    return Decoded(
        levels=levels if levels.ndim == 3 else levels[..., None],
        icc_profile=info.get("icc_profile") if mode != "CMYK" else None,
        exif=info.get("exif"),
        resolution=_resolution(image),
        frames=frames,
    )


def _resolution(image: ImageFile) -> tuple[float, float] | None:
    """In pixels per metre, across and down."""
    info = image.info
    if image.format == "JPEG" and info.get("jfif_unit") in (1, 2):
        metres = {1: 0.0254, 2: 0.01}[info["jfif_unit"]]
        across, down = (one / metres for one in info["jfif_density"])
    elif image.format in ("BMP", "JPEG2000") and "dpi" in info:
        across, down = (one * 39.3701 for one in info["dpi"])  # as Pillow has it
    else:
        return resolution_in(info.get("exif"))
    return (across, down) if across and down else None


def _decode_png(data: bytes) -> Decoded:
    chunks = taken_apart(data)
    depth, colours, interlaced = data[24:25], data[25:26], data[28:29]
    plain = colours in _PNG_COLOURS and interlaced == b"\0" and not chunks.is_keyed
    if depth == b"\x10" or (depth == b"\x08" and plain):  # Pillow cuts 16 bits down, and is slower with 8
        _check_size(*struct.unpack_from(">II", data, 16))
        levels = imagecodecs.png_decode(chunks.pixels)
    else:
        levels = _decode_by_pillow(PngImageFile(io.BytesIO(chunks.pixels))).levels
    return Decoded(
        levels=levels if levels.ndim == 3 else levels[..., None],
        icc_profile=chunks.icc_profile,
        exif=chunks.exif,
        resolution=chunks.resolution,
        colour_chunks=chunks.colour,
        frames=chunks.frames,
    )


def _decode_tiff(file: IO[bytes]) -> Decoded:
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages.first
        _check_size(page.imagewidth, page.imagelength)
        icc_profile, exif = page.iccprofile, tiff_exif(file, tiff)
        frames = sum(not one.is_reduced for one in tiff.pages) or 1  # others are thumbnails
        levels = _tiff_levels(page) if page.photometric in (0, 1, 2) and page.bitspersample > 4 else None
    if levels is None:
        file.seek(0)
        decoded = _decode_by_pillow(TiffImageFile(file))
        levels, icc_profile = decoded.levels, decoded.icc_profile
        exif = upright(exif)[1]  # Pillow has applied the orientation, as it does to TIFF alone
    return Decoded(levels, icc_profile, exif, resolution_in(exif), frames=frames)


def _tiff_levels(page: tifffile.TiffPage) -> Levels:
    """The pixels of a TIFF page of grey or RGB."""
    kind = np.dtype(page.dtype)
    if (kind.kind, page.bitspersample) not in (("u", 8), ("u", 16), ("f", 16), ("f", 32), ("f", 64)):
        raise ImageError(
            f"its values are {kind} of {page.bitspersample} bits; read are unsigned ones of 8 or 16 bits, and "
            "floating-point ones in [0, 1]. Convert it"
        )
    if page.axes not in ("YX", "YXS", "SYX"):
        raise ImageError(f"it is a volume, of {page.imagedepth} planes. Make files of its planes")
    if page.photometric < 2 and page.samplesperpixel > 1 + len(page.extrasamples[:1]):
        raise ImageError(
            f"it has {page.samplesperpixel} channels, which are called grey. Make it RGB, or files of them"
        )
    stored = page.asarray()
    if kind.kind == "f":
        if wrong := int(np.count_nonzero(~np.isfinite(stored))):
            raise ImageError(f"{wrong} of its values are not finite. Put colours in their places")
        least, most = float(stored.min(initial=0)), float(stored.max(initial=0))
        if not (least >= -_ROUNDING and most <= 1 + _ROUNDING):
            raise ImageError(
                f"its values are from {least:g} to {most:g}; of floating-point ones, [0, 1] are read. Scale it"
            )
        stored = np.clip(stored, 0, 1).astype(np.float32)
    if stored.ndim == 2:
        stored = stored[..., None]
    elif page.axes == "SYX":
        stored = rearrange(stored, "c h w -> h w c")
    white = white_of(stored.dtype)
    colours = 3 if page.photometric == 2 else 1
    colour, alpha = stored[..., :colours], stored[..., colours : colours + 1]
    if page.photometric == 0:  # 0 is white
        colour = white - colour
    meaning = page.extrasamples[0] if page.extrasamples else 0
    if meaning not in (1, 2):  # the next channel is something else, if there is one
        return colour
    if meaning == 1:  # colours are stored times alpha
        least = np.finfo(np.float32).tiny if white == 1 else 1
        share = np.minimum(colour / np.maximum(alpha, least).astype(np.float32), 1)
        colour = (share if white == 1 else np.rint(share * white)).astype(stored.dtype)
    return np.concatenate((colour, alpha), axis=2)
