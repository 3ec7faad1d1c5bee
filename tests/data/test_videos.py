"""Videos with other pictures keep all else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("av")

import av
from clips import read_clip, write_clip

from hairify.data.videos import Frame, rewrite
from hairify.errors import ImageError


def same(frame: Frame) -> Tensor:
    return frame.pixels


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": (".mp4", {}),
    "turned": (".mp4", {"rotation": 90}),
    "uneven times": (".mp4", {"uneven": True}),
    "full range, BT.601": (".mp4", {"full_range": True, "bt709": False}),
    "HEVC, 10 bits": (".mkv", {"codec": "libx265", "pixels": "yuv420p10le"}),
    "silent": (".mov", {"sound": False}),
    "lossless": (".mkv", {"codec": "ffv1", "pixels": "yuv444p"}),
    "VP9": (".webm", {"codec": "libvpx-vp9", "sound": False}),
    "VP8": (".webm", {"codec": "libvpx"}),
    "AV1": (".mp4", {"codec": "libsvtav1", "size": (64, 96)}),
    "HEVC for Apple": (".mov", {"codec": "libx265", "tag": "hvc1"}),
    "two languages": (".mkv", {"language": "deu"}),
    "chapters": (".mp4", {"chapters": True}),
    "HEVC in .m4v": (".m4v", {"codec": "libx265", "form": "mp4"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_all_but_the_pictures_stays(kind: str, tmp_path: Path) -> None:
    ending, options = KINDS[kind]
    source, target = tmp_path / f"source{ending}", tmp_path / f"target{ending}"
    write_clip(source, **options)
    seen: list[Frame] = []

    def flipped(frame: Frame) -> Tensor:
        seen.append(frame)
        return 1 - frame.pixels

    assert rewrite(source, target, flipped, crf=4) == []
    before, times, about = read_clip(source)
    after, new_times, new_about = read_clip(target)
    assert new_times == times
    assert new_about == about
    assert len(seen) == len(before)
    assert [frame.number for frame in seen] == [*range(len(before))]
    assert [frame.seconds for frame in seen] == pytest.approx([float(time) for time in times])
    assert abs(seen[0].count - len(before)) <= (4 if "uneven" in options else 1)  # some files tell how long they are
    given = np.stack([frame.pixels.permute(1, 2, 0).numpy() for frame in seen])
    assert np.abs(given - before).mean() < 0.012  # the decoder's own way to RGB
    # What was asked for, through chroma at half the resolution and an encoder that loses little.
    assert np.abs(after - (1 - before)).mean() < (0.004 if kind == "lossless" else 0.025)
    assert not [path for path in tmp_path.iterdir() if path not in (source, target)]


@pytest.mark.parametrize("codec", ["rawvideo", "qtrle", "png"])
def test_colours_of_rgb_files_stay(codec: str, tmp_path: Path) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    write_clip(
        tmp_path / "a.mov",
        codec=codec,
        pixels="rgb24",
        frames=3,
        sound=False,
        colours=(200, 60, 20),
        noise=0.0,
        full_range=True,
    )
    assert rewrite(tmp_path / "a.mov", tmp_path / "b.mov", same, crf=0) == []
    assert np.abs(read_clip(tmp_path / "b.mov")[0].mean((0, 1, 2)) * 255 - (200, 60, 20)).max() < 2


def test_what_is_lost_is_told(tmp_path: Path) -> None:
    for pixels, codec, lost in (
        ("yuva444p10le", "prores_ks", ["its depth of 12 bits, of which 10 are kept", "its transparency"]),
        ("bgra", "ffv1", ["its transparency"]),
        ("yuv420p16le", "ffv1", []),
        ("yuvj422p", "mjpeg", []),
    ):
        source = tmp_path / f"{pixels}.mov" if codec != "ffv1" else tmp_path / f"{pixels}.mkv"
        write_clip(source, codec=codec, pixels=pixels, frames=2, sound=False, full_range="j" in pixels)
        assert rewrite(source, tmp_path / f"to{source.suffix}", same) == lost, pixels
    write_clip(tmp_path / "odd.mov", codec="mjpeg", pixels="yuvj422p", size=(47, 63), frames=2, full_range=True)
    assert rewrite(tmp_path / "odd.mov", tmp_path / "to.mov", same) == []
    assert read_clip(tmp_path / "to.mov")[0].shape == (2, 47, 63, 3)


def test_a_broken_picture_is_left_out_and_told(tmp_path: Path) -> None:
    write_clip(tmp_path / "whole.mkv", codec="ffv1", pixels="yuv444p", frames=12, noise=0.2)
    data = bytearray((tmp_path / "whole.mkv").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    (tmp_path / "broken.mkv").write_bytes(data)
    told = rewrite(tmp_path / "broken.mkv", tmp_path / "to.mkv", same)
    frames = read_clip(tmp_path / "to.mkv")[0]
    assert len(frames) in (11, 12)
    assert bool(told) is (len(frames) == 11)


def test_a_full_disk_is_no_fault_of_the_video(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mkv", frames=30, size=(96, 128), noise=0.3)
    code = (
        "import resource, signal, sys, errno; from pathlib import Path; from hairify.data import videos\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "videos.DISK_FULL = {errno.EFBIG}\n"
        "try: videos.rewrite(Path('a.mkv'), Path('b.mkv'), lambda frame: frame.pixels, crf=0)\n"
        "except OSError as error: sys.exit(error.errno != errno.EFBIG)\n"
        "sys.exit(2)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0


def test_ten_bits_are_not_made_eight(tmp_path: Path) -> None:
    source = tmp_path / "source.mkv"
    write_clip(source, codec="libx265", pixels="yuv420p10le", frames=2)
    levels: list[Tensor] = []

    def look(frame: Frame) -> Tensor:
        levels.append(frame.pixels.unique())
        return frame.pixels

    rewrite(source, tmp_path / "target.mkv", look)
    assert max(map(len, levels)) > 256


def test_what_fails_leaves_the_target_alone(tmp_path: Path) -> None:
    source, target = tmp_path / "source.mp4", tmp_path / "target.mp4"
    write_clip(source, frames=6)
    (tmp_path / "text.mp4").write_text("no video")
    write_clip(tmp_path / "sound.mp4", frames=6)
    target.write_bytes(b"before")

    def fails(frame: Frame) -> Tensor:
        if frame.number == 3:
            raise RuntimeError("out of memory")
        return frame.pixels

    failing: list[tuple[Path, Callable[[Frame], Tensor], type[Exception], str]] = [
        (source, fails, RuntimeError, "out of memory"),
        (tmp_path / "text.mp4", same, ImageError, r"text\.mp4 cannot be read"),
        (tmp_path / "none.mp4", same, ImageError, "cannot be read"),
    ]
    for path, change, kind, message in failing:
        with pytest.raises(kind, match=message):
            rewrite(path, target, change)
        assert target.read_bytes() == b"before"
    assert len([*tmp_path.iterdir()]) == 4


def test_a_cut_file_gives_what_it_has(tmp_path: Path) -> None:
    write_clip(tmp_path / "whole.mkv", frames=40, size=(96, 128), noise=0.2)
    data = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    rewrite(tmp_path / "cut.mkv", tmp_path / "target.mkv", same)
    assert 2 < len(read_clip(tmp_path / "target.mkv")[0]) < 40


def test_pixels_are_clipped(tmp_path: Path) -> None:
    write_clip(tmp_path / "source.mkv", codec="ffv1", pixels="yuv444p", frames=2)
    rewrite(tmp_path / "source.mkv", tmp_path / "target.mkv", lambda frame: torch.full_like(frame.pixels, 1.5))
    assert read_clip(tmp_path / "target.mkv")[0].min() > 0.98
