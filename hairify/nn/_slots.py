"""Where the layers of a block find their weights, for the time of one forward."""

from __future__ import annotations

import threading
from collections.abc import Callable

from hairify._support.torch_internals import backward_pass
from hairify.nn._boxes import BlockWeights


class BlockSlot(threading.local):
    """Where a block's layers find their weights, of the forward that runs in this thread.

    Each block has one of its own, which its layers hold. So a program that was compiled of one block reads, in another
    of the same kind, that one's weights: positions and names of blocks would be constants in it.

    Attributes:
        weights: None outside of forwards, and before the split has run.
        within_backward: number of the backward pass within which the forward started, -1 where in none.
    """

    def __init__(self) -> None:  # runs in each thread; compilers compile anew once an absent attribute appears
        self.weights: BlockWeights | None = None
        self.within_backward = -1

    def __reduce__(self) -> tuple[Callable[[], BlockSlot], tuple[()]]:
        return BlockSlot, ()

    def current(self) -> BlockWeights | None:
        """The weights; None where a backward pass runs a part of another forward again, too."""
        return self.weights if self.within_backward == backward_pass() else None
