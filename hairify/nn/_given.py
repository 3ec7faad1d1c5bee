"""GIVs given for a time, by `conditioned_on`: they hold for the code that gave them, and end with its block."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import sys
import threading
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from hairify._support.torch_internals import backward_pass, checkpointed_call, in_function_transform
from hairify.errors import GIVError
from hairify.nn._caching import WeightCache

T = TypeVar("T")

_innermost: ContextVar[Given | None] = ContextVar("hairify_given")
_numbers = itertools.count()


@dataclass(eq=False)
class Given:
    """A GIV given for the time of a block."""

    giv: Tensor
    owner: str = ""
    """Key of the `GivenGIVs` that it was given to."""
    outer: Given | None = None
    """What was given around it, to whichever model."""
    generator: FrameType | None = None
    """The generator that gave it, if one did."""
    is_open: bool = True
    """Whether its block has not ended; copies of the context in which it was given may know it for longer."""
    within_backward: int = field(default_factory=backward_pass)
    """Number of the backward pass within which it was given, -1 where in none."""
    within_checkpoint: int | None = field(default_factory=checkpointed_call)
    """The call of a checkpointed function within which it was given."""
    _caches: dict[int, WeightCache] = field(default_factory=dict)
    """One for each thread, which may use a CUDA stream of its own; compilers cannot follow them and have none."""

    def holds(self) -> bool:
        """Whether forwards use it: its block is open, and the generator that gave it is not halted at a `yield`."""
        return self.is_open and (self.generator is None or isinstance(self.generator.f_back, FrameType))

    def end(self) -> None:
        """Its block has ended; what is kept for it goes."""
        self.is_open, self._caches = False, {}

    def cache(self, hsn: nn.Module, boxes: nn.Module) -> WeightCache | None:
        """What keeps that which is made for the GIV; None where it must be made anew, as where it gets gradients.

        A CUDA graph replays what it captured when nothing is kept any more, so that it has to make all by itself.
        """
        may_be_kept = (
            self.giv.shape[0] == 1
            and not torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and not in_function_transform()
            and not (self.giv.is_cuda and torch.cuda.is_current_stream_capturing())
        )
        if not may_be_kept:
            return None
        cache = self._caches.setdefault(threading.get_ident(), WeightCache())
        return cache if cache.refresh(hsn, boxes) else None


class _Visible:
    """The context variable in a form that compilers follow.

    They call no method of a context variable. But a property whose getter is written in C is a value to them, which
    they look up again before each run of a program. The getter gets this object, as the value where there is none.
    """

    current: Any = property(_innermost.get)
    owner = ""  # as of a `Given` of no model
    outer = None


class _Local(threading.local):
    """What belongs to one thread."""

    def __init__(self) -> None:  # runs in each thread; compilers compile anew once an absent attribute appears
        self.in_program: Given | None = None


class GivenGIVs:
    """The GIVs that are given to one model, each visible to the code that gave it: a thread, a task, a generator."""

    def __init__(self) -> None:
        self.key = str(next(_numbers))  # compilers check equal strings, but not that two objects are different ones
        self.local = _Local()
        self._visible = _Visible()

    def current(self) -> Given | None:
        """The one that a forward uses here."""
        if self.local.in_program is not None:
            return self.local.in_program
        found, given = None, self._visible.current
        while given is not None:
            if given.owner == self.key and given.holds() and (found is None or _is_nearer(given, found)):
                found = given
            given = given.outer
        return found


def _is_nearer(given: Given, later: Given) -> bool:
    """Whether a GIV is that of the code that runs, and not another one that was given later.

    So it is where a generator gave it, which runs again within a block of its consumer.

    Raises:
        GIVError: a program is compiled, and two generators that gave GIVs run, of which one consumes the other.
    """
    one, other = given.generator, later.generator
    if one is None or one is other:
        return False
    if other is None:
        return True
    if torch.compiler.is_compiling():
        raise GIVError(
            "A compiled HairModel runs in a generator that was given a GIV and is consumed by another one that was, "
            "too; whose it is, programs cannot tell. Do not compile it, or enter `conditioned_on` in functions that "
            "the generators call, around the forwards alone."
        )
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame is not one and frame is not other:
        frame = frame.f_back
    return frame is one


class GivenBlock(contextlib.ContextDecorator, Generic[T]):
    """A context manager within which a model uses a given GIV.

    Args:
        givens: of the model.
        giv: shape (B, D).
        result: what the `with` statement returns.
    """

    def __init__(self, givens: GivenGIVs, giv: Tensor, result: T) -> None:
        self._givens, self._giv, self._result = givens, giv, result
        self._given: Given | None = None
        self._before: Given | None = None
        self._in_program = False

    def __enter__(self) -> T:
        if self._given is not None:
            raise GIVError("This block of `conditioned_on` was entered before. Call `conditioned_on` for each block.")
        giv = self._giv.clone()  # what its owner writes into it later is not meant
        if torch.compiler.is_compiling():  # a program runs from the start of its blocks to their ends without a halt
            self._in_program = True
            self._given, self._before = Given(giv), self._givens.local.in_program
            self._givens.local.in_program = self._given
        else:
            generator = _generator_around(sys._getframe(1))
            self._given = Given(giv, self._givens.key, _innermost.get(None), generator)
            _innermost.set(self._given)
        return self._result

    def __exit__(self, *error: object) -> None:
        if self._in_program:
            self._givens.local.in_program = self._before
            return
        assert self._given is not None
        self._given.end()  # wherever it is known: blocks may end in another order, or context, than they began
        given = _innermost.get(None)
        while given is not None and not given.is_open:
            given = given.outer
        _innermost.set(given)

    def _recreate_cm(self) -> GivenBlock[T]:
        """For each call of a function that it decorates."""
        return GivenBlock(self._givens, self._giv, self._result)


_LIBRARY = vars(contextlib)
_ENTERING = ("__enter__", "__aenter__")


def _generator_around(frame: FrameType | None) -> FrameType | None:
    """The innermost generator within which a frame runs, None outside of any.

    Generators that `contextlib` makes context managers of do not count: they yield to the block that they are for.

    Raises:
        GIVError: the frame is an asynchronous generator, of which cannot be told whether it waits or has yielded.
    """
    enters = True  # whether the frame gives the GIV itself, or by a context manager
    while frame is not None:
        flags, caller = frame.f_code.co_flags, frame.f_back
        if caller is None or caller.f_globals is not _LIBRARY:
            if enters and flags & inspect.CO_ASYNC_GENERATOR:
                raise GIVError(
                    f"`conditioned_on` was entered in the asynchronous generator {frame.f_code.co_name!r} "
                    f"({frame.f_code.co_filename}:{frame.f_lineno}), whose consumer would be conditioned, too. Enter "
                    "it in a function that the generator calls or awaits, around the forwards alone."
                )
            if flags & inspect.CO_GENERATOR and not flags & inspect.CO_ITERABLE_COROUTINE:
                return frame
            enters = enters and (frame.f_globals is _LIBRARY or frame.f_code.co_name in _ENTERING)
        frame = caller
    return None
