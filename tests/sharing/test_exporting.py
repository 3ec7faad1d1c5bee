"""What is exported computes what the restorer computes."""

from __future__ import annotations

import errno
from pathlib import Path

import onnxruntime
import pytest
import torch
from networks import NETWORKS, Pooled
from torch import Tensor, nn
from util import assert_close, assert_differs, perturb

from hairify import HairModel, hairify
from hairify.errors import ExportError, OptionError
from hairify.sharing import export


class TwoInputs(nn.Module):
    """Like AirNet: two images in, several tensors out in training mode only."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()) for _ in range(4)]
        self.head, self.body, self.tail = nn.Conv2d(3, 8, 1), nn.Sequential(*layers), nn.Conv2d(8, 3, 1)

    def forward(self, query: Tensor, key: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        restored = self.tail(self.body(self.head(query + 0.5 * key)))
        return (restored, key) if self.training else restored


def converted(network: nn.Module) -> HairModel:
    return perturb(hairify(network.eval(), dac=Pooled, giv_dim=64))


@pytest.fixture(scope="module")
def hair() -> HairModel:
    torch.manual_seed(0)
    return converted(TwoInputs())


def run_onnx(file: Path, *inputs: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    return torch.from_numpy(session.run(None, {n: t.numpy() for n, t in zip(names, inputs, strict=True)})[0])


def test_any_number_of_images_of_any_size(hair: HairModel, tmp_path: Path) -> None:
    hair.train()
    assert export(hair, tmp_path / "hair.onnx", multiple=1) == pytest.approx(0, abs=1e-5)
    assert hair.training
    hair.eval()
    for size in ((1, 3, 17, 40), (3, 3, 32, 24)):
        x = torch.rand(size)
        with torch.no_grad():
            assert_close(run_onnx(tmp_path / "hair.onnx", x), hair(x, x), 1e-5)
    assert [file.name for file in tmp_path.iterdir()] == ["hair.onnx"]


def test_the_giv_as_an_input(hair: HairModel, tmp_path: Path) -> None:
    export(hair, tmp_path / "hair.onnx", multiple=1, giv_input=True)
    x, giv = torch.rand(2, 3, 24, 32), torch.randn(2, 64)
    with torch.no_grad(), hair.conditioned_on(giv):
        expected = hair(x, x)
    assert isinstance(expected, Tensor)
    got = run_onnx(tmp_path / "hair.onnx", x, giv)
    assert_close(got, expected, 1e-5)
    assert_differs(run_onnx(tmp_path / "hair.onnx", x, giv * 0), expected)


def test_a_program_of_torch_export_and_a_fixed_size(hair: HairModel, tmp_path: Path) -> None:
    x = torch.rand(1, 3, 16, 24)
    with torch.no_grad():
        expected = hair(x, x)
        for name, size in (("any.pt2", None), ("fixed.pt2", (16, 24))):
            assert export(hair, tmp_path / name, multiple=1, size=size) == pytest.approx(0, abs=1e-5)
            assert_close(torch.export.load(tmp_path / name).module()(x), expected, 1e-5)


def test_a_baked_network_is_exported_as_any_other(tmp_path: Path) -> None:
    hair = converted(NETWORKS["unet"]())
    x = torch.rand(1, 3, 32, 48)
    static = hair.bake(x)
    assert export(static, tmp_path / "static.onnx", multiple=8) == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        assert_close(run_onnx(tmp_path / "static.onnx", x), hair(x), 1e-5)


def test_a_file_that_computes_something_else_is_not_written(tmp_path: Path) -> None:
    class Chance(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand_like(x)

    for size in (None, (16, 24)):
        with pytest.raises(ExportError, match="computes something else: it differs by"):
            export(Chance(), tmp_path / "chance.pt2", multiple=1, size=size)
    assert not list(tmp_path.iterdir())


def test_a_network_that_returns_black_images(tmp_path: Path) -> None:
    class Black(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 0

    assert export(Black(), tmp_path / "black.pt2", multiple=1) == 0


def test_large_multiples(tmp_path: Path) -> None:
    coarse = nn.Sequential(nn.AvgPool2d(128), nn.Upsample(scale_factor=128))
    assert export(coarse, tmp_path / "coarse.pt2", multiple=128) == 0


def test_a_full_disk_is_no_fault_of_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch.export, "save", full)
    with pytest.raises(OSError, match="No space left"):
        export(nn.Conv2d(3, 3, 1), tmp_path / "net.pt2", multiple=1)
    assert not list(tmp_path.iterdir())


def test_what_is_not_accepted_is_named_and_writes_nothing(hair: HairModel, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"accepted are the endings .onnx, .pt2"):
        export(hair, tmp_path / "hair.pth", multiple=1)
    with pytest.raises(OptionError, match=r"there is no folder .*nowhere"):
        export(hair, tmp_path / "nowhere" / "hair.onnx", multiple=1)
    with pytest.raises(OptionError, match="accepted are multiples of 8"):
        export(hair, tmp_path / "hair.onnx", multiple=8, size=(16, 20))
    with pytest.raises(OptionError, match="a TwoInputs has no GIV"):
        export(TwoInputs(), tmp_path / "static.onnx", multiple=1, giv_input=True)

    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.mean()) > 0.5 else x * 2

    with pytest.raises(ExportError, match="PyTorch cannot export Branches with any size"):
        export(Branches(), tmp_path / "static.onnx", multiple=1)
    assert not list(tmp_path.iterdir())
