"""Which image files there are, by their endings, and which of them can be read here."""

from __future__ import annotations

import contextlib
import functools
import importlib

import PIL.Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp"})
"""The endings of the files that are written, all of which are read, too."""

BY_PILLOW = frozenset({"GIF", "JPEG2000", "AVIF", "HEIF", "JXL", "PPM", "QOI"})
"""Formats that Pillow reads, of itself or by a plug-in. Others of its formats run programs, or have no signature."""

_READ_ALONE = {
    *(".gif", ".avif", ".heic", ".heif", ".hif", ".jxl", ".qoi", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".apng", ".mpo"),
}
FOR_OTHER_PROGRAMS = frozenset(
    {
        *(".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".raf", ".orf", ".rw2", ".pef"),
        *(".srw", ".raw", ".3fr", ".iiq", ".x3f", ".psd", ".psb", ".xcf", ".exr", ".hdr", ".pfm", ".tga", ".dds"),
        *(".dib", ".jxr"),
    }
)
"""The endings of cameras' raw files, which look like TIFF files of a thumbnail, and of what is no finished picture."""

IMAGES = SUFFIXES | _READ_ALONE | FOR_OTHER_PROGRAMS
"""The endings by which a file is taken for an image."""

_PLUG_INS = ("pillow_heif", "pillow_jxl", "pillow_avif")


@functools.cache
def readable() -> frozenset[str]:
    """The endings of the files that are read with what is installed."""
    for name in _PLUG_INS:
        with contextlib.suppress(ImportError):
            plug_in = importlib.import_module(name)
            getattr(plug_in, "register_heif_opener", lambda: None)()  # the others do so when they are imported
    PIL.Image.init()
    formats = PIL.Image.registered_extensions() | {".mpo": "JPEG"}
    return SUFFIXES | {suffix for suffix in _READ_ALONE if formats.get(suffix) in PIL.Image.OPEN}


def needed_for(suffix: str) -> str:
    """What to say of files with an ending that is not among `readable`."""
    if suffix in FOR_OTHER_PROGRAMS:
        return f"ending in {suffix} are not read: develop or convert them to TIFF or PNG first"
    package = {".jxl": "pillow-jxl-plugin", ".avif": "pillow-avif-plugin"}.get(suffix, "pillow-heif")
    return f"ending in {suffix} are read where the package {package} is installed, a plug-in of Pillow"


def missing_for(start: bytes) -> str | None:
    """The plug-in of Pillow that it takes to read a file which begins so, where it is not installed."""
    if start[4:8] == b"ftyp":
        wanted = ("AVIF", "pillow-avif-plugin") if start[8:12] in (b"avif", b"avis") else ("HEIF", "pillow-heif")
    elif start.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        wanted = ("JXL", "pillow-jxl-plugin")
    else:
        return None
    return wanted[1] if wanted[0] not in PIL.Image.OPEN else None
