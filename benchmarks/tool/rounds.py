"""Ours beside what it is compared with, by turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.measure import ratios, rotated, timed


@dataclass(frozen=True)
class Row:
    """One thing that was measured.

    Attributes:
        name: what it is.
        unit: what is done in the time, such as "steps".
        amount: how much of it is done in one call.
        ours: seconds of our calls.
        bare: seconds of what they are compared with, in the same rounds; none where there is nothing to compare with.
        aim: the least share of its speed that we aim at.
        more: further numbers, by name.
    """

    name: str
    unit: str
    amount: float
    ours: Sequence[float]
    bare: Sequence[float] = ()
    aim: float | None = None
    more: Mapping[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """How much we do in a second."""
        return self.amount / statistics.median(self.ours)

    @property
    def bare_rate(self) -> float | None:
        """How much is done without us."""
        return self.amount / statistics.median(self.bare) if self.bare else None

    @property
    def share(self) -> float | None:
        """Which share of the bare speed is ours: the median over the rounds."""
        return statistics.median(ratios(self.bare, self.ours)) if self.bare else None


def by_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each round, every round beginning with another one, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for turn in range(rounds):
        for name in rotated([*calls], turn):
            seconds[name].append(timed(calls[name], "cpu"))
    return seconds
