"""On a GPU a converted network computes what it computes on the CPU, is planned alike, and keeps the laws."""

from __future__ import annotations

import copy
import functools

import gpu
import laws
import pytest
import torch
from gpu import DEVICE
from laws import GRADIENTS, Specimen
from torch import Tensor, nn
from util import START, assert_close, perturb, residual, rms, scaled

from hairify import HairModel, hairify, plan

pytestmark = gpu.needed

every_network = pytest.mark.parametrize("name", gpu.BUILDERS)


def found(hair: HairModel, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Output and all gradients, on the CPU in float64; in training mode but for BatchNorm, so that images are apart."""
    hair.zero_grad()
    output = hair(x)
    output.square().mean().backward()
    return output.detach().cpu().double(), {
        name: p.grad.cpu().double() for name, p in hair.named_parameters() if p.grad is not None
    }


@functools.cache
def on_cpu(name: str, dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
    hair = copy.deepcopy(gpu.converted(name))
    return found(hair.to(dtype), gpu.images(dtype=dtype))


def error(got: Tensor, expected: Tensor, scale: Tensor | None = None) -> float:
    return float((got - expected).abs().max() / (expected if scale is None else scale).abs().max())


def errors(
    got: tuple[Tensor, dict[str, Tensor]], expected: tuple[Tensor, dict[str, Tensor]]
) -> tuple[float, tuple[float, str]]:
    """Of the output, and the largest of a gradient, relative to the largest of all gradients."""
    assert got[1].keys() == expected[1].keys()
    largest = torch.stack([g.abs().max() for g in expected[1].values()]).max()
    return error(got[0], expected[0]), max((error(got[1][n], g, largest), n) for n, g in expected[1].items())


@every_network
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_outputs_and_gradients_are_those_of_the_cpu(name: str, dtype: torch.dtype) -> None:
    exact = on_cpu(name, torch.float64)
    hair = copy.deepcopy(gpu.converted(name)).to(DEVICE, dtype)
    by_output, (by_gradient, worst) = errors(found(hair, gpu.images(dtype=dtype).to(DEVICE)), exact)
    if dtype == torch.float64:
        allowed = START[dtype], GRADIENTS[dtype]
    else:  # some networks magnify rounding, whoever computes them: a few times what the CPU's rounding makes
        rounding, (of_gradients, _) = errors(on_cpu(name, dtype), exact)
        assert rounding < 1e-4
        assert of_gradients < 1e-3
        allowed = max(START[dtype], 8 * rounding), max(START[dtype], 8 * of_gradients)
    assert by_output <= allowed[0]
    assert by_gradient <= allowed[1], worst


@pytest.mark.parametrize("name", ["unet", "dncnn", "nafnet", "window", "transposed", "all kinds"])
def test_all_laws_hold(name: str) -> None:
    """The start, the gradients at the start, images apart, baking, and all parameters trained; planned on the GPU."""

    def some(batch: int, size: tuple[int, int]) -> Tensor:
        return laws.images()(batch, size).to(DEVICE)

    specimen = Specimen(lambda: gpu.BUILDERS[name]().to(DEVICE), some, sizes=((48, 64), (64, 32)))
    findings = laws.examine(specimen)
    assert {"warm start", "batch = singles", "bake"} <= findings.errors.keys()


@pytest.mark.parametrize(
    ("name", "given"),
    [(name, False) for name in gpu.BUILDERS if name != "res-hair"] + [("all kinds", True), ("window", True)],
)
def test_the_plan_is_that_of_the_cpu(name: str, given: bool) -> None:
    """Also where the user lets convolutions and products round to TF32."""
    model, x = gpu.BUILDERS[name](), gpu.images(2, (48, 64), torch.float32)
    expected = plan(model, example_inputs=x if given else None)
    with gpu.tf32():
        got = plan(model.to(DEVICE), example_inputs=x.to(DEVICE) if given else None)
    assert got.to_json() == expected.to_json()
    hair = hairify(model, plan=got)
    assert {t.device.type for t in (*hair.parameters(), *hair.buffers())} == {DEVICE}


PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16, "TF32": None}
_TF32 = 2**-10  # which not all kernels use that may: for few channels cuDNN often does not, where products do


@pytest.mark.parametrize("name", ["unet", "nafnet", "restormer", "window", "all kinds"])
def test_in_low_precision_it_errs_as_the_original_does(name: str) -> None:
    model, x = scaled(gpu.BUILDERS[name]).to(DEVICE), gpu.images(dtype=torch.float32).to(DEVICE)
    hair, exact = hairify(model), residual(copy.deepcopy(model).double(), x)
    trained = perturb(copy.deepcopy(hair)).train()
    for precision, dtype in PRECISIONS.items():
        lowered = gpu.tf32() if dtype is None else torch.autocast(DEVICE, dtype)
        trained.zero_grad()
        with lowered:
            own, ours = residual(model, x) - exact, residual(hair, x) - exact
            assert hair(x).dtype == model(x).dtype
            trained(x).float().square().mean().backward()
        assert rms(own) > 1e-5 * rms(exact) or dtype is None, "autocast changes nothing"
        assert rms(ours) <= 2 * rms(own) + (4 * _TF32 * rms(exact) if dtype is None else 0), precision
        for parameter in trained.parameters():
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all()
            assert parameter.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_cast_to_half_precision(dtype: torch.dtype) -> None:
    hair = copy.deepcopy(gpu.converted("nafnet")).to(DEVICE)
    x = gpu.images().to(DEVICE)
    expected = hair(x).detach()
    low = (copy.deepcopy(hair).half() if dtype == torch.float16 else copy.deepcopy(hair).bfloat16())(x.to(dtype))
    static = copy.deepcopy(hair.bake(x[:1])).to(dtype)(x[:1].to(dtype))
    assert low.dtype == dtype
    own = rms(static.double() - expected[:1])
    assert own < 0.1 * rms(expected)
    assert rms(low[:1].double() - expected[:1]) <= 2 * own


def test_training_in_float16_with_scaled_gradients() -> None:
    hair = perturb(hairify(scaled(gpu.BUILDERS["all kinds"]).to(DEVICE))).train()
    scaler = torch.amp.GradScaler(DEVICE, init_scale=256.0)
    optimizer, before = torch.optim.AdamW(hair.parameters(), 1e-3), copy.deepcopy(hair.state_dict())
    x = gpu.images(dtype=torch.float32).to(DEVICE)
    for _ in range(2):
        optimizer.zero_grad()
        with torch.autocast(DEVICE, torch.float16):
            value = hair(x).float().square().mean()
        scaler.scale(value).backward()
        scaler.unscale_(optimizer)
        assert nn.utils.clip_grad_norm_(hair.parameters(), 1.0).isfinite()
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 256.0, "a step was skipped"
    state = hair.state_dict()
    assert all(state[name].isfinite().all() for name in state)
    assert not any(torch.equal(state[name], before[name]) for name, _ in hair.named_parameters())


@pytest.mark.parametrize("name", ["all kinds", "nafnet"])
def test_channels_last(name: str) -> None:
    expected = on_cpu(name, torch.float64)
    hair = copy.deepcopy(gpu.converted(name)).to(DEVICE, memory_format=torch.channels_last)
    x = gpu.images().to(DEVICE, memory_format=torch.channels_last)
    by_output, (by_gradient, worst) = errors(found(hair, x), expected)
    assert by_output <= START[torch.float64]
    assert by_gradient <= GRADIENTS[torch.float64], worst
    assert_close(hair.bake(x[:1])(x[:1]).cpu(), expected[0][:1], START[torch.float64])
