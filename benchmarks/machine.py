"""On what was measured."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

import hairify
from hairify._support.processor import processor


@dataclass(frozen=True)
class Machine:
    """The machine and the versions."""

    processor: str
    cores: int
    threads: int
    memory_gib: float | None
    gpu: str | None
    system: str
    python: str
    torch: str
    hairify: str
    commit: str | None
    date: str

    def __str__(self) -> str:
        """The machine in one sentence, for people."""
        memory = "" if self.memory_gib is None else f", {self.memory_gib:.0f} GiB"
        gpu = "" if self.gpu is None else f", {self.gpu}"
        commit = "" if self.commit is None else f" ({self.commit})"
        return (
            f"{self.processor}, {self.cores} cores, {self.threads} threads{memory}{gpu}; {self.system}; "
            f"Python {self.python}, PyTorch {self.torch}, hairify {self.hairify}{commit}; {self.date}."
        )


def describe() -> Machine:
    """This one."""
    total = memory()
    return Machine(
        processor=processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        memory_gib=None if total is None else total / 2**30,
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        torch=torch.__version__,
        hairify=hairify.__version__,
        commit=_commit(),
        date=datetime.date.today().isoformat(),
    )


def memory() -> int | None:
    """Bytes of main memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _commit() -> str | None:
    """The commit that is checked out, marked where files were changed since."""
    try:
        words = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
        done = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip() or None
