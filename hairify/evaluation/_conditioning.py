"""Whether a converted network uses its GIV, and what it gains by it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from hairify._support.modes import evaluation_mode
from hairify.errors import ConditioningError
from hairify.model import HairModel
from hairify.networks._running import apply, for_network, number_of_inputs

LEAST_COST = 0.1
"""In dB: a network whose images lose less by the GIV of another degradation is said not to use it."""

NOT_MEASURED = (
    "Whether the network uses its GIV was not measured. That takes images of two degradations at least, with sides of "
    "the network's multiple or more, that it can restore."
)
"""What is said where there is no measurement on a set of images."""

PERFECT = 100.0
"""In dB: what PSNR is limited to where it is compared; equal images have an infinite one."""
_LEAST_SPREAD = 0.1  # of selecting vectors that tell degradations apart


@dataclass(frozen=True)
class Fidelity:
    """How near restored images are to clean ones: mean absolute error, of values in [0, 1], and PSNR, to 100 dB."""

    l1: float
    psnr: float


@dataclass(frozen=True)
class Conditioning:
    """How a HairModel uses its GIV; made by `measure_conditioning`.

    Attributes:
        own: {degradation: fidelity} with each image's own GIV.
        mean: with the mean GIV of all images, which tells no degradation from another.
        wrong: with the mean GIV of another degradation.
        spread: {level: largest difference between the mean selecting vectors of two degradations, in [0, 1]}.
        recognised: share of the images whose GIV is nearest to the mean GIV of the other images of their own
            degradation, rather than to that of another degradation; NaN where a degradation has a single image.
        images: how many were looked at.
    """

    own: Mapping[str, Fidelity]
    mean: Mapping[str, Fidelity]
    wrong: Mapping[str, Fidelity]
    spread: Mapping[str, float]
    recognised: float
    images: int

    @property
    def gain(self) -> float:
        """By how many dB an image's own GIV is better than the mean one, on average over degradations."""
        return _mean(self.own) - _mean(self.mean)

    @property
    def cost_of_wrong(self) -> float:
        """By how many dB it is better than that of another degradation."""
        return _mean(self.own) - _mean(self.wrong)

    @property
    def is_used(self) -> bool:
        """Whether the network restores worse when it is told another degradation."""
        return self.cost_of_wrong >= LEAST_COST

    def plain(self) -> dict[str, Any]:
        """The numbers as JSON has them; NaN and infinity are None."""
        numbers = {
            name: {task: _finite(asdict(one)) for task, one in getattr(self, name).items()}
            for name in ("own", "mean", "wrong")
        }
        rest = {"recognised": self.recognised, "gain": self.gain, "cost_of_wrong": self.cost_of_wrong}
        return numbers | {"spread": dict(self.spread), "images": self.images, "used": self.is_used} | _finite(rest)

    def __str__(self) -> str:
        """One line."""
        recognised = "" if math.isnan(self.recognised) else f", degradations told apart in {self.recognised:.0%}"
        return (
            f"GIV {'used' if self.is_used else 'not used'}: own {_mean(self.own):.2f} dB, mean GIV {-self.gain:+.2f}, "
            f"another degradation's {-self.cost_of_wrong:+.2f}; selecting vectors differ by up to "
            f"{max(self.spread.values()):.2f}{recognised}"
        )

    def advice(self, hair: HairModel) -> str | None:
        """What to try where the GIV is not used; None where it is.

        Args:
            hair: the model that was measured.
        """
        if self.is_used:
            return None
        if math.isnan(self.cost_of_wrong):
            return "The network's outputs are not all finite: whether it uses its GIV cannot be said."
        tries = []
        if not hair.is_calibrated:
            tries.append("converting it anew and calibrating it before training (`hair.calibrate`, `calibration`)")
        if hair.plan.dac_name == "published":
            tries.append("the DAC of moments (`dac='moments'`)")
        if max(self.spread.values()) < _LEAST_SPREAD:
            tries += [
                "higher `rates` of dac and hsn",
                "an earlier `split_at`, whose feature shows more of the degradation",
            ]
        else:  # selecting vectors differ, but the rows do not in a useful way
            low_rank = all(level.rank is not None for level in hair.plan.levels)
            tries += ["more steps", "a higher `rank`" if low_rank else "rows of each block's own (`box='low_rank'`)"]
        return (
            f"The network does not use its GIV: with that of another degradation it restores only "
            f"{self.cost_of_wrong:.2f} dB worse. Try {'; '.join(tries)}."
        )


