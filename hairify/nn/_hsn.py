"""Hyper Selecting Nets: GIV → selecting vectors (paper, section 3.1.2)."""

from __future__ import annotations

import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hairify._support.precision import full_precision
from hairify._support.sharding import is_sharded
from hairify._support.torch_internals import is_hooked
from hairify.errors import OptionError

_SPREAD = 2.0


class HyperSelectingNet(nn.Module):
    """The HSNs of one level's M blocks, run as one: GIV → selecting vectors (paper, equation 3).

    Each is a fully connected net with GELU between its layers and a softmax at the end; D → D/2 → D/4 → D/8 → N as
    published, D → 32 → N by default. It computes in its parameters' own precision also under autocast, as the mixing
    does.

    Logits that grow without end saturate the softmax: one row is chosen for all images, passes on no gradient by which
    another could be, and is never left again (docs/conditioning.md, "Long trainings"). So by default their mean is
    taken off, which the softmax does not see, and their root mean square r over the rows held under the limit l, by
    1 / √(1 + r²/l²): where they point is learned, however far they go.

    Args:
        giv_dim: D.
        blocks: M.
        box_size: N.
        hidden: widths of the hidden layers.
        limit: l; None leaves logits as they are, as published. A row has 97 % of the mixture at most for l = 2 and
            N = 4; the more rows, the more (99.6 % for N = 16).

    Raises:
        OptionError: the limit is no number above 0.
    """

    def __init__(
        self, giv_dim: int, blocks: int, box_size: int, hidden: Sequence[int], limit: float | None = None
    ) -> None:
        super().__init__()
        if limit is not None and not 0 < limit < math.inf:
            raise OptionError(f"The limit of an HSN's logits is {limit!r}; accepted are numbers above 0, and None.")
        self.limit = limit
        widths = [giv_dim, *hidden, box_size]
        self.layers = nn.ModuleList(StackedLinear(blocks, *sizes) for sizes in itertools.pairwise(widths))

    @property
    def spread_at_start(self) -> float:
        """Standard deviation over images of the logits with which it tells them apart at the start.

        Of twice the limit, the softmax sees some eight tenths of the limit (for N = 4): with a limit of 2 about as much
        as without one.
        """
        return _SPREAD if self.limit is None else 2 * self.limit

    def forward(self, giv: Tensor) -> Tensor:
        """Map the GIV (B, D) to the selecting vectors (B, M, N): positive, with sum 1 over N."""
        return self.through(giv, self.layers)

    def through(self, giv: Tensor, layers: Iterable[Callable[[Tensor], Tensor]]) -> Tensor:
        """Map the GIV (B, D) through layers (M or 1, B, ·) → (M, B, ·) to selecting vectors (B, M, N)."""
        with full_precision(giv.device):
            x = giv.unsqueeze(0)
            for i, layer in enumerate(layers):
                x = layer(F.gelu(x) if i else x)
            return self.vectors_of(x).transpose(0, 1)

    def vectors_of(self, logits: Tensor) -> Tensor:
        """Map logits (..., N) to selecting vectors (..., N): their softmax, within the limit."""
        if self.limit is None:
            return logits.softmax(dim=-1)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))  # squares of half precision overflow
        wide = wide - wide.mean(dim=-1, keepdim=True)
        wide = wide * (1 + wide.square().mean(dim=-1, keepdim=True) / self.limit**2).rsqrt()
        return wide.softmax(dim=-1).to(logits.dtype)

    def logits_of(self, selecting: Tensor) -> Tensor:
        """Logits (..., N) of mean 0 that `vectors_of` maps to these selecting vectors, whose numbers are all above 0.

        Raises:
            ValueError: a vector is nearer to a single row than the limit allows.
        """
        logits = selecting.log()
        logits = logits - logits.mean(dim=-1, keepdim=True)
        if self.limit is None:
            return logits
        remaining = 1 - logits.square().mean(dim=-1, keepdim=True) / self.limit**2
        if not (remaining > 0).all():
            raise ValueError(f"Logits of these selecting vectors are beyond the limit {self.limit}.")
        return logits * remaining.rsqrt()

    def selects(self) -> bool:
        """Whether selecting vectors depend on the GIV."""
        return bool(cast(StackedLinear, self.layers[-1]).weight.any())

    @torch.no_grad()
    def calibrate(self, giv: Tensor) -> None:
        """Scale and shift each unit so that its outputs have mean 0 and variance 1 over these GIVs.

        So each layer passes on what tells images apart as strongly as it received it. Where the last layer has
        weights other than zero, its logits get mean 0 and the standard deviation `spread_at_start`.

        Args:
            giv: shape (B, D), of two images at least.
        """
        x = giv.unsqueeze(0)
        layers = [cast(StackedLinear, layer) for layer in self.layers]
        last = layers[-1] if self.selects() else None
        with full_precision(giv.device):
            for i, layer in enumerate(layers if last else layers[:-1]):
                x = F.gelu(x) if i else x
                deviation, mean = torch.std_mean(layer(x).cpu().double(), dim=1)  # not all devices have float64
                scale = torch.where(deviation > 1e-6, (self.spread_at_start if layer is last else 1.0) / deviation, 1.0)
                layer.weight.mul_(scale.to(layer.weight).unsqueeze(2))
                layer.bias.copy_((layer.bias.cpu().double() - mean) * scale)
                x = layer(x)


