"""Packages whose names are imported when they are first asked for, so that importing a package is quick."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any


def on_demand(
    package: str, places: Mapping[str, Collection[str]], modules: Collection[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """What a package calls `__getattr__` and `__dir__`.

    The command line reads all settings for its help, and imports no PyTorch for it: rooms that hold settings import
    what they are made of so. Type checkers see the imports themselves, under `TYPE_CHECKING`.

    Args:
        package: its `__name__`.
        places: {module within the package: the names that are taken from it}.
        modules: modules within the package that are found in it without having been imported.
    """
    homes = {name: place for place, names in places.items() for name in names}

    def find(name: str) -> Any:
        if name in homes:
            found = getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        elif name in modules:
            found = importlib.import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, found)  # the next one who asks finds it there
        return found

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes, *modules})

    return find, names
