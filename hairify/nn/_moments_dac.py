"""The DAC of moments, the default."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hairify._support.precision import full_precision
from hairify.errors import CalibrationError

_SHRINKAGE = 0.1  # of the moments' covariance towards a multiple of the identity, in units of its mean eigenvalue

_USUAL_DETAIL, _USUAL_STRENGTH = -3.0, -2.0  # of networks on photographs, within 1 or so; until calibration finds them

_LEAST_MOMENT = 1e-8  # added to mean squares before the logarithm; a feature's are some 1e-3

_VARIES = 1e-4  # least deviation, relative to the moment, of a channel that tells images apart: a dead one does not

_LEAST_DEVIATION = 0.1  # of the usual one: what hardly varied in calibration may vary more when training goes on

_FARTHEST = 6.0  # deviations that a moment is taken for at most, once calibrated: flat images, features of a few pixels

_LEAST_DIRECTION = 1e-3  # of the largest singular value; less is rounding

_STRENGTHS = 4  # numbers that strengths are given at most, of four of detail each ...

_WEIGHT_OF_STRENGTHS = 0.5  # ... and how large they are beside those: scenes differ in brightness, too


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
    return (sums[0] + sums[1]) / (
        pairs + 1e-30
    )  # the same as `pairs` but for 0; compilers keep `max` for one size only


def _orthonormal(rows: int, columns: int, like: Tensor | None = None) -> Tensor:
    """A random matrix with orthonormal rows, or columns where it has more rows than columns.

    It is always the same: calibration gives the same result in every process, and draws no random numbers.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(max(rows, columns), min(rows, columns), generator=generator, device="cpu")
    q = torch.linalg.qr(drawn.double()).Q
    return (q if rows >= columns else q.T).to(torch.float32 if like is None else like)
