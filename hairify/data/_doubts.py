"""Whether what is taken for clean photographs is that: halves of pairs are refused, maps and odd images left out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from hairify.data._halves import (
    alike,
    clean_half_of,
    degraded_part,
    halves_beside,
    kind_of,
    maps_of,
    of_one_scene,
    pairs_within,
)
from hairify.data._pairing import by_name, folders_in
from hairify.data._sets import CLEAN_SETS, PAIRED_SETS
from hairify.data._sources import listed
from hairify.errors import DataError

WAYS_OUT = (
    "Halves that say what degrades them are known: `rain` and `norain`, `hazy` and `clear`, `blur` and `sharp`; `low` "
    "and `high`, or `input` and `target`, below a folder named after its data set. So rename them; or give the folder "
    "of the clean ones alone; or name both halves by `pairs`, as in haze=DEGRADED,CLEAN; or, if all are clean, rename "
    "what says otherwise."
)


def only_photographs(
    folders: Mapping[Path, Sequence[Path]], root: Path, notes: list[str]
) -> dict[Path, Sequence[Path]]:
    """What is a clean photograph, by its name, and those of the folders and files beside it.

    Args:
        folders: the images right in each folder that is no data set.
        root: the folder that was given.
        notes: gets what is left out, or may be something else.

    Returns:
        The same without maps, such as masks, and without the degraded one of pairs that are few among other images.

    Raises:
        DataError: images are halves of pairs.
    """
    for given in (root, *list(root.parents)[:2]) if folders else ():
        beside = folders_in(given.parent) if os.access(given.parent, os.R_OK) else []
        if clean := clean_half_of(given, beside):
            raise DataError(f"{given} has images of which {clean} has clean ones by their names. {WAYS_OUT}")
    kept: dict[Path, Sequence[Path]] = {}
    for folder, images in folders.items():
        part = degraded_part(folder, root)
        if part is not None and part != root and kind_of(part.name) == "map":
            notes.append(f"{folder} has maps or masks by the name of {part.name}, which are no photographs: left out.")
        else:
            _check_part(part)
            kept[folder] = _without_halves(folder, images, notes)
    for group in alike(kept):
        names = ", ".join(one.name for one in group)
        notes.append(
            f"The folders {names} in {group[0].parent} have the same names of images. All are taken for clean "
            f"photographs; if they are halves of pairs: {WAYS_OUT}"
        )
    return kept


def check_children(folder: Path, children: Sequence[Path]) -> None:
    """Refuse halves of pairs beside one another that are not known.

    Raises:
        DataError: there are such.
    """
    unknown = [one for one in children if not (by_name(CLEAN_SETS, one) or by_name(PAIRED_SETS, one))]
    clean, others = halves_beside(unknown)
    if others:
        names = [", ".join(one.name for one in half) for half in (others, clean)]
        raise DataError(
            f"{folder} has halves of pairs by their names, {names[0]} beside {names[1]}, and nothing says what "
            f"degrades them. {WAYS_OUT}"
        )


def _check_part(part: Path | None) -> None:
    """Refuse a folder whose name says that its images are not clean.

    Raises:
        DataError: it does.
    """
    if part is None:
        return
    what = "maps or masks" if kind_of(part.name) == "map" else "degraded images"
    halves = [clean for one in PAIRED_SETS for degraded, clean in one.halves if degraded == part.name.lower()]
    where = f" with the clean ones beside it in {', '.join(dict.fromkeys(halves))}" if halves else ""
    raise DataError(f"{part} has {what} by its name, and is no half of pairs that are known{where}. {WAYS_OUT}")


def _without_halves(folder: Path, images: Sequence[Path], notes: list[str]) -> Sequence[Path]:
    """The images of a folder but for maps of others there, and for what is degraded in a few pairs.

    Raises:
        DataError: most of them are pairs.
    """
    if maps := maps_of(images):
        notes.append(f"{folder}: {listed(maps)} left out: maps or masks of the others by their names.")
        images = [path for path in images if path not in maps]
    pairs = pairs_within(images)
    if pairs and 2 * len(of_one_scene(pairs, images)) >= len(images):
        degraded, clean = pairs[0]
        raise DataError(
            f"{folder} has pairs within it: {degraded.name} and {clean.name} are of one scene by their names. "
            f"Put the halves into folders of their own. {WAYS_OUT}"
        )
    if left := [degraded for degraded, _ in pairs]:
        notes.append(f"{folder}: {listed(left)} left out: by their names, others show the same without degradation.")
    return [path for path in images if path not in left]
