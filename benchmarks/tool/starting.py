"""Seconds until a command has told what it can do."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.tool.rounds import Row, by_turns

AIM = 1.0
"""Seconds."""

COMMANDS: dict[str, list[str]] = {
    "hairify --help": ["-m", "hairify", "--help"],
    "hairify plan --help": ["-m", "hairify", "plan", "--help"],
    "hairify train --help": ["-m", "hairify", "train", "--help"],
    "hairify recipes": ["-m", "hairify", "recipes"],
    "python -c 'import torch'": ["-c", "import torch"],
}


def rows(rounds: int) -> Iterator[Row]:
    """Each command, and PyTorch beside them."""
    calls = {
        name: functools.partial(subprocess.run, [sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
        for name, words in COMMANDS.items()
    }
    for name, seconds in by_turns(calls, rounds).items():
        yield Row(name, "starts", 1, seconds)
