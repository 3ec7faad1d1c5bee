"""The command line, `hairify COMMAND`: a thin layer over the library, one module for each command.

Importing this package is cheap; what the commands need is imported when one runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

EXTRA = "tool"
"""The extra that brings what the commands need beyond hairify's own dependencies."""

_PACKAGES = {
    "PIL": "pillow",
    "accelerate": "accelerate",
    "huggingface_hub": "huggingface_hub",
    "imagecodecs": "imagecodecs",
    "onnx": "onnx",
    "onnxscript": "onnxscript",
    "rich": "rich",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "tensorboard": "tensorboard",
    "tifffile": "tifffile",
    "tomli": "tomli",
    "tomli_w": "tomli-w",
    "typer": "typer",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: the command and its words; None takes those of this process.

    Returns:
        The exit status: 0; 1 where something failed, with a message; 2 for words that are not accepted; 130 after
        Ctrl-C.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")  # networks of the user's own may lie in the current folder
    try:
        from hairify.cli.app import app

        app(list(sys.argv[1:] if arguments is None else arguments), prog_name="hairify")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except ModuleNotFoundError as missing:
        package = _PACKAGES.get((missing.name or "").partition(".")[0])
        if package is None:
            raise
        print(f"This needs {package}, which is not installed: pip install 'hairify[{EXTRA}]'", file=sys.stderr)
        return 1
    return 0
