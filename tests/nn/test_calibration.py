"""Calibration: DAC and HSNs are set to degraded images; what the network computes stays the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import NETWORKS, DnCNN, Pooled, UNet
from torch import Tensor, nn
from util import assert_close, assert_unchanged, perturb, snapshot, train

from hairify import HairError, HairModel, hairify, load, plan, save
from hairify.errors import CalibrationError

FORMS: dict[str, dict[str, Any]] = {
    "default": {},
    "published": {"preset": "published"},
    "user's DAC": {"dac": Pooled, "giv_dim": 12},
}
forms = pytest.mark.parametrize("form", FORMS)


def images(batch: int = 12, dtype: torch.dtype = torch.float64) -> Tensor:
    """Noisy and blurred ones, dark and bright ones, of any strength."""
    x = torch.rand(batch, 3, 6, 8, dtype=dtype)
    x = nn.functional.interpolate(x, size=(32, 48), mode="bilinear") * torch.rand(batch, 1, 1, 1, dtype=dtype)
    return x + torch.rand(batch, 1, 1, 1, dtype=dtype) * 0.2 * torch.randn_like(x)


def state(hair: HairModel) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in hair.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
@forms
@pytest.mark.parametrize("name", NETWORKS)
def test_the_function_stays_the_originals(name: str, form: str) -> None:
    model, x = NETWORKS[name]().double().eval(), images()
    hair = hairify(model, **FORMS[form])
    before = state(hair)
    assert not hair.is_calibrated
    assert hair.calibrate(x) is hair
    assert hair.is_calibrated
    moved = {key.partition(".")[0] for key, value in state(hair).items() if not torch.equal(value, before[key])}
    assert moved == {"standardization", "hsn"} | ({"dac"} if form == "default" else set())
    with torch.no_grad():
        for some in (x[:3], images(2)):
            assert_close(hair(some), model(some), 1e-10)


@forms
def test_givs_and_units_have_mean_0_and_variance_1(form: str) -> None:
    """More images than run at once; each unit of each block's net, and each number of the GIV."""
    torch.manual_seed(0)
    hair, x = hairify(train(DnCNN()).double().eval(), **FORMS[form]), images(20)
    hair.calibrate(x)
    givs = hair.giv(x)
    assert givs.shape == (20, hair.plan.giv_dim)
    assert givs.mean(0).abs().max() < 1e-8
    assert (givs.std(0) - 1).abs().max() < 1e-8
    for hsn in hair.hsn:
        outputs: list[Tensor] = []
        hooks = [m.register_forward_hook(lambda _, i, o, to=outputs: to.append(o)) for m in hsn.layers]
        hsn(givs)
        assert len(hooks) == len(outputs) == len(hair.plan.hsn_widths) + 1
        for output, deviation in zip(
            outputs, [1.0] * len(hair.plan.hsn_widths) + [2.0 if hsn.limit is None else 4.0], strict=True
        ):
            if output is outputs[-1] and not hsn.selects():
                continue
            assert output.mean(1).abs().max() < 1e-8
            assert (output.std(1) - deviation).abs().max() < 1e-8


def test_the_default_tells_images_apart_at_once_and_in_every_block() -> None:
    hair, x = hairify(NETWORKS["nafnet"]().double().eval()), images()
    hair.calibrate(x)
    for vectors in hair.selecting_vectors(x).values():
        assert (vectors.amax(0) - vectors.amin(0)).max() > 0.3


