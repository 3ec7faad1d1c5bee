"""The tests on a GPU, in a process of their own."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_PATIENCE = 30  # seconds for pytest to end by itself
_WORKERS = 6  # of pytest-xdist, where it is installed


def _heed_interrupts() -> None:
    """What shells start in the background is told to ignore them, and its children with it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class RunningTests:
    """Started when made.

    Args:
        device: "cuda", or "cpu" to try the tests themselves.
        log: file for what pytest says.
        seconds: after which it is ended.

    Attributes:
        status: that of pytest, once it was waited for; 1 where it was ended.
    """

    def __init__(self, device: str, log: Path, seconds: float) -> None:
        self._log, self._until, self.status = log, time.perf_counter() + seconds, 1
        words = [sys.executable, "-m", "pytest", "tests/cuda", "-v", "--tb=short", "--durations=15"]
        words += ["-p", "no:cacheprovider"]
        if importlib.util.find_spec("xdist") is not None:
            words += ["-n", str(_WORKERS), "--dist", "worksteal"]
        environment = os.environ | {"HAIRIFY_TEST_DEVICE": device}
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                words,
                cwd=_ROOT,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_heed_interrupts,
            )

    def wait(self) -> str:
        """How it ended, in a line, and the names of the tests that failed."""
        try:
            self.status = self._process.wait(max(0.0, self._until - time.perf_counter()))
        except subprocess.TimeoutExpired:
            self._end()
            return "\n".join([f"ended for lack of time; see {self._log}", *self._failed()])
        return "\n".join([(self._lines() or ["no output"])[-1].strip("= "), *self._failed()])

    def _end(self) -> None:
        self._process.send_signal(signal.SIGINT)  # so that pytest tells what has failed by then
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its workers, too
        self._process.wait()

    def _lines(self) -> list[str]:
        return self._log.read_text(encoding="utf-8", errors="replace").splitlines()

    def _failed(self) -> list[str]:
        return [line[:200] for line in self._lines() if re.match(r"(FAILED|ERROR) ", line)]
