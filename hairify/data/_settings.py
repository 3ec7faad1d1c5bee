"""Which images are learnt from and tested on, as a user says it.

What brings PyTorch is imported where it is used: the help of the command line reads the settings, and is quick.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_args

from typing_extensions import Doc

from hairify.errors import DataError, OptionError

REPEATED = "repeated"
"""In the metadata of a field of settings: its flag is given once for each value, which the text shows."""

Augmentation = Literal["none", "flips", "all"]


@dataclass(frozen=True)
class DataSettings:
    """Which images a network learns from, and on which it is tested.

    Raises:
        OptionError: a value is not accepted, or a degradation is not known.
    """

    data: Annotated[
        tuple[Path, ...], Doc("folders to learn from: of clean photographs, or of data sets as they are distributed")
    ] = ()
    degradations: Annotated[
        tuple[str, ...], Doc("put on clean photographs; such as noise37, or haze+noise25: haze, then noise")
    ] = ("noise15", "noise25", "noise50", "rain", "haze")
    test_data: Annotated[
        tuple[Path, ...], Doc("folders to test on; by default the test halves in data, and a share of its photographs")
    ] = ()
    pairs: Annotated[
        tuple[str, ...],
        Doc("degradation and folders of both halves of pairs to learn from, whatever they are called"),
    ] = field(default=(), metadata={REPEATED: "NAME=DEGRADED,CLEAN"})
    shards: Annotated[
        tuple[str, ...],
        Doc("WebDataset shards to learn from: a pattern for clean photographs, or with the degradation of their pairs"),
    ] = field(default=(), metadata={REPEATED: "[NAME=]PATTERN"})
    shard_samples: Annotated[
        int | None, Doc("samples taken of a shard each time it is its turn; by default as many as the first one has")
    ] = None
    shard_window: Annotated[int, Doc("shards whose samples are mixed, in place of a shuffle buffer")] = 4
    shard_cache: Annotated[float, Doc("GiB of remote shards kept on disk, where temporary files are")] = 20.0
    test_pairs: Annotated[tuple[str, ...], Doc("the same to test on")] = field(
        default=(), metadata={REPEATED: "NAME=DEGRADED,CLEAN"}
    )
    mix_synthetic: Annotated[bool, Doc("put a degradation on photographs also where there are real pairs of it")] = (
        False
    )
    hold_out: Annotated[
        float,
        Doc("this share, of each folder of photographs and of pairs, is kept for tests where there is no test data"),
    ] = 0.1
    patch_size: Annotated[int, Doc("side of a training patch, in pixels")] = 128
    augmentation: Annotated[
        Augmentation, Doc("how patches are turned: not at all, flipped, or all flips and quarter turns")
    ] = "flips"
    repeats: Annotated[
        Mapping[str, int],
        Doc(
            "an epoch has the images of a degradation so often, and each degradation is shown as often as it has such "
            "images; rain=120; noise=3 counts for noises of all strengths. Without, each is shown as often as others"
        ),
    ] = field(default_factory=dict)
    shares: Annotated[
        Mapping[str, float], Doc("how often a degradation is shown, where others have 1; noise=2 for all noises")
    ] = field(default_factory=dict)
    image_cache: Annotated[float, Doc("GiB of decoded photographs that each process keeps in memory")] = 1.0

    def __post_init__(self) -> None:
        from hairify.data._named_pairs import check_named_pairs
        from hairify.data._shards import check_shards
        from hairify.data.degradations import degradation

        if not 0 <= self.hold_out < 1:
            raise OptionError(f"`hold_out` is {self.hold_out}; it must be at least 0 and below 1.")
        if self.patch_size < 1:
            raise OptionError(f"`patch_size` is {self.patch_size}; it must be 1 or more.")
        if self.augmentation not in get_args(Augmentation):
            raise OptionError(
                f"`augmentation` is {self.augmentation!r}; accepted are {', '.join(get_args(Augmentation))}."
            )
        if not 0 <= self.image_cache < math.inf:
            raise OptionError(f"`image_cache` is {self.image_cache}; it must be 0 or more, and finite.")
        check_shards(self.shards, self.shard_samples, self.shard_window, self.shard_cache)
        check_named_pairs("pairs", self.pairs)
        check_named_pairs("test_pairs", self.test_pairs)
        for name in self.degradations:
            try:
                degradation(name)
            except DataError as error:
                raise OptionError(f"`degradations` has {name!r}. {error}") from error
            if self.degradations.count(name) > 1:
                raise OptionError(f"`degradations` has {name!r} more than once; name each degradation once.")
