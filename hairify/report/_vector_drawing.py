"""Selecting vectors as heat maps: blocks by rows of their Weight Box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hairify.planning._plans import Level
from hairify.report._markup import Markup, number, shortened, tag

_CELL, _ROW, _GAP, _TOP = 26.0, 18.0, 7.0, 20.0
_CHARACTER = 6.3  # width of one in a row's label
_LABEL = 24  # characters at most
_SIGN_FROM = 0.3  # of the largest departure: weaker ones are left without a sign


def departures(vectors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """What each degradation's mean selecting vectors differ by from the mean over all degradations."""
    blocks = next(iter(vectors.values()))
    mean = {block: torch.stack([of[block] for of in vectors.values()]).mean(0) for block in blocks}
    return {name: {block: own - mean[block] for block, own in of.items()} for name, of in vectors.items()}


def draw_vectors(
    name: str, vectors: Mapping[str, Tensor], levels: Sequence[Level], largest: float | None = None
) -> Markup:
    """One heat map.

    Args:
        name: of the degradation.
        vectors: {block: (N,)}, mean selecting vectors or, with `largest`, departures.
        levels: the blocks by level; between levels is a gap.
        largest: the departure that has the full colour.
    """
    labels = {block: shortened(block, _LABEL) for block in vectors}
    left = 10 + _CHARACTER * max(map(len, labels.values()))
    columns = max(level.box_size for level in levels)
    y, rows = _TOP, []
    for level in levels:
        for block in level.blocks:
            rows.append(tag("text", labels[block], x=left - 8, y=y + 12.5, class_="label end"))
            rows += [
                _cell(left + i * _CELL, y, f"{name}, {block}, row {i + 1}", value, largest)
                for i, value in enumerate(vectors[block].tolist())
            ]
            y += _ROW
        y += _GAP
    heads = [tag("text", str(i + 1), x=left + (i + 0.5) * _CELL, y=13, class_="axis mid") for i in range(columns)]
    width, height = left + columns * _CELL + 2, y - _GAP + 2
    what = "Mean selecting vectors" if largest is None else "Departure of the mean selecting vectors from their mean"
    return tag(
        "svg",
        heads,
        rows,
        viewBox=f"0 0 {number(width)} {number(height)}",
        width=width,
        height=height,
        class_="heat tips",
        role="img",
        aria_label=f"{what} under {name}: rows are blocks, columns the rows of their Weight Box",
    )


def _cell(x: float, y: float, place: str, value: float, largest: float | None) -> Markup:
    """A cell, and a sign where a departure is strong. Colour fades into the background, light or dark."""
    if largest is None:
        title, kind, strength, sign = f"{place}: {value:.3f}", "weight", value, ""
    else:
        title, kind = f"{place}: {value:+.4f}", "more" if value >= 0 else "less"
        strength = min(abs(value) / largest, 1.0)
        sign = ("+" if value >= 0 else "−") if strength >= _SIGN_FROM else ""
    return tag(
        "g",
        tag("title", title),
        tag("rect", x=x + 0.5, y=y + 0.5, width=_CELL - 1, height=_ROW - 1, rx=2, class_="cell"),
        tag("rect", x=x + 0.5, y=y + 0.5, width=_CELL - 1, height=_ROW - 1, rx=2, class_=kind, fill_opacity=strength),
        tag("text", sign, x=x + _CELL / 2, y=y + 13, class_="sign mid") if sign else None,
    )
