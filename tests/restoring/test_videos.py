"""Restoring videos: what is seen is steady over time, and begins anew at cuts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from util import perturb

pytest.importorskip("av")

from clips import read_clip, write_clip

from hairify import HairModel, hairify
from hairify.cli import main
from hairify.errors import OptionError
from hairify.models import unet
from hairify.networks import Network
from hairify.restoring import (
    Guidance,
    RestoringSettings,
    SteadyGIV,
    TilingSettings,
    VideoSettings,
    giv_of,
    restore_files,
    restore_tiled,
    restore_video,
)
from hairify.sharing import Restorer, save_pretrained

TILES = TilingSettings(tile=64, overlap=16)


def network() -> HairModel:
    return perturb(hairify(unet(width=4)).calibrate(torch.rand(16, 3, 32, 32)), 0.1).eval()


def restored(source: Path, target: Path, model: torch.nn.Module, **options: Any) -> np.ndarray[Any, Any]:
    settings, guidance = options.pop("settings", VideoSettings(crf=0)), options.pop("guidance", Guidance())
    tiling = options.pop("tiling", TILES)
    restore_video(model, source, target, multiple=4, tiling=tiling, settings=settings, guidance=guidance, **options)
    return read_clip(target)[0]


def test_a_steady_giv_is_the_mean_of_a_scene_then_follows_and_begins_anew() -> None:
    seen, dark, light = SteadyGIV(seconds=2.0), torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)
    own = [torch.full((1, 2), float(number)) for number in range(200)]
    got = [seen(dark, 0.1 * t, lambda t=t: own[t]) for t in range(200)]  # type: ignore[misc]
    for t in range(20):  # up to its time constant it has seen too little to follow faster than a mean
        assert torch.allclose(got[t], torch.stack(own[: t + 1]).mean(0))
    follows = 1 - math.exp(-0.1 / 2)
    for t in range(100, 200):
        assert torch.allclose(got[t], got[t - 1] + follows * (own[t] - got[t - 1]))
    assert torch.equal(seen(light, 20.0, lambda: own[7]), own[7])  # a cut
    assert torch.equal(seen(light, 20.1, lambda: own[9]), (own[7] + own[9]) / 2)
    alone = SteadyGIV(seconds=0.0)
    assert all(torch.equal(alone(dark, t / 10, lambda t=t: own[t]), own[t]) for t in range(9))  # type: ignore[misc]


def test_noise_is_no_cut_and_another_scene_is() -> None:
    def givs(pictures: list[Tensor]) -> list[int]:
        seen = SteadyGIV(seconds=1e9)
        count = iter(range(len(pictures)))
        return [seen(p, 0.04 * t, lambda: torch.tensor([[float(next(count))]])) for t, p in enumerate(pictures)]  # type: ignore[misc]

    scene, other = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    up = torch.nn.Upsample((64, 96), mode="bilinear")
    noisy = [(up(scene) + 0.2 * torch.randn(1, 3, 64, 96)).clamp(0, 1) for _ in range(6)]
    assert [float(g) for g in givs(noisy)] == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5])
    cut = [float(g) for g in givs([*noisy[:3], *(up(other) for _ in range(3))])]
    assert cut == pytest.approx([0, 0.5, 1, 3, 3.5, 4])


def test_each_frame_is_restored_with_the_steady_giv(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mkv", codec="ffv1", pixels="yuv444p", frames=4, size=(80, 96), noise=0.2)
    hair = network()
    told: list[tuple[int, int]] = []
    got = restored(tmp_path / "a.mkv", tmp_path / "b.mkv", hair, on_frame=lambda done, of: told.append((done, of)))
    assert [done for done, _ in told] == [1, 2, 3, 4]
    frames = torch.from_numpy(read_clip(tmp_path / "a.mkv")[0]).float().permute(0, 3, 1, 2)
    givs = [giv_of(hair, frame[None], TILES, 4) for frame in frames]
    for t, frame in enumerate(frames):
        mean = torch.stack(givs[: t + 1]).mean(0)
        expected = restore_tiled(hair, frame[None], TILES, 4, giv=mean)[0].permute(1, 2, 0).numpy()
        assert np.abs(got[t] - expected).mean() < 0.004  # 8 bits, there and back


def test_a_static_scene_flickers_less(tmp_path: Path) -> None:
    """New noise in each frame of one scene: with what is seen steady, frames differ less than one by one."""
    write_clip(tmp_path / "a.mkv", codec="ffv1", pixels="yuv444p", frames=10, size=(64, 64), noise=0.1)
    hair = network()

    def flicker(smoothing: float) -> float:
        frames = restored(tmp_path / "a.mkv", tmp_path / "b.mkv", hair, settings=VideoSettings(smoothing=smoothing))
        return float(np.abs(np.diff(frames.mean((1, 2))[4:], axis=0)).mean())  # of the colours of whole frames

    assert flicker(1.0) < flicker(0.0)


def test_what_does_not_fit_is_refused_before_the_video_is_read(tmp_path: Path) -> None:
    hair = network()
    for model, guidance, tiles, message in (
        (hair, Guidance(strength=0.5), TILES, "strength"),
        (unet(width=4), Guidance(giv=torch.zeros(1, 2)), TILES, "static network"),
        (hair, Guidance(), TilingSettings(tile=30, overlap=8), "multiples of 4"),
    ):
        with pytest.raises(OptionError, match=message):
            restored(tmp_path / "none.mp4", tmp_path / "b.mp4", model, guidance=guidance, tiling=tiles)


def test_files_and_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "clip.mp4", frames=3, rotation=90)
    (tmp_path / "broken.mp4").write_text("none")
    hair = network()
    save_pretrained(Restorer(hair, Network("unet", {"width": 4}), 4), tmp_path / "run")
    words = ["restore", "clip.mp4", "--model", "run", "--device", "cpu"]
    assert main(words) == 0
    after = read_clip(tmp_path / "restored" / "clip.mp4")
    before = read_clip(tmp_path / "clip.mp4")
    assert after[1:] == before[1:]  # times, sound and the rest
    assert main([*words, "broken.mp4", "--output", "again"]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "broken.mp4 cannot be read" in printed
    assert (tmp_path / "again" / "clip.mp4").is_file()
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["clip.mp4"]
    assert main(words) == 0
    assert "1 skipped" in capsys.readouterr().out
    outcomes = restore_files(
        hair,
        [Path("clip.mp4")],
        tmp_path / "baked",
        multiple=4,
        tiling=TILES,
        settings=RestoringSettings(bake=True, output_format="png"),
    )
    assert "for photographs" in outcomes[0].message
    for wrong in ({"smoothing": -1.0}, {"smoothing": math.nan}, {"crf": 52}):
        with pytest.raises(OptionError, match="accepted"):
            VideoSettings(**wrong)  # type: ignore[arg-type]
