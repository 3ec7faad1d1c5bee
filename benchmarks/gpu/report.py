"""What was found, as JSON, Markdown, and a short table for the end of the output."""

from __future__ import annotations

import dataclasses
import itertools
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.cases import Variant
from benchmarks.gpu import kernels
from benchmarks.machine import Machine
from benchmarks.measure import Result
from benchmarks.report import as_json, as_markdown, table

_KERNELS = """\
Time of the GPU alone, without Python and the starts of kernels; ratios to the ordinary operation with one weight for
all images. In bold what hairify takes. "bfloat16" are numbers cast beforehand, as under autocast; "TF32" is float32
with products and convolutions in TF32, "float32" with PyTorch's defaults: convolutions in TF32, products not."""

_MAKING = """\
Microseconds of the GPU for the per-image weights of one layer, from a full box of N = 5 rows and from one of low rank
(N = 4, rank 8), by number of images."""


@dataclass
class Found:
    """All of a run, so far."""

    machine: Machine
    results: list[Result] = field(default_factory=list)
    conversion: dict[str, float] = field(default_factory=dict)
    rows: list[kernels.Row] = field(default_factory=list)
    making: list[list[str]] = field(default_factory=list)
    tests: str = "not run"

    def write(self, folder: Path) -> None:
        """As `results.json` and `results.md`."""
        values = as_json(self.results, self.machine, self.conversion) | {
            "tests": self.tests,
            "kernels": [dataclasses.asdict(row) for row in self.rows],
            "making_microseconds": self.making,
        }
        (folder / "results.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        (folder / "results.md").write_text(self._markdown(), encoding="utf-8")

    def _markdown(self) -> str:
        parts = [as_markdown(self.results, self.machine, self.conversion), f"## Tests\n\n{self.tests}"]
        if self.rows:
            parts += ["## Kernels", _KERNELS]
        for setting, group in itertools.groupby(self.rows, lambda row: row.setting):
            parts.append(f"### {setting}\n\n{kernels.as_table(list(group))}")
        if self.making:
            parts += ["## Making weights", _MAKING, table(making_head(len(self.making[0])), self.making)]
        return "\n\n".join(parts) + "\n"

    def summary(self) -> str:
        """Short enough for the end of a long output."""
        parts = [str(self.machine), f"Tests: {self.tests}", cases_table(self.results)]
        for setting, group in itertools.groupby(self.rows[: _shown(self.rows)], lambda row: row.setting):
            parts.append(f"{setting}\n{kernels.as_table(list(group))}")
        return "\n\n".join(parts)


def _shown(rows: Sequence[kernels.Row]) -> int:
    """Those of the first precision and number of images."""
    return sum((row.setting.batch, row.setting.precision) == _first(rows) for row in rows)


def _first(rows: Sequence[kernels.Row]) -> tuple[int, str]:
    return rows[0].setting.batch, rows[0].setting.precision


def making_head(columns: int) -> list[str]:
    """Of the table of what making weights takes."""
    batches = (1, 8, 32)[: columns // 2]
    return ["operation", *(f"{kind}, {batch}" for batch in batches for kind in ("full", "low rank"))]


_OTHERS: tuple[Variant, ...] = ("hairified", "tuned", "grouped", "conditioned", "baked")


def cases_table(results: Sequence[Result]) -> str:
    """Each case's ratios, the share of making weights, and kernels with the share of time in which the GPU works."""
    head = ["case", "static, ms", *_OTHERS, "making", "kernels", "busy"]
    return table(head, [_line(result, len(head)) for result in results])


def _line(result: Result, columns: int) -> list[str]:
    if result.skipped is not None:
        return [result.case.name, result.skipped[:60], *[""] * (columns - 2)]
    cells = [result.case.name.removesuffix("/compiled"), f"{1000 * result.median('static'):.2f}"]
    for variant in _OTHERS:
        cells.append(f"{statistics.median(result.ratios(variant)):.2f}" if variant in result.seconds else "")
    is_forward = result.case.mode == "forward" and result.generation is not None
    cells.append(f"{100 * (result.generation or 0) / result.median('hairified'):.0f}%" if is_forward else "")
    shown: list[Variant] = [v for v in ("static", "hairified") if v in result.launches]
    cells.append(" → ".join(str(result.launches[v].kernels) for v in shown))
    cells.append(" → ".join(f"{100 * result.launches[v].busy / result.median(v):.0f}%" for v in shown))
    return cells
