"""Pairs in two folders that were named by hand: by which rule their images belong together is found from all names.

A name is read as words, numbers and what stands between them. Of a degraded image's name and that of its clean one,
each may have a prefix and a suffix that all images of its half have (`rain-1` and `norain-1`, `x_LQ` and `x_GT`), and
the degraded one may go on where the clean one ends (`0001_0.8_0.2` and `0001`). Of the rules that pair the most images,
that counts which takes the least away.
"""

from __future__ import annotations

import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from hairify.data._sources import Source, listed
from hairify.data.images import find_images
from hairify.errors import DataError, OptionError

_SAMPLE = 64  # degraded images on which rules are tried
_LONGEST = 4  # words, numbers and separators in a prefix or suffix
_TOKEN = re.compile(r"\d+|[^\W\d_]+|[\W_]+")

_EQUAL = "equal names"

_Tokens: TypeAlias = tuple[str, ...]
_Affix: TypeAlias = tuple[_Tokens, _Tokens]
"""What a name begins and ends with."""


@dataclass(frozen=True, order=True)
class _Rule:
    """How much is taken away from names, so that they are equal; the order of rules is that of preference."""

    goes_on: bool  # the degraded name may go on where the clean one ends
    by_value: bool  # numbers are equal by value: 001 and 1
    without_folders: bool  # of the halves' inner folders, the names are not compared
    taken: int  # characters
    degraded: _Affix
    clean: _Affix

    @property
    def weight(self) -> tuple[bool, bool, bool, int]:
        """By which rules are preferred; those of one weight must pair alike."""
        return self.goes_on, self.by_value, self.without_folders, self.taken

    def __str__(self) -> str:
        affixes = [_affix(*affix) for affix in (self.degraded, self.clean)]
        parts = []
        if self.degraded != self.clean:
            parts.append(f"but for {affixes[0]} and {affixes[1]}")
        if self.by_value:
            parts.append("numbers by their value")
        if self.goes_on:
            parts.append("the degraded ones go on behind the clean ones' name")
        return ", ".join([_EQUAL, *parts])


def _affix(prefix: _Tokens, suffix: _Tokens) -> str:
    said = [f"`{''.join(part)}`" for part in (prefix, suffix) if part]
    return " with ".join(said) or "nothing"


def check_named_pairs(option: str, given: Sequence[str]) -> None:
    """See to it that each is NAME=DEGRADED,CLEAN.

    Raises:
        OptionError: one is not.
    """
    for text in given:
        name, equals, halves = text.partition("=")
        if not (name.strip() and equals and "," in halves.strip(", ")):
            raise OptionError(
                f"`{option}` has {text!r}; accepted is NAME=DEGRADED,CLEAN: a degradation and the folders of both "
                "halves, such as rain=rainy/,clean/."
            )


def find_named_pairs(given: Sequence[str], notes: list[str]) -> list[Source]:
    """The pairs of each NAME=DEGRADED,CLEAN.

    Args:
        given: checked by `check_named_pairs`.
        notes: gets how names were matched, and what has no partner.

    Raises:
        DataError: a folder does not exist or has no images, or their names do not match, or match in several ways.
    """
    return [_pairs(text, notes) for text in given]


def halves_of_named_pairs(given: Sequence[str]) -> set[Path]:
    """The folders of all halves, which belong to nothing else that is found around them."""
    return {folder for text in given for folder in _two_folders(text)}


def _pairs(text: str, notes: list[str]) -> Source:
    degradation = text.partition("=")[0].strip()
    folders = _two_folders(text)
    degraded, clean = (_Half(folder) for folder in folders)
    for half in (degraded, clean):
        if not half.images:
            raise DataError(f"`pairs` has {text!r}: {half.folder} has no images.")
    rule = _best_rule(degraded, clean, text)
    partners = [_partner(rule, i, degraded, clean) for i in range(len(degraded.images))]
    pairs = [(path, clean.images[j]) for path, j in zip(degraded.images, partners, strict=True) if j is not None]
    lacking = [path for path, j in zip(degraded.images, partners, strict=True) if j is None]
    if 2 * len(pairs) < len(degraded.images):
        raise DataError(
            f"`pairs` has {text!r}: the names in {degraded.folder} are not those in {clean.folder}. At best, by "
            f"{rule}, {len(pairs)} of {len(degraded.images)} degraded images have a clean one; {listed(lacking)} "
            f"have none; clean are {listed(clean.images)}. Rename them so that names are equal, or differ "
            "in what all have."
        )
    if str(rule) != _EQUAL:
        first = f"{pairs[0][0].name} ↔ {pairs[0][1].name}"
        notes.append(f"{len(pairs)} pairs of {degradation} by {rule}, such as {first}.")
    used = set(partners)
    unused = [path for j, path in enumerate(clean.images) if j not in used]
    for half, alone in ((degraded, lacking), (clean, unused)):
        if alone:
            notes.append(f"{half.folder}: {listed(alone)} left out: without a partner, by {rule}.")
    common = Path(os.path.commonpath(folders))
    return Source(
        f"{common.name or folders[0].name} {degradation}",
        common,
        "pairs",
        None,
        tuple(one for _, one in pairs),
        degradation,
        tuple(one for one, _ in pairs),
        rule=str(rule),
        named=True,
    )


