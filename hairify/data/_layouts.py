"""What lies in folders: photographs, and data sets in the layouts in which they are distributed."""

from __future__ import annotations

import dataclasses
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from hairify.data.images import SUFFIXES, find_images
from hairify.errors import DataError

Split = Literal["train", "test"]


@dataclass(frozen=True)
class CleanSet:
    """A data set of clean photographs to which the field adds noise."""

    name: str
    folder: str
    """A regular expression: what its folder is called, in lower-case letters and digits."""
    split: Split
    within: tuple[str, ...] = ()
    """Folders in it of which the first to exist holds the photographs; others then hold noisy or small copies."""


@dataclass(frozen=True)
class PairedSet:
    """A data set of degraded images with the clean image of each."""

    name: str
    folder: str
    """A regular expression: what its folder is called, in lower-case letters and digits."""
    degradation: str
    split: Split | None
    """The half that it is. None: its folders say so; where they do not, it serves wherever it is given."""
    halves: tuple[tuple[str, str], ...]
    """What the folders of the degraded and of the clean images are called, in any of the ways in use."""
    key: Callable[[Path], str]
    """What a degraded image and its clean one have in common; of paths below their half's folder."""
    partial: bool = False
    """Clean images without a degraded one are no defect: the set comes in parts, many degraded to one clean."""
    border: int = 0
    """See `Task.border`."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """Folders in it that are data sets by themselves, and the name of each."""


def _same_name(path: Path) -> str:
    return path.with_suffix("").as_posix().lower()


def _first_number(path: Path) -> str:
    """`rain-001`, `norain-1` and `norain-001x2` are all of image 1."""
    number = re.search(r"\d+", path.stem)
    return str(int(number.group())) if number else path.stem.lower()


def _before_underscore(path: Path) -> str:
    """`0001_0.8_0.2` (image, airlight, scattering) and `1400_3` belong to `0001` and `1400`."""
    return path.stem.partition("_")[0].lower()


CLEAN_SETS = (
    CleanSet("BSD400", "bsds?400|train400", "train"),
    CleanSet("WED", "wed|waterloo(ed)?|waterlooexplorationdatabase", "train", within=("pristine_images",)),
    CleanSet("BSD68", "bsds?68", "test"),
    # The usual copy has CBSD68 as PNG and as JPEG, and beside them noisy5 to noisy50.
    CleanSet("CBSD68", "cbsds?68(hq)?", "test", within=("original_png", "original")),
    CleanSet("Urban100", "urban100(hq)?", "test", within=("hr",)),
)

# The clean images of RESIDE's indoor scenes are 640×480 with a white border of 10 pixels, the hazy ones 620×460. Some
# copies have both at 620×460.
PAIRED_SETS = (
    PairedSet(
        "Rain100L",
        "rain100l|rain(train|test)l|raindata(train|test)light",
        "rain",
        split=None,
        halves=(("rain", "norain"), ("rainy", "norain"), ("rainy", "gt"), ("input", "target")),
        key=_first_number,
    ),
    PairedSet(
        "SOTS",
        "sots(test)?",
        "haze",
        split="test",
        halves=(("hazy", "gt"), ("hazy", "clear"), ("input", "target")),
        key=_before_underscore,
        partial=True,
        border=10,
        parts={"indoor": "SOTS indoor", "nyuhaze500": "SOTS indoor"},  # "SOTS" alone is outdoors, as in the paper
    ),
    PairedSet(
        "OTS",
        "ots(alpha|beta)?",
        "haze",
        split="train",
        halves=(("hazy", "clear"), ("haze", "clear"), ("hazy", "gt"), ("synthetic", "original")),
        key=_before_underscore,
        partial=True,
    ),
    PairedSet(
        "ITS",
        "its(v2)?",
        "haze",
        split="train",
        halves=(("hazy", "clear"), ("hazy", "gt")),
        key=_before_underscore,
        partial=True,
        border=10,
    ),
    PairedSet(
        "GoPro",
        "gopro(large)?",
        "blur",
        split=None,
        halves=(("blur", "sharp"), ("input", "target")),
        key=_same_name,
    ),
    PairedSet(
        "LOL-v1",
        "lol(v1|dataset)?|our485|eval15",
        "low_light",
        split=None,
        halves=(("low", "high"), ("input", "target")),
        key=_same_name,
    ),
)

_SPLITS: Mapping[Split, str] = {
    "train": "train(ing)?|our485|raintrain[lh]|raindatatrain(light|heavy)",
    "test": "test(ing)?|val(id(ation)?)?|eval15|raintest[lh]|raindatatest(light|heavy)",
}

# Halves whose names do not tell the degradation: the data set must be known by the name of a folder above them.
_UNTELLING = {("input", "target"), ("low", "high")}


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

    Raises:
        DataError: there is no such folder, nothing is in it, a data set lacks a part, or folders lie in one another.
    """
    if not roots:
        raise DataError(f"`{option}` is empty: give folders of clean photographs, or of the data sets {_known()}.")
    folders = [Path(os.path.abspath(root.expanduser())) for root in roots]
    for i, folder in enumerate(folders):
        for other in folders[:i]:
            if folder.is_relative_to(other) or other.is_relative_to(folder):
                raise DataError(f"`{option}` has both {other} and {folder}: one lies in the other; give either.")
    named = zip(folders, _telling_names(folders), strict=True)
    return [source for folder, name in named for source in _sources(folder, name)]


