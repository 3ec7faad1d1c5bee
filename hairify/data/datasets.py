"""Images to learn from and to test on: folders of photographs, and data sets in the layouts they are distributed in."""

from __future__ import annotations

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Generator, Tensor

from hairify.data._layouts import find
from hairify.data._named_pairs import find_named_pairs, halves_of_named_pairs
from hairify.data._settings import DataSettings
from hairify.data._shards import Shards, find_shards
from hairify.data._sources import Source, note
from hairify.data.degradations import degradation
from hairify.data.images import read_rgb
from hairify.errors import DataError, ImageError

__all__ = ["DataSettings", "Task", "fit", "load_pair", "seeded_generator", "test_tasks", "training_tasks"]


@dataclass(frozen=True)
class Task:
    """One degradation with the images that show it."""

    name: str
    """What tables show: "noise25" for training, "BSD68 noise25", "Rain100L" or "holiday noise25" for tests."""
    degradation: str
    """What balancing goes by: "noise25", "rain", "haze", "blur", "low_light", ..."""
    clean: tuple[Path, ...]
    """The clean images; several degraded images may share one."""
    degraded: tuple[Path | None, ...] | None
    """The degraded image of each clean one. None, for one or all: synthesised by `degradation(task.degradation)`."""
    border: int = 0
    """Clean images may be larger than the degraded ones by this many pixels at each side, which are cut off."""

    shards: Shards | None = None
    """Where the images lie in place of files, if they are not files by themselves."""

    @property
    def count(self) -> int:
        """The number of its images; of those in shards, about so many."""
        return len(self.clean) if self.shards is None else self.shards.count

    @property
    def is_real(self) -> bool:
        """Whether its degraded images are given, in part or all, and not synthesised."""
        return self.shards.is_pairs if self.shards is not None else self.degraded is not None

    def files(self, index: int) -> tuple[Path | None, Path]:
        """The degraded image, None if it is synthesised, and the clean one."""
        return (None if self.degraded is None else self.degraded[index]), self.clean[index]


def training_tasks(settings: DataSettings) -> list[Task]:
    """What a network learns from: one task for each degradation, whatever the sources of its images.

    Plain photographs serve every degradation of `settings.degradations`, BSD400 and WED the noises among them, the
    training halves of paired data sets their own. Where there are pairs of a degradation, it is put on no photographs,
    unless `settings.mix_synthetic`. What `test_tasks` tests on is left out.

    Warns:
        HairWarning: what was left out, and by which rule `settings.pairs` belong together.

    Raises:
        DataError: nothing is found, a data set lacks a part, or nothing is left to learn from.
    """
    found = _found(settings, "data", "pairs")
    tested = _tested(settings, found)
    held_out = {path for source in _held_out(tested, settings) for path in source.clean}
    learnt = [source.without(held_out) for source in found if source.split != "test"]
    for source, whole in zip(learnt, (source for source in found if source.split != "test"), strict=True):
        if not source.clean:
            raise DataError(
                f"Nothing is left to learn from in {whole.folder}: its {len(whole.clean)} image(s) are tested "
                "on. Add images, or give others as `test_data`."
            )
    tasks: dict[str, list[Task]] = {name: [] for name in settings.degradations}
    in_shards = []
    for task in _all_tasks(learnt, settings, _shard_tasks(settings)):
        if task.shards is None:
            tasks.setdefault(task.degradation, []).append(task)
        else:
            in_shards.append(task)
    merged = [_merge(name, parts) for name, parts in tasks.items() if parts] + in_shards
    if not merged:
        raise DataError(f"No images to learn from: {_listed(found)}. Give training images as `data`.")
    return merged


def test_tasks(settings: DataSettings) -> list[Task]:
    """What a network is tested on: a task for each data set, or folder of photographs, and degradation.

    These are the test halves and photographs of `settings.test_data`. Where there is none, they are the test halves in
    `settings.data` and, of each of its folders of photographs and of `settings.pairs`, the share `settings.hold_out`,
    evenly spaced.

    Warns:
        HairWarning: as for `training_tasks`.

    Raises:
        DataError: nothing is found, or a data set lacks a part.
    """
    found = _tested(settings)
    tasks: dict[str, list[Task]] = defaultdict(list)
    for task in _all_tasks(_held_out(found, settings), settings):
        tasks[task.name].append(task)
    if not tasks:
        raise DataError(f"No images to test on: {_listed(found)}. Give test images as `test_data`.")
    return [_merge(name, parts) for name, parts in tasks.items()]


