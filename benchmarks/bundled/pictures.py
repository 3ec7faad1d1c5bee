"""Pictures of what the restorer that comes with hairify does to photographs that it has not seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import torch
from PIL import ImageDraw, ImageFont
from torch import Tensor

from hairify.data.degradations import degradation
from hairify.data.images import read_rgb
from hairify.networks import apply
from hairify.sharing import Restorer

# Photographs whose licences let them be shown, and what is done to each; docs/bundled.md names their authors.
SHOWN = {
    "chelsea": "noise25",
    "picosdeeuropa_by_Aitzol_Berasategi": "rain",
    "china": "haze",
    "life_by_Aitzol_Berasategi": "low_light",
}
SIDE, GAP, LINE = 224, 6, 22  # pixels


def write_pictures(restorer: Restorer, photographs: Path, folder: Path) -> Path:
    """Write bundled.jpg: each photograph degraded above, and what the restorer makes of it below."""
    pairs = [_pair(restorer, photographs / f"{name}.png", how) for name, how in SHOWN.items()]
    width, height = len(SHOWN) * (SIDE + GAP) - GAP, 2 * SIDE + GAP + LINE
    sheet = PIL.Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for column, (how, (before, after)) in enumerate(zip(SHOWN.values(), pairs, strict=True)):
        left = column * (SIDE + GAP)
        draw.text((left + SIDE / 2, LINE / 2), how.rstrip("0123456789").replace("_", " "), "black", font, anchor="mm")
        sheet.paste(before, (left, LINE))
        sheet.paste(after, (left, LINE + SIDE + GAP))
    folder.mkdir(parents=True, exist_ok=True)
    sheet.save(path := folder / "bundled.jpg", quality=90)
    return path


@torch.no_grad()
def _pair(restorer: Restorer, path: Path, how: str) -> tuple[PIL.Image.Image, PIL.Image.Image]:
    pixels = read_rgb(path)[None]
    top, left = ((side - SIDE) // 2 for side in pixels.shape[2:])
    clean = pixels[:, :, top : top + SIDE, left : left + SIDE]
    degraded = degradation(how)(clean, torch.Generator().manual_seed(0))
    return _picture(degraded), _picture(apply(restorer.model, degraded))


def _picture(image: Tensor) -> PIL.Image.Image:
    return PIL.Image.fromarray((image[0].clamp(0, 1) * 255).round().permute(1, 2, 0).numpy().astype(np.uint8))
