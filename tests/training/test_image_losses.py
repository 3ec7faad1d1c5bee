"""Losses by name, against their definitions written out; functions of users; degradations weighed by uncertainty."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.torch
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from training_runs import Plain, Same, Samples, Task, broken_off, converted, recipe, run, seeded

from hairify.errors import OptionError, TrainingError
from hairify.models import airnet
from hairify.training import l1_loss, train
from hairify.training._image_losses import image_loss
from hairify.training._losses import is_own, loss_named
from hairify.training._objective import Objective

Array = npt.NDArray[np.float64]


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    """Two images of three, smooth with some noise, as photographs are."""
    coarse = torch.rand(2, 3, 6, 5, dtype=torch.float64)
    clean = nn.functional.interpolate(coarse, size=(48, 40), mode="bicubic").clamp(0, 1)
    return (clean + 0.1 * torch.randn_like(clean)).clamp(0, 1), clean


def loss_of(name: str, pair: tuple[Tensor, Tensor]) -> list[float]:
    return image_loss(name, of_each_image=True)(nn.Identity(), *pair).tolist()


def each(pair: tuple[Tensor, Tensor], function: Callable[[Array, Array], float]) -> list[float]:
    return [function(a.numpy(), b.numpy()) for a, b in zip(*pair, strict=True)]


def by_dft(a: Array, b: Array) -> float:
    """The transform as matrices of cosines and sines."""
    rows, columns = (np.outer(np.arange(n), np.arange(n)) * (-2j * np.pi / n) for n in a.shape[1:])
    found = np.exp(rows) @ (a - b) @ np.exp(columns)
    return float((np.abs(found.real).mean() + np.abs(found.imag).mean()) / 2)


def similarity(a: Array, b: Array, exponents: list[float]) -> float:
    """MS-SSIM of one channel, from Wang's formulas, with SciPy's windows."""

    def blurred(x: Array) -> Array:
        return gaussian_filter(x, 1.5, truncate=3.5)[5:-5, 5:-5]

    result = 1.0
    for scale, exponent in enumerate(exponents):
        m, n = blurred(a), blurred(b)
        v, w, c = blurred(a * a) - m * m, blurred(b * b) - n * n, blurred(a * b) - m * n
        term = (2 * c + 0.03**2) / (v + w + 0.03**2)
        if scale == len(exponents) - 1:
            term = term * (2 * m * n + 0.01**2) / (m * m + n * n + 0.01**2)
        result *= float(term.mean()) ** exponent
        a, b = (x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2).mean(axis=(1, 3)) for x in (a, b))
    return result


def by_similarity(a: Array, b: Array) -> float:
    """Of 48×40: 40, 20 and no more pixels hold a window of 11, so the first two exponents count."""
    exponents = [0.0448 / (0.0448 + 0.2856), 0.2856 / (0.0448 + 0.2856)]
    return 1 - float(np.mean([similarity(x, y, exponents) for x, y in zip(a, b, strict=True)]))


DEFINITIONS: dict[str, Callable[[Array, Array], float]] = {
    "l1": lambda a, b: float(np.abs(a - b).mean()),
    "charbonnier": lambda a, b: float(np.sqrt((a - b) ** 2 + 1e-6).mean()),
    "fft": lambda a, b: 0.1 * by_dft(a, b),
    "1*fft": by_dft,
    "ms-ssim": by_similarity,
    "l1+fft": lambda a, b: float(np.abs(a - b).mean()) + 0.1 * by_dft(a, b),
    "2*charbonnier + 0.5*ms-ssim": lambda a, b: (
        2 * float(np.sqrt((a - b) ** 2 + 1e-6).mean()) + 0.5 * by_similarity(a, b)
    ),
}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_losses_are_their_definitions(name: str, pair: tuple[Tensor, Tensor]) -> None:
    assert loss_of(name, pair) == pytest.approx(each(pair, DEFINITIONS[name]), rel=1e-9)


@pytest.mark.parametrize("name", ["l1", "charbonnier", "l1+fft", "ms-ssim"])
def test_of_equal_images_there_is_no_loss_and_a_gradient_of_numbers(name: str) -> None:
    clean = torch.rand(2, 3, 24, 24)
    restored = clean.clone().requires_grad_(True)
    losses = image_loss(name, of_each_image=True)(nn.Identity(), restored, clean)
    assert losses.tolist() == pytest.approx([1e-3 if name == "charbonnier" else 0.0] * 2, abs=1e-5)
    losses.sum().backward()
    assert restored.grad is not None
    assert bool(restored.grad.isfinite().all())


def test_ms_ssim_of_opposites_has_a_gradient_of_numbers(pair: tuple[Tensor, Tensor]) -> None:
    """Their structure has a negative similarity, of which there is no power."""
    _, clean = pair
    restored = (1 - clean).requires_grad_(True)
    image_loss("ms-ssim", of_each_image=True)(nn.Identity(), restored, clean).sum().backward()
    assert restored.grad is not None
    assert bool(restored.grad.isfinite().all())


def test_ms_ssim_of_128_pixels_has_four_scales() -> None:
    a, b = torch.rand(1, 1, 128, 128).double(), torch.rand(1, 1, 128, 128).double()
    exponents = np.array([0.0448, 0.2856, 0.3001, 0.2363])
    expected = 1 - similarity(a[0, 0].numpy(), b[0, 0].numpy(), (exponents / exponents.sum()).tolist())
    assert loss_of("ms-ssim", (a, b)) == pytest.approx([expected], rel=1e-9)


def test_ms_ssim_of_less_than_a_window_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"windows of 11 pixels, and the patches have 12×10.*`patch_size`"):
        loss_of("ms-ssim", (torch.rand(1, 3, 10, 12), torch.rand(1, 3, 10, 12)))


def test_half_precision_is_compared_in_full(pair: tuple[Tensor, Tensor]) -> None:
    restored, clean = pair[0].bfloat16(), pair[1].float()
    losses = image_loss("l1+fft", of_each_image=True)(nn.Identity(), restored, clean)
    assert losses.dtype == torch.float32
    assert losses.tolist() == pytest.approx(loss_of("l1+fft", (restored.float(), clean)), rel=1e-6)


def test_the_loss_of_the_settings_is_trained(tmp_path: Path) -> None:
    named = run(seeded(Same), tmp_path / "named", loss=None, steps=2).losses
    by_name = train(seeded(Same), Samples(), recipe(steps=2, loss="l1"), output=tmp_path / "l1").losses
    other = train(seeded(Same), Samples(), recipe(steps=2, loss="l1+fft"), output=tmp_path / "fft").losses
    assert named == by_name
    assert other != by_name


def test_two_losses_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="`loss` is given, and is 'l1' in `settings`"):
        train(seeded(Same), Samples(), recipe(loss="l1"), output=tmp_path, loss=l1_loss)


def test_hairify_s_own_losses() -> None:
    network = seeded(Same)
    own = [loss_named(name, network) for name in (None, "l1", "l1+fft")]
    assert [is_own(loss, network) for loss in own] == [True] * 3
    assert not is_own(loss_named("torch.nn:MSELoss", network), network)


# Functions of users


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> Any:
    module: Any = ModuleType("mine")
    monkeypatch.setitem(sys.modules, "mine", module)
    module.number = lambda restored, clean: (restored - clean).square().mean()
    module.each = lambda restored, clean: (restored - clean).square().mean(dim=(1, 2, 3))
    module.whole = lambda restored, clean: (restored - clean).square()
    module.text = lambda restored, clean: "0.5"
    module.three = lambda restored, clean: torch.zeros(3)
    module.constant = 0.5
    module.broken = lambda restored, clean: restored @ clean[:, :, :3]
    module.Halves = Halves
    return module


class Halves(nn.Module):
    """A loss with weights of its own, as those that compare features have; it is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, restored: Tensor, clean: Tensor) -> Tensor:
        return self.weight * (restored - clean).square().mean(dim=(1, 2, 3))


