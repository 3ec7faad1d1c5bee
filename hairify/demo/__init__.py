"""`python -m hairify demo`: what hairify does, shown in a few minutes on two CPU cores.

Importing this package is cheap; scikit-image, matplotlib and rich are imported when the demo runs.
"""

import sys
from collections.abc import Sequence

from hairify.demo.settings import Settings, parse

__all__ = ["run"]

EXTRAS = {"matplotlib": "matplotlib", "rich": "rich", "skimage": "scikit-image"}
"""What the demo needs beyond hairify's own dependencies: module and distribution."""

FAILED = 1
INTERRUPTED = 130
"""The exit status of a process ended by Ctrl-C: 128 + SIGINT."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo.

    Args:
        arguments: command-line words, see `python -m hairify demo --help`; None takes those of this process.

    Returns:
        The exit status: 0; 1 where an optional dependency is missing or the output cannot be written, with a message;
        130 after Ctrl-C.

    Raises:
        SystemExit: after `--help`, or for arguments that are not accepted.
    """
    settings = parse(arguments)
    try:
        return _run(settings)
    except ModuleNotFoundError as missing:
        extra = EXTRAS.get((missing.name or "").partition(".")[0])
        if extra is None:
            raise
        print(f"The demo needs {extra}, which is not installed: pip install 'hairify[demo]'", file=sys.stderr)
    except OSError as error:
        print(f"hairify demo: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"\nInterrupted; nothing was written to {settings.output}.", file=sys.stderr)
        return INTERRUPTED
    return FAILED


def _run(settings: Settings) -> int:
    from rich.console import Console

    from hairify.demo.comparison import compare

    compare(settings, Console())
    return 0
