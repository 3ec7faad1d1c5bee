"""Videos, frame by frame, by the package PyAV: what a file is beside its pictures stays as it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hairify._support.files import DISK_FULL, replacing
from hairify.errors import ImageError

if TYPE_CHECKING:
    import av

SUFFIXES = frozenset({".m4v", ".mkv", ".mov", ".mp4", ".webm"})
"""Endings of the files that are read and written."""

_ENCODERS = {
    "h264": "libx264",
    "hevc": "libx265",
    "vp9": "libvpx-vp9",
    "vp8": "libvpx",
    "av1": "libsvtav1",
    "ffv1": "ffv1",
}
_USUAL = {".webm": "libvpx-vp9"}  # where the video's own codec cannot be written; elsewhere that of H.264
_LEAST_CRF = {"libvpx": 4}
_WITH_TAGS = (".m4v", ".mov", ".mp4")  # containers, kin to each other, whose codecs have several names
_HD = 720  # rows, from which on players take colours for BT.709 where a file does not say
_BT601, _BT709 = 5, 1  # as swscale numbers them
_SPACES = {1: _BT709, 4: 4, 5: _BT601, 6: _BT601, 7: 7, 9: 9, 10: 9}  # H.273's numbers → swscale's
_LIMITED, _FULL = 1, 2
_TAGS = ("color_primaries", "color_trc", "colorspace", "color_range")
_ALPHA = "its transparency"
_INTERLACED = "that its frames are interlaced: each was restored as one picture"
_SIDE_DATA = {
    "MASTERING_DISPLAY_METADATA": "what it says of the display that it was made on",
    "CONTENT_LIGHT_LEVEL": "what it says of its brightness",
}


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
    H.264, HEVC, VP8, VP9, AV1 and FFV1; others become H.264, or VP9 in .webm.

    Args:
        source: the video; of several streams of pictures the first is changed.
        target: of the same ending; it appears under its name only when it is complete.
        change: is given each frame, and returns its new pixels, of the same shape.
        crf: how much is lost in encoding, 0 (nothing, or next to it) to 51; 18 is hard to see. Of VP8 at least 4; FFV1
            loses nothing.

    Returns:
        What the result lacks, in words.

    Raises:
        ModuleNotFoundError: PyAV is not installed.
        ImageError: the file cannot be read, holds no pictures, or such as change their size; or it cannot be written.
        OSError: the disk is full.
    """
    av = _av()
    rotation = _rotation(source)
    try:
        with av.open(str(source)) as reading, replacing(target) as file:
            options = {"movflags": "faststart"} if target.suffix.lower() in _WITH_TAGS else {}
            # Named .m4v, it would be one of Apple's, without HEVC.
            form = "mp4" if target.suffix.lower() == ".m4v" else None
            with av.open(str(file), "w", format=form, options=options) as writing:
                return _Rewriting(reading, writing, target.suffix.lower(), rotation, crf).run(change)
    except (av.FFmpegError, ValueError) as error:  # the latter of a codec that a container cannot hold
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise ImageError(f"{source} cannot be written with other pictures to {target}: {error}") from error


