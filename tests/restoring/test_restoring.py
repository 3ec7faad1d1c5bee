"""Files: what is beside the pixels stays, bad ones stop nothing, and nothing is written where it should not be."""

from __future__ import annotations

import errno
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import PIL.Image
import pytest
import torch
from networks import small_restormer
from torch import Tensor, nn
from util import assert_close, perturb

from hairify import HairModel, hairify
from hairify.data._image import Image
from hairify.data.images import read, write
from hairify.errors import ImageError, OptionError
from hairify.restoring import (
    Job,
    Outcome,
    RestoringSettings,
    TilingSettings,
    _restored_files,
    planned,
    restore_files,
    restore_tiled,
)

TILES = TilingSettings(tile=32, overlap=8, giv_tiles=2)
SETTINGS = RestoringSettings()
PROFILE = bytes(range(256))


class Unchanged(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Darker(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2


def photograph(height: int = 40, width: int = 50, **others: Any) -> Image:
    levels = 65535 if others.get("bits") == 16 else 255
    pixels = (torch.rand(3, height, width) * levels).round() / levels
    return Image(pixels=pixels[:1].expand(3, -1, -1).clone() if others.get("grey") else pixels, **others)


def restore(model: nn.Module, inputs: list[Path], output: Path, **others: Any) -> list[Outcome]:
    options: dict[str, Any] = {"multiple": 1, "tiling": TILES, "settings": SETTINGS}
    return restore_files(model, inputs, output, **options | others)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """a.png, trip/b.png and trip/far/c.jpg."""
    made = tmp_path / "in"
    (made / "trip" / "far").mkdir(parents=True)
    for name in ("a.png", "trip/b.png", "trip/far/c.jpg"):
        write(photograph(), made / name)
    return made


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
def test_every_level_and_all_beside_the_pixels_is_kept(
    suffix: str, bits: Any, grey: bool, alpha: bool, tmp_path: Path
) -> None:
    height, width = (257, 256) if bits == 16 else (40, 50)
    levels = 2**bits - 1
    image = photograph(
        height,
        width,
        bits=bits,
        grey=grey,
        alpha=(torch.rand(1, height, width) * levels).round() / levels if alpha else None,
        icc_profile=PROFILE,
    )
    if bits == 16:  # each of the levels
        image.pixels.flatten(1)[:, : 2**16] = torch.arange(2**16) / levels
    source = tmp_path / f"in{suffix}"
    write(image, source)
    before = read(source)
    (outcome,) = restore(Unchanged(), [source], tmp_path / "out")
    assert (outcome.status, outcome.message) == ("restored", "")
    after = read(tmp_path / "out" / source.name)
    assert torch.equal(after.pixels, before.pixels)
    assert torch.equal((after.pixels * levels).round(), (image.pixels * levels).round())
    assert (after.grey, after.bits, after.icc_profile, after.exif) == (grey, bits, PROFILE, before.exif)
    assert (after.alpha is None) == (not alpha)
    if after.alpha is not None and before.alpha is not None:
        assert torch.equal(after.alpha, before.alpha)


def test_what_is_written_is_what_tiles_give(tmp_path: Path) -> None:
    hair = perturb(hairify(small_restormer())).eval()
    write(photograph(37, 70), tmp_path / "a.png")
    pixels = read(tmp_path / "a.png").pixels
    restore(hair, [tmp_path / "a.png"], tmp_path / "out", multiple=8)
    after = read(tmp_path / "out" / "a.png").pixels
    expected = restore_tiled(hair, pixels[None], TILES, 8)[0]
    assert (after - expected).abs().max() < 0.51 / 255
    assert (after - pixels).abs().max() > 2 / 255


def test_baked_is_the_same(tmp_path: Path) -> None:
    hair = perturb(hairify(small_restormer())).eval()
    source = tmp_path / "a.tif"
    write(photograph(37, 70, bits=16), source)
    seen: list[type] = []

    def tiled(model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        seen.append(type(model))
        return restore_tiled(model, *args, **kwargs)

    with mock.patch.object(_restored_files, "restore_tiled", tiled):
        for name, bake in (("plain", False), ("baked", True)):
            restore(hair, [source], tmp_path / name, multiple=8, settings=RestoringSettings(bake=bake))
    assert seen == [HairModel, type(hair.base)]
    plain, baked = (read(tmp_path / name / "a.tif").pixels for name in ("plain", "baked"))
    assert_close(baked, plain, 1e-4)
    assert (plain - read(source).pixels).abs().max() > 0.01


def test_grey_is_the_mean_of_the_channels(tmp_path: Path) -> None:
    class Tinted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.tensor([0.2, 0.5, 0.8])[:, None, None]

    write(photograph(grey=True, bits=16), tmp_path / "a.png")
    restore(Tinted(), [tmp_path / "a.png"], tmp_path / "out")
    before, after = read(tmp_path / "a.png"), read(tmp_path / "out" / "a.png")
    assert after.grey
    assert (after.pixels - before.pixels / 2).abs().max() < 1 / 65535


def test_folders_are_mirrored(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "out"
    told: list[Outcome] = []
    outcomes = restore(Darker(), [folder, folder / "trip" / "b.png"], output, on_outcome=told.append)
    names = ["a.png", "trip/b.png", "trip/far/c.jpg", "b.png"]
    assert outcomes == told
    assert [outcome.target for outcome in outcomes] == [output / name for name in names]
    assert {outcome.status for outcome in outcomes} == {"restored"}
    assert all(outcome.seconds > 0 for outcome in outcomes)
    for outcome in outcomes:
        assert outcome.target is not None
        assert (read(outcome.target).pixels - read(outcome.source).pixels / 2).abs().mean() < 0.05
    assert sum(path.is_file() for path in output.rglob("*")) == 4


def test_an_output_within_an_input_is_no_input_the_next_time(folder: Path) -> None:
    output = folder / "restored"
    first = planned([folder], output, SETTINGS)
    restore(Darker(), [folder], output)
    assert planned([folder], output, SETTINGS) == first


def test_outputs_that_exist_are_left(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    restore(Darker(), [folder / "a.png"], output)
    first = (output / "a.png").read_bytes()
    outcomes = restore(Unchanged(), [folder], output)
    assert [outcome.status for outcome in outcomes] == ["skipped", "restored", "restored"]
    assert "`overwrite`" in outcomes[0].message
    assert (output / "a.png").read_bytes() == first
    outcomes = restore(Unchanged(), [folder], output, settings=RestoringSettings(overwrite=True))
    assert [outcome.status for outcome in outcomes] == ["restored"] * 3
    assert (output / "a.png").read_bytes() != first


def test_bad_files_do_not_stop_the_rest(folder: Path, tmp_path: Path) -> None:
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "empty.jpg").touch()
    (folder / "notes.txt").write_text("no image")
    (tmp_path / "nothing").mkdir()
    inputs = [folder / "none.png", tmp_path / "nothing", folder / "notes.txt", folder]
    outcomes = restore(Darker(), inputs, tmp_path / "out")
    by_name = {outcome.source.name: outcome for outcome in outcomes}
    failed = {"none.png": "no such file", "nothing": "no images", "notes.txt": "output_format"}
    failed |= {"broken.png": "broken.png", "empty.jpg": "empty.jpg"}
    assert {name for name, outcome in by_name.items() if outcome.status == "failed"} == set(failed)
    assert all(words in by_name[name].message for name, words in failed.items())
    assert sum(outcome.status == "restored" for outcome in outcomes) == 3
    assert not (tmp_path / "out" / "broken.png").exists()


def test_files_are_not_written_over_inputs(folder: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    overwrite = RestoringSettings(overwrite=True)
    link = tmp_path / "link"
    link.symlink_to(folder)
    for inputs, output in (
        ([folder], folder),
        ([folder], link),
        ([folder / "a.png"], folder / "trip" / ".."),
        ([folder / "trip", folder / "a.png"], folder),
    ):
        with pytest.raises(OptionError, match="is an input"):
            restore(Darker(), inputs, output, settings=overwrite)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_two_inputs_of_one_output_are_named(folder: Path, tmp_path: Path) -> None:
    write(photograph(), folder / "a.jpg")
    (tmp_path / "other").mkdir()
    write(photograph(), tmp_path / "other" / "a.png")
    for inputs, settings in (
        ([folder], RestoringSettings(output_format="png")),
        ([folder / "a.png", tmp_path / "other"], SETTINGS),
    ):
        with pytest.raises(OptionError, match=r"a\.(jpg|png) and .*a\.png would both"):
            restore(Darker(), inputs, tmp_path / "out", settings=settings)
    assert not (tmp_path / "out").exists()
    twice = planned([folder / "a.png", folder / "a.png"], tmp_path / "out", SETTINGS)
    assert twice == [Job(folder / "a.png", tmp_path / "out" / "a.png")]


def test_an_output_that_is_a_file_is_refused(folder: Path) -> None:
    with pytest.raises(OptionError, match="a file"):
        restore(Darker(), [folder / "a.png"], folder / "trip" / "b.png")


def test_a_folder_in_the_place_of_an_output(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "a.png").mkdir(parents=True)
    outcomes = restore(Darker(), [folder], tmp_path / "out", settings=RestoringSettings(overwrite=True))
    assert [outcome.status for outcome in outcomes] == ["failed", "restored", "restored"]
    assert "is a folder" in outcomes[0].message


def test_formats(tmp_path: Path) -> None:
    image = photograph(alpha=torch.rand(1, 40, 50), bits=16, icc_profile=PROFILE)
    source = tmp_path / "a.PNG"
    write(image, source)
    lost = {"png": "", "tif": "", "webp": "8 bits", "jpg": "transparency, more than 8 bits", "bmp": "colour profile"}
    for ending, words in lost.items():
        settings = RestoringSettings(output_format=ending)  # type: ignore[arg-type]
        (outcome,) = restore(Unchanged(), [source], tmp_path / "out", settings=settings)
        assert outcome.target == tmp_path / "out" / f"a.{ending}"
        assert words in outcome.message
        assert bool(outcome.message) == bool(words)
        assert (read(outcome.target).pixels.mean() - image.pixels.mean()).abs() < 0.02
    assert planned([source], tmp_path / "out", SETTINGS)[0].target == tmp_path / "out" / "a.PNG"


def picture(seed: int = 0) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 48, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", ["scan.tif", "moving.webp", "moving.png", "moving.gif", "moving.avif"])
def test_pages_and_frames_beyond_the_first_are_said(name: str, tmp_path: Path) -> None:
    picture().save(tmp_path / name, save_all=True, append_images=[picture(1), picture(2)])
    (outcome,) = restore(Unchanged(), [tmp_path / name], tmp_path / "out")
    assert outcome.status == "restored in part"
    assert "Of its 3 pages or frames, the first alone is restored." in outcome.message
    assert outcome.target is not None
    assert (read(outcome.target).pixels - read(tmp_path / name).pixels).abs().mean() < 0.06
    assert read(outcome.target).frames == 1


def test_formats_that_are_not_written_become_png(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.GIF", "b.jp2", "c.avif", "c.png", "d.JFIF", "e.jpe"):
        picture().save(folder / name, {"d.JFIF": "JPEG", "e.jpe": "JPEG"}.get(name))
    outcomes = restore(Unchanged(), [folder, folder / "a.GIF"], tmp_path / "out")
    assert {outcome.status for outcome in outcomes} == {"restored"}
    names = {outcome.target.relative_to(tmp_path / "out").as_posix() for outcome in outcomes if outcome.target}
    assert names == {"a.GIF.png", "b.jp2.png", "c.avif.png", "c.png", "d.JFIF", "e.jpe"}
    assert torch.equal(read(tmp_path / "out" / "a.GIF.png").pixels, read(folder / "a.GIF").pixels)
    jpeg = planned([folder / "a.GIF"], tmp_path / "out", RestoringSettings(output_format="jpg"))
    assert [job.target for job in jpeg] == [tmp_path / "out" / "a.jpg"]


def test_image_files_that_are_not_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    monkeypatch.setattr(PIL.Image, "OPEN", {k: one for k, one in PIL.Image.OPEN.items() if k not in ("HEIF", "JXL")})
    picture().save(folder / "a.png")
    (folder / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    (folder / "new.jxl").write_bytes(b"\xff\x0a" + bytes(100))
    picture().save(folder / "shared.heic", "JPEG")  # as telephones send them
    picture().save(folder / "raw.NEF", "TIFF")  # as cameras put a thumbnail first
    (folder / "layers.psd").write_bytes(b"8BPS" + bytes(100))
    (folder / "notes.txt").touch()
    by_name = {one.source.name: one for one in restore(Unchanged(), [folder], tmp_path / "out")}
    assert {name for name, one in by_name.items() if one.status == "restored"} == {"a.png", "shared.heic"}
    words = {
        "phone.HEIC": "pillow-heif",
        "new.jxl": "pillow-jxl-plugin",
        "raw.NEF": "TIFF or PNG",
        "layers.psd": ".psd",
    }
    assert {name for name, one in by_name.items() if one.status == "failed"} == set(words)
    assert all(words[name] in one.message for name, one in by_name.items() if one.status == "failed")


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names of files are text there")
def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    for name in (b"a\xe9.png", b"\xff\xfe.tif"):
        write(photograph(), folder / os.fsdecode(name))
    (folder / os.fsdecode(b"broken\xe9.jpg")).touch()
    outcomes = restore(Unchanged(), [folder], tmp_path / os.fsdecode(b"\xe9"))
    assert sorted(outcome.status for outcome in outcomes) == ["failed", "restored", "restored"]
    assert sorted(os.listdir(os.fsencode(tmp_path) + b"/\xe9")) == [b"a\xe9.png", b"\xff\xfe.tif"]


def test_what_the_format_cannot_keep_is_said(tmp_path: Path) -> None:
    exif = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 37500, 7, 70_000, 26, 0) + bytes(70_000)
    image = photograph(exif=exif, resolution=(4000.0, 4000.0), colour_chunks=((b"gAMA", struct.pack(">I", 100_000)),))
    write(image, tmp_path / "a.png")
    said = {"png": "", "jpg": "EXIF of more than 64 KiB, colours as gAMA say", "webp": "gAMA say, resolution"}
    for ending, words in said.items():
        settings = RestoringSettings(output_format=ending)  # type: ignore[arg-type]
        (outcome,) = restore(Unchanged(), [tmp_path / "a.png"], tmp_path / "out", settings=settings)
        assert outcome.status == "restored"
        assert words in outcome.message
        assert bool(outcome.message) == bool(words)
    kept = read(tmp_path / "out" / "a.png")
    assert (kept.exif, kept.resolution, kept.colour_chunks) == (exif, image.resolution, image.colour_chunks)


def test_quality(tmp_path: Path) -> None:
    write(photograph(), tmp_path / "a.jpg")
    sizes = []
    for quality in (20, 95):
        output = tmp_path / str(quality)
        restore(Unchanged(), [tmp_path / "a.jpg"], output, settings=RestoringSettings(quality=quality))
        sizes.append((output / "a.jpg").stat().st_size)
    assert sizes[0] < sizes[1] / 2
    with pytest.raises(OptionError, match="`quality` is 0"):
        RestoringSettings(quality=0)


@contextmanager
def failing(error: BaseException, of: int = 1) -> Iterator[None]:
    """Writing the file number `of` fails."""
    count = 0

    def write_some(*args: Any, **kwargs: Any) -> None:
        nonlocal count
        count += 1
        if count == of:
            raise error
        write(*args, **kwargs)

    with mock.patch.object(_restored_files, "write", write_some):
        yield


def test_a_full_disk_stops_all(folder: Path, tmp_path: Path) -> None:
    told: list[Outcome] = []
    full = failing(OSError(errno.ENOSPC, "No space left on device"), of=2)
    with full, pytest.raises(ImageError, match=r"disk is full.*b\.png"):
        restore(Darker(), [folder], tmp_path / "out", on_outcome=told.append)
    assert [outcome.source.name for outcome in told] == ["a.png"]
    assert (tmp_path / "out" / "a.png").is_file()


def test_a_file_that_cannot_be_written_stops_nothing(folder: Path, tmp_path: Path) -> None:
    with failing(PermissionError(errno.EACCES, "Permission denied", "b.png"), of=2):
        outcomes = restore(Darker(), [folder], tmp_path / "out")
    assert [outcome.status for outcome in outcomes] == ["restored", "failed", "restored"]
    assert "Permission denied" in outcomes[1].message


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "smaller `tile`"),
        (torch.OutOfMemoryError("CUDA out of memory"), "smaller `tile`"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "32 × 32"),
        (ValueError("sides must be even"), "ValueError: sides must be even"),
    ],
)
def test_a_network_that_fails_on_one_image_goes_on(error: Exception, words: str, folder: Path, tmp_path: Path) -> None:
    write(photograph(13, 13), folder / "a.png")

    class Picky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[-1] == 13:
                raise error
            return x

    outcomes = restore(Picky(), [folder], tmp_path / "out")
    assert [outcome.status for outcome in outcomes] == ["failed", "restored", "restored"]
    assert words in outcomes[0].message


def test_interrupting_is_not_an_outcome(folder: Path, tmp_path: Path) -> None:
    with failing(KeyboardInterrupt()), pytest.raises(KeyboardInterrupt):
        restore(Darker(), [folder], tmp_path / "out")


def test_options_are_checked_before_anything_is_done(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="`bake`"):
        restore(Darker(), [folder], tmp_path / "out", settings=RestoringSettings(bake=True))
    with pytest.raises(OptionError, match="`tile`"):
        restore(Darker(), [folder], tmp_path / "out", tiling=replace(TILES, tile=33), multiple=8)
    assert not (tmp_path / "out").exists()


def test_the_network_is_put_back_into_its_mode(folder: Path, tmp_path: Path) -> None:
    seen: list[bool] = []
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Dropout(0.9)).train()
    network.register_forward_hook(lambda module, *_: seen.append(module.training))
    restore(network, [folder], tmp_path / "out")
    assert seen
    assert not any(seen)
    assert network.training


def test_progress(folder: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    restore(
        Darker(),
        [folder / "a.png"],
        tmp_path / "out",
        on_tile=lambda path, done, of: told.append((path.name, done, of)),
    )
    assert told == [("a.png", i, 4) for i in range(1, 5)]
