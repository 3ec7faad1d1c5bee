"""The highest memory use of a process that a test starts."""

from __future__ import annotations

# Put before a program; `peak()` in it is how many bytes its process has had at most. On Linux, getrusage would also
# count what the process had that started this one: a test runner, which may have exported networks before.
PEAK = r"""
import re, sys
from pathlib import Path

def peak():
    if sys.platform == "linux":
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
"""
