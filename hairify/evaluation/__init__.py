"""Scores on test sets, by protocols of the field, and whether a converted network uses its GIV."""

from typing import TYPE_CHECKING

from hairify._support.on_demand import on_demand

if TYPE_CHECKING:
    from hairify.evaluation._choosing import Chosen, choose_tasks
    from hairify.evaluation._conditioning import (
        LEAST_COST,
        NOT_MEASURED,
        PERFECT,
        Conditioning,
        Fidelity,
        measure_conditioning,
        psnr,
    )
    from hairify.evaluation._crops import conditioning_on, middle
    from hairify.evaluation._metrics import Metric, metric_named
    from hairify.evaluation._protocols import HAIRIFY, PROTOCOLS, OnTop, Pairs, Protocol
    from hairify.evaluation._results import AVERAGE, ImageResult, Results, read_results
    from hairify.evaluation._running import InputScores, evaluate
    from hairify.evaluation._scores import Score, mean, score
    from hairify.evaluation._settings import SETTINGS, EvaluationSettings
    from hairify.evaluation._tables import ResultsTable
else:
    __getattr__, __dir__ = on_demand(
        __name__,
        {
            "_choosing": ("Chosen", "choose_tasks"),
            "_conditioning": (
                "LEAST_COST",
                "NOT_MEASURED",
                "PERFECT",
                "Conditioning",
                "Fidelity",
                "measure_conditioning",
                "psnr",
            ),
            "_crops": ("conditioning_on", "middle"),
            "_metrics": ("Metric", "metric_named"),
            "_protocols": ("HAIRIFY", "PROTOCOLS", "OnTop", "Pairs", "Protocol"),
            "_results": ("AVERAGE", "ImageResult", "Results", "read_results"),
            "_running": ("InputScores", "evaluate"),
            "_scores": ("Score", "mean", "score"),
            "_settings": ("SETTINGS", "EvaluationSettings"),
            "_tables": ("ResultsTable",),
        },
    )

__all__ = [
    "AVERAGE",
    "HAIRIFY",
    "LEAST_COST",
    "NOT_MEASURED",
    "PERFECT",
    "PROTOCOLS",
    "SETTINGS",
    "Chosen",
    "Conditioning",
    "EvaluationSettings",
    "Fidelity",
    "ImageResult",
    "InputScores",
    "Metric",
    "OnTop",
    "Pairs",
    "Protocol",
    "Results",
    "ResultsTable",
    "Score",
    "choose_tasks",
    "conditioning_on",
    "evaluate",
    "mean",
    "measure_conditioning",
    "metric_named",
    "middle",
    "psnr",
    "read_results",
    "score",
]
