"""HTML and SVG from Python. What is not `Markup` is escaped, whatever it holds."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Sequence

_EMPTY = {"br", "img", "input"}  # HTML's elements without an end tag that are used here
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
Value = str | float | bool | None


class Markup(str):
    """Text that is HTML already."""


def tag(name: str, /, *children: str | Iterable[Markup] | None, **attributes: Value) -> Markup:
    """An element. Well-formed as XML too, so that drawings can be checked by a parser.

    Args:
        name: of the element.
        children: text, `Markup`, or several `Markup`; None is nothing.
        attributes: `stroke_width=2` is `stroke-width="2"`, `class_` is `class`; True is an empty value, False and None
            leave the attribute out. Numbers are rounded to hundredths.
    """
    words = [
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"' for key, value in attributes.items() if _given(value)
    ]
    start = f"<{name}{''.join(words)}"
    return Markup(f"{start}/>" if name in _EMPTY else f"{start}>{join(children)}</{name}>")


def join(parts: Iterable[str | Iterable[Markup] | None]) -> Markup:
    """Parts beside each other, escaped where they are not `Markup`."""
    return Markup("".join(_text(part) if isinstance(part, str) else "".join(part or ()) for part in parts))


def number(value: float) -> str:
    """A coordinate: at most two decimals, no needless zeros."""
    return f"{round(value, 2) + 0:.2f}".rstrip("0").rstrip(".")  # + 0: no "-0"


def path(points: Sequence[tuple[float, float]]) -> str:
    """A line through points, as the attribute `d` of an SVG path."""
    return "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points)


def shortened(text: str, most: int) -> str:
    """The end of a name, which says more than its start, where it is longer than `most` characters."""
    return text if len(text) <= most else "…" + text[1 - most :]


def millions(count: int) -> str:
    """A number of parameters, short: "141 k", "29.3 M"."""
    if count < 1000:
        return str(count)
    return f"{count / 1e3:.3g} k" if count < 999_500 else f"{count / 1e6:.3g} M"


def decibels(value: float) -> str:
    """A PSNR; equal images have an infinite one."""
    return f"{value:.2f}" if math.isfinite(value) else "∞"


def _text(text: str) -> str:
    return text if isinstance(text, Markup) else html.escape(_NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text))


def _given(value: Value) -> bool:
    return value is not None and value is not False


def _value(value: Value) -> str:
    if value is True:
        return ""
    return _text(number(value)) if isinstance(value, (int, float)) else _text(str(value))
