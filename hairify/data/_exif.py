"""EXIF, which is built like a TIFF file: what a photograph's file says about it."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from typing import IO, TypeAlias

import tifffile

Fields: TypeAlias = "dict[int, tuple[int, bytes | Fields]]"
"""A directory of a TIFF file or of EXIF, which is built like one: by tag, the type and the value as it is stored."""

EXIF_PREFIX = b"Exif\0\0"
ORIENTATION, ICC_PROFILE, _EXIF, _GPS, _INTEROPERABILITY = 274, 34675, 34665, 34853, 40965
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
# Of a TIFF file's tags, those that speak of the photograph; the others say how its pixels are stored.
_DESCRIPTIVE = {270, 271, 272, ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT}
_DESCRIPTIVE |= {305, 306, 315, 316, 33432, _EXIF, _GPS}
# The types of a TIFF file's values by number (TIFF 6.0, section 2), and their sizes in bytes.
SHORT, LONG, RATIONAL, UNDEFINED, _PLACE = 3, 4, 5, 7, 13
_METRES = {2: 0.0254, 3: 0.01}  # of the units of resolution, inches and centimetres
_SIZES = {1: 1, 2: 1, SHORT: 2, LONG: 4, RATIONAL: 8, 6: 1, UNDEFINED: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, _PLACE: 4}


def _order_of(block: bytes | mmap.mmap) -> str | None:
    """The byte order of numbers in a block, as `struct` names it; None if it is no EXIF."""
    return {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])


def _entries(block: bytes | mmap.mmap, order: str, start: int) -> Iterator[tuple[int, int, int, int]]:
    """The entries of the directory at `start`: tag, type, and where the value lies, from its beginning to its end.

    A damaged directory ends where it can be followed no further.
    """
    try:
        (count,) = struct.unpack_from(order + "H", block, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, number, place = struct.unpack_from(order + "HHII", block, entry)
            size = _SIZES.get(kind, 0) * number
            place = entry + 8 if size <= 4 else place
            if 0 < size <= len(block) - place:
                yield tag, kind, place, place + size
    except struct.error:
        return


def _first_directory(block: bytes | mmap.mmap, order: str) -> int:
    return struct.unpack_from(order + "I", block, 4)[0] if len(block) >= 8 else len(block)


def upright(exif: bytes | None) -> tuple[int, bytes | None]:
    """The orientation that a block of EXIF gives, 1 to 8, and the block with 1 in its place.

    Nothing else is touched: cameras' own notes hold offsets, which would be lost if the block were written anew.
    """
    exif = (exif or b"").removeprefix(EXIF_PREFIX)
    order = _order_of(exif)
    if order is None:
        return 1, None
    for tag, kind, start, _ in _entries(exif, order, _first_directory(exif, order)):
        if tag == ORIENTATION and kind in (SHORT, LONG):
            number = order + ("H" if kind == SHORT else "I")
            (orientation,) = struct.unpack_from(number, exif, start)
            first = struct.pack(number, 1)
            exif = exif[:start] + first + exif[start + len(first) :]
            return orientation if 1 <= orientation <= 8 else 1, exif
    return 1, exif


def descriptive_fields(block: bytes | mmap.mmap) -> tuple[str, Fields]:
    """What EXIF, or a TIFF file, says about the photograph, and the byte order of what it says."""
    order = _order_of(block)
    if order is None:
        return "<", {}
    fields: Fields = {}
    for tag, kind, start, end in _entries(block, order, _first_directory(block, order)):
        if tag in (_EXIF, _GPS):
            (place,) = struct.unpack_from(order + "I", block, start) if kind in (LONG, _PLACE) else (len(block),)
            inner: Fields = {within: (its, block[a:b]) for within, its, a, b in _entries(block, order, place)}
            inner.pop(_INTEROPERABILITY, None)  # says where a third directory is, of no interest
            if inner:
                fields[tag] = (LONG, inner)
        elif tag in _DESCRIPTIVE:
            fields[tag] = (kind, block[start:end])
    return order, fields


def resolution_in(exif: bytes | None) -> tuple[float, float] | None:
    """The resolution that a block of EXIF gives, in pixels per metre, across and down."""
    exif = (exif or b"").removeprefix(EXIF_PREFIX)
    order = _order_of(exif)
    if order is None:
        return None
    found = {RESOLUTION_UNIT: 2.0}
    for tag, kind, start, _ in _entries(exif, order, _first_directory(exif, order)):
        if tag in (X_RESOLUTION, Y_RESOLUTION) and kind == RATIONAL:
            above, below = struct.unpack_from(order + "II", exif, start)
            found[tag] = above / below if below else 0.0
        elif tag == RESOLUTION_UNIT and kind == SHORT:
            found[tag] = struct.unpack_from(order + "H", exif, start)[0]
    metres = _METRES.get(int(found[RESOLUTION_UNIT]))
    across, down = found.get(X_RESOLUTION, 0.0), found.get(Y_RESOLUTION, 0.0)
    return (across / metres, down / metres) if metres and across and down else None


def density(resolution: tuple[float, float]) -> tuple[int, float, float]:
    """A resolution in pixels per metre as EXIF and TIFF have it: the unit, inches or centimetres, and the numbers.

    The unit is the one that gives whole numbers, as people write them.
    """
    for unit, metres in _METRES.items():
        numbers = [one * metres for one in resolution]
        if all(abs(number - round(number)) < 0.01 for number in numbers):
            return unit, float(round(numbers[0])), float(round(numbers[1]))
    return 2, resolution[0] * _METRES[2], resolution[1] * _METRES[2]


def tiff_exif(file: IO[bytes], tiff: tifffile.TiffFile) -> bytes | None:
    """What a TIFF file says about the photograph, as a block of EXIF."""
    if tiff.is_bigtiff:  # built differently, for scans of many gigabytes; only orientation and resolution matter there
        order, tags = "<", tiff.pages.first.tags
        fields: Fields = {ORIENTATION: (SHORT, struct.pack("<H", tags.valueof(ORIENTATION, 1)))}
        if X_RESOLUTION in tags and Y_RESOLUTION in tags:
            pairs = {tag: tags.valueof(tag) for tag in (X_RESOLUTION, Y_RESOLUTION)}
            fields |= {tag: (RATIONAL, struct.pack("<II", *pair)) for tag, pair in pairs.items()}
            fields[RESOLUTION_UNIT] = (SHORT, struct.pack("<H", tags.valueof(RESOLUTION_UNIT, 2)))
    else:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as block:
            order, fields = descriptive_fields(block)
    return tiff_header(order, 8) + directory(fields, order, 8) if fields else None


def tiff_header(order: str, start: int) -> bytes:
    """The first 8 bytes of a file or block whose directory begins at `start`."""
    return struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, start)


def directory(fields: Fields, order: str, start: int) -> bytes:
    """A directory that is to lie at `start`, with its values and the directories within it."""
    entries, values = b"", b""
    rest = start + 2 + 12 * len(fields) + 4
    for tag, (kind, value) in sorted(fields.items()):
        place = rest + len(values)
        if isinstance(value, dict):
            value = directory(value, order, place)
            entries += struct.pack(order + "HHII", tag, kind, 1, place)
        elif len(value) <= 4:
            entries += struct.pack(order + "HHI4s", tag, kind, len(value) // _SIZES[kind], value)
            value = b""
        else:
            entries += struct.pack(order + "HHII", tag, kind, len(value) // _SIZES[kind], place)
        values += value + bytes(len(value) % 2)
    return struct.pack(order + "H", len(fields)) + entries + bytes(4) + values
