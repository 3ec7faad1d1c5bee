"""Public networks recognised by spandrel, and restorers opened by it. Needs the extra `zoo`."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import layouts
import pytest
import spandrel_networks
import torch
from torch import Tensor, nn
from util import perturb

from hairify import HairModel, hairify
from hairify.cli import main
from hairify.errors import CheckpointError, NetworkError, OptionError
from hairify.networks import Network, NetworkSettings
from hairify.sharing import (
    Restorer,
    from_pretrained,
    register_with_spandrel,
    save_baked,
    save_for_spandrel,
    save_pretrained,
)

pytestmark = [
    pytest.mark.zoo,
    pytest.mark.skipif(not spandrel_networks.INSTALLED, reason="needs hairify[zoo]"),
    pytest.mark.filterwarnings("ignore"),  # theirs
]

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "Restormer": (
        "spandrel_extra_arches",
        {"dim": 8, "num_blocks": [1, 1, 1, 2], "num_refinement_blocks": 1, "heads": [1, 1, 2, 4]},
    ),
    "NAFNet": ("spandrel", {"width": 8, "middle_blk_num": 1, "enc_blk_nums": [1, 1, 1], "dec_blk_nums": [1, 1, 1]}),
    "SwinIR": ("spandrel", {"embed_dim": 16, "window_size": 8, "depths": (2, 2), "num_heads": (2, 2), "upscale": 1}),
    "DnCNN": ("spandrel", {"in_nc": 3, "out_nc": 3, "nc": 8, "nb": 6}),
    "MixDehazeNet": ("spandrel", {"embed_dims": [8, 16, 32, 16, 8], "depths": [2, 2, 2, 2, 2]}),
}
# Where published code looks for the weights of each: load(path)[key], its names without what stands before them.
FORMS = {"Restormer": ("params", ""), "NAFNet": ("params", ""), "SwinIR": ("params", ""), "DnCNN": ("", "")}
FORMS["MixDehazeNet"] = "state_dict", "module."


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """spandrel's registry is as it was afterwards."""
    spandrel_networks.declare_operators()
    from spandrel import MAIN_REGISTRY

    before = dict(vars(MAIN_REGISTRY))
    yield
    vars(MAIN_REGISTRY).update(before)


def original(name: str) -> nn.Module:
    import importlib

    package, options = NETWORKS[name]
    torch.manual_seed(1)
    made: nn.Module = getattr(importlib.import_module(f"{package}.architectures.{name}"), name)(**options)
    return made.eval()


def weights(name: str, folder: Path) -> Path:
    torch.save(original(name).state_dict(), path := folder / f"{name}.pth")
    return path


def images() -> Tensor:
    return torch.rand(1, 3, 64, 64)


def as_spandrel_calls(path: Path, x: Tensor) -> Tensor:
    from spandrel import ImageModelDescriptor, ModelLoader

    found = ModelLoader("cpu").load_from_file(path)
    assert isinstance(found, ImageModelDescriptor)
    return found.eval()(x.clone())


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_round_trips(name: str, tmp_path: Path) -> None:
    """Recognised, converted, opened again without its weights; baked, opened by spandrel as what it was."""
    path, x = weights(name, tmp_path), images()
    settings = NetworkSettings(network="spandrel", weights=path)
    plain = settings.build(0).eval()
    assert torch.allclose(plain(x).clamp(0, 1), as_spandrel_calls(path, x), atol=1e-6)

    hair = settings.restorer(0).eval()
    assert isinstance(hair, HairModel)
    assert torch.allclose(hair(x), plain(x), atol=1e-4)
    perturb(hair, 0.02)
    save_pretrained(Restorer(hair, settings.named(), 8), tmp_path / "run")
    path.unlink()
    again = from_pretrained(tmp_path / "run")
    assert torch.equal(again.model(x), hair(x))
    assert again.network.name == "spandrel"
    assert again.network.is_built_in  # so that its folder opens without naming code

    save_baked(hair.bake(x), again.network, baked := tmp_path / "baked.pth")
    key, prefix = FORMS[name]
    held = torch.load(baked, weights_only=True)
    state = held[key] if key else held
    authors = original(name)
    authors.load_state_dict({own.removeprefix(prefix): tensor for own, tensor in state.items()})
    assert all(own.startswith(prefix) for own in state)
    assert torch.allclose(as_spandrel_calls(baked, x), hair(x).clamp(0, 1), atol=1e-4)

    save_for_spandrel(again, whole := tmp_path / "whole.safetensors")
    register_with_spandrel()
    register_with_spandrel()
    assert torch.allclose(as_spandrel_calls(whole, x), hair(x).clamp(0, 1), atol=1e-6)
    for copied in (copy.deepcopy(plain), pickle.loads(pickle.dumps(plain))):
        assert torch.equal(copied(x), plain(x))


