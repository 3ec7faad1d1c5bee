"""Published restoration networks, written anew from their papers, and a plain U-Net to begin with."""

from hairify.models._checkpoints import load_weights
from hairify.models.airnet import AirNet, airnet
from hairify.models.promptir import PromptIR, promptir
from hairify.models.res_hair import load_published, res_hair
from hairify.models.restormer import Restormer, restormer
from hairify.models.transweather import TransWeather, transweather
from hairify.models.unet import UNet, unet

__all__ = [
    "AirNet",
    "PromptIR",
    "Restormer",
    "TransWeather",
    "UNet",
    "airnet",
    "load_published",
    "load_weights",
    "promptir",
    "res_hair",
    "restormer",
    "transweather",
    "unet",
]
