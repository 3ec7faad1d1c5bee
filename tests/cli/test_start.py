"""What the command line imports before it has something to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hairify.cli._app import app

COMMANDS = [command.name for command in app.registered_commands]
HEAVY = ("PIL", "accelerate", "imagecodecs", "numpy", "safetensors", "skimage", "torch")


def imported(*words: str) -> tuple[int, list[str]]:
    """The exit status of a command, and which of the heavy packages it imported."""
    code = (
        "import contextlib, io, sys\n"
        "from hairify.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        f"    status = main({[*words]!r})\n"
        f"print(status, *sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    status, *found = done.stdout.split()
    return int(status), found


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_imports_no_pytorch(words: list[str]) -> None:
    assert imported(*words) == (0, [])


@pytest.mark.parametrize(
    "words",
    [
        ["nothing"],
        ["plan", "--unknown", "1"],
        ["train", "--data", "photographs"],  # without --output
        ["train", "--output", "run", "--steps", "many"],
        ["train", "--output", "run", "--recipe", "none"],
        ["train", "--output", "run", "--config", "none.toml"],
        ["plan", "--network", "res_hair", "--no-convert"],
        ["restore", "picture.png", "--model", "run", "--output", "restored", "--quality", "0"],
    ],
    ids=" ".join,
)
def test_options_that_are_not_accepted_are_told_without_pytorch(words: list[str]) -> None:
    assert imported(*words) == (2, [])


def test_recipes_need_no_pytorch() -> None:
    assert imported("recipes") == (0, [])


# Where a map of 64 MiB lies, and what the system was asked for there.
LARGE_MAP = """
import sys
words, sys.argv[1:] = sys.argv[1:], ["recipes"]
from hairify.cli import main
main(*map(str.split, words))
import torch
held = torch.empty(2**24)
place = held.data_ptr() + 2**25
for line in open("/proc/self/smaps"):
    first, _, rest = line.partition(" ")
    if "-" in first:
        start, _, end = first.partition("-")
        inside = int(start, 16) <= place < int(end, 16)
    elif first == "VmFlags:" and inside:
        print("hg" in rest.split())
"""
ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not ENABLED.exists() or "[madvise]" not in ENABLED.read_text(), reason="this system gives no large pages on demand"
)
def test_the_command_asks_for_large_pages_unless_the_user_says_otherwise() -> None:
    def asked(*words: str, **variables: str) -> str:
        ours = ("THP_MEM_ALLOC_ENABLE", "LD_PRELOAD", "GLIBC_TUNABLES")
        usual = {k: v for k, v in os.environ.items() if k not in ours and not k.startswith("MALLOC_")}
        command = [sys.executable, "-c", LARGE_MAP, *words]
        done = subprocess.run(command, env=usual | variables, capture_output=True, text=True, check=True)
        return done.stdout.split()[-1]

    assert asked() == "True"
    assert asked(THP_MEM_ALLOC_ENABLE="0") == "False"
    assert asked("recipes") == "False"  # called with words by another program, whose environment it is
