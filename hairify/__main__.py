"""`python -m hairify COMMAND ...`."""

import argparse
import sys
from collections.abc import Callable, Sequence

from hairify import demo

COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "demo": (demo.run, "train a small network as it is and converted, compare them on held-out photographs"),
}
"""Each command's function, from its own command-line words to the exit status, and one line on what it does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: the command and its words; None takes those of this process.

    Returns:
        The command's exit status.

    Raises:
        SystemExit: after `--help`, or for arguments that are not accepted.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(
        prog="python -m hairify",
        description="Turns any image-to-image network into an all-in-one restorer (from Python: hairify(model)).",
        epilog="commands:\n" + "\n".join(f"  {name:10}{line}" for name, (_, line) in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, help="what to do; COMMAND --help tells more")
    # Each command reads the words after its name by itself.
    command = parser.parse_args(words[:1]).command
    run, _ = COMMANDS[command]
    return run(words[1:])


if __name__ == "__main__":
    sys.exit(main())
