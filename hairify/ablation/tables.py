"""The paper's Tables 5 to 8: scores of several settings over several seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from rich.table import Table
from rich.text import Text

from hairify.evaluation._results import AVERAGE, NOTHING
from hairify.evaluation._scores import Score, mean

Metric: TypeAlias = Literal["psnr", "ssim"]

BASELINE = "static"
_PARTS = {"static": (False, False), "dac": (True, False), "hsn": (False, True), "both": (True, True)}
"""{variant: (has it a DAC, has it HSNs)}."""


@dataclass(frozen=True)
class Row:
    """One setting.

    Attributes:
        name: of its runs, such as "both" or "both@latent.1"; fit for a file name.
        variant: see `hairify.ablation.variants.make_variant`.
        split: the module whose output feeds the DAC.
        asked: how a sweep asked for this split: its name, or fractions of the layer calls; of Tables 7 and 8, the
            groups of degradations that were combined.
        together: of a row of Tables 7 and 8, the degradations that its models learn; else none, for all.
    """

    name: str
    variant: str
    split: str
    asked: tuple[str, ...] = ()
    together: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """One model, trained and evaluated.

    Attributes:
        row: name of its row.
        seed: of weights and training.
        parameters: of the model, in number.
        scores: {task: mean over its images}.
    """

    row: str
    seed: int
    parameters: int
    scores: Mapping[str, Score]

    def score(self, task: str) -> Score:
        """The score of one task, or for "average" the mean over tasks, each counting once."""
        return mean(list(self.scores.values())) if task == AVERAGE else self.scores[task]


@dataclass(frozen=True)
class Spread:
    """Mean over seeds and sample standard deviation (of the divisor n − 1), which one seed does not have."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Mean and standard deviation of one value or more; a single one has no deviation."""
        middle = sum(values) / len(values)
        if len(values) == 1:
            return cls(middle, None)
        return cls(middle, math.sqrt(sum((value - middle) ** 2 for value in values) / (len(values) - 1)))


