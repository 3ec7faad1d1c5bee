"""The time there is."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType


class OutOfTimeError(Exception):
    """What ran has not ended within its time."""


class Clock:
    """Tells how much time is left of so many minutes."""

    def __init__(self, minutes: float) -> None:
        self._start, self._seconds = time.perf_counter(), 60 * minutes

    @property
    def gone(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    @property
    def left(self) -> float:
        """Seconds; below 0 when the time is over."""
        return self._seconds - self.gone


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Within it, Python code that takes longer is broken off.

    Raises:
        OutOfTimeError: it was.
    """

    def ring(number: int, frame: FrameType | None) -> None:
        raise OutOfTimeError(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
