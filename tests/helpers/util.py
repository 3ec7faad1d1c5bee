"""Assertions that say what is wrong and where, and small helpers shared by the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hairify import HairModel, hairify
from hairify.nn import LowRankBox

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


def published(model: nn.Module, **options: Any) -> HairModel:
    """Converted in the paper's form: full boxes shared by blocks, a DAC with parameters, GIVs of 64 numbers."""
    return hairify(model, preset="published", **options)


def perturb(hair: HairModel, amount: float = 0.3) -> HairModel:
    """Move DAC and HSNs, so that selecting vectors depend on the image; rows off each other; residual scales off 0."""
    with torch.no_grad():
        for parameter in hair.dac.parameters():
            parameter.add_(torch.randn_like(parameter) * amount)
        for parameter in hair.hsn.parameters():  # by as little as keeps selecting vectors from saturating
            parameter.add_(torch.randn_like(parameter) * amount / parameter.shape[-1] ** 0.5)
        for box in hair.boxes:
            for layer in box.modules() if box.rows_agree() else ():
                for name, rows in layer.named_parameters(recurse=False):
                    # as far as weights are from 0, whatever their columns or right factors: signals must not explode
                    terms = layer.right[0, 0].square().sum().item() if name == "left" else rows[0, 0].numel()
                    if not (isinstance(box, LowRankBox) and name in ("weight", "bias")):
                        rows.add_(torch.randn_like(rows) * amount / terms**0.5)
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


def scaled(build: Callable[[], nn.Module]) -> nn.Module:
    """A network in evaluation mode whose residual branches are not scaled by zero."""
    model = build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.3)
    return model


def residual(model: nn.Module, x: Tensor) -> Tensor:
    """What the network adds to the image, so that the image does not hide errors; in float64."""
    return (model(x.to(next(model.parameters()))).double() - x.double()).detach()


def rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that conversion must leave alone, place by place, and the global random state."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        found[f"{name}.__class__"] = type(module)
        found.update(_leaves(vars(module), name))  # parameters, buffers, modules, hooks and the mode lie there, too
    return {"model": found, "random": torch.get_rng_state()}


def assert_unchanged(model: nn.Module, before: dict[str, Any], *, random: bool = True) -> None:
    """The model is as it was when `snapshot` was taken, and if `random` so is the global random state."""
    after = snapshot(model)
    assert not random or torch.equal(after["random"], before["random"]), "the global random state moved"
    now, then = after["model"], before["model"]
    assert list(now) == list(then), f"came or went: {sorted(now.keys() ^ then.keys()) or 'nothing, but the order'}"
    changed = [place for place, value in then.items() if not _same(now[place], value)]
    assert not changed, f"changed: {changed}"


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """What a value holds, through containers. Of tensors both the object and a copy of what is in it."""
    if isinstance(value, (dict, list, tuple)):
        yield f"{place} (kind)", type(value)
        for key, held in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(held, f"{place}.{key}")
        return
    yield place, set(value) if isinstance(value, set) else value
    if isinstance(value, Tensor):
        yield f"{place} (values)", _Values(value.detach().clone())
        yield f"{place} (trained)", value.requires_grad
        if value.is_leaf:
            yield from _leaves(value.grad, f"{place}.grad")


@dataclass(frozen=True)
class _Values:
    """A tensor that equals another of the same values; plain ones are equal only to themselves."""

    tensor: Tensor


def _same(now: Any, then: Any) -> bool:
    if isinstance(then, _Values):
        return torch.equal(now.tensor, then.tensor) or torch.allclose(now.tensor, then.tensor, 0, 0, equal_nan=True)
    if now is then:
        return True
    return type(now) is type(then) and not isinstance(then, Tensor) and bool(now == then)


def bytes_kept(model: nn.Module, x: Tensor) -> int:
    """Bytes that the forward keeps for the backward pass, but for what is made again there."""
    sizes: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        model(x)
    return sum(sizes.values())


class Conditioned(nn.Module):
    """With the GIV as an input: what tiles of one image need."""

    def __init__(self, hair: HairModel) -> None:
        super().__init__()
        self.hair = hair

    def forward(self, image: Tensor, giv: Tensor) -> Tensor:
        with self.hair.conditioned_on(giv):
            return self.hair(image)
