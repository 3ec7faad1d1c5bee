"""The curves of a training run, from its log."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hairify.errors import DataError
from hairify.report._findings import Curves


def read_log(path: Path) -> Curves:
    """The curves in a run's log.jsonl.

    A step that stands there twice was done again after a resume, and the later one counts. Numbers that are not
    finite are left out.

    Raises:
        DataError: the file cannot be read.
    """
    losses: dict[str, dict[int, float]] = defaultdict(dict)
    validation: dict[str, dict[int, float]] = defaultdict(dict)
    conditioning: dict[str, dict[int, float]] = defaultdict(dict)
    unreadable = 0
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataError(
            f"The log {path} cannot be read: {error}. Name the folder that `hairify train` wrote."
        ) from error
    for line in lines:
        if (entry := _object(line)) is None:
            unreadable += 1
            continue
        for name, value in entry.get("losses", {}).items():
            losses[name][entry["step"]] = value
        for name, scores in entry.get("validation", {}).items():
            validation[name][entry["step"]] = scores["psnr"]
        for name, key in (("the mean GIV", "gain"), ("another degradation's GIV", "cost_of_wrong")):
            if (value := entry.get("conditioning", {}).get(key)) is not None:
                conditioning[name][entry["step"]] = value
    return Curves(_finite(losses), _finite(validation), _finite(conditioning), unreadable)


def _object(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("step"), int) else None


def _finite(curves: Mapping[str, Mapping[int, float]]) -> dict[str, tuple[tuple[int, float], ...]]:
    kept = {
        name: tuple((s, v) for s, v in sorted(points.items()) if math.isfinite(v)) for name, points in curves.items()
    }
    return {name: points for name, points in kept.items() if points}
