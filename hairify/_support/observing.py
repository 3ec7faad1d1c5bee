"""Running a network itself, not a copy, without a mark on its modes and buffers."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from hairify._support.comparing import Numbers
from hairify._support.modes import evaluation_mode
from hairify._support.torch_internals import own_buffers


@contextlib.contextmanager
def untouched_buffers(*networks: nn.Module) -> Iterator[None]:
    """After it, networks own the buffers that they owned before it, with the same numbers.

    Those are compared: many writes are not counted, that of BatchNorm among them. They are put back without a count,
    which would stop a backward pass that is still to come.
    """
    owned = {module: dict(own_buffers(module)) for network in networks for module in network.modules()}
    found = {id(b): b for buffers in owned.values() for b in buffers.values() if b is not None}
    plain = [b for b in found.values() if Numbers.can_be_compared([b])]
    numbers = Numbers(plain)
    try:
        yield
    finally:
        for module, buffers in owned.items():
            now = own_buffers(module)
            if now.keys() != buffers.keys() or any(now[name] is not b for name, b in buffers.items()):
                now.clear()
                now.update(buffers)
        if not numbers.are_still_held(plain):
            numbers.restore()


@dataclass
class _Running:
    """The threads that observe a network, and what the last of them puts back."""

    threads: int
    marks: contextlib.ExitStack


class Observation:
    """Lets a network run in evaluation mode without a mark on it, in several threads at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[nn.Module, _Running] = {}

    @contextlib.contextmanager
    def __call__(self, network: nn.Module, *others: nn.Module) -> Iterator[None]:
        """Within it, all are in evaluation mode; after the last thread, modes and buffers are as before the first.

        What is compiled or exported runs in the mode in which it is; compilers see to buffers by themselves.

        Args:
            network: the network.
            others: parts that run with it.
        """
        if torch.compiler.is_compiling():
            yield
            return
        with self._lock:
            running = self._running.get(network)
            if running is None:
                running = self._running[network] = _Running(0, contextlib.ExitStack())
                running.marks.enter_context(untouched_buffers(network, *others))
                running.marks.enter_context(evaluation_mode(network, *others))
            running.threads += 1
        try:
            yield
        finally:
            with self._lock:
                running.threads -= 1
                if not running.threads:
                    del self._running[network]
                    running.marks.close()
