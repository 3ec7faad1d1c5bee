"""Small videos for tests, made by PyAV: a static picture with new noise in each frame."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

RATE = 25


def write_clip(
    path: Path,
    *,
    frames: int = 12,
    size: tuple[int, int] = (48, 64),
    codec: str = "libx264",
    pixels: str = "yuv420p",
    full_range: bool = False,
    bt709: bool = True,
    rotation: int = 0,
    sound: bool = True,
    uneven: bool = False,
    noise: float = 0.02,
    cut_at: int | None = None,
) -> None:
    """Write a clip, whose colours turn into their opposites at `cut_at`; sound is a tone of 440 Hz."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[: size[0], : size[1]]
    picture = np.stack([columns / size[1], rows / size[0], 0.5 + 0.3 * np.sin(columns / 7)], -1)
    with av.open(str(path), "w") as clip:
        options = {} if codec == "ffv1" else {"crf": "4", "x265-params": "log-level=error"}
        stream: Any = clip.add_stream(codec, rate=RATE, options=options if codec == "libx265" else {"crf": "4"})
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        space = 1 if bt709 else 5
        stream.codec_context.color_range, stream.codec_context.colorspace = 1 + full_range, space
        if rotation:
            stream.set_display_rotation(rotation)
        tone: Any = clip.add_stream("aac" if path.suffix != ".webm" else "libopus", rate=48000) if sound else None
        for number in range(frames):
            shown = 1 - picture[::-1] if cut_at is not None and number >= cut_at else picture
            shown = np.clip(shown + generator.normal(0, noise, shown.shape), 0, 1)
            frame = av.VideoFrame.from_ndarray((shown * 255).round().astype(np.uint8), format="rgb24").reformat(
                format=pixels, dst_colorspace=space, src_color_range=2, dst_color_range=1 + full_range
            )
            frame.pts, frame.time_base = number + (number // 3 if uneven else 0), Fraction(1, RATE)
            frame.color_range, frame.colorspace = 1 + full_range, space
            clip.mux(stream.encode(frame))
        clip.mux(stream.encode(None))
        if sound:
            wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(48000 * frames // RATE) / 48000)
            for start in range(0, len(wave), 960):
                samples = av.AudioFrame.from_ndarray(
                    wave[None, start : start + 960].astype(np.float32), format="fltp", layout="mono"
                )
                samples.sample_rate, samples.pts, samples.time_base = 48000, start, Fraction(1, 48000)
                clip.mux(tone.encode(samples))
            clip.mux(tone.encode(None))


def read_clip(path: Path) -> tuple[np.ndarray[Any, Any], list[Fraction], dict[str, Any]]:
    """Frames (T, H, W, 3), when each is shown, and what else the file says; the bytes of sound are among that."""
    with av.open(str(path)) as clip:
        stream = clip.streams.video[0]
        decoded: list[Any] = [*clip.decode(stream)]
        context = stream.codec_context
        about = {
            "codec": context.name,
            "pixels": context.pix_fmt,
            "range": context.color_range,
            "space": context.colorspace,
            "rotation": decoded[0].rotation,
            "streams": sorted(one.type for one in clip.streams),
        }
    with av.open(str(path)) as clip:
        about["sound"] = [bytes(packet) for packet in clip.demux(*clip.streams.audio)] if clip.streams.audio else []
    frames = np.stack([frame.to_ndarray(format="rgb24") for frame in decoded]).astype(np.float64) / 255
    return frames, [frame.pts * frame.time_base for frame in decoded], about
