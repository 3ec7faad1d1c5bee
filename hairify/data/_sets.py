"""The data sets of the field, in the layouts in which they are distributed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

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


def same_name(path: Path) -> str:
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
        key=same_name,
    ),
    PairedSet(
        "LOL-v1",
        "lol(v1|dataset)?|our485|eval15",
        "low_light",
        split=None,
        halves=(("low", "high"), ("input", "target")),
        key=same_name,
    ),
)

SPLITS: Mapping[Split, str] = {
    "train": "train(ing)?|our485|raintrain[lh]|raindatatrain(light|heavy)",
    "test": "test(ing)?|val(id(ation)?)?|eval15|raintest[lh]|raindatatest(light|heavy)",
}

# Halves whose names do not tell the degradation: the data set must be known by the name of a folder above them.
UNTELLING = {("input", "target"), ("low", "high")}
