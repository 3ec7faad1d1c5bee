"""Which degradations are learnt together: the rows of the paper's Tables 7 and 8."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from hairify.ablation.tables import Row
from hairify.errors import OptionError

ALL = "all"
SEPARATOR = "/"
_NOISE = re.compile(r"noise[\d.]+")
_MOST = 5  # groups of which every combination is made: 31 of them


def groups_of(degradations: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """{group: its degradations}: noise of any strength is one group, as in the paper, and each other one its own."""
    groups: dict[str, tuple[str, ...]] = {}
    for name in degradations:
        group = "noise" if _NOISE.fullmatch(name) else name
        groups[group] = (*groups.get(group, ()), name)
    return groups


def combinations_of(asked: Sequence[str], degradations: Sequence[str]) -> list[tuple[str, ...]]:
    """The combinations of groups that are compared, each in the order of the degradations.

    Args:
        asked: such as "noise", "noise/rain", or "all" for every combination, fewer groups first.
        degradations: that there are images of.

    Raises:
        OptionError: a group is not known, or there are too many of them for every combination.
    """
    groups = list(groups_of(degradations))
    found: list[tuple[str, ...]] = []
    for text in asked:
        if text == ALL:
            if len(groups) > _MOST:
                raise OptionError(
                    f"`combinations` is {ALL!r}, which of {len(groups)} degradations would be {2 ** len(groups) - 1}; "
                    f"accepted is it for up to {_MOST}. Name those to compare, such as {SEPARATOR.join(groups[:2])}."
                )
            sizes = range(1, len(groups) + 1)
            found += [one for size in sizes for one in itertools.combinations(groups, size)]
            continue
        names = text.split(SEPARATOR)
        if unknown := [name for name in names if name not in groups]:
            raise OptionError(
                f"`combinations` has {unknown[0]!r}; accepted are {', '.join(groups)}, joined by {SEPARATOR!r}, and "
                f"{ALL!r}."
            )
        found.append(tuple(group for group in groups if group in names))
    return list(dict.fromkeys(found))


def rows_of(asked: Sequence[str], degradations: Sequence[str], variants: Sequence[str], split: str) -> tuple[Row, ...]:
    """A row for each combination and variant, named such as "both of noise, rain".

    Raises:
        OptionError: see `combinations_of`.
    """
    groups = groups_of(degradations)
    return tuple(
        Row(
            f"{variant} of {', '.join(combination)}",
            variant,
            split,
            combination,
            tuple(name for group in combination for name in groups[group]),
        )
        for combination in combinations_of(asked, degradations)
        for variant in variants
    )
