"""Published restoration networks, written anew from their papers."""

from hairify.models.res_hair import load_published, res_hair
from hairify.models.restormer import Restormer, restormer

__all__ = ["Restormer", "load_published", "res_hair", "restormer"]
