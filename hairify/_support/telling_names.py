"""Short names of folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def telling_names(folders: Sequence[Path]) -> list[str]:
    """The name of each folder; of folders of one name, as much of the path as tells them apart."""
    names = []
    for folder in folders:
        others = [other for other in folders if other != folder]
        length = 1
        while any(other.parts[-length:] == folder.parts[-length:] for other in others):
            length += 1
        names.append(Path(*folder.parts[-length:]).as_posix())
    return names
