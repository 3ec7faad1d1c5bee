"""The learning rate of each step: a warm-up, then two rates one after the other, or half a cosine between them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

ScheduleName = Literal["step", "cosine"]


@dataclass(frozen=True)
class Schedule:
    """A course of the learning rate, in steps.

    Attributes:
        name: "step" takes the first rate to the end of `falling_to`, then the final one. "cosine" takes the first one
            up to `falling_from`, comes down along half a cosine, and has the final one from `falling_to` on.
        first: the first rate.
        final: the final rate.
        warm_up: in these first steps the rate rises to what it would be, by equal amounts.
        falling_from: where the cosine begins; the warm-up's end where that is later.
        falling_to: where the final rate begins; after the run's end where the run is to end before.
    """

    name: ScheduleName
    first: float
    final: float
    warm_up: int
    falling_from: float
    falling_to: float

    def rate(self, step: int) -> float:
        """The rate of a step, counted from 1."""
        risen = min(1.0, step / self.warm_up) if self.warm_up else 1.0
        if self.name == "step":
            return risen * (self.first if step <= self.falling_to else self.final)
        begin = max(self.falling_from, self.warm_up)
        if step <= begin:
            return risen * self.first
        if step >= self.falling_to:
            return self.final
        gone = (step - begin) / (self.falling_to - begin)
        return self.final + (self.first - self.final) * (1 + math.cos(math.pi * gone)) / 2
