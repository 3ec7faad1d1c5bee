"""Training samples: random patches of the photographs of each degradation, in balance, the same on every run."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias, TypedDict

import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

from hairify.data._order import Order
from hairify.data._settings import Augmentation, DataSettings
from hairify.data._shard_order import ShardOrder
from hairify.data._shards import Record, halves
from hairify.data.datasets import Task, fit, seeded_generator
from hairify.data.degradations import degradation
from hairify.data.images import read_integers
from hairify.errors import DataError, ImageError

_Read: TypeAlias = "Callable[[], tuple[Tensor | None, Tensor]]"


class Sample(TypedDict):
    """A patch, degraded and clean, both (3, p, p) float32 in [0, 1]."""

    degraded: Tensor
    clean: Tensor
    task: int
    """Index of the task among `TrainingSamples.tasks`."""
    image: str
    """The file that it shows, the degraded one where there is one."""
    unreadable: list[tuple[str, str]]
    """Path, and the reason, of each image that was drawn before and could not be used."""


class Batch(TypedDict):
    """Samples side by side: patches (B, 3, p, p), tasks (B,) int64, and the image of each."""

    degraded: Tensor
    clean: Tensor
    task: Tensor
    image: list[str]
    unreadable: list[tuple[str, str]]


class TrainingSamples(Dataset[Sample]):
    """Endless samples, of which number i depends on `seed` and i alone.

    So a run can be taken up at any sample, by whatever number of processes and workers. Of any `len(tasks)` samples in
    a row that start at a multiple of it, each task has one; in which order is drawn anew each time. Repeats and shares
    change that, see `hairify.data.datasets.DataSettings`.

    A sample is a random photograph of its task, cut to a random patch, flipped or not in either direction, and
    degraded there if the task has no degraded image of it. Smaller photographs are continued at the right and at the
    bottom by their reflection.

    Args:
        tasks: what to learn, from `training_tasks`.
        patch_size: p, the side of a patch in pixels.
        seed: of all that is drawn.
        cache_bytes: how much memory decoded photographs may take, in each process. It changes no sample.
        augmentation: how patches are turned: "none", "flips", or "all" flips and quarter turns, eight in number.
        repeats: how often an epoch has the images of a degradation.
        shares: how often a degradation is shown, relative to others.

    Raises:
        DataError: there is no task, one has no images, one's degradation is not known, or repeats or shares are not
            accepted.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        patch_size: int,
        seed: int,
        cache_bytes: int,
        *,
        augmentation: Augmentation = "flips",
        repeats: Mapping[str, int] = MappingProxyType({}),
        shares: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        if not tasks:
            raise DataError("There are no tasks to draw samples of; `training_tasks` finds them.")
        for task in tasks:
            if not task.count:
                raise DataError(f"The task {task.name!r} has no images.")
            if not task.is_real or None in (task.degraded or ()):
                degradation(task.degradation)
        self.tasks = tuple(tasks)
        self.patch_size = patch_size
        self.seed = seed
        self.augmentation, self.repeats, self.shares = augmentation, dict(repeats), dict(shares)
        self._order = Order(tasks, seed, self.repeats, self.shares)
        self._photographs = _Cache(cache_bytes)
        self._shards = {task.shards: ShardOrder(task.shards, seed) for task in tasks if task.shards is not None}

    @property
    def epoch(self) -> int:
        """The number of images of all tasks, each of which may show a photograph in its own way, and be repeated."""
        return self._order.epoch

    def about(self) -> dict[str, object]:
        """What decides the samples, as JSON has it. Files count by their names, wherever they lie."""
        files = (path.name for task in self.tasks for i in range(len(task.clean)) for path in task.files(i) if path)
        digest = hashlib.blake2b(os.fsencode("/".join(files)), digest_size=4).hexdigest()
        return {
            "tasks": [task.name for task in self.tasks],
            "images": f"{sum(len(task.clean) for task in self.tasks)} (their names: {digest})",
            **({"shards": [shards.about() for shards in self._shards]} if self._shards else {}),
            "patch_size": self.patch_size,
            "seed": self.seed,
            "augmentation": self.augmentation,
            "repeats": self.repeats,
            "shares": self.shares,
        }

    def __getitem__(self, index: int) -> Sample:
        """One sample.

        Args:
            index: from 0 on, without end.

        Raises:
            DataError: no image of the sample's task can be used.
        """
        return self.sized(index, self.patch_size)

    def sized(self, index: int, patch_size: int) -> Sample:
        """One sample as a patch of another size.

        Args:
            index: from 0 on, without end.
            patch_size: side of the patch in pixels.

        Raises:
            DataError: no image of the sample's task can be used.
        """
        number, first = self._order[index]
        task = self.tasks[number]
        generator = seeded_generator(self.seed, "sample", index)
        unreadable = []
        for file, read in self._images(index, number, first, generator):
            try:
                degraded, clean = self._patches(task, *read(), generator, patch_size)
            except (ImageError, OSError) as error:
                unreadable.append((file, str(error)))
            else:
                return Sample(degraded=degraded, clean=clean, task=number, image=file, unreadable=unreadable)
        why = ": ".join(unreadable[0])
        raise DataError(f"None of the {task.count} images of {task.name!r} can be used. The first of them: {why}")

    def _images(self, index: int, number: int, first: int | None, generator: Generator) -> Iterator[tuple[str, _Read]]:
        """The image of a sample, and others of its task for where it cannot be used: its file, and how it is read."""
        task = self.tasks[number]
        if task.shards is None:
            for image in _draws(len(task.clean), generator, first):
                degraded, clean = task.files(image)
                yield str(degraded or clean), partial(self._read, task, image)
            return
        shards = self._shards[task.shards]
        alike = [i for i, other in enumerate(self.tasks) if other.shards == task.shards]
        for url, record in shards.from_number(self._order.number(index, alike)):
            yield f"{url}/{record.key}", partial(self._read_shard, shards, url, record)

    def _read(self, task: Task, image: int) -> tuple[Tensor | None, Tensor]:
        """An image of a task: degraded, None where it is to be synthesised, and clean."""
        degraded, clean = task.files(image)
        pixels = self._photographs.read(clean)
        return (None, pixels) if degraded is None else fit(self._photographs.read(degraded), pixels, task, image)

    def _read_shard(self, shards: ShardOrder, url: str, record: Record) -> tuple[Tensor | None, Tensor]:
        """The same of a sample in a shard."""
        degraded, clean = halves(shards.tars.read(url, record), shards.shards.is_pairs)
        if degraded is not None and degraded.shape != clean.shape:
            sizes = [f"{image.shape[2]}×{image.shape[1]}" for image in (degraded, clean)]
            raise ImageError(f"{url}/{record.key} has {sizes[0]} pixels, and its clean image has {sizes[1]}.")
        return degraded, clean

    def _patches(
        self, task: Task, degraded: Tensor | None, clean: Tensor, generator: Generator, size: int
    ) -> tuple[Tensor, Tensor]:
        """A random patch of an image, (3, H, W): degraded, synthesised where it is None, and clean."""
        if degraded is None:
            (clean,) = self._cut([clean], generator, size)
            return degradation(task.degradation)(clean[None], generator)[0], clean
        degraded, clean = self._cut([degraded, clean], generator, size)
        return degraded, clean

    def _cut(self, images: Sequence[Tensor], generator: Generator, size: int) -> list[Tensor]:
        """One patch of images (3, H, W) of one size, at the same place and turned alike: (3, p, p) float32."""
        top, left = (_below(max(side - size, 0) + 1, generator) for side in images[0].shape[1:])
        patches = [_as_float(image[:, top : top + size, left : left + size]) for image in images]
        flipped = [] if self.augmentation == "none" else [axis for axis in (1, 2) if _below(2, generator)]
        turned = [_enlarge(patch, size).flip(flipped) for patch in patches]
        if self.augmentation == "all" and _below(2, generator):  # with the flips, that makes quarter turns, too
            turned = [patch.transpose(1, 2).contiguous() for patch in turned]
        return turned


