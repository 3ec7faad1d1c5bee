"""Colours, markers and dashes: whatever a colour tells, a shape or a pattern tells too."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hairify.report._markup import Markup, number, path, tag

COLOURS = 7
"""Okabe and Ito's colours for colour-blind eyes, but yellow, which is lost on white: classes c0 to c6 of style.css."""

DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4", "4 2 1 2")


@dataclass(frozen=True)
class Style:
    """How something is drawn wherever it is drawn.

    Attributes:
        colour: a class of style.css.
        marker: number of the shape.
        dash: of lines, as `stroke-dasharray`.
        hollow: composites are drawn in outline.
    """

    colour: str
    marker: int
    dash: str
    hollow: bool = False


def styles(degradations: Iterable[str], composites: Iterable[str] = ()) -> dict[str, Style]:
    """A style for each degradation, in order; two of one colour have different shapes."""
    composites = set(composites)
    found = {}
    for i, name in enumerate(degradations):
        marker = (i + i // math.lcm(COLOURS, len(_SHAPES))) % len(_SHAPES)
        found[name] = Style(f"c{i % COLOURS}", marker, DASHES[i % len(DASHES)], name in composites)
    return found


def task_styles(tasks: Mapping[str, str], of_degradations: Mapping[str, Style]) -> dict[str, Style]:
    """Styles of tasks: colour and shape are those of the degradation; tasks of one degradation differ by the dash."""
    seen: dict[str, int] = {}
    found = {}
    for task, degradation in tasks.items():
        place = seen[degradation] = seen.get(degradation, -1) + 1
        style = of_degradations[degradation]
        found[task] = Style(style.colour, style.marker, DASHES[place % len(DASHES)])
    return found


def marker(style: Style, x: float = 0.0, y: float = 0.0, size: float = 4.6, title: str | None = None) -> Markup:
    """A mark at (x, y) about `size` pixels in radius; `title` is what it says when pointed at."""
    return tag(
        "path",
        None if title is None else tag("title", title),
        class_=f"mark {style.colour}{' hollow' if style.hollow else ''}",
        d=_outline(style.marker, size),
        transform=f"translate({number(x)} {number(y)})",
    )


def key(style: Style, *, line: bool = False) -> Markup:
    """The mark, or mark and line, beside a name in a legend."""
    stroke = tag("path", d="M0 8H28", class_=f"line {style.colour}", stroke_dasharray=style.dash or None)
    parts = (stroke if line else None, marker(style, 14 if line else 8, 8))
    return tag("svg", *parts, class_="key", viewBox=f"0 0 {28 if line else 16} 16", aria_hidden="true")


def _star(points: int, inner: float, turn: float) -> list[tuple[float, float]]:
    """A star of radius 1, or with `inner` at cos(π / points) a polygon."""
    corners = []
    for i in range(2 * points):
        angle, radius = math.pi * i / points + turn, inner if i % 2 else 1.0
        corners.append((radius * math.sin(angle), -radius * math.cos(angle)))
    return corners


_PLUS = [(-1, -0.35), (-0.35, -0.35), (-0.35, -1), (0.35, -1), (0.35, -0.35), (1, -0.35)]
_SHAPES: tuple[tuple[float, list[tuple[float, float]]], ...] = (
    (1.0, []),  # a disc
    (1.2, _star(3, 0.5, 0)),
    (1.2, _star(4, math.cos(math.pi / 4), math.pi / 4)),
    (1.2, _star(4, math.cos(math.pi / 4), 0)),
    (1.2, _star(3, 0.5, math.pi)),
    (1.05, _PLUS + [(-x, -y) for x, y in _PLUS]),
    (1.3, _star(5, 0.45, 0)),
    (1.1, _star(6, math.cos(math.pi / 6), 0)),
    (1.1, _star(5, math.cos(math.pi / 5), 0)),
    (1.3, _star(4, 0.4, 0)),
)
"""Radius relative to that of the disc, and corners."""


def _outline(shape: int, size: float) -> str:
    radius, corners = size * _SHAPES[shape][0], _SHAPES[shape][1]
    if not corners:
        r = number(radius)
        return f"M-{r} 0a{r} {r} 0 1 0 {number(2 * radius)} 0a{r} {r} 0 1 0 -{number(2 * radius)} 0Z"
    return path([(radius * x, radius * y) for x, y in corners]) + "Z"
