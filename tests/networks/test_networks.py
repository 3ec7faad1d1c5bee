"""Networks by name, run on images."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel
from util import assert_close

from hairify import HairModel, hairify
from hairify._support.modes import evaluation_mode
from hairify.errors import CheckpointError, NetworkError, OptionError
from hairify.models import restormer
from hairify.networks import BUILT_IN, Network, NetworkSettings, apply, number_of_inputs, smallest_multiple

SMALL: dict[str, dict[str, Any]] = {
    "restormer": {"dim": 8, "num_blocks": (1, 1, 1, 2), "num_refinement_blocks": 1},
    "res_hair": {"dim": 8, "num_blocks": (2, 2, 2, 2), "num_refinement_blocks": 2},
    "promptir": {"dim": 8, "num_blocks": (1, 1, 1, 2), "num_refinement_blocks": 1, "prompt_dims": (4, 8, 8)},
    "airnet": {"dim": 8, "blocks": 2},
    "transweather": {"dims": (16, 16, 32, 32), "depths": (1, 1, 1, 1)},
    "unet": {"width": 8},
}


class Lambda(nn.Module):
    """A network that is one function, with a parameter so that it has a device."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x * self.scale)


class TwoInputs(nn.Module):
    def forward(self, first: Tensor, second: Tensor, strength: float = 1.0) -> tuple[Tensor, Tensor]:
        return first.mean((2, 3)), first + strength * second


@pytest.mark.parametrize(
    "network",
    [
        Lambda(lambda x: x * 2),
        Lambda(lambda x: [x * 2, x]),
        Lambda(lambda x: {"logits": x.mean((2, 3)), "image": x * 2}),
        Lambda(lambda x: [x[..., ::2, ::2], x * 2]),
        TwoInputs(),
        DataParallel(TwoInputs()),
    ],
    ids=["tensor", "first of several", "by name", "full resolution", "two inputs", "wrapped"],
)
def test_the_first_output_of_the_images_shape_is_what_was_restored(network: nn.Module) -> None:
    images = torch.rand(2, 3, 8, 12)
    assert torch.equal(apply(network, images), images * 2)


def test_a_network_that_returns_no_images_is_named() -> None:
    with pytest.raises(NetworkError, match=r"Lambda made \(2, 3, 4, 6\) of images \(2, 3, 8, 12\)"):
        apply(Lambda(lambda x: x[..., ::2, ::2]), torch.rand(2, 3, 8, 12))


@pytest.mark.parametrize("multiple", [1, 2, 8, 64])
def test_the_smallest_multiple_is_found(multiple: int) -> None:
    def needs(x: Tensor) -> Tensor:
        if x.shape[2] % multiple or x.shape[3] % multiple:
            raise RuntimeError("shapes do not fit")
        return x

    assert smallest_multiple(Lambda(needs)) == multiple


