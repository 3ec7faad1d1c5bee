"""What a conversion is told."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

from torch import nn

from hairify.errors import (
    AlreadyConvertedError,
    OptionError,
)
from hairify.nn._converted import Converted
from hairify.nn._layers import HyperLayer

Init: TypeAlias = Literal["preserve", "random"]


BoxSize: TypeAlias = int | Mapping[str, int] | None


def network_of(model: Any) -> nn.Module:
    """The network itself, where a loader's description of one is given, such as spandrel's `ModelDescriptor`."""
    inner = getattr(model, "model", None)
    return inner if not isinstance(model, nn.Module) and isinstance(inner, nn.Module) else model


def check_options(
    model: nn.Module,
    preset: str,
    targets: str | None,
    init: str,
    box: str | None,
    rank: int | None,
    giv_dim: int | None,
    include: Sequence[str],
    exclude: Sequence[str],
) -> None:
    if not isinstance(model, nn.Module):
        raise OptionError(f"`model` is a {type(model).__name__}; hairify converts an nn.Module.")
    own = {m._scope for m in model.modules() if isinstance(m, Converted)}
    if isinstance(model, Converted) or any(
        isinstance(m, HyperLayer) and m.hair_slot.scope not in own for m in model.modules()
    ):
        raise AlreadyConvertedError(
            "The model is a HairModel already, or part of one. Convert the original model, or change this one with "
            "`hairify(hair.bake(giv=...), ...)`."
        )
    for name, value, accepted in (
        ("preset", preset, get_args(PresetName)),
        ("targets", targets, (None, *get_args(Targets))),
        ("init", init, get_args(Init)),
        ("box", box, (None, *get_args(BoxKind))),
    ):
        if value not in accepted:
            raise OptionError(f"`{name}` is {value!r}; accepted are {', '.join(map(repr, accepted))}.")
    for name, number in (("giv_dim", giv_dim), ("rank", rank)):
        if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
            raise OptionError(f"`{name}` is {number!r}; accepted is an integer from 1 up.")
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    for option, patterns in (("include", include), ("exclude", exclude)):
        if not isinstance(patterns, (list, tuple)) or not all(isinstance(pattern, str) for pattern in patterns):
            raise OptionError(f"`{option}` is {patterns!r}; accepted is a sequence of globs, such as ('decoder.*',).")
        for pattern in patterns:
            if not fnmatch.filter(names, pattern):
                near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4)
                hint = f" The nearest names are {', '.join(map(repr, near))}." if near else ""
                raise OptionError(f"`{option}` holds {pattern!r}, which matches no module of the model.{hint}")


BoxKind: TypeAlias = Literal["full", "low_rank"]


PresetName: TypeAlias = Literal["default", "published"]


Targets: TypeAlias = Literal["all", "auto", "families", "layers"]
