"""`hairify push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hairify.cli._common import say


def run(
    model: Annotated[Path, typer.Argument(help="folder of a run or of a restorer", metavar="MODEL")],
    repository: Annotated[str, typer.Argument(help="owner/name on the Hugging Face Hub", metavar="REPOSITORY")],
    private: Annotated[bool, typer.Option("--private", help="hide a new repository from others")] = False,
) -> None:
    """Share a restorer on the Hugging Face Hub, with a model card. Log in first: hf auth login.

    [dim]hairify push run my-name/my-restorer[/dim]
    """
    from hairify.sharing import push_to_hub

    folder = model / "model" if (model / "model").is_dir() else model
    say(f"Pushed: {push_to_hub(folder, repository, private=private)}")
