"""What was found in folders: images of one place, remarks on them, and what was not understood."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hairify.data._sets import Split
from hairify.errors import DataError, HairWarning


@dataclass(frozen=True)
class Source:
    """Images found in one place: pairs, a data set of clean photographs, or photographs for any degradation."""

    name: str
    folder: Path
    kind: Literal["pairs", "clean set", "photographs"]
    split: Split | None
    clean: tuple[Path, ...]
    degradation: str = ""  # of pairs
    degraded: tuple[Path, ...] | None = None
    border: int = 0
    rule: str = ""  # what halves of pairs have in common
    only_noise: bool = False  # is put on a clean set
    named: bool = False  # its halves were named by hand, so that nothing else says what to test on

    def without(self, held_out: set[Path]) -> Source:
        """All but the pairs, or photographs, whose clean image is held out."""
        return self.select([i for i, path in enumerate(self.clean) if path not in held_out])

    def select(self, indices: Sequence[int]) -> Source:
        """Some of its images."""
        degraded = None if self.degraded is None else tuple(self.degraded[i] for i in indices)
        return dataclasses.replace(self, clean=tuple(self.clean[i] for i in indices), degraded=degraded)

    def read_as(self) -> str:
        """How its images are read, in words."""
        if self.kind == "pairs":
            return f"pairs of {self.degradation}, by {self.rule}"
        return "clean photographs, for noise" if self.only_noise else "clean photographs, for any degradation"


@dataclass
class Findings:
    """Everything in some folders.

    Attributes:
        sources: the images that are used.
        notes: what was left out, or may be other than it was taken for.
        problems: what was not understood.
    """

    sources: list[Source] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[DataError] = field(default_factory=list)


def listed(paths: Sequence[Path], most: int = 3) -> str:
    """How many images there are, and the names of the first."""
    names = ", ".join(path.name for path in paths[:most])
    return f"{len(paths)} image{'s' if len(paths) > 1 else ''} ({names}{', ...' if len(paths) > most else ''})"


def note(text: str) -> None:
    """Warn of something, with the line that called this room."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("hairify.data"):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, HairWarning, stacklevel=level)
