"""A contact sheet: patches as a network would be given them, degraded beside clean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
from PIL import ImageDraw, ImageFont
from torch import Tensor

from hairify.data.datasets import Task
from hairify.data.samples import TrainingSamples
from hairify.errors import DataError

_GAP = 8  # pixels around each pair
_LINE = 16  # pixels of height for a line of text
_LETTER = 6  # pixels of width for a letter, at most


def contact_sheet(tasks: Sequence[Task], patch_size: int, *, columns: int = 4, seed: int = 0) -> PIL.Image.Image:
    """Random patches of each task, a row for each: the degraded one at the left, the clean one at the right.

    Args:
        tasks: from `training_tasks` or `test_tasks`.
        patch_size: the side of a patch in pixels.
        columns: how many pairs each task shows.
        seed: of the patches and of what is synthesised.
    """
    width, height = 2 * patch_size + _GAP, patch_size + 2 * _LINE + _GAP
    sheet = PIL.Image.new("RGB", (_GAP + columns * (width + _GAP), _GAP + len(tasks) * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for row, task in enumerate(tasks):
        samples = TrainingSamples([task], patch_size, seed, cache_bytes=0)
        top = _GAP + row * height
        draw.text((_GAP, top), f"{task.name} ({task.count})", "black", font)
        for column in range(columns):
            left = _GAP + column * (width + _GAP)
            try:
                sample = samples[column]
            except DataError as error:
                draw.text((left, top + _LINE), str(error)[: columns * width // _LETTER], "red", font)
                break
            for offset, patch in ((0, sample["degraded"]), (patch_size + 1, sample["clean"])):
                sheet.paste(_picture(patch), (left + offset, top + _LINE))
            name = Path(sample["image"]).name.encode(errors="replace").decode()
            most = width // _LETTER
            draw.text(
                (left, top + _LINE + patch_size), name if len(name) <= most else f"…{name[1 - most :]}", "grey", font
            )
    return sheet


def _picture(patch: Tensor) -> PIL.Image.Image:
    return PIL.Image.fromarray((patch.permute(1, 2, 0) * 255).round().numpy().astype(np.uint8))
