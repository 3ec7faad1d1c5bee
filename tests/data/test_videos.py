"""Videos with other pictures keep all else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("av")

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
