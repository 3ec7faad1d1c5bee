"""Processes that share images among them: each takes every so-manieth, and all get what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed as dist

_T = TypeVar("_T")


@dataclass(frozen=True)
class Processes:
    """This process among those that work together.

    Attributes:
        rank: its number.
        count: of all.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether it is the one that writes and speaks."""
        return self.rank == 0

    def mine(self, jobs: Sequence[_T]) -> list[_T]:
        """Its share of jobs, every `count`-th; all processes give the same jobs."""
        return list(jobs[self.rank :: self.count])

    def gathered(self, done: Sequence[_T]) -> list[_T]:
        """What came of all jobs, in their order; each process gives what came of its own. All call it.

        Args:
            done: one for each of `mine`, something that can be pickled.
        """
        shares = self.everywhere(list(done))
        merged: list[Any] = [None] * sum(map(len, shares))
        for rank, share in enumerate(shares):
            merged[rank :: self.count] = share
        return merged

    def everywhere(self, value: _T) -> list[_T]:
        """What each process gives, by rank. All call it.

        Args:
            value: this one's, something that can be pickled.
        """
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values


ALONE = Processes()
"""One process that does everything."""


def together() -> Processes:
    """The processes of PyTorch's process group, as `accelerate launch` and `torchrun` start it; without one, alone."""
    if not (dist.is_available() and dist.is_initialized()):
        return ALONE
    return Processes(dist.get_rank(), dist.get_world_size())
