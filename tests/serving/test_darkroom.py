"""What the page does, without the page."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from darkrooms import TILES, darkroom
from PIL import ImageCms

from hairify import HairModel
from hairify.data._image import Image
from hairify.data.images import read, write
from hairify.errors import ImageError, OptionError
from hairify.restoring import giv_of, restore_tiled
from hairify.serving import Darkroom, ServingSettings
from hairify.serving._darkroom import AS_SEEN, shown


def photograph(folder: Path, **about: Any) -> Path:
    pixels = (torch.rand(3, 40, 52) * 65535).round() / 65535
    write(Image(pixels=pixels, bits=16, **about), path := folder / "photograph.png")
    return path


@torch.no_grad()
def test_restoring_is_that_of_the_command_line_and_keeps_what_a_file_has(tmp_path: Path) -> None:
    room, profile = darkroom(), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path, told = photograph(tmp_path, icc_profile=profile), []
    hair, givs = room.restorer.model, room.restorer.givs
    assert isinstance(hair, HairModel)
    assert givs is not None
    image = read(path).pixels[None]
    own = giv_of(hair, image, TILES, 4)
    for choice, strength, giv in (
        (AS_SEEN, 1.0, own),
        (AS_SEEN, 0.5, givs.moved(own, 0.5)),
        ("rain", 1.0, givs.giv("rain")),
        ("rain", 2.0, givs.moved(givs.giv("rain"), 2.0)),
    ):
        target, message = room.restore(path, tmp_path / "out", choice, strength, lambda *tile: told.append(tile))
        got = read(target)
        expected = restore_tiled(hair, image, TILES, 4, giv=giv)
        assert (got.pixels - expected[0]).abs().max() <= 0.51 / 65535
        assert (got.bits, got.icc_profile, message) == (16, profile, "")
    assert told[-1][0] == told[-1][1] > 1
    _, sight = room.look(path)
    assert sight is not None
    assert sight.distances == givs.look(own).distances


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    room, path = darkroom(), photograph(tmp_path)
    with pytest.raises(OptionError, match="knows no degradation 'hail'"):
        room.restore(path, tmp_path / "out", "hail", 1.0, lambda *tile: None)
    with pytest.raises(OptionError, match="knows no degradation 'rain'"):
        darkroom(knowing=False).restore(path, tmp_path / "out", "rain", 1.0, lambda *tile: None)
    for strength in (-0.5, 2.5, float("nan")):
        with pytest.raises(OptionError, match="strength"):
            room.restore(path, tmp_path / "out", AS_SEEN, strength, lambda *tile: None)
    (tmp_path / "text.png").write_text("no photograph")
    PIL.Image.new("RGB", (1500, 1000)).save(tmp_path / "large.png")
    for name, message in (("text.png", "text.png"), ("large.png", "2 megapixels; this page takes 1")):
        for act in (room.look, lambda p: room.restore(p, tmp_path / "out", AS_SEEN, 1.0, lambda *tile: None)):
            with pytest.raises(ImageError, match=message):
                act(tmp_path / name)  # type: ignore[operator]
    for settings in ({"port": 0}, {"upload_limit": 0}, {"pixel_limit": -1}):
        with pytest.raises(OptionError, match="accepted"):
            ServingSettings(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("room", [darkroom(knowing=False), darkroom(convert=False)], ids=["unknowing", "static"])
def test_without_known_givs_it_restores_all_the_same(room: Darkroom, tmp_path: Path) -> None:
    path = photograph(tmp_path)
    assert room.choices == [AS_SEEN]
    assert room.look(path)[1] is None
    target, _ = room.restore(path, tmp_path / "out", AS_SEEN, 1.0, lambda *tile: None)
    assert not torch.equal(read(target).pixels, read(path).pixels)


def test_a_photograph_is_shown_small_and_in_srgb() -> None:
    wide = Image(pixels=torch.rand(3, 100, 4000))
    assert shown(wide).size == (1600, 40)
    grey = Image(pixels=torch.full((3, 8, 8), 0.5))
    assert np.array(shown(grey)).min() == 128
    red = Image(pixels=torch.tensor([0.9, 0.1, 0.1])[:, None, None].expand(3, 8, 8))
    assert np.array(shown(dataclasses.replace(red, icc_profile=exchanged())))[0, 0].argmax() == 2
    assert np.array(shown(dataclasses.replace(red, icc_profile=b"damaged")))[0, 0].argmax() == 0
    assert shown(Image(pixels=torch.rand(3, 2, 4000))).size == (1600, 1)
    clear = dataclasses.replace(red, alpha=torch.tensor([0.0, 1.0]).repeat(1, 8, 4))
    assert np.array(shown(clear))[0, :2].tolist() == [[255, 255, 255], [230, 26, 26]]  # on white


def exchanged() -> bytes:
    """The profile of sRGB with red and blue exchanged, in its table of what stands where."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    entries = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * profile[131], 12)}
    one, other = (slice(entries[name] + 4, entries[name] + 12) for name in (b"rXYZ", b"bXYZ"))
    profile[one], profile[other] = profile[other], profile[one]
    return bytes(profile)