def _two_folders(text: str) -> tuple[Path, Path]:
    """The folders of both halves; their names may have commas.

    Raises:
        DataError: there are none such.
    """
    parts = text.partition("=")[2].split(",")
    ways = [[",".join(parts[:i]), ",".join(parts[i:])] for i in range(1, len(parts))]
    both = [[Path(os.path.abspath(Path(half.strip()).expanduser())) for half in way] for way in ways]
    for degraded, clean in both:
        if degraded.is_dir() and clean.is_dir():
            if degraded == clean:
                raise DataError(f"`pairs` has {text!r}: both halves are {clean}; give a folder for each.")
            return degraded, clean
    lacking = next(one for one in both[0] if not one.is_dir())
    raise DataError(f"`pairs` has {text!r}: there is no folder {lacking}.")


class _Half:
    """The images of a half, and what their names are made of."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.images = folder, find_images(folder)
        names = [path.relative_to(folder).with_suffix("") for path in self.images]
        self.folders = [name.parent.as_posix().lower() for name in names]
        self.tokens: list[_Tokens] = [tuple(_TOKEN.findall(name.name.lower())) for name in names]
        self._places: dict[tuple[_Affix, bool, bool], dict[tuple[str, _Tokens], list[int]]] = {}

    def affixes(self, step: int) -> list[_Tokens]:
        """Nothing, and what all names begin with (step 1) or end with (step -1), without numbers: they tell images."""
        common: list[str] = []
        for place in zip(*(one[::step] for one in self.tokens), strict=False):
            if len(set(place)) > 1 or place[0].isdigit() or len(common) == _LONGEST:
                break
            common.append(place[0])
        return [tuple(common[:length][::step]) for length in range(len(common) + 1)]

    def core(self, i: int, affix: _Affix, by_value: bool) -> _Tokens:
        """What is left of a name."""
        prefix, suffix = affix
        core = self.tokens[i][len(prefix) : len(self.tokens[i]) - len(suffix)]
        return tuple(str(int(one)) if by_value and one.isdigit() else one for one in core)

    def places(self, affix: _Affix, by_value: bool, without_folders: bool) -> dict[tuple[str, _Tokens], list[int]]:
        """The images of each core, in each inner folder."""
        key = affix, by_value, without_folders
        if key not in self._places:
            places: dict[tuple[str, _Tokens], list[int]] = defaultdict(list)
            for i, folder in enumerate(self.folders):
                places["" if without_folders else folder, self.core(i, affix, by_value)].append(i)
            self._places[key] = dict(places)
        return self._places[key]


def _best_rule(degraded: _Half, clean: _Half, text: str) -> _Rule:
    """The rule that pairs the most of a sample, and takes the least away.

    Raises:
        DataError: two rules do so, and pair in different ways.
    """
    sample = range(0, len(degraded.images), max(len(degraded.images) // _SAMPLE, 1))
    best: list[tuple[_Rule, list[int | None]]] = []
    most = -1
    for rule in sorted(_rules(degraded, clean)):
        if best and most == len(sample) and rule.weight > best[0][0].weight:
            break
        partners = [_partner(rule, i, degraded, clean) for i in sample]
        paired = sum(partner is not None for partner in partners)
        if paired > most:
            best, most = [(rule, partners)], paired
        elif paired == most and rule.weight == best[0][0].weight:
            best.append((rule, partners))
    rule, partners = best[0]
    for other, others in best[1:]:
        for i, one, another in zip(sample, partners, others, strict=True):
            if one is not None and another is not None and one != another:
                raise DataError(
                    f"`pairs` has {text!r}, whose names match in several ways: {degraded.images[i].name} belongs to "
                    f"{clean.images[one].name} by {rule}, and to {clean.images[another].name} by {other}. Rename the "
                    "images so that names are equal, or differ in what all of a folder have."
                )
    return rule


def _rules(degraded: _Half, clean: _Half) -> Iterator[_Rule]:
    """All rules that the names allow."""
    befores, behinds = ([degraded.affixes(step), clean.affixes(step)] for step in (1, -1))
    nested = {*degraded.folders, *clean.folders} != {"."}
    for goes_on, by_value, without in itertools.product((False, True), (False, True), (False, True)[: 1 + nested]):
        for before, behind in itertools.product(itertools.product(*befores), itertools.product(*behinds)):
            taken = sum(len(token) for affix in (*before, *behind) for token in affix)
            yield _Rule(goes_on, by_value, without, taken, (before[0], behind[0]), (before[1], behind[1]))


def _partner(rule: _Rule, i: int, degraded: _Half, clean: _Half) -> int | None:
    """The place of the clean image of a degraded one; None where there is none, or more than one."""
    places = clean.places(rule.clean, rule.by_value, rule.without_folders)
    folder = "" if rule.without_folders else degraded.folders[i]
    core = degraded.core(i, rule.degraded, rule.by_value)
    for length in range(len(core), 0, -1) if rule.goes_on else range(len(core), len(core) - 1, -1):
        if length and (found := places.get((folder, core[:length]))):
            return found[0] if len(found) == 1 else None
    return None