def load_pair(task: Task, index: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """One image of a task, whole.

    Args:
        task: the task.
        index: of the image.
        seed: with `task.degradation` and `index`, all that a synthesised degradation draws from.

    Returns:
        The degraded and the clean image, both (3, H, W) float32 in [0, 1].

    Raises:
        ImageError: a file cannot be read as an image, or the two images differ in size.
    """
    degraded_file, clean_file = task.files(index)
    clean = read_rgb(clean_file)
    if degraded_file is not None:
        return fit(read_rgb(degraded_file), clean, task, index)
    generator = seeded_generator(task.degradation, index, seed)
    return degradation(task.degradation)(clean[None], generator)[0], clean


def fit(degraded: Tensor, clean: Tensor, task: Task, index: int) -> tuple[Tensor, Tensor]:
    """Two images (3, H, W) at one size: the border that the data set is known for is cut off the clean one.

    Raises:
        ImageError: they still differ in size.
    """
    border, (height, width) = task.border, degraded.shape[1:]
    if border and clean.shape[1:] == (height + 2 * border, width + 2 * border):
        clean = clean[:, border:-border, border:-border]
    if clean.shape != degraded.shape:
        sizes = [f"{image.shape[2]}×{image.shape[1]}" for image in (degraded, clean)]
        files = task.files(index)
        raise ImageError(f"{files[0]} has {sizes[0]} pixels, and its clean image {files[1]} has {sizes[1]}.")
    return degraded, clean


def seeded_generator(*key: object) -> Generator:
    """A generator on the CPU that depends on what the parts of the key print as, and on nothing else."""
    digest = hashlib.blake2b(" ".join(map(str, key)).encode(), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(digest, "little") & (2**63 - 1))


def _found(settings: DataSettings, data: str, pairs: str) -> list[Source]:
    """Everything in two fields of settings: folders, and named pairs."""
    folders, named = getattr(settings, data), getattr(settings, pairs)
    notes: list[str] = []
    halves = halves_of_named_pairs((*settings.pairs, *settings.test_pairs))
    found = find(folders, data, halves) if folders or not (named or settings.shards) else []
    found += find_named_pairs(named, notes)
    for text in notes:
        note(text)
    return found


def _tested(settings: DataSettings, data: list[Source] | None = None) -> list[Source]:
    """Where what is tested on is looked for; `data`, if known, are the sources of training."""
    if settings.test_data or settings.test_pairs:
        return _found(settings, "test_data", "test_pairs")
    return _found(settings, "data", "pairs") if data is None else data


def _held_out(found: Iterable[Source], settings: DataSettings) -> list[Source]:
    """What is tested on, of what was found for tests; in `settings.data` and `settings.pairs`, where these are all."""
    if settings.test_data or settings.test_pairs:
        return [source for source in found if source.split != "train"]
    held_out = []
    for source in found:
        if source.split == "test":
            held_out.append(source)
        elif source.kind == "photographs" or source.named:
            scenes = [*dict.fromkeys(source.clean)]  # several degraded images may be of one
            kept = {scenes[i] for i in _evenly_spaced(len(scenes), settings.hold_out)}
            held_out.append(source.select([i for i, path in enumerate(source.clean) if path in kept]))
    return held_out


def _evenly_spaced(count: int, share: float) -> list[int]:
    """At least one of `count` indices; rounding to 9 digits keeps 7 of 100 from becoming 8 for a share of 0.07."""
    kept = max(math.ceil(round(share * count, 9)), 1)
    return [(2 * i + 1) * count // (2 * kept) for i in range(kept)]


def _shard_tasks(settings: DataSettings) -> Iterator[Task]:
    """The tasks that shards serve."""
    for text in settings.shards:
        name, shards = find_shards(text, settings.shard_samples, settings.shard_window, settings.shard_cache)
        for degraded in settings.degradations if name is None else (name,):
            yield Task(f"{degraded} in shards", degraded, (), None, shards=shards)


def _all_tasks(sources: Sequence[Source], settings: DataSettings, more: Iterable[Task] = ()) -> list[Task]:
    """The tasks that sources serve; those of degradations with real pairs only by these, unless asked otherwise."""
    tasks = [*(task for source in sources for task in _tasks(source, settings)), *more]
    real = {task.degradation for task in tasks if task.is_real}
    synthetic = [task for task in tasks if not task.is_real and task.degradation in real]
    if not synthetic or settings.mix_synthetic:
        return tasks
    names = ", ".join(dict.fromkeys(task.degradation for task in synthetic))
    note(f"There are real pairs of {names}, so none are synthesised from photographs; `mix_synthetic` does both.")
    return [task for task in tasks if task not in synthetic]


def _tasks(source: Source, settings: DataSettings) -> list[Task]:
    """The tasks that a source serves, named as in tests."""
    called = source.name.encode(errors="backslashreplace").decode()  # folders' names need not be text
    if source.kind == "pairs":
        return [Task(called, source.degradation, source.clean, source.degraded, source.border)]
    names = settings.degradations
    if source.only_noise:
        names = tuple(name for name in names if re.fullmatch(r"noise[\d.]+", name))
    if not names:
        lacking = "no noise, such as noise25," if source.only_noise else "none"
        raise DataError(
            f"{source.folder} ({source.name}) has clean photographs, and `degradations` has {lacking} to put on them: "
            f"it is ({', '.join(settings.degradations)}). Name one, or leave this folder out."
        )
    return [Task(f"{called} {name}", name, source.clean, None) for name in names]


def _merge(name: str, tasks: Sequence[Task]) -> Task:
    """All images of tasks with one degradation, each once."""
    files = dict.fromkeys((task.files(i), task.border) for task in tasks for i in range(len(task.clean)))
    degraded = tuple(pair[0] for pair, _ in files)
    return Task(
        name,
        tasks[0].degradation,
        tuple(pair[1] for pair, _ in files),
        None if all(path is None for path in degraded) else degraded,
        max(border for _, border in files),
    )


def _listed(found: Iterable[Source]) -> str:
    """What was found, for a message that it does not serve."""
    found = [*found]
    if not found:
        return "found none"
    halves = {"train": "training half", "test": "test half", None: "no test half"}
    return "found " + ", ".join(f"{one.name} ({halves[one.split]}) in {one.folder}" for one in found)
