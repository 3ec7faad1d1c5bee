"""The Degradation-Aware Classifier (DAC): split feature F_g → global information vector (GIV)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hairify.copying import copy_model
from hairify.errors import CalibrationError, DACError
from hairify.precision import full_precision

DACName: TypeAlias = Literal["moments", "published"]
DACSource: TypeAlias = nn.Module | Callable[[int, int], nn.Module] | DACName | None
"""What users give as `dac`: a module F_g → (B, D), a factory (in_channels, giv_dim) → module, the name of one of
hairify's own, or None for the preset's."""

DEFAULT_WIDTH = 40
_SHRINKAGE = 0.1  # of the moments' covariance towards a multiple of the identity, in units of its mean eigenvalue
_USUAL_DETAIL, _USUAL_STRENGTH = -3.0, -2.0  # of networks on photographs, within 1 or so; until calibration finds them
_LEAST_MOMENT = 1e-8  # added to mean squares before the logarithm; a feature's are some 1e-3
_VARIES = 1e-4  # least deviation, relative to the moment, of a channel that tells images apart: a dead one does not
_LEAST_DEVIATION = 0.1  # of the usual one: what hardly varied in calibration may vary more when training goes on
_FARTHEST = 6.0  # deviations that a moment is taken for at most, once calibrated: flat images, features of a few pixels
_LEAST_DIRECTION = 1e-3  # of the largest singular value; less is rounding
_STRENGTHS = 4  # numbers that strengths are given at most, of four of detail each ...
_WEIGHT_OF_STRENGTHS = 0.5  # ... and how large they are beside those: scenes differ in brightness, too
_STAGES = 3
_BLOCKS_PER_STAGE = 3
_MOST_GROUPS = 24
_LEAST_SIDE = 2  # of what a downsampling returns


class MomentsDAC(nn.Module):
    """A DAC that reads F_g's second moments, and what `HairModel.calibrate` finds of them on degraded photographs.

    Per channel of F_g it takes two logarithms: of the root mean square difference between neighbouring positions, its
    *detail*, and of the root mean square itself, its *strength*. Noise, rain, haze, blur and darkness differ in how
    much of which detail they leave; haze and darkness, of which both take detail away, also in strength. Detail depends
    less than channels' means and variances on what an image shows, and still means the same after the network has been
    trained on (docs/conditioning.md has the measurements). A logarithm turns how severe a degradation is into a
    distance, and nothing before it takes an image's own scale away.

    The moments of different channels rise and fall together. Calibrated, the DAC whitens them: standardised (and
    limited to 6 deviations), details are projected on their principal directions, each brought to about variance 1,
    strengths on the first four of theirs, half as large, and all these numbers are turned into each other. Channels
    that do not vary are left out. Fixed numbers do this (buffers), and nothing in the DAC is trained: where a linear
    layer was, its steps moved all GIVs faster than the rows could follow. What the GIV shows is trained all the same,
    in F_g and in the HSNs' first layers. Uncalibrated, the moments are mixed at random
    and not limited.

    A feature of a single position, such as a pooled vector, has no neighbours; its channels themselves are taken.

    Args:
        in_channels: C, channels of F_g.
        giv_dim: D, the length of the GIV.
        single: F_g always has a single position.
    """

    mean: Tensor
    scale: Tensor
    limit: Tensor
    whitening: Tensor

    def __init__(self, in_channels: int, giv_dim: int, *, single: bool = False) -> None:
        super().__init__()
        self.in_channels, self.giv_dim, self.single = in_channels, giv_dim, single
        usual = [0.0] if single else [_USUAL_DETAIL, _USUAL_STRENGTH]
        self.register_buffer("mean", torch.tensor(usual).repeat_interleave(in_channels))
        self.register_buffer("scale", torch.ones(len(self.mean)))
        # Until calibration it is not known how large features are: those of images in [0, 255] are far from the usual.
        self.register_buffer("limit", torch.tensor(torch.finfo(torch.float32).max))
        self.register_buffer("whitening", _orthonormal(giv_dim, len(self.mean)))

    def forward(self, feature: Tensor) -> Tensor:
        """Map F_g of shape (B, C, H, W), H and W from 1 up, to the GIV of shape (B, D), of any real values."""
        return self.from_moments(self.moments(feature))

    def moments(self, feature: Tensor) -> Tensor:
        """The moments of F_g (B, C, H, W), in float32 or float64.

        Returns:
            Shape (B, 2·C): details, then strengths; of single positions (B, C), the channels.
        """
        feature = feature.to(torch.promote_types(feature.dtype, torch.float32))
        if self.single:
            return feature.mean(dim=(2, 3))
        squares = torch.cat([_mean_square_difference(feature), feature.square().mean(dim=(2, 3))], dim=1)
        # log(squares + least), but exporters to ONNX leave out the addition of a number that near to zero.
        return (torch.log1p(squares / _LEAST_MOMENT) + math.log(_LEAST_MOMENT)) / 2

    def from_moments(self, moments: Tensor) -> Tensor:
        """Map what `moments` returns to the GIV (B, D), without autocast."""
        with full_precision(moments.device):
            standardised = ((moments - self.mean) * self.scale).clamp(-self.limit, self.limit)
            return standardised @ self.whitening.T.to(standardised.dtype)

    @torch.no_grad()
    def calibrate(self, moments: Tensor) -> None:
        """Whiten moments of degraded photographs.

        Args:
            moments: what `moments` returns, of two photographs at least.

        Raises:
            CalibrationError: no moment varies; the DAC is as it was.
        """
        moments = moments.detach().cpu().double()  # not all devices have float64
        deviation, mean = torch.std_mean(moments, dim=0)
        varies = deviation > _VARIES * moments.abs().amax(0)
        if not varies.any():
            raise CalibrationError(
                f"F_g is the same for all {len(moments)} images, as far as the DAC sees it, so nothing tells them "
                "apart. Calibrate on different photographs of different degradations, or split where features differ."
            )
        least = _LEAST_DEVIATION * deviation[varies].median()
        scale = torch.where(varies, 1 / deviation.clamp(min=least), 0.0)
        standardised = (moments - mean) * scale
        if self.single:
            whitening = _whitening(standardised, self.giv_dim)
        else:
            detail, strength = standardised.chunk(2, dim=1)
            few = min(_STRENGTHS, self.giv_dim // 4) if detail.any() else self.giv_dim
            parts = _whitening(detail, self.giv_dim - few), _WEIGHT_OF_STRENGTHS * _whitening(strength, few)
            whitening = torch.block_diag(*parts)
        # Directions of little variance are kept smaller, and turned into the others, lest each gets a number of its own
        # that standardisation would enlarge to variance 1.
        turn = _orthonormal(self.giv_dim, len(whitening), like=whitening)
        self.mean.copy_(mean)
        self.scale.copy_(scale)
        self.limit.fill_(_FARTHEST)
        self.whitening.copy_(turn @ whitening)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"{self.in_channels}, {self.giv_dim}" + (", single=True" if self.single else "")


def _whitening(standardised: Tensor, most: int) -> Tensor:
    """What projects on principal directions, at most so many, each brought to about variance 1.

    Args:
        standardised: (B, C), of mean 0.
        most: how many directions.

    Returns:
        Shape (K, C).
    """
    _, singular, directions = torch.linalg.svd(standardised, full_matrices=False)
    variances = singular**2 / len(standardised)
    kept = min(most, int((singular > _LEAST_DIRECTION * singular[0]).sum()))
    return (variances + _SHRINKAGE * variances.mean()).rsqrt()[:kept, None] * directions[:kept]


def _mean_square_difference(feature: Tensor) -> Tensor:
    """The mean over neighbours, below and beside each other, of their squared difference; 0 where there are none.

    Args:
        feature: (B, C, H, W).

    Returns:
        Shape (B, C).
    """
    height, width = feature.shape[2:]
    sums = [feature.diff(dim=dim).square().sum(dim=(2, 3)) for dim in (2, 3)]
    pairs = (height - 1) * width + height * (width - 1)
    return (sums[0] + sums[1]) / torch.sym_max(pairs, 1)


def _orthonormal(rows: int, columns: int, like: Tensor | None = None) -> Tensor:
    """A random matrix with orthonormal rows, or columns where it has more rows than columns.

    It is always the same: calibration gives the same result in every process, and draws no random numbers.
    """
    drawn = torch.randn(max(rows, columns), min(rows, columns), generator=torch.Generator().manual_seed(0))
    q = torch.linalg.qr(drawn.double()).Q
    return (q if rows >= columns else q.T).to(torch.float32 if like is None else like)


class DegradationAwareClassifier(nn.Module):
    """The published DAC (paper, section 3.1.1 and equations 1 and 2, in the form its authors released).

    A 3×3 convolution to `width` channels, three stages of three residual blocks with a downsampling after
    the first two, a residual block, spatial self-attention and a residual block, then a 3×3 convolution to
    `giv_dim` channels and the global average.

    Downsampling never returns less than 2×2, so any feature from 1×1 up is accepted. (A width of 24 or
    less has groups of one channel, as published, and so needs two positions to normalise over.)

    Args:
        in_channels: channels of F_g.
        giv_dim: D, the length of the GIV.
        width: channels inside.
    """

    def __init__(self, in_channels: int, giv_dim: int, width: int = DEFAULT_WIDTH) -> None:
        super().__init__()
        self.in_channels, self.giv_dim, self.width = in_channels, giv_dim, width
        self.conv_in = nn.Conv2d(in_channels, width, 3, padding=1)
        self.down = nn.ModuleList(_Stage(width, downsample=i < _STAGES - 1) for i in range(_STAGES))
        self.mid = _Middle(width)
        self.norm_out = _group_norm(width)
        self.conv_out = nn.Conv2d(width, giv_dim, 3, padding=1)

    def forward(self, feature: Tensor) -> Tensor:
        """Map F_g of shape (B, C, H, W), H and W from 1 up, to the GIV of shape (B, D), of any real values."""
        x: Tensor = self.conv_in(feature)
        for stage in self.down:
            x = stage(x)
        x = self.mid(x)
        x = self.conv_out(F.silu(self.norm_out(x)))
        return x.mean(dim=(2, 3))


class _Stage(nn.Module):
    def __init__(self, width: int, *, downsample: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(_ResidualBlock(width) for _ in range(_BLOCKS_PER_STAGE))
        self.downsample = _Downsample(width) if downsample else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return self.downsample(x)


class _Downsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H', W'), H' = max(H // 2, 2), W' = max(W // 2, 2).

        The published one pads by one below and to the right. So does this, as far as the convolution reads, and by
        more where a side is under 4: a rule without branches, and with H' and W' in the simplest form, which compilers
        keep for any size.
        """
        height, width = (2 * torch.sym_max(n // 2, _LEAST_SIDE) + 1 - n for n in x.shape[2:])
        return self.conv(F.pad(x, (0, width, 0, height)))


class _ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = _group_norm(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = _group_norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return x + h


class _Middle(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1 = _ResidualBlock(width)
        self.attn_1 = _SpatialAttention(width)
        self.block_2 = _ResidualBlock(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class _SpatialAttention(nn.Module):
    """Single-head self-attention over positions, added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _group_norm(width)
        self.q, self.k, self.v, self.proj_out = (_Pointwise(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x).flatten(2)
        q, k, v = (layer(h).transpose(1, 2).unsqueeze(1) for layer in (self.q, self.k, self.v))  # (B, 1, H·W, C)
        attended = F.scaled_dot_product_attention(q, k, v).squeeze(1).transpose(1, 2)  # ONNX knows it with heads only
        return x + self.proj_out(attended).reshape(x.shape)


class _Pointwise(nn.Conv2d):
    """A 1×1 convolution, as published, of positions in a row (B, C, L).

    After attention, these lie in memory in a way for which a map's convolution cannot be compiled with dynamic sizes
    (pytorch/pytorch#185510).
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.conv1d(input, self.weight.flatten(2), self.bias)


def _group_norm(width: int) -> nn.GroupNorm:
    groups = max(g for g in range(1, _MOST_GROUPS + 1) if width % g == 0)
    return nn.GroupNorm(groups, width, eps=1e-6)


def make_dac(source: DACSource, feature: tuple[int, int, int], giv_dim: int, *, single: bool = False) -> nn.Module:
    """The DAC that the user asked for.

    Args:
        source: a module as it is, a factory's product, or the name of one of hairify's own.
        feature: (C, h, w) of F_g.
        giv_dim: D.
        single: F_g always has a single position.

    Raises:
        DACError: `source` is something else, it raises, or its product is no module.
    """
    if source == "moments":
        return MomentsDAC(feature[0], giv_dim, single=single)
    if source == "published":
        return DegradationAwareClassifier(feature[0], giv_dim)
    dac: Any = source
    if callable(source) and not isinstance(source, nn.Module):
        try:
            dac = source(feature[0], giv_dim)
        except Exception as error:
            raise DACError(
                f"The DAC factory was called with in_channels={feature[0]} and giv_dim={giv_dim}, and raised "
                f"{type(error).__name__}: {error}"
            ) from error
    if not isinstance(dac, nn.Module):
        raise DACError(
            f"`dac` is {source!r}; accepted are {', '.join(map(repr, get_args(DACName)))}, a module that maps F_g "
            f"(B, {feature[0]}, h, w) to (B, D), and a factory (in_channels, giv_dim) -> module."
        )
    return dac


def measure_dac(dac: nn.Module, feature: tuple[int, int, int]) -> int:
    """D, by running a copy of the DAC on two blank features.

    Raises:
        DACError: it fails on them, or does not return one vector per image.
    """
    if type(dac) in (MomentsDAC, DegradationAwareClassifier) and dac.in_channels == feature[0]:
        return cast(int, dac.giv_dim)
    like = next((p for p in dac.parameters() if p.is_floating_point()), torch.empty(0))
    expected = f"(2, D) for a feature of shape (2, {', '.join(map(str, feature))})"
    try:
        with torch.no_grad():
            giv = copy_model(dac).eval()(torch.zeros(2, *feature).to(like))
    except Exception as error:
        raise DACError(
            f"The DAC ({type(dac).__name__}) must return {expected}, but it raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(giv, Tensor) or giv.ndim != 2 or giv.shape[0] != 2:
        got = tuple(giv.shape) if isinstance(giv, Tensor) else type(giv).__name__
        raise DACError(f"The DAC ({type(dac).__name__}) must return {expected}, but it returned {got}.")
    return giv.shape[1]
