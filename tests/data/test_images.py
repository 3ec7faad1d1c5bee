"""Reading and writing photographs: files of other libraries are read right, and other libraries read ours right."""

from __future__ import annotations

import errno
import io
import itertools
import os
import struct
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.ImageOps
import PIL.JpegImagePlugin
import pytest
import tifffile
import torch
from peak_memory import PEAK
from PIL.TiffImagePlugin import IFDRational

from hairify.data import _decoding, _encoding
from hairify.data._image import Image
from hairify.data.images import (
    SUFFIXES,
    find_images,
    find_unread,
    integers_in,
    lost,
    read,
    read_integers,
    read_rgb,
    readable,
    write,
)
from hairify.errors import DataError, ImageError, OptionError

SHAPES = {"grey": (), "grey+alpha": (2,), "rgb": (3,), "rgba": (4,)}
every_kind = pytest.mark.parametrize("kind", SHAPES)
every_depth = pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8 bits", "16 bits"])
EIGHT_BITS, SIXTEEN_BITS = {"dtype": np.uint8}, {"dtype": np.uint16}
PROFILE = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()


def random_levels(kind: str, dtype: Any, size: tuple[int, int] = (21, 34)) -> Any:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (*size, *SHAPES[kind]), dtype=dtype)


def smooth_levels(kind: str) -> Any:
    """What JPEG and WebP keep nearly as it is."""
    rows, columns = np.mgrid[:48, :64]
    planes = [rows * 5, columns * 3 + 20, 230 - rows * 4, columns * 2 + rows * 2][: (*SHAPES[kind], 1)[0]]
    return np.stack(planes, axis=-1).astype(np.uint8).reshape(48, 64, *SHAPES[kind])


def wanted_of(levels: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Pixels and alpha of levels (H, W) or (H, W, C), worked out in float64."""
    values = torch.from_numpy(levels.astype(np.float64) / np.iinfo(levels.dtype).max)
    values = values[..., None] if values.ndim == 2 else values
    alpha = values[..., -1][None].float() if values.shape[2] in (2, 4) else None
    colour = values[..., :3] if values.shape[2] > 2 else values[..., :1].expand(-1, -1, 3)
    return colour.permute(2, 0, 1).float(), alpha


def assert_holds(image: Image, levels: Any) -> None:
    pixels, alpha = wanted_of(levels)
    assert image.pixels.dtype == torch.float32
    assert image.pixels.is_contiguous()
    assert image.pixels.shape == pixels.shape
    assert torch.allclose(image.pixels, pixels, rtol=0, atol=1e-7)
    assert (image.alpha is None) == (alpha is None)
    if alpha is not None:
        assert torch.allclose(image.alpha, alpha, rtol=0, atol=1e-7)
    assert image.grey == (levels.ndim == 2 or levels.shape[2] == 2)
    assert image.bits == levels.itemsize * 8


def image_of(levels: Any, **more: Any) -> Image:
    pixels, alpha = wanted_of(levels)
    return Image(pixels, alpha, levels.ndim == 2 or levels.shape[2] == 2, levels.itemsize * 8, **more)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(levels: Any, before: bytes = b"", after: bytes = b"") -> bytes:
    """A plain PNG encoder, of no filters, with other chunks before and after the pixels."""
    height, width = levels.shape[:2]
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[levels.shape[2] if levels.ndim == 3 else 1]
    header = struct.pack(">IIBBBBB", width, height, levels.itemsize * 8, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in levels)
    pixels = png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + before + pixels + after + png_chunk(b"IEND", b"")


def exif_block(orientation: int | None = None) -> bytes:
    """A photograph's EXIF, from its byte order mark on."""
    exif = PIL.Image.Exif()
    if orientation is not None:
        exif[274] = orientation
    exif[271] = "Camera & Sons"
    exif[305] = "odd in length"[:-1]
    exif[315] = "José".encode().decode("latin-1").encode("latin-1")  # UTF-8, as people write it
    exif[282] = exif[283] = 300.0
    details = exif.get_ifd(34665)
    details[33434] = IFDRational(1, 250)
    details[36867] = "2024:01:02 03:04:05"
    details[37500] = bytes(range(40))  # the camera's own notes
    place = exif.get_ifd(34853)
    place[1], place[2] = "N", (52.0, 30.0, 1.25)
    return exif.tobytes().removeprefix(b"Exif\0\0")


def exif_facts(block: bytes) -> dict[Any, Any]:
    exif = PIL.Image.Exif()
    exif.load(block)
    facts = {tag: value for tag, value in exif.items() if tag not in (34665, 34853)}
    return facts | {(within, tag): value for within in (34665, 34853) for tag, value in exif.get_ifd(within).items()}


# Reading what other libraries wrote.


@every_kind
@every_depth
def test_reads_png(kind: str, dtype: Any, tmp_path: Path) -> None:
    levels = random_levels(kind, dtype)
    (tmp_path / "a.png").write_bytes(png(levels))
    assert_holds(read(tmp_path / "a.png"), levels)


@pytest.mark.parametrize("kind", ["grey", "rgb", "rgba"])
@every_depth
def test_reads_png_of_opencv(kind: str, dtype: Any, tmp_path: Path) -> None:
    levels = random_levels(kind, dtype)
    order = {"grey": slice(None), "rgb": [2, 1, 0], "rgba": [2, 1, 0, 3]}[kind]
    assert cv2.imwrite(str(tmp_path / "a.png"), np.ascontiguousarray(levels[..., order]))
    assert_holds(read(tmp_path / "a.png"), levels)


@every_kind
@every_depth
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "lzw"},
        {"compression": "zlib", "predictor": True},
        {"bigtiff": True},
        {"byteorder": ">"},
        {"tile": (16, 16)},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_reads_tiff(kind: str, dtype: Any, options: dict[str, Any], tmp_path: Path) -> None:
    levels = random_levels(kind, dtype)
    photometric = "rgb" if kind.startswith("rgb") else "minisblack"
    extra = {"extrasamples": ["unassalpha"], "planarconfig": "contig"} if "a" in kind.removeprefix("grey") else {}
    tifffile.imwrite(tmp_path / "a.tif", levels, photometric=photometric, **extra, **options)
    assert_holds(read(tmp_path / "a.tif"), levels)


