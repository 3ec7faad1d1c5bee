"""What lies in folders: photographs, and data sets in the layouts in which they are distributed."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from hairify._support.telling_names import telling_names
from hairify.data._doubts import WAYS_OUT, check_children, only_photographs
from hairify.data._halves import halves_beside
from hairify.data._pairing import (
    by_name,
    composites,
    flat_pair,
    folders_in,
    halves_of,
    is_named,
    pair,
    part_name,
    split_of,
)
from hairify.data._sets import (
    CLEAN_SETS,
    COMPOSITE_SETS,
    HERE,
    PAIRED_SETS,
    SMALL_COPIES,
    SPLITS,
    TASK_FOLDERS,
    UNTELLING,
    CleanSet,
    PairedSet,
)
from hairify.data._sources import Findings, Source, listed, note
from hairify.data.images import SUFFIXES, find_images, find_unread, needed_for
from hairify.errors import DataError


def find(roots: Sequence[Path], option: str, named: Collection[Path] = ()) -> list[Source]:
    """Everything in the given folders, but for those that are halves of pairs named by hand.

    Warns:
        HairWarning: images are left out, or may be halves of pairs by the names of their files.

    Raises:
        DataError: there is no such folder, nothing is in it, a data set lacks a part, images are halves of pairs that
            are not known, or folders lie in one another.
    """
    found = survey(roots, option, named)
    if found.problems:
        raise found.problems[0]
    for text in dict.fromkeys(found.notes):
        note(text)
    return found.sources


def survey(roots: Sequence[Path], option: str, named: Collection[Path] = ()) -> Findings:
    """As `find`, but a problem with one data set does not keep from the others.

    Raises:
        DataError: no folder is given, or folders lie in one another.
    """
    if not roots:
        raise DataError(f"`{option}` is empty: give folders of clean photographs, or of the data sets {_known()}.")
    folders = [Path(os.path.abspath(root.expanduser())) for root in roots]
    for i, folder in enumerate(folders):
        for other in folders[:i]:
            if folder.is_relative_to(other) or other.is_relative_to(folder):
                raise DataError(f"`{option}` has both {other} and {folder}: one lies in the other; give either.")
    found = Findings()
    for folder, name in zip(folders, telling_names(folders), strict=True):
        try:
            found.sources.extend(_sources(folder, name, named, found))
        except DataError as error:
            found.problems.append(error)
    return found


def _sources(root: Path, name: str, named: Collection[Path], all_found: Findings) -> list[Source]:
    """Everything in one folder; photographs that belong to no data set are one source with the given name."""
    if not root.is_dir():
        what = f"{root} is a file" if root.exists() else f"There is no folder {root}"
        raise DataError(f"{what}; give a folder of clean photographs, or of the data sets {_known()}.")
    scan = _Scan(root, named, all_found)
    found = scan.of(root)
    photographs = only_photographs(
        {one.folder: one.clean for one in found if one.kind == "photographs"}, root, all_found.notes
    )
    for ending, unread in itertools.groupby(sorted(find_unread(root), key=_ending), key=_ending):
        all_found.notes.append(f"{root}: {listed([*unread])} left out: files {needed_for(ending)}.")
    others = [source for source in found if source.kind != "photographs"]
    if photographs:
        clean = tuple(sorted(path for images in photographs.values() for path in images))
        others.append(Source(name, root, "photographs", None, clean))
    if found and not others:
        raise DataError(f"{root} has nothing that can be used: {' '.join(all_found.notes)}")
    if not others and not all_found.problems:
        raise DataError(
            f"{root} is empty: looked, there and in the folders in it, for images ({', '.join(sorted(SUFFIXES))}) "
            f"and for the data sets {_known()}."
        )
    return others


class _Scan:
    """The search of one folder, whose remarks and problems it adds to those of all."""

    def __init__(self, root: Path, named: Collection[Path], found: Findings) -> None:
        self.root, self.named, self.notes, self.problems = root, named, found.notes, found.problems
        self.seen: set[str] = set()

    def of(self, folder: Path) -> list[Source]:
        """What is in a folder, and in those in it."""
        real = os.path.realpath(folder)
        if real in self.seen:
            return []
        self.seen.add(real)
        folders = [one for one in folders_in(folder) if one not in self.named]
        children = {child.name.lower(): child for child in folders}
        clean_set = by_name(CLEAN_SETS, folder)
        if clean_set is not None and not (clean_set.holds_others and _holds_others(folder, children, clean_set)):
            return [self._clean_source(folder, children, clean_set)]
        if is_named(folder, SMALL_COPIES):
            self.notes.append(_left_out(folder.name, "a clean set, small copies by its name,"))
            return []
        if pairs := self._paired_sources(folder, children):
            return pairs
        around = [part for part in (folder, *folder.parents) if part.is_relative_to(self.root)]
        if not any(by_name(PAIRED_SETS, part) for part in around):  # a known data set sees to its halves below
            check_children(folder, folders)
        problems = len(self.problems)
        below = [source for child in folders for source in self._below(child)]
        paired_set = by_name(PAIRED_SETS, folder)
        if paired_set is None:
            return [*below, *_photographs(folder)]
        # What else a data set has, such as maps of its haze, is no photograph.
        loose = [source.folder for source in below if source.kind == "photographs"]
        self.notes.extend(_left_out(one.name, paired_set.name) for one in loose)
        pairs = [source for source in below if source.kind != "photographs"]
        if len(self.problems) == problems:
            _check_complete(folder, paired_set, loose, any(source.kind == "pairs" for source in pairs))
        return pairs

    def _below(self, child: Path) -> list[Source]:
        try:
            return self.of(child)
        except DataError as error:
            self.problems.append(error)
            return []

    def _clean_source(self, folder: Path, children: Mapping[str, Path], clean_set: CleanSet) -> Source:
        """The photographs of a data set that has nothing else."""
        place = next((children[name] for name in clean_set.within if name in children), folder)
        images = tuple(find_images(place, recursive=False))
        if not images:
            places = "".join(f", or in its folder {name}" for name in clean_set.within)
            raise DataError(
                f"{folder} is {clean_set.name} by its name, and {place} has no images. They are looked for right in "
                f"it{places}. Complete it, or rename it if it is something else."
            )
        rest = [one for one in children.values() if one != place and find_images(one)]
        self.notes.extend(_left_out(one.name, clean_set.name) for one in rest)
        split = clean_set.split or split_of(folder, self.root) or "train"
        return Source(clean_set.name, folder, "clean set", split, images, only_noise=clean_set.only_noise)

    def _paired_sources(self, folder: Path, children: Mapping[str, Path]) -> list[Source]:
        """The pairs whose halves lie right in a folder.

        Raises:
            DataError: it cannot be told of which data set they are, images have no counterpart, or there are more
                halves.
        """
        path = (folder, *folder.parents)
        for composite in COMPOSITE_SETS:
            if composite.clean in children and any(is_named(one, composite.folder) for one in path):
                rest = [one for name, one in children.items() if name not in (composite.clean, *composite.degraded)]
                self.notes.extend(_left_out(one.name, composite.name) for one in rest if find_images(one))
                return composites(folder, children, composite, split_of(folder, self.root))
        named = by_name(PAIRED_SETS, folder)
        if named and (flat := flat_pair(folder, named, named.name, split_of(folder, self.root) or named.split)):
            source, rest = flat
            beside = [f"{one.name}/" for one in children.values() if find_images(one)] + [one.name for one in rest]
            self._note_beside(folder, beside)
            return [source]
        candidates = [
            (paired_set, halves)
            for paired_set in (*PAIRED_SETS, *TASK_FOLDERS)
            for halves in halves_of(paired_set, folder, children)
        ]
        for i, ancestor in enumerate(path):
            for paired_set, halves in candidates:
                if is_named(ancestor, paired_set.folder) and (halves[1] != HERE or ancestor == folder):
                    return [self._known(folder, children, paired_set, halves, part_name(paired_set, path[: i + 1]))]
        candidates = [one for one in candidates if one[0] not in TASK_FOLDERS and one[1][1] != HERE]
        return [self._of_another_name(folder, children, candidates)] if candidates else []

    def _known(
        self, folder: Path, children: Mapping[str, Path], paired_set: PairedSet, halves: tuple[str, str], name: str
    ) -> Source:
        """The pairs of a data set that is known by its name, or by that of its task."""
        split = split_of(folder, self.root) or paired_set.split or ("test" if HERE in halves else None)
        rest = [child for name, child in children.items() if name not in halves and find_images(child)]
        self.notes.extend(_left_out(one.name, paired_set.name) for one in rest)
        degraded, clean = (folder if half == HERE else children[half] for half in halves)
        return pair(folder, paired_set, name, split, degraded, clean)

    def _of_another_name(
        self, folder: Path, children: Mapping[str, Path], candidates: Sequence[tuple[PairedSet, tuple[str, str]]]
    ) -> Source:
        """The pairs of a data set in a known layout; which half it is, its folders may say."""
        told = [candidate for candidate in candidates if candidate[1] not in UNTELLING]
        if not told:
            degraded, clean = candidates[0][1]
            known = ", ".join(dict.fromkeys(paired_set.name for paired_set, _ in candidates))
            raise DataError(
                f"{folder} has pairs in `{degraded}` and `{clean}`, and nothing says what degrades them. Name a folder "
                f"above them after their data set: {known}; or name them by `pairs`: "
                f"haze={folder / degraded},{folder / clean}."
            )
        paired_set, halves = told[0]
        self._check_rest(folder, [children[half] for half in halves], [*children.values()])
        path = (folder, *folder.parents)
        names = (part.name for part in path if not any(is_named(part, pattern) for pattern in SPLITS.values()))
        name = f"{next(names)} {paired_set.degradation}"
        return pair(folder, paired_set, name, split_of(folder, self.root), *(children[half] for half in halves))

    def _check_rest(self, folder: Path, halves: Sequence[Path], children: Sequence[Path]) -> None:
        """See to it that nothing beside pairs of an unknown data set is left out without a word.

        Raises:
            DataError: there are more halves of pairs.
        """
        rest = [child for child in children if child not in halves and find_images(child)]
        clean, others = halves_beside([halves[1], *rest])
        more = [one for one in (*clean, *others) if one != halves[1]]
        if more:
            raise DataError(
                f"{folder} has pairs in {halves[0].name} and {halves[1].name}, and more halves beside them: "
                f"{', '.join(one.name for one in more)}. Which belong together is not known. {WAYS_OUT}"
            )
        self._note_beside(
            folder, [*(f"{one.name}/" for one in rest), *(one.name for one in find_images(folder, recursive=False))]
        )

    def _note_beside(self, folder: Path, left: Sequence[str]) -> None:
        if left:
            named = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
            self.notes.append(f"{folder} has pairs, and {named} beside them, which are left out.")


def _check_complete(folder: Path, paired_set: PairedSet, loose: Sequence[Path], has_pairs: bool) -> None:
    """See to it that a data set has its halves.

    Args:
        folder: that of the data set, by its name.
        paired_set: the data set.
        loose: the folders in it that have images and are no halves.
        has_pairs: whether pairs were found in it.

    Raises:
        DataError: a half is missing.
    """
    names = {name for halves in paired_set.halves for name in halves}
    paths = [path for inner in loose for path in (inner, *inner.parents) if path.is_relative_to(folder)]
    lone = [path for path in paths if path.name.lower() in names]
    if lone or not has_pairs:
        wanted = " or ".join(f"`{degraded}` and `{clean}`" for degraded, clean in paired_set.halves if clean != HERE)
        what = f"has no counterpart of {lone[0]}" if lone else "lacks both halves"
        raise DataError(
            f"{folder} is {paired_set.name} by its name, and {what}: needed are folders {wanted}. Complete it, or "
            "rename it if it is something else."
        )


def _holds_others(folder: Path, children: Mapping[str, Path], clean_set: CleanSet) -> bool:
    """Whether a folder that is called after a clean set has other folders in place of images."""
    return not find_images(folder, recursive=False) and not any(name in children for name in clean_set.within)


def _photographs(folder: Path) -> Iterator[Source]:
    """The images right in a folder."""
    if images := tuple(find_images(folder, recursive=False)):
        yield Source(folder.name, folder, "photographs", None, images)


def _left_out(folder: str, data_set: str) -> str:
    return f"What is in folders called {folder} of {data_set} is left out."


def _ending(path: Path) -> str:
    return path.suffix.lower()


def _known() -> str:
    known = [[one.name for one in sets] for sets in (CLEAN_SETS, PAIRED_SETS, COMPOSITE_SETS)]
    return ", ".join(dict.fromkeys(itertools.chain(*known)))
