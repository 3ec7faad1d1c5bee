"""Activation checkpointing of the blocks: activations and generated weights are made again in the backward pass."""

from __future__ import annotations

from collections.abc import Iterable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hairify._support.nested import tensors
from hairify._support.torch_internals import version
from hairify.errors import RecomputationError
from hairify.nn._context import ForwardContext, RunningForward
from hairify.nn._twins import twin_with_buffers


def checkpoint_blocks(base: nn.Module, context: ForwardContext, blocks: Iterable[str]) -> None:
    """Checkpoint the named blocks of a HairModel's base; those within another of them alone, which is finer.

    Raises:
        RecomputationError: a block cannot be run on buffers other than its own.
    """
    names = list(blocks)
    chosen = {
        name: base.get_submodule(name) for name in names if not any(other.startswith(f"{name}.") for other in names)
    }
    for name, block in chosen.items():
        replaced = block.__dict__.get("forward")
        own = replaced is None or isinstance(replaced, _CheckpointedForward) or _is_method_of(block, replaced)
        if not own and any(True for _ in block.buffers()):
            raise RecomputationError(
                f"The forward of the block '{name}', which has buffers, was replaced on the instance by {replaced!r}, "
                "so the block cannot be run again on the buffers that it started from. Make that a method of the block "
                "(`types.MethodType(function, block)`), or do without `checkpoint_blocks`."
            )
    context.makes_ahead = False
    for name, block in chosen.items():
        if not isinstance(block.__dict__.get("forward"), _CheckpointedForward):
            block.__dict__["forward"] = _CheckpointedForward(block, name, context)


def is_checkpointed(base: nn.Module) -> bool:
    """Whether any block is."""
    return any(isinstance(module.__dict__.get("forward"), _CheckpointedForward) for module in base.modules())


def stop_checkpointing(base: nn.Module, context: ForwardContext) -> None:
    """Undo `checkpoint_blocks`."""
    context.makes_ahead = True
    for module in base.modules():
        forward = module.__dict__.get("forward")
        if isinstance(forward, _CheckpointedForward) and forward.context is context:
            del module.__dict__["forward"]
            module.__dict__.update(forward.replaced)


class _CheckpointedForward:
    """Stands on a block in place of its forward. An object, not a closure: a copy of it belongs to the block's copy.

    The forward goes through the checkpoint as an argument. So the second run uses the selecting vectors of its own
    first run, whatever forwards came in between and in whichever thread the backward pass runs.

    Args:
        block: the block.
        name: its name in the base, for messages.
        context: that of its HairModel.
    """

    def __init__(self, block: nn.Module, name: str, context: ForwardContext) -> None:
        self.block, self.name, self.context = block, name, context
        self.replaced = {k: v for k, v in block.__dict__.items() if k == "forward"}  # put there by others

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        running = self.context.running()
        if running is None or not running.selecting or not torch.is_grad_enabled():
            return self._plain(self.block, args, kwargs)
        # Compilers see to buffers and to writes in place by themselves, and trace no state.
        run = self.run if torch.compiler.is_compiling() else _Runs(self)
        return checkpoint(run, running, args, kwargs, use_reentrant=False)

    def run(
        self,
        forward: RunningForward,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        block: nn.Module | None = None,
    ) -> Any:
        """The block's own forward, on the block or a twin of it."""
        with self.context.resumed(forward):
            return self._plain(self.block if block is None else block, args, kwargs)

    def _plain(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        forward = self.replaced.get("forward", MethodType(type(self.block).forward, self.block))
        if _is_method_of(self.block, forward):
            forward = MethodType(forward.__func__, block)
        return forward(*args, **kwargs)


class _Runs:
    """The runs of one call of a block: the first in the forward, the later ones in backward passes.

    Those start from the same buffers and inputs as the first, and leave the block's buffers alone: BatchNorm's must
    not move a second time.
    """

    def __init__(self, forward: _CheckpointedForward) -> None:
        self._forward = forward
        self._first = True
        self._versions: list[int] = []
        self._start = twin_with_buffers(forward.block)

    def __call__(self, forward: RunningForward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        inputs = tensors((args, kwargs))
        if not self._first:
            self._check(inputs)
            block = None if self._start is None else twin_with_buffers(self._start)
            return self._forward.run(forward, args, kwargs, block)
        self._first, self._versions = False, list(map(version, inputs))
        output = self._forward.run(forward, args, kwargs)
        self._check(inputs)
        return output

    def _check(self, inputs: list[Tensor]) -> None:
        if list(map(version, inputs)) != self._versions:
            raise RecomputationError(
                f"The input of the checkpointed block '{self._forward.name}' was written to in place, by the block "
                "(such as with `inplace=True`) or after it (such as with `x += block(x)`), so the block cannot be run "
                "again in the backward pass. Write to a new tensor there, or do without `checkpoint_blocks`."
            )


def _is_method_of(module: nn.Module, forward: Any) -> bool:
    return isinstance(forward, MethodType) and forward.__self__ is module
