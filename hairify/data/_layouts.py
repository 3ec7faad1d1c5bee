"""What lies in folders: photographs, and data sets in the layouts in which they are distributed."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from hairify.data._halves import alike, clean_half_of, degraded_part, halves_beside, kind_of, pair_within
from hairify.data._sets import CLEAN_SETS, PAIRED_SETS, SPLITS, UNTELLING, CleanSet, PairedSet, Split, same_name
from hairify.data.images import SUFFIXES, find_images, find_unread, needed_for
from hairify.errors import DataError, HairWarning


@dataclass(frozen=True)
class Source:
    """Images found in one place: pairs, clean photographs for noise only, or photographs for any degradation."""

    name: str
    folder: Path
    kind: Literal["pairs", "clean set", "photographs"]
    split: Split | None
    clean: tuple[Path, ...]
    degradation: str = ""  # of pairs
    degraded: tuple[Path, ...] | None = None
    border: int = 0

    def without(self, held_out: set[Path]) -> Source:
        """All but the pairs, or photographs, whose clean image is held out."""
        return self.select([i for i, path in enumerate(self.clean) if path not in held_out])

    def select(self, indices: Sequence[int]) -> Source:
        """Some of its images."""
        degraded = None if self.degraded is None else tuple(self.degraded[i] for i in indices)
        return dataclasses.replace(self, clean=tuple(self.clean[i] for i in indices), degraded=degraded)


def find(roots: Sequence[Path], option: str) -> list[Source]:
    """Everything in the given folders.

    Warns:
        HairWarning: images are left out, or may be halves of pairs by the names of their files.

    Raises:
        DataError: there is no such folder, nothing is in it, a data set lacks a part, images are halves of pairs that
            are not known, or folders lie in one another.
    """
    if not roots:
        raise DataError(f"`{option}` is empty: give folders of clean photographs, or of the data sets {_known()}.")
    folders = [Path(os.path.abspath(root.expanduser())) for root in roots]
    for i, folder in enumerate(folders):
        for other in folders[:i]:
            if folder.is_relative_to(other) or other.is_relative_to(folder):
                raise DataError(f"`{option}` has both {other} and {folder}: one lies in the other; give either.")
    named = zip(folders, _telling_names(folders), strict=True)
    notes: list[str] = []
    found = [source for folder, name in named for source in _sources(folder, name, notes)]
    for note in dict.fromkeys(notes):
        warnings.warn(note, HairWarning, stacklevel=3)
    return found


def _sources(root: Path, name: str, notes: list[str]) -> list[Source]:
    """Everything in one folder; photographs that belong to no data set are one source with the given name."""
    if not root.is_dir():
        what = f"{root} is a file" if root.exists() else f"There is no folder {root}"
        raise DataError(f"{what}; give a folder of clean photographs, or of the data sets {_known()}.")
    found = list(_scan(root, root, set(), notes))
    _check_photographs({one.folder: one.clean for one in found if one.kind == "photographs"}, root, notes)
    for ending, unread in itertools.groupby(sorted(find_unread(root), key=_ending), key=_ending):
        notes.append(f"{root}: {_first([*unread])} left out: files {needed_for(ending)}.")
    photographs = tuple(path for source in found if source.kind == "photographs" for path in source.clean)
    others = [source for source in found if source.kind != "photographs"]
    if photographs:
        others.append(Source(name, root, "photographs", None, tuple(sorted(photographs))))
    if not others:
        raise DataError(
            f"{root} is empty: looked, there and in the folders in it, for images ({', '.join(sorted(SUFFIXES))}) "
            f"and for the data sets {_known()}."
        )
    return others


def _check_photographs(folders: Mapping[Path, Sequence[Path]], root: Path, notes: list[str]) -> None:
    """Refuse what is no clean photograph by its name, or that of a folder or file beside it.

    Raises:
        DataError: there is such a one.
    """
    for given in (root, *list(root.parents)[:2]) if folders else ():
        beside = _folders(given.parent) if os.access(given.parent, os.R_OK) else []
        if clean := clean_half_of(given, beside):
            raise DataError(f"{given} has images of which {clean} has clean ones by their names. {_WAYS_OUT}")
    for folder, images in folders.items():
        if part := degraded_part(folder, root):
            what = "maps or masks" if kind_of(part.name) == "map" else "degraded images"
            halves = [clean for one in PAIRED_SETS for degraded, clean in one.halves if degraded == part.name.lower()]
            where = f" with the clean ones beside it in {', '.join(dict.fromkeys(halves))}" if halves else ""
            raise DataError(
                f"{part} has {what} by its name, and is no half of pairs that are known{where}. {_WAYS_OUT}"
            )
        if pair := pair_within(images):
            raise DataError(
                f"{folder} has pairs within it: {pair[0].name} and {pair[1].name} are of one scene by their names. "
                f"Put the halves into folders of their own. {_WAYS_OUT}"
            )
    for group in alike(folders):
        names = ", ".join(one.name for one in group)
        notes.append(
            f"The folders {names} in {group[0].parent} have the same names of images. All are taken for clean "
            f"photographs; if they are halves of pairs: {_WAYS_OUT}"
        )


def _scan(folder: Path, root: Path, seen: set[str], notes: list[str]) -> Iterator[Source]:
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    folders = _folders(folder)
    children = {child.name.lower(): child for child in folders}
    clean_set = _by_name(CLEAN_SETS, folder)
    if clean_set is not None:
        source = _clean_source(folder, children, clean_set)
        used = source.clean[0].parent
        notes.extend(_left_out(one.name, source.name) for one in folders if one != used and find_images(one))
        yield source
        return
    pairs = _paired_source(folder, children, root, notes)
    if pairs is not None:
        yield pairs
        return
    paired_set = _by_name(PAIRED_SETS, folder)
    around = [part for part in (folder, *folder.parents) if part.is_relative_to(root)]
    if not any(_by_name(PAIRED_SETS, part) for part in around):  # a known data set sees to its halves below
        _check_children(folder, folders)
    below = [source for child in folders for source in _scan(child, root, seen, notes)]
    if paired_set is None:
        yield from below
        yield from _photographs(folder)
        return
    # What else a data set has, such as maps of its haze, is no photograph.
    yield from (source for source in below if source.kind != "photographs")
    names = {name for halves in paired_set.halves for name in halves}
    loose = [source.folder for source in below if source.kind == "photographs"]
    notes.extend(_left_out(one.name, paired_set.name) for one in loose)
    paths = [path for inner in loose for path in (inner, *inner.parents) if path.is_relative_to(folder)]
    lone = [path for path in paths if path.name.lower() in names]
    if lone or not any(source.kind == "pairs" for source in below):
        wanted = " or ".join(f"`{degraded}` and `{clean}`" for degraded, clean in paired_set.halves)
        what = f"has no counterpart of {lone[0]}" if lone else "lacks both halves"
        raise DataError(
            f"{folder} is {paired_set.name} by its name, and {what}: needed are folders {wanted}. Complete it, or "
            "rename it if it is something else."
        )


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _check_children(folder: Path, children: Sequence[Path]) -> None:
    """Refuse halves of pairs beside one another that are not known.

    Raises:
        DataError: there are such.
    """
    unknown = [one for one in children if not (_by_name(CLEAN_SETS, one) or _by_name(PAIRED_SETS, one))]
    clean, others = halves_beside(unknown)
    if others:
        names = [", ".join(one.name for one in half) for half in (others, clean)]
        raise DataError(
            f"{folder} has halves of pairs by their names, {names[0]} beside {names[1]}, and nothing says what "
            f"degrades them. {_WAYS_OUT}"
        )


def _photographs(folder: Path) -> Iterator[Source]:
    """The images right in a folder."""
    if images := tuple(find_images(folder, recursive=False)):
        yield Source(folder.name, folder, "photographs", None, images)


def _clean_source(folder: Path, children: Mapping[str, Path], clean_set: CleanSet) -> Source:
    """The photographs of a data set that has nothing else."""
    place = next((children[name] for name in clean_set.within if name in children), folder)
    images = tuple(find_images(place, recursive=False))
    if not images:
        places = "".join(f", or in its folder {name}" for name in clean_set.within)
        raise DataError(
            f"{folder} is {clean_set.name} by its name, and {place} has no images. They are looked for right in "
            f"it{places}. Complete it, or rename it if it is something else."
        )
    return Source(clean_set.name, folder, "clean set", clean_set.split, images)


def _paired_source(folder: Path, children: Mapping[str, Path], root: Path, notes: list[str]) -> Source | None:
    """The pairs whose two halves lie in a folder, None if it has no such halves.

    Raises:
        DataError: it cannot be told of which data set they are, images have no counterpart, or there are more halves.
    """
    candidates = [
        (paired_set, halves)
        for paired_set in PAIRED_SETS
        for halves in paired_set.halves
        if halves[0] in children and halves[1] in children
    ]
    if not candidates:
        return None
    path = (folder, *folder.parents)
    for i, ancestor in enumerate(path):
        for paired_set, halves in candidates:
            if _is_named(ancestor, paired_set.folder):
                parts = (paired_set.parts.get(_letters(below.name)) for below in path[:i])
                name = next((found for found in parts if found), paired_set.name)
                split = _split(folder, root) or paired_set.split
                rest = [child for name, child in children.items() if name not in halves and find_images(child)]
                notes.extend(_left_out(one.name, paired_set.name) for one in rest)
                return _pair(folder, paired_set, name, split, *(children[half] for half in halves))
    told = [candidate for candidate in candidates if candidate[1] not in UNTELLING]
    if not told:
        degraded, clean = candidates[0][1]
        known = ", ".join(dict.fromkeys(paired_set.name for paired_set, _ in candidates))
        raise DataError(
            f"{folder} has pairs in `{degraded}` and `{clean}`, and nothing says what degrades them. Name a folder "
            f"above them after their data set: {known}."
        )
    # A data set of another name in the same layout; which half it is, its folders may say.
    paired_set, halves = told[0]
    _check_rest(folder, [children[half] for half in halves], [*children.values()], notes)
    names = (part.name for part in path if not any(_is_named(part, pattern) for pattern in SPLITS.values()))
    name = f"{next(names)} {paired_set.degradation}"
    return _pair(folder, paired_set, name, _split(folder, root), *(children[half] for half in halves))


def _check_rest(folder: Path, halves: Sequence[Path], children: Sequence[Path], notes: list[str]) -> None:
    """See to it that nothing beside pairs of an unknown data set is left out without a word.

    Raises:
        DataError: there are more halves of pairs.
    """
    rest = [child for child in children if child not in halves and find_images(child)]
    clean, others = halves_beside([halves[1], *rest])
    more = [one for one in (*clean, *others) if one != halves[1] and kind_of(one.name) != "map"]
    if more:
        raise DataError(
            f"{folder} has pairs in {halves[0].name} and {halves[1].name}, and more halves beside them: "
            f"{', '.join(one.name for one in more)}. Which belong together is not known. {_WAYS_OUT}"
        )
    left = [*(f"{one.name}/" for one in rest), *(one.name for one in find_images(folder, recursive=False))]
    if left:
        listed = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
        notes.append(f"{folder} has pairs, and {listed} beside them, which are left out.")


def _left_out(folder: str, data_set: str) -> str:
    return f"What is in folders called {folder} of {data_set} is left out."


def _pair(
    folder: Path, paired_set: PairedSet, name: str, split: Split | None, degraded_half: Path, clean_half: Path
) -> Source:
    """Degraded images with the clean image of each.

    Raises:
        DataError: a half is empty, images have no counterpart, or several clean images claim to be one.
    """
    images = {half: find_images(half) for half in (degraded_half, clean_half)}
    for half, found in images.items():
        if not found:
            raise DataError(f"{name} in {folder} is incomplete: {half} has no images.")
    parts = {part for path in images[degraded_half] for part in path.relative_to(degraded_half).parent.parts}
    if split is None and all(any(_is_named(Path(part), pattern) for part in parts) for pattern in SPLITS.values()):
        raise DataError(
            f"{name} in {folder} has its training and test images within each half. Put a folder of both halves into "
            f"one for training and one for tests: train/{degraded_half.name}, train/{clean_half.name}, ..."
        )
    common = _key(paired_set, images, degraded_half, clean_half)
    keys = {half: [common(path.relative_to(half)) for path in found] for half, found in images.items()}
    clean: dict[str, list[Path]] = defaultdict(list)
    for key, path in zip(keys[clean_half], images[clean_half], strict=True):
        clean[key].append(path)
    alike = [path for group in clean.values() if len(group) > 1 for path in group]
    if alike:
        raise DataError(f"{name}: {clean_half} has several clean images of one name or number: {_first(alike)}.")
    lacking = [p for key, p in zip(keys[degraded_half], images[degraded_half], strict=True) if key not in clean]
    if lacking:
        raise DataError(f"{name} is incomplete: {clean_half} has no clean image of {_first(lacking)}.")
    used = set(keys[degraded_half])
    unused = [group[0] for key, group in clean.items() if key not in used]
    if unused and not paired_set.partial:
        raise DataError(f"{name} is incomplete: {degraded_half} has no degraded image of {_first(unused)}.")
    return Source(
        name,
        folder,
        "pairs",
        split,
        tuple(clean[key][0] for key in keys[degraded_half]),
        paired_set.degradation,
        tuple(images[degraded_half]),
        paired_set.border,
    )


def _key(
    paired_set: PairedSet, images: Mapping[Path, Sequence[Path]], degraded_half: Path, clean_half: Path
) -> Callable[[Path], str]:
    """What pairs have in common: their names where all are equal, whatever is in them; else as the data set has it."""
    names = {half: {same_name(path.relative_to(half)) for path in found} for half, found in images.items()}
    return same_name if names[degraded_half] <= names[clean_half] else paired_set.key


_Set = TypeVar("_Set", CleanSet, PairedSet)


def _by_name(sets: Sequence[_Set], folder: Path) -> _Set | None:
    return next((one for one in sets if _is_named(folder, one.folder)), None)


def _is_named(folder: Path, pattern: str) -> bool:
    return re.fullmatch(pattern, _letters(folder.name)) is not None


def _letters(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def _split(folder: Path, root: Path) -> Split | None:
    """What the innermost folder to say so says, from `folder` up to `root`."""
    for part in (folder, *folder.parents):
        for split, pattern in SPLITS.items():
            if _is_named(part, pattern):
                return split
        if part == root:
            break
    return None


def _telling_names(folders: Sequence[Path]) -> list[str]:
    """The name of each folder; of folders of one name, as much of the path as tells them apart."""
    names = []
    for folder in folders:
        others = [other for other in folders if other != folder]
        length = 1
        while any(other.parts[-length:] == folder.parts[-length:] for other in others):
            length += 1
        names.append(Path(*folder.parts[-length:]).as_posix())
    return names


_WAYS_OUT = (
    "Halves that say what degrades them are known: `rain` and `norain`, `hazy` and `clear`, `blur` and `sharp`; `low` "
    "and `high`, or `input` and `target`, below a folder named after its data set. So rename them; or give the folder "
    "of the clean ones alone; or, if all are clean, rename what says otherwise."
)


def _ending(path: Path) -> str:
    return path.suffix.lower()


def _known() -> str:
    return ", ".join(one.name for one in (*CLEAN_SETS, *PAIRED_SETS))


def _first(paths: Sequence[Path], most: int = 3) -> str:
    names = ", ".join(path.name for path in paths[:most])
    return f"{len(paths)} image{'s' if len(paths) > 1 else ''} ({names}{', ...' if len(paths) > most else ''})"