def collate(samples: Sequence[Sample]) -> Batch:
    """What a `DataLoader` makes of samples."""
    return Batch(
        degraded=torch.stack([sample["degraded"] for sample in samples]),
        clean=torch.stack([sample["clean"] for sample in samples]),
        task=torch.tensor([sample["task"] for sample in samples]),
        image=[sample["image"] for sample in samples],
        unreadable=[one for sample in samples for one in sample["unreadable"]],
    )


def samples_for(tasks: Sequence[Task], settings: DataSettings, seed: int) -> TrainingSamples:
    """The samples of tasks as settings have them."""
    return TrainingSamples(
        tasks,
        settings.patch_size,
        seed,
        int(settings.image_cache * 2**30),
        augmentation=settings.augmentation,
        repeats=settings.repeats,
        shares=settings.shares,
    )


class _Cache:
    """The images read last, as whole numbers: 8 bits for each value, or 16 where 8 do not hold them.

    What it returns does not depend on what it keeps. In a copy made for another process it is empty.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit  # in bytes
        self.size = 0
        self.images: OrderedDict[Path, Tensor] = OrderedDict()

    def read(self, path: Path) -> Tensor:
        """(3, H, W) uint8 or uint16.

        Raises:
            ImageError: the file cannot be read as an image.
        """
        if path in self.images:
            self.images.move_to_end(path)
            return self.images[path]
        image = read_integers(path)
        if image.nbytes <= self.limit:
            self.images[path] = image
            self.size += image.nbytes
            while self.size > self.limit:
                self.size -= self.images.popitem(last=False)[1].nbytes
        return image

    def __getstate__(self) -> dict[str, object]:
        return {"limit": self.limit, "size": 0, "images": OrderedDict()}


def _as_float(image: Tensor) -> Tensor:
    """The opposite."""
    return image.to(torch.float32) / (255 if image.dtype == torch.uint8 else 65535)


def _enlarge(patch: Tensor, size: int) -> Tensor:
    """A patch (3, h, w) of at most `size` × `size` pixels, made (3, size, size) by reflection, as often as it takes."""
    for dimension in (1, 2):
        length = patch.shape[dimension]
        if length < size:
            place = torch.arange(size) % max(2 * length - 2, 1)  # there and back
            patch = patch.index_select(dimension, torch.where(place < length, place, 2 * length - 2 - place))
    return patch


def _draws(count: int, generator: Generator, first: int | None) -> Iterator[int]:
    """All of `count` numbers in random order, or after `first`; only one is drawn unless more are asked for."""
    if first is None:
        first = _below(count, generator)
    yield first
    yield from (other for other in torch.randperm(count, generator=generator).tolist() if other != first)


def _below(count: int, generator: Generator) -> int:
    return int(torch.randint(count, (), generator=generator))
