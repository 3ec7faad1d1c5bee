"""The GIVs of what a restorer knows: each degradation's, and that of clean images."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hairify._support.files import write_text
from hairify.errors import CheckpointError, OptionError
from hairify.model import HairModel
from hairify.networks._running import for_network, number_of_inputs

CLEAN = "clean"
"""The name of images without degradation."""

_VERSION = 1
_LEAST = 0.01  # of the largest spread: images may all be alike
_FAR = 2.0  # times the usual distance of a degradation's images to their mean: what is further is not like them


@dataclass(frozen=True)
class KnownGIV:
    """The GIVs of one degradation.

    Attributes:
        mean: of the GIVs of some images, D numbers.
        spread: their usual distance to it: the root of the mean square, above 0.
    """

    mean: tuple[float, ...]
    spread: float


@dataclass(frozen=True)
class Sight:
    """What a network sees in one image; made by `KnownGIVs.look`.

    Attributes:
        distances: {name: distance of the image's GIV to the mean of this degradation}, the nearest first; in the
            distance that images usually have to the mean of their own, the same for all.
        is_known: whether the image is like those of the nearest degradation: its GIV at most twice as far from their
            mean as theirs usually are.
    """

    distances: Mapping[str, float]
    is_known: bool

    @property
    def nearest(self) -> str:
        """The degradation whose mean is nearest, or "clean"."""
        return next(iter(self.distances))

    @property
    def certainty(self) -> float:
        """In [0, 1]: 0 where the next is as near, 1 at the very mean of the nearest; 1 - nearest / next."""
        first, second = [*self.distances.values()][:2]
        return 1 - first / second if second else 0.0


class KnownGIVs(Mapping[str, KnownGIV]):
    """By degradation, and for clean images, where their GIVs are. A trained restorer's folder keeps them.

    Args:
        known: by name, two at least; "clean" are images without degradation.

    Raises:
        OptionError: there are fewer than two, they are of different lengths, or a spread is not above 0.
    """

    def __init__(self, known: Mapping[str, KnownGIV]) -> None:
        self._known = dict(known)
        lengths = {len(one.mean) for one in self._known.values()}
        if len(self._known) < 2 or len(lengths) != 1:
            raise OptionError(
                f"GIVs are known of {len(self._known)} degradations, of lengths {sorted(lengths)}; needed are two or "
                "more of one length."
            )
        if not all(0 < one.spread < math.inf for one in self._known.values()):
            raise OptionError(f"The spreads of GIVs are {[one.spread for one in self._known.values()]}; needed is > 0.")

    def __getitem__(self, name: str) -> KnownGIV:
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def giv(self, name: str) -> Tensor:
        """The mean GIV of a degradation, shape (1, D).

        Raises:
            OptionError: it is not known.
        """
        if name not in self._known:
            raise OptionError(f"This restorer knows no degradation {name!r}; it knows {', '.join(self._known)}.")
        return torch.tensor([self._known[name].mean])

    def moved(self, giv: Tensor, strength: float) -> Tensor:
        """Towards clean images, or away from them: clean + strength · (giv - clean).

        Args:
            giv: shape (B, D).
            strength: 1 leaves the GIV as it is; 0 is that of clean images, whatever it was.

        Raises:
            OptionError: "clean" is not known.
        """
        clean = self.giv(CLEAN).to(giv)
        return clean + strength * (giv - clean)

    def look(self, giv: Tensor) -> Sight:
        """What a network sees in an image, by its GIV.

        Args:
            giv: shape (1, D) or (D,).

        Raises:
            OptionError: it is of another length.
        """
        numbers = giv.detach().double().cpu().flatten()
        if len(numbers) != self.giv_dim:
            raise OptionError(f"The GIV has {len(numbers)} numbers; these are of another network.")
        far = {n: float((numbers - torch.tensor(k.mean).double()).norm()) for n, k in self._known.items()}
        usual = math.sqrt(sum(one.spread**2 for one in self._known.values()) / len(self))
        nearest = min(far, key=lambda name: far[name])
        distances = {name: one / usual for name, one in sorted(far.items(), key=lambda item: item[1])}
        return Sight(distances, is_known=far[nearest] <= _FAR * self._known[nearest].spread)

    @property
    def giv_dim(self) -> int:
        """D, the length of the GIVs."""
        return len(next(iter(self._known.values())).mean)

    def save(self, path: Path) -> None:
        """Write them as JSON.

        Raises:
            OSError: the file cannot be written.
        """
        known = {name: {"mean": one.mean, "spread": one.spread} for name, one in self._known.items()}
        write_text(path, json.dumps({"version": _VERSION, "known": known}) + "\n")

    @classmethod
    def load(cls, path: Path) -> KnownGIVs:
        """Read what `save` wrote.

        Raises:
            CheckpointError: the file is damaged, or of a newer version.
            OSError: it cannot be read.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            version = data["version"]
            if version == _VERSION:
                known = {
                    name: KnownGIV(tuple(map(float, one["mean"])), float(one["spread"]))
                    for name, one in data["known"].items()
                }
                if all(math.isfinite(n) for one in known.values() for n in one.mean):
                    return cls(known)
                raise ValueError("a number is not finite")
        except (ValueError, KeyError, TypeError, AttributeError, OptionError) as error:
            raise CheckpointError(f"{path} is damaged ({type(error).__name__}: {error}).") from error
        raise CheckpointError(f"{path} is of version {version!r}; this hairify reads {_VERSION}. Install a newer one.")


@torch.no_grad()
def known_givs(hair: HairModel, images: Mapping[str, Sequence[Tensor]]) -> KnownGIVs:
    """Find the GIVs of degradations by some images of each.

    Args:
        hair: the network. It runs in evaluation mode, up to the split only, image by image, without a mark on it.
        images: by degradation, and "clean", some images (3, H, W) in [0, 1] of each, with sides that the network takes.

    Raises:
        OptionError: there are fewer than two degradations, one without images, or GIVs that are not finite.
    """
    if missing := [name for name, of_it in images.items() if not of_it]:
        raise OptionError(f"There are no images of {', '.join(missing)}.")
    inputs, means, spreads = number_of_inputs(hair), dict[str, Tensor](), dict[str, float]()
    for name, of_it in images.items():
        givs = torch.cat([hair.giv(*[for_network(hair, image[None])] * inputs).double().cpu() for image in of_it])
        if not givs.isfinite().all():
            raise OptionError(f"GIVs of images of {name!r} are not finite.")
        means[name] = givs.mean(0)
        if len(givs) > 1:  # around a mean of their own, which is nearer to them than that of all such images
            spreads[name] = math.sqrt(float((givs - means[name]).square().sum()) / (len(givs) - 1))
    usual = max(spreads.values(), default=0.0) or _spread_of(means)
    return KnownGIVs(
        {n: KnownGIV(tuple(mean.tolist()), max(spreads.get(n, usual), _LEAST * usual)) for n, mean in means.items()}
    )


def _spread_of(means: Mapping[str, Tensor]) -> float:
    """For degradations of a single image each: half the distance between the nearest two."""
    distances = (float((a - b).norm()) for a, b in itertools.combinations(means.values(), 2))
    return min((d for d in distances if d > 0), default=2.0) / 2
