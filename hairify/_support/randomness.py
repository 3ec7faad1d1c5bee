"""Random draws that leave the global random state alone."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import torch
import torch.distributed

# Forking the random state and patching by torch.fx concern the whole process.
ONE_AT_A_TIME = threading.RLock()


def cpu_generator(generator: torch.Generator | None) -> torch.Generator:
    """A CPU generator that follows `generator`, or without one the seed last given to `torch.manual_seed`.

    Processes that train together often have seeds of their own, for their data, and must draw the same all the same.
    So without a generator they draw by a seed that all of them know.
    """
    if generator is None:
        return torch.Generator().manual_seed(0 if _is_one_of_many() else torch.initial_seed())
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    return torch.Generator().manual_seed(int(seed))


def _is_one_of_many() -> bool:
    """Whether this process trains with others, in a process group or started by `torchrun`, which may make it later."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size() > 1
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


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
