"""The command line, `hairify COMMAND`: a thin layer over the library, one module for each command.

Importing this package is cheap; what the commands need is imported when one runs.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

_TOOL = {
    "PIL": "pillow",
    "accelerate": "accelerate",
    "huggingface_hub": "huggingface_hub",
    "imagecodecs": "imagecodecs",
    "rich": "rich",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "tensorboard": "tensorboard",
    "tifffile": "tifffile",
    "tomli": "tomli",
    "tomli_w": "tomli-w",
    "typer": "typer",
}
_EXTRAS = {
    "tool": _TOOL,
    "export": {"onnx": "onnx", "onnxruntime": "onnxruntime", "onnxscript": "onnxscript"},
    "serve": {"gradio": "gradio"},
    "spandrel": {"spandrel": "spandrel"},
}
"""What the extras bring that commands need: packages by the names of their modules."""

INTERRUPTED = 130
"""The exit status of a process ended by Ctrl-C: 128 + SIGINT."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: the command and its words; None takes those of this process, which is then taken for the command's
            own: its environment is set up.

    Returns:
        The exit status: 0; 1 where something failed, with a message; 2 for words that are not accepted; 130 after
        Ctrl-C.
    """
    if arguments is None:
        _ask_for_large_pages()
    for stream in (sys.stdout, sys.stderr):  # names of files may be no text, and terminals may know ASCII alone
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if "" not in sys.path:
        sys.path.append("")  # networks of the user's own may lie in the current folder; they hide nothing installed
    try:
        from hairify.cli._app import app

        app(list(sys.argv[1:] if arguments is None else arguments), prog_name="hairify")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except ModuleNotFoundError as missing:
        module = (missing.name or "").partition(".")[0]
        extra = next((extra for extra, packages in _EXTRAS.items() if module in packages), None)
        if extra is None:
            raise
        package = _EXTRAS[extra][module]
        print(f"This needs {package}, which is not installed: pip install 'hairify[{extra}]'", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before a command has begun: importing takes seconds
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    return 0


def _ask_for_large_pages() -> None:
    """Have PyTorch ask for pages of 2 MiB, where the system gives them on demand; its child processes, too.

    It clears pages when they are first used, and those of 4 KiB, that it has to give one by one, cost a network with
    large maps up to a third of its time (docs/benchmarks.md, "Memory from the system").
    """
    try:
        on_demand = "[madvise]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text(encoding="ascii")
    except OSError:  # another system, or a kernel without them
        return
    if on_demand:
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by PyTorch when it first allocates
