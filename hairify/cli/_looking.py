"""What a restorer sees in photographs, and guiding it by that: `hairify look`, and options of `hairify restore`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Column, Table
from rich.text import Text
from torch import Tensor

from hairify.cli._common import console, progress, say
from hairify.data.images import read
from hairify.errors import OptionError
from hairify.model import HairModel
from hairify.restoring import GuidanceSettings, TilingSettings
from hairify.restoring._failures import failure_in_words
from hairify.restoring._guidance import Guidance
from hairify.restoring._known_givs import KnownGIVs, Sight
from hairify.restoring._restored_files import looked_at
from hairify.restoring._tiling import giv_of
from hairify.sharing._hub import Restorer


def guidance_by(settings: GuidanceSettings, restorer: Restorer, tiling: TilingSettings) -> Guidance:
    """What the settings say, of a restorer.

    Raises:
        OptionError: it has no GIV, or knows no such degradation.
        ImageError: the photograph of `like` cannot be read.
    """
    giv = None
    if settings.as_degradation is not None:
        giv = _known(restorer, "as_degradation").giv(settings.as_degradation)
    elif settings.like is not None:
        giv = _giv(_hair(restorer, "like"), settings.like, tiling, restorer.multiple)
    return Guidance(settings.strength, giv, settings.passes, restorer.givs)


def look_at(restorer: Restorer, inputs: Sequence[Path], tiling: TilingSettings, *, as_json: bool) -> int:
    """Tell what a restorer sees in photographs.

    Args:
        restorer: a trained one, of a HairModel.
        inputs: photographs, and folders of them.
        tiling: of what the GIV of a large one is found.
        as_json: print a line of JSON for each photograph, in place of a table.

    Returns:
        The exit status: 1 where a photograph could not be read.

    Raises:
        OptionError: the restorer has no GIV, or keeps none of what it knows.
    """
    known, hair = _known(restorer, "model"), _hair(restorer, "model")
    tiling.check(restorer.multiple)
    jobs = looked_at(inputs)
    table = Table(Column("photograph", overflow="fold"), "seen", "certainty", "distance", "then")
    failed = 0
    with progress("looking", len(jobs)) as advance:
        for job in jobs:
            path, problem = job.source, job.problem
            advance(path.name)
            try:
                sight = None if problem else known.look(_giv(hair, path, tiling, restorer.multiple))
            except Exception as error:  # the others are worth having all the same
                sight, problem = None, failure_in_words(error, "Out of memory; a smaller --tile takes less.")
            if sight is None:
                failed += 1
                say(("failed", "red"), f" {path}: {problem}")
            if as_json:
                told = {"error": problem} if sight is None else _plain(sight)
                print(json.dumps({"photograph": str(path), **told}, ensure_ascii=False), flush=True)
            elif sight is not None:
                table.add_row(*map(Text, (str(path), *_row(sight))))
    if not as_json and table.row_count:
        console.print(table)
        say("Distances are to the mean of a degradation, in those that images usually have to that of their own.")
    return int(failed > 0)


def _row(sight: Sight) -> Iterator[str]:
    then, distance = [*sight.distances.items()][1]
    yield sight.nearest if sight.is_known else f"unlike all; {sight.nearest}"
    yield f"{sight.certainty:.0%}"
    yield f"{sight.distances[sight.nearest]:.2f}"
    yield f"{then} ({distance:.2f})"


def _plain(sight: Sight) -> dict[str, object]:
    return {
        "seen": sight.nearest,
        "certainty": round(sight.certainty, 4),
        "known": sight.is_known,
        "distances": {name: round(distance, 4) for name, distance in sight.distances.items()},
    }


def _giv(hair: HairModel, path: Path, tiling: TilingSettings, multiple: int) -> Tensor:
    """The GIV of a photograph, as `restore` finds it, by a model in evaluation mode."""
    return giv_of(hair, read(path).pixels[None], tiling, multiple)


def _hair(restorer: Restorer, option: str) -> HairModel:
    if not isinstance(restorer.model, HairModel):
        raise OptionError(f"`{option}` takes a restorer that was converted; a static network sees nothing.")
    return restorer.model


def _known(restorer: Restorer, option: str) -> KnownGIVs:
    _hair(restorer, option)
    if restorer.givs is None:
        raise OptionError(
            f"`{option}` takes a restorer that keeps the GIVs of what it knows; this one keeps none: it was written "
            "by an older hairify, in which case the next checkpoint of `hairify train --resume` keeps them, or it "
            "learnt from shards alone."
        )
    return restorer.givs
