"""Losses by name: of restored images, without what made them."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hairify._support.isolation import pass_on_lack_of_memory
from hairify._support.nearest import named_nearest
from hairify._support.precision import full_precision
from hairify.errors import HairError, OptionError, TrainingError
from hairify.networks._running import apply

ImageLoss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Restored and clean images (B, 3, H, W) → the loss of each image (B,)."""

_EPSILON = 1e-3  # of Charbonnier's loss, as published with LapSRN and MPRNet
_FFT_WEIGHT = 0.1  # as published with MIMO-UNet, beside L1
_SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # MS-SSIM's exponents, from the finest scale on
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


def l1(restored: Tensor, clean: Tensor) -> Tensor:
    """The mean absolute error of each image."""
    return (restored - clean).abs().mean(dim=(1, 2, 3))


def charbonnier(restored: Tensor, clean: Tensor) -> Tensor:
    """The mean of √(d² + ε²) over the errors d of each image; ε is 1e-3."""
    return ((restored - clean).square() + _EPSILON**2).sqrt().mean(dim=(1, 2, 3))


def fft(restored: Tensor, clean: Tensor) -> Tensor:
    """The mean absolute error of real and imaginary parts of each image's Fourier transform, which is not normalised.

    As published: Cho et al., "Rethinking Coarse-to-Fine Approach in Single Image Deblurring", ICCV 2021.
    """
    return torch.view_as_real(torch.fft.fft2(restored - clean)).abs().mean(dim=(1, 2, 3, 4))


def ms_ssim(restored: Tensor, clean: Tensor) -> Tensor:
    """1 - MS-SSIM of each image, the mean over its channels.

    Wang et al., "Multiscale structural similarity for image quality assessment", 2003. There are five scales, or as
    many as hold a window of 11 pixels, whose exponents are then scaled to a sum of 1.

    Raises:
        TrainingError: the images are smaller than a window.
    """
    side, count = min(restored.shape[2:]), 0
    while count < len(_SCALES) and side >= _WINDOW:
        side, count = side // 2, count + 1
    if not count:
        height, width = restored.shape[2:]
        raise TrainingError(
            f"The loss 'ms-ssim' compares windows of {_WINDOW} pixels, and the patches have {width}×{height}. Take a "
            "larger `patch_size`, or another `loss`."
        )
    exponents = torch.tensor(_SCALES[:count], dtype=torch.float64)
    similarity = torch.ones_like(restored[:, :, 0, 0])
    for scale, exponent in enumerate((exponents / exponents.sum()).tolist()):
        luminance, contrast = _similarities(restored, clean)
        term = contrast if scale < count - 1 else luminance * contrast
        # Negative similarities have no power; and at 0 its slope has no end.
        similarity = similarity * term.mean(dim=(2, 3)).clamp_min(1e-6) ** exponent
        restored, clean = F.avg_pool2d(restored, 2), F.avg_pool2d(clean, 2)
    return 1 - similarity.mean(dim=1)


