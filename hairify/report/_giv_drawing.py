"""GIVs as points on a plane, as in the paper's Figure 2."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hairify.report._axes import Scale, around
from hairify.report._findings import GIVFindings, Projection
from hairify.report._markup import Markup, number, tag
from hairify.report._palette import Style, marker

_WIDTH, _HEIGHT, _PAD = 540.0, 430.0, 34.0


def draw_givs(projection: Projection, conditioning: GIVFindings, styles: Mapping[str, Style]) -> Markup:
    """A scatter plot: one mark for each crop, which names it when pointed at."""
    points = torch.cat(list(projection.points.values()))
    x, y = _scales(points, equal=projection.shares is not None)
    groups = []
    for name, places in projection.points.items():
        crops = conditioning.crops[name]
        marks = [
            marker(styles[name], x(a), y(b), title=f"{name}: {crop}")
            for (a, b), crop in zip(places.tolist(), crops, strict=True)
        ]
        groups.append(tag("g", marks, data_series=name))
    kind = "single and composite degradations" if projection.with_composites else "single degradations"
    return tag(
        "svg",
        tag("rect", x=0.5, y=0.5, width=_WIDTH - 1, height=_HEIGHT - 1, rx=8, class_="plane"),
        _axes(projection, x, y),
        groups,
        viewBox=f"0 0 {number(_WIDTH)} {number(_HEIGHT)}",
        class_="plot tips",
        role="img",
        aria_label=f"Global information vectors of {kind} by {projection.method}, one mark for each crop",
    )


def _scales(points: torch.Tensor, *, equal: bool) -> tuple[Scale, Scale]:
    """Scales for both axes; `equal` ones keep distances true."""
    (x0, x1), (y0, y1) = around(points[:, 0].tolist()), around(points[:, 1].tolist())
    if equal:
        unit = max((x1 - x0) / (_WIDTH - 2 * _PAD), (y1 - y0) / (_HEIGHT - 2 * _PAD))
        grow_x, grow_y = unit * (_WIDTH - 2 * _PAD) - (x1 - x0), unit * (_HEIGHT - 2 * _PAD) - (y1 - y0)
        x0, x1, y0, y1 = x0 - grow_x / 2, x1 + grow_x / 2, y0 - grow_y / 2, y1 + grow_y / 2
    return Scale(x0, x1, _PAD, _WIDTH - _PAD), Scale(y0, y1, _HEIGHT - _PAD, _PAD)


def _axes(projection: Projection, x: Scale, y: Scale) -> list[Markup]:
    """Lines through zero and the shares of the variance; t-SNE has neither."""
    if projection.shares is None:
        return [tag("text", "axes have no unit", x=_WIDTH - 12, y=_HEIGHT - 12, class_="axis end")]
    first, second = projection.shares
    across = f"first component, {first:.0%} of the variance"
    up = f"second component, {second:.0%} of the variance"
    lines = []
    if x.low < 0 < x.high:
        lines.append(tag("path", d=f"M{number(x(0))} 1V{number(_HEIGHT - 1)}", class_="grid"))
    if y.low < 0 < y.high:
        lines.append(tag("path", d=f"M1 {number(y(0))}H{number(_WIDTH - 1)}", class_="grid"))
    return [
        *lines,
        tag("text", across, x=_WIDTH - 12, y=_HEIGHT - 12, class_="axis end"),
        tag("text", up, transform="translate(20 12) rotate(-90)", class_="axis end"),
    ]