@torch.no_grad()
def test_a_loaded_description_is_its_network(tmp_path: Path) -> None:
    from spandrel import ModelLoader

    x = images()
    found = ModelLoader("cpu").load_from_file(weights("NAFNet", tmp_path))
    assert torch.allclose(hairify(found)(x), original("NAFNet")(x), atol=1e-4)


@torch.no_grad()
def test_files_open_in_a_restorer_of_any_network_of_ours(tmp_path: Path) -> None:
    settings, x = NetworkSettings(network="unet", options={"width": 4}), torch.rand(1, 3, 30, 41)
    hair = perturb(settings.restorer(0)).eval()
    save_for_spandrel(Restorer(hair, settings.named(), 4), path := tmp_path / "one.safetensors")
    register_with_spandrel()
    got = as_spandrel_calls(path, x)  # which sees to the multiple of 4
    assert got.shape == x.shape
    padded = hair(nn.functional.pad(x, (0, 3, 0, 2), "reflect"))[..., :30, :41]
    assert torch.allclose(got, padded.clamp(0, 1), atol=1e-5)


def test_what_is_not_recognised_is_said(tmp_path: Path) -> None:
    torch.save({"odd": torch.zeros(1)}, tmp_path / "odd.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with torch.device("cpu"):
        sr = spandrel_networks.ZOO["SPAN"].specimen.build()
    torch.save(sr.state_dict(), tmp_path / "larger.pth")
    for name, kind, message in (
        ("odd.pth", CheckpointError, "no network that spandrel recognises"),
        ("text.pth", CheckpointError, "cannot be read"),
        ("nothing.pth", CheckpointError, "no file"),
        ("larger.pth", NetworkError, "2 times the size"),
    ):
        with pytest.raises(kind, match=message):
            NetworkSettings(network="spandrel", weights=tmp_path / name).build(0)
    with pytest.raises(OptionError, match="no weights"):
        NetworkSettings(network="spandrel")
    for code in ("os:system", "spandrel.__helpers.loader:load_file", "spandrel.architectures.NAFNet:Architecture"):
        with pytest.raises(NetworkError, match="spandrel"):
            Network("spandrel", {"architecture": "NAFNet", "code": code, "arguments": {}}).build()
    code = "spandrel.architectures.NAFNet:Gone"
    with pytest.raises(NetworkError, match="cannot make this NAFNet again"):
        Network("spandrel", {"architecture": "NAFNet", "code": code, "arguments": {}}).build()


def test_a_run_is_trained_gone_on_with_and_begun_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    layouts.photographs(tmp_path / "photographs", count=3, height=72, width=80)
    weights("NAFNet", tmp_path)
    usual = ["--data", "photographs", "--cpu", "--workers", "0", "--batch-size", "2", "--patch-size", "32"]
    usual += ["--degradations", "noise25,rain", "--validate-every", "0", "--log-with", "none", "--calibration", "4"]
    run = ["train", *usual, "--output", "run", "--network", "spandrel", "--weights", "NAFNet.pth"]
    assert main([*run, "--steps", "2"]) == 0
    (tmp_path / "NAFNet.pth").unlink()
    config = (tmp_path / "run" / "config.toml").read_text()
    assert main(["train", "--output", "run", "--resume", "--steps", "3"]) == 0
    assert (tmp_path / "run" / "config.toml").read_text() == config.replace("steps = 2", "steps = 3")
    assert main(["train", *usual, "--from", "run", "--output", "second", "--steps", "1"]) == 0
    assert main(["restore", "photographs", "--model", "second", "--output", "restored"]) == 0
    assert main(["bake", "second", "--as", "rain", "--output", "derain.pth"]) == 0
    assert as_spandrel_calls(tmp_path / "derain.pth", images()).shape == images().shape
