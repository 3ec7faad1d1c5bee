"""Running a copy of a network without a mark on the process."""

from __future__ import annotations

import contextlib
import itertools
import random
import sys
from collections.abc import Iterator

import torch
from torch import nn

from hairify._support.memory import is_lack_of_memory
from hairify._support.precision import exact_on_cuda
from hairify._support.randomness import own_generators
from hairify._support.torch_internals import without_compiler

SEED = 0
"""Seed of the random numbers that a copy draws: the same in every run."""


def pass_on_lack_of_memory(error: Exception) -> None:
    """Raise an error again that says of the machine that it has no memory left, and nothing of the network.

    Raises:
        Exception: `error`, where it is such a one; any other is left to the caller.
    """
    if is_lack_of_memory(error):
        raise error


@contextlib.contextmanager
def isolated(model: nn.Module, seed: int = SEED) -> Iterator[None]:
    """Own random state, no autocast, inference mode or compiler, whatever the caller is in.

    It is for running a copy of a model. `seed` is that of all random numbers, also of numpy's and Python's.

    CUDA computes in full and always alike: where it may round to TF32, kernels that compute the same differ by more
    than rounding, and where it may sum in any order, a network seems to differ from run to run.
    """
    devices = {t.device for t in itertools.chain(model.parameters(), model.buffers())}
    accelerators = [d for d in devices if d.type not in ("cpu", "meta")]
    kinds = {d.type for d in devices} or {"cpu"}
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(without_compiler())
        for kind in kinds - {"meta"}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        if "cuda" in kinds:
            stack.enter_context(exact_on_cuda())
        stack.enter_context(own_generators(seed, accelerators))
        stack.enter_context(_python_randomness(seed))
        yield


@contextlib.contextmanager
def _python_randomness(seed: int) -> Iterator[None]:
    """Own random state also for `random`, and for numpy if it is in use; these have one for all threads."""
    numpy = sys.modules.get("numpy")
    states = random.getstate(), numpy.random.get_state() if numpy else None
    random.seed(seed)
    if numpy:
        numpy.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        if numpy:
            numpy.random.set_state(states[1])
