"""Levels: which layers share a Weight Box, and of what size it is."""

from __future__ import annotations

import fnmatch
import itertools
import math
from collections.abc import Mapping

import torch

from hairify._support.module_names import full_name
from hairify.errors import BoxSizeError, OptionError
from hairify.nn._warm_start import limited_rank
from hairify.planning._families import Family, Siblings
from hairify.planning._options import Choices
from hairify.planning._plans import Level
from hairify.planning._probe import Probe

# Families that hold less than this part of what can be converted are strays; then all layers are converted.
_LEAST_FAMILY_SHARE = 0.5


def layers_of(levels: tuple[Level, ...]) -> set[str]:
    """Full names of all that is converted."""
    return {name for level in levels for layer in level.layers for name in level.layer_names(layer)}


def make_levels(probe: Probe, eligible: list[str], choices: Choices) -> tuple[Level, ...]:
    """What is converted, in levels.

    Args:
        probe: the recorded model.
        eligible: names of the layers that may be converted, in the order of their first call.
        choices: which of them are, and how large their boxes are.

    Raises:
        OptionError: `box_size` is no number, or names no level.
        BoxSizeError: `box_size` is too small.
    """
    targets, rank = choices.targets, choices.rank
    sizes = {name: sum(p.numel() for p in probe.model.get_submodule(name).parameters()) for name in eligible}
    families = Siblings(probe.model, eligible, probe.recording.first_calls()).families() if targets != "layers" else []
    taken = {full_name(block, layer) for f in families for block in f.blocks for layer in f.layers}
    held = sum(sizes[name] for name in taken)
    strays = targets == "auto" and held < _LEAST_FAMILY_SHARE * sum(sizes.values())
    if targets in ("all", "layers") or strays:
        families += [Family(name, (name,), ("",)) for name in eligible if name not in taken]
    order = {name: i for i, name in enumerate(eligible)}
    families.sort(key=lambda f: order[full_name(f.blocks[0], f.layers[0])])
    names: list[str] = []
    for family in families:
        first = family.blocks[0]
        candidates = itertools.chain((family.parent, first), (f"{first}+{i}" for i in itertools.count(2)))
        names.append(next(name for name in candidates if name and name not in names))
    levels = []
    for name, family, n in zip(names, families, _box_sizes(names, families, choices), strict=True):
        layers = [full_name(family.blocks[0], layer) for layer in family.layers]
        shapes = [p.shape for layer in layers for p in probe.model.get_submodule(layer).parameters(recurse=False)]
        row_parameters = sum(sizes[layer] for layer in layers)
        box_parameters = (
            n * row_parameters if rank is None else _low_rank_parameters(shapes, len(family.blocks), n, rank)
        )
        levels.append(Level(name, family.blocks, family.layers, n, row_parameters, box_parameters, rank))
    return tuple(levels)


def _low_rank_parameters(shapes: list[torch.Size], blocks: int, box_size: int, rank: int) -> int:
    """The number of parameters in a low-rank box for layers with parameters of these shapes."""
    whole = blocks * sum(map(math.prod, shapes))
    factors = sum(
        limited_rank(shape, rank) * (shape[0] + math.prod(shape[1:])) if len(shape) > 1 else shape[0]
        for shape in shapes
    )
    return whole + blocks * box_size * factors


def _box_sizes(names: list[str], families: list[Family], choices: Choices) -> list[int]:
    """N of each level; the usual one where none is given."""
    box_size, blocks = choices.box_size, [len(family.blocks) for family in families]
    usual = [choices.usual.box_size(m, choices.rank) for m in blocks]
    wanted = {"*": box_size} if not isinstance(box_size, Mapping) and box_size is not None else dict(box_size or {})
    for pattern, size in wanted.items():
        if not isinstance(pattern, str):
            raise OptionError(f"`box_size` has the key {pattern!r}; accepted are globs over the names of levels.")
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise OptionError(f"`box_size` is {size!r} for {pattern!r}; accepted is an integer from 1 up.")
        if names and not fnmatch.filter(names, pattern):
            raise OptionError(
                f"`box_size` names {pattern!r}, which matches no level. The levels are {', '.join(map(repr, names))}."
            )
    sizes = [
        next((n for pattern, n in wanted.items() if fnmatch.fnmatchcase(name, pattern)), n)
        for name, n in zip(names, usual, strict=True)
    ]
    for name, m, n in zip(names, blocks, sizes, strict=True):
        if n < 2:
            raise BoxSizeError(
                f"`box_size` is {n} for level {name!r}: with a single row all images get the same weights, and DAC and "
                "HSNs never learn. Give at least 2."
            )
        if choices.keeps_whole_sets and n < m:
            raise BoxSizeError(
                f"`box_size` is {n} for level {name!r}, whose {m} blocks have {m} weight sets to preserve. Give "
                f"at least {m} (the default is {m + 1}), or `box='low_rank'`, or `init='random'` for fresh weights."
            )
    return sizes
