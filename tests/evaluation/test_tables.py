"""Tables of several networks' results: what is best, what is missing, what cannot be compared."""

from __future__ import annotations

import math
from typing import Any

import pytest

from hairify.errors import DataError, OptionError
from hairify.evaluation import Results, ResultsTable, Score


def results(counts: int = 100, **options: Any) -> Results:
    """Of tasks by name, each (PSNR, SSIM)."""
    tasks = {name.replace("_", " "): Score(*pair) for name, pair in options.pop("tasks").items()}
    inputs = options.pop("inputs", Score(20.0, 0.5))
    return Results(tasks, dict.fromkeys(tasks, counts), dict.fromkeys(tasks, inputs), **options)


STATIC = results(tasks={"SOTS": (30.0, 0.97), "Rain100L": (36.001, 0.98), "BSD68_noise25": (31.2, 0.88)})
HAIR = results(tasks={"SOTS": (31.0, 0.979), "Rain100L": (36.004, 0.97), "BSD68_noise25": (31.0, 0.89)})
PART = results(tasks={"SOTS": (31.5, 0.96)})


def test_markdown() -> None:
    text = ResultsTable({"Restormer": STATIC, "Res-HAIR": HAIR, "a|b": PART}).to_markdown()
    assert text.splitlines() == [
        "| | SOTS | Rain100L | BSD68 noise25 | mean |",
        "|---|---:|---:|---:|---:|",
        "| Restormer | 30.00 / 0.970 | **36.00** / **0.980** | **31.20** / 0.880 | 32.40 / 0.943 |",
        "| Res-HAIR | 31.00 / **0.979** | **36.00** / 0.970 | 31.00 / **0.890** | **32.67** / **0.946** |",
        "| a\\|b | **31.50** / 0.960 | – | – | – |",
    ]


def test_what_is_not_there_is_one_dash_in_the_terminal_too() -> None:
    table = ResultsTable({"Restormer": STATIC, "a": PART}).table()
    assert [str(cell) for cell in table.columns[2].cells] == ["36.00 / 0.980", "–"]


def test_latex() -> None:
    text = ResultsTable({"Res_HAIR & co": HAIR, "100%": PART}, shown="both").to_latex()
    assert text.splitlines() == [
        r"\begin{tabular}{lcccccccc}",
        r"\toprule",
        r" & \multicolumn{2}{c}{SOTS} & \multicolumn{2}{c}{Rain100L} & \multicolumn{2}{c}{BSD68 noise25} & "
        r"\multicolumn{2}{c}{mean} \\",
        r" & PSNR & SSIM & PSNR & SSIM & PSNR & SSIM & PSNR & SSIM \\",
        r"\midrule",
        r"Res\_HAIR \& co & 31.00 & \textbf{0.979} & \textbf{36.00} & \textbf{0.970} & \textbf{31.00} & \textbf{0.890} "
        r"& \textbf{32.67} & \textbf{0.946} \\",
        r"100\% & \textbf{31.50} & 0.960 & -- & -- & -- & -- & -- & -- \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_one_metric_and_one_row() -> None:
    table = ResultsTable({"alone": PART}, shown="ssim")
    assert table.to_markdown().splitlines()[2] == "| alone | 0.960 | 0.960 |"
    assert r"alone & 0.960 & 0.960 \\" in table.to_latex()
    assert table.table().row_count == 1


def test_a_setting_fixes_the_columns() -> None:
    other = results(tasks={"CBSD68_noise25": (31.1, 0.88), "holiday": (50.0, 1.0), "SOTS": (30.5, 0.9)})
    table = ResultsTable({"a": STATIC, "b": other}, "5-task")
    assert table.columns == ["SOTS", "Rain100L", "BSD68 noise25", "GoPro", "LOL-v1", "mean"]
    assert table.score("b", "BSD68 noise25") == Score(31.1, 0.88)
    assert table.score("a", "mean") is None
    with pytest.raises(DataError, match="None of b was measured on the setting 'derain'"):
        ResultsTable({"b": other}, "derain")
    with pytest.raises(OptionError, match="`setting` is '4-task'"):
        ResultsTable({"b": other}, "4-task")
    with pytest.raises(OptionError, match="`rows` is empty"):
        ResultsTable({})


def test_numbers_that_are_none_or_infinite_are_no_accident() -> None:
    table = ResultsTable(
        {
            "broken": results(tasks={"SOTS": (math.nan, math.nan)}),
            "perfect": results(tasks={"SOTS": (math.inf, 1.0)}),
            "usual": results(tasks={"SOTS": (30.0, 0.9)}),
        }
    )
    lines = table.to_markdown().splitlines()
    assert lines[2] == "| broken | nan / nan | nan / nan |"
    assert lines[3] == "| perfect | **inf** / **1.000** | **inf** / **1.000** |"


def test_what_cannot_be_compared_is_named() -> None:
    assert ResultsTable({"a": STATIC, "b": HAIR, "c": PART}).notes == []
    (note,) = ResultsTable({"a": STATIC, "b": results(tasks={"SOTS": (1.0, 0.1)}, protocol="promptir")}).notes
    assert note == "The rows were measured by several protocols and cannot be compared: a: hairify; b: promptir."
    fewer = results(99, tasks={"SOTS": (1.0, 0.1), "Rain100L": (1.0, 0.1)})
    assert len(ResultsTable({"a": STATIC, "b": fewer}).notes) == 2
    degraded_otherwise = results(tasks={"SOTS": (1.0, 0.1)}, inputs=Score(20.2, 0.5))
    table = ResultsTable({"a": STATIC, "b": degraded_otherwise})
    assert table.notes == ["The rows were measured on other images of SOTS: 100 of 20.00 dB; 100 of 20.20 dB."]
    assert table.notes[0] in table.to_markdown()
    assert f"% {table.notes[0]}" in table.to_latex()


def test_what_a_setting_lacked_is_a_column_without_numbers() -> None:
    lacking = results(tasks={"SOTS": (30.0, 0.9)}, setting="3-task", missing=("Rain100L",))
    lines = lacking.to_markdown().splitlines()
    assert lines[3:5] == [
        "| Rain100L | 0 | – | – |",
        "| average of the 1 that are there | 100 | 20.00 / 0.500 | 30.00 / 0.900 |",
    ]
    assert ResultsTable({"a": lacking}).columns == ["SOTS", "Rain100L", "mean"]
    assert lacking.table().row_count == 3
