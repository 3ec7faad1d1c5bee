"""Curves over training steps."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from hairify.report._axes import Scale, around
from hairify.report._markup import Markup, number, path, tag
from hairify.report._palette import Style, marker

_WIDTH, _HEIGHT = 540.0, 320.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 16.0, 14.0, 40.0
_MOST = 60  # points of a curve: single steps vary too much to show where it is going

Points = Sequence[tuple[int, float]]


def draw_curves(
    curves: Mapping[str, Points], styles: Mapping[str, Style], *, label: str, logarithmic: bool = False
) -> Markup:
    """Lines over steps.

    Args:
        curves: {name: points}, at least one point each.
        styles: {name: style}.
        label: of the vertical axis.
        logarithmic: that axis; all values are positive.
    """
    drawn = {name: thinned(points) for name, points in curves.items()}
    steps = [step for points in drawn.values() for step, _ in points]
    values = [value for points in drawn.values() for _, value in points]
    low, high = around(values)
    if logarithmic:
        low, high = min(values) / 1.1, max(values) * 1.1
    first, last = min(steps), max(steps)
    x = Scale(first if last > first else first - 1, last if last > first else last + 1, _LEFT, _WIDTH - _RIGHT)
    y = Scale(low, high, _HEIGHT - _BOTTOM, _TOP, logarithmic)
    return tag(
        "svg",
        _grid(x, y, label),
        [_curve(name, points, styles[name], x, y) for name, points in drawn.items()],
        viewBox=f"0 0 {number(_WIDTH)} {number(_HEIGHT)}",
        class_="plot tips",
        role="img",
        aria_label=f"{label} over training steps: {', '.join(drawn)}",
    )


def thinned(points: Points, most: int = _MOST) -> list[tuple[float, float]]:
    """At most `most` points: means over equal numbers of neighbours."""
    size = -(-len(points) // most)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(s for s, _ in group) / len(group), sum(v for _, v in group) / len(group)) for group in groups]


def _curve(name: str, points: Sequence[tuple[float, float]], style: Style, x: Scale, y: Scale) -> Markup:
    places = [(x(step), y(value)) for step, value in points]
    each = max(1, len(points) // 12)
    marks = [
        marker(style, *place, size=3.4, title=f"{name}, step {step:.0f}: {value:.4g}")
        for place, (step, value) in itertools.islice(zip(places, points, strict=True), each - 1, None, each)
    ]
    line = tag("path", d=path(places), class_=f"line {style.colour}", stroke_dasharray=style.dash or None)
    return tag("g", line, marks)


def _grid(x: Scale, y: Scale, label: str) -> list[Markup]:
    lines = [
        tag(
            "g",
            tag("path", d=f"M{number(_LEFT)} {number(y(v))}H{number(_WIDTH - _RIGHT)}", class_="grid"),
            tag("text", f"{v:.6g}", x=_LEFT - 8, y=y(v) + 4, class_="axis end"),
        )
        for v in y.ticks()
    ]
    lines += [tag("text", f"{v:,.6g}", x=x(v), y=_HEIGHT - 22, class_="axis mid") for v in x.ticks(6)]
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    return [
        *lines,
        tag("text", "step", x=(_LEFT + _WIDTH - _RIGHT) / 2, y=_HEIGHT - 5, class_="axis mid"),
        tag("text", label, transform=f"translate(13 {number(middle)}) rotate(-90)", class_="axis mid"),
    ]
