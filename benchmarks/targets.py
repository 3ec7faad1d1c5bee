"""What is asked of a converted network, beside what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.measure import Result


@dataclass(frozen=True)
class Verdict:
    """One number asked for.

    Attributes:
        case: in which it was measured.
        quantity: what it is.
        limit: asked.
        value: measured.
        at_least: whether more is better.
    """

    case: str
    quantity: str
    limit: float
    value: float
    at_least: bool = False

    @property
    def is_reached(self) -> bool:
        """Whether the value is within the limit."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(frozen=True)
class Limits:
    """Ratios to the unconverted network.

    Attributes:
        time: by mode and batch.
        memory: peak of a training step with eight images.
        baked: of the baked network's forward.
    """

    time: dict[tuple[str, int], float]
    memory: float
    baked: float = 1.01


RESTORMER = Limits({("forward", 1): 1.03, ("forward", 8): 0.90, ("training", 8): 1.05}, memory=1.10)
OTHERS = Limits({("forward", 1): 1.05, ("forward", 8): 1.05, ("training", 8): 1.15}, memory=1.15)

# How much faster at eight images than with grouped convolutions throughout.
OVER_GROUPED = 1.25

# From here on the deepest maps are of 16×16 at least; less is beside its lower bound only.
_LEAST_SIZE = 128


def verdicts(results: Sequence[Result]) -> list[Verdict]:
    """Whether targets are met, for each target on which the results allow a verdict."""
    return [verdict for result in results if _counts(result) for verdict in _verdicts(result)]


def _counts(result: Result) -> bool:
    case = result.case
    if result.skipped is not None or not case.is_usual or case.size < _LEAST_SIZE or case.network.startswith("tiny"):
        return False
    if not case.network.startswith("restormer"):
        return True
    return case.size == _LEAST_SIZE and case.network == ("restormer-48" if case.mode == "forward" else "restormer-24")


def _verdicts(result: Result) -> Iterator[Verdict]:
    case = result.case
    limits = RESTORMER if case.network.startswith("restormer") else OTHERS
    limit = limits.time.get((case.mode, case.batch))
    if limit is not None:
        yield Verdict(case.name, "hairified, time", limit, statistics.median(result.ratios("hairified")))
    if case.batch == 8 and "grouped" in result.seconds:
        times = statistics.median(result.ratios("grouped", to="hairified"))
        yield Verdict(case.name, "times as fast as grouped", OVER_GROUPED, times, at_least=True)
    memory = result.memory_ratio("hairified")
    if case.mode == "training" and case.batch == 8 and memory is not None:
        yield Verdict(case.name, "hairified, peak memory", limits.memory, memory)
    if "baked" in result.seconds:
        yield Verdict(case.name, "baked, time", limits.baked, statistics.median(result.ratios("baked")))
