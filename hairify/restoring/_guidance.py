"""With which GIV photographs are restored, where it is not simply their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from hairify.errors import OptionError
from hairify.model import HairModel
from hairify.restoring._known_givs import KnownGIVs


@dataclass(frozen=True)
class Guidance:
    """How a photograph's GIV is found and moved.

    Attributes:
        strength: how much of what is seen is restored, see `KnownGIVs.moved`; 1 is all.
        giv: shape (1, D), in place of each photograph's own; None for that.
        passes: how often a photograph is looked at and restored, each time what came of it before.
        known: of the restorer; needed where `strength` is not 1.
    """

    strength: float = 1.0
    giv: Tensor | None = None
    passes: int = 1
    known: KnownGIVs | None = None

    def check(self, model: nn.Module) -> None:
        """Whether a network can be guided so.

        Raises:
            OptionError: it has no GIV, or those of clean images are not known.
        """
        if self.giv is None and self.strength == 1:
            return
        if not isinstance(model, HairModel):
            raise OptionError(f"GIVs are of HairModels; this {type(model).__name__} is a static network.")
        if self.strength != 1 and self.known is None:
            raise OptionError(
                f"`strength` is {self.strength:g}, but the GIVs that this restorer knows were not kept: it was written "
                "by an older hairify, in which case the next checkpoint of `hairify train --resume` keeps them, or it "
                "learnt from shards alone."
            )

    def applied(self, own: Callable[[], Tensor]) -> Tensor | None:
        """The GIV to restore with, shape (1, D); None for the photograph's own.

        Args:
            own: finds that.
        """
        if self.strength == 1:
            return self.giv
        assert self.known is not None
        return self.known.moved(own() if self.giv is None else self.giv, self.strength)
