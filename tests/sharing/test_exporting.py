"""What is exported computes what the restorer computes."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
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


@pytest.mark.slow
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
        with pytest.raises(ExportError, match=r"computes something else: on \d image\(s\) of \d+ × \d+ pixels"):
            export(Chance(), tmp_path / "chance.pt2", multiple=1, size=size)
    assert not list(tmp_path.iterdir())


class Doubling(nn.Module):
    """Doubles images of some sizes."""

    def __init__(self, doubled: Callable[[int, int], bool]) -> None:
        super().__init__()
        self.layer, self.doubled = nn.Conv2d(3, 3, 3, padding=1), doubled

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x * 2 if self.doubled(*x.shape[2:]) else x)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("doubled", "shown"),
    [
        (lambda h, w: w > h, lambda h, w: w <= h),  # true of the example
        (lambda h, w: h == w, lambda h, w: h == w),
        (lambda h, w: h % 16 == 0, lambda h, w: h % 16 == 0),
        (lambda h, w: max(h, w) > 384, lambda h, w: max(h, w) > 384),
        (lambda h, w: h * w > 256 * 256, lambda h, w: h * w > 256 * 256),
        (lambda h, w: min(h, w) < 48, lambda h, w: min(h, w) < 48),
        (lambda h, w: w < 24, lambda h, w: w < 24),
    ],
    ids=["landscape", "square", "multiples of 16", "long", "large", "small", "narrow"],
)
@pytest.mark.parametrize("ending", [".onnx", ".pt2"])
def test_a_branch_on_sizes_is_refused_with_a_size_that_shows_it(
    doubled: Callable[[int, int], bool], shown: Callable[[int, int], bool], ending: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=r"exported as (computes|does not run).*A fixed `size`") as caught:
        export(Doubling(doubled), tmp_path / f"net{ending}", multiple=1)
    size = re.search(r"(\d+) × (\d+) pixels", str(caught.value))
    assert size is not None
    assert shown(int(size[1]), int(size[2]))
    assert not list(tmp_path.iterdir())
    assert export(Doubling(doubled), tmp_path / f"net{ending}", multiple=1, size=(48, 64)) == pytest.approx(0, abs=1e-5)


def test_sizes_that_the_network_does_not_take_are_no_fault_of_the_file(tmp_path: Path) -> None:
    class Large(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch._check(x.shape[2] >= 64)
            torch._check(x.shape[3] >= 64)
            return x * 2

    assert export(Large(), tmp_path / "large.pt2", multiple=1) == 0


@pytest.mark.parametrize("size", [None, (32, 48)])
@pytest.mark.parametrize("ending", [".onnx", ".pt2"])
def test_every_failure_is_named_with_a_way_out(ending: str, size: tuple[int, int] | None, tmp_path: Path) -> None:
    class Raises(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("not this one")

    class Smaller(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :, 1:]

    class ByNumPy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.from_numpy(x.numpy() * 2)

    named = {Raises: "ValueError: not this one", Smaller: "Smaller made", ByNumPy: "numpy"}
    for network, words in named.items():
        with pytest.raises(ExportError, match=rf"{network.__name__} cannot be exported for .*{words}.*`bake`"):
            export(network(), tmp_path / f"net{ending}", multiple=1, size=size)
    assert not list(tmp_path.iterdir())


def test_precisions_that_the_runtime_lacks_are_named(tmp_path: Path) -> None:
    for network in (nn.Conv2d(3, 3, 1).double(), nn.Conv2d(3, 3, 1).bfloat16()):
        with pytest.raises(ExportError, match=r"make the network float32 first \(`\.float\(\)`\)"):
            export(network, tmp_path / "net.onnx", multiple=1)
        assert export(network, tmp_path / "net.PT2", multiple=1) == 0
        (tmp_path / "net.PT2").unlink()
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
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(OptionError, match="that is a folder"):
        export(hair, tmp_path / "folder.onnx", multiple=1)
    (tmp_path / "folder.onnx").rmdir()
    with pytest.raises(OptionError, match="a TwoInputs has no GIV"):
        export(TwoInputs(), tmp_path / "static.onnx", multiple=1, giv_input=True)

    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.mean()) > 0.5 else x * 2

    with pytest.raises(ExportError, match=r"Branches cannot be exported for images of any size: .*A fixed `size`"):
        export(Branches(), tmp_path / "static.onnx", multiple=1)
    assert not list(tmp_path.iterdir())
