"""A converted network as the rooms below `HairModel` know it."""

from __future__ import annotations

from torch import nn

from hairify.nn._context import ForwardContext, Hypernetwork
from hairify.nn._hsn import GIVStandardization


class Converted(nn.Module):
    """A network whose hyper layers get their weights within its own forward.

    Attributes:
        base: the original network, its later layers replaced by hyper layers.
        dac: the Degradation-Aware Classifier, F_g → (B, D).
        standardization: what the DAC returns → GIV (B, D).
        hsn: per level, the Hyper Selecting Nets, GIV (B, D) → selecting vectors (B, M, N).
        boxes: per level, the Weight Box.
    """

    base: nn.Module
    dac: nn.Module
    standardization: GIVStandardization
    hsn: nn.ModuleList
    boxes: nn.ModuleList
    _context: ForwardContext

    @property
    def _hypernetwork(self) -> Hypernetwork:
        return Hypernetwork(self.dac, self.standardization, self.hsn, self.boxes)


def within_converted(model: nn.Module) -> set[str]:
    """Names of all that lies within converted networks that are themselves parts of a model."""
    held = [(name, module) for name, module in model.named_modules() if isinstance(module, Converted)]
    return {f"{name}.{part}" for name, module in held for part, _ in module.named_modules() if part}
