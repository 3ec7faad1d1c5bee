"""What an evaluation came to, and how it is written down: JSON, Markdown, CSV, a table for the terminal."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from hairify.errors import DataError
from hairify.evaluation._protocols import HAIRIFY, PROTOCOLS
from hairify.evaluation._scores import Score, mean

AVERAGE = "average"
NOTHING = "–"
"""In place of a number that is not there."""


@dataclass(frozen=True)
class ImageResult:
    """One image of a task.

    Attributes:
        task: its name.
        degraded: the file, or the clean one on which the degradation is synthesised.
        clean: the file of the clean image.
        size: width and height of what was restored.
        tiled: whether that was done in tiles.
        before: the numbers of the degraded image: "psnr", "ssim", and those of further metrics.
        after: those of the restored one.
    """

    task: str
    degraded: str
    clean: str
    size: tuple[int, int]
    tiled: bool
    before: Mapping[str, float]
    after: Mapping[str, float]


@dataclass(frozen=True)
class Results:
    """Scores of one network.

    Attributes:
        scores: {task: mean over its images}, in the order of evaluation.
        counts: {task: number of images}.
        inputs: {task: mean score of the degraded images themselves}.
        unreadable: {image: reason} for those that were left out, since they could not be read, compared or restored,
            each under the degraded file where there is one. A task of which none is left has no scores.
        conditioning: of a HairModel, whether it uses its GIV, as `Conditioning.plain` has it; None: not measured.
        protocol: how it was measured; see `Protocol.title`.
        setting: of which the tasks are; None: of none.
        missing: tasks of the setting that were not there to measure.
        metrics: {metric: {task: mean of the degraded images, and of the restored ones}}, beside PSNR and SSIM.
        images: each image; not in the JSON.
    """

    scores: Mapping[str, Score]
    counts: Mapping[str, int]
    inputs: Mapping[str, Score]
    unreadable: Mapping[str, str] = field(default_factory=dict)
    conditioning: Mapping[str, Any] | None = None
    protocol: str = HAIRIFY.name
    setting: str | None = None
    missing: tuple[str, ...] = ()
    metrics: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    images: tuple[ImageResult, ...] = field(default=(), compare=False, repr=False)

    @property
    def average(self) -> Score:
        """The mean over tasks, each counting once, as in the paper's tables; `missing` tells whether any lacks."""
        return mean(list(self.scores.values()))

    @property
    def about(self) -> str:
        """How it was measured, in words: a table's title."""
        name = self.protocol.partition(",")[0]
        what = PROTOCOLS[name].about if name in PROTOCOLS else name
        told = f"PSNR in dB / SSIM, on {what}"
        if self.protocol != HAIRIFY.name:
            told += f" (protocol {self.protocol})"
        return told if self.setting is None else f"{told}, setting {self.setting}"

    def plain(self) -> dict[str, Any]:
        """The numbers as JSON has them; an infinite one is None, one that is no number "nan"."""

        def numbers(one: Score) -> dict[str, float | str | None]:
            return {"psnr": _plain(one.psnr), "ssim": _plain(one.ssim)}

        return {
            "protocol": self.protocol,
            "setting": self.setting,
            "tasks": {
                name: numbers(one)
                | {"images": self.counts[name], "input": numbers(self.inputs[name])}
                | {metric: [*map(_plain, values[name])] for metric, values in self.metrics.items()}
                for name, one in self.scores.items()
            },
            AVERAGE: numbers(self.average),
            "missing": list(self.missing),
            "metrics": list(self.metrics),
            "unreadable": dict(self.unreadable),
            **({} if self.conditioning is None else {"conditioning": dict(self.conditioning)}),
        }

    def to_json(self) -> str:
        """Everything but single images, as JSON text."""
        return json.dumps(self.plain(), indent=2, ensure_ascii=False) + "\n"

    def to_csv(self) -> str:
        """A line for each image, with all numbers of the degraded and of the restored one."""
        names = list(self.images[0].before) if self.images else ["psnr", "ssim"]
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        head = ["task", "degraded", "clean", "width", "height", "tiled"]
        lines.writerow([*head, *(f"input_{name}" for name in names), *names])
        for one in self.images:
            about = [one.task, one.degraded, one.clean, *one.size, int(one.tiled)]
            lines.writerow([*about, *(one.before[name] for name in names), *(one.after[name] for name in names)])
        return text.getvalue()

    def rows(self) -> list[tuple[str, ...]]:
        """Task, number of images, input and restored as "PSNR / SSIM", and further metrics; the average comes last."""
        rows = [
            (
                *(name, str(self.counts[name]), _cell(self.inputs[name]), _cell(one)),
                *(_change(*values[name]) for values in self.metrics.values()),
            )
            for name, one in self.scores.items()
        ]
        rows += [(name, "0", *[NOTHING] * (2 + len(self.metrics))) for name in self.missing]
        label = AVERAGE if not self.missing else f"{AVERAGE} of the {len(self.scores)} that are there"
        means = [
            _change(*(sum(ends) / len(ends) for ends in zip(*one.values(), strict=True)))
            for one in self.metrics.values()
        ]
        inputs = mean(list(self.inputs.values()))
        return [*rows, (label, str(sum(self.counts.values())), _cell(inputs), _cell(self.average), *means)]

    def to_markdown(self) -> str:
        """A table like the paper's, with PSNR in dB / SSIM."""
        lines = [f"| | {' | '.join(self.heads)} |", f"|---|{'---:|' * len(self.heads)}"]
        lines += [f"| {' | '.join(row)} |" for row in self.rows()]
        if self.conditioning is not None:
            lines += ["", _in_words(self.conditioning)]
        return "\n".join(lines) + "\n"

    def table(self) -> Table:
        """The same for the terminal."""
        table = Table(title=self.about, title_justify="left")
        table.add_column("")
        for name in self.heads:
            table.add_column(name, justify="right")
        rows = self.rows()
        for row in rows:
            table.add_row(*map(Text, row), end_section=row is rows[-2])
        return table

    @property
    def heads(self) -> tuple[str, ...]:
        """What stands above the columns of numbers."""
        return ("images", "input", "restored", *self.metrics)


