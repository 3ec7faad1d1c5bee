"""Patches that grow while a network is trained, as Restormer's do: their size, and how many a step takes."""

from __future__ import annotations

import itertools
import math
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from hairify.errors import OptionError


@dataclass(frozen=True)
class Stage:
    """Some steps in a row that take equal batches.

    Attributes:
        patch_size: side of their patches in pixels; None for that of the samples.
        batch_size: images in each step.
        share: of the run's steps, relative to the shares of the other stages.
    """

    patch_size: int | None
    batch_size: int
    share: float


def parse_stage(text: str) -> Stage:
    """A stage as settings have it: "128x64@92" are batches of 64 patches of 128² pixels, for a share of 92.

    Raises:
        OptionError: the text has another form, or a number is 0.
    """
    match = re.fullmatch(r"(\d+)x(\d+)@(\d+(?:\.\d+)?)", text.replace(" ", ""))
    if match is None or not all(float(number) for number in match.groups()):
        raise OptionError(
            f"`progression` has {text!r}; accepted are stages such as '128x64@92' (batches of 64 patches of 128² "
            "pixels, for 92 parts of the steps) with numbers above 0."
        )
    return Stage(int(match[1]), int(match[2]), float(match[3]))


class Batches:
    """Which samples each step of a run takes, and at which size.

    Args:
        stages: one or more, in order.
        steps: of the whole run.
    """

    def __init__(self, stages: Sequence[Stage], steps: int) -> None:
        self.stages = tuple(stages)
        total = sum(stage.share for stage in stages)
        # Where each stage ends, and how many samples have been taken by then.
        self._ends = [round(steps * share / total) for share in itertools.accumulate(s.share for s in stages)]
        lengths = [end - begin for begin, end in zip([0, *self._ends], self._ends, strict=False)]
        taken = itertools.accumulate(n * stage.batch_size for n, stage in zip(lengths, stages, strict=True))
        self._taken = [0, *taken]

    def stage(self, step: int) -> Stage:
        """That of a step, counted from 1."""
        return self.stages[self._index(step)]

    def first_sample(self, step: int) -> int:
        """Number of the first sample that a step takes."""
        index = self._index(step)
        begin = self._ends[index - 1] if index else 0
        return self._taken[index] + (step - 1 - begin) * self.stages[index].batch_size

    def micro_batches(self, step: int, process: int, processes: int, parts: int) -> list[list[tuple[int, int | None]]]:
        """What one process takes in a step: of each sample its number and the side of its patch.

        Args:
            step: counted from 1.
            process: from 0 on.
            processes: that share the step.
            parts: micro-batches of each process.
        """
        stage = self.stage(step)
        size = stage.batch_size // (processes * parts)
        first = self.first_sample(step) + process * parts * size
        starts = (first + part * size for part in range(parts))
        return [[(index, stage.patch_size) for index in range(start, start + size)] for start in starts]

    def _index(self, step: int) -> int:
        return min(bisect_left(self._ends, step), len(self.stages) - 1)


def steps_for(stages: Sequence[Stage], images: int) -> int:
    """The fewest steps that take so many images."""
    mean = sum(stage.batch_size * stage.share for stage in stages) / sum(stage.share for stage in stages)
    return math.ceil(images / mean)
