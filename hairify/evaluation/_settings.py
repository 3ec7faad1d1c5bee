"""What an evaluation measures, as a user says it.

What brings PyTorch is imported where it is used: the help of the command line reads the settings, and is quick.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from typing_extensions import Doc

from hairify.data._settings import DataSettings
from hairify.errors import DataError, OptionError

if TYPE_CHECKING:
    from hairify.evaluation._protocols import Protocol

TILE_ABOVE = 2.0
"""Megapixels up to which images are restored whole: all of the field's test sets."""

_NOISES = ("noise15", "noise25", "noise50")
_BSD68 = tuple((f"BSD68 {noise}", f"CBSD68 {noise}") for noise in _NOISES)
_RAIN, _HAZE = ("Rain100L",), ("SOTS",)
SETTINGS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "3-task": (_HAZE, _RAIN, *_BSD68),
    "5-task": (_HAZE, _RAIN, _BSD68[1], ("GoPro",), ("LOL-v1",)),
    "denoise": tuple((f"Urban100 {noise}",) for noise in _NOISES),
    "derain": (_RAIN,),
    "dehaze": (_HAZE,),
}
"""The test sets of the paper's Tables 1, 2 and 3 (c), (b), (a), in their order: tasks, each by any of its names."""


@dataclass(frozen=True)
class EvaluationSettings:
    """How restored images are measured.

    Raises:
        OptionError: a value is not accepted, or a degradation is not known.
    """

    protocol: Annotated[
        Literal["hairify", "promptir", "derain"],
        Doc(
            "hairify: whole RGB images; promptir: crops to multiples of 16, and noise as in published code; derain: Y "
            "in 8 bits, with the SSIM of MATLAB"
        ),
    ] = "hairify"
    setting: Annotated[
        Literal["3-task", "5-task", "denoise", "derain", "dehaze"] | None,
        Doc("the test sets of one of the paper's settings, and no others; by default all that are found"),
    ] = None
    metrics: Annotated[
        tuple[str, ...], Doc("further ones, of torchmetrics or pyiqa where installed, such as lpips,dists,niqe")
    ] = ()
    on_top: Annotated[
        tuple[str, ...],
        Doc("degradations, each put on top of the degraded images of pairs, such as noise25; nothing else is measured"),
    ] = ()
    border: Annotated[int, Doc("pixels at each side that are not compared")] = 0
    tile_above: Annotated[
        float, Doc("megapixels above which an image is restored in tiles that share the weights of one GIV")
    ] = TILE_ABOVE
    evaluation_seed: Annotated[int, Doc("of degradations that are synthesised")] = 0

    def __post_init__(self) -> None:
        from hairify.data.degradations import degradation
        from hairify.evaluation._protocols import PROTOCOLS

        for name, known in (("protocol", PROTOCOLS), ("setting", SETTINGS)):
            value = getattr(self, name)
            if value is not None and value not in known:
                raise OptionError(f"`{name}` is {value!r}; accepted are {', '.join(known)}.")
        for name in ("border", "evaluation_seed"):
            if not 0 <= getattr(self, name) < 2**32:
                raise OptionError(f"`{name}` is {getattr(self, name)}; accepted are 0, 1, 2, ....")
        if not self.tile_above >= 0:
            raise OptionError(f"`tile_above` is {self.tile_above}; accepted are 0 and positive numbers.")
        for field in ("metrics", "on_top"):
            names = getattr(self, field)
            if len(set(names)) < len(names):
                raise OptionError(f"`{field}` is {', '.join(names)}; name each once.")
        for name in self.on_top:
            try:
                degradation(name)
            except DataError as error:
                raise OptionError(f"`on_top` has {name!r}. {error}") from error

    @property
    def measured(self) -> Protocol:
        """The protocol, with the border that is left out."""
        from hairify.evaluation._protocols import PROTOCOLS

        return dataclasses.replace(PROTOCOLS[self.protocol], border=self.border)

    def on(self, data: DataSettings) -> DataSettings:
        """Where test images are looked for: a setting puts its own noises on clean photographs, and nothing else."""
        return data if self.setting is None else dataclasses.replace(data, degradations=_NOISES)
