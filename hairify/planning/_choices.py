"""The words that options of a conversion accept."""

from __future__ import annotations

from typing import Literal, TypeAlias

BoxKind: TypeAlias = Literal["full", "low_rank"]
PresetName: TypeAlias = Literal["default", "published"]
Targets: TypeAlias = Literal["all", "auto", "families", "layers"]
Init: TypeAlias = Literal["preserve", "random"]
