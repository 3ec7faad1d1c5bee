"""Scores on test sets, and whether a converted network uses its GIV."""

from hairify.evaluation._conditioning import (
    LEAST_COST,
    NOT_MEASURED,
    PERFECT,
    Conditioning,
    Fidelity,
    measure_conditioning,
    psnr,
)
from hairify.evaluation._scores import (
    AVERAGE,
    Results,
    Score,
    conditioning_on,
    evaluate,
    mean,
    middle,
    read_results,
    score,
)

__all__ = [
    "AVERAGE",
    "LEAST_COST",
    "NOT_MEASURED",
    "PERFECT",
    "Conditioning",
    "Fidelity",
    "Results",
    "Score",
    "conditioning_on",
    "evaluate",
    "mean",
    "measure_conditioning",
    "middle",
    "psnr",
    "read_results",
    "score",
]
