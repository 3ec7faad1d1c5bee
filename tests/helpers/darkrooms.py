"""A small restorer, ready for the page."""

from __future__ import annotations

import torch
from util import perturb

from hairify import HairModel
from hairify.networks import NetworkSettings
from hairify.restoring import KnownGIV, KnownGIVs, TilingSettings
from hairify.serving import Darkroom
from hairify.sharing import Restorer

TILES = TilingSettings(tile=32, overlap=8)


def darkroom(*, knowing: bool = True, convert: bool = True, pixel_limit: int = 1) -> Darkroom:
    settings = NetworkSettings(network="unet", options={"width": 4}, convert=convert)
    model = settings.restorer(seed=1).eval()
    givs = None
    if isinstance(model, HairModel):
        with torch.random.fork_rng():
            torch.manual_seed(1)  # each time the same one
            perturb(model)
        dim = model.plan.giv_dim
        givs = KnownGIVs({name: KnownGIV((at,) * dim, 1.0) for name, at in (("rain", 0.6), ("clean", -0.6))})
    return Darkroom(Restorer(model, settings.named(), 4, givs=givs if knowing else None), TILES, pixel_limit)
