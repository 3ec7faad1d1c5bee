"""Measuring whether a network uses its GIV."""

from __future__ import annotations

import math

import pytest
import torch
from networks import UNet, small_restormer
from torch import Tensor
from util import perturb

from hairify import HairModel, hairify
from hairify.conditioning import Conditioning, Fidelity, measure_conditioning
from hairify.errors import ConditioningError

NAMES = ["noise", "haze", "noise", "rain", "haze", "rain", "noise", "haze"]


def pictures() -> tuple[Tensor, Tensor]:
    clean = torch.rand(8, 3, 32, 48, dtype=torch.float64)
    strength = torch.tensor([{"noise": 0.3, "haze": 0.05, "rain": 0.1}[name] for name in NAMES], dtype=torch.float64)
    return (clean + strength[:, None, None, None] * torch.randn_like(clean)).clamp(0, 1), clean


@pytest.fixture(scope="module")
def hair() -> HairModel:
    torch.manual_seed(0)
    return perturb(hairify(UNet().double()), 1.0)


def psnr(restored: Tensor, clean: Tensor) -> float:
    return float(-10 * (restored.clamp(0, 1) - clean).square().mean().log10())


@torch.no_grad()
def test_it_is_what_a_loop_over_images_finds(hair: HairModel) -> None:
    degraded, clean = pictures()
    found = measure_conditioning(hair, degraded, clean, NAMES, batch_size=3)
    hair.eval()
    givs = torch.cat([hair.giv(one[None]) for one in degraded])
    of = {name: givs[[n == name for n in NAMES]].mean(0) for name in NAMES}
    order = list(dict.fromkeys(NAMES))
    turn = dict.fromkeys(order, 0)
    scores: dict[str, dict[str, list[float]]] = {kind: {n: [] for n in order} for kind in ("own", "mean", "wrong")}
    nearest = 0
    for i, name in enumerate(NAMES):
        other = order[(order.index(name) + 1 + turn[name] % 2) % 3]
        turn[name] += 1
        assert other != name
        for kind, giv in (("own", givs[i]), ("mean", givs.mean(0)), ("wrong", of[other])):
            with hair.conditioned_on(giv[None]):
                scores[kind][name].append(psnr(hair(degraded[i : i + 1])[0], clean[i]))
        without = {n: givs[[m == n and j != i for j, m in enumerate(NAMES)]].mean(0) for n in order}
        nearest += min(order, key=lambda n: float((givs[i] - without[n]).norm())) == name
    for kind, by_name in scores.items():
        for name, values in by_name.items():
            assert getattr(found, kind)[name].psnr == pytest.approx(sum(values) / len(values), abs=1e-9)
    assert found.recognised == pytest.approx(nearest / len(NAMES))
    vectors = hair.selecting_vectors(degraded)
    means = {n: {b: v[[m == n for m in NAMES]].mean(0) for b, v in vectors.items()} for n in order}
    for level in hair.plan.levels:
        apart = [
            float((means[a][b] - means[c][b]).abs().max()) for a in order for c in order for b in level.blocks if a != c
        ]
        assert found.spread[level.name] == pytest.approx(max(apart), abs=1e-12)
    assert found.cost_of_wrong != 0
    assert found.images == 8


def test_equal_rows_use_nothing_and_get_advice() -> None:
    degraded, clean = pictures()
    hair = hairify(small_restormer().double().train())
    found = measure_conditioning(hair, degraded, clean, NAMES)
    assert all(module.training for module in hair.modules())
    assert found.gain == pytest.approx(0, abs=1e-9)
    assert found.cost_of_wrong == pytest.approx(0, abs=1e-9)
    assert not found.is_used
    assert "calibrating it" in (found.advice(hair) or "")
    hair.calibrate(degraded)
    assert "calibrat" not in (found.advice(hair) or "")
    assert "not used" in str(found)
    plain = found.plain()
    assert plain["used"] is False
    assert set(plain["own"]) == set(NAMES)


def test_a_single_image_of_a_degradation_has_no_centroid(hair: HairModel) -> None:
    degraded, clean = pictures()
    found = measure_conditioning(hair, degraded[:4], clean[:4], ["a", "a", "a", "b"])
    assert found.recognised != found.recognised
    assert found.plain()["recognised"] is None


def found_with(own: float, wrong: float, spread: float = 0.5) -> Conditioning:
    better, worse = {"a": Fidelity(0.1, own)}, {"a": Fidelity(0.2, wrong)}
    return Conditioning(better, worse, worse, {"level": spread}, 1.0, 4)


def test_who_uses_its_giv_needs_no_advice(hair: HairModel) -> None:
    found = found_with(25.0, 24.0)
    assert found.gain == found.cost_of_wrong == 1.0
    assert found.is_used
    assert found.advice(hair) is None


@pytest.mark.parametrize("preset", ["default", "published"])
def test_what_is_advised_can_be_done(preset: str) -> None:
    hair = hairify(small_restormer(), preset=preset).calibrate(torch.rand(4, 3, 32, 32))
    advice = found_with(25.0, 24.95).advice(hair) or ""
    assert ("`rank`" in advice) == (preset == "default")
    assert ("`box='low_rank'`" in advice) == ("`dac='moments'`" in advice) == (preset == "published")
    assert "hair_rate" in (found_with(25.0, 24.95, spread=0.01).advice(hair) or "")


def test_no_verdict_on_what_is_not_finite(hair: HairModel) -> None:
    advice = found_with(math.nan, math.nan).advice(hair)
    assert advice is not None
    assert "not all finite" in advice


def test_a_perfect_network_is_measured_in_finite_numbers() -> None:
    degraded, _ = pictures()
    hair = hairify(small_restormer().double().eval())
    with torch.no_grad():
        target = hair(degraded).clamp(0, 1)
    found = measure_conditioning(hair, degraded, target, NAMES)
    assert found.own[NAMES[0]].psnr == pytest.approx(100)
    assert found.gain == found.cost_of_wrong == 0


def test_a_giv_given_outside_does_not_count(hair: HairModel) -> None:
    degraded, clean = pictures()
    expected = measure_conditioning(hair, degraded, clean, NAMES)
    with hair.conditioned_on(hair.giv(degraded).flip(0)):
        assert measure_conditioning(hair, degraded, clean, NAMES) == expected


def test_what_does_not_fit_is_named(hair: HairModel) -> None:
    degraded, clean = pictures()
    for arguments, message in (
        ((UNet(), degraded, clean, NAMES), "only a HairModel"),
        ((hair, degraded, clean, ["noise"] * 8), "two degradations"),
        ((hair, degraded, clean, NAMES[:3]), "3 degradations are named"),
        ((hair, degraded, clean[:3], NAMES), "a name for each image"),
        ((hair, degraded.numpy(), clean, NAMES), "`degraded` is a ndarray"),
    ):
        with pytest.raises(ConditioningError, match=message):
            measure_conditioning(*arguments)
    with pytest.raises(ConditioningError, match="`batch_size` is 0; accepted"):
        measure_conditioning(hair, degraded, clean, NAMES, batch_size=0)