def test_a_network_that_returns_another_size_does_not_accept_it() -> None:
    assert smallest_multiple(Lambda(lambda x: x[..., : x.shape[2] // 4 * 4, : x.shape[3] // 4 * 4])) == 4


def test_a_network_that_accepts_no_size_is_named() -> None:
    def refuses(x: Tensor) -> Tensor:
        raise ValueError("only 57 pixels")

    with pytest.raises(NetworkError, match="only 57 pixels"):
        smallest_multiple(Lambda(refuses))


def test_modes_are_restored_part_by_part() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).train()
    network[1].eval()
    with evaluation_mode(network):
        assert not any(module.training for module in network.modules())
    assert [module.training for module in network.modules()] == [True, True, False]
    with pytest.raises(NetworkError):
        smallest_multiple(nn.Sequential(network, Lambda(lambda x: x.mean())))
    assert [module.training for module in network.modules()] == [True, True, False]


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_network_is_built_and_converted(name: str) -> None:
    settings = NetworkSettings(network=name, options=SMALL[name])
    hair = settings.restorer(seed=1)
    assert isinstance(hair, HairModel)
    multiple = smallest_multiple(hair)
    images = torch.rand(1, 3, 64, 64)
    assert 64 % multiple == 0
    with torch.no_grad():
        restored = apply(hair.eval(), images)
        again = apply(settings.restorer(seed=1).eval(), images)
        other = apply(settings.restorer(seed=2).eval(), images)
    assert torch.equal(restored, again)
    assert not torch.equal(restored, other)


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    NetworkSettings(options=SMALL["restormer"]).restorer(seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\n"
        "def plain(width=4, depth=4):\n"
        "    body = [nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU()) for _ in range(depth)]\n"
        "    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.Sequential(*body), nn.Conv2d(width, 3, 1))\n"
        "number = 3\n"
        "def text(): return 'no module'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = NetworkSettings(network="my_nets:plain", options={"width": 6}, giv_dim=16)
    hair = settings.restorer(seed=0)
    assert isinstance(hair, HairModel)
    assert hair.plan.giv_dim == 16
    static = NetworkSettings(network="my_nets:plain", options={"width": 6}, convert=False).restorer(seed=0)
    x = torch.rand(1, 3, 16, 24)
    assert_close(hair(x), static(x), 1e-5)
    for name, options, message in (
        ("my_nets:plain", {"breadth": 6}, r"takes \(width=4, depth=4\)"),
        ("my_nets:other", {}, "cannot be found"),
        ("no_such_module:other", {}, "cannot be found"),
        ("my_nets:number", {}, "is a int"),
        ("my_nets:text", {}, "returned a str"),
        ("restorner", {}, "Did you mean 'restormer'"),
    ):
        with pytest.raises(NetworkError, match=message):
            Network(name, options).build()
    sys.modules.pop("my_nets")


def test_trained_weights_are_what_the_converted_network_starts_from(tmp_path: Path) -> None:
    trained = restormer(**SMALL["restormer"])
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "trained.ckpt")
    settings = NetworkSettings(options=SMALL["restormer"], weights=tmp_path / "trained.ckpt")
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert_close(settings.restorer(seed=5)(x), trained(x), 1e-5)
    with pytest.raises(CheckpointError, match="does not fit"):
        NetworkSettings(options=SMALL["restormer"] | {"dim": 16}, weights=tmp_path / "trained.ckpt").build(0)


def test_the_network_that_was_converted_has_the_parameters_of_its_base() -> None:
    network = Network("res_hair", SMALL["res_hair"])
    hair = network.build()
    assert isinstance(hair, HairModel)
    again = hairify(network.unconverted().build(), plan=hair.plan)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in hair.state_dict().items()}
    other = Network("restormer", SMALL["restormer"])
    assert other.unconverted() == other


def test_what_is_said_counts_before_what_suits_the_network() -> None:
    network = nn.Sequential(nn.Identity())
    assert NetworkSettings(network="airnet").plan_options(network)["split_at"] == "R.body.2"
    said = NetworkSettings(network="airnet", split_at="0.5", include=("R.*",)).plan_options(network)
    assert (said["split_at"], said["include"]) == (0.5, ("R.*",))
    assert "include" not in NetworkSettings(network="airnet", split_at="R.body.1").plan_options(network)


def test_names_of_modules_go_before_fractions() -> None:
    nested = nn.Sequential(nn.Sequential(nn.Identity(), nn.Identity()))
    assert NetworkSettings(split_at="0.1").plan_options(nested)["split_at"] == "0.1"
    assert NetworkSettings(split_at="0.2").plan_options(nested)["split_at"] == 0.2


@pytest.mark.parametrize(
    "conversion", [{"convert": False}, {"split_at": "latent"}, {"box": "low_rank"}, {"exclude": ("*",)}, {"giv_dim": 7}]
)
def test_res_hair_is_converted_as_published(conversion: dict[str, Any]) -> None:
    (name,) = conversion
    with pytest.raises(OptionError, match=f"`{name}` is .*hair_neck"):
        NetworkSettings(network="res_hair", **conversion)


def test_inputs_are_counted_for_each_forward() -> None:
    class One(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image

    class Two(nn.Module):
        def forward(self, query: torch.Tensor, key: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
            return query + scale * key

    one, other = One(), One()
    assert [number_of_inputs(network) for network in (one, Two(), one, Two())] == [1, 2, 1, 2]
    other.forward = Two().forward  # type: ignore[method-assign]
    assert (number_of_inputs(other), number_of_inputs(one)) == (2, 1)
    other.forward = lambda *images: images[0]  # type: ignore[method-assign, assignment]
    assert number_of_inputs(other) == 1