@every_depth
def test_reads_tiff_of_separate_planes_of_white_as_0_and_of_several_pages(dtype: Any, tmp_path: Path) -> None:
    levels = random_levels("rgb", dtype)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, levels.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    assert_holds(read(path), levels)
    tifffile.imwrite(path, levels[..., 0], photometric="miniswhite")
    assert_holds(read(path), np.iinfo(dtype).max - levels[..., 0])
    pages = np.stack([levels, np.zeros_like(levels)])
    tifffile.imwrite(path, pages, photometric="rgb")
    assert_holds(read(path), levels)


@every_depth
def test_reads_tiff_of_colours_multiplied_by_alpha(dtype: Any, tmp_path: Path) -> None:
    levels, white = random_levels("rgba", dtype), np.iinfo(dtype).max
    levels[0, :, 3], levels[1, :, 3] = 0, white
    stored = levels.copy()
    stored[..., :3] = np.rint(levels[..., :3] * (levels[..., 3:] / white))
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", extrasamples=["assocalpha"])
    image = read(tmp_path / "a.tif")
    pixels, alpha = wanted_of(levels)
    assert torch.equal(image.alpha, alpha)
    rounding = 1 / (white * alpha).clamp(min=1)  # what little alpha leaves of the colours
    seen = (alpha > 0).expand(3, -1, -1)
    assert ((image.pixels - pixels).abs() <= rounding + 1e-6)[seen].all()
    assert torch.equal(image.pixels[:, 1], pixels[:, 1])


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        *itertools.product([".jpg"], ["grey", "rgb"]),
        *itertools.product([".webp"], SHAPES),
        *itertools.product([".bmp"], ["grey", "rgb", "rgba"]),
    ],
)
def test_reads_jpeg_webp_and_bmp(kind: str, suffix: str, tmp_path: Path) -> None:
    picture = PIL.Image.fromarray(smooth_levels(kind))
    options = {".jpg": {"quality": 90}, ".webp": {"lossless": True, "exact": True}, ".bmp": {}}[suffix]
    picture.save(tmp_path / f"a{suffix}", **options)
    with PIL.Image.open(tmp_path / f"a{suffix}") as opened:
        assert_holds(read(tmp_path / f"a{suffix}"), np.asarray(opened))


def test_reads_palettes_single_bits_and_transparent_colours(tmp_path: Path) -> None:
    colours = PIL.Image.fromarray(random_levels("rgba", np.uint8))
    path = tmp_path / "a.png"

    palette = colours.convert("RGB").quantize(16)
    palette.save(path)
    assert_holds(read(path), np.asarray(palette.convert("RGB")))

    palette.save(path, transparency=3)
    with PIL.Image.open(path) as opened:
        wanted = np.asarray(opened.convert("RGBA"))
    assert set(np.unique(wanted[..., 3])) == {0, 255}
    assert_holds(read(path), wanted)

    bits = colours.convert("1")
    bits.save(path)
    assert_holds(read(path), np.asarray(bits.convert("L")))
    bits.save(tmp_path / "a.tif", compression="group4")
    assert_holds(read(tmp_path / "a.tif"), np.asarray(bits.convert("L")))

    plain = np.asarray(colours.convert("RGB"))
    PIL.Image.fromarray(plain).save(path, transparency=tuple(int(level) for level in plain[2, 3]))
    image = read(path)
    assert image.alpha[0, 2, 3] == 0
    assert image.alpha.mean() > 0.99
    assert torch.equal(image.pixels, wanted_of(plain)[0])


def test_reads_cmyk_without_the_profile_that_no_longer_fits(tmp_path: Path) -> None:
    cmyk = PIL.Image.fromarray(smooth_levels("rgb")).convert("CMYK")
    cmyk.save(tmp_path / "a.jpg", quality=95, icc_profile=b"a CMYK profile")
    with PIL.Image.open(tmp_path / "a.jpg") as opened:
        assert opened.mode == "CMYK"
        assert opened.info["icc_profile"]
        wanted = np.asarray(opened.convert("RGB"))
    image = read(tmp_path / "a.jpg")
    assert_holds(image, wanted)
    assert image.icc_profile is None


def test_reads_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    first, second = (PIL.Image.fromarray(smooth_levels("rgb")[:, ::step]) for step in (1, -1))
    for suffix in (".webp", ".png"):
        first.save(tmp_path / f"a{suffix}", save_all=True, append_images=[second], lossless=True, duration=100)
        with PIL.Image.open(tmp_path / f"a{suffix}") as opened:
            assert opened.n_frames == 2
        assert_holds(read(tmp_path / f"a{suffix}"), np.asarray(first))


def test_goes_by_what_a_file_holds_not_by_its_ending(tmp_path: Path) -> None:
    levels = random_levels("rgb", np.uint16)
    (tmp_path / "a.jpg").write_bytes(png(levels))
    assert_holds(read(tmp_path / "a.jpg"), levels)


@every_kind
@every_depth
def test_read_rgb_gives_the_pixels_alone(kind: str, dtype: Any, tmp_path: Path) -> None:
    exif = png_chunk(b"eXIf", exif_block(6))
    (tmp_path / "a.png").write_bytes(png(random_levels(kind, dtype), before=exif))
    pixels = read_rgb(tmp_path / "a.png")
    assert pixels.shape == (3, 34, 21)
    assert torch.equal(pixels, read(tmp_path / "a.png").pixels)


@every_kind
@every_depth
def test_integers_are_those_of_the_file_where_8_bits_hold_them(kind: str, dtype: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(random_levels(kind, dtype), before=png_chunk(b"eXIf", exif_block(6))))
    integers = read_integers(path)
    assert integers.dtype == (torch.uint8 if dtype == np.uint8 else torch.uint16)
    white = 255 if dtype == np.uint8 else 65535
    assert torch.equal(integers.float() / white, read_rgb(path))
    assert torch.equal(integers_in(path.read_bytes(), "a.png"), integers)


