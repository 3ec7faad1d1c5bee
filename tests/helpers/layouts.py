"""Tiny copies of the data sets, in the layouts in which they are distributed."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Pair:
    split: str  # "train", "test", or "any" where no folder says which half it is
    clean: str  # below the folder in which the data set is built
    degraded: str | None = None
    border: int = 0  # what the clean image is larger by, at each side


def pixels(name: str, height: int = 40, width: int = 48) -> Pixels:
    """A picture of its own for each name, smooth enough for JPEG."""
    coarse = np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def write(path: Path, picture: Pixels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"quality": 98, "subsampling": 0} if path.suffix == ".jpg" else {}
    Image.fromarray(picture).save(path, **options)
    return path


def photographs(folder: Path, count: int = 5, height: int = 40, width: int = 48) -> list[Path]:
    """A folder of clean photographs."""
    return [write(folder / f"{i:03}.png", pixels(f"{folder.name}{i}", height, width)) for i in range(count)]


def build(name: str, folder: Path) -> Path:
    """Writes a layout. Each degraded image is the negative of its clean one."""
    for pair in LAYOUTS[name]:
        height, width = 40 + 2 * pair.border, 48 + 2 * pair.border
        clean = pixels(pair.clean, height, width)
        write(folder / pair.clean, clean)
        if pair.degraded is not None:
            inner = slice(pair.border, -pair.border or None)
            write(folder / pair.degraded, 255 - clean[inner, inner])
    for other in OTHERS.get(name, ()):
        write(folder / other, pixels(other))
    return folder


LAYOUTS: Mapping[str, tuple[Pair, ...]] = {
    "BSD400": tuple(Pair("train", f"BSD400/{n}.jpg") for n in (100075, 100080, 100098)),
    "WED": tuple(Pair("train", f"WED/{n:05}.bmp") for n in (1, 2)),
    "WED as published": tuple(Pair("train", f"WaterlooED/pristine_images/{n:05}.bmp") for n in (1, 2)),
    "BSD68": tuple(Pair("test", f"bsd68/test{n:03}.png") for n in (1, 2)),
    "CBSD68": tuple(Pair("test", f"CBSD68/original_png/{n:04}.png") for n in (0, 1)),
    "Urban100": tuple(Pair("test", f"Urban100/HR/img_{n:03}.png") for n in (1, 2, 3)),
    "Rain100L": (
        *(Pair("train", f"Rain100L/train/norain/norain-{n}.png", f"Rain100L/train/rain/rain-{n}.png") for n in (1, 2)),
        *(
            Pair("test", f"Rain100L/test/norain/norain-{n:03}.png", f"Rain100L/test/rain/rain-{n:03}.png")
            for n in (1, 2, 10)
        ),
    ),
    "Rain100L input": (
        *(Pair("train", f"Rain100L/train/target/{n}.png", f"Rain100L/train/input/{n}.png") for n in (1, 2)),
        Pair("test", "test/Rain100L/target/1.png", "test/Rain100L/input/1.png"),
    ),
    "Rain100L as published": (
        Pair("train", "rain_data_train_Light/norain/norain-1.png", "rain_data_train_Light/rain/norain-1x2.png"),
        Pair("train", "rain_data_train_Light/norain/norain-2.png", "rain_data_train_Light/rain/norain-2x2.png"),
        Pair("test", "rain_data_test_Light/norain/norain-001.png", "rain_data_test_Light/rain/X2/norain-001x2.png"),
    ),
    "OTS": tuple(
        Pair("train", f"OTS/clear/{n:04}.jpg", f"OTS/hazy/{n:04}_{airlight}_{scattering}.jpg")
        for n in (5, 8)
        for airlight, scattering in (("0.8", "0.04"), ("1", "0.2"))
    ),
    "OTS in parts": tuple(
        Pair("train", f"OTS_BETA/clear/{n:04}.jpg", f"OTS_BETA/haze/part{part}/{n:04}_{part}_0.2.jpg")
        for n in (5, 8)
        for part in (1, 2)
    ),
    "ITS": tuple(
        Pair("train", f"ITS_v2/clear/{n}.png", f"ITS_v2/hazy/{n}_{i}_0.9{i}.png", border=10)
        for n in (1, 12)
        for i in (1, 2)
    ),
    "ITS in halves": (
        Pair("train", "ITS/train/clear/1.png", "ITS/train/hazy/1_1_0.90.png"),
        Pair("test", "ITS/test/clear/1400.png", "ITS/test/hazy/1400_1.png"),
    ),
    "SOTS": (
        *(
            Pair("test", f"SOTS/indoor/gt/{n}.png", f"SOTS/indoor/hazy/{n}_{i}.png", border=10)
            for n in (1400, 1401)
            for i in (1, 10)
        ),
        *(Pair("test", f"SOTS/outdoor/gt/{n:04}.png", f"SOTS/outdoor/hazy/{n:04}_0.8_0.2.jpg") for n in (1, 2)),
    ),
    "SOTS input": tuple(Pair("test", f"SOTS/target/{n:04}.png", f"SOTS/input/{n:04}_0.8_0.2.jpg") for n in (1, 2)),
    "GoPro": tuple(
        Pair(split, f"GOPRO_Large/{split}/{scene}/sharp/{n:06}.png", f"GOPRO_Large/{split}/{scene}/blur/{n:06}.png")
        for split, scene in (("train", "GOPR0372_07_00"), ("train", "GOPR0372_07_01"), ("test", "GOPR0384_11_00"))
        for n in (1, 2)
    ),
    "GoPro input": tuple(
        Pair(split, f"GoPro/{split}/target/{scene}-{n:06}.png", f"GoPro/{split}/input/{scene}-{n:06}.png")
        for split, scene in (("train", "GOPR0372_07_00"), ("train", "GOPR0372_07_01"), ("test", "GOPR0384_11_00"))
        for n in (1, 2)
    ),
    "LOL-v1": (
        *(Pair("train", f"LOLdataset/our485/high/{n}.png", f"LOLdataset/our485/low/{n}.png") for n in (2, 5)),
        Pair("test", "LOLdataset/eval15/high/1.png", "LOLdataset/eval15/low/1.png"),
    ),
    "Kodak24": tuple(Pair("test", f"Kodak24/kodim{n:02}.png") for n in (1, 2)),
    "McMaster": tuple(Pair("test", f"McM/{n}.tif") for n in (1, 2, 10)),
    "Rain13K": tuple(Pair("train", f"Rain13K/target/{n}.jpg", f"Rain13K/input/{n}.jpg") for n in (1, 2)),
    "Test1200": tuple(Pair("test", f"Test1200/target/{n}.png", f"Test1200/input/{n}.png") for n in (1, 2)),
    "Snow100K": (
        *(Pair("train", f"Snow100K/train/gt/b_{n}.jpg", f"Snow100K/train/synthetic/b_{n}.jpg") for n in (1, 2)),
        *(
            Pair("test", f"Snow100K/Snow100K-{size}/gt/w_{n}.jpg", f"Snow100K/Snow100K-{size}/synthetic/w_{n}.jpg")
            for size in "SL"
            for n in (1, 2)
        ),
    ),
    "RainDrop": (
        *(Pair("train", f"RainDrop/train/gt/{n}_clean.png", f"RainDrop/train/data/{n}_rain.png") for n in (0, 1)),
        *(
            Pair("test", f"RainDrop/test_{ab}/gt/{n}_clean.png", f"RainDrop/test_{ab}/data/{n}_rain.png")
            for ab in "ab"
            for n in (0, 10)
        ),
    ),
    "Rain100H": tuple(Pair("any", f"Rain100H/norain/norain-{n}.png", f"Rain100H/rain/rain-{n}.png") for n in (1, 2)),
    "RESIDE-6K": (
        Pair("train", "RESIDE-6K/train/GT/1.jpg", "RESIDE-6K/train/hazy/1.jpg"),
        Pair("test", "RESIDE-6K/test/GT/0001.jpg", "RESIDE-6K/test/hazy/0001.jpg"),
    ),
}

OTHERS: Mapping[str, tuple[str, ...]] = {
    "CBSD68": ("CBSD68/noisy25/0000.png", "CBSD68/original/0000.jpg"),
    "Urban100": ("Urban100/LR_bicubic/X2/img_001x2.png",),
    "OTS": ("OTS/clear/0025.jpg",),  # of which no hazy image is there
    "ITS": ("ITS_v2/trans/1_1.png",),
    "SOTS": ("SOTS/figures/examples.png",),
    "Kodak24": ("Kodak24/noisy25/kodim01.png",),
    "Snow100K": ("Snow100K/train/mask/b_1.jpg", "Snow100K/realistic/r_1.jpg"),
    "GoPro": ("GOPRO_Large/train/GOPR0372_07_00/blur_gamma/000001.png",),
}
"""What is beside the images of a data set and is not to be taken for one."""
