"""The data sets of the field, in the layouts in which they are distributed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Split = Literal["train", "test"]

HERE = "."
"""In place of the name of a half's folder: its images lie right in the folder that holds the other half.

So lie copies for tests alone, whose folders need not say that.
"""


@dataclass(frozen=True)
class CleanSet:
    """A data set of clean photographs."""

    name: str
    folder: str
    """A regular expression: what its folder is called, in lower-case letters and digits."""
    split: Split | None
    """The half that it is. None: its folders say so; where they do not, it is learnt from."""
    within: tuple[str, ...] = ()
    """Folders in it of which the first to exist holds the photographs; others then hold noisy or small copies."""
    only_noise: bool = True
    """The field adds noise to it, and nothing else."""
    holds_others: bool = False
    """Its folder may hold other data sets in place of images."""


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
    flat: tuple[str, str] | None = None
    """Regular expressions for the names of degraded and clean images, where both lie in one folder."""
    test_name: tuple[str, str] | None = None
    """The name of its test half, where a regular expression fits all names of degraded images there."""


@dataclass(frozen=True)
class CompositeSet:
    """A data set of clean images with several degraded ones of each, in a folder for each degradation."""

    name: str
    folder: str
    """A regular expression, as of the others."""
    clean: str
    """The folder of the clean images. Names are equal in all folders."""
    degraded: Mapping[str, str]
    """The degradation in each of the other folders."""


def same_name(path: Path) -> str:
    """The name with the folders above it below its half, without the ending."""
    return path.with_suffix("").as_posix().lower()


def first_number(path: Path) -> str:
    """`rain-001`, `norain-1` and `norain-001x2` are all of image 1."""
    number = re.search(r"\d+", path.stem)
    return str(int(number.group())) if number else path.stem.lower()


def before_underscore(path: Path) -> str:
    """`0001_0.8_0.2` (image, airlight, scattering) and `1400_3` belong to `0001` and `1400`."""
    return path.stem.partition("_")[0].lower()


RULES: Mapping[Callable[[Path], str], str] = {
    same_name: "equal names",
    first_number: "the first number in their names",
    before_underscore: "what stands before _ in their names",
}
"""In words, what halves have in common."""

# The usual copy of CBSD68 has it as PNG and as JPEG, and beside them noisy5 to noisy50.
_ORIGINALS = ("original_png", "original")

CLEAN_SETS = (
    CleanSet("BSD400", "bsds?400|train400", "train"),
    CleanSet("WED", "wed|waterloo(ed)?|waterlooexplorationdatabase", "train", within=("pristine_images",)),
    CleanSet("BSD68", "bsds?68", "test"),
    CleanSet("CBSD68", "cbsds?68(hq)?", "test", within=_ORIGINALS),
    CleanSet("Urban100", "urban100(hq)?", "test", within=("hr",)),
    CleanSet("Kodak24", "kodak(24)?(hq)?|kodakphotocd", "test", within=_ORIGINALS),
    CleanSet("McMaster", "mcm(aster)?(hq)?", "test", within=_ORIGINALS),
    # BSD400 and WED together in the tree of PromptIR and AdaIR, which has the test sets below test/denoise.
    CleanSet("Denoise", "denoise|denoising", None, holds_others=True),
    CleanSet("DIV2K", "div2k(train)?(hr)?(sub)?", "train", ("hr",), only_noise=False, holds_others=True),
    CleanSet("DIV2K", "div2kvalid(ation)?(hr)?", "test", ("hr",), only_noise=False, holds_others=True),
    CleanSet("Flickr2K", "flickr2k(train)?(hr)?(sub)?", "train", ("hr",), only_noise=False, holds_others=True),
)

SMALL_COPIES = r"(div2k|flickr2k)\w*lr\w*"
"""Folders of low-resolution copies that stand beside clean sets."""

_OUTDOORS = r"\d{4}_[01](\.\d+)?_\d(\.\d+)?"

# The clean images of RESIDE's indoor scenes are 640×480 with a white border of 10 pixels, the hazy ones 620×460. Some
# copies have both at 620×460.
PAIRED_SETS = (
    PairedSet(
        "Rain100L",
        "rain100l|rain(train|test)l|raindata(train|test)light",
        "rain",
        split=None,
        # In PReNet's copy for tests, `rainy` lies among the clean images.
        halves=(("rain", "norain"), ("rainy", "norain"), ("rainy", "gt"), ("input", "target"), ("rainy", HERE)),
        key=first_number,
        flat=(r"rain-?\d+(x2)?", r"norain-?\d+(x2)?"),
    ),
    PairedSet(
        "Rain100H",
        "rain100h|rain(train|test)h|raindata(train|test)heavy",
        "rain",
        split=None,
        halves=(("rain", "norain"), ("rainy", "norain"), ("rainy", "gt"), ("input", "target"), ("rainy", HERE)),
        key=first_number,
        flat=(r"rain-?\d+(x2)?", r"norain-?\d+(x2)?"),
    ),
    PairedSet("Rain13K", "rain13k", "rain", split="train", halves=(("input", "target"),), key=same_name),
    *(
        PairedSet(name, name.lower(), "rain", split="test", halves=(("input", "target"),), key=same_name)
        for name in ("Test100", "Test1200", "Test2800")
    ),
    PairedSet(
        "SOTS",
        "sots(test)?",
        "haze",
        split="test",
        halves=(("hazy", "gt"), ("hazy", "clear"), ("input", "target")),
        key=before_underscore,
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
        key=before_underscore,
        partial=True,
    ),
    PairedSet(
        "ITS",
        "its(v2)?",
        "haze",
        split="train",
        halves=(("hazy", "clear"), ("hazy", "gt")),
        key=before_underscore,
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
    PairedSet(
        "Snow100K",
        "snow100k(train(ing)?|test(ing)?|[sml])?",
        "snow",
        split=None,
        halves=(("synthetic", "gt"), ("snow", "gt"), ("input", "gt"), ("input", "target")),
        key=same_name,
        parts={f"snow100k{size}": f"Snow100K-{size.upper()}" for size in "sml"},
    ),
    PairedSet(
        "RainDrop",
        "raindrops?(data(set)?)?",
        "raindrops",
        split=None,
        halves=(("data", "gt"), ("input", "gt"), ("input", "target")),
        key=first_number,
        parts={"testa": "RainDrop test_a", "testb": "RainDrop test_b"},
    ),
)

# Of the trees of PromptIR and AdaIR, data/Train/{Denoise,Derain,Dehaze,Deblur,Enhance} and test/derain/Rain100L and the
# like: folders that are called after the task. By themselves they claim nothing.
TASK_FOLDERS = (
    PairedSet(
        "Derain",
        "derain(ing)?",
        "rain",
        split=None,
        halves=(("rainy", "gt"), ("rain", "norain"), ("rainy", "norain"), ("input", "target")),
        key=first_number,
    ),
    PairedSet(
        "Dehaze",
        "dehaz(e|ing)",
        "haze",
        split=None,
        halves=(("synthetic", "original"), ("hazy", "gt"), ("hazy", "clear"), ("input", "target")),
        key=before_underscore,
        partial=True,
        test_name=(_OUTDOORS, "SOTS"),
    ),
    PairedSet(
        "Deblur",
        "deblur(ring)?",
        "blur",
        split=None,
        halves=(("blur", "sharp"), ("blur", "gt"), ("input", "target")),
        key=same_name,
    ),
    PairedSet(
        "Enhance",
        "(lowlight)?enhance(ment)?",
        "low_light",
        split=None,
        halves=(("low", "gt"), ("low", "high"), ("input", "target")),
        key=same_name,
    ),
)

COMPOSITE_SETS = (
    CompositeSet(
        "CDD-11",
        "cdd11(train|test)?",
        "clear",
        {
            "low": "low_light",
            "haze": "haze",
            "rain": "rain",
            "snow": "snow",
            "low_haze": "low_light+haze",
            "low_rain": "low_light+rain",
            "low_snow": "low_light+snow",
            "haze_rain": "haze+rain",
            "haze_snow": "haze+snow",
            "low_haze_rain": "low_light+haze+rain",
            "low_haze_snow": "low_light+haze+snow",
        },
    ),
)

SPLITS: Mapping[Split, str] = {
    "train": "(snow100k|cdd11)?train(ing)?|our485|raintrain[lh]|raindatatrain(light|heavy)",
    "test": (
        "(snow100k|cdd11)?test(ing)?|test[ab]|val(id(ation)?)?|eval15|raintest[lh]|raindatatest(light|heavy)|"
        "snow100k[sml]"
    ),
}

# Halves whose names do not tell the degradation: the data set must be known by the name of a folder above them.
UNTELLING = {
    *(("input", "target"), ("input", "gt"), ("low", "high"), ("low", "gt"), ("data", "gt"), ("synthetic", "gt")),
    ("rainy", HERE),
}
