"""Further metrics by name, from the libraries that have them: torchmetrics and pyiqa."""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hairify._support.memory import is_lack_of_memory
from hairify.errors import ImageError, OptionError

_FROM_TORCHMETRICS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "dists": ("DeepImageStructureAndTextureSimilarity", {}),
    "lpips": ("LearnedPerceptualImagePatchSimilarity", {"net_type": "alex", "normalize": True}),
    "ms-ssim": ("MultiScaleStructuralSimilarityIndexMeasure", {"data_range": 1.0}),
    "uqi": ("UniversalImageQualityIndex", {}),
    "vif": ("VisualInformationFidelity", {}),
}
"""{name: (class in torchmetrics.image, its options for images in [0, 1])}."""
_LIBRARIES = ("torchmetrics", "pyiqa")
_INSTALL = {"torchmetrics": "pip install 'hairify[metrics]'", "pyiqa": "pip install pyiqa"}
BUILT_IN = ("psnr", "ssim")


@dataclass(frozen=True)
class Metric:
    """How good an image is.

    Attributes:
        name: as it was asked for.
        function: of the image and the clean one, both (1, 3, H, W) in [0, 1]; one without reference leaves it aside.
        device: where it computes.
    """

    name: str
    function: Callable[[Tensor, Tensor], Tensor]
    device: torch.device

    @torch.no_grad()
    def __call__(self, image: Tensor, clean: Tensor) -> float:
        """The number of an image and the clean one, both (3, H, W) in [0, 1].

        Raises:
            ImageError: it cannot be computed of them, as of one that is too small.
        """
        try:
            value = float(self.function(*(one[None].float().to(self.device) for one in (image, clean))))
        except Exception as error:
            if is_lack_of_memory(error):
                raise
            raise ImageError(f"{self.name} cannot be computed: {type(error).__name__}: {error}") from error
        if math.isnan(value):
            raise ImageError(f"{self.name} is no number here.")
        return value


def metric_named(name: str, device: torch.device) -> Metric:
    """A metric of torchmetrics, or else of pyiqa.

    Args:
        name: such as "lpips", which torchmetrics has and is taken from it if it is installed, or "niqe", which pyiqa
            has; "torchmetrics:lpips" and "pyiqa:lpips" say from where.
        device: where it computes.

    Raises:
        OptionError: there is no such metric, or the package that has it is not installed or cannot be used.
    """
    source, _, plain = name.rpartition(":")
    if source and source not in _LIBRARIES:
        raise OptionError(f"`metrics` has {name!r}; accepted before the colon are {' and '.join(_LIBRARIES)}.")
    if plain in BUILT_IN:
        raise OptionError(f"`metrics` has {name!r}; PSNR and SSIM are always measured, as the protocol has them.")
    if source == "torchmetrics" and plain not in _FROM_TORCHMETRICS:
        raise OptionError(f"`metrics` has {name!r}; of torchmetrics, accepted are {', '.join(_FROM_TORCHMETRICS)}.")
    candidates = [source] if source else [one for one in _LIBRARIES if one == "pyiqa" or plain in _FROM_TORCHMETRICS]
    for library in candidates:
        try:
            module = importlib.import_module("torchmetrics.image" if library == "torchmetrics" else library)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == library:
                continue
            raise OptionError(
                f"`metrics` has {name!r}, whose {library} lacks {error.name}: {_INSTALL[library]}"
            ) from error
        except Exception as error:  # as where its torchvision was built for another torch
            raise OptionError(f"`metrics` has {name!r}, whose {library} cannot be imported: {error}") from error
        make = _from_torchmetrics if library == "torchmetrics" else _from_pyiqa
        return make(name, plain, module, device)
    raise OptionError(
        f"`metrics` has {name!r}, which {' or '.join(candidates)} would compute; not installed here: "
        f"{_INSTALL[candidates[0]]}"
    )


def _from_torchmetrics(name: str, plain: str, library: Any, device: torch.device) -> Metric:
    kind, options = _FROM_TORCHMETRICS[plain]
    if not hasattr(library, kind):
        raise OptionError(
            f"`metrics` has {name!r}, whose torchmetrics has no {kind}; a newer one has: {_INSTALL['torchmetrics']}"
        )
    metric = _made(name, lambda: getattr(library, kind)(**options).to(device))

    def function(image: Tensor, clean: Tensor) -> Tensor:
        value: Tensor = metric(image, clean)
        metric.reset()  # else it gathers all images for a mean of its own
        return value

    return Metric(name, function, device)


def _from_pyiqa(name: str, plain: str, library: Any, device: torch.device) -> Metric:
    known = library.list_models()
    if plain not in known:
        near = difflib.get_close_matches(plain, [*known, *_FROM_TORCHMETRICS], n=3)
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise OptionError(f"`metrics` has {name!r}, which pyiqa does not have.{hint} `pyiqa.list_models()` has them.")
    metric = _made(name, lambda: library.create_metric(plain, device=device))

    def function(image: Tensor, clean: Tensor) -> Tensor:
        value: Tensor = metric(image) if metric.metric_mode == "NR" else metric(image, clean)
        return value

    return Metric(name, function, device)


def _made(name: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as error:  # they download weights
        raise OptionError(f"`metrics` has {name!r}, which cannot be made here: {error}") from error