@pytest.mark.usefixtures("mine")
def test_functions_of_users(pair: tuple[Tensor, Tensor]) -> None:
    squares = each(pair, lambda a, b: float(((a - b) ** 2).mean()))
    mean = [sum(squares) / 2] * 2
    for name, expected in (
        ("each", squares),
        ("whole", squares),
        ("number", mean),
        ("Halves", [s / 2 for s in squares]),
    ):
        got = image_loss(f"mine:{name}", of_each_image=False)(nn.Identity(), *pair)
        assert got.tolist() == pytest.approx(expected), name


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine:text", r"'mine:text' returned a str for 2 images; needed is one number for each.*first dimension is 2"),
        ("mine:three", r"returned a tensor of shape \(3,\) for 2 images"),
        ("mine:broken", r"failed on images of shape \(2, 3, 16, 16\): RuntimeError: .*loss\(restored, clean\)"),
    ],
)
def test_what_a_function_does_wrong_is_said_before_the_first_step(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=message):
        train(seeded(Same), Samples(), recipe(loss=name), output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.at_all:loss", "cannot be had: ModuleNotFoundError"),
        ("mine:loss", "cannot be had: AttributeError"),
        ("mine:constant", "a float; needed is a function"),
    ],
)
def test_functions_that_there_are_not(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message):
        train(seeded(Same), Samples(), recipe(loss=name), output=tmp_path)


