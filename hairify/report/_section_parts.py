"""What the sections of the page are made of."""

from __future__ import annotations

from collections.abc import Sequence

from hairify.report._markup import Markup, tag


def switch(name: str, choices: Sequence[tuple[str, str]]) -> Markup:
    """Buttons of which one is pressed: what is shown of a section."""
    labels = [
        tag("label", tag("input", type="radio", name=name, value=value, checked=not i), tag("span", text))
        for i, (value, text) in enumerate(choices)
    ]
    return tag("div", labels, class_="switch", role="radiogroup", aria_label="View", hidden=True)


def html_table(heads: Sequence[str], rows: Sequence[Sequence[str]], total: Sequence[str] | None = None) -> Markup:
    def line(cells: Sequence[str], kind: str | None = None) -> Markup:
        first, *others = cells
        return tag("tr", tag("th", first, scope="row"), [tag("td", cell) for cell in others], class_=kind)

    body = [line(row) for row in rows] + ([line(total, "average")] if total else [])
    return tag("table", tag("thead", tag("tr", [tag("th", head, scope="col") for head in heads])), tag("tbody", body))


def scrolling(content: Markup, label: str) -> Markup:
    """Content that may be wider than the screen; the keyboard scrolls it too."""
    return tag("div", content, class_="scroll", tabindex=0, role="region", aria_label=label)


def fact_tile(what: str, value: str, small: str | None = None) -> Markup:
    return tag("div", tag("dt", what), tag("dd", value, tag("small", small) if small else None))


def count_of(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
