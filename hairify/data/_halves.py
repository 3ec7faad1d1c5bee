"""Halves of pairs by their names: what is degraded, or no photograph, and is not to be taken for a clean one."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from hairify.data.images import find_images

Kind = Literal["degraded", "clean", "map"]

_DEGRADED = frozenset(
    (
        *("degraded", "degradation", "corrupted", "distorted", "compressed", "synthetic", "input", "inputs", "lq"),
        *("rain", "rainy", "raindrop", "raindrops", "rainstreak", "haze", "hazy", "foggy", "snowy", "noisy", "noise"),
        *("blur", "blurry", "blurred", "low", "lowlight", "lowquality", "lr", "underexposed", "moire"),
    )
)
_CLEAN = frozenset(
    (
        *("gt", "gts", "groundtruth", "truth", "hq", "hr", "target", "targets", "clean", "clear", "sharp", "reference"),
        *("norain", "nohaze", "nofog", "nosnow", "noblur", "nonoise", "noiseless", "free", "rainfree", "hazefree"),
    )
)
_MAPS = frozenset(("mask", "masks", "depth", "depthmap", "trans", "transmission", "segmentation"))

# These say so only beside the others: folders of photographs may be called after snow or a data set's data.
_PERHAPS_DEGRADED = frozenset(
    (
        *("in", "source", "src", "data", "raw", "real", "before", "bad", "comp", "r", "dark", "under", "underwater"),
        *("snow", "fog", "smoke", "dust", "mist", "shadow", "drop", "drops", "streak", "streaks", "cloud", "cloudy"),
        *("clouds", "inp"),
    )
)
_PERHAPS_CLEAN = frozenset(
    (
        *("high", "normal", "original", "originals", "orig", "label", "labels", "ref", "out", "output", "after"),
        *("good", "expert", "mean", "c", "tar"),
    )
)
_SAYING_NOTHING = frozenset(
    (
        *("image", "images", "img", "imgs", "picture", "pictures", "photo", "photos", "train", "training", "test"),
        *("testing", "val", "valid", "validation", "eval", "set", "patch", "patches", "crop", "crops", "part", "x"),
        *("with", "heavy", "medium", "light"),
    )
)
_NOT = frozenset(("no", "non", "not", "without", "wo", "free"))
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def _words(name: str) -> list[str]:
    """`RainyImage_001` as rainy, image, 001."""
    return [word.lower() for word in _WORD.findall(name)]


def _negated(words: Collection[str]) -> bool:
    """Whether words say that there is no degradation: `without_rain`."""
    return not _NOT.isdisjoint(words) and not (_DEGRADED | _PERHAPS_DEGRADED).isdisjoint(words)


def kind_of(name: str) -> Kind | None:
    """What a name says by itself, if all its words say so: `rainy_image` and `LQ` do, `low_tide` does not."""
    words = [word for word in _words(name) if not word.isdigit() and word not in _SAYING_NOTHING]
    whole = "".join(words)
    if whole in _CLEAN or _negated(words) or (words and all(word in _CLEAN for word in words)):
        return "clean"
    if whole in _DEGRADED or (words and all(word in _DEGRADED for word in words)):
        return "degraded"
    return "map" if words and all(word in _MAPS for word in words) else None


def _says_clean(name: str) -> bool:
    """Whether a word of a name says by itself that images are clean."""
    return kind_of(name) == "clean" or any(word in _CLEAN for word in _words(name))


def _kind_beside(name: str) -> Kind | None:
    """What a name may say where others stand beside it: one word is enough."""
    words = _words(name)
    said = {*words, "".join(words)}
    if said & (_CLEAN | _PERHAPS_CLEAN) or _negated(words):
        return "clean"
    if said & (_DEGRADED | _PERHAPS_DEGRADED):
        return "degraded"
    return "map" if said & _MAPS else None


def _rest(stem: str) -> tuple[str, ...]:
    """What of a file's name does not say a kind: that of the scene."""
    return tuple(word for word in _words(stem) if _kind_beside(word) is None and word not in {"with", *_NOT})


def degraded_part(folder: Path, root: Path) -> Path | None:
    """Of a folder and those around it, up to `root`, the innermost whose name says that its images are not clean."""
    for part in (folder, *folder.parents):
        kind = kind_of(part.name)
        if kind in ("degraded", "map"):
            return part
        if kind == "clean" or part == root:
            return None
    return None


