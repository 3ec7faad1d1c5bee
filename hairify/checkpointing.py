"""Activation checkpointing of the blocks: activations and generated weights are made again in the backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hairify.scope import Hyper, Scope


def checkpoint_blocks(base: nn.Module, scope: Scope, blocks: Iterable[str]) -> None:
    """Checkpoint the named blocks of a HairModel's base; those within another of them alone, which is finer."""
    names = list(blocks)
    for name in names:
        block = base.get_submodule(name)
        holds_another = any(other.startswith(f"{name}.") for other in names)
        if not holds_another and not isinstance(block.__dict__.get("forward"), _CheckpointedForward):
            block.__dict__["forward"] = _CheckpointedForward(block, scope)


def stop_checkpointing(base: nn.Module, scope: Scope) -> None:
    """Undo `checkpoint_blocks`."""
    for module in base.modules():
        forward = module.__dict__.get("forward")
        if isinstance(forward, _CheckpointedForward) and forward.scope is scope:
            del module.__dict__["forward"]
            module.__dict__.update(forward.replaced)


class _CheckpointedForward:
    """Stands on a block in place of its forward. An object, not a closure: a copy of it belongs to the block's copy.

    The selecting vectors go through the checkpoint as arguments. So the second run uses those of its own first
    run, whatever forwards came in between and in whichever thread the backward pass runs.

    Args:
        block: the block.
        scope: that of its HairModel.
    """

    def __init__(self, block: nn.Module, scope: Scope) -> None:
        self.block, self.scope = block, scope
        self.replaced = {k: v for k, v in block.__dict__.items() if k == "forward"}  # put there by others

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        running = self.scope.running()
        if running is None or not running.selecting or not torch.is_grad_enabled():
            return self._plain(args, kwargs)
        contexts: Any = {} if torch.compiler.is_compiling() else {"context_fn": self._contexts}
        return checkpoint(self._run, running.hyper, running.selecting, args, kwargs, use_reentrant=False, **contexts)

    def _run(self, hyper: Hyper, selecting: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with self.scope.selected(hyper, selecting):
            return self._plain(args, kwargs)

    def _plain(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.replaced:
            return self.replaced["forward"](*args, **kwargs)
        return type(self.block).forward(self.block, *args, **kwargs)

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return contextlib.nullcontext(), _buffers_kept(self.block)


@contextlib.contextmanager
def _buffers_kept(block: nn.Module) -> Iterator[None]:
    """Within it the block works on copies of its buffers: the second run must not move BatchNorm's a second time."""
    owned = [(module, name, b) for module in block.modules() for name, b in module._buffers.items() if b is not None]
    for module, name, buffer in owned:
        module._buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for module, name, buffer in owned:
            module._buffers[name] = buffer
