"""Which degradation each training sample shows, and with repeats, which image."""

from __future__ import annotations

import itertools
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from math import gcd

import torch
from torch import Tensor

from hairify._support.nearest import named_nearest
from hairify.data._sets import PAIRED_SETS
from hairify.data.datasets import Task, seeded_generator
from hairify.data.degradations import degradation
from hairify.errors import DataError

_FINEST = 1000  # shares are rounded to as many parts
_MOST = 100


class Order:
    """The order of samples, endless and random, of which number i depends on the seed and i alone.

    It goes in rounds, in each of which every task has its number of places; which, is drawn anew each time. By default
    that is one for each; with shares, as many as they say. With repeats a round is an epoch: it has a place for each
    image of each task, as often as it is repeated.

    Args:
        tasks: at least one.
        seed: of all that is drawn.
        repeats: how often an epoch has the images of a degradation, by its name, or without its numbers ("noise"); of
            others once. Empty: photographs are drawn at random.
        shares: how often a degradation is shown, by its name likewise, relative to others, which have 1.

    Raises:
        DataError: both are given, a name is not known, or a number is not accepted.
    """

    def __init__(
        self, tasks: Sequence[Task], seed: int, repeats: Mapping[str, int], shares: Mapping[str, float]
    ) -> None:
        _check(tasks, repeats, shares)
        self._seed = seed
        self._images = [task.count for task in tasks]
        self._times = [int(_of(task, repeats)) for task in tasks]
        self._by_image = bool(repeats)
        places = [a * b for a, b in zip(self._images, self._times, strict=True)] if repeats else _places(tasks, shares)
        self._ends = [*itertools.accumulate(places)]
        self._round: tuple[int, Tensor] | None = None

    @property
    def epoch(self) -> int:
        """The number of images of all tasks, each as often as it is repeated."""
        return sum(images * times for images, times in zip(self._images, self._times, strict=True))

    def __getitem__(self, index: int) -> tuple[int, int | None]:
        """Which task a sample shows; and which of its images, None where that is to be drawn."""
        _, task, place = self._at(index)
        return task, place % self._images[task] if self._by_image else None

    def number(self, index: int, tasks: Sequence[int]) -> int:
        """The number of a sample among those of some tasks, its own among them, round by round; each comes once."""
        turn, task, place = self._at(index)
        places = [end - begin for begin, end in zip([0, *self._ends], self._ends, strict=False)]
        before = sum(places[other] for other in tasks if other < task)
        return turn * sum(places[other] for other in tasks) + before + place

    def _at(self, index: int) -> tuple[int, int, int]:
        """The round of a sample, its task, and which of the task's places in the round it has."""
        turn, at = divmod(index, self._ends[-1])
        if self._round is None or self._round[0] != turn:
            generator = seeded_generator(self._seed, "order", turn)
            self._round = turn, torch.randperm(self._ends[-1], generator=generator)
        place = int(self._round[1][at])
        task = bisect_right(self._ends, place)
        return turn, task, place - (self._ends[task - 1] if task else 0)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_round": None}  # it is made again where it is needed


def _check(tasks: Sequence[Task], repeats: Mapping[str, int], shares: Mapping[str, float]) -> None:
    if repeats and shares:
        raise DataError(
            "`repeats` and `shares` both say how often a degradation is shown: leave one of them empty (`repeats = {}` "
            "in a file counts before those of a recipe)."
        )
    if repeats and (shards := [task.name for task in tasks if task.shards is not None]):
        raise DataError(
            f"`repeats` says how often each image is shown, and {', '.join(shards)} is no list of images: use "
            "`shares`, and where a recipe has repeats, `repeats = {}` in a file, which counts before it."
        )
    for name, times in repeats.items():
        if times < 1:
            raise DataError(f"`repeats` has {times} for {name!r}; accepted are 1, 2, 3, ....")
    for name, share in shares.items():
        if not 1 / _FINEST <= share <= _MOST:
            raise DataError(f"`shares` has {share} for {name!r}; accepted are numbers from {1 / _FINEST} to {_MOST}.")
    shown = {one for task in tasks for one in (task.degradation, family(task.degradation))}
    for name in (*repeats, *shares):
        if name not in shown and not _is_known(name):
            option = "repeats" if name in repeats else "shares"
            raise DataError(f"`{option}` has {name!r}, which is no degradation; {named_nearest(name, sorted(shown))}")


def family(name: str) -> str:
    """A degradation without its numbers: "noise" for "noise25"."""
    return re.sub(r"[\d.]+", "", name)


def _is_known(name: str) -> bool:
    """Whether there is such a degradation, though nothing to learn from may show it: recipes name many."""
    if name in {"noise", *(one.degradation for one in PAIRED_SETS)}:
        return True
    try:
        degradation(name)
    except DataError:
        return False
    return True


def _of(task: Task, numbers: Mapping[str, float]) -> float:
    """The number of a task's degradation, or of its family; 1 where there is none."""
    return numbers.get(task.degradation, numbers.get(family(task.degradation), 1))


def _places(tasks: Sequence[Task], shares: Mapping[str, float]) -> list[int]:
    """How many places each task has in a round: whole numbers in the ratio of the shares, as small as can be."""
    places = [round(_of(task, shares) * _FINEST) for task in tasks]
    divisor = gcd(*places)
    return [count // divisor for count in places]