class _Rewriting:
    """The streams of one file, and what becomes of each."""

    def __init__(self, reading: Any, writing: Any, ending: str, rotation: int, crf: int) -> None:
        self._reading, self._writing = reading, writing
        self._without: dict[str, None] = {}  # in the order in which it was found, each once
        writing.metadata.update(reading.metadata)
        self._pictures = reading.streams.video[0]
        self._pictures.thread_type = "AUTO"
        self._encoded = self._encoder(ending, crf)
        self._frames = self._count()
        self._size = self._encoded.height, self._encoded.width
        self._copies = {stream.index: copy for stream in reading.streams if (copy := self._copy(stream)) is not None}
        # What stands in the file's head, which the first packet writes.
        if rotation:
            self._encoded.set_display_rotation(rotation)
        if reading.chapters():
            writing.set_chapters(reading.chapters())

    def run(self, change: Callable[[Frame], Tensor]) -> list[str]:
        av = _av()
        read = [self._pictures, *(self._reading.streams[index] for index in self._copies)]
        number = broken = 0
        for packet in self._reading.demux(read):
            if packet.stream.index in self._copies:
                if packet.dts is not None:  # the last of each stream is empty
                    packet.stream = self._copies[packet.stream.index]
                    self._writing.mux(packet)
                continue
            try:
                pictures: list[Any] = packet.decode()
            except av.error.InvalidDataError:
                broken += 1
                continue
            for picture in pictures:
                self._write(picture, change(self._frame(picture, number)))
                number += 1
        self._writing.mux(self._encoded.encode(None))
        return [*self._without, *([f"{broken} pictures that cannot be read"] if broken else [])]

    def _lacks(self, words: str) -> None:
        self._without[words] = None

    def _copy(self, stream: Any) -> Any:
        """A stream of the new file that takes another one's packets, or None."""
        if stream is self._pictures:
            return None
        if stream.type == "data" and self._reading.chapters():  # in .mp4 the chapters themselves, which are kept
            return None
        if stream.type not in ("audio", "subtitle"):
            self._lacks(f"a stream of {stream.type}")
            return None
        try:
            copy = self._writing.add_stream_from_template(stream)
        except ValueError:  # a container has no room for every codec
            self._lacks(f"a stream of {stream.type}, which {self._writing.format.name} cannot hold")
            return None
        copy.metadata.update(stream.metadata)  # such as its language
        copy.disposition = stream.disposition
        return copy

    def _encoder(self, ending: str, crf: int) -> Any:
        av, given = _av(), self._pictures.codec_context
        codec = given.codec.canonical_name
        name = _ENCODERS.get(codec, "")
        if name not in av.codecs_available:
            name = _USUAL.get(ending, "libx264")
        rate = self._pictures.average_rate or self._pictures.guessed_rate or Fraction(25)
        options = {} if name == "ffv1" else {"crf": str(max(crf, _LEAST_CRF.get(name, 0)))}
        if name.startswith("libvpx"):
            options["b"] = "0"  # or it is held to a bit rate
        if name == "libx265":
            options["x265-params"] = "log-level=error"
        stream = self._writing.add_stream(name, rate=rate, options=options)
        stream.width, stream.height = given.width, given.height
        stream.pix_fmt = self._pixel_format(given, name, stream.codec_context.codec.video_formats)
        self._is_from_rgb = given.format.is_rgb and not av.VideoFormat(stream.pix_fmt).is_rgb
        context = stream.codec_context
        context.time_base = stream.time_base = self._pictures.time_base
        if given.sample_aspect_ratio:
            context.sample_aspect_ratio = given.sample_aspect_ratio
        if ending in _WITH_TAGS and codec == context.codec.canonical_name:
            context.codec_tag = given.codec_tag  # of two names for HEVC, some players know one
        for tag, value in self._tags(given).items():
            setattr(context, tag, value)
        beside = any(key.lower() == "alpha_mode" for key in self._pictures.metadata)  # the pictures, in WebM
        if beside or any(component.is_alpha for component in given.format.components):
            self._lacks(_ALPHA)
        left_out = ("alpha_mode", "encoder")
        kept = {key: value for key, value in self._pictures.metadata.items() if key.lower() not in left_out}
        stream.metadata.update(kept)
        return stream

    def _pixel_format(self, given: Any, encoder: str, accepted: Sequence[Any] | None) -> str:
        """The video's own where the encoder has it, else the nearest, what is lost being noted."""
        own = given.format
        names = [one.name for one in accepted or ()]
        # Of such sizes, these encoders take colours in full alone.
        odd = encoder in ("libx264", "libx265") and bool(given.width % 2 or given.height % 2)
        if not names or (own.name in names and not (odd and _chroma(own) != (1, 1) and not own.is_rgb)):
            return str(own.name)
        bits, (across, down) = own.components[0].bits, _chroma(own)
        # No coarser in depth and colour where that can be had, and then as near as can be.
        plain = [
            one for one in accepted or () if one.name.startswith("yuv") and not one.name.startswith(("yuva", "yuvj"))
        ]
        usable = [one for one in plain if _chroma(one) == (1, 1)] if odd else plain

        def cost(one: Any) -> tuple[bool, bool, int, int]:
            wide, high = _chroma(one)
            depth = one.components[0].bits
            return depth < bits, wide > across or high > down, abs(depth - bits), abs(wide - across) + abs(high - down)

        chosen = min(usable or plain, key=cost)
        lacks_depth, lacks_colour, *_ = cost(chosen)
        if lacks_depth:
            self._lacks(f"its depth of {bits} bits, of which {chosen.components[0].bits} are kept")
        if lacks_colour:
            self._lacks("its resolution of colours")
        return str(chosen.name)

    def _tags(self, given: Any) -> dict[str, int]:
        """What is said of the colours: as it was, but where RGB is written in another format."""
        tags = {tag: int(getattr(given, tag)) for tag in _TAGS}
        if given.format.name.startswith("yuvj"):  # which says by its name what others say by a tag
            tags["color_range"] = _FULL
        if self._is_from_rgb:
            tags |= {"colorspace": 1, "color_range": _LIMITED}
        return tags

    def _frame(self, picture: av.VideoFrame, number: int) -> Frame:
        if (picture.height, picture.width) != self._size:
            raise ImageError(
                f"The video's frames change their size, from {self._size[0]} × {self._size[1]} to {picture.height} × "
                f"{picture.width} pixels."
            )
        if picture.interlaced_frame:
            self._lacks(_INTERLACED)
        for side in list[Any](picture.side_data):
            if (words := _SIDE_DATA.get(side.type.name)) is not None:
                self._lacks(words)
        kind, most, _ = _rgb(picture)
        array = picture.reformat(
            format=kind, src_colorspace=_space(picture), src_color_range=_range(picture), dst_color_range=_FULL
        ).to_ndarray()
        pixels = torch.from_numpy(array.astype("float32")).permute(2, 0, 1) / most
        return Frame(pixels, float(picture.time or 0), number, self._frames)

    def _write(self, before: av.VideoFrame, pixels: Tensor) -> None:
        kind, most, dtype = _rgb(before)
        array = (pixels.detach().cpu().clamp(0, 1) * most).round().permute(1, 2, 0).contiguous().numpy().astype(dtype)
        picture = (
            _av()
            .VideoFrame.from_ndarray(array, format=kind)
            .reformat(
                format=self._encoded.pix_fmt,
                src_color_range=_FULL,
                dst_colorspace=_BT709 if self._is_from_rgb else _space(before),
                dst_color_range=_LIMITED if self._is_from_rgb else _range(before),
            )
        )
        picture.pts, picture.time_base = before.pts, before.time_base
        for tag, value in self._tags(before).items():
            setattr(picture, tag, value)
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
    av = _av()
    try:
        with av.open(str(source)) as reading:
            for picture in reading.decode(reading.streams.video[0]) if reading.streams.video else ():
                return int(picture.rotation)
    except av.FFmpegError as error:
        raise ImageError(f"{source} cannot be read as a video: {error}") from error
    raise ImageError(f"{source} holds no pictures that can be read.")


def _rgb(picture: av.VideoFrame) -> tuple[str, int, str]:
    """RGB deep enough for a picture: its name, its largest number, and the dtype."""
    return ("rgb48le", 65535, "uint16") if picture.format.components[0].bits > 8 else ("rgb24", 255, "uint8")


def _chroma(format: Any) -> tuple[int, int]:
    """How many pixels, across and down, have one colour."""
    if len(format.components) < 3:  # grey
        return 2, 2
    return round(256 / format.chroma_width(256)), round(256 / format.chroma_height(256))


def _space(picture: av.VideoFrame) -> int:
    """How its colours are coded, in swscale's numbers; where it does not say, as players take it."""
    return _SPACES.get(picture.colorspace, _BT709 if picture.height >= _HD else _BT601)


def _range(picture: av.VideoFrame) -> int:
    """Whether its numbers fill their range; where it does not say, they do only in the formats made for that."""
    return picture.color_range or (
        _FULL if picture.format.is_rgb or picture.format.name.startswith("yuvj") else _LIMITED
    )


def _av() -> Any:
    try:
        import av
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Videos need the package PyAV: pip install 'hairify[video]'", name="av") from error
    return av