def _sources(root: Path, name: str) -> list[Source]:
    """Everything in one folder; photographs that belong to no data set are one source with the given name."""
    if not root.is_dir():
        what = f"{root} is a file" if root.exists() else f"There is no folder {root}"
        raise DataError(f"{what}; give a folder of clean photographs, or of the data sets {_known()}.")
    found = list(_scan(root, root, set()))
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


def _scan(folder: Path, root: Path, seen: set[str]) -> Iterator[Source]:
    """What is in a folder. `seen` has the real paths of folders, for links may lead in circles."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    with os.scandir(folder) as entries:
        folders = sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    children = {child.name.lower(): child for child in folders}
    clean_set = _by_name(CLEAN_SETS, folder)
    if clean_set is not None:
        yield _clean_source(folder, children, clean_set)
        return
    pairs = _paired_source(folder, children, root)
    if pairs is not None:
        yield pairs
        return
    below = [source for child in folders for source in _scan(child, root, seen)]
    paired_set = _by_name(PAIRED_SETS, folder)
    if paired_set is None:
        yield from below
        yield from _photographs(folder)
        return
    # What else a data set has, such as maps of its haze, is no photograph.
    yield from (source for source in below if source.kind != "photographs")
    names = {name for halves in paired_set.halves for name in halves}
    loose = [source.folder for source in below if source.kind == "photographs"]
    paths = [path for inner in loose for path in (inner, *inner.parents) if path.is_relative_to(folder)]
    lone = [path for path in paths if path.name.lower() in names]
    if lone or not any(source.kind == "pairs" for source in below):
        wanted = " or ".join(f"`{degraded}` and `{clean}`" for degraded, clean in paired_set.halves)
        what = f"has no counterpart of {lone[0]}" if lone else "lacks both halves"
        raise DataError(
            f"{folder} is {paired_set.name} by its name, and {what}: needed are folders {wanted}. Complete it, or "
            "rename it if it is something else."
        )


def _photographs(folder: Path) -> Iterator[Source]:
    """The images right in a folder, unless its name says that they are degraded."""
    images = tuple(find_images(folder, recursive=False))
    beside = [clean for one in PAIRED_SETS for degraded, clean in one.halves if degraded == folder.name.lower()]
    if images and beside:
        raise DataError(
            f"{folder} has degraded images by its name, and there is no folder of the clean ones beside it "
            f"({', '.join(dict.fromkeys(beside))}). Add it; or rename the folder, if its photographs are clean."
        )
    if images:
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


def _paired_source(folder: Path, children: Mapping[str, Path], root: Path) -> Source | None:
    """The pairs whose two halves lie in a folder, None if it has no such halves.

    Raises:
        DataError: it cannot be told of which data set they are, or images have no counterpart.
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
                return _pair(folder, paired_set, name, split, *(children[half] for half in halves))
    told = [candidate for candidate in candidates if candidate[1] not in _UNTELLING]
    if not told:
        degraded, clean = candidates[0][1]
        known = ", ".join(dict.fromkeys(paired_set.name for paired_set, _ in candidates))
        raise DataError(
            f"{folder} has pairs in `{degraded}` and `{clean}`, and nothing says what degrades them. Name a folder "
            f"above them after their data set: {known}."
        )
    # A data set of another name in the same layout; which half it is, its folders may say.
    paired_set, halves = told[0]
    names = (part.name for part in path if not any(_is_named(part, pattern) for pattern in _SPLITS.values()))
    name = f"{next(names)} {paired_set.degradation}"
    return _pair(folder, paired_set, name, _split(folder, root), *(children[half] for half in halves))


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
    keys = {half: [paired_set.key(path.relative_to(half)) for path in found] for half, found in images.items()}
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
        for split, pattern in _SPLITS.items():
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


def _known() -> str:
    return ", ".join(one.name for one in (*CLEAN_SETS, *PAIRED_SETS))


def _first(paths: Sequence[Path], most: int = 3) -> str:
    names = ", ".join(path.name for path in paths[:most])
    return f"{len(paths)} image{'s' if len(paths) > 1 else ''} ({names}{', ...' if len(paths) > most else ''})"
