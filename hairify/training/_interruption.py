"""Signals that ask a run to end."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_GRACE = 30.0  # seconds, in which the step under way gets its images


class Interruption:
    """Within it, SIGINT and SIGTERM only set `asked`. In threads other than the main one it does nothing.

    A launcher sends to each process what the terminal has sent already, so a second signal means no more than one.
    """

    asked = False

    def __enter__(self) -> Interruption:
        self._previous: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set by Python

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def outlive_signals(worker: int) -> None:
    """For processes that load images: signals to the whole group reach them too, but the step under way needs them.

    Ctrl-C means nothing to them. SIGTERM, by which PyTorch ends what does not end by itself, they survive for a while.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)


def _end_later(number: int, frame: FrameType | None) -> None:
    if not signal.getitimer(signal.ITIMER_REAL)[0]:
        signal.setitimer(signal.ITIMER_REAL, _GRACE)  # whose signal, SIGALRM, ends the process
