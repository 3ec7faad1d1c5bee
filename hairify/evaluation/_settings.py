"""What an evaluation measures, and on which of the images that were found."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from typing_extensions import Doc

from hairify.data.datasets import DataSettings, Task
from hairify.data.degradations import degradation
from hairify.errors import DataError, OptionError
from hairify.evaluation._protocols import PROTOCOLS, OnTop, Protocol
from hairify.restoring._tiling import TilingSettings

_TILE = 128  # half of what `hairify restore` takes: in a validation, optimizer and gradients lie in memory, too
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
        return dataclasses.replace(PROTOCOLS[self.protocol], border=self.border)

    def on(self, data: DataSettings) -> DataSettings:
        """Where test images are looked for: a setting puts its own noises on clean photographs, and nothing else."""
        return data if self.setting is None else dataclasses.replace(data, degradations=_NOISES)


@dataclass(frozen=True)
class Chosen:
    """The images that an evaluation measures.

    Attributes:
        tasks: in the order of the setting, or in which they were found.
        missing: test sets of the setting that were not found, by their usual names.
        stray: tasks that were found and are none of the setting's, or no pairs where something is put on top.
    """

    tasks: tuple[Task, ...]
    missing: tuple[str, ...] = ()
    stray: tuple[str, ...] = ()


def choose_tasks(tasks: Sequence[Task], evaluation: EvaluationSettings) -> Chosen:
    """What of the test images an evaluation measures.

    Args:
        tasks: that were found, by `EvaluationSettings.on`.
        evaluation: what is asked for.

    Raises:
        DataError: nothing of that is among them.
    """
    chosen = of_setting(tasks, evaluation.setting)
    if not chosen.tasks:
        raise DataError(
            f"No images of the setting {evaluation.setting!r}, which are {', '.join(chosen.missing)}: found "
            f"{', '.join(chosen.stray)}. Give folders of them as `test_data`."
        )
    if not evaluation.on_top:
        return chosen
    pairs = [task for task in chosen.tasks if task.degraded is not None and None not in task.degraded]
    if not pairs:
        raise DataError(
            "There are no pairs to put degradations on top of: found "
            f"{', '.join(task.name for task in chosen.tasks)}. On clean photographs, `degradations` puts several, such "
            "as 'haze+noise25'."
        )
    rest = tuple(task.name for task in chosen.tasks if task not in pairs)
    tasks = tuple(OnTop.of(task, name) for task in pairs for name in evaluation.on_top)
    return Chosen(tasks, chosen.missing, (*chosen.stray, *rest))


def of_setting(tasks: Sequence[Task], setting: str | None) -> Chosen:
    """The tasks of a setting, in its order; all, where there is none."""
    if setting is None:
        return Chosen(tuple(tasks))
    by_name = {task.name: task for task in tasks}
    found = [next((name for name in names if name in by_name), None) for names in SETTINGS[setting]]
    taken = [name for name in found if name is not None]
    missing = tuple(names[0] for names, name in zip(SETTINGS[setting], found, strict=True) if name is None)
    stray = tuple(name for name in by_name if name not in taken)
    return Chosen(tuple(by_name[name] for name in taken), missing, stray)


def tiling_for(multiple: int) -> TilingSettings:
    """Tiles that leave room for a training, as much larger as a network's sides, multiples of `multiple`, need."""
    usual = TilingSettings(tile=_TILE)
    tile = max(math.ceil(usual.tile / multiple), 2) * multiple
    return TilingSettings(tile=tile, overlap=min(usual.overlap, tile - multiple))
