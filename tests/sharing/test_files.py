"""Restorers as single files: whole ones as tensors alone, and baked ones as checkpoints of the original network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from util import assert_differs, perturb

from hairify import HairModel
from hairify.cli import main
from hairify.errors import CheckpointError, NetworkError, OptionError
from hairify.models import load_weights
from hairify.networks import Network, NetworkSettings
from hairify.restoring import KnownGIV, KnownGIVs
from hairify.sharing import (
    Restorer,
    from_pretrained,
    from_spandrel_tensors,
    save_baked,
    save_for_spandrel,
    save_pretrained,
    to_spandrel_tensors,
)

SMALL = {"dim": 8, "num_blocks": [1, 1, 1, 2], "num_refinement_blocks": 1}
LEVELLED = {"dim": 8, "num_blocks": [2, 2, 2, 2], "num_refinement_blocks": 2}
OPTIONS: dict[str, dict[str, Any]] = {"unet": {"width": 4}, "restormer": SMALL, "res_hair": LEVELLED}


def restorer(name: str, convert: bool = True) -> Restorer:
    settings = NetworkSettings(network=name, options=OPTIONS[name], convert=convert)
    model = settings.restorer(seed=1)
    if isinstance(model, HairModel):
        perturb(model)
    giv_dim = model.plan.giv_dim if isinstance(model, HairModel) else 1
    givs = KnownGIVs({n: KnownGIV((at,) * giv_dim, 1.0) for n, at in (("rain", 0.5), ("clean", -0.5))})
    return Restorer(model.eval(), settings.named(), 8, givs=givs if convert else None)


def images() -> Tensor:
    return torch.rand(2, 3, 64, 72)


@pytest.mark.parametrize(
    ("name", "convert"), [("unet", True), ("unet", False), ("restormer", True), ("res_hair", True)]
)
@torch.no_grad()
def test_a_whole_restorer_is_in_its_tensors(name: str, convert: bool, tmp_path: Path) -> None:
    one, x = restorer(name, convert), images()
    save_for_spandrel(one, tmp_path / "one.safetensors")
    other = from_spandrel_tensors(safetensors.torch.load_file(tmp_path / "one.safetensors"))
    assert torch.equal(other.model(x), one.model(x))
    assert not other.model.training
    assert (other.network, other.multiple) == (one.network, one.multiple)
    assert isinstance(other.model, HairModel) is convert
    if isinstance(one.model, HairModel):
        with one.model.conditioned_on(one.model.giv(x.flip(0))):
            assert_differs(one.model(x), other.model(x))  # conditioning is not idle


def test_a_file_goes_where_it_can(tmp_path: Path) -> None:
    one = restorer("unet")
    for path, message in ((tmp_path / "x.pth", "ending"), (tmp_path / "no" / "x.safetensors", "no folder")):
        with pytest.raises(OptionError, match=message):
            save_for_spandrel(one, path)
    tensors = to_spandrel_tensors(Restorer(one.model, one.network, 0))
    with pytest.raises(CheckpointError, match="multiples of 0"):
        from_spandrel_tensors(tensors)


def test_a_file_decides_on_no_code(tmp_path: Path) -> None:
    one = restorer("unet")
    own = Restorer(one.model, Network("os:system"), 4)
    with pytest.raises(NetworkError, match=r"os:system.*hairify bake"):
        save_for_spandrel(own, tmp_path / "own.safetensors")
    assert not [*tmp_path.iterdir()]
    with pytest.raises(NetworkError, match="decide which code"):
        from_spandrel_tensors(to_spandrel_tensors(own))


@pytest.mark.parametrize("damage", ["hairify.restorer", "hairify"])
def test_damaged_tensors_are_refused(damage: str) -> None:
    tensors = to_spandrel_tensors(restorer("unet"))
    for broken in (None, torch.tensor([255, 0, 3], dtype=torch.uint8), tensors[damage][:-5]):
        state = {name: tensor for name, tensor in tensors.items() if name != damage}
        with pytest.raises(CheckpointError, match="damaged"):
            from_spandrel_tensors(state if broken is None else state | {damage: broken})


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", OPTIONS)
@torch.no_grad()
def test_a_baked_file_is_one_of_the_original_network(name: str, ending: str, tmp_path: Path) -> None:
    one, x = restorer(name), images()[:1]
    assert isinstance(one.model, HairModel)
    original = one.network.unconverted()
    save_baked(one.model.bake(x), original, path := tmp_path / f"baked{ending}")
    state = torch.load(path, weights_only=True) if ending == ".pth" else safetensors.torch.load_file(path)
    assert ("params" in state) is (ending == ".pth" and original.name == "restormer")
    plain = original.build().eval()
    plain.load_state_dict(state.get("params", state))  # strictly, and by nothing of hairify
    assert torch.allclose(plain(x), one.model(x), atol=1e-5)
    again = original.build().eval()
    load_weights(again, path)
    assert torch.equal(again(x), plain(x))


def test_what_cannot_be_baked_is_refused(tmp_path: Path) -> None:
    one = restorer("unet")
    static = restorer("unet", convert=False)
    with pytest.raises(CheckpointError, match="bake it first"):
        save_baked(one.model, one.network, tmp_path / "x.pth")
    for path, message in ((tmp_path / "x.onnx", "ending"), (tmp_path / "no" / "x.pth", "no folder")):
        with pytest.raises(OptionError, match=message):
            save_baked(static.model, static.network, path)
    assert not [*tmp_path.iterdir()]


@torch.no_grad()
def test_baking_by_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    one, x = restorer("unet"), images()
    save_pretrained(one, tmp_path / "run")
    hair = from_pretrained("run").model
    assert isinstance(hair, HairModel)
    assert one.givs is not None
    for words, giv in (
        (["--as", "rain"], one.givs.giv("rain")),
        (["--as", "rain", "--strength", "0.25"], one.givs.giv("clean") * 0.75 + one.givs.giv("rain") * 0.25),
    ):
        assert main(["bake", "run", *words, "--output", "baked.pth"]) == 0
        static = one.network.build().eval()
        load_weights(static, tmp_path / "baked.pth")
        with hair.conditioned_on(giv):
            assert torch.allclose(static(x), hair(x), atol=1e-5)
    for words, message in (
        ([], "--as and --like"),
        (["--as", "rain", "--like", "a.png"], "--as and --like"),
        (["--as", "hail"], "knows no degradation 'hail'"),
    ):
        assert main(["bake", "run", *words, "--output", "refused.pth"]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    save_pretrained(restorer("unet", convert=False), tmp_path / "static")
    assert main(["bake", "static", "--as", "rain", "--output", "refused.pth"]) == 2
    assert not (tmp_path / "refused.pth").exists()


def test_exporting_for_spandrel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    one, x = restorer("unet"), images()
    save_pretrained(one, tmp_path / "run")
    assert main(["export", "run", "--output", "one.safetensors"]) == 0
    other = from_spandrel_tensors(safetensors.torch.load_file("one.safetensors"))
    assert torch.equal(other.model(x), one.model(x))
    assert main(["export", "run", "--output", "two.safetensors", "--giv-input"]) == 2
    assert "hairify bake" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "two.safetensors").exists()