@pytest.mark.parametrize("training", [False, True])
@forms
def test_all_else_is_as_it_was(form: str, training: bool) -> None:
    hair = hairify(UNet().double(), **FORMS[form]).train(training)
    hair.base.up1.train(not training)
    modes, base, boxes = {n: m.training for n, m in hair.named_modules()}, snapshot(hair.base), snapshot(hair.boxes)
    x = images()
    given = x.clone()
    state = torch.get_rng_state()
    hair.calibrate(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert {n: m.training for n, m in hair.named_modules()} == modes
    assert_unchanged(hair.base, base, random=False)
    assert_unchanged(hair.boxes, boxes, random=False)
    assert torch.equal(x, given)
    assert all(p.grad is None and p.requires_grad for p in hair.parameters())


@forms
def test_copies_files_and_baked_networks_keep_it(form: str, tmp_path: Path) -> None:
    x = images(4)
    hair = perturb(hairify(DnCNN().double().eval(), **FORMS[form]).calibrate(images()))
    options = {"dac": Pooled} if FORMS[form].get("dac") else {}
    for added_only in (False, True):
        save(hair, tmp_path / "hair.safetensors", added_only=added_only)
        base = copy.deepcopy(DnCNN()).double().eval()
        if added_only:
            base.load_state_dict(hair.bake(x[:1]).state_dict())  # kept layers are those of the model
            assert len([*hair.base_parameters()]) < len([*base.parameters()])
        again = load(tmp_path / "hair.safetensors", base, **options)
        assert again.is_calibrated
        assert equal(state(again), state(hair))
    twin = copy.deepcopy(hair)
    assert twin.is_calibrated
    with torch.no_grad():
        assert torch.equal(twin(x), hair(x))
        assert torch.equal(again(x), hair(x))
        assert_close(hair.bake(x[:1])(x[:1]), hair(x[:1]), 1e-12)
        assert_close(hair.bake(giv=hair.giv(x[1:2]))(x[1:2]), hair(x[1:2]), 1e-12)


@forms
def test_the_same_images_give_the_same_state_in_every_process(form: str) -> None:
    hair, x = hairify(DnCNN().double().eval(), **FORMS[form]), images()
    twin = copy.deepcopy(hair)
    torch.manual_seed(1)
    hair.calibrate(x)
    torch.manual_seed(2)
    twin.calibrate(x)
    assert equal(state(hair), state(twin))


@forms
def test_calibrating_again_before_training_forgets_the_first(form: str) -> None:
    """The same images leave all as it is; of others GIVs get mean 0 and variance 1 as if there had been none before."""
    hair, x, y = hairify(DnCNN().double().eval(), **FORMS[form]), images(), images()
    once = copy.deepcopy(hair).calibrate(y)
    hair.calibrate(x)
    first = state(hair)
    hair.calibrate(x)
    for key, value in state(hair).items():
        assert torch.allclose(value, first[key], rtol=1e-8, atol=1e-8), key
    hair.calibrate(y)
    assert_close(hair.giv(y), once.giv(y), 1e-8)


def steps(hair: HairModel, count: int) -> None:
    optimizer = torch.optim.SGD(hair.parameters(), 0.1)
    for _ in range(count):
        optimizer.zero_grad()
        hair(images(2)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("init", ["preserve", "random"])
@pytest.mark.parametrize("form", ["default", "published"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_trained_network_is_refused_and_left_alone(form: str, count: int, init: Any) -> None:
    hair = hairify(UNet().double().train(), **FORMS[form], init=init)
    hair.check_calibration()
    steps(hair, count)
    before, modes = state(hair), [m.training for m in hair.modules()]
    with pytest.raises(CalibrationError, match="has been trained since its conversion"):
        hair.calibrate(images())
    with pytest.raises(CalibrationError, match="before the first step"):
        hair.check_calibration()
    assert equal(state(hair), before)
    assert [m.training for m in hair.modules()] == modes
    assert not hair.is_calibrated


BAD: dict[str, tuple[Callable[[], Tensor], str]] = {
    "none": (lambda: images()[:0], "2 images at least.*got 0"),
    "one": (lambda: images(1), "2 images at least.*got 1"),
    "nan": (lambda: images().index_fill(0, torch.tensor([3]), float("nan")), "not finite"),
    "infinite": (lambda: images().index_fill(0, torch.tensor([11]), float("inf")), "not finite"),
}


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("wrong", BAD)
@forms
def test_bad_images_are_named_and_change_nothing(form: str, wrong: str, training: bool) -> None:
    make, message = BAD[wrong]
    hair = hairify(UNet().double().train(training), **FORMS[form])
    before = state(hair)
    with pytest.raises(CalibrationError, match=message) as error:
        hair.calibrate(make())
    assert isinstance(error.value, HairError)
    assert equal(state(hair), before)
    assert {m.training for m in hair.modules()} == {training}
    assert not hair.is_calibrated


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
def test_in_low_precision(dtype: torch.dtype, rounding: float) -> None:
    torch.manual_seed(0)
    x = images(16, dtype=torch.float32).to(dtype)
    model = DnCNN().eval().to(dtype)
    hair = hairify(model).calibrate(x)
    givs = hair.giv(x).double()
    assert givs.mean(0).abs().max() < rounding
    assert (givs.std(0) - 1).abs().max() < rounding
    with torch.no_grad():
        assert_close(hair(x), model(x), 8 * torch.finfo(dtype).eps)


def test_images_that_are_all_alike() -> None:
    """The DAC of moments would have nothing to whiten, and is left alone; one with weights of its own may still see."""
    alike = images(2)[:1].expand(4, -1, -1, -1)
    hair = hairify(UNet().double().eval())
    before = state(hair)
    with pytest.raises(CalibrationError, match=r"same for all 4 images.*different photographs"):
        hair.calibrate(alike)
    assert equal(state(hair), before)
    hair = hairify(UNet().double().eval(), preset="published").calibrate(alike)
    assert all(value.isfinite().all() for value in state(hair).values())
    assert hair.giv(images(2)).isfinite().all()


def test_a_model_without_storage_can_be_printed() -> None:
    hair = hairify(UNet()).to("meta")
    assert not hair.is_calibrated
    assert "GIVStandardization" in str(hair)


def test_inputs_by_keyword() -> None:
    x, hair = images(), hairify(DnCNN().double().eval())
    other = copy.deepcopy(hair).calibrate(x=x)
    assert equal(state(hair.calibrate(x)), state(other))


def test_within_a_given_giv_calibration_still_reads_the_images() -> None:
    x, hair = images(), hairify(DnCNN().double().eval())
    other = copy.deepcopy(hair).calibrate(x)
    with hair.conditioned_on(torch.zeros(1, hair.plan.giv_dim).double()):
        hair.calibrate(x)
    assert equal(state(hair), state(other))


def test_a_pooled_vector_is_read_as_it_is() -> None:
    class Vectors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.look, self.change, self.out = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.out(self.change(self.look(x.mean((2, 3)))))[:, :, None, None]

    made = plan(Vectors(), split_at="look")
    assert made.feature.layout == "vector"
    assert made.make_dac().single
