"""Scores on test sets, and whether a converted network uses its GIV."""

from hairify.evaluation._conditioning import NOT_MEASURED, PERFECT, Conditioning, measure_conditioning, psnr
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
    "NOT_MEASURED",
    "PERFECT",
    "Conditioning",
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