def halves_beside(folders: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Of folders beside one another, those of clean images and those that are other halves of pairs with them."""
    clean = [one for one in folders if _kind_beside(one.name) == "clean"]
    if not clean:
        return [], []
    scenes = _scenes(clean)
    # `high` may be of the tide, and `normal` of a patient: there, both the other folder and its files have to agree.
    told = any(_says_clean(one.name) for one in clean)
    others = []
    for one in folders:
        says = _kind_beside(one.name)
        images = [] if says in ("clean", "map") else find_images(one)
        if images and (
            (told and (says is not None or _show(images, scenes))) or (says is not None and _show(images, scenes))
        ):
            others.append(one)
    return clean, others


def clean_half_of(folder: Path, beside: Sequence[Path]) -> Path | None:
    """The clean half of pairs with a folder, of those beside it, by their names and those of their images."""
    if _kind_beside(folder.name) in (None, "clean"):
        return None
    own = _rest(folder.name)
    for one in beside:
        same = _rest(one.name)
        if _says_clean(one.name) and own[: len(same)] == same and _show(find_images(folder), _scenes([one])):
            return one
    return None


def _scenes(folders: Sequence[Path]) -> set[tuple[str, ...]]:
    return {_rest(path.stem) for folder in folders for path in find_images(folder)} - {()}


def _show(images: Sequence[Path], scenes: set[tuple[str, ...]]) -> bool:
    """Whether half of the images, or more, are of scenes of which there are clean ones: `im_0001_s80` of `im_0001`."""
    names = [_rest(path.stem) for path in images]
    return 2 * sum(any(name[:end] in scenes for end in range(1, len(name) + 1)) for name in names) >= len(names)


def pairs_within(images: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Degraded and clean images in one folder that are pairs by their names, such as `01_hazy` and `01_GT`."""
    scenes: dict[tuple[str, ...], dict[str, Path]] = defaultdict(dict)
    for path in images:
        kind = _kind_beside(path.stem)
        sure = any(word in _CLEAN | _DEGRADED for word in _words(path.stem))
        scenes[_rest(path.stem)].setdefault(f"{kind}{'!' if sure else ''}", path)
    pairs = []
    for rest, found in scenes.items():
        if not rest:  # the names have nothing but what they say: `gt` and `noisy` do, `high` and `snow` need not
            found = {said: path for said, path in found.items() if said.endswith("!")}
        by = {said.rstrip("!"): path for said, path in found.items()}
        if "clean" in by and "degraded" in by:
            pairs.append((by["degraded"], by["clean"]))
        elif "None" in by and "degraded!" in found:
            pairs.append((found["degraded!"], by["None"]))
        elif "None" in by and "clean!" in found:
            pairs.append((by["None"], found["clean!"]))
    return pairs


def of_one_scene(pairs: Sequence[tuple[Path, Path]], images: Sequence[Path]) -> list[Path]:
    """The images of the scenes of which there are pairs."""
    scenes = {_rest(clean.stem) for _, clean in pairs}
    return [path for path in images if _rest(path.stem) in scenes]


def maps_of(images: Sequence[Path]) -> list[Path]:
    """Images that are maps of others in their folder, such as `scan_1_mask` of `scan_1`."""
    scenes = {_rest(path.stem) for path in images if _kind_beside(path.stem) != "map"}
    return [path for path in images if _kind_beside(path.stem) == "map" and _rest(path.stem) in scenes]


def alike(folders: Mapping[Path, Sequence[Path]]) -> Iterator[list[Path]]:
    """Groups of folders, beside or within one another, with the same names of images; their own say nothing of pairs.

    One may have more images than others. Folders whose names differ in numbers alone are scenes of films.
    """
    beside: dict[Path, dict[str, Path]] = defaultdict(dict)
    # A single name, such as `cover`, says nothing.
    names = {folder: frozenset(path.stem.lower() for path in images) for folder, images in folders.items()}
    names = {folder: own for folder, own in names.items() if len(own) > 1}
    for folder, own in names.items():
        beside[folder.parent].setdefault(re.sub(r"\d", "", folder.name.lower()), folder)
        if own <= names.get(folder.parent, frozenset()):
            yield [folder.parent, folder]
    for group in beside.values():
        waiting = sorted(group.values(), key=lambda folder: len(names[folder]))
        while waiting:
            least = waiting.pop(0)
            others = [folder for folder in waiting if names[least] <= names[folder]]
            waiting = [folder for folder in waiting if folder not in others]
            if others:
                yield sorted([least, *others])
