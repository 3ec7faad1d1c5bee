"""In which order the samples of shards are taken: it follows from the seed and the number of samples taken alone.

Shards come in an order drawn anew for each epoch. Those of a window are mixed: their samples come in an order drawn for
the window, which is what a shuffle buffer of as many samples does, without one. Of a shard that has fewer samples than
its turn takes, some come twice; of one that has more, some wait for the next epoch.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

from hairify.data._shards import Record, Shards, Tars, permutation
from hairify.data.datasets import seeded_generator


class ShardOrder:
    """The samples of some shards, endless.

    Args:
        shards: which.
        seed: of the order.
    """

    def __init__(self, shards: Shards, seed: int) -> None:
        self.shards, self.seed = shards, seed
        self.tars = Tars(2 * shards.window + 1, shards.cache_bytes)
        self._drawn = functools.lru_cache(2 * shards.window + 2)(self._draw)

    def from_number(self, number: int) -> Iterator[tuple[str, Record]]:
        """Sample `number`, and after it the others of its shard, for where it cannot be used.

        Yields:
            The shard, and what is in it of the sample.

        Raises:
            DataError: the shard cannot be read.
        """
        shards = self.shards
        window, at = divmod(number, shards.window * shards.samples)
        place = self._drawn("window", window, shards.window * shards.samples)[at]
        turn = window * shards.window + place // shards.samples
        epoch, rank = divmod(turn, len(shards.urls))
        url = shards.urls[self._drawn("epoch", epoch, len(shards.urls))[rank]]
        records = self.tars.records(url)
        order = self._drawn("turn", turn, len(records))
        first = place % shards.samples % len(records)
        yield from ((url, records[i]) for i in itertools.chain(order[first:], order[:first]))

    def _draw(self, what: str, number: int, count: int) -> list[int]:
        return permutation(count, seeded_generator(self.seed, "shards", self.shards.about(), what, number))

    def __getstate__(self) -> dict[str, object]:
        return {"shards": self.shards, "seed": self.seed}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(**state)  # type: ignore[misc]
