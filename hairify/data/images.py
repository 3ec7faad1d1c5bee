"""Reading and writing photographs, with all that must survive restoring: depth, alpha, colour profile and EXIF.

Pillow decodes and encodes most of it, but cuts 16 bits down to 8. So 16-bit PNG is read by imagecodecs, which writes
PNG of any depth, several times faster, and TIFF is read by tifffile. TIFF is written here: none of these libraries
writes both 16 bits and EXIF.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

import imagecodecs
import numpy as np
import numpy.typing as npt
import PIL.Image
import tifffile
import torch
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile
from torch import Tensor

from hairify.data.exif import (
    EXIF_PREFIX,
    ICC_PROFILE,
    LONG,
    SHORT,
    UNDEFINED,
    descriptive_fields,
    directory,
    tiff_exif,
    tiff_header,
    upright,
)
from hairify.errors import DataError, ImageError, OptionError
from hairify.files import replacing

_Levels: TypeAlias = npt.NDArray[Any]
"""Pixels as files have them: (H, W, C) of uint8 or uint16, with grey, grey and alpha, RGB, or RGB and alpha."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"})
"""The endings of the files that are read and written."""

LARGEST = 2**29
"""Pixels in the largest image that is read, 6 GiB as float32. What claims to be larger is taken for a trap.

For WebP, Pillow's own limit is a third of that.
"""

_TIFF = {".tif", ".tiff"}
_PILLOW = {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}
_LONGEST_SIDE = {".jpg": 65535, ".jpeg": 65535, ".webp": 16383}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Opened by `PIL.Image.open`, a photograph of 90 megapixels would be taken for a decompression bomb; `LARGEST` is the
# limit here.
_READERS: dict[bytes, type[ImageFile]] = {
    _PNG_SIGNATURE: PngImageFile,
    b"\xff\xd8\xff": JpegImageFile,
    b"RIFF": WebPImageFile,
    b"BM": BmpImageFile,
}


@dataclass(frozen=True, eq=False)
class Image:
    """A photograph, and what a file says about it that must survive restoring.

    Raises:
        ImageError: the tensors' shapes or `bits` are not as described.
    """

    pixels: Tensor
    """(3, H, W) float32 in [0, 1], RGB, upright. The three channels of a grey file are equal."""

    alpha: Tensor | None = None
    """(1, H, W) float32 in [0, 1], where the file has transparency. 0 is transparent."""

    grey: bool = False
    """Whether the file has a single channel of colour; it is written with one again."""

    bits: Literal[8, 16] = 8
    """The file's bits for each channel. Files of fewer than 8 count as 8."""

    icc_profile: bytes | None = None
    """The colour profile that the pixels are to be read with, byte for byte. None for sRGB or not known."""

    exif: bytes | None = None
    """The EXIF block, from its byte order mark ("II" or "MM") on. Its orientation is 1: the pixels are upright."""

    def __post_init__(self) -> None:
        shapes = {"pixels": (self.pixels, 3)} | ({} if self.alpha is None else {"alpha": (self.alpha, 1)})
        for name, (tensor, channels) in shapes.items():
            if tuple(tensor.shape) != (channels, *self.pixels.shape[-2:]):
                raise ImageError(f"`{name}` has shape {tuple(tensor.shape)}; it should be ({channels}, H, W).")
        if self.bits not in (8, 16):
            raise ImageError(f"`bits` is {self.bits!r}; it should be 8 or 16.")


@dataclass(frozen=True, eq=False)
class _Decoded:
    """What is in a file, as it is there."""

    levels: _Levels
    icc_profile: bytes | None
    exif: bytes | None


