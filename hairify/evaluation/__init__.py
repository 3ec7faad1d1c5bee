"""Scores on test sets, and whether a converted network uses its GIV."""

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
from hairify.evaluation._conditioning import Conditioning, NOT_MEASURED, PERFECT, measure_conditioning, psnr

__all__ = [
    "AVERAGE",
    "Conditioning",
    "NOT_MEASURED",
    "PERFECT",
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
