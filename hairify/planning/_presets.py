"""What a conversion is made of where the user says nothing: the preset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from hairify.nn._dac import DACName
from hairify.nn._hsn import published_widths
from hairify.planning._choices import BoxKind, PresetName, Targets

DEFAULT_RANK = 8
_GIV_DIM = 64
_LARGE = 1_000_000
_SHARE_OF_LARGE = 0.05
_DEFAULT_WIDTHS = ((64, 32), (48, 24), (32, 16), (16, 8), (8, 8), (8, 4))
"""D and the width of the HSNs' hidden layer, from the best to the smallest."""


@dataclass(frozen=True)
class Preset:
    """Values of the options that are not given.

    Attributes:
        box: kind of the Weight Boxes.
        rows: N where a block has rows of its own: in low-rank boxes, and where a level has a single block; None as in
            all other levels, M + 1 for M blocks.
        targets: which layers are converted, and what shares an HSN and a box.
        dac: the DAC.
        hsn_limit: under which HSNs hold the size of their logits.
    """

    box: BoxKind
    rows: int | None
    targets: Targets
    dac: DACName
    hsn_limit: float | None

    def box_size(self, blocks: int, rank: int | None) -> int:
        """N of a level of M blocks."""
        return self.rows if self.rows is not None and (blocks == 1 or rank is not None) else blocks + 1


PRESETS: Mapping[PresetName, Preset] = {
    "default": Preset("low_rank", 4, "all", "moments", 2.0),  # docs/conditioning.md shows how it was chosen
    "published": Preset("full", None, "auto", "published", None),
}
assert set(PRESETS) == set(get_args(PresetName))


def hsn_widths(
    preset: PresetName,
    giv_dim: int | None,
    channels: int | None,
    blocks: list[int],
    box_sizes: list[int],
    parameters: int,
) -> tuple[int, tuple[int, ...]]:
    """D, and the widths of the HSNs' hidden layers.

    With the default preset they are as large as the network's size allows: all HSNs together have at most 5 % of the
    parameters of a network of a million or more, and on smaller ones no more than the network itself has (but of the
    smallest widths they are made in any case). The DAC of moments has no parameters; another's are not counted here,
    and its D is 64.

    Args:
        preset: whose.
        giv_dim: D, where it is given.
        channels: of F_g where the DAC reads moments, of which there are no more; else None.
        blocks: M of each level.
        box_sizes: N of each level.
        parameters: of the network.
    """
    if preset == "published":
        dim = giv_dim or _GIV_DIM
        return dim, published_widths(dim)
    most = parameters * (_SHARE_OF_LARGE if parameters >= _LARGE else 1)
    for dim, hidden in _DEFAULT_WIDTHS:
        dim = giv_dim or (_GIV_DIM if channels is None else min(dim, channels))
        nets = sum(m * ((dim + 1) * hidden + (hidden + 1) * n) for m, n in zip(blocks, box_sizes, strict=True))
        if nets <= most:
            break
    return dim, (hidden,)
