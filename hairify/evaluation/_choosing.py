"""Which of the images that were found an evaluation measures, and in which tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hairify.data.datasets import Task
from hairify.errors import DataError
from hairify.evaluation._protocols import OnTop
from hairify.evaluation._settings import SETTINGS, EvaluationSettings
from hairify.restoring._settings import TilingSettings

_TILE = 128  # half of what `hairify restore` takes: in a validation, optimizer and gradients lie in memory, too


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
