"""What lies in folders, how it is read, and what was not understood, before anything is done with it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from hairify.data._layouts import survey
from hairify.data._named_pairs import find_named_pairs, halves_of_named_pairs
from hairify.data._shards import Shards, find_shards
from hairify.data._sources import Findings, Source
from hairify.data.datasets import DataSettings, Task, test_tasks, training_tasks
from hairify.errors import DataError, HairWarning

_T = TypeVar("_T")


@dataclass
class Look:
    """Everything in the folders of some settings.

    Attributes:
        sources: what was found, and is read.
        notes: what was left out, or may be something else than it was taken for.
        problems: what was not understood.
        training: what is learnt from; nothing where there are problems.
        tests: what is tested on.
        shards: with the degradation of their pairs, or None.
    """

    sources: list[Source] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    training: list[Task] = field(default_factory=list)
    tests: list[Task] = field(default_factory=list)
    shards: list[tuple[str | None, Shards]] = field(default_factory=list)

    def plain(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            "found": [_plain_source(source) for source in self.sources],
            "shards": [_plain_shards(name, shards) for name, shards in self.shards],
            "training": [_plain_task(task) for task in self.training],
            "tests": [_plain_task(task) for task in self.tests],
            "notes": self.notes,
            "not_understood": self.problems,
        }


def look(settings: DataSettings) -> Look:
    """Look at everything; what is not understood in one folder does not keep from the others."""
    seen = Look()
    known = _or_problem(partial(halves_of_named_pairs, (*settings.pairs, *settings.test_pairs)), seen) or set()
    for folders, pairs in (("data", "pairs"), ("test_data", "test_pairs")):
        named = getattr(settings, pairs)
        if getattr(settings, folders):
            found = _or_problem(partial(survey, getattr(settings, folders), folders, known), seen) or Findings()
            seen.sources += found.sources
            seen.notes += found.notes
            seen.problems += [str(problem) for problem in found.problems]
        if known:
            seen.sources += _or_problem(partial(find_named_pairs, named, seen.notes), seen) or []
    for text in settings.shards:
        options = settings.shard_samples, settings.shard_window, settings.shard_cache
        if shards := _or_problem(partial(find_shards, text, *options), seen):
            seen.shards.append(shards)
    if not seen.problems and (seen.sources or seen.shards):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            seen.training = _or_note(lambda: training_tasks(settings), seen)
            seen.tests = _or_note(lambda: test_tasks(settings), seen)
        seen.notes += [str(one.message) for one in said if issubclass(one.category, HairWarning)]
    seen.notes = [*dict.fromkeys(seen.notes)]
    return seen


def _or_problem(find: Callable[[], _T], seen: Look) -> _T | None:
    try:
        return find()
    except DataError as error:
        seen.problems.append(str(error))
        return None


def _or_note(find: Callable[[], list[Task]], seen: Look) -> list[Task]:
    """Tasks; that data are for tests alone, or for training alone, is nothing wrong with them."""
    try:
        return find()
    except DataError as error:
        seen.notes.append(str(error))
        return []


def _plain_source(source: Source) -> dict[str, object]:
    degraded = source.degraded[0].name if source.degraded else None
    return {
        "name": source.name,
        "folder": str(source.folder),
        "half": source.split,
        "read_as": source.read_as(),
        "degradation": source.degradation or None,
        "images": len(source.clean),
        "first": [degraded, source.clean[0].name],
    }


def _plain_shards(name: str | None, shards: Shards) -> dict[str, object]:
    return {
        "pattern": shards.pattern,
        "degradation": name,
        "shards": len(shards.urls),
        "samples": shards.count,
    }


def _plain_task(task: Task) -> dict[str, object]:
    real = 0 if task.degraded is None else sum(path is not None for path in task.degraded)
    return {"name": task.name, "degradation": task.degradation, "images": task.count, "pairs": real}
