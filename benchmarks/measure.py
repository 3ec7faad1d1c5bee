"""Measuring a case: its variants one after another in each round, each round beginning with another one."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

import torch
from torch import Tensor

from benchmarks import launches, memory, shares
from benchmarks.cases import Case, Variant
from benchmarks.variants import Pair, Runner, runners
from hairify import HairModel

LEAST_ROUNDS = 3

T = TypeVar("T")


@dataclass(frozen=True)
class Effort:
    """How long to measure each case: until either is reached, but `LEAST_ROUNDS` at least.

    Attributes:
        rounds: at most.
        seconds: of the rounds together.
        least: seconds of one measurement; a quicker call is repeated.
    """

    rounds: int = 15
    seconds: float = 8.0
    least: float = 0.05


@dataclass
class Result:
    """What a case gave.

    Attributes:
        case: the case that was measured.
        seconds: of one call, by variant and round.
        peak: bytes by which memory rose in one call, by variant; None where it cannot be measured.
        held: bytes of parameters and buffers, by variant.
        tuning: what was chosen by measurement, for the variant that goes by it.
        launches: what runs on a GPU in one call, by variant; empty on the CPU.
        generation: seconds for the weights of all hyper layers alone.
        classifier: seconds for the DAC alone.
        work: multiplications of one forward.
        skipped: why it was not measured.
    """

    case: Case
    seconds: dict[Variant, list[float]] = field(default_factory=dict)
    peak: dict[Variant, int | None] = field(default_factory=dict)
    held: dict[Variant, int] = field(default_factory=dict)
    launches: dict[Variant, launches.Launches] = field(default_factory=dict)
    tuning: str | None = None
    generation: float | None = None
    classifier: float | None = None
    work: shares.Work | None = None
    skipped: str | None = None

    def ratios(self, variant: Variant, to: Variant = "static") -> list[float]:
        """How many times as long as `to` a variant took, in each round."""
        return ratios(self.seconds[variant], self.seconds[to])

    def median(self, variant: Variant) -> float:
        """Median time of one call in seconds."""
        return statistics.median(self.seconds[variant])

    def memory_ratio(self, variant: Variant, to: Variant = "static") -> float | None:
        """How many times as much memory as `to` a variant takes: parameters, and the rise beyond, together."""
        ours, theirs = self.peak.get(variant), self.peak.get(to)
        if ours is None or theirs is None:
            return None
        return (ours + self.held[variant]) / (theirs + self.held[to])


def ratios(times: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Round by round: what slows the machine for a while slows both."""
    return [a / b for a, b in zip(times, reference, strict=True)]


def rotated(variants: Sequence[T], by: int) -> list[T]:
    """Beginning with another one."""
    by %= len(variants)
    return [*variants[by:], *variants[:by]]


def measure(case: Case, pair: Pair, effort: Effort) -> Result:
    """All of a case. Running out of memory on a GPU is a result, too."""
    torch.manual_seed(0)
    result = Result(case)
    images = torch.rand(case.batch, 3, case.size, case.size, device=case.device)
    try:
        with runners(case, pair, images) as made:
            repeats = _warm_up(made, case.device, effort.least)
            result.seconds = _rounds(made, repeats, case.device, effort)
            gc.collect()
            for variant, runner in made.items():
                with runner.within():
                    result.peak[variant] = memory.peak(runner.run, case.device)
                    if case.device == "cuda":
                        result.launches[variant] = launches.of(runner.run)
                result.held[variant] = memory.held(runner.model)
            if "tuned" in made:
                result.tuning = str(cast(HairModel, made["tuned"].model).tuning)
        _measure_shares(result, pair, images)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return Result(case, skipped="out of memory")
    return result


def _warm_up(made: Mapping[Variant, Runner], device: str, least: float) -> int:
    """Run each once unmeasured. Returns how often calls are repeated for one measurement."""
    quickest = math.inf
    for runner in made.values():
        with runner.within():
            first = timed(runner.run, device)
            if first < 1 or device == "cuda":  # the first call of all may compile or choose an algorithm
                quickest = min(quickest, timed(runner.run, device))
    return 1 if math.isinf(quickest) else max(1, math.ceil(least / quickest))


def _rounds(made: Mapping[Variant, Runner], repeats: int, device: str, effort: Effort) -> dict[Variant, list[float]]:
    seconds: dict[Variant, list[float]] = {variant: [] for variant in made}
    start = time.perf_counter()
    for turn in range(max(LEAST_ROUNDS, effort.rounds)):
        if turn >= LEAST_ROUNDS and time.perf_counter() - start > effort.seconds:
            break
        for variant in rotated(list(made), turn):
            with made[variant].within():
                seconds[variant].append(timed(made[variant].run, device, repeats))
    return seconds


def timed(call: Callable[[], object], device: str, repeats: int = 1) -> float:
    """Seconds of one call."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def _measure_shares(result: Result, pair: Pair, images: Tensor) -> None:
    """The parts that conversion adds, each by itself, in their own precision also where the case is under autocast."""
    case = result.case
    pair.hair.eval()
    feature = shares.feature_of(pair.hair, images)
    with torch.no_grad():
        giv = pair.hair.dac(feature)
    result.generation = _median(shares.generator(pair.hair, giv), case.device)
    result.classifier = _median(shares.classifier(pair.hair, feature), case.device)
    result.work = shares.work(pair, images)


def _median(call: Callable[[], object], device: str) -> float:
    timed(call, device)
    return statistics.median(timed(call, device) for _ in range(5))
