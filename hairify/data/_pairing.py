"""Pairs of known data sets: which degraded image belongs to which clean one."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from hairify.data._sets import HERE, RULES, SPLITS, CleanSet, CompositeSet, PairedSet, Split, same_name
from hairify.data._sources import Source, listed
from hairify.data.images import find_images
from hairify.errors import DataError

_Set = TypeVar("_Set", CleanSet, PairedSet)


def folders_in(folder: Path) -> list[Path]:
    """The folders right in a folder that are not hidden, sorted."""
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def by_name(sets: Sequence[_Set], folder: Path) -> _Set | None:
    """The data set that a folder is by its name."""
    return next((one for one in sets if is_named(folder, one.folder)), None)


def is_named(folder: Path, pattern: str) -> bool:
    """Whether a folder's name, in lower-case letters and digits, is as a regular expression has it."""
    return re.fullmatch(pattern, _letters(folder.name)) is not None


def _letters(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def split_of(folder: Path, root: Path) -> Split | None:
    """What the innermost folder to say so says, from `folder` up to `root`."""
    for part in (folder, *folder.parents):
        for split, pattern in SPLITS.items():
            if is_named(part, pattern):
                return split
        if part == root:
            break
    return None


def part_name(paired_set: PairedSet, path: Sequence[Path]) -> str:
    """The name of a data set, or of the part of it that the folders within it say."""
    parts = (paired_set.parts.get(_letters(below.name)) for below in path)
    return next((found for found in parts if found), paired_set.name)


def halves_of(paired_set: PairedSet, folder: Path, children: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    """The ways in which a folder has both halves of a data set."""
    for degraded, clean in paired_set.halves:
        if degraded in children and (clean in children or (clean == HERE and find_images(folder, recursive=False))):
            yield degraded, clean


def pair(
    folder: Path, paired_set: PairedSet, name: str, split: Split | None, degraded_half: Path, clean_half: Path
) -> Source:
    """Degraded images with the clean image of each, from two folders; the clean one may be that around the other.

    Raises:
        DataError: a half is empty, images have no counterpart, or several clean images claim to be one.
    """
    images = {half: find_images(half, recursive=half != folder) for half in (degraded_half, clean_half)}
    for half, found in images.items():
        if not found:
            raise DataError(f"{name} in {folder} is incomplete: {half} has no images.")
    parts = {part for path in images[degraded_half] for part in path.relative_to(degraded_half).parent.parts}
    if split is None and all(any(is_named(Path(part), pattern) for part in parts) for pattern in SPLITS.values()):
        raise DataError(
            f"{name} in {folder} has its training and test images within each half. Put a folder of both halves into "
            f"one for training and one for tests: train/{degraded_half.name}, train/{clean_half.name}, ..."
        )
    return _matched(folder, paired_set, name, split, images)


def flat_pair(folder: Path, paired_set: PairedSet, name: str, split: Split | None) -> tuple[Source, list[Path]] | None:
    """The pairs of a data set that lie in one folder, and the other images there; None if there are none."""
    if paired_set.flat is None:
        return None
    images = find_images(folder, recursive=False)
    halves = [[one for one in images if re.fullmatch(pattern, one.stem.lower())] for pattern in paired_set.flat]
    if not all(halves):
        return None
    degraded_half, clean_half = (folder / f"{half[0].stem.partition('-')[0]}-*" for half in halves)
    source = _matched(folder, paired_set, name, split, {degraded_half: halves[0], clean_half: halves[1]})
    return source, [one for one in images if one not in halves[0] and one not in halves[1]]


def _matched(
    folder: Path, paired_set: PairedSet, name: str, split: Split | None, images: Mapping[Path, Sequence[Path]]
) -> Source:
    """The pairs of two halves, the degraded one first."""
    degraded_half, clean_half = images
    within = {half: half if half.is_dir() else folder for half in images}
    key = _key(paired_set, {half: [path.relative_to(within[half]) for path in images[half]] for half in images})
    keys = {half: [key(path.relative_to(within[half])) for path in found] for half, found in images.items()}
    clean: dict[str, list[Path]] = defaultdict(list)
    for one, path in zip(keys[clean_half], images[clean_half], strict=True):
        clean[one].append(path)
    alike = [path for group in clean.values() if len(group) > 1 for path in group]
    if alike:
        raise DataError(f"{name}: {clean_half} has several clean images of one name or number: {listed(alike)}.")
    lacking = [p for one, p in zip(keys[degraded_half], images[degraded_half], strict=True) if one not in clean]
    if lacking:
        raise DataError(f"{name} is incomplete: {clean_half} has no clean image of {listed(lacking)}.")
    if split == "test" and (known := paired_set.test_name):
        pattern, other = known
        name = other if all(re.fullmatch(pattern, path.stem) for path in images[degraded_half]) else name
    used = set(keys[degraded_half])
    unused = [group[0] for one, group in clean.items() if one not in used]
    if unused and not paired_set.partial:
        raise DataError(f"{name} is incomplete: {degraded_half} has no degraded image of {listed(unused)}.")
    return Source(
        name,
        folder,
        "pairs",
        split,
        tuple(clean[one][0] for one in keys[degraded_half]),
        paired_set.degradation,
        tuple(images[degraded_half]),
        paired_set.border,
        RULES[key],
    )


def _key(paired_set: PairedSet, images: Mapping[Path, Sequence[Path]]) -> Callable[[Path], str]:
    """What pairs have in common: their names where all are equal, whatever is in them; else as the data set has it."""
    degraded, clean = ({same_name(path) for path in found} for found in images.values())
    return same_name if degraded <= clean else paired_set.key


def composites(
    folder: Path, children: Mapping[str, Path], composite: CompositeSet, split: Split | None
) -> list[Source]:
    """The pairs of each degradation of a data set that has several.

    Raises:
        DataError: as for `pair`.
    """
    found = []
    for half, degradation in composite.degraded.items():
        if half in children:
            name = f"{composite.name} {half}"
            known = PairedSet(name, composite.folder, degradation, None, ((half, composite.clean),), same_name)
            found.append(pair(folder, known, name, split, children[half], children[composite.clean]))
    return found
