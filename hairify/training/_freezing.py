"""Parts of a network that stay as they are."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from torch import nn

from hairify._support.module_names import matches
from hairify.errors import OptionError


def freeze(network: nn.Module, globs: Sequence[str]) -> None:
    """Train no parameter that a glob matches, or one of the modules around it.

    Args:
        network: of a HairModel, parts of the base are also known by the names that they have in the base.
        globs: over names.

    Raises:
        OptionError: a glob matches no parameter and no module.
    """
    for glob in globs:
        matched = [parameter for name, parameter in network.named_parameters() if _matches(name, glob)]
        names = [name for name, _ in network.named_modules() if name]
        if not matched and not any(_matches(name, glob) for name in names):  # a DAC of moments has no parameters
            near = difflib.get_close_matches(glob, [*names, *(name.removeprefix("base.") for name in names)], n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise OptionError(
                f"`freeze` has {glob!r}, which matches nothing in this {type(network).__name__}.{hint} Accepted "
                f"are globs over the names of modules and parameters, such as {', '.join(names[:5])}."
            )
        for parameter in matched:
            parameter.requires_grad_(False)


def keep_statistics(network: nn.Module, globs: Sequence[str] = ("*",)) -> None:
    """Let frozen modules normalise by the statistics they were trained with, and not move them. Dropout stays on."""
    for name, module in network.named_modules():
        if getattr(module, "track_running_stats", False) and any(_matches(name, glob) for glob in globs):
            module.eval()


def _matches(name: str, glob: str) -> bool:
    return matches((name, name.removeprefix("base.")), (glob,))
