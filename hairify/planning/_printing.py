"""A plan as text."""

from __future__ import annotations

from collections import defaultdict

from hairify.planning._plans import Level


def _table(levels: tuple[Level, ...]) -> list[str]:
    rows = [("level", "blocks M", "box size N", "layers", "P", "rank", "in the box")]
    rows += [
        (
            level.name,
            str(len(level.blocks)),
            str(level.box_size),
            str(len(level.layers)),
            f"{level.row_size:,}",
            "full" if level.rank is None else str(level.rank),
            f"{level.size:,}",
        )
        for level in levels
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    text = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return [text[0], "  ".join("─" * w for w in widths), *text[1:]]


def _by_reason(skipped: dict[str, str]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = defaultdict(list)
    for name, reason in skipped.items():
        reasons[reason].append(name)
    return reasons


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _millions(count: int) -> str:
    return f"{count:,} ({count / 1e6:.1f}M)"
