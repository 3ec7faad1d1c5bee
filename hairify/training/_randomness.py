"""The random numbers of a run: PyTorch's, numpy's and Python's own, for networks draw from any of them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

from hairify._support.randomness import seed_device


def seed_all(seed: int, device: torch.device) -> None:
    """Seed PyTorch on the CPU and a run's device, numpy and Python.

    Other devices have other work, whose random numbers are none of the run's: `torch.manual_seed` would seed them, too.

    Args:
        seed: from 0 to below 2⁶⁴.
        device: that of the run.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        seed_device(device, seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextlib.contextmanager
def forked_random_state(device: torch.device) -> Iterator[None]:
    """Within it, random numbers may be drawn, and seeds set; after it, the random state is as before."""
    of_device = [] if device.type == "cpu" else [device]
    states = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=of_device, device_type=device.type if of_device else "cuda"):
        try:
            yield
        finally:
            np.random.set_state(states[0])
            random.setstate(states[1])
