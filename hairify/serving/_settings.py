"""Where the page is served, and what it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typing_extensions import Doc

from hairify.errors import OptionError


@dataclass(frozen=True)
class ServingSettings:
    """Where the page is served, and what it takes."""

    host: Annotated[
        str, Doc("address to listen at; 127.0.0.1 is for this machine alone, 0.0.0.0 for all that reach it")
    ] = "127.0.0.1"
    port: Annotated[int, Doc("to listen at")] = 7860
    upload_limit: Annotated[int, Doc("largest file that is taken, in MiB")] = 200
    pixel_limit: Annotated[int, Doc("largest photograph that is taken, in megapixels")] = 100

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise OptionError(f"`port` is {self.port}; accepted are numbers from 1 to 65535.")
        for name in ("upload_limit", "pixel_limit"):
            if (value := getattr(self, name)) < 1:
                raise OptionError(f"`{name}` is {value}; accepted are numbers from 1.")