def test_16_bits_that_hold_8_take_the_room_of_8(tmp_path: Path) -> None:
    levels = random_levels("rgb", np.uint8)
    (tmp_path / "a.png").write_bytes(png(levels.astype(np.uint16) * 257))
    assert torch.equal(read_integers(tmp_path / "a.png"), torch.from_numpy(levels).permute(2, 0, 1))


@every_kind
@pytest.mark.parametrize("filtered", range(5))
def test_png_of_8_bits_is_decoded_as_pillow_does(kind: str, filtered: int, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(imagecodecs.png_encode(random_levels(kind, np.uint8).squeeze(), filter=1 << (3 + filtered)))
    with PIL.Image.open(path) as opened:
        assert_holds(read(path), np.asarray(opened))


def test_pillows_limit_is_lifted_for_photographs_and_stays_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = random_levels("rgb", np.uint8)
    (tmp_path / "a.png").write_bytes(png(levels))
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(PIL.Image.DecompressionBombError):
        PIL.Image.open(tmp_path / "a.png")
    assert_holds(read(tmp_path / "a.png"), levels)
    assert PIL.Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize(("suffix", "dtype"), [*itertools.product([".png", ".tif"], [np.uint8, np.uint16])])
def test_what_claims_to_be_enormous_is_not_decoded(
    suffix: str, dtype: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{suffix}"
    write(image_of(random_levels("rgb", dtype)), path)
    read(path)
    monkeypatch.setattr(_decoding, "LARGEST", 21 * 34 - 1)
    with pytest.raises(ImageError, match="34 × 21 pixels"):
        read(path)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells its memory in another way")
@pytest.mark.parametrize(("suffix", "dtype"), [(".jpg", np.uint8), (".png", np.uint16), (".tif", np.uint16)])
def test_a_large_photograph_is_never_there_twice_as_float32(suffix: str, dtype: Any, tmp_path: Path) -> None:
    levels = np.tile(random_levels("rgb", dtype, (100, 100)), (20, 30, 1))
    write(image_of(levels), tmp_path / f"large{suffix}")
    write(image_of(levels[:64, :64]), tmp_path / f"small{suffix}")
    program = """
        from hairify.data.images import read_rgb

        read_rgb(sys.argv[1])
        before = peak()
        pixels = read_rgb(sys.argv[2])
        print((peak() - before) / (pixels.numel() * 4))
    """
    paths = [str(tmp_path / f"{name}{suffix}") for name in ("small", "large")]
    result = subprocess.run(
        [sys.executable, "-c", PEAK + textwrap.dedent(program), *paths], capture_output=True, text=True, check=True
    )
    assert 1 <= float(result.stdout) < 1.9


# Orientation, profile, EXIF.


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [(".jpg", np.uint8), (".webp", np.uint8), *itertools.product([".png", ".tif"], [np.uint8, np.uint16])],
)
def test_applies_the_orientation(orientation: int, suffix: str, dtype: Any, tmp_path: Path) -> None:
    path, exif = tmp_path / f"a{suffix}", exif_block(orientation)
    levels = smooth_levels("rgb")
    PIL.Image.fromarray(levels).save(path, exif=b"Exif\0\0" + exif, **({"lossless": True} if suffix == ".webp" else {}))
    with PIL.Image.open(path) as opened:
        wanted = np.asarray(PIL.ImageOps.exif_transpose(opened))
    if dtype == np.uint16:  # Pillow cannot write these; 257 times an 8-bit level is the same brightness
        wanted = wanted * np.uint16(257)
        deep = levels * np.uint16(257)
        if suffix == ".png":
            path.write_bytes(png(deep, before=png_chunk(b"eXIf", exif)))
        else:
            tifffile.imwrite(path, deep, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
    image = read(path)
    assert_holds(image, wanted)
    assert (wanted.shape == levels.shape) == (orientation < 5)
    assert exif_facts(image.exif)[274] == 1

    write(image, path)  # not turned once more
    again = read(path)
    assert again.pixels.shape == image.pixels.shape
    assert torch.allclose(again.pixels, image.pixels, atol=0.05)


def test_applies_the_orientation_once_where_pillow_does(tmp_path: Path) -> None:
    palette = PIL.Image.fromarray(smooth_levels("rgb")).quantize(16)
    palette.save(tmp_path / "a.tif", exif=b"Exif\0\0" + exif_block(6))
    image = read(tmp_path / "a.tif")
    assert_holds(image, np.asarray(palette.convert("RGB").transpose(PIL.Image.Transpose.ROTATE_270)))
    assert exif_facts(image.exif)[274] == 1
    assert exif_facts(image.exif)[271] == "Camera & Sons"


def test_exif_after_the_pixels_counts_too(tmp_path: Path) -> None:
    for dtype in (np.uint8, np.uint16):
        levels = random_levels("rgb", dtype)
        (tmp_path / "a.png").write_bytes(png(levels, after=png_chunk(b"eXIf", exif_block(3))))
        assert_holds(read(tmp_path / "a.png"), levels[::-1, ::-1])


@pytest.mark.parametrize(
    ("suffix", "bits"), [(".png", 8), (".png", 16), (".jpg", 8), (".webp", 8), (".tif", 8), (".tif", 16)]
)
@pytest.mark.parametrize("kind", ["grey", "rgb", "rgba"])
def test_profile_and_exif_come_back(suffix: str, bits: int, kind: str, tmp_path: Path) -> None:
    path, exif = tmp_path / f"a{suffix}", exif_block(1)
    levels = random_levels(kind, np.uint8 if bits == 8 else np.uint16)
    profile = None if kind == "grey" and suffix == ".webp" else PROFILE
    write(image_of(levels, icc_profile=PROFILE, exif=exif), path)

    image = read(path)
    if suffix in (".png", ".tif"):
        assert_holds(image, levels)
    assert image.icc_profile == profile
    if suffix == ".tif":
        assert exif_facts(image.exif) == exif_facts(exif)
        with tifffile.TiffFile(path) as tiff:
            assert all(tag.valueoffset % 2 == 0 for tag in tiff.pages.first.tags)
    else:
        assert image.exif == exif

    with PIL.Image.open(path) as opened:  # and Pillow finds them as well
        assert opened.info.get("icc_profile") == profile
        facts = exif_facts(exif)
        assert opened.getexif()[271] == facts[271]
        assert opened.getexif()[315].encode("latin-1").decode() == "José"
        assert opened.getexif().get_ifd(34665)[37500] == facts[34665, 37500]
        assert opened.getexif().get_ifd(34853)[2] == facts[34853, 2]


def test_reads_the_profile_and_exif_of_other_writers(tmp_path: Path) -> None:
    picture, exif = PIL.Image.fromarray(smooth_levels("rgb")), exif_block(1)
    for suffix in (".png", ".jpg", ".webp", ".tif"):
        path = tmp_path / f"a{suffix}"
        picture.save(path, exif=b"Exif\0\0" + exif, icc_profile=PROFILE)
        image = read(path)
        assert image.icc_profile == PROFILE
        facts = exif_facts(exif)
        if suffix == ".tif":  # Pillow writes text as ASCII
            facts[315] = exif_facts(image.exif)[315]
        assert exif_facts(image.exif) == facts


def test_exif_goes_from_jpeg_to_tiff_and_back(tmp_path: Path) -> None:
    PIL.Image.fromarray(smooth_levels("rgb")).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + exif_block(8))
    write(read(tmp_path / "a.jpg"), tmp_path / "b.tif")
    write(read(tmp_path / "b.tif"), tmp_path / "c.jpg")
    assert exif_facts(read(tmp_path / "c.jpg").exif) == exif_facts(exif_block(1))


def test_exif_that_jpeg_has_no_room_for_is_left_out_and_said(tmp_path: Path) -> None:
    notes = np.random.default_rng(0).bytes(70_000)
    exif = PIL.Image.Exif()
    exif[271] = "Camera & Sons"
    exif.get_ifd(34665)[37500] = notes
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    image = image_of(random_levels("rgb", np.uint8), exif=block)
    for suffix in (".png", ".webp", ".tif"):
        write(image, tmp_path / f"a{suffix}")
        assert exif_facts(read(tmp_path / f"a{suffix}").exif) == exif_facts(block)
        assert lost(image, suffix) == []
        write(read(tmp_path / f"a{suffix}"), tmp_path / "b.jpg")
        assert read(tmp_path / "b.jpg").exif is None
    assert lost(image, ".jpg") == lost(image, ".jfif") == ["EXIF of more than 64 KiB"]
    largest = image_of(random_levels("rgb", np.uint8), exif=block[: 65533 - 6])
    assert lost(largest, ".jpg") == []
    write(largest, tmp_path / "c.jpg")
    assert read(tmp_path / "c.jpg").exif == largest.exif


@every_depth
@pytest.mark.parametrize(
    "chunks",
    [
        png_chunk(b"tEXt", b"prompt\0" + b"word " * 2_000_000),
        png_chunk(b"zTXt", b"prompt\0\0" + zlib.compress(b"word " * 4_000_000)),
        b"".join(png_chunk(b"iTXt", b"k%d\0\0\0\0\0" % i + b"x" * 900_000) for i in range(80)),
        png_chunk(b"iCCP", b"profile\0\0" + zlib.compress(PROFILE + bytes(3_000_000))),
        png_chunk(b"iCCP", b"profile\0\0damaged"),
        png_chunk(b"prVt", bytes(20_000_000)),
    ],
    ids=["tEXt", "zTXt", "many iTXt", "iCCP", "damaged iCCP", "private"],
)
def test_large_or_damaged_chunks_beside_the_pixels_do_not_spoil_a_png(
    chunks: bytes, dtype: Any, tmp_path: Path
) -> None:
    levels = random_levels("rgb", dtype)
    (tmp_path / "a.png").write_bytes(png(levels, before=chunks, after=chunks if b"iCCP" not in chunks[:8] else b""))
    image = read(tmp_path / "a.png")
    assert_holds(image, levels)
    if b"profile\0\0x" in chunks[:30]:
        assert image.icc_profile == PROFILE + bytes(3_000_000)


# What files say of colours and resolution.

COLOUR = {
    b"cICP": bytes([9, 16, 0, 1]),
    b"gAMA": struct.pack(">I", 100_000),
    b"cHRM": struct.pack(">8I", *range(30_000, 38_000, 1000)),
}


def chunks_of(content: bytes) -> dict[bytes, bytes]:
    """The chunks of a PNG file by kind, in their order."""
    found, place = {}, 8
    while place < len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        found[kind] = content[place + 8 : place + 8 + length]
        place += length + 12
    return found


@every_depth
@pytest.mark.parametrize("kinds", [(b"cICP",), (b"gAMA", b"cHRM"), (b"sRGB",), (b"cICP", b"gAMA", b"cHRM", b"sRGB")])
def test_png_keeps_what_it_says_of_its_colours(kinds: tuple[bytes, ...], dtype: Any, tmp_path: Path) -> None:
    levels, contents = random_levels("rgb", dtype), COLOUR | {b"sRGB": b"\1"}
    before = b"".join(png_chunk(kind, contents[kind]) for kind in kinds)
    (tmp_path / "a.png").write_bytes(png(levels, before=before + png_chunk(b"iCCP", b"p\0\0" + zlib.compress(PROFILE))))
    image = read(tmp_path / "a.png")
    write(image, tmp_path / "b.PNG")
    written = chunks_of((tmp_path / "b.PNG").read_bytes())
    assert {kind: written[kind] for kind in kinds} == {kind: contents[kind] for kind in kinds}
    assert not (COLOUR.keys() | {b"sRGB"}) & (written.keys() - set(kinds))
    assert [*written].index(b"iCCP") < [*written].index(b"IDAT")
    assert_holds(read(tmp_path / "b.PNG"), levels)
    for suffix in (".jpg", ".tif"):
        said = [what for what in lost(image, suffix) if "colours" in what]
        assert bool(said) == (b"sRGB" not in kinds)
        assert all(kind.decode() in said[0] for kind in kinds if said)


def with_resolution(path: Path, across: float, down: float) -> None:
    """Written by other libraries, in pixels per inch."""
    picture = PIL.Image.fromarray(random_levels("rgb", np.uint8))
    if path.suffix == ".tif":
        tifffile.imwrite(path, np.asarray(picture), photometric="rgb", resolution=(across, down), resolutionunit="INCH")
    else:
        picture.save(path, dpi=(across, down))


@pytest.mark.parametrize("inner", [".png", ".jpg", ".tif", ".bmp", ".jfif"])
@pytest.mark.parametrize("outer", [".png", ".jpg", ".tif", ".bmp", ".jpe"])
def test_resolution_is_kept_whatever_the_formats(inner: str, outer: str, tmp_path: Path) -> None:
    source = tmp_path / f"a{inner}"
    with_resolution(source, 300, 150)
    image = read(source)
    assert image.resolution == pytest.approx((300 / 0.0254, 150 / 0.0254), rel=1e-4)
    write(image, tmp_path / f"b{outer}")
    assert "resolution" not in lost(image, outer)
    with PIL.Image.open(tmp_path / f"b{outer}") as opened:
        assert opened.info["dpi"] == pytest.approx((300, 150), rel=1e-4)


def test_resolution_in_centimetres_stays_so(tmp_path: Path) -> None:
    with_resolution(tmp_path / "a.jpg", 118, 120)
    content = bytearray((tmp_path / "a.jpg").read_bytes())
    assert content[6:10] == b"JFIF"
    content[13] = 2
    (tmp_path / "a.jpg").write_bytes(content)
    write(read(tmp_path / "a.jpg"), tmp_path / "b.jpg")
    with PIL.Image.open(tmp_path / "b.jpg") as opened:
        assert (opened.info["jfif_unit"], opened.info["jfif_density"]) == (2, (118, 120))
    write(read(tmp_path / "a.jpg"), tmp_path / "b.tif")
    with tifffile.TiffFile(tmp_path / "b.tif") as tiff:
        tags = tiff.pages.first.tags
        assert [tags[name].value for name in ("XResolution", "YResolution", "ResolutionUnit")] == [
            (118, 1),
            (120, 1),
            3,
        ]


def test_resolution_is_that_of_the_upright_image_and_may_be_absent(tmp_path: Path) -> None:
    turned = png_chunk(b"pHYs", struct.pack(">IIB", 4000, 2000, 1)) + png_chunk(b"eXIf", exif_block(6))
    (tmp_path / "a.png").write_bytes(png(random_levels("rgb", np.uint8), before=turned))
    assert read(tmp_path / "a.png").resolution == (2000, 4000)
    for content in (struct.pack(">IIB", 4, 3, 0), struct.pack(">IIB", 0, 3, 1), b"short"):
        (tmp_path / "a.png").write_bytes(png(random_levels("rgb", np.uint8), before=png_chunk(b"pHYs", content)))
        assert read(tmp_path / "a.png").resolution is None
    with_resolution(tmp_path / "a.tif", 300, 300)
    tifffile.imwrite(tmp_path / "b.tif", random_levels("rgb", np.uint8), photometric="rgb", bigtiff=True)
    tifffile.imwrite(
        *(tmp_path / "c.tif", random_levels("rgb", np.uint8)), photometric="rgb", bigtiff=True, resolution=(300, 300)
    )
    for name, known in (("a", True), ("b", False), ("c", True)):
        assert (read(tmp_path / f"{name}.tif").resolution is not None) == known


def test_webp_has_the_resolution_of_exif_alone(tmp_path: Path) -> None:
    levels = random_levels("rgb", np.uint8)
    image = image_of(levels, resolution=(4000.0, 4000.0))
    assert lost(image, ".webp") == ["resolution"]
    assert lost(image_of(levels, resolution=(4000.0, 4000.0), exif=exif_block(1)), ".webp") == []


# Floating point, pages, other formats.


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    "options", [{}, {"compression": "zlib", "predictor": 3}, {"byteorder": ">"}, {"tile": (16, 16)}]
)
def test_reads_and_writes_tiff_of_floating_point(kind: str, dtype: Any, options: Any, tmp_path: Path) -> None:
    levels = np.random.default_rng(0).random((21, 34, *SHAPES[kind])).astype(dtype)
    photometric = "rgb" if kind.startswith("rgb") else "minisblack"
    extra = {"extrasamples": ["unassalpha"], "planarconfig": "contig"} if "a" in kind.removeprefix("grey") else {}
    tifffile.imwrite(tmp_path / "a.tif", levels, photometric=photometric, **extra, **options)
    image = read(tmp_path / "a.tif")
    wanted = torch.from_numpy(levels.astype(np.float32).reshape(21, 34, -1)).permute(2, 0, 1)
    assert image.bits == 32
    assert image.grey == kind.startswith("grey")
    assert torch.equal(image.pixels, wanted[:1].expand(3, -1, -1) if image.grey else wanted[:3])
    if kind in ("grey+alpha", "rgba"):
        assert torch.equal(image.alpha, wanted[-1:])
    write(image, tmp_path / "b.tif")
    assert np.array_equal(tifffile.imread(tmp_path / "b.tif"), levels.astype(np.float32))
    write(image, tmp_path / "b.png")
    assert read(tmp_path / "b.png").bits == 16
    assert lost(image, ".tif") == []
    assert lost(image, ".png") == ["floating-point values"]


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif", ".avif"])
def test_pages_and_frames_are_counted(suffix: str, tmp_path: Path) -> None:
    pictures = [PIL.Image.fromarray(np.roll(smooth_levels("rgb"), step, 0)) for step in range(3)]
    pictures[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=pictures[1:])
    assert read(tmp_path / f"a{suffix}").frames == 3
    pictures[0].save(tmp_path / f"b{suffix}")
    assert read(tmp_path / f"b{suffix}").frames == 1