def read(path: str | os.PathLike[str]) -> Image:
    """Read a PNG, JPEG, WebP, TIFF or BMP file, whatever its ending: grey, RGB or palette, with or without alpha.

    The orientation that EXIF gives is applied. Of an animation or a file of several pages, the first is read. CMYK is
    converted to RGB as Pillow does it, without the CMYK profile, which no longer fits the pixels.

    Raises:
        ImageError: there is no such file; it is damaged or of another kind; or it is larger than `LARGEST`.
    """
    decoded = _decode(Path(path))
    orientation, exif = upright(decoded.exif)
    levels = _turned(decoded.levels, orientation)
    channels = levels.shape[2]
    return Image(
        pixels=_to_pixels(levels),
        alpha=_to_tensor(levels[..., -1:]) if channels in (2, 4) else None,
        grey=channels < 3,
        bits=16 if levels.dtype == np.uint16 else 8,
        icc_profile=decoded.icc_profile,
        exif=exif,
    )


def read_rgb(path: str | os.PathLike[str]) -> Tensor:
    """The pixels of a file alone, as `read` gives them; alpha is ignored.

    Returns: (3, H, W) float32 in [0, 1].

    Raises:
        ImageError: as for `read`.
    """
    decoded = _decode(Path(path))
    return _to_pixels(_turned(decoded.levels, upright(decoded.exif)[0]))


def write(image: Image, path: str | os.PathLike[str], *, quality: int = 95) -> None:
    """Write an image in the format of the path's ending. The file appears under its name only when it is complete.

    PNG and TIFF have as many bits as the image and are lossless; the other formats have 8. Values are clipped to
    [0, 1] and rounded. All keep alpha but JPEG, which drops it; all keep the colour profile and EXIF but BMP, which
    has no room for them. TIFF keeps the descriptive part of EXIF, without the thumbnail. A grey image is the mean of
    the three channels; WebP, which knows no grey, holds three equal ones.

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
    if longest > _LONGEST_SIDE.get(suffix, longest):
        raise ImageError(
            f"{target}: a side of {longest} pixels is too long for {_PILLOW[suffix]}, whose longest is "
            f"{_LONGEST_SIDE[suffix]}. Write it as PNG or TIFF."
        )
    try:
        content = _encode(image, suffix, quality)
    except (OSError, ValueError, struct.error) as error:  # of the encoders: nothing has been written yet
        raise ImageError(f"{target} cannot be written: {error}") from error
    # Encoded in memory first, since Pillow's encoders hide the reason why a file cannot be written.
    with replacing(target) as file:
        file.write_bytes(content)


def find_images(folder: str | os.PathLike[str], *, recursive: bool = True) -> list[Path]:
    """The image files in a folder, by their endings in upper or lower case, sorted.

    Hidden files and folders are left out, and folders that may not be entered. Links to folders are followed, each
    folder being entered once.

    Raises:
        DataError: there is no such folder.
    """
    if not Path(folder).is_dir():
        raise DataError(f"There is no folder {folder}.")
    found: list[Path] = []
    entered: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        if (place := os.path.realpath(root)) in entered:
            folders.clear()
            continue
        entered.add(place)
        paths = (Path(root, name) for name in files if not name.startswith("."))
        found += (path for path in paths if path.suffix.lower() in SUFFIXES)
    return sorted(found)


# Files to levels.


def _decode(path: Path) -> _Decoded:
    """Decode a file by what it holds, whatever it is called."""
    if not path.is_file():
        raise ImageError(f"There is no file {path}.")
    try:
        with path.open("rb") as file:
            start = file.read(26)
            file.seek(0)
            if start.startswith(_PNG_SIGNATURE) and start[24:25] == b"\x10":
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


def _decode_by_pillow(image: ImageFile) -> _Decoded:
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
    return _Decoded(
        levels=levels if levels.ndim == 3 else levels[..., None],
        icc_profile=info.get("icc_profile") if mode != "CMYK" else None,
        exif=info.get("exif"),
    )


def _decode_deep_png(data: bytes) -> _Decoded:
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
    return _Decoded(levels if levels.ndim == 3 else levels[..., None], icc_profile, exif)


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a PNG file by kind, without the pixels."""
    place = len(_PNG_SIGNATURE)
    while place + 8 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, place)
        if kind != b"IDAT":
            yield kind, png[place + 8 : place + 8 + length]
        place += length + 12