@dataclass(frozen=True)
class AblationTable:
    """What an ablation came to.

    Attributes:
        variants: rows of the paper's Table 5.
        positions: rows of its Table 6, in the order in which they were asked for. One whose conversion is that of the
            variant "both" has its name and runs.
        runs: all of them, the same seeds for each row, and the same tasks but for `combinations`.
        combinations: rows of its Tables 7 and 8, whose models are tested on what they learn. The static network of each
            combination stands before the others.
    """

    variants: tuple[Row, ...]
    positions: tuple[Row, ...]
    runs: tuple[Run, ...]
    combinations: tuple[Row, ...] = ()

    @property
    def tasks(self) -> list[str]:
        """The tasks in the order of evaluation, and the average where there are several."""
        tasks = list(dict.fromkeys(task for run in self._widest_first() for task in run.scores))
        return [*tasks, AVERAGE] if len(tasks) > 1 else tasks

    @property
    def seeds(self) -> int:
        """The number of seeds."""
        return len({run.seed for run in self.runs})

    @property
    def has_baseline(self) -> bool:
        """Whether the static network was run, which the others are compared with."""
        return any(row.variant == BASELINE for row in (*self.variants, *self.combinations))

    def parameters(self, row: Row) -> int:
        """The number of parameters of a row's model."""
        return self._runs_of(row.name)[0].parameters

    def has(self, row: Row, task: str) -> bool:
        """Whether a row's models were tested on a task; averages over other tasks each are not beside one another."""
        return not row.together if task == AVERAGE else task in self._runs_of(row.name)[0].scores

    def baseline(self, row: Row) -> Row | None:
        """The row of the static network with which another is compared; None: there is none, or it is that one."""
        rows = self.combinations if row.together else self.variants
        found = (one for one in rows if one.variant == BASELINE and one.together == row.together)
        return None if row.variant == BASELINE else next(found, None)

    def spread(self, row: Row, task: str, metric: Metric) -> Spread:
        """How the PSNR or SSIM of one task, or of "average", spreads over seeds."""
        return Spread.of([getattr(run.score(task), metric) for run in self._runs_of(row.name)])

    def difference(self, row: Row, task: str, metric: Metric) -> Spread:
        """How the gain of a row's models over the static network of the same seed spreads.

        Pairs have their initial weights and data in common, so their differences spread less than the scores.
        """
        baseline = self.baseline(row) or row
        pairs = zip(self._runs_of(row.name), self._runs_of(baseline.name), strict=True)
        return Spread.of(
            [getattr(own.score(task), metric) - getattr(other.score(task), metric) for own, other in pairs]
        )

    def to_json(self) -> str:
        """Everything, each run too, as JSON text; what is not finite is null."""

        def plain(row: Row) -> dict[str, Any]:
            numbers: dict[str, Any] = {"scores": self._plain(row, self.spread)}
            if row.variant == BASELINE or self.baseline(row):
                numbers["less_static"] = self._plain(row, self.difference)
            return {**asdict(row), "parameters": self.parameters(row), **numbers}

        data = {
            "seeds": self.seeds,
            "variants": [plain(row) for row in self.variants],
            "positions": [plain(row) for row in self.positions],
            "combinations": [plain(row) for row in self.combinations],
            "runs": [plain_run(run) for run in self.runs],
        }
        return json.dumps(data, indent=2, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        """Tables like the paper's 5 to 8, each followed by one of differences from the static network."""
        parts = []
        for head, rows, about in self._sections():
            parts.append(f"PSNR in dB / SSIM, {self._over_seeds()}:\n\n{self._markdown(head, rows, about)}")
            others = [row for row in rows if self.baseline(row)]
            if others:
                cells = self._markdown(head, others, about, paired=True)
                parts.append(f"The same less those of the static network, seed by seed:\n\n{cells}")
        return "\n".join(parts)

    def table(self) -> Table:
        """All rows in one table for the terminal, with what the average is more than the static network's."""
        table = Table(title=f"PSNR in dB, and SSIM: {self._over_seeds()}", title_justify="left", show_lines=True)
        for name in ("", "size", *self.tasks, *(["less static"] if self.has_baseline else [])):
            table.add_column(Text(name), justify="right" if name else "left", overflow="fold")
        for row in (*self.variants, *self.positions, *self.combinations):
            label = f"{row.split}\n({', '.join(row.asked)})" if row.asked and not row.together else row.name
            cells = ["\n".join(self._cell(row, task)) for task in self.tasks]
            if self.has_baseline:
                less = self._cell(row, self.tasks[-1], paired=True)
                cells.append("\n".join(less) if self.baseline(row) else "")
            table.add_row(Text(label), _millions(self.parameters(row)), *cells)
        return table

    def _widest_first(self) -> list[Run]:
        return sorted(self.runs, key=lambda run: -len(run.scores))

    def _runs_of(self, name: str) -> list[Run]:
        return sorted((run for run in self.runs if run.row == name), key=lambda run: run.seed)

    def _plain(self, row: Row, spread: Callable[[Row, str, Metric], Spread]) -> dict[str, Any]:
        return {
            task: {
                metric: {name: _finite(value) for name, value in asdict(spread(row, task, metric)).items()}
                for metric in ("psnr", "ssim")
            }
            for task in self.tasks
            if self.has(row, task)
        }

    def _sections(self) -> list[tuple[list[str], tuple[Row, ...], Callable[[Row], list[str]]]]:
        """Heads, rows and first cells of the tables that are not empty."""
        sections: list[tuple[list[str], tuple[Row, ...], Callable[[Row], list[str]]]] = [
            (["setting", "DAC", "HSN"], self.variants, lambda row: [row.name, *map(_mark, _PARTS[row.variant])]),
            (["split", "asked for"], self.positions, lambda row: [f"`{row.split}`", ", ".join(row.asked)]),
            (["setting", *self._learned], self.combinations, self._about_combination),
        ]
        return [section for section in sections if section[1]]

    @property
    def _learned(self) -> list[str]:
        """All groups of degradations that are combined."""
        return list(dict.fromkeys(group for row in self.combinations for group in row.asked))

    def _about_combination(self, row: Row) -> list[str]:
        return [row.variant, *(_mark(group in row.asked) for group in self._learned)]

    def _markdown(
        self,
        head: list[str],
        rows: Sequence[Row],
        about: Callable[[Row], list[str]],
        *,
        paired: bool = False,
    ) -> str:
        names = [*head, "parameters", *self.tasks]
        lines = [names, ["---"] * len(head) + ["---:"] * (len(names) - len(head))]
        for row in rows:
            cells = [" / ".join(self._cell(row, task, paired=paired)) for task in self.tasks]
            lines.append([*about(row), _millions(self.parameters(row)), *cells])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"

    def _cell(self, row: Row, task: str, *, paired: bool = False) -> tuple[str, ...]:
        """PSNR and SSIM in words, or their differences from the static network's."""
        if not (self.has(row, task) or (paired and task == AVERAGE)):
            return (NOTHING,)
        spread, sign = (self.difference, "+") if paired else (self.spread, "")
        return _words(spread(row, task, "psnr"), f"{sign}.2f"), _words(spread(row, task, "ssim"), f"{sign}.3f")

    def _over_seeds(self) -> str:
        if self.seeds == 1:
            return "one seed"
        return f"mean ± standard deviation over {self.seeds} seeds"


def plain_run(run: Run) -> dict[str, Any]:
    """A run as JSON has it; an infinite PSNR is None."""
    scores = {task: {"psnr": _finite(one.psnr), "ssim": one.ssim} for task, one in run.scores.items()}
    return {"row": run.row, "seed": run.seed, "parameters": run.parameters, "scores": scores}


def run_from(data: Mapping[str, Any]) -> Run:
    """The run that `plain_run` gave."""
    scores = {
        task: Score(math.inf if one["psnr"] is None else float(one["psnr"]), float(one["ssim"]))
        for task, one in data["scores"].items()
    }
    return Run(str(data["row"]), int(data["seed"]), int(data["parameters"]), scores)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _words(spread: Spread, form: str) -> str:
    mean = format(spread.mean, form)
    return mean if spread.deviation is None else f"{mean} ± {format(spread.deviation, form.lstrip('+'))}"


def _mark(present: bool) -> str:
    return "✓" if present else "×"


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.1f}M" if parameters >= 1e6 else f"{parameters:,}"