def test_thumbnails_are_no_pages(tmp_path: Path) -> None:
    levels = random_levels("rgb", np.uint8, (64, 64))
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(levels, photometric="rgb")
        tiff.write(levels[::4, ::4], photometric="rgb", subfiletype=1)
    assert read(tmp_path / "a.tif").frames == 1
    deep = png_chunk(b"acTL", struct.pack(">II", 5, 0))
    (tmp_path / "a.png").write_bytes(png(random_levels("rgb", np.uint16), before=deep))
    assert read(tmp_path / "a.png").frames == 5


@pytest.mark.parametrize("suffix", [".gif", ".jp2", ".j2k", ".avif", ".ppm", ".qoi"])
def test_reads_what_pillow_reads_beside(suffix: str, tmp_path: Path) -> None:
    picture = PIL.Image.fromarray(smooth_levels("rgb"))
    picture.save(tmp_path / f"a{suffix}")
    with PIL.Image.open(tmp_path / f"a{suffix}") as opened:
        assert_holds(read(tmp_path / f"a{suffix}"), np.asarray(opened.convert("RGB")))
    assert find_images(tmp_path) == [tmp_path / f"a{suffix}"]
    assert find_unread(tmp_path) == []


def test_grey_of_16_bits_keeps_them_in_other_formats(tmp_path: Path) -> None:
    levels = random_levels("grey", np.uint16)
    PIL.Image.fromarray(levels).save(tmp_path / "a.jp2", irreversible=False)
    header = f"P5 {levels.shape[1]} {levels.shape[0]} 65535\n".encode()
    (tmp_path / "a.pgm").write_bytes(header + levels.astype(">u2").tobytes())
    for suffix in (".jp2", ".pgm"):
        assert_holds(read(tmp_path / f"a{suffix}"), levels)