class StackedLinear(nn.Module):
    """M linear layers side by side.

    They start with biases of zero and weights that keep the variance of inputs of mean 0 and variance 1, so that what
    depends on the image is not drowned by what does not (Chang et al., ICLR 2020). PyTorch's own start makes it four
    times weaker in each layer.

    Args:
        blocks: M.
        in_features: of each.
        out_features: of each.
    """

    def __init__(self, blocks: int, in_features: int, out_features: int) -> None:
        super().__init__()
        deviation = 1 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(blocks, out_features, in_features).normal_(std=deviation))
        self.bias = nn.Parameter(torch.zeros(blocks, out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Map (M or 1, B, in_features) to (M, B, out_features)."""
        return stacked_linear(x, self.weight, self.bias)


def stacked_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Map (M or 1, B, in) to (M, B, out) by M weights (M, out, in) and biases (M, out)."""
    x = x.to(weight.dtype).expand(weight.shape[0], -1, -1)
    return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))


class GIVStandardization(nn.Module):
    """Shifts and scales GIVs to mean 0 and variance 1 over the images that `HairModel.calibrate` was given.

    A hypernetwork learns from what differs between its inputs; what they have in common, in the published form thirty
    times as large, only adds to its biases (Ortiz et al., 2023). The numbers are buffers: in training, too, an image's
    GIV does not depend on the others of its batch. Uncalibrated, GIVs pass as they are.

    Args:
        giv_dim: D.
    """

    mean: Tensor
    scale: Tensor
    images: Tensor

    def __init__(self, giv_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(giv_dim))
        self.register_buffer("scale", torch.ones(giv_dim))
        self.register_buffer("images", torch.zeros((), dtype=torch.int64))

    @property
    def is_calibrated(self) -> bool:
        """Whether `calibrate` was called."""
        return not self.images.is_meta and bool(self.images)

    def forward(self, giv: Tensor) -> Tensor:
        """Map a DAC's output (B, D) to GIVs (B, D)."""
        return (giv.to(self.mean.dtype) - self.mean) * self.scale

    @torch.no_grad()
    def calibrate(self, giv: Tensor) -> None:
        """Bring these GIVs (B, D) to mean 0 and variance 1; a number that does not vary gets scale 1."""
        giv = giv.detach().cpu().double()  # not all devices have float64
        deviation, mean = torch.std_mean(giv, dim=0)
        varies = deviation > 1e-6 * giv.abs().amax(0).clamp(min=1e-12)
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(varies, 1 / deviation, 1.0))
        self.images.fill_(len(giv))

    def extra_repr(self) -> str:
        """D."""
        return str(len(self.mean))


def selecting_vectors(nets: nn.ModuleList, giv: Tensor) -> list[Tensor]:
    """The selecting vectors (B, M, N) of each level's HSNs; those of levels alike are computed as one.

    Args:
        nets: of each level.
        giv: shape (B, D).
    """
    if not isinstance(giv, Tensor):  # torch.fx follows
        return [net(giv) for net in nets]
    found: dict[int, Tensor] = {}
    alike: dict[Any, list[int]] = defaultdict(list)
    for level, net in enumerate(nets):
        alike[level if (kind := _kind(net)) is None else kind].append(level)
    for levels in alike.values():
        of_one = [cast(HyperSelectingNet, nets[level]) for level in levels]
        together = [of_one[0](giv)] if len(levels) == 1 else _side_by_side(of_one, giv)
        found.update(zip(levels, together, strict=True))
    return [found[level] for level in range(len(nets))]


def _kind(net: nn.Module) -> Any:
    """What HSNs must have in common to be computed as one; None where a net has to be called."""
    if type(net) is not HyperSelectingNet or is_hooked(net) or is_sharded(net):
        return None
    layers = [layer for layer in net.layers if type(layer) is StackedLinear and not is_hooked(layer)]
    if len(layers) != len(net.layers):
        return None
    weights = [layer.weight for layer in layers]
    return net.limit, *((w.shape[1:], w.dtype, w.device) for w in weights)


def _side_by_side(nets: Sequence[HyperSelectingNet], giv: Tensor) -> Sequence[Tensor]:
    """What HSNs alike return, as one net of all their blocks."""
    first = nets[0]
    stacks = zip(*(net.layers for net in nets), strict=True)
    layers = [tuple(torch.cat([getattr(s, name) for s in stack]) for name in ("weight", "bias")) for stack in stacks]
    vectors = first.through(giv, [functools.partial(stacked_linear, weight=w, bias=b) for w, b in layers])
    return vectors.split([len(cast(StackedLinear, net.layers[0]).weight) for net in nets], dim=1)


def published_widths(giv_dim: int) -> tuple[int, ...]:
    """Hidden widths of the published HSN: D/2, D/4 and D/8, never under 4."""
    return tuple(max(4, giv_dim // divisor) for divisor in (2, 4, 8))