@pytest.mark.usefixtures("mine")
def test_one_number_for_all_cannot_be_weighed(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"one number for each \(`uncertainty` weighs each image's\)"):
        train(seeded(Same), Samples(), recipe(loss="mine:number", uncertainty=True), output=tmp_path)


# Degradations weighed by uncertainty


def test_losses_weighed_by_uncertainty() -> None:
    """loss · exp(-s) + s; the losses themselves stay as they are."""
    objective = Objective(nn.Identity(), l1_loss, 0.0, 2, uncertainty=True, sharded=False)
    assert objective.log_scales is not None
    degraded, clean, labels = torch.rand(3, 3, 8, 8), torch.rand(3, 3, 8, 8), torch.tensor([1, 0, 1])
    plain = (degraded - clean).abs().mean(dim=(1, 2, 3)).tolist()
    assert objective(degraded, clean, labels)[0].tolist() == pytest.approx(plain)
    with torch.no_grad():
        objective.log_scales.copy_(torch.tensor([-2.0, 0.5]))
    weighed, losses, _ = objective(degraded, clean, labels)
    s = [0.5, -2.0, 0.5]
    assert weighed.tolist() == pytest.approx([loss * math.exp(-x) + x for loss, x in zip(plain, s, strict=True)])
    assert losses.tolist() == pytest.approx(plain)


class Shifted(nn.Module):
    """Returns its input, and has something to train that moves nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + 0 * self.shift


def test_a_weight_tends_to_the_inverse_of_its_loss(tmp_path: Path) -> None:
    """exp(-s) · L + s is least at s = log L."""
    options: dict[str, Any] = {"learning_rate": 1e-2, "final_learning_rate": 1e-3, "ema_decay": 0.0, "epochs": 9}
    settings = recipe(steps=150, uncertainty=True, save_every=0, **options)
    train(Shifted(), Samples(), settings, output=tmp_path)
    kept = safetensors.torch.load_file(tmp_path / "checkpoints/00000150.safetensors")
    expected = [
        torch.stack([(s["degraded"] - s["clean"]).abs().mean() for s in map(Samples().__getitem__, range(i, 600, 2))])
        for i in range(2)
    ]
    for log_scale, losses in zip(kept["uncertainty.log_scales"].tolist(), expected, strict=True):
        assert math.exp(log_scale) == pytest.approx(float(losses.mean()), rel=0.05)


def test_a_run_with_uncertainty_is_resumed_exactly(tmp_path: Path) -> None:
    whole = run(seeded(Plain), tmp_path / "whole", uncertainty=True)
    broken_off(seeded(Plain), tmp_path / "parts", uncertainty=True)
    parts = run(seeded(Plain), tmp_path / "parts", uncertainty=True, resume=True)
    assert parts.losses == whole.losses
    first, second = (
        safetensors.torch.load_file(tmp_path / name / "checkpoints/00000006.safetensors") for name in ("whole", "parts")
    )
    assert first.keys() == second.keys() >= {"uncertainty.log_scales", "optimizer.log_scales.exp_avg"}
    assert bool(first["uncertainty.log_scales"].all())
    for name, value in first.items():
        assert torch.equal(second[name], value), name
    with pytest.raises(TrainingError, match="`uncertainty` was True, is False"):
        run(seeded(Plain), tmp_path / "parts", resume=True)


def test_with_the_second_loss_beside(tmp_path: Path) -> None:
    run(converted("low_rank"), tmp_path, steps=2, uncertainty=True, classify=0.1)
    kept = safetensors.torch.load_file(tmp_path / "checkpoints/00000002.safetensors")
    assert {"classifier.weight", "uncertainty.log_scales"} <= kept.keys()


def test_one_degradation_has_nothing_to_be_weighed_against(tmp_path: Path) -> None:
    samples = Samples()
    samples.tasks = (Task("a", "noise25"), Task("b", "noise25"))
    with pytest.raises(OptionError, match="`uncertainty` weighs the losses of several degradations"):
        run(seeded(Same), tmp_path, samples, uncertainty=True)


def test_a_loss_in_place_of_airnet_s_own_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As the recipes have it: its encoder, which learns by the contrast, is then reached by nothing."""
    for name in ("l1", None):
        caplog.clear()
        network = seeded(lambda: airnet(dim=8, blocks=2, batch_size=4))
        with caplog.at_level(logging.WARNING):
            train(network, Samples(), recipe(steps=1, loss=name), output=tmp_path / str(name))
        said = "\n".join(caplog.messages)
        assert ("in place of this network's own" in said) is (name is not None)
        assert ("got no gradient in a trial" in said) is (name is not None)
