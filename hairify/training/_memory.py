"""Lack of memory in training, and what takes less."""

from __future__ import annotations

from collections.abc import Sequence

from hairify.errors import TrainingError
from hairify.training._settings import TrainingSettings


def lack_of_memory(
    error: BaseException,
    settings: TrainingSettings,
    processes: int,
    batch_size: int,
    shape: Sequence[int],
    left: str,
) -> TrainingError:
    """An error with the sizes in force, and what to lower.

    Args:
        error: as PyTorch or Python has it.
        settings: the recipe.
        processes: that train together.
        batch_size: of the step.
        shape: of the images of one micro-batch, (B, 3, H, W).
        left: what is left of the run, in words.
    """
    height, width = shape[2:]
    images = settings.images_at_once(processes, batch_size)
    parts = processes * settings.accumulation
    shared = [stage.batch_size for stage in settings.stages()]  # a run can be resumed if all of them can be divided
    more = next((n for n in range(2, images + 1) if all(size % (parts * n) == 0 for size in shared)), None)
    fewer = (
        f"`accumulation` {settings.accumulation * more} ({images // more} at once, and the same steps), "
        if more
        else ""
    )
    blocks = "" if settings.checkpoint_blocks else "`checkpoint_blocks` (of a converted network: more time), "
    precision = "`mixed_precision` 'bf16', " if settings.mixed_precision == "no" else ""
    shards = "`fsdp`, " if processes > 1 and not settings.fsdp else ""
    in_force = f"`batch_size` {batch_size}"
    smaller = "a smaller `patch_size` or `batch_size`"
    if settings.progression:
        in_force = f"batches of {batch_size} by `progression`"
        smaller = "another `progression`"
    return TrainingError(
        f"There is not enough memory for a step: {str(error).rstrip('.')}. In force are {in_force} over "
        f"{processes} process(es) and `accumulation` {settings.accumulation}, which makes "
        f"{images} patch(es) of {width}×{height} pixels at once, with `mixed_precision` {settings.mixed_precision!r} "
        f"and `checkpoint_blocks` {'on' if settings.checkpoint_blocks else 'off'}. {left} "
        f"Less memory take {fewer}{blocks}{precision}{shards}with which a run can be resumed, too; and in a new run, "
        f"{smaller}."
    )