@torch.no_grad()
def measure_conditioning(
    hair: HairModel, degraded: Tensor, clean: Tensor, degradations: Sequence[str], *, batch_size: int = 8
) -> Conditioning:
    """Measure whether a converted network uses its GIV: restore images with their own, the mean and a wrong one.

    Args:
        hair: takes images as its only input, or as each of those that it requires, and returns images among others.
            It runs in evaluation mode and is put back into its mode.
        degraded: (B, 3, H, W) in [0, 1], of two degradations at least; held-out images are meant.
        clean: (B, 3, H, W), the same images without degradation.
        degradations: the name of each image's degradation.
        batch_size: images that run together, from 1 up.

    Returns:
        The measurement.

    Raises:
        ConditioningError: `hair` is no HairModel, there is a single degradation, or the arguments do not fit each
            other.
    """
    names = _checked(hair, degraded, clean, degradations, batch_size)
    labels = torch.tensor([names.index(name) for name in degradations])
    device = next(hair.parameters()).device

    def restored(givs: Tensor) -> Tensor:
        made = []
        for images, own in zip(degraded.split(batch_size), givs.split(batch_size), strict=True):
            with hair.conditioned_on(own.to(device)):
                made.append(apply(hair, for_network(hair, images)).cpu())
        return torch.cat(made)

    with evaluation_mode(hair):
        inputs = number_of_inputs(hair)
        givs = torch.cat([hair.giv(*[for_network(hair, part)] * inputs).cpu() for part in degraded.split(batch_size)])
        means = torch.stack([givs[labels == k].mean(0) for k in range(len(names))])
        outputs = {
            "own": restored(givs),
            "mean": restored(givs.mean(0).expand_as(givs)),
            "wrong": restored(means[_others(labels, len(names))]),
        }
        spread = {
            level.name: _spread(hsn(givs.to(device)).cpu(), labels, len(names))
            for level, hsn in zip(hair.plan.levels, hair.hsn, strict=True)
        }
    fidelities = {
        kind: {name: _fidelity(output[labels == k], clean[labels == k].cpu()) for k, name in enumerate(names)}
        for kind, output in outputs.items()
    }
    return Conditioning(**fidelities, spread=spread, recognised=_recognised(givs, labels), images=len(degraded))


def _checked(
    hair: HairModel, degraded: Tensor, clean: Tensor, degradations: Sequence[str], batch_size: int
) -> list[str]:
    """The names of the degradations, in the order of their first images."""
    if not isinstance(hair, HairModel):
        raise ConditioningError(f"`hair` is a {type(hair).__name__}; only a HairModel has a GIV to use.")
    for name, images in (("degraded", degraded), ("clean", clean)):
        if not isinstance(images, Tensor):
            raise ConditioningError(f"`{name}` is a {type(images).__name__}; needed is a tensor (B, 3, H, W).")
    if batch_size < 1:
        raise ConditioningError(f"`batch_size` is {batch_size}; accepted are 1 and more.")
    if degraded.ndim != 4 or degraded.shape != clean.shape or len(degradations) != len(degraded):
        raise ConditioningError(
            f"`degraded` has shape {tuple(degraded.shape)}, `clean` {tuple(clean.shape)}, and {len(degradations)} "
            "degradations are named; needed are (B, 3, H, W) twice, and a name for each image."
        )
    names = list(dict.fromkeys(degradations))
    if len(names) < 2:
        raise ConditioningError(f"All images show {names}; to be told apart, there must be two degradations at least.")
    return names


def _others(labels: Tensor, count: int) -> Tensor:
    """For each image another degradation; the images of one take all others in turn."""
    place = torch.zeros_like(labels)
    for k in range(count):
        of_it = labels == k
        place[of_it] = torch.arange(int(of_it.sum()))
    return (labels + 1 + place % (count - 1)) % count


def _spread(selecting: Tensor, labels: Tensor, count: int) -> float:
    """The largest difference between the mean selecting vectors of two degradations, of (B, M, N)."""
    means = [selecting[labels == k].mean(0) for k in range(count)]
    return max(float((a - b).abs().max()) for a, b in itertools.combinations(means, 2))


def _recognised(givs: Tensor, labels: Tensor) -> float:
    """The share of images nearest to the mean GIV of their own degradation, to which they themselves do not count."""
    counts = labels.bincount()
    if counts.min() < 2:
        return math.nan
    sums = torch.zeros(len(counts), givs.shape[1], dtype=givs.dtype).index_add_(0, labels, givs)
    own = torch.nn.functional.one_hot(labels, len(counts)).to(givs)  # (B, K)
    means = (sums - own[:, :, None] * givs[:, None]) / (counts - own)[:, :, None]
    nearest = (givs[:, None] - means).norm(dim=2).argmin(dim=1)
    return float((nearest == labels).float().mean())


def psnr(restored: Tensor, clean: Tensor) -> Tensor:
    """In dB, of each image (B,): of outputs (B, 3, H, W), clipped as an image file clips them, against [0, 1]."""
    return -10 * _difference(restored, clean).square().mean(dim=(1, 2, 3)).log10()


def _difference(restored: Tensor, clean: Tensor) -> Tensor:
    return restored.double().clamp(0, 1) - clean.double()


def _fidelity(restored: Tensor, clean: Tensor) -> Fidelity:
    """The mean over images."""
    decibels = psnr(restored, clean).clamp(max=PERFECT)
    return Fidelity(l1=float(_difference(restored, clean).abs().mean()), psnr=float(decibels.mean()))


def _mean(fidelities: Mapping[str, Fidelity]) -> float:
    return sum(one.psnr for one in fidelities.values()) / len(fidelities)


def _finite(numbers: Mapping[str, float]) -> dict[str, float | None]:
    return {name: number if math.isfinite(number) else None for name, number in numbers.items()}
