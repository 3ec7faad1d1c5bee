"""Results of several networks beside one another, as papers have them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.table import Table
from rich.text import Text

from hairify.errors import DataError, OptionError
from hairify.evaluation._results import NOTHING, Results
from hairify.evaluation._scores import Score, mean
from hairify.evaluation._settings import SETTINGS

_MEAN = "mean"
Shown = Literal["both", "psnr", "ssim"]


@dataclass(frozen=True)
class ResultsTable:
    """Rows are networks, columns are tasks, and last comes the mean over tasks, each counting once.

    The best of each column is bold; where several round to the same, all are. What was not measured is a dash, and a
    row that lacks anything has no mean.

    Attributes:
        rows: {network: its results}.
        setting: whose tasks are the columns; None: all that any network was measured on.
        shown: PSNR in dB and SSIM, or one of them.

    Raises:
        OptionError: there are no rows, or no such setting.
        DataError: none of the rows has a task of the setting.
    """

    rows: Mapping[str, Results]
    setting: str | None = None
    shown: Shown = "both"

    def __post_init__(self) -> None:
        if not self.rows:
            raise OptionError("`rows` is empty; give results of at least one network.")
        if self.setting is not None and self.setting not in SETTINGS:
            raise OptionError(f"`setting` is {self.setting!r}; accepted are {', '.join(SETTINGS)}.")
        if not any(self._score(results, names) for results in self.rows.values() for names in self._columns.values()):
            raise DataError(
                f"None of {', '.join(self.rows)} was measured on the setting {self.setting!r}, which is "
                f"{', '.join(self._columns)}."
            )

    @property
    def columns(self) -> list[str]:
        """The heads of the columns with numbers."""
        return [*self._columns, _MEAN]

    @property
    def notes(self) -> list[str]:
        """What speaks against comparing the rows: other protocols, or other images."""
        notes = []
        protocols = {label: results.protocol for label, results in self.rows.items()}
        if len(set(protocols.values())) > 1:
            listed = "; ".join(f"{label}: {protocol}" for label, protocol in protocols.items())
            notes.append(f"The rows were measured by several protocols and cannot be compared: {listed}.")
        for head, names in self._columns.items():
            own = {label: found for label, one in self.rows.items() if (found := self._name(one, names)) is not None}
            of_what = {
                (self.rows[label].counts[name], _rounded(self.rows[label].inputs[name], "psnr"))
                for label, name in own.items()
            }
            if len(of_what) > 1 and len(set(protocols.values())) == 1:
                listed = "; ".join(f"{count} of {psnr} dB" for count, psnr in sorted(of_what))
                notes.append(f"The rows were measured on other images of {head}: {listed}.")
        return notes

    def score(self, label: str, column: str) -> Score | None:
        """What stands in a cell; None: nothing."""
        results = self.rows[label]
        if column != _MEAN:
            return self._score(results, self._columns[column])
        own = [self._score(results, names) for names in self._columns.values()]
        present = [one for one in own if one is not None]
        return mean(present) if len(present) == len(own) else None

    def to_markdown(self) -> str:
        """The table in Markdown, with the notes below."""
        heads = " | ".join(_escaped(head, "|", _MARKDOWN) for head in self.columns)
        lines = [f"| | {heads} |", f"|---|{'---:|' * len(self.columns)}"]
        for label in self.rows:
            cells = [self._in_markdown(label, head) for head in self.columns]
            lines.append(f"| {' | '.join([_escaped(label, '|', _MARKDOWN), *cells])} |")
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)]) + "\n"

    def _in_markdown(self, label: str, column: str) -> str:
        if self.score(label, column) is None:
            return NOTHING
        return " / ".join(_bold(*one, "**", "**") for one in self._cell(label, column))

    def to_latex(self) -> str:
        """The table in LaTeX, for the package booktabs; PSNR and SSIM each have a column of their own."""
        metrics = self._metrics
        width = len(metrics)
        lines = [
            *(f"% {note}" for note in self.notes),
            rf"\begin{{tabular}}{{l{'c' * (width * len(self.columns))}}}",
            r"\toprule",
            " & ".join(["", *(_spanned(_latex(head), width) for head in self.columns)]) + r" \\",
        ]
        if width > 1:
            lines.append(" & ".join(["", *(["PSNR", "SSIM"] * len(self.columns))]) + r" \\")
        lines.append(r"\midrule")
        for label in self.rows:
            cells = [_bold(*one, r"\textbf{", "}") for head in self.columns for one in self._cell(label, head)]
            lines.append(" & ".join([_latex(label), *(one.replace(NOTHING, "--") for one in cells)]) + r" \\")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"

    def table(self) -> Table:
        """The same for the terminal."""
        table = Table()
        table.add_column("")
        for head in self.columns:
            table.add_column(Text(head), justify="right")
        for label in self.rows:
            cells = []
            for head in self.columns:
                parts = [Text(text, style="bold" if best else "") for text, best in self._cell(label, head)]
                cells.append(Text(NOTHING) if self.score(label, head) is None else Text(" / ").join(parts))
            table.add_row(Text(label), *cells)
        return table

    @property
    def _metrics(self) -> tuple[str, ...]:
        return ("psnr", "ssim") if self.shown == "both" else (self.shown,)

    @property
    def _columns(self) -> dict[str, tuple[str, ...]]:
        """{head: names of the task}; a test set of a setting may have several."""
        if self.setting is not None:
            return {names[0]: names for names in SETTINGS[self.setting]}
        tasks = dict.fromkeys(name for one in self.rows.values() for name in (*one.scores, *one.missing))
        return {name: (name,) for name in tasks}

    def _name(self, results: Results, names: Sequence[str]) -> str | None:
        return next((name for name in names if name in results.scores), None)

    def _score(self, results: Results, names: Sequence[str]) -> Score | None:
        name = self._name(results, names)
        return None if name is None else results.scores[name]

    def _cell(self, label: str, column: str) -> Iterator[tuple[str, bool]]:
        """The numbers of a cell as text, and whether each is the best of its column."""
        own = self.score(label, column)
        for metric in self._metrics:
            others = [one for other in self.rows if (one := self.score(other, column)) is not None]
            text = NOTHING if own is None else _rounded(own, metric)
            best = max((_rounded(one, metric) for one in others), key=_value, default=None)
            yield text, own is not None and text == best and len(self.rows) > 1


def _rounded(one: Score, metric: str) -> str:
    return format(getattr(one, metric), ".2f" if metric == "psnr" else ".3f")


def _value(text: str) -> float:
    value = float(text)
    return -math.inf if math.isnan(value) else value


def _bold(text: str, best: bool, before: str, after: str) -> str:
    return f"{before}{text}{after}" if best else text


_MARKDOWN: Callable[[str], str] = "\\{}".format
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "σ": r"$\sigma$"}


def _escaped(text: str, special: str, how: Callable[[str], str]) -> str:
    return "".join(how(character) if character in special else character for character in text)


def _latex(text: str) -> str:
    return _escaped(text, "\\~^σ&%$#_{}", lambda character: _LATEX.get(character, f"\\{character}"))


def _spanned(text: str, columns: int) -> str:
    return rf"\multicolumn{{{columns}}}{{c}}{{{text}}}" if columns > 1 else text
