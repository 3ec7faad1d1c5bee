"""Assertions that say what is wrong and where, and small helpers shared by the tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hairify import HairModel

# Rounding of the start, relative to the largest output (issue: 1e-5 in float32, 1e-10 in float64).
START = {torch.float32: 1e-5, torch.float64: 1e-10}


def assert_close(got: Tensor, expected: Tensor, tolerance: float) -> None:
    """The largest difference is within `tolerance` of the largest expected value."""
    assert got.shape == expected.shape, f"shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
    difference = (got - expected).abs()
    place = torch.unravel_index(difference.argmax(), difference.shape)
    worst, scale = difference.max().item(), expected.abs().max().item()
    assert worst <= tolerance * scale, (
        f"differs by {worst / scale:.3g} of the largest value at {[int(i) for i in place]}, allowed {tolerance:.3g}"
    )


def assert_differs(got: Tensor, other: Tensor, least: float = 1e-3) -> None:
    """Guards a comparison against passing vacuously."""
    change = ((got - other).abs().max() / other.abs().max()).item()
    assert change > least, f"expected a change, but the largest is {change:.3g}"


def perturb(hair: HairModel, amount: float = 0.3) -> HairModel:
    """Move DAC and HSNs, so that selecting vectors depend on the image; and residual scales off zero."""
    with torch.no_grad():
        for parameter in [*hair.dac.parameters(), *hair.hsn.parameters()]:
            parameter.add_(torch.randn_like(parameter) * amount)
        for name, parameter in hair.base.named_parameters():
            if name.endswith(("beta", "gamma")):
                parameter.normal_()
    return hair


def train(model: nn.Module, steps: int = 3) -> nn.Module:
    """A few optimizer steps on random images: weights, norms and running statistics leave their start."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        clean = torch.rand(2, 3, 32, 48).to(next(model.parameters()))
        optimizer.zero_grad()
        (model(clean + 0.1 * torch.randn_like(clean)) - clean).abs().mean().backward()
        optimizer.step()
    return model


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that conversion must leave alone."""
    return {
        "state": {k: v.clone() for k, v in model.state_dict().items()},
        "ids": {k: id(v) for k, v in model.named_parameters()},
        "grad": {k: p.requires_grad for k, p in model.named_parameters()},
        "classes": {k: type(m) for k, m in model.named_modules()},
        "modes": {k: m.training for k, m in model.named_modules()},
        "attributes": {k: sorted(m.__dict__) for k, m in model.named_modules()},
        "hooks": {
            k: (list(m._forward_hooks.values()), list(m._forward_pre_hooks.values())) for k, m in model.named_modules()
        },
        "random": torch.get_rng_state(),
    }


def assert_unchanged(model: nn.Module, before: dict[str, Any], *, random: bool = True) -> None:
    """The model is as it was when `snapshot` was taken, and if `random` so is the global random state."""
    after = snapshot(model)
    for key in ("ids", "grad", "classes", "modes", "attributes", "hooks"):
        assert after[key] == before[key], f"{key} changed"
    assert not random or torch.equal(after["random"], before["random"]), "the global random state moved"
    assert list(after["state"]) == list(before["state"])
    for name, value in before["state"].items():
        assert torch.equal(after["state"][name], value), f"{name} changed"
