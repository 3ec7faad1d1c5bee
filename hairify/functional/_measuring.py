"""Which kernel is quickest for a layer is measured, where shapes do not tell.

a forward ── Recorder ──► cases ── tuned() ──► Tuning ── choice_for() ──► the kernels of later calls
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from hairify._support.memory import is_lack_of_memory, release_memory
from hairify._support.precision import full_precision
from hairify.functional._kernels import Case, Choice, Kernel, able, per_image, per_image_backward
from hairify.functional._tuning import Measured, Tuning

ONE_AT_A_TIME = threading.RLock()
"""Measurements in several threads would measure each other."""

Calls: TypeAlias = Mapping[Kernel, Callable[[], object]]

_ROUNDS = 5
_SECONDS_A_ROUND = 0.002
_TRIES = 2
_SECONDS_A_TRY = 0.1

# Of two kernels, the one that takes so many times as long at first is not measured again.
_FAR = 2.5

# The usual kernel is left for another only where that is clearly quicker: measurements are noisy.
_CLEARLY = 0.95


class Recorder:
    """Stands for a tuning while cases are gathered; leaves choices to the rules."""

    def __init__(self) -> None:
        self.cases: dict[Case, None] = {}

    def choice(self, case: Case) -> Choice | None:
        """None, for the rule."""
        self.cases[case] = None
        return None


def tuned(cases: Iterable[Case], device: torch.device, known: Tuning | None = None) -> Tuning:
    """Measure the kernels of each case on a device, forward and backward.

    Kernels that fail on it, or for which memory does not suffice, are left out, and so are cases whose tensors do not
    fit into memory once more. No random numbers are drawn.

    Args:
        cases: to be measured; those of a single weight, of other devices, or with a single kernel need not be.
        device: where.
        known: what was measured before; where that was on such a device, its choices stay as they are.
    """
    measured = dict(known.measured) if known is not None and known.fits(device) else {}
    if device.type == "meta":  # which computes nothing
        return Tuning.of_device(device, measured)
    # Whoever calls may use autocast; the cases say in which precision they are computed by it.
    with torch.inference_mode(False), torch.no_grad(), full_precision(device):
        for case in cases:
            if case in measured or case.batch < 2 or case.device != device.type or len(able(case)) < 2:
                continue
            if (found := _measured(case, device)) is not None:
                measured[case] = found
    return Tuning.of_device(device, measured)


def _measured(case: Case, device: torch.device) -> Measured | None:
    """What is found for one case; None where no kernel could be measured, or memory does not suffice."""
    by_rule, kernels = case.by_rule(), able(case)
    try:
        return _compared(case, device, by_rule, kernels)
    except (MemoryError, RuntimeError) as error:
        if not is_lack_of_memory(error):
            raise
    release_memory()  # behind the block, whose error holds what was made
    return None


def _compared(case: Case, device: torch.device, by_rule: Kernel, kernels: Sequence[Kernel]) -> Measured | None:
    """The quickest kernels for one case."""
    input, weight, generator = _tensors(case, device)
    forward = _times({k: _forward(case, input, weight, k) for k in kernels}, device)
    if not forward:
        return None
    chosen = _quickest(forward, by_rule)
    grad = torch.empty_like(_forward(case, input, weight, chosen)()).normal_(generator=generator)
    backward = _times({k: _backward(case, grad, input, weight, k) for k in kernels}, device)
    if not backward:
        return None
    # Gradients by the kernel of the forward are autograd's own; others take some more calls.
    return Measured(Choice(chosen, _quickest(backward, chosen)), by_rule, forward, backward)


def _forward(case: Case, input: Tensor, weight: Tensor, kernel: Kernel) -> Callable[[], Tensor]:
    return lambda: per_image(case.operation, input, weight, None, kernel)


def _backward(case: Case, grad: Tensor, input: Tensor, weight: Tensor, kernel: Kernel) -> Callable[[], object]:
    return lambda: per_image_backward(case.operation, grad, input, weight, (True, True, False), kernel)


def _tensors(case: Case, device: torch.device) -> tuple[Tensor, Tensor, torch.Generator]:
    """Input and weights of a case, of random numbers of its own."""
    generator = torch.Generator(device).manual_seed(0)
    input, weight = (
        torch.empty(shape, dtype=case.dtype, device=device).normal_(generator=generator)
        for shape in (case.input, (case.batch, *case.weight))
    )
    if case.channels_last:
        input = input.contiguous(memory_format=torch.channels_last)
    return input, weight, generator


def _times(calls: Calls, device: torch.device) -> dict[Kernel, float]:
    """Milliseconds of each call, the least of rounds in which they take turns: what else runs only adds to it.

    Those that are far behind at first take no part in the rounds; those that fail have no time.
    """
    best: dict[Kernel, float] = {}
    for kernel, call in calls.items():
        if (seconds := _tried(call, device)) is not None:
            best[kernel] = seconds
    near = [kernel for kernel in best if best[kernel] <= _FAR * min(best.values())]
    repeats = {kernel: max(1, int(_SECONDS_A_ROUND / max(best[kernel], 1e-6))) for kernel in near}
    for _, kernel in itertools.product(range(_ROUNDS), near):
        best[kernel] = min(best[kernel], _timed(calls[kernel], repeats[kernel], device))
    return {kernel: round(1000 * seconds, 4) for kernel, seconds in best.items()}


def _tried(call: Callable[[], object], device: torch.device) -> float | None:
    """Seconds of a call after the first, which may compile, or choose an algorithm; None where it fails."""
    try:
        _timed(call, 1, device)
        seconds = _timed(call, 1, device)
        for _ in range(_TRIES if seconds < _SECONDS_A_TRY else 0):  # a single short one may have been disturbed
            seconds = min(seconds, _timed(call, 1, device))
        return seconds
    except Exception as error:  # compilers of kernels have errors of all kinds, for devices and machines they lack
        lacking = is_lack_of_memory(error)
    if lacking:  # behind the block, whose error holds what the call had made
        release_memory()
    return None


def _timed(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    _wait(device)
    return (time.perf_counter() - start) / repeats


def _wait(device: torch.device) -> None:
    """Until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type not in ("cpu", "meta"):
        torch.get_device_module(device).synchronize()


def _quickest(times: Mapping[Kernel, float], usual: Kernel) -> Kernel:
    best = min(times, key=lambda kernel: times[kernel])
    return best if times[best] < _CLEARLY * times.get(usual, float("inf")) else usual
