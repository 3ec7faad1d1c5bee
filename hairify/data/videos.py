"""Videos, frame by frame, by the package PyAV: what a file is beside its pictures stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hairify._support.files import replacing
from hairify.errors import ImageError

if TYPE_CHECKING:
    import av

SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"})
"""Endings of the files that are read and written."""

_ENCODERS = {"hevc": "libx265", "vp9": "libvpx-vp9", "vp8": "libvpx", "av1": "libsvtav1", "ffv1": "ffv1"}
_USUAL = "libx264"  # where the video's own codec cannot be written
_HD = 720  # rows, from which on players take colours for BT.709 where a file does not say
_UNSAID = 2  # of colour spaces, primaries and transfers, in the numbers of ITU-T H.273
_BT601, _BT709 = 5, 1  # as swscale numbers them
_SPACES = {1: _BT709, 4: 4, 5: _BT601, 6: _BT601, 7: 7, 9: 9, 10: 9}  # H.273's numbers → swscale's
_LIMITED, _FULL = 1, 2
_TAGS = ("color_primaries", "color_trc", "colorspace", "color_range")


@dataclass(frozen=True)
class Frame:
    """One picture of a video.

    Attributes:
        pixels: shape (3, H, W), RGB in [0, 1], as it is stored: not rotated.
        seconds: since the video's beginning.
        number: from 0.
        count: of all frames, as far as the file tells; 0 where it does not.
    """

    pixels: Tensor
    seconds: float
    number: int
    count: int


def rewrite(source: Path, target: Path, change: Callable[[Frame], Tensor], *, crf: int = 18) -> list[str]:
    """Write a video with other pictures: one frame at a time, in the memory that a few frames take.

    Sound and subtitles are copied as they are; each frame has the time that it had, also where these are uneven.
    Rotation, aspect of pixels, colour space, range and depth stay. The codec stays where it can be written, which is
    H.264, HEVC, VP8, VP9, AV1 and FFV1; others become H.264.

    Args:
        source: the video; of several streams of pictures the first is changed.
        target: of the same ending; it appears under its name only when it is complete.
        change: is given each frame, and returns its new pixels, of the same shape.
        crf: how much is lost in encoding, 0 (nothing, or next to it) to 51; 18 is hard to see. Not for FFV1, which
            loses nothing.

    Returns:
        What the result lacks, in words.

    Raises:
        ModuleNotFoundError: PyAV is not installed.
        ImageError: the file cannot be read, or holds no pictures; or it cannot be written.
    """
    av = _av()
    try:
        rotation = _rotation(source)
        with av.open(str(source)) as reading, replacing(target) as file:
            options = {"movflags": "faststart"} if target.suffix.lower() in (".mp4", ".mov", ".m4v") else {}
            with av.open(str(file), "w", options=options) as writing:
                return _Rewriting(reading, writing, rotation, crf).run(change)
    except av.FFmpegError as error:
        raise ImageError(f"{source} cannot be read, or not be written to {target}: {error}") from error


class _Rewriting:
    """The streams of one file, and what becomes of each."""

    def __init__(
        self, reading: av.container.InputContainer, writing: av.container.OutputContainer, rotation: int, crf: int
    ) -> None:
        self._reading, self._writing = reading, writing
        writing.metadata.update(reading.metadata)
        self._pictures = reading.streams.video[0]
        self._pictures.thread_type = "AUTO"
        self._encoded = self._encoder(crf)
        self._copies: dict[int, Any] = {}
        self._without: list[str] = []
        if rotation and hasattr(self._encoded, "set_display_rotation"):
            self._encoded.set_display_rotation(rotation)  # now: the first packet writes the file's head
        elif rotation:
            self._without.append(f"that it is turned by {rotation} degrees, which PyAV writes from version 18 on")
        for stream in reading.streams:
            if stream.type in ("audio", "subtitle"):
                try:
                    self._copies[stream.index] = writing.add_stream_from_template(stream)
                except ValueError:  # a container has no room for every codec
                    self._without.append(f"a stream of {stream.type}, which {writing.format.name} cannot hold")
            elif stream is not self._pictures:
                self._without.append(f"a stream of {stream.type}")

    def run(self, change: Callable[[Frame], Tensor]) -> list[str]:
        read = [self._pictures, *(self._reading.streams[index] for index in self._copies)]
        number = 0
        for packet in self._reading.demux(read):
            if packet.stream.index in self._copies:
                if packet.dts is not None:  # the last of each stream is empty
                    packet.stream = self._copies[packet.stream.index]
                    self._writing.mux(packet)
                continue
            pictures: Any = packet.decode()
            for picture in pictures:
                self._write(picture, change(self._frame(picture, number)))
                number += 1
        self._writing.mux(self._encoded.encode(None))
        return self._without

    def _encoder(self, crf: int) -> Any:
        av = _av()
        given = self._pictures.codec_context
        name = _ENCODERS.get(given.name, _USUAL)
        if name not in av.codecs_available:
            name = _USUAL
        rate = self._pictures.average_rate or self._pictures.guessed_rate or Fraction(25)
        options = {} if name == "ffv1" else {"crf": str(crf)}
        if name.startswith("libvpx"):
            options["b"] = "0"  # or it is held to a bit rate
        if name == "libx265":
            options["x265-params"] = "log-level=error"
        stream: Any = self._writing.add_stream(name, rate=rate, options=options)
        stream.width, stream.height = given.width, given.height
        accepted = [one.name for one in stream.codec_context.codec.video_formats or ()]
        stream.pix_fmt = given.pix_fmt if not accepted or given.pix_fmt in accepted else _nearest(given, accepted)
        context = stream.codec_context
        context.time_base = stream.time_base = self._pictures.time_base
        if given.sample_aspect_ratio:
            context.sample_aspect_ratio = given.sample_aspect_ratio
        for tag in _TAGS:
            setattr(context, tag, getattr(given, tag))
        stream.metadata.update({k: v for k, v in self._pictures.metadata.items() if k != "encoder"})
        return stream

    def _frame(self, picture: av.VideoFrame, number: int) -> Frame:
        deep = picture.format.components[0].bits > 8
        array = picture.reformat(
            format="rgb48le" if deep else "rgb24",
            src_colorspace=_space(picture),
            src_color_range=_range(picture),
            dst_color_range=_FULL,
        ).to_ndarray()
        pixels = torch.from_numpy(array.astype("float32")).permute(2, 0, 1) / (65535 if deep else 255)
        return Frame(pixels, float(picture.time or 0), number, self._count())

    def _write(self, before: av.VideoFrame, pixels: Tensor) -> None:
        av = _av()
        deep = before.format.components[0].bits > 8
        scale, kind = (65535, "uint16") if deep else (255, "uint8")
        array = (pixels.detach().cpu().clamp(0, 1) * scale).round().permute(1, 2, 0).contiguous().numpy().astype(kind)
        picture = av.VideoFrame.from_ndarray(array, format="rgb48le" if deep else "rgb24").reformat(
            format=self._encoded.pix_fmt,
            src_color_range=_FULL,
            dst_colorspace=_space(before),
            dst_color_range=_range(before),
        )
        picture.pts, picture.time_base = before.pts, before.time_base
        for tag in _TAGS:
            setattr(picture, tag, getattr(before, tag))
        self._writing.mux(self._encoded.encode(picture))

    def _count(self) -> int:
        stream: Any = self._pictures
        if stream.frames:
            return int(stream.frames)
        seconds = float(stream.duration * stream.time_base) if stream.duration else 0.0
        if not seconds and self._reading.duration:
            seconds = self._reading.duration / _av().time_base
        return round(seconds * float(stream.average_rate or 0))


def _rotation(source: Path) -> int:
    """By how many degrees the pictures are turned when they are shown.

    Raises:
        ImageError: there are none, or the first cannot be read.
    """
    with _av().open(str(source)) as reading:
        for picture in reading.decode(*reading.streams.video[:1]) if reading.streams.video else ():
            return int(picture.rotation)
    raise ImageError(f"{source} holds no pictures that can be read.")


def _space(picture: av.VideoFrame) -> int:
    """How its colours are coded, in swscale's numbers; where it does not say, as players take it."""
    return _SPACES.get(picture.colorspace, _BT709 if picture.height >= _HD else _BT601)


def _range(picture: av.VideoFrame) -> int:
    """Whether its numbers fill their range; where it does not say, they do only in the formats made for that."""
    return picture.color_range or (_FULL if picture.format.name.startswith(("yuvj", "rgb", "bgr", "gbr")) else _LIMITED)


def _nearest(given: Any, accepted: list[str]) -> str:
    return "yuv420p10le" if "10" in (given.pix_fmt or "") and "yuv420p10le" in accepted else "yuv420p"


def _av() -> Any:
    try:
        import av
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Videos need the package PyAV: pip install 'hairify[video]'") from error
    return av
