"""What is done with a network under way: it is written, scored, and asked whether it uses its GIV."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeAlias

import torch
from torch import nn

from hairify.evaluation._conditioning import NOT_MEASURED, Conditioning
from hairify.model import HairModel
from hairify.training._folders import BEST
from hairify.training._logs import RunLog, Scores, mean_score
from hairify.training._progress import ProgressBar

Validate: TypeAlias = Callable[[nn.Module], Scores]
Measure: TypeAlias = Callable[[HairModel], Conditioning | None]
Keep: TypeAlias = Callable[[str, int], None]


class Looking:
    """All processes score together; the main one writes and asks.

    Args:
        model: the network, which has the averaged weights at each look.
        validate: scores of a network; all processes call it.
        measure: whether a HairModel uses its GIV.
        keep: writes the network under a name.
        bar: shows what is found.
        writing: given a path, a context in which errors of writing there are named.
    """

    def __init__(
        self,
        model: nn.Module,
        validate: Validate | None,
        measure: Measure | None,
        keep: Keep | None,
        bar: ProgressBar,
        writing: Callable[[Path], AbstractContextManager[None]],
    ) -> None:
        self._model, self._bar, self._writing = model, bar, writing
        self._validate, self._measure, self._keep = validate, measure, keep

    def wants(self, saves: bool, looks: bool) -> bool:
        """Whether anything is done with the network at a checkpoint, or at a look; the same in all processes."""
        keeps = self._keep is not None and (saves or looks)
        return keeps or (looks and (self._validate or self._measure) is not None)

    def keep(self, name: str, step: int) -> None:
        """Write the network as it is after a step."""
        if self._keep is not None:
            with self._writing(Path(name)):
                self._keep(name, step)

    def look(self, step: int, best_by: str, best: float | None, log: RunLog | None, *, last: bool) -> float | None:
        """Score the network after a step, and see whether it uses its GIV.

        Args:
            step: taken.
            best_by: name of the score whose mean over tasks tells which network is the best.
            best: the best up to now.
            log: where it is written down; the main process's, others have none.
            last: whether the run is at its end.

        Returns:
            The best now.
        """
        if self._validate is not None:
            with torch.no_grad():
                scores = self._validate(self._model)
            if scores and log is not None:
                best = self._note_scores(scores, step, best_by, best, log)
        if log is not None and self._measure is not None and isinstance(self._model, HairModel):
            self._note_conditioning(self._measure(self._model), self._model, step, log, last=last)
        return best

    def _note_scores(
        self, scores: Mapping[str, Mapping[str, float]], step: int, best_by: str, best: float | None, log: RunLog
    ) -> float | None:
        score = mean_score(scores, best_by)
        is_best = score is not None and not math.isnan(score) and (best is None or score > best)
        if is_best:
            self.keep(BEST, step)
        with self._writing(log.path):
            log.validation(step, scores, best=is_best)
        self._bar.validation(step, scores)
        return score if is_best else best

    def _note_conditioning(
        self, found: Conditioning | None, model: HairModel, step: int, log: RunLog, *, last: bool
    ) -> None:
        """Say whether the network uses its GIV, and at the end, where it does not, what to try."""
        if found is None:
            if last:
                self._bar.note(NOT_MEASURED)
            return
        with self._writing(log.path):
            log.conditioning(step, found)
        self._bar.note(f"step {step}: {found}")
        advice = found.advice(model)
        if advice and last:
            self._bar.note(advice)
