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
    """

    case: str
    quantity: str
    limit: float
    value: float

    @property
    def is_reached(self) -> bool:
        """Whether the value is within the limit."""
        return self.value <= self.limit


@dataclass(frozen=True)
class Limits:
    """Ratios to the unconverted network.

    Attributes:
        time: by mode and batch.
        conditioned: of the forward of one image under a GIV.
        memory: peak of a training step with eight images.
        baked: of the baked network's forward.
    """

    time: dict[tuple[str, int], float]
    conditioned: float
    memory: float
    baked: float = 1.01


def _limits(one: float, eight: float, training: float, *others: float) -> Limits:
    return Limits({("forward", 1): one, ("forward", 8): eight, ("training", 8): training}, *others)


LIMITS = {
    "restormer": _limits(1.02, 0.92, 1.02, 1.00, 1.02),
    "nafnet": _limits(1.06, 1.06, 1.08, 1.02, 1.05),
    "swinir": _limits(1.06, 1.06, 1.08, 1.02, 1.05),
    "unet": _limits(1.12, 1.06, 1.08, 1.03, 1.10),
}
"""By network, whatever its size."""

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
    limits = LIMITS[case.network.partition("-")[0]]
    limit = limits.time.get((case.mode, case.batch))
    if limit is not None:
        yield Verdict(case.name, "hairified, time", limit, statistics.median(result.ratios("hairified")))
    if "conditioned" in result.seconds:
        ratio = statistics.median(result.ratios("conditioned"))
        yield Verdict(case.name, "conditioned, time", limits.conditioned, ratio)
    memory = result.memory_ratio("hairified")
    if case.mode == "training" and case.batch == 8 and memory is not None:
        yield Verdict(case.name, "hairified, peak memory", limits.memory, memory)
    if "baked" in result.seconds:
        yield Verdict(case.name, "baked, time", limits.baked, statistics.median(result.ratios("baked")))
