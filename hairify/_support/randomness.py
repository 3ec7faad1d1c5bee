"""Random draws that leave the global random state alone."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from hairify._support.torch_internals import DispatchMode, draws, named_arguments, with_generator

# The random states of numpy and Python, and what torch.fx patches, are of the whole process.
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
    with ONE_AT_A_TIME, own_generators(seed), torch.device("cpu"):
        yield


@contextlib.contextmanager
def own_generators(seed: int, accelerators: Iterable[torch.device] = ()) -> Iterator[None]:
    """Within it, what draws from PyTorch's global generators in this thread draws from others, made with the seed.

    The global ones are not forked: what other threads draw from them meanwhile would be drawn again after it. They are
    put back only where what runs has seeded them itself.

    Args:
        seed: of the generators of all devices.
        accelerators: those whose generators are put back then, beside that of the CPU.
    """
    before = torch.default_generator.get_state(), torch.default_generator.initial_seed()
    elsewhere = [(device, random_state(device)) for device in accelerators]
    try:
        with _OwnGenerators(seed):
            yield
    finally:
        if _was_seeded_since(*before):
            torch.default_generator.set_state(before[0])
            for device, state in elsewhere:
                set_random_state(device, state)


def _was_seeded_since(state: Tensor, seed: int) -> bool:
    """Whether the CPU's global generator was seeded since it had this state and seed, and not only drawn from."""
    now, of_now = torch.default_generator.get_state(), torch.default_generator.initial_seed()
    fresh = torch.Generator().manual_seed(of_now).get_state()
    return not torch.equal(now, state) and (of_now != seed or torch.equal(now, fresh))


def seed_device(device: torch.device, seed: int) -> None:
    """Seed the global generator of one device, and of no other; `torch.manual_seed` seeds all."""
    set_random_state(device, torch.Generator(device).manual_seed(seed).get_state())


def random_state(device: torch.device) -> Tensor:
    """The state of a device's global generator."""
    module, of = _holder(device)
    state: Tensor = module.get_rng_state(*of)
    return state


def set_random_state(device: torch.device, state: Tensor) -> None:
    """Give the global generator of a device a state that it had."""
    module, of = _holder(device)
    module.set_rng_state(state, *of)


def _holder(device: torch.device) -> tuple[Any, tuple[torch.device, ...]]:
    """What has the state of a device's global generator, and what it wants to be told; of MPS there is one device."""
    module: Any = torch.random if device.type == "cpu" else torch.get_device_module(device)
    return module, () if device.type in ("cpu", "mps") else (device,)


class _OwnGenerators(DispatchMode):
    """Gives each operation that draws random numbers a generator, where it got none."""

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._of = functools.cache(lambda device: torch.Generator(device).manual_seed(seed))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not draws(func):
            return func(*args, **kwargs)
        given = named_arguments(func, args, kwargs)
        device = _device_of(given)
        if given.get("generator") is not None or device.type == "meta":
            return func(*args, **kwargs)
        if (taking := with_generator(func)) is not None:
            return taking(*args, **kwargs | {"generator": self._of(device)})
        if not any(given.get(name) for name in ("dropout_p", "dropout", "p")):  # attention that drops nothing
            return func(*args, **kwargs)
        # The fused dropout of CUDA takes no generator: for this call alone the global one has our state.
        own, before = self._of(device), random_state(device)
        set_random_state(device, own.get_state())
        try:
            return func(*args, **kwargs)
        finally:
            own.set_state(random_state(device))
            set_random_state(device, before)


def _device_of(given: Mapping[str, Any]) -> torch.device:
    """The device on which an operation with these arguments draws."""
    first = next((value for value in given.values() if isinstance(value, Tensor)), None)
    device = torch.device(given.get("device") or ("cpu" if first is None else first.device))
    if device.type in ("cpu", "meta", "mps") or device.index is not None:
        return device
    return torch.device(device.type, torch.get_device_module(device).current_device())
