"""PNG files chunk by chunk: what they hold beside the pixels."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

COLOUR = (b"cICP", b"sRGB", b"gAMA", b"cHRM", b"mDCV", b"cLLI")
"""Chunks that say what the pixels' values mean, in the order in which they are written."""

_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_LARGEST_PROFILE = 2**26  # in bytes; what is larger is no profile


@dataclass(frozen=True, eq=False)
class Chunks:
    """A PNG file, taken apart."""

    pixels: bytes
    """A PNG file of the pixels alone. Decoders refuse files for the size of a text, which nobody here reads."""
    icc_profile: bytes | None
    exif: bytes | None
    colour: tuple[tuple[bytes, bytes], ...]
    """The chunks of `COLOUR`, by kind."""
    resolution: tuple[float, float] | None
    """Pixels per metre, across and down."""
    frames: int
    is_keyed: bool
    """Whether a colour, or colours of the palette, are transparent."""


def taken_apart(png: bytes) -> Chunks:
    """The chunks of a PNG file; what is damaged in them is left to the decoder of the pixels."""
    pixels, found, is_keyed = [PNG_SIGNATURE], dict[bytes, bytes](), False
    for kind, start, end in _chunks(png):
        if kind in _PIXELS:
            pixels.append(png[start - 8 : end + 4])
            is_keyed = is_keyed or kind == b"tRNS"
        elif kind in (*COLOUR, b"iCCP", b"eXIf", b"pHYs", b"acTL"):
            found[kind] = png[start:end]
    frames = struct.unpack(">I", found[b"acTL"][:4])[0] if len(found.get(b"acTL", b"")) == 8 else 1
    return Chunks(
        pixels=b"".join(pixels),
        icc_profile=_profile(found[b"iCCP"]) if b"iCCP" in found else None,
        exif=found.get(b"eXIf"),
        colour=tuple((kind, found[kind]) for kind in COLOUR if kind in found),
        resolution=_resolution(found.get(b"pHYs", b"")),
        frames=max(frames, 1),
        is_keyed=is_keyed,
    )


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk as it stands in the file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def resolution_chunk(resolution: tuple[float, float]) -> bytes:
    """The chunk that holds the resolution, in pixels per metre."""
    return chunk(b"pHYs", struct.pack(">IIB", *(min(round(one), 2**31 - 1) for one in resolution), 1))


def profile_chunk(profile: bytes) -> bytes:
    """The chunk that holds a colour profile."""
    return chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile))


def _chunks(png: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Each chunk's kind, and where its content begins and ends."""
    place = len(PNG_SIGNATURE)
    while place + 8 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, place)
        yield kind, place + 8, place + 8 + length
        place += length + 12


def _profile(content: bytes) -> bytes | None:
    """Of a name that ends in 0, the method, and the profile."""
    decompressor = zlib.decompressobj()
    try:
        profile = decompressor.decompress(content.partition(b"\0")[2][1:], _LARGEST_PROFILE)
    except zlib.error:
        return None
    return profile if decompressor.eof else None


def _resolution(content: bytes) -> tuple[float, float] | None:
    if len(content) != 9 or content[8] != 1:  # of another unit, it is the shape of the pixels
        return None
    across, down = struct.unpack(">II", content[:8])
    return (float(across), float(down)) if across and down else None