def _decode_tiff(file: IO[bytes]) -> _Decoded:
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages.first
        _check_size(page.imagewidth, page.imagelength)
        icc_profile, exif = page.iccprofile, tiff_exif(file, tiff)
        if page.photometric in (0, 1, 2) and (page.dtype, page.bitspersample) in ((np.uint8, 8), (np.uint16, 16)):
            return _Decoded(_tiff_levels(page), icc_profile, exif)
    file.seek(0)
    decoded = _decode_by_pillow(TiffImageFile(file))
    # Pillow has applied the orientation, as it does to TIFF alone.
    return _Decoded(decoded.levels, decoded.icc_profile, upright(exif)[1])


def _tiff_levels(page: tifffile.TiffPage) -> _Levels:
    """The pixels of a TIFF page of grey or RGB."""
    stored = page.asarray()
    if stored.ndim == 2:
        stored = stored[..., None]
    elif page.axes == "SYX":
        stored = stored.transpose(1, 2, 0)
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


# Levels to tensors and back.


def _turned(levels: _Levels, orientation: int) -> _Levels:
    """Upright levels, of those that EXIF's `orientation` describes; a view."""
    if orientation >= 5:
        levels = levels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        levels = levels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        levels = levels[::-1]
    return levels


def _to_tensor(levels: _Levels) -> Tensor:
    """(C, H, W) in [0, 1]. Channel by channel, so that a large photograph is never there twice as float32."""
    height, width, channels = levels.shape
    white = np.iinfo(levels.dtype).max
    floats = np.empty((channels, height, width), np.float32)
    for channel, plane in enumerate(floats):
        np.divide(levels[..., channel], white, out=plane, dtype=np.float32)
    return torch.from_numpy(floats)


def _to_pixels(levels: _Levels) -> Tensor:
    """(3, H, W) in [0, 1], without alpha."""
    return _to_tensor(levels[..., :3]) if levels.shape[2] > 2 else _to_tensor(levels[..., :1]).repeat(3, 1, 1)


def _to_levels(image: Image, kind: type[np.uint8] | type[np.uint16], *, alpha: bool) -> _Levels:
    """The levels to write, with the image's alpha if `alpha`."""
    pixels = image.pixels.detach().cpu()
    planes = [pixels.mean(dim=0)] if image.grey else list(pixels)
    if alpha and image.alpha is not None:
        planes.append(image.alpha.detach().cpu()[0])
    white = np.iinfo(kind).max
    levels = np.empty((*pixels.shape[1:], len(planes)), kind)
    for channel, plane in enumerate(planes):
        if not plane.isfinite().all():
            raise ImageError("the image holds values that are not finite")
        levels[..., channel] = plane.clamp(0, 1).mul_(white).round_().numpy()
    return levels


# Levels to files.


def _encode(image: Image, suffix: str, quality: int) -> bytes:
    """The content of a file."""
    deep = image.bits == 16 and suffix in {".png", *_TIFF}
    levels = _to_levels(image, np.uint16 if deep else np.uint8, alpha=suffix not in {".jpg", ".jpeg"})
    if suffix in _TIFF:
        return _encode_tiff(levels, image)
    if suffix == ".png":
        return _encode_png(levels, image)
    if suffix == ".bmp" and image.alpha is not None:
        return _encode_bmp_with_alpha(levels)
    return _encode_by_pillow(levels, image, _PILLOW[suffix], quality)


def _encode_by_pillow(levels: _Levels, image: Image, format: str, quality: int) -> bytes:
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


def _encode_png(levels: _Levels, image: Image) -> bytes:
    """A PNG file of 8 or 16 bits: imagecodecs writes the pixels, and the other chunks are put in after the header."""
    png = imagecodecs.png_encode(levels)
    more = b""
    if image.icc_profile is not None:
        more += _chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(image.icc_profile))
    if image.exif is not None:
        more += _chunk(b"eXIf", image.exif)
    header = len(_PNG_SIGNATURE) + len(_chunk(b"IHDR", bytes(13)))
    return b"".join((png[:header], more, png[header:]))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _encode_bmp_with_alpha(levels: _Levels) -> bytes:
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


def _encode_tiff(levels: _Levels, image: Image) -> bytes:
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
