"""What is written down of a run: log.jsonl, and the same for experiment trackers."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hairify._support.files import write_text
from hairify.evaluation._conditioning import Conditioning
from hairify.training._trackers import Trackers

LOG = "log.jsonl"
"""Its name in a run's folder."""

Scores = Mapping[str, Mapping[str, float]]
"""By task, its scores by name: "psnr" in dB and "ssim"."""


@dataclass(frozen=True)
class StepReport:
    """What is known after a step.

    Attributes:
        step: counted from 1.
        steps: of the whole run.
        loss: mean over the step's images.
        losses: the mean over the images of each degradation.
        learning_rate: the step's.
        seconds: since the run started, without the time between an end and its resumption.
        unreadable: how many files could not be read up to now, as this process knows.
    """

    step: int
    steps: int
    loss: float
    losses: Mapping[str, float]
    learning_rate: float
    seconds: float
    unreadable: int


class RunLog:
    """log.jsonl in a run's folder, and what trackers are told.

    A line of log.jsonl is {"step", "loss", "losses", "learning_rate", "seconds"}, {"step", "validation", "best"} or
    {"step", "conditioning"}, the last as `hairify.evaluation.Conditioning.plain` has it.

    Args:
        folder: the run's.
        step: what was written of later steps is removed: they will be taken again.
        trackers: where numbers go, too; closed with the log.
    """

    def __init__(self, folder: Path, step: int, trackers: Trackers | None = None) -> None:
        self.path = folder / LOG
        _truncate(self.path, step)
        self._file = self.path.open("a", encoding="utf-8")
        self._trackers = trackers

    def step(self, report: StepReport) -> None:
        """Write down a step."""
        names = ("step", "loss", "losses", "learning_rate", "seconds")
        self._write({name: getattr(report, name) for name in names})
        scalars = {f"loss/{degradation}": loss for degradation, loss in report.losses.items()}
        self._show(report.step, {"loss/all": report.loss, **scalars, "learning_rate": report.learning_rate})

    def validation(self, step: int, scores: Scores, *, best: bool) -> None:
        """Write down the scores after a step, and whether they are the best so far."""
        plain = {task: dict(values) for task, values in scores.items()}
        self._write({"step": step, "validation": plain, "best": best})
        self._show(step, {f"{name}/{task}": value for task, values in scores.items() for name, value in values.items()})

    def conditioning(self, step: int, found: Conditioning) -> None:
        """Write down whether the network uses its GIV after a step."""
        plain = found.plain()
        self._write({"step": step, "conditioning": plain})
        scalars = {f"conditioning/{name}": plain[name] for name in ("gain", "cost_of_wrong", "recognised")}
        scalars |= {f"conditioning/spread/{level}": value for level, value in found.spread.items()}
        self._show(step, {name: value for name, value in scalars.items() if value is not None})

    def sync(self) -> None:
        """See to it that all is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Nothing more is written."""
        self._file.close()
        if self._trackers is not None:
            self._trackers.close()

    def _write(self, entry: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    def _show(self, step: int, scalars: Mapping[str, float]) -> None:
        if self._trackers is not None:
            self._trackers.show(step, scalars)


def best_score(path: Path, step: int, name: str) -> float | None:
    """The best score in a log up to a step, of those that were kept as the best.

    Args:
        path: log.jsonl.
        step: up to which the run is gone on with.
        name: of the score.

    Returns:
        None where there is none; also where a later step's network has taken its place.
    """
    if not path.exists():
        return None
    best = [entry for entry in map(_entry, path.read_text(encoding="utf-8").splitlines()) if entry.get("best")]
    if not best or best[-1]["step"] > step:
        return None
    return mean_score(best[-1]["validation"], name)


def mean_score(scores: Scores, name: str) -> float | None:
    """The mean over tasks of the score of this name; None where a task has none."""
    values = [one[name] for one in scores.values() if name in one]
    return statistics.mean(values) if values and len(values) == len(scores) else None


def _truncate(path: Path, step: int) -> None:
    """Remove entries of later steps, and a line that a killed run left incomplete."""
    if not path.exists():
        return
    kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
    write_text(path, "".join(f"{line}\n" for line in kept))


def _step_of(line: str) -> float:
    return _entry(line).get("step", float("inf"))


def _entry(line: str) -> dict[str, Any]:
    """What a line says; nothing, where it is incomplete."""
    try:
        entry = json.loads(line)
        return entry if isinstance(entry, dict) and isinstance(entry["step"], int) else {}
    except (ValueError, KeyError):
        return {}
