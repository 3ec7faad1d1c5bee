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
    colours: tuple[int, int, int] | None = None,
    language: str = "",
    chapters: bool = False,
    tag: str = "",
    form: str | None = None,
    cut_at: int | None = None,
) -> None:
    """Write a clip, whose colours turn into their opposites at `cut_at`; sound is a tone of 440 Hz."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[: size[0], : size[1]]
    picture = np.stack([columns / size[1], rows / size[0], 0.5 + 0.3 * np.sin(columns / 7)], -1)
    with av.open(str(path), "w", format=form) as clip:
        crf = {"crf": "4"} if codec.startswith("lib") else {}
        options = crf | ({"x265-params": "log-level=error"} if codec == "libx265" else {})
        stream: Any = clip.add_stream(codec, rate=RATE, options=options)
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        space = 1 if bt709 else 5
        stream.codec_context.color_range, stream.codec_context.colorspace = 1 + full_range, space
        if tag:
            stream.codec_context.codec_tag = tag
        if rotation:
            stream.set_display_rotation(rotation)
        tone: Any = clip.add_stream("aac" if path.suffix != ".webm" else "libopus", rate=48000) if sound else None
        if language:
            tone.metadata["language"] = language
        if chapters:
            clip.set_chapters(
                [{"id": 1, "start": 0, "end": 200, "time_base": Fraction(1, 1000), "metadata": {"title": "a"}}]
            )
        for number in range(frames):
            shown = 1 - picture[::-1] if cut_at is not None and number >= cut_at else picture
            shown = shown if colours is None else np.broadcast_to(np.array(colours) / 255, shown.shape)
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
            "codec": context.codec.canonical_name,
            "pixels": context.pix_fmt,
            "range": context.color_range,
            "space": context.colorspace,
            "rotation": decoded[0].rotation,
            "streams": sorted(one.type for one in clip.streams),
            "languages": [one.metadata.get("language") for one in clip.streams.audio],
            "chapters": [chapter["metadata"] for chapter in clip.chapters()],
            "tag": context.codec_tag if path.suffix in (".mp4", ".mov") else "",
        }
    with av.open(str(path)) as clip:
        packets = [*clip.demux(*clip.streams.audio)] if clip.streams.audio else []
        about["sound"] = [bytes(packet) for packet in packets]
        about["sound at"] = [packet.pts * packet.time_base for packet in packets if packet.pts is not None]
    frames = np.stack([frame.to_ndarray(format="rgb24") for frame in decoded]).astype(np.float64) / 255
    return frames, [frame.pts * frame.time_base for frame in decoded], about
