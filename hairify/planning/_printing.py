"""A plan as text: tables, and lists that do not get too long."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table with a rule below its heads: the first column to the left, all others to the right."""
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in (heads, *rows)
    ]
    return [lines[0], "  ".join("─" * w for w in widths), *lines[1:]]


def by_reason(skipped: Mapping[str, str]) -> dict[str, list[str]]:
    """{reason: names} of {name: reason}."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for name, reason in skipped.items():
        reasons[reason].append(name)
    return reasons


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few names."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def millions(count: int) -> str:
    """A number of parameters, exactly and in millions."""
    return f"{count:,} ({count / 1e6:.1f}M)"
