"""Recipes by name: TOML files such as a user's own, to train by, to read and to copy."""

from __future__ import annotations

from pathlib import Path

from hairify._support.nearest import named_nearest
from hairify.errors import OptionError

__all__ = ["names", "path", "summary", "text"]

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The names of all recipes."""
    return sorted(file.stem for file in _FOLDER.glob("*.toml"))


def path(name: str) -> Path:
    """The file of a recipe.

    Raises:
        OptionError: there is none of that name.
    """
    if name not in names():
        raise OptionError(
            f"There is no recipe {name!r}; {named_nearest(name, names())} `config` takes a file of yours."
        )
    return _FOLDER / f"{name}.toml"


def text(name: str) -> str:
    """What a recipe says.

    Raises:
        OptionError: there is none of that name.
    """
    return path(name).read_text(encoding="utf-8")


def summary(name: str) -> str:
    """The first line of a recipe, which is a comment.

    Raises:
        OptionError: there is none of that name.
    """
    return text(name).splitlines()[0].removeprefix("# ")
