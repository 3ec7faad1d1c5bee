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


# Maps of 64 MiB, one after another; says how many pages the system gave for each.
PAGES = """
import resource, sys
sys.argv[1:] = ["recipes"]
from hairify.cli import main
main()
import torch
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    torch.empty(2**24).fill_(1.0)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 8)
"""
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not HUGE_PAGES.exists() or "[never]" in HUGE_PAGES.read_text(), reason="this system has pages of one size"
)
def test_memory_for_maps_comes_in_large_pages_unless_the_user_says_otherwise() -> None:
    def pages(**variables: str) -> float:
        usual = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
        command = [sys.executable, "-c", PAGES]
        done = subprocess.run(command, env=usual | variables, capture_output=True, text=True, check=True)
        return float(done.stdout.split()[-1])

    assert pages() < 1000  # of 4 KiB they are 16 thousand
    if "[madvise]" in HUGE_PAGES.read_text():  # else large ones come unasked
        assert pages(THP_MEM_ALLOC_ENABLE="0") > 10_000
