"""Per-image linear layers and convolutions, and both sides of the distributive law x * Σ VᵢWᵢ = Σ Vᵢ(x * Wᵢ)."""

from hairify.functional._mixing import mix, mix_low_rank
from hairify.functional._per_image import hyper_conv1d, hyper_conv2d, hyper_conv_transpose2d, hyper_linear, mixture
from hairify.functional._tuning import Tuning

__all__ = [
    "Tuning",
    "hyper_conv1d",
    "hyper_conv2d",
    "hyper_conv_transpose2d",
    "hyper_linear",
    "mix",
    "mix_low_rank",
    "mixture",
]
