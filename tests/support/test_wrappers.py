"""What others put around modules is taken off, wherever it is, and the user's model stays as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from networks import Pooled, UNet
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from util import assert_close, assert_unchanged, perturb, snapshot

from hairify import HairModel, hairify, load, plan, save
from hairify._support.wrappers import unwrapped, without_wrappers
from hairify.errors import AlreadyConvertedError, CheckpointError

compiled_graphs = 0


def backend(module: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Tensor]:
    global compiled_graphs
    compiled_graphs += 1
    return module.forward


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend=backend)


def in_part(model: nn.Module) -> nn.Module:
    """Compiles the first and the last of the network's modules that are called."""
    home = model.base if isinstance(model, HairModel) else model
    children = [name for name, child in home.named_children() if not isinstance(child, nn.ModuleList)]
    for name in (children[0], children[-1]):
        setattr(home, name, compiled(getattr(home, name)))
    return model


def in_place(model: nn.Module) -> nn.Module:
    model.compile(backend=backend)
    next(model.children()).compile(backend=backend)
    return model


class Decorated(UNet):
    forward = torch.compile(UNet.forward, backend=backend)


def forward_alone(model: nn.Module) -> nn.Module:
    model.__class__ = Decorated
    return model


AROUND: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compiled": compiled,
    "parts compiled": in_part,
    "compiled in place": in_place,
    "forward compiled": forward_alone,
    "DataParallel": nn.DataParallel,
    "average": AveragedModel,
    "all at once": lambda model: AveragedModel(nn.DataParallel(compiled(in_part(model)))),
}


@pytest.mark.slow
@pytest.mark.parametrize("around", AROUND)
def test_networks_are_converted_as_what_is_inside(around: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain, x = UNet().eval(), torch.rand(2, 3, 32, 48)
    wrapped = UNet().eval()
    wrapped.load_state_dict(plain.state_dict())
    wrapped = AROUND[around](wrapped)
    before, graphs = snapshot(wrapped), compiled_graphs
    expected = hairify(plain, dac=Pooled, generator=torch.Generator().manual_seed(1))
    made = plan(wrapped, dac=Pooled)
    if around == "forward compiled":  # which torch.fx cannot follow
        made = dataclasses.replace(made, tracer="fx")
    assert made == plan(plain, dac=Pooled)
    hair = hairify(wrapped, dac=Pooled, generator=torch.Generator().manual_seed(1))
    assert compiled_graphs == graphs
    assert_unchanged(wrapped, before, random=False)
    assert list(hair.state_dict()) == list(expected.state_dict())
    rounding = 1e-6 if around == "forward compiled" else 0.0  # of the compiler
    assert_close(hair(x), expected(x), rounding)
    perturb(hair)
    save(hair, tmp_path / "hair")
    with torch.no_grad():
        for base in (plain, wrapped):
            assert_close(load(tmp_path / "hair", base, dac=Pooled)(x), hair(x), rounding)
    assert list(hair.bake(x[:1]).state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("around", [name for name in AROUND if name != "forward compiled"])
def test_converted_networks_are_saved_as_what_is_inside(around: str, tmp_path: Path) -> None:
    hair, x = perturb(hairify(UNet().eval(), dac=Pooled)), torch.rand(2, 3, 32, 48)
    save(hair, tmp_path / "plain")
    expected = hair(x).detach()
    wrapped = AROUND[around](hair)
    for added_only in (True, False):
        save(wrapped, tmp_path / "wrapped", added_only=added_only)
    assert (tmp_path / "wrapped").read_bytes() == (tmp_path / "plain").read_bytes()
    assert torch.equal(load(tmp_path / "wrapped", UNet().eval(), dac=Pooled)(x), expected)
    with pytest.raises(AlreadyConvertedError):
        hairify(wrapped)


def test_what_holds_no_converted_network_is_not_saved(tmp_path: Path) -> None:
    for around in (compiled, nn.DataParallel):
        with pytest.raises(CheckpointError, match="got a UNet"):
            save(around(UNet()), tmp_path / "x")


def test_inplace_converts_the_network_inside() -> None:
    network = UNet()
    assert hairify(compiled(network), dac=Pooled, inplace=True).base is network


def test_what_is_taken_off() -> None:
    plain = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 2))
    assert without_wrappers(plain) is unwrapped(plain) is plain
    inner = plain[0][0]
    plain[0][0] = compiled(inner)
    other = without_wrappers(nn.DataParallel(plain))
    assert other[0][0] is inner
    assert other[1] is plain[1]
    assert plain[0][0] is not inner
    assert list(other.state_dict()) == ["0.0.weight", "0.0.bias", "1.weight", "1.bias"]