def _similarities(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM's luminance term, and the product of its contrast and structure terms, of each window."""
    places = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    weights = (-places.square() / (2 * _SIGMA**2)).exp()
    window = (weights / weights.sum()).to(a)

    def blurred(x: Tensor) -> Tensor:
        rows = window.view(1, 1, 1, -1).expand(x.shape[1], 1, 1, -1)
        return F.conv2d(F.conv2d(x, rows, groups=x.shape[1]), rows.transpose(2, 3), groups=x.shape[1])

    mean_a, mean_b = blurred(a), blurred(b)
    variance_a, variance_b = blurred(a * a) - mean_a.square(), blurred(b * b) - mean_b.square()
    covariance = blurred(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a.square() + mean_b.square() + _C1)
    return luminance, (2 * covariance + _C2) / (variance_a + variance_b + _C2)


LOSSES: Mapping[str, ImageLoss] = {"l1": l1, "charbonnier": charbonnier, "fft": fft, "ms-ssim": ms_ssim}
"""Losses by name."""

_WEIGHTS = {"fft": _FFT_WEIGHT}  # of those that are not 1 where no weight is given


@dataclass(frozen=True)
class NamedLoss:
    """A loss of a network by the images it restores: a `Loss`. Images are compared in float32, or more.

    Attributes:
        name: as settings have it.
        terms: weights, and losses of images.
        of_each_image: whether it must be known for each image.
    """

    name: str
    terms: tuple[tuple[float, ImageLoss], ...]
    of_each_image: bool = False

    @property
    def is_own(self) -> bool:
        """Whether it is one of hairify's."""
        return ":" not in self.name

    def __call__(self, network: nn.Module, degraded: Tensor, clean: Tensor) -> Tensor:
        """The loss of each image (B,) of a network on images (B, 3, H, W) in [0, 1].

        Raises:
            TrainingError: a function of the user's fails, or does not return such a loss.
        """
        restored = apply(network, degraded)
        precise = torch.promote_types(restored.dtype, torch.float32)
        with full_precision(restored.device):
            restored, clean = restored.to(precise), clean.to(precise)
            losses = [weight * self._settled(loss, restored, clean) for weight, loss in self.terms]
        return torch.stack(losses).sum(0)

    def _settled(self, loss: ImageLoss, restored: Tensor, clean: Tensor) -> Tensor:
        try:
            value = loss(restored, clean)
        except HairError:
            raise
        except Exception as error:  # functions of users fail in every possible way
            pass_on_lack_of_memory(error)
            raise TrainingError(
                f"The `loss` {self.name!r} failed on images of shape {tuple(restored.shape)}: {type(error).__name__}: "
                f"{error}. It is called as loss(restored, clean)."
            ) from error
        count = len(restored)
        if isinstance(value, Tensor) and value.ndim and len(value) == count:
            return value.flatten(1).mean(dim=1) if value.ndim > 1 else value
        if isinstance(value, Tensor) and not value.ndim and not self.of_each_image:
            return value.expand(count)
        got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        mean = "" if self.of_each_image else ", or the mean over all of them as a tensor without dimensions"
        why = " (`uncertainty` weighs each image's)" if self.of_each_image else ""
        raise TrainingError(
            f"The `loss` {self.name!r} returned {got} for {count} images; needed is one number for each{why}, as a "
            f"tensor whose first dimension is {count}{mean}."
        )


def check_loss_name(name: str) -> None:
    """Make sure that a name is one of hairify's, or may be that of a function.

    Raises:
        OptionError: it is not.
    """
    if ":" not in name:
        _terms(name)


def image_loss(name: str, *, of_each_image: bool) -> NamedLoss:
    """The loss of that name.

    Args:
        name: of `LOSSES`, one or a sum of several with weights (l1+0.1*fft; that of fft is 0.1 where none is given);
            or "package.module:function". The function gets restored and clean images (B, 3, H, W) in [0, 1] and
            returns their losses, first dimension B, of which all other dimensions are averaged; or one number for all,
            which then counts as the loss of each. A class is called without arguments to make such a function.
        of_each_image: refuse one number for all.

    Raises:
        OptionError: there is none.
    """
    terms = ((1.0, _found(name)),) if ":" in name else _terms(name)
    return NamedLoss(name, terms, of_each_image)


def _terms(name: str) -> tuple[tuple[float, ImageLoss], ...]:
    terms = []
    for term in name.split("+"):
        match = re.fullmatch(r"(?:([\d.]+(?:e-?\d+)?)\*)?([a-z0-9-]+)", term.strip())
        weight, loss = match.groups() if match else (None, term.strip())
        if loss not in LOSSES:
            raise OptionError(
                f"`loss` is {name!r}; {named_nearest(str(loss), LOSSES)} Sums of them with weights are accepted, such "
                "as 'l1+0.1*fft', and 'package.module:function' for one of your own."
            )
        try:
            number = float(weight) if weight else _WEIGHTS.get(loss, 1.0)
        except ValueError:
            number = 0.0
        if not number:
            raise OptionError(f"`loss` is {name!r}, with the weight {weight}; accepted are positive numbers.")
        terms.append((number, LOSSES[loss]))
    return tuple(terms)


def _found(name: str) -> ImageLoss:
    module, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
        if isinstance(found, type):
            found = found()
    except Exception as error:  # whatever the user's module does
        raise OptionError(
            f"`loss` is {name!r}, which cannot be had: {type(error).__name__}: {error}. The module must be importable "
            "from here: installed, or in the current folder. A class is called without arguments."
        ) from error
    if not callable(found):
        raise OptionError(f"`loss` is {name!r}, a {type(found).__name__}; needed is a function (restored, clean).")
    return _OwnDevice(found) if isinstance(found, nn.Module) else found


class _OwnDevice:
    """A module as a loss, such as one that compares features: moved to where the images are, and not trained."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module.eval().requires_grad_(False)

    def __call__(self, restored: Tensor, clean: Tensor) -> Tensor:
        value: Tensor = self.module.to(restored)(restored, clean)
        return value