def read_results(path: Path) -> Results:
    """Results from a file that `Results.to_json` wrote.

    Raises:
        DataError: it is missing, or was written by something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        tasks = data["tasks"]
        return Results(
            scores={name: _score(one) for name, one in tasks.items()},
            counts={name: int(one["images"]) for name, one in tasks.items()},
            inputs={name: _score(one["input"]) for name, one in tasks.items()},
            unreadable=data["unreadable"],
            conditioning=data.get("conditioning"),
            # Those that hairify 0.1 wrote have none of these.
            protocol=data.get("protocol", HAIRIFY.name),
            setting=data.get("setting"),
            missing=tuple(data.get("missing", ())),
            metrics={
                metric: {name: (_number(one[metric][0]), _number(one[metric][1])) for name, one in tasks.items()}
                for metric in data.get("metrics", ())
            },
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} holds no results of `hairify evaluate`: {error}") from error


def _in_words(conditioning: Mapping[str, Any]) -> str:
    used = "uses" if conditioning["used"] else "does not use"
    told = conditioning["recognised"]
    recognised = "" if told is None else f" Nearest mean GIVs tell degradations apart in {told:.0%}."
    return (
        f"The network {used} its GIV: each image's own is {conditioning['gain']:.2f} dB better than the mean GIV, and "
        f"{conditioning['cost_of_wrong']:.2f} dB better than that of another degradation.{recognised}"
    )


def _cell(one: Score) -> str:
    return f"{one.psnr:.2f} / {one.ssim:.3f}"


def _change(before: float, after: float) -> str:
    return f"{before:.3f} → {after:.3f}"


def _plain(value: float) -> float | str | None:
    return None if value == math.inf else "nan" if math.isnan(value) else value


def _number(value: float | str | None) -> float:
    return math.inf if value is None else float(value)


def _score(data: Mapping[str, Any]) -> Score:
    return Score(_number(data["psnr"]), _number(data["ssim"]))
