"""The modules of a converted network, and how the GIV reaches them within a forward."""

from hairify.nn._boxes import LowRankBox, WeightBox
from hairify.nn._features import Feature
from hairify.nn._hsn import GIVStandardization, HyperSelectingNet, published_widths
from hairify.nn._layers import HyperLayer
from hairify.nn._moments_dac import MomentsDAC
from hairify.nn._published_dac import DegradationAwareClassifier
from hairify.nn._warm_start import peaked_vectors

__all__ = [
    "DegradationAwareClassifier",
    "Feature",
    "GIVStandardization",
    "HyperLayer",
    "HyperSelectingNet",
    "LowRankBox",
    "MomentsDAC",
    "WeightBox",
    "peaked_vectors",
    "published_widths",
]