@pytest.mark.parametrize(
    ("content", "package"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(100), "pillow-heif"),
        (b"\0\0\0\x1cftypmif1" + bytes(100), "pillow-heif"),
        (b"\xff\x0a" + bytes(100), "pillow-jxl-plugin"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100), "pillow-jxl-plugin"),
    ],
)
def test_a_missing_plug_in_is_named(
    content: bytes, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {name: one for name, one in PIL.Image.OPEN.items() if name not in ("HEIF", "JXL")}
    monkeypatch.setattr(PIL.Image, "OPEN", known)
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=f"the package {package} is installed"):
        read(tmp_path / "a.jpg")


def test_only_the_orientation_changes_in_exif(tmp_path: Path) -> None:
    path, exif = tmp_path / "a.jpg", exif_block(6)
    PIL.Image.fromarray(smooth_levels("rgb")).save(path, exif=b"Exif\0\0" + exif)
    got = read(path).exif
    assert len(got) == len(exif)
    assert sum(mine != theirs for mine, theirs in zip(got, exif, strict=True)) == 1


def test_tiff_holds_no_place_of_a_directory_that_is_left_out(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif.get_ifd(34665)[40965] = {1: "R98"}
    exif.get_ifd(34665)[33434] = IFDRational(1, 250)
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    assert (34665, 40965) in exif_facts(block)
    write(image_of(random_levels("rgb", np.uint8), exif=block), tmp_path / "a.tif")
    assert exif_facts(read(tmp_path / "a.tif").exif).keys() == {(34665, 33434)}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # as Pillow says of it
@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"nonsense",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        b"MM\0*\0\0\0\x08\0\x09\x01",
        b"II*\0" + struct.pack("<IHHHIIIII", 8, 1, 274, 5, 1, 26, 0, 6, 1),  # an orientation of 6 / 1
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_damaged_exif_does_not_spoil_a_photograph(exif: bytes, suffix: str, tmp_path: Path) -> None:
    levels = random_levels("rgb", np.uint16)
    (tmp_path / "a.png").write_bytes(png(levels, before=png_chunk(b"eXIf", exif)))
    image = read(tmp_path / "a.png")
    assert_holds(image, levels)
    assert image.exif in (None, exif)
    write(image, tmp_path / f"b{suffix}")
    assert read(tmp_path / f"b{suffix}").pixels.shape == image.pixels.shape


# Writing for other libraries.


@every_kind
@every_depth
def test_writes_png(kind: str, dtype: Any, tmp_path: Path) -> None:
    levels = random_levels(kind, dtype)
    write(image_of(levels), tmp_path / "a.png")
    assert_holds(read(tmp_path / "a.png"), levels)
    theirs = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    if kind == "grey+alpha":  # which OpenCV gives as RGB and alpha
        theirs = theirs[..., [0, 3]]
    elif kind != "grey":
        theirs[..., :3] = theirs[..., 2::-1].copy()
    assert theirs.dtype == levels.dtype
    assert np.array_equal(theirs, levels)


@every_kind
@every_depth
def test_writes_tiff(kind: str, dtype: Any, tmp_path: Path) -> None:
    levels = random_levels(kind, dtype, (600, 500))  # of several strips
    write(image_of(levels), tmp_path / "a.tif")
    assert_holds(read(tmp_path / "a.tif"), levels)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert np.array_equal(tiff.asarray(), levels)
        assert len(tiff.pages.first.dataoffsets) > 1
        assert len(tiff.pages.first.extrasamples) == (levels.ndim == 3 and levels.shape[2] in (2, 4))
    if dtype == np.uint8:
        with PIL.Image.open(tmp_path / "a.tif") as opened:
            assert np.array_equal(np.asarray(opened), levels)
    elif kind != "grey+alpha":
        theirs = cv2.imread(str(tmp_path / "a.tif"), cv2.IMREAD_UNCHANGED)
        if kind != "grey":
            theirs[..., :3] = theirs[..., 2::-1].copy()
        assert np.array_equal(theirs, levels)


@every_kind
@pytest.mark.parametrize("bits", [8, 16])
def test_writes_jpeg_webp_and_bmp_in_8_bits(kind: str, bits: int, tmp_path: Path) -> None:
    levels = smooth_levels(kind)
    image = image_of(levels if bits == 8 else levels * np.uint16(257))
    modes = {
        ".jpg": {"grey": "L", "grey+alpha": "L", "rgb": "RGB", "rgba": "RGB"},
        ".webp": {"grey": "RGB", "grey+alpha": "RGBA", "rgb": "RGB", "rgba": "RGBA"},
        ".bmp": {"grey": "L", "grey+alpha": "RGBA", "rgb": "RGB", "rgba": "RGBA"},
    }
    for suffix, tolerance in ((".jpg", 6), (".webp", 12), (".bmp", 0)):
        write(image, tmp_path / f"a{suffix}")
        with PIL.Image.open(tmp_path / f"a{suffix}") as opened:
            assert opened.mode == modes[suffix][kind]
            theirs = np.asarray(opened.convert("RGBA")).astype(int)
        wanted = np.asarray(PIL.Image.fromarray(levels).convert("RGBA")).astype(int)
        assert np.abs(theirs[..., :3] - wanted[..., :3]).max() <= tolerance
        assert np.array_equal(theirs[..., 3], np.full((48, 64), 255) if suffix == ".jpg" else wanted[..., 3])


def test_jpeg_keeps_sharp_colours_and_webp_those_of_what_is_transparent(tmp_path: Path) -> None:
    levels = smooth_levels("rgba")
    levels[..., 3] = 0
    write(image_of(levels), tmp_path / "a.jpg")
    with PIL.Image.open(tmp_path / "a.jpg") as opened:
        assert PIL.JpegImagePlugin.get_sampling(opened) == 0
    write(image_of(levels), tmp_path / "a.webp")
    assert (read_rgb(tmp_path / "a.webp") - image_of(levels).pixels).abs().max() < 0.1


def test_quality_decides_over_size_and_error(tmp_path: Path) -> None:
    image = image_of(smooth_levels("rgb") // 2 + random_levels("grey", np.uint8, (48, 64))[..., None] // 4)
    for suffix in (".jpg", ".webp"):
        sizes, errors = [], []
        for quality in (20, 60, 95):
            write(image, tmp_path / f"a{suffix}", quality=quality)
            sizes.append((tmp_path / f"a{suffix}").stat().st_size)
            errors.append((read_rgb(tmp_path / f"a{suffix}") - image.pixels).abs().mean().item())
        assert sizes == sorted(sizes)
        assert errors == sorted(errors, reverse=True)
        assert errors[0] > 2 * errors[2]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_all_65536_levels_survive(suffix: str, tmp_path: Path) -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    colours = np.stack([levels, levels[::-1], levels.T], axis=-1)
    for kind in (levels, colours):
        write(image_of(kind), tmp_path / f"a{suffix}")
        again = read(tmp_path / f"a{suffix}")
        assert torch.equal(again.pixels, wanted_of(kind)[0])
        write(again, tmp_path / f"b{suffix}")
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_values_are_rounded_and_clipped(suffix: str, tmp_path: Path) -> None:
    pixels = torch.tensor([-0.5, 0.0, 0.4 / 255, 0.6 / 255, 254.4 / 255, 1.0, 1.5]).repeat_interleave(16)
    write(Image(pixels.expand(3, 16, -1)), tmp_path / f"a{suffix}", quality=100)
    got = (read_rgb(tmp_path / f"a{suffix}") * 255).round()[0, 8, 8::16]
    assert (got - torch.tensor([0, 0, 0, 1, 254, 255, 255])).abs().max() <= (
        suffix not in (".png", ".tif", ".tiff", ".bmp")
    )


def test_a_grey_image_is_the_mean_of_its_channels(tmp_path: Path) -> None:
    write(Image(torch.tensor([30.0, 60, 120])[:, None, None].expand(3, 4, 4) / 255, grey=True), tmp_path / "a.png")
    with PIL.Image.open(tmp_path / "a.png") as opened:
        assert opened.mode == "L"
        assert opened.getpixel((0, 0)) == 70


def test_images_that_need_gradients_are_written(tmp_path: Path) -> None:
    write(Image(torch.rand(3, 8, 8, requires_grad=True)), tmp_path / "a.png")
    assert read_rgb(tmp_path / "a.png").shape == (3, 8, 8)


# Failures.


@pytest.mark.parametrize(
    "content", [b"", b"only text\n" * 50, b"\x89PNG\r\n\x1a\n", b"II*\0", b"\xff\xd8\xff\xe0", b"BM"]
)
def test_what_is_no_image_is_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    for function in (read, read_rgb):
        with pytest.raises(ImageError, match=r"a\.png cannot be read as an image"):
            function(tmp_path / "a.png")


def test_missing_files_and_folders_are_told(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(ImageError, match="There is no file"):
            read(path)


def encoders() -> dict[str, Callable[[], bytes]]:
    """Whole files to damage, by this module and by others."""

    def ours(suffix: str, dtype: Any) -> bytes:
        image = image_of(random_levels("rgba", dtype, (100, 100)), icc_profile=PROFILE, exif=exif_block(6))
        return _encoding.encode(image, suffix, 90)

    def by_tifffile(**options: Any) -> bytes:
        file = io.BytesIO()
        tifffile.imwrite(file, random_levels("rgb", np.uint16, (100, 100)), photometric="rgb", **options)
        return file.getvalue()

    cases = [(suffix, np.uint8) for suffix in (".png", ".jpg", ".webp", ".tif", ".bmp")]
    cases += [(suffix, np.uint16) for suffix in (".png", ".tif")]
    return {
        f"{suffix} {np.dtype(dtype)}": lambda suffix=suffix, dtype=dtype: ours(suffix, dtype) for suffix, dtype in cases
    } | {"plain tiff": by_tifffile, "lzw tiff": lambda: by_tifffile(compression="lzw")}


every_file = pytest.mark.parametrize("encode", [*encoders().values()], ids=[*encoders()])


@every_file
def test_truncated_files_are_told(encode: Callable[[], bytes], tmp_path: Path) -> None:
    content, path = encode(), tmp_path / "a"
    path.write_bytes(content)
    read(path)
    for share in (0.02, 0.3, 0.6, 0.9):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ImageError, match="cannot be read as an image"):
            read(path)


@every_file
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_or_told(encode: Callable[[], bytes], tmp_path: Path) -> None:
    content, path, chance = encode(), tmp_path / "a", np.random.default_rng(0)
    told = 0
    for _ in range(60):
        damaged = bytearray(content)
        reach = int(chance.choice([60, 1000, len(content)]))  # headers are short, and the most delicate
        for place in chance.integers(0, min(reach, len(content)), 4):
            damaged[place] = chance.integers(256)
        path.write_bytes(damaged)
        try:
            image = read(path)
        except ImageError:
            told += 1
        else:
            write(image, tmp_path / "b.tif")
            write(image, tmp_path / "b.png")
    assert told > 0


def test_kinds_that_are_not_photographs_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for dtype in (np.int8, np.int16, np.uint32, np.complex64):
        tifffile.imwrite(path, np.ones((8, 8), dtype))
        with pytest.raises(ImageError, match=rf"a\.tif.*its values are {np.dtype(dtype)}.*Convert it"):
            read(path)
    for value, said in ((255, "from 0 to 255"), (-0.5, "from -0.5 to 0")):
        levels = np.zeros((8, 8), np.float32)
        levels[2, 3] = value
        tifffile.imwrite(path, levels)
        with pytest.raises(ImageError, match=rf"a\.tif.*its values are {said}.*\[0, 1\].*Scale it"):
            read(path)
    for value in (np.nan, np.inf, -np.inf):
        levels[2, 3:5] = value
        tifffile.imwrite(path, levels)
        with pytest.raises(ImageError, match=r"a\.tif.*2 of its values are not finite"):
            read_rgb(path)
    grey = {"photometric": "minisblack", "planarconfig": "contig"}
    for shape, options, said in (
        ((8, 9, 4), grey, "4 channels, which are called grey"),
        ((5, 8, 9), grey | {"planarconfig": "separate"}, "5 channels, which are called grey"),
        ((4, 16, 16), {"photometric": "minisblack", "volumetric": True, "tile": (4, 16, 16)}, "a volume, of 4 planes"),
    ):
        tifffile.imwrite(path, np.zeros(shape, np.uint8), **options)
        with pytest.raises(ImageError, match=said):
            read(path)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (1, 9, 3), (9, 1, 3), (1, 1, 3)])
