"""The DAC of moments, the published DAC on features of any size, and DACs of the user's own."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from hairify import HairError, hairify, plan
from hairify.errors import CalibrationError, DACError
from hairify.nn import DegradationAwareClassifier, MomentsDAC
from hairify.nn._dac import make_dac, measure_dac

SIZES = [(1, 1), (1, 2), (3, 1), (2, 2), (5, 7), (16, 12)]


def moments(feature: Tensor) -> Tensor:
    """The oracle, number by number: logs of the root mean square difference of neighbours, and of the values."""
    rows = []
    for image in feature.double().tolist():
        details, strengths = [], []
        for channel in image:
            height, width = len(channel), len(channel[0])
            differences = [
                channel[i][j] - channel[i + down][j + right]
                for down, right in ((1, 0), (0, 1))
                for i in range(height - down)
                for j in range(width - right)
            ]
            mean = sum(d * d for d in differences) / max(len(differences), 1)
            details.append(math.log(mean + 1e-8) / 2)
            strengths.append(math.log(sum(v * v for line in channel for v in line) / height / width + 1e-8) / 2)
        rows.append(details + strengths)
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("size", SIZES)
def test_moments(size: tuple[int, int]) -> None:
    feature = 3 + torch.randn(3, 5, *size, dtype=torch.float64)
    assert (MomentsDAC(5, 7).double().moments(feature) - moments(feature)).abs().max() < 1e-12


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("giv_dim", [1, 5, 9])
@pytest.mark.parametrize("size", SIZES)
def test_moments_of_any_size(size: tuple[int, int], giv_dim: int, single: bool) -> None:
    """Finite, and so are gradients; they reach F_g wherever there is something to read; images do not meet."""
    dac = MomentsDAC(5, giv_dim, single=single).double()
    dac.calibrate(torch.randn(6, len(dac.mean)).double() - 2)
    feature = torch.randn(3, 5, *size, dtype=torch.float64, requires_grad=True)
    giv = dac(feature)
    assert giv.shape == (3, giv_dim)
    assert giv.isfinite().all()
    giv.square().sum().backward()
    assert feature.grad.isfinite().all()
    assert feature.grad.any() == (single or size != (1, 1) or giv_dim > 3)  # fewer numbers hold no strength
    assert (giv - torch.cat([dac(image[None]) for image in feature])).abs().max() < 1e-12
    flat = torch.ones_like(feature).requires_grad_()  # without any detail
    dac(flat).sum().backward()
    assert dac(flat).isfinite().all()
    assert flat.grad.isfinite().all()


def test_twice_as_strong_a_feature_is_seen_as_such() -> None:
    """Moments shift by log 2, whatever the image, and so do all GIVs alike: what tells images apart stays."""
    strengths = torch.linspace(0.1, 1, 8, dtype=torch.float64)[:, None, None, None]
    dac, feature = MomentsDAC(5, 4).double(), strengths * torch.randn(8, 5, 9, 12, dtype=torch.float64)
    dac.calibrate(dac.moments(feature))
    shift = dac.moments(2 * feature) - dac.moments(feature)
    assert (shift - math.log(2)).abs().max() < 1e-5  # what keeps logarithms finite is 1e-8 of the squares
    once, twice = dac(feature), dac(2 * feature)
    assert ((twice - twice[:1]) - (once - once[:1])).abs().max() < 1e-4
    assert (twice - once).abs().max() > 0.1


def test_channels_that_do_not_vary_are_left_out() -> None:
    """Dead in calibration, awake afterwards: what they then show must not drown the rest."""
    feature = torch.linspace(0.1, 1, 8)[:, None, None, None] * torch.randn(8, 5, 9, 12)
    feature[:, 1] = 0.3  # nothing in it
    feature[:, 3] = 1e-3 * torch.randn(9, 12) * torch.linspace(1, 1.01, 8)[:, None, None]  # next to nothing
    dac = MomentsDAC(5, 5)
    dac.calibrate(dac.moments(feature))
    assert all(t.isfinite().all() for t in (*dac.buffers(), *copy.deepcopy(dac).half().buffers()))
    awake = feature.clone()
    awake[:, 1] = torch.randn(8, 9, 12)
    assert torch.equal(dac(awake), dac(feature))
    awake[:, 3] = torch.randn(8, 9, 12)
    assert not torch.equal(dac(awake), dac(feature))
    assert dac(awake).abs().max() < 30


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (9, 12)])
def test_whatever_the_image_shows_its_giv_is_not_far_from_the_others(size: tuple[int, int]) -> None:
    feature = torch.linspace(0.5, 1, 8)[:, None, None, None] * torch.randn(8, 5, 9, 12)
    dac = MomentsDAC(5, 5)
    dac.calibrate(dac.moments(feature))
    for scale in (0.0, 1e-9, 1e9):
        assert dac(scale * torch.randn(4, 5, *size)).abs().max() < 30


@pytest.mark.parametrize("scale", [1.0, 255.0, 1e6])
@pytest.mark.parametrize("single", [False, True])
def test_before_calibration_features_of_any_scale_are_told_apart(scale: float, single: bool) -> None:
    """Nothing is known yet of what is far: features of images in [0, 255] were, and all had the same GIV."""
    feature = scale * torch.randn(1, 5, 1 if single else 6, 1 if single else 8).expand(2, -1, -1, -1)
    one, other = MomentsDAC(5, 8, single=single)(feature * torch.tensor([1.0, 2.0]).view(2, 1, 1, 1))
    assert (one - other).abs().max() > 1e-3


def test_calibration_needs_moments_that_vary() -> None:
    dac, alike = MomentsDAC(5, 4), torch.randn(1, 10).expand(6, -1)
    before = {name: value.clone() for name, value in dac.state_dict().items()}
    with pytest.raises(CalibrationError, match=r"same for all 6 images.*different photographs"):
        dac.calibrate(alike + 1e-7 * torch.randn(6, 10))
    assert all(torch.equal(value, before[name]) for name, value in dac.state_dict().items())


def test_calibration_does_not_hang_on_rounding() -> None:
    """Of as many images as numbers, one direction is rounding alone."""
    found, new = torch.randn(16, 48).double(), torch.randn(9, 48).double()
    givs = []
    for rounding in (0.0, 1e-7):
        dac = MomentsDAC(24, 16).double()
        dac.calibrate(found * (1 + rounding * torch.randn_like(found)))
        givs.append(dac.from_moments(new))
    assert (givs[0] - givs[1]).abs().max() < 1e-4


@pytest.mark.parametrize("enabled", [False, True])
def test_autocast_does_not_coarsen_givs(enabled: bool) -> None:
    dac, feature = MomentsDAC(5, 4), torch.randn(3, 5, 8, 8)
    with torch.autocast("cpu", enabled=enabled, dtype=torch.bfloat16):
        assert torch.equal(dac(feature), dac.from_moments(dac.moments(feature)).float())
        assert dac(feature).dtype == torch.float32


def test_of_single_positions_moments_are_the_channels() -> None:
    dac, feature = MomentsDAC(5, 4, single=True).double(), torch.randn(3, 5, 1, 1, dtype=torch.float64)
    assert torch.equal(dac.moments(feature), feature[:, :, 0, 0])
    assert (dac(feature)[0] - dac(feature)[1]).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_moments_are_taken_in_single_precision_at_least(dtype: torch.dtype) -> None:
    dac, feature = MomentsDAC(5, 4), torch.randn(3, 5, 64, 64).to(dtype)
    found = dac.moments(feature)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert (found - moments(feature)).abs().max() < 1e-5
    assert dac(feature).dtype == found.dtype


@pytest.mark.parametrize("count", [2, 3, 40])
def test_calibrated_projections(count: int) -> None:
    """Mean 0, whatever the scales and correlations of the moments; of enough images, all about as large."""
    dac = MomentsDAC(6, 6, single=True).double()
    latent = torch.randn(count, 3).double()
    found = torch.cat([latent, latent.sum(1, keepdim=True), 1e3 * latent[:, :1], torch.randn(count, 1).double()], 1) - 9
    found += 0.1 * torch.randn_like(found)
    assert (found.T.corrcoef().abs() > 0.5).sum() > 6  # of the diagonal there are 6
    dac.calibrate(found)
    giv = dac.from_moments(found)
    assert giv.isfinite().all()
    assert giv.mean(0).abs().max() < 1e-10
    if count == 40:
        covariance = giv.T.cov()
        assert 0.05 < covariance.diagonal().min() <= covariance.diagonal().max() < 1.2
        assert torch.linalg.eigvalsh(covariance).max() < 1.2  # no direction outweighs the others


@pytest.mark.parametrize("giv_dim", [3, 4, 8, 24])
def test_strengths_are_a_few_numbers_half_as_large(giv_dim: int) -> None:
    dac = MomentsDAC(12, giv_dim).double()
    details, strengths = torch.randn(2, 400, 12, dtype=torch.float64)
    dac.calibrate(torch.cat([details, 7 + 3 * strengths], 1))
    level = torch.cat([torch.zeros_like(details), 7 + 3 * strengths], 1)
    from_strengths = dac.from_moments(level) - dac.from_moments(level).mean(0)
    sizes = torch.linalg.svdvals(from_strengths) / 20  # deviations along their principal directions
    few = min(4, giv_dim // 4)
    assert (sizes[:few] - 0.5 / 1.1**0.5).abs().max() < 0.1 if few else sizes.max() < 1e-9
    assert few == giv_dim or sizes[few:].max() < 1e-9


def test_where_no_detail_varies_strengths_are_all_there_is() -> None:
    dac, strengths = MomentsDAC(5, 3).double(), torch.randn(40, 5, dtype=torch.float64)
    moments = torch.cat([torch.full_like(strengths, -9.0), strengths], 1)
    dac.calibrate(moments)
    assert (dac.from_moments(moments).std(0) > 0.1).all()


def test_calibration_is_always_the_same_and_draws_nothing() -> None:
    found, feature = torch.randn(12, 10), torch.randn(2, 5, 8, 8)
    first, second = MomentsDAC(5, 9), MomentsDAC(5, 9)
    assert torch.equal(first(feature), second(feature))
    fresh = first(feature)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first.calibrate(found)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    second.calibrate(found)
    assert torch.equal(first(feature), second(feature))
    assert (first(feature) - fresh).abs().max() > 0.1
    assert not [*first.parameters()]
    assert {*first.state_dict()} == {"mean", "scale", "limit", "whitening"}


def published(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    """The oracle: the published network as the reference describes it, in functional form."""

    def conv(name: str, x: Tensor, **settings: Any) -> Tensor:
        return F.conv2d(x, parameters[f"{name}.weight"], parameters[f"{name}.bias"], **settings)

    def norm(name: str, x: Tensor, groups: int = 24) -> Tensor:
        return F.group_norm(x, groups, parameters[f"{name}.weight"], parameters[f"{name}.bias"], eps=1e-6)

    def residual(name: str, x: Tensor) -> Tensor:
        h = conv(f"{name}.conv1", F.silu(norm(f"{name}.norm1", x)), padding=1)
        return x + conv(f"{name}.conv2", F.silu(norm(f"{name}.norm2", h)), padding=1)

    def attention(name: str, x: Tensor) -> Tensor:
        h = norm(f"{name}.norm", x)
        q, k, v = (conv(f"{name}.{part}", h).flatten(2) for part in "qkv")
        scores = torch.einsum("bci,bcj->bij", q, k) / x.shape[1] ** 0.5
        attended = torch.einsum("bij,bcj->bci", scores.softmax(2), v)
        return x + conv(f"{name}.proj_out", attended.reshape(x.shape))

    x = conv("conv_in", x, padding=1)
    for stage in range(3):
        for block in range(3):
            x = residual(f"down.{stage}.block.{block}", x)
        if stage < 2:
            x = conv(f"down.{stage}.downsample.conv", F.pad(x, (0, 1, 0, 1)), stride=2)
    x = residual("mid.block_2", attention("mid.attn_1", residual("mid.block_1", x)))
    return conv("conv_out", F.silu(norm("norm_out", x)), padding=1).mean((2, 3))


@pytest.mark.parametrize("size", [(16, 16), (17, 22), (8, 11)])
def test_computes_the_published_network(size: tuple[int, int]) -> None:
    dac = DegradationAwareClassifier(6, 9, width=48).double()
    for parameter in dac.parameters():
        nn.init.normal_(parameter, std=0.3)
    feature = torch.randn(2, 6, *size, dtype=torch.float64)
    expected = published(dac.state_dict(), feature)
    assert (dac(feature) - expected).abs().max() <= 1e-11 * expected.abs().max()


def test_published_size() -> None:
    dac = DegradationAwareClassifier(384, 96, width=72)
    assert sum(p.numel() for p in dac.parameters()) == 1_457_160
    assert {(m.num_groups, m.eps) for m in dac.modules() if isinstance(m, nn.GroupNorm)} == {(24, 1e-6)}


def test_default_width() -> None:
    dac = DegradationAwareClassifier(5, 64)
    assert dac.conv_in.weight.shape == (40, 5, 3, 3)
    assert {m.num_groups for m in dac.modules() if isinstance(m, nn.GroupNorm)} == {20}
    assert dac(torch.randn(3, 5, 12, 8)).shape == (3, 64)


@given(width=st.integers(1, 200))
def test_groups_are_the_largest_divisor_up_to_24(width: int) -> None:
    with torch.device("meta"):
        norms = [m for m in DegradationAwareClassifier(3, 4, width).modules() if isinstance(m, nn.GroupNorm)]
    assert len(norms) == 2 * (3 * 3 + 2) + 2
    for norm in norms:
        assert norm.num_channels == width
        assert width % norm.num_groups == 0
        assert all(width % more for more in range(norm.num_groups + 1, 25))
        assert norm.num_groups <= 24


@pytest.mark.parametrize("h", range(1, 10))
@pytest.mark.parametrize("w", range(1, 10))
def test_any_size(h: int, w: int) -> None:
    dac = DegradationAwareClassifier(5, 7)
    feature = torch.randn(1, 5, h, w, requires_grad=True)
    giv = dac(feature)
    assert giv.shape == (1, 7)
    assert giv.isfinite().all()
    giv.square().sum().backward()
    assert feature.grad.isfinite().all()
    assert feature.grad.abs().max() > 0
    for name, parameter in dac.named_parameters():
        assert parameter.grad.isfinite().all(), name
        # GroupNorm takes the mean away, and with two channels a group that is all that a bias before it can move.
        assert name.endswith("bias") or parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("h", range(1, 12))
@pytest.mark.parametrize("w", range(1, 12))
def test_a_downsampling_halves_and_never_returns_less_than_two_by_two(h: int, w: int) -> None:
    downsample = DegradationAwareClassifier(5, 7, width=6).double().down[0].downsample
    x = torch.randn(2, 6, h, w, dtype=torch.float64)
    size = max(h // 2, 2), max(w // 2, 2)
    expected = downsample.conv(F.pad(x, (0, 4, 0, 4)))[:, :, : size[0], : size[1]]
    result = downsample(x)
    assert result.shape == (2, 6, *size)
    assert (result - expected).abs().max() <= 1e-14
    if min(h, w) >= 4:
        as_published = downsample.conv(F.pad(x, (0, 1, 0, 1)))
        assert as_published.shape == result.shape
        assert (result - as_published).abs().max() <= 1e-14


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (9, 8)])
def test_images_of_a_batch_are_independent(size: tuple[int, int], training: bool) -> None:
    dac = DegradationAwareClassifier(5, 7).double().train(training)
    feature = torch.randn(3, 5, *size, dtype=torch.float64)
    together, alone = dac(feature), torch.cat([dac(image[None]) for image in feature])
    assert (together - alone).abs().max() <= 1e-12 * alone.abs().max()
    assert (together[0] - together[1]).abs().max() > 1e-3


class Mean(nn.Module):
    """A user's DAC, which behaves differently in training."""

    def __init__(self, in_channels: int, giv_dim: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm2d(in_channels), nn.Linear(in_channels, giv_dim)

    def forward(self, feature: Tensor) -> Tensor:
        return F.dropout(self.linear(self.norm(feature).mean((2, 3))), training=self.training)


def test_sources() -> None:
    asked: list[tuple[int, int]] = []

    def factory(in_channels: int, giv_dim: int) -> nn.Module:
        asked.append((in_channels, giv_dim))
        return Mean(in_channels, giv_dim)

    default = make_dac("published", (5, 4, 6), 12)
    assert isinstance(default, DegradationAwareClassifier)
    assert (default.in_channels, default.giv_dim, default.width) == (5, 12, 40)
    module = Mean(5, 3)
    assert make_dac(module, (5, 4, 6), 12) is module
    for source in (factory, Mean):
        made = make_dac(source, (5, 4, 6), 12)
        assert isinstance(made, Mean)
        assert measure_dac(made, (5, 4, 6)) == 12
    assert asked == [(5, 12)]
    assert measure_dac(default, (5, 4, 6)) == 12
    assert measure_dac(module, (5, 4, 6)) == 3


@pytest.mark.parametrize(
    "source", ["resnet", 3, lambda in_channels, giv_dim: "resnet", lambda in_channels, giv_dim: None]
)
def test_what_is_no_dac(source: Any) -> None:
    with pytest.raises(DACError, match=r"\(B, 5, h, w\) to \(B, D\), and a factory") as error:
        make_dac(source, (5, 4, 6), 12)
    assert repr(source) in str(error.value)


class Returns(nn.Module):
    def __init__(self, result: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.result = result

    def forward(self, feature: Tensor) -> Any:
        return self.result(feature)


WRONG: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "map": (lambda f: f, "it returned (2, 5, 4, 6)"),
    "one vector": (lambda f: f.mean((0, 2, 3)), "it returned (5,)"),
    "one row": (lambda f: f.mean((0, 2, 3))[None], "it returned (1, 5)"),
    "tuple": (lambda f: (f.mean((2, 3)),), "it returned tuple"),
    "nothing": (lambda f: None, "it returned NoneType"),
    "another width": (nn.Conv2d(4, 2, 1), "it raised RuntimeError"),
}


@pytest.mark.parametrize(("result", "message"), WRONG.values(), ids=WRONG)
def test_wrong_results(result: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(
        DACError, match=r"\(Returns\) must return \(2, D\) for a feature of shape \(2, 5, 4, 6\)"
    ) as error:
        measure_dac(Returns(result), (5, 4, 6))
    assert message in str(error.value)


def test_a_default_dac_for_other_channels_is_refused() -> None:
    with pytest.raises(DACError, match="expected input"):
        measure_dac(DegradationAwareClassifier(4, 8), (5, 4, 6))
    with pytest.raises(DACError, match=r"\(MomentsDAC\) must return"):
        measure_dac(MomentsDAC(4, 8), (5, 4, 6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_measuring_leaves_no_mark(dtype: torch.dtype) -> None:
    dac = Mean(5, 3).to(dtype).train()
    before, state = {k: v.clone() for k, v in dac.state_dict().items()}, torch.random.get_rng_state()
    assert measure_dac(dac, (5, 1, 1)) == 3
    assert dac.training
    assert dac.norm.training
    assert all(torch.equal(v, before[k]) for k, v in dac.state_dict().items())
    assert all(p.grad is None for p in dac.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 3, 3, padding=1))


def test_in_a_converted_network() -> None:
    x = torch.randn(2, 3, 16, 24)
    for dac, giv_dim in ((Mean(5, 11), 64), (Mean, 9)):
        hair = hairify(network(), split_at="0", targets="layers", dac=dac, giv_dim=giv_dim, example_inputs=x)
        assert isinstance(hair.dac, Mean)
        assert hair.plan.giv_dim == (11 if isinstance(dac, nn.Module) else 9)
        assert hair.giv(x).shape == (2, hair.plan.giv_dim)
        assert hair(x).shape == x.shape


@pytest.mark.parametrize(
    ("dac", "message"),
    [
        ("resnet", "`dac` is 'resnet'"),
        (nn.Identity(), "it returned (2, 5, "),
        (Mean(4, 8), "it raised RuntimeError"),
        (lambda in_channels, giv_dim: Mean(in_channels, giv_dim + 1), "but its product returns"),
    ],
)
def test_a_network_is_not_converted_with_a_wrong_dac(dac: Any, message: str) -> None:
    model = network()
    classes, values = [type(m) for m in model.modules()], {k: v.clone() for k, v in model.state_dict().items()}
    for convert in (hairify, plan):
        options = {"inplace": True} if convert is hairify else {}
        with pytest.raises(DACError) as error:
            convert(model, split_at="0", targets="layers", dac=dac, **options)
        assert isinstance(error.value, HairError)
        assert message in str(error.value)
    assert [type(m) for m in model.modules()] == classes
    assert all(torch.equal(v, values[k]) for k, v in model.state_dict().items())
    assert not model[0]._forward_hooks
