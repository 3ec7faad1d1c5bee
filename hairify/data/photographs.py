"""Natural photographs that scikit-image and scikit-learn bring along."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from hairify.errors import DataError

TRAINING = ("astronaut.png", "motorcycle_left.png", "motorcycle_right.png", "china.jpg", "flower.jpg")
"""Photographs to train on. The motorcycle is one scene seen by two cameras, so both views stay on this side."""

HELD_OUT = ("coffee.png", "chelsea.png", "rocket.jpg")
"""Photographs no network sees before it is evaluated."""

_SHIPPED = dict.fromkeys(("china.jpg", "flower.jpg"), ("scikit-learn", "sklearn", "datasets/images"))

_USUALLY = ("scikit-image", "skimage", "data")


def photographs(names: Sequence[str]) -> tuple[Path, ...]:
    """Where the photographs lie; the packages' own functions may go to the network.

    Raises:
        DataError: this version of a package does not ship one.
    """
    paths = []
    for name in names:
        package, module, folder = _SHIPPED.get(name, _USUALLY)
        paths.append(Path(str(files(module) / folder / name)))
        if not paths[-1].is_file():
            raise DataError(
                f"{package} {version(package)} does not ship the photograph {name!r}; the demo is known to work with "
                "scikit-image 0.26 and scikit-learn 1.9."
            )
    return tuple(paths)
