"""What a report shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typing_extensions import Doc

from hairify.errors import OptionError


@dataclass(frozen=True)
class ReportSettings:
    """What a report shows, and how much of it.

    Raises:
        OptionError: a value is not accepted.
    """

    givs_per_degradation: Annotated[int, Doc("crops of each degradation whose GIVs are drawn")] = 48
    giv_crop: Annotated[int, Doc("side of these crops in pixels; smaller images are taken whole")] = 128
    composites: Annotated[
        tuple[str, ...],
        Doc("compositions whose GIVs are drawn too; those with a part that the test data lack are left out"),
    ] = ("haze+noise25", "rain+noise25", "haze+rain")
    examples: Annotated[int, Doc("before/after pictures of each degradation; 0: none")] = 1
    example_side: Annotated[int, Doc("longest side of these pictures in pixels: the middle of the photograph")] = 512
    report_seed: Annotated[int, Doc("of the crops, of their degradations and of the t-SNE")] = 0

    def __post_init__(self) -> None:
        for name, least in (("givs_per_degradation", 2), ("giv_crop", 16), ("examples", 0), ("report_seed", 0)):
            if (value := getattr(self, name)) < least:
                raise OptionError(f"`{name}` is {value}; accepted are whole numbers from {least} on.")
        if not 16 <= self.example_side <= 512:  # larger ones would make the page too heavy to mail
            raise OptionError(f"`example_side` is {self.example_side}; accepted are 16 to 512.")