@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_tiff_of_one_row_or_column(shape: tuple[int, ...], planes: str, tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    if len(shape) == 2:
        tifffile.imwrite(tmp_path / "a.tif", levels, photometric="minisblack")
    else:
        stored = levels if planes == "contig" else levels.transpose(2, 0, 1)
        tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planes)
    assert_holds(read(tmp_path / "a.tif"), levels)


@pytest.mark.parametrize("name", ["a.gif", "a", "a.png.txt"])
def test_an_unknown_ending_is_told_and_the_known_ones_listed(name: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        write(image_of(random_levels("rgb", np.uint8)), tmp_path / name)
    assert name in str(caught.value)
    assert all(suffix in str(caught.value) for suffix in SUFFIXES)
    assert not list(tmp_path.iterdir())


def test_endings_may_be_in_upper_case(tmp_path: Path) -> None:
    levels = random_levels("rgb", np.uint16)
    write(image_of(levels), tmp_path / "A.TIFF")
    assert_holds(read(tmp_path / "A.TIFF"), levels)


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    image = image_of(random_levels("rgb", np.uint8))
    with pytest.raises(ImageError, match="There is no folder"):
        write(image, tmp_path / "none" / "a.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ImageError, match="is a folder"):
        write(image, tmp_path / "folder.png")
    with pytest.raises(ImageError, match="not finite"):
        write(Image(torch.full((3, 4, 4), torch.nan)), tmp_path / "a.png")
    for suffix, limit in ((".webp", 16383), (".jpg", 65535)):
        with pytest.raises(ImageError, match=f"{limit + 1} pixels.*PNG or TIFF"):
            write(Image(torch.zeros(3, 1, limit + 1)), tmp_path / f"a{suffix}")
    for quality in (0, 101):
        with pytest.raises(OptionError, match="`quality`"):
            write(image, tmp_path / "a.jpg", quality=quality)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_an_image_of_wrong_shape_is_told() -> None:
    with pytest.raises(ImageError, match=r"`pixels` has shape \(1, 4, 5\)"):
        Image(torch.zeros(1, 4, 5))
    with pytest.raises(ImageError, match=r"`alpha` has shape \(1, 5, 4\)"):
        Image(torch.zeros(3, 4, 5), torch.zeros(1, 5, 4))
    with pytest.raises(ImageError, match="`bits` is 12"):
        Image(torch.zeros(3, 4, 5), bits=12)  # type: ignore[arg-type]


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    resource, signal = pytest.importorskip("resource"), pytest.importorskip("signal")
    path = tmp_path / "a.png"
    write(image_of(random_levels("grey", np.uint8)), path)
    before = path.read_bytes()
    image = image_of(random_levels("rgb", np.uint16, (200, 200)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # as near as a test comes to a full disk
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            write(image, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    write(image, path)
    assert path.read_bytes() != before


def test_a_full_disk_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    for suffix in SUFFIXES:
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
            write(image_of(random_levels("rgb", np.uint8)), tmp_path / f"a{suffix}")
        assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


# Finding.


def test_finds_images_by_their_endings_sorted_and_without_what_is_hidden(tmp_path: Path) -> None:
    names = ["b.PNG", "a.jpeg", "c.txt", ".hidden.png", "sub/d.tif", "sub/deep/e.webp", ".cache/f.png", "sub/._g.jpg"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert found == ["a.jpeg", "b.PNG", "sub/d.tif", "sub/deep/e.webp"]
    assert [path.name for path in find_images(tmp_path, recursive=False)] == ["a.jpeg", "b.PNG"]
    with pytest.raises(DataError, match="There is no folder"):
        find_images(tmp_path / "none")


def test_what_is_not_read_is_found_by_itself(tmp_path: Path) -> None:
    for name in ("a.PNG", "b.JFIF", "c.nef", "d.CR2", "sub/e.psd", "f.heic", "g.txt", ".h.dng"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    unread = {"c.nef", "d.CR2", "sub/e.psd"} | ({"f.heic"} - {f"f{suffix}" for suffix in readable()})
    assert [path.relative_to(tmp_path).as_posix() for path in find_unread(tmp_path)] == sorted(unread, key=Path)
    assert {path.name for path in find_images(tmp_path)} >= {"a.PNG", "b.JFIF"}
    assert not set(find_images(tmp_path)) & set(find_unread(tmp_path))


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.png").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "circle").symlink_to(tmp_path / "data")
    assert find_images(tmp_path / "data") == [tmp_path / "data" / "link" / "a.png"]
