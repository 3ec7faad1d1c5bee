"""Random draws that leave the global random state alone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

# Forking the random state and patching by torch.fx concern the whole process.
ONE_AT_A_TIME = threading.RLock()


def cpu_generator(generator: torch.Generator | None) -> torch.Generator:
    """A CPU generator that follows `generator`, or without one the seed last given to `torch.manual_seed`."""
    if generator is None:
        return torch.Generator().manual_seed(torch.initial_seed())
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    return torch.Generator().manual_seed(int(seed))


@contextlib.contextmanager
def seeded(generator: torch.Generator) -> Iterator[None]:
    """Within it, modules are made on the CPU with random numbers that follow the CPU generator given."""
    seed = int(torch.randint(2**62, (), generator=generator, device="cpu"))
    with ONE_AT_A_TIME, torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would seed those of all devices
        yield


def seed_device(device: torch.device, seed: int) -> None:
    """Seed the generator of one accelerator, and of no other; `torch.manual_seed` seeds all."""
    state = torch.Generator(device).manual_seed(seed).get_state()
    torch.get_device_module(device).set_rng_state(state, device)
