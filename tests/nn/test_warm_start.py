"""The start of boxes and HSNs: exactly at the trained network, yet nothing saturated and nothing identical."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor, nn

from hairify.functional import mix
from hairify.nn import HyperSelectingNet, peaked_vectors
from hairify.nn._warm_start import make_rows, preserved_rows, start_apart, start_at

sizes = st.integers(2, 9).flatmap(lambda blocks: st.tuples(st.just(blocks), st.integers(blocks, blocks + 4)))
some_sizes = pytest.mark.parametrize(("blocks", "box_size"), [(2, 2), (2, 3), (4, 5), (8, 9), (3, 8)])


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


def peaked(blocks: int, box_size: int) -> Tensor:
    """S as the design gives it: 0.7 on the peak, equal shares elsewhere."""
    return torch.tensor(
        [[0.7 if i == m else 0.3 / (box_size - 1) for i in range(box_size)] for m in range(blocks)], dtype=torch.float64
    )


def least_noise(weights: Tensor, fan_in: int) -> float:
    return 0.1 * max(weights.std(unbiased=False).item(), fan_in**-0.5)


def rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()


@some_sizes
@pytest.mark.parametrize("limit", [None, 2.0])
def test_selecting_vectors_at_the_start(blocks: int, box_size: int, limit: float | None) -> None:
    expected = peaked(blocks, box_size)
    hsn = HyperSelectingNet(16, blocks, box_size, (8, 4, 4), limit).double()
    selecting = start_at(hsn, peaked_vectors(blocks, box_size))
    assert torch.allclose(selecting, expected, rtol=0, atol=1e-15)
    for giv in (torch.zeros(1, 16), torch.randn(3, 16), torch.full((2, 16), 1e6)):
        assert torch.allclose(hsn(giv.double()), expected.expand(len(giv), -1, -1), rtol=0, atol=1e-15)


@given(
    sizes=sizes,
    width=st.integers(1, 30),
    scale=st.floats(1e-4, 1e3),
    offset=st.floats(-5, 5),
    seed=st.integers(0, 2**32),
)
def test_the_trained_weights_are_kept_exactly(
    sizes: tuple[int, int], width: int, scale: float, offset: float, seed: int
) -> None:
    blocks, box_size = sizes
    weights, selecting = scale * (offset + randn(blocks, width, 2, seed=seed)), peaked(blocks, box_size)
    rows = preserved_rows(weights, selecting, 2, seeded(seed + 1))
    assert rows.shape == (box_size, width, 2)
    assert rows.dtype == torch.float64
    mixed = (selecting @ rows.flatten(1)).unflatten(1, (width, 2))
    # In a tiny layer the least noise, 0.1/√2, may exceed the weights; rounding is relative to the greater of both.
    assert (mixed - weights).abs().max() <= 1e-12 * max(weights.abs().max().item(), rows.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@some_sizes
def test_in_low_precision_the_selecting_vectors_are_those_that_the_net_gives(
    dtype: torch.dtype, blocks: int, box_size: int
) -> None:
    hsn = HyperSelectingNet(16, blocks, box_size, (8, 4, 4)).to(dtype)
    selecting = start_at(hsn, peaked_vectors(blocks, box_size))
    assert selecting.dtype == torch.float64
    given = hsn(torch.randn(3, 16).to(dtype))
    assert given.dtype == dtype
    assert torch.equal(given.double(), selecting.expand(3, -1, -1))
    weights = randn(blocks, 6, 4)
    rows = preserved_rows(weights, selecting, 4, seeded())
    error = (selecting @ rows.flatten(1) - weights.flatten(1)).abs().max()
    assert error <= 1e-12 * weights.abs().max()
    # Rows and result are rounded to the dtype once each; shares sum to one up to N roundings of less than one.
    mixed = mix(given[0], rows.to(dtype)).double()
    assert (mixed - weights).abs().max() <= 2 * torch.finfo(dtype).eps * rows.abs().max()


@pytest.mark.parametrize("blocks", [2, 5])
@pytest.mark.parametrize("spare", [1, 3])
@pytest.mark.parametrize("content", ["random", "identical", "zero"])
def test_no_two_rows_start_and_train_alike(blocks: int, spare: int, content: str) -> None:
    """Rows that all selecting vectors treat alike must differ; the others get gradients of their own anyway.

    With identical blocks the first M rows cannot differ: S·W is the same for all blocks only if they are equal.
    """
    weights = {
        "random": randn(blocks, 400),
        "identical": randn(1, 400).expand(blocks, -1),
        "zero": torch.zeros(blocks, 400),
    }
    selecting = peaked(blocks, blocks + spare)
    rows = preserved_rows(weights[content], selecting, 25, seeded())
    noise = least_noise(weights[content], 25)
    for i in range(len(rows)):
        for j in range(i):
            treated_alike = torch.equal(selecting[:, i], selecting[:, j])
            assert treated_alike == (j >= blocks)
            if treated_alike:  # all of their difference is free, so it is the noise itself
                assert rms(rows[i] - rows[j]) == pytest.approx(2**0.5 * noise, rel=0.15)
            elif content == "random" or i >= blocks:
                assert rms(rows[i] - rows[j]) > 0.5 * noise


@pytest.mark.parametrize("fan_in", [4, 400])  # the least noise; the noise in proportion to the weights
@pytest.mark.parametrize("scale", [0.2, 3.0])
def test_noise(fan_in: int, scale: float) -> None:
    weights = scale * randn(1, 20_000).expand(2, -1)
    *_, spare, other = preserved_rows(weights, peaked(2, 4), fan_in, seeded())
    expected = 2**0.5 * 0.1 * max(scale, fan_in**-0.5)
    assert (other - spare).std().item() == pytest.approx(expected, rel=0.02)
    assert abs((other - spare).mean().item()) < 0.03 * expected


@pytest.mark.parametrize(("blocks", "box_size"), [(2, 3), (4, 5), (8, 9), (3, 6)])
def test_spare_rows_are_the_levels_mean_up_to_the_noise(blocks: int, box_size: int) -> None:
    weights = 2 + randn(blocks, 5000)  # away from zero, where the least-squares solution alone would end
    rows = preserved_rows(weights, peaked(blocks, box_size), 5000, seeded())
    for spare in rows[blocks:]:
        assert rms(spare - weights.mean(0)) <= 1.05 * least_noise(weights, 5000)
    # and the others are the blocks' own weights, drawn apart from the mean as far as the peak of 0.7 demands
    apart = 0.7 - 0.3 / (box_size - 1)
    drawn = weights.mean(0) + (weights - weights.mean(0)) / apart
    assert rms(rows[:blocks] - drawn) <= least_noise(weights, 5000)


def test_gradients_at_the_first_steps() -> None:
    hsn = HyperSelectingNet(16, 3, 4, (8, 4, 4))
    start_at(hsn, peaked_vectors(3, 4))
    giv, target = torch.randn(5, 16, requires_grad=True), torch.rand(5, 3, 4)

    def gradients() -> list[bool]:
        hsn.zero_grad()
        giv.grad = None
        (hsn(giv) - target).square().sum().backward()
        return [bool(t.grad.abs().max() > 0) for layer in hsn.layers for t in (layer.weight, layer.bias)] + [
            bool(giv.grad.abs().max() > 0)
        ]

    assert gradients() == [False] * 6 + [True] * 2 + [False]  # the last layer alone
    with torch.no_grad():
        for parameter in hsn.layers[-1].parameters():
            parameter -= 0.1 * parameter.grad
    assert gradients() == [True] * 9


LAYERS: list[Callable[[], nn.Module]] = [
    lambda: nn.Conv2d(8, 128, 3, groups=2),
    lambda: nn.ConvTranspose2d(32, 128, 2, groups=4),
    lambda: nn.Conv1d(12, 128, 5),
    lambda: nn.Linear(30, 200),
]


@pytest.mark.parametrize("make_layer", LAYERS)
@pytest.mark.parametrize("box_size", [2, 6])
def test_fresh_rows_mix_to_pytorchs_own_spread(make_layer: Callable[[], nn.Module], box_size: int) -> None:
    layers = [make_layer() for _ in range(100)]
    start = peaked(2, box_size)
    boxes = [make_rows([layer, layer], box_size, False, start, seeded(i)) for i, layer in enumerate(layers)]
    for name in ("weight", "bias"):
        rows = torch.stack([box[name] for box in boxes]).double()
        usual = torch.stack([layer.get_parameter(name) for layer in layers])
        assert rows.shape == (100, box_size, *usual.shape[1:])
        mixed = start @ rows.flatten(2)
        assert mixed.std().item() == pytest.approx(usual.std().item(), rel=0.03)
        assert abs(rows.mean().item()) < 0.05 * rows.std().item()
        assert abs((rows[:, 0] * rows[:, 1]).mean() / rows.var()) < 0.05  # independent
    single = [make_rows([layer], box_size, False, None, seeded(i))["weight"] for i, layer in enumerate(layers)]
    assert all(torch.equal(rows, rows[:1].expand_as(rows)) for rows in single)
    usual = torch.stack([layer.weight for layer in layers])
    assert torch.stack(single).std().item() == pytest.approx(usual.std().item(), rel=0.03)


def test_draws_follow_the_generator_alone() -> None:
    layers, selecting = [nn.Conv2d(4, 4, 3) for _ in range(2)], peaked(2, 3)
    state = torch.random.get_rng_state()
    for preserve, start, of in ((True, selecting, layers), (False, selecting, layers), (False, None, layers[:1])):
        one, same, other = (make_rows(of, 3, preserve, start, seeded(seed)) for seed in (0, 0, 1))
        for name in ("weight", "bias"):
            assert torch.equal(one[name], same[name])
            assert not torch.equal(one[name], other[name])
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("preserve", [True, False])
@pytest.mark.parametrize("generator", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rows_are_like_the_layers_parameters(preserve: bool, generator: bool, dtype: torch.dtype) -> None:
    start = peaked(2, 3)
    layers = [nn.Linear(4, 6, bias=bias, dtype=dtype) for bias in (True, True, False, False)]
    layers[0].weight.requires_grad_(False)
    for layer in layers[:2]:
        layer.bias.requires_grad_(False)
    rows = make_rows(layers[:2], 3, preserve, start, seeded() if generator else None)
    assert {name: tuple(row.shape) for name, row in rows.items()} == {"weight": (3, 6, 4), "bias": (3, 6)}
    assert all(isinstance(row, nn.Parameter) and row.dtype == dtype for row in rows.values())
    assert rows["weight"].requires_grad  # only where all sources are frozen are the rows
    assert not rows["bias"].requires_grad
    assert [*make_rows(layers[2:], 3, preserve, start, seeded() if generator else None)] == ["weight"]


def test_rows_of_a_single_block_start_equal_where_selecting_vectors_may_differ() -> None:
    layer = nn.Conv2d(4, 6, 3)
    rows = make_rows([layer], 3, True, None, seeded())
    for name in ("weight", "bias"):
        assert torch.equal(rows[name].detach(), layer.get_parameter(name).detach().expand_as(rows[name]))
    with torch.no_grad():
        rows["weight"].zero_()
    assert layer.weight.any()  # they are copies


@pytest.mark.parametrize("limit", [None, 2.0, 3.0])
def test_nets_that_start_apart_tell_images_apart_by_as_much_as_is_said(limit: float | None) -> None:
    """By logits of standard deviation 2, or of some eight tenths of the limit."""
    hsn = HyperSelectingNet(64, 3, 4, (32,), limit)
    start_apart(hsn, seeded())
    giv = torch.randn(500, 64, generator=seeded()) * 3 + 1
    assert (hsn(giv)[0] - hsn(giv)[1]).abs().max() > 0.01
    hsn.calibrate(giv)
    logits = hsn(giv).log()  # up to a shift that all logits of an image share
    apart = (logits[..., 0] - logits[..., 1]).std(0)
    hidden = hsn.layers[0](giv.unsqueeze(0))
    assert (hidden.std(1) - 1).abs().max() < 1e-4
    assert hidden.mean(1).abs().max() < 1e-4
    seen = (logits - logits.mean(-1, keepdim=True)).square().mean().sqrt().item()
    assert seen == pytest.approx(
        2 * 0.75**0.5 if limit is None else 0.8 * limit, rel=0.1
    )  # √(1 - 1/N) is left by the mean
    assert (apart > 0.3 * seen).all()
