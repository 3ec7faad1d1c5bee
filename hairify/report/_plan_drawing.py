"""The plan as a picture of the network: what stays, where it is split, and what gets weights of each image's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hairify.planning._plans import Level, Plan
from hairify.report._markup import Markup, millions, number, shortened, tag

_WIDTH = 1120.0
_LANE_TOP, _LANE_HEIGHT = 14.0, 66.0
_CARDS_TOP, _CARD_HEIGHT, _BETWEEN_ROWS = 136.0, 186.0, 48.0
_LEFT, _GAP, _LEAST_CARD, _WIDEST_CARD = 34.0, 26.0, 138.0, 236.0
_OUTPUT = 108.0  # room for the restored image after the last card
_BLOCK, _MOST_BLOCKS, _MOST_ROWS = 11.0, 12, 12
_MONO = 6.75  # width of a character of a name


def draw_plan(plan: Plan) -> Markup:
    """A schematic of a converted network, left to right, the levels below in as many rows as they need."""
    cards = _arrange(plan.levels)
    height = cards[-1].y + _CARD_HEIGHT + 16
    lane, split_x = _lane(plan)
    blocks = sum(len(level.blocks) for level in plan.levels)
    return tag(
        "svg",
        _arrowheads(),
        _data_path(cards, split_x),
        _bus(cards),
        lane,
        [_card(card) for card in cards],
        _output(cards[-1]),
        viewBox=f"0 0 {number(_WIDTH)} {number(height)}",
        class_="network",
        role="img",
        aria_label=f"The network, split at {plan.split}: DAC, GIV of {plan.giv_dim} numbers, HSNs, and {blocks} blocks "
        f"in {len(plan.levels)} levels, each with one Weight Box. The table below has the same in numbers.",
    )


@dataclass(frozen=True)
class _Card:
    level: Level
    x: float
    y: float
    width: float

    @property
    def middle(self) -> float:
        return self.x + self.width / 2

    @property
    def data_y(self) -> float:
        """Height at which features pass through the blocks."""
        return self.y + 56


def _arrange(levels: Sequence[Level]) -> list[_Card]:
    """Cards in rows of nearly equal length."""
    room = _WIDTH - _LEFT - _OUTPUT - 24
    longest = max(min(len(level.blocks), _MOST_BLOCKS + 1) for level in levels)
    least = max(_LEAST_CARD, longest * (_BLOCK + 3) + 30)
    rows = math.ceil(len(levels) / max(1, int((room + _GAP) // (least + _GAP))))
    columns = math.ceil(len(levels) / rows)
    width = min(_WIDEST_CARD, (room + _GAP) / columns - _GAP)
    return [
        _Card(
            level,
            _LEFT + (i % columns) * (width + _GAP),
            _CARDS_TOP + (i // columns) * (_CARD_HEIGHT + _BETWEEN_ROWS),
            width,
        )
        for i, level in enumerate(levels)
    ]


def _lane(plan: Plan) -> tuple[list[Markup], float]:
    """What is above the levels, image to HSNs; and where the split is."""
    before = sum(reason == "runs before the split" for reason in plan.skipped.values())
    channels, height, width = plan.feature.shape
    blocks = sum(len(level.blocks) for level in plan.levels)
    split_width = min(250.0, max(132.0, len(plan.split) * _MONO + 24))
    boxes = (
        ("degraded image", "B × 3 × H × W", "data", 132.0),
        ("left as it is", f"{before} layers" if before else "up to the split", "kept", 144.0),
        (
            shortened(plan.split, int((split_width - 20) // _MONO)),
            f"F_g {channels}×{height}×{width}",
            "split",
            split_width,
        ),
        ("DAC", shortened(plan.dac, 26), "hyper", 190.0),
        ("GIV", f"{plan.giv_dim} numbers", "hyper", 122.0),
        ("HSNs", f"{blocks}, one a block", "hyper", 136.0),
    )
    gap = (_WIDTH - 8 - 14 - sum(width for *_, width in boxes)) / (len(boxes) - 1)
    drawn, x, split_x = [], 8.0, 0.0
    for i, (title, below, kind, wide) in enumerate(boxes):
        if i:
            drawn.append(_arrow(f"M{number(x - gap + 2)} {_lane_middle()}H{number(x - 3)}", kind == "hyper"))
        if kind == "split":
            split_x = x + wide / 2
            drawn.append(tag("text", "split", x=split_x, y=_LANE_TOP - 2, class_="note mid"))
        drawn.append(_box(x, wide, title, below, kind, plan))
        x += wide + gap
    return drawn, split_x


def _box(x: float, width: float, title: str, below: str, kind: str, plan: Plan) -> Markup:
    middle, name = x + width / 2, "name" if kind == "split" else "head"
    strip = []
    if title == "GIV":  # a vector, drawn as one
        strip = [
            tag("rect", x=x + 12 + i * (width - 24) / 12, y=_LANE_TOP + 48, width=(width - 24) / 12 - 1.5, height=9,
                class_="number", fill_opacity=0.25 + 0.75 * ((i * 7 + 3) % 12) / 11)
            for i in range(12)
        ]  # fmt: skip
    shift = -7 if strip else 0
    return tag(
        "g",
        tag("title", plan.split) if kind == "split" else None,
        tag("rect", x=x, y=_LANE_TOP + 4, width=width, height=_LANE_HEIGHT - 4, rx=9, class_=f"box {kind}"),
        tag("text", title, x=middle, y=_LANE_TOP + 33 + shift, class_=f"{name} mid"),
        tag("text", below, x=middle, y=_LANE_TOP + 51 + shift, class_="note mid"),
        strip,
    )


def _data_path(cards: Sequence[_Card], split_x: float) -> list[Markup]:
    """Features: from the split to the first level, and on from level to level and row to row."""
    lines = []
    for i, card in enumerate(cards):
        if i and cards[i - 1].y == card.y:
            lines.append(_arrow(f"M{number(cards[i - 1].x + card.width)} {number(card.data_y)}H{number(card.x - 3)}"))
            continue
        if i:
            last = cards[i - 1]
            right, above = last.x + last.width, card.y - 36
            start = f"M{number(right)} {number(last.data_y)}H{number(right + 12)}V{number(above)}"
        else:
            above = _LANE_TOP + _LANE_HEIGHT + 14
            start = f"M{number(split_x)} {number(_LANE_TOP + _LANE_HEIGHT)}V{number(above)}"
        lines.append(_arrow(f"{start}H12V{number(card.data_y)}H{number(card.x - 3)}"))
    return lines


def _bus(cards: Sequence[_Card]) -> list[Markup]:
    """Selecting vectors: from the HSNs along the right edge, and from there to all levels."""
    edge = _WIDTH - 5
    rows = sorted({card.y for card in cards})
    lines = [
        tag(
            "path",
            d=f"M{number(_WIDTH - 14)} {_lane_middle()}H{number(edge)}V{number(rows[-1] - 22)}",
            class_="flow hyper",
        )
    ]
    for y in rows:
        first = min(card.middle for card in cards if card.y == y)
        lines.append(tag("path", d=f"M{number(edge)} {number(y - 22)}H{number(first)}", class_="flow hyper"))
    lines += [_arrow(f"M{number(card.middle)} {number(card.y - 22)}V{number(card.y - 3)}", True) for card in cards]
    text = "selecting vectors V_s, one for each block and image"
    return [*lines, tag("text", text, x=edge - 8, y=rows[0] - 28, class_="note end")]


def _card(card: _Card) -> Markup:
    """A level: its blocks, its Weight Box below, and weights that rise from one to the others."""
    level, x, y = card.level, card.x, card.y
    count, box = len(level.blocks), "rank " + str(level.rank) if level.rank else ""
    name = shortened(level.name or "the network itself", int((card.width - 16) // _MONO))
    facts = f"N = {level.box_size} sets of {millions(level.row_parameters)}" + (f", {box}" if box else "")
    return tag(
        "g",
        tag("title", f"{level.name}: {count} blocks, {len(level.layers)} layers each"),
        tag("rect", x=x, y=y, width=card.width, height=_CARD_HEIGHT, rx=10, class_="box card"),
        tag(
            "rect",
            x=card.middle - len(name) * _MONO / 2 - 4,
            y=y + 4,
            width=len(name) * _MONO + 8,
            height=19,
            class_="cover",
        ),
        tag("text", name, x=card.middle, y=y + 18, class_="name mid"),
        _blocks(card),
        tag("text", f"{count} block{'s' if count > 1 else ''}", x=x + 10, y=y + 92, class_="note"),
        _arrow(f"M{number(card.middle)} {number(y + 108)}V{number(y + 83)}", True),
        _weight_box(card),
        tag("text", facts, x=card.middle, y=y + _CARD_HEIGHT - 10, class_="note mid"),
    )


def _blocks(card: _Card) -> list[Markup]:
    count = len(card.level.blocks)
    shown = count if count <= _MOST_BLOCKS else _MOST_BLOCKS - 1
    step = _BLOCK + 3
    total = shown * step - 3 + (24 if shown < count else 0)
    left = card.middle - total / 2
    drawn = [
        tag("path", d=f"M{number(card.x)} {number(card.data_y)}H{number(card.x + card.width)}", class_="flow thin")
    ]
    drawn += [
        tag("rect", x=left + i * step, y=card.y + 34, width=_BLOCK, height=44, rx=3.5, class_="block")
        for i in range(shown)
    ]
    if shown < count:
        text = f"+{count - shown}"
        x = left + shown * step
        drawn.append(tag("rect", x=x - 1, y=card.y + 44, width=26, height=24, class_="cover"))
        drawn.append(tag("text", text, x=x + 1, y=card.y + 60, class_="note"))
    return drawn


def _weight_box(card: _Card) -> list[Markup]:
    """N rows; more than fit are told by the number below."""
    rows = min(card.level.box_size, _MOST_ROWS)
    left, width, top, room = card.x + 14, card.width - 28, card.y + 110, 42.0
    step = min(room / rows, 9.0)
    start = top + (room - rows * step) / 2
    frame = tag("rect", x=left - 4, y=start - 4, width=width + 8, height=rows * step + 7, rx=4, class_="weights")
    return [
        frame,
        *(
            tag("rect", x=left, y=start + i * step, width=width, height=step - 1.4, rx=1, class_="row",
                fill_opacity=1 - 0.65 * i / max(rows - 1, 1))
            for i in range(rows)
        ),
    ]  # fmt: skip


def _output(card: _Card) -> Markup:
    x = card.x + card.width
    return tag(
        "g",
        _arrow(f"M{number(x)} {number(card.data_y)}H{number(x + 19)}"),
        tag("rect", x=x + 22, y=card.data_y - 22, width=_OUTPUT - 22, height=44, rx=9, class_="box data"),
        tag("text", "restored", x=x + 22 + (_OUTPUT - 22) / 2, y=card.data_y - 2, class_="head mid"),
        tag("text", "image", x=x + 22 + (_OUTPUT - 22) / 2, y=card.data_y + 14, class_="note mid"),
    )


def _arrow(d: str, hyper: bool = False) -> Markup:
    kind = "hyper" if hyper else "data"
    return tag("path", d=d, class_=f"flow {kind}", marker_end=f"url(#tip-{kind})")


def _arrowheads() -> Markup:
    return tag("defs", [_arrowhead("data"), _arrowhead("hyper")])


def _arrowhead(kind: str) -> Markup:
    head = tag("path", d="M0 0L7 3.5L0 7Z", class_=f"tip {kind}")
    return tag(
        "marker", head, id=f"tip-{kind}", viewBox="0 0 7 7", refX=6, refY=3.5, markerWidth=7, markerHeight=7,
        markerUnits="userSpaceOnUse", orient="auto",
    )  # fmt: skip


def _lane_middle() -> str:
    return number(_LANE_TOP + 4 + (_LANE_HEIGHT - 4) / 2)
