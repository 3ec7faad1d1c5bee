"""What the command line imports before it has something to do."""

from __future__ import annotations

import subprocess
import sys

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
