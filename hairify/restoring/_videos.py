"""Restoring videos: frames share what the network sees, so that nothing flickers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from hairify.data.videos import Frame, rewrite
from hairify.model import HairModel
from hairify.restoring._guidance import Guidance
from hairify.restoring._settings import TilingSettings, VideoSettings
from hairify.restoring._tiling import giv_of, restore_tiled

_CUT = 0.1  # mean difference of two frames in small, from which on they are of different scenes
_SMALL = 16  # pixels, of frames in small: noise is gone, and what moves a little stays where it is


class SteadyGIV:
    """The GIV of a video's frames over time: an exponential mean, which begins anew at cuts.

    From the first frame of a scene on it is the plain mean of what was seen, and never follows one frame by more; later
    it follows with the time constant. So noise in what is seen of single frames does not become flicker.

    Args:
        seconds: the time constant; 0: each frame by itself.
    """

    def __init__(self, seconds: float) -> None:
        self._constant = seconds
        self._small: Tensor | None = None
        self._giv: Tensor | None = None
        self._seen, self._at = 0, 0.0

    def __call__(self, frame: Tensor, seconds: float, own: Callable[[], Tensor]) -> Tensor:
        """The GIV to restore a frame with.

        Args:
            frame: shape (1, 3, H, W), in [0, 1].
            seconds: when it is shown; frames come in order.
            own: finds the GIV of the frame itself, (1, D).
        """
        small = nn.functional.adaptive_avg_pool2d(frame, _SMALL)
        cut = self._small is None or float((small - self._small).abs().mean()) > _CUT
        self._small = small
        self._seen = 1 if cut else self._seen + 1
        if self._giv is None or cut or self._constant == 0:
            self._giv = own()
        else:
            follows = 1 - math.exp(-max(seconds - self._at, 0) / self._constant)
            self._giv = torch.lerp(self._giv, own(), max(follows, 1 / self._seen))
        self._at = seconds
        return self._giv


def restore_video(
    model: nn.Module,
    source: Path,
    target: Path,
    *,
    multiple: int,
    tiling: TilingSettings,
    settings: VideoSettings,
    guidance: Guidance,
    on_frame: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Restore a video: each frame in tiles, with what the network sees over time.

    Args:
        model: a HairModel, or any other network that `hairify.networks.apply` can run, in evaluation mode.
        source: the video; see `hairify.data.videos.rewrite`.
        target: the file to write, of the same ending.
        multiple: the network takes images whose sides are multiples of it.
        tiling: of each frame.
        settings: how steady what is seen is, and how frames are encoded.
        guidance: with which GIV frames are restored; of each pass, what is seen is smoothed by itself.
        on_frame: is told after each frame how many are done, and of how many (0: not known).

    Returns:
        What the result lacks, in words.

    Raises:
        OptionError: `tiling` or `guidance` does not fit the network.
        ImageError: the video cannot be read or written.
        ModuleNotFoundError: PyAV is not installed.
    """
    tiling.check(multiple)
    guidance.check(model)
    steady = [SteadyGIV(settings.smoothing) for _ in range(guidance.passes)]

    def change(frame: Frame) -> Tensor:
        image = frame.pixels[None]
        for of_pass in steady:
            image = restored(image, frame.seconds, of_pass)
        if on_frame is not None:
            on_frame(frame.number + 1, frame.count)
        return image[0]

    def restored(image: Tensor, seconds: float, of_pass: SteadyGIV) -> Tensor:
        if not isinstance(model, HairModel):
            return restore_tiled(model, image, tiling, multiple)
        hair = model

        def seen() -> Tensor:
            return of_pass(image, seconds, lambda: giv_of(hair, image, tiling, multiple))

        giv = guidance.applied(seen)
        return restore_tiled(hair, image, tiling, multiple, giv=seen() if giv is None else giv)

    return rewrite(source, target, change, crf=settings.crf)
